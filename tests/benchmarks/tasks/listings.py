"""What is in a storage: all of it, and the first of very many."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..frame import Bench, Contender, MiB, Stage, at_most, task, timed, times
from ..meters import CPU, PEAK, WALL, Work, note
from ..peers import FIND, FSSPEC, KEG
from .transfers import keg_storage, storage

FILES, IN_A_DIRECTORY = 100_000, 100
MANY, BIG_DIRECTORIES = 1_000_000, 10


def planted(root: Path, *, files: int, directories: int) -> Path:
    """Make empty files, spread over directories, and return the root."""
    for directory in range(directories):
        path = root / f"folder-{directory:04}"
        path.mkdir(parents=True)
        descriptor = os.open(path, os.O_RDONLY)
        for number in range(files // directories):
            os.close(os.open(f"file-{number:06}.txt", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor))
        os.close(descriptor)
    return root


def walked(path: str, base: str = "") -> Iterator[tuple[str, int, float]]:
    """Yield name, size and time of every file below a directory: the least that a listing can do."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from walked(entry.path, f"{base}{entry.name}/")
            else:
                status = entry.stat(follow_symlinks=False)
                yield base + entry.name, status.st_size, status.st_mtime


def count_found(root: Path) -> Work:
    """Return work that has `find` print the same three things."""
    command = [str(FIND.path()), str(root), "-type", "f", "-printf", "%P %s %T@\n"]
    return lambda: subprocess.run(command, check=True, capture_output=True).stdout.count(b"\n")


def fsspec_find(root: Path) -> Work:
    """Return work that has fsspec list with sizes and times."""
    backend = FSSPEC.load().LocalFileSystem(skip_instance_cache=True)
    return lambda: len(backend.find(str(root), detail=True))


def lazily(entries: Callable[[], Iterator[object]]) -> Work:
    """Return work that takes entries one by one, keeps none, and notes how long the first took."""

    def work() -> int:
        started = time.perf_counter()
        iterator = entries()
        next(iterator)
        note("first", time.perf_counter() - started)
        return 1 + sum(1 for _ in iterator)

    return work


@task(
    "list",
    lambda bench: (
        f"{bench.count(FILES):,} files in {bench.count(FILES) // IN_A_DIRECTORY:,} directories, with sizes and times"
    ),
    times("keg-storage list", 1 / 10, text="≥ 10 times as fast as keg-storage"),
    times("scandir + stat", 1.75),
    columns=(WALL, CPU, PEAK),
)
def list_all(bench: Bench) -> Iterator[Stage]:
    """List everything, sorted."""
    count = bench.count(FILES)
    root = planted(bench.directory / "root", files=count, directories=count // IN_A_DIRECTORY)
    ours, keg = partial(storage, root), partial(keg_storage, root)
    yield (
        [
            Contender("LocalFSStorage.list", timed(ours, lambda backend: len(backend.list())), ours=True),
            Contender("LocalFSStorage.iter", timed(ours, lambda backend: sum(1 for _ in backend.iter())), ours=True),
            Contender("find -printf", lambda: count_found(root), needs=[FIND]),
            Contender("scandir + stat", lambda: lambda: len(sorted(walked(str(root))))),
            Contender("fsspec find", lambda: fsspec_find(root), needs=[FSSPEC]),
            Contender("keg-storage list", timed(keg, lambda backend: len(backend.list(""))), needs=[KEG]),
        ],
        count,
    )


@task(
    "list-lazily",
    lambda bench: f"{bench.count(MANY):,} files in {BIG_DIRECTORIES} directories, taken one by one",
    at_most("first", 0.05, "first entry ≤ 50 ms"),
    at_most(PEAK, 8 * MiB, "memory ≤ 8 MiB"),
    columns=(WALL, CPU, PEAK, "first"),
)
def list_lazily(bench: Bench) -> Iterator[Stage]:
    """Take the entries of a large storage without holding them."""
    count = bench.count(MANY)
    root = planted(bench.directory / "root", files=count, directories=BIG_DIRECTORIES)
    yield (
        [
            Contender("LocalFSStorage.iter", lambda: lazily(storage(root).iter), ours=True),
            Contender("scandir + stat", lambda: lazily(lambda: walked(str(root)))),
        ],
        count,
    )
