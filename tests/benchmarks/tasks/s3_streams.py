"""Memory, while much more than is held goes through an open file of S3."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

from ..buckets import Bucket, running
from ..frame import Bench, Contender, GiB, MiB, Stage, at_most, task, timed
from ..meters import CPU, PEAK, WALL, Work
from ..peers import BOTO3, CEPH
from ..remote import apart
from .objects import Nowhere, down_opened
from .transfers import title

FULL = 2 * GiB
CHUNK, CONCURRENCY = 5 * MiB, 8  # the defaults of S3Storage
LIMIT, UNVERIFIED = CHUNK * (CONCURRENCY + 1), "verify_downloads=False"
FLAT = at_most(PEAK, LIMIT, "memory ≤ 9 chunks of 5 MiB")
FLAT_UNVERIFIED = at_most(PEAK, LIMIT, f"{UNVERIFIED}: {FLAT.text}", ours=f'open("r"), {UNVERIFIED}')
COLUMNS = (WALL, CPU, PEAK)


class Source(io.RawIOBase):
    """So many zeros, as many at a time as are asked for: boto3 makes a part of what one read gives."""

    def __init__(self, size: int) -> None:
        """Begin with all of it left."""
        self.left = size

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return as much as is asked for, as long as there is something left."""
        taken = self.left if size < 0 else min(size, self.left)
        self.left -= taken
        return bytes(taken)


def writing(where: Bucket, size: int) -> Work:
    """Return work that writes so many bytes, a MiB at a time, and returns how many arrived."""
    storage, size_of, block = where.ours(), where.sizes(), os.urandom(MiB)

    def work() -> int:
        with storage.open("big", "w") as file:
            for _ in range(size // MiB):
                file.write(block)
        return size_of("big")

    return work


def read_through(act: Any, storage: Any) -> int:
    """Return how many bytes a download brought."""
    target = Nowhere()
    act(storage, target)
    return target.total


@task("s3-stream-out", title("S3: {} into an open file, a MiB at a time", FULL), FLAT, columns=COLUMNS, needs=[CEPH])
def stream_out(bench: Bench) -> Iterator[Stage]:
    """Write more than is held."""
    size = bench.size(FULL)
    with running() as where:

        def by_boto3() -> Work:
            client, size_of, source = where.boto3(), where.sizes(), Source(size)

            def work() -> int:
                client.upload_fileobj(source, where.bucket, "boto3")
                return size_of("boto3")

            return work

        yield (
            [
                Contender('open("w")', lambda: writing(where, size), ours=True),
                Contender("boto3 upload_fileobj", by_boto3, needs=[BOTO3]),
            ],
            size,
        )


@task(
    "s3-stream-in",
    title("S3: {} out of an open file, a MiB at a time", FULL),
    FLAT,
    FLAT_UNVERIFIED,
    columns=COLUMNS,
    needs=[CEPH],
)
def stream_in(bench: Bench) -> Iterator[Stage]:
    """Read more than is held."""
    size = bench.size(FULL)
    with running() as where:
        apart(lambda: where.ours().upload(Source(size), "big"))

        def unchecked() -> Any:
            return where.ours(verify_downloads=False)

        def fetch(client: Any, target: Any) -> None:
            client.download_fileobj(where.bucket, "big", target)

        yield (
            [
                Contender('open("r"), verified', timed(where.ours, lambda s: read_through(down_opened, s)), ours=True),
                Contender(
                    FLAT_UNVERIFIED.ours or UNVERIFIED,
                    timed(unchecked, lambda s: read_through(down_opened, s)),
                    ours=True,
                ),
                Contender(
                    "boto3 download_fileobj", timed(where.boto3, lambda c: read_through(fetch, c)), needs=[BOTO3]
                ),
            ],
            size,
        )
