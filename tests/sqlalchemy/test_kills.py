"""SIGKILL at any moment of a transaction: no row without its file, nothing half done, nothing left after a sweep."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.counts import count
from tests.killed_programs import random_times
from tests.sqlalchemy import rich_transaction
from tests.sqlalchemy.agreement import Files
from tests.sqlalchemy.databases import empty
from tests.sqlalchemy.killed_commits import APPLICATION_NAME, app_with, open_storage
from tests.sqlalchemy.models import Base

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program():
    """The program that runs transactions and kills them; called with a request, it returns the response."""
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.append({str(PROJECT)!r})\nfrom tests.sqlalchemy.killed_commits import serve\nserve()",
    ]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, bufsize=1) as process:

        def call(**request):
            process.stdin.write(json.dumps(request) + "\n")
            line = process.stdout.readline()
            assert line, "the program has ended"
            return json.loads(line)

        yield call
        process.stdin.close()


class Killed:
    """A transaction that can be killed, on one database and a local storage."""

    def __init__(self, engine, root, program):
        self._engine, self._program = engine, program
        self._arguments = {"url": engine.url.render_as_string(hide_password=False), "root": str(root)}
        self._storage = open_storage(root)
        self.files = Files(engine, self._storage, Base.metadata)

    def run(self, **how):
        """Prepare the rows, run the transaction, and return the response of the program."""
        with app_with(self._storage).app_context():
            empty(self._engine, Base.metadata)
            for path in self.files.stored():
                self._storage.delete(path)
            with Session(self._engine) as session:
                rich_transaction.prepare(session)
        response = self._program(function="run", **self._arguments, **how)
        self._wait_until_disconnected()
        return response

    def check(self):
        """Check that all or nothing was committed, and return whether it was."""
        with app_with(self._storage).app_context():
            assert set(self.files.named()) <= set(self.files.stored()), "rows name files that are not stored"
            self.files.check_after_sweep()
            contents = self.files.contents()
        assert contents in (rich_transaction.BEFORE, rich_transaction.AFTER)
        return contents == rich_transaction.AFTER

    def _wait_until_disconnected(self):
        """Wait until PostgreSQL has noticed that the process is gone, and has rolled back."""
        if self._engine.dialect.name != "postgresql":
            return
        query = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while connection.scalar(query, {"name": APPLICATION_NAME}):
                connection.execute(sa.text("SELECT pg_sleep(0.005)"))


@pytest.fixture
def killed(engine, tmp_path, program):
    """A transaction that can be killed."""
    return Killed(engine, tmp_path / "files", program)


def test_a_kill_at_each_step(killed):
    """Before and after each statement, COMMIT, and each change of the storage, and in the middle of each file."""
    steps = killed.run()["steps"]
    assert killed.check() is True
    assert steps > 60

    committed = []
    for step in range(0, steps, count(7, 1)):
        assert killed.run(step=step)["code"] == -signal.SIGKILL
        committed.append(killed.check())

    assert committed == sorted(committed), "what was committed at one step is not at a later one"
    assert committed[0] is False
    assert committed[-1] is True


def test_a_kill_at_a_random_moment(killed):
    """While the transaction runs, from its first moment to its last."""
    response = killed.run()
    assert response["code"] == 0
    assert killed.check() is True

    codes = []
    for after in random_times(response["duration"], count(5, 200)):
        codes.append(killed.run(after=after)["code"])
        killed.check()

    assert -signal.SIGKILL in codes
    assert set(codes) <= {0, -signal.SIGKILL}
