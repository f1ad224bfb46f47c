"""What the tasks of remote backends share: large files, small files, copies."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..frame import Bench, Contender, KiB, MiB
from ..meters import CPU, MOVED, PEAK, WALL, Work, note
from ..peers import OBSTORE
from ..remote import Remote, Somewhere

PIECE = MiB
COLUMNS = (WALL, CPU, PEAK)
FAR = ", 40 ms away"
FILES, FEWEST, SIZE = 1000, 200, 10 * KiB
FAR_SHARE = 10  # far away everything is waiting: a tenth of the files shows as much
CONTENT = os.urandom(SIZE)

Up = Callable[[Any, str], object]
Down = Callable[[Any, str], bytes]
Delete = Callable[[Any, Sequence[str]], object]


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
    """Copy from one open file to another."""
    total = 0
    while data := source.read(piece):
        target.write(data)
        total += len(data)
    return total


def uploading(where: Somewhere, source: Path, key: str, make: Callable[[], Any], act: Callable[..., object]) -> Any:
    """Return what prepares an upload: *act* is given what *make* makes, the open source, and the key."""

    def prepare() -> Work:
        made, size_of = make(), where.sizes()

        def work() -> Callable[[], int]:
            with open(source, "rb") as file:
                act(made, file, key)
            return lambda: size_of(key)

        return work

    return prepare


def downloading(make: Callable[[], Any], act: Callable[..., int | None], local: Path | None = None) -> Any:
    """Return what prepares a download: *act* is given what *make* makes, and a target; or it writes to *local*."""

    def prepare() -> Work:
        made = make()
        if local is not None:
            local.unlink(missing_ok=True)  # of another contender, or of the round before

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


def downloaded(storage: Any, target: Any) -> None:
    """Download with our operation."""
    storage.download("big", target)


def getting(local: Path) -> Callable[[Any, Any], int]:
    """Return a function that downloads into a local file with our operation."""

    def get(storage: Any, _: Any) -> int:
        storage.get("big", local)
        return local.stat().st_size

    return get


def obstore_up(store: Any, file: Any, key: str) -> None:
    """Upload by obstore."""
    OBSTORE.load().put(store, key, file)


def obstore_down(store: Any, target: Any) -> None:
    """Download by obstore."""
    for piece in OBSTORE.load().get(store, "big").stream(min_chunk_size=PIECE):
        target.write(piece)


def small_ours(where: Somewhere, name: str, make: Callable[[], Any], keys: Sequence[str]) -> Contender:
    """Return ours at many small files."""
    return Contender(
        name,
        working(
            where,
            make,
            keys,
            lambda storage, key: storage.write(key, CONTENT),
            lambda storage, key: storage.read(key),
            lambda storage, keys: storage.delete_many(keys),
        ),
        ours=True,
    )


def small_obstore(where: Remote, keys: Sequence[str]) -> Contender:
    """Return obstore at many small files."""
    return Contender(
        "obstore put, get, delete",
        working(
            where,
            where.obstore,
            keys,
            lambda store, key: OBSTORE.load().put(store, key, CONTENT),
            lambda store, key: bytes(OBSTORE.load().get(store, key).bytes()),
            lambda store, keys: OBSTORE.load().delete(store, list(keys)),
        ),
        needs=[OBSTORE],
    )


def files(bench: Bench, share: int = 1) -> int:
    """Return how many files this run has: hundreds where the frame counts in thousands, for they go one by one."""
    return max(FEWEST, round(FILES * bench.scale)) // share


def working(
    where: Somewhere, make: Callable[[], Any], keys: Sequence[str], up: Up, down: Down, delete: Delete
) -> Callable[[], Work]:
    """Return what prepares the three steps; each notes its time.

    Looked at is how many files came back as they were, and how many objects are left of them.
    """

    def prepare() -> Work:
        made, left = make(), where.counts()
        before = left()  # nothing, unless a contender failed

        def work() -> Callable[[], tuple[int, int]]:
            begun = time.perf_counter()
            for key in keys:
                up(made, key)
            stored = time.perf_counter()
            same = sum(down(made, key) == CONTENT for key in keys)
            fetched = time.perf_counter()
            delete(made, keys)
            note("up", stored - begun)
            note("down", fetched - stored)
            note("deleted", time.perf_counter() - fetched)
            return lambda: (same, max(0, left() - before))

        return work

    return prepare


def counting(where: Somewhere, make: Callable[[], Any], act: Callable[[Any], object]) -> Callable[[], Work]:
    """Return what prepares *act* on what *make* makes; it notes how many bytes passed between the server and us."""
    assert where.distance is not None
    distance = where.distance

    def prepare() -> Work:
        made = make()

        def work() -> object:
            before = distance.moved()
            result = act(made)
            note(MOVED, distance.moved() - before)
            return result

        return work

    return prepare


def copying(
    where: Somewhere, make: Callable[[], Any], act: Callable[[Any, str], object], key: str
) -> Callable[[], Work]:
    """Return what prepares a copy, which is looked at afterwards; it notes how many bytes passed."""

    def copy(made: tuple[Any, Callable[[str], int]]) -> Callable[[], int]:
        act(made[0], key)
        return lambda: made[1](key)

    return counting(where, lambda: (make(), where.sizes()), copy)
