"""Much of everything: large files, large directories, deep trees, in little memory."""

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

root, way, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
storage = LocalFSStorage(root, fsync=False)
digest = hashlib.sha256()

class Source:
    left = megabytes
    def read(self, size):
        count = min(self.left, size >> 20)
        data = b"".join((self.left - number).to_bytes(8, "big") * (1 << 17) for number in range(count))
        self.left -= count
        digest.update(data)
        return data

class Sink:
    def __init__(self):
        self.digest = hashlib.sha256()
    def write(self, data):
        self.digest.update(data)
        return len(data)

storage.write("warm.bin", b"1" * 6_000_000, content_type="text/plain")
storage.download("warm.bin", Sink())
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, sink = rss(), Sink()
if way == "upload":
    storage.upload(Source(), "big.bin")
    storage.download("big.bin", sink)
elif way == "open":
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
    storage.get("big.bin", root + "/../got")
    with open(root + "/../got", "rb") as file:
        while data := file.read(4 << 20):
            sink.write(data)
print(json.dumps([storage.size("big.bin"), digest.hexdigest() == sink.digest.hexdigest(), (rss() - before) >> 10]))
"""


@pytest.mark.parametrize("way", ["upload", "open", "put and get"])
def test_a_large_file_passes_through_in_little_memory(way, tmp_path):
    """The memory of the process grows by at most 64 MiB, and every byte arrives."""
    megabytes = count(512, 5 * 1024)
    environment, home = clean_environment()
    root = tmp_path / "root"
    root.mkdir()
    start = f"import sys; sys.path.append({home!r}); exec(sys.stdin.read())"

    answer = subprocess.run(
        [sys.executable, "-P", "-c", start, str(root), way, str(megabytes)],
        input=STREAM,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )

    size, equal, growth = json.loads(answer.stdout)
    for path in (*root.iterdir(), *tmp_path.glob("*o*")):  # 20 GiB are not to stay until pytest clears up
        if path.is_file():
            path.unlink()
    assert size == megabytes << 20
    assert equal
    assert growth <= 64


@pytest.fixture(scope="module")
def crowd():
    """A storage of 100,000 files in one directory, and of 10,000 in one each; fewer everyday."""
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
def test_a_listing_begins_at_once_and_holds_no_more_than_a_page(directory, crowd, monkeypatch):
    """The first entry comes after a page of work, and a hundred times as many files take no more memory."""
    storage, number = crowd
    expected = number if directory == "flat" else number // 10
    looked = []
    really = os.scandir

    class Counted:
        def __init__(self, *arguments):
            self.entries = really(*arguments)

        def __iter__(self):
            return self

        def __next__(self):
            looked.append(1)
            return next(self.entries)

        def close(self):
            self.entries.close()

    next(storage.iter(directory))  # imports what is imported late
    monkeypatch.setattr(os, "scandir", Counted)
    listing = storage.iter(directory)
    next(listing)
    until_first = len(looked)
    listing.close()
    tracemalloc.start()
    total = sum(1 for _ in storage.iter(directory))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert until_first <= 3 * 1000 + 10
    assert total == expected
    assert peak < 2 * 1024 * 1024


def test_a_listing_that_is_left_early_frees_its_folders(crowd):
    """Whoever looks at ten entries keeps no descriptor open."""
    storage, _ = crowd
    before = descriptors()

    some = list(islice(storage.iter(), 10))

    assert len(some) == 10
    assert descriptors() == before


def test_a_deep_tree_is_stored_listed_and_deleted(tmp_path, monkeypatch):
    """512 levels, as deep as a path allows, with no more than some descriptors open at a time."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    path = "/".join("a" * 512)
    beside = "/".join("a" * 100) + "/b.txt"

    storage.write(path, b"deep")
    storage.write(beside, b"1")
    most = 0
    for _ in storage.tree.walk():
        most = max(most, len(os.listdir("/proc/self/fd")))
    base = len(os.listdir("/proc/self/fd"))

    assert most
    assert most - base <= 66
    assert [entry.name for entry in storage.list()] == sorted([path, beside])
    assert storage.read(path) == b"deep"
    storage.delete(path)
    assert storage.delete_prefix("a") == 1
    assert list(tmp_path.iterdir()) == []


def test_deep_empty_folders_are_swept(tmp_path):
    """What a crash left between making directories and the first file in them, however deep; the rest stays."""
    from datetime import timedelta

    storage = LocalFSStorage(tmp_path, fsync=False)
    (tmp_path / "/".join("e" * 90)).mkdir(parents=True)
    storage.write("d/a.txt", b"1")

    young = storage.sweep(timedelta(hours=1))
    shown = [entry.name for entry in storage.list(recursive=False)]
    still = (tmp_path / "e").is_dir()
    storage.sweep(timedelta(0))

    assert young == 0
    assert shown == ["d/"]
    assert still
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_file_that_was_also_written_to_is_stored_as_it_reads(tmp_path):
    """Python keeps what was written last in memory; the kernel's copy would miss it."""
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


def test_an_upload_begins_where_the_file_stands(tmp_path):
    """And leaves it at its end."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    (tmp_path / "local").write_bytes(b"0123456789")
    seen: list[int] = []

    with open(tmp_path / "local", "rb") as file:
        file.read(4)
        storage.upload(file, "a.bin", progress_callback=seen.append)
        rest = file.read()

    assert storage.read("a.bin") == b"456789"
    assert rest == b""
    assert seen == [6]


class Shouting(io.BufferedReader):
    """A file of somebody's own, whose content is not what is on disk."""

    def read(self, size=-1):
        """Return louder text."""
        return super().read(size).upper()


class ShoutingRaw(io.FileIO):
    """Likewise, one level below."""

    def readinto(self, buffer):
        """Fill in louder text."""
        length = super().readinto(buffer)
        buffer[:length] = bytes(buffer[:length]).upper()
        return length


@pytest.mark.parametrize("kind", ["buffered", "raw", "gzip", "pipe", "memory", "proc"])
def test_only_what_reads_as_it_lies_on_disk_is_copied_by_the_kernel(kind, tmp_path):
    """A descriptor alone says little: what is stored is what read() returns."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    (tmp_path / "local").write_bytes(b"quiet" * 10)
    file: io.BufferedIOBase
    if kind == "buffered":
        file = Shouting(io.FileIO(tmp_path / "local"))
    elif kind == "raw":
        file = io.BufferedReader(ShoutingRaw(tmp_path / "local"))
    elif kind == "gzip":
        (tmp_path / "local").write_bytes(gzip.compress(b"QUIET" * 10))
        file = gzip.GzipFile(tmp_path / "local")
    elif kind == "pipe":
        receive, send = os.pipe()
        os.write(send, b"QUIET" * 10)
        os.close(send)
        file = os.fdopen(receive, "rb")
    elif kind == "memory":
        file = io.BytesIO(b"QUIET" * 10)
    else:
        file = io.BufferedReader(io.FileIO("/proc/version"))

    with file:
        storage.upload(file, "a.bin")

    expected = Path("/proc/version").read_bytes() if kind == "proc" else b"QUIET" * 10
    assert storage.read("a.bin") == expected


def test_where_the_kernel_copies_nothing_the_bytes_are_read(tmp_path, monkeypatch):
    """Older kernels answer 0 for files that are no plain ones, as if they were empty."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"content")

    monkeypatch.setattr(os, "copy_file_range", lambda *_, **__: 0)
    storage.copy("a.txt", "b.txt")

    assert storage.read("b.txt") == b"content"


@pytest.mark.parametrize("verb", ["upload", "download"])
@pytest.mark.parametrize("there", [True, False])
def test_errors_of_the_callers_own_file_are_the_callers(verb, there, tmp_path, monkeypatch):
    """A failing read of the storage is a StorageError; one of the caller's file is what it is."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("a.bin", b"1" * 100)
    (tmp_path / "local").write_bytes(b"2" * 100)
    name = "pread" if (verb == "upload") == there else "write"

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "copy_file_range", fail)
    monkeypatch.setattr(os, name, fail)
    deed = storage.upload if verb == "upload" else lambda file, path: storage.download(path, file)
    with open(tmp_path / "local", "r+b") as file, pytest.raises((OSError, StorageError)) as caught:
        deed(file, "a.bin")

    assert isinstance(caught.value, StorageError) is not there
    monkeypatch.undo()
    assert storage.read("a.bin") == b"1" * 100


def test_a_download_into_a_file_continues_where_it_stands(tmp_path):
    """After what was written before, also when that is still in Python's buffer."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("a.bin", b"stored")
    seen: list[int] = []

    with open(tmp_path / "local", "wb") as file:
        file.write(b"head ")
        storage.download("a.bin", file, progress_callback=seen.append)
        file.write(b" tail")
    memory = io.BytesIO()
    storage.download("a.bin", memory)

    assert (tmp_path / "local").read_bytes() == b"head stored tail"
    assert memory.getvalue() == b"stored"
    assert seen == [6]


@pytest.mark.parametrize("right", [True, False])
def test_a_promised_checksum_is_kept_by_parts_and_files(right, tmp_path):
    """Wherever the bytes come from, they are those that were promised, or nothing is published."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    (tmp_path / "local").write_bytes(b"12")
    checksum = "sha256:" + hashlib.sha256(b"12" if right else b"21").hexdigest()
    upload_id = storage.multipart.create("a.bin", WriteOptions())
    parts = [storage.multipart.upload_part("a.bin", upload_id, number, b"%d" % number) for number in (1, 2)]

    def finish():
        storage.multipart.complete("a.bin", upload_id, parts, WriteOptions(checksum=checksum, size=2))

    def put():
        storage.put(tmp_path / "local", "b.bin", checksum=checksum)

    for deed in (finish, put):
        if right:
            deed()
        else:
            with pytest.raises(StorageError, match="checksum"):
                deed()

    assert [entry.name for entry in storage.list()] == (["a.bin", "b.bin"] if right else [])
