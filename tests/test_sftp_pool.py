"""The sessions and connections of one process: few, used again and again, replaced when they break, gone at the end."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from flask_storage.backends.sftp.pool import _close_all
from flask_storage.backends.sftp.protocol import REALPATH
from flask_storage.errors import StorageError, StorageTimeoutError, StorageUnavailableError
from flask_storage.testing.concurrency import run_concurrently
from tests.counts import count
from tests.services.fault_proxy import FaultProxy
from tests.sftp_storages import backdate, make_storage, pooled_session, wait_until, wait_until_idle

pytest_plugins = ["tests.services.openssh"]

MIB = 1 << 20
SOON = 0.3  # seconds
HOME = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def server(make_openssh):
    """A server of which nobody else asks anything."""
    return make_openssh("MaxSessions 10")


@pytest.fixture(scope="module")
def narrow(make_openssh):
    """A server that allows two sessions a connection."""
    return make_openssh("MaxSessions 2")


@pytest.fixture
def way(server):
    """A way to the server on which connections are counted."""
    with FaultProxy("127.0.0.1", server.port) as proxy:
        server.know(proxy.port)
        yield proxy


@pytest.fixture
def make(server, way):
    """Make storages that go this way."""
    with contextlib.ExitStack() as stack:

        def made(**arguments):
            return stack.enter_context(contextlib.closing(make_storage(server, port=way.port, **arguments)))

        yield made


def fail(*_):
    """Be interrupted."""
    raise KeyboardInterrupt


def sessions(server):
    """How many sessions the server has begun so far."""
    return server.log.count("Starting session")


# -- again and again --------------------------------------------------------------------------------------------------


def test_verbs_one_after_the_other_share_one_session(make, server, way):
    """Whatever they do, and when they fail too."""
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

    assert way.counters.connections == 1
    assert sessions(server) == before + 1


def test_files_that_are_open_at_once_have_sessions_of_one_connection(make, server, way):
    """As many as it may carry; then there is another connection."""
    storage = make(max_connections=2, max_sessions=4)
    storage.write("a.txt", b"1")
    before = sessions(server)

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            assert stack.enter_context(storage.open("a.txt", "r")).read() == b"1"
        assert way.counters.connections == 1
        for _ in range(4):
            assert stack.enter_context(storage.open("a.txt", "r")).read() == b"1"
        assert way.counters.connections == 2

    assert storage.read("a.txt") == b"1"
    assert sessions(server) == before + 7
    assert way.counters.connections == 2


def test_a_file_that_was_not_read_to_its_end_costs_no_connection(make, way):
    """What is still to come of it is not waited for; the next operation finds a session, and no rest of the file in it."""
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

    assert way.counters.connections == 1


def test_fifty_threads_have_no_more_connections_than_were_allowed(make, way):
    """Also when they all begin at the same moment."""
    storage = make(max_connections=2, max_sessions=3)

    def work(number):
        storage.write(f"{number}.txt", str(number).encode())
        return storage.read(f"{number}.txt")

    assert run_concurrently(work, 50) == [str(number).encode() for number in range(50)]
    assert way.counters.connections == 2
    assert way.counters.closed == 0


def test_a_session_that_much_is_still_to_come_of_is_not_kept(make):
    """Four responses are waited for by whoever comes next; for more, another session is less trouble."""
    pool = make()._pool()

    def given_back(questions):
        session, _ = pool.acquire()
        session.ping()
        for _ in range(questions):
            session.request(REALPATH, b".")
        pool.release(session)
        return session in [one for one, _, _ in pool._idle_sessions]

    assert given_back(4)
    assert not given_back(5)


def test_a_session_that_cannot_be_flushed_is_given_back_all_the_same(make, monkeypatch):
    """Whatever comes in between; it is an error, and no session less."""
    pool = make(max_connections=1, max_sessions=1)._pool()
    session, _ = pool.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(session, "flush", fail)
        with pytest.raises(KeyboardInterrupt):
            pool.release(session)

    assert not pool._in_use
    assert pool.acquire()[0] is session


def test_a_session_that_cannot_be_checked_is_given_back_all_the_same(make, monkeypatch):
    """Likewise."""
    pool = make(max_connections=1, max_sessions=1)._pool()
    session, _ = pool.acquire()
    pool.release(session)
    pool._recheck_after = 0
    with monkeypatch.context() as patch:
        patch.setattr(session, "ping", fail)
        with pytest.raises(KeyboardInterrupt):
            pool.acquire()

    assert not pool._in_use


def test_who_can_do_without_leaves_the_last_sessions_to_others(make):
    """Large files that many write at once would take them all, for as long as that lasts."""
    pool = make(max_connections=2, max_sessions=4)._pool()
    for _ in range(6):
        pool.acquire(nowait=True)
    with pytest.raises(StorageTimeoutError):
        pool.acquire(nowait=True)

    assert pool.acquire()
    assert pool.acquire()


def test_a_session_that_is_left_twice_ends_once(make):
    """A file may be forgotten by the garbage collector and by its process's end."""
    storage = make()
    pool = storage._pool()
    session, _ = pool.acquire()
    pool.release_from_finalizer(session)
    pool.release_from_finalizer(session)
    storage.write("a.txt", b"1")

    assert [connection.session_count for connection in pool._connections] == [1]


def test_a_large_file_goes_to_a_near_server_through_one_session(make, server, monkeypatch):
    """Its responses come at once, so that the line is never empty."""
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", MIB // 4)
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 60)  # whatever else the machine does
    storage = make()
    storage.write("a.txt", b"1")
    before = sessions(server)

    storage.write("a.bin", bytes(8 * MIB))

    assert sessions(server) == before


def test_it_is_measured_how_far_a_server_is(make, way):
    """By the first question that a session responses, once it has begun."""
    storage = make()
    storage.exists("a.txt")
    with pooled_session(storage) as session:
        assert 0 < session.round_trip_time < 0.2
    way.up.latency = 0.2
    storage.close()
    storage.exists("a.txt")

    with pooled_session(storage) as session:
        assert session.round_trip_time >= 0.2


# -- servers that allow little ----------------------------------------------------------------------------------------


def test_a_server_that_allows_few_sessions_is_believed(narrow):
    """Whoever is refused waits for those that there are; the server is not asked again and again."""
    storage = make_storage(narrow, max_connections=1)
    before, refused = sessions(narrow), narrow.log.count("no more sessions")

    def work(number):
        for turn in range(count(10, 100)):
            storage.write(f"{number}.bin", bytes([turn]) * 1000)
            assert storage.read(f"{number}.bin") == bytes([turn]) * 1000
        return True

    assert all(run_concurrently(work, 8))
    assert sessions(narrow) == before + 2
    assert 0 < narrow.log.count("no more sessions") - refused < 8
    storage.close()


def test_a_server_that_allowed_few_sessions_is_asked_again_some_day(narrow):
    """When all of a connection have ended: it may have been slow to see the end of those before."""
    with contextlib.closing(make_storage(narrow, max_connections=1)) as storage:
        pool = storage._pool()
        pool._acquire_timeout = SOON
        lent = [pool.acquire()[0] for _ in range(2)]
        with pytest.raises(StorageTimeoutError):
            pool.acquire()
        [connection] = pool._connections
        assert connection.session_limit == 2

        for session in lent:
            for _ in range(5):
                session.request(REALPATH, b".")
            pool.release(session)  # and as much is still to come of it, it ends

        assert pool._connections == [connection]
        assert connection.session_limit > 2


def test_a_server_that_allows_few_sessions_takes_large_files(narrow, monkeypatch):
    """What would be written through eight sessions goes through two, and comes back."""
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", MIB // 4)
    storage = make_storage(narrow, max_connections=1)
    content = bytes(range(256)) * 16 * 1024 + b"end"

    storage.write("a.bin", content)

    assert storage.read("a.bin") == content
    storage.close()


def test_another_connection_has_the_room_that_one_has_not(narrow):
    """Of two sessions each; who comes fifth is told."""
    storage = make_storage(narrow, max_connections=2)
    storage._pool()._acquire_timeout = SOON
    storage.write("a.txt", b"1")
    before = narrow.log.count("Accepted publickey")

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(storage.open("a.txt", "r"))
        with pytest.raises(StorageTimeoutError):
            storage.read("a.txt")

    assert storage.read("a.txt") == b"1"
    assert narrow.log.count("Accepted publickey") == before + 1
    storage.close()


def test_who_finds_all_sessions_lent_is_told_what_to_do(make):
    """How many there are, and which argument makes more; nothing is broken by it."""
    storage = make(max_connections=1, max_sessions=3)
    storage._pool()._acquire_timeout = SOON
    storage.write("a.txt", b"1")

    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(storage.open("a.txt", "r"))
        for operation in (storage.list, lambda: storage.read("a.txt"), lambda: storage.write("b.txt", b"2")):
            with pytest.raises(
                StorageTimeoutError,
                match=r"^all 3 sessions are in use: .*, or raise max_connections$",
            ):
                operation()

    storage.write("b.txt", b"2")
    assert [entry.name for entry in storage.list()] == ["a.txt", "b.txt"]


def test_who_waits_for_a_session_gets_the_first_that_is_given_back(make, way):
    """However many wait."""
    storage = make(max_connections=1, max_sessions=1)
    storage.write("a.txt", b"1")
    reader = storage.open("a.txt", "r")
    waiting = threading.Barrier(9)
    found = []

    def wait():
        waiting.wait()
        found.append(storage.read("a.txt"))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    waiting.wait()
    reader.close()
    for thread in threads:
        thread.join(30)

    assert found == [b"1"] * 8
    assert way.counters.connections == 1


# -- idle, dropped, closed --------------------------------------------------------------------------------------------


def test_what_nobody_uses_is_closed(make, server, way):
    """All sessions, and the connection with its last one; the next operation makes a new one."""
    storage = make(idle_timeout=SOON, max_sessions=2)
    (server.folder / storage.root / "a.txt").write_bytes(b"1")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(storage.open("a.txt", "r"))
    assert way.counters.connections == 2

    way.wait_until(lambda counters: counters.closed == 2)

    wait_until_idle(server)
    assert storage.read("a.txt") == b"1"
    assert way.counters.connections == 3


def test_a_session_that_is_in_use_is_not_idle(make, way):
    """It may take as long as it likes; the others of its connection go, and the connection stays."""
    storage = make(idle_timeout=SOON)
    storage.write("a.txt", b"1" * 3 * MIB)

    with storage.open("a.txt", "r") as reader:
        before = way.counters.closed
        with storage.open("a.txt", "r"):
            pass
        wait_until(lambda: not storage._pool()._idle_sessions)
        assert reader.read() == b"1" * 3 * MIB
        assert way.counters.closed == before


def test_a_connection_that_was_dropped_is_replaced(make, server, way):
    """The operation that finds it dropped does not fail, however many sessions it had."""
    storage = make()
    storage.write("a.txt", b"1")

    for turn in range(count(5, 50)):
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(storage.open("a.txt", "r"))
        way.kill()
        assert storage.read("a.txt") == b"1"
        assert way.counters.connections == turn + 2

    assert len(storage._pool()._connections) == 1


def test_a_server_that_is_not_there_is_an_error_for_everybody_who_waits(make, way):
    """Nobody waits for a connection that somebody else could not make; when it is back, it serves again."""
    storage = make(max_connections=1)
    storage.write("a.txt", b"1")
    way.refuse()
    way.kill()

    def work(_):
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            storage.read("a.txt")

    run_concurrently(work, 8)
    way.accept()

    assert storage.read("a.txt") == b"1"


def test_closing_ends_connections_and_what_is_used_again_makes_new_ones(make, server, way):
    """As often as one likes; also where nothing was begun."""
    storage = make()
    storage.close()
    assert way.counters.connections == 0

    for turn in range(3):
        storage.write("a.txt", b"1")
        assert way.counters.connections == turn + 1
        storage.close()
        way.wait_until(lambda counters: counters.closed == counters.connections)
        wait_until_idle(server)
        storage.close()


def test_closing_breaks_off_what_is_open(make, way):
    """A writer of before publishes nothing; a reader goes on with a connection of its own."""
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


def test_closing_while_others_work_leaves_nothing_open(make, way):
    """Whatever they were about comes through, or is an error of ours; a connection that came too late expires."""
    storage = make(max_connections=2, max_sessions=2, idle_timeout=SOON)
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

    way.wait_until(lambda counters: counters.closed == counters.connections)


# -- processes --------------------------------------------------------------------------------------------------------


def run(server, storage, lines):
    """Run a program of these lines, with a `storage` on the same folder, and return what it printed."""
    text = f"""
    import os, sys, threading
    sys.path.append({HOME!r})
    from flask_storage import SFTPStorage
    storage = SFTPStorage(**{server.login!r}, root={storage.root!r})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text) + textwrap.dedent(lines)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    "lines",
    [
        'storage.write("b.txt", b"2")',
        'reader = storage.open("a.txt", "r")\nreader.read(3)',
        "entries = storage.iter()\nnext(entries)",
        'threading.Thread(target=lambda: storage.read("a.txt")).start()',
        """
        import flask_storage.backends.sftp.upload as upload_module
        upload_module.NEAR_ROUND_TRIP = 0
        storage.write("c.bin", bytes(9 << 20))
        """,
    ],
    ids=["a operation", "an open reader", "a listing", "a thread", "an upload through several sessions"],
)
def test_a_process_that_used_a_storage_ends(server, lines):
    """Whatever is open still: nothing keeps it, nothing complains, and the server is told."""
    storage = make_storage(server)
    storage.write("a.txt", b"1" * MIB)
    storage.close()

    assert run(server, storage, f"{textwrap.dedent(lines)}\nprint('end')") == "end\n"
    wait_until_idle(server)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_a_forked_child_makes_a_connection_of_its_own(make, server, way):
    """It neither uses nor ends those of its parent, which go on."""
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

        way.wait_until(lambda counters: counters.closed == 1)
        assert way.counters.connections == 2
        assert reader.read() == b"1"
    assert storage.read("b.txt") == b"2"
    assert way.counters.connections == 2


def test_the_end_of_a_process_ends_its_connections(make, way, monkeypatch):
    """With a goodbye; in the child of a fork, those of its parent go on."""
    storage = make()
    storage.write("a.txt", b"1")
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        _close_all()
    assert storage.read("a.txt") == b"1"
    assert way.counters.connections == 1
    [connection] = storage._pool()._connections

    _close_all()

    assert not connection.is_alive
    assert storage.read("a.txt") == b"1"
    assert way.counters.connections == 2


def test_what_a_child_throws_away_says_nothing_on_the_connection_of_its_parent(server):
    """Paramiko's channels would say goodbye, under keys that count every packet."""
    storage = make_storage(server)
    storage.write("a.txt", b"1" * MIB)
    storage.close()

    told = run(
        server,
        storage,
        """
        reader = storage.open("a.txt", "r")
        reader.read(10)
        session = reader._source._session
        child = os.fork()
        if not child:
            # What paramiko's finalizer looks at before it sends.
            os._exit(0 if session._channel.closed else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), session._channel.closed)
        print(len(reader.read()), reader._source._session is session or session.broken)
        """,
    )

    assert told == f"0 False\n{MIB - 10} True\n"


def test_a_child_gives_nothing_back_that_is_its_parents(make, monkeypatch):
    """It is the parent's to give back."""
    pool = make()._pool()
    session, _ = pool.acquire()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        pool.release(session)
    assert session in pool._in_use

    pool.release(session)

    assert session not in pool._in_use


def test_a_child_that_ends_as_python_does_leaves_the_connections_of_its_parent_alone(server):
    """Also where what it inherited is cleaned up at its exit."""
    storage = make_storage(server)
    storage.write("a.txt", b"1")
    storage.close()

    told = run(
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

    assert told == "1 1\n1 1\n"
    wait_until_idle(server)
