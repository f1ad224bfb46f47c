# ruff: noqa: S101, PT012, PT017, PT031, ARG001, N818 - a test suite that is shipped: it asserts, and raises within blocks
"""When content becomes visible: closing publishes, an exception discards, an unclosed writer warns."""

from __future__ import annotations

import gc
import gzip
import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from ... import signals
from ...backends.base import StorageBackend
from ...errors import FileExistsInStorageError, StorageError
from .base import CHUNK, ConformanceBase, content_of, names, needs


class _InterruptedWrite(Exception):
    """An error of the app between two writes."""


class _BrokenSource:
    """A source that fails after *size* bytes, like a client that disconnects."""

    def __init__(self, size: int) -> None:
        self._remaining = size

    def read(self, size: int, /) -> bytes:
        if self._remaining <= 0:
            raise _InterruptedWrite
        count = min(size, self._remaining)
        self._remaining -= count
        return bytes(count)


def _text(writer: Any) -> Any:
    return io.TextIOWrapper(writer, encoding="utf-8", write_through=False)


def _compressed(writer: Any) -> Any:
    return gzip.GzipFile(fileobj=writer, mode="wb")


def _archive(writer: Any) -> Any:
    return zipfile.ZipFile(writer, "w")


_WRAPPERS = [_text, io.BufferedWriter, _compressed, _archive]


class AtomicWriteTests(ConformanceBase):
    """A partly written file is never visible under its path."""

    def test_nothing_is_visible_before_closing(self, storage: StorageBackend) -> None:
        """Until the writer is closed, other callers see the old file, or none."""
        storage.write("old.bin", b"old")

        with storage.open("old.bin", "w") as replacing, storage.open("new.bin", "w") as creating:
            replacing.write(content_of(100_000))
            creating.write(content_of(100_000))
            replacing.flush()
            creating.flush()

            assert storage.read("old.bin") == b"old"
            assert not storage.exists("new.bin")
            assert names(storage) == ["old.bin"]
            assert names(storage, recursive=False) == ["old.bin"]

        assert storage.size("old.bin") == storage.size("new.bin") == 100_000

    def test_a_directory_appears_with_its_first_file(self, storage: StorageBackend) -> None:
        """A directory is not listed before its first file is published, and aborting leaves no directory."""
        for end in ("abort", "close"):
            writer = storage.open("new/folder/file.bin", "w")
            writer.write(b"abc")
            assert names(storage, recursive=False) == names(storage, "new", recursive=False) == []
            getattr(writer, end)()
            assert names(storage, recursive=False) == (["new/"] if end == "close" else [])

    def test_closing_publishes(self, storage: StorageBackend) -> None:
        """Without a `with` block, `close` publishes; closing again does nothing."""
        writer = storage.open("file.bin", "w")
        writer.write(b"abc")

        writer.close()
        storage.write("file.bin", b"later")
        writer.close()

        assert writer.closed
        assert storage.read("file.bin") == b"later"

    @pytest.mark.parametrize("error", [_InterruptedWrite, KeyboardInterrupt, GeneratorExit, SystemExit])
    @pytest.mark.parametrize("written", [0, 1, CHUNK + 1])
    def test_leaving_by_an_exception_discards(
        self, storage: StorageBackend, error: type[BaseException], written: int
    ) -> None:
        """If any kind of exception ends the block, nothing is published."""
        storage.write("old.bin", b"old")

        for path in ("old.bin", "new.bin"):
            with pytest.raises(error), storage.open(path, "w") as writer:
                writer.write(bytes(written))
                raise error

        assert storage.read("old.bin") == b"old"
        assert names(storage) == ["old.bin"]

    def test_aborting_discards(self, storage: StorageBackend) -> None:
        """An aborted write is never published, neither by closing nor by leaving the block."""
        storage.write("old.bin", b"old")

        with storage.open("old.bin", "w") as writer:
            writer.write(b"new")
            writer.abort()
            assert writer.closed
            writer.abort()
            writer.close()

        assert storage.read("old.bin") == b"old"
        assert names(storage) == ["old.bin"]

    def test_writing_after_close_or_abort_is_refused(self, storage: StorageBackend) -> None:
        """A published or aborted writer raises ValueError, as Python's closed files do."""
        published, aborted = storage.open("published.bin", "w"), storage.open("aborted.bin", "w")
        published.close()
        aborted.abort()

        for writer in (published, aborted):
            for use in (lambda writer=writer: writer.write(b"x"), writer.flush, writer.tell, writer.__enter__):
                with pytest.raises(ValueError, match="closed"):
                    use()

        assert names(storage) == ["published.bin"]
        assert storage.read("published.bin") == b""

    @pytest.mark.parametrize("wrapper", _WRAPPERS)
    def test_closing_a_wrapper_does_not_publish_inside_a_block(
        self, storage: StorageBackend, wrapper: Callable[[Any], Any]
    ) -> None:
        """A wrapper closes the writer before the exception reaches the block; this must not publish."""
        storage.write("file.bin", b"old")

        with pytest.raises(_InterruptedWrite), storage.open("file.bin", "w") as writer:
            with wrapper(writer):
                pass
            assert storage.read("file.bin") == b"old"
            raise _InterruptedWrite

        assert storage.read("file.bin") == b"old"

    @pytest.mark.parametrize("wrapper", _WRAPPERS)
    def test_an_exception_inside_a_wrapper_discards(
        self, storage: StorageBackend, wrapper: Callable[[Any], Any]
    ) -> None:
        """An exception inside a wrapper discards, even if the wrapper writes when it is closed."""
        storage.write("file.bin", b"old")

        with pytest.raises(_InterruptedWrite), storage.open("file.bin", "w") as writer, wrapper(writer):
            raise _InterruptedWrite

        assert storage.read("file.bin") == b"old"
        assert names(storage) == ["file.bin"]

    def test_leaving_a_wrapper_without_an_exception_publishes(self, storage: StorageBackend) -> None:
        """The wrapper's buffer is written before the file is published."""
        with storage.open("file.txt", "w") as writer, _text(writer) as text:
            text.write("Grüße")

        assert storage.read("file.txt") == "Grüße".encode()

    @pytest.mark.parametrize("written", [0, 3, CHUNK + 1])
    def test_an_unclosed_writer_warns_and_publishes_nothing(self, storage: StorageBackend, written: int) -> None:
        """Garbage collection does not publish."""
        storage.write("old.bin", b"old")

        for path in ("old.bin", "new.bin"):
            writer = storage.open(path, "w")
            writer.write(bytes(written))
            with pytest.warns(ResourceWarning, match="nothing was published"):
                del writer
                gc.collect()

        assert storage.read("old.bin") == b"old"
        assert names(storage) == ["old.bin"]

    def test_an_unclosed_reader_does_not_warn(self, storage: StorageBackend, recwarn: pytest.WarningsRecorder) -> None:
        """Garbage collection of a reader releases its resources without a warning."""
        storage.write("file.bin", b"abc")

        reader = storage.open("file.bin", "r")
        reader.read(1)
        del reader
        gc.collect()

        assert list(recwarn) == []
        assert storage.read("file.bin") == b"abc"

    @pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
    def test_a_source_that_fails_publishes_nothing(self, storage: StorageBackend, size: int) -> None:
        """If the source raises during an upload, its error is raised and an existing file is unchanged."""
        storage.write("old.bin", b"old")

        for path in ("old.bin", "new.bin"):
            with pytest.raises(_InterruptedWrite):
                storage.upload(_BrokenSource(size), path)

        assert storage.read("old.bin") == b"old"
        assert names(storage) == ["old.bin"]

    def test_a_progress_callback_can_stop_an_upload(self, storage: StorageBackend) -> None:
        """An exception in the callback ends the upload, and nothing is published."""

        def stop(count: int) -> None:
            raise _InterruptedWrite

        with pytest.raises(_InterruptedWrite):
            storage.upload(io.BytesIO(bytes(10)), "file.bin", progress_callback=stop)

        assert names(storage) == []

    def test_the_last_of_two_writers_to_close_wins(self, storage: StorageBackend) -> None:
        """Two writers on one path each publish a whole file, in the order in which they are closed."""
        one, other = content_of(70_000, 1), content_of(70_000, 2)
        first, second = storage.open("file.bin", "w"), storage.open("file.bin", "w")
        for start in range(0, 70_000, 7000):
            first.write(one[start : start + 7000])
            second.write(other[start : start + 7000])

        second.close()
        assert storage.read("file.bin") == other
        first.close()

        assert storage.read("file.bin") == one

    def test_deleting_the_old_file_does_not_affect_a_writer(self, storage: StorageBackend) -> None:
        """If the old file is deleted while a new version is written, closing the writer publishes the new one."""
        storage.write("folder/file.bin", b"old")
        writer = storage.open("folder/file.bin", "w")
        writer.write(b"new")

        storage.delete("folder/file.bin")
        assert names(storage) == []
        writer.close()

        assert storage.read("folder/file.bin") == b"new"

    def test_a_published_file_sends_one_signal(self, storage: StorageBackend) -> None:
        """`file_stored` is sent once for each published file, and never for a discarded one."""
        stored: list[str] = []

        def record(sender: StorageBackend, path: str, **extra: Any) -> None:
            stored.append(path)

        with signals.file_stored.connected_to(record, sender=storage):
            storage.write("written.bin", b"1")
            with storage.open("opened.bin", "w") as writer:
                writer.write(b"2")
                assert stored == ["written.bin"]
            with pytest.raises(_InterruptedWrite), storage.open("never.bin", "w"):
                raise _InterruptedWrite
            storage.copy("written.bin", "copied.bin")
            storage.move("copied.bin", "moved.bin")

        assert stored == ["written.bin", "opened.bin", "copied.bin", "moved.bin"]

    def test_reading_and_deleting_send_signals(self, storage: StorageBackend) -> None:
        """`file_read` and `file_deleted` are sent for every operation that reads or deletes."""
        storage.write("file.bin", b"1")
        read: list[str] = []
        deleted: list[str] = []

        def record_read(sender: StorageBackend, path: str, **extra: Any) -> None:
            read.append(path)

        def record_deleted(sender: StorageBackend, path: str, **extra: Any) -> None:
            deleted.append(path)

        with (
            signals.file_read.connected_to(record_read, sender=storage),
            signals.file_deleted.connected_to(record_deleted, sender=storage),
        ):
            storage.read("file.bin")
            storage.download("file.bin", io.BytesIO())
            storage.move("file.bin", "moved.bin")
            storage.delete("moved.bin")

        assert read == ["file.bin", "file.bin"]
        assert deleted == ["file.bin", "moved.bin"]

    @needs("exclusive")
    def test_a_failed_exclusive_close_inside_a_block_is_raised(self, storage: StorageBackend) -> None:
        """If another writer has created the file concurrently, the end of the block raises the error."""
        with pytest.raises(FileExistsInStorageError), storage.open("file.bin", "w", exclusive=True) as writer:
            writer.write(b"slow")
            storage.write("file.bin", b"quick")

        assert storage.read("file.bin") == b"quick"

    def test_a_file_below_a_file_leaves_both_intact(self, storage: StorageBackend) -> None:
        """A backend that cannot store both `a` and `a/b` refuses the second; any other stores both."""
        storage.write("a", b"first")

        try:
            storage.write("a/b", b"second")
        except StorageError as error:
            assert error.path == "a/b"
            assert names(storage) == ["a"]
        else:
            assert storage.read("a/b") == b"second"

        assert storage.read("a") == b"first"

    def test_a_file_in_place_of_a_directory_leaves_both_intact(self, storage: StorageBackend) -> None:
        """A file with the name of a directory is refused with a clear error, or stored beside the directory."""
        storage.write("a/b", b"first")

        try:
            storage.write("a", b"second")
        except StorageError as error:
            assert error.path == "a"
            assert names(storage) == ["a/b"]
        else:
            assert storage.read("a") == b"second"

        assert storage.read("a/b") == b"first"
