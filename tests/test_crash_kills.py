"""A process that is killed, at any moment, leaves the old content or the new, and nothing that stays for ever."""

import os
import random
import signal
import time
from contextlib import suppress
from datetime import timedelta

import pytest

from flask_storage import LocalFSStorage
from tests.counts import count
from tests.crash.deeds import DEEDS, view
from tests.crash.tracing import Driver, changes

NOW = timedelta(0)


@pytest.fixture(scope="module")
def driver():
    """The program whose children do the deeds."""
    with Driver() as driver:
        yield driver


def remains(root):
    """Hidden names and empty directories anywhere below *root*."""
    for directory, directories, files in os.walk(root):
        yield from (name for name in (*directories, *files) if name.startswith(".fs-tmp-"))
        if not directories and not files:
            yield directory


@pytest.mark.parametrize("name", DEEDS)
def test_killed_at_any_system_call_nothing_is_torn(name, driver, tmp_path):
    """One run for each call that the deed makes, dying there; and on until nothing is left to die at."""
    deed = DEEDS[name]
    seen = []

    root = tmp_path / "whole" / "root"
    root.parent.mkdir()
    _, told = deed.ready(root)
    end, lines = driver.traced(name, root, told)
    assert end == {"status": 0, "raised": None}
    assert view(LocalFSStorage(root)) == deed.views()[-1]
    for call, times in changes(lines).items():
        for number in range(1, times + 2):
            root = tmp_path / f"{call}-{number}" / "root"
            root.parent.mkdir()
            _, told = deed.ready(root)

            end, _ = driver.traced(name, root, told, "-e", f"inject={call}:signal=KILL:when={number}")

            survivor = LocalFSStorage(root)
            shown = view(survivor)
            assert end["status"] == (0 if number > times else -signal.SIGKILL)
            assert shown in deed.views()
            survivor.sweep(NOW)
            assert not list(remains(root))
            assert view(survivor) == shown
            seen.append(deed.views().index(shown))

    assert len(seen) > len(changes(lines))
    assert {0, len(deed.views()) - 1} <= set(seen) or deed.before == deed.after


def test_killed_at_any_moment_of_a_long_write_nothing_is_torn(driver, tmp_path):
    """64 MiB on their way when the process dies: the old file is whole, or the new one is."""
    old, block = b"old" * 1000, random.Random(0).randbytes(1024 * 1024)
    new = b"".join(number.to_bytes(4, "big") + block[4:] for number in range(64))
    (tmp_path / "source").write_bytes(new)
    storage = LocalFSStorage(tmp_path / "root", create=True)
    ends = []

    def put(*, die_after=None):
        storage.write("a.bin", old)
        pid = driver.start("put_local_file", storage.root, {"source": str(tmp_path / "source")})
        driver.release()
        if die_after is not None:
            time.sleep(die_after)
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(pid, signal.SIGKILL)
        return driver.ended()["status"]

    begun = time.monotonic()
    assert put() == 0
    assert storage.read("a.bin") == new
    duration = time.monotonic() - begun
    for turn in range(count(15, 200)):
        ends.append(put(die_after=random.uniform(0, duration) if turn else 0))

        content = storage.read("a.bin")
        assert content in (old, new)
        assert [entry.size for entry in storage.list()] == [len(content)]
        storage.sweep(NOW)
        assert not list(remains(storage.root))

    assert -signal.SIGKILL in ends
