"""``flask storage …``: work with an app's profiles from a shell.

Each command calls one operation of :class:`~flask_storage.StorageBackend`. Results go to standard output, messages to
standard error. The exit status is 0 on success, 1 when the storage or the local disk refused or failed, 2 when the
command line (an unknown profile, an invalid path) or the configuration was wrong, 130 after an interrupt.
"""

from __future__ import annotations

import importlib

import click

from .profile import profile_options

# A command's module is imported when that command runs, so that `flask --help` and `flask run` do not wait for it.
_COMMANDS = {
    "check": "maintenance",
    "copy": "files",
    "delete": "delete",
    "doctor": "doctor",
    "fsck": "models",
    "get": "files",
    "link": "links",
    "list": "listing",
    "move": "files",
    "profiles": "maintenance",
    "put": "files",
    "restore": "models",
    "stat": "listing",
    "sweep": "maintenance",
}


class StorageGroup(click.Group):
    """The group ``flask storage``: the commands of this package, and what an app adds with ``add_command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*_COMMANDS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command called *cmd_name*; one that an app added replaces the built-in one."""
        if cmd_name in self.commands or cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"{__name__}.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command


storage_commands = StorageGroup(
    "storage",
    help="Work with the files of the app's storage profiles.",
    params=[*profile_options()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
"""The group of all commands; the extension adds it to each app. It holds no state of an app."""
