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
from ..types import Capabilities, ShareLinkOperation
from .arguments import duration, json_option
from .capabilities import described
from .command import StorageCommand
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
@click.option("--dry-run", is_flag=True, help="List unfinished multipart uploads, and remove nothing.")
@json_option
def sweep_command(older_than: timedelta, dry_run: bool, wants_json: bool) -> None:
    """Remove leftovers of unfinished writes and uploads.

    --dry-run lists the unfinished multipart uploads of that age: start time, id and path, separated by tabs. Temporary
    files of interrupted writes are not in that list.
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
    # Uploads of other programs may have names with control characters.
    write_lines(
        f"{upload.started_at.isoformat(timespec='seconds')}\t{printable(upload.upload_id)}\t{printable(upload.path)}"
        for upload in uploads
    )
    count = f"{len(uploads)} unfinished multipart {'upload' if len(uploads) == 1 else 'uploads'} in {storage.name}."
    print_status(count if storage.capabilities.multipart else f"{storage.name} has no multipart uploads.")


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
