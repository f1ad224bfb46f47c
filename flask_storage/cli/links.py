"""``link``: prints a signed URL of a file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from ..types import ShareLinkOperation
from .arguments import duration, json_option, size
from .command import StorageCommand, usage_errors, warnings_as_messages
from .output import as_json, operation_names, write_lines
from .profile import complete_path, selected_storage


@click.command("link", cls=StorageCommand, short_help="Print a signed URL of a file.")
@click.argument("path", shell_complete=complete_path)
@click.option(
    "-e",
    "--expiration",
    type=duration,
    metavar="DURATION",
    help="How long the link is valid: seconds, or for example 15m, 1h, 2d. Default: STORAGE_LINK_LIFETIME, or 1h.",
)
@click.option("--download/--no-download", default=True, show_default=True, help="Allow downloading the file.")
@click.option("--upload/--no-upload", default=False, show_default=True, help="Allow uploading the file.")
@click.option("--delete/--no-delete", default=False, show_default=True, help="Allow deleting the file.")
@click.option("--filename", metavar="NAME", help="The name that a browser saves the download under.")
@click.option("--content-type", metavar="TYPE", help="Download: the type to send. Upload: the type to store.")
@click.option("--uses", type=click.IntRange(min=1), help="How many times the link can be used.")
@click.option("--max-size", type=size, metavar="SIZE", help="Upload: the largest size, for example 500K or 10M.")
@click.option("--exclusive", is_flag=True, help="Upload: fail if the file exists already.")
@json_option
def link_command(
    path: str,
    expiration: timedelta | None,
    download: bool,
    upload: bool,
    delete: bool,
    filename: str | None,
    content_type: str | None,
    uses: int | None,
    max_size: int | None,
    exclusive: bool,
    wants_json: bool,
) -> None:
    """Print a signed URL for the file PATH that works until it expires: for downloads, uploads or deleting.

    Anyone who has the URL can use it: treat it as a password. The command does not check whether the file exists.
    """
    if not upload and (exclusive or max_size is not None):
        raise click.UsageError("--max-size and --exclusive need --upload.")
    operations = "d" * download + "u" * upload + "r" * delete
    with usage_errors(), warnings_as_messages():
        storage = selected_storage()
        lifetime = expiration if expiration is not None else storage.link_lifetime
        expires_at = datetime.now(UTC) + lifetime
        url = storage.link_to(
            path,
            operations,
            expires_at,
            filename,
            content_type,
            uses=uses,
            max_size=max_size,
            exclusive=exclusive,
        )
    names = operation_names(ShareLinkOperation.as_operation(operations))
    result = {"url": url, "path": path, "operations": names, "expires_at": expires_at}
    write_lines([as_json(result) if wants_json else url])
