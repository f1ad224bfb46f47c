"""Servers that the tasks start, and the barest client there can be: what it costs is not what we measure."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .frame import MiB
from .peers import NGINX

START_TIMEOUT = 30  # seconds that a server has to start or to end
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A server on this machine, and the process that does its work."""

    port: int
    pid: int

    def link(self, profile: str, operation: str, path: str) -> str:
        """Return where a signed link leads: path and query."""
        parts = urlsplit(fetch(self.port, f"/link/{profile}/{operation}/{path}").decode())
        return f"{parts.path}?{parts.query}"


@contextlib.contextmanager
def gunicorn(root: Path, worker: str, *, x_accel: bool = False) -> Iterator[Server]:
    """Run the app with one worker of this kind."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--timeout=600", "--log-level=warning"]
    command += [f"--worker-class={worker}", "--workers=1", f"--bind=127.0.0.1:{port}"]
    command += ["--threads=4"] if worker == "gthread" else []
    # The files of the workers' heartbeats are no uploads; they may go where files go.
    command += [f"tests.benchmarks.app:create_app({str(root)!r}, {x_accel})"]
    with _running(command, port, cwd=PROJECT):
        yield Server(port, int(fetch(port, "/pid")))


@contextlib.contextmanager
def nginx(directory: Path, root: Path, app_port: int) -> Iterator[int]:
    """Run nginx in front of an app, and yield its port; it also serves *root* by itself, under ``/static/``."""
    port = free_port()
    directory.mkdir()
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"daemon off; worker_processes 1; error_log stderr warn; pid {directory}/pid; {user} events {{}} "
        f"http {{ access_log off; sendfile on; {temporary} server {{ listen 127.0.0.1:{port}; "
        f"location / {{ proxy_pass http://127.0.0.1:{app_port}; proxy_set_header Host $http_host; }} "
        f"location /static/ {{ alias {root}/; }} location /_files/ {{ internal; alias {root}/; }} }} }}"
    )
    with _running([str(NGINX.path()), "-p", str(directory), "-c", str(configuration)], port):
        yield port


def fetch(port: int, target: str) -> bytes:
    """Return a small answer."""
    with connected(port) as connection:
        connection.sendall(head("GET", target))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    start, _, body = answer.partition(b"\r\n\r\n")
    _expect_success(start)
    return body


def download(port: int, target: str) -> int:
    """Return how many bytes of content came; they are thrown away."""
    with connected(port) as connection:
        connection.sendall(head("GET", target))
        return drain(connection)


def upload(port: int, method: str, target: str, size: int, *, form: bool = False) -> None:
    """Send so many bytes, in a body of their own or as the one file of a form.

    Raises:
        RuntimeError: when the server did not say that it took them.
    """
    before, after, headers = b"", b"", {"Content-Type": "application/octet-stream"}
    if form:
        before = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n'
        before += b"Content-Type: application/octet-stream\r\n\r\n"
        after = b"\r\n--xyz--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    headers["Content-Length"] = str(len(before) + size + len(after))
    block = os.urandom(MiB)
    with connected(port) as connection:
        connection.sendall(head(method, target, headers) + before)
        for _ in range(size // MiB):
            connection.sendall(block)
        connection.sendall(after)
        drain(connection)


def drain(connection: socket.socket, start: bytes = b"") -> int:
    """Read an answer to its end and return the length of its content; *start* of it was read before."""
    buffer = bytearray(MiB)
    while b"\r\n\r\n" not in start:
        part = connection.recv(65536)
        if not part:
            raise RuntimeError(f"the server closed the connection after {start!r}")
        start += part
    start, _, body = start.partition(b"\r\n\r\n")
    _expect_success(start)
    total = len(body)
    while count := connection.recv_into(buffer):
        total += count
    return total


def connected(port: int) -> socket.socket:
    """Return a connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=600)


def head(method: str, target: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the head of a request; the server closes after the answer, which ends it."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _expect_success(start: bytes) -> None:
    if start.split(b" ", 2)[1][:1] != b"2":
        raise RuntimeError(f"the server answered {start.decode('latin-1')}")


@contextlib.contextmanager
def _running(command: list[str], port: int, cwd: Path | None = None) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=cwd)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
            with contextlib.suppress(OSError), connected(port):
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not respond")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_TIMEOUT)
