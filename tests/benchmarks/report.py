"""The results, as text for a terminal, as rows of the page of the documentation, and as data."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .frame import TASKS, GiB, Line, MiB, Outcome, Target, ratios
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
    "delay": "delay",
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


def verdict(outcome: Outcome, target: Target) -> str:
    """Return one target and whether it is met."""
    judged = outcome.judge(target)
    if judged is None:
        return f"{target.text}: not measured"
    met, value = judged
    return f"{target.text}: {'met' if met else 'NOT MET'} ({_seen(target, value)})"


def _seen(target: Target, value: float) -> str:
    return f"{value:.2f}" if target.is_ratio else figure(target.metric, value)


def rows(outcome: Outcome) -> list[list[str]]:
    """Return the lines of a task as cells: the contender, each figure, the ratios of the times."""
    columns = outcome.task.columns
    compared = [metric for metric in (WALL, CPU) if metric in columns]
    table = [["", *(HEADINGS[metric] for metric in columns), *(f"ours / theirs: {HEADINGS[m]}" for m in compared)]]
    for line in outcome.lines:
        if line.trouble is not None:
            table.append([line.name, line.trouble, *[""] * (len(columns) + len(compared) - 1)])
        else:
            figures = [spread(metric, line.values(metric)) for metric in columns]
            table.append([line.name, *figures, *(ratio(outcome, line, metric) for metric in compared)])
    return table


def text(outcome: Outcome) -> str:
    """Return a task's part of the table for a terminal."""
    table = rows(outcome)
    # The reason why a contender was not measured is one long cell: it must not widen the columns.
    figures = [row for row, line in zip(table[1:], outcome.lines, strict=True) if line.trouble is None]
    widths = [max(map(len, column)) for column in zip(table[0], *figures, strict=True)]
    widths[0] = max(len(row[0]) for row in table)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    wanted = [f"target {verdict(outcome, target)}" for target in outcome.task.targets]
    return (
        "\n".join([f"{outcome.title}  (--task {outcome.task.name})", *(f"  {line}" for line in [*lines, *wanted])])
        + "\n"
    )


RUN = re.compile(r"\* (\d{4}-\d\d-\d\d): ")


def update(page: str, outcomes: Sequence[Outcome], about: dict[str, Any]) -> str:
    """Return the page with the rows of these tasks replaced, and the line of this date that says what was used.

    The page keeps the rows of other tasks, the lines of their dates, and everything that was written by hand.
    """
    table = {line.split("`")[1]: line for line in page.splitlines() if _is_row(line)}
    table |= {outcome.task.name: row(outcome, about) for outcome in outcomes if outcome.main}
    table = {name: table[name] for name in TASKS if name in table}
    runs = {line[2:12]: line for line in page.splitlines() if RUN.match(line)} | {about["date"]: run(about)}
    runs = {date: runs[date] for date in sorted(runs) if any(f"| {date}" in line for line in table.values())}
    lines = _replaced(page.splitlines(), _is_row, list(table.values()))
    return "\n".join(_replaced(lines, RUN.match, list(runs.values()))) + "\n"


def _is_row(line: str) -> bool:
    return line.startswith("| `")


def _replaced(lines: list[str], is_one: Callable[[str], object], new: list[str]) -> list[str]:
    """Return *lines* with their first block of lines of this kind replaced by *new*."""
    start = next(number for number, line in enumerate(lines) if is_one(line))
    end = next((number for number in range(start, len(lines)) if not is_one(lines[number])), len(lines))
    return lines[:start] + new + lines[end:]


def row(outcome: Outcome, about: dict[str, Any]) -> str:
    """Return the row of a task in the page."""
    metric = outcome.task.compared
    ours, peers = [], []
    for line in outcome.lines:
        values = line.values(metric)
        if line.ours and values:
            ours.append(f"{line.name} {figure(metric, statistics.median(values))}")
        elif not line.ours:
            ratio_to = ratio(outcome, line, metric).partition(" ")[0]
            peers.append(f"{line.name} {ratio_to or (line.trouble or 'not measured').partition(':')[0]}")
    measured = about["date"] + ("\\*" if about["busy"] else "")
    heading = f"`{outcome.task.name}` {outcome.title}" + (" (CPU)" if metric == CPU else "")
    return f"| {' | '.join([heading, '; '.join(ours), '; '.join(peers), reached(outcome), measured])} |"


def reached(outcome: Outcome) -> str:
    """Return whether all targets that were measured are met; the missed ones are shown with their figures."""
    judged = [(target, outcome.judge(target)) for target in outcome.task.targets]
    missed = [f"{target.text} ({_seen(target, seen[1])})" for target, seen in judged if seen and not seen[0]]
    # The ratio to a peer stands in the column of the peers.
    met = [
        target.text if target.is_ratio else f"{target.text} ({_seen(target, seen[1])})"
        for target, seen in judged
        if seen and seen[0]
    ]
    parts = [f"no: {'; '.join(missed)}"] if missed else [f"yes: {'; '.join(met)}"] if met else []
    parts += [f"not measured: {target.text}" for target, seen in judged if seen is None]
    return "; ".join(parts) or "no target"


def run(about: dict[str, Any]) -> str:
    """Return the line of the page that says with what the rows of one date were measured."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"* {about['date']}: flask-storage-profiles {about['ours']}, Python {about['python']}, {about['machine']}, "
        f"{about['system']}; {about['rounds']} rounds; {versions}."
    )


def data(outcomes: Sequence[Outcome], about: dict[str, Any]) -> dict[str, Any]:
    """Return everything that was measured, for a program to read."""
    return {
        "about": about,
        "tasks": [
            {
                "name": outcome.task.name,
                "title": outcome.title,
                "targets": [
                    {"text": target.text, "met": judged and judged[0], "figure": judged and judged[1]}
                    for target in outcome.task.targets
                    for judged in [outcome.judge(target)]
                ],
                "contenders": [
                    {"name": line.name, "ours": line.ours, "trouble": line.trouble, "samples": line.samples}
                    for line in outcome.lines
                ],
            }
            for outcome in outcomes
        ],
    }


def surroundings(*, directory: Path, rounds: int, scale: float, busy: bool) -> dict[str, Any]:
    """Return when, where and with what was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rounds": rounds,
        "scale": scale,
        "busy": busy,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory / GiB:.0f} GiB of memory",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}, {_file_system(directory)}",
        "python": platform.python_version(),
        "ours": version("flask-storage-profiles"),
        "versions": {peer.name: peer.version() for peer in ALL if not peer.missing()},
        "missing": {peer.name: missing for peer in ALL if (missing := peer.missing())},
    }


def _file_system(directory: Path) -> str:
    """Return what kind of file system *directory* is on: the mount with the longest path above it."""
    mounts = (line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    above = [(len(mount), kind) for mount, kind in mounts if directory.resolve().is_relative_to(mount)]
    return max(above, default=(0, "unknown"))[1]  # in a chroot the table may have other paths
