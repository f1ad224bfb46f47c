"""Makes storages on the S3 servers that the tests start."""

from __future__ import annotations

from typing import Any

from flask_storage import PreconditionFailedError, S3Storage, StorageUnavailableError
from tests.services.s3_servers import S3Server, session_of

CEPH_REPLACED_ERRORS = (PreconditionFailedError, StorageUnavailableError)
"""Errors of a reader whose file is replaced repeatedly: Ceph 16.2 sometimes responds with an internal error."""


def make_storage(server: S3Server, *, https: bool = False, bucket: str | None = None, **arguments: Any) -> S3Storage:
    """Return a storage on *server*, in a new bucket unless one is given.

    Args:
        server: The server.
        https: Whether to connect over https.
        bucket: The name of an existing bucket.
        **arguments: Arguments of the storage, which take precedence over the defaults.
    """
    defaults: dict[str, Any] = {
        "aws_region": server.region,
        "endpoint_url": server.https if https else server.http,
        "preset": server.preset,
        "addressing_style": "path",
        "verify": str(server.ca),
    }
    if not {"session", "client", "aws_access_key_id", "aws_profile"} & set(arguments):
        defaults["session"] = session_of(server.access_key, server.secret_key, server.region)
    return S3Storage(bucket or server.make_bucket(), **{**defaults, **arguments})
