"""Content stored under its hash, new and again, against hashfs."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..frame import Bench, Contender, KiB, MiB, Stage, task, times
from ..meters import Work
from ..peers import HASHFS
from ..report import size
from .files import filled

SMALL, SMALL_COUNT, LARGE = 10 * KiB, 1000, 512 * MiB
PEER = "hashfs"

Make = Callable[[Path], Any]
Put = Callable[[Any], int]


def ours(root: Path) -> Any:
    """Return our replacement for hashfs."""
    from flask_storage import HashFS

    return HashFS(root)


def content_store(root: Path, *, fsync: bool) -> Any:
    """Return a content store on local disk."""
    from flask_storage import ContentStore, LocalFSStorage

    return ContentStore(LocalFSStorage(root, create=True, fsync=fsync))


def theirs(root: Path) -> Any:
    """Return the store of hashfs."""
    return HASHFS.load().HashFS(root)


def storing(root: Path, make: Make, put: Put, *, again: bool) -> Callable[[], Work]:
    """Return what prepares *put* into a new store, or into one that has all of the content already."""

    def prepare() -> Work:
        shutil.rmtree(root, ignore_errors=True)
        store = make(root)
        if again:
            put(store)
        os.sync()
        return lambda: put(store)

    return prepare


def contenders(bench: Bench, put: Put, *, again: bool) -> list[Contender]:
    """Return ours and hashfs; what makes each write durable is named."""
    root = bench.directory / "root"

    def contender(name: str, make: Make, **options: Any) -> Contender:
        return Contender(name, storing(root, make, put, again=again), **options)

    return [
        contender("HashFS", ours, ours=True),
        contender("ContentStore, fsync=False", lambda root: content_store(root, fsync=False), ours=True),
        contender("ContentStore, fsync=True", lambda root: content_store(root, fsync=True), ours=True),
        contender(PEER, theirs, needs=[HASHFS]),
    ]


def small_contents(count: int) -> Sequence[bytes]:
    """Return contents that all differ."""
    block = os.urandom(SMALL)
    return [number.to_bytes(8, "big") + block[8:] for number in range(count)]


def putting(contents: Sequence[bytes]) -> Put:
    """Return a call that puts all of the contents, and counts those that it has put."""

    def put(store: Any) -> int:
        return len({store.put(io.BytesIO(content), "bin").id for content in contents})

    return put


def put_large(source: Path) -> Put:
    """Return a call that puts a local file, and returns its stored size."""
    return lambda store: os.path.getsize(store.put(str(source), "bin").abspath)


@task(
    "contents",
    lambda bench: f"{bench.count(SMALL_COUNT):,} contents of 10 KiB stored under their hash",
    times(PEER, 2),
)
def contents(bench: Bench) -> Iterator[Stage]:
    """Store small contents that are new."""
    count = bench.count(SMALL_COUNT)
    yield contenders(bench, putting(small_contents(count)), again=False), count


@task(
    "contents-again",
    lambda bench: f"{bench.count(SMALL_COUNT):,} contents of 10 KiB put that are stored already",
)
def contents_again(bench: Bench) -> Iterator[Stage]:
    """Put small contents that are duplicates."""
    count = bench.count(SMALL_COUNT)
    yield contenders(bench, putting(small_contents(count)), again=True), count


@task(
    "content-large",
    lambda bench: f"one content of {size(bench.size(LARGE))} stored under its hash",
    times(PEER, 1.1),
)
def content_large(bench: Bench) -> Iterator[Stage]:
    """Store a large content that is new."""
    source = filled(bench.directory / "source", bench.size(LARGE))
    yield contenders(bench, put_large(source), again=False), bench.size(LARGE)


@task(
    "content-large-again",
    lambda bench: f"one content of {size(bench.size(LARGE))} put that is stored already",
    times(PEER, 1.1),
)
def content_large_again(bench: Bench) -> Iterator[Stage]:
    """Put a large content that is a duplicate."""
    source = filled(bench.directory / "source", bench.size(LARGE))
    yield contenders(bench, put_large(source), again=True), bench.size(LARGE)
