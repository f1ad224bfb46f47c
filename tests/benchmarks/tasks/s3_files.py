"""One large file up to S3 and down again, near and far."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..buckets import Place, apart, bare_get, bare_put, place
from ..frame import Bench, Contender, GiB, MiB, Stage, task, times
from ..meters import CPU, PEAK, WALL, Work
from ..peers import BOTO3, CEPH, KEG_S3, OBSTORE, S3FS, SMART_OPEN
from .files import filled
from .transfers import title

UP, DOWN = "boto3 upload_fileobj", "boto3 download_fileobj"
PIECE = MiB
COLUMNS = (WALL, CPU, PEAK)
FAR = ", 40 ms away and at 25 MB/s for each connection"


class Nowhere(io.RawIOBase):
    """A target that counts what it is given; it can be sought, as boto3 likes its targets."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.total = 0

    def writable(self) -> bool:
        """Whether it takes anything: it does."""
        return True

    def seekable(self) -> bool:
        """Whether it can be sought: it says so."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Stay."""
        return self.total

    def tell(self) -> int:
        """Return how much came."""
        return self.total

    def write(self, data: Any, /) -> int:
        """Count the bytes."""
        self.total += len(data)
        return len(data)


def pour(source: Any, target: Any, piece: int = PIECE) -> int:
    """Copy from file to file, as everybody does who has two."""
    total = 0
    while data := source.read(piece):
        target.write(data)
        total += len(data)
    return total


def uploading(where: Place, source: Path, key: str, make: Callable[[], Any], act: Callable[..., object]) -> Any:
    """Return what prepares an upload: *act* is given what *make* makes, the open source, and the key."""

    def prepare() -> Work:
        made, size_of = make(), where.sizes()

        def work() -> int:
            with open(source, "rb") as file:
                act(made, file, key)
            return size_of(key)

        return work

    return prepare


def downloading(make: Callable[[], Any], act: Callable[..., int | None]) -> Any:
    """Return what prepares a download: *act* is given what *make* makes, and a target."""

    def prepare() -> Work:
        made = make()

        def work() -> int:
            target = Nowhere()
            return act(made, target) or target.total

        return work

    return prepare


def up_opened(storage: Any, file: Any, key: str) -> None:
    """Write to our open file."""
    with storage.open(key, "w") as target:
        pour(file, target)


def down_opened(storage: Any, target: Any) -> None:
    """Read from our open file."""
    with storage.open("big", "r") as source:
        pour(source, target)


def up_stage(where: Place, source: Path, size: int) -> Iterator[Stage]:
    """Yield everybody's upload, each with an object of its own."""

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
            contender(
                "s3fs put_file", where.s3fs, lambda s, file, key: s.put_file(file.name, f"{bucket}/{key}"), needs=[S3FS]
            ),
            contender("smart_open", where.boto3, smart, needs=[SMART_OPEN]),
            contender(
                "obstore put", where.obstore, lambda s, file, key: OBSTORE.load().put(s, key, file), needs=[OBSTORE]
            ),
            contender("keg-storage upload", where.keg, lambda s, file, key: s.upload(file, key), needs=[KEG_S3]),
            Contender("bare sockets", lambda: bare_put(where, "bare", size)),
        ],
        size,
    )


def down_stage(where: Place, source: Path, size: int, folder: Path) -> Iterator[Stage]:
    """Yield everybody's download of one object, which came in by our upload."""
    apart(lambda: where.ours().put(source, "big"))
    local, bucket = folder / "target", where.bucket

    def unchecked() -> Any:
        return where.ours(verify_downloads=False)

    def get(storage: Any, _: Any) -> int:
        storage.get("big", local)
        return local.stat().st_size

    def download_file(client: Any, _: Any) -> int:
        client.download_file(bucket, "big", str(local))
        return local.stat().st_size

    def s3fs_get(system: Any, _: Any) -> int:
        system.get_file(f"{bucket}/big", str(local))
        return local.stat().st_size

    def smart(client: Any, target: Any) -> None:
        with SMART_OPEN.load().open(f"s3://{bucket}/big", "rb", transport_params={"client": client}) as file:
            pour(file, target)

    def obstore(store: Any, target: Any) -> None:
        for piece in OBSTORE.load().get(store, "big").stream(min_chunk_size=PIECE):
            target.write(piece)

    def down(storage: Any, target: Any) -> None:
        storage.download("big", target)

    yield (
        [
            Contender("download, verify_downloads=False", downloading(unchecked, down), ours=True),
            Contender("download, verified", downloading(lambda: where.ours(verify_downloads=True), down), ours=True),
            Contender('open("r"), verify_downloads=False', downloading(unchecked, down_opened), ours=True),
            Contender("get to a file, verify_downloads=False", downloading(unchecked, get), ours=True),
            Contender(
                DOWN,
                downloading(where.boto3, lambda c, target: c.download_fileobj(bucket, "big", target)),
                needs=[BOTO3],
            ),
            Contender("boto3 download_file to a file", downloading(where.boto3, download_file), needs=[BOTO3]),
            Contender("s3fs get_file to a file", downloading(where.s3fs, s3fs_get), needs=[S3FS]),
            Contender("smart_open", downloading(where.boto3, smart), needs=[SMART_OPEN]),
            Contender("obstore get", downloading(where.obstore, obstore), needs=[OBSTORE]),
            Contender("keg-storage download", downloading(where.keg, down), needs=[KEG_S3]),
            Contender("bare sockets", lambda: bare_get(where, "big", size)),
        ],
        size,
    )


AHEAD_UP = [times(peer, 1) for peer in (UP, "s3fs put_file", "smart_open", "keg-storage upload")]
AHEAD_DOWN = [times(peer, 1) for peer in (DOWN, "s3fs get_file to a file", "smart_open", "keg-storage download")]


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
    source = filled(bench.folder / "source", size)
    with place() as where:
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
    source = filled(bench.folder / "source", size)
    with place(far=True) as where:
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
    source = filled(bench.folder / "source", size)
    with place() as where:
        yield from down_stage(where, source, size, bench.folder)


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
    source = filled(bench.folder / "source", size)
    with place(far=True) as where:
        yield from down_stage(where, source, size, bench.folder)
