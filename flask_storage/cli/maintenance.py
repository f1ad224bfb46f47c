"""``profiles``, ``check`` and ``sweep``: show profiles, test them, and clean up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from textwrap import wrap
from typing import Any

import click

from ..backends.base import StorageBackend
from ..errors import StorageError
from ..multipart import PendingUpload
from ..types import Capabilities, ShareLinkOperation
from .arguments import duration, json_option
from .capabilities import described
from .command import StorageCommand
from .models import app_databases, refusal_text, sweep_json, sweep_lines, sweep_models, sweep_text
from .output import as_json, operation_names, print_status, printable, write_lines
from .profile import app_profiles, requested_profile, selected_storage

_WIDTH = 100
_SUBJECT = 11  # columns


@click.command("profiles", cls=StorageCommand, short_help="Show the profiles and their capabilities.")
@click.option("--check", "wants_check", is_flag=True, help="Test each: write, read and delete a small hidden file.")
@json_option
@click.pass_context
def profiles_command(ctx: click.Context, wants_check: bool, wants_json: bool) -> None:
    """Show the profiles of the app: name, backend and capabilities. A star marks the default profile.

    --json has every capability under its name in the Python interface. With --check the exit status is 1 when one of
    them does not work.
    """
    name = requested_profile()
    rows = [_profile_row(profile) for profile in (app_profiles() if name is None else [name])]
    if wants_check:
        for row in rows:
            row["error"] = _check_error(app_profiles()[row["name"]])
    write_lines([as_json(rows)] if wants_json else _paragraphs(rows))
    if any(row.get("error") for row in rows):
        ctx.exit(1)


@click.command("check", cls=StorageCommand, short_help="Test whether a storage works.")
def check_command() -> None:
    """Test whether the storage works: write, read and delete a small hidden file."""
    storage = selected_storage()
    storage.check()
    print_status(f"{storage.name} works.")


@click.command("sweep", cls=StorageCommand, short_help="Remove leftovers of unfinished uploads.")
@click.option(
    "--older-than",
    type=duration,
    metavar="DURATION",
    default="1d",
    show_default=True,
    help="Only remove uploads that began longer ago; choose more than your longest upload takes.",
)
@click.option(
    "--days",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="How far back to look for files of models that have no row; at least the days between two sweeps.",
)
@click.option("--dry-run", is_flag=True, help="List unfinished multipart uploads, and remove nothing.")
@click.option("--force", is_flag=True, help="Also remove unusually many files of models that have no row.")
@json_option
@click.pass_context
def sweep_command(
    ctx: click.Context, older_than: timedelta, days: int, dry_run: bool, force: bool, wants_json: bool
) -> None:
    """Remove leftovers of unfinished writes and uploads.

    If the app has models with files, also remove the files that no row has any more, and those that a killed process
    has left, in all profiles of these models. If the latter are more than 20, and more than 5 % of the files that were
    looked at, none of them is removed, and the exit status is 1.

    --dry-run lists the unfinished multipart uploads of that age: start time, id and path, separated by tabs. Temporary
    files of interrupted writes are not in that list. For models it lists the files that a killed process has left:
    the word orphan, profile and path.
    """
    storage = selected_storage()
    databases = app_databases()
    swept = sweep_models(databases, older_than, days, dry_run=dry_run, force=force) if databases else None
    uploads = _unfinished_uploads(storage, older_than) if dry_run else []
    removed = 0 if dry_run else storage.sweep(older_than)
    if wants_json:
        document = {"uploads": [asdict(upload) for upload in uploads]} if dry_run else {"removed": removed}
        write_lines([as_json({"profile": storage.name, **document, **(sweep_json(swept) if swept else {})})])
    else:
        write_lines([*(_upload_line(upload) for upload in uploads), *(sweep_lines(swept) if swept and dry_run else ())])
        print_status(_uploads_text(storage, uploads) if dry_run else _removed_text(storage, removed))
        if swept:
            print_status(sweep_text(swept, dry_run=dry_run))
    if swept and swept.refused:
        print_status(refusal_text(swept))
        ctx.exit(1)


def _unfinished_uploads(storage: StorageBackend, older_than: timedelta) -> list[PendingUpload]:
    before = datetime.now(UTC) - older_than
    found = storage.multipart.list_uploads() if storage.capabilities.multipart else ()
    return sorted((upload for upload in found if upload.started_at < before), key=lambda upload: upload.started_at)


def _upload_line(upload: PendingUpload) -> str:
    # Uploads of other programs may have names with control characters.
    start = upload.started_at.isoformat(timespec="seconds")
    return f"{start}\t{printable(upload.upload_id)}\t{printable(upload.path)}"


def _uploads_text(storage: StorageBackend, uploads: Sequence[PendingUpload]) -> str:
    if not storage.capabilities.multipart:
        return f"{storage.name} has no multipart uploads."
    return f"{len(uploads)} unfinished multipart {'upload' if len(uploads) == 1 else 'uploads'} in {storage.name}."


def _removed_text(storage: StorageBackend, removed: int) -> str:
    return f"Removed {removed} {'leftover' if removed == 1 else 'leftovers'} from {storage.name}."


def _profile_row(profile: str) -> dict[str, Any]:
    storage = app_profiles()[profile]
    capabilities = storage.capabilities
    return {
        "name": profile,
        "backend": type(storage).__name__,
        "default": profile == app_profiles().default_name,
        "capabilities": {field.name: _json_value(getattr(capabilities, field.name)) for field in fields(Capabilities)},
    }


def _json_value(capability: bool | frozenset[str] | ShareLinkOperation) -> bool | list[str]:
    """Return the JSON form of a capability."""
    if isinstance(capability, bool):
        return capability
    return sorted(capability) if isinstance(capability, frozenset) else operation_names(capability)


def _check_error(storage: StorageBackend) -> str | None:
    try:
        storage.check()
    except StorageError as error:
        return printable(str(error))
    return None


def _paragraphs(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        state = ""
        if "error" in row:
            state = f" FAILS: {row['error']}" if row["error"] else " works"
        yield f"{'*' if row['default'] else ' '} {row['name']} ({row['backend']}){state}"
        for subject, text in described(app_profiles()[row["name"]].capabilities):
            yield from wrap(
                text, _WIDTH, initial_indent=f"    {subject:{_SUBJECT}}", subsequent_indent=" " * (4 + _SUBJECT)
            )
