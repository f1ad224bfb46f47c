"""One storage, used by many threads and forked processes concurrently."""

import hashlib
import multiprocessing
import random
import sys
import threading
import traceback

import pytest

from flask_storage.errors import FileExistsInStorageError
from flask_storage.testing import concurrency
from flask_storage.testing.concurrency import TIMEOUT, run_concurrently

from .counts import count

THREADS = 50
OPERATIONS = count(20, 100)


def _mixed_work(storage, prefix):
    """Run random operations in 50 threads, each on its own files, and compare them with a dictionary."""

    def work(number):
        generator = random.Random(number)
        directory = f"{prefix}/thread {number}"
        expected = {}
        for turn in range(OPERATIONS):
            path = f"{directory}/{generator.choice('abc')}"
            other = f"{directory}/deep/{generator.choice('abc')}"
            content = f"{prefix} {number} {turn} ".encode() * generator.randrange(1, 500)
            match generator.randrange(8):
                case 0 | 1:
                    storage.write(path, content)
                    expected[path] = content
                case 2:
                    storage.open(path, "w").abort()
                case 3 if path in expected:
                    storage.copy(path, other)
                    expected[other] = expected[path]
                case 4 if path in expected:
                    storage.move(path, other)
                    expected[other] = expected.pop(path)
                case 5:
                    storage.delete(path)
                    expected.pop(path, None)
                case 6 if path in expected:
                    with storage.open(path, "rw") as updater:
                        updater.write(b"edited")
                    expected[path] = b"edited" + expected[path][6:]
                case _:
                    assert storage.exists(path) is (path in expected)
                    assert {entry.name for entry in storage.list(directory)} == set(expected)
        for path, content in expected.items():
            assert storage.read(path) == content

    run_concurrently(work, THREADS)


def _in_a_child(storage, prefix):
    try:
        _mixed_work(storage, prefix)
    except BaseException:  # noqa: BLE001 - an exception would make the child run the other tests
        traceback.print_exc()
        sys.exit(1)


def test_fifty_threads_can_share_one_storage(storage):
    """Each thread finds exactly its own files, and there is no deadlock."""
    _mixed_work(storage, "parent")

    assert all(entry.name.startswith("parent/thread ") for entry in storage.list())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # pytest plugins start threads
def test_forked_children_can_share_one_storage(storage):
    """A storage that was used before the fork works in every child, with 50 threads each."""
    storage.write("before.bin", b"used before the fork")
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_in_a_child, args=(storage, f"child {number}")) for number in range(2)]

    for child in children:
        child.start()
    try:
        for child in children:
            child.join(2 * TIMEOUT)  # longer than the time-out of the threads in the child
        exit_codes = [child.exitcode for child in children]
    finally:
        for child in children:
            child.kill()

    assert exit_codes == [0, 0]
    assert storage.read("before.bin") == b"used before the fork"


def _version(number, turn):
    body = f"writer {number}, round {turn}; ".encode() * (500 + 37 * number + turn)
    return hashlib.sha256(body).digest() + body


def test_every_read_is_one_complete_version(storage):
    """Eight threads replace one file while four read it; each read returns one whole version."""
    rounds = count(12, 50)
    storage.write("file.bin", _version(0, 0))
    finished = threading.Event()
    writing = set(range(8))

    def work(number):
        if number >= 8:
            reads = 0
            while not finished.is_set() or not reads:
                content = storage.read("file.bin")
                assert hashlib.sha256(content[32:]).digest() == content[:32]
                reads += 1
            return reads
        try:
            for turn in range(rounds):
                storage.write("file.bin", _version(number, turn))
        finally:
            writing.discard(number)
            if not writing:
                finished.set()
        return None

    reads = run_concurrently(work, 12)[8:]

    assert all(reads)
    assert storage.read("file.bin") in {_version(number, rounds - 1) for number in range(8)}
    assert [entry.name for entry in storage.list()] == ["file.bin"]


@pytest.mark.parametrize("operation", ["write", "copy", "move", "complete"])
def test_exactly_one_of_eight_threads_creates_a_file(storage, operation):
    """Of eight concurrent exclusive operations on one path one succeeds, and its content is stored."""
    from flask_storage.types import WriteOptions

    exclusive = WriteOptions(exclusive=True)
    for turn in range(count(12, 50)):
        path = f"round {turn}/new.bin"
        uploads = {}
        for number in range(8):
            storage.write(f"sources/{number}", str(number).encode())
            upload_id = storage.multipart.create(path, WriteOptions())
            uploads[number] = upload_id, storage.multipart.upload_part(path, upload_id, 1, str(number).encode())

        def create(number, path=path, uploads=uploads):
            try:
                if operation == "write":
                    storage.write(path, str(number).encode(), exclusive=True)
                elif operation == "complete":
                    upload_id, part = uploads[number]
                    storage.multipart.complete(path, upload_id, [part], exclusive)
                else:
                    getattr(storage, operation)(f"sources/{number}", path, exclusive=True)
            except FileExistsInStorageError:
                return False
            return True

        won = run_concurrently(create, 8)

        assert won.count(True) == 1
        assert storage.read(path) == str(won.index(True)).encode()
        if operation == "move":
            sources = {entry.name for entry in storage.list("sources")}
            assert sources == {f"sources/{number}" for number in range(8) if not won[number]}
        for upload_id, _ in uploads.values():
            storage.multipart.abort(path, upload_id)


def test_exactly_one_of_eight_threads_replaces_a_version(storage):
    """Of eight concurrent writes with the same `if_match` one succeeds: no update is lost."""
    from flask_storage.errors import PreconditionFailedError

    storage.write("counter.txt", b"0")

    def add_one(number):
        for _ in range(count(5, 20)):
            while True:
                with storage.open("counter.txt", "r") as reader:
                    value, tag = int(reader.read()), reader.info.etag
                try:
                    storage.write("counter.txt", str(value + 1).encode(), if_match=tag)
                except PreconditionFailedError:
                    continue
                break

    run_concurrently(add_one, 8)

    assert storage.read("counter.txt") == str(8 * count(5, 20)).encode()


def test_a_thread_that_never_ends_fails_the_test(monkeypatch):
    """`run_concurrently` does not wait for it for ever."""
    never = threading.Event()
    monkeypatch.setattr(concurrency, "TIMEOUT", 2)

    with pytest.raises(pytest.fail.Exception, match="1 of 2 threads did not end within 2 seconds"):
        run_concurrently(lambda number: never.wait() if number else None, 2)

    never.set()
