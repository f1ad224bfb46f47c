"""Every path that anybody could think of, through every verb: refused before the place is asked, or kept exactly."""

import io
import os
import string
import unicodedata
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from flask_storage import InvalidPathError, LocalFSStorage, MemoryStorage, StorageBackend
from flask_storage.paths import normalize
from flask_storage.testing import FailingStorage
from flask_storage.types import WriteOptions

from .corpora import FOLDERS_ONLY, HOSTILE_PATHS, LEGAL_PATHS, NOT_PORTABLE_PATHS, decomposed
from .counts import count

FILE_OPERATIONS = {
    "open for reading": lambda storage, path, here: storage.open(path, "r"),
    "open for writing": lambda storage, path, here: storage.open(path, "w"),
    "open for both": lambda storage, path, here: storage.open(path, "rw"),
    "read": lambda storage, path, here: storage.read(path),
    "write": lambda storage, path, here: storage.write(path, b"x"),
    "upload": lambda storage, path, here: storage.upload(io.BytesIO(b"x"), path),
    "download": lambda storage, path, here: storage.download(path, io.BytesIO()),
    "put": lambda storage, path, here: storage.put(here / "local.bin", path),
    "get": lambda storage, path, here: storage.get(path, here / "fetched.bin"),
    "copy from": lambda storage, path, here: storage.copy(path, "new.bin"),
    "copy to": lambda storage, path, here: storage.copy("there.bin", path),
    "move from": lambda storage, path, here: storage.move(path, "new.bin"),
    "move to": lambda storage, path, here: storage.move("there.bin", path),
    "delete": lambda storage, path, here: storage.delete(path),
    "delete_many": lambda storage, path, here: storage.delete_many(["there.bin", path]),
    "exists": lambda storage, path, here: storage.exists(path),
    "stat": lambda storage, path, here: storage.stat(path),
    "size": lambda storage, path, here: storage.size(path),
    "local_path": lambda storage, path, here: storage.local_path(path),
    "url": lambda storage, path, here: storage.url(path),
    "link_to": lambda storage, path, here: storage.link_to(path, "d", timedelta(minutes=1)),
    "links_to": lambda storage, path, here: storage.links_to([path], "d", timedelta(minutes=1)),
    "upload_request": lambda storage, path, here: storage.upload_request(path, timedelta(minutes=1)),
}
DIRECTORY_OPERATIONS = {
    "list": lambda storage, path, here: storage.list(path),
    "list one level": lambda storage, path, here: storage.list(path, recursive=False),
    "iter": lambda storage, path, here: list(storage.iter(path)),
    "iter details": lambda storage, path, here: list(storage.iter(path, details=True)),
    "delete_prefix": lambda storage, path, here: storage.delete_prefix(path),
}
MULTIPART_OPERATIONS = {
    "multipart put": lambda storage, path, here: storage.multipart.put(path, b"x", WriteOptions()),
    "multipart create": lambda storage, path, here: storage.multipart.create(path, WriteOptions()),
    "multipart upload_part": lambda storage, path, here: storage.multipart.upload_part(path, "x" * 22, 1, b"x"),
    "multipart complete": lambda storage, path, here: storage.multipart.complete(path, "x" * 22, [], WriteOptions()),
    "multipart abort": lambda storage, path, here: storage.multipart.abort(path, "x" * 22),
    "multipart list_parts": lambda storage, path, here: storage.multipart.list_parts(path, "x" * 22),
}


class _World:
    """A storage in a folder with neighbours, and what the whole of it looks like."""

    def __init__(self, tmp_path, kind, **options):
        self.top = tmp_path
        self.root = tmp_path / "files" / "root"
        self.here = tmp_path / "here"
        for neighbour in ("files/root2", "files/roo", "here"):
            (tmp_path / neighbour).mkdir(parents=True)
            (tmp_path / neighbour / "secret.txt").write_bytes(b"secret")
        (self.here / "local.bin").write_bytes(b"local")
        (tmp_path / "secret").write_bytes(b"secret")
        place: StorageBackend
        if kind == "local":
            place = LocalFSStorage(self.root, create=True, fsync=False, name="local", **options)
        else:
            place = MemoryStorage(**options)
        self.storage = FailingStorage(place)
        self.outside = self._outside()

    def _outside(self):
        """Everything beside the root, with its content."""
        return {
            path: path.is_file() and path.read_bytes()
            for path in self.top.rglob("*")
            if self.root != path and self.root not in path.parents
        }

    def assert_untouched(self):
        assert self._outside() == self.outside


@pytest.fixture(params=["memory", "local"])
def world(request, tmp_path):
    """A storage of each kind, with neighbours that nothing may touch."""
    world = _World(tmp_path, request.param)
    yield world
    world.assert_untouched()


@pytest.mark.parametrize("verb", [*FILE_OPERATIONS, *MULTIPART_OPERATIONS])
def test_no_verb_asks_the_place_about_a_hostile_path(world, verb):
    """The whole corpus is refused by each verb before any hook is called."""
    storage = world.storage
    storage.write("there.bin", b"kept")
    storage.calls.clear()
    act = {**FILE_OPERATIONS, **MULTIPART_OPERATIONS}[verb]

    for path in HOSTILE_PATHS:
        with pytest.raises(InvalidPathError):
            act(storage, path, world.here)

    assert storage.calls == []
    assert storage.read("there.bin") == b"kept"


@pytest.mark.parametrize("verb", DIRECTORY_OPERATIONS)
def test_no_verb_asks_the_place_about_a_hostile_folder(world, verb):
    """The same of folders, but for the spellings that only a folder may have."""
    storage = world.storage
    hostile = [path for path in HOSTILE_PATHS if path not in FOLDERS_ONLY and not _is_folder_spelling(path)]

    for path in hostile:
        with pytest.raises(InvalidPathError):
            DIRECTORY_OPERATIONS[verb](storage, path, world.here)

    assert len(hostile) > len(HOSTILE_PATHS) * 0.9
    assert storage.calls == []


def _is_folder_spelling(path):
    """Whether *path* is a legal one with a slash behind it, as a folder may have; `//` is the root with both."""
    if path == "//":
        return True
    try:
        return len(path) < 2000 and path.endswith("/") and bool(normalize(path[:-1]))
    except InvalidPathError:
        return False


def test_every_legal_path_is_kept_exactly(world):
    """Stored, listed, read, edited, copied, moved and deleted under just the name that was given, in its one form."""
    for path in LEGAL_PATHS:
        _round_trip(world.storage, path, unicodedata.normalize("NFC", path))
        _round_trip(world.storage, decomposed(path), unicodedata.normalize("NFC", path))


def test_what_windows_cannot_hold_is_refused_where_asked(tmp_path):
    """A portable storage refuses names that a plain one keeps exactly, before the place is asked."""
    plain, portable = _World(tmp_path / "1", "local"), _World(tmp_path / "2", "local", portable=True)

    for path in NOT_PORTABLE_PATHS:
        for act in FILE_OPERATIONS.values():
            with pytest.raises(InvalidPathError):
                act(portable.storage, path, portable.here)
        _round_trip(plain.storage, path, unicodedata.normalize("NFC", path))

    assert portable.storage.calls == []
    plain.assert_untouched()
    portable.assert_untouched()


def _round_trip(storage, path, stored):
    content = stored.encode()
    storage.write(path, content)
    assert [entry.name for entry in storage.list()] == [stored]
    assert storage.read(path) == content
    with storage.open(path, "rw") as updater:
        updater.write(content)
    assert storage.stat(path).path == stored
    storage.copy(path, "copied/file")
    storage.delete(path)
    storage.move("copied/file", path)
    assert [info.path for info in storage.iter(details=True)] == [stored]
    assert storage.list(prefix=path)[0].size == len(content)
    storage.delete_many([path])
    assert storage.list() == storage.list(recursive=False) == []


# Pieces that paths are attacked with, and plain ones, joined in every order.
_PIECES = st.one_of(
    st.sampled_from(
        [
            "..",
            ".",
            "",
            "/",
            "\\",
            "\x00",
            "\n",
            "root",
            "root2",
            "..2",
            "a",
            "b.txt",
            " ",
            "~",
            "%2e%2e",
            "con",
            ":",
            "*",
            "\u202e",
            "\u2028",
            "\ud800",
            "e\u0301",
            "\u00e9",
            "\uff0e\uff0e",
            ".fs-tmp-",
            "x" * 255,
            "x" * 256,
        ]
    ),
    st.text(max_size=8),
    st.text(string.ascii_letters + "./\\ ", max_size=12),
)
_PATHS = st.one_of(
    st.lists(_PIECES, max_size=8).map("/".join),
    st.lists(_PIECES, max_size=8).map("".join),
    st.text(max_size=300),
)


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_an_invented_path_is_refused_or_kept(tmp_path, kind):
    """Thousands of invented paths: refused by every verb before any hook, or a name like any other; nothing escapes."""
    world = _World(tmp_path, kind)
    storage = world.storage

    @settings(
        max_examples=count(300, 10_000),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(_PATHS)
    def refused_or_kept(path):
        try:
            stored = normalize(path)
        except InvalidPathError:
            storage.calls.clear()
            for act in (*FILE_OPERATIONS.values(), *MULTIPART_OPERATIONS.values()):
                with pytest.raises(InvalidPathError):
                    act(storage, path, world.here)
            assert storage.calls == []
        else:
            _round_trip(storage, path, stored)

    refused_or_kept()

    world.assert_untouched()
    assert sorted(os.listdir(world.here)) == ["local.bin", "secret.txt"]


def test_invented_names_are_saved_below_the_root(tmp_path):
    """Whatever a stranger calls a file, `save` stores it under a name that every verb takes, or refuses it."""
    world = _World(tmp_path, "local")
    storage = world.storage

    @settings(max_examples=count(200, 3000), deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(_PATHS)
    def saved_or_refused(name):
        try:
            path = storage.save(name, b"content")
        except InvalidPathError:
            return
        assert normalize(path) == path
        assert storage.read(path) == b"content"
        storage.delete(path)

    saved_or_refused()

    world.assert_untouched()
    assert storage.list() == []


def test_a_bad_name_among_good_ones_is_told_before_anything_happens(world):
    """`delete_many` and `links_to` look at all names first."""
    storage = world.storage
    storage.write("a", b"1")

    for bad in HOSTILE_PATHS[:50]:
        with pytest.raises(InvalidPathError):
            storage.delete_many(["a", bad])
        with pytest.raises(InvalidPathError):
            storage.links_to(["a", bad], "d", timedelta(hours=1))

    assert storage.read("a") == b"1"
