"""Parsers for durations and sizes, and options that several commands share."""

from __future__ import annotations

import re
from datetime import timedelta

import click

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", re.ASCII)
_UNITS = (604800, 86400, 3600, 60, 1)
_MAX_DURATION = 36500 * 86400  # adding a much longer one to the current time overflows datetime
_SIZE = re.compile(r"(\d{1,18})(?:([kmgt])i?)?b?", re.ASCII)

json_option = click.option("--json", "wants_json", is_flag=True, help="Print JSON instead of text.")
recursive_option = click.option("-r", "--recursive", is_flag=True, help="A folder, with everything below it.")
exclusive_option = click.option("--exclusive", is_flag=True, help="Fail if the file exists already.")


def duration(text: str) -> timedelta:
    """Parse seconds, or numbers with units: ``90``, ``15m``, ``1h30m``, ``2d``, ``1w``."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not match or not any(match.groups()):
        raise click.BadParameter(
            f"{text!r} is not a duration: write seconds (3600) or units (90s, 15m, 1h30m, 2d, 1w)."
        )
    numbers = [int(digits[:12]) if digits else 0 for digits in match.groups()]
    seconds = sum(number * unit for number, unit in zip(numbers, _UNITS, strict=True))
    if seconds > _MAX_DURATION:
        raise click.BadParameter(f"{text!r} is more than the maximum of 100 years.")
    return timedelta(seconds=seconds)


def size(text: str) -> int:
    """Parse bytes, or a number with a unit in powers of 1024: ``500``, ``64K``, ``10M``, ``2GiB``."""
    match = _SIZE.fullmatch(text.strip().lower())
    if not match:
        raise click.BadParameter(f"{text!r} is not a size: write bytes (500) or a unit (64K, 10M, 2G).")
    return int(match[1]) << 10 * "bkmgt".index(match[2] or "b")


def target_path(path: str, name: str) -> str:
    """Return the path of a target; one that ends in ``/`` is a directory, in which the file keeps its *name*."""
    return path + name if path.endswith("/") else path


def last_segment(path: str) -> str:
    """Return the last segment of a path in the storage."""
    return path.rpartition("/")[2]
