"""Links with a limited number of uses: of all threads and processes exactly as many succeed as there are uses."""

import errno
import os
import stat
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import redis
import sqlalchemy

from flask_storage.errors import ConfigurationError, StorageUnavailableError
from flask_storage.link_usage import (
    FileUsageStore,
    LinkUsageStore,
    MemoryUsageStore,
    base,
    open_usage_store,
    sql_store,
)

from .counts import count

pytest_plugins = ["tests.services.postgres", "tests.services.redis"]

THREADS = 50
SHARED = ["file", "sqlite", "postgres", "redis"]  # by all processes of an app
STORES = ["memory", *SHARED]


@pytest.fixture
def expires_at():
    """A moment that comes an hour from now."""
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def setting(request, tmp_path):
    """What STORAGE_LINK_USAGE says, and a store behind it that knows of no link yet."""
    kind = request.param
    if kind == "memory":
        return MemoryUsageStore()
    if kind == "sqlite":
        return "sqlite:///links/used.db"
    if kind == "postgres":
        return _without_table(request.getfixturevalue("postgres").url)
    if kind == "redis":
        url = request.getfixturevalue("redis_server").url
        with redis.Redis.from_url(url) as client:
            client.flushall()
        return url
    return None


@pytest.fixture
def store(setting, tmp_path):
    """The store of `setting`."""
    store = open_usage_store(setting, tmp_path)
    yield store
    store.close()


def _without_table(url):
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS storage_link_usage"))
    engine.dispose()
    return url


def every_store(function):
    """The test speaks of all stores."""
    return pytest.mark.parametrize("setting", STORES, indirect=True)(function)


def every_shared_store(function):
    """The test speaks of all stores that processes share."""
    return pytest.mark.parametrize("setting", SHARED, indirect=True)(function)


def together(threads, function):
    """The results of *function* in so many threads that begin at the same moment."""
    start = threading.Barrier(threads)

    def run():
        start.wait(60)
        return function()

    with ThreadPoolExecutor(threads) as pool:
        return [job.result() for job in [pool.submit(run) for _ in range(threads)]]


# -- the contract of every store --------------------------------------------------------------------------------------


@every_store
def test_a_link_has_as_many_uses_as_it_says(store, expires_at):
    """The third of three uses succeeds, the fourth is refused, however often one asks."""
    taken = [store.consume("id", 3, expires_at) for _ in range(6)]

    assert taken == [True, True, True, False, False, False]


@every_store
def test_a_link_without_uses_is_refused(store, expires_at):
    """A limit of none allows none."""
    assert store.consume("id", 0, expires_at) is False
    assert store.is_exhausted("id", 0) is True


@every_store
def test_links_are_counted_apart(store, expires_at):
    """Using up one link takes nothing from another, whatever its id looks like."""
    ids = ["id", "ID", "id ", "../id", "id/1", "*", "", "i" * 10_000, "\u00e9", "e\u0301", "id\x00", "'; --", "\ud800"]

    first = [store.consume(token_id, 1, expires_at) for token_id in ids]
    second = [store.consume(token_id, 1, expires_at) for token_id in ids]

    assert first == [True] * len(ids)
    assert second == [False] * len(ids)


@every_store
def test_looking_takes_nothing(store, expires_at):
    """`spent` may be asked at any time: it is true when the last use is gone, and changes nothing."""
    before = [store.is_exhausted("id", 2) for _ in range(5)]
    store.consume("id", 2, expires_at)
    between = [store.is_exhausted("id", 2) for _ in range(5)]
    store.consume("id", 2, expires_at)

    assert before == [False] * 5
    assert between == [False] * 5
    assert store.is_exhausted("id", 2) is True


@every_store
def test_a_use_given_back_can_be_taken_again(store, expires_at):
    """An upload that failed does not use its link up."""
    store.consume("id", 1, expires_at)

    store.release("id")

    assert store.is_exhausted("id", 1) is False
    assert [store.consume("id", 1, expires_at) for _ in range(2)] == [True, False]


@every_store
def test_giving_back_more_than_was_taken_makes_no_new_uses(store, expires_at):
    """A use that was never taken cannot be given back: the link keeps its number."""
    store.release("id")
    store.consume("id", 2, expires_at)
    for _ in range(3):
        store.release("id")

    taken = [store.consume("id", 2, expires_at) for _ in range(4)]

    assert taken == [True, True, False, False]


@every_store
def test_fifty_threads_share_a_single_use(store, expires_at):
    """Whoever clicks first gets it; nobody else does, in any round."""
    for number in range(count(5, 20)):
        taken = together(THREADS, lambda number=number: store.consume(f"id {number}", 1, expires_at))

        assert taken.count(True) == 1
        assert taken.count(False) == THREADS - 1


@every_store
def test_fifty_threads_share_twenty_uses(store, expires_at):
    """None is lost and none is granted twice."""
    taken = together(THREADS, lambda: store.consume("id", 20, expires_at))

    assert taken.count(True) == 20
    assert store.is_exhausted("id", 20) is True


@every_store
def test_threads_that_give_back_at_once_each_give_one(store, expires_at):
    """Twelve failures at the same moment free twelve uses."""
    for _ in range(20):
        store.consume("id", 20, expires_at)

    together(12, lambda: store.release("id"))

    assert [store.consume("id", 20, expires_at) for _ in range(14)].count(True) == 12


@every_store
def test_an_expired_link_is_refused_when_its_uses_may_be_forgotten(store):
    """An hour after its expiry a link has no uses left, though nobody remembers the ones it had."""
    long_ago = datetime.now(UTC) - timedelta(hours=1, seconds=2)

    assert store.consume("id", 5, long_ago) is False


@every_store
def test_a_clock_that_is_slow_does_not_revive_a_link(store):
    """What expired just now is still counted: another host may believe that it has not expired."""
    just_now = datetime.now(UTC) - timedelta(minutes=30)

    taken = [store.consume("id", 1, just_now), store.consume("id", 1, just_now)]
    store.sweep()

    assert taken == [True, False]
    assert store.is_exhausted("id", 1) is True


@every_store
def test_the_farthest_expiry_is_no_trouble(store):
    """A link that never practically expires is counted like any other."""
    end_of_time = datetime.max.replace(tzinfo=UTC)

    assert [store.consume("id", 1, end_of_time) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("setting", ["memory", "file", "sqlite", "postgres"], indirect=True)
def test_a_sweep_forgets_expired_links_and_no_others(store, expires_at):
    """The store stays small: what has expired long ago goes, and it says how much."""
    later = expires_at + timedelta(days=1)
    for _ in range(3):
        store.consume("early", 3, expires_at)
    store.consume("late", 1, later)
    store.consume("released", 1, expires_at)
    store.release("released")

    too_early = store.sweep(expires_at + timedelta(minutes=59))
    in_time = store.sweep(expires_at + timedelta(minutes=61))

    assert (too_early, in_time) == (0, 3)
    assert store.is_exhausted("early", 3) is False
    assert store.is_exhausted("late", 1) is True


@every_store
def test_sweeping_an_unused_store_is_no_trouble(store):
    """Nothing to forget is nothing, whether or not the store has been made."""
    assert store.sweep() == 0


@every_store
def test_sweeping_while_links_are_used_loses_no_use(store, expires_at):
    """Several workers may sweep at any moment: no count of a living link changes."""
    done = threading.Event()

    def sweep():
        while not done.wait(0.001):
            store.sweep()

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        taken = [[store.consume(f"id {number}", 2, expires_at) for _ in range(3)] for number in range(30)]
    finally:
        done.set()
        for sweeper in sweepers:
            sweeper.join()

    assert taken == [[True, True, False]] * 30


# -- shared by processes ----------------------------------------------------------------------------------------------

_PROCESS = """
import sys
from datetime import UTC, datetime, timedelta
from flask_storage.link_usage import open_usage_store

setting, instance_path, tries = sys.argv[1:]
store = open_usage_store(setting or None, instance_path)
expires_at = datetime.now(UTC) + timedelta(hours=1)
print("ready", flush=True)
sys.stdin.readline()
print(sum(store.consume("id", 7, expires_at) for _ in range(int(tries))))
"""


def _line_from(process):
    return process.stdout.readline()


def _tell_all(processes, line):
    for process in processes:
        process.stdin.write(line)
        process.stdin.flush()


@every_shared_store
def test_processes_share_the_uses_of_a_link(setting, tmp_path):
    """Workers that start together on a store that does not exist yet take seven uses of seven, and no more."""
    command = [sys.executable, "-c", _PROCESS, setting or "", str(tmp_path), "5"]
    processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(5)]
    assert [_line_from(process) for process in processes] == ["ready\n"] * 5

    _tell_all(processes, "go\n")
    taken = [int(process.communicate(timeout=60)[0]) for process in processes]

    assert [process.returncode for process in processes] == [0] * 5
    assert sum(taken) == 7


_FORKING = """
import gc, os, sys
from datetime import UTC, datetime, timedelta
from flask_storage.link_usage import open_usage_store

store = open_usage_store(sys.argv[1] or None, sys.argv[2])
expires_at = datetime.now(UTC) + timedelta(hours=1)
taken = [store.consume("id", 30, expires_at)]
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        gc.collect()
        mine = sum(store.consume("id", 30, expires_at) for _ in range(10))
        os._exit(mine)
    children.append(child)
taken += [store.consume("id", 30, expires_at) for _ in range(10)]
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
taken += [store.consume("id", 30, expires_at)]
print(sum(taken) + sum(codes), store.is_exhausted("id", 30))
store.close()
"""


@every_shared_store
def test_a_store_that_was_used_before_a_fork_works_in_parent_and_children(setting, tmp_path):
    """Workers of ``gunicorn --preload``: no connection is shared by two processes, and the count holds."""
    command = [sys.executable, "-W", "error", "-c", _FORKING, setting or "", str(tmp_path)]

    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert (result.stdout, result.stderr) == ("30 True\n", "")


@every_store
def test_a_closed_store_can_be_used_again(store, expires_at):
    """Closing lets go of connections and of nothing else."""
    store.consume("id", 2, expires_at)

    store.close()
    store.close()

    assert [store.consume("id", 2, expires_at) for _ in range(2)] == [True, False]


@every_shared_store
def test_a_restarted_app_remembers(setting, tmp_path, expires_at):
    """Another object with the same setting sees the uses that the first one took."""
    first, second = open_usage_store(setting, tmp_path), open_usage_store(setting, tmp_path)

    first.consume("id", 1, expires_at)

    assert second.is_exhausted("id", 1) is True
    assert second.consume("id", 1, expires_at) is False
    first.close()
    second.close()


# -- sweeping by itself -----------------------------------------------------------------------------------------------


class _Recording(LinkUsageStore):
    """A store of somebody else's, made of the four hooks."""

    def __init__(self):
        self.calls = []

    def _count(self, key):
        self.calls.append(("used", key))
        return 0

    def _increment(self, key, uses, expiry):
        self.calls.append(("take", key))
        return True

    def _decrement(self, key):
        self.calls.append(("give back", key))

    def _delete_expired(self, expired):
        self.calls.append(("forget", expired))
        return 0


def test_taking_a_use_sweeps_now_and_then(expires_at):
    """A process sweeps with its first use, and not again with the next ones."""
    store = _Recording()

    for _ in range(3):
        store.consume("id", 3, expires_at)

    assert [call for call, _ in store.calls] == ["forget", "take", "take", "take"]


def test_a_long_lived_process_sweeps_again(expires_at, monkeypatch):
    """When the pause between two sweeps is over, the next use sweeps."""
    store = _Recording()
    monkeypatch.setattr(base, "SWEEP_INTERVAL", 0)

    for _ in range(2):
        store.consume("id", 3, expires_at)

    assert [call for call, _ in store.calls] == ["forget", "take", "forget", "take"]


def test_a_store_never_sees_an_id(expires_at):
    """Hooks get 64 hexadecimal digits, whatever the token carried."""
    store = _Recording()

    store.consume("../../etc", 1, expires_at)
    store.release("../../etc")
    store.is_exhausted("../../etc", 1)

    keys = [value for call, value in store.calls if call != "forget"]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(keys[0]) == 64
    assert set(keys[0]) <= set("0123456789abcdef")


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_lie_in_a_folder_of_their_own_for_the_owner_alone(tmp_path, expires_at):
    """The folder appears with the first use, closed to others; names are hashes and numbers, files are empty."""
    folder = tmp_path / "instance" / "storage-links"
    store = open_usage_store(None, tmp_path / "instance")
    exists_before = folder.exists()

    store.consume("../../evil", 2, expires_at)
    store.consume("../../evil", 2, expires_at)

    (link,) = folder.iterdir()
    files = sorted(link.iterdir())
    assert exists_before is False
    assert folder.stat().st_mode & 0o777 == 0o700
    assert link.stat().st_mode & 0o777 == 0o700
    assert len(link.name) == 64
    assert [file.name for file in files] == ["1", "2"]
    assert [file.stat().st_size for file in files] == [0, 0]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]
    assert [path.name for path in tmp_path.iterdir()] == ["instance"]


def test_a_use_is_durable_before_it_is_granted(tmp_path, expires_at, monkeypatch):
    """After a power failure no link works again: file, link's folder and store's folder are synced, names last."""
    store = FileUsageStore(tmp_path / "links")
    synced: list[str] = []
    fsync = os.fsync

    def watched(fd):
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    assert store.consume("a", 2, expires_at)
    first, synced = synced, []
    assert store.consume("a", 2, expires_at)
    second, synced = synced, []
    assert not store.consume("a", 2, expires_at)

    (link,) = (tmp_path / "links").iterdir()
    names = [str(link), str(tmp_path / "links")]
    assert first == [str(tmp_path), str(link / "1"), *names]
    assert second == [str(link / "2"), *names]
    assert synced == []


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced_is_no_error_but_a_broken_disk_is(tmp_path, expires_at, monkeypatch, reason):
    """Some file systems know no syncing of folders, and keep their names all the same."""
    fsync = os.fsync

    def refuse(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(reason, os.strerror(reason))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    if reason == errno.EINVAL:
        assert FileUsageStore(tmp_path).consume("a", 1, expires_at)
    else:
        with pytest.raises(StorageUnavailableError, match="Input/output"):
            FileUsageStore(tmp_path).consume("a", 1, expires_at)


def test_a_first_use_clears_away_what_expired_long_ago(tmp_path, expires_at):
    """Files of old links do not pile up, though no one ever calls `sweep`."""
    FileUsageStore(tmp_path).consume("old", 1, expires_at)
    (old,) = tmp_path.iterdir()
    long_ago = time.time() - 7200
    os.utime(old / "1", (long_ago, long_ago))

    FileUsageStore(tmp_path).consume("new", 1, expires_at)

    (left,) = tmp_path.iterdir()
    assert left.name != old.name


def test_a_sweep_leaves_alone_what_is_not_its_own(tmp_path, expires_at):
    """Somebody else's files in the folder stay, however old they are."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1").write_text("mine")
    store = FileUsageStore(tmp_path)
    store.consume("id", 1, expires_at)

    forgotten = store.sweep(datetime.now(UTC) + timedelta(days=1000))

    assert forgotten == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "folder", "notes.txt"]


def test_a_use_that_is_just_being_taken_is_not_swept_away(tmp_path, expires_at):
    """Between the creation of a file and its date lies a moment in which it is no older than now: it stays."""
    store = FileUsageStore(tmp_path)
    store.consume("id", 1, expires_at)
    (link,) = tmp_path.iterdir()
    os.utime(link / "1")

    forgotten = store.sweep()

    assert forgotten == 0
    assert store.is_exhausted("id", 1) is True


def _a_file_where_the_folder_should_be(tmp_path, postgres, redis_server):
    (tmp_path / "storage-links").write_text("")
    return open_usage_store(None, tmp_path)


def _a_database_that_is_none(tmp_path, postgres, redis_server):
    (tmp_path / "links.db").write_text("this is no database, and long enough to be one " * 100)
    return open_usage_store("sqlite:///links.db", tmp_path)


def _a_database_below_a_file(tmp_path, postgres, redis_server):
    (tmp_path / "links").write_text("")
    return open_usage_store("sqlite:///links/used.db", tmp_path)


def _postgres_with_a_wrong_password(tmp_path, postgres, redis_server):
    return open_usage_store(postgres.url.replace("tester:", "tester:wrong"), tmp_path)


def _postgres_at_a_wrong_address(tmp_path, postgres, redis_server):
    return open_usage_store(postgres.url.replace(quote(str(postgres.folder), safe=""), "%2Fnowhere"), tmp_path)


def _postgres_without_the_right_to_make_tables(tmp_path, postgres, redis_server):
    engine = sqlalchemy.create_engine(_without_table(postgres.url))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP ROLE IF EXISTS guest"))
        connection.execute(sqlalchemy.text(f"CREATE ROLE guest LOGIN PASSWORD '{postgres.password}'"))
        connection.execute(sqlalchemy.text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    engine.dispose()
    return open_usage_store(postgres.url.replace("tester:", "guest:"), tmp_path)


def _redis_with_a_wrong_password(tmp_path, postgres, redis_server):
    return open_usage_store(redis_server.url.replace("redis://:", "redis://:wrong"), tmp_path)


def _redis_at_a_wrong_address(tmp_path, postgres, redis_server):
    return open_usage_store(f"unix://:{redis_server.password}@{tmp_path}/no-socket", tmp_path)


TROUBLES = [
    _a_file_where_the_folder_should_be,
    _a_database_that_is_none,
    _a_database_below_a_file,
    _postgres_with_a_wrong_password,
    _postgres_at_a_wrong_address,
    _postgres_without_the_right_to_make_tables,
    _redis_with_a_wrong_password,
    _redis_at_a_wrong_address,
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__.strip("_"))
def test_a_store_that_cannot_be_asked_grants_nothing(trouble, tmp_path, postgres, redis_server, expires_at):
    """Every question ends in StorageUnavailableError with the cause behind it, and shows no password anywhere."""
    store = trouble(tmp_path, postgres, redis_server)
    questions = [
        lambda: store.consume("id", 1, expires_at),
        lambda: store.consume("id", 1, expires_at),
        lambda: store.is_exhausted("id", 1),
        lambda: store.release("id"),
    ]

    errors = []
    for question in questions:
        with pytest.raises(StorageUnavailableError) as caught:
            question()
        errors.append(caught.value)

    assert all(error.__cause__ is not None for error in errors)
    assert all("STORAGE_LINK_USAGE" in str(error) for error in errors)
    shown = repr(store) + "".join("".join(traceback.format_exception(error)) for error in errors)
    assert postgres.password not in shown
    assert redis_server.password not in shown
    store.close()


@pytest.mark.parametrize("server_name", ["postgres", "redis_server"])
def test_a_store_heals_when_its_server_comes_back(server_name, request, tmp_path, expires_at):
    """While the server is away nothing is granted; afterwards the same object goes on."""
    server = request.getfixturevalue(server_name)
    url = _without_table(server.url) if server_name == "postgres" else server.url
    store = open_usage_store(url, tmp_path)
    assert store.consume("before", 1, expires_at) is True

    server.stop()
    try:
        with pytest.raises(StorageUnavailableError):
            store.consume("during", 1, expires_at)
        with pytest.raises(StorageUnavailableError):
            store.sweep() if server_name == "postgres" else store.is_exhausted("during", 1)
    finally:
        server.start()

    assert store.consume("after", 1, expires_at) is True
    assert store.consume("after", 1, expires_at) is False
    store.close()


# -- SQL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["sqlite", "postgres"], indirect=True)
def test_a_table_that_another_worker_makes_at_the_same_moment_is_used(setting, tmp_path, expires_at):
    """Two workers find no table; the slower one takes the table of the quicker one."""
    store, quicker = open_usage_store(setting, tmp_path), open_usage_store(setting, tmp_path)
    created: list[str] = []

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
    def overtake(connection, cursor, statement, *details):
        if "CREATE TABLE" in statement and not created:
            created.append(statement)
            quicker.consume("id", 2, expires_at)

    try:
        taken = [store.consume("id", 2, expires_at) for _ in range(2)]
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", overtake)

    assert len(created) == 1
    assert taken == [True, False]
    store.close()
    quicker.close()


def test_a_relative_sqlite_file_lies_in_the_instance_folder(tmp_path, expires_at, monkeypatch):
    """Workers with different working folders share one file; the instance folder is made when it is missing."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store = open_usage_store("sqlite:///links.db", tmp_path / "instance")

    store.consume("id", 1, expires_at)

    assert (tmp_path / "instance" / "links.db").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    store.close()


def test_an_absolute_sqlite_file_lies_where_it_says(tmp_path, expires_at):
    """Four slashes mean the place itself."""
    store = open_usage_store(f"sqlite:///{tmp_path}/here/links.db", tmp_path / "instance")

    store.consume("id", 1, expires_at)

    assert (tmp_path / "here" / "links.db").is_file()
    assert not (tmp_path / "instance").exists()
    store.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url, tmp_path):
    """Every worker would have one of its own, and each would grant the uses again."""
    with pytest.raises(ConfigurationError, match="not shared by the app's workers"):
        open_usage_store(url, tmp_path)


def test_a_given_connect_timeout_is_kept(postgres, tmp_path, expires_at):
    """What the URL says about the connection is not overruled."""
    store = open_usage_store(_without_table(postgres.url) + "&connect_timeout=3", tmp_path)

    assert store.consume("id", 1, expires_at) is True
    store.close()


# -- Redis ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["redis"], indirect=True)
def test_redis_forgets_by_itself(store, setting, expires_at):
    """A counter lives an hour longer than its link, also after a use was given back; nobody needs to sweep."""
    store.consume("id", 3, expires_at)
    store.consume("id", 3, expires_at)
    store.release("id")

    with redis.Redis.from_url(setting) as client:
        (key,) = client.keys("*")
        remaining = client.ttl(key)

    assert key.startswith(b"flask-storage:link-usage:")
    assert 3600 < remaining <= 2 * 3600
    assert store.sweep(expires_at + timedelta(days=1)) == 0


def test_redis_is_reached_by_its_socket(redis_server, tmp_path, expires_at):
    """`unix://` works like `redis://`."""
    store = open_usage_store(redis_server.socket_url, tmp_path)

    taken = [store.consume("by socket", 1, expires_at) for _ in range(2)]

    assert taken == [True, False]
    assert str(redis_server.folder) in repr(store)
    assert redis_server.password not in repr(store)
    store.close()


# -- choosing ---------------------------------------------------------------------------------------------------------


def test_the_setting_chooses_the_store(tmp_path):
    """Nothing, a URL, or an object: each names one kind of store, and opening it asks no server."""
    own = MemoryUsageStore()
    postgres = "postgresql+psycopg://user:password@192.0.2.1/name"

    shown = {
        "None": repr(open_usage_store(None, tmp_path)),
        "file": repr(open_usage_store("file:///srv/used%20links", tmp_path)),
        "sqlite": repr(open_usage_store("sqlite:///links.db", tmp_path)),
        "postgresql": repr(open_usage_store(postgres, tmp_path)),
        "redis": repr(open_usage_store("redis://:password@192.0.2.1", tmp_path)),
        "rediss": repr(open_usage_store("rediss://:password@192.0.2.1:7000/2", tmp_path)),
    }

    assert open_usage_store(own, tmp_path) is own
    assert repr(own) == "<MemoryUsageStore>"
    assert shown == {
        "None": f"<FileUsageStore in {tmp_path}/storage-links>",
        "file": "<FileUsageStore in /srv/used links>",
        "sqlite": f"<SQLUsageStore in sqlite /{tmp_path}/links.db>",
        "postgresql": "<SQLUsageStore in postgresql 192.0.2.1/name>",
        "redis": "<RedisUsageStore in 192.0.2.1:6379>",
        "rediss": "<RedisUsageStore in 192.0.2.1:7000>",
    }


@pytest.mark.parametrize(
    "setting",
    [
        "mongodb://user:hunter2@host/db",
        "mysql://user:hunter2@host/db",
        "hunter2",
        "",
        "redis:hunter2",
        "file://hunter2",
    ],
)
def test_an_unknown_place_is_refused_and_the_known_ones_are_named(setting, tmp_path):
    """The message lists what exists; the setting itself, which may hold a password, is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        open_usage_store(setting, tmp_path)

    message = str(caught.value)
    assert all(
        known in message for known in ("redis://", "postgresql+psycopg://", "sqlite:///", "file:///", "LinkUsageStore")
    )
    assert "hunter2" not in message


@pytest.mark.parametrize("setting", [{"url": "redis://:hunter2@host"}, 7, b"redis://host", True, object])
def test_a_setting_of_another_type_is_refused(setting, tmp_path):
    """JSON in the environment may say anything: the message names the type that was found."""
    with pytest.raises(ConfigurationError, match=type(setting).__name__) as caught:
        open_usage_store(setting, tmp_path)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "postgresql://user:hunter2@host:port/db",
        "postgresql+nosuchdriver://user:hunter2@host/db",
        "sqlite:/\x00hunter2",
        "redis://:hunter2@host:port/0",
        "redis://:hunter2@[host/0",
        "redis://host/0?socket_timeout=hunter2",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(setting, tmp_path):
    """Neither the message nor the traceback repeats what may be a password."""
    with pytest.raises(ConfigurationError) as caught:
        open_usage_store(setting, tmp_path)

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("missing", "setting", "command"),
    [
        ("redis", "redis://host", "pip install 'flask-storage-profiles[redis]'"),
        ("sqlalchemy", "sqlite:///links.db", "pip install 'flask-storage-profiles[sqlalchemy]'"),
        ("psycopg", "postgresql+psycopg://host/name", "pip install 'psycopg[binary]'"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(missing, setting, command, tmp_path, monkeypatch):
    """At the start of the app, not with the first link."""
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(ConfigurationError) as caught:
        open_usage_store(setting, tmp_path)

    assert command in str(caught.value)
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_database_that_keeps_a_worker_waiting_is_given_up(postgres, expires_at, monkeypatch):
    """A lock that somebody else holds costs a request seconds, not its worker."""
    monkeypatch.setattr(sql_store, "TIMEOUT", 4)
    store = open_usage_store(postgres.url, "")
    assert not store.is_exhausted("locked out", 1)  # the table is there
    engine = sqlalchemy.create_engine(postgres.url)

    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("LOCK TABLE storage_link_usage IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(StorageUnavailableError):
            store.consume("locked out", 1, expires_at)

    assert store.consume("locked out", 1, expires_at)
    engine.dispose()
    store.close()
