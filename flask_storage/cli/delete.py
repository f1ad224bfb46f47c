"""``delete``: deletes files, and with ``--recursive`` whole directories."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..backends.base import StorageBackend
from .command import StorageCommand
from .output import is_terminal, print_status, printable
from .profile import complete_path, selected_storage


@click.command("delete", cls=StorageCommand, short_help="Delete files or folders.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=complete_path)
@click.option("-r", "--recursive", is_flag=True, help="Also delete folders, with everything below them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before deleting folders.")
@click.option("--missing-ok", is_flag=True, help="Do not fail when a file does not exist.")
def delete_command(paths: Sequence[str], recursive: bool, yes: bool, missing_ok: bool) -> None:
    """Delete the files PATH...

    With --recursive, and in a terminal, the command asks for confirmation first. When one of several files does not
    exist, the others are deleted, and the exit status is 1.
    """
    storage = selected_storage()
    # All paths are validated before the first file is deleted, so that an invalid one among them changes nothing.
    files = [path for path in paths if _is_file(storage, path)]
    if recursive and not yes and is_terminal(sys.stdin):
        names = ", ".join(printable(path) for path in paths)
        click.confirm(f"Delete {names} and everything below, in {storage.name}?", abort=True, err=True)
    storage.delete_many(files)
    missing = []
    for path in paths:
        below = storage.delete_prefix(path) if recursive else 0
        if path in files:
            print_status(f"Deleted {path}.")
        if below:
            print_status(f"Deleted {below} {'file' if below == 1 else 'files'} below {path}.")
        elif path not in files:
            missing.append(path)
    if missing and not missing_ok:
        raise click.ClickException("\n".join(_reason(storage, path) for path in missing))


def _is_file(storage: StorageBackend, path: str) -> bool:
    if path.endswith("/"):
        storage.iter(path)  # raises for an invalid path
        return False
    return storage.exists(path)


def _reason(storage: StorageBackend, path: str) -> str:
    """Return why nothing was deleted: the path is a directory, or it does not exist."""
    if next(storage.iter(path, recursive=False), None) is not None:
        return f"{path} is a folder: pass --recursive to delete everything below it."
    return f"{path} not found in {storage.name}."
