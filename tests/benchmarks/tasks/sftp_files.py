"""One large file up to a server over SSH and down again, near and far."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..frame import Bench, Contender, MiB, Stage, task, times
from ..hosts import Directory, running
from ..peers import ASYNCSSH, KEG_SFTP, PARAMIKO, SFTP, SSHD, SSHFS
from .files import filled
from .objects import COLUMNS, down_opened, downloaded, downloading, getting, up_opened, uploading
from .transfers import title

SIZE, KEG_SIZE = 256 * MiB, 2 * MiB
FAR = ", 40 ms away"
UP, PARAMIKO_UP, ASYNCSSH_UP, SSHFS_UP = "sftp put", "paramiko put", "asyncssh put", "sshfs put_file"
DOWN, PARAMIKO_DOWN, ASYNCSSH_DOWN, SSHFS_DOWN = "sftp get", "paramiko get", "asyncssh get", "sshfs get_file"
KEPT_UP, KEPT_DOWN = "upload, fsync=False, logged in before", "get to a file, logged in before"
KEG_UP, KEG_DOWN = "keg-storage put", "keg-storage get"
NEEDS = (SSHD, PARAMIKO)


def up_stage(where: Directory, source: Path, size: int) -> Iterator[Stage]:
    """Yield all uploads, each to its own file. Only those that say so wait for the disk of the server."""

    def contender(name: str, make: Any, act: Any, **others: Any) -> Contender:
        return Contender(name, uploading(where, source, f"from {name}".replace(" ", "-"), make, act), **others)

    def ours(storage: Any, file: Any, key: str) -> None:
        storage.upload(file, key)

    yield (
        [
            contender("upload, fsync=False", where.unsynced, ours, ours=True),
            contender("upload", where.ours, ours, ours=True),
            contender(KEPT_UP, lambda: where.connected(fsync=False), ours, ours=True),
            contender('open("w"), fsync=False', where.unsynced, up_opened, ours=True),
            contender(UP, where.sftp, lambda s, file, key: s.run(f"put {file.name} {where.at(key)}"), needs=[SFTP]),
            contender(
                f"{UP} -f, with fsync",
                where.sftp,
                lambda s, file, key: s.run(f"put -f {file.name} {where.at(key)}"),
                needs=[SFTP],
            ),
            contender(PARAMIKO_UP, where.paramiko, lambda p, file, key: p.session.put(file.name, where.at(key))),
            contender(
                ASYNCSSH_UP,
                where.asyncssh,
                lambda a, file, key: a.run(lambda session: session.put(file.name, where.at(key))),
                needs=[ASYNCSSH],
            ),
            contender(
                SSHFS_UP, where.sshfs, lambda s, file, key: s.system.put_file(file.name, where.at(key)), needs=[SSHFS]
            ),
        ],
        size,
    )


def down_stage(where: Directory, size: int, directory: Path) -> Iterator[Stage]:
    """Yield all downloads of one file. Ours, and peers that cannot do otherwise, write a local file."""
    filled(where.directory / "big", size)
    local = directory / "target"
    remote = where.at("big")

    def contender(name: str, make: Any, act: Any, **others: Any) -> Contender:
        def fetched(made: Any, _: Any) -> int:
            act(made)
            return local.stat().st_size

        return Contender(name, downloading(make, fetched, local), **others)

    yield (
        [
            Contender("get to a file", downloading(where.ours, getting(local), local), ours=True),
            Contender(KEPT_DOWN, downloading(where.connected, getting(local), local), ours=True),
            Contender("download", downloading(where.ours, downloaded), ours=True),
            Contender('open("r")', downloading(where.ours, down_opened), ours=True),
            contender(DOWN, where.sftp, lambda s: s.run(f"get {remote} {local}"), needs=[SFTP]),
            contender(PARAMIKO_DOWN, where.paramiko, lambda p: p.session.get(remote, str(local))),
            Contender(
                "paramiko getfo, kept nowhere",
                downloading(where.paramiko, lambda p, target: p.session.getfo(remote, target)),
            ),
            contender(
                ASYNCSSH_DOWN,
                where.asyncssh,
                lambda a: a.run(lambda session: session.get(remote, str(local))),
                needs=[ASYNCSSH],
            ),
            contender(SSHFS_DOWN, where.sshfs, lambda s: s.system.get_file(remote, str(local)), needs=[SSHFS]),
        ],
        size,
    )


def near(program: str, *libraries: str) -> list[Any]:
    """Return the targets on this machine."""
    return [
        times(program, 1 / 0.9, text=f"≥ 0.9 times as fast as {program}"),
        *(times(library, 1) for library in libraries),
    ]


def far(program: str, kept: str, *libraries: str) -> list[Any]:
    """Return the targets over a distance; an app logs in once, and a program each time."""
    return [
        times(program, 1 / 3, text=f"≥ 3 times as fast as {program}"),
        times(program, 1 / 3, text=f"{kept}: ≥ 3 times as fast as {program}", ours=kept),
        *(times(library, 1) for library in libraries),
    ]


@task("sftp-up", title("SFTP: {} up", SIZE), *near(UP, PARAMIKO_UP), columns=COLUMNS, needs=NEEDS)
def up(bench: Bench) -> Iterator[Stage]:
    """Upload on this machine."""
    size = bench.size(SIZE)
    source = filled(bench.directory / "source", size)
    with running(bench.directory) as where:
        yield from up_stage(where, source, size)


@task("sftp-up-far", title(f"SFTP: {{}} up{FAR}", SIZE), *far(UP, KEPT_UP, PARAMIKO_UP), columns=COLUMNS, needs=NEEDS)
def up_far(bench: Bench) -> Iterator[Stage]:
    """Upload over a distance."""
    size = bench.size(SIZE)
    source = filled(bench.directory / "source", size)
    with running(bench.directory, far=True) as where:
        yield from up_stage(where, source, size)


@task("sftp-down", title("SFTP: {} down", SIZE), *near(DOWN, PARAMIKO_DOWN), columns=COLUMNS, needs=NEEDS)
def down(bench: Bench) -> Iterator[Stage]:
    """Download on this machine."""
    with running(bench.directory) as where:
        yield from down_stage(where, bench.size(SIZE), bench.directory)


@task(
    "sftp-down-far",
    title(f"SFTP: {{}} down{FAR}", SIZE),
    *far(DOWN, KEPT_DOWN, PARAMIKO_DOWN),
    columns=COLUMNS,
    needs=NEEDS,
)
def down_far(bench: Bench) -> Iterator[Stage]:
    """Download over a distance."""
    with running(bench.directory, far=True) as where:
        yield from down_stage(where, bench.size(SIZE), bench.directory)


@task(
    "sftp-up-keg",
    title("SFTP: {} up, beside keg-storage", KEG_SIZE),
    times(KEG_UP, 1),
    columns=COLUMNS,
    needs=(*NEEDS, KEG_SFTP),
)
def up_keg(bench: Bench) -> Iterator[Stage]:
    """Upload less: keg-storage would take minutes for what the others do in a second."""
    size = bench.size(KEG_SIZE)
    source = filled(bench.directory / "source", size)
    with running(bench.directory) as where:

        def contender(name: str, make: Any, act: Any, **others: Any) -> Contender:
            return Contender(name, uploading(where, source, name.replace(" ", "-"), make, act), **others)

        yield (
            [
                contender("upload, fsync=False", where.unsynced, lambda s, file, key: s.upload(file, key), ours=True),
                contender(KEG_UP, where.keg, lambda s, file, key: s.put(file.name, where.at(key))),
            ],
            size,
        )


@task(
    "sftp-down-keg",
    title("SFTP: {} down, beside keg-storage", KEG_SIZE),
    times(KEG_DOWN, 1),
    columns=COLUMNS,
    needs=(*NEEDS, KEG_SFTP),
)
def down_keg(bench: Bench) -> Iterator[Stage]:
    """Download less, likewise."""
    size, local = bench.size(KEG_SIZE), bench.directory / "target"
    with running(bench.directory) as where:
        filled(where.directory / "big", size)

        def fetched(storage: Any, _: Any) -> int:
            storage.get(where.at("big"), str(local))
            return local.stat().st_size

        yield (
            [
                Contender("get", downloading(where.ours, getting(local), local), ours=True),
                Contender(KEG_DOWN, downloading(where.keg, fetched, local)),
            ],
            size,
        )
