"""Hostile and valid paths in every operation: rejected before the backend is called, or stored exactly."""

import io
import os
import string
import unicodedata
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from flask_storage import InvalidPathError, LocalFSStorage, MemoryStorage, StorageBackend
from flask_storage.paths import normalize
from flask_storage.testing import FailingStorage
from flask_storage.types import WriteOptions

from .corpora import DIRECTORIES_ONLY, HOSTILE_PATHS, LEGAL_PATHS, NOT_PORTABLE_PATHS, decomposed
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


NOT_STRINGS: list[Any] = [None, b"bytes", 5, Path("a"), ["a"]]


class _Environment:
    """A storage in a directory with siblings, and a snapshot of everything beside it."""

    def __init__(self, tmp_path, kind, **options):
        self.top = tmp_path
        self.root = tmp_path / "files" / "root"
        self.here = tmp_path / "here"
        for sibling in ("files/root2", "files/roo", "here"):
            (tmp_path / sibling).mkdir(parents=True)
            (tmp_path / sibling / "secret.txt").write_bytes(b"secret")
        (self.here / "local.bin").write_bytes(b"local")
        (tmp_path / "secret").write_bytes(b"secret")
        backend: StorageBackend
        if kind == "local":
            backend = LocalFSStorage(self.root, create=True, fsync=False, name="local", **options)
        else:
            backend = MemoryStorage(**options)
        self.storage = FailingStorage(backend)
        self.outside = self._outside()

    def _outside(self):
        """Every path beside the root, with its content."""
        return {
            path: path.is_file() and path.read_bytes()
            for path in self.top.rglob("*")
            if self.root != path and self.root not in path.parents
        }

    def assert_untouched(self):
        assert self._outside() == self.outside


@pytest.fixture(params=["memory", "local"])
def environment(request, tmp_path):
    """A storage of each kind, with siblings that must not change."""
    environment = _Environment(tmp_path, request.param)
    yield environment
    environment.assert_untouched()


@pytest.mark.parametrize("operation", [*FILE_OPERATIONS, *MULTIPART_OPERATIONS])
def test_no_operation_calls_the_backend_with_a_hostile_path(environment, operation):
    """Each operation rejects the whole corpus, and what is not a string, before it calls a driver method."""
    storage = environment.storage
    storage.write("there.bin", b"content")
    storage.calls.clear()
    call = {**FILE_OPERATIONS, **MULTIPART_OPERATIONS}[operation]

    for path in HOSTILE_PATHS + NOT_STRINGS:
        with pytest.raises(InvalidPathError) as caught:
            call(storage, path, environment.here)
        assert str(caught.value).isprintable()

    assert storage.calls == []
    assert storage.read("there.bin") == b"content"


@pytest.mark.parametrize("operation", DIRECTORY_OPERATIONS)
def test_no_operation_calls_the_backend_with_a_hostile_directory(environment, operation):
    """Except the spellings that are valid for directories."""
    storage = environment.storage
    hostile = [path for path in HOSTILE_PATHS if path not in DIRECTORIES_ONLY and not _is_directory_spelling(path)]

    for path in hostile + NOT_STRINGS:
        with pytest.raises(InvalidPathError):
            DIRECTORY_OPERATIONS[operation](storage, path, environment.here)

    assert len(hostile) > len(HOSTILE_PATHS) * 0.9
    assert storage.calls == []


def _is_directory_spelling(path):
    """Whether *path* is a valid path with a trailing slash, as of a directory; `//` is the root with both slashes."""
    if path == "//":
        return True
    try:
        return len(path) < 2000 and path.endswith("/") and bool(normalize(path[:-1]))
    except InvalidPathError:
        return False


def test_every_valid_path_is_stored_exactly(environment):
    """Stored, listed, read, edited, copied, moved and deleted under its normalized path."""
    for path in LEGAL_PATHS:
        _round_trip(environment.storage, path, unicodedata.normalize("NFC", path))
        _round_trip(environment.storage, decomposed(path), unicodedata.normalize("NFC", path))


def test_a_portable_storage_rejects_names_invalid_on_windows(tmp_path):
    """Before the backend is called; without `portable` they are stored exactly."""
    plain, portable = _Environment(tmp_path / "1", "local"), _Environment(tmp_path / "2", "local", portable=True)

    for path in NOT_PORTABLE_PATHS:
        for call in FILE_OPERATIONS.values():
            with pytest.raises(InvalidPathError):
                call(portable.storage, path, portable.here)
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


# Segments of path attacks and ordinary ones, joined in any order.
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
def test_a_generated_path_is_rejected_or_stored(tmp_path, kind):
    """Rejected by every operation before any driver method, or stored exactly; nothing outside of the root changes."""
    environment = _Environment(tmp_path, kind)
    storage = environment.storage

    @settings(
        max_examples=count(300, 10_000),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(_PATHS)
    def rejected_or_stored(path):
        try:
            stored = normalize(path)
        except InvalidPathError:
            storage.calls.clear()
            for call in (*FILE_OPERATIONS.values(), *MULTIPART_OPERATIONS.values()):
                with pytest.raises(InvalidPathError):
                    call(storage, path, environment.here)
            assert storage.calls == []
        else:
            _round_trip(storage, path, stored)

    rejected_or_stored()

    environment.assert_untouched()
    assert sorted(os.listdir(environment.here)) == ["local.bin", "secret.txt"]


def test_generated_names_are_saved_below_the_root(tmp_path):
    """`save` stores an untrusted file name under a valid path, or rejects it."""
    environment = _Environment(tmp_path, "local")
    storage = environment.storage

    @settings(max_examples=count(200, 3000), deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(_PATHS)
    def saved_or_rejected(name):
        try:
            path = storage.save(name, b"content")
        except InvalidPathError:
            return
        assert normalize(path) == path
        assert storage.read(path) == b"content"
        storage.delete(path)

    saved_or_rejected()

    environment.assert_untouched()
    assert storage.list() == []


def test_an_invalid_path_in_a_batch_is_rejected_before_anything_happens(environment):
    """`delete_many` and `links_to` validate all paths first."""
    storage = environment.storage
    storage.write("a", b"1")

    for bad in HOSTILE_PATHS[:50]:
        with pytest.raises(InvalidPathError):
            storage.delete_many(["a", bad])
        with pytest.raises(InvalidPathError):
            storage.links_to(["a", bad], "d", timedelta(hours=1))

    assert storage.read("a") == b"1"
