"""Errors while writing: the old content is kept or no file appears, and no temporary file is left."""

import gc
import gzip
import io
import os
import subprocess
import sys
import textwrap
import zipfile
from contextlib import closing, nullcontext
from datetime import timedelta

import pytest

from flask_storage import LocalFSStorage
from flask_storage.files import RemoteFile
from flask_storage.streams import copy_chunks

BUFFER = 256 * 1024  # of a local writer
CHUNK = RemoteFile.iter_chunk_size
END = CHUNK + 2

# Where the exception is raised: after so many bytes, while reading the source, or after closing the wrapper.
POINTS = [
    0,
    1,
    BUFFER - 1,
    BUFFER,
    BUFFER + 1,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    END - 1,
    END,
    "in the source",
    "after closing",
]
ERRORS = [ZeroDivisionError, KeyboardInterrupt, GeneratorExit]


class _Text(io.TextIOWrapper):
    """A text wrapper that takes bytes, so that one test covers every wrapper."""

    def __init__(self, writer):
        super().__init__(writer, encoding="latin-1", newline="")

    def write(self, data):
        return super().write(bytes(data).decode("latin-1"))


class _ZipEntry(zipfile.ZipFile):
    """An archive with one entry that is open for writing."""

    def __init__(self, writer):
        super().__init__(writer, "w")
        self._entry = self.open("entry", "w")

    def write(self, data):  # type: ignore[override]  # the other wrappers take bytes too
        return self._entry.write(data)

    def close(self):
        self._entry.close()
        super().close()


WRAPPERS = {
    "raw": lambda writer: writer,
    "text": _Text,
    "buffered": io.BufferedWriter,
    "gzip": lambda writer: gzip.GzipFile(fileobj=writer, mode="wb", compresslevel=1),
    "zip": _ZipEntry,
}


class _Source:
    """A source of zeros that fails halfway."""

    def __init__(self, error):
        self._error, self._left = error, END // 2

    def read(self, size, /):
        if not self._left:
            raise self._error
        count = min(size, self._left)
        self._left -= count
        return bytes(count)


def _write_until(point, error, writer, wrap):
    wrapper = wrap(writer)
    with nullcontext() if wrapper is writer else closing(wrapper):
        if point == "in the source":
            copy_chunks(_Source(error), wrapper, chunk_size=100_000)
        elif point == "after closing":
            wrapper.write(bytes(END))
        elif point:
            wrapper.write(bytes(point - 1))
            wrapper.write(b"x")
        if point != "after closing":
            raise error
    raise error


def _everything_in(storage):
    """The names of all files; of a storage on disk, with hidden files and directories."""
    root = getattr(storage, "root", None)
    return (
        {entry.name for entry in storage.list()}
        if root is None
        else {path.relative_to(root).as_posix() for path in root.rglob("*")}
    )


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("point", POINTS)
def test_an_error_while_writing_publishes_nothing(storage, point, wrapper, error):
    """Wherever it is raised, in every wrapper, for every kind: the old content is kept, no new file appears."""
    storage.write("old.bin", b"the old content")

    for path in ("old.bin", "new.bin"):
        with pytest.raises(error), storage.open(path, "w") as writer:
            _write_until(point, error, writer, WRAPPERS[wrapper])

    assert storage.read("old.bin") == b"the old content"
    assert _everything_in(storage) == {"old.bin"}
    assert storage.sweep(timedelta(0)) == 0


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("written", [0, 1, CHUNK + 1])
def test_an_error_while_editing_changes_nothing(storage, written, error):
    """The same guarantee for files that are opened for reading and writing."""
    storage.write("old.bin", b"the old content")

    with pytest.raises(error), storage.open("old.bin", "rw") as updater:  # noqa: PT012 - the block ends by an exception
        updater.write(bytes(written))
        raise error

    assert storage.read("old.bin") == b"the old content"
    assert _everything_in(storage) == {"old.bin"}


@pytest.mark.parametrize("written", [0, 1, BUFFER + 1])
def test_a_collected_writer_leaves_no_file(storage, written):
    """It warns, publishes nothing, and deletes its temporary file."""
    storage.write("old.bin", b"the old content")

    for path in ("old.bin", "new.bin"):
        writer = storage.open(path, "w")
        writer.write(bytes(written))
        with pytest.warns(ResourceWarning, match="unclosed writer"):  # noqa: PT031 - two statements delete the writer
            del writer
            gc.collect()

    assert storage.read("old.bin") == b"the old content"
    assert _everything_in(storage) == {"old.bin"}


@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)", "raise SystemExit(0)", "os.abort()"])
@pytest.mark.parametrize("path", ["old.bin", "new.bin", "directory/new.bin"])
@pytest.mark.parametrize("mode", ["w", "rw"])
def test_a_process_that_ends_with_an_open_writer_publishes_nothing(tmp_path, ending, path, mode):
    """However the process ends; `sweep` deletes what a crash leaves."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.write("old.bin", b"the old content")
    if mode == "rw":
        path = "old.bin"
    program = f"""
        import os, sys
        from flask_storage import LocalFSStorage
        writer = LocalFSStorage({str(storage.root)!r}).open({path!r}, {mode!r})
        writer.write(b"half")
        {ending}
    """

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], stderr=-1, cwd=tmp_path, check=False)

    assert done.returncode in (0, -6), done.stderr
    assert [entry.name for entry in storage.list()] == ["old.bin"]
    assert storage.read("old.bin") == b"the old content"
    storage.sweep(timedelta(0))
    assert _everything_in(storage) == {"old.bin"}


@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name != "raw"])
def test_a_clean_exit_publishes_with_every_wrapper(storage, wrapper):
    """Including what the wrappers have buffered."""
    with storage.open("file.bin", "w") as writer, WRAPPERS[wrapper](writer) as wrapped:
        wrapped.write(b"a few bytes")

    stored = storage.read("file.bin")
    if wrapper == "gzip":
        stored = gzip.decompress(stored)
    elif wrapper == "zip":
        stored = zipfile.ZipFile(io.BytesIO(stored)).read("entry")
    assert stored == b"a few bytes"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # pytest plugins start threads
def test_a_forked_child_publishes_nothing(storage):
    """It cannot write to an inherited writer, which still works in the parent."""
    storage.write("file.bin", b"the old content")
    writer = storage.open("file.bin", "w")
    writer.write(b"from the parent, ")

    child = os.fork()
    if child == 0:
        try:
            writer.write(b"from the child")
        except ValueError:
            writer.close()
            os._exit(0 if writer.closed and storage.read("file.bin") == b"the old content" else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    writer.write(b"all of it")
    writer.close()

    assert storage.read("file.bin") == b"from the parent, all of it"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # pytest plugins start threads
@pytest.mark.parametrize("end", ["abort", "__del__"])
def test_a_forked_child_that_aborts_does_not_affect_the_parent(storage, end, recwarn):
    """Neither `abort` nor the finalizer deletes the parent's temporary file."""
    writer = storage.open("file.bin", "w")
    writer.write(b"from the parent")

    child = os.fork()
    if child == 0:
        getattr(writer, end)()
        os._exit(0 if writer.closed and not list(recwarn) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    writer.close()

    assert storage.read("file.bin") == b"from the parent"
