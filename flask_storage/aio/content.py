"""The content that coroutines store: which objects are accepted, and how threads read them."""

from __future__ import annotations

import inspect
import logging
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeGuard, cast

from ..backends.base import StorageBackend
from ..errors import StorageError
from ..streams import SupportsRead
from ..types import WriteArguments
from .threads import StorageThreads, ThreadedFile

logger = logging.getLogger("flask_storage")

CHUNK_SIZE = 1024 * 1024
_SPOOL_BYTES = 8 * CHUNK_SIZE


class SupportsAsyncRead(Protocol):
    """An object with a coroutine method ``read(size)`` that returns bytes."""

    async def read(self, size: int, /) -> Any:
        """Return up to *size* bytes, ``b""`` at the end."""


Content: TypeAlias = "bytes | bytearray | memoryview | SupportsRead | SupportsAsyncRead | AsyncIterable[bytes]"
"""What :meth:`AsyncStorage.save <flask_storage.aio.AsyncStorage.save>` stores."""


def is_async(content: object) -> TypeGuard[SupportsAsyncRead | AsyncIterable[bytes]]:
    """Whether only the event loop can read *content*: an async iterable, or a file whose ``read`` is a coroutine."""
    return hasattr(content, "__aiter__") or inspect.iscoroutinefunction(getattr(content, "read", None))


def open_spool(threads: StorageThreads) -> ThreadedFile[BinaryIO]:
    """Return a temporary file, for `async with`: it is in memory up to 8 MiB, and then on disk."""
    return ThreadedFile(
        threads,
        lambda: cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)),
    )


async def fill_spool(spool: ThreadedFile[BinaryIO], content: SupportsAsyncRead | AsyncIterable[bytes]) -> None:
    """Copy *content* into *spool*, in chunks of at least 1 MiB, and move to the beginning.

    Raises:
        TypeError: when *content* yields anything but bytes.
    """
    buffer = bytearray()
    async with aclosing(_pieces(content)) as pieces:
        async for piece in pieces:
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise TypeError(f"the content yielded {type(piece).__name__}, not bytes")
            buffer += piece
            if len(buffer) >= CHUNK_SIZE:
                await spool.run(spool.file.write, buffer)
                buffer = bytearray()
    await spool.run(spool.file.write, buffer)
    spool.file.seek(0)


async def _pieces(content: Any) -> AsyncGenerator[Any]:
    if hasattr(content, "__aiter__"):
        async for piece in content:
            yield piece
    else:
        while piece := await content.read(CHUNK_SIZE):
            yield piece


class CallerCancelledError(Exception):
    """Ends a call in a thread whose caller was cancelled. No caller sees it."""


class CancellableSource:
    """Reads a binary file for a storage, until :meth:`cancel` is called.

    Whether it can be rewound is a property of the file: ``seek`` is the method of the file itself.
    """

    def __init__(self, file: SupportsRead) -> None:
        self._file = file
        self._is_cancelled = False
        for name in ("seek", "tell"):
            if hasattr(file, name):
                setattr(self, name, getattr(file, name))

    def cancel(self) -> None:
        """Make every further read fail."""
        self._is_cancelled = True

    def read(self, size: int = -1, /) -> Any:
        """Return what the file returns.

        Raises:
            CallerCancelledError: after :meth:`cancel`.
        """
        if self._is_cancelled:
            raise CallerCancelledError
        return self._file.read(size)


class SaveCall:
    """One call of ``save`` in a thread; a caller that is cancelled leaves no file.

    Args:
        storage: The storage.
        name: The requested path.
        file: The content.
        arguments: Further arguments of ``save``.
    """

    def __init__(self, storage: StorageBackend, name: str, file: SupportsRead, arguments: WriteArguments) -> None:
        self._storage = storage
        self._name = name
        self._source = CancellableSource(file)
        self._arguments = arguments
        self._path: str | None = None
        self._finished_first = threading.Lock()  # acquired by the call when it has saved, or by the caller that cancels

    def __call__(self) -> str:
        """Save the content and return its path."""
        self._path = self._storage.save(self._name, self._source, **self._arguments)
        if not self._finished_first.acquire(blocking=False):
            self._delete()
        return self._path

    def cancel(self, submit: Callable[[Callable[[], None]], object]) -> None:
        """Stop the call; a file that it has stored is deleted in a thread, by the call itself or by *submit*."""
        self._source.cancel()
        if not self._finished_first.acquire(blocking=False):
            submit(self._delete)

    def _delete(self) -> None:
        # No caller knows the path, because save() never returns one that existed.
        path = cast(str, self._path)
        try:
            self._storage.delete(path)
        except StorageError as error:
            logger.warning(
                "%r was saved in %r by a cancelled call and cannot be deleted: %s", path, self._storage.name, error
            )
