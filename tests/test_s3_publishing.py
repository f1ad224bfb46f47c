"""Trouble while writing to S3: wherever it comes, the old content stays or nothing appears, and no upload is left."""

import gzip
import io
import zipfile
from contextlib import closing, nullcontext

import pytest

from flask_storage import IntegrityError
from flask_storage.streams import copy_chunks
from tests.counts import count
from tests.s3_places import place

pytest_plugins = ["tests.services.localstack", "tests.services.rgw"]

MIB = 1 << 20
PART = 5 * MIB
OLD = b"the old content"
BLOCK = bytes(PART)

# Where the exception comes: after so many bytes, while reading the source, in a callback, or after the wrapper closed.
POINTS = [
    0,
    1,
    PART - 1,
    PART,
    PART + 1,
    2 * PART - 1,
    2 * PART,
    2 * PART + 1,
    "in the source's first part",
    "in the source's second part",
    "after closing",
    "after closing two parts",
]
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


def write_until(point, error, writer, wrap):
    """Write through a wrapper up to the point where the trouble comes."""
    wrapper = wrap(writer)
    with nullcontext() if wrapper is writer else closing(wrapper):
        match point:
            case "in the source's first part":
                copy_chunks(Source(error, 100_001), wrapper, chunk_size=65_536)
            case "in the source's second part":
                copy_chunks(Source(error, PART + 100_001), wrapper, chunk_size=MIB)
            case "after closing":
                wrapper.write(b"all of it")
            case "after closing two parts":
                wrapper.write(BLOCK)
                wrapper.write(b"x")
            case _:
                for start in range(0, point, PART):
                    wrapper.write(BLOCK[: point - start])
                raise error
    raise error


@pytest.fixture(scope="module")
def places(request):
    """A storage on each server that is asked for."""
    made = {}

    def storage(name):
        if name not in made:
            server = request.getfixturevalue(name)
            made[name] = server, place(server, chunk_size=PART, concurrency=2)
        return made[name][1]

    yield storage
    for server, each in made.values():
        each.close()
        server.remove_bucket(each.bucket)


@pytest.fixture(params=["rgw", "localstack"])
def storage(places, request):
    """A storage on each server, with one object in it, and afterwards too: no other, and no unfinished upload."""
    made = places(request.param)
    made.write("old.bin", OLD)
    yield made
    assert made.read("old.bin") == OLD
    assert [entry.name for entry in made.list()] == ["old.bin"]
    assert not list(made.parts.list_uploads())


def cases(everyday):
    """Points, wrappers and errors that this run combines: all in the full run, each at least once in the everyday."""
    every = [(point, wrapper, error) for point in POINTS for wrapper in WRAPPERS for error in ERRORS]
    step = max(1, len(every) // count(everyday, len(every)))
    # Not a divisor of how many wrappers or errors there are, so that all of them come.
    return every[:: step if step % 5 and step % 3 else step + 1]


@pytest.mark.parametrize(("point", "wrapper", "error"), cases(45))
def test_trouble_publishes_nothing(storage, point, wrapper, error):
    """At every point about a part's end, in every wrapper, by every kind of exception."""
    for path in ("old.bin", "new.bin"):
        with pytest.raises(error), storage.open(path, "w") as writer:
            write_until(point, error, writer, WRAPPERS[wrapper])


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART + 1])
def test_trouble_in_the_source_of_an_upload_publishes_nothing(storage, size, error):
    """The exception comes through as it is."""
    for path in ("old.bin", "new.bin"):
        with pytest.raises(error):
            storage.upload(Source(error, size), path)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_trouble_in_a_progress_callback_publishes_nothing(storage, calls, error):
    """Even when all has been sent by then."""
    heard = []

    def callback(sent):
        heard.append(sent)
        if len(heard) == calls:
            raise error

    for path in ("old.bin", "new.bin"):
        heard.clear()
        with pytest.raises(error):
            storage.upload(io.BytesIO(bytes(2 * PART + 1)), path, progress_callback=callback)


@pytest.mark.parametrize("size", [0, PART - 1, PART, PART + 1])
@pytest.mark.parametrize("end", ["abort", "too little", "too much", "another checksum"])
def test_a_promise_that_is_not_kept_publishes_nothing(storage, size, end):
    """Less or more than was promised, or something else; and what is given up on purpose."""
    promise = {
        "abort": {},
        "too little": {"size": size + 1},
        "too much": {"size": max(size - 1, 0)},
        "another checksum": {"checksum": f"md5:{'0' * 32}"},
    }[end]
    if end == "too much" and not size:
        size = 1

    for path in ("old.bin", "new.bin"):
        writer = storage.open(path, "w", **promise)
        if end == "abort":
            writer.write(bytes(size))
            writer.abort()
            continue
        with pytest.raises(IntegrityError), writer:
            writer.write(bytes(size))


def test_a_generator_that_is_closed_amid_a_write_publishes_nothing(storage):
    """As when a client goes away from a view that streams."""

    def streaming():
        with storage.open("new.bin", "w") as writer:
            writer.write(BLOCK)
            yield
            writer.write(b"x")
            yield
            writer.write(BLOCK)

    stream = streaming()
    next(stream)
    next(stream)

    stream.close()


@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name != "raw"])
@pytest.mark.parametrize("size", [3, PART, PART + 1])
def test_a_clean_exit_publishes_through_every_wrapper(places, wrapper, size):
    """The same wrappers, left without trouble, publish everything that they held back."""
    storage = places("rgw")
    with storage.open("file.bin", "w") as writer, WRAPPERS[wrapper](writer) as wrapped:
        wrapped.write(BLOCK[: size - 1])
        wrapped.write(b"x")

    stored = storage.read("file.bin")
    storage.delete("file.bin")
    if wrapper == "gzip":
        stored = gzip.decompress(stored)
    elif wrapper == "zip":
        stored = zipfile.ZipFile(io.BytesIO(stored)).read("entry")
    assert stored == BLOCK[: size - 1] + b"x"
