# ruff: noqa: S101, PT012 - a test suite that is shipped: it asserts, and raises within blocks
"""The operations that store content, and editing in place."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ...backends.base import StorageBackend
from ...errors import FileNotFoundInStorageError
from ...files import RemoteFile
from .base import CHUNK, SIZES, ConformanceBase, UnseekableSource, content_of, gzip_over_a_pipe, names, needs


class WriteTests(ConformanceBase):
    """The guarantees of `open` for writing, `upload`, `put` and `write`."""

    @pytest.mark.parametrize("piece", [1, 7, 1000, 4096, 10_000])
    def test_writing_in_pieces_stores_their_sum(self, storage: StorageBackend, piece: int) -> None:
        """The pieces are joined; `write` returns the number of bytes and `tell` the sum."""
        content = content_of(4097)

        with storage.open("file.bin", "w") as writer:
            for start in range(0, len(content), piece):
                part = content[start : start + piece]
                assert writer.write(part) == len(part)
            assert writer.tell() == len(content)

        assert storage.read("file.bin") == content

    @pytest.mark.parametrize("first", [CHUNK - 1, CHUNK, CHUNK + 1])
    def test_pieces_may_cross_a_chunk_boundary(self, storage: StorageBackend, first: int) -> None:
        """A piece may end before, at or after the end of a chunk."""
        content = content_of(2 * CHUNK + 3)

        with storage.open("file.bin", "w") as writer:
            writer.write(content[:first])
            writer.write(content[first:])

        assert hashlib.sha256(storage.read("file.bin")).digest() == hashlib.sha256(content).digest()

    @pytest.mark.parametrize("size", [0, 1, 65_536, CHUNK - 1, CHUNK, CHUNK + 1])
    def test_uploading_stores_a_source(self, storage: StorageBackend, size: int) -> None:
        """A binary file object is stored from its current position and is not closed."""
        content = content_of(size)
        source = io.BytesIO(b"skipped" + content)
        source.seek(7)

        storage.upload(source, "file.bin")

        assert storage.read("file.bin") == content
        assert not source.closed

    def test_a_source_may_return_short_reads(self, storage: StorageBackend) -> None:
        """A source that returns fewer bytes than requested is read to its end."""
        content = content_of(300_000)

        storage.upload(UnseekableSource(content), "file.bin")

        assert storage.read("file.bin") == content

    def test_a_source_may_only_claim_to_be_seekable(self, storage: StorageBackend) -> None:
        """A gzip stream over a pipe is stored: it is not run to its end to find out its size."""
        with gzip_over_a_pipe(b"hello") as source:
            storage.upload(source, "file.bin")

        assert storage.read("file.bin") == b"hello"

    def test_a_source_of_text_is_refused(self, storage: StorageBackend, tmp_path: Path) -> None:
        """Text is not encoded implicitly: it raises a TypeError, and the stored content is kept."""
        storage.write("file.bin", b"old")
        (tmp_path / "text.txt").write_text("text")

        with pytest.raises(TypeError):
            storage.upload(io.StringIO("text"), "file.bin")
        with (tmp_path / "text.txt").open(encoding="utf-8") as file, pytest.raises(TypeError):
            storage.upload(file, "file.bin")

        assert storage.read("file.bin") == b"old"

    def test_uploading_reports_cumulative_progress(self, storage: StorageBackend) -> None:
        """The callback gets the number of bytes so far after each chunk; the last one is the size."""
        content = content_of(2 * CHUNK + 1)
        reports = list[int]()

        storage.upload(io.BytesIO(content), "file.bin", progress_callback=reports.append)

        assert reports == sorted(set(reports))
        assert reports[-1] == len(content)
        assert len(reports) > 1

    @pytest.mark.parametrize("size", [0, 1, CHUNK + 1])
    def test_put_stores_a_local_file(self, storage: StorageBackend, tmp_path: Path, size: int) -> None:
        """The local file is stored and unchanged."""
        content = content_of(size)
        (tmp_path / "local.bin").write_bytes(content)
        reports = list[int]()

        storage.put(tmp_path / "local.bin", "file.bin", progress_callback=reports.append)

        assert storage.read("file.bin") == content
        assert (tmp_path / "local.bin").read_bytes() == content
        assert (reports[-1] if reports else 0) == size

    def test_put_of_a_missing_local_file_stores_nothing(self, storage: StorageBackend, tmp_path: Path) -> None:
        """A missing local file is Python's FileNotFoundError, and the stored file is unchanged."""
        storage.write("file.bin", b"kept")

        with pytest.raises(FileNotFoundError) as caught:
            storage.put(tmp_path / "missing.bin", "file.bin")

        assert not isinstance(caught.value, FileNotFoundInStorageError)
        assert storage.read("file.bin") == b"kept"

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_write_accepts_any_bytes_like_object(self, storage: StorageBackend, kind: Any) -> None:
        """`bytes`, `bytearray` and `memoryview` are accepted."""
        storage.write("file.bin", kind(b"abc"))

        assert storage.read("file.bin") == b"abc"

    def test_write_counts_bytes_of_a_memoryview(self, storage: StorageBackend) -> None:
        """A view of items of several bytes counts as bytes, not as items."""
        view = memoryview(bytearray(8)).cast("I")

        with storage.open("file.bin", "w", size=8) as writer:
            assert writer.write(view) == 8

        assert storage.size("file.bin") == 8

    @pytest.mark.parametrize("size", [1, CHUNK + 1])
    def test_a_writer_publishes_under_its_own_path(self, storage: StorageBackend, size: int) -> None:
        """Also if its `name` was changed, as by a storage that wraps this one and has other paths."""
        content = content_of(size)

        writer = storage.open("inner/file.bin", "w")
        writer.name = "file.bin"
        writer.write(content)
        writer.close()
        discarded = storage.open("inner/file.bin", "w")
        discarded.name = "file.bin"
        discarded.write(content)
        discarded.abort()

        assert names(storage) == ["inner/file.bin"]
        assert hashlib.sha256(storage.read("inner/file.bin")).digest() == hashlib.sha256(content).digest()

    @needs("read_write")
    def test_an_edit_is_published_under_its_own_path(self, storage: StorageBackend) -> None:
        """Likewise."""
        storage.write("inner/file.bin", b"old")

        with storage.open("inner/file.bin", "rw") as updater:
            updater.name = "file.bin"
            updater.write(b"new")

        assert names(storage) == ["inner/file.bin"]
        assert storage.read("inner/file.bin") == b"new"

    def test_a_buffer_may_be_reused_after_writing(self, storage: StorageBackend) -> None:
        """`write` stores the content of the buffer at the time of the call."""
        buffer = bytearray(b"first ")

        with storage.open("file.bin", "w") as writer:
            writer.write(buffer)
            buffer[:] = b"second"
            writer.write(buffer)

        assert storage.read("file.bin") == b"first second"

    @pytest.mark.parametrize(("old", "new"), [(b"old", b"newer"), (b"longer", b"s"), (b"something", b""), (b"", b"x")])
    def test_writing_again_replaces(self, storage: StorageBackend, old: bytes, new: bytes) -> None:
        """Longer, shorter and empty content replaces the file without leaving a rest of the old content."""
        storage.write("file.bin", old)

        storage.write("file.bin", new)

        assert storage.read("file.bin") == new
        assert storage.size("file.bin") == len(new)
        assert names(storage) == ["file.bin"]

    def test_an_empty_file_exists(self, storage: StorageBackend) -> None:
        """A writer that is closed without writing creates an empty file."""
        with storage.open("new/empty.bin", "w"):
            pass
        storage.upload(io.BytesIO(), "uploaded.bin")

        assert storage.exists("new/empty.bin")
        assert storage.read("new/empty.bin") == b""
        assert storage.size("uploaded.bin") == 0
        assert names(storage) == ["new/empty.bin", "uploaded.bin"]

    def test_a_writer_refuses_reading(self, storage: StorageBackend) -> None:
        """Reading from a writer is refused, and the writer stays usable."""
        with storage.open("file.bin", "w") as writer:
            assert writer.mode == "wb"
            assert writer.writable()
            assert not writer.readable()
            for use in (writer.read, writer.readline, writer.fileno, lambda: writer.seek(0)):
                with pytest.raises(io.UnsupportedOperation):
                    use()
            writer.write(b"abc")

        assert storage.read("file.bin") == b"abc"

    def test_stat_returns_size_date_and_etag(self, storage: StorageBackend) -> None:
        """`stat` returns path, size, date in UTC and an etag without quotes."""
        storage.write("folder/file.bin", b"abc")

        info = storage.stat("/folder/file.bin")

        assert (info.path, info.size) == ("folder/file.bin", 3)
        assert info.last_modified.utcoffset() == timedelta(0)
        assert abs(info.last_modified.datetime - datetime.now(UTC)) < timedelta(days=1)
        assert info.etag is None or (info.etag and '"' not in info.etag)

    def test_the_etag_changes_with_the_content(self, storage: StorageBackend) -> None:
        """Replacing a file, also by content of equal size, changes the etag; `stat` does not."""
        storage.write("file.bin", b"one")
        first = storage.stat("file.bin").etag

        again = storage.stat("file.bin").etag
        storage.write("file.bin", b"two")
        second = storage.stat("file.bin").etag

        assert first == again
        assert first is None or first != second

    @needs("read_write")
    def test_reading_and_writing_edits_a_copy(self, storage: StorageBackend) -> None:
        """The edited copy replaces the file on close; until then others read the old content."""
        storage.write("file.bin", b"0123456789")

        with storage.open("file.bin", "rw") as updater:
            assert updater.mode == "rb+"
            with pytest.raises(io.UnsupportedOperation):
                updater.fileno()
            assert updater.read(3) == b"012"
            updater.write(b"XY")
            updater.seek(0, io.SEEK_END)
            updater.write(b"!")
            updater.seek(0)
            assert updater.read() == b"012XY56789!"
            assert storage.read("file.bin") == b"0123456789"

        assert storage.read("file.bin") == b"012XY56789!"

    @needs("read_write")
    def test_an_edited_file_can_be_truncated(self, storage: StorageBackend) -> None:
        """Truncating affects the private copy, and the file only on close."""
        storage.write("file.bin", b"0123456789")

        with storage.open("file.bin", "rw") as updater:
            updater.seek(4)
            updater.write(b"X")
            assert updater.truncate() == 5
            assert storage.read("file.bin") == b"0123456789"

        assert storage.read("file.bin") == b"0123X"

    @needs("read_write")
    def test_a_failed_edit_changes_nothing(self, storage: StorageBackend) -> None:
        """An exception in the block discards the edit."""
        storage.write("file.bin", b"0123456789")

        with pytest.raises(ZeroDivisionError), storage.open("file.bin", "r+b") as updater:
            updater.write(b"XY")
            raise ZeroDivisionError

        assert storage.read("file.bin") == b"0123456789"

    @needs("read_write")
    def test_reading_and_writing_needs_an_existing_file(self, storage: StorageBackend) -> None:
        """A missing file cannot be edited and is not created."""
        with pytest.raises(FileNotFoundInStorageError):
            storage.open("missing.bin", "rw")

        assert names(storage) == []

    @needs("read_write", "content_headers", "metadata")
    def test_an_edit_keeps_the_headers(self, storage: StorageBackend) -> None:
        """Headers and metadata are unchanged by an edit."""
        storage.write("file.txt", b"0123", content_type="text/plain", metadata={"a": "1"})

        with storage.open("file.txt", "rw") as updater:
            updater.write(b"X")

        info = storage.stat("file.txt")
        assert (info.content_type, dict(info.metadata)) == ("text/plain", {"a": "1"})

    @pytest.mark.parametrize("size", [size for size in SIZES if size > 65_536])
    def test_large_content_streams_between_storages(self, storage: StorageBackend, size: int) -> None:
        """An open reader is a valid source of an upload."""
        content = content_of(size)
        storage.write("from.bin", content)

        with storage.open("from.bin", "r") as reader:
            assert isinstance(reader, RemoteFile)
            storage.upload(reader, "to.bin", size=size)

        assert hashlib.sha256(storage.read("to.bin")).digest() == hashlib.sha256(content).digest()
