"""Processes that are killed at any moment of a transaction, and processes that change the same row."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.counts import count
from tests.killed_programs import random_times
from tests.sqlalchemy import rich_transaction, transaction_program
from tests.sqlalchemy.agreement import Files
from tests.sqlalchemy.databases import empty
from tests.sqlalchemy.models import Base
from tests.sqlalchemy.transaction_program import APPLICATION_NAME, app_with, open_storage

PROJECT = Path(__file__).parents[2]


class Program:
    """Runs transactions, and kills them."""

    def __init__(self):
        lines = [f"import sys; sys.path.append({str(PROJECT)!r})", f"from {transaction_program.__name__} import serve"]
        command = [sys.executable, "-c", "\n".join([*lines, "serve()"])]
        self._process: Any = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, bufsize=1)

    def send(self, **request):
        """Start a transaction."""
        self._process.stdin.write(json.dumps(request) + "\n")

    def receive(self):
        """Return the response, when the transaction has ended."""
        line = self._process.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)

    def close(self):
        """End the program."""
        self._process.communicate()


@pytest.fixture(scope="module")
def programs():
    """Two programs that run transactions."""
    programs = [Program(), Program()]
    yield programs
    for program in programs:
        program.close()


class Transactions:
    """Transactions of other processes, on one database and a local storage."""

    def __init__(self, engine, root, programs):
        self._engine, self._programs = engine, programs
        self._arguments = {"url": engine.url.render_as_string(hide_password=False), "root": str(root)}
        self._storage = open_storage(root)
        self.files = Files(engine, self._storage, Base.metadata)

    def run(self, **how):
        """Prepare the rows, run the transaction that does everything, and return the response of the program."""
        self.prepare()
        (response,) = self.call(self._programs[:1], function="run", **how)
        return response

    def run_concurrently(self, function):
        """Prepare the rows, run a function in two processes, and return their responses."""
        self.prepare()
        return self.call(self._programs, function=function)

    def call(self, programs, **request):
        """Let programs run a transaction at the same time, and return their responses."""
        for program in programs:
            program.send(**self._arguments, **request)
        responses = [program.receive() for program in programs]
        self._wait_until_disconnected()
        return responses

    def prepare(self):
        """Delete everything, and commit the rows for the transaction."""
        with app_with(self._storage).app_context():
            empty(self._engine, Base.metadata)
            for path in self.files.stored():
                self._storage.delete(path)
            with Session(self._engine) as session:
                rich_transaction.prepare(session)

    def contents(self):
        """Check that rows and files agree, also after a sweep, and return the contents."""
        with app_with(self._storage).app_context():
            assert set(self.files.named()) <= set(self.files.stored()), "rows name files that are not stored"
            self.files.check_after_sweep()
            return self.files.contents()

    def check(self):
        """Check that all or nothing was committed, and return whether it was."""
        contents = self.contents()
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
def transactions(engine, tmp_path, programs):
    """Transactions of other processes."""
    return Transactions(engine, tmp_path / "files", programs)


def test_a_kill_at_each_step(transactions):
    """Before and after each statement, COMMIT, and each change of the storage, and in the middle of each file."""
    steps = transactions.run()["steps"]
    assert transactions.check() is True
    assert steps > 60

    committed = []
    for step in range(0, steps, count(7, 1)):
        assert transactions.run(step=step)["code"] == -signal.SIGKILL
        committed.append(transactions.check())

    assert committed == sorted(committed), "what was committed at one step is not at a later one"
    assert committed[0] is False
    assert committed[-1] is True


def test_a_kill_at_a_random_moment(transactions):
    """While the transaction runs, from its first moment to its last."""
    response = transactions.run()
    assert response["code"] == 0
    assert transactions.check() is True

    codes = []
    for after in random_times(response["duration"], count(5, 200)):
        codes.append(transactions.run(after=after)["code"])
        transactions.check()

    assert -signal.SIGKILL in codes
    assert set(codes) <= {0, -signal.SIGKILL}


def test_two_processes_replace_the_file_of_one_row(transactions):
    """Each deletes what the other has stored, and the last file is there."""
    responses = transactions.run_concurrently("replace_often")

    assert [response["code"] for response in responses] == [0, 0]
    unchanged = [content for content in rich_transaction.BEFORE if content != b"old"]
    assert len(set(transactions.contents()) - set(unchanged)) == 1
    assert len(transactions.contents()) == len(rich_transaction.BEFORE)
