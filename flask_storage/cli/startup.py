"""Errors of an app that a command loads: one message instead of a traceback.

``flask …`` imports the app, which calls ``Storage(app)``. Click prints an error in one line only if it is a
:class:`click.ClickException`; an app that catches errors of its configuration expects their own types.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..errors import StorageError


class _ReportedByClick(click.ClickException):
    """The part of an error that Click needs."""

    exit_code = 2

    def format_message(self) -> str:
        """Return the message, without control characters."""
        from .output import printable  # imported only for an error, because every app imports this module

        return printable(str(self))


@contextmanager
def errors_reported_by_click() -> Iterator[None]:
    """Let Click report storage errors in one line, with exit status 2, while it runs a command.

    Such an error keeps its type, attributes and cause, so ``except ConfigurationError`` still catches it. Outside of a
    command, errors are not changed.
    """
    try:
        yield
    except StorageError as error:
        if click.get_current_context(silent=True) is None:
            raise
        kind = type(error)
        reported = type(kind.__name__, (_ReportedByClick, kind), {"__module__": kind.__module__})
        # As unpickling would create it, since the constructors of the two classes do not fit together.
        rebuild, (_, arguments, state) = error.__reduce__()
        raise rebuild(reported, arguments, {**state, "show_color": None}) from error
