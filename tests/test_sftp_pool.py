"""The pool of sessions and connections of one process: limits, reuse, replacement, time-outs, forks and exit."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from flask_storage.backends.sftp.pool import KeptSession, _close_all
from flask_storage.backends.sftp.protocol import REALPATH, ConnectionLostError
from flask_storage.errors import StorageError, StorageTimeoutError, StorageUnavailableError
from flask_storage.testing.concurrency import run_concurrently
from tests.counts import count
from tests.services.fault_proxy import FaultProxy
from tests.sftp_storages import backdate, make_storage, pooled_session, wait_until, wait_until_idle

pytest_plugins = ["tests.services.openssh"]

MIB = 1 << 20
SHORT_TIMEOUT = 0.3  # seconds
HOME = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def server(make_openssh):
    """A server that no other test module uses."""
    return make_openssh("MaxSessions 10")


@pytest.fixture(scope="module")
def two_sessions_server(make_openssh):
    """A server that allows two sessions on one connection."""
    return make_openssh("MaxSessions 2")


@pytest.fixture
def proxy(server):
    """A proxy to the server that counts connections."""
    with FaultProxy("127.0.0.1", server.port) as fault_proxy:
        server.know(fault_proxy.port)
        yield fault_proxy


@pytest.fixture
def make(server, proxy):
    """Returns a function that makes storages behind the proxy, and closes them after the test."""
    with contextlib.ExitStack() as stack:

        def make(**arguments):
            return stack.enter_context(contextlib.closing(make_storage(server, port=proxy.port, **arguments)))

        yield make


def interrupt(*_):
    """Raise a KeyboardInterrupt."""
    raise KeyboardInterrupt


def lose_connection():
    """Raise the error of a lost connection."""
    raise ConnectionLostError


def sessions(server):
    """Return how many sessions the server has started."""
    return server.log.count("Starting session")


# -- reuse and limits -------------------------------------------------------------------------------------------------


def test_consecutive_operations_share_one_session(make, server, proxy):
    """Whatever they do, and also if they fail."""
    storage = make()
    before = sessions(server)

    for number in range(count(10, 200)):
        storage.write("a.txt", b"1" * number)
        storage.copy("a.txt", "b/c.txt")
        storage.move("b/c.txt", "b/d.txt")
        assert storage.size("b/d.txt") == number
        assert [entry.name for entry in storage.list()] == ["a.txt", "b/d.txt"]
        with pytest.raises(StorageError):
            storage.read("missing.txt")
        with pytest.raises(StorageError):
            storage.write("a.txt/below.txt", b"1")
        storage.delete("b/d.txt")

    assert proxy.counters.connections == 1
    assert sessions(server) == before + 1


def test_files_that_are_open_at_once_share_a_connection_up_to_its_limit(make, server, proxy):
    """Above max_sessions, another connection is made."""
    storage = make(max_connections=2, max_sessions=4)
    storage.write("a.txt", b"1")
    before = sessions(server)

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            assert stack.enter_context(storage.open("a.txt", "r")).read() == b"1"
        assert proxy.counters.connections == 1
        for _ in range(4):
            assert stack.enter_context(storage.open("a.txt", "r")).read() == b"1"
        assert proxy.counters.connections == 2

    assert storage.read("a.txt") == b"1"
    assert sessions(server) == before + 7
    assert proxy.counters.connections == 2


def test_a_reader_that_is_closed_early_costs_no_connection(make, proxy):
    """The missing responses are not waited for, and the next operation does not see them."""
    storage = make(max_connections=1, max_sessions=2)
    content = bytes(range(256)) * 48 * 1024
    storage.write("a.txt", content)
    storage.write("b.txt", b"other")

    for _ in range(count(5, 50)):
        with storage.open("a.txt", "r") as reader:
            for start in range(0, 5 * MIB, MIB):
                assert reader.read(MIB) == content[start : start + MIB]
        assert storage.read("b.txt") == b"other"
        next(storage.iter())

    assert proxy.counters.connections == 1


def test_fifty_threads_use_at_most_max_connections(make, proxy):
    """Also if all of them start at the same time."""
    storage = make(max_connections=2, max_sessions=3)

    def work(number):
        storage.write(f"{number}.txt", str(number).encode())
        return storage.read(f"{number}.txt")

    assert run_concurrently(work, 50) == [str(number).encode() for number in range(50)]
    assert proxy.counters.connections == 2
    assert proxy.counters.closed == 0


def test_a_session_that_misses_more_than_four_responses_is_closed(make):
    """Fewer are read by the next caller."""
    pool = make()._pool()

    def is_kept(request_count):
        session, _ = pool.acquire()
        session.ping()
        for _ in range(request_count):
            session.request(REALPATH, b".")
        pool.release(session)
        return session in [idle for idle, _, _ in pool._idle_sessions]

    assert is_kept(4)
    assert not is_kept(5)


def test_a_session_is_released_if_flushing_it_raises(make, monkeypatch):
    """The error is raised, and the session stays usable."""
    pool = make(max_connections=1, max_sessions=1)._pool()
    session, _ = pool.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(session, "flush", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.release(session)

    assert not pool._in_use
    assert pool.acquire()[0] is session


def test_a_session_is_released_if_checking_it_raises(make, monkeypatch):
    """Here by an interrupt."""
    pool = make(max_connections=1, max_sessions=1)._pool()
    session, _ = pool.acquire()
    pool.release(session)
    pool._recheck_after = 0
    with monkeypatch.context() as patch:
        patch.setattr(session, "ping", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.acquire()

    assert not pool._in_use


def test_nowait_leaves_a_quarter_of_the_sessions_to_others(make):
    """Concurrent uploads of large files would occupy all of them."""
    pool = make(max_connections=2, max_sessions=4)._pool()
    for _ in range(6):
        pool.acquire(nowait=True)
    with pytest.raises(StorageTimeoutError):
        pool.acquire(nowait=True)

    assert pool.acquire()
    assert pool.acquire()


def test_a_session_that_is_released_twice_is_counted_once(make):
    """The garbage collector and the end of the process may both release it."""
    storage = make()
    pool = storage._pool()
    for release in (KeptSession.release, KeptSession.release_from_finalizer):
        kept = pool.run_and_keep(lambda _: int)
        release(kept)
        release(kept)
        storage.write("a.txt", b"1")

        assert [connection.session_count for connection in pool._connections] == [1]
        assert not any(pool._kept.values())


def test_a_large_file_is_written_to_a_near_server_in_one_session(make, server, monkeypatch):
    """With a short round-trip time one session saturates the connection."""
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", MIB // 4)
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 60)  # even if the machine is slow
    storage = make()
    storage.write("a.txt", b"1")
    before = sessions(server)

    storage.write("a.bin", bytes(8 * MIB))

    assert sessions(server) == before


def test_the_round_trip_time_is_measured(make, proxy):
    """By the first request of a session."""
    storage = make()
    storage.exists("a.txt")
    with pooled_session(storage) as session:
        assert 0 < session.round_trip_time < 0.2
    proxy.up.latency = 0.2
    storage.close()
    storage.exists("a.txt")

    with pooled_session(storage) as session:
        assert session.round_trip_time >= 0.2


# -- limits of the server ---------------------------------------------------------------------------------------------


def test_the_session_limit_of_a_server_is_respected(two_sessions_server):
    """After a refusal, callers wait for existing sessions; the server is not asked for more again and again."""
    storage = make_storage(two_sessions_server, max_connections=1)
    before, refused = sessions(two_sessions_server), two_sessions_server.log.count("no more sessions")

    def work(number):
        for turn in range(count(10, 100)):
            storage.write(f"{number}.bin", bytes([turn]) * 1000)
            assert storage.read(f"{number}.bin") == bytes([turn]) * 1000
        return True

    assert all(run_concurrently(work, 8))
    assert sessions(two_sessions_server) == before + 2
    assert 0 < two_sessions_server.log.count("no more sessions") - refused < 8
    storage.close()


def test_the_session_limit_of_a_server_is_tried_again(two_sessions_server):
    """When all sessions of a connection have ended: the server may have counted ended ones."""
    with contextlib.closing(make_storage(two_sessions_server, max_connections=1)) as storage:
        pool = storage._pool()
        pool._acquire_timeout = SHORT_TIMEOUT
        sessions_in_use = [pool.acquire()[0] for _ in range(2)]
        with pytest.raises(StorageTimeoutError):
            pool.acquire()
        [connection] = pool._connections
        assert connection.session_limit == 2

        for session in sessions_in_use:
            for _ in range(5):
                session.request(REALPATH, b".")
            pool.release(session)  # it is closed, as it misses too many responses

        assert pool._connections == [connection]
        assert connection.session_limit > 2


def test_a_server_that_allows_two_sessions_stores_large_files(two_sessions_server, monkeypatch):
    """Eight sessions are wanted, and two are used."""
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", MIB // 4)
    storage = make_storage(two_sessions_server, max_connections=1)
    content = bytes(range(256)) * 16 * 1024 + b"end"

    storage.write("a.bin", content)

    assert storage.read("a.bin") == content
    storage.close()


def test_another_connection_is_made_if_a_server_allows_no_more_sessions(two_sessions_server):
    """With two sessions on each of two connections, the fifth caller gets an error."""
    storage = make_storage(two_sessions_server, max_connections=2)
    storage._pool()._acquire_timeout = SHORT_TIMEOUT
    storage.write("a.txt", b"1")
    before = two_sessions_server.log.count("Accepted publickey")

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(pooled_session(storage))
        with pytest.raises(StorageTimeoutError):
            storage.read("a.txt")

    assert storage.read("a.txt") == b"1"
    assert two_sessions_server.log.count("Accepted publickey") == before + 1
    storage.close()


def test_a_caller_that_gets_no_session_in_time_gets_an_error(make):
    """It has the number of sessions and the argument to raise; all sessions stay usable."""
    storage = make(max_connections=1, max_sessions=3)
    storage._pool()._acquire_timeout = SHORT_TIMEOUT
    storage.write("a.txt", b"1")

    reader = storage.open("a.txt", "r")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(pooled_session(storage))
        for operation in (storage.list, lambda: storage.read("a.txt"), lambda: storage.write("b.txt", b"2")):
            with pytest.raises(
                StorageTimeoutError,
                match=r"^all 3 sessions are in use by other operations: try again, or raise max_connections$",
            ):
                operation()
        reader.seek(70_000)
        assert reader.read() == b""
    reader.close()

    storage.write("b.txt", b"2")
    assert [entry.name for entry in storage.list()] == ["a.txt", "b.txt"]


def test_waiting_callers_get_the_session_that_is_released(make, proxy):
    """However many there are."""
    storage = make(max_connections=1, max_sessions=1)
    storage.write("a.txt", b"1")
    reader = storage.open("a.txt", "r")
    barrier = threading.Barrier(9)
    contents = []

    def wait():
        barrier.wait()
        contents.append(storage.read("a.txt"))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    barrier.wait()
    reader.close()
    for thread in threads:
        thread.join(30)

    assert contents == [b"1"] * 8
    assert proxy.counters.connections == 1


# -- idle, lost and closed connections --------------------------------------------------------------------------------


def test_idle_sessions_and_connections_are_closed(make, server, proxy):
    """The next operation makes a new connection."""
    storage = make(idle_timeout=SHORT_TIMEOUT, max_sessions=2)
    (server.folder / storage.root / "a.txt").write_bytes(b"1")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(storage.open("a.txt", "r"))
    assert proxy.counters.connections == 2

    proxy.wait_until(lambda counters: counters.closed == 2)

    wait_until_idle(server)
    assert storage.read("a.txt") == b"1"
    assert proxy.counters.connections == 3


def test_a_session_in_use_is_not_closed_as_idle(make, proxy):
    """Other sessions of its connection are closed, the connection is not."""
    storage = make(idle_timeout=SHORT_TIMEOUT)
    storage.write("a.txt", b"1" * 3 * MIB)

    with storage.open("a.txt", "r") as reader:
        before = proxy.counters.closed
        with storage.open("a.txt", "r"):
            pass
        wait_until(lambda: len(storage._pool()._idle_sessions) == 1)
        assert reader.read() == b"1" * 3 * MIB
        assert proxy.counters.closed == before


def test_a_lost_connection_is_replaced(make, server, proxy):
    """The operation that detects it does not fail, however many sessions the connection had."""
    storage = make()
    storage.write("a.txt", b"1")

    for turn in range(count(5, 50)):
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(storage.open("a.txt", "r"))
        proxy.kill()
        assert storage.read("a.txt") == b"1"
        assert proxy.counters.connections == turn + 2

    assert len(storage._pool()._connections) == 1


def test_a_connection_that_is_lost_while_a_session_is_opened_is_replaced(make, proxy, monkeypatch):
    """Also if it is not known to be dead at that moment."""
    pool = make()._pool()
    session, _ = pool.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(pool._connections[0], "open", lose_connection)
        another, is_new = pool.acquire()

    assert is_new
    assert proxy.counters.connections == 2
    pool.release(another)
    pool.release(session)


def test_all_waiting_callers_get_the_error_of_a_failed_connection(make, proxy):
    """When the server is back, it is used again."""
    storage = make(max_connections=1)
    storage.write("a.txt", b"1")
    proxy.refuse()
    proxy.kill()

    def work(_):
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            storage.read("a.txt")

    run_concurrently(work, 8)
    proxy.accept()

    assert storage.read("a.txt") == b"1"


def test_closing_a_storage_closes_its_connections_and_it_can_be_used_again(make, server, proxy):
    """As often as needed, also if nothing was open."""
    storage = make()
    storage.close()
    assert proxy.counters.connections == 0

    for turn in range(3):
        storage.write("a.txt", b"1")
        assert proxy.counters.connections == turn + 1
        storage.close()
        proxy.wait_until(lambda counters: counters.closed == counters.connections)
        wait_until_idle(server)
        storage.close()


def test_closing_a_storage_fails_its_open_writers(make, proxy):
    """They publish nothing; readers continue with a new connection."""
    storage = make()
    storage.write("a.bin", b"old" * MIB)
    backdate(storage, "a.bin")
    writer = storage.open("a.bin", "w")
    writer.write(bytes(9 * MIB))
    reader = storage.open("a.bin", "r")
    start = reader.read(1000)

    storage.close()

    with pytest.raises(StorageError):
        writer.close()
    assert start + reader.read() == b"old" * MIB
    reader.close()
    assert storage.read("a.bin") == b"old" * MIB


def test_closing_while_other_threads_work_leaves_no_connection_open(make, proxy):
    """Their operations succeed or raise a documented error; a connection that was made concurrently expires."""
    storage = make(max_connections=2, max_sessions=2, idle_timeout=SHORT_TIMEOUT)
    storage.write("a.txt", b"1")
    ended = threading.Event()

    def work(number):
        if number == 0:
            for _ in range(count(5, 50)):
                assert storage.read("a.txt") == b"1"
                storage.close()
            ended.set()
        while not ended.is_set():
            with contextlib.suppress(StorageUnavailableError):
                assert storage.read("a.txt") == b"1"

    run_concurrently(work, 4)
    storage.close()

    proxy.wait_until(lambda counters: counters.closed == counters.connections)


# -- processes --------------------------------------------------------------------------------------------------------


def run(server, storage, lines):
    """Run a program of these lines, with a `storage` on the same directory, and return its output."""
    text = f"""
    import os, sys, threading
    sys.path.append({HOME!r})
    from flask_storage import SFTPStorage
    storage = SFTPStorage(**{server.login!r}, root={storage.root!r})
    """
    # From Python 3.12 on, a fork with other threads warns; these programs show that it does no harm here.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c"]
    process = subprocess.run(
        [*command, textwrap.dedent(text) + textwrap.dedent(lines)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert process.stderr == ""
    return process.stdout


@pytest.mark.parametrize(
    "lines",
    [
        'storage.write("b.txt", b"2")',
        'reader = storage.open("a.txt", "r")\nreader.read(3)',
        "entries = storage.iter()\nnext(entries)",
        # Joined: from Python 3.12 on, paramiko cannot start its own thread when the interpreter has begun to exit.
        'thread = threading.Thread(target=lambda: storage.read("a.txt")); thread.start(); thread.join()',
        """
        import flask_storage.backends.sftp.upload as upload_module
        upload_module.NEAR_ROUND_TRIP = 0
        storage.write("c.bin", bytes(9 << 20))
        """,
    ],
    ids=["a write", "an open reader", "a listing", "a thread", "an upload through several sessions"],
)
def test_a_process_with_open_resources_exits(server, lines):
    """Without an error message, and its connections are closed."""
    storage = make_storage(server)
    storage.write("a.txt", b"1" * MIB)
    storage.close()

    assert run(server, storage, f"{textwrap.dedent(lines)}\nprint('end')") == "end\n"
    wait_until_idle(server)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_a_forked_child_makes_its_own_connection(make, server, proxy):
    """It neither uses nor closes those of its parent."""
    storage = make()
    storage.write("a.txt", b"1")

    with storage.open("a.txt", "r") as reader:
        child = os.fork()
        if not child:
            end = 1
            with contextlib.suppress(BaseException):
                storage.write("b.txt", b"2")
                end = 0 if reader.read() == b"1" and storage.read("a.txt") == b"1" else 2
                storage.close()
            os._exit(end)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        proxy.wait_until(lambda counters: counters.closed == 1)
        assert proxy.counters.connections == 2
        assert reader.read() == b"1"
    assert storage.read("b.txt") == b"2"
    assert proxy.counters.connections == 2


def test_connections_are_closed_at_exit(make, proxy, monkeypatch):
    """In the child of a fork, those of its parent stay open."""
    storage = make()
    storage.write("a.txt", b"1")
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        _close_all()
    assert storage.read("a.txt") == b"1"
    assert proxy.counters.connections == 1
    [connection] = storage._pool()._connections

    _close_all()

    assert not connection.is_alive
    assert storage.read("a.txt") == b"1"
    assert proxy.counters.connections == 2


def test_freeing_a_session_in_a_forked_child_sends_nothing(server):
    """Paramiko's finalizers would send a message on the parent's connection, which counts packets."""
    storage = make_storage(server)
    storage.write("a.txt", b"1" * MIB)
    storage.close()

    output = run(
        server,
        storage,
        """
        reader = storage.open("a.txt", "r")
        reader.read(10)
        session = reader._source._kept.session
        child = os.fork()
        if not child:
            # paramiko's finalizer sends nothing on a closed channel.
            os._exit(0 if session._channel.closed else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), session._channel.closed)
        print(len(reader.read()), reader._source._kept.session is session or session.broken)
        """,
    )

    assert output == f"0 False\n{MIB - 10} True\n"


def test_a_forked_child_does_not_release_sessions_of_its_parent(make, monkeypatch):
    """The parent releases them."""
    pool = make()._pool()
    session, _ = pool.acquire()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        pool.release(session)
    assert session in pool._in_use

    pool.release(session)

    assert session not in pool._in_use


def test_a_forked_child_neither_uses_nor_releases_kept_sessions_of_its_parent(make, monkeypatch):
    """This copy of the lock may never be released."""
    pool = make()._pool()
    closed = []
    kept = pool.run_and_keep(lambda _: lambda: closed.append(True))
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ConnectionLostError, match="belongs to the parent"), kept:
            pass
        pool.clean_up(kept.session)

    with kept as session:
        assert session in pool._in_use
    kept.release()

    assert closed == [True]


def test_a_kept_session_cannot_be_used_when_its_pool_is_closed(make):
    """An open file opens itself again then."""
    storage = make()
    kept = storage._pool().run_and_keep(lambda _: lambda: None)
    storage.close()

    with pytest.raises(ConnectionLostError, match="the session is closed"), kept:
        pass
    kept.release()


def test_a_forked_child_that_exits_normally_leaves_its_parents_connections_open(server):
    """Also while Python cleans up what the child has inherited."""
    storage = make_storage(server)
    storage.write("a.txt", b"1")
    storage.close()

    output = run(
        server,
        storage,
        """
        storage.read("a.txt")
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print(storage.read("a.txt").decode(), len(storage._pool()._connections), flush=True)
        """,
    )

    assert output == "1 1\n1 1\n"
    wait_until_idle(server)
