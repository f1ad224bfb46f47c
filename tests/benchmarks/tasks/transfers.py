"""One large file into, out of and within a storage, against tools with the same durability."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..frame import Bench, Contender, GiB, Stage, task, times
from ..meters import Work
from ..peers import CP, DJANGO, KEG
from ..report import size
from .files import filled, fresh, make_directories

SYNCED, UNSYNCED = "cp + sync", "cp"


def storage(root: Path, *, fsync: bool = True) -> Any:
    """Return ours."""
    # A storage imports it with its first date. That happens once in a process, and every round has one of its own.
    import arrow  # noqa: F401 - for its being there

    from flask_storage import LocalFSStorage

    return LocalFSStorage(root, fsync=fsync)


def django_storage(root: Path) -> Any:
    """Return Django's, which wants settings before it works."""
    import django.conf  # type: ignore[import-not-found,import-untyped,unused-ignore] # a peer

    django.conf.settings.configure()
    return DJANGO.load().FileSystemStorage(root)


def keg_storage(root: Path) -> Any:
    """Return keg-storage's."""
    return KEG.load().LocalFSStorage(root)


def copying(source: Path, target: Path, copy: Callable[[], object], *sync: Path) -> Callable[[], Work]:
    """Return what prepares *copy* from *source* to *target*; files and directories in *sync* are brought to disk."""

    def work() -> int:
        copy()
        for path in sync:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        return target.stat().st_size

    def make() -> Work:
        assert source.exists()
        fresh(target)
        return work

    return make


def by_cp(source: Path, target: Path, *, sync: bool) -> Callable[[], Work]:
    """Return `cp`, and with *sync* the `sync` of the file and its directory."""

    def copy() -> None:
        subprocess.run([str(CP.path()), "--reflink=auto", source, target], check=True)
        if sync:
            subprocess.run(["sync", target, target.parent], check=True)

    return copying(source, target, copy)


def by_shutil(source: Path, target: Path, *, sync: bool) -> Callable[[], Work]:
    """Return :func:`shutil.copyfile`, and with *sync* the bringing to disk."""
    return copying(source, target, lambda: shutil.copyfile(source, target), *([target, target.parent] if sync else []))


def by_storage(make: Callable[[], Any], operation: Callable[[Any], object], target: Path) -> Callable[[], Work]:
    """Return a storage's *operation* that writes *target*; each round has a new storage."""

    def prepare() -> Work:
        backend = make()
        fresh(target)

        def work() -> int:
            operation(backend)
            return target.stat().st_size

        return work

    return prepare


def title(what: str, full: int) -> Callable[[Bench], str]:
    """Return a title that says how large the file of this run is."""
    return lambda bench: what.format(size(bench.size(full)))


def django_save(backend: Any, source: Path) -> None:
    """Store a local file Django's way."""
    from django.core.files import File  # type: ignore[import-not-found,import-untyped,unused-ignore] # a peer

    with open(source, "rb") as file:
        backend.save("big", File(file))


def django_fetch(backend: Any, target: Path) -> None:
    """Fetch a file into a local one: Django has no operation for that."""
    with backend.open("big") as stored, open(target, "wb") as file:
        file.writelines(stored.chunks())


@task("put", title("a local file of {} stored, brought to disk", GiB), times(SYNCED, 1.1))
def put(bench: Bench) -> Iterator[Stage]:
    """Store a file; afterwards a power cut cannot take it."""
    source, root, there = (
        filled(bench.directory / "source", bench.size(GiB)),
        bench.directory / "root",
        bench.directory / "x",
    )
    make_directories(root, there)
    ours = by_storage(lambda: storage(root), lambda backend: backend.put(source, "big"), root / "big")
    yield (
        [
            Contender("LocalFSStorage.put", ours, ours=True),
            Contender(SYNCED, by_cp(source, there / "big", sync=True), needs=[CP]),
            Contender("shutil.copyfile + fsync", by_shutil(source, there / "big", sync=True)),
        ],
        bench.size(GiB),
    )


@task("put-unsynced", title("a local file of {} stored, left to the page cache", GiB))
def put_unsynced(bench: Bench) -> Iterator[Stage]:
    """Store a file without waiting for the disk."""
    source, root, there = (
        filled(bench.directory / "source", bench.size(GiB)),
        bench.directory / "root",
        bench.directory / "x",
    )
    make_directories(root, there)
    ours = by_storage(lambda: storage(root, fsync=False), lambda backend: backend.put(source, "big"), root / "big")
    by_django = by_storage(lambda: django_storage(there), lambda backend: django_save(backend, source), there / "big")
    keg = by_storage(lambda: keg_storage(there), lambda backend: backend.put(str(source), "big"), there / "big")
    yield (
        [
            Contender("LocalFSStorage.put, fsync=False", ours, ours=True),
            Contender(UNSYNCED, by_cp(source, there / "big", sync=False), needs=[CP]),
            Contender("shutil.copyfile", by_shutil(source, there / "big", sync=False)),
            Contender("django FileSystemStorage.save", by_django, needs=[DJANGO]),
            Contender("keg-storage put", keg, needs=[KEG]),
        ],
        bench.size(GiB),
    )


@task("get", title("{} fetched into a local file", GiB), times(UNSYNCED, 1.1))
def get(bench: Bench) -> Iterator[Stage]:
    """Fetch a file; no contender waits until the local one is on disk."""
    root, target = bench.directory / "root", bench.directory / "target"
    make_directories(root)
    source = filled(root / "big", bench.size(GiB))
    ours = by_storage(lambda: storage(root), lambda backend: backend.get("big", target), target)
    by_django = by_storage(lambda: django_storage(root), lambda backend: django_fetch(backend, target), target)
    keg = by_storage(lambda: keg_storage(root), lambda backend: backend.get("big", str(target)), target)
    yield (
        [
            Contender("LocalFSStorage.get", ours, ours=True),
            Contender(UNSYNCED, by_cp(source, target, sync=False), needs=[CP]),
            Contender("shutil.copyfile", by_shutil(source, target, sync=False)),
            Contender("django FileSystemStorage.open", by_django, needs=[DJANGO]),
            Contender("keg-storage get", keg, needs=[KEG]),
        ],
        bench.size(GiB),
    )


@task("copy", title("{} copied within a storage, brought to disk", GiB), times(SYNCED, 1.1))
def copy(bench: Bench) -> Iterator[Stage]:
    """Copy a stored file; afterwards a power cut cannot take the copy."""
    root, there = bench.directory / "root", bench.directory / "x"
    make_directories(root, there)
    source = filled(root / "big", bench.size(GiB))
    ours = by_storage(lambda: storage(root), lambda backend: backend.copy("big", "copy"), root / "copy")
    yield (
        [
            Contender("LocalFSStorage.copy", ours, ours=True),
            Contender(SYNCED, by_cp(source, there / "copy", sync=True), needs=[CP]),
            Contender("shutil.copyfile + fsync", by_shutil(source, there / "copy", sync=True)),
        ],
        bench.size(GiB),
    )


@task("copy-unsynced", title("{} copied within a storage, left to the page cache", GiB))
def copy_unsynced(bench: Bench) -> Iterator[Stage]:
    """Copy a stored file without waiting for the disk."""
    root, there = bench.directory / "root", bench.directory / "x"
    make_directories(root, there)
    source = filled(root / "big", bench.size(GiB))
    ours = by_storage(lambda: storage(root, fsync=False), lambda backend: backend.copy("big", "copy"), root / "copy")
    keg = by_storage(lambda: keg_storage(root), lambda backend: backend.copy("big", "copy"), root / "copy")
    yield (
        [
            Contender("LocalFSStorage.copy, fsync=False", ours, ours=True),
            Contender(UNSYNCED, by_cp(source, there / "copy", sync=False), needs=[CP]),
            Contender("shutil.copyfile", by_shutil(source, there / "copy", sync=False)),
            Contender("keg-storage copy", keg, needs=[KEG]),
        ],
        bench.size(GiB),
    )
