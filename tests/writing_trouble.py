"""Trouble while a file is written to a remote place: where it comes, of what kind, through what wrapper; the tests."""

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
def unharmed(storage, leftovers):
    """Lend a storage with one file in it, and see afterwards that it is so still.

    Args:
        storage: Which one.
        leftovers: Returns what unfinished writes have left there.
    """
    storage.write("old.bin", OLD)
    yield storage
    assert storage.read("old.bin") == OLD
    assert [entry.name for entry in storage.list()] == ["old.bin"]
    assert not leftovers(storage)


class _Text(io.TextIOWrapper):
    """Text that is written as bytes are, so that one test serves every wrapper."""

    def __init__(self, writer):
        super().__init__(writer, encoding="latin-1", newline="")

    def write(self, data):
        return super().write(bytes(data).decode("latin-1"))


class _ZipEntry(zipfile.ZipFile):
    """An archive that is being written, with one entry open."""

    def __init__(self, writer):
        super().__init__(writer, "w")
        self._entry = self.open("entry", "w", force_zip64=True)

    def write(self, data):  # type: ignore[override]  # bytes into the open entry, as every other wrapper takes them
        return self._entry.write(data)

    def close(self):
        self._entry.close()
        super().close()


WRAPPERS = {
    "raw": lambda writer: writer,
    "text": _Text,
    "buffered": io.BufferedWriter,
    "gzip": lambda writer: gzip.GzipFile(fileobj=writer, mode="wb", compresslevel=0),  # as long as what goes in
    "zip": _ZipEntry,
}


def unwrapped(wrapper, stored):
    """Return what was written through a wrapper, out of what is stored."""
    if wrapper == "gzip":
        return gzip.decompress(stored)
    return zipfile.ZipFile(io.BytesIO(stored)).read("entry") if wrapper == "zip" else stored


class Source:
    """Yields zeros, and fails after so many of them."""

    def __init__(self, error, size):
        self._error, self._left = error, size

    def read(self, size, /):
        """Return no more than *size* of them."""
        if not self._left:
            raise self._error
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


def points(part):
    """Where the exception comes: after so many bytes, while reading the source, or after the wrapper was closed.

    Args:
        part: The size of a part, in bytes.
    """
    return [
        0,
        1,
        *(number * part + beside for number in (1, 2) for beside in (-1, 0, 1)),
        "in the source's first part",
        "in the source's second part",
        "after closing",
        "after closing two parts",
    ]


def write_until(point, error, writer, wrap, part):
    """Write through a wrapper up to the point where the trouble comes."""
    wrapper = wrap(writer)
    block = bytes(part)
    with nullcontext() if wrapper is writer else closing(wrapper):
        match point:
            case "in the source's first part":
                copy_chunks(Source(error, 100_001), wrapper, chunk_size=65_536)
            case "in the source's second part":
                copy_chunks(Source(error, part + 100_001), wrapper, chunk_size=part // 5)
            case "after closing":
                wrapper.write(b"all of it")
            case "after closing two parts":
                wrapper.write(block)
                wrapper.write(b"x")
            case _:
                for start in range(0, point, part):
                    wrapper.write(block[: point - start])
                raise error
    raise error


def cases(part, everyday):
    """Points, wrappers and errors that this run combines: all in the full run, each at least once in the everyday."""
    every = [(point, wrapper, error) for point in points(part) for wrapper in WRAPPERS for error in ERRORS]
    step = max(1, len(every) // count(everyday, len(every)))
    # Not a divisor of how many wrappers or errors there are, so that all of them come.
    return every[:: step if step % 5 and step % 3 else step + 1]


def write_in_a_generator(storage, path, part):
    """Write amid yields, as a view does that streams."""
    with storage.open(path, "w") as writer:
        writer.write(bytes(part))
        yield
        writer.write(b"x")
        yield
        writer.write(bytes(part))


def break_promise(storage, path, size, end):
    """Write *size* zeros that are not what was promised, or give up on purpose; the error of the former comes out."""
    promise = {
        "abort": {},
        "too little": {"size": size + 1},
        "too much": {"size": max(size - 1, 0)},
        "another checksum": {"checksum": f"md5:{'0' * 32}"},
    }[end]
    if end == "too much" and not size:
        size = 1
    writer = storage.open(path, "w", **promise)
    if end == "abort":
        writer.write(bytes(size))
        writer.abort()
        return
    with writer:
        writer.write(bytes(size))


def trouble_tests(part, everyday):  # noqa: C901  # it is a class, of which each method is simple
    """Return a class of tests, for a module with a fixture `storage`.

    That is a place with nothing but :data:`OLD` in ``old.bin``, and sees to it that it is again afterwards.

    Args:
        part: The size of a part, in bytes.
        everyday: How many of the combinations an everyday run tries.
    """

    class Trouble:
        @pytest.mark.parametrize(("point", "wrapper", "error"), cases(part, everyday))
        def test_trouble_publishes_nothing(self, storage, point, wrapper, error):
            """At every point about a part's end, in every wrapper, by every kind of exception."""
            for path in ("old.bin", "new/new.bin"):
                with pytest.raises(error), storage.open(path, "w") as writer:
                    write_until(point, error, writer, WRAPPERS[wrapper], part)

        @pytest.mark.parametrize("error", ERRORS)
        @pytest.mark.parametrize("size", [0, 1, part, part + 1, 2 * part + 1])
        def test_trouble_in_the_source_of_an_upload_publishes_nothing(self, storage, size, error):
            """The exception comes through as it is."""
            for path in ("old.bin", "new.bin"):
                with pytest.raises(error):
                    storage.upload(Source(error, size), path)

        @pytest.mark.parametrize("error", ERRORS)
        @pytest.mark.parametrize("calls", [1, 2, 3])
        def test_trouble_in_a_progress_callback_publishes_nothing(self, storage, calls, error):
            """Even when all has been sent by then."""
            heard = []

            def callback(sent):
                heard.append(sent)
                if len(heard) == calls:
                    raise error

            for path in ("old.bin", "new.bin"):
                heard.clear()
                with pytest.raises(error):
                    storage.upload(io.BytesIO(bytes(2 * part + 1)), path, progress_callback=callback)

        @pytest.mark.parametrize("size", [0, part - 1, part, part + 1])
        @pytest.mark.parametrize("end", ["abort", "too little", "too much", "another checksum"])
        def test_a_promise_that_is_not_kept_publishes_nothing(self, storage, size, end):
            """Less or more than was promised, or something else; and what is given up on purpose."""
            for path in ("old.bin", "new.bin"):
                with nullcontext() if end == "abort" else pytest.raises(IntegrityError):
                    break_promise(storage, path, size, end)

        def test_a_generator_that_is_closed_amid_a_write_publishes_nothing(self, storage):
            """As when a client goes away from a view that streams."""
            stream = write_in_a_generator(storage, "new.bin", part)
            next(stream)
            next(stream)

            stream.close()

        @pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name != "raw"])
        @pytest.mark.parametrize("size", [3, part, part + 1])
        def test_a_clean_exit_publishes_through_every_wrapper(self, storage, wrapper, size):
            """The same wrappers, left without trouble, publish everything that they held back."""
            with storage.open("file.bin", "w") as writer, WRAPPERS[wrapper](writer) as wrapped:
                wrapped.write(bytes(size - 1))
                wrapped.write(b"x")

            stored = storage.read("file.bin")
            storage.delete("file.bin")
            assert unwrapped(wrapper, stored) == bytes(size - 1) + b"x"

    return Trouble
