"""Open files on their own: the life of a writer, hook by hook, and Python's contract."""

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
    """A writer that notes which of its hooks are called."""

    def __init__(self, mode="w"):
        super().__init__(mode)
        self.content = bytearray()
        self.calls = []
        self.trouble = {}

    def _called(self, name):
        self.calls.append(name)
        if name in self.trouble:
            raise self.trouble[name]

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
    """A reader with no more than the hook it must have."""

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
    """The hook runs at the first close and never again."""
    writer = _Writer()

    writer.close()
    writer.close()
    writer.abort()

    assert writer.published
    assert writer.calls == ["publish"]


def test_the_outermost_block_publishes():
    """Blocks may be nested; the last to be left is the one that counts."""
    writer = _Writer()

    with writer:
        with writer:
            writer.write(b"a")
        assert writer.calls == ["write"]
        writer.write(b"b")

    assert writer.calls == ["write", "write", "publish"]


def test_closing_inside_a_block_waits():
    """`close()` inside the block ends the writing and decides nothing: that is left to the block's exit."""
    kept, dropped = _Writer(), _Writer()

    with kept:
        kept.write(b"x")
        kept.close()
        kept.close()
        assert kept.closed
        assert not kept.published
        with pytest.raises(ValueError, match="closed"):
            kept.write(b"too late")
    with pytest.raises(ZeroDivisionError), dropped:  # noqa: PT012 - it ends in mid-block
        dropped.close()
        raise ZeroDivisionError

    assert kept.calls == ["write", "publish"]
    assert dropped.calls == ["discard"]


def test_a_writer_that_is_forgotten_in_its_block_warns():
    """A block that is never left, as in a generator that nobody resumes, publishes nothing."""
    writer = _Writer().__enter__()
    writer.close()
    calls = writer.calls

    with pytest.warns(ResourceWarning, match="nothing was published"):  # noqa: PT031 - dropping it is two steps
        del writer
        gc.collect()

    assert calls == ["release"]


def test_a_reader_closes_at_once():
    """A reader has nothing to publish, so nothing waits for the end of its block."""
    reader = _Reader(b"abc")

    with reader:
        reader.close()
        assert reader.closed

    assert reader.released == 1


def test_aborting_a_reader_closes_it():
    """On a reader there is nothing to discard; leaving by an exception closes it too."""
    aborted, left = _Reader(b"abc"), _Reader(b"abc")

    aborted.abort()
    with pytest.raises(ZeroDivisionError), left:
        raise ZeroDivisionError

    assert aborted.closed
    assert left.closed
    assert (aborted.released, left.released) == (1, 1)


@pytest.mark.parametrize("error", [StorageError("full"), OSError("disk"), KeyboardInterrupt()])
def test_a_failed_write_discards(error):
    """After a failed write nobody can know what arrived, so nothing of it is published."""
    writer = _Writer()
    writer.trouble["write"] = error

    with pytest.raises(type(error)):
        writer.write(b"x")
    writer.close()

    assert writer.closed
    assert not writer.published
    assert writer.calls == ["write", "discard"]


@pytest.mark.parametrize("error", [StorageError("refused"), OSError("disk"), KeyboardInterrupt()])
def test_a_failed_publication_discards(error):
    """What could not be published is cleared away, and is not tried again by the next close."""
    writer = _Writer()
    writer.trouble["publish"] = error

    with pytest.raises(type(error)):
        writer.close()
    writer.close()

    assert writer.calls == ["publish", "discard"]


def test_a_failed_clearing_does_not_hide_the_reason(caplog):
    """What made the block fail is raised; that something was left behind is logged."""
    writer = _Writer()
    writer.trouble["discard"] = StorageError("unreachable")

    with caplog.at_level(logging.WARNING), pytest.raises(ZeroDivisionError), writer:
        raise ZeroDivisionError

    assert writer.closed
    assert "left behind for the sweep: unreachable" in caplog.text


def test_a_forgotten_writer_only_releases():
    """The garbage collector neither publishes nor discards: both might need a network."""
    writer = _Writer()
    calls = writer.calls

    with pytest.warns(ResourceWarning, match="nothing was published"):  # noqa: PT031 - dropping it is two steps
        del writer
        gc.collect()

    assert calls == ["release"]


def test_a_file_that_was_never_made_is_collected_quietly(recwarn):
    """A constructor that fails leaves half an object, which says nothing when it goes."""
    with pytest.raises(ValueError, match="mode"):
        _Writer("nonsense")
    gc.collect()

    assert list(recwarn) == []


@pytest.mark.parametrize("end", ["close", "abort", "__del__"])
def test_a_child_only_releases_an_inherited_writer(end, monkeypatch, recwarn):
    """In another process than its own, a writer frees its descriptors and does nothing else."""
    writer = _Writer()
    monkeypatch.setattr(os, "getpid", lambda: -1)

    getattr(writer, end)()

    assert writer.closed
    assert writer.calls == ["release"]
    assert list(recwarn) == []


def test_a_child_cannot_write_to_an_inherited_writer(monkeypatch):
    """Its bytes would land amid the parent's; the parent's writer stays as it is."""
    writer = _Writer()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ValueError, match="process"):
            writer.write(b"x")

    writer.write(b"y")
    writer.close()

    assert writer.content == b"y"
    assert writer.calls == ["write", "publish"]


def test_a_collected_reader_is_released(recwarn):
    """A reader that is dropped frees its descriptor and says nothing."""
    reader = _Reader(b"abc")

    reader.__del__()
    reader.__del__()

    assert reader.released == 1
    assert list(recwarn) == []


def test_publishing_is_told_once():
    """Whoever is attached hears of the publication, and of nothing else."""
    told: list[_Writer] = []
    published, aborted = _Writer(), _Writer()
    for writer in (published, aborted):
        writer.attach("x", io.BytesIO(), functools.partial(told.append, writer))

    published.close()
    aborted.abort()

    assert told == [published]


def test_hooks_without_a_body_are_unsupported():
    """A subclass that lacks the hook of its mode says so as Python's files do."""
    reader, writer = RemoteFile("r"), RemoteFile("w")

    with pytest.raises(io.UnsupportedOperation):
        reader.readinto(bytearray(1))
    for use in (reader.read, reader.readline, reader.tell, functools.partial(reader.seek, 0)):
        with pytest.raises(io.UnsupportedOperation):
            use()
    with pytest.raises(io.UnsupportedOperation):
        writer.write(b"x")
    with pytest.raises(io.UnsupportedOperation):
        RemoteFile("w").close()

    reader.close()
    assert writer.closed


def test_lines_are_read_ahead_and_given_back():
    """The default finds a line's end by reading ahead, and stands right behind it afterwards."""
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
    """A subclass that can only read fills buffers too."""
    reader = _Reader(b"abc")
    buffer = bytearray(b"12345")

    assert reader.readinto(buffer) == 3
    assert buffer == b"abc45"
    reader.close()


def test_a_wrapped_file_is_its_file(tmp_path):
    """Position, descriptor and content are those of the file underneath, which closes along."""
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
def test_a_checksum_names_algorithm_and_digest(checksum):
    """Any algorithm of fixed length will do, in either case."""
    computed, digest = parse_checksum(checksum)

    assert computed.digest_size * 2 == len(digest)
    assert digest == checksum.partition(":")[2].lower()


@pytest.mark.parametrize(
    "checksum",
    ["", "sha256", ":", "sha256:", "sha256:12", "sha256:" + "g" * 64, "shake_128:ab", "shake_128:", "none:00"],
)
def test_a_checksum_that_cannot_hold_is_refused(checksum):
    """An unknown algorithm, no digest, or a digest of another length could never come true."""
    with pytest.raises(ValueError, match="checksum"):
        parse_checksum(checksum)


def test_a_promise_is_kept_or_nothing_is_published():
    """Length and digest are compared before publishing."""
    options = WriteOptions(size=3, checksum="sha256:" + hashlib.sha256(b"abc").hexdigest())
    kept, longer, shorter, other = (_Writer() for _ in range(4))
    for writer in (kept, longer, shorter, other):
        writer.set_expected(options)

    kept.write(b"ab")
    kept.write(b"c")
    kept.close()
    with pytest.raises(IntegrityError, match="more than the promised 3"):
        longer.write(b"abcd")
    shorter.write(b"ab")
    with pytest.raises(IntegrityError, match="2 bytes were written where 3"):
        shorter.close()
    other.write(b"abd")
    with pytest.raises(IntegrityError, match="checksum"):
        other.close()

    assert kept.calls == ["write", "write", "publish"]
    assert all("publish" not in writer.calls for writer in (longer, shorter, other))


def test_an_edited_file_is_held_to_no_length():
    """What counts of an edit is not how much was written."""
    updater = _Writer("rw")
    updater.set_expected(WriteOptions(size=1))

    updater.write(b"abc")
    updater.close()

    assert updater.calls == ["write", "publish"]
