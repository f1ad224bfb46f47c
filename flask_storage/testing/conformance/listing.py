# ruff: noqa: S101 - a test suite that is shipped
"""Listing has the same meaning on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ...backends.base import StorageBackend
from ...types import FileInfo, ListEntry
from ..concurrency import run_concurrently
from .base import ConformanceBase, names

_TREE = ["a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.txt", "b.txt", "bc/g.txt", "b-side/h.txt", "z/z/z/z.txt"]


class ListTests(ConformanceBase):
    """Every file below a directory, by its full path, sorted."""

    @pytest.fixture
    def tree(self, storage: StorageBackend) -> StorageBackend:
        """Return the storage with files in several directories; the content of each is its path."""
        for path in reversed(_TREE):
            storage.write(path, path.encode())
        return storage

    def test_an_empty_storage_lists_nothing(self, storage: StorageBackend) -> None:
        """Every kind of listing is empty."""
        assert storage.list() == []
        assert storage.list("/", recursive=False) == []
        assert storage.list(prefix="") == []
        assert list(storage.iter(details=True)) == []

    def test_every_file_is_listed_sorted(self, tree: StorageBackend) -> None:
        """The listing is recursive and sorted by full path, and every name is usable in `read`."""
        entries = tree.list()

        assert [entry.name for entry in entries] == sorted(_TREE)
        for entry in entries:
            assert tree.read(entry.name).decode() == entry.name

    def test_an_entry_has_size_and_date(self, tree: StorageBackend) -> None:
        """An entry is a triple of name, datetime in UTC and size."""
        for entry in tree.list():
            assert isinstance(entry, ListEntry)
            name, last_modified, size = entry
            assert size == len(name)
            assert last_modified is not None
            assert last_modified.utcoffset() == timedelta(0)
            assert abs(last_modified.datetime - datetime.now(UTC)) < timedelta(days=1)
            assert not entry.is_directory

    @pytest.mark.parametrize("directory", ["b", "b/", "/b", "/b/"])
    def test_a_directory_lists_what_is_below_it(self, tree: StorageBackend, directory: str) -> None:
        """Names are full paths; siblings with the same beginning are not included."""
        assert names(tree, directory) == ["b/c.txt", "b/d/e.txt", "b/d/f.txt"]

    @pytest.mark.parametrize("directory", ["missing", "missing/deeper", "b/missing", "B"])
    def test_a_missing_directory_is_empty(self, tree: StorageBackend, directory: str) -> None:
        """A missing directory is an empty list, not an error."""
        assert tree.list(directory) == []
        assert tree.list(directory, recursive=False) == []
        assert list(tree.iter(directory, details=True)) == []

    def test_listing_a_file_is_empty(self, tree: StorageBackend) -> None:
        """The path of a file is not a directory, so nothing is below it."""
        assert tree.list("a.txt") == []
        assert tree.list("a.txt", recursive=False) == []
        assert tree.list("a.txt/deeper") == []

    def test_one_level_shows_files_and_directories(self, tree: StorageBackend) -> None:
        """Without recursion a directory is one entry whose name ends in a slash and whose `is_directory` is true."""
        entries = tree.list(recursive=False)

        assert [entry.name for entry in entries] == sorted(["a.txt", "b.txt", "b/", "bc/", "b-side/", "z/"])
        assert {entry.name for entry in entries if entry.is_directory} == {"b/", "bc/", "b-side/", "z/"}
        assert all(entry.size == 0 for entry in entries if entry.is_directory)

    @pytest.mark.parametrize(
        ("directory", "expected"),
        [("b", ["b/c.txt", "b/d/"]), ("b/d", ["b/d/e.txt", "b/d/f.txt"]), ("z", ["z/z/"]), ("z/z/z", ["z/z/z/z.txt"])],
    )
    def test_one_level_of_a_directory(self, tree: StorageBackend, directory: str, expected: list[str]) -> None:
        """One level has the files and subdirectories directly in that directory, by full path."""
        assert names(tree, directory, recursive=False) == expected

    def test_listed_directories_can_be_listed(self, tree: StorageBackend) -> None:
        """Listing level by level, with the names as listed, finds every file once."""
        found, directories = list[str](), [""]
        while directories:
            for entry in tree.list(directories.pop(), recursive=False):
                (directories if entry.is_directory else found).append(entry.name)

        assert sorted(found) == sorted(_TREE)

    @pytest.mark.parametrize(
        ("prefix", "found"),
        [
            ("", sorted(_TREE)),
            ("b", ["b-side/h.txt", "b.txt", "b/c.txt", "b/d/e.txt", "b/d/f.txt", "bc/g.txt"]),
            ("b/", ["b/c.txt", "b/d/e.txt", "b/d/f.txt"]),
            ("b/d", ["b/d/e.txt", "b/d/f.txt"]),
            ("b/d/e", ["b/d/e.txt"]),
            ("/bc", ["bc/g.txt"]),
            ("a.txt", ["a.txt"]),
            ("a.txt/", []),
            ("nothing", []),
        ],
    )
    def test_a_prefix_is_plain_text(self, tree: StorageBackend, prefix: str, found: list[str]) -> None:
        """With `prefix=` every file whose path begins with the string is listed, also within a segment."""
        assert names(tree, prefix=prefix) == found

    @pytest.mark.parametrize(
        ("prefix", "found"),
        [("b", ["b-side/", "b.txt", "b/", "bc/"]), ("b/", ["b/c.txt", "b/d/"]), ("b/d", ["b/d/"]), ("z/z", ["z/z/"])],
    )
    def test_a_prefix_of_one_level(self, tree: StorageBackend, prefix: str, found: list[str]) -> None:
        """Without recursion, files and directories of one level whose path begins with the string are listed."""
        assert names(tree, prefix=prefix, recursive=False) == found

    def test_iter_yields_what_list_returns(self, tree: StorageBackend) -> None:
        """The lazy listing has the same entries in any order, and need not be read to its end."""
        lazily = tree.iter("b")

        assert isinstance(lazily, Iterator)
        assert next(lazily).name in ("b/c.txt", "b/d/e.txt", "b/d/f.txt")
        assert sorted(tree.iter("b")) == tree.list("b")
        assert sorted(tree.iter("b", recursive=False)) == tree.list("b", recursive=False)
        assert sorted(tree.iter(prefix="b/d")) == tree.list(prefix="b/d")

    def test_details_equal_stat(self, tree: StorageBackend) -> None:
        """With `details=True` the entries are the `FileInfo` of each file; directories are left out."""
        infos = sorted(tree.iter(details=True), key=lambda info: info.path)

        assert [info.path for info in infos] == sorted(_TREE)
        for info in infos:
            assert isinstance(info, FileInfo)
            assert (info.size, info.etag) == (tree.stat(info.path).size, tree.stat(info.path).etag)
        assert [info.path for info in tree.iter("b", recursive=False, details=True)] == ["b/c.txt"]
        assert {info.path for info in tree.iter(prefix="b/d", details=True)} == {"b/d/e.txt", "b/d/f.txt"}

    def test_a_deleted_file_is_not_listed(self, tree: StorageBackend) -> None:
        """The next listing does not contain the file."""
        tree.delete("b/d/e.txt")

        assert names(tree, "b") == ["b/c.txt", "b/d/f.txt"]

    def test_an_empty_directory_is_not_listed(self, tree: StorageBackend) -> None:
        """A directory without files is not listed, at any depth."""
        tree.delete("z/z/z/z.txt")
        tree.move("b/c.txt", "c.txt")
        tree.delete_many(["b/d/e.txt", "b/d/f.txt"])

        assert names(tree, recursive=False) == sorted(["a.txt", "b.txt", "bc/", "b-side/", "c.txt"])
        assert tree.list("z") == tree.list("b", recursive=False) == []

    def test_names_are_sorted_as_text(self, storage: StorageBackend) -> None:
        """The order is that of code points on every backend: upper case before lower case, digits by character."""
        unsorted = ["b", "a/b", "a b", "a", "B", "10", "9", "ä", "z", "a.b", "é/x", "\uffee", "😀"]
        if not self._can_store_both(storage):
            unsorted.remove("a")
        for name in unsorted:
            storage.write(name, b"")

        assert names(storage) == sorted(unsorted)

    def test_many_files_are_all_listed(self, storage: StorageBackend) -> None:
        """A listing of several pages is complete, with each file once."""
        many = [f"many/{number:04}.txt" for number in range(1200)]

        def write(thread: int) -> None:
            for name in many[thread::8]:
                storage.write(name, b"")

        run_concurrently(write, 8)

        assert names(storage, "many") == many

    def _can_store_both(self, storage: StorageBackend) -> bool:
        """Return whether the backend can store a file and a directory of one name."""
        storage.write("probe/file", b"")
        try:
            storage.write("probe", b"")
        except OSError:
            return False
        else:
            storage.delete("probe")
            return True
        finally:
            storage.delete("probe/file")
