"""Links with a limited number of uses: among all threads and processes exactly as many calls succeed."""

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
SHARED_STORES = ["file", "sqlite", "postgres", "redis"]  # shared by all processes of an app
STORES = ["memory", *SHARED_STORES]


@pytest.fixture
def expires_at():
    """A time one hour from now."""
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def setting(request, tmp_path):
    """A value of STORAGE_LINK_USAGE that names an empty store."""
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
    """The store that `setting` names."""
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
    """Run the test with all stores."""
    return pytest.mark.parametrize("setting", STORES, indirect=True)(function)


def every_shared_store(function):
    """Run the test with all stores that processes share."""
    return pytest.mark.parametrize("setting", SHARED_STORES, indirect=True)(function)


def run_in_threads(threads, function):
    """Return the results of *function* in so many threads that start at the same time."""
    start = threading.Barrier(threads)

    def run():
        start.wait(60)
        return function()

    with ThreadPoolExecutor(threads) as pool:
        return [job.result() for job in [pool.submit(run) for _ in range(threads)]]


# -- every store ------------------------------------------------------------------------------------------------------


@every_store
def test_a_link_can_be_used_as_often_as_its_limit_allows(store, expires_at):
    """The third of three uses succeeds, all later ones are refused."""
    taken = [store.consume("id", 3, expires_at) for _ in range(6)]

    assert taken == [True, True, True, False, False, False]


@every_store
def test_a_limit_of_zero_allows_no_use(store, expires_at):
    """It is exhausted from the start."""
    assert store.consume("id", 0, expires_at) is False
    assert store.is_exhausted("id", 0) is True


@every_store
def test_links_are_counted_separately(store, expires_at):
    """Using up one link does not affect another, whatever its id is."""
    ids = ["id", "ID", "id ", "../id", "id/1", "*", "", "i" * 10_000, "\u00e9", "e\u0301", "id\x00", "'; --", "\ud800"]

    first = [store.consume(token_id, 1, expires_at) for token_id in ids]
    second = [store.consume(token_id, 1, expires_at) for token_id in ids]

    assert first == [True] * len(ids)
    assert second == [False] * len(ids)


@every_store
def test_is_exhausted_takes_no_use(store, expires_at):
    """It is true when the last use is taken, and changes nothing."""
    before = [store.is_exhausted("id", 2) for _ in range(5)]
    store.consume("id", 2, expires_at)
    between = [store.is_exhausted("id", 2) for _ in range(5)]
    store.consume("id", 2, expires_at)

    assert before == [False] * 5
    assert between == [False] * 5
    assert store.is_exhausted("id", 2) is True


@every_store
def test_a_released_use_can_be_taken_again(store, expires_at):
    """A failed upload does not use its link up."""
    store.consume("id", 1, expires_at)

    store.release("id")

    assert store.is_exhausted("id", 1) is False
    assert [store.consume("id", 1, expires_at) for _ in range(2)] == [True, False]


@every_store
def test_releasing_more_than_was_taken_adds_no_uses(store, expires_at):
    """The limit of the link stays."""
    store.release("id")
    store.consume("id", 2, expires_at)
    for _ in range(3):
        store.release("id")

    taken = [store.consume("id", 2, expires_at) for _ in range(4)]

    assert taken == [True, True, False, False]


@every_store
def test_one_of_fifty_threads_takes_a_single_use(store, expires_at):
    """In every round exactly one call succeeds."""
    for number in range(count(5, 20)):
        taken = run_in_threads(THREADS, lambda number=number: store.consume(f"id {number}", 1, expires_at))

        assert taken.count(True) == 1
        assert taken.count(False) == THREADS - 1


@every_store
def test_fifty_threads_share_twenty_uses(store, expires_at):
    """No use is lost and none is granted twice."""
    taken = run_in_threads(THREADS, lambda: store.consume("id", 20, expires_at))

    assert taken.count(True) == 20
    assert store.is_exhausted("id", 20) is True


@every_store
def test_concurrent_releases_each_free_one_use(store, expires_at):
    """Twelve concurrent failures free twelve uses."""
    for _ in range(20):
        store.consume("id", 20, expires_at)

    run_in_threads(12, lambda: store.release("id"))

    assert [store.consume("id", 20, expires_at) for _ in range(14)].count(True) == 12


@every_store
def test_a_link_that_expired_long_ago_is_refused(store):
    """An hour after expiry its uses may be deleted, so it must not be counted from zero again."""
    long_ago = datetime.now(UTC) - timedelta(hours=1, seconds=2)

    assert store.consume("id", 5, long_ago) is False


@every_store
def test_uses_are_still_counted_shortly_after_expiry(store):
    """The clock of another host may be slow, so that the link is still valid there."""
    just_now = datetime.now(UTC) - timedelta(minutes=30)

    taken = [store.consume("id", 1, just_now), store.consume("id", 1, just_now)]
    store.sweep()

    assert taken == [True, False]
    assert store.is_exhausted("id", 1) is True


@every_store
def test_the_latest_possible_expiry_works(store):
    """A link that practically never expires is counted like any other."""
    end_of_time = datetime.max.replace(tzinfo=UTC)

    assert [store.consume("id", 1, end_of_time) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("setting", ["memory", "file", "sqlite", "postgres"], indirect=True)
def test_a_sweep_deletes_expired_links_only(store, expires_at):
    """It returns the number of deleted uses."""
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
def test_sweeping_an_unused_store_returns_zero(store):
    """Also when its directory or table does not exist yet."""
    assert store.sweep() == 0


@every_store
def test_concurrent_sweeps_delete_no_use_of_a_valid_link(store, expires_at):
    """Several workers may sweep at any time."""
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


def _send_line(processes, line):
    for process in processes:
        process.stdin.write(line)
        process.stdin.flush()


@every_shared_store
def test_processes_share_the_uses_of_a_link(setting, tmp_path):
    """Workers that start at the same time on a new store take seven of seven uses, and no more."""
    command = [sys.executable, "-c", _PROCESS, setting or "", str(tmp_path), "5"]
    processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(5)]
    assert [_line_from(process) for process in processes] == ["ready\n"] * 5

    _send_line(processes, "go\n")
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
        own_uses = sum(store.consume("id", 30, expires_at) for _ in range(10))
        os._exit(own_uses)
    children.append(child)
taken += [store.consume("id", 30, expires_at) for _ in range(10)]
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
taken += [store.consume("id", 30, expires_at)]
print(sum(taken) + sum(codes), store.is_exhausted("id", 30))
store.close()
"""


@every_shared_store
def test_a_store_that_was_used_before_a_fork_works_in_parent_and_children(setting, tmp_path):
    """As with `gunicorn --preload`: processes share no connection, and the count is right."""
    command = [sys.executable, "-W", "error", "-c", _FORKING, setting or "", str(tmp_path)]

    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert (result.stdout, result.stderr) == ("30 True\n", "")


@every_store
def test_a_closed_store_can_be_used_again(store, expires_at):
    """Closing only closes connections."""
    store.consume("id", 2, expires_at)

    store.close()
    store.close()

    assert [store.consume("id", 2, expires_at) for _ in range(2)] == [True, False]


@every_shared_store
def test_uses_survive_a_restart_of_the_app(setting, tmp_path, expires_at):
    """Another object with the same setting sees the uses that the first one took."""
    first, second = open_usage_store(setting, tmp_path), open_usage_store(setting, tmp_path)

    first.consume("id", 1, expires_at)

    assert second.is_exhausted("id", 1) is True
    assert second.consume("id", 1, expires_at) is False
    first.close()
    second.close()


# -- automatic sweeps --------------------------------------------------------------------------------------------------


class _RecordingStore(LinkUsageStore):
    """A custom store that records the calls of its four methods."""

    def __init__(self):
        self.calls = []

    def _count(self, key):
        self.calls.append(("count", key))
        return 0

    def _increment(self, key, uses, expiry):
        self.calls.append(("increment", key))
        return True

    def _decrement(self, key):
        self.calls.append(("decrement", key))

    def _delete_expired(self, expired):
        self.calls.append(("delete expired", expired))
        return 0


def test_the_first_use_of_a_process_sweeps(expires_at):
    """The next uses do not."""
    store = _RecordingStore()

    for _ in range(3):
        store.consume("id", 3, expires_at)

    assert [call for call, _ in store.calls] == ["delete expired", "increment", "increment", "increment"]


def test_a_process_sweeps_again_after_the_interval(expires_at, monkeypatch):
    """With the first use after it."""
    store = _RecordingStore()
    monkeypatch.setattr(base, "SWEEP_INTERVAL", 0)

    for _ in range(2):
        store.consume("id", 3, expires_at)

    assert [call for call, _ in store.calls] == ["delete expired", "increment", "delete expired", "increment"]


def test_a_store_gets_a_hash_instead_of_the_id(expires_at):
    """64 hexadecimal digits, whatever the token contains."""
    store = _RecordingStore()

    store.consume("../../etc", 1, expires_at)
    store.release("../../etc")
    store.is_exhausted("../../etc", 1)

    keys = [value for call, value in store.calls if call != "delete expired"]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(keys[0]) == 64
    assert set(keys[0]) <= set("0123456789abcdef")


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_are_in_a_private_directory(tmp_path, expires_at):
    """The first use creates it with mode 0700; names are hashes and numbers, files are empty."""
    directory = tmp_path / "instance" / "storage-links"
    store = open_usage_store(None, tmp_path / "instance")
    exists_before = directory.exists()

    store.consume("../../evil", 2, expires_at)
    store.consume("../../evil", 2, expires_at)

    (link,) = directory.iterdir()
    files = sorted(link.iterdir())
    assert exists_before is False
    assert directory.stat().st_mode & 0o777 == 0o700
    assert link.stat().st_mode & 0o777 == 0o700
    assert len(link.name) == 64
    assert [file.name for file in files] == ["1", "2"]
    assert [file.stat().st_size for file in files] == [0, 0]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]
    assert [path.name for path in tmp_path.iterdir()] == ["instance"]


def test_a_use_is_synced_to_disk_before_it_is_granted(tmp_path, expires_at, monkeypatch):
    """The file, the link's directory and the store's directory, in this order."""
    store = FileUsageStore(tmp_path / "links")
    synced: list[str] = []
    fsync = os.fsync

    def recording_fsync(fd):
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recording_fsync)
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
def test_a_file_system_without_directory_fsync_is_supported(tmp_path, expires_at, monkeypatch, reason):
    """EINVAL is ignored; EIO, a disk error, is reported."""
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


def test_the_first_use_deletes_files_of_expired_links(tmp_path, expires_at):
    """Old files do not accumulate when `sweep` is never called."""
    FileUsageStore(tmp_path).consume("old", 1, expires_at)
    (old,) = tmp_path.iterdir()
    long_ago = time.time() - 7200
    os.utime(old / "1", (long_ago, long_ago))

    FileUsageStore(tmp_path).consume("new", 1, expires_at)

    (remaining,) = tmp_path.iterdir()
    assert remaining.name != old.name


def test_a_sweep_keeps_other_files_in_the_directory(tmp_path, expires_at):
    """Whatever their age."""
    (tmp_path / "notes.txt").write_text("other content")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1").write_text("other content")
    store = FileUsageStore(tmp_path)
    store.consume("id", 1, expires_at)

    deleted = store.sweep(datetime.now(UTC) + timedelta(days=1000))

    assert deleted == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "folder", "notes.txt"]


def test_a_sweep_keeps_a_use_that_is_being_created(tmp_path, expires_at):
    """Its modification time is the present until the expiry is set."""
    store = FileUsageStore(tmp_path)
    store.consume("id", 1, expires_at)
    (link,) = tmp_path.iterdir()
    os.utime(link / "1")

    deleted = store.sweep()

    assert deleted == 0
    assert store.is_exhausted("id", 1) is True


def _file_instead_of_directory(tmp_path, postgres, redis_server):
    (tmp_path / "storage-links").write_text("")
    return open_usage_store(None, tmp_path)


def _not_a_database(tmp_path, postgres, redis_server):
    (tmp_path / "links.db").write_text("this is not a database, but long enough to be one " * 100)
    return open_usage_store("sqlite:///links.db", tmp_path)


def _database_below_a_file(tmp_path, postgres, redis_server):
    (tmp_path / "links").write_text("")
    return open_usage_store("sqlite:///links/used.db", tmp_path)


def _postgres_wrong_password(tmp_path, postgres, redis_server):
    return open_usage_store(postgres.url.replace("tester:", "tester:wrong"), tmp_path)


def _postgres_wrong_address(tmp_path, postgres, redis_server):
    return open_usage_store(postgres.url.replace(quote(str(postgres.directory), safe=""), "%2Fnowhere"), tmp_path)


def _postgres_without_create_permission(tmp_path, postgres, redis_server):
    engine = sqlalchemy.create_engine(_without_table(postgres.url))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP ROLE IF EXISTS guest"))
        connection.execute(sqlalchemy.text(f"CREATE ROLE guest LOGIN PASSWORD '{postgres.password}'"))
        connection.execute(sqlalchemy.text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    engine.dispose()
    return open_usage_store(postgres.url.replace("tester:", "guest:"), tmp_path)


def _redis_wrong_password(tmp_path, postgres, redis_server):
    return open_usage_store(redis_server.url.replace("redis://:", "redis://:wrong"), tmp_path)


def _redis_wrong_address(tmp_path, postgres, redis_server):
    return open_usage_store(f"unix://:{redis_server.password}@{tmp_path}/no-socket", tmp_path)


UNUSABLE_STORES = [
    _file_instead_of_directory,
    _not_a_database,
    _database_below_a_file,
    _postgres_wrong_password,
    _postgres_wrong_address,
    _postgres_without_create_permission,
    _redis_wrong_password,
    _redis_wrong_address,
]


@pytest.mark.parametrize("open_store", UNUSABLE_STORES, ids=lambda open_store: open_store.__name__.strip("_"))
def test_an_unavailable_store_grants_no_use(open_store, tmp_path, postgres, redis_server, expires_at):
    """Every method raises StorageUnavailableError with the cause chained, and no message shows a password."""
    store = open_store(tmp_path, postgres, redis_server)
    calls = [
        lambda: store.consume("id", 1, expires_at),
        lambda: store.consume("id", 1, expires_at),
        lambda: store.is_exhausted("id", 1),
        lambda: store.release("id"),
    ]

    errors = []
    for call in calls:
        with pytest.raises(StorageUnavailableError) as caught:
            call()
        errors.append(caught.value)

    assert all(error.__cause__ is not None for error in errors)
    assert all("STORAGE_LINK_USAGE" in str(error) for error in errors)
    shown = repr(store) + "".join("".join(traceback.format_exception(error)) for error in errors)
    assert postgres.password not in shown
    assert redis_server.password not in shown
    store.close()


@pytest.mark.parametrize("server_name", ["postgres", "redis_server"])
def test_a_store_works_again_when_its_server_is_back(server_name, request, tmp_path, expires_at):
    """While the server is down no use is granted; afterwards the same object works."""
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
def test_a_table_that_another_worker_creates_concurrently_is_used(setting, tmp_path, expires_at):
    """Both workers find no table; the slower one's CREATE TABLE fails."""
    store, quicker = open_usage_store(setting, tmp_path), open_usage_store(setting, tmp_path)
    created: list[str] = []

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
    def create_table_first(connection, cursor, statement, *details):
        if "CREATE TABLE" in statement and not created:
            created.append(statement)
            quicker.consume("id", 2, expires_at)

    try:
        taken = [store.consume("id", 2, expires_at) for _ in range(2)]
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", create_table_first)

    assert len(created) == 1
    assert taken == [True, False]
    store.close()
    quicker.close()


def test_a_relative_sqlite_file_is_in_the_instance_folder(tmp_path, expires_at, monkeypatch):
    """Workers with different working directories share one file; a missing instance folder is created."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store = open_usage_store("sqlite:///links.db", tmp_path / "instance")

    store.consume("id", 1, expires_at)

    assert (tmp_path / "instance" / "links.db").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    store.close()


def test_an_absolute_sqlite_path_is_used_as_it_is(tmp_path, expires_at):
    """A URL with four slashes."""
    store = open_usage_store(f"sqlite:///{tmp_path}/here/links.db", tmp_path / "instance")

    store.consume("id", 1, expires_at)

    assert (tmp_path / "here" / "links.db").is_file()
    assert not (tmp_path / "instance").exists()
    store.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_sqlite_database_in_memory_is_refused(url, tmp_path):
    """Each worker would have its own, and grant the uses again."""
    with pytest.raises(ConfigurationError, match="not shared by the app's workers"):
        open_usage_store(url, tmp_path)


def test_a_connect_timeout_in_the_url_is_kept(postgres, tmp_path, expires_at):
    """The store's own time-out is only a default."""
    store = open_usage_store(_without_table(postgres.url) + "&connect_timeout=3", tmp_path)

    assert store.consume("id", 1, expires_at) is True
    store.close()


# -- Redis ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["redis"], indirect=True)
def test_redis_counters_expire(store, setting, expires_at):
    """A counter is kept an hour longer than its link, also after a release; no sweep is needed."""
    store.consume("id", 3, expires_at)
    store.consume("id", 3, expires_at)
    store.release("id")

    with redis.Redis.from_url(setting) as client:
        (key,) = client.keys("*")
        remaining = client.ttl(key)

    assert key.startswith(b"flask-storage:link-usage:")
    assert 3600 < remaining <= 2 * 3600
    assert store.sweep(expires_at + timedelta(days=1)) == 0


def test_redis_works_over_a_unix_socket(redis_server, tmp_path, expires_at):
    """`unix://` works like `redis://`."""
    store = open_usage_store(redis_server.socket_url, tmp_path)

    taken = [store.consume("by socket", 1, expires_at) for _ in range(2)]

    assert taken == [True, False]
    assert str(redis_server.directory) in repr(store)
    assert redis_server.password not in repr(store)
    store.close()


# -- the setting ------------------------------------------------------------------------------------------------------


def test_the_setting_selects_the_store(tmp_path):
    """None, a URL, or an object; opening a store sends no request."""
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
def test_an_unknown_usage_store_is_refused(setting, tmp_path):
    """The message lists the valid ones; it does not show the setting, which may hold a password."""
    with pytest.raises(ConfigurationError) as caught:
        open_usage_store(setting, tmp_path)

    message = str(caught.value)
    assert all(
        known in message for known in ("redis://", "postgresql+psycopg://", "sqlite:///", "file:///", "LinkUsageStore")
    )
    assert "hunter2" not in message


@pytest.mark.parametrize("setting", [{"url": "redis://:hunter2@host"}, 7, b"redis://host", True, object])
def test_a_setting_of_another_type_is_refused(setting, tmp_path):
    """JSON in the environment may have any type; the message names the type."""
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
        "redis://host/0?hunter2=1",
        "rediss://host/0?ssl_cert_reqs=hunter2",
    ],
)
def test_an_invalid_url_is_refused_without_showing_it(setting, tmp_path):
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
def test_a_missing_library_is_reported_with_the_install_command(missing, setting, command, tmp_path, monkeypatch):
    """At the start of the app, not with the first link."""
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(ConfigurationError) as caught:
        open_usage_store(setting, tmp_path)

    assert command in str(caught.value)
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_blocked_database_statement_times_out(postgres, expires_at, monkeypatch):
    """A lock that another client holds costs a request seconds, not its worker."""
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
