"""Large files and settled disks: what the tasks that move bytes share."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..frame import MiB


def filled(local_path: Path, size: int) -> Path:
    """Write a file of *size* bytes that no file system can compress or leave out, and return its path."""
    block = os.urandom(MiB)
    with open(local_path, "wb") as file:
        file.writelines(block for _ in range(size // MiB))
        file.flush()
        os.fsync(file.fileno())
    return local_path


def fresh(local_path: Path) -> Path:
    """Remove what the round before left, wait until the disk is idle, and return the path."""
    with contextlib.suppress(FileNotFoundError):
        local_path.unlink()
    os.sync()
    return local_path


def make_directories(*paths: Path) -> None:
    """Make directories, for those that do not make their own."""
    for path in paths:
        path.mkdir(exist_ok=True)
