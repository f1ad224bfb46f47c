"""What all commands share: the app context, ``--profile``, and readable errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask.cli import with_appcontext

from ..errors import (
    ConfigurationError,
    FileNotFoundInStorageError,
    InvalidPathError,
    PartialFailureError,
    StorageError,
)
from .output import printable
from .profile import profile_options

_INTERRUPTED = 130  # the status that shells report for a program ended by Ctrl-C


class StorageCommand(click.Command):
    """A command that runs in the app's context, takes ``--profile`` and ends without a traceback.

    Args:
        callback: The function that runs the command.
        **attributes: The arguments of :class:`click.Command`.
    """

    def __init__(self, *, callback: Callable[..., object], **attributes: Any) -> None:
        super().__init__(callback=with_appcontext(callback), **attributes)
        self.params.extend(profile_options())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a storage error becomes a message and an exit status."""
        try:
            return super().invoke(ctx)
        except StorageError as error:
            raise as_click_error(error) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(_INTERRUPTED)


class _WrongConfiguration(click.ClickException):
    """An error with the exit status of a wrong command."""

    exit_code = 2


def as_click_error(error: StorageError) -> click.ClickException:
    """Return click's exception for *error*, whose exit status is 2 when the command or the configuration is wrong."""
    if isinstance(error, FileNotFoundInStorageError):
        return click.FileError(error.filename, hint=f"Not found in {error.storage_type}.")
    if isinstance(error, InvalidPathError):
        return click.UsageError(printable(str(error)))
    lines = [str(error)]
    if isinstance(error, PartialFailureError):
        lines += [f"{path}: {failure}" for path, failure in error.errors.items()]
    kind = _WrongConfiguration if isinstance(error, ConfigurationError) else click.ClickException
    return kind("\n".join(printable(line) for line in lines))


@contextmanager
def local_file(name: str) -> Iterator[None]:
    """Report errors of the operating system with the local file's *name*: their own may be missing or temporary."""
    try:
        yield
    except (StorageError, BrokenPipeError):
        raise  # storage errors name their path; a broken pipe only means that the reader of the output has ended
    except OSError as error:
        raise click.ClickException(f"{click.format_filename(name)}: {error.strerror or error}") from error


@contextmanager
def warnings_as_messages() -> Iterator[None]:
    """Print warnings for the user (such as about an expiry that the service shortens) as messages, without a source."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        click.echo(printable(f"Warning: {warning.message}."), err=True)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report a value that the storage interface rejects (such as a content type of two lines) as a usage error."""
    try:
        yield
    except StorageError:
        raise
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from error
