"""What all commands share: the app context, ``--profile``, and errors a person can read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask.cli import with_appcontext

from ..errors import FileNotFoundInStorageError, InvalidPathError, PartialFailureError, StorageError
from .output import printable
from .profile import profile_options

_INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


class StorageCommand(click.Command):
    """A command that runs in the app's context, takes ``--profile`` and ends without a traceback.

    Args:
        callback: What the command does.
        **attributes: Those of :class:`click.Command`.
    """

    def __init__(self, *, callback: Callable[..., object], **attributes: Any) -> None:
        super().__init__(callback=with_appcontext(callback), **attributes)
        self.params.extend(profile_options())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong in the storage becomes a message and an exit status."""
        try:
            return super().invoke(ctx)
        except StorageError as error:
            raise as_click_error(error) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(_INTERRUPTED)


def as_click_error(error: StorageError) -> click.ClickException:
    """Return what click prints for *error*: a usage mistake (2) for a bad path, otherwise a failure (1)."""
    if isinstance(error, FileNotFoundInStorageError):
        return click.FileError(error.filename, hint=f"Not found in {error.storage_type}.")
    if isinstance(error, InvalidPathError):
        return click.UsageError(printable(str(error)))
    lines = [str(error)]
    if isinstance(error, PartialFailureError):
        lines += [f"{path}: {failure}" for path, failure in error.errors.items()]
    return click.ClickException("\n".join(printable(line) for line in lines))


@contextmanager
def local_file(name: str) -> Iterator[None]:
    """Say which local file was in trouble: a temporary name, or none, is all that the system's error may know."""
    try:
        yield
    except (StorageError, BrokenPipeError):
        raise  # the one is reported as it is; the other is how a reader of our output says "enough"
    except OSError as error:
        raise click.ClickException(f"{click.format_filename(name)}: {error.strerror or error}") from error


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report an argument that the wall refuses (a content type of two lines) as the mistake it is."""
    try:
        yield
    except StorageError:
        raise
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from error
