"""A private Redis: in a folder of its own, on a free port, gone when the tests are."""

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
    """A server that nobody else uses: ``url`` for redis-py, ``password`` to look for where it must not appear."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("these tests need Redis: run tests/services/provision")
        self._program = program
        self.folder = Path(tempfile.mkdtemp(prefix="flask-storage-redis-"))
        self.log = self.folder / "log"
        self.password = secrets.token_hex(16)
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """With the password, by TCP."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """The same server by its socket."""
        return f"unix://:{self.password}@{self.folder}/socket"

    def start(self) -> None:
        """Start and wait until it answers; another port is taken when somebody was quicker."""
        assert self._process is None, "already running"
        deadline = time.monotonic() + READY_WITHIN
        while not self._answers():
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
        """Stop what :meth:`start` started, cutting its connections. What it knew is gone."""
        assert self._process is not None, "not running"
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def close(self, *, keep_log: bool) -> None:
        """Stop, and remove everything but the log when that may still be wanted."""
        if self._process is not None:
            self.stop()
        if keep_log:
            print(f"\nThe log of Redis is {self.log}")  # noqa: T201 -- for the one who looks into the failure
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _launch(self) -> subprocess.Popen[bytes]:
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.folder / "socket")]
        how = ["--requirepass", self.password, "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        with self.log.open("ab") as log:
            return subprocess.Popen([self._program, *where, *how], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _answers(self) -> bool:
        """Whether *this* server is ready: it alone has our socket and knows the password."""
        if self._process is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.folder / "socket"))
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    more = connection.recv(100)
                    if not more:
                        return False
                    answer += more
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n" and self._process.poll() is None


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
