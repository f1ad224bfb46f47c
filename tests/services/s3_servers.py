"""What the S3 servers of the tests have in common: how a test sees one, and how its processes start and end."""

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
    """A running server as a client sees it: where it is, and with what to come in.

    For a client that goes through a proxy, `dataclasses.replace` the address.
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
        """Return boto3's own S3 client, to look behind the back of what is tested; close it.

        Args:
            https: Whether to come in by https.
            **settings: For `botocore.config.Config`, in place of ours.
        """
        ours: dict[str, Any] = {
            "signature_version": "s3v4",
            "s3": {"addressing_style": "path"},
            "retries": {"total_max_attempts": 1},
            # Without these two boto3 sends by https what Ceph 16 refuses, and believes a checksum that rclone gives
            # with a range, of the whole.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        return session_of(self.access_key, self.secret_key, self.region).client(
            "s3",
            endpoint_url=self.https if https else self.http,
            verify=str(self.ca),  # said aloud, as AWS_CA_BUNDLE of the environment would win otherwise
            config=Config(**{**ours, **settings}),
        )

    def make_bucket(self) -> str:
        """Make an empty bucket with a name of its own, and return the name."""
        bucket = f"test-{uuid.uuid4().hex[:20]}"
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=bucket)
        return bucket

    def empty_bucket(self, bucket: str) -> None:
        """Remove all objects, with all their versions, and all unfinished uploads."""
        with contextlib.closing(self.client()) as client:
            for key, upload in _uploads(client, bucket):
                client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
            # One by one: the XML that names many at once cannot hold every key.
            for key, version in _versions(client, bucket):
                client.delete_object(Bucket=bucket, Key=key, **version)

    def remove_bucket(self, bucket: str) -> None:
        """Remove the bucket with all it holds."""
        self.empty_bucket(bucket)
        with contextlib.closing(self.client()) as client:
            try:
                client.delete_bucket(Bucket=bucket)
            except ClientError as error:
                # rclone keeps the folders that it has made for keys with slashes; they go when it does.
                if self.name != "rclone" or error.response["Error"]["Code"] != "BucketNotEmpty":
                    raise


@lru_cache(maxsize=16)
def session_of(access_key: str, secret_key: str, region: str) -> Any:
    """Return one session for all clients with these keys: a new one reads boto3's tables anew, which takes 0.1 s."""
    return boto3.session.Session(access_key, secret_key, region_name=region)


def _uploads(client: Any, bucket: str) -> Iterator[tuple[str, str]]:
    try:
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for upload in page.get("Uploads", ()):
                yield upload["Key"], upload["UploadId"]
    except ClientError as error:
        _only_unknown(error)  # rclone has no such list, and says so in several ways


def _versions(client: Any, bucket: str) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield entry["Key"], {"VersionId": entry["VersionId"]}
    except ClientError as error:
        _only_unknown(error)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            yield entry["Key"], {}


def _only_unknown(error: ClientError) -> None:
    if error.response["Error"]["Code"] not in ("NotImplemented", "MethodNotAllowed", "NoSuchUpload"):
        raise error


class PortTakenError(RuntimeError):
    """Something answers where a server was to start."""


class Daemon:
    """A program that runs until :meth:`kill`: its output goes into a log, and it dies with us, whatever kills us.

    Start it in the main thread: for the kernel, its parent is the thread that started it.

    Args:
        name: What to call it in errors.
        command: The program and its arguments.
        log: The file to which its output is added.
        environment: All of its environment.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = log
        # Part of Debian's essential util-linux; elsewhere the fixtures' own end has to do.
        setpriv = shutil.which("setpriv")
        with_us = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*with_us, *command],
                cwd=log.parent,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text("utf-8", "replace")[-5000:]

    def kill(self) -> None:
        """End it as a crash would, with everything that it started."""
        # Also when it has ended itself: the group lives on while one of its children does.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class PrivateFolder:
    """A folder for one server, which goes with it; of a failed run, the logs stay.

    Args:
        name: What the server is called.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path(tempfile.mkdtemp(prefix=f"flask-storage-{name}-"))
        self.logs = self.path / "logs"
        self.logs.mkdir()

    def remove(self, *, keep_log: bool) -> None:
        """Remove everything but the logs when these may still be wanted."""
        if not keep_log:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        print(f"\nThe logs of {self.name} are in {self.logs}")  # noqa: T201 -- for the one who looks into the failure
        for entry in self.path.iterdir():
            if entry.is_dir() and entry != self.logs:
                shutil.rmtree(entry, ignore_errors=True)
            elif entry != self.logs:
                entry.unlink()


def wait_until(ready: Callable[[], bool], *daemons: Daemon) -> None:
    """Return when *ready*.

    Args:
        ready: Asked again and again; an `OSError` of it means "not yet".
        *daemons: What has to run meanwhile.

    Raises:
        PortTakenError: When one of the daemons has ended because its port is taken.
        RuntimeError: When one has ended otherwise, or nothing is ready after `READY_WITHIN` seconds.
    """
    deadline = time.monotonic() + READY_WITHIN
    while True:
        for daemon in daemons:
            if not daemon.runs:
                taken = "in use" in daemon.said.lower()
                raise (PortTakenError if taken else RuntimeError)(f"{daemon.name} has ended:\n{daemon.said}")
        with contextlib.suppress(OSError):
            if ready():
                return
        if time.monotonic() > deadline:
            said = "\n".join(f"{daemon.name}: {daemon.said}" for daemon in daemons)
            raise RuntimeError(f"not ready after {READY_WITHIN} seconds:\n{said}")
        time.sleep(0.02)


def started(server: Callable[[], _Started]) -> _Started:
    """Start a server, and again on other ports when somebody was quicker to take one.

    Args:
        server: Makes and starts it; raises `PortTakenError` when it could not have its ports.
    """
    for _ in range(3):
        try:
            return server()
        except PortTakenError:
            continue
    return server()


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def refuse_if_answered(port: int) -> None:
    """Raise `PortTakenError` when something listens on *port*: it would be taken for what we start."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        raise PortTakenError(f"something answers on port {port} already")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine that vouches for itself.

    Args:
        folder: Where it is put.

    Returns:
        The certificate for clients to verify with, and the same with its key for a server.
    """
    program = shutil.which("openssl")
    if program is None:
        raise RuntimeError("these tests need openssl: run tests/services/provision")
    certificate, key, both = (folder / name for name in ("ca.pem", "key.pem", "server.pem"))
    # All that Python 3.13 asks of an authority's certificate, as it is its own.
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
