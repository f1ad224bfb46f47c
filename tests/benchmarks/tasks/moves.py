"""Files moved to another backend: what `migrate` costs for each file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flask_storage import ReadThroughStorage

from ..frame import Bench, Contender, KiB, Stage, task
from ..meters import Work
from ..peers import RCLONE
from .transfers import storage

FILES, IN_A_DIRECTORY = 10_000, 100
SIZE = 10 * KiB


def filled_tree(root: Path, files: int) -> Path:
    """Make files of 10 KiB, spread over directories, and return the root."""
    for number in range(files):
        path = root / f"folder-{number // IN_A_DIRECTORY:04}" / f"file-{number:06}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SIZE))
    return root


def emptied(root: Path) -> Path:
    """Remove what the round before left, wait until the disk is idle, and return the empty directory."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    os.sync()
    return root


def counting(root: Path, act: Callable[[], object]) -> Work:
    """Return work that does *act*, and returns how many whole files then are in *root*."""

    def work() -> int:
        act()
        found = (os.path.join(path, name) for path, _, names in os.walk(root) for name in names)
        return sum(os.path.getsize(file) == SIZE for file in found)

    return work


def ours(source: Path, target: Path, *, fsync: bool) -> Work:
    """Return work that migrates all files."""
    emptied(target)
    media = ReadThroughStorage(storage(target, fsync=fsync), storage(source))
    return counting(target, media.migrate)


def rclone(source: Path, target: Path, *options: str) -> Work:
    """Return work that has rclone copy all files."""
    emptied(target)
    command = [str(RCLONE.path()), "copy", *options, str(source), str(target)]
    environment = {**os.environ, "RCLONE_CONFIG": os.devnull}
    return counting(target, lambda: subprocess.run(command, check=True, capture_output=True, env=environment))


@task("migrate", lambda bench: f"{bench.count(FILES):,} files of 10 KiB copied to another storage on the same disk")
def migrate(bench: Bench) -> Iterator[Stage]:
    """Copy everything to an empty storage."""
    count = bench.count(FILES)
    source, target = filled_tree(bench.directory / "old", count), bench.directory / "new"
    yield (
        [
            Contender("migrate, fsync=False", partial(ours, source, target, fsync=False), ours=True),
            Contender("migrate", partial(ours, source, target, fsync=True), ours=True),
            Contender("rclone copy", partial(rclone, source, target), needs=[RCLONE]),
            Contender("rclone copy, one at a time", partial(rclone, source, target, "--transfers=1"), needs=[RCLONE]),
        ],
        count,
    )
