"""One SFTP storage for many threads and processes: no errors, no mixed content, no more connections than allowed."""

import threading
from contextlib import ExitStack

import pytest

from flask_storage.errors import StorageError, StorageTimeoutError
from flask_storage.testing.concurrency import run_concurrently
from tests.concurrent_use import (
    CHILDREN,
    Sockets,
    create_concurrently,
    fork_while_threads_use,
    mixed_work,
    serve_from_workers,
    share_connections_between_large_and_small,
    use_few_connections,
    work_in_forked_children,
    write_and_read_one_large_path,
    write_and_read_one_path,
)
from tests.counts import count
from tests.sftp_storages import make_storage, pooled_session, temporary_files

pytest_plugins = ["tests.services.openssh"]

MIB = 1024 * 1024


@pytest.fixture
def storage(openssh):
    """An empty storage that may have fewer sessions than the tests have threads."""
    storage = make_storage(openssh, max_connections=2, max_sessions=8)
    yield storage
    storage.close()


def test_fifty_threads_share_one_storage(storage):
    """Each thread reads exactly its own files, and none blocks for ever."""
    mixed_work(storage, "here")

    assert all(entry.name.startswith("here/thread ") for entry in storage.list())


def test_threads_use_at_most_max_connections(openssh):
    """Fifty threads share two connections."""
    storage = make_storage(openssh, max_connections=2, max_sessions=4)

    with Sockets(f"ssh://127.0.0.1:{openssh.port}") as sockets:
        use_few_connections(storage)

    assert sockets.most <= 2
    storage.close()


def test_an_idle_connection_that_is_dead_is_detected_before_it_is_used(make_openssh):
    """As after a firewall dropped it. Its other sessions are not tried one by one."""
    server = make_openssh()
    storage = make_storage(server, read_timeout=2, fsync=False)
    writers = [storage.open(f"{number}.txt", "w") for number in range(3)]
    for writer in writers:  # each in a session of its own
        writer.close()
    pool = storage._pool()
    pool._recheck_after = 0

    server.freeze()
    storage.write("b.txt", b"written later")

    assert storage.read("b.txt") == b"written later"
    assert len(pool._connections) == 1
    assert server.log.count("Accepted publickey") == 2
    storage.close()


def test_a_connection_that_stalls_delays_one_operation_only(make_openssh):
    """Its other sessions are checked before they are used, and no new one is opened on it, even if a file is open."""
    server = make_openssh()
    storage = make_storage(server, read_timeout=2, fsync=False)
    for number in range(4):
        storage.write(f"{number}.txt", bytes(MIB))
    readers = [storage.open(f"{number}.txt", "r") for number in range(4)]
    for reader in readers[1:]:  # each in a session of its own, of which three are idle now
        reader.close()

    server.freeze()
    with pytest.raises(StorageTimeoutError):
        storage.exists("1.txt")

    assert [storage.exists(f"{number}.txt") for number in range(4)] == [True] * 4
    readers[0].close()
    storage.close()


def test_all_writers_on_a_connection_that_stalls_raise_an_error(make_openssh):
    """Although the send buffers are full, and paramiko sends for one thread at a time."""
    server = make_openssh()
    storage = make_storage(server, read_timeout=2, max_connections=1)
    ready, frozen = threading.Barrier(6), threading.Event()

    def work(number):
        with storage.open(f"{number}.bin", "w") as writer:
            writer.write(bytes(3 * MIB))
            ready.wait(30)
            if not number:
                server.freeze()
                frozen.set()
            frozen.wait(30)
            try:
                writer.write(bytes(20 * MIB))
            except StorageError:
                return True
        return False

    assert run_concurrently(work, 6) == [True] * 6
    assert not storage.exists("0.bin")
    storage.close()


def test_iterations_that_are_closed_early_do_not_disturb_other_threads(openssh):
    """Their sessions are not reused before they are cleaned up."""
    storage = make_storage(openssh, max_connections=1, max_sessions=4)
    for number in range(60):
        storage.write(f"d{number % 20}/{number}.txt", str(number).encode())

    def work(number):
        for turn in range(count(20, 200)):
            if number:
                assert storage.read(f"d{turn % 20}/{turn % 60}.txt") == str(turn % 60).encode()
            else:
                assert next(storage.iter("")).name

    run_concurrently(work, 4)
    storage.close()


def test_a_thousand_small_files_need_one_connection(openssh):
    """It is kept open and reused."""
    storage = make_storage(openssh)

    before = openssh.log.count("Accepted publickey")
    for number in range(count(100, 1000)):
        storage.write(f"{number}.txt", b"small")
        assert storage.read(f"{number}.txt") == b"small"

    assert openssh.log.count("Accepted publickey") == before + 1
    storage.close()


def test_large_and_small_files_share_connections(openssh):
    """Parallel uploads and read-ahead leave sessions for other operations."""
    storage = make_storage(openssh, max_connections=2, max_sessions=6)

    with Sockets(f"ssh://127.0.0.1:{openssh.port}") as sockets:
        share_connections_between_large_and_small(storage, 9 * MIB)

    assert sockets.most <= 2
    storage.close()


def test_open_files_do_not_block_other_operations(openssh, monkeypatch):
    """However many there are: they share sessions, and each continues with the version that it has opened."""
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    storage = make_storage(openssh, max_connections=1, max_sessions=2, connect_timeout=2, read_timeout=2)
    content = bytes(range(256)) * 3 * 4096
    storage.write("a", content)
    storage.write("z/1", b"1")
    with ExitStack() as stack:
        readers = [stack.enter_context(storage.open("a", "r")) for _ in range(12)]
        starts = [reader.read(MIB + 10 * number) for number, reader in enumerate(readers)]
        writers = [stack.enter_context(storage.open(f"{number}.bin", "w")) for number in range(3)]
        for writer in writers:
            writer.write(content)
        updater = stack.enter_context(storage.open("a", "rw"))
        entries = storage.iter("")

        storage.write("a", b"other")
        storage.copy("a", "d/b")
        storage.move("d/b", "c")
        updater.write(b"new")

        assert next(entries).name in {"a", "c"}
        assert storage.read("c") == b"other"
        assert [start + reader.read() for start, reader in zip(starts, readers, strict=True)] == [content] * 12
        assert storage._pool()._connections[0].session_count == 2
    assert "z/1" in [entry.name for entry in entries]
    assert [storage.read(f"{number}.bin") for number in range(3)] == [content] * 3
    assert storage.read("a") == b"new" + content[3:]
    storage.close()


def test_an_open_file_waits_for_an_operation_that_uses_its_session(openssh):
    """Until the time-out, which raises an error; the file stays open."""
    storage = make_storage(openssh, max_connections=1, max_sessions=1)
    storage.write("a", bytes(MIB))
    with storage.open("a", "r") as reader:
        with pooled_session(storage):
            storage._pool()._acquire_timeout = 0.1
            with pytest.raises(StorageTimeoutError, match="the session of the open file is in use"):
                reader.read()
        assert reader.read() == bytes(MIB)
        with pooled_session(storage):
            reader.close()  # the other operation closes the file on the server when it ends

    assert not any(storage._pool()._kept.values())
    storage.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_forked_children_share_one_storage(storage):
    """A storage that was used before the fork works in every child, and in the parent."""
    ends = work_in_forked_children(storage)

    assert ends == [0] * CHILDREN
    assert {entry.name.partition("/")[0] for entry in storage.list()} == {"before.bin", "parent", "child 0", "child 1"}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_can_use_a_storage_that_other_threads_were_using(storage):
    """Locks and connections that these threads held do not block the child."""
    assert set(fork_while_threads_use(storage)) == {0}


def test_a_preloaded_app_serves_from_all_workers(openssh, tmp_path):
    """Whole files and ranges, with a storage that the parent has used."""
    storage = make_storage(openssh)
    profile = {"backend": "sftp", "root": storage.root, **openssh.login}

    workers, log = serve_from_workers(storage, profile, tmp_path)

    assert len(workers) == 2
    assert "Traceback" not in log
    storage.close()


# -- concurrent writes to one file ------------------------------------------------------------------------------------


def test_every_read_returns_one_complete_version(storage):
    """Eight threads write one path, and four read it."""
    write_and_read_one_path(storage)


def test_every_read_of_a_large_file_returns_one_complete_version(openssh):
    """Also if it is written in parts and read in ranges."""
    storage = make_storage(openssh)

    write_and_read_one_large_path(storage, 9 * MIB)

    storage.close()


@pytest.mark.parametrize("operation", ["write", "copy", "move", "complete"])
def test_one_of_eight_exclusive_writes_succeeds(storage, operation):
    """Its content is stored."""
    for turn in range(count(3, 50)):
        won = create_concurrently(storage, operation, f"round {turn}/new.bin")

        assert won.count(True) == 1
        assert storage.read(f"round {turn}/new.bin") == str(won.index(True)).encode()


def test_directories_that_are_removed_concurrently_do_not_disturb_writes(storage):
    """Threads write to directories while others delete their last file."""

    def work(number):
        for turn in range(count(20, 200)):
            path = f"a/b/{turn % 3}/{number}.txt"
            storage.write(path, b"1")
            assert storage.read(path) == b"1"
            storage.delete(path)

    run_concurrently(work, 6)

    assert storage.list() == []
    assert temporary_files(storage) == []
