"""``get``, ``put``, ``copy`` and ``move``: transfers, and copies within the storage."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import click

from ..backends.base import StorageBackend
from .arguments import exclusive_option, last_segment, target_path
from .command import StorageCommand, local_file, usage_errors
from .output import binary, print_status, progress, standard_output
from .profile import complete_path, selected_storage

_CHUNK = 1024 * 1024


@click.command("get", cls=StorageCommand, short_help="Download a file.")
@click.argument("path", shell_complete=complete_path)
@click.argument("file", required=False, type=click.Path())
@exclusive_option
def get_command(path: str, file: str | None, exclusive: bool) -> None:
    """Download the file PATH to the local FILE, or to standard output when FILE is "-".

    Without FILE, or when FILE is a folder, the local file gets its name in the storage. It appears, or is replaced,
    only when the download is complete.
    """
    storage = selected_storage()
    if file == "-":
        _get_to_stdout(storage, path)
        return
    if file is not None and file.endswith("/") and not os.path.isdir(file):
        raise click.UsageError(f"The folder {click.format_filename(file)} does not exist: create it first.")
    if file is None or os.path.isdir(file):
        file = os.path.join(file or "", last_segment(path))
    if exclusive and os.path.lexists(file):
        raise click.ClickException(f"{click.format_filename(file)} exists already.")
    with local_file(file), progress(last_segment(path), lambda: storage.size(path)) as callback:
        storage.get(path, file, progress_callback=callback)
    print_status(f"Downloaded {path} to {click.format_filename(file)}.")


@click.command("put", cls=StorageCommand, short_help="Upload a file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.argument("path", shell_complete=complete_path)
@click.option("--content-type", metavar="TYPE", help="The media type to store with the file.")
@exclusive_option
def put_command(file: str, path: str, content_type: str | None, exclusive: bool) -> None:
    """Upload the local FILE, or standard input when FILE is "-", to PATH.

    A PATH that ends in a slash is a folder, in which the file keeps its name. An existing file is replaced, but only
    when the upload is complete.
    """
    storage = selected_storage()
    if file == "-" and path.endswith("/"):
        raise click.UsageError("Standard input has no file name: give the whole PATH, not a folder.")
    path = target_path(path, os.path.basename(file))
    with (
        local_file(file),
        nullcontext(binary(sys.stdin, "standard input")) if file == "-" else open(file, "rb") as source,
        usage_errors(),
        progress(last_segment(path), lambda: os.fstat(source.fileno()).st_size) as callback,
    ):
        storage.upload(source, path, progress_callback=callback, content_type=content_type, exclusive=exclusive)
    print_status(f"Uploaded {click.format_filename(file)} to {path}.")


@click.command("copy", cls=StorageCommand, short_help="Copy a file.")
@click.argument("source", metavar="PATH", shell_complete=complete_path)
@click.argument("target", metavar="NEW_PATH", shell_complete=complete_path)
@exclusive_option
def copy_command(source: str, target: str, exclusive: bool) -> None:
    """Copy the file PATH to NEW_PATH.

    An existing file is replaced. A NEW_PATH that ends in a slash is a folder, in which the file keeps its name.
    """
    target = target_path(target, last_segment(source))
    selected_storage().copy(source, target, exclusive=exclusive)
    print_status(f"Copied {source} to {target}.")


@click.command("move", cls=StorageCommand, short_help="Move a file.")
@click.argument("source", metavar="PATH", shell_complete=complete_path)
@click.argument("target", metavar="NEW_PATH", shell_complete=complete_path)
@exclusive_option
def move_command(source: str, target: str, exclusive: bool) -> None:
    """Move the file PATH to NEW_PATH.

    An existing file is replaced. A NEW_PATH that ends in a slash is a folder, in which the file keeps its name.
    """
    target = target_path(target, last_segment(source))
    selected_storage().move(source, target, exclusive=exclusive)
    print_status(f"Moved {source} to {target}.")


def _get_to_stdout(storage: StorageBackend, path: str) -> None:
    # Not download(): an error of standard output must not be reported as an error of the storage.
    with (
        storage.open(path, "r") as reader,
        standard_output() as out,
        # No progress bar in a terminal that shows the content.
        progress(last_segment(path), lambda: storage.size(path), wanted=not out.isatty()) as callback,
    ):
        done = 0
        for chunk in reader.iter_chunks(_CHUNK):
            out.write(chunk)
            done += len(chunk)
            if callback is not None:
                callback(done)
    print_status(f"Downloaded {path} to standard output.")
