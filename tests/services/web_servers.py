"""Common WSGI and ASGI servers for Flask, each on a free port of this machine."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import a2wsgi  # noqa: F401 - used by name below

from tests.services import link_app
from tests.services.s3_servers import PortTakenError, free_port, start_with_retry

READY_WITHIN = 30  # seconds
PROJECT = Path(__file__).parents[2]
_APP = "tests.services.link_app:app"
_GUNICORN = [sys.executable, "-m", "gunicorn", "--log-level", "warning", "--bind", "127.0.0.1:{port}"]

COMMANDS = {
    "gunicorn sync": [*_GUNICORN, "--workers", "2", _APP],
    # The app, and with it the storage, is created before the workers are forked.
    "gunicorn preload": [*_GUNICORN, "--preload", "--workers", "2", _APP],
    "gunicorn gthread": [*_GUNICORN, "--worker-class", "gthread", "--threads", "8", _APP],
    "gunicorn gevent": [*_GUNICORN, "--worker-class", "gevent", _APP],
    "waitress": [sys.executable, "-m", "waitress", "--listen", "127.0.0.1:{port}", _APP],
    "werkzeug": [sys.executable, "-m", "flask", "--app", _APP, "run", "--port", "{port}"],
    # Not hypercorn's own WSGI wrapper (0.18): it holds whole bodies in memory and responds to HEAD with 500.
    "hypercorn a2wsgi": [
        *[sys.executable, "-m", "hypercorn", "--bind", "127.0.0.1:{port}"],
        "asgi:tests.services.link_app:asgi_app()",
    ],
}


class WebServer:
    """A running server; ``app`` is an equivalent app, to create links and to access the files."""

    def __init__(self, kind, directory, profile=None, **environment):
        self.kind = kind
        self.root = directory / "files"
        self.root.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.app = link_app.make_app(str(self.root), self.address, profile)
        self.storage = self.app.extensions["storage"].default
        self._log = directory / "server.log"
        command = [part.format(port=self.port) for part in COMMANDS[kind]]
        settings = {
            **os.environ,
            "LINK_APP_ROOT": str(self.root),
            "LINK_APP_ADDRESS": self.address,
            "LINK_APP_PROFILE": json.dumps(profile),
            "PYTHONPATH": str(PROJECT),
            **environment,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, env=settings, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self):
        deadline = time.monotonic() + READY_WITHIN
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/alive", timeout=5) as response:
                response.read()
                return
            if self.process.poll() is not None:  # another process may have taken the port
                raise PortTakenError(f"the server has ended:\n{self.log}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log}")
            time.sleep(0.05)

    @property
    def log(self):
        """What the server has printed."""
        return self._log.read_text("utf-8", "replace")

    def stop(self):
        """Stop the server, whatever it does."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running(kind, directory, profile=None, **environment):
    """Run a server of this kind during the block; print its log when the block fails."""
    server = start_with_retry(lambda: WebServer(kind, directory, profile, **environment))
    try:
        yield server
    except BaseException:
        sys.stderr.write(server.log)
        raise
    finally:
        server.stop()
