"""`RemoteFile` without a storage: which methods of a subclass are called when, and Python's file interface."""

import functools
import gc
import hashlib
import io
import logging
import os

import pytest

from flask_storage import FileMode, IntegrityError, RemoteFile, StorageError, WriteOptions
from flask_storage.files import FileAdapter, parse_checksum


class _Writer(RemoteFile):
    """A writer that records which of its methods are called, and can fail in one."""

    def __init__(self, mode="w"):
        super().__init__(mode)
        self.content = bytearray()
        self.calls = []
        self.errors = {}

    def _called(self, name):
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]

    def _write(self, view):
        self.content += view
        self._called("write")

    def _publish(self):
        self._called("publish")

    def _discard(self):
        self._called("discard")

    def _release(self):
        self._called("release")


class _Reader(RemoteFile):
    """A reader with only the required methods."""

    def __init__(self, content):
        super().__init__("r")
        self.source = io.BytesIO(content)
        self.released = 0

    def seek(self, offset, whence=io.SEEK_SET, /):
        return self.source.seek(offset, whence)

    def _read(self, size):
        return self.source.read(size)

    def _release(self):
        self.released += 1


def test_closing_publishes_once():
    """Further calls of `close` and `abort` do nothing."""
    writer = _Writer()

    writer.close()
    writer.close()
    writer.abort()

    assert writer.published
    assert writer.calls == ["publish"]


def test_the_outermost_block_publishes():
    """Of nested `with` blocks, the last exit publishes."""
    writer = _Writer()

    with writer:
        with writer:
            writer.write(b"a")
        assert writer.calls == ["write"]
        writer.write(b"b")

    assert writer.calls == ["write", "write", "publish"]


def test_closing_inside_a_block_is_deferred_to_its_exit():
    """`close()` inside the block prevents further writes; the block's exit publishes or discards."""
    published, discarded = _Writer(), _Writer()

    with published:
        published.write(b"x")
        published.close()
        published.close()
        assert published.closed
        assert not published.published
        with pytest.raises(ValueError, match="closed"):
            published.write(b"too late")
    with pytest.raises(ZeroDivisionError), discarded:  # noqa: PT012 - the block ends by an exception
        discarded.close()
        raise ZeroDivisionError

    assert published.calls == ["write", "publish"]
    assert discarded.calls == ["discard"]


def test_a_writer_collected_inside_its_block_warns():
    """A block that is never left, as in an abandoned generator, publishes nothing."""
    writer = _Writer().__enter__()
    writer.close()
    calls = writer.calls

    with pytest.warns(ResourceWarning, match="nothing was published"):  # noqa: PT031 - two statements delete the writer
        del writer
        gc.collect()

    assert calls == ["release"]


def test_a_reader_is_closed_immediately():
    """It has nothing to publish, so `close` is not deferred to the end of its block."""
    reader = _Reader(b"abc")

    with reader:
        reader.close()
        assert reader.closed

    assert reader.released == 1


def test_aborting_a_reader_closes_it():
    """A reader has nothing to discard; leaving its block by an exception closes it too."""
    aborted, failed = _Reader(b"abc"), _Reader(b"abc")

    aborted.abort()
    with pytest.raises(ZeroDivisionError), failed:
        raise ZeroDivisionError

    assert aborted.closed
    assert failed.closed
    assert (aborted.released, failed.released) == (1, 1)


@pytest.mark.parametrize("error", [StorageError("full"), OSError("disk"), KeyboardInterrupt()])
def test_a_failed_write_discards(error):
    """It is not known how much was written, so nothing is published."""
    writer = _Writer()
    writer.errors["write"] = error

    with pytest.raises(type(error)):
        writer.write(b"x")
    writer.close()

    assert writer.closed
    assert not writer.published
    assert writer.calls == ["write", "discard"]


@pytest.mark.parametrize("error", [StorageError("refused"), OSError("disk"), KeyboardInterrupt()])
def test_a_failed_publication_discards(error):
    """And a further `close` does not retry it."""
    writer = _Writer()
    writer.errors["publish"] = error

    with pytest.raises(type(error)):
        writer.close()
    writer.close()

    assert writer.calls == ["publish", "discard"]


def test_a_failed_discard_does_not_replace_the_original_error(caplog):
    """The error of the block is raised; that of the discard is logged."""
    writer = _Writer()
    writer.errors["discard"] = StorageError("unreachable")

    with caplog.at_level(logging.WARNING), pytest.raises(ZeroDivisionError), writer:
        raise ZeroDivisionError

    assert writer.closed
    assert "could not remove an unfinished write, which sweep will remove: unreachable" in caplog.text


def test_a_collected_writer_only_releases_local_resources():
    """The garbage collector must neither publish nor discard, since both may send requests."""
    writer = _Writer()
    calls = writer.calls

    with pytest.warns(ResourceWarning, match="nothing was published"):  # noqa: PT031 - two statements delete the writer
        del writer
        gc.collect()

    assert calls == ["release"]


def test_a_file_whose_constructor_failed_is_collected_without_a_warning(recwarn):
    """Its finalizer handles the missing attributes."""
    with pytest.raises(ValueError, match="mode"):
        _Writer("nonsense")
    gc.collect()

    assert list(recwarn) == []


@pytest.mark.parametrize("end", ["close", "abort", "__del__"])
def test_a_forked_child_only_releases_an_inherited_writer(end, monkeypatch, recwarn):
    """In another process, the writer closes its descriptors and does nothing else."""
    writer = _Writer()
    monkeypatch.setattr(os, "getpid", lambda: -1)

    getattr(writer, end)()

    assert writer.closed
    assert writer.calls == ["release"]
    assert list(recwarn) == []


def test_a_forked_child_cannot_write_to_an_inherited_writer(monkeypatch):
    """Its bytes would be mixed with the parent's, whose writer still works."""
    writer = _Writer()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ValueError, match="after a fork"):
            writer.write(b"x")

    writer.write(b"y")
    writer.close()

    assert writer.content == b"y"
    assert writer.calls == ["write", "publish"]


def test_a_collected_reader_is_released(recwarn):
    """Once, and without a warning."""
    reader = _Reader(b"abc")

    reader.__del__()
    reader.__del__()

    assert reader.released == 1
    assert list(recwarn) == []


def test_the_callback_is_called_once_when_published():
    """And not for an aborted writer."""
    notified: list[_Writer] = []
    published, aborted = _Writer(), _Writer()
    for writer in (published, aborted):
        writer.attach("x", io.BytesIO(), functools.partial(notified.append, writer))

    published.close()
    aborted.abort()

    assert notified == [published]


def test_methods_that_a_subclass_lacks_are_unsupported():
    """They raise `io.UnsupportedOperation` as Python's files do."""
    reader, writer = RemoteFile("r"), RemoteFile("w")

    with pytest.raises(io.UnsupportedOperation):
        reader.readinto(bytearray(1))
    for call in (reader.read, reader.readline, reader.tell, functools.partial(reader.seek, 0)):
        with pytest.raises(io.UnsupportedOperation):
            call()
    with pytest.raises(io.UnsupportedOperation):
        writer.write(b"x")
    with pytest.raises(io.UnsupportedOperation):
        RemoteFile("w").close()

    reader.close()
    assert writer.closed


def test_reading_a_line_leaves_the_position_behind_it():
    """The default reads ahead to find the line's end, and seeks back."""
    long = b"x" * 20_000 + b"\n"
    reader = _Reader(b"a\n" + long + b"b\nend")

    assert reader.readline() == b"a\n"
    assert reader.source.tell() == 2
    assert reader.readline() == long
    assert reader.readline(1) == b"b"
    assert reader.readline(0) == b""
    assert reader.readline(50) == b"\n"
    assert reader.readline(None) == b"end"
    assert reader.readline() == b""
    reader.close()


def test_readinto_falls_back_on_read():
    """For subclasses that implement only `_read`."""
    reader = _Reader(b"abc")
    buffer = bytearray(b"12345")

    assert reader.readinto(buffer) == 3
    assert buffer == b"abc45"
    reader.close()


def test_a_file_adapter_delegates_to_its_python_file(tmp_path):
    """Position, descriptor and content are those of the Python file, which is closed too."""
    source = tmp_path / "source.txt"
    source.write_bytes(b"first line\nsecond")
    with open(source, "rb") as fp:
        reader = FileAdapter(fp, FileMode.read)

        assert reader.seekable()
        assert reader.fileno() == fp.fileno()
        assert reader.seek(5) == reader.tell() == fp.tell() == 5
        assert reader.readline() == b" line\n"
        reader.close()
        assert fp.closed
        with pytest.raises(ValueError, match="closed"):
            reader.tell()


@pytest.mark.parametrize(
    "checksum", ["sha256:" + hashlib.sha256(b"x").hexdigest(), "MD5:" + "0" * 32, "sha1:" + "AB" * 20]
)
def test_a_checksum_consists_of_algorithm_and_digest(checksum):
    """Any algorithm of hashlib with a fixed digest length, in upper or lower case."""
    hasher, digest = parse_checksum(checksum)

    assert hasher.digest_size * 2 == len(digest)
    assert digest == checksum.partition(":")[2].lower()


@pytest.mark.parametrize(
    "checksum",
    [
        "",
        "sha256",
        ":",
        "sha256:",
        "sha256:12",
        "sha256:" + "g" * 64,
        "sha256:" + "0" * 64 + "\n",
        "sha256:" + "00 " * 32,
        "sha256:" + "\u0660" * 64,
        "shake_128:ab",
        "shake_128:",
        "none:00",
        b"sha256:" + b"0" * 64,
        5,
    ],
)
def test_an_invalid_checksum_is_refused(checksum):
    """An unknown algorithm, no digest, or a digest of another length or with white space could never match."""
    with pytest.raises(ValueError, match="checksum"):
        parse_checksum(checksum)


def test_size_and_checksum_are_checked_before_publishing():
    """A writer with another length or digest publishes nothing."""
    options = WriteOptions(size=3, checksum="sha256:" + hashlib.sha256(b"abc").hexdigest())
    exact, longer, shorter, other = (_Writer() for _ in range(4))
    for writer in (exact, longer, shorter, other):
        writer.set_expected(options)

    exact.write(b"ab")
    exact.write(b"c")
    exact.close()
    with pytest.raises(IntegrityError, match="more than the expected 3"):
        longer.write(b"abcd")
    shorter.write(b"ab")
    with pytest.raises(IntegrityError, match="2 bytes were written where 3"):
        shorter.close()
    other.write(b"abd")
    with pytest.raises(IntegrityError, match="checksum"):
        other.close()

    assert exact.calls == ["write", "write", "publish"]
    assert all("publish" not in writer.calls for writer in (longer, shorter, other))


def test_an_edited_file_has_no_expected_size():
    """The number of bytes that an edit writes is not the length of the file."""
    updater = _Writer("rw")
    updater.set_expected(WriteOptions(size=1))

    updater.write(b"abc")
    updater.close()

    assert updater.calls == ["write", "publish"]
