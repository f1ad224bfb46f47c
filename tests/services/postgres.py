"""PostgreSQL in a temporary directory, on its own Unix socket, stopped after the tests."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

READY_WITHIN = 30  # seconds


class PostgresServer:
    """A server for the tests only: ``url`` for SQLAlchemy, ``password`` to search for in messages."""

    def __init__(self) -> None:
        self._programs = _programs()
        # PostgreSQL refuses to run as root, and other users cannot access pytest's temporary directories.
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="flask-storage-postgres-"))
        self.log = self.directory / "log"
        self.password = secrets.token_hex(16)
        self.url = f"postgresql+psycopg://tester:{self.password}@/postgres?host={quote(str(self.directory), safe='')}"
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            shutil.chown(self.directory, self._user)
        self._initialize()
        self.start()

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        assert self._process is None, "already running"
        command = [self._program("postgres"), "-D", self._data, "-k", str(self.directory), "-h", ""]
        options = ["-c", "fsync=off", "-c", "max_connections=200", "-c", "logging_collector=off"]
        with self.log.open("ab") as log:
            self._process = self._popen([*command, *options], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_WITHIN
        while subprocess.run([self._program("pg_isready"), "-q", "-h", str(self.directory)], check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server and close its connections."""
        assert self._process is not None, "not running"
        for signal_number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(signal_number)
            try:
                self._process.wait(10)
                break
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    def close(self, *, keep_log: bool) -> None:
        """Stop the server, and remove everything, except the log if *keep_log*."""
        if self._process is not None:
            self.stop()
        if keep_log:
            print(f"\nThe log of PostgreSQL is {self.log}")  # noqa: T201 -- for debugging a failed run
            shutil.rmtree(self._data, ignore_errors=True)
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    def _initialize(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        if self._user:
            shutil.chown(password_file, self._user)
        settings = ["--auth=scram-sha-256", "--username=tester", f"--pwfile={password_file}"]
        options = ["--pgdata", self._data, "--no-sync", "--locale=C", "--encoding=UTF8"]
        process = self._popen(
            [self._program("initdb"), *options, *settings], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"initdb failed:\n{output.decode()}")

    def _program(self, name: str) -> str:
        return os.path.join(self._programs, name)

    def _popen(self, command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        process_owner: dict[str, Any] = {}
        if self._user:
            process_owner = {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command, cwd=self.directory, stdin=subprocess.DEVNULL, **process_owner, **streams
        )
        return process


def _programs() -> str:
    """Return the directory of the newest PostgreSQL: Debian has ``initdb`` and ``postgres`` not on the PATH."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    if found:
        return os.path.dirname(max(found, key=lambda path: float(path.split("/")[4])))
    on_path = shutil.which("initdb")
    if on_path:
        return os.path.dirname(os.path.realpath(on_path))
    raise RuntimeError("these tests need PostgreSQL: run tests/services/provision")


def _unprivileged_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def postgres(request):
    """A running :class:`PostgresServer`, one for the whole run."""
    server = PostgresServer()
    yield server
    server.close(keep_log=bool(request.session.testsfailed))
