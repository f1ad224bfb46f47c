"""Shared infrastructure of the S3 test servers: their description for tests, and starting and ending processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

READY_WITHIN = 60  # seconds
REGION = "us-east-1"

_Started = TypeVar("_Started")


@dataclass(frozen=True)
class S3Server:
    """The addresses and credentials of a running server.

    Use `dataclasses.replace` to set the address of a proxy.
    """

    name: str  # "rgw", "localstack" or "rclone"
    http: str  # with port, without path
    https: str | None
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    preset: str | None  # the preset of our S3 backend that suits this server
    ca: Path  # the certificate that `https` is verified with

    def client(self, *, https: bool = False, **settings: Any) -> Any:
        """Return boto3's own S3 client, to inspect the server independently of this package; close it.

        Args:
            https: Whether to connect over https.
            **settings: Arguments of `botocore.config.Config`, which take precedence over the defaults.
        """
        defaults: dict[str, Any] = {
            "signature_version": "s3v4",
            "s3": {"addressing_style": "path"},
            "retries": {"total_max_attempts": 1},
            # By default boto3 sends trailing checksums over https, which Ceph 16 rejects, and compares a range with the
            # checksum of the whole object, which rclone sends.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        return session_of(self.access_key, self.secret_key, self.region).client(
            "s3",
            endpoint_url=self.https if https else self.http,
            verify=str(self.ca),  # explicit, as AWS_CA_BUNDLE would take precedence otherwise
            config=Config(**{**defaults, **settings}),
        )

    def make_bucket(self) -> str:
        """Create an empty bucket with a unique name, and return the name."""
        bucket = f"test-{uuid.uuid4().hex[:20]}"
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=bucket)
        return bucket

    def empty_bucket(self, bucket: str) -> None:
        """Delete all objects, with all versions, and abort all unfinished uploads."""
        with contextlib.closing(self.client()) as client:
            for key, upload in _uploads(client, bucket):
                client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
            # One by one: the XML of a bulk request cannot represent every key.
            for key, version in _versions(client, bucket):
                client.delete_object(Bucket=bucket, Key=key, **version)

    def remove_bucket(self, bucket: str) -> None:
        """Delete the bucket with everything in it."""
        self.empty_bucket(bucket)
        with contextlib.closing(self.client()) as client:
            try:
                client.delete_bucket(Bucket=bucket)
            except ClientError as error:
                # rclone keeps the directories of keys with slashes; they are removed with the server.
                if self.name != "rclone" or error.response["Error"]["Code"] != "BucketNotEmpty":
                    raise


@lru_cache(maxsize=16)
def session_of(access_key: str, secret_key: str, region: str) -> Any:
    """Return one session for all clients with these keys: a new one reads boto3's data files, which takes 0.1 s."""
    return boto3.session.Session(access_key, secret_key, region_name=region)


def _uploads(client: Any, bucket: str) -> Iterator[tuple[str, str]]:
    try:
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for upload in page.get("Uploads", ()):
                yield upload["Key"], upload["UploadId"]
    except ClientError as error:
        _ignore_unsupported(error)  # rclone does not support this listing, and sends several codes for it


def _versions(client: Any, bucket: str) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield entry["Key"], {"VersionId": entry["VersionId"]}
    except ClientError as error:
        _ignore_unsupported(error)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            yield entry["Key"], {}


def _ignore_unsupported(error: ClientError) -> None:
    if error.response["Error"]["Code"] not in ("NotImplemented", "MethodNotAllowed", "NoSuchUpload"):
        raise error


class PortTakenError(RuntimeError):
    """Another process listens on the port of a server."""


class Daemon:
    """A process that runs until :meth:`kill`, or until this process ends in any way; its output is logged.

    Start it in the main thread: for the kernel, the thread that started a process is its parent.

    Args:
        name: The name in errors.
        command: The program and its arguments.
        log: The file to which the output is appended.
        environment: The complete environment of the process.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = log
        # Part of util-linux, which Debian always has; elsewhere only the fixtures end the process.
        setpriv = shutil.which("setpriv")
        die_with_parent = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*die_with_parent, *command],
                cwd=log.parent,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def log_tail(self) -> str:
        """The end of the log."""
        return self._log.read_text("utf-8", "replace")[-5000:]

    def kill(self) -> None:
        """Kill the process and everything that it started."""
        # Also if the process has ended: its group exists while a child runs.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class PrivateDirectory:
    """A directory for one server, which is removed with it, except the logs of a failed run.

    Args:
        name: The name of the server.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path(tempfile.mkdtemp(prefix=f"flask-storage-{name}-"))
        self.logs = self.path / "logs"
        self.logs.mkdir()

    def remove(self, *, keep_log: bool) -> None:
        """Remove the directory, except the logs if *keep_log*."""
        if not keep_log:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        print(f"\nThe logs of {self.name} are in {self.logs}")  # noqa: T201 -- for the analysis of the failure
        for entry in self.path.iterdir():
            if entry.is_dir() and entry != self.logs:
                shutil.rmtree(entry, ignore_errors=True)
            elif entry != self.logs:
                entry.unlink()


def wait_until(ready: Callable[[], bool], *daemons: Daemon) -> None:
    """Return when *ready*.

    Args:
        ready: Called repeatedly; an `OSError` means "not yet".
        *daemons: The processes that must be running.

    Raises:
        PortTakenError: When one of the daemons has ended because its port is taken.
        RuntimeError: When one has ended for another reason, or is not ready after `READY_WITHIN` seconds.
    """
    deadline = time.monotonic() + READY_WITHIN
    while True:
        for daemon in daemons:
            if not daemon.runs:
                taken = "in use" in daemon.log_tail.lower()
                raise (PortTakenError if taken else RuntimeError)(f"{daemon.name} has ended:\n{daemon.log_tail}")
        with contextlib.suppress(OSError):
            if ready():
                return
        if time.monotonic() > deadline:
            logs = "\n".join(f"{daemon.name}: {daemon.log_tail}" for daemon in daemons)
            raise RuntimeError(f"not ready after {READY_WITHIN} seconds:\n{logs}")
        time.sleep(0.02)


def start_with_retry(server: Callable[[], _Started]) -> _Started:
    """Start a server, and retry with other ports if another process took one.

    Args:
        server: Creates and starts it; raises `PortTakenError` if a port is taken.
    """
    for _ in range(3):
        try:
            return server()
        except PortTakenError:
            continue
    return server()


def free_port() -> int:
    """Return a port of this machine on which no process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def raise_if_port_is_used(port: int) -> None:
    """Raise `PortTakenError` if a process listens on *port*: it would be taken for the new server."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        raise PortTakenError(f"another process listens on port {port}")


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate for this machine.

    Args:
        directory: The directory of the files.

    Returns:
        The certificate for clients, and the certificate with its key for the server.
    """
    program = shutil.which("openssl")
    if program is None:
        raise RuntimeError("these tests need openssl: run tests/services/provision")
    certificate, key, both = (directory / name for name in ("ca.pem", "key.pem", "server.pem"))
    # Python 3.13 requires these extensions of a certificate authority.
    extensions = [
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,digitalSignature,keyCertSign",
        "extendedKeyUsage=serverAuth",
    ]
    subprocess.run(
        [
            *[program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
            *[
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-keyout",
                str(key),
                "-out",
                str(certificate),
                "-config",
                "/dev/null",
            ],
            *[word for extension in extensions for word in ("-addext", extension)],
        ],
        check=True,
        capture_output=True,
    )
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return certificate, both
