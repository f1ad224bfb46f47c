"""A program that runs a transaction in a forked child, in which everything is imported, and may kill it.

It reads lines of JSON: which function of `tests.sqlalchemy.rich_transaction` to call, the database, the directory of
the files, and either at which step the child kills itself or after how many seconds it is killed. It prints lines of
JSON with the child's exit code, the number of its steps and its duration in seconds.

A step is what a kill can separate: before and after each statement, COMMIT and ROLLBACK, and each call of the storage
that changes something.
"""

import json
import mmap
import os
import signal
import sys
import time
from pathlib import Path

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_storage import LocalFSStorage
from flask_storage.link_usage import MemoryUsageStore
from flask_storage.profiles import Profiles
from tests.sqlalchemy import rich_transaction
from tests.sqlalchemy.databases import create_engine

APPLICATION_NAME = "transaction_program"


class Steps:
    """Counts steps in shared memory, and kills this process at one of them.

    Args:
        memory: At least four bytes.
        last: The step at which to kill, from 0 on; None for none.
    """

    def __init__(self, memory, last):
        self._memory, self._last, self._taken = memory, last, 0

    def take(self, *_):
        """Take a step."""
        if self._taken == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self._taken += 1
        self._memory[:4] = self._taken.to_bytes(4)

    def around(self, function):
        """Return a function that takes a step before and after another."""

        def call(*arguments, **keywords):
            self.take()
            result = function(*arguments, **keywords)
            self.take()
            return result

        return call


class SteppingStorage(LocalFSStorage):
    """Takes steps around each call that changes something, and in the middle of a file."""

    steps = Steps(bytearray(4), None)

    def _upload_file(self, file_obj, path, options, progress):
        steps = self.steps

        class Source:
            def read(self, size):
                steps.take()
                return file_obj.read(min(size, 2))

        steps.around(super()._upload_file)(Source(), path, options, progress)

    def _delete(self, path, version=None):
        self.steps.around(super()._delete)(path, version)


def open_storage(root):
    """Return the storage of the profile "docs" in a local directory."""
    return SteppingStorage(root, name="docs", create=True, fsync=False)


def app_with(storage):
    """Return an app with one profile, "docs"."""
    app = Flask(__name__)
    app.extensions["storage"] = Profiles({"docs": storage}, "docs", MemoryUsageStore())
    return app


def run(request, steps):
    """Run the requested function with a session."""
    storage = open_storage(Path(request["root"]))
    url = sa.make_url(request["url"])
    if url.get_backend_name() == "postgresql":
        url = url.update_query_dict({"application_name": APPLICATION_NAME})
    engine = create_engine(url)
    with app_with(storage).app_context(), Session(engine) as session:
        session.connection()  # so that no step is in the start of the first connection
        sa.event.listen(engine, "before_cursor_execute", steps.take)
        sa.event.listen(engine, "after_cursor_execute", steps.take)
        for name in ("do_commit", "do_rollback"):
            setattr(engine.dialect, name, steps.around(getattr(engine.dialect, name)))
        storage.steps = steps
        getattr(rich_transaction, request["function"])(session)
    engine.dispose()


def serve():
    """Run the requests until the end of standard input."""
    for line in sys.stdin:
        request = json.loads(line)
        memory = mmap.mmap(-1, 4)
        started = time.monotonic()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                run(request, Steps(memory, request.get("step")))
                code = 0
            finally:
                os._exit(code)
        if "after" in request:
            time.sleep(request["after"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        response = {
            "code": os.waitstatus_to_exitcode(status),
            "steps": int.from_bytes(memory[:4]),
            "duration": time.monotonic() - started,
        }
        print(json.dumps(response), flush=True)  # noqa: T201  # the response to the test
        memory.close()


if __name__ == "__main__":
    serve()
