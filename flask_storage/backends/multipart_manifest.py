"""Ids of uploads that are made here; where parts are hidden files, their names, and a note of what they become."""

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

# Ids become names, so nothing passes that we could not have made ourselves.
_UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_PART_NAME = re.compile(r"part-(\d{5,})", re.ASCII)
MANIFEST_NAME = "upload.json"
"""The note's name, in the hidden folder of its upload."""


def new_upload_id() -> str:
    """Return an id that nobody can guess."""
    return secrets.token_urlsafe(16)


def is_upload_id(text: object) -> bool:
    """Whether *text* has the form of the ids that are given out here; nothing else goes into a name."""
    return isinstance(text, str) and _UPLOAD_ID.fullmatch(text) is not None


def part_name(number: int) -> str:
    """Return the name of a part."""
    return f"part-{number:05}"


def part_number_of(name: str) -> int | None:
    """Return the number in the name of a part, or None for the name of something else."""
    match = _PART_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def encode_manifest(path: str, options: WriteOptions) -> bytes:
    """Return the note of an upload that begins now."""
    manifest = {"path": path, "headers": options.headers, "started_at": datetime.now(UTC).isoformat()}
    return json.dumps(manifest).encode()


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Return what a note says: ``path``, ``headers``, ``started_at``.

    Raises:
        IntegrityError: when it is damaged.
    """
    try:
        manifest: dict[str, Any] = json.loads(content)
        is_moment = datetime.fromisoformat(manifest["started_at"]).tzinfo is not None
        if (
            is_moment
            and isinstance(manifest["path"], str)
            and is_valid(manifest["path"])
            and isinstance(manifest["headers"], dict)
        ):
            return manifest
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise IntegrityError("the note of this upload is damaged: begin anew, the sweep takes the rest")


def pending_upload(manifest: dict[str, Any], upload_id: str) -> PendingUpload:
    """Return an upload as it is listed."""
    started_at = datetime.fromisoformat(manifest["started_at"])
    return PendingUpload(path=manifest["path"], upload_id=upload_id, started_at=started_at)
