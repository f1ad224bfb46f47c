"""A process that is killed at any time leaves the old or the new content, and only files that a sweep removes."""

import os
import random
import signal
import time
from contextlib import suppress
from datetime import timedelta

import pytest

from flask_storage import LocalFSStorage
from tests.counts import count
from tests.crash.scenarios import SCENARIOS, state_of
from tests.crash.tracing import Runner, changes

NOW = timedelta(0)


@pytest.fixture(scope="module")
def runner():
    """The program that runs the scenarios in its children."""
    with Runner() as runner:
        yield runner


def leftovers(root):
    """Yield hidden files and empty directories below *root*."""
    for directory, directories, files in os.walk(root):
        yield from (name for name in (*directories, *files) if name.startswith(".fs-tmp-"))
        if not directories and not files:
            yield directory


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_system_call_leaves_an_allowed_state(name, runner, tmp_path):
    """The scenario is run once for each of its system calls, and killed there; a sweep then removes the leftovers."""
    scenario = SCENARIOS[name]
    seen = []

    root = tmp_path / "whole" / "root"
    root.parent.mkdir()
    _, data = scenario.set_up(root)
    outcome, lines = runner.traced(name, root, data)
    assert outcome == {"status": 0, "raised": None}
    assert state_of(LocalFSStorage(root)) == scenario.allowed_states()[-1]
    for call, times in changes(lines).items():
        for number in range(1, times + 2):
            root = tmp_path / f"{call}-{number}" / "root"
            root.parent.mkdir()
            _, data = scenario.set_up(root)

            outcome, _ = runner.traced(name, root, data, "-e", f"inject={call}:signal=KILL:when={number}")

            storage = LocalFSStorage(root)
            state = state_of(storage)
            assert outcome["status"] == (0 if number > times else -signal.SIGKILL)
            assert state in scenario.allowed_states()
            storage.sweep(NOW)
            assert not list(leftovers(root))
            assert state_of(storage) == state
            seen.append(scenario.allowed_states().index(state))

    assert len(seen) > len(changes(lines))
    assert {0, len(scenario.allowed_states()) - 1} <= set(seen) or scenario.before == scenario.after


def test_a_kill_during_a_long_write_leaves_one_complete_version(runner, tmp_path):
    """A process is killed at a random time while it writes 64 MiB: the file has the old or the new content."""
    old, block = b"old" * 1000, random.Random(0).randbytes(1024 * 1024)
    new = b"".join(number.to_bytes(4, "big") + block[4:] for number in range(64))
    (tmp_path / "source").write_bytes(new)
    storage = LocalFSStorage(tmp_path / "root", create=True)
    statuses = []

    def put(*, kill_after=None):
        storage.write("a.bin", old)
        pid = runner.start("put_local_file", storage.root, {"source": str(tmp_path / "source")})
        runner.release()
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it has ended already
                os.kill(pid, signal.SIGKILL)
        return runner.wait()["status"]

    started = time.monotonic()
    assert put() == 0
    assert storage.read("a.bin") == new
    duration = time.monotonic() - started
    for turn in range(count(15, 200)):
        statuses.append(put(kill_after=random.uniform(0, duration) if turn else 0))

        content = storage.read("a.bin")
        assert content in (old, new)
        assert [entry.size for entry in storage.list()] == [len(content)]
        storage.sweep(NOW)
        assert not list(leftovers(storage.root))

    assert -signal.SIGKILL in statuses
