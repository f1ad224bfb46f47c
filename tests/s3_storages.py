"""A storage in a fresh bucket of one of the S3 servers that the tests start."""

from __future__ import annotations

from typing import Any

from flask_storage import PreconditionFailedError, S3Storage, StorageUnavailableError
from tests.services.s3_servers import S3Server, session_of

CEPH_REPLACED_ERRORS = (PreconditionFailedError, StorageUnavailableError)
"""What a reader hears of a file that is replaced again and again: 16.2 says now and then that it has a trouble."""


def make_storage(server: S3Server, *, https: bool = False, bucket: str | None = None, **arguments: Any) -> S3Storage:
    """Return a storage on *server*, in a bucket of its own unless one is named.

    Args:
        server: Which one.
        https: Whether to come in by https.
        bucket: The name of a bucket that exists.
        **arguments: Of the storage, in place of ours.
    """
    ours: dict[str, Any] = {
        "aws_region": server.region,
        "endpoint_url": server.https if https else server.http,
        "preset": server.preset,
        "addressing_style": "path",
        "verify": str(server.ca),
    }
    if not {"session", "client", "aws_access_key_id", "aws_profile"} & set(arguments):
        ours["session"] = session_of(server.access_key, server.secret_key, server.region)
    return S3Storage(bucket or server.make_bucket(), **{**ours, **arguments})
