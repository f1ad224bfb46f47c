# ruff: noqa: S101 - a test suite that is shipped
"""Copying and moving: the whole file with headers and metadata, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from ...backends.base import StorageBackend
from ...errors import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    PreconditionFailedError,
)
from .base import CHUNK, ConformanceBase, content_of, names, needs

_BOTH = pytest.mark.parametrize("operation", ["copy", "move"])


class CopyAndMoveTests(ConformanceBase):
    """The guarantees of `copy` and `move`."""

    @_BOTH
    @pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
    def test_the_target_has_the_content(self, storage: StorageBackend, operation: str, size: int) -> None:
        """Content of every size is copied; a copy keeps the source, a move removes it."""
        content = content_of(size)
        storage.write("from.bin", content)

        getattr(storage, operation)("from.bin", "new/folder/to.bin")

        assert storage.read("new/folder/to.bin") == content
        assert storage.exists("from.bin") is (operation == "copy")

    @_BOTH
    def test_the_target_is_replaced(self, storage: StorageBackend, operation: str) -> None:
        """An existing target is replaced as a whole."""
        storage.write("from.bin", b"short")
        storage.write("to.bin", b"a longer one")

        getattr(storage, operation)("from.bin", "to.bin")

        assert storage.read("to.bin") == b"short"
        assert names(storage) == (["from.bin", "to.bin"] if operation == "copy" else ["to.bin"])

    @_BOTH
    @pytest.mark.parametrize("path", ["a/file.bin", "/a/file.bin"])
    def test_copying_or_moving_onto_itself_changes_nothing(
        self, storage: StorageBackend, operation: str, path: str
    ) -> None:
        """The file is unchanged, however the path is spelled."""
        storage.write("a/file.bin", b"content")

        getattr(storage, operation)("a/file.bin", path)

        assert storage.read("a/file.bin") == b"content"
        assert names(storage) == ["a/file.bin"]

    @_BOTH
    def test_a_copy_is_independent_of_its_source(self, storage: StorageBackend, operation: str) -> None:
        """Changing or deleting the source later does not affect the target."""
        storage.write("from.bin", b"first")
        getattr(storage, operation)("from.bin", "to.bin")

        storage.write("from.bin", b"second")
        assert storage.read("to.bin") == b"first"
        storage.delete("from.bin")

        assert storage.read("to.bin") == b"first"

    @_BOTH
    @needs("content_headers", "metadata")
    def test_headers_and_metadata_are_copied(self, storage: StorageBackend, operation: str) -> None:
        """The target has the headers and metadata of the source, and none of the file it replaces."""
        headers: dict[str, Any] = {"content_type": "text/csv", "cache_control": "no-store", "content_encoding": "gzip"}
        storage.write("from.csv", b"abc", metadata={"owner": "me"}, **headers)
        storage.write("to.csv", b"old", content_disposition="inline", metadata={"old": "yes"})

        getattr(storage, operation)("from.csv", "to.csv")

        info = storage.stat("to.csv")
        assert {name: getattr(info, name) for name in headers} == headers
        assert (info.content_disposition, dict(info.metadata)) == (None, {"owner": "me"})

    @_BOTH
    @needs("exclusive", "copy_conditions")
    def test_exclusive_refuses_an_existing_target(self, storage: StorageBackend, operation: str) -> None:
        """If the target exists, both files are unchanged; otherwise the target is created."""
        storage.write("from.bin", b"new")
        storage.write("to.bin", b"old")

        with pytest.raises(FileExistsInStorageError) as caught:
            getattr(storage, operation)("from.bin", "to.bin", exclusive=True)

        assert caught.value.path == "to.bin"
        assert (storage.read("from.bin"), storage.read("to.bin")) == (b"new", b"old")
        getattr(storage, operation)("from.bin", "free.bin", exclusive=True)
        assert storage.read("free.bin") == b"new"

    @_BOTH
    @needs("exclusive", "copy_conditions")
    def test_exclusive_refuses_the_same_path(self, storage: StorageBackend, operation: str) -> None:
        """The file itself counts as an existing target."""
        storage.write("file.bin", b"content")

        with pytest.raises(FileExistsInStorageError):
            getattr(storage, operation)("file.bin", "/file.bin", exclusive=True)

        assert storage.read("file.bin") == b"content"

    @_BOTH
    @needs("if_match", "copy_conditions")
    def test_if_match_compares_the_targets_etag(self, storage: StorageBackend, operation: str) -> None:
        """The target is replaced if it has the etag, and unchanged if it has another or does not exist."""
        storage.write("from.bin", b"new")
        storage.write("to.bin", b"old")
        tag = storage.stat("to.bin").etag
        storage.write("changed.bin", b"old")
        storage.write("itself.bin", b"old")

        with pytest.raises(PreconditionFailedError):
            getattr(storage, operation)("itself.bin", "itself.bin", if_match=f"{tag}-other")
        for target in ("changed.bin", "missing.bin"):
            with pytest.raises(PreconditionFailedError):
                getattr(storage, operation)("from.bin", target, if_match=f"{tag}-other")
        getattr(storage, operation)("from.bin", "to.bin", if_match=tag)

        assert storage.read("to.bin") == b"new"
        assert storage.read("changed.bin") == b"old"
        assert not storage.exists("missing.bin")

    @_BOTH
    def test_a_missing_source_leaves_the_target(self, storage: StorageBackend, operation: str) -> None:
        """If the source does not exist, the target is unchanged."""
        storage.write("to.bin", b"kept")

        with pytest.raises(FileNotFoundInStorageError) as caught:
            getattr(storage, operation)("missing.bin", "to.bin")

        assert caught.value.path == "missing.bin"
        assert storage.read("to.bin") == b"kept"

    def test_an_upload_is_moved_before_it_is_confirmed(self, storage: StorageBackend) -> None:
        """It exists only where the link of the upload cannot replace it; an unexpected one exists nowhere."""
        storage.write("incoming/file.bin", b"abc")
        storage.write("incoming/large.bin", b"abcd")

        info = storage.confirm_upload("incoming/file.bin", size=3, move_to="files/file.bin")
        with pytest.raises(IntegrityError):
            storage.confirm_upload("incoming/large.bin", size=3, move_to="files/large.bin")

        assert (info.path, info.size) == ("files/file.bin", 3)
        assert names(storage) == ["files/file.bin"]

    @_BOTH
    def test_a_directory_is_not_copied(self, storage: StorageBackend, operation: str) -> None:
        """`copy` and `move` work on files only."""
        storage.write("folder/file.bin", b"abc")

        with pytest.raises(OSError, match="folder"):
            getattr(storage, operation)("folder", "other")

        assert names(storage) == ["folder/file.bin"]

    def test_a_file_moves_into_a_directory_of_its_own_name(self, storage: StorageBackend) -> None:
        """Moving `a` to `b/a` and back leaves one file and no directory."""
        storage.write("a", b"abc")

        storage.move("a", "b/a")
        assert names(storage, recursive=False) == ["b/"]
        storage.move("b/a", "a")

        assert names(storage, recursive=False) == ["a"]
