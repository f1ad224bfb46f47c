"""AsyncSession: the column works unchanged, and the event loop runs while files are stored and deleted."""

import asyncio
import logging
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from flask_storage import StorageUnavailableError
from flask_storage.sqlalchemy import StoredFile
from tests.sqlalchemy.databases import enable_savepoints
from tests.sqlalchemy.models import Attachment, Document

TIMEOUT = 60  # seconds


class _Application(Exception):  # noqa: N818  # not an error of ours
    """An error of the application."""


@pytest.fixture
def run(engine, files):
    """Return a function that runs a coroutine function with an AsyncSession on the same database."""
    url = engine.url if engine.dialect.name == "postgresql" else engine.url.set(drivername="sqlite+aiosqlite")

    async def main(work):
        async_engine = create_async_engine(url, poolclass=sa.NullPool)
        if engine.dialect.name == "sqlite":
            enable_savepoints(async_engine.sync_engine)
        try:
            async with AsyncSession(async_engine, expire_on_commit=False) as session:
                return await work(session)
        finally:
            await async_engine.dispose()

    return lambda work: asyncio.run(asyncio.wait_for(main(work), TIMEOUT))


async def _document(session, content=b"old"):
    document = Document(file=content)
    session.add(document)
    await session.commit()
    return document


def test_a_commit_stores_and_a_replacement_deletes(run, files):
    """As with a Session."""

    async def work(session):
        document = await _document(session)
        document.file = b"new"
        await session.commit()
        return await asyncio.to_thread(document.file.read)

    assert run(work) == b"new"
    assert files.contents() == [b"new"]


@pytest.mark.parametrize("end", ["rollback", "close", "error"])
def test_an_end_without_a_commit_stores_nothing(run, files, end):
    """Rollback, close, or an error of the application."""

    async def work(session):
        session.add(Document(file=b"one"))
        await session.flush()
        if end == "error":
            raise _Application
        await getattr(session, end)()

    if end == "error":
        with pytest.raises(_Application):
            run(work)
    else:
        run(work)

    assert files.contents() == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_savepoint(run, files, end):
    """Its files are kept or deleted with it."""

    async def work(session):
        session.add(Document(file=b"outer"))
        savepoint = await session.begin_nested()
        session.add(Document(file=b"inner"))
        await session.flush()
        await getattr(savepoint, end)()
        await session.commit()

    run(work)

    assert files.contents() == ([b"inner", b"outer"] if end == "commit" else [b"outer"])


def test_bulk_statements(run, files):
    """Insert, update and delete."""

    async def work(session):
        await session.execute(sa.insert(Document), [{"id": 1, "file": StoredFile(b"1")}, {"id": 2, "file": None}])
        await session.execute(sa.update(Document).values(file=StoredFile(b"2")))
        await session.commit()
        await session.execute(sa.delete(Document).where(Document.id == 1))
        await session.commit()

    run(work)

    assert files.contents() == [b"2"]


def test_files_that_are_named_by_their_content(run, files):
    """Stored once, deleted with the last."""

    async def work(session):
        rows = [Attachment(file=b"one") for _ in range(2)]
        session.add_all([*rows, Attachment(file=b"two")])
        await session.commit()
        for row in rows:
            await session.delete(row)
        await session.commit()

    run(work)

    assert files.contents() == [b"two"]


def test_a_storage_that_fails(run, files, docs, caplog):
    """An upload fails the flush; a deletion is left to the sweep."""
    caplog.set_level(logging.CRITICAL, "flask_storage")

    async def work(session):
        document = await _document(session)
        document.file = b"new"
        docs.fail("write")
        with pytest.raises(StorageUnavailableError):
            await session.commit()
        await session.rollback()
        docs.fail("delete")
        await session.delete(document)
        await session.commit()

    run(work)

    assert files.contents() == [b"old"]
    files.check_after_sweep()
    assert files.contents() == []


def test_a_task_that_is_cancelled_during_the_flush_stores_nothing(run, files, docs):
    """As when the client of a request disconnects."""
    started, resumed = threading.Event(), threading.Event()
    upload = docs._upload_file

    def wait(*arguments):
        started.set()
        assert resumed.wait(TIMEOUT)
        return upload(*arguments)

    docs._upload_file = wait

    async def work(session):
        session.add(Document(file=b"one"))
        task = asyncio.create_task(session.commit())
        assert await asyncio.to_thread(started.wait, TIMEOUT)
        task.cancel()
        await asyncio.sleep(0)
        resumed.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await session.rollback()

    run(work)

    files.check_after_sweep()
    assert files.contents() == []


@pytest.mark.parametrize("call", ["_upload_file", "_delete_many"])
def test_the_event_loop_runs_while_the_storage_works(run, files, docs, call):
    """A call of the storage ends only when another coroutine has run in between."""
    original = getattr(docs, call)
    waited = []

    async def work(session):
        document = await _document(session)
        loop = asyncio.get_running_loop()

        def call_and_wait(*arguments):
            heartbeat = threading.Event()
            loop.call_soon_threadsafe(heartbeat.set)
            waited.append(heartbeat.wait(TIMEOUT))
            return original(*arguments)

        setattr(docs, call, call_and_wait)
        document.file = b"new"
        await session.commit()

    run(work)

    assert waited == [True]
    assert files.contents() == [b"new"]
