"""Many small files to a server over SSH, one call after the other: what a call costs, and how often it goes there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..frame import Bench, Contender, Stage, task, times
from ..hosts import AsyncSSH, Directory, Paramiko, running
from ..meters import CPU, WALL
from ..peers import ASYNCSSH, KEG_SFTP, PARAMIKO, SSHD, SSHFS
from .objects import CONTENT, FAR_SHARE, files, small_ours, working

PARAMIKO_NAME, ASYNCSSH_NAME = "paramiko open, remove", "asyncssh open, remove"
SSHFS_NAME, KEG_NAME = "sshfs pipe_file, cat_file, rm_file", "keg-storage open, delete"
KEG_SHARE = 10
COLUMNS = (WALL, CPU, "up", "down", "deleted")
NEEDS = (SSHD, PARAMIKO)


def by_paramiko(where: Directory, keys: Sequence[str]) -> Contender:
    """Return paramiko, in its shortest calls."""

    def up(made: Paramiko, key: str) -> None:
        with made.session.open(where.at(key), "wb") as file:
            file.set_pipelined(True)
            file.write(CONTENT)

    def down(made: Paramiko, key: str) -> bytes:
        with made.session.open(where.at(key), "rb") as file:
            return bytes(file.read())

    def delete(made: Paramiko, keys: Sequence[str]) -> None:
        for key in keys:
            made.session.remove(where.at(key))

    return Contender(PARAMIKO_NAME, working(where, where.paramiko, keys, up, down, delete))


def by_asyncssh(where: Directory, keys: Sequence[str]) -> Contender:
    """Return asyncssh, in its shortest calls."""

    def up(made: AsyncSSH, key: str) -> None:
        async def act(session: Any) -> None:
            async with session.open(where.at(key), "wb") as file:
                await file.write(CONTENT)

        made.run(act)

    def down(made: AsyncSSH, key: str) -> bytes:
        async def act(session: Any) -> bytes:
            async with session.open(where.at(key), "rb") as file:
                return bytes(await file.read())

        return bytes(made.run(act))

    def delete(made: AsyncSSH, keys: Sequence[str]) -> None:
        async def act(session: Any) -> None:
            for key in keys:
                await session.remove(where.at(key))

        made.run(act)

    return Contender(ASYNCSSH_NAME, working(where, where.asyncssh, keys, up, down, delete), needs=[ASYNCSSH])


def by_sshfs(where: Directory, keys: Sequence[str]) -> Contender:
    """Return sshfs."""

    def delete(made: Any, keys: Sequence[str]) -> None:
        for key in keys:
            made.system.rm_file(where.at(key))

    return Contender(
        SSHFS_NAME,
        working(
            where,
            where.sshfs,
            keys,
            lambda made, key: made.system.pipe_file(where.at(key), CONTENT),
            lambda made, key: bytes(made.system.cat_file(where.at(key))),
            delete,
        ),
        needs=[SSHFS],
    )


def by_keg(where: Directory, keys: Sequence[str]) -> Contender:
    """Return keg-storage, which logs in again for every call."""

    def up(storage: Any, key: str) -> None:
        with storage.open(where.at(key), "w") as file:
            file.write(CONTENT)

    def down(storage: Any, key: str) -> bytes:
        with storage.open(where.at(key), "r") as file:
            return bytes(file.read(len(CONTENT)))

    def delete(storage: Any, keys: Sequence[str]) -> None:
        for key in keys:
            storage.delete(where.at(key))

    return Contender(KEG_NAME, working(where, where.keg, keys, up, down, delete), needs=[KEG_SFTP])


def ours(where: Directory, keys: Sequence[str]) -> list[Contender]:
    """Return ours, without and with the wait for the server's disk."""
    name = "write, read, delete_many"
    return [small_ours(where, f"{name}, fsync=False", where.unsynced, keys), small_ours(where, name, where.ours, keys)]


def names(count: int) -> list[str]:
    """Return so many names, all in one directory that is there."""
    return [f"{number:05}" for number in range(count)]


def stage(where: Directory, count: int) -> Iterator[Stage]:
    """Yield all contenders, with the shortest calls that they have."""
    keys = names(count)
    peers = [by_paramiko(where, keys), by_asyncssh(where, keys), by_sshfs(where, keys)]
    yield [*ours(where, keys), *peers], (count, 0)


AHEAD = [times(ASYNCSSH_NAME, 1), times(PARAMIKO_NAME, 1)]


@task(
    "sftp-small",
    lambda bench: f"SFTP: {files(bench):,} files of 10 KiB up, down, deleted",
    *AHEAD,
    columns=COLUMNS,
    needs=NEEDS,
)
def small(bench: Bench) -> Iterator[Stage]:
    """Work on this machine."""
    with running(bench.directory) as where:
        yield from stage(where, files(bench))


@task(
    "sftp-small-far",
    lambda bench: f"SFTP: {files(bench, FAR_SHARE):,} files of 10 KiB up, down, deleted, 40 ms away",
    *AHEAD,
    columns=COLUMNS,
    needs=NEEDS,
)
def small_far(bench: Bench) -> Iterator[Stage]:
    """Work over a distance."""
    with running(bench.directory, far=True) as where:
        yield from stage(where, files(bench, FAR_SHARE))


@task(
    "sftp-small-keg",
    lambda bench: f"SFTP: {files(bench, KEG_SHARE):,} files of 10 KiB up, down, deleted, beside keg-storage",
    times(KEG_NAME, 1 / 50, text="≥ 50 times as fast as keg-storage"),
    columns=COLUMNS,
    needs=(*NEEDS, KEG_SFTP),
)
def small_keg(bench: Bench) -> Iterator[Stage]:
    """Work with fewer files: keg-storage logs in three times for each. So does ours once, for all of them."""
    with running(bench.directory) as where:
        keys = names(files(bench, KEG_SHARE))
        yield [*ours(where, keys), by_keg(where, keys)], (len(keys), 0)
