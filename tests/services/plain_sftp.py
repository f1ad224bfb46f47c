"""An SFTP server with version 3 of the protocol only: that of asyncssh, without its extensions."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .s3_servers import PortTakenError, free_port, start_with_retry

_MAIN = Path(__file__).with_name("plain_sftp_main.py")


class PlainSFTPServer:
    """A server that accepts one password and one key, and is confined to the directory ``folder``."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="flask-storage-plain-sftp-"))
        self.folder = self.home / "files"
        self.folder.mkdir()
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.home / name)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        self.username = "alice"
        self.password = secrets.token_hex(16)
        self._process = start_with_retry(lambda: self._launch(free_port()))

    @property
    def login(self) -> dict[str, Any]:
        """The arguments with which a storage authenticates, by key."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": self.username,
            "key_filename": str(self.home / "user"),
            "known_hosts_fpath": str(self.home / "known_hosts"),
        }

    def remove(self) -> None:
        """Stop the server and delete its directory."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self.home)

    def _launch(self, port: int) -> subprocess.Popen[str]:
        self.port = port
        kind, key = (self.home / "host.pub").read_text().split()[:2]
        (self.home / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        settings = {
            "port": self.port,
            "password": self.password,
            "host_key": str(self.home / "host"),
            "authorized_keys": str(self.home / "user.pub"),
            "folder": str(self.folder),
        }
        process = subprocess.Popen(
            [sys.executable, str(_MAIN), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            process.kill()
            process.communicate()
            raise PortTakenError("the server has ended, perhaps because another process has taken the port")
        return process


@pytest.fixture(scope="session")
def plain_sftp() -> Iterator[PlainSFTPServer]:
    """A server without extensions."""
    server = PlainSFTPServer()
    yield server
    server.remove()
