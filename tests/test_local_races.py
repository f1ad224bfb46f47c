"""What others do to the same directories, at the same moment: attackers with links, and honest processes."""

import fcntl
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
from flask_storage.testing.concurrency import TIMEOUT, run_concurrently as in_threads
from flask_storage.types import WriteOptions
from tests import crash
from tests.counts import count

SECRET = b"not of this storage"
FLIPPER = Path(crash.__file__).with_name("flipper.py")


@contextmanager
def flipping(*names):
    """Another process swaps *names*, in pairs, all the time."""
    with subprocess.Popen([sys.executable, "-S", "-E", str(FLIPPER), *map(str, names)], stdout=-1) as flipper:
        assert flipper.stdout
        assert flipper.stdout.readline() == b"ready\n"
        try:
            yield flipper
        finally:
            flipper.kill()


def snapshot(directory):
    """Every name below *directory* with its content and stamp."""
    return {
        path.relative_to(directory): (path.read_bytes() if path.is_file() else None, path.lstat().st_mtime_ns)
        for path in directory.rglob("*")
    }


VERBS = {
    "put": lambda storage, number: storage.write("d/f.txt", b"ours %d" % number),
    "put_below": lambda storage, number: storage.write("d/new/deep/f.txt", b"ours %d" % number),
    "read": lambda storage, number: storage.read("d/secret.txt"),
    "read_file": lambda storage, number: storage.read("link.txt"),
    "stat": lambda storage, number: storage.stat("d/secret.txt"),
    "list": lambda storage, number: storage.list(),
    "list_folder": lambda storage, number: storage.list("d", recursive=False),
    "copy_from": lambda storage, number: storage.copy("d/secret.txt", "got.txt"),
    "copy_file": lambda storage, number: storage.copy("link.txt", "got.txt"),
    "copy_to": lambda storage, number: storage.copy("seed.txt", "d/copied.txt"),
    "move_from": lambda storage, number: storage.move("d/secret.txt", "got.txt"),
    "move_to": lambda storage, number: (storage.write("m.txt", b"ours"), storage.move("m.txt", "d/moved.txt")),
    "delete": lambda storage, number: storage.delete("d/secret.txt"),
    "delete_prefix": lambda storage, number: storage.delete_prefix("tree"),
    "edit": lambda storage, number: storage.open("link.txt", "rw").abort(),
    "sweep": lambda storage, number: storage.sweep(timedelta(0)),
}


def look(storage, verb, result):
    """Nothing that a verb returned or stored comes from outside."""
    assert result != SECRET
    if verb.startswith("list"):
        assert not [entry for entry in result if entry.size == len(SECRET)]
    elif verb in ("stat", "copy_from", "copy_file", "move_from"):
        assert getattr(result, "size", 0) != len(SECRET)
        with suppress(StorageError):
            assert storage.read("got.txt") != SECRET


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_escapes_while_folders_and_links_are_swapped(verb, tmp_path):
    """A directory and a link out of the root take turns under one name; so do a file and a link to a file outside."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("secret.txt", "f.txt", "sub/deep.txt", ".fs-tmp-0123456789abcdef"):
        (outside / name).write_bytes(SECRET)
    os.utime(outside / ".fs-tmp-0123456789abcdef", (0, 0))
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    root = storage.root
    for path in ("d/secret.txt", "d/stays.txt", "seed.txt", "link.txt", "tree/d/secret.txt", "tree/stays.txt"):
        storage.write(path, b"ours")
    for link, target in (("d2", outside), ("link2", outside / "secret.txt"), ("tree/d2", outside)):
        (root / link).symlink_to(target)
    before = snapshot(outside)
    ends: Counter[str] = Counter()

    names = (root / "d", root / "d2", root / "link.txt", root / "link2", root / "tree/d", root / "tree/d2")
    with flipping(*names) as flipper:
        faces: set[bool] = set()
        while len(faces) < 2:
            assert flipper.poll() is None
            faces.add((root / "d").is_symlink())
        for number in range(count(1500, 20_000)):
            try:
                result = VERBS[verb](storage, number)
            except StorageError as error:
                ends[type(error).__name__] += 1
            else:
                ends["done"] += 1
                look(storage, verb, result)
            if verb in ("delete", "move_from", "delete_prefix"):
                with suppress(StorageError):
                    storage.write("tree/d/secret.txt" if verb == "delete_prefix" else "d/secret.txt", b"ours")

    assert ends["done"]
    assert snapshot(outside) == before


def churn(root, number, rounds, errors):
    """Make and delete a file in a directory that others make and delete too."""
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
    except Exception as error:  # noqa: BLE001  # whatever it is, it is one too many
        errors.put(f"{type(error).__name__}: {error}")


def storage_tag(reader):
    """The version that is being read."""
    return reader.info.etag


def increment(root, rounds, wins):
    """Add one to a number in a file, as long as nobody else did in between."""
    storage = LocalFSStorage(root, fsync=False)
    for _ in range(rounds):
        while True:
            with storage.open("number.txt", "r") as reader:
                value, tag = int(reader.read()), storage_tag(reader)
            try:
                storage.write("number.txt", str(value + 1).encode(), if_match=tag)
            except PreconditionFailedError:
                continue
            wins.put(value + 1)
            break


def create(root, number, barrier, rounds, wins):
    """Try to be the one who creates a file."""
    storage = LocalFSStorage(root, fsync=False)
    for turn in range(rounds):
        barrier.wait()
        with suppress(FileExistsInStorageError):
            storage.write(f"{turn}.txt", str(number).encode(), exclusive=True)
            wins.put(turn)


def run_concurrently(target, *arguments, processes=8):
    """Run *target* in some processes at once and return what they put into their queue."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    found: list[Any] = []
    collector = threading.Thread(target=lambda: found.extend(iter(queue.get, None)))
    collector.start()
    workers = [
        context.Process(
            target=target, args=(*(given(context, number) if callable(given) else given for given in arguments), queue)
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
    return found


def test_processes_that_fill_and_empty_one_folder_never_fail(tmp_path):
    """A directory goes with its last file while another process is about to put one into it."""
    storage = LocalFSStorage(tmp_path / "root", create=True)

    errors = run_concurrently(churn, str(storage.root), lambda _, number: number, count(100, 1000))

    assert errors == []
    assert list(storage.root.iterdir()) == []


def test_of_processes_that_replace_one_version_exactly_one_wins(tmp_path):
    """Eight processes count in one file with if_match: no step is lost and none is made twice."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.write("number.txt", b"0")
    rounds = count(15, 100)

    wins = run_concurrently(increment, str(storage.root), rounds)

    assert sorted(wins) == list(range(1, 8 * rounds + 1))
    assert storage.read("number.txt") == str(8 * rounds).encode()


def test_of_processes_that_create_one_file_exactly_one_wins(tmp_path):
    """Eight processes create the same names exclusively at the same moment."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    rounds = count(25, 200)
    barrier = multiprocessing.get_context("spawn").Barrier(8)

    wins = run_concurrently(create, str(storage.root), lambda _, number: number, barrier, rounds)

    assert sorted(wins) == list(range(rounds))


def test_threads_that_move_files_past_each_other_do_not_lock_each_other_out(tmp_path):
    """Two directories, files going both ways at once: each deed takes both locks, in the same order."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("a/0.txt", b"0")
    storage.write("b/1.txt", b"1")

    def ferry(name, here, there):
        for _ in range(count(200, 5000)):
            storage.move(f"{here}/{name}", f"{there}/{name}", if_match=None)
            storage.move(f"{there}/{name}", f"{here}/{name}")

    ways = [("0.txt", "a", "b"), ("1.txt", "b", "a")]
    in_threads(lambda number: ferry(*ways[number]), len(ways))

    assert [entry.name for entry in storage.list()] == ["a/0.txt", "b/1.txt"]


def test_both_ways_between_two_folders_take_the_locks_in_one_order(tmp_path, monkeypatch):
    """Whichever directory a file comes from: who locks them the other way round waits for ever, on some unlucky day."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    for path in ("a/0.txt", "b/1.txt", "a/stays.txt", "b/stays.txt"):
        storage.write(path, b"")
    locked: list[int] = []
    flock = fcntl.flock

    def watched(fd, how):
        if how & fcntl.LOCK_EX:
            locked.append(os.fstat(fd).st_ino)
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", watched)
    storage.move("a/0.txt", "b/0.txt")
    there, locked = locked, []
    storage.move("b/1.txt", "a/1.txt")

    assert sorted(there) == sorted((storage.root / directory).stat().st_ino for directory in "ab")
    assert there == locked


@pytest.mark.parametrize("verb", ["delete", "delete_prefix"])
def test_a_delete_waits_for_a_publication_that_compares(tmp_path, monkeypatch, verb):
    """Between comparing and publishing nothing is deleted: the version that was named is the one that is replaced."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("d/a.txt", b"old")
    tag = storage.stat("d/a.txt").etag
    went_on = threading.Event()  # the deletion waits for the lock, or is done without it
    flock, rename = fcntl.flock, os.rename

    def delete():
        getattr(storage, verb)("d/a.txt" if verb == "delete" else "d")
        went_on.set()

    deleting = threading.Thread(target=delete, daemon=True)

    def watched(fd, how):
        if threading.current_thread() is deleting:
            went_on.set()
        flock(fd, how)

    def slow(*args, **options):
        deleting.start()
        assert went_on.wait(TIMEOUT)
        found.append((storage.root / "d/a.txt").exists())
        rename(*args, **options)

    found: list[bool] = []
    monkeypatch.setattr(fcntl, "flock", watched)
    monkeypatch.setattr(os, "rename", slow)
    storage.write("d/a.txt", b"new", if_match=tag)
    deleting.join(TIMEOUT)

    assert found == [True]
    assert not deleting.is_alive()
    assert storage.list() == []


def test_two_uploads_that_are_discarded_or_finished_at_once_end_well(tmp_path):
    """Whoever comes second finds it done."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    errors = []

    def discard(upload_id):
        try:
            storage.multipart.abort("a.bin", upload_id)
        except StorageError as error:
            errors.append(error)

    for _ in range(50):
        upload_id = storage.multipart.create("a.bin", WriteOptions())
        storage.multipart.upload_part("a.bin", upload_id, 1, b"1")
        threads = [threading.Thread(target=discard, args=(upload_id,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert errors == []
    assert list(storage.root.iterdir()) == []
