# ruff: noqa: S101, PT012, PT017, PT031, ARG001, N818 - a test suite that is shipped: it asserts, and breaks off in the middle of blocks
"""When content becomes visible: closing publishes, leaving in trouble discards, forgetting warns."""

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
    """Something that went wrong in the app, between two writes."""


class _BrokenSource:
    """A source that fails after so many bytes, as a client does that goes away."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int, /) -> bytes:
        if self._left <= 0:
            raise _InterruptedWrite
        count = min(size, self._left)
        self._left -= count
        return bytes(count)


def _text(writer: Any) -> Any:
    return io.TextIOWrapper(writer, encoding="utf-8", write_through=False)


def _compressed(writer: Any) -> Any:
    return gzip.GzipFile(fileobj=writer, mode="wb")


def _archive(writer: Any) -> Any:
    return zipfile.ZipFile(writer, "w")


_WRAPPERS = [_text, io.BufferedWriter, _compressed, _archive]


class AtomicWriteTests(ConformanceBase):
    """A half-written file is never visible under its name."""

    def test_nothing_is_visible_before_closing(self, storage: StorageBackend) -> None:
        """While one writes, everybody else sees what was there before, or nothing."""
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
        """A directory into which something is only being written is not listed, and aborting leaves none."""
        for end in ("abort", "close"):
            writer = storage.open("new/folder/file.bin", "w")
            writer.write(b"abc")
            assert names(storage, recursive=False) == names(storage, "new", recursive=False) == []
            getattr(writer, end)()
            assert names(storage, recursive=False) == (["new/"] if end == "close" else [])

    def test_closing_publishes(self, storage: StorageBackend) -> None:
        """Without a `with` block, closing is what publishes; closing again does nothing."""
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
        """Whatever kind of exception ends the block, nothing of it is published."""
        storage.write("old.bin", b"old")

        for path in ("old.bin", "new.bin"):
            with pytest.raises(error), storage.open(path, "w") as writer:
                writer.write(bytes(written))
                raise error

        assert storage.read("old.bin") == b"old"
        assert names(storage) == ["old.bin"]

    def test_aborting_discards(self, storage: StorageBackend) -> None:
        """What is aborted never appears, and neither closing nor leaving the block brings it back."""
        storage.write("old.bin", b"old")

        with storage.open("old.bin", "w") as writer:
            writer.write(b"new")
            writer.abort()
            assert writer.closed
            writer.abort()
            writer.close()

        assert storage.read("old.bin") == b"old"
        assert names(storage) == ["old.bin"]

    def test_writing_after_the_end_is_refused(self, storage: StorageBackend) -> None:
        """Published or aborted, a writer takes nothing more."""
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
    def test_a_wrappers_close_waits_for_the_block(self, storage: StorageBackend, wrapper: Callable[[Any], Any]) -> None:
        """A wrapper closes what it wraps before the block learns of an exception; nothing is published by that."""
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
        """An exception that passes through a wrapper discards, whatever the wrapper writes on its way out."""
        storage.write("file.bin", b"old")

        with pytest.raises(_InterruptedWrite), storage.open("file.bin", "w") as writer, wrapper(writer):
            raise _InterruptedWrite

        assert storage.read("file.bin") == b"old"
        assert names(storage) == ["file.bin"]

    def test_a_wrappers_clean_exit_publishes(self, storage: StorageBackend) -> None:
        """With a text wrapper inside the block, what it held back is written before publishing."""
        with storage.open("file.txt", "w") as writer, _text(writer) as text:
            text.write("Grüße")

        assert storage.read("file.txt") == "Grüße".encode()

    @pytest.mark.parametrize("written", [0, 3, CHUNK + 1])
    def test_an_unclosed_writer_warns_and_publishes_nothing(self, storage: StorageBackend, written: int) -> None:
        """Garbage collection is no decision to publish."""
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
        """A reader that is dropped frees what it held and says nothing."""
        storage.write("file.bin", b"abc")

        reader = storage.open("file.bin", "r")
        reader.read(1)
        del reader
        gc.collect()

        assert list(recwarn) == []
        assert storage.read("file.bin") == b"abc"

    @pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
    def test_a_source_that_fails_publishes_nothing(self, storage: StorageBackend, size: int) -> None:
        """An upload whose source breaks off leaves what was there, and its own error comes through."""
        storage.write("old.bin", b"old")

        for path in ("old.bin", "new.bin"):
            with pytest.raises(_InterruptedWrite):
                storage.upload(_BrokenSource(size), path)

        assert storage.read("old.bin") == b"old"
        assert names(storage) == ["old.bin"]

    def test_a_progress_callback_may_stop_an_upload(self, storage: StorageBackend) -> None:
        """An exception in the callback ends the upload, and nothing is published."""

        def stop(count: int) -> None:
            raise _InterruptedWrite

        with pytest.raises(_InterruptedWrite):
            storage.upload(io.BytesIO(bytes(10)), "file.bin", progress_callback=stop)

        assert names(storage) == []

    def test_of_two_writers_the_last_to_close_wins(self, storage: StorageBackend) -> None:
        """Two writers on one path each publish a whole file, in the order of their closing."""
        one, other = content_of(70_000, 1), content_of(70_000, 2)
        first, second = storage.open("file.bin", "w"), storage.open("file.bin", "w")
        for start in range(0, 70_000, 7000):
            first.write(one[start : start + 7000])
            second.write(other[start : start + 7000])

        second.close()
        assert storage.read("file.bin") == other
        first.close()

        assert storage.read("file.bin") == one

    def test_deleting_while_writing_does_not_disturb(self, storage: StorageBackend) -> None:
        """A file that is deleted while it is being written anew appears when the writer closes."""
        storage.write("folder/file.bin", b"old")
        writer = storage.open("folder/file.bin", "w")
        writer.write(b"new")

        storage.delete("folder/file.bin")
        assert names(storage) == []
        writer.close()

        assert storage.read("folder/file.bin") == b"new"

    def test_a_published_file_sends_one_signal(self, storage: StorageBackend) -> None:
        """The signal comes once for each file that appears, and never for one that does not."""
        stored: list[str] = []

        def note(sender: StorageBackend, path: str, **extra: Any) -> None:
            stored.append(path)

        with signals.file_stored.connected_to(note, sender=storage):
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
        """Whoever counts downloads or clears caches hears of every one."""
        storage.write("file.bin", b"1")
        read: list[str] = []
        deleted: list[str] = []

        def note_read(sender: StorageBackend, path: str, **extra: Any) -> None:
            read.append(path)

        def note_deleted(sender: StorageBackend, path: str, **extra: Any) -> None:
            deleted.append(path)

        with (
            signals.file_read.connected_to(note_read, sender=storage),
            signals.file_deleted.connected_to(note_deleted, sender=storage),
        ):
            storage.read("file.bin")
            storage.download("file.bin", io.BytesIO())
            storage.move("file.bin", "moved.bin")
            storage.delete("moved.bin")

        assert read == ["file.bin", "file.bin"]
        assert deleted == ["file.bin", "moved.bin"]

    @needs("exclusive")
    def test_a_failed_exclusive_close_inside_a_block_is_raised(self, storage: StorageBackend) -> None:
        """The clean exit of the block is where a name that was taken meanwhile is told."""
        with pytest.raises(FileExistsInStorageError), storage.open("file.bin", "w", exclusive=True) as writer:
            writer.write(b"slow")
            storage.write("file.bin", b"quick")

        assert storage.read("file.bin") == b"quick"

    def test_a_file_below_a_file_leaves_both_intact(self, storage: StorageBackend) -> None:
        """Where a place cannot hold both `a` and `a/b`, it says so and keeps the first; where it can, it keeps both."""
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
        """Where a directory stands, a file of its name is refused with a clear error, or kept beside it."""
        storage.write("a/b", b"first")

        try:
            storage.write("a", b"second")
        except StorageError as error:
            assert error.path == "a"
            assert names(storage) == ["a/b"]
        else:
            assert storage.read("a") == b"second"

        assert storage.read("a/b") == b"first"
