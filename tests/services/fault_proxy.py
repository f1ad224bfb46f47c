"""A TCP proxy that is slow, breaks off, flips a bit or is not there, as a test tells it to.

It knows nothing of what passes through it, so it stands before any server, with TLS or without. Faults in terms of
HTTP are for `scripted_proxy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

_CHUNK = 64 * 1024  # the most that is taken at once
_BACKLOG = 16 * 1024 * 1024  # bytes on their way; more latency than this holds would limit the rate
_TICK = 0.02  # seconds; how finely a rate is dealt out
_LEAVE_WITHIN = 5  # seconds; for the other side to take what it was sent, and to end in turn
_WAIT = 30  # seconds; for what should happen at once

_Result = TypeVar("_Result")


@dataclass
class Faults:
    """What happens to the bytes of one direction. Positions count from the start of each connection.

    What is set holds at once, also for open connections.
    """

    latency: float = 0
    """Seconds that each byte is on its way. It does not limit how many are on their way at once."""
    rate: float | None = None
    """Bytes per second, for each connection on its own; 1 is a trickle."""
    cut_after: int | None = None
    """How many bytes get through; the next one cuts the connection."""
    cut_by: Literal["reset", "close", "stall"] = "reset"
    """How it is cut: both ends see a reset; both see an orderly end; nothing more comes and nobody is told."""
    cut_times: int | None = None
    """How many connections are cut, from now on; None is all of them."""
    corrupt_at: int | None = None
    """The position of the byte whose lowest bit is flipped."""
    corrupt_times: int | None = None
    """In how many connections it is flipped; None is all of them."""

    def take_cut(self) -> bool:
        """Count one cut, and say whether it was still to be made."""
        if self.cut_times is not None:
            if self.cut_times < 1:
                return False
            self.cut_times -= 1
        return True

    def take_corruption(self) -> bool:
        """Count one flipped bit, and say whether it was still to be flipped."""
        if self.corrupt_times is not None:
            if self.corrupt_times < 1:
                return False
            self.corrupt_times -= 1
        return True


@dataclass
class Counters:
    """What has happened since the proxy was started."""

    connections: int = 0
    """Accepted ones."""
    up: int = 0
    """Bytes passed on from clients to the server."""
    down: int = 0
    """Bytes passed on from the server to clients."""
    cuts: int = 0
    """Connections that a fault has cut, or stalled."""
    closed: int = 0
    """Connections that have ended, whoever ended them."""


@dataclass(eq=False)
class _End:
    """One end of a connection through the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """End it so that the other side sees a reset, and loses what is on its way."""
        with contextlib.suppress(OSError):
            self.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self.writer.transport.abort()

    async def break_off(self) -> None:
        """Reset it, once what was promised has arrived: a reset overtakes what the kernel has not yet delivered."""
        connection = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            async with asyncio.timeout(_LEAVE_WITHIN):
                while struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]:  # noqa: ASYNC110 -- the kernel sets no event
                    await asyncio.sleep(0.001)
        self.reset()

    async def leave(self) -> None:
        """End it in order: a socket that is closed with something unread would send a reset instead."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            self.writer.write_eof()
            async with asyncio.timeout(_LEAVE_WITHIN):
                while await self.reader.read(_CHUNK):
                    pass


@dataclass(eq=False)
class _Way:
    """One direction of a connection: from where, to where, and what is on its way."""

    faults: Callable[[], Faults]
    source: _End
    target: _End
    count: Callable[[int], None]
    position: int = 0
    waiting: int = 0
    queue: asyncio.Queue[tuple[float, bytes]] = field(default_factory=asyncio.Queue)
    room: asyncio.Event = field(default_factory=asyncio.Event)


class _CutError(Exception):
    """A fault ends the connection.

    Args:
        orderly: Whether both ends see an end, rather than a reset.
    """

    def __init__(self, *, orderly: bool) -> None:
        super().__init__()
        self.orderly = orderly


class FaultProxy:
    """A proxy on a port of its own before one server. It is a context manager; it runs in a thread of its own.

    Set ``up`` (client to server) and ``down`` (server to client) at any time; :meth:`heal` takes all faults away.

    Args:
        host: Of the server.
        port: Of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.up = Faults()
        self.down = Faults()
        self.counters = Counters()
        self._changed = threading.Condition()
        # A port that is bound stays ours, also while nobody listens and connections are refused.
        self._reservation = _bound(0)
        self.port = int(self._reservation.getsockname()[1])
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[_End]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._thread.start()
        self.accept()

    @property
    def address(self) -> str:
        """Host and port, as they stand in a URL."""
        return f"127.0.0.1:{self.port}"

    def accept(self) -> None:
        """Take connections, as it does from the start."""
        self._run(self._listen())

    def refuse(self) -> None:
        """Refuse new connections, as where nothing listens; the open ones go on."""
        self._run(self._deafen())

    def kill(self) -> None:
        """Reset all connections that are open now."""
        self._run(self._kill())

    def heal(self) -> None:
        """Take all faults away and accept connections; stalled ones stay as they are, until :meth:`kill`."""
        self.up = Faults()
        self.down = Faults()
        self.accept()

    def wait_until(self, reached: Callable[[Counters], bool]) -> None:
        """Return when the counters are as *reached* wants them.

        Args:
            reached: Asked whenever a counter has changed.

        Raises:
            AssertionError: When this takes longer than half a minute.
        """
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self.counters), _WAIT), f"it stays at {self.counters}"

    def close(self) -> None:
        """Reset all connections and stop; nothing happens the second time."""
        if self._loop.is_closed():
            return
        self._run(self._deafen())
        self._run(self._kill())
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reservation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT)

    async def _listen(self) -> None:
        if self._listener is None:
            listener = _bound(self.port)
            listener.listen(128)
            self._listener = await asyncio.start_server(self._accepted, sock=listener)

    async def _deafen(self) -> None:
        if self._listener is not None:
            # Not wait_closed(): from Python 3.12 on it waits for the open connections too.
            self._listener.close()
            self._listener = None

    async def _kill(self) -> None:
        tasks = list(self._connections)
        for task, ends in self._connections.items():
            for end in ends:
                end.reset()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self) -> None:
        """Wait for whatever still goes on, such as a connection that was accepted while the others were reset.

        The garbage collector would complain of it in some later test.
        """
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def _count(self, **more: int) -> None:
        with self._changed:
            for name, number in more.items():
                setattr(self.counters, name, getattr(self.counters, name) + number)
            self._changed.notify_all()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [_End(reader, writer)]
        task = self._loop.create_task(self._serve(ends))
        self._connections[task] = ends
        task.add_done_callback(self._connections.pop)
        self._count(connections=1)

    async def _serve(self, ends: list[_End]) -> None:
        try:
            ends.append(_End(*await asyncio.open_connection(*self._server)))
            for end in ends:
                end.writer.transport.set_write_buffer_limits(0)  # drained means: the kernel has it
                end.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client, server = ends
            ways = (
                _Way(lambda: self.up, client, server, lambda number: self._count(up=number)),
                _Way(lambda: self.down, server, client, lambda number: self._count(down=number)),
            )
            # The first that fails ends all four.
            async with asyncio.TaskGroup() as group:
                for way in ways:
                    group.create_task(self._take(way))
                    group.create_task(self._give(way))
        except* OSError:
            for end in ends:
                end.reset()
        except* _CutError as errors:
            orderly = all(error.orderly for error in errors.exceptions if isinstance(error, _CutError))
            await asyncio.gather(*(end.leave() if orderly else end.break_off() for end in ends))
        finally:
            for end in ends:
                end.writer.close()
            self._count(closed=1)

    async def _take(self, way: _Way) -> None:
        """Read until the end; an empty piece in the queue is the end."""
        while True:
            faults = way.faults()
            size = _CHUNK if faults.rate is None else max(1, min(_CHUNK, int(faults.rate * _TICK)))
            piece = await way.source.reader.read(size)
            faults = way.faults()  # they may have changed while we waited
            cut = len(piece)
            if faults.cut_after is not None and way.position + len(piece) > faults.cut_after and faults.take_cut():
                cut = max(0, faults.cut_after - way.position)
            broken = cut < len(piece)
            piece = _corrupted(piece[:cut], way.position, faults)
            way.position += len(piece)
            await self._enqueue(way, piece, faults, end=not broken)
            if broken:
                await self._cut(way, faults.cut_by)
                return
            if not piece:
                return
            if faults.rate is not None:
                await asyncio.sleep(len(piece) / faults.rate)

    async def _enqueue(self, way: _Way, piece: bytes, faults: Faults, *, end: bool) -> None:
        if not piece and not end:
            return
        while way.waiting > _BACKLOG:
            way.room.clear()
            await way.room.wait()
        way.waiting += len(piece)
        way.queue.put_nowait((self._loop.time() + faults.latency, piece))

    async def _give(self, way: _Way) -> None:
        """Write what is due."""
        while True:
            due, piece = await way.queue.get()
            await asyncio.sleep(max(0, due - self._loop.time()))
            if not piece:
                way.target.writer.write_eof()
                return
            way.count(len(piece))  # before anybody can have it
            way.target.writer.write(piece)
            await way.target.writer.drain()
            way.waiting -= len(piece)
            way.queue.task_done()
            way.room.set()

    async def _cut(self, way: _Way, how: str) -> None:
        while way.waiting:  # what came before the cut arrives
            way.room.clear()
            await way.room.wait()
        self._count(cuts=1)
        if how == "stall":
            await asyncio.Event().wait()
        raise _CutError(orderly=how == "close")


def _bound(port: int) -> socket.socket:
    """A socket with this port, which others with this port may come to as long as they do not listen."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


def _corrupted(piece: bytes, position: int, faults: Faults) -> bytes:
    if faults.corrupt_at is None or not position <= faults.corrupt_at < position + len(piece):
        return piece
    if not faults.take_corruption():
        return piece
    place = faults.corrupt_at - position
    return piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]
