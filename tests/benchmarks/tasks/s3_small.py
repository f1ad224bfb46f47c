"""Many small files to S3, one call after the other: what a call costs, and how often it goes there and back."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..buckets import Place, place
from ..frame import Bench, Contender, KiB, Stage, task, times
from ..meters import CPU, WALL, Work, note
from ..peers import BOTO3, CEPH, KEG_S3, OBSTORE, S3FS, SMART_OPEN

FILES, FEWEST, SIZE = 1000, 200, 10 * KiB
FAR_SHARE = 10  # far away everything is waiting: a tenth of the files shows as much
CONTENT = os.urandom(SIZE)
BATCH = 1000

Up = Callable[[Any, str], object]
Down = Callable[[Any, str], bytes]
Delete = Callable[[Any, Sequence[str]], object]


def files(bench: Bench, share: int = 1) -> int:
    """Return how many files this run has: hundreds where the frame counts in thousands, for they go one by one."""
    return max(FEWEST, round(FILES * bench.scale)) // share


def working(make: Callable[[], Any], keys: Sequence[str], up: Up, down: Down, delete: Delete) -> Callable[[], Work]:
    """Return what prepares the three steps; each notes its time."""

    def prepare() -> Work:
        made = make()

        def work() -> int:
            begun = time.perf_counter()
            for key in keys:
                up(made, key)
            stored = time.perf_counter()
            total = sum(len(down(made, key)) for key in keys)
            fetched = time.perf_counter()
            delete(made, keys)
            note("up", stored - begun)
            note("down", fetched - stored)
            note("deleted", time.perf_counter() - fetched)
            return total

        return work

    return prepare


def stage(where: Place, count: int) -> Iterator[Stage]:
    """Yield everybody, with the shortest calls that they have."""
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
        return Contender(name, working(make, keys, up, down, delete), **others)

    yield (
        [
            by_three(
                "write, read, delete_many",
                where.ours,
                lambda storage, key: storage.write(key, CONTENT),
                lambda storage, key: storage.read(key),
                lambda storage, keys: storage.delete_many(keys),
                ours=True,
            ),
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
                "s3fs pipe_file, cat_file, rm",
                where.s3fs,
                lambda system, key: system.pipe_file(f"{bucket}/{key}", CONTENT),
                lambda system, key: bytes(system.cat_file(f"{bucket}/{key}")),
                lambda system, keys: system.rm([f"{bucket}/{key}" for key in keys]),
                needs=[S3FS],
            ),
            by_three(
                "smart_open, boto3 delete_objects", where.boto3, smart_up, smart_down, boto3_delete, needs=[SMART_OPEN]
            ),
            by_three(
                "obstore put, get, delete",
                where.obstore,
                lambda store, key: OBSTORE.load().put(store, key, CONTENT),
                lambda store, key: bytes(OBSTORE.load().get(store, key).bytes()),
                lambda store, keys: OBSTORE.load().delete(store, list(keys)),
                needs=[OBSTORE],
            ),
            by_three(
                "keg-storage upload, download, delete",
                where.keg,
                lambda storage, key: storage.upload(io.BytesIO(CONTENT), key),
                keg_down,
                lambda storage, keys: [storage.delete(key) for key in keys],
                needs=[KEG_S3],
            ),
        ],
        count * SIZE,
    )


PYTHON_PEERS = (
    "boto3 put_object, get_object, delete_objects",
    "boto3 upload_fileobj, download_fileobj, delete_objects",
    "s3fs pipe_file, cat_file, rm",
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
    with place() as where:
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
    with place(far=True) as where:
        yield from stage(where, files(bench, FAR_SHARE))
