"""``list`` and ``stat``: show files and their attributes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from .arguments import json_option
from .command import StorageCommand
from .output import as_json, human_date, human_size, printable, write_lines
from .profile import complete_path, selected_storage

if TYPE_CHECKING:
    from ..types import FileInfo, ListEntry


@click.command("list", cls=StorageCommand, short_help="List files.")
@click.argument("path", default="/", shell_complete=complete_path)
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Also list the files in sub-folders.")
@click.option("--simple", is_flag=True, help="Print only the paths.")
@click.option("-U", "--unsorted", is_flag=True, help="Print each file as it is found, for very large folders.")
@json_option
def list_command(path: str, recursive: bool, simple: bool, unsorted: bool, wants_json: bool) -> None:
    """List the files below the folder PATH: date, size and path, separated by tabs.

    Without PATH all files are listed. With --no-recursive, sub-folders are entries that end in a slash. A folder that
    does not exist is listed as empty. --json prints one object per line.
    """
    if simple and wants_json:
        raise click.UsageError("--simple and --json cannot be used together.")
    operation = selected_storage().iter if unsorted else selected_storage().list
    entries: Any = operation(path, recursive=recursive)
    line = _simple_line if simple else _json_line if wants_json else _human_line
    write_lines(line(entry) for entry in entries)


@click.command("stat", cls=StorageCommand, short_help="Show the attributes of a file.")
@click.argument("path", shell_complete=complete_path)
@json_option
def stat_command(path: str, wants_json: bool) -> None:
    """Show size, date, content type and the other attributes of the file PATH."""
    info = selected_storage().stat(path)
    write_lines([as_json(_info_dict(info))] if wants_json else _stat_lines(info))


def _simple_line(entry: ListEntry) -> str:
    return entry.name


def _human_line(entry: ListEntry) -> str:
    size = "-" if entry.is_directory else human_size(entry.size)
    modified = entry.last_modified.datetime if entry.last_modified else None
    return f"{human_date(modified)}\t{size}\t{entry.name}"


def _json_line(entry: ListEntry) -> str:
    return as_json(
        {
            "path": entry.name,
            "size": entry.size,
            "last_modified": entry.last_modified,
            "is_directory": entry.is_directory,
        }
    )


def _info_dict(info: FileInfo) -> dict[str, Any]:
    attributes = {field.name: getattr(info, field.name) for field in fields(info)}
    return {**attributes, "checksums": dict(info.checksums), "metadata": dict(info.metadata)}


def _stat_lines(info: FileInfo) -> Iterator[str]:
    attributes = _info_dict(info)
    attributes["size"] = f"{info.size} ({human_size(info.size)})"
    attributes["last_modified"] = info.last_modified.isoformat()
    del attributes["etag_is_strong"]
    attributes.update({f"checksum {name}": value for name, value in attributes.pop("checksums").items()})
    attributes.update({f"metadata {name}": value for name, value in attributes.pop("metadata").items()})
    for name, value in attributes.items():
        if value is not None:
            yield printable(f"{name.replace('_', ' ')}: {value}")
