"""One large file up to Azure and down again, near and far.

Azurite keeps everything in the memory of one process, and what was replaced for ten minutes more: at the full size a
machine needs some 60 GiB for each of these tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..containers import Container, running
from ..frame import Bench, Contender, GiB, Stage, task, times
from ..peers import ADLFS, AZURE_SDK, AZURITE, OBSTORE
from ..remote import apart, bare_get, bare_put
from .files import filled
from .objects import (
    COLUMNS,
    FAR,
    down_opened,
    downloaded,
    downloading,
    getting,
    obstore_down,
    obstore_up,
    up_opened,
    uploading,
)
from .transfers import title

UP, ADLFS_UP = "SDK upload_blob", "adlfs put_file"
DOWN, ADLFS_DOWN = "SDK readinto", "adlfs get_file to a file"
NEEDS = (AZURE_SDK, AZURITE)
PARALLEL = 8  # as many as ours


def up_stage(where: Container, source: Path, size: int) -> Iterator[Stage]:
    """Yield all uploads, each to its own blob."""

    def contender(name: str, make: Any, act: Any, **others: Any) -> Contender:
        return Contender(name, uploading(where, source, f"from {name}", make, act), **others)

    def ours(storage: Any, file: Any, key: str) -> None:
        storage.upload(file, key)

    def parallel(client: Any, file: Any, key: str) -> None:
        client.upload_blob(key, file, overwrite=True, max_concurrency=PARALLEL)

    yield (
        [
            contender("upload, check_content=False", where.unchecked, ours, ours=True),
            contender("upload, with MD5", where.ours, ours, ours=True),
            contender('open("w"), check_content=False', where.unchecked, up_opened, ours=True),
            contender('open("w"), with MD5', where.ours, up_opened, ours=True),
            contender(UP, where.sdk, lambda c, file, key: c.upload_blob(key, file, overwrite=True)),
            contender(f"{UP}, max_concurrency={PARALLEL}", where.sdk, parallel),
            contender(
                ADLFS_UP,
                where.adlfs,
                lambda s, file, key: s.put_file(file.name, f"{where.container}/{key}"),
                needs=[ADLFS],
            ),
            contender("obstore put", where.obstore, obstore_up, needs=[OBSTORE]),
            Contender("bare sockets", lambda: bare_put(where, "bare", size)),
        ],
        size,
    )


def down_stage(where: Container, source: Path, size: int, directory: Path) -> Iterator[Stage]:
    """Yield all downloads of one blob, which our upload has stored."""
    apart(lambda: where.ours().put(source, "big"))
    local = directory / "target"

    def adlfs(system: Any, _: Any) -> int:
        system.get_file(f"{where.container}/big", str(local))
        return local.stat().st_size

    def sdk(client: Any, target: Any) -> None:
        client.download_blob("big").readinto(target)

    def parallel(client: Any, target: Any) -> None:
        client.download_blob("big", max_concurrency=PARALLEL).readinto(target)

    get = getting(local)
    yield (
        [
            Contender("download, check_content=False", downloading(where.unchecked, downloaded), ours=True),
            Contender("download, with MD5", downloading(where.ours, downloaded), ours=True),
            Contender('open("r"), check_content=False', downloading(where.unchecked, down_opened), ours=True),
            Contender('open("r"), with MD5', downloading(where.ours, down_opened), ours=True),
            Contender("get to a file, check_content=False", downloading(where.unchecked, get, local), ours=True),
            Contender(DOWN, downloading(where.sdk, sdk)),
            Contender(f"{DOWN}, max_concurrency={PARALLEL}", downloading(where.sdk, parallel)),
            Contender(ADLFS_DOWN, downloading(where.adlfs, adlfs, local), needs=[ADLFS]),
            Contender("obstore get", downloading(where.obstore, obstore_down), needs=[OBSTORE]),
            Contender("bare sockets", lambda: bare_get(where, "big", size)),
        ],
        size,
    )


AHEAD_UP = [times(UP, 1), times(ADLFS_UP, 1)]
AHEAD_DOWN = [times(DOWN, 1), times(ADLFS_DOWN, 1)]


@task("azure-up", title("Azure: {} up", GiB), *AHEAD_UP, columns=COLUMNS, needs=NEEDS)
def up(bench: Bench) -> Iterator[Stage]:
    """Upload on this machine."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running() as where:
        yield from up_stage(where, source, size)


@task("azure-up-far", title(f"Azure: {{}} up{FAR}", GiB), *AHEAD_UP, columns=COLUMNS, needs=NEEDS)
def up_far(bench: Bench) -> Iterator[Stage]:
    """Upload over a distance."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running(far=True) as where:
        yield from up_stage(where, source, size)


@task("azure-down", title("Azure: {} down", GiB), *AHEAD_DOWN, columns=COLUMNS, needs=NEEDS)
def down(bench: Bench) -> Iterator[Stage]:
    """Download on this machine."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running() as where:
        yield from down_stage(where, source, size, bench.directory)


@task("azure-down-far", title(f"Azure: {{}} down{FAR}", GiB), *AHEAD_DOWN, columns=COLUMNS, needs=NEEDS)
def down_far(bench: Bench) -> Iterator[Stage]:
    """Download over a distance."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running(far=True) as where:
        yield from down_stage(where, source, size, bench.directory)
