"""How late an event loop is while it receives slow uploads: the loop must serve other clients at the same time."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from flask_storage.aio import AsyncStorage

from ..frame import Bench, Contender, Stage, at_most, task
from ..meters import CPU, WALL, Work, note
from .files import make_directories
from .transfers import storage

UPLOADS = 20
PIECES, PIECE, PAUSE = 13, 100_000, 0.05  # 1.3 MB in 0.65 s
STAGGER = 0.05  # clients do not begin at the same moment
INTERVAL = 0.002
DELAY = "delay"


class SlowFile(io.RawIOBase):
    """A binary file of a client that needs 50 ms for each piece."""

    def __init__(self) -> None:
        """Begin with the first piece."""
        self.left = PIECES

    def read(self, size: int = -1, /) -> bytes:
        """Return the next piece."""
        if not self.left:
            return b""
        self.left -= 1
        time.sleep(PAUSE)
        return bytes(PIECE)


async def slow_pieces() -> AsyncIterator[bytes]:
    """Yield the same pieces in the event loop."""
    for _ in range(PIECES):
        await asyncio.sleep(PAUSE)
        yield bytes(PIECE)


async def note_delays(delays: list[float]) -> None:
    """Sleep again and again, and note how late the loop continues each time."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(INTERVAL)
        delays.append(time.perf_counter() - begin - INTERVAL)


async def measured(upload: Callable[[], Awaitable[object]]) -> int:
    """Make all uploads, one beginning soon after the other; note the delay of the loop, and return their number."""

    async def begin(number: int) -> object:
        await asyncio.sleep(number * STAGGER)
        return await upload()

    delays: list[float] = []
    watching = asyncio.ensure_future(note_delays(delays))
    await asyncio.sleep(10 * INTERVAL)
    done = await asyncio.gather(*(begin(number) for number in range(UPLOADS)))
    await asyncio.sleep(10 * INTERVAL)
    watching.cancel()
    delays.sort()
    note(DELAY, delays[len(delays) * 99 // 100])
    return len(done)


@task(
    "event-loop",
    f"{UPLOADS} slow uploads of {PIECES * PIECE / 1e6:g} MB in an event loop: the delay of the loop, 99th percentile",
    at_most(DELAY, 0.020, "async iterators: delay ≤ 20 ms"),
    at_most(DELAY, 0.020, "binary files: delay ≤ 20 ms", ours="save, binary files"),
    at_most(DELAY, 0.020, "bytes: delay ≤ 20 ms", ours="save, bytes"),
    columns=(WALL, CPU, DELAY),
)
def event_loop(bench: Bench) -> Iterator[Stage]:
    """Yield each kind of content, an idle loop, and a save that is called in the loop itself."""
    root = bench.directory / "root"
    make_directories(root)

    def make(upload: Callable[[AsyncStorage], Awaitable[object]]) -> Callable[[], Work]:
        def prepare() -> Work:
            files = AsyncStorage(storage(root))
            return lambda: asyncio.run(measured(lambda: upload(files)))

        return prepare

    async def collected(files: AsyncStorage) -> object:
        content = [piece async for piece in slow_pieces()]
        return await files.save("a.bin", b"".join(content))

    async def in_the_loop(files: AsyncStorage) -> object:
        return files.backend.save("a.bin", SlowFile())

    yield (
        [
            Contender("save, async iterators", make(lambda files: files.save("a.bin", slow_pieces())), ours=True),
            Contender("save, binary files", make(lambda files: files.save("a.bin", SlowFile())), ours=True),
            Contender("save, bytes", make(collected), ours=True),
            Contender("idle loop", make(lambda _: asyncio.sleep(PIECES * PAUSE))),
            Contender("storage.save, called in the loop", make(in_the_loop)),
        ],
        UPLOADS,
    )
