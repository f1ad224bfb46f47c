"""Errors while a file is written to a remote backend: at any point, of any class, in any wrapper; and the tests."""

import gzip
import io
import zipfile
from contextlib import closing, contextmanager, nullcontext

import pytest

from flask_storage import IntegrityError
from flask_storage.streams import copy_chunks
from tests.counts import count

OLD = b"the old content"
ERRORS = [ZeroDivisionError, KeyboardInterrupt, GeneratorExit]


@contextmanager
def unchanged_storage(storage, leftovers):
    """Yield a storage with one file, and check afterwards that it is unchanged.

    Args:
        storage: The storage.
        leftovers: Returns what unfinished writes have left in it.
    """
    storage.write("old.bin", OLD)
    yield storage
    assert storage.read("old.bin") == OLD
    assert [entry.name for entry in storage.list()] == ["old.bin"]
    assert not leftovers(storage)


class _Text(io.TextIOWrapper):
    """A text wrapper that accepts bytes, so that one test serves every wrapper."""

    def __init__(self, writer):
        super().__init__(writer, encoding="latin-1", newline="")

    def write(self, data):
        return super().write(bytes(data).decode("latin-1"))


class _ZipEntry(zipfile.ZipFile):
    """A zip archive with one open entry."""

    def __init__(self, writer):
        super().__init__(writer, "w")
        self._entry = self.open("entry", "w", force_zip64=True)

    def write(self, data):  # type: ignore[override]  # writes to the open entry
        return self._entry.write(data)

    def close(self):
        self._entry.close()
        super().close()


WRAPPERS = {
    "raw": lambda writer: writer,
    "text": _Text,
    "buffered": io.BufferedWriter,
    "gzip": lambda writer: gzip.GzipFile(fileobj=writer, mode="wb", compresslevel=0),  # not compressed
    "zip": _ZipEntry,
}


def unwrapped(wrapper, stored):
    """Return the content that was written through a wrapper, from the stored bytes."""
    if wrapper == "gzip":
        return gzip.decompress(stored)
    return zipfile.ZipFile(io.BytesIO(stored)).read("entry") if wrapper == "zip" else stored


class Source:
    """Yields *size* zeros, and then raises an error."""

    def __init__(self, error, size):
        self._error, self._remaining = error, size

    def read(self, size, /):
        """Return at most *size* zeros."""
        if not self._remaining:
            raise self._error
        size = min(size, self._remaining)
        self._remaining -= size
        return bytes(size)


def points(part):
    """Return where the error is raised: after so many bytes, while reading the source, or after closing the wrapper.

    Args:
        part: The size of a part, in bytes.
    """
    return [
        0,
        1,
        *(number * part + offset for number in (1, 2) for offset in (-1, 0, 1)),
        "in the source's first part",
        "in the source's second part",
        "after closing",
        "after closing two parts",
    ]


def write_until(point, error, writer, wrap, part):
    """Write through a wrapper up to the point where the error is raised."""
    wrapper = wrap(writer)
    block = bytes(part)
    with nullcontext() if wrapper is writer else closing(wrapper):
        match point:
            case "in the source's first part":
                copy_chunks(Source(error, 100_001), wrapper, chunk_size=65_536)
            case "in the source's second part":
                copy_chunks(Source(error, part + 100_001), wrapper, chunk_size=part // 5)
            case "after closing":
                wrapper.write(b"all content")
            case "after closing two parts":
                wrapper.write(block)
                wrapper.write(b"x")
            case _:
                for start in range(0, point, part):
                    wrapper.write(block[: point - start])
                raise error
    raise error


def cases(part, short_run):
    """Return points, wrappers and errors to combine: all in the full run, each at least once in a short run."""
    combinations = [(point, wrapper, error) for point in points(part) for wrapper in WRAPPERS for error in ERRORS]
    step = max(1, len(combinations) // count(short_run, len(combinations)))
    # Coprime to the numbers of wrappers and errors, so that all of them are used.
    return combinations[:: step if step % 5 and step % 3 else step + 1]


def write_in_a_generator(storage, path, part):
    """Write between yields, as a streaming view does."""
    with storage.open(path, "w") as writer:
        writer.write(bytes(part))
        yield
        writer.write(b"x")
        yield
        writer.write(bytes(part))


def write_unexpected_content(storage, path, size, end):
    """Write *size* zeros that differ from the expected size or checksum, or abort."""
    expected = {
        "abort": {},
        "too little": {"size": size + 1},
        "too much": {"size": max(size - 1, 0)},
        "another checksum": {"checksum": f"md5:{'0' * 32}"},
    }[end]
    if end == "too much" and not size:
        size = 1
    writer = storage.open(path, "w", **expected)
    if end == "abort":
        writer.write(bytes(size))
        writer.abort()
        return
    with writer:
        writer.write(bytes(size))


def interrupted_write_tests(part, short_run):  # noqa: C901  # a class, whose methods are simple
    """Return a class of tests, for a module with a fixture `storage` that uses :func:`unchanged_storage`.

    Args:
        part: The size of a part, in bytes.
        short_run: How many of the combinations an short_run run tries.
    """

    class InterruptedWrites:
        @pytest.mark.parametrize(("point", "wrapper", "error"), cases(part, short_run))
        def test_an_error_during_a_write_publishes_nothing(self, storage, point, wrapper, error):
            """At every point near a part's end, in every wrapper, with every exception class."""
            for path in ("old.bin", "new/new.bin"):
                with pytest.raises(error), storage.open(path, "w") as writer:
                    write_until(point, error, writer, WRAPPERS[wrapper], part)

        @pytest.mark.parametrize("error", ERRORS)
        @pytest.mark.parametrize("size", [0, 1, part, part + 1, 2 * part + 1])
        def test_an_error_of_the_source_of_an_upload_publishes_nothing(self, storage, size, error):
            """The exception is raised unchanged."""
            for path in ("old.bin", "new.bin"):
                with pytest.raises(error):
                    storage.upload(Source(error, size), path)

        @pytest.mark.parametrize("error", ERRORS)
        @pytest.mark.parametrize("calls", [1, 2, 3])
        def test_an_error_of_a_progress_callback_publishes_nothing(self, storage, calls, error):
            """Also when all content has been sent."""
            calls_made = []

            def callback(sent):
                calls_made.append(sent)
                if len(calls_made) == calls:
                    raise error

            for path in ("old.bin", "new.bin"):
                calls_made.clear()
                with pytest.raises(error):
                    storage.upload(io.BytesIO(bytes(2 * part + 1)), path, progress_callback=callback)

        @pytest.mark.parametrize("size", [0, part - 1, part, part + 1])
        @pytest.mark.parametrize("end", ["abort", "too little", "too much", "another checksum"])
        def test_content_of_another_size_or_checksum_publishes_nothing(self, storage, size, end):
            """Nor does an aborted write."""
            for path in ("old.bin", "new.bin"):
                with nullcontext() if end == "abort" else pytest.raises(IntegrityError):
                    write_unexpected_content(storage, path, size, end)

        def test_a_generator_that_is_closed_during_a_write_publishes_nothing(self, storage):
            """As when a client disconnects from a streaming view."""
            stream = write_in_a_generator(storage, "new.bin", part)
            next(stream)
            next(stream)

            stream.close()

        @pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name != "raw"])
        @pytest.mark.parametrize("size", [3, part, part + 1])
        def test_a_write_without_an_error_publishes_through_every_wrapper(self, storage, wrapper, size):
            """Including the content that the wrappers had buffered."""
            with storage.open("file.bin", "w") as writer, WRAPPERS[wrapper](writer) as wrapped:
                wrapped.write(bytes(size - 1))
                wrapped.write(b"x")

            stored = storage.read("file.bin")
            storage.delete("file.bin")
            assert unwrapped(wrapper, stored) == bytes(size - 1) + b"x"

    return InterruptedWrites
