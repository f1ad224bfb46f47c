# ruff: noqa: S101 - a test suite that is shipped
"""The operations that download whole files, and their errors for missing files."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path

import pytest

from ...backends.base import StorageBackend
from ...errors import FileNotFoundInStorageError, NotAFileError, TooLargeError
from .base import CHUNK, SIZES, ConformanceBase, content_of


class DownloadTests(ConformanceBase):
    """The guarantees of `read`, `download` and `get`."""

    @pytest.mark.parametrize("size", SIZES)
    def test_content_comes_back_as_it_was_stored(self, storage: StorageBackend, size: int) -> None:
        """Content of every size around the buffer boundaries is returned unchanged."""
        content = content_of(size)
        storage.write("file.bin", content)

        read = storage.read("file.bin")

        assert hashlib.sha256(read).digest() == hashlib.sha256(content).digest()
        assert storage.size("file.bin") == size

    @pytest.mark.parametrize("path", ["missing.txt", "missing/folder/file.txt"])
    def test_reading_a_missing_file_is_not_found(self, storage: StorageBackend, path: str) -> None:
        """Every operation on a missing file raises the same error, with path and backend; it can be pickled."""
        storage.write("there.txt", b"1")
        operations = [
            lambda: storage.open(path, "r"),
            lambda: storage.read(path),
            lambda: storage.stat(path),
            lambda: storage.size(path),
            lambda: storage.download(path, io.BytesIO()),
            lambda: storage.copy(path, "there.txt"),
            lambda: storage.copy(path, path),
            lambda: storage.move(path, "there.txt"),
        ]

        for operation in operations:
            with pytest.raises(FileNotFoundInStorageError) as caught:
                operation()  # type: ignore[no-untyped-call]  # a lambda has no annotations

            assert isinstance(caught.value, FileNotFoundError)
            assert caught.value.path == path
            assert caught.value.backend == storage.name
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - trusted bytes
        assert storage.read("there.txt") == b"1"
        assert not storage.exists(path)

    def test_a_directory_is_not_a_file(self, storage: StorageBackend) -> None:
        """A directory does not exist as a file and cannot be read."""
        storage.write("folder/file.bin", b"abc")

        assert not storage.exists("folder")
        with pytest.raises(FileNotFoundInStorageError):
            storage.stat("folder")
        with pytest.raises((FileNotFoundInStorageError, NotAFileError)):
            storage.open("folder", "r")

    def test_downloading_reports_cumulative_progress(self, storage: StorageBackend) -> None:
        """The callback gets the number of bytes so far after each chunk; the last one is the size."""
        content = content_of(CHUNK + 1)
        storage.write("file.bin", content)
        target, reports = io.BytesIO(), list[int]()

        storage.download("file.bin", target, progress_callback=reports.append)

        assert target.getvalue() == content
        assert reports == sorted(set(reports))
        assert reports[-1] == len(content)
        assert len(reports) > 1
        assert not target.closed

    def test_downloading_an_empty_file_reports_nothing(self, storage: StorageBackend) -> None:
        """The callback is not called when there are no bytes."""
        storage.write("empty.bin", b"")
        reports = list[int]()

        storage.download("empty.bin", io.BytesIO(), progress_callback=reports.append)

        assert reports == []

    @pytest.mark.parametrize("size", [0, 1, CHUNK + 1])
    def test_get_downloads_to_a_local_file(self, storage: StorageBackend, tmp_path: Path, size: int) -> None:
        """An existing local file is replaced, and no temporary file is left."""
        content = content_of(size)
        storage.write("file.bin", content)
        here = tmp_path / "here"
        here.mkdir()
        (here / "copy.bin").write_bytes(b"older and longer than what comes")

        storage.get("file.bin", here / "copy.bin")

        assert (here / "copy.bin").read_bytes() == content
        assert os.listdir(here) == ["copy.bin"]

    def test_a_failed_get_leaves_no_local_file(self, storage: StorageBackend, tmp_path: Path) -> None:
        """A missing file neither creates nor changes the local file."""
        here = tmp_path / "here"
        here.mkdir()
        (here / "kept.bin").write_bytes(b"kept")

        for name in ("new.bin", "kept.bin"):
            with pytest.raises(FileNotFoundInStorageError):
                storage.get("missing.bin", here / name)

        assert os.listdir(here) == ["kept.bin"]
        assert (here / "kept.bin").read_bytes() == b"kept"

    def test_read_enforces_max_size(self, storage: StorageBackend) -> None:
        """A file of exactly `max_size` bytes is read; one byte more is refused."""
        storage.write("file.bin", b"0123456789")

        assert storage.read("file.bin", max_size=10) == b"0123456789"
        with pytest.raises(TooLargeError) as caught:
            storage.read("file.bin", max_size=9)
        assert caught.value.path == "file.bin"
        assert caught.value.backend == storage.name
