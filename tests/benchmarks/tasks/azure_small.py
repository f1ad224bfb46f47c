"""Many small files to Azure, one call after the other: what a call costs, and how often it goes there and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..containers import Container, running
from ..frame import Bench, Contender, Stage, task, times
from ..meters import CPU, WALL
from ..peers import ADLFS, AZURE_SDK, AZURITE
from .objects import CONTENT, FAR_SHARE, files, small_obstore, small_ours, working

SDK = "SDK upload_blob, download_blob, delete_blobs"
ADLFS_NAME = "adlfs pipe_file, cat_file, rm"
BATCH = 256
"""One request deletes no more."""


def stage(where: Container, count: int) -> Iterator[Stage]:
    """Yield all contenders, with the shortest calls that they have."""
    keys = [f"small/{number:05}" for number in range(count)]
    container = where.container

    def delete(client: Any, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), BATCH):
            list(client.delete_blobs(*keys[start : start + BATCH]))

    yield (
        [
            small_ours(where, "write, read, delete_many, check_content=False", where.unchecked, keys),
            small_ours(where, "write, read, delete_many, with MD5", where.ours, keys),
            Contender(
                SDK,
                working(
                    where,
                    where.sdk,
                    keys,
                    lambda client, key: client.upload_blob(key, CONTENT, overwrite=True),
                    lambda client, key: bytes(client.download_blob(key).readall()),
                    delete,
                ),
            ),
            Contender(
                ADLFS_NAME,
                working(
                    where,
                    where.adlfs,
                    keys,
                    lambda system, key: system.pipe_file(f"{container}/{key}", CONTENT),
                    lambda system, key: bytes(system.cat_file(f"{container}/{key}")),
                    lambda system, keys: system.rm([f"{container}/{key}" for key in keys]),
                ),
                needs=[ADLFS],
            ),
            small_obstore(where, keys),
        ],
        (count, 0),
    )


AHEAD = [times(SDK, 1), times(ADLFS_NAME, 1)]
COLUMNS = (WALL, CPU, "up", "down", "deleted")
NEEDS = (AZURE_SDK, AZURITE)


@task(
    "azure-small",
    lambda bench: f"Azure: {files(bench):,} files of 10 KiB up, down, deleted",
    *AHEAD,
    columns=COLUMNS,
    needs=NEEDS,
)
def small(bench: Bench) -> Iterator[Stage]:
    """Work on this machine."""
    with running() as where:
        yield from stage(where, files(bench))


@task(
    "azure-small-far",
    lambda bench: f"Azure: {files(bench, FAR_SHARE):,} files of 10 KiB up, down, deleted, 40 ms away",
    *AHEAD,
    columns=COLUMNS,
    needs=NEEDS,
)
def small_far(bench: Bench) -> Iterator[Stage]:
    """Work over a distance."""
    with running(far=True) as where:
        yield from stage(where, files(bench, FAR_SHARE))
