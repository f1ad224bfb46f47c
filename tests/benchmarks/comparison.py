"""Our contenders in this checkout and in another one: what a change of the package costs, or saves.

Both checkouts run at the same time, each in a process of its own with its own servers, and take turns, so that both see
the same machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from .frame import TASKS, Bench, ratios
from .meters import CPU, WALL, Sample
from .report import figure
from .servers import PROJECT

SLOWER = 1.05
ROUNDS = Path(__file__).with_name("rounds.py")

Samples = dict[str, list[Sample]]
"""By the name of the contender."""


class CheckoutFailedError(Exception):
    """The process of a checkout ended before it had measured; it has printed why."""


class Checkout:
    """A process that measures one task with the package and the tasks of one checkout."""

    def __init__(self, project: Path, name: str, scale: float, directory: Path) -> None:
        """Start the process."""
        self.project = project
        # The text is run with -c, because a script would have this directory on its path instead of the checkout.
        self.process = subprocess.Popen(
            [sys.executable, "-c", ROUNDS.read_text("utf-8"), name, str(scale), str(directory)],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, which then ends its servers."""
        self.process.communicate()

    def measure(self, contender: str) -> Sample:
        """Have one contender do its work once."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{contender}\n")
            self.process.stdin.flush()
        sample: Sample = self.read()
        return sample

    def read(self) -> Any:
        """Return the next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise CheckoutFailedError(str(self.project))
        return json.loads(line)


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Yield a directory with the files of *revision*, which is a git revision or a directory that has them."""
    if Path(revision).is_dir():
        yield Path(revision).resolve()
        return
    archive = subprocess.run(["git", "archive", revision], cwd=PROJECT, stdout=subprocess.PIPE, check=False)
    if archive.returncode:
        raise SystemExit(f"--against {revision}: this is neither a directory nor a revision that git can read")
    with tempfile.TemporaryDirectory(prefix="bench-against-") as directory:
        subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
        for installed in PROJECT.glob(".venv-*"):  # servers that a script of the tests has installed
            Path(directory, installed.name).symlink_to(installed)
        yield Path(directory)


def compare(name: str, other: Path, *, rounds: int, scale: float, directory: Path) -> tuple[Samples, Samples]:
    """Return the samples of one task in this checkout and in *other*, after one round that does not count."""
    now, before = Samples(), Samples()
    with Checkout(PROJECT, name, scale, directory) as ours, Checkout(other, name, scale, directory) as theirs:
        names, known = ours.read(), theirs.read()
        for contender in sorted(set(names) ^ set(known)):
            print(f"  {contender}: only in {PROJECT if contender in names else other}")
        sides = [(ours, now), (theirs, before)]
        for number in range(rounds + 1):
            sides.reverse()
            for contender in (each for each in names if each in known):
                for side, samples in sides:
                    sample = side.measure(contender)
                    samples.setdefault(contender, [])
                    if number:
                        samples[contender].append(sample)
    return now, before


def lines(now: Samples, before: Samples) -> Iterator[str]:
    """Yield a line of the table for each contender."""
    for name, samples in now.items():
        cells = [f"  {name}"]
        for metric in (WALL, CPU):
            ours, theirs = [each[metric] for each in samples], [each[metric] for each in before[name]]
            middle, least, most = ratios(ours, theirs)
            cells.append(
                f"{metric} {figure(metric, statistics.median(ours))} | {figure(metric, statistics.median(theirs))} | "
                f"{middle:.2f} ({least:.2f} … {most:.2f}){' SLOWER' if middle > SLOWER else ''}"
            )
        yield " | ".join(cells)


def main(revision: str, names: Sequence[str], *, rounds: int, scale: float, directory: Path) -> int:
    """Print the table, and return the exit status: 1 when a checkout could not run a task."""
    failed = 0
    with checkout(revision) as other:
        print(f"task | now | {revision} | now / {revision}: the median of the rounds, the least and the greatest")
        for name in names:
            print(TASKS[name].title(Bench(directory, scale)) + f"  (--task {name})")
            try:
                now, before = compare(name, other, rounds=rounds, scale=scale, directory=directory)
            except CheckoutFailedError as error:
                failed = 1
                print(f"  FAILED in {error}: its error is above")
            else:
                print("\n".join(lines(now, before)), flush=True)
    return failed
