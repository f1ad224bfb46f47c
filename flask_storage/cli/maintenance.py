"""``profiles``, ``check`` and ``sweep``: what is configured, whether it works, and clearing up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ..backends.base import StorageBackend
from ..errors import StorageError
from ..types import Capabilities, ShareLinkOperation
from .arguments import duration, json_option
from .command import StorageCommand
from .output import as_json, operation_names, print_status, printable, write_lines
from .profile import app_profiles, requested_profile, selected_storage


@click.command("profiles", cls=StorageCommand, short_help="Show the profiles and what each can do.")
@click.option("--check", "wants_check", is_flag=True, help="Try each: write, read and delete a small hidden file.")
@json_option
@click.pass_context
def profiles_command(ctx: click.Context, wants_check: bool, wants_json: bool) -> None:
    """Show the profiles of the app: name, backend, and what each can do. The default one is marked by a star.

    With --check the exit status is 1 when one of them does not work.
    """
    name = requested_profile()
    facts = [_profile_row(profile) for profile in (app_profiles() if name is None else [name])]
    if wants_check:
        for row in facts:
            row["error"] = _check_error(app_profiles()[row["name"]])
    write_lines([as_json(facts)] if wants_json else _table(facts))
    if any(row.get("error") for row in facts):
        ctx.exit(1)


@click.command("check", cls=StorageCommand, short_help="Try whether a storage works.")
def check_command() -> None:
    """Write, read and delete a small hidden file, to see that the storage works."""
    storage = selected_storage()
    storage.check()
    print_status(f"{storage.name} works.")


@click.command("sweep", cls=StorageCommand, short_help="Remove what unfinished uploads left.")
@click.option(
    "--older-than",
    type=duration,
    metavar="DURATION",
    default="1d",
    show_default=True,
    help="Only what was begun longer ago; keep it above your longest upload.",
)
@click.option("--dry-run", is_flag=True, help="List unfinished uploads in parts, and remove nothing.")
@json_option
def sweep_command(older_than: timedelta, dry_run: bool, wants_json: bool) -> None:
    """Remove what unfinished writes and uploads left behind.

    --dry-run lists the uploads in parts that were begun so long ago and not finished: when, id and path, separated by
    tabs. What broken-off writes leave on a disk is not in that list.
    """
    storage = selected_storage()
    if dry_run:
        _list_uploads(storage, older_than, wants_json)
        return
    removed = storage.sweep(older_than)
    if wants_json:
        write_lines([as_json({"profile": storage.name, "removed": removed})])
    else:
        print_status(f"Removed {removed} {'leftover' if removed == 1 else 'leftovers'} from {storage.name}.")


def _list_uploads(storage: StorageBackend, older_than: timedelta, wants_json: bool) -> None:
    before = datetime.now(UTC) - older_than
    found = storage.multipart.list_uploads() if storage.capabilities.multipart else ()
    uploads = sorted((upload for upload in found if upload.started_at < before), key=lambda upload: upload.started_at)
    if wants_json:
        write_lines([as_json({"profile": storage.name, "uploads": [asdict(upload) for upload in uploads]})])
        return
    # Somebody else's uploads may have names that no path of ours has.
    write_lines(
        f"{upload.started_at.isoformat(timespec='seconds')}\t{printable(upload.upload_id)}\t{printable(upload.path)}"
        for upload in uploads
    )
    count = f"{len(uploads)} unfinished {'upload' if len(uploads) == 1 else 'uploads'} in parts in {storage.name}."
    print_status(count if storage.capabilities.multipart else f"{storage.name} lists no uploads in parts.")


def _profile_row(profile: str) -> dict[str, Any]:
    storage = app_profiles()[profile]
    able = storage.capabilities
    return {
        "name": profile,
        "backend": type(storage).__name__,
        "default": profile == app_profiles().default_name,
        "capabilities": {field.name: _plain(getattr(able, field.name)) for field in fields(Capabilities)},
    }


def _plain(ability: bool | frozenset[str] | ShareLinkOperation) -> bool | list[str]:
    """Return an ability as JSON has it."""
    if isinstance(ability, bool):
        return ability
    return sorted(ability) if isinstance(ability, frozenset) else operation_names(ability)


def _check_error(storage: StorageBackend) -> str | None:
    try:
        storage.check()
    except StorageError as error:
        return printable(str(error))
    return None


def _table(facts: Sequence[dict[str, Any]]) -> list[str]:
    rows = [[("* " if row["default"] else "  ") + row["name"], row["backend"], _summary(row)] for row in facts]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{name:{widths[0]}}  {backend:{widths[1]}}  {summary}" for name, backend, summary in rows]


def _summary(row: dict[str, Any]) -> str:
    words = []
    for name, able in row["capabilities"].items():
        if able:
            words.append(name.replace("_", "-") + (":" + "+".join(able) if able is not True else ""))
    if "error" in row:
        words.insert(0, f"FAILS: {row['error']};" if row["error"] else "works;")
    return " ".join(words)
