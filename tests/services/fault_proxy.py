"""A TCP proxy that injects faults: latency, limited rates, cut or refused connections, flipped bits.

It does not interpret the bytes, so it works before any server, with TLS or without. Faults in terms of HTTP are for
`scripted_proxy`.
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

_CHUNK = 64 * 1024  # the most that is read at once
_BACKLOG = 16 * 1024 * 1024  # bytes in transit per direction; a latency that needs more limits the rate
_TICK = 0.02  # seconds; the granularity of a limited rate
_CLOSE_TIMEOUT = 5  # seconds; for the peer to receive everything and to close in turn
_TIMEOUT = 30  # seconds; for what should happen immediately

_Result = TypeVar("_Result")


@dataclass
class Faults:
    """The faults of one direction. Positions count from the start of each connection.

    A change takes effect immediately, also for open connections.
    """

    latency: float = 0
    """The delay of each byte in seconds. It does not limit the rate."""
    rate: float | None = None
    """Bytes per second, for each connection."""
    cut_after: int | None = None
    """How many bytes pass; the next one cuts the connection."""
    cut_by: Literal["reset", "close", "stall"] = "reset"
    """How it is cut: both peers see a reset; both see an orderly end; or no more bytes pass, without an end."""
    cut_times: int | None = None
    """How many connections are cut from now on; None is all of them."""
    corrupt_at: int | None = None
    """The position of the byte whose lowest bit is flipped."""
    corrupt_times: int | None = None
    """In how many connections it is flipped; None is all of them."""

    def take_cut(self) -> bool:
        """Count one cut, and return whether it is to be made."""
        if self.cut_times is not None:
            if self.cut_times < 1:
                return False
            self.cut_times -= 1
        return True

    def take_corruption(self) -> bool:
        """Count one flipped bit, and return whether it is to be flipped."""
        if self.corrupt_times is not None:
            if self.corrupt_times < 1:
                return False
            self.corrupt_times -= 1
        return True


@dataclass
class Counters:
    """What has happened since the proxy was started."""

    connections: int = 0
    """Accepted connections."""
    up: int = 0
    """Bytes passed on from clients to the server."""
    down: int = 0
    """Bytes passed on from the server to clients."""
    cuts: int = 0
    """Connections that a fault has cut, or stalled."""
    closed: int = 0
    """Connections that have ended, on either side."""


@dataclass(eq=False)
class _End:
    """One end of a connection through the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Reset the connection: the peer loses what is in transit."""
        with contextlib.suppress(OSError):
            self.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self.writer.transport.abort()

    async def reset_after_delivery(self) -> None:
        """Reset the connection after the peer's kernel has everything; otherwise a reset would discard it."""
        connection = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                while struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]:  # noqa: ASYNC110 -- the kernel sets no event
                    await asyncio.sleep(0.001)
        self.reset()

    async def close_orderly(self) -> None:
        """Close the connection orderly: closing a socket with unread bytes would send a reset."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            self.writer.write_eof()
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                while await self.reader.read(_CHUNK):
                    pass


@dataclass(eq=False)
class _Direction:
    """One direction of a connection, with the bytes in transit."""

    faults: Callable[[], Faults]
    source: _End
    target: _End
    count: Callable[[int], None]
    position: int = 0
    pending: int = 0
    queue: asyncio.Queue[tuple[float, bytes]] = field(default_factory=asyncio.Queue)
    delivered: asyncio.Event = field(default_factory=asyncio.Event)


class _CutError(Exception):
    """A fault ends the connection.

    Args:
        orderly: Whether the peers see an orderly end, rather than a reset.
    """

    def __init__(self, *, orderly: bool) -> None:
        super().__init__()
        self.orderly = orderly


class FaultProxy:
    """A proxy before one server, with its own port and thread. It is a context manager.

    Set ``up`` (client to server) and ``down`` (server to client) at any time; :meth:`remove_faults` removes all faults.

    Args:
        host: The host of the server.
        port: The port of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.up = Faults()
        self.down = Faults()
        self.counters = Counters()
        self._changed = threading.Condition()
        # A bound port stays reserved while the proxy does not listen and connections are refused.
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
        """Host and port, as in a URL."""
        return f"127.0.0.1:{self.port}"

    def accept(self) -> None:
        """Accept connections, as from the start."""
        self._run(self._listen())

    def refuse(self) -> None:
        """Refuse new connections; open ones continue."""
        self._run(self._stop_listening())

    def kill(self) -> None:
        """Reset all open connections."""
        self._run(self._kill())

    def remove_faults(self) -> None:
        """Remove all faults and accept connections; stalled connections stay stalled until :meth:`kill`."""
        self.up = Faults()
        self.down = Faults()
        self.accept()

    def wait_until(self, reached: Callable[[Counters], bool]) -> None:
        """Block until the counters fulfil *reached*.

        Args:
            reached: Called whenever a counter has changed.

        Raises:
            AssertionError: When this takes longer than 30 seconds.
        """
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self.counters), _TIMEOUT), (
                f"the condition is not fulfilled: {self.counters}"
            )

    def close(self) -> None:
        """Reset all connections and stop; idempotent."""
        if self._loop.is_closed():
            return
        self._run(self._stop_listening())
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
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_TIMEOUT)

    async def _listen(self) -> None:
        if self._listener is None:
            listener = _bound(self.port)
            listener.listen(128)
            self._listener = await asyncio.start_server(self._accepted, sock=listener)

    async def _stop_listening(self) -> None:
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
        """Cancel all remaining tasks, such as of a connection that was accepted while the others were reset.

        Otherwise they would cause warnings in a later test.
        """
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def _count(self, **increments: int) -> None:
        with self._changed:
            for name, number in increments.items():
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
                end.writer.transport.set_write_buffer_limits(
                    0
                )  # so that drain() returns when the kernel has everything
                end.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client, server = ends
            directions = (
                _Direction(lambda: self.up, client, server, lambda number: self._count(up=number)),
                _Direction(lambda: self.down, server, client, lambda number: self._count(down=number)),
            )
            # The first error ends all four tasks.
            async with asyncio.TaskGroup() as group:
                for direction in directions:
                    group.create_task(self._read(direction))
                    group.create_task(self._write(direction))
        except* OSError:
            for end in ends:
                end.reset()
        except* _CutError as errors:
            orderly = all(error.orderly for error in errors.exceptions if isinstance(error, _CutError))
            await asyncio.gather(*(end.close_orderly() if orderly else end.reset_after_delivery() for end in ends))
        finally:
            for end in ends:
                end.writer.close()
            self._count(closed=1)

    async def _read(self, direction: _Direction) -> None:
        """Read until the end; an empty chunk in the queue is the end."""
        while True:
            faults = direction.faults()
            size = _CHUNK if faults.rate is None else max(1, min(_CHUNK, int(faults.rate * _TICK)))
            chunk = await direction.source.reader.read(size)
            faults = direction.faults()  # they may have changed during the read
            cut = len(chunk)
            if (
                faults.cut_after is not None
                and direction.position + len(chunk) > faults.cut_after
                and faults.take_cut()
            ):
                cut = max(0, faults.cut_after - direction.position)
            is_cut = cut < len(chunk)
            chunk = _corrupted(chunk[:cut], direction.position, faults)
            direction.position += len(chunk)
            await self._enqueue(direction, chunk, faults, end=not is_cut)
            if is_cut:
                await self._cut(direction, faults.cut_by)
                return
            if not chunk:
                return
            if faults.rate is not None:
                await asyncio.sleep(len(chunk) / faults.rate)

    async def _enqueue(self, direction: _Direction, chunk: bytes, faults: Faults, *, end: bool) -> None:
        if not chunk and not end:
            return
        while direction.pending > _BACKLOG:
            direction.delivered.clear()
            await direction.delivered.wait()
        direction.pending += len(chunk)
        direction.queue.put_nowait((self._loop.time() + faults.latency, chunk))

    async def _write(self, direction: _Direction) -> None:
        """Write each chunk when its latency has passed."""
        while True:
            due, chunk = await direction.queue.get()
            await asyncio.sleep(max(0, due - self._loop.time()))
            if not chunk:
                direction.target.writer.write_eof()
                return
            direction.count(len(chunk))  # before the peer can receive it
            direction.target.writer.write(chunk)
            await direction.target.writer.drain()
            direction.pending -= len(chunk)
            direction.queue.task_done()
            direction.delivered.set()

    async def _cut(self, direction: _Direction, how: str) -> None:
        while direction.pending:  # deliver everything before the cut
            direction.delivered.clear()
            await direction.delivered.wait()
        self._count(cuts=1)
        if how == "stall":
            await asyncio.Event().wait()
        raise _CutError(orderly=how == "close")


def _bound(port: int) -> socket.socket:
    """Return a socket that is bound to this port, also if another one is bound to it and does not listen."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _corrupted(chunk: bytes, position: int, faults: Faults) -> bytes:
    if faults.corrupt_at is None or not position <= faults.corrupt_at < position + len(chunk):
        return chunk
    if not faults.take_corruption():
        return chunk
    index = faults.corrupt_at - position
    return chunk[:index] + bytes([chunk[index] ^ 1]) + chunk[index + 1 :]
