"""Multipart uploads of backends without a service for them: upload ids, names of part files, and the manifest."""

from __future__ import annotations

import json
import re
import secrets
from datetime import UTC, datetime
from typing import Any

from ..errors import IntegrityError
from ..multipart import PendingUpload
from ..paths import is_valid
from ..types import WriteOptions

# Ids become file names, so only the form of `new_upload_id` is accepted.
_UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_PART_NAME = re.compile(r"part-(\d{5,})", re.ASCII)
MANIFEST_NAME = "upload.json"
"""The name of the manifest, in the temporary directory of its upload."""


def new_upload_id() -> str:
    """Return a random id of 128 bits."""
    return secrets.token_urlsafe(16)


def is_upload_id(text: object) -> bool:
    """Whether *text* has the form of an upload id, and is safe in a file name."""
    return isinstance(text, str) and _UPLOAD_ID.fullmatch(text) is not None


def part_name(number: int) -> str:
    """Return the file name of a part."""
    return f"part-{number:05}"


def part_number_of(name: str) -> int | None:
    """Return the part number in a file name, or None if it is not the name of a part."""
    match = _PART_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def encode_manifest(path: str, options: WriteOptions) -> bytes:
    """Return the manifest of an upload that is created now."""
    manifest = {"path": path, "headers": options.headers, "started_at": datetime.now(UTC).isoformat()}
    return json.dumps(manifest).encode()


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Return the fields of a manifest: ``path``, ``headers``, ``started_at``.

    Raises:
        IntegrityError: when the manifest is damaged.
    """
    try:
        manifest: dict[str, Any] = json.loads(content)
        has_timezone = datetime.fromisoformat(manifest["started_at"]).tzinfo is not None
        if (
            has_timezone
            and isinstance(manifest["path"], str)
            and is_valid(manifest["path"])
            and isinstance(manifest["headers"], dict)
        ):
            return manifest
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise IntegrityError("the manifest of this upload is damaged: start a new upload; `sweep` deletes this one")


def pending_upload(manifest: dict[str, Any], upload_id: str) -> PendingUpload:
    """Return the :class:`PendingUpload` of a manifest."""
    started_at = datetime.fromisoformat(manifest["started_at"])
    return PendingUpload(path=manifest["path"], upload_id=upload_id, started_at=started_at)
