"""What keeps the figures of the benchmarks honest. Nothing here depends on how fast a machine is."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.benchmarks import comparison, frame, meters, peers, report
from tests.benchmarks.frame import Contender, Line, Outcome, Task
from tests.benchmarks.meters import CPU, PEAK, WALL

ABOUT: dict[str, object] = dict.fromkeys(("ours", "python", "machine", "system", "rounds"), "1")
ABOUT |= {"date": "2026-02-03", "busy": True, "versions": {"boto3": "1.44"}}
PAGE = """\
* 2026-01-01: flask-storage-profiles 0.9.

| Task | Ours | Peers | Target reached | Measured |
| --- | --- | --- | --- | --- |
| `put` a put | put 1 s | cp 1.00 | yes: ≤ 1.1 times cp | 2026-01-01 |

By hand.
"""


def outcome_of(*targets, name="race"):
    """What came of three rounds of ours and a peer's."""
    task = Task(name, lambda _: "a race", lambda _: iter(()), targets)
    samples = [[{WALL: value, PEAK: value} for value in values] for values in ((2.0, 4.0, 9.0), (1.0, 4.0, 3.0))]
    return Outcome(task, "a race", [Line("us", ours=True, samples=samples[0]), Line("them", False, samples[1])])


def task_of(*contenders, expect=None):
    """A task with these contenders."""
    return Task("race", lambda _: "a race", lambda _: iter([(contenders, expect)]))


def test_contenders_alternate_and_the_first_round_does_not_count(tmp_path):
    """Each round has every contender once and begins with the next one; the warm-up round is thrown away."""
    log = tmp_path / "log"
    contenders = [Contender(name, partial(lambda name: lambda: log.open("a").write(name), name)) for name in "AB"]

    outcome = frame.run(task_of(*contenders, expect=1), rounds=5, scale=1, directory=tmp_path)

    assert log.read_text() == "ABBA" * 3
    assert [len(line.samples) for line in outcome.lines] == [5, 5]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (frame.times("them", 2), "yes: ≤ 2 times them"),  # the median of the rounds' ratios
        (frame.times("them", 1.9), "no: ≤ 1.9 times them (2.00)"),
        (frame.plus("them", 1, "them + 1 s"), "yes: them + 1 s (1 s)"),
        (frame.at_most(PEAK, 8, "flat"), "no: flat (0 MiB)"),  # the worst round
        (frame.times("another", 2), "not measured: ≤ 2 times another"),
    ],
)
def test_a_target_is_met_missed_or_not_measured(target, text):
    """The page says which, and a missed target has its figure."""
    assert report.reached(outcome_of(target)) == text


def test_work_that_returns_something_else_or_has_no_peer_gives_no_samples(tmp_path):
    """A contender that does less is shown as failed, and a missing peer as not measured."""
    absent = Contender("them", lambda: lambda: 2, needs=[peers.Library("absent", "absent")])
    contenders = Contender("us", lambda: lambda: 1, ours=True), absent

    lines = frame.run(task_of(*contenders, expect=2), rounds=1, scale=1, directory=tmp_path).lines

    assert [line.samples for line in lines] == [[], []]
    assert lines[0].trouble == "failed: AssertionError: the work returned 1, not 2"
    assert lines[1].trouble == "not measured: install absent (pip install --group bench)"


def test_waiting_costs_no_cpu():
    """Wall and CPU time are different figures."""
    sample = meters.measure(lambda: lambda: time.sleep(0.2), expect=None)

    assert sample[WALL] >= 0.2 > sample[CPU]


def test_a_run_replaces_its_rows_of_the_page_and_nothing_else(monkeypatch):
    """Other rows keep their dates; a date that no row has any more is removed."""
    monkeypatch.setattr(report, "TASKS", dict.fromkeys(("put", "race")))

    page = report.update(PAGE, [outcome_of(frame.times("them", 2))], ABOUT)

    assert "| cp 1.00 | yes: ≤ 1.1 times cp | 2026-01-01 |\n| `race` a race | us 4 s | them 2.00 | yes" in page
    assert page.index("* 2026-01-01: flask") < page.index("* 2026-02-03: flask-storage-profiles 1, Python 1")
    assert page.endswith("| 2026-02-03\\* |\n\nBy hand.\n")
    assert "2026-01-01" not in report.update(page, [outcome_of(name="put")], ABOUT)


def test_a_comparison_of_checkouts_flags_what_became_slower():
    """The ratio is the median of the rounds' ratios."""
    now, before = ({"put": [{WALL: value, CPU: 1.0} for value in values]} for values in ((2, 4, 9), (1, 4, 3)))

    assert "put | wall 4 s | 3 s | 2.00 (1.00 … 3.00) SLOWER | cpu" in next(comparison.lines(now, before))
