"""Race conditions with other processes in the same directories: attackers with symbolic links, and other workers."""

import fcntl
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flask_storage import FileExistsInStorageError, LocalFSStorage, PreconditionFailedError, StorageError
from flask_storage.testing.concurrency import TIMEOUT, run_concurrently as run_in_threads
from flask_storage.types import WriteOptions
from tests import crash
from tests.counts import count

SECRET = b"outside of the storage"
FLIPPER = Path(crash.__file__).with_name("flipper.py")


@contextmanager
def flipping(*names):
    """Run a process that swaps *names*, in pairs, again and again."""
    with subprocess.Popen([sys.executable, "-S", "-E", str(FLIPPER), *map(str, names)], stdout=-1) as flipper:
        assert flipper.stdout
        assert flipper.stdout.readline() == b"ready\n"
        try:
            yield flipper
        finally:
            flipper.kill()


def snapshot(directory):
    """Map every name below *directory* to its content and modification time."""
    return {
        path.relative_to(directory): (path.read_bytes() if path.is_file() else None, path.lstat().st_mtime_ns)
        for path in directory.rglob("*")
    }


OPERATIONS = {
    "put": lambda storage, number: storage.write("d/f.txt", b"ours %d" % number),
    "put_below": lambda storage, number: storage.write("d/new/deep/f.txt", b"ours %d" % number),
    "read": lambda storage, number: storage.read("d/secret.txt"),
    "read_file": lambda storage, number: storage.read("link.txt"),
    "stat": lambda storage, number: storage.stat("d/secret.txt"),
    "list": lambda storage, number: storage.list(),
    "list_directory": lambda storage, number: storage.list("d", recursive=False),
    "copy_from": lambda storage, number: storage.copy("d/secret.txt", "got.txt"),
    "copy_file": lambda storage, number: storage.copy("link.txt", "got.txt"),
    "copy_to": lambda storage, number: storage.copy("source.txt", "d/copied.txt"),
    "move_from": lambda storage, number: storage.move("d/secret.txt", "got.txt"),
    "move_to": lambda storage, number: (storage.write("m.txt", b"ours"), storage.move("m.txt", "d/moved.txt")),
    "delete": lambda storage, number: storage.delete("d/secret.txt"),
    "delete_prefix": lambda storage, number: storage.delete_prefix("tree"),
    "edit": lambda storage, number: storage.open("link.txt", "rw").abort(),
    "sweep": lambda storage, number: storage.sweep(timedelta(0)),
}


def check_result(storage, operation, result):
    """Check that nothing the operation returned or stored comes from outside of the root."""
    assert result != SECRET
    if operation.startswith("list"):
        assert not [entry for entry in result if entry.size == len(SECRET)]
    elif operation in ("stat", "copy_from", "copy_file", "move_from"):
        assert getattr(result, "size", 0) != len(SECRET)
        with suppress(StorageError):
            assert storage.read("got.txt") != SECRET


@pytest.mark.parametrize("operation", OPERATIONS)
def test_swapped_symbolic_links_are_never_followed(operation, tmp_path, in_bounded_time):
    """A process swaps directories and files with symbolic links to the outside during each operation."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("secret.txt", "f.txt", "sub/deep.txt", ".fs-tmp-0123456789abcdef"):
        (outside / name).write_bytes(SECRET)
    os.utime(outside / ".fs-tmp-0123456789abcdef", (0, 0))
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    root = storage.root
    for path in ("d/secret.txt", "d/stays.txt", "source.txt", "link.txt", "tree/d/secret.txt", "tree/stays.txt"):
        storage.write(path, b"ours")
    for link, target in (("d2", outside), ("link2", outside / "secret.txt"), ("tree/d2", outside)):
        (root / link).symlink_to(target)
    before = snapshot(outside)
    outcomes: Counter[str] = Counter()

    names = (root / "d", root / "d2", root / "link.txt", root / "link2", root / "tree/d", root / "tree/d2")
    with flipping(*names) as flipper:
        seen: set[bool] = set()  # wait until both states have occurred
        while len(seen) < 2:
            assert flipper.poll() is None
            seen.add((root / "d").is_symlink())
        for number in itertools.count():
            # A machine with other work may stop the other process while the names are links, for as long as it likes.
            if number >= count(1500, 6000) and outcomes["done"]:
                break
            try:
                result = OPERATIONS[operation](storage, number)
            except StorageError as error:
                outcomes[type(error).__name__] += 1
            else:
                outcomes["done"] += 1
                check_result(storage, operation, result)
            if operation in ("delete", "move_from", "delete_prefix"):
                with suppress(StorageError):
                    storage.write("tree/d/secret.txt" if operation == "delete_prefix" else "d/secret.txt", b"ours")

    assert outcomes["done"]
    assert snapshot(outside) == before


def churn(root, number, rounds, errors):
    """Create and delete a file in a directory that other processes fill and empty too."""
    storage = LocalFSStorage(root, fsync=False)
    try:
        for turn in range(rounds):
            path = f"a/b/c/{number}.txt" if turn % 2 else f"a/b/{number}.txt"
            storage.write(path, b"1")
            if turn % 3 == 0:
                storage.move(path, f"x/y/{number}.txt")
                storage.list("x")
                path = f"x/y/{number}.txt"
            storage.delete(path)
            if turn % 7 == 0:
                storage.list(recursive=False)
                storage.delete_prefix("nowhere")
    except Exception as error:  # noqa: BLE001  # any error fails the test
        errors.put(f"{type(error).__name__}: {error}")


def reader_etag(reader):
    """Return the etag of the version that *reader* reads."""
    return reader.info.etag


def increment(root, rounds, wins):
    """Add one to a number in a file, and retry if another process has changed it."""
    storage = LocalFSStorage(root, fsync=False)
    for _ in range(rounds):
        while True:
            with storage.open("number.txt", "r") as reader:
                value, tag = int(reader.read()), reader_etag(reader)
            try:
                storage.write("number.txt", str(value + 1).encode(), if_match=tag)
            except PreconditionFailedError:
                continue
            wins.put(value + 1)
            break


def create(root, number, barrier, rounds, wins):
    """Create files exclusively, and report those that this process created."""
    storage = LocalFSStorage(root, fsync=False)
    for turn in range(rounds):
        barrier.wait()
        with suppress(FileExistsInStorageError):
            storage.write(f"{turn}.txt", str(number).encode(), exclusive=True)
            wins.put(turn)


def run_in_processes(target, *arguments, processes=8):
    """Run *target* in processes concurrently; return the items that they put into a queue."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    items: list[Any] = []
    collector = threading.Thread(target=lambda: items.extend(iter(queue.get, None)))
    collector.start()
    workers = [
        context.Process(
            target=target, args=(*(value(context, number) if callable(value) else value for value in arguments), queue)
        )
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    queue.put(None)
    collector.join()
    assert [worker.exitcode for worker in workers] == [0] * processes
    return items


def test_processes_can_fill_and_empty_one_directory(tmp_path):
    """A directory is removed with its last file while another process writes a file into it."""
    storage = LocalFSStorage(tmp_path / "root", create=True)

    errors = run_in_processes(churn, str(storage.root), lambda _, number: number, count(100, 1000))

    assert errors == []
    assert list(storage.root.iterdir()) == []


def test_exactly_one_process_replaces_a_version(tmp_path):
    """Eight processes increment a number with `if_match`: no update is lost or made twice."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.write("number.txt", b"0")
    rounds = count(15, 100)

    wins = run_in_processes(increment, str(storage.root), rounds)

    assert sorted(wins) == list(range(1, 8 * rounds + 1))
    assert storage.read("number.txt") == str(8 * rounds).encode()


def test_exactly_one_process_creates_a_file(tmp_path):
    """Eight processes create the same paths exclusively and concurrently."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    rounds = count(25, 200)
    barrier = multiprocessing.get_context("spawn").Barrier(8)

    wins = run_in_processes(create, str(storage.root), lambda _, number: number, barrier, rounds)

    assert sorted(wins) == list(range(rounds))


def test_moves_in_opposite_directions_do_not_deadlock(tmp_path):
    """Two threads move files between two directories in opposite directions; each move locks both."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("a/0.txt", b"0")
    storage.write("b/1.txt", b"1")

    def move_back_and_forth(name, source, target):
        for _ in range(count(200, 5000)):
            storage.move(f"{source}/{name}", f"{target}/{name}", if_match=None)
            storage.move(f"{target}/{name}", f"{source}/{name}")

    moves = [("0.txt", "a", "b"), ("1.txt", "b", "a")]
    run_in_threads(lambda number: move_back_and_forth(*moves[number]), len(moves))

    assert [entry.name for entry in storage.list()] == ["a/0.txt", "b/1.txt"]


def test_moves_lock_directories_in_one_order(tmp_path, monkeypatch):
    """The order does not depend on the direction of the move; otherwise two moves could deadlock."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    for path in ("a/0.txt", "b/1.txt", "a/stays.txt", "b/stays.txt"):
        storage.write(path, b"")
    locked: list[int] = []
    flock = fcntl.flock

    def recording_flock(fd, operation):
        if operation & fcntl.LOCK_EX:
            locked.append(os.fstat(fd).st_ino)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", recording_flock)
    storage.move("a/0.txt", "b/0.txt")
    first, locked = locked, []
    storage.move("b/1.txt", "a/1.txt")

    assert sorted(first) == sorted((storage.root / directory).stat().st_ino for directory in "ab")
    assert first == locked


@pytest.mark.parametrize("operation", ["delete", "delete_prefix"])
def test_a_delete_waits_for_a_conditional_write(tmp_path, monkeypatch, operation):
    """Nothing is deleted between comparing the etag and publishing."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("d/a.txt", b"old")
    tag = storage.stat("d/a.txt").etag
    reached_lock = threading.Event()  # the deletion waits for the lock, or has ended without it
    flock, rename = fcntl.flock, os.rename

    def delete():
        getattr(storage, operation)("d/a.txt" if operation == "delete" else "d")
        reached_lock.set()

    deleting = threading.Thread(target=delete, daemon=True)

    def recording_flock(fd, operation):
        if threading.current_thread() is deleting:
            reached_lock.set()
        flock(fd, operation)

    def slow_rename(*args, **options):
        deleting.start()
        assert reached_lock.wait(TIMEOUT)
        existed.append((storage.root / "d/a.txt").exists())
        rename(*args, **options)

    existed: list[bool] = []
    monkeypatch.setattr(fcntl, "flock", recording_flock)
    monkeypatch.setattr(os, "rename", slow_rename)
    storage.write("d/a.txt", b"new", if_match=tag)
    deleting.join(TIMEOUT)

    assert existed == [True]
    assert not deleting.is_alive()
    assert storage.list() == []


def test_concurrent_aborts_of_one_upload_are_no_error(tmp_path):
    """The later calls find the upload aborted."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    errors = []

    def abort(upload_id):
        try:
            storage.multipart.abort("a.bin", upload_id)
        except StorageError as error:
            errors.append(error)

    for _ in range(50):
        upload_id = storage.multipart.create("a.bin", WriteOptions())
        storage.multipart.upload_part("a.bin", upload_id, 1, b"1")
        threads = [threading.Thread(target=abort, args=(upload_id,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert errors == []
    assert list(storage.root.iterdir()) == []
