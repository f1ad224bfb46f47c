"""What S3 can do by itself, copying and listing, and what of it comes through this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ..buckets import Bucket, running
from ..frame import Bench, Contender, GiB, MiB, Stage, at_most, task, timed, times
from ..meters import CPU, MOVED, PEAK, WALL, Work
from ..peers import BOTO3, CEPH, KEG_S3, OBSTORE
from ..remote import apart
from .files import filled
from .listings import lazily
from .objects import copying
from .transfers import title

KEYS = 10_000


@task(
    "s3-copy",
    title("S3: {} copied within a bucket", GiB),
    at_most(MOVED, MiB, "no content through this process: ≤ 1 MiB moved"),
    times("boto3 copy (parts)", 1),
    columns=(WALL, CPU, MOVED),
    needs=[CEPH],
)
def copy(bench: Bench) -> Iterator[Stage]:
    """Copy an object, behind a proxy that counts and does nothing else."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running(counted=True) as where:
        apart(lambda: where.ours().put(source, "big"))
        bucket = where.bucket
        named = {"Bucket": bucket, "Key": "big"}

        def through(client: Any, key: str) -> None:
            held = io.BytesIO()
            client.download_fileobj(bucket, "big", held)
            held.seek(0)
            client.upload_fileobj(held, bucket, key)

        def contender(name: str, make: Any, act: Any, key: str, **others: Any) -> Contender:
            return Contender(name, copying(where, make, act, key), **others)

        yield (
            [
                contender("copy", where.ours, lambda s, key: s.copy("big", key), "a", ours=True),
                contender(
                    "boto3 copy_object",
                    where.boto3,
                    lambda c, key: c.copy_object(Bucket=bucket, Key=key, CopySource=named),
                    "b",
                    needs=[BOTO3],
                ),
                contender(
                    "boto3 copy (parts)", where.boto3, lambda c, key: c.copy(named, bucket, key), "c", needs=[BOTO3]
                ),
                contender("boto3 download and upload", where.boto3, through, "d", needs=[BOTO3]),
                contender(
                    "obstore copy",
                    where.obstore,
                    lambda s, key: OBSTORE.load().copy(s, "big", key),
                    "f",
                    needs=[OBSTORE],
                ),
                contender("keg-storage copy", where.keg, lambda s, key: s.copy("big", key), "g", needs=[KEG_S3]),
            ],
            size,
        )


def fill(where: Bucket, count: int) -> None:
    """Store empty objects, in directories of a hundred."""
    client = where.boto3()

    def put(number: int) -> None:
        client.put_object(Bucket=where.bucket, Key=f"folder-{number // 100:04}/file-{number:06}.txt", Body=b"")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(count)))


@task(
    "s3-list",
    lambda bench: f"S3: {bench.count(KEYS):,} keys listed, taken one by one where the peer can",
    at_most(PEAK, 8 * MiB, "memory ≤ 8 MiB"),
    times("boto3 paginator", 1.15),
    columns=(WALL, CPU, PEAK, "first"),
    needs=[CEPH],
)
def list_lazily(bench: Bench) -> Iterator[Stage]:
    """List a bucket. Pages have a thousand keys, so the first entry takes as long whatever the number of keys."""
    count = bench.count(KEYS)
    with running() as where:
        apart(lambda: fill(where, count))
        bucket = where.bucket

        def paginated(client: Any) -> Iterator[Any]:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                yield from page["Contents"]

        def obstored(store: Any) -> Iterator[Any]:
            for page in OBSTORE.load().list(store):
                yield from page

        def taken(make: Callable[[], Any], entries: Callable[[Any], Iterator[Any]]) -> Callable[[], Work]:
            return lambda: lazily(partial(entries, make()))

        yield (
            [
                Contender("iter", taken(where.ours, lambda storage: storage.iter()), ours=True),
                Contender("boto3 paginator", taken(where.boto3, paginated), needs=[BOTO3]),
                Contender("obstore list", taken(where.obstore, obstored), needs=[OBSTORE]),
                Contender("keg-storage list", timed(where.keg, keg_walk), needs=[KEG_S3]),
            ],
            count,
        )


def keg_walk(storage: Any) -> int:
    """Count the files, a directory at a time: keg-storage lists no other way."""
    entries = storage.list("")
    return sum(len(storage.list(entry.name)) if entry.name.endswith("/") else 1 for entry in entries)
