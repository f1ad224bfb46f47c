"""One large file up to S3 and down again, near and far."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..buckets import Bucket, running
from ..frame import Bench, Contender, GiB, Stage, task, times
from ..meters import CPU
from ..peers import BOTO3, CEPH, KEG_S3, OBSTORE, SMART_OPEN
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
    pour,
    up_opened,
    uploading,
)
from .transfers import title

UP, DOWN = "boto3 upload_fileobj", "boto3 download_fileobj"


def up_stage(where: Bucket, source: Path, size: int) -> Iterator[Stage]:
    """Yield all uploads, each to its own object."""

    def smart(client: Any, file: Any, key: str) -> None:
        address = f"s3://{where.bucket}/{key}"
        with SMART_OPEN.load().open(address, "wb", transport_params={"client": client}) as target:
            pour(file, target)

    def contender(name: str, make: Any, act: Any, **others: Any) -> Contender:
        return Contender(name, uploading(where, source, f"from {name}", make, act), **others)

    bucket = where.bucket
    yield (
        [
            contender("upload", where.ours, lambda s, file, key: s.upload(file, key), ours=True),
            contender('open("w")', where.ours, up_opened, ours=True),
            contender(UP, where.boto3, lambda c, file, key: c.upload_fileobj(file, bucket, key), needs=[BOTO3]),
            contender("smart_open", where.boto3, smart, needs=[SMART_OPEN]),
            contender("obstore put", where.obstore, obstore_up, needs=[OBSTORE]),
            contender("keg-storage upload", where.keg, lambda s, file, key: s.upload(file, key), needs=[KEG_S3]),
            Contender("bare sockets", lambda: bare_put(where, "bare", size)),
        ],
        size,
    )


def down_stage(where: Bucket, source: Path, size: int, directory: Path) -> Iterator[Stage]:
    """Yield all downloads of one object, which our upload has stored."""
    apart(lambda: where.ours().put(source, "big"))
    local, bucket = directory / "target", where.bucket

    def unchecked() -> Any:
        return where.ours(verify_downloads=False)

    def download_file(client: Any, _: Any) -> int:
        client.download_file(bucket, "big", str(local))
        return local.stat().st_size

    def smart(client: Any, target: Any) -> None:
        with SMART_OPEN.load().open(f"s3://{bucket}/big", "rb", transport_params={"client": client}) as file:
            pour(file, target)

    get = getting(local)
    yield (
        [
            Contender("download, verify_downloads=False", downloading(unchecked, downloaded), ours=True),
            Contender(
                "download, verified", downloading(lambda: where.ours(verify_downloads=True), downloaded), ours=True
            ),
            Contender('open("r"), verify_downloads=False', downloading(unchecked, down_opened), ours=True),
            Contender("get to a file, verify_downloads=False", downloading(unchecked, get, local), ours=True),
            Contender(
                DOWN,
                downloading(where.boto3, lambda c, target: c.download_fileobj(bucket, "big", target)),
                needs=[BOTO3],
            ),
            Contender("boto3 download_file to a file", downloading(where.boto3, download_file, local), needs=[BOTO3]),
            Contender("smart_open", downloading(where.boto3, smart), needs=[SMART_OPEN]),
            Contender("obstore get", downloading(where.obstore, obstore_down), needs=[OBSTORE]),
            Contender("keg-storage download", downloading(where.keg, downloaded), needs=[KEG_S3]),
            Contender("bare sockets", lambda: bare_get(where, "big", size)),
        ],
        size,
    )


AHEAD_UP = [times(peer, 1) for peer in (UP, "smart_open", "keg-storage upload")]
AHEAD_DOWN = [times(peer, 1) for peer in (DOWN, "smart_open", "keg-storage download")]


@task(
    "s3-up",
    title("S3: {} up", GiB),
    *AHEAD_UP,
    times(UP, 1, metric=CPU),
    columns=COLUMNS,
    needs=[CEPH],
)
def up(bench: Bench) -> Iterator[Stage]:
    """Upload on this machine."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running() as where:
        yield from up_stage(where, source, size)


@task(
    "s3-up-far",
    title(f"S3: {{}} up{FAR}", GiB),
    *AHEAD_UP,
    times("obstore put", 1.15),
    columns=COLUMNS,
    needs=[CEPH],
)
def up_far(bench: Bench) -> Iterator[Stage]:
    """Upload over a distance."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running(far=True) as where:
        yield from up_stage(where, source, size)


@task(
    "s3-down",
    title("S3: {} down", GiB),
    *AHEAD_DOWN,
    times(DOWN, 1, metric=CPU),
    columns=COLUMNS,
    needs=[CEPH],
)
def down(bench: Bench) -> Iterator[Stage]:
    """Download on this machine."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running() as where:
        yield from down_stage(where, source, size, bench.directory)


@task(
    "s3-down-far",
    title(f"S3: {{}} down{FAR}", GiB),
    *AHEAD_DOWN,
    times("obstore get", 1.15),
    columns=COLUMNS,
    needs=[CEPH],
)
def down_far(bench: Bench) -> Iterator[Stage]:
    """Download over a distance."""
    size = bench.size(GiB)
    source = filled(bench.directory / "source", size)
    with running(far=True) as where:
        yield from down_stage(where, source, size, bench.directory)
