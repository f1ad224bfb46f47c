"""The profile of a command, and shell completion. Every app imports this module at start, so it imports little."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..backends.base import StorageBackend
    from ..profiles import Profiles

_PROFILE = "flask_storage.profile"
_MAX_COMPLETIONS = 1000


def profile_options() -> list[click.Option]:
    """Return ``--profile``, for the group and for each command; the command's option takes precedence."""
    return [
        click.Option(
            ["--profile"],
            metavar="NAME",
            help="The profile to use instead of the default one.",
            expose_value=False,
            callback=remember_profile,
            shell_complete=complete_profile,
        ),
        # keg-storage's name of the option
        click.Option(["--location"], hidden=True, expose_value=False, callback=remember_profile),
    ]


def app_profiles() -> Profiles:
    """Return the profiles of the current app."""
    from ..profiles import profiles_of

    return profiles_of(current_app)


def requested_profile() -> str | None:
    """Return the profile name from the command line; None for the default profile.

    Raises:
        click.UsageError: when the app has no profile of that name.
    """
    name: str | None = click.get_current_context().meta.get(_PROFILE)
    profiles = app_profiles()
    if name is not None and name not in profiles:
        raise click.UsageError(f"The app has no profile {name!r}; its profiles are: {', '.join(profiles)}.")
    return name


def selected_storage() -> StorageBackend:
    """Return the storage of the profile that the command line names, or of the default one."""
    name = requested_profile()
    return app_profiles().default if name is None else app_profiles()[name]


def complete_path(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the files and directories that begin with *incomplete*, one level at a time."""
    from click.shell_completion import CompletionItem

    from ..errors import StorageError

    profiles: Profiles = _app(ctx).extensions["storage"]
    name = ctx.meta.get(_PROFILE, profiles.default_name)
    if name not in profiles:
        return []
    try:
        found = _level(profiles[name], incomplete)
        # Shells add a space after a single candidate, which is wrong after a directory: its content is offered instead.
        while len(found) == 1 and found[0].endswith("/"):
            found = _level(profiles[name], found[0]) or [found[0].removesuffix("/")]
    except StorageError:
        return []
    return [CompletionItem(path) for path in sorted(found)]


def _level(storage: StorageBackend, start: str) -> list[str]:
    entries = storage.iter(start.rpartition("/")[0], recursive=False)
    return [entry.name for entry in islice(entries, _MAX_COMPLETIONS) if entry.name.startswith(start)]


def complete_profile(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the profiles whose names begin with *incomplete*."""
    from click.shell_completion import CompletionItem

    profiles: Profiles = _app(ctx).extensions["storage"]
    return [
        CompletionItem(name, help=type(profiles[name]).__name__) for name in profiles if name.startswith(incomplete)
    ]


def _app(ctx: click.Context) -> Flask:
    # Click calls completions after it has closed the command line's contexts, and with them Flask's app context.
    return ctx.ensure_object(ScriptInfo).load_app()


def remember_profile(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Store the profile that an option or argument names, for :func:`selected_storage`."""
    if value is not None:
        ctx.meta[_PROFILE] = value
