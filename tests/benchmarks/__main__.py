"""Runs the benchmarks and prints one table.

A target that is missed is said and fails nothing: times depend on the machine. A contender that breaks is said too,
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from . import report, tasks
from .frame import TASKS, Outcome, run

MIN_ROUNDS = 5


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--task", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="say which tasks there are")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help=f"at least {MIN_ROUNDS} (the default)")
    parser.add_argument("--scale", type=float, default=1.0, help="0.01 works with a hundredth of the bytes and files")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="the disk to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the page of the documentation")
    asked = parser.parse_args(given)
    unknown = sorted(set(asked.task or ()) - set(TASKS))
    if unknown:
        parser.error(f"no task is called {', '.join(unknown)}: there are {', '.join(TASKS)}")
    if asked.rounds < MIN_ROUNDS:
        parser.error(f"fewer than {MIN_ROUNDS} rounds show no spread")
    if asked.scale <= 0:
        parser.error("the scale is a positive number")
    return asked


def main(given: list[str] | None = None) -> int:
    """Run what was asked for, and return the exit status."""
    asked = arguments(given)
    if asked.list:
        print("\n".join(TASKS))
        return 0
    if sys.platform != "linux":
        print("the benchmarks read /proc to see what a process costs: run them on Linux", file=sys.stderr)
        return 2
    about = report.surroundings(folder=asked.folder, rounds=asked.rounds, scale=asked.scale)
    outcomes: list[Outcome] = []
    for name in asked.task or TASKS:
        outcome = run(TASKS[name], rounds=asked.rounds, scale=asked.scale, folder=asked.folder)
        print(report.text(outcome), flush=True)
        outcomes.append(outcome)
    for name, missing in about["missing"].items():
        print(f"NOT MEASURED against {name}: {missing}")
    if asked.json:
        asked.json.write_text(json.dumps(report.data(outcomes, about), indent=1), "utf-8")
    if asked.markdown:
        asked.markdown.write_text(report.markdown(outcomes, about), "utf-8")
    failed = [f"{outcome.task.name}: {line.name}" for outcome in outcomes for line in outcome.lines if line.error]
    for name in failed:
        print(f"FAILED: {name}")
    return 1 if failed else 0


tasks.register()

if __name__ == "__main__":
    sys.exit(main())
