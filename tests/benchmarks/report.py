"""The one table, as text for a terminal, as a page of the documentation, and as data."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .frame import GiB, Line, MiB, Outcome, Reach, ratios
from .meters import COPIES, CPU, MOVED, PEAK, WALL
from .peers import ALL

HEADINGS = {
    WALL: "wall",
    CPU: "CPU",
    PEAK: "peak memory",
    COPIES: "written",
    MOVED: "moved",
    "first": "first",
    "free": "worker free",
    "up": "up",
    "down": "down",
    "deleted": "deleted",
}


def seconds(value: float) -> str:
    """Return a time with three digits and a unit that suits it.

    >>> seconds(0.01234)
    '12.3 ms'
    """
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        scaled = value * factor
        if abs(scaled) >= 1 or unit == "µs":
            return f"{scaled:.3g} {unit}" if abs(scaled) < 1000 else f"{scaled:.0f} {unit}"
    raise AssertionError


def size(value: float) -> str:
    """Return a number of bytes in MiB or GiB.

    >>> size(3 * 1024**2)
    '3 MiB'
    """
    return f"{round(value / GiB, 2):g} GiB" if value >= GiB else f"{round(value / MiB, 1):g} MiB"


def figure(metric: str, value: float) -> str:
    """Return a figure with its unit."""
    if metric == COPIES:
        return f"{value:.2f} times"
    return size(value) if metric in {PEAK, MOVED} else seconds(value)


def spread(metric: str, values: Sequence[float]) -> str:
    """Return the median of some figures, with the least and the greatest."""
    if not values:
        return ""
    middle, least, most = (figure(metric, value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} … {most})"


def ratio(outcome: Outcome, line: Line, metric: str) -> str:
    """Return ours divided by theirs, with the spread of the rounds; nothing for ours itself."""
    main = outcome.main
    if main is None or line is main or not main.values(metric) or not line.values(metric):
        return ""
    middle, least, most = ratios(main.values(metric), line.values(metric))
    return f"{middle:.2f} ({least:.2f} … {most:.2f})"


def verdict(outcome: Outcome, reach: Reach) -> str:
    """Return one target and whether it is met."""
    judged = outcome.judge(reach)
    if judged is None:
        return f"{reach.text}: not measured"
    met, value = judged
    seen = f"ours / theirs {value:.2f}" if reach.is_ratio else figure(reach.metric, value)
    return f"{reach.text}: {'met' if met else 'NOT MET'} ({seen})"


def rows(outcome: Outcome) -> list[list[str]]:
    """Return the lines of a task as cells: who, each figure, the ratios of the times."""
    columns = outcome.task.columns
    compared = [metric for metric in (WALL, CPU) if metric in columns]
    table = [["", *(HEADINGS[metric] for metric in columns), *(f"ours / theirs: {HEADINGS[m]}" for m in compared)]]
    for line in outcome.lines:
        name = f"**{line.name}**" if line.ours else line.name
        if line.trouble is not None:
            table.append([name, line.trouble, *[""] * (len(columns) + len(compared) - 1)])
        else:
            figures = [spread(metric, line.values(metric)) for metric in columns]
            table.append([name, *figures, *(ratio(outcome, line, metric) for metric in compared)])
    return table


def text(outcome: Outcome) -> str:
    """Return a task's part of the table for a terminal."""
    table = [[cell.replace("**", "") for cell in row] for row in rows(outcome)]
    # A line of trouble is one long cell: it must not widen the columns.
    figures = [row for row, line in zip(table[1:], outcome.lines, strict=True) if line.trouble is None]
    widths = [max(map(len, column)) for column in zip(table[0], *figures, strict=True)]
    widths[0] = max(len(row[0]) for row in table)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    wanted = [f"reach {verdict(outcome, reach)}" for reach in outcome.task.reaches]
    return (
        "\n".join([f"{outcome.title}  (--task {outcome.task.name})", *(f"  {line}" for line in [*lines, *wanted])])
        + "\n"
    )


def markdown(outcomes: Sequence[Outcome], about: dict[str, Any]) -> str:
    """Return the page of the documentation."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    parts = [_HEAD.format(**(about | {"versions": versions}))]
    for outcome in outcomes:
        parts.append(f"## {outcome.title[0].upper()}{outcome.title[1:]}\n")
        head, *body = rows(outcome)
        table = [head, ["---"] * len(head), *body]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table) + "\n")
        parts.extend(f"Reach {verdict(outcome, reach)}.\n" for reach in outcome.task.reaches)
    return "\n".join(parts)


def data(outcomes: Sequence[Outcome], about: dict[str, Any]) -> dict[str, Any]:
    """Return everything that was measured, for a program to read."""
    return {
        "about": about,
        "tasks": [
            {
                "name": outcome.task.name,
                "title": outcome.title,
                "reaches": [
                    {"text": reach.text, "met": judged and judged[0], "figure": judged and judged[1]}
                    for reach in outcome.task.reaches
                    for judged in [outcome.judge(reach)]
                ],
                "contenders": [
                    {"name": line.name, "ours": line.ours, "trouble": line.trouble, "samples": line.samples}
                    for line in outcome.lines
                ],
            }
            for outcome in outcomes
        ],
    }


def surroundings(*, folder: Path, rounds: int, scale: float) -> dict[str, Any]:
    """Return when, where and with what was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rounds": rounds,
        "scale": scale,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory / GiB:.0f} GiB of memory",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}, {_file_system(folder)}",
        "python": platform.python_version(),
        "ours": version("flask-storage-profiles"),
        "versions": {peer.name: peer.version() for peer in ALL if not peer.missing()},
        "missing": {peer.name: missing for peer in ALL if (missing := peer.missing())},
    }


def _file_system(folder: Path) -> str:
    """Return what kind of file system *folder* is on: the mount with the longest path above it."""
    mounts = (line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    above = [(len(place), kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    return max(above, default=(0, "unknown"))[1]  # in a changed root the table may have other places


_HEAD = """\
<!-- Written by `python -m tests.benchmarks --markdown`; run it again instead of editing. -->

# Benchmarks

What our storage costs beside doing the same with the operating system, with Flask alone, and with other libraries.

In every round all contenders do the same work, one after the other, on the same machine, each in a process of its own;
after a round to warm up come {rounds} that count. A figure is the median of the rounds, with the least and the
greatest. A ratio is ours divided by theirs within a round, so that a machine that is slow for a minute is slow for
both: below 1 we are ahead. Read the ratios. The times are those of one machine on one day.

For work that a web server does, CPU and memory are those of its worker process alone; for all other work they are
those of the process that does it, and of the programs it starts. Peak memory is what a process grows by. Sizes of the
tables are {scale:g} times the full ones, for which the targets are meant.

Measured
: {date}

Ours
: {ours}, on Python {python}

Machine
: {machine}

System
: {system}

Beside
: {versions}

To repeat it:

```sh
tox -e bench -- --rounds {rounds} --scale {scale:g} --markdown docs/explanation/benchmarks.md
```
"""
