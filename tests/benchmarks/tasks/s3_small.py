"""Many small files to S3, one call after the other: what a call costs, and how often it goes there and back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..buckets import Bucket, running
from ..frame import Bench, Contender, Stage, task, times
from ..meters import CPU, WALL
from ..peers import BOTO3, CEPH, KEG_S3, SMART_OPEN
from .objects import CONTENT, FAR_SHARE, Delete, Down, Up, files, small_obstore, small_ours, working

BATCH = 1000


def stage(where: Bucket, count: int) -> Iterator[Stage]:
    """Yield all contenders, with the shortest calls that they have."""
    keys = [f"small/{number:05}" for number in range(count)]
    bucket = where.bucket

    def smart(client: Any, key: str, mode: str) -> Any:
        return SMART_OPEN.load().open(f"s3://{bucket}/{key}", mode, transport_params={"client": client})

    def smart_up(client: Any, key: str) -> None:
        with smart(client, key, "wb") as file:
            file.write(CONTENT)

    def smart_down(client: Any, key: str) -> bytes:
        with smart(client, key, "rb") as file:
            return bytes(file.read())

    def boto3_down(client: Any, key: str) -> bytes:
        return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def managed_down(client: Any, key: str) -> bytes:
        target = io.BytesIO()
        client.download_fileobj(bucket, key, target)
        return target.getvalue()

    def boto3_delete(client: Any, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), BATCH):
            objects = [{"Key": key} for key in keys[start : start + BATCH]]
            client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})

    def keg_down(storage: Any, key: str) -> bytes:
        target = io.BytesIO()
        storage.download(key, target)
        return target.getvalue()

    def by_three(name: str, make: Callable[[], Any], up: Up, down: Down, delete: Delete, **others: Any) -> Contender:
        return Contender(name, working(where, make, keys, up, down, delete), **others)

    yield (
        [
            small_ours(where, "write, read, delete_many", where.ours, keys),
            by_three(
                "boto3 put_object, get_object, delete_objects",
                where.boto3,
                lambda client, key: client.put_object(Bucket=bucket, Key=key, Body=CONTENT),
                boto3_down,
                boto3_delete,
                needs=[BOTO3],
            ),
            by_three(
                "boto3 upload_fileobj, download_fileobj, delete_objects",
                where.boto3,
                lambda client, key: client.upload_fileobj(io.BytesIO(CONTENT), bucket, key),
                managed_down,
                boto3_delete,
                needs=[BOTO3],
            ),
            by_three(
                "smart_open, boto3 delete_objects", where.boto3, smart_up, smart_down, boto3_delete, needs=[SMART_OPEN]
            ),
            small_obstore(where, keys),
            by_three(
                "keg-storage upload, download, delete",
                where.keg,
                lambda storage, key: storage.upload(io.BytesIO(CONTENT), key),
                keg_down,
                lambda storage, keys: [storage.delete(key) for key in keys],
                needs=[KEG_S3],
            ),
        ],
        (count, 0),
    )


PYTHON_PEERS = (
    "boto3 put_object, get_object, delete_objects",
    "boto3 upload_fileobj, download_fileobj, delete_objects",
    "smart_open, boto3 delete_objects",
    "keg-storage upload, download, delete",
)
AHEAD = [times(peer, 1) for peer in PYTHON_PEERS]
COLUMNS = (WALL, CPU, "up", "down", "deleted")


@task(
    "s3-small",
    lambda bench: f"S3: {files(bench):,} files of 10 KiB up, down, deleted",
    *AHEAD,
    columns=COLUMNS,
    needs=[CEPH],
)
def small(bench: Bench) -> Iterator[Stage]:
    """Work on this machine."""
    with running() as where:
        yield from stage(where, files(bench))


@task(
    "s3-small-far",
    lambda bench: f"S3: {files(bench, FAR_SHARE):,} files of 10 KiB up, down, deleted, 40 ms away",
    *AHEAD,
    columns=COLUMNS,
    needs=[CEPH],
)
def small_far(bench: Bench) -> Iterator[Stage]:
    """Work over a distance."""
    with running(far=True) as where:
        yield from stage(where, files(bench, FAR_SHARE))
