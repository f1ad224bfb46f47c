# ruff: noqa: S101 - a test suite that is shipped
"""Deleting: idempotent, and never more than the named files."""

from __future__ import annotations

import contextlib
import io

import pytest

from ...backends.base import StorageBackend
from ...errors import InvalidPathError, StorageError
from .base import ConformanceBase, names


class DeleteTests(ConformanceBase):
    """The guarantees of `delete`, `delete_many` and `delete_prefix`."""

    def test_a_deleted_file_is_gone(self, storage: StorageBackend) -> None:
        """It is neither listed nor readable, and its path can be written again."""
        storage.write("file.bin", b"abc")

        storage.delete("file.bin")

        assert not storage.exists("file.bin")
        assert storage.list() == []
        storage.write("file.bin", b"new")
        assert storage.read("file.bin") == b"new"

    @pytest.mark.parametrize("path", ["missing.bin", "missing/folder/file.bin", "there.bin/below"])
    def test_deleting_a_missing_file_is_no_error(self, storage: StorageBackend, path: str) -> None:
        """Deleting twice, or a path that never existed, does nothing."""
        storage.write("there.bin", b"abc")

        storage.delete(path)
        storage.delete(path)
        storage.delete_many([path, path])

        assert names(storage) == ["there.bin"]

    def test_deleting_leaves_sibling_files(self, storage: StorageBackend) -> None:
        """Only the named file is deleted, not files with a similar name."""
        remaining = ["a", "a.txt.bak", "a.tx", "b/a.txt", "A.txt"]
        for path in [*remaining, "a.txt"]:
            storage.write(path, b"")

        storage.delete("a.txt")

        assert names(storage) == sorted(remaining)

    def test_delete_does_not_delete_a_directory(self, storage: StorageBackend) -> None:
        """`delete` of a directory's path raises or does nothing; the files below it are unchanged."""
        storage.write("folder/file.bin", b"abc")

        with contextlib.suppress(StorageError):
            storage.delete("folder")

        assert storage.read("folder/file.bin") == b"abc"

    def test_delete_many_deletes_all(self, storage: StorageBackend) -> None:
        """Every named file is deleted; a missing one is no error; other files are unchanged."""
        for number in range(30):
            storage.write(f"folder/{number}.bin", b"")

        storage.delete_many([*(f"folder/{number}.bin" for number in range(0, 30, 2)), "missing.bin"])

        assert names(storage) == sorted(f"folder/{number}.bin" for number in range(1, 30, 2))

    def test_delete_many_accepts_no_paths(self, storage: StorageBackend) -> None:
        """An empty list or iterator deletes nothing."""
        storage.write("file.bin", b"")

        storage.delete_many([])
        storage.delete_many(iter(()))

        assert names(storage) == ["file.bin"]

    def test_delete_many_refuses_a_single_path(self, storage: StorageBackend) -> None:
        """A single string is a TypeError: each of its characters would be taken for a path."""
        storage.write("a", b"")

        with pytest.raises(TypeError):
            storage.delete_many("a")

        assert names(storage) == ["a"]

    def test_delete_many_with_an_invalid_path_deletes_nothing(self, storage: StorageBackend) -> None:
        """All paths are validated before the first file is deleted."""
        storage.write("file.bin", b"")

        with pytest.raises(InvalidPathError):
            storage.delete_many(["file.bin", "../secret"])

        assert names(storage) == ["file.bin"]

    @pytest.mark.parametrize("directory", ["a/b", "a/b/", "/a/b/"])
    def test_delete_prefix_deletes_everything_below(self, storage: StorageBackend, directory: str) -> None:
        """All files below are deleted and counted; a sibling with the same beginning stays."""
        deleted, remaining = ["a/b/1", "a/b/c/2", "a/b/c/d/3"], ["a/bc/4", "a/b.txt", "a/5", "b/6"]
        for path in deleted + remaining:
            storage.write(path, b"")

        count = storage.delete_prefix(directory)

        assert count == 3
        assert names(storage) == sorted(remaining)
        assert "a/b/" not in names(storage, "a", recursive=False)

    def test_delete_prefix_of_a_missing_directory_deletes_nothing(self, storage: StorageBackend) -> None:
        """It is no error, and the returned count is 0."""
        storage.write("a/b", b"")

        assert storage.delete_prefix("missing") == 0
        assert storage.delete_prefix("a/b") == 0
        assert storage.delete_prefix("a/b/c") == 0

        assert names(storage) == ["a/b"]

    @pytest.mark.parametrize("root", ["", "/"])
    def test_delete_prefix_refuses_the_root(self, storage: StorageBackend, root: str) -> None:
        """An empty prefix, which is most often a mistake, is refused."""
        storage.write("file.bin", b"")

        with pytest.raises(InvalidPathError):
            storage.delete_prefix(root)

        assert names(storage) == ["file.bin"]

    @pytest.mark.parametrize("pattern", ["*", "a*", "?", "[ab]", "{a,b}", "a%", "_", ".*"])
    def test_names_are_not_patterns(self, storage: StorageBackend, pattern: str) -> None:
        """A star or a bracket in a name stands for itself."""
        for path in ("a", "b", "ab/c", f"{pattern}.d/e"):
            storage.write(path, b"")

        storage.delete(pattern)
        storage.delete_many([pattern])

        assert storage.delete_prefix(pattern) == 0
        assert names(storage) == sorted(["a", "b", "ab/c", f"{pattern}.d/e"])
        assert storage.delete_prefix(f"{pattern}.d") == 1
        assert names(storage) == ["a", "ab/c", "b"]

    def test_an_open_reader_survives_deletion(self, storage: StorageBackend) -> None:
        """The reader returns the rest of the file or raises; a short read without an error never happens."""
        storage.write("file.bin", b"0123456789")
        target = io.BytesIO()

        with storage.open("file.bin", "r") as reader:
            target.write(reader.read(4))
            storage.delete("file.bin")
            with contextlib.suppress(StorageError):
                target.write(reader.read())

        assert target.getvalue() in (b"0123", b"0123456789")
        assert not storage.exists("file.bin")
