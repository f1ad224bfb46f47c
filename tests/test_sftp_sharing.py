"""One SFTP storage for many threads and processes: no error, no mixture, no more connections than were allowed."""

import threading

import pytest

from flask_storage.errors import StorageError, StorageTimeoutError
from flask_storage.testing.concurrency import run_concurrently
from tests.counts import count
from tests.sftp_storages import make_storage, temporary_files
from tests.sharing import (
    CHILDREN,
    Sockets,
    create_at_once,
    fork_while_threads_use,
    mixed_work,
    serve_from_workers,
    share_among_large_and_small,
    take_turns,
    work_in_forked_children,
    write_and_read_one_large_name,
    write_and_read_one_name,
)

pytest_plugins = ["tests.services.openssh"]

MIB = 1024 * 1024


@pytest.fixture
def storage(openssh):
    """An empty storage that may have fewer sessions than there are threads."""
    storage = make_storage(openssh, max_connections=2, max_sessions=8)
    yield storage
    storage.close()


def test_fifty_threads_share_one_storage(storage):
    """Each thread finds exactly its own files, and nobody waits for ever."""
    mixed_work(storage, "here")

    assert all(entry.name.startswith("here/thread ") for entry in storage.list())


def test_threads_have_no_more_connections_than_were_allowed(openssh):
    """Fifty threads, two connections: they take round_trips."""
    storage = make_storage(openssh, max_connections=2, max_sessions=4)

    with Sockets(f"ssh://127.0.0.1:{openssh.port}") as sockets:
        take_turns(storage)

    assert sockets.most <= 2
    storage.close()


def test_a_line_that_went_dead_while_it_was_idle_is_noticed_before_it_is_used(make_openssh):
    """As when a firewall forgot it; nothing is lost, and what else it carried is not tried one by one."""
    server = make_openssh()
    storage = make_storage(server, read_timeout=5, fsync=False)
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


def test_a_line_that_stalls_costs_one_verb_its_time(make_openssh):
    """What else it carries is asked before it is used, and nothing is begun on it, also while a file is open there."""
    server = make_openssh()
    storage = make_storage(server, read_timeout=5, fsync=False)
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


def test_many_writers_on_a_line_that_stalls_are_all_given_up(make_openssh):
    """Although more is under way than the line holds, and paramiko sends for one of them at a time."""
    server = make_openssh()
    storage = make_storage(server, read_timeout=5, max_connections=1)
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


def test_listings_that_are_left_early_disturb_nobody(openssh):
    """Their sessions are not lent while they are still cleared up."""
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
    """It is kept, and used again and again."""
    storage = make_storage(openssh)

    before = openssh.log.count("Accepted publickey")
    for number in range(count(100, 1000)):
        storage.write(f"{number}.txt", b"small")
        assert storage.read(f"{number}.txt") == b"small"

    assert openssh.log.count("Accepted publickey") == before + 1
    storage.close()


def test_large_files_and_small_ones_share_connections(openssh):
    """What is written through several sessions and read ahead takes its round_trips with everything else."""
    storage = make_storage(openssh, max_connections=2, max_sessions=6)

    with Sockets(f"ssh://127.0.0.1:{openssh.port}") as sockets:
        share_among_large_and_small(storage, 9 * MIB)

    assert sockets.most <= 2
    storage.close()


def test_who_finds_all_sessions_taken_is_told_in_the_end(openssh):
    """A file that is left open holds one."""
    storage = make_storage(openssh, max_connections=1, max_sessions=1)
    storage._pool()._acquire_timeout = 0.5
    storage.write("a", b"1")

    with storage.open("a", "r"), pytest.raises(StorageTimeoutError, match="all 1 sessions are in use"):
        storage.read("a")

    assert storage.read("a") == b"1"
    storage.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_forked_children_share_one_storage(storage):
    """A storage that was used before the fork works in every child, and in the parent beside them."""
    ends = work_in_forked_children(storage)

    assert ends == [0] * CHILDREN
    assert {entry.name.partition("/")[0] for entry in storage.list()} == {"before.bin", "parent", "child 0", "child 1"}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_inherits_a_storage_that_other_threads_are_using(storage):
    """What they held at that moment, a lock or a connection, keeps the child from nothing."""
    assert set(fork_while_threads_use(storage)) == {0}


def test_an_app_that_is_loaded_before_the_workers_serves_from_all_of_them(openssh, tmp_path):
    """Whole files and pieces of them, each to the one who asked, from workers that share what the parent made."""
    storage = make_storage(openssh)
    profile = {"backend": "sftp", "root": storage.root, **openssh.login}

    workers, log = serve_from_workers(storage, profile, tmp_path)

    assert len(workers) == 2
    assert "Traceback" not in log
    storage.close()


# -- one file for many writers ----------------------------------------------------------------------------------------


def test_every_read_is_one_complete_version(storage):
    """Eight write one path again and again, four read it: what is read always belongs together."""
    write_and_read_one_name(storage)


def test_every_read_of_a_large_file_is_one_complete_version(openssh):
    """Also when it is written in parts and read in ranges."""
    storage = make_storage(openssh)

    write_and_read_one_large_name(storage, 9 * MIB)

    storage.close()


@pytest.mark.parametrize("operation", ["write", "copy", "move", "complete"])
def test_exactly_one_of_eight_creates(storage, operation):
    """Of eight that create one name at the same moment one wins, and its content is what is there."""
    for turn in range(count(3, 50)):
        won = create_at_once(storage, operation, f"round {turn}/new.bin")

        assert won.count(True) == 1
        assert storage.read(f"round {turn}/new.bin") == str(won.index(True)).encode()


def test_folders_that_come_and_go_are_in_nobodys_way(storage):
    """One writes into a folder while others delete its last file, with which it goes."""

    def work(number):
        for turn in range(count(20, 200)):
            path = f"a/b/{turn % 3}/{number}.txt"
            storage.write(path, b"1")
            assert storage.read(path) == b"1"
            storage.delete(path)

    run_concurrently(work, 6)

    assert storage.list() == []
    assert temporary_files(storage) == []
