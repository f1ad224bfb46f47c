"""A cancelled coroutine returns at once, and a cancelled `save` leaves nothing on any backend."""

import asyncio
import io
import threading
import time
from contextlib import suppress
from datetime import timedelta

import pytest

from flask_storage import LocalFSStorage, MemoryStorage
from flask_storage.aio import AsyncStorage, threads
from flask_storage.signals import file_stored
from flask_storage.testing import FailingStorage
from tests import azure_storages, s3_storages
from tests.counts import count
from tests.test_aio import BlockingStorage, eventually, opened_readers, pieces

pytest_plugins = ["tests.services.azurite", "tests.services.localstack"]

MIB = 1024 * 1024


@pytest.fixture(params=["memory", "local", "s3", "azure"])
def storage(request):
    """An empty storage; S3 and Azure take the content of the tests in two parts or more."""
    match request.param:
        case "s3":
            return s3_storages.make_storage(request.getfixturevalue("localstack"), chunk_size=5 * MIB)
        case "azure":
            return azure_storages.make_storage(request.getfixturevalue("azurite"), chunk_size=MIB)
        case name:
            return request.getfixturevalue(f"{name}_storage")


def wait_for_threads(storage):
    """Wait until every call has ended that coroutines have made; the next one starts new threads."""
    pool = threads._pools[storage].pop()
    assert pool is not None
    pool.shutdown()


KINDS = {
    "bytes": lambda content: content,
    "binary file": io.BytesIO,
    "async iterator": lambda content: pieces(content, MIB // 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_save_that_is_cancelled_at_any_moment_leaves_nothing(storage, kind):
    """The files that exist afterwards are those whose path was returned, and no upload is left half-made."""
    is_remote = not isinstance(storage, LocalFSStorage | MemoryStorage)
    moments = count(10, 30) if is_remote else count(30, 200)
    content = bytes(5 * MIB + 1000 if is_remote else 2 * MIB)
    files = AsyncStorage(storage)

    async def save():
        return await files.save("a.bin", KINDS[kind](content))

    async def act():
        returned = []
        begin = time.monotonic()
        await files.delete(await save())
        duration = time.monotonic() - begin
        for moment in range(moments):
            task = asyncio.ensure_future(save())
            await asyncio.sleep(duration * 1.2 * moment / moments)
            task.cancel()
            with suppress(asyncio.CancelledError):
                returned.append(await task)
        return returned

    returned = asyncio.run(act())
    wait_for_threads(storage)

    assert {entry.name: entry.size for entry in storage.list()} == dict.fromkeys(returned, len(content))
    assert storage.sweep(timedelta(0)) == 0


def test_a_file_that_is_published_after_the_cancellation_is_deleted(memory_storage):
    """The thread could not be stopped any more."""
    cancelled = threading.Event()

    async def act():
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(AsyncStorage(memory_storage).save("a.txt", b"1"))

        def cancel(sender, path):
            loop.call_soon_threadsafe(task.cancel)
            assert cancelled.wait(60)

        with file_stored.connected_to(cancel, sender=memory_storage):
            with pytest.raises(asyncio.CancelledError):
                await task
            assert memory_storage.exists("a.txt")
            cancelled.set()
            await asyncio.to_thread(wait_for_threads, memory_storage)

    asyncio.run(act())

    assert memory_storage.list() == []


def test_a_file_whose_path_was_on_the_way_to_the_caller_is_deleted(memory_storage):
    """The thread had ended, and the coroutine was cancelled before it had the path."""

    async def act():
        task = asyncio.ensure_future(AsyncStorage(memory_storage, threads=1).save("a.txt", b"1"))
        await asyncio.sleep(0)
        eventually(lambda: memory_storage.exists("a.txt"))
        threads._pools[memory_storage]().submit(lambda: None).result()  # by the same thread, after the call
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(act())
    wait_for_threads(memory_storage)

    assert memory_storage.list() == []


def test_a_file_that_cannot_be_deleted_after_a_cancellation_is_logged(memory_storage, caplog):
    """With its path: no caller knows it."""
    storage = FailingStorage(memory_storage)
    storage.fail("delete")
    cancelled = threading.Event()

    async def act():
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(AsyncStorage(storage).save("a.txt", b"1"))

        def cancel(sender, path):
            loop.call_soon_threadsafe(task.cancel)
            assert cancelled.wait(60)

        with file_stored.connected_to(cancel, sender=storage):
            with pytest.raises(asyncio.CancelledError):
                await task
            cancelled.set()
            await asyncio.to_thread(wait_for_threads, storage)

    asyncio.run(act())

    assert memory_storage.exists("a.txt")
    assert "'a.txt' was saved in 'memory' by a cancelled call and cannot be deleted" in caplog.text


@pytest.fixture
def blocking():
    """A storage that does not respond; it is released after the test."""
    storage = BlockingStorage()
    yield storage
    storage.released.set()


def test_a_call_that_has_not_begun_is_dropped(blocking):
    """All threads were busy; the call is not made later."""
    files = AsyncStorage(blocking, threads=1)

    async def act():
        stalled = asyncio.ensure_future(files.size("a"))
        await asyncio.to_thread(blocking.waiting.acquire)
        saving = asyncio.ensure_future(files.save("a.txt", b"1"))
        deleting = asyncio.ensure_future(files.delete("b.txt"))
        await asyncio.sleep(0)
        for task in (saving, deleting, stalled):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    blocking.write("b.txt", b"1")
    asyncio.run(act())
    blocking.released.set()
    wait_for_threads(blocking)

    assert [entry.name for entry in blocking.list()] == ["b.txt"]


def test_a_cancelled_write_stops_at_its_next_read(memory_storage):
    """The file that existed is unchanged."""
    memory_storage.write("a.txt", b"before")
    reading, cancelled = threading.Event(), threading.Event()

    class SlowFile:
        def read(self, size=-1):
            """Return a chunk, after the caller was cancelled."""
            reading.set()
            assert cancelled.wait(60)
            return b"x" * 10

    async def act():
        task = asyncio.ensure_future(AsyncStorage(memory_storage).write("a.txt", SlowFile()))
        await asyncio.to_thread(reading.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()

    asyncio.run(act())
    wait_for_threads(memory_storage)

    assert memory_storage.read("a.txt") == b"before"


@pytest.mark.parametrize("moment", ["opening", "reading"])
def test_a_reader_is_closed_after_a_cancelled_iteration(memory_storage, monkeypatch, moment):
    """When the call has ended that was running: two threads must not use one reader."""
    memory_storage.write("a.bin", b"x" * 2500)
    readers = opened_readers(monkeypatch, memory_storage)
    entered, cancelled = threading.Event(), threading.Event()
    name = "_open_reader" if moment == "opening" else "_reader"
    original = getattr(memory_storage, name)

    def wait(function):
        def waiting(*arguments):
            entered.set()
            assert cancelled.wait(60)
            return function(*arguments)

        return waiting

    def slow(*arguments):
        if moment == "opening":
            return wait(original)(*arguments)
        reader = original(*arguments)
        monkeypatch.setattr(reader, "_read", wait(reader._read))
        return reader

    monkeypatch.setattr(memory_storage, name, slow)

    async def act():
        async def iterate():
            async for _ in AsyncStorage(memory_storage).iter_chunks("a.bin", 1000):
                pass

        task = asyncio.ensure_future(iterate())
        await asyncio.to_thread(entered.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not any(reader.closed for reader in readers)
        cancelled.set()

    asyncio.run(act())
    eventually(lambda: readers and all(reader.closed for reader in readers))
