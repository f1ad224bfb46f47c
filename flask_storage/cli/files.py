"""``get``, ``put``, ``copy`` and ``move``: transfers, and copies within a storage and between two."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext

import click

from ..backends.base import StorageBackend
from ..types import ProgressCallback
from .arguments import exclusive_option, last_segment, recursive_option, target_path
from .command import StorageCommand, local_file, usage_errors
from .output import binary, print_status, progress, standard_output
from .profile import complete_path, selected_storage
from .trees import (
    StoredPath,
    copy_file,
    copy_tree,
    entries_of,
    get_tree,
    located,
    move_file,
    move_tree,
    put_tree,
    refuse_overlap,
)

_CHUNK = 1024 * 1024


@click.command("get", cls=StorageCommand, short_help="Download a file or a folder.")
@click.argument("path", shell_complete=complete_path)
@click.argument("file", required=False, type=click.Path())
@recursive_option
@exclusive_option
def get_command(path: str, file: str | None, recursive: bool, exclusive: bool) -> None:
    """Download the file PATH to the local FILE, or to standard output when FILE is "-".

    Without FILE, or when FILE is a folder, the local file gets its name in the storage. It appears, or is replaced,
    only when the download is complete.

    With --recursive, PATH is a folder, and its files get the same names below the local folder FILE. A FILE that ends
    in a slash is a folder in which the folder keeps its name. Files that are equal already are skipped, so an
    interrupted download can be continued.
    """
    storage = selected_storage()
    if recursive:
        _get_folder(StoredPath(storage, path).as_directory, file, exclusive)
        return
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


@click.command("put", cls=StorageCommand, short_help="Upload a file or a folder.")
@click.argument("file", type=click.Path(exists=True, allow_dash=True))
@click.argument("path", shell_complete=complete_path)
@click.option("--content-type", metavar="TYPE", help="The media type to store with the file.")
@recursive_option
@exclusive_option
def put_command(file: str, path: str, content_type: str | None, recursive: bool, exclusive: bool) -> None:
    """Upload the local FILE, or standard input when FILE is "-", to PATH.

    A PATH that ends in a slash is a folder, in which the file keeps its name. An existing file is replaced, but only
    when the upload is complete.

    With --recursive, FILE may be a folder, whose files get the same names below PATH. Files that are equal already are
    skipped, so an interrupted upload can be continued. Symbolic links are skipped.
    """
    storage = selected_storage()
    if file == "-" and path.endswith("/"):
        raise click.UsageError("Standard input has no file name: give the whole PATH, not a folder.")
    path = target_path(path, os.path.basename(os.path.abspath(file)))
    if os.path.isdir(file):
        if not recursive:
            raise click.BadParameter("it is a folder: pass --recursive to upload what is in it.", param_hint="'FILE'")
        if content_type is not None:
            raise click.UsageError("--content-type is for one file.")
        counts = put_tree(file, StoredPath(storage, path).as_directory, exclusive)
        _print_counts("Uploaded", counts, path)
        return
    with (
        local_file(file),
        nullcontext(binary(sys.stdin, "standard input")) if file == "-" else open(file, "rb") as source,
        usage_errors(),
        progress(last_segment(path), lambda: os.fstat(source.fileno()).st_size) as callback,
    ):
        storage.upload(source, path, progress_callback=callback, content_type=content_type, exclusive=exclusive)
    print_status(f"Uploaded {click.format_filename(file)} to {path}.")


@click.command("copy", cls=StorageCommand, short_help="Copy a file or a folder.")
@click.argument("source", metavar="PATH", shell_complete=complete_path)
@click.argument("target", metavar="NEW_PATH", shell_complete=complete_path)
@recursive_option
@exclusive_option
def copy_command(source: str, target: str, recursive: bool, exclusive: bool) -> None:
    """Copy the file PATH to NEW_PATH.

    An existing file is replaced. A NEW_PATH that ends in a slash is a folder, in which the file keeps its name. Either
    path may begin with a profile and a colon: docs:a.txt media:a.txt.

    With --recursive, PATH is a folder, whose files get the same names below NEW_PATH. Files that are equal already are
    skipped, so an interrupted copy can be continued.
    """
    old, new = _stored_paths(source, target, recursive)
    if recursive:
        refuse_overlap(old, new)
        counts = copy_tree(old, new, exclusive, entries_of(old))
        _print_counts("Copied", counts, str(new))
        return
    with _progress_between(old, new) as callback:
        copy_file(old, new, exclusive, callback)
    print_status(f"Copied {old} to {new}.")


@click.command("move", cls=StorageCommand, short_help="Move a file or a folder.")
@click.argument("source", metavar="PATH", shell_complete=complete_path)
@click.argument("target", metavar="NEW_PATH", shell_complete=complete_path)
@recursive_option
@exclusive_option
def move_command(source: str, target: str, recursive: bool, exclusive: bool) -> None:
    """Move the file PATH to NEW_PATH.

    An existing file is replaced. A NEW_PATH that ends in a slash is a folder, in which the file keeps its name. Either
    path may begin with a profile and a colon: docs:a.txt media:a.txt.

    With --recursive, PATH is a folder, whose files get the same names below NEW_PATH. All files are copied and
    compared before the first one is deleted. Files that are equal already are skipped, so an interrupted move can be
    continued.
    """
    old, new = _stored_paths(source, target, recursive)
    if recursive:
        refuse_overlap(old, new)
        counts = move_tree(old, new, exclusive)
        _print_counts("Moved", counts, str(new))
        return
    if old.storage is new.storage:
        old.storage.move(old.path, new.path, exclusive=exclusive)
    else:
        with _progress_between(old, new) as callback:
            move_file(old, new, exclusive, callback)
    print_status(f"Moved {old} to {new}.")


def _stored_paths(source: str, target: str, recursive: bool) -> tuple[StoredPath, StoredPath]:
    old, new = located(source), located(target)
    if recursive:
        old = old.as_directory
    # "media:" is the root of a profile, where the file or folder keeps its name.
    path = old.name if new.label and not new.path else target_path(new.path, old.name)
    new = StoredPath(new.storage, path, new.label)
    return old, new.as_directory if recursive else new


def _progress_between(old: StoredPath, new: StoredPath) -> AbstractContextManager[ProgressCallback | None]:
    """Return a progress bar, unless one storage copies the file itself."""
    return progress(old.name, lambda: old.storage.size(old.path), wanted=old.storage is not new.storage)


def _print_counts(what: str, counts: tuple[int, int], target: str) -> None:
    transferred, equal = counts
    skipped = f", and skipped {equal} that {'is' if equal == 1 else 'are'} equal" if equal else ""
    print_status(f"{what} {transferred} {'file' if transferred == 1 else 'files'} to {target}{skipped}.")


def _get_folder(source: StoredPath, folder: str | None, exclusive: bool) -> None:
    if folder == "-":
        raise click.UsageError("A folder cannot be downloaded to standard output.")
    folder = target_path("./" if folder is None else folder, source.name)
    counts = get_tree(source, folder, exclusive)
    _print_counts("Downloaded", counts, click.format_filename(folder))


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
