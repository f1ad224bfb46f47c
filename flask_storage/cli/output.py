"""The output of commands: lines, JSON, human-readable sizes and dates, and a progress bar for long transfers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import click

from ..errors import StorageError

if TYPE_CHECKING:
    from ..types import ProgressCallback, ShareLinkOperation

_LONG_TRANSFER = 8 * 1024 * 1024
_DATE_WITHOUT_YEAR_DAYS = 5 * 365 / 12


def binary(stream: TextIO | None, name: str) -> BinaryIO:
    """Return the binary form of a standard stream; Python has None for one that the shell closed (``>&-``)."""
    if stream is None:
        raise click.ClickException(f"{name} is closed.")
    return stream.buffer


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Yield standard output as a binary stream, and flush it at the end.

    Raises:
        click.ClickException: when writing fails, for example because a disk is full, or standard output is closed.
        BrokenPipeError: when the reading program has ended (``| head``); click exits without a message then.
    """
    out = binary(sys.stdout, "standard output")
    try:
        yield out
        out.flush()
    except StorageError:
        raise
    except OSError as error:
        # Otherwise Python would try to write the rest of the buffer when it exits, and report the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise click.ClickException(f"standard output: {error.strerror}") from error


def write_lines(lines: Iterable[str]) -> None:
    """Write results to standard output, one by one.

    The encoding is UTF-8 in every locale: JSON requires it, and file names on disk have it.
    """
    with standard_output() as out:
        for line in lines:
            out.write(f"{line}\n".encode())


def print_status(text: str) -> None:
    """Print a message for the user to standard error."""
    click.echo(printable(text), err=True)


def as_json(value: Any) -> str:
    """Return *value* as JSON on one line; datetimes in ISO 8601."""
    return json.dumps(value, ensure_ascii=False, default=lambda date: date.isoformat())


def operation_names(operations: ShareLinkOperation) -> list[str]:
    """Return the operations of a link as words: ``["download", "upload"]``."""
    return [str(operation.name) for operation in operations]


def printable(text: str) -> str:
    """Return *text* with all control characters escaped, so that it cannot control the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def human_size(size: int) -> str:
    """Return a number of bytes as ``ls -h`` would write it, in powers of 1024.

    >>> human_size(1023), human_size(3072), human_size(1024**2 - 1)
    ('1023B', '3.0K', '1.0M')
    """
    if size < 1024:
        return f"{size}B"
    scaled, units = size / 1024, iter("KMGTPEZY")
    unit = next(units)
    while round(scaled, 1) >= 1024:
        scaled, unit = scaled / 1024, next(units)
    return f"{scaled:.1f}{unit}"


def human_date(date: datetime | None, *, now: datetime | None = None) -> str:
    """Return a day in local time: ``today``, ``yesterday``, ``Apr 01``, or with the year when it is months away."""
    if date is None:
        return "-"
    today = (now or datetime.now(UTC)).astimezone().date()
    day = date.astimezone().date()
    age = (today - day).days
    near = {0: "today", 1: "yesterday", -1: "tomorrow"}
    return near.get(age) or day.strftime("%b %d" if abs(age) < _DATE_WITHOUT_YEAR_DAYS else "%b %d %Y")


def is_terminal(stream: Any) -> bool:
    """Whether *stream* is a terminal; it is None when the shell closed it (``2>&-``)."""
    return stream is not None and bool(stream.isatty())


@contextmanager
def progress(label: str, size: Callable[[], int], *, wanted: bool = True) -> Iterator[ProgressCallback | None]:
    """Show a progress bar on standard error for a transfer of at least 8 MiB, when that is a terminal.

    Args:
        label: The text before the bar.
        size: Returns the number of bytes; called only when a bar could be shown.
        wanted: False for no bar at all.

    Yields:
        A callback for the transfer; None when no bar is shown.
    """
    length = size() if wanted and is_terminal(sys.stderr) else 0
    if length < _LONG_TRANSFER:
        yield None
        return
    with click.progressbar(length=length, label=printable(label), file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)
