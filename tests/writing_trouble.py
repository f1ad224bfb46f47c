"""Trouble while a file is written to a remote place: where it comes, of what kind, and through what wrapper."""

import gzip
import io
import zipfile
from contextlib import closing, nullcontext

from flask_storage.streams import copy_chunks
from tests.counts import count

ERRORS = [ZeroDivisionError, KeyboardInterrupt, GeneratorExit]


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
