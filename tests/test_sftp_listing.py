"""Listing directories of an SFTP server: many at once, lazily, without links, and with concurrent changes."""

import os
import shutil
import struct
import tracemalloc
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from flask_storage import PermissionDeniedError
from flask_storage.backends.sftp.listing import walk
from flask_storage.backends.sftp.protocol import (
    CLOSE,
    EOF,
    FAILURE,
    LSTAT,
    NO_SUCH_FILE,
    OPENDIR,
    PERMISSION_DENIED,
    READDIR,
    REALPATH,
    ProtocolError,
    StatusError,
)
from flask_storage.backends.sftp.remote_tree import RemoteTree
from flask_storage.types import WriteOptions
from tests.counts import count
from tests.scripted_sftp import (
    ATTRS,
    DIRECTORY,
    FILE,
    LINK,
    RoundTrips,
    attributes,
    handle,
    make_session,
    names,
    response,
    status,
)
from tests.services.fault_proxy import FaultProxy, Faults
from tests.sftp_storages import make_storage, pooled_session, wait_until

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

OUTSIDE = b"not of this storage"
AT_ONCE = 64
PAGE = 100
"""Number of names in one response of OpenSSH."""


@pytest.fixture
def storage(openssh):
    """An empty storage that has one session."""
    storage = make_storage(openssh, max_connections=1, max_sessions=1)
    yield storage
    storage.close()
    shutil.rmtree(openssh.folder / storage.root)


@pytest.fixture
def root(openssh, storage):
    """The root of the storage on this machine."""
    return openssh.folder / storage.root


@pytest.fixture(params=["openssh", "plain_sftp"])
def any_storage(request):
    """A storage on any_storage server, and its root on this machine."""
    server = request.getfixturevalue(request.param)
    storage = make_storage(server)
    yield storage, server.folder / storage.root
    storage.close()


def listed(storage, *arguments, **options):
    """Return the names that are listed."""
    return [entry.name for entry in storage.list(*arguments, **options)]


def open_below(directory):
    """Return how many files and directories below a directory are open, in any process."""
    number = 0
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            number += os.readlink(link).startswith(str(directory))
        except OSError:  # the process has ended
            continue
    return number


# -- many entries -----------------------------------------------------------------------------------------------------


def test_thousands_of_directories_are_listed_in_few_round_trips(openssh, monkeypatch):
    """Each has to be opened and read to its end, but many at once."""
    number = count(300, 5000)
    with FaultProxy("127.0.0.1", openssh.port) as proxy:
        openssh.know(proxy.port)
        with closing(make_storage(openssh, port=proxy.port)) as storage:
            root = openssh.folder / storage.root
            expected = [f"{top % 10}/{top:05}/deep/a.txt" for top in range(number)]
            for path in expected:
                (root / path).parent.mkdir(parents=True)
                (root / path).touch()
            storage.exists("a.txt")
            proxy.down = Faults(latency=0.01)
            round_trips = RoundTrips(monkeypatch)

            paths = listed(storage)

    directories = 2 * number + 11
    assert paths == sorted(expected)
    assert round_trips.requests > 4 * directories
    assert round_trips.count < 4 * directories / AT_ONCE + 20


def test_a_large_directory_is_read_ahead(storage, root, monkeypatch):
    """A response has a hundred names, and eight of them are requested at once."""
    number = count(3000, 50_000)
    for one in range(number):
        (root / f"{one:06}.txt").touch()
    storage.exists("a.txt")
    round_trips = RoundTrips(monkeypatch)

    paths = listed(storage)

    assert paths == [f"{one:06}.txt" for one in range(number)]
    assert round_trips.requests > number / PAGE
    assert round_trips.count < number / PAGE / 8 + 10


def test_a_large_storage_is_listed_in_little_memory(storage, root):
    """Entries are not kept, and are read only when they are needed."""
    peaks = []
    for number in (500, count(2500, 40_000)):
        for one in range(number):
            (root / f"{one:06}-{'x' * 100}.txt").touch()
        tracemalloc.start()
        seen = sum(1 for _ in storage.iter())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert seen == number

    assert peaks[1] < peaks[0] + (1 << 20)


def test_an_iteration_that_is_closed_early_stops_reading(storage, root, monkeypatch):
    """A few hundred of three thousand names are read, and all handles are closed, however often this happens."""
    for one in range(3000):
        (root / f"{one:06}.txt").touch()
    storage.exists("a.txt")
    round_trips = RoundTrips(monkeypatch)

    for _ in range(8):
        entries = storage.iter()
        assert next(entries).name.endswith(".txt")
        entries.close()
        assert round_trips.requests < 20
        round_trips.requests = 0

    storage.exists("a.txt")
    wait_until(lambda: open_below(root) == 0)


def test_a_listing_that_fails_early_leaves_no_handle_open(storage, root):
    """Its directories are still being opened, and so are those beside the one that is refused."""
    for one in range(3):
        (root / f"d{one}").mkdir()
    (root / "link").symlink_to("d0")

    for _ in range(8):
        with pytest.raises(PermissionDeniedError), pooled_session(storage) as session:
            list(walk(storage._tree, session, ["link", "d0"]))

    storage.exists("a.txt")
    wait_until(lambda: open_below(root) == 0)


def test_a_directory_is_searched_only_until_a_file_is_found(storage, root, monkeypatch):
    """One file is enough to show a directory."""
    for one in range(1000):
        (root / f"large/{one}").mkdir(parents=True)
        (root / f"large/{one}/a.txt").touch()
    storage.exists("a.txt")
    round_trips = RoundTrips(monkeypatch)

    assert listed(storage, recursive=False) == ["large/"]
    assert round_trips.requests < 1000


# -- links and concurrent changes -------------------------------------------------------------------------------------


@pytest.fixture
def linked(any_storage, tmp_path):
    """A storage with a file, and with links to targets outside, inside, missing, and to themselves."""
    storage, root = any_storage
    (tmp_path / "sub").mkdir()
    for path in ("a.txt", "sub/b.txt", ".fs-tmp-0123456789abcdef"):
        (tmp_path / path).write_bytes(OUTSIDE)
        os.utime(tmp_path / path, (0, 0))
    (root / "d").mkdir()
    (root / "d/ours.txt").touch()
    for name, target in (
        ("out", tmp_path),
        ("file", tmp_path / "a.txt"),
        ("in", "d"),
        ("here", "."),
        ("up", ".."),
        ("nowhere", "none"),
        ("circle", "circle"),
        (".fs-tmp-1111111111111111", tmp_path),
    ):
        (root / "d" / name).symlink_to(target)
    return storage, root


def outside(tmp_path):
    """Return the paths outside, with their mtimes."""
    return {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_links_are_neither_followed_nor_listed(linked):
    """Their targets are not part of the storage."""
    storage, _ = linked

    assert listed(storage) == ["d/ours.txt"]
    assert listed(storage, "d", recursive=False) == ["d/ours.txt"]
    assert listed(storage, recursive=False) == ["d/"]
    for path in ("d/in", "d/here/d", "d/up"):
        with pytest.raises(PermissionDeniedError, match="contains a symbolic link"):
            storage.list(path)
    for path in ("d/out", "d/out/sub", "d/out/none"):
        try:
            assert listed(storage, path) == []  # plain_sftp, which is confined to a directory
        except PermissionDeniedError as error:
            assert "contains a symbolic link" in str(error)  # noqa: PT017  # one of the two


def test_deleting_a_directory_deletes_its_links_but_not_their_targets(linked, tmp_path):
    """Temporary files are left for the sweep."""
    storage, root = linked
    before = outside(tmp_path)

    storage.delete_prefix("d")

    assert outside(tmp_path) == before
    assert os.listdir(root / "d") == [".fs-tmp-1111111111111111"]  # it is left for the sweep


def test_sweep_does_not_follow_links(linked, tmp_path):
    """A link with a reserved name is removed itself, if it is old enough."""
    storage, root = linked
    before = outside(tmp_path)

    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1

    assert outside(tmp_path) == before
    assert not (root / "d/.fs-tmp-1111111111111111").is_symlink()


def test_a_file_or_a_missing_path_lists_nothing(any_storage):
    """Also on servers that report every error by the same status."""
    storage, root = any_storage
    (root / "file.txt").touch()

    for path in ("file.txt", "file.txt/below", "none", "none/below"):
        assert listed(storage, path) == []
        assert storage.delete_prefix(path) == 0
    assert listed(storage) == ["file.txt"]


def test_directories_that_are_deleted_concurrently_are_ignored(storage, root):
    """The listing does not fail because another process deletes directories."""
    for one in range(200):
        (root / f"{one:03}").mkdir()
        (root / f"{one:03}/a.txt").touch()

    entries = storage.iter()
    next(entries)
    shutil.rmtree(root)
    root.mkdir()
    rest = list(entries)

    assert len(rest) < 150


def test_a_directory_that_is_replaced_with_a_file_is_ignored(storage, root):
    """The other directories are listed."""
    for one in range(200):
        (root / f"{one:03}").mkdir()
        (root / f"{one:03}/a.txt").touch()

    entries = storage.iter()
    seen = {next(entries).name}
    for one in range(200):
        if one % 2:
            shutil.rmtree(root / f"{one:03}")
            (root / f"{one:03}").touch()
    seen |= {entry.name for entry in entries}

    assert {f"{one:03}/a.txt" for one in range(0, 200, 2)} <= seen
    assert len(seen) < 200


def test_a_directory_that_is_replaced_with_a_link_is_refused(storage, root, tmp_path):
    """Nothing outside is listed."""
    (tmp_path / "secret.txt").write_bytes(OUTSIDE)
    for one in range(200):
        (root / f"{one:03}").mkdir()
        (root / f"{one:03}/a.txt").touch()

    entries = storage.iter()
    seen = [next(entries).name]
    for one in range(200):
        shutil.rmtree(root / f"{one:03}")
        (root / f"{one:03}").symlink_to(tmp_path)
    with pytest.raises(PermissionDeniedError, match="contains a symbolic link"):
        seen += [entry.name for entry in entries]

    assert not [name for name in seen if "secret" in name]


def test_directories_of_uploads_are_listed_only_by_the_sweep(storage, root):
    """An unfinished upload is not visible."""
    upload = storage.multipart.create("a.bin", WriteOptions())
    storage.multipart.upload_part("a.bin", upload, 1, b"1")

    assert (listed(storage), listed(storage, recursive=False)) == ([], [])
    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1
    assert os.listdir(root) == []


def test_names_that_are_not_utf8_are_ignored_but_can_be_deleted(storage, root, caplog):
    """Other programs may have created them; directories with such names are listed."""
    for path in (b"d/\xff.txt", b"d/\xe9/in.txt", b"d/good.txt"):
        full = os.path.join(os.fsencode(root), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w"):
            pass

    with pooled_session(storage) as session:
        walked = {path: [name for name, _ in entries] for _, path, entries in walk(storage._tree, session, [""])}

    assert sorted(walked["d"]) == ["good.txt", "\udce9", "\udcff.txt"]
    assert walked["d/\udce9"] == ["in.txt"]
    assert listed(storage) == ["d/good.txt"]
    assert "2" in caplog.text
    assert storage.delete_prefix("d") == 3
    assert os.listdir(root) == []


# -- scripted servers -------------------------------------------------------------------------------------------------


def scripted_server(directories, *, opened=None):
    """Return a session with a server that has these directories, and its channel.

    Args:
        directories: By path below the root: the responses to the READDIR requests, before the end.
        opened: Responses to an OPENDIR in place of a handle, by path.
    """
    remaining = {path: list(replies) for path, replies in directories.items()}

    def script(request):
        text = request.texts[0]
        path = text.removeprefix(b"/r").removeprefix(b"/")
        if request.kind == REALPATH:
            return names(request, (text, attributes(DIRECTORY)))
        if request.kind == OPENDIR:
            if opened and path in opened:
                return opened[path](request)
            return handle(request, b"h" + path)
        if request.kind == READDIR:
            replies = remaining[text[1:]]
            return replies.pop(0)(request) if replies else status(request, EOF)
        if request.kind == LSTAT:
            return response(request, ATTRS, attributes(DIRECTORY))
        return status(request, 0)

    session, channel = make_session(script)
    session.root = b"/r"
    return session, channel


TREE = RemoteTree("r", directory_mode=0o700, storage="sftp")


def entries(*names_and_modes):
    """Return a function that returns a response with these names and modes."""
    return lambda request: names(request, *((name, attributes(mode)) for name, mode in names_and_modes))


def closed_handles(channel):
    """Return the handles that were closed."""
    return [request.texts[0] for request in channel.requests if request.kind == CLOSE]


def test_names_that_leave_the_directory_are_ignored():
    """A malicious server could send them."""
    malicious = [(name, DIRECTORY) for name in (b"", b".", b"..", b"../etc", b"/etc", b"a/b", b"/")]
    session, channel = scripted_server({b"": [entries(*malicious, (b"good", FILE), (b"link", LINK))]})

    walked = [[name for name, _ in page] for _, _, page in walk(TREE, session, [""])]

    assert walked == [["good", "link"]]
    session.flush()
    assert closed_handles(channel) == [b"h"]


def test_without_modes_every_entry_is_a_file():
    """The types are unknown."""
    session, _ = scripted_server({b"": [entries((b"a", None), (b"b", None))]})

    walked = [(path, [(name, found.mode) for name, found in page]) for _, path, page in walk(TREE, session, [""])]

    assert walked == [("", [("a", None), ("b", None)])]


def test_an_endless_listing_without_names_raises_an_error():
    """No time-out would end it, since each response arrives."""
    session, _ = scripted_server({b"": [entries() for _ in range(200)]})

    with pytest.raises(ProtocolError, match="does not end, and has no names"):
        list(walk(TREE, session, [""]))


def test_a_response_without_names_does_not_end_the_listing():
    """Nothing is yielded for it."""
    session, _ = scripted_server({b"": [entries(), entries((b"a", FILE)), entries(), entries((b"b", FILE))]})

    assert [[name for name, _ in page] for _, _, page in walk(TREE, session, [""])] == [["a"], ["b"]]


@pytest.mark.parametrize("code", [FAILURE, PERMISSION_DENIED, 99])
def test_a_directory_that_cannot_be_read_completely_raises_an_error(code):
    """All handles are closed, also those of other directories."""
    session, channel = scripted_server(
        {
            b"": [entries((b"d", DIRECTORY), (b"e", DIRECTORY))],
            b"d": [entries((b"a", FILE)), lambda request: status(request, code)],
            b"e": [entries((b"b", FILE))] * 20,
        }
    )

    with pytest.raises(StatusError) as caught:
        list(walk(TREE, session, [""]))

    assert caught.value.code == code
    if not session.broken:
        session.flush()
        assert set(closed_handles(channel)) == {b"h", b"hd", b"he"}


@pytest.mark.parametrize(
    ("code", "expected"), [(PERMISSION_DENIED, {"d"}), (NO_SUCH_FILE, set()), (FAILURE, None), (99, None)]
)
def test_a_directory_that_cannot_be_opened_raises_an_error_unless_it_is_missing(code, expected):
    """With on_denied, a directory that may not be listed is reported to it; a failure is never an empty directory."""
    denied = set()
    session, _ = scripted_server(
        {b"": [entries((b"d", DIRECTORY), (b"e", DIRECTORY))], b"e": [entries((b"a", FILE))]},
        opened={b"d": lambda request: status(request, code)},
    )

    def walked():
        return [path for _, path, _ in walk(TREE, session, [""], on_denied=lambda _, path: denied.add(path))]

    if expected is None:
        with pytest.raises(StatusError):
            walked()
        return
    assert walked() == ["", "e"]
    assert denied == expected


def test_a_directory_that_fails_and_is_missing_is_ignored():
    """Some servers report every error by the same status."""

    def script(request):
        return (
            names(request, (b"/r/d", attributes(DIRECTORY))) if request.kind == REALPATH else status(request, FAILURE)
        )

    session, channel = make_session(script)
    session.root = b"/r"

    assert list(walk(TREE, session, ["d"])) == []
    assert [request.kind for request in channel.requests] == [REALPATH, OPENDIR, LSTAT]


def test_a_directory_that_cannot_be_resolved_is_not_read():
    """It may be a link."""

    def script(request):
        return handle(request) if request.kind == OPENDIR else status(request, FAILURE)

    session, channel = make_session(script)
    session.root = b"/r"

    with pytest.raises(StatusError):
        list(walk(TREE, session, ["d"]))
    session.flush()
    assert [request.kind for request in channel.requests] == [REALPATH, OPENDIR, CLOSE]


def test_directories_below_an_unwanted_top_are_not_listed():
    """Also those that are being read."""
    remaining = {"one": 2, "two": 100}

    def is_wanted(top):
        remaining[top] -= 1
        return remaining[top] >= 0

    session, channel = scripted_server(
        {b"one": [entries((b"d", DIRECTORY))], b"one/d": [], b"two": [entries((b"a", FILE))]}
    )

    walked = [(top, path) for top, path, _ in walk(TREE, session, ["one", "two"], is_wanted=is_wanted)]
    session.flush()

    assert walked == [("two", "two")]
    assert sorted(closed_handles(channel)) == [b"hone", b"htwo"]


def test_a_missing_directory_needs_two_requests():
    """A path that cannot be resolved does not exist."""

    def script(request):
        return status(request, NO_SUCH_FILE)

    session, channel = make_session(script)
    session.root = b"/r"

    assert list(walk(TREE, session, ["gone"])) == []
    assert [struct.pack(">B", request.kind) for request in channel.requests] == [b"\x10", b"\x0b"]
