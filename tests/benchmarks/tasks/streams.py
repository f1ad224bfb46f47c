"""Memory, while much more than fits goes through an open file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..frame import Bench, Contender, GiB, MiB, Stage, at_most, task, timed
from ..meters import CPU, PEAK, WALL, Work
from ..peers import KEG
from .files import filled, fresh, make_directories
from .transfers import keg_storage, storage, title

FULL = 5 * GiB
CHUNK = 5 * MiB  # RemoteFile.iter_chunk_size
# A caller that reads in chunks holds one chunk while the next is read; one MiB is for the interpreter.
LIMIT, FLAT_TEXT = 2 * CHUNK + MiB, "memory ≤ 2 chunks of 5 MiB, and 1 MiB"
FLAT = at_most(PEAK, LIMIT, FLAT_TEXT)
FLAT_UPLOAD = at_most(PEAK, LIMIT, f"upload: {FLAT_TEXT}", ours="upload, fsync=False")
COLUMNS = (WALL, CPU, PEAK)


class Endless(io.RawIOBase):
    """A source of so many bytes that holds one block."""

    def __init__(self, size: int) -> None:
        """Hold the block."""
        self.left = size
        self.block = os.urandom(MiB)

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes: those of the block, over and over."""
        taken = self.block[: min(MiB if size < 0 else size, self.left)]
        self.left -= len(taken)
        return taken


class Sink(io.RawIOBase):
    """A target that counts."""

    total = 0

    def write(self, data: Any, /) -> int:
        """Count the bytes."""
        self.total += len(data)
        return len(data)


def written(file: Any, size: int, local_path: Path) -> int:
    """Write so many bytes, a MiB at a time, and return how many arrived."""
    block = os.urandom(MiB)
    with file:
        for _ in range(size // MiB):
            file.write(block)
    return local_path.stat().st_size


def read(file: Any) -> int:
    """Read a file chunk by chunk and return how many bytes it had."""
    with file:
        return sum(len(chunk) for chunk in iter(lambda: file.read(CHUNK), b""))


def uploaded(backend: Any, size: int, local_path: Path) -> int:
    """Hand over a source and return how many bytes arrived."""
    backend.upload(Endless(size), local_path.name)
    return local_path.stat().st_size


def downloaded(backend: Any) -> int:
    """Hand over a target and return how many bytes it was given."""
    sink = Sink()
    backend.download("big", sink)
    return sink.total


@task("stream-out", title("{} into a storage, a MiB at a time", FULL), FLAT, FLAT_UPLOAD, columns=COLUMNS)
def stream_out(bench: Bench) -> Iterator[Stage]:
    """Write to an open file, or hand over a source."""
    root, size = bench.directory / "root", bench.size(FULL)
    make_directories(root)
    big = root / "big"

    def into(make: Callable[[], Any], act: Callable[[Any], object]) -> Callable[[], Work]:
        def prepare() -> Work:
            fresh(big)
            return timed(make, act)()

        return prepare

    ours, keg = partial(storage, root, fsync=False), partial(keg_storage, root)
    yield (
        [
            Contender(
                'open("w"), fsync=False',
                into(ours, lambda backend: written(backend.open("big", "w"), size, big)),
                ours=True,
            ),
            Contender("upload, fsync=False", into(ours, lambda backend: uploaded(backend, size, big)), ours=True),
            Contender("open() of Python", into(lambda: None, lambda _: written(big.open("wb"), size, big))),
            Contender(
                'keg-storage open("w")',
                into(keg, lambda backend: written(backend.open("big", "w"), size, big)),
                needs=[KEG],
            ),
        ],
        size,
    )


@task(
    "stream-in",
    title("{} out of a storage, 5 MiB at a time", FULL),
    FLAT,
    at_most(PEAK, LIMIT, f"download: {FLAT_TEXT}", ours="download"),
    columns=COLUMNS,
)
def stream_in(bench: Bench) -> Iterator[Stage]:
    """Read from an open file, or hand over a target."""
    root, size = bench.directory / "root", bench.size(FULL)
    make_directories(root)
    big = filled(root / "big", size)
    ours, keg = partial(storage, root), partial(keg_storage, root)
    yield (
        [
            Contender('open("r"), read', timed(ours, lambda backend: read(backend.open("big", "r"))), ours=True),
            Contender("download", timed(ours, downloaded), ours=True),
            Contender("open() of Python", timed(lambda: None, lambda _: read(big.open("rb")))),
            Contender(
                'keg-storage open("r"), read', timed(keg, lambda backend: read(backend.open("big", "r"))), needs=[KEG]
            ),
        ],
        size,
    )
