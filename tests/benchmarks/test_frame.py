"""The frame of the benchmarks: what is measured, compared and said; nothing here depends on how fast a machine is."""

from __future__ import annotations

import json
import mmap
import os
import socket
import time

import pytest

from tests.benchmarks import __main__ as program, frame, meters, report
from tests.benchmarks.distance import distant
from tests.benchmarks.frame import Contender, Line, MiB, Outcome, Task
from tests.benchmarks.meters import CPU, PEAK, WALL
from tests.benchmarks.peers import Library

ABSENT = Library("not-a-real-peer", "not_a_real_peer")


def outcome_of(*reaches):
    """What came of three rounds of us against them."""
    ours, theirs = (2.0, 4.0, 9.0), (1.0, 4.0, 3.0)
    task = Task("race", lambda _: "a race", lambda _: iter(()), reaches)
    lines = [
        Line("us", ours=True, samples=[{WALL: value} for value in ours]),
        Line("them", ours=False, samples=[{WALL: value} for value in theirs]),
    ]
    return Outcome(task, "a race", lines)


def task_of(*contenders, expect=None, **others):
    """A task with these contenders."""

    def stage(_):
        yield contenders, expect

    return Task("race", lambda _: "a race", stage, **others)


def test_contenders_take_turns_and_a_warming_round_does_not_count(tmp_path):
    """Each round has every contender once, and begins with the next one; the first round is thrown away."""
    log = tmp_path / "log"

    def contender(name):
        return Contender(
            name, lambda: lambda: os.write(os.open(log, os.O_APPEND | os.O_CREAT | os.O_RDWR), name.encode())
        )

    outcome = frame.run(task_of(contender("A"), contender("B"), expect=1), rounds=5, scale=1, folder=tmp_path)

    assert log.read_text() == "ABBA" * 3
    assert [len(line.samples) for line in outcome.lines] == [5, 5]


def test_a_ratio_is_taken_within_each_round():
    """The median of the rounds' ratios counts, not the ratio of the medians."""
    assert frame.ratios([2.0, 4.0, 9.0], [1.0, 4.0, 3.0]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(("limit", "said"), [(2.0, "met"), (1.9, "NOT MET")])
def test_a_target_is_said_to_be_met_or_not_met_with_its_figure(limit, said):
    """A missed target is a word in the table."""
    outcome = outcome_of(frame.times("them", limit))

    assert f": {said} (ours / theirs 2.00)" in report.text(outcome)


def test_a_target_beside_a_peer_that_is_not_there_is_not_measured():
    """No peer, no verdict."""
    outcome = outcome_of(frame.times("somebody else", 2.0))

    assert "somebody else: not measured" in report.text(outcome)


def test_a_distance_is_the_median_of_the_differences():
    """`flask + 15 ms` is about what we add."""
    outcome = outcome_of(reach := frame.plus("them", 1.0, "them + 1 s"))

    assert outcome.judge(reach) == (True, 1.0)


def test_memory_counts_by_its_worst_round():
    """One round that grows is growth."""
    reach = frame.at_most(PEAK, 2, "flat")
    outcome = outcome_of(reach)
    outcome.lines[0].samples = [{PEAK: 1}, {PEAK: 1}, {PEAK: 3}]

    assert outcome.judge(reach) == (False, 3)


def test_a_peer_that_is_not_installed_is_a_loud_line(tmp_path):
    """It is never left out of the table."""
    task = task_of(
        Contender("us", lambda: lambda: None, ours=True), Contender("them", lambda: lambda: None, needs=[ABSENT])
    )

    outcome = frame.run(task, rounds=1, scale=1, folder=tmp_path)

    assert "them  not measured: install not-a-real-peer (pip install --group bench)" in report.text(outcome)
    assert "not measured: install not-a-real-peer" in report.markdown([outcome], about(tmp_path))


def test_a_task_whose_server_is_not_installed_is_a_loud_line(tmp_path):
    """A whole task can lack what it needs."""
    outcome = frame.run(task_of(needs=[ABSENT]), rounds=1, scale=1, folder=tmp_path)

    assert "not measured: install not-a-real-peer" in report.text(outcome)


def test_work_that_does_something_else_than_was_asked_fails(tmp_path):
    """Nobody is quick by doing less."""
    task = task_of(Contender("us", lambda: lambda: 1, ours=True), expect=2)

    outcome = frame.run(task, rounds=1, scale=1, folder=tmp_path)

    assert outcome.lines[0].trouble == "failed: AssertionError: the work returned 1, not 2"
    assert outcome.lines[0].samples == []


def test_whether_the_work_was_done_is_looked_at_after_the_clock_has_stopped():
    """Looking costs the contender nothing, and who did not do it fails."""

    def look():
        time.sleep(0.2)
        return 1

    assert meters.measure(lambda: lambda: look, expect=1)[WALL] < 0.2
    with pytest.raises(meters.WorkFailedError, match="the work returned 1, not 2"):
        meters.measure(lambda: lambda: look, expect=2)


def test_work_that_kills_its_process_fails():
    """A crash is a line in the table, not the end of the run."""
    with pytest.raises(meters.WorkFailedError, match="the process died"):
        meters.measure(lambda: lambda: os._exit(1), expect=None)


def test_memory_is_what_the_work_adds_at_its_peak():
    """What was there before does not count, what was given back does."""
    there_before = b"x" * (64 * MiB)

    def work():
        # Pages of their own, which no allocator had before.
        with mmap.mmap(-1, 32 * MiB) as passing:
            passing.write(b"y" * (32 * MiB))
        return len(there_before)

    sample = meters.measure(lambda: work, expect=64 * MiB)

    assert 32 * MiB <= sample[PEAK] < 96 * MiB


def test_waiting_costs_no_cpu():
    """Wall and CPU seconds are told apart."""
    sample = meters.measure(lambda: lambda: time.sleep(0.2), expect=None)

    assert sample[WALL] >= 0.2 > sample[CPU]


def test_a_server_can_be_metered_instead(tmp_path):
    """The one who works is the one who is metered."""
    sample = meters.measure(lambda: lambda: sum(range(10**6)) > 0, expect=True, pid=os.getpid())

    assert sample[CPU] < sample[WALL]


@pytest.mark.parametrize("given", [["--rounds", "4"], ["--task", "unheard-of"], ["--scale", "0"]])
def test_what_cannot_be_run_is_refused(given, capsys):
    """Too few rounds, no such task, no size at all."""
    with pytest.raises(SystemExit) as refusal:
        program.main(given)

    assert refusal.value.code == 2
    assert capsys.readouterr().err


def test_one_command_prints_the_table_and_writes_both_files(tmp_path, monkeypatch, capsys):
    """A task that breaks makes the exit status 1; one that is slow does not."""
    tasks = {
        "slow": task_of(
            Contender("us", lambda: lambda: None, ours=True), reaches=[frame.at_most(WALL, 0, "no time at all")]
        ),
        "broken": task_of(Contender("us", lambda: lambda: 1 / 0, ours=True)),
    }
    monkeypatch.setattr(program, "TASKS", tasks)
    files = ["--json", str(tmp_path / "data.json"), "--markdown", str(tmp_path / "page.md")]

    slow = program.main(["--task", "slow", "--folder", str(tmp_path), *files])
    page, data = (tmp_path / "page.md").read_text("utf-8"), json.loads((tmp_path / "data.json").read_text("utf-8"))
    broken = program.main(["--task", "broken", "--folder", str(tmp_path)])

    assert (slow, broken) == (0, 1)
    assert "no time at all: NOT MET" in page
    assert len(data["tasks"][0]["contenders"][0]["samples"]) == 5
    assert data["tasks"][0]["reaches"][0]["met"] is False
    assert "failed: ZeroDivisionError: division by zero" in capsys.readouterr().out


def about(folder):
    """What a page says of its run."""
    return report.surroundings(folder=folder, rounds=5, scale=1.0)


def test_a_distance_passes_on_what_it_counts():
    """A server behind a proxy that only counts answers as it does itself, and we learn how much went by."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        distant(server.getsockname()[1], one_way=0, rate=None) as far,
    ):
        client = socket.create_connection(("127.0.0.1", far.port), timeout=10)
        client.sendall(b"question")
        peer, _ = server.accept()
        asked = peer.recv(8, socket.MSG_WAITALL)
        peer.sendall(b"answer")

        answered = client.recv(6, socket.MSG_WAITALL)
        peer.close()
        client.close()

        assert (asked, answered) == (b"question", b"answer")
        # It counts a piece when the piece has gone, which may be a moment after we have it.
        assert any(far.moved() == len(b"question" + b"answer") for _ in range(10_000))
