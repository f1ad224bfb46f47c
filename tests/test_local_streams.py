"""Large files, large directories and deep trees, with bounded memory; transfers from and to local files."""

import errno
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from flask_storage import LocalFSStorage, StorageError
from flask_storage.types import WriteOptions
from tests.counts import count
from tests.crash.tracing import clean_environment
from tests.descriptors import descriptors

STREAM = """
import hashlib, json, resource, sys
from flask_storage import LocalFSStorage

root, method, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
storage = LocalFSStorage(root, fsync=False)
digest = hashlib.sha256()

class Source:
    remaining = megabytes
    def read(self, size):
        count = min(self.remaining, size >> 20)
        data = b"".join((self.remaining - number).to_bytes(8, "big") * (1 << 17) for number in range(count))
        self.remaining -= count
        digest.update(data)
        return data

class Sink:
    def __init__(self):
        self.digest = hashlib.sha256()
    def write(self, data):
        self.digest.update(data)
        return len(data)

storage.write("small.bin", b"1" * 6_000_000, content_type="text/plain")
storage.download("small.bin", Sink())
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, sink = rss(), Sink()
if method == "upload":
    storage.upload(Source(), "big.bin")
    storage.download("big.bin", sink)
elif method == "open":
    source = Source()
    with storage.open("big.bin", "w") as writer:
        while data := source.read(4 << 20):
            writer.write(data)
    with storage.open("big.bin", "r") as reader:
        for chunk in reader.iter_chunks():
            sink.write(chunk)
else:
    source = Source()
    with open(root + "/../source", "wb") as file:
        while data := source.read(4 << 20):
            file.write(data)
    storage.put(root + "/../source", "first.bin")
    storage.copy("first.bin", "big.bin")
    storage.get("big.bin", root + "/../downloaded")
    with open(root + "/../downloaded", "rb") as file:
        while data := file.read(4 << 20):
            sink.write(data)
print(json.dumps([storage.size("big.bin"), digest.hexdigest() == sink.digest.hexdigest(), (rss() - before) >> 10]))
"""


@pytest.mark.parametrize("method", ["upload", "open", "put and get"])
def test_a_large_file_is_transferred_in_bounded_memory(method, tmp_path):
    """The memory of the process grows by at most 64 MiB, and the content is unchanged."""
    megabytes = count(512, 5 * 1024)
    environment, home = clean_environment()
    root = tmp_path / "root"
    root.mkdir()
    start = f"import sys; sys.path.append({home!r}); exec(sys.stdin.read())"

    result = subprocess.run(
        [sys.executable, "-P", "-c", start, str(root), method, str(megabytes)],
        input=STREAM,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )

    size, equal, growth = json.loads(result.stdout)
    for path in (*root.iterdir(), *tmp_path.glob("*o*")):  # do not keep 20 GiB until pytest removes them
        if path.is_file():
            path.unlink()
    assert size == megabytes << 20
    assert equal
    assert growth <= 64


@pytest.fixture(scope="module")
def many_files():
    """A storage of 10,000 files in one directory and 1,000 in one directory each; with `--all` ten times as many."""
    number = count(10_000, 100_000)
    with tempfile.TemporaryDirectory() as directory:
        storage = LocalFSStorage(directory, fsync=False)
        os.mkdir(storage.root / "flat")
        for name in range(number):
            os.mknod(storage.root / "flat" / f"{name:06}.txt")
        for name in range(number // 10):
            os.makedirs(storage.root / "nested" / f"{name:06}")
            os.mknod(storage.root / "nested" / f"{name:06}" / "only.txt")
        yield storage, number


@pytest.mark.parametrize("directory", ["flat", "nested"])
def test_a_listing_is_lazy_and_holds_one_page_in_memory(directory, many_files, monkeypatch):
    """The first entry is yielded after one page of work, and memory does not grow with the number of files."""
    storage, number = many_files
    expected = number if directory == "flat" else number // 10
    read = []
    scandir = os.scandir

    class Counted:
        def __init__(self, *arguments):
            self.entries = scandir(*arguments)

        def __iter__(self):
            return self

        def __next__(self):
            read.append(1)
            return next(self.entries)

        def close(self):
            self.entries.close()

    next(storage.iter(directory))  # loads the modules that are imported on first use
    monkeypatch.setattr(os, "scandir", Counted)
    listing = storage.iter(directory)
    next(listing)
    until_first = len(read)
    listing.close()
    tracemalloc.start()
    total = sum(1 for _ in storage.iter(directory))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert until_first <= 3 * 1000 + 10
    assert total == expected
    assert peak < 2 * 1024 * 1024


def test_an_unfinished_listing_closes_its_directories(many_files):
    """Reading only ten entries leaves no descriptor open."""
    storage, _ = many_files
    before = descriptors()

    entries = list(islice(storage.iter(), 10))

    assert len(entries) == 10
    assert descriptors() == before


def test_a_deep_tree_is_stored_listed_and_deleted(tmp_path, monkeypatch):
    """A path may have 512 levels; at most 66 descriptors are open at a time."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    path = "/".join("a" * 512)
    sibling = "/".join("a" * 100) + "/b.txt"

    storage.write(path, b"deep")
    storage.write(sibling, b"1")
    peak = 0
    for _ in storage.tree.walk():
        peak = max(peak, len(os.listdir("/proc/self/fd")))
    base = len(os.listdir("/proc/self/fd"))

    assert peak
    assert peak - base <= 66
    assert [entry.name for entry in storage.list()] == sorted([path, sibling])
    assert storage.read(path) == b"deep"
    storage.delete(path)
    assert storage.delete_prefix("a") == 1
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_deep_empty_directories(tmp_path):
    """A crash between creating directories and their first file leaves them; younger ones stay."""
    from datetime import timedelta

    storage = LocalFSStorage(tmp_path, fsync=False)
    (tmp_path / "/".join("e" * 90)).mkdir(parents=True)
    storage.write("d/a.txt", b"1")

    count_of_young = storage.sweep(timedelta(hours=1))
    listed = [entry.name for entry in storage.list(recursive=False)]
    existed = (tmp_path / "e").is_dir()
    storage.sweep(timedelta(0))

    assert count_of_young == 0
    assert listed == ["d/"]
    assert existed
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_buffered_writes_of_a_source_are_uploaded(tmp_path):
    """Bytes in Python's buffer are flushed first, as the kernel would not copy them."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    (tmp_path / "local").write_bytes(b"old" * 100)

    with open(tmp_path / "local", "r+b") as file:
        file.read(10)
        file.seek(0)
        file.write(b"NEW")
        file.seek(0)
        storage.upload(file, "a.bin")
        position = file.tell()

    assert storage.read("a.bin") == b"NEW" + b"old" * 99
    assert position == 300


def test_an_upload_starts_at_the_position_of_the_source(tmp_path):
    """After the upload the position is the end of the file."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    (tmp_path / "local").write_bytes(b"0123456789")
    progress: list[int] = []

    with open(tmp_path / "local", "rb") as file:
        file.read(4)
        storage.upload(file, "a.bin", progress_callback=progress.append)
        rest = file.read()

    assert storage.read("a.bin") == b"456789"
    assert rest == b""
    assert progress == [6]


class UppercaseReader(io.BufferedReader):
    """A subclass whose content differs from the bytes on disk."""

    def read(self, size=-1):
        """Return the text in upper case."""
        return super().read(size).upper()


class UppercaseFileIO(io.FileIO):
    """A raw file whose content differs from the bytes on disk."""

    def readinto(self, buffer):
        """Read the text in upper case."""
        length = super().readinto(buffer)
        buffer[:length] = bytes(buffer[:length]).upper()
        return length


@pytest.mark.parametrize("kind", ["buffered", "raw", "gzip", "pipe", "memory", "proc"])
def test_the_kernel_copies_plain_files_only(kind, tmp_path):
    """For any other source with a descriptor, the stored content is what `read` returns."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    (tmp_path / "local").write_bytes(b"lower" * 10)
    file: io.BufferedIOBase
    if kind == "buffered":
        file = UppercaseReader(io.FileIO(tmp_path / "local"))
    elif kind == "raw":
        file = io.BufferedReader(UppercaseFileIO(tmp_path / "local"))
    elif kind == "gzip":
        (tmp_path / "local").write_bytes(gzip.compress(b"LOWER" * 10))
        file = gzip.GzipFile(tmp_path / "local")
    elif kind == "pipe":
        receive, send = os.pipe()
        os.write(send, b"LOWER" * 10)
        os.close(send)
        file = os.fdopen(receive, "rb")
    elif kind == "memory":
        file = io.BytesIO(b"LOWER" * 10)
    else:
        file = io.BufferedReader(io.FileIO("/proc/version"))

    with file:
        storage.upload(file, "a.bin")

    expected = Path("/proc/version").read_bytes() if kind == "proc" else b"LOWER" * 10
    assert storage.read("a.bin") == expected


def test_content_is_read_if_the_kernel_copies_nothing(tmp_path, monkeypatch):
    """Older kernels return 0 for pseudo files, as if they were empty."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"content")

    monkeypatch.setattr(os, "copy_file_range", lambda *_, **__: 0)
    storage.copy("a.txt", "b.txt")

    assert storage.read("b.txt") == b"content"


@pytest.mark.parametrize("operation", ["upload", "download"])
@pytest.mark.parametrize("is_local_error", [True, False])
def test_errors_of_the_callers_file_are_not_translated(operation, is_local_error, tmp_path, monkeypatch):
    """An error of a stored file is a StorageError; one of the caller's file stays an OSError."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("a.bin", b"1" * 100)
    (tmp_path / "local").write_bytes(b"2" * 100)
    name = "pread" if (operation == "upload") == is_local_error else "write"

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "copy_file_range", fail)
    monkeypatch.setattr(os, name, fail)
    transfer = storage.upload if operation == "upload" else lambda file, path: storage.download(path, file)
    with open(tmp_path / "local", "r+b") as file, pytest.raises((OSError, StorageError)) as caught:
        transfer(file, "a.bin")

    assert isinstance(caught.value, StorageError) is not is_local_error
    monkeypatch.undo()
    assert storage.read("a.bin") == b"1" * 100


def test_a_download_starts_at_the_position_of_the_target(tmp_path):
    """After the bytes written before, also if they are still in Python's buffer."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("a.bin", b"stored")
    progress: list[int] = []

    with open(tmp_path / "local", "wb") as file:
        file.write(b"head ")
        storage.download("a.bin", file, progress_callback=progress.append)
        file.write(b" tail")
    memory = io.BytesIO()
    storage.download("a.bin", memory)

    assert (tmp_path / "local").read_bytes() == b"head stored tail"
    assert memory.getvalue() == b"stored"
    assert progress == [6]


@pytest.mark.parametrize("matches", [True, False])
def test_an_expected_checksum_is_checked_for_parts_and_files(matches, tmp_path):
    """If the checksum differs, nothing is published, whether parts or a local file are stored."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    (tmp_path / "local").write_bytes(b"12")
    checksum = "sha256:" + hashlib.sha256(b"12" if matches else b"21").hexdigest()
    upload_id = storage.multipart.create("a.bin", WriteOptions())
    parts = [storage.multipart.upload_part("a.bin", upload_id, number, b"%d" % number) for number in (1, 2)]

    def complete():
        storage.multipart.complete("a.bin", upload_id, parts, WriteOptions(checksum=checksum, size=2))

    def put():
        storage.put(tmp_path / "local", "b.bin", checksum=checksum)

    for operation in (complete, put):
        if matches:
            operation()
        else:
            with pytest.raises(StorageError, match="checksum"):
                operation()

    assert [entry.name for entry in storage.list()] == (["a.bin", "b.bin"] if matches else [])


# -- sparse files -----------------------------------------------------------------------------------------------------

HOLE = 1024 * 1024
SPARSE_FILES = {
    "hole, data, hole": [(HOLE, b"data"), (3 * HOLE, b"")],
    "data, hole, data": [(0, b"data" * 1000), (2 * HOLE, b"more")],
    "a hole only": [(HOLE, b"")],
}


def write_sparse(path, parts):
    """Write each part at its offset; the last offset with b"" sets the size."""
    with open(path, "wb") as file:
        for offset, data in parts:
            file.truncate(offset)
            file.seek(offset)
            file.write(data)
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("operation", ["copy", "get", "upload", "edit", "download at the end"])
@pytest.mark.parametrize("layout", SPARSE_FILES)
def test_holes_of_sparse_files_stay_holes(operation, layout, tmp_path):
    """A copy takes as little of the disk as the file, and progress reaches the size."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    allocated = write_sparse(storage.root / "a.img", SPARSE_FILES[layout])
    content, copied = (storage.root / "a.img").read_bytes(), tmp_path / "copied"
    calls: list[int] = []
    assert allocated < HOLE

    if operation == "copy":
        storage.copy("a.img", "b.img")
        copied = storage.root / "b.img"
    elif operation == "get":
        storage.get("a.img", copied, progress_callback=calls.append)
    elif operation == "upload":
        with open(storage.root / "a.img", "rb") as source:
            storage.upload(source, "b.img", progress_callback=calls.append)
            assert source.read(1) == b""
        copied = storage.root / "b.img"
    elif operation == "edit":
        with storage.open("a.img", "rw"):
            pass
        copied = storage.root / "a.img"
    else:
        with open(copied, "wb") as target:
            storage.download("a.img", target)
            target.write(b"!")
        content += b"!"

    assert copied.read_bytes() == content
    assert copied.stat().st_blocks * 512 <= allocated + 8192
    assert not calls or (calls[-1] == len(content) and calls == sorted(calls))


@pytest.mark.parametrize(("mode", "position"), [("r+b", 1), ("ab", 1), ("ab", 4 * HOLE), ("r+b", 4 * HOLE + 1)])
def test_a_hole_overwrites_what_is_there(mode, position, tmp_path):
    """A download into the middle of a file writes the zeros, and one into an appending file appends them."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    write_sparse(storage.root / "a.img", SPARSE_FILES["hole, data, hole"])
    content, target, old = storage.read("a.img"), tmp_path / "target", b"x" * (4 * HOLE)
    target.write_bytes(old)

    with open(target, mode) as file:
        file.seek(position)
        storage.download("a.img", file)

    start = len(old) if mode == "ab" else position
    assert target.read_bytes() == old[:start].ljust(start, b"\0") + content + old[start + len(content) :]


@pytest.mark.parametrize("kernel_copies", [True, False])
def test_a_file_system_that_does_not_tell_holes_is_copied_whole(kernel_copies, tmp_path, monkeypatch):
    """Some FUSE file systems report too few blocks and refuse to seek to data."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    write_sparse(tmp_path / "a.img", SPARSE_FILES["data, hole, data"])
    lseek = os.lseek

    def refuse(fd, position, whence):
        if whence == os.SEEK_DATA:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return lseek(fd, position, whence)

    monkeypatch.setattr(os, "lseek", refuse)
    if not kernel_copies:
        monkeypatch.delattr(os, "copy_file_range")
    storage.copy("a.img", "b.img")

    assert storage.read("b.img") == storage.read("a.img")
