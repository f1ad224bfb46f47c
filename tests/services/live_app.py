"""The example app under gunicorn with threads, on a free port, in its own process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest

from flask_storage import LocalFSStorage, StorageBackend

ROOT = Path(__file__).resolve().parent.parent.parent
READY_WITHIN = 30  # seconds

# The work tree goes to the end of the path, so that an installed flask_storage takes precedence, as in the tests.
# gunicorn puts its working directory at the front; it runs in one without modules.
_START = "import sys; sys.path.append(sys.argv.pop(1)); from gunicorn.app.wsgiapp import run; run()"


class LiveApp:
    """The example app with its own instance directory; use it in a ``with``.

    Args:
        directory: A new directory for all files of the app.
        storage: The storage that *settings* configure; by default the app's own local one.
        **settings: Settings for the app's environment, without ``FLASK_``.

    Attributes:
        url: The app's URL, without a slash at the end.
        storage: The storage of the app's files.
        instance: The app's instance directory.
    """

    def __init__(self, directory: Path, *, storage: StorageBackend | None = None, **settings: Any) -> None:
        self.instance = directory / "instance"
        self.instance.mkdir()
        self.files = self.instance / "files"
        self.storage = storage or LocalFSStorage(self.files, name="drop", create=True)
        self.log = directory / "log"
        self._directory = directory
        self._settings = {f"FLASK_{name}": json.dumps(value) for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # The socket exists before the server: no other process can take the port, and early requests are queued.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            inherited = {
                name: value for name, value in os.environ.items() if not name.startswith(("FLASK_", "GUNICORN"))
            }
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-c", _START, str(ROOT)),
                        *("--bind", f"fd://{listener.fileno()}", "--workers", "1", "--threads", "8"),
                        *("--worker-class", "gthread", "--graceful-timeout", "5", "--no-control-socket"),
                        f"example_app:create_app({str(self.instance)!r})",
                    ],
                    cwd=self._directory,
                    env={**inherited, **self._settings},
                    pass_fds=[listener.fileno()],
                    stdout=log,
                    stderr=log,
                )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            self._process.send_signal(signal_number)
            try:
                self._process.wait(10)
                return
            except subprocess.TimeoutExpired:
                continue

    def empty(self) -> None:
        """Delete every file."""
        self.storage.delete_many([entry.name for entry in self.storage.list()])

    def leftovers(self) -> list[Path]:
        """Return all files in the root directory, including hidden and unfinished ones."""
        return [path for path in self.files.rglob("*") if not path.is_dir()]

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/static/icon.svg", timeout=READY_WITHIN).close()
                return
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the example app did not start:\n{self.log.read_text()}") from error
                time.sleep(0.05)


@pytest.fixture(scope="session")
def running_app(tmp_path_factory):
    """One server for all tests that need no particular settings."""
    with LiveApp(tmp_path_factory.mktemp("live-app")) as app:
        yield app


@pytest.fixture
def live_app(running_app):
    """The running example app, without files."""
    running_app.empty()
    return running_app
