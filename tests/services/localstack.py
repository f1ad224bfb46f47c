"""A private LocalStack with S3 only, which ends with the tests. Its checksums and conditions are like those of AWS.

LocalStack verifies the signatures of links, but not those of other requests, and closes each connection after one
response. It runs in an environment of its own, `.venv-localstack`, which is created at the first use.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.s3_servers import (
    REGION,
    Daemon,
    PrivateDirectory,
    S3Server,
    free_port,
    make_certificate,
    raise_if_port_is_used,
    start_with_retry,
    wait_until,
)

PROJECT = Path(__file__).parents[2]
_HERE = Path(__file__).parent
_SETTINGS = {
    "SERVICES": "s3",
    "EAGER_SERVICE_LOADING": "1",
    "STRICT_SERVICE_LOADING": "1",
    "GATEWAY_SERVER": "hypercorn",
    "S3_SKIP_SIGNATURE_VALIDATION": "0",  # otherwise it accepts every link, forged or expired
    "DISABLE_EVENTS": "1",  # it would send usage data
    "SKIP_SSL_CERT_DOWNLOAD": "1",
    "DNS_ADDRESS": "0",
    "PERSISTENCE": "0",
}


class LocalStack:
    """A private LocalStack, with http and https on one port: ``server`` has its address."""

    def __init__(self) -> None:
        python = installed()
        self._private = PrivateDirectory("localstack")
        port = free_port()
        raise_if_port_is_used(port)
        certificate, tls = make_certificate(self._private.path)
        self.server = S3Server(
            name="localstack",
            http=f"http://127.0.0.1:{port}",
            https=f"https://127.0.0.1:{port}",
            access_key=f"key{secrets.token_hex(8)}",
            secret_key=secrets.token_hex(20),
            region=REGION,
            preset="aws",
            ca=certificate,
        )
        directory = str(self._private.path)
        environment = {
            **_SETTINGS,
            "PATH": os.environ["PATH"],
            "HOME": directory,
            "TMPDIR": directory,
            "FILESYSTEM_ROOT": directory,
            "LOCALSTACK_VOLUME_DIR": directory,
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "CUSTOM_SSL_CERT_PATH": str(tls),
            "SECRET_KEY": self.server.secret_key,
        }
        # -P: otherwise this directory is first in sys.path, and this module has the name of the package.
        command = [str(python), "-P", str(_HERE / "localstack_main.py")]
        self._daemon = Daemon("LocalStack", command, self._private.logs / "log", environment)
        try:
            wait_until(lambda: _is_ready(port), self._daemon)
        except BaseException:
            self.close(keep_log=False)  # the error contains the log
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._daemon.pid

    def close(self, *, keep_log: bool) -> None:
        """Stop the server and remove its files, except the log if *keep_log*."""
        self._daemon.kill()
        self._private.remove(keep_log=keep_log)


def installed() -> Path:
    """Install LocalStack if it is missing, and return the Python that runs it."""
    requirements = _HERE / "localstack.txt"
    directory = PROJECT / ".venv-localstack"
    with requirements.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run on this machine may install it
        # `tests/run` keeps it up to date. Tests on several Pythons at once would replace it by one of their own.
        if not (directory / "filled").exists():
            installation = subprocess.run(
                [_HERE / "environment", directory.name, "-r", requirements.relative_to(PROJECT)],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                check=False,
            )
            if installation.returncode:
                raise RuntimeError("these tests need LocalStack, and it could not be installed: see above")
    return directory / "bin" / "python"


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/_localstack/health")
        response = connection.getresponse()
        return response.status == 200 and json.loads(response.read())["services"].get("s3") == "running"
    finally:
        connection.close()


@pytest.fixture(scope="session")
def localstack(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """A running LocalStack, one for the whole run."""
    service = start_with_retry(LocalStack)
    yield service.server
    service.close(keep_log=bool(request.session.testsfailed))
