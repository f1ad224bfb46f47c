"""One S3 storage for many threads and processes: no error, no mixture, no more connections than were allowed."""

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
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from flask import Flask

from flask_storage import Storage, send_stored_file
from flask_storage.errors import (
    FileExistsInStorageError,
    IntegrityError,
    PreconditionFailedError,
    UnsupportedOperationError,
)
from flask_storage.testing.together import PATIENCE, together
from flask_storage.values import WriteOptions
from tests.counts import count
from tests.plain_client import send
from tests.s3_places import place

from .services.web_servers import free_port

pytest_plugins = ["tests.services.localstack", "tests.services.rgw"]

THREADS = 50
OPERATIONS = count(10, 100)
CHILDREN = 2
PROJECT = Path(__file__).parents[1]
CONFIGURATION = "S3_SHARING_PROFILE"
PREFORK = b"used before the fork"


@pytest.fixture
def storage(rgw):
    """An empty storage that may have fewer connections than there are threads."""
    return place(rgw, max_connections=10)


def _mixed_work(storage, where, threads=THREADS):
    """Every verb on a thread's own files, in an order of its own, against a dictionary of its own."""

    def work(number):
        chosen = random.Random(number)
        folder = f"{where}/thread {number}"
        expected = {}
        for turn in range(OPERATIONS):
            path, other = f"{folder}/{chosen.choice('abc')}", f"{folder}/deep/{chosen.choice('abc')}"
            content = f"{where} {number} {turn} ".encode() * chosen.randrange(1, 500)
            match chosen.randrange(8):
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
                    assert {entry.name for entry in storage.list(folder)} == set(expected)
        _find(storage, expected)

    together(work, threads)


def _read_in_pieces(storage, path, content):
    with storage.open(path, "r") as reader:
        reader.seek(5)
        assert reader.read() == content[5:]
    assert storage.size(path) == len(content)


def _find(storage, expected):
    for path, content in expected.items():
        assert storage.read(path) == content
        answer = send(storage.link_to(path, "download", timedelta(hours=1)), "GET")
        assert (answer.status, answer.body) == (200, content)


class _Sockets:
    """Counts how many connections this process has to a server, again and again while the block lasts."""

    def __init__(self, server):
        self._port = urlsplit(server.http).port
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.most = 0

    def __enter__(self):
        self._before = self._now()
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._watcher.join()

    def _watch(self):
        while not self._ended.wait(0.005):
            self.most = max(self.most, len(self._now() - self._before))

    def _now(self):
        ours = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                ours.add(os.readlink(f"/proc/self/fd/{name}"))
        lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
        to_server = {f"socket:[{line[9]}]" for line in lines if int(line[2].rpartition(":")[2], 16) == self._port}
        return ours & to_server


def test_fifty_threads_share_one_storage(storage):
    """Each thread finds exactly its own files, and nobody waits for ever."""
    _mixed_work(storage, "here")

    assert all(entry.name.startswith("here/thread ") for entry in storage.list())


def test_threads_have_no_more_connections_than_were_allowed(rgw):
    """Fifty threads, five connections: they take turns."""
    storage = place(rgw, max_connections=5)
    storage.write("shared", b"x" * 100_000)

    def work(number):
        for turn in range(count(4, 40)):
            storage.write(f"own/{number}", str(turn).encode())
            assert storage.read(f"own/{number}") == str(turn).encode()
            assert len(storage.read("shared")) == 100_000
            assert storage.list(f"own/{number}") == []

    with _Sockets(rgw) as sockets:
        together(work, THREADS)

    assert 1 < sockets.most <= 5


def test_large_files_and_small_ones_share_connections(rgw):
    """Parts that are sent at once and ranges that are fetched ahead take their turns with everything else."""
    storage = place(rgw, max_connections=4, chunk_size=5 * 1024 * 1024, concurrency=4)
    large = random.Random(3).randbytes(21 * 1024 * 1024)

    def work(number):
        if number % 4:
            for turn in range(count(10, 50)):
                storage.write(f"small/{number}", str(turn).encode())
                assert storage.read(f"small/{number}") == str(turn).encode()
        else:
            storage.write(f"large/{number}", large)
            assert hashlib.sha256(storage.read(f"large/{number}")).digest() == hashlib.sha256(large).digest()

    with _Sockets(rgw) as sockets:
        together(work, 8)

    assert sockets.most <= 4
    assert list(storage.parts.list_uploads()) == []


def _in_a_child(storage, where):
    try:
        assert storage.read("before.bin") == PREFORK
        _mixed_work(storage, where, threads=20)
        assert storage.read("before.bin") == PREFORK
    except BaseException:  # noqa: BLE001 - a child that leaves by an exception would run the rest of the tests
        traceback.print_exc()
        sys.exit(1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_forked_children_share_one_storage(storage):
    """A storage that was used before the fork works in every child, and in the parent beside them."""
    storage.write("before.bin", PREFORK)
    assert together(lambda number: storage.read("before.bin"), 20) == [PREFORK] * 20  # as many connections as allowed
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_in_a_child, args=(storage, f"child {number}")) for number in range(CHILDREN)]

    for child in children:
        child.start()
    try:
        _mixed_work(storage, "parent", threads=20)
        for child in children:
            child.join(2 * PATIENCE)  # a child gives up on its threads before we give up on it
        ends = [child.exitcode for child in children]
    finally:
        for child in children:
            child.kill()

    assert ends == [0] * CHILDREN
    assert {entry.name.partition("/")[0] for entry in storage.list()} == {"before.bin", "parent", "child 0", "child 1"}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_inherits_a_storage_that_other_threads_are_using(storage):
    """What they held at that moment, a lock or a connection, keeps the child from nothing."""
    storage.write("before.bin", PREFORK)
    ended = threading.Event()
    busy = threading.Barrier(11)

    def use(number):
        storage.read("before.bin")
        busy.wait(PATIENCE)
        while not ended.is_set():
            assert storage.read("before.bin") == PREFORK

    threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(10)]
    for thread in threads:
        thread.start()
    busy.wait(PATIENCE)
    fork = multiprocessing.get_context("fork")
    ends = []

    for _ in range(count(5, 50)):
        child = fork.Process(target=_read_once, args=(storage,))
        child.start()
        child.join(PATIENCE)
        ends.append(child.exitcode)
        child.kill()
    ended.set()
    for thread in threads:
        thread.join(PATIENCE)

    assert set(ends) == {0}
    assert not any(thread.is_alive() for thread in threads)


def _read_once(storage):
    os._exit(0 if storage.read("before.bin") == PREFORK else 1)


# -- behind a real server ------------------------------------------------------------------------------------------


def make_app():
    """The app that gunicorn loads before it forks; it uses its storage at once."""
    app = Flask(__name__, instance_path=str(Path.cwd() / "instance"))
    app.config.update(
        SECRET_KEY="a secret that nobody needs",
        STORAGE_PROFILES={"files": json.loads(os.environ[CONFIGURATION])},
    )
    Storage(app)
    with app.app_context():
        assert app.extensions["storage"].default.read("before.bin") == PREFORK

    @app.get("/files/<path:path>")
    def serve(path):
        answer = send_stored_file(app.extensions["storage"].default, path)
        answer.headers["Worker"] = str(os.getpid())
        return answer

    return app


@contextlib.contextmanager
def _gunicorn(profile, folder):
    """Run the app under gunicorn, and give its port."""
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "gunicorn", "--log-level", "warning", "--bind", f"127.0.0.1:{port}", "--preload"]
    command += ["--workers", "2", "--worker-class", "gthread", "--threads", "8", f"{__name__}:make_app()"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), CONFIGURATION: json.dumps(profile)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text("utf-8", "replace")
            assert time.monotonic() < deadline, "the server did not start"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 5).close()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_an_app_that_is_loaded_before_the_workers_serves_from_all_of_them(rgw, tmp_path):
    """Whole files and pieces of them, each to the one who asked, from workers that share what the parent made."""
    storage = place(rgw)
    storage.write("before.bin", PREFORK)
    contents = {f"{number}.bin": random.Random(number).randbytes(300_000 + number) for number in range(8)}
    for path, content in contents.items():
        storage.write(path, content)
    profile = {
        "backend": "s3",
        "bucket": storage.bucket,
        "aws_region": rgw.region,
        "endpoint_url": rgw.http,
        "aws_access_key_id": rgw.access_key,
        "aws_secret_access_key": rgw.secret_key,
        "preset": rgw.preset,
        "addressing_style": "path",
    }

    def work(number):
        workers, content = set(), contents[f"{number % 8}.bin"]
        for turn in range(count(10, 100)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            headers = {"Range": "bytes=1000-199999"} if turn % 2 else {}
            connection.request("GET", f"/files/{number % 8}.bin", headers=headers)
            with contextlib.closing(connection), connection.getresponse() as answer:
                assert answer.read() == (content[1000:200_000] if turn % 2 else content)
                assert answer.status == (206 if turn % 2 else 200)
                workers.add(answer.headers["Worker"])
        return workers

    with _gunicorn(profile, tmp_path) as port:
        workers = set().union(*together(work, 16))
        log = (tmp_path / "server.log").read_text("utf-8", "replace")

    assert len(workers) == 2
    assert "Traceback" not in log


# -- one file for many writers ---------------------------------------------------------------------------------------


def _version(number, turn):
    body = f"writer {number}, round {turn}; ".encode() * (500 + 37 * number + turn)
    return hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(("name", "mixes"), [("rgw", False), ("localstack", True)])
def test_every_read_is_one_complete_version(request, name, mixes):
    """Eight write one path again and again, four read it: what is read always belongs together.

    LocalStack answers with the bytes of one version and the headers of another now and then; that is found out.
    """
    storage = place(request.getfixturevalue(name))
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

    reads = together(work, 12)[8:]

    assert all(reads)
    assert storage.read("file.bin") in {_version(number, rounds - 1) for number in range(8)}
    assert [entry.name for entry in storage.list()] == ["file.bin"]


def test_every_read_of_a_large_file_is_one_complete_version(rgw):
    """Also when it is written in parts and read in ranges; a reader that is overtaken is told."""
    size = 11 * 1024 * 1024
    storage = place(rgw, chunk_size=5 * 1024 * 1024)
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
            except PreconditionFailedError:
                outcomes.append(None)
        return outcomes

    outcomes = together(work, 3)

    assert False not in [outcome for each in outcomes for outcome in each]
    assert storage.read("file.bin") in versions
    assert list(storage.parts.list_uploads()) == []


@pytest.mark.parametrize("verb", ["write", "copy", "move", "finish"])
def test_exactly_one_of_eight_creates(localstack, verb):
    """Of eight that create one name at the same moment one wins, and its content is what is there."""
    storage = place(localstack)
    exclusive = WriteOptions(exclusive=True)
    for turn in range(count(3, 50)):
        path, uploads = f"round {turn}/new.bin", {}
        for number in range(8):
            storage.write(f"sources/{number}", str(number).encode())
            if verb == "finish":
                upload_id = storage.parts.begin(path, WriteOptions())
                uploads[number] = upload_id, storage.parts.put_part(path, upload_id, 1, str(number).encode())

        def create(number, path=path, uploads=uploads):
            try:
                if verb == "write":
                    storage.write(path, str(number).encode(), exclusive=True)
                elif verb == "finish":
                    upload_id, part = uploads[number]
                    storage.parts.finish(path, upload_id, [part], exclusive)
                else:
                    getattr(storage, verb)(f"sources/{number}", path, exclusive=True)
            except FileExistsInStorageError:
                return False
            return True

        won = together(create, 8)

        assert won.count(True) == 1
        # A copy that LocalStack refuses has overwritten the bytes all the same: the answers are right, the file is not.
        if verb in ("write", "finish"):
            assert storage.read(path) == str(won.index(True)).encode()


def test_create_only_is_refused_where_it_would_be_a_guess(rgw):
    """This Ceph does not look at the condition when an upload in parts ends: no storage promises it there."""
    storage = place(rgw)

    with pytest.raises(UnsupportedOperationError, match="refuse a taken name atomically"):
        storage.write("a", b"1", exclusive=True)

    assert storage.list() == []
