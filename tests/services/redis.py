"""Redis in a temporary directory, on a free port, stopped after the tests."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

READY_WITHIN = 30  # seconds


class RedisServer:
    """A server for the tests only: ``url`` for redis-py, ``password`` to search for in messages."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("these tests need Redis: run tests/services/provision")
        self._program = program
        self.directory = Path(tempfile.mkdtemp(prefix="flask-storage-redis-"))
        self.log = self.directory / "log"
        self.password = secrets.token_hex(16)
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """The URL for TCP, with the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """The URL for the Unix socket, with the password."""
        return f"unix://:{self.password}@{self.directory}/socket"

    def start(self) -> None:
        """Start the server and wait until it is ready, on another port when that one is taken."""
        assert self._process is None, "already running"
        deadline = time.monotonic() + READY_WITHIN
        while not self._is_ready():
            if self._process is not None and self._process.poll() is not None:
                self.port = _free_port()
                self._process = None
            if time.monotonic() > deadline:
                if self._process is not None:
                    self.stop()
                raise RuntimeError(f"Redis did not start:\n{self.log.read_text()}")
            if self._process is None:
                self._process = self._launch()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server and close its connections. Its data is lost."""
        assert self._process is not None, "not running"
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def close(self, *, keep_log: bool) -> None:
        """Stop the server, and remove everything, except the log if *keep_log*."""
        if self._process is not None:
            self.stop()
        if keep_log:
            print(f"\nThe log of Redis is {self.log}")  # noqa: T201 -- for debugging a failed run
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self) -> subprocess.Popen[bytes]:
        addresses = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.directory / "socket")]
        options = ["--requirepass", self.password, "--save", "", "--appendonly", "no", "--dir", str(self.directory)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self._program, *addresses, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _is_ready(self) -> bool:
        """Whether *this* server is ready: only it has this socket and knows the password."""
        if self._process is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.directory / "socket"))
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                response = b""
                while response.count(b"\r\n") < 2:
                    chunk = connection.recv(100)
                    if not chunk:
                        return False
                    response += chunk
        except OSError:
            return False
        return response == b"+OK\r\n+PONG\r\n" and self._process.poll() is None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def redis_server(request):
    """A running :class:`RedisServer`, one for the whole run."""
    server = RedisServer()
    yield server
    server.close(keep_log=bool(request.session.testsfailed))
