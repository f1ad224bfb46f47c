"""Looking through folders of an SFTP server: many at once, lazily, past links, and whatever else happens to them."""

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
"""How many names OpenSSH tells at a time."""


@pytest.fixture
def storage(openssh):
    """An empty storage, with one session."""
    storage = make_storage(openssh, max_connections=1, max_sessions=1)
    yield storage
    storage.close()
    shutil.rmtree(openssh.folder / storage.root)


@pytest.fixture
def root(openssh, storage):
    """Where it is on this machine."""
    return openssh.folder / storage.root


@pytest.fixture(params=["openssh", "plain_sftp"])
def either(request):
    """A storage on either server, and where it is on this machine."""
    server = request.getfixturevalue(request.param)
    storage = make_storage(server)
    yield storage, server.folder / storage.root
    storage.close()


def found(storage, *arguments, **options):
    """What is listed."""
    return [entry.name for entry in storage.list(*arguments, **options)]


def held_below(folder):
    """How many files and folders below a folder are open, in whatever process."""
    number = 0
    for one in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            number += os.readlink(one).startswith(str(folder))
        except OSError:  # it ended meanwhile
            continue
    return number


# -- far and large ----------------------------------------------------------------------------------------------------


def test_thousands_of_folders_cost_few_turns(openssh, monkeypatch):
    """Each has to be opened, read and read to its end, but not one after the other."""
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

            listed = found(storage)

    folders = 2 * number + 11
    assert listed == sorted(expected)
    assert round_trips.requests > 4 * folders
    assert round_trips.count < 4 * folders / AT_ONCE + 20


def test_a_large_folder_is_asked_for_ahead(storage, root, monkeypatch):
    """A server tells a hundred names at a time: of eight such responses none waits for another."""
    number = count(3000, 50_000)
    for one in range(number):
        (root / f"{one:06}.txt").touch()
    storage.exists("a.txt")
    round_trips = RoundTrips(monkeypatch)

    listed = found(storage)

    assert listed == [f"{one:06}.txt" for one in range(number)]
    assert round_trips.requests > number / PAGE
    assert round_trips.count < number / PAGE / 8 + 10


def test_a_large_storage_is_looked_through_lazily(storage, root):
    """What has been seen is forgotten, and what nobody asks for is not read."""
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


def test_who_has_seen_enough_reads_no_more(storage, root, monkeypatch):
    """Of three thousand names a few hundred came, and what was open is given back, as often as this happens."""
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
    wait_until(lambda: held_below(root) == 0)


def test_a_walk_that_is_left_before_anything_came_leaves_nothing_open(storage, root):
    """Its folders are still being opened; so are those beside one that may not be seen."""
    for one in range(3):
        (root / f"d{one}").mkdir()
    (root / "link").symlink_to("d0")

    for _ in range(8):
        with pytest.raises(PermissionDeniedError), pooled_session(storage) as session:
            list(walk(storage._tree, session, ["link", "d0"]))

    storage.exists("a.txt")
    wait_until(lambda: held_below(root) == 0)


def test_folders_that_hold_a_file_are_looked_into_no_further(storage, root, monkeypatch):
    """To show a folder, one file below it is enough."""
    for one in range(1000):
        (root / f"large/{one}").mkdir(parents=True)
        (root / f"large/{one}/a.txt").touch()
    storage.exists("a.txt")
    round_trips = RoundTrips(monkeypatch)

    assert found(storage, recursive=False) == ["large/"]
    assert round_trips.requests < 1000


# -- what is not looked at --------------------------------------------------------------------------------------------


@pytest.fixture
def linked(either, tmp_path):
    """A storage with a file, and with links to what is outside, inside, nowhere, and to each other."""
    storage, root = either
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
    """What is outside, and when it was changed."""
    return {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_links_are_not_followed(linked):
    """Nor shown: what they lead to is no part of this storage."""
    storage, _ = linked

    assert found(storage) == ["d/ours.txt"]
    assert found(storage, "d", recursive=False) == ["d/ours.txt"]
    assert found(storage, recursive=False) == ["d/"]
    for path in ("d/in", "d/here/d", "d/up"):
        with pytest.raises(PermissionDeniedError, match="a symbolic link is in the way"):
            storage.list(path)
    for path in ("d/out", "d/out/sub", "d/out/none"):
        try:
            assert found(storage, path) == []  # a server that knows its own root only
        except PermissionDeniedError as error:
            assert "a symbolic link is in the way" in str(error)  # noqa: PT017  # one of the two


def test_a_folder_that_is_deleted_takes_its_links_along(linked, tmp_path):
    """The links, and nothing that they lead to."""
    storage, root = linked
    before = outside(tmp_path)

    storage.delete_prefix("d")

    assert outside(tmp_path) == before
    assert os.listdir(root / "d") == [".fs-tmp-1111111111111111"]  # what is hidden is the sweep's


def test_a_sweep_follows_no_link(linked, tmp_path):
    """One with a hidden name goes, if it is old enough."""
    storage, root = linked
    before = outside(tmp_path)

    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1

    assert outside(tmp_path) == before
    assert not (root / "d/.fs-tmp-1111111111111111").is_symlink()


def test_a_folder_that_is_no_folder_any_more_holds_nothing(either):
    """Nor one that there never was, on servers with one word for everything too."""
    storage, root = either
    (root / "file.txt").touch()

    for path in ("file.txt", "file.txt/below", "none", "none/below"):
        assert found(storage, path) == []
        assert storage.delete_prefix(path) == 0
    assert found(storage) == ["file.txt"]


def test_folders_that_go_meanwhile_are_passed_over(storage, root):
    """Nobody sees an error because somebody else deletes."""
    for one in range(200):
        (root / f"{one:03}").mkdir()
        (root / f"{one:03}/a.txt").touch()

    entries = storage.iter()
    next(entries)
    shutil.rmtree(root)
    root.mkdir()
    rest = list(entries)

    assert len(rest) < 150


def test_a_folder_that_becomes_a_file_meanwhile_is_passed_over(storage, root):
    """And its neighbours are there."""
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


def test_a_folder_that_becomes_a_link_meanwhile_is_refused(storage, root, tmp_path):
    """What is outside is not shown, whatever the listing comes to."""
    (tmp_path / "secret.txt").write_bytes(OUTSIDE)
    for one in range(200):
        (root / f"{one:03}").mkdir()
        (root / f"{one:03}/a.txt").touch()

    entries = storage.iter()
    seen = [next(entries).name]
    for one in range(200):
        shutil.rmtree(root / f"{one:03}")
        (root / f"{one:03}").symlink_to(tmp_path)
    with pytest.raises(PermissionDeniedError, match="a symbolic link is in the way"):
        seen += [entry.name for entry in entries]

    assert not [name for name in seen if "secret" in name]


def test_hidden_folders_are_entered_only_to_clean_up(storage, root):
    """What is being uploaded is nobody's business yet."""
    upload = storage.multipart.create("a.bin", WriteOptions())
    storage.multipart.upload_part("a.bin", upload, 1, b"1")

    assert (found(storage), found(storage, recursive=False)) == ([], [])
    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1
    assert os.listdir(root) == []


def test_names_that_are_no_text_are_passed_over_and_deleted(storage, root, caplog):
    """Others may have left them there; their folders are entered."""
    for path in (b"d/\xff.txt", b"d/\xe9/in.txt", b"d/good.txt"):
        full = os.path.join(os.fsencode(root), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w"):
            pass

    with pooled_session(storage) as session:
        walked = {path: [name for name, _ in entries] for _, path, entries in walk(storage._tree, session, [""])}

    assert sorted(walked["d"]) == ["good.txt", "\udce9", "\udcff.txt"]
    assert walked["d/\udce9"] == ["in.txt"]
    assert found(storage) == ["d/good.txt"]
    assert "2" in caplog.text
    assert storage.delete_prefix("d") == 3
    assert os.listdir(root) == []


# -- servers of their own mind ----------------------------------------------------------------------------------------


def scripted(folders, *, opened=None):
    """Return a session with a server that has these folders, and its channel.

    Args:
        folders: By path below the root: what it responses, in this order, when one is read, before the end.
        opened: Answers to an OPENDIR in place of the usual, by path.
    """
    left = {path: list(responses) for path, responses in folders.items()}

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
            responses = left[text[1:]]
            return responses.pop(0)(request) if responses else status(request, EOF)
        if request.kind == LSTAT:
            return response(request, ATTRS, attributes(DIRECTORY))
        return status(request, 0)

    session, channel = make_session(script)
    session.root = b"/r"
    return session, channel


TREE = RemoteTree("r", directory_mode=0o700, storage="sftp")


def entries(*told):
    """An response with these names and modes."""
    return lambda request: names(request, *((name, attributes(mode)) for name, mode in told))


def closed(channel):
    """Which handles were given back."""
    return [request.texts[0] for request in channel.requests if request.kind == CLOSE]


def test_names_that_lead_elsewhere_are_not_believed():
    """A folder holds nothing but what is in it."""
    evil = [(name, DIRECTORY) for name in (b"", b".", b"..", b"../etc", b"/etc", b"a/b", b"/")]
    session, channel = scripted({b"": [entries(*evil, (b"good", FILE), (b"link", LINK))]})

    walked = [[name for name, _ in told] for _, _, told in walk(TREE, session, [""])]

    assert walked == [["good", "link"]]
    session.flush()
    assert closed(channel) == [b"h"]


def test_a_server_that_tells_no_modes_has_files_only():
    """Nobody knows which of them is a folder."""
    session, _ = scripted({b"": [entries((b"a", None), (b"b", None))]})

    walked = [(path, [(name, about.mode) for name, about in told]) for _, path, told in walk(TREE, session, [""])]

    assert walked == [("", [("a", None), ("b", None)])]


def test_a_folder_that_goes_on_without_names_is_given_up():
    """No time-out would end it: each response comes."""
    session, _ = scripted({b"": [entries() for _ in range(200)]})

    with pytest.raises(ProtocolError, match="goes on and on, and tells no names"):
        list(walk(TREE, session, [""]))


def test_an_answer_without_names_is_not_the_end():
    """And nothing is yielded for it."""
    session, _ = scripted({b"": [entries(), entries((b"a", FILE)), entries(), entries((b"b", FILE))]})

    assert [[name for name, _ in told] for _, _, told in walk(TREE, session, [""])] == [["a"], ["b"]]


@pytest.mark.parametrize("code", [FAILURE, PERMISSION_DENIED, 99])
def test_a_folder_that_cannot_be_read_to_its_end_is_an_error(code):
    """A part of it is not all of it. What is open is given back, also of its neighbours."""
    session, channel = scripted(
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
        assert set(closed(channel)) == {b"h", b"hd", b"he"}


@pytest.mark.parametrize(
    ("code", "seen"), [(PERMISSION_DENIED, {"d"}), (NO_SUCH_FILE, set()), (FAILURE, None), (99, None)]
)
def test_a_folder_that_cannot_be_opened_is_an_error_unless_it_is_gone(code, seen):
    """Who wants to hear of those that may not be looked into is told; a failure of a folder is never an empty one."""
    denied = set()
    session, _ = scripted(
        {b"": [entries((b"d", DIRECTORY), (b"e", DIRECTORY))], b"e": [entries((b"a", FILE))]},
        opened={b"d": lambda request: status(request, code)},
    )

    def walked():
        return [path for _, path, _ in walk(TREE, session, [""], denied=lambda _, path: denied.add(path))]

    if seen is None:
        with pytest.raises(StatusError):
            walked()
        return
    assert walked() == ["", "e"]
    assert denied == seen


def test_a_folder_that_failed_and_is_gone_is_passed_over():
    """Some servers have one word for everything."""

    def script(request):
        return (
            names(request, (b"/r/d", attributes(DIRECTORY))) if request.kind == REALPATH else status(request, FAILURE)
        )

    session, channel = make_session(script)
    session.root = b"/r"

    assert list(walk(TREE, session, ["d"])) == []
    assert [request.kind for request in channel.requests] == [REALPATH, OPENDIR, LSTAT]


def test_a_folder_of_which_nobody_says_where_it_leads_is_not_read():
    """It may lead anywhere."""

    def script(request):
        return handle(request) if request.kind == OPENDIR else status(request, FAILURE)

    session, channel = make_session(script)
    session.root = b"/r"

    with pytest.raises(StatusError):
        list(walk(TREE, session, ["d"]))
    session.flush()
    assert [request.kind for request in channel.requests] == [REALPATH, OPENDIR, CLOSE]


def test_a_top_of_no_interest_any_more_is_left():
    """Also amid its folders."""
    wanted = {"one": 2, "two": 100}

    def is_wanted(top):
        wanted[top] -= 1
        return wanted[top] >= 0

    session, channel = scripted({b"one": [entries((b"d", DIRECTORY))], b"one/d": [], b"two": [entries((b"a", FILE))]})

    walked = [(top, path) for top, path, _ in walk(TREE, session, ["one", "two"], wanted=is_wanted)]
    session.flush()

    assert walked == [("two", "two")]
    assert sorted(closed(channel)) == [b"hone", b"htwo"]


def test_a_place_that_is_nowhere_is_not_asked_twice():
    """Where a path leads may be unknown even to the server; then it is gone."""

    def script(request):
        return status(request, NO_SUCH_FILE)

    session, channel = make_session(script)
    session.root = b"/r"

    assert list(walk(TREE, session, ["gone"])) == []
    assert [struct.pack(">B", request.kind) for request in channel.requests] == [b"\x10", b"\x0b"]
