"""A private OpenSSH server with its own keys, directory and port, which is removed when the tests end."""

from __future__ import annotations

import functools
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

READY_WITHIN = 30  # seconds


class SSHServer:
    """A server on which the user who runs the tests logs in with a key; ``folder`` is the user's initial directory.

    Args:
        lines: Additional lines of the configuration.
        arguments: Arguments of ``internal-sftp``.
    """

    def __init__(self, *lines: str, arguments: str = "") -> None:
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise RuntimeError("these tests need OpenSSH's server: run tests/services/provision")
        self._program = program
        self.home = Path(tempfile.mkdtemp(prefix="flask-storage-sshd-"))
        self.folder = self.home / "files"
        self.folder.mkdir()
        for name in ("host_ed25519", "user_ed25519", "other_ed25519"):
            self.make_key(name, "ed25519")
        for name, content in _rsa_key().items():
            (self.home / name).write_bytes(content)
            (self.home / name).chmod(0o600)
        shutil.copy(self.home / "user_ed25519.pub", self.home / "authorized_keys")
        self.username = getpass.getuser()
        self.port = free_port()
        self._lines = lines
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def make_key(self, name: str, kind: str, *options: str) -> Path:
        """Make a key pair, and return the path of the private key."""
        return _make_key(self.home / name, kind, *options)

    @property
    def known_hosts(self) -> Path:
        """Path of a known hosts file with the server's keys."""
        return self.home / "known_hosts"

    @property
    def login(self) -> dict[str, Any]:
        """The arguments with which a storage authenticates, by key."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": self.username,
            "key_filename": str(self.home / "user_ed25519"),
            "known_hosts_fpath": str(self.known_hosts),
        }

    @property
    def log(self) -> str:
        """The server's log."""
        return (self.home / "log").read_text()

    def know(self, port: int) -> None:
        """Add the server to the known hosts file under another port too, such as that of a proxy."""
        with self.known_hosts.open("a") as file:
            for name in ("host_ed25519", "host_rsa"):
                kind, key = (self.home / f"{name}.pub").read_text().split()[:2]
                file.write(f"[127.0.0.1]:{port} {kind} {key}\n")

    def start(self) -> None:
        """Start the server and wait until it responds; if another process has taken the port, choose another one."""
        deadline = time.monotonic() + READY_WITHIN
        while not (self._responds() and self._process is not None and self._process.poll() is None):
            if self._process is not None and self._process.poll() is not None:
                self.port = free_port()
                self._process = None
            if time.monotonic() > deadline:
                raise RuntimeError(f"sshd did not start:\n{self.log}")
            if self._process is None:
                self._process = self._launch()
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill the server, and its connections."""
        assert self._process is not None
        subprocess.run(["pkill", "-KILL", "-P", str(self._process.pid)], check=False)
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Stop responding on the existing connections; new ones are served."""
        assert self._process is not None
        subprocess.run(["pkill", "-STOP", "-P", str(self._process.pid)], check=True)

    def remove(self) -> None:
        """Stop the server and delete its directory."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.home)

    def _launch(self) -> subprocess.Popen[bytes]:
        self.know(self.port)
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.home}/host_ed25519",
            f"HostKey {self.home}/host_rsa",
            "PidFile none",
            f"AuthorizedKeysFile {self.home}/authorized_keys",
            "StrictModes no",  # the directory is below one that is world-writable
            "UsePAM no",
            "PermitRootLogin yes",
            "UseDNS no",
            "LogLevel VERBOSE",
            "MaxStartups 200",
            "Subsystem sftp internal-sftp",
            *self._lines,
            f"ForceCommand internal-sftp -d {self.folder} {self._arguments}",
        ]
        if not any(line.startswith("PasswordAuthentication") for line in self._lines):
            lines += ["PasswordAuthentication no", "KbdInteractiveAuthentication no"]
        config = self.home / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with (self.home / "log").open("ab") as log:
            return subprocess.Popen(
                [self._program, "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL
            )

    def _responds(self) -> bool:
        if self._process is None:
            return False
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                return sock.recv(4) == b"SSH-"
        except OSError:
            return False


def _make_key(file: Path, kind: str, *options: str) -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(file), *options]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return file


@functools.cache
def _rsa_key() -> dict[str, bytes]:
    """Return the files of an RSA key pair. Making one takes a second or more, so all servers share it."""
    with tempfile.TemporaryDirectory() as directory:
        _make_key(Path(directory) / "host_rsa", "rsa")
        return {file.name: file.read_bytes() for file in Path(directory).iterdir()}


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def openssh() -> Iterator[SSHServer]:
    """An OpenSSH server with Debian's defaults."""
    server = SSHServer("MaxSessions 10")
    yield server
    server.remove()


@pytest.fixture(scope="session")
def make_openssh() -> Iterator[Callable[..., SSHServer]]:
    """Makes servers with other configurations; see :class:`SSHServer`."""
    servers: list[SSHServer] = []

    def make(*lines: str, arguments: str = "") -> SSHServer:
        servers.append(SSHServer(*lines, arguments=arguments))
        return servers[-1]

    yield make
    for server in servers:
        server.remove()
