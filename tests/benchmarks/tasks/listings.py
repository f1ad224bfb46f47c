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

FILES, IN_A_FOLDER = 100_000, 100
MANY, BIG_FOLDERS = 1_000_000, 10


def planted(root: Path, *, files: int, folders: int) -> Path:
    """Make empty files, spread over folders, and return the root."""
    for folder in range(folders):
        place = root / f"folder-{folder:04}"
        place.mkdir(parents=True)
        descriptor = os.open(place, os.O_RDONLY)
        for number in range(files // folders):
            os.close(os.open(f"file-{number:06}.txt", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor))
        os.close(descriptor)
    return root


def walked(path: str, base: str = "") -> Iterator[tuple[str, int, float]]:
    """Yield name, size and time of every file below a folder: the least that a listing can do."""
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
    place = FSSPEC.load().LocalFileSystem(skip_instance_cache=True)
    return lambda: len(place.find(str(root), detail=True))


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
        f"{bench.count(FILES):,} files in {bench.count(FILES) // IN_A_FOLDER:,} directories, with sizes and times"
    ),
    times("keg-storage list", 1 / 10, text="≥ 10 times as fast as keg-storage"),
    times("scandir + stat", 1.75),
    columns=(WALL, CPU, PEAK),
)
def list_all(bench: Bench) -> Iterator[Stage]:
    """List everything, sorted."""
    count = bench.count(FILES)
    root = planted(bench.folder / "root", files=count, folders=count // IN_A_FOLDER)
    ours, keg = partial(storage, root), partial(keg_storage, root)
    yield (
        [
            Contender("LocalFSStorage.list", timed(ours, lambda place: len(place.list())), ours=True),
            Contender("LocalFSStorage.iter", timed(ours, lambda place: sum(1 for _ in place.iter())), ours=True),
            Contender("find -printf", lambda: count_found(root), needs=[FIND]),
            Contender("scandir + stat", lambda: lambda: len(sorted(walked(str(root))))),
            Contender("fsspec find", lambda: fsspec_find(root), needs=[FSSPEC]),
            Contender("keg-storage list", timed(keg, lambda place: len(place.list(""))), needs=[KEG]),
        ],
        count,
    )


@task(
    "list-lazily",
    lambda bench: f"{bench.count(MANY):,} files in {BIG_FOLDERS} directories, taken one by one",
    at_most("first", 0.05, "first entry ≤ 50 ms"),
    at_most(PEAK, 8 * MiB, "memory ≤ 8 MiB"),
    columns=(WALL, CPU, PEAK, "first"),
)
def list_lazily(bench: Bench) -> Iterator[Stage]:
    """Take the entries of a large storage without holding them."""
    count = bench.count(MANY)
    root = planted(bench.folder / "root", files=count, folders=BIG_FOLDERS)
    yield (
        [
            Contender("LocalFSStorage.iter", lambda: lazily(storage(root).iter), ours=True),
            Contender("scandir + stat", lambda: lazily(lambda: walked(str(root)))),
        ],
        count,
    )
