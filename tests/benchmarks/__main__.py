"""Runs the benchmarks and prints one table.

A target that is missed is shown and does not fail the run, because times depend on the machine. A contender that fails
is shown too, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from . import comparison, report, tasks
from .frame import TASKS, Outcome, run

MIN_ROUNDS = 5


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--task", action="append", metavar="NAME", help="run only this task; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the names of the tasks")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help=f"{MIN_ROUNDS} by default")
    parser.add_argument("--scale", type=float, default=1.0, help="0.01 works with a hundredth of the bytes and files")
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="directory on the measured disk"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="update the rows of these tasks in this page")
    parser.add_argument("--busy", action="store_true", help="mark the rows: the machine did other work as well")
    parser.add_argument(
        "--against",
        metavar="REVISION",
        help="compare ours with ours of another git revision, or of a checkout in another directory, and run no peers",
    )
    asked = parser.parse_args(given)
    unknown = sorted(set(asked.task or ()) - set(TASKS))
    if unknown:
        parser.error(f"no task is called {', '.join(unknown)}: there are {', '.join(TASKS)}")
    least = MIN_ROUNDS if asked.markdown else 1
    if asked.rounds < least:
        parser.error(f"--rounds must be at least {least}: fewer show no spread")
    if asked.scale <= 0:
        parser.error("--scale must be positive")
    if asked.markdown and not asked.markdown.is_file():
        parser.error(f"--markdown {asked.markdown}: there is no such page to update")
    return asked


def main(given: list[str] | None = None) -> int:
    """Run what the command line asks for, and return the exit status."""
    asked = arguments(given)
    if asked.list:
        print("\n".join(TASKS))
        return 0
    if sys.platform != "linux":
        print("the benchmarks read /proc to measure a process: run them on Linux", file=sys.stderr)
        return 2
    names = asked.task or list(TASKS)
    if asked.against:
        return comparison.main(asked.against, names, rounds=asked.rounds, scale=asked.scale, directory=asked.directory)
    about = report.surroundings(directory=asked.directory, rounds=asked.rounds, scale=asked.scale, busy=asked.busy)
    outcomes: list[Outcome] = []
    for name in names:
        outcome = run(TASKS[name], rounds=asked.rounds, scale=asked.scale, directory=asked.directory)
        print(report.text(outcome), flush=True)
        outcomes.append(outcome)
    for name, missing in about["missing"].items():
        print(f"NOT MEASURED against {name}: {missing}")
    if asked.json:
        asked.json.write_text(json.dumps(report.data(outcomes, about), indent=1), "utf-8")
    if asked.markdown:
        asked.markdown.write_text(report.update(asked.markdown.read_text("utf-8"), outcomes, about), "utf-8")
    failed = [f"{outcome.task.name}: {line.name}" for outcome in outcomes for line in outcome.lines if line.error]
    for name in failed:
        print(f"FAILED: {name}")
    return 1 if failed else 0


tasks.register()

if __name__ == "__main__":
    sys.exit(main())
