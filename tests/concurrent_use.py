"""Concurrent use of one remote storage by threads and processes: the workloads and their checks, for every backend."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Flask

from flask_storage import Storage, send_stored_file
from flask_storage.backends.internal_links import InternalLinksStorageBackend
from flask_storage.errors import (
    FileExistsInStorageError,
    IntegrityError,
    PreconditionFailedError,
)
from flask_storage.testing.concurrency import TIMEOUT, run_concurrently
from flask_storage.types import WriteOptions
from tests.counts import count
from tests.plain_client import send

THREADS = 50
OPERATIONS = count(10, 30)
CHILDREN = 2
PROJECT = Path(__file__).parents[1]
CONFIGURATION = "SHARING_PROFILE"
PREFORK = b"used before the fork"


# -- threads ----------------------------------------------------------------------------------------------------------


def mixed_work(storage, where, threads=THREADS):
    """Run random operations in many threads, each on its own files, and compare them with a dictionary.

    Args:
        storage: The storage.
        where: The directory of the files.
        threads: The number of threads.
    """

    def work(number):
        rng = random.Random(number)
        directory = f"{where}/thread {number}"
        expected = {}
        for turn in range(OPERATIONS):
            path, other = f"{directory}/{rng.choice('abc')}", f"{directory}/deep/{rng.choice('abc')}"
            content = f"{where} {number} {turn} ".encode() * rng.randrange(1, 500)
            match rng.randrange(8):
                case 0:
                    storage.write(path, content)
                    expected[path] = content
                case 1:
                    with storage.open(path, "w") as writer:
                        writer.write(content)
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
                    _read_in_pieces(storage, path, expected[path])
                case _:
                    assert storage.exists(path) is (path in expected)
                    assert {entry.name for entry in storage.list(directory)} == set(expected)
        _check_contents(storage, expected)

    run_concurrently(work, threads)


def _read_in_pieces(storage, path, content):
    with storage.open(path, "r") as reader:
        reader.seek(5)
        assert reader.read() == content[5:]
    assert storage.size(path) == len(content)


def _check_contents(storage, expected):
    for path, content in expected.items():
        assert storage.read(path) == content
        if not isinstance(storage, InternalLinksStorageBackend):  # its links need a running app
            response = send(storage.link_to(path, "download", timedelta(hours=1)), "GET")
            assert (response.status, response.body) == (200, content)


class Sockets:
    """Samples the number of connections of this process to a server while the block runs."""

    def __init__(self, url):
        self._port = urlsplit(url).port
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.most = 0

    def __enter__(self):
        self._before = self._current()
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._watcher.join()

    def _watch(self):
        while not self._ended.wait(0.005):
            self.most = max(self.most, len(self._current() - self._before))

    def _current(self):
        sockets = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed concurrently
                sockets.add(os.readlink(f"/proc/self/fd/{name}"))
        lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
        to_server = {f"socket:[{line[9]}]" for line in lines if int(line[2].rpartition(":")[2], 16) == self._port}
        return sockets & to_server


def use_few_connections(storage):
    """Use a storage that has fewer connections than threads in fifty threads."""
    storage.write("shared", b"x" * 100_000)

    def work(number):
        for turn in range(count(4, 40)):
            storage.write(f"own/{number}", str(turn).encode())
            assert storage.read(f"own/{number}") == str(turn).encode()
            assert len(storage.read("shared")) == 100_000
            assert storage.list(f"own/{number}") == []

    run_concurrently(work, THREADS)


def share_connections_between_large_and_small(storage, size):
    """Use a storage in eight threads, two of them with files of *size* bytes."""
    large = random.Random(3).randbytes(size)

    def work(number):
        if number % 4:
            for turn in range(count(10, 50)):
                storage.write(f"small/{number}", str(turn).encode())
                assert storage.read(f"small/{number}") == str(turn).encode()
        else:
            storage.write(f"large/{number}", large)
            assert hashlib.sha256(storage.read(f"large/{number}")).digest() == hashlib.sha256(large).digest()

    run_concurrently(work, 8)


# -- processes --------------------------------------------------------------------------------------------------------


def work_in_forked_children(storage):
    """Use a storage before a fork, and then in the parent and the children; return the children's exit codes."""
    storage.write("before.bin", PREFORK)
    # Open as many connections as allowed.
    assert run_concurrently(lambda number: storage.read("before.bin"), 20) == [PREFORK] * 20
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_in_a_child, args=(storage, f"child {number}")) for number in range(CHILDREN)]

    for child in children:
        child.start()
    try:
        mixed_work(storage, "parent", threads=20)
        for child in children:
            child.join(2 * TIMEOUT)  # longer than the time-out of the child's threads
        return [child.exitcode for child in children]
    finally:
        for child in children:
            child.kill()


def _in_a_child(storage, where):
    try:
        assert storage.read("before.bin") == PREFORK
        mixed_work(storage, where, threads=20)
        assert storage.read("before.bin") == PREFORK
    except BaseException:  # noqa: BLE001 - a child that raised it would run the rest of the tests
        traceback.print_exc()
        sys.exit(1)


def fork_while_threads_use(storage):
    """Fork repeatedly while ten threads read; each child reads once. Return the exit codes of the children."""
    storage.write("before.bin", PREFORK)
    ended = threading.Event()
    busy = threading.Barrier(11)

    def use(number):
        storage.read("before.bin")
        busy.wait(TIMEOUT)
        while not ended.is_set():
            assert storage.read("before.bin") == PREFORK

    threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(10)]
    for thread in threads:
        thread.start()
    busy.wait(TIMEOUT)
    fork = multiprocessing.get_context("fork")
    exit_codes = []

    for _ in range(count(5, 50)):
        child = fork.Process(target=_read_once, args=(storage,))
        child.start()
        child.join(TIMEOUT)
        exit_codes.append(child.exitcode)
        child.kill()
    ended.set()
    for thread in threads:
        thread.join(TIMEOUT)

    assert not any(thread.is_alive() for thread in threads)
    return exit_codes


def _read_once(storage):
    os._exit(0 if storage.read("before.bin") == PREFORK else 1)


# -- behind a real server ---------------------------------------------------------------------------------------------


def make_app():
    """The app that gunicorn loads before it forks; it uses its storage while it is loaded."""
    app = Flask(__name__, instance_path=str(Path.cwd() / "instance"))
    app.config.update(
        SECRET_KEY="not used",
        STORAGE_PROFILES={"files": json.loads(os.environ[CONFIGURATION])},
    )
    Storage(app)
    with app.app_context():
        assert app.extensions["storage"].default.read("before.bin") == PREFORK

    @app.get("/files/<path:path>")
    def serve(path):
        response = send_stored_file(app.extensions["storage"].default, path)
        response.headers["Worker"] = str(os.getpid())
        return response

    return app


@contextlib.contextmanager
def _gunicorn(profile: dict[str, Any], directory: Path) -> Iterator[int]:
    """Run the app under gunicorn, and yield its port."""
    log = directory / "server.log"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), CONFIGURATION: json.dumps(profile)}
    # The socket exists before the server: no other process can take the port, and early requests wait in the backlog.
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--log-level", "warning", "--bind", f"fd://{listener.fileno()}"]
        command += ["--preload", "--workers", "2", "--worker-class", "gthread", "--threads", "8"]
        process = subprocess.Popen(
            [*command, f"{__name__}:make_app()"],
            cwd=directory,
            env=environment,
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=output,
        )
    try:
        yield port
    except BaseException:
        sys.stderr.write(log.read_text("utf-8", "replace"))
        raise
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve_from_workers(storage, profile, directory):
    """Request files and ranges from an app that was loaded before its workers, many concurrently.

    Args:
        storage: The storage of the files.
        profile: The profile by which the app accesses the same files.
        directory: The working directory of the app.

    Returns:
        The process ids of the workers that responded, and the log of the server.
    """
    storage.write("before.bin", PREFORK)
    contents = {f"{number}.bin": random.Random(number).randbytes(300_000 + number) for number in range(8)}
    for path, content in contents.items():
        storage.write(path, content)

    def request(number, is_range):
        content = contents[f"{number}.bin"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        connection.request("GET", f"/files/{number}.bin", headers={"Range": "bytes=1000-199999"} if is_range else {})
        with contextlib.closing(connection), connection.getresponse() as response:
            assert response.read() == (content[1000:200_000] if is_range else content)
            assert response.status == (206 if is_range else 200)
            return response.headers["Worker"]

    def work(number):
        return {request(number % 8, turn % 2) for turn in range(count(10, 100))}

    with _gunicorn(profile, directory) as port:
        workers = set().union(*run_concurrently(work, 16))
        deadline = time.monotonic() + TIMEOUT
        while len(workers) < 2 and time.monotonic() < deadline:  # one may have been slow to start
            workers.add(request(0, False))
            time.sleep(0.1)
        log = (directory / "server.log").read_text("utf-8", "replace")
    return workers, log


# -- one file for many writers ----------------------------------------------------------------------------------------


def _version(number, turn):
    body = f"writer {number}, round {turn}; ".encode() * (500 + 37 * number + turn)
    return hashlib.sha256(body).digest() + body


def write_and_read_one_path(storage, *, mixes=False, replaced_errors=()):
    """Write one path repeatedly in eight threads while four read it: every read must return one version.

    Args:
        storage: The storage.
        mixes: Whether the server may mix versions; then the read must be an error.
        replaced_errors: The errors of a reader whose file was replaced concurrently.
    """
    rounds = count(8, 50)
    storage.write("file.bin", _version(0, 0))
    finished = threading.Event()
    writing = set(range(8))

    def work(number):
        if number >= 8:
            reads = 0
            while not finished.is_set() or not reads:
                try:
                    content = storage.read("file.bin")
                except replaced_errors:
                    continue
                except IntegrityError:
                    assert mixes
                    continue
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


def write_and_read_one_large_path(storage, size, replaced_errors=PreconditionFailedError):
    """Write a file of several parts repeatedly while two threads read it: a read is one version or an error."""
    versions = [bytes([65 + number]) * size for number in range(3)]
    storage.write("file.bin", versions[0])
    finished = threading.Event()

    def work(number):
        outcomes: list[bool | None] = []
        if number == 0:
            for turn in range(count(6, 30)):
                storage.write("file.bin", versions[turn % 3])
            finished.set()
            return outcomes
        while not finished.is_set():
            try:
                outcomes.append(storage.read("file.bin") in versions)
            except replaced_errors:
                outcomes.append(None)
        return outcomes

    outcomes = run_concurrently(work, 3)

    assert False not in [outcome for outcomes_of_thread in outcomes for outcome in outcomes_of_thread]
    assert storage.read("file.bin") in versions
    assert list(storage.multipart.list_uploads()) == []


def create_concurrently(storage, operation, path):
    """Create one file in eight threads concurrently; return for each whether it succeeded. The content is its number.

    Args:
        storage: The storage.
        operation: ``"write"``, ``"copy"``, ``"move"`` or ``"complete"``.
        path: The path.
    """
    exclusive = WriteOptions(exclusive=True)
    uploads, multipart = {}, storage.multipart
    for number in range(8):
        storage.write(f"sources/{number}", str(number).encode())
        if operation == "complete":
            upload_id = multipart.create(path, WriteOptions())
            uploads[number] = upload_id, multipart.upload_part(path, upload_id, 1, str(number).encode())

    def create(number):
        try:
            if operation == "write":
                storage.write(path, str(number).encode(), exclusive=True)
            elif operation == "complete":
                upload_id, part = uploads[number]
                multipart.complete(path, upload_id, [part], exclusive)
            else:
                getattr(storage, operation)(f"sources/{number}", path, exclusive=True)
        except FileExistsInStorageError:
            return False
        return True

    return run_concurrently(create, 8)
