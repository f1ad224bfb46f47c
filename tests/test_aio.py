"""The coroutine API of a storage: kinds of content, threads of its own, and the same operations and errors."""

import asyncio
import contextvars
import gc
import hashlib
import inspect
import io
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from flask import current_app
from werkzeug.datastructures import FileStorage

from flask_storage import (
    FileNotFoundInStorageError,
    InvalidPathError,
    MemoryStorage,
    StorageBackend,
    StorageUnavailableError,
    UnknownProfileError,
    UnsupportedOperationError,
    current_storage,
)
from flask_storage.aio import AsyncStorage, Storage
from flask_storage.signals import file_stored
from flask_storage.testing import FailingStorage
from tests.counts import count

MIB = 1024 * 1024
HOUR = timedelta(hours=1)


@pytest.fixture
def files(storage):
    """The coroutine API of an empty storage."""
    return AsyncStorage(storage)


async def pieces(content, size=7):
    """Yield *content* in pieces."""
    for start in range(0, len(content), size):
        yield content[start : start + size]
        await asyncio.sleep(0)


class AsyncFile:
    """A file whose `read` is a coroutine, as that of Starlette's uploads."""

    def __init__(self, content):
        self._file = io.BytesIO(content)

    async def read(self, size=-1):
        """Return at most 1,000 bytes, as a network does."""
        await asyncio.sleep(0)
        return self._file.read(min(size, 1000))


class UnseekableFile:
    """A binary file that can be read once."""

    def __init__(self, content):
        self.read = io.BytesIO(content).read


KINDS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "binary file": io.BytesIO,
    "file that cannot seek": UnseekableFile,
    "upload of Werkzeug": lambda content: FileStorage(io.BytesIO(content), filename="a.txt"),
    "async iterator": pieces,
    "async read": AsyncFile,
}


@pytest.fixture(params=KINDS)
def make_content(request):
    """A function that makes content of one kind from bytes."""
    return KINDS[request.param]


# -- content ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello, world"], ids=["empty", "short"])
def test_every_kind_of_content_can_be_saved_and_written(files, make_content, content):
    """The file has the same bytes."""

    async def act():
        path = await files.save("docs/a.txt", make_content(content))
        await files.write("b.txt", make_content(content))
        return path, await files.read("docs/a.txt"), await files.read("b.txt")

    assert asyncio.run(act()) == ("docs/a.txt", content, content)


@pytest.mark.parametrize("make_content", [pieces, AsyncFile])
def test_async_content_larger_than_memory_for_it_is_stored(files, make_content):
    """Beyond 8 MiB it is copied into a temporary file on disk."""
    content = bytes(range(256)) * (9 * MIB // 256)
    given = pieces(content, 100_000) if make_content is pieces else AsyncFile(content[: 9 * 1000])

    path = asyncio.run(files.save("big.bin", given))

    stored = files.backend.read(path)
    assert hashlib.sha256(stored).digest() == hashlib.sha256(content[: len(stored)]).digest()
    assert len(stored) == (len(content) if make_content is pieces else 9000)


@pytest.mark.parametrize(
    "content",
    ["text", io.StringIO("text"), 5, None, ["text"], iter([b"bytes"])],
    ids=["str", "text file", "int", "None", "list", "iterator"],
)
@pytest.mark.parametrize("operation", ["save", "write"])
def test_content_of_other_kinds_is_refused(files, operation, content):
    """Also text, whose encoding is not known. Nothing is stored."""
    with pytest.raises(TypeError, match="bytes"):
        asyncio.run(getattr(files, operation)("a.txt", content))

    assert files.backend.list() == []


def test_an_async_iterator_of_text_is_refused(files):
    """Nothing is stored."""
    with pytest.raises(TypeError, match="yielded str, not bytes"):
        asyncio.run(files.save("a.txt", pieces("some text")))

    assert files.backend.list() == []


def test_an_error_of_the_content_is_raised_and_nothing_is_stored(files):
    """As when a client disconnects in the middle of a body."""

    async def broken():
        yield b"x" * 3 * MIB
        raise ConnectionResetError("the client has disconnected")

    with pytest.raises(ConnectionResetError):
        asyncio.run(files.save("a.bin", broken()))

    assert files.backend.list() == []


def test_arguments_of_a_write_are_passed_on(files):
    """A content type is stored."""
    asyncio.run(files.save("a.bin", b"{}", content_type="application/json"))
    asyncio.run(files.write("b.bin", b"{}", content_type="application/json", exclusive=True))

    assert {files.backend.stat(path).content_type for path in ("a.bin", "b.bin")} == {"application/json"}


def test_a_binary_file_is_stored_from_its_position_and_stays_open(files):
    """As by the storage itself."""
    content = io.BytesIO(b"skipped, stored")
    content.seek(9)

    asyncio.run(files.save("a.txt", content))

    assert files.backend.read("a.txt") == b"stored"
    assert not content.closed


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/shadow", "etc/shadow"),
        ("a\\b.txt", "a/b.txt"),
        (".env", "_env"),
        ("a<b>.txt", "a_b_.txt"),
        ("Ünïcode name.txt", "Ünïcode name.txt"),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
    ],
)
def test_a_saved_name_is_sanitized(files, name, path):
    """It may be what a client has sent."""
    assert asyncio.run(files.save(name, b"1")) == path


@pytest.mark.parametrize("name", ["", "..", "a/..", "/"])
def test_a_name_of_which_nothing_is_left_is_refused(files, name):
    """It is a ValueError."""
    with pytest.raises(ValueError, match="no file name"):
        asyncio.run(files.save(name, b"1"))


@pytest.mark.parametrize("name", ["x.tar.gz", "x" * 255, "README"])
def test_concurrent_saves_of_one_name_never_replace_a_file(files, name, make_content):
    """Each gets a path of its own, with the extension; also for a name of the greatest length."""
    contents = [f"content {number}".encode() for number in range(12)]

    async def act():
        return await asyncio.gather(*(files.save(name, make_content(content)) for content in contents))

    paths = asyncio.run(act())

    assert len(set(paths)) == 12
    assert [files.backend.read(path) for path in paths] == contents
    assert name in paths
    assert all(len(path.encode()) <= 255 and path.endswith(".gz") == name.endswith(".gz") for path in paths)


# -- operations -------------------------------------------------------------------------------------------------------


def test_a_file_can_be_saved_looked_at_and_deleted(files):
    """The five methods of the interface."""

    async def act():
        path = await files.save("a.txt", b"hello")
        found = [await files.exists(path), await files.size(path)]
        await files.delete(path)
        await files.delete(path)
        return [*found, await files.exists(path)]

    assert asyncio.run(act()) == [True, 5, False]


def test_the_url_is_that_of_the_storage():
    """It is no coroutine."""
    files = AsyncStorage(MemoryStorage(base_url="/media/"))

    assert files.url("a b/ü.txt") == "/media/a%20b/%C3%BC.txt"


def test_every_other_operation_does_what_that_of_the_storage_does(files, tmp_path):
    """With the same arguments."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"from disk")

    async def act():
        await files.put(source, "d/a.txt", content_type="text/plain")
        await files.get("d/a.txt", target)
        await files.copy("d/a.txt", "d/b.txt", exclusive=True)
        await files.move("d/b.txt", "d/c.txt")
        names = (
            [entry.name for entry in await files.list("d")],
            [entry.name for entry in await files.list("", recursive=False)],
        )
        info = await files.stat("d/c.txt")
        confirmed = await files.confirm_upload("d/c.txt", size=9, move_to="e/c.txt")
        await files.write("e/d.txt", b"1")
        await files.delete_many(["d/a.txt", "missing"])
        await files.check()
        return names, info, confirmed, await files.delete_prefix("e"), await files.sweep(), await files.list()

    names, info, confirmed, deleted, swept, left = asyncio.run(act())

    assert target.read_bytes() == b"from disk"
    assert names == (["d/a.txt", "d/c.txt"], ["d/"])
    assert (info.path, info.size, info.content_type) == ("d/c.txt", 9, "text/plain")
    assert confirmed.path == "e/c.txt"
    assert (deleted, swept, left) == (2, 0, [])


def test_links_are_those_of_the_profile(storage_app):
    """They can be created in a coroutine of an application context."""
    files = AsyncStorage("default")

    async def act():
        await files.write("a.txt", b"hello")
        link = await files.link_to("a.txt", "download", HOUR, "b.txt")
        request = await files.upload_request("c.txt", HOUR, content_type="text/plain")
        return link, await files.links_to(["a.txt"], "download", HOUR), request

    with storage_app.app_context():
        link, links, request = asyncio.run(act())
        storage = files.backend
    client = storage_app.test_client()

    assert client.get(link).headers["Content-Disposition"] == 'attachment; filename="b.txt"'
    assert client.get(links[0]).data == b"hello"
    assert (
        client.open(request.url, method=request.method, headers=dict(request.headers), data=b"new").status_code == 200
    )
    assert storage.read("c.txt") == b"new"


@pytest.mark.parametrize(
    ("operation", "arguments", "error"),
    [
        ("read", ("missing",), FileNotFoundInStorageError),
        ("size", ("missing",), FileNotFoundError),
        ("stat", ("../a",), InvalidPathError),
        ("write", ("../a", b""), InvalidPathError),
        ("url", ("a",), UnsupportedOperationError),
        ("write", ("a", b"", "argument"), TypeError),
    ],
)
def test_errors_are_those_of_the_storage(files, operation, arguments, error):
    """They are raised by `await`."""

    async def act():
        result = getattr(files, operation)(*arguments)
        return await result if inspect.isawaitable(result) else result

    with pytest.raises(error):
        asyncio.run(act())


def test_a_file_is_read_in_chunks(files):
    """All of the chosen size, but the last."""
    files.backend.write("a.bin", b"x" * 2500)

    async def act():
        return [len(chunk) async for chunk in files.iter_chunks("a.bin", 1000)]

    assert asyncio.run(act()) == [1000, 1000, 500]


def opened_readers(monkeypatch, storage):
    """Return the list to which every reader is added that *storage* opens."""
    readers = []
    open_file = storage.open

    def remembering(*arguments, **options):
        readers.append(open_file(*arguments, **options))
        return readers[-1]

    monkeypatch.setattr(storage, "open", remembering)
    return readers


def eventually(condition):
    """Wait until *condition* holds, for a minute at most; threads have no other sign that they have ended."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, inspect.getsource(condition)
        time.sleep(0.005)


def test_the_file_is_closed_when_the_iteration_ends_or_is_abandoned(files, monkeypatch):
    """Also by an exception of the caller."""
    files.backend.write("a.bin", b"x" * 2500)
    readers = opened_readers(monkeypatch, files.backend)

    async def to_the_end():
        async for _ in files.iter_chunks("a.bin", 1000):
            pass

    async def abandoned():
        chunks = files.iter_chunks("a.bin", 1000)
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(to_the_end())
    asyncio.run(abandoned())

    eventually(lambda: len(readers) == 2 and all(reader.closed for reader in readers))


# -- storages and profiles --------------------------------------------------------------------------------------------


def test_a_profile_is_looked_up_in_the_current_app(storage_app):
    """So one object can be made at import, before the app."""
    files = AsyncStorage("default")

    with storage_app.app_context():
        asyncio.run(files.save("a.txt", b"1"))
        assert files.backend is current_storage["default"]
        assert current_storage["default"].read("a.txt") == b"1"
        with pytest.raises(UnknownProfileError, match="the profiles are default"):
            asyncio.run(AsyncStorage("dosc").read("a.txt"))
    with pytest.raises(RuntimeError, match="application context"):
        asyncio.run(files.read("a.txt"))


@pytest.mark.parametrize("backend", [None, 5, MemoryStorage], ids=["None", "int", "class"])
def test_what_is_neither_a_storage_nor_a_name_is_refused(backend):
    """At once, and not by the first operation."""
    with pytest.raises(TypeError, match="AsyncStorage needs a storage or the name of a profile"):
        AsyncStorage(backend)


@pytest.mark.parametrize("threads", [0, -1, True, 1.5])
def test_the_number_of_threads_is_a_positive_integer(threads):
    """Zero threads would block for ever."""
    with pytest.raises(ValueError, match="threads must be a whole number of at least 1"):
        AsyncStorage(MemoryStorage(), threads=threads)


def test_the_representation_names_the_storage():
    """And no secret: that of a storage has none."""
    assert repr(AsyncStorage("docs")) == "<AsyncStorage 'docs'>"
    assert repr(AsyncStorage(MemoryStorage("docs"))) == "<AsyncStorage <MemoryStorage 'docs'>>"


def test_the_interface_has_five_abstract_methods():
    """A subclass needs these, and no other."""
    with pytest.raises(TypeError, match="abstract"):
        Storage()  # type: ignore[abstract]  # the error is the test

    assert Storage.__abstractmethods__ == {"save", "delete", "exists", "url", "size"}
    assert {
        name for name in Storage.__abstractmethods__ if not inspect.iscoroutinefunction(getattr(Storage, name))
    } == {"url"}


def test_every_operation_of_a_storage_is_offered_or_left_out_on_purpose():
    """A new operation of StorageBackend has to be added to one of both."""
    need_no_thread = "create_link_token verify_link deserialize_link_token local_path set_link_context from_url"
    return_open_files = "open iter"
    take_open_files = "upload download"  # write() and iter_chunks() do the same
    for_commands = "diagnostics short_link close"
    left_out = {*f"{need_no_thread} {return_open_files} {take_open_files} {for_commands}".split()}

    operations = {name for name, _ in inspect.getmembers(StorageBackend, callable) if not name.startswith("_")}

    assert operations - left_out <= set(dir(AsyncStorage))


# -- threads ----------------------------------------------------------------------------------------------------------


class BlockingStorage(MemoryStorage):
    """A storage that does not respond until it is released."""

    def __init__(self, name="blocking"):
        super().__init__(name)
        self.released = threading.Event()
        self.waiting = threading.Semaphore(0)

    def _stat(self, path):
        self.waiting.release()
        assert self.released.wait(60)
        return super()._stat(path)


@pytest.fixture
def blocking():
    """A storage that does not respond; it is released after the test."""
    storage = BlockingStorage()
    yield storage
    storage.released.set()


def test_a_storage_that_does_not_respond_blocks_no_other_storage_and_no_name_resolution(blocking, files):
    """Each storage has threads of its own; asyncio resolves names in a pool of a few threads."""
    blocked = AsyncStorage(blocking, threads=4)

    async def act():
        stalled = [asyncio.ensure_future(blocked.size("a")) for _ in range(40)]
        await asyncio.to_thread(blocking.waiting.acquire)
        paths = await asyncio.gather(*(files.save("a.txt", b"1") for _ in range(20)))
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert not any(task.done() for task in stalled)
        for task in stalled:
            task.cancel()
        return len(set(paths))

    assert asyncio.run(act()) == 20


def test_a_time_limit_of_the_caller_ends_the_wait_for_a_blocked_storage(blocking):
    """`asyncio.timeout` and `asyncio.wait_for` do not wait for the thread."""

    async def act():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(AsyncStorage(blocking).size("a"), 0.01)
        return blocking.released.is_set()

    assert asyncio.run(act()) is False


def test_all_objects_of_a_storage_share_its_threads_in_any_number_of_event_loops(storage):
    """Each async view of Flask has an event loop of its own, and may make an object of its own."""
    threads = set()

    class Watching(MemoryStorage):
        def _upload_file(self, *arguments):
            threads.add(threading.get_ident())
            time.sleep(0.001)
            super()._upload_file(*arguments)

    watching = Watching()

    async def view():
        await asyncio.gather(*(AsyncStorage(watching, threads=3).save("a.txt", b"1") for _ in range(8)))

    def request(_):
        asyncio.run(view())

    with ThreadPoolExecutor(5) as requests:
        list(requests.map(request, range(10)))

    assert len(watching.list()) == 80
    assert 1 < len(threads) <= 3


def test_the_threads_end_with_the_storage():
    """When it is garbage-collected, as a storage that is made for one request."""
    storage = MemoryStorage()
    idents = set()

    def remember(sender, path):
        idents.add(threading.current_thread())

    with file_stored.connected_to(remember, sender=storage):
        asyncio.run(AsyncStorage(storage).save("a.txt", b"1"))
    reference = weakref.ref(storage)
    del storage
    gc.collect()

    assert reference() is None
    eventually(lambda: idents and not any(thread.is_alive() for thread in idents))


def test_context_variables_and_the_current_app_are_those_of_the_caller(storage_app):
    """A receiver of a signal runs in the thread, and finds the app there."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen = []

    def remember(sender, path):
        seen.append((variable.get(), current_app.name, threading.current_thread() is threading.main_thread()))

    async def act():
        variable.set("of the caller")
        await AsyncStorage("default").save("a.txt", b"1")

    with storage_app.app_context(), file_stored.connected_to(remember):
        asyncio.run(act())

    assert seen == [("of the caller", "storage_app", False)]


def test_many_coroutines_share_one_storage(files):
    """Each finds its own file."""

    async def work(number):
        content = f"{number} ".encode() * 1000
        path = await files.save("same.txt", pieces(content, 999) if number % 2 else content)
        return await files.read(path) == content

    async def act():
        return await asyncio.gather(*(work(number) for number in range(count(60, 500))))

    assert all(asyncio.run(act()))


def test_a_failure_of_the_storage_is_raised_and_leaves_nothing(make_content):
    """Also for async content, whose temporary file is closed."""
    failing = FailingStorage(MemoryStorage())
    failing.fail("publish")

    with pytest.raises(StorageUnavailableError):
        asyncio.run(AsyncStorage(failing).save("a.txt", make_content(b"1")))

    assert failing.inner.list() == []
