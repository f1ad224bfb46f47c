"""Where the files lie: every kind of place there is, in each of the three ways to write it down.

The app uses the profile ``drop`` of :func:`own_profiles`. Another place needs no change here but one environment
variable, which holds any of the three forms as JSON. A folder elsewhere, a bucket of AWS (boto3 finds the credentials
in its usual places), one of any other service that speaks S3, a container of Azure (azure.identity finds who asks),
one of the emulator on this machine, a folder of another machine over SSH (its key is in ``~/.ssh/known_hosts``):

.. code-block:: sh

    FLASK_STORAGE_PROFILES='{"drop": "local:///srv/drop"}'
    FLASK_STORAGE_PROFILES='{"drop": "s3://bucket/prefix?region=eu-central-1"}'
    FLASK_STORAGE_PROFILES='{"drop": "s3://bucket/prefix?endpoint_url=https://s3.example.com&preset=ceph"}'
    FLASK_STORAGE_PROFILES='{"drop": "azure://account/container/prefix?credential=DefaultAzureCredential"}'
    FLASK_STORAGE_PROFILES='{"drop": {"backend": "azure", "bucket": "container",
        "connection_string": "UseDevelopmentStorage=true"}}'
    FLASK_STORAGE_PROFILES='{"drop": "sftp://web@files.example.com/srv/drop?key_filename=/etc/drop/id_ed25519"}'

or one value of the mapping below:

.. code-block:: sh

    FLASK_STORAGE_PROFILES__drop__root=/srv/drop
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask_storage import LocalFSStorage, MemoryStorage

DROP_MAX_UPLOAD_SIZE = 1_000_000_000
"""The largest file, in bytes. ``FLASK_DROP_MAX_UPLOAD_SIZE`` changes it."""

DROP_LISTED_FILES = 200
"""So many files, the newest, are on the page."""

FORM_OVERHEAD = 65_536
"""What a form may have beside the content of its file, in bytes."""

# Cookies are shared by all ports of a host, and every Flask app calls its cookie "session".
SESSION_COOKIE_NAME = "drop_session"
SESSION_COOKIE_SAMESITE = "Lax"


def own_profiles(instance: Path) -> dict[str, Any]:
    """Return the profiles of the app, unless it is told of others."""
    return {"drop": as_mapping(instance)["drop"]}


def as_mapping(instance: Path) -> dict[str, Any]:
    """Return a profile of every kind as a mapping: name to backend and arguments. The first one is the default."""
    return {
        "drop": {
            "backend": "local",
            "root": str(instance / "files"),
            "create": True,  # make the folder; without this a missing one is an error at start
        },
        "public": {
            "backend": "local",
            "root": str(instance / "public"),
            "create": True,
            "file_mode": 0o644,
            "directory_mode": 0o755,
            "base_url": "https://media.example.com",
        },
        "bucket": {"backend": "s3", "bucket": "example", "prefix": "drop", "aws_region": "eu-central-1"},
        "container": {
            "backend": "azure",
            "account": "example",
            "bucket": "files",
            "prefix": "drop",
            "credential": "DefaultAzureCredential",
        },
        "server": {
            "backend": "sftp",
            "host": "files.example.com",
            "username": "web",
            "root": "/srv/drop",
            "key_filename": "/etc/drop/id_ed25519",
        },
        "scratch": {"backend": "memory"},
    }


def as_pairs(instance: Path) -> list[tuple[type | str, dict[str, Any]]]:
    """Return the same as pairs of class and arguments."""
    return [
        # A folder on this machine. Others may not look into it: 0o600 and 0o700 are the modes unless told otherwise.
        (LocalFSStorage, {"name": "drop", "root": str(instance / "files"), "create": True}),
        # The same for content that a web server serves by itself, under a public address.
        (
            LocalFSStorage,
            {
                "name": "public",
                "root": str(instance / "public"),
                "create": True,
                "file_mode": 0o644,
                "directory_mode": 0o755,
                "base_url": "https://media.example.com",
            },
        ),
        # In a bucket of S3, with whatever credentials boto3 finds. The short name stands for the class S3Storage, so
        # that boto3 is imported only where there is such a profile.
        ("s3", {"name": "bucket", "bucket": "example", "prefix": "drop", "aws_region": "eu-central-1"}),
        # In a container of Azure, as whoever azure.identity finds: a managed identity there, "az login" here.
        (
            "azure",
            {
                "name": "container",
                "account": "example",
                "bucket": "files",
                "prefix": "drop",
                "credential": "DefaultAzureCredential",
            },
        ),
        # On another machine, over SSH, with a key of the app's own; the server's key is in ~/.ssh/known_hosts.
        (
            "sftp",
            {
                "name": "server",
                "host": "files.example.com",
                "username": "web",
                "root": "/srv/drop",
                "key_filename": "/etc/drop/id_ed25519",
            },
        ),
        # In this process and gone with it: for tests, and for trying things out.
        (MemoryStorage, {"name": "scratch"}),
    ]


def as_urls(instance: Path) -> dict[str, str]:
    """Return the same as URLs: arguments are the query."""
    return {
        "drop": f"local://{instance / 'files'}?create=true",
        "public": f"local://{instance / 'public'}?create=true&file_mode=0o644&directory_mode=0o755"
        "&base_url=https://media.example.com",
        "bucket": "s3://example/drop?region=eu-central-1",
        "container": "azure://example/files/drop?credential=DefaultAzureCredential",
        "server": "sftp://web@files.example.com/srv/drop?key_filename=/etc/drop/id_ed25519",
        "scratch": "memory:",
    }
