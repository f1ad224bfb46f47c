"""What a server over SSH does by itself or in part: listings, copies, ranges; and what of it comes through here."""

from __future__ import annotations

import asyncio
import io
import stat
from collections.abc import Callable, Iterator
from typing import Any

from ..frame import Bench, Contender, GiB, MiB, Stage, at_most, task, timed, times
from ..hosts import AsyncSSH, Directory, Paramiko, Sftp, SSHFSSystem, running
from ..meters import CPU, MOVED, PEAK, WALL
from ..peers import ASYNCSSH, PARAMIKO, SFTP, SSHD, SSHFS
from ..report import size as in_words
from .files import filled
from .listings import planted
from .objects import copying, counting
from .transfers import title

DIRECTORIES, IN_A_DIRECTORY = 2000, 5
AT_ONCE = 64
COPY = 256 * MiB
PARAMIKO_LIST, ASYNCSSH_LIST = (
    "paramiko listdir_attr of each directory",
    f"asyncssh scandir, {AT_ONCE} directories at once",
)
NEEDS = (SSHD, PARAMIKO)


def directories(bench: Bench) -> int:
    """Return how many directories this run has."""
    return max(100, round(DIRECTORIES * bench.scale))


def listed_by_paramiko(where: Directory) -> Callable[[Paramiko], int]:
    """Return a function that walks with paramiko."""

    def walk(made: Paramiko) -> int:
        count, left = 0, [str(where.directory)]
        while left:
            directory = left.pop()
            for entry in made.session.listdir_attr(directory):
                if stat.S_ISDIR(entry.st_mode):
                    left.append(f"{directory}/{entry.filename}")
                else:
                    count += 1
        return count

    return walk


def listed_by_asyncssh(where: Directory) -> Callable[[AsyncSSH], int]:
    """Return a function that walks with asyncssh, in several directories concurrently."""

    async def walk(session: Any) -> int:
        turns = asyncio.Semaphore(AT_ONCE)

        async def of(directory: str) -> int:
            async with turns:
                found = [entry async for entry in session.scandir(directory) if entry.filename not in {".", ".."}]
            below = [f"{directory}/{entry.filename}" for entry in found if stat.S_ISDIR(entry.attrs.permissions)]
            return len(found) - len(below) + sum(await asyncio.gather(*map(of, below)))

        return await of(str(where.directory))

    return lambda made: int(made.run(walk))


def listing(where: Directory, count: int, *, every_peer: bool) -> Iterator[Stage]:
    """Yield the contenders; with a long round trip only those that do not wait for one directory after the other."""
    planted(where.directory, files=count * IN_A_DIRECTORY, directories=count)
    contenders = [
        Contender("list", timed(where.ours, lambda storage: len(storage.list())), ours=True),
        Contender("iter", timed(where.ours, lambda storage: sum(1 for _ in storage.iter())), ours=True),
        Contender(ASYNCSSH_LIST, timed(where.asyncssh, listed_by_asyncssh(where)), needs=[ASYNCSSH]),
    ]
    if every_peer:
        contenders += [
            Contender(PARAMIKO_LIST, timed(where.paramiko, listed_by_paramiko(where))),
            Contender(
                "sshfs find",
                timed(where.sshfs, lambda made: len(made.system.find(str(where.directory), detail=True))),
                needs=[SSHFS],
            ),
        ]
    yield contenders, count * IN_A_DIRECTORY


@task(
    "sftp-list",
    lambda bench: f"SFTP: {directories(bench) * IN_A_DIRECTORY:,} files in {directories(bench):,} directories listed",
    times(ASYNCSSH_LIST, 1),
    times(PARAMIKO_LIST, 1),
    columns=(WALL, CPU, PEAK),
    needs=NEEDS,
)
def list_near(bench: Bench) -> Iterator[Stage]:
    """List on this machine."""
    with running(bench.directory) as where:
        yield from listing(where, directories(bench), every_peer=True)


@task(
    "sftp-list-far",
    lambda bench: (
        f"SFTP: {directories(bench) * IN_A_DIRECTORY:,} files in {directories(bench):,} directories listed, 40 ms away"
    ),
    times(ASYNCSSH_LIST, 1),
    columns=(WALL, CPU, PEAK),
    needs=NEEDS,
)
def list_far(bench: Bench) -> Iterator[Stage]:
    """List over a distance. A peer that lists one directory at a time waits for four round trips in each: minutes."""
    with running(bench.directory, far=True) as where:
        yield from listing(where, directories(bench), every_peer=False)


@task(
    "sftp-copy",
    title("SFTP: {} copied within a server", COPY),
    at_most(MOVED, MiB, "no content through this process: ≤ 1 MiB moved"),
    times("sftp copy", 1 / 0.9, text="≥ 0.9 times as fast as sftp copy"),
    columns=(WALL, CPU, MOVED),
    needs=NEEDS,
)
def copy(bench: Bench) -> Iterator[Stage]:
    """Copy a file, behind a proxy that counts and does nothing else.

    asyncssh is not here: with OpenSSH 9.2 its ``remote_copy`` did not come to an end.
    """
    size = bench.size(COPY)
    with running(bench.directory, counted=True) as where:
        filled(where.directory / "big", size)
        big = where.at("big")

        def by_program(program: Sftp, key: str) -> None:
            program.run(f"copy {big} {where.at(key)}")

        def through(made: Paramiko, key: str) -> None:
            held = io.BytesIO()
            made.session.getfo(big, held)
            held.seek(0)
            made.session.putfo(held, where.at(key), size)

        def contender(name: str, make: Any, act: Any, key: str, **others: Any) -> Contender:
            return Contender(name, copying(where, make, act, key), **others)

        yield (
            [
                contender("copy, fsync=False", where.unsynced, lambda s, key: s.copy("big", key), "a", ours=True),
                contender("copy", where.ours, lambda s, key: s.copy("big", key), "b", ours=True),
                contender("sftp copy", where.sftp, by_program, "c", needs=[SFTP]),
                contender("paramiko getfo, putfo", where.paramiko, through, "e"),
            ],
            size,
        )


def viewing(where: Directory, size: int) -> Callable[[], Callable[[], int]]:
    """Return what makes a view; it answers a request for the last MiB, and returns how much the answer had."""

    def make() -> Callable[[], int]:
        from flask import Flask

        from flask_storage import send_stored_file

        storage, app = where.ours(), Flask(__name__)

        def view() -> int:
            with app.test_request_context(headers={"Range": f"bytes={size - MiB}-"}):
                answer = send_stored_file(storage, "big")
                assert answer.status_code == 206
                with answer:
                    return sum(map(len, answer.iter_encoded()))

        return view

    return make


@task(
    "sftp-range",
    lambda bench: f"SFTP: the last MiB of {in_words(bench.size(5 * GiB))} by range",
    at_most(MOVED, MiB + 128 * 1024, "only that MiB: ≤ 1.125 MiB moved"),
    columns=(WALL, CPU, PEAK, MOVED),
    needs=NEEDS,
)
def last_mib(bench: Bench) -> Iterator[Stage]:
    """Read the end of a large file, behind a proxy that counts and does nothing else."""
    size = bench.size(5 * GiB)
    start = size - MiB
    with running(bench.directory, counted=True) as where:
        with open(where.directory / "big", "wb") as file:  # all of it but its end is a hole
            file.truncate(start)
            file.seek(start)
            file.write(bytes(MiB))

        def sought(storage: Any) -> int:
            with storage.open("big", "r") as file:
                file.seek(start)
                return len(file.read())

        def by_paramiko(made: Paramiko) -> int:
            with made.session.open(where.at("big"), "rb") as file:
                file.seek(start)
                return len(file.read())

        def by_asyncssh(made: AsyncSSH) -> int:
            async def act(session: Any) -> int:
                async with session.open(where.at("big"), "rb") as file:
                    return len(await file.read(MiB, start))

            return int(made.run(act))

        def by_sshfs(made: SSHFSSystem) -> int:  # its cat_file(start) fetches the whole file
            with made.system.open(where.at("big"), "rb") as file:
                file.seek(start)
                return len(file.read())

        yield (
            [
                Contender(
                    "send_stored_file, Range", counting(where, viewing(where, size), lambda view: view()), ours=True
                ),
                Contender('open("r"), seek, read', counting(where, where.ours, sought), ours=True),
                Contender("paramiko open, seek, read", counting(where, where.paramiko, by_paramiko)),
                Contender("asyncssh open, read", counting(where, where.asyncssh, by_asyncssh), needs=[ASYNCSSH]),
                Contender("sshfs open, seek, read", counting(where, where.sshfs, by_sshfs), needs=[SSHFS]),
            ],
            MiB,
        )
