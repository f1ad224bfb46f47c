"""Tasks, contenders and targets; how the tasks are run, and what came of it.

A task is one generator function in `tests.benchmarks.tasks`, decorated with :func:`task`. It sets its stage, yields
the :class:`Contender` objects and what their work must return, and cleans up after itself beyond its directory.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .meters import COPIES, CPU, MOVED, PEAK, WALL, Sample, Work, WorkFailedError, measure
from .peers import Peer

KiB, MiB, GiB = 1024, 1024**2, 1024**3


@dataclass(frozen=True)
class Bench:
    """What a task is given: an empty directory, and the scale of its sizes."""

    directory: Path
    scale: float = 1.0

    def size(self, full: int) -> int:
        """Return a number of bytes at this run's scale, in whole MiB."""
        return max(MiB, round(full * self.scale / MiB) * MiB)

    def count(self, full: int) -> int:
        """Return a number of things at this run's scale, in whole thousands."""
        return max(1000, round(full * self.scale / 1000) * 1000)


@dataclass(frozen=True)
class Contender:
    """A program that does the work of a task.

    Attributes:
        name: How the table calls it.
        make: Prepares the work of one round, untimed, and returns it.
        ours: Whether it is one of ours. The first of them is what the peers are compared with.
        needs: Peers that must be installed.
        pid: The server whose process is metered, when the work is done there.
    """

    name: str
    make: Callable[[], Work]
    ours: bool = False
    needs: Sequence[Peer] = ()
    pid: int | None = None

    def missing(self) -> str | None:
        """Say what to install, or nothing when all is there."""
        return ", ".join(filter(None, (need.missing() for need in self.needs))) or None


@dataclass(frozen=True)
class Target:
    """What a task must reach: *figure*, computed from our samples and a peer's, is at most *limit*."""

    text: str
    limit: float
    metric: str = WALL
    peer: str | None = None
    ours: str | None = None
    figure: Callable[[Sequence[float], Sequence[float]], float] = field(default=lambda ours, _: statistics.median(ours))
    is_ratio: bool = False


def at_most(metric: str, limit: float, text: str, *, ours: str | None = None) -> Target:
    """Return a limit to an absolute figure. Memory and copies count by their worst round, times by the median."""
    figure = statistics.median if metric not in {PEAK, COPIES, MOVED} else max
    return Target(text, limit, metric, ours=ours, figure=lambda values, _: figure(values))


def times(peer: str, limit: float, *, metric: str = WALL, text: str | None = None, ours: str | None = None) -> Target:
    """Return a limit to the ratio to a peer: the median of the rounds' ratios."""
    what = "CPU " if metric == CPU else ""
    text = text or f"{what}≤ {limit:g} times {peer}"
    return Target(text, limit, metric, peer, ours, figure=lambda a, b: ratios(a, b)[0], is_ratio=True)


def plus(peer: str, limit: float, text: str, *, ours: str | None = None) -> Target:
    """Return a limit to the difference to a peer: the median of the rounds' differences."""
    return Target(text, limit, WALL, peer, ours, figure=lambda a, b: statistics.median(map(float.__sub__, a, b)))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return median, least and greatest ratio of the rounds; a round's two neighbours saw the same machine."""
    of_rounds = [a / b if b else float("inf") for a, b in zip(ours, theirs, strict=False)]
    return statistics.median(of_rounds), min(of_rounds), max(of_rounds)


Stage = tuple[Sequence[Contender], object]


@dataclass(frozen=True)
class Task:
    """One line of work that all contenders do."""

    name: str
    title: Callable[[Bench], str]
    stage: Callable[[Bench], Iterator[Stage]]
    targets: Sequence[Target] = ()
    columns: Sequence[str] = (WALL, CPU)
    needs: Sequence[Peer] = ()

    @property
    def compared(self) -> str:
        """The figure by which the page compares contenders: CPU when that is the target, and wall time otherwise."""
        return CPU if self.targets and all(target.metric == CPU for target in self.targets) else WALL


TASKS: dict[str, Task] = {}


def timed(make: Callable[[], Any], act: Callable[[Any], object]) -> Callable[[], Work]:
    """Return what prepares *act* on what *make* makes; only the act is timed."""

    def prepare() -> Work:
        made = make()
        return lambda: act(made)

    return prepare


def task(
    name: str,
    title: str | Callable[[Bench], str],
    *targets: Target,
    columns: Sequence[str] = (WALL, CPU),
    needs: Sequence[Peer] = (),
) -> Callable[[Callable[[Bench], Iterator[Stage]]], Callable[[Bench], Iterator[Stage]]]:
    """Register a stage under *name*; *needs* is what none of its contenders can do without."""

    def register(stage: Callable[[Bench], Iterator[Stage]]) -> Callable[[Bench], Iterator[Stage]]:
        assert name not in TASKS, f"two tasks are called {name}"
        said = title if callable(title) else lambda _, text=title: text
        TASKS[name] = Task(name, said, stage, targets, columns, needs)
        return stage

    return register


@dataclass
class Line:
    """What one contender did in one task."""

    name: str
    ours: bool
    samples: list[Sample] = field(default_factory=list)
    trouble: str | None = None
    """Why there are no samples, for the table."""
    error: str | None = None
    """The traceback, when it failed."""

    def values(self, metric: str) -> list[float]:
        """Return this figure of each round that has it."""
        return [sample[metric] for sample in self.samples if metric in sample]


@dataclass
class Outcome:
    """What came of one task."""

    task: Task
    title: str
    lines: list[Line]

    @property
    def main(self) -> Line | None:
        """Ours, when it was measured."""
        return next((line for line in self.lines if line.ours and line.samples), None)

    def line(self, name: str) -> Line | None:
        """Return the line of a contender, when it was measured."""
        return next((line for line in self.lines if line.name == name and line.samples), None)

    def judge(self, target: Target) -> tuple[bool, float] | None:
        """Return whether *target* is met and by which figure, or None when it was not measured."""
        ours = self.line(target.ours) if target.ours else self.main
        theirs = self.line(target.peer) if target.peer else ours
        if ours is None or theirs is None or not ours.values(target.metric):
            return None
        figure = target.figure(ours.values(target.metric), theirs.values(target.metric))
        return figure <= target.limit, figure


def run(task: Task, *, rounds: int, scale: float, directory: Path) -> Outcome:
    """Run one task: a round to warm up, then *rounds* in which all contenders take turns.

    Each round begins with the next contender, because the first one of a round shares the disk with what the last
    one of the round before left to be written.
    """
    missing = ", ".join(filter(None, (need.missing() for need in task.needs)))
    with tempfile.TemporaryDirectory(prefix=f"bench-{task.name}-", dir=directory) as own:
        bench = Bench(Path(own), scale)
        outcome = Outcome(task, task.title(bench), [])
        if missing:
            outcome.lines.append(Line("all", ours=False, trouble=f"not measured: {missing}"))
            return outcome
        with contextlib.contextmanager(task.stage)(bench) as (contenders, expect):
            outcome.lines = [_line(contender) for contender in contenders]
            turns = list(zip(contenders, outcome.lines, strict=True))
            for number in range(rounds + 1):
                _say(f"{task.name}: " + (f"round {number} of {rounds}" if number else "warming up"))
                first = number % len(turns)
                for contender, line in turns[first:] + turns[:first]:
                    _measure_once(contender, line, expect, keep=number > 0)
    return outcome


def _line(contender: Contender) -> Line:
    missing = contender.missing()
    return Line(contender.name, contender.ours, trouble=f"not measured: {missing}" if missing else None)


def _measure_once(contender: Contender, line: Line, expect: object, *, keep: bool) -> None:
    if line.trouble is not None:
        return
    try:
        sample = measure(contender.make, expect=expect, pid=contender.pid)
    except WorkFailedError as error:
        line.error = str(error)
        line.trouble = f"failed: {line.error.strip().splitlines()[-1]}"
        line.samples.clear()
        _say(line.error)
        return
    if keep:
        line.samples.append(sample)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
