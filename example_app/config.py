"""The settings of the app, and example profiles of each backend in each of the three forms.

The app uses the profile ``drop`` of :func:`default_profiles`. To use another storage, set one environment variable; it
holds any of the three forms as JSON. The examples: another directory, an AWS bucket (boto3 finds the credentials), a
bucket of an S3-compatible service, an Azure container (azure.identity finds the credential), a container of the
emulator on this machine, a directory of another machine over SSH (its host key is in ``~/.ssh/known_hosts``):

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
"""The page lists the newest files, at most so many."""

FORM_OVERHEAD = 65_536
"""How many bytes a form may have in addition to the content of its file."""

TRUSTED_HOSTS = [".localhost", "127.0.0.1"]
"""The host names under which the app can be reached; a request with another ``Host`` gets status 400.

Otherwise a page on the internet could point its own name to 127.0.0.1 (DNS rebinding) and read the files. For an app
that others can reach, add its name: ``FLASK_TRUSTED_HOSTS='["files.example.com"]'``.
"""

# All ports of a host share cookies, and the default name "session" is the same in every Flask app.
SESSION_COOKIE_NAME = "drop_session"
SESSION_COOKIE_SAMESITE = "Lax"


def default_profiles(instance: Path) -> dict[str, Any]:
    """Return the profiles that the app uses when none are configured."""
    return {"drop": as_mapping(instance)["drop"]}


def as_mapping(instance: Path) -> dict[str, Any]:
    """Return a profile of each backend, as a mapping of name to backend and arguments. The first is the default."""
    return {
        "drop": {
            "backend": "local",
            "root": str(instance / "files"),
            "create": True,  # create the directory; without this a missing one is an error at start
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
    """Return the same profiles as pairs of class and arguments."""
    return [
        # A directory on this machine. Other users cannot read it: the default modes are 0o600 and 0o700.
        (LocalFSStorage, {"name": "drop", "root": str(instance / "files"), "create": True}),
        # A directory whose files a web server serves under a public address.
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
        # An S3 bucket, with the credentials that boto3 finds. "s3" is short for the class S3Storage; with the short
        # name, boto3 is imported only by apps with such a profile.
        ("s3", {"name": "bucket", "bucket": "example", "prefix": "drop", "aws_region": "eu-central-1"}),
        # An Azure container, with the credential that azure.identity finds: a managed identity, or "az login".
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
        # A directory on another machine, over SSH, with the app's own key; the host key is in ~/.ssh/known_hosts.
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
        # In the memory of this process, lost when it ends: for tests and experiments.
        (MemoryStorage, {"name": "scratch"}),
    ]


def as_urls(instance: Path) -> dict[str, str]:
    """Return the same profiles as URLs, with the arguments in the query."""
    return {
        "drop": f"local://{instance / 'files'}?create=true",
        "public": f"local://{instance / 'public'}?create=true&file_mode=0o644&directory_mode=0o755"
        "&base_url=https://media.example.com",
        "bucket": "s3://example/drop?region=eu-central-1",
        "container": "azure://example/files/drop?credential=DefaultAzureCredential",
        "server": "sftp://web@files.example.com/srv/drop?key_filename=/etc/drop/id_ed25519",
        "scratch": "memory:",
    }
