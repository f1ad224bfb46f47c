"""The interface of coroutine storages, and the coroutine API of any backend."""

from __future__ import annotations

import asyncio
import io
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import ParamSpec, Protocol, TypeVar, Unpack, cast

from ..backends.base import StorageBackend
from ..files import RemoteFile
from ..profiles import current_storage
from ..streams import SupportsRead
from ..types import (
    Expiry,
    FileInfo,
    FormArguments,
    LinkArguments,
    ListEntry,
    PresignedUpload,
    ProgressCallback,
    ShareLinkOperation,
    WriteArguments,
)
from ..validation import check_count
from .content import CHUNK_SIZE, CancellableSource, Content, SaveCall, fill_spool, is_async, open_spool
from .threads import StorageThreads, ThreadedFile

P = ParamSpec("P")
T = TypeVar("T")


class Storage(ABC):
    """The interface of a storage for coroutines: five methods, as in openviper. Subclass it for a service of your own.

    It has nothing to do with the extension :class:`flask_storage.Storage`. For a backend of this package, use
    :class:`AsyncStorage`.

    >>> class Nowhere(Storage):
    ...     async def save(self, name, content):
    ...         return name
    ...
    ...     async def delete(self, name): ...
    ...
    ...     async def exists(self, name):
    ...         return False
    ...
    ...     def url(self, name):
    ...         return f"https://example.com/{name}"
    ...
    ...     async def size(self, name):
    ...         return 0
    """

    @abstractmethod
    async def save(self, name: str, content: Content) -> str:
        """Store *content* under *name* or a similar path, and return that path; never replace a file."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Delete a file. A missing file is no error."""

    @abstractmethod
    async def exists(self, name: str) -> bool:
        """Return whether a file exists."""

    @abstractmethod
    def url(self, name: str) -> str:
        """Return the public URL of a file."""

    @abstractmethod
    async def size(self, name: str) -> int:
        """Return the size of a file in bytes."""


class AsyncStorage(Storage):
    """The coroutine (async) API of a storage.

    Every operation is that of :class:`~flask_storage.StorageBackend`, with the same arguments and errors, called in a
    thread: no operation blocks the event loop. The threads belong to the storage; a service that does not respond
    blocks no calls of other storages. An object may be used in any number of event loops, and costs nothing: a view
    can make one for each request.

    A coroutine that is cancelled returns at once. The thread cannot be stopped; it ends within the time-outs of the
    backend. A cancelled :meth:`save` leaves no file then. A cancelled :meth:`write`, :meth:`put`, :meth:`copy`,
    :meth:`move` or deletion may still take effect, as a whole.

    Args:
        backend: A storage, or the name of a profile of the current app.
        threads: The greatest number of threads for this storage, in one process. The first object that is used for a
            storage decides.

    >>> from flask_storage import MemoryStorage
    >>> files = AsyncStorage(MemoryStorage())
    >>> asyncio.run(files.write("a.txt", b"hello"))
    >>> asyncio.run(files.size("a.txt"))
    5
    """

    def __init__(self, backend: StorageBackend | str, *, threads: int = 16) -> None:
        unchecked: object = backend  # callers may ignore the annotation
        if not isinstance(unchecked, StorageBackend | str):
            raise TypeError(f"AsyncStorage needs a storage or the name of a profile, not {type(backend).__name__}")
        check_count("threads", threads, 1)
        self._backend = backend
        self._thread_count = threads

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._backend!r}>"

    @property
    def backend(self) -> StorageBackend:
        """The storage itself, with the same operations for threads.

        Raises:
            UnknownProfileError: when the current app has no profile of that name.
            RuntimeError: when a profile is named outside of an application context.
        """
        return self._backend if isinstance(self._backend, StorageBackend) else current_storage[self._backend]

    # -- the interface ------------------------------------------------------------------------------------------------

    async def save(self, name: str, content: Content, **arguments: Unpack[WriteArguments]) -> str:
        """Store content under a user-supplied name, and never replace a file: see ``StorageBackend.save``.

        Async content is copied into a temporary file first, which is in memory up to 8 MiB: a slow client holds neither
        a thread nor a connection.

        Args:
            name: The requested path; it may be untrusted input.
            content: Bytes, a binary file, an async iterable of bytes, or an object with a coroutine method ``read``. A
                binary file is read in a thread: do not close it before this returns.
            **arguments: See :class:`~flask_storage.types.WriteOptions`.

        Returns:
            The path of the stored file.

        Raises:
            TypeError: for text, or content of another kind.
        """
        async with self._binary_file(content) as (file, run):
            call = SaveCall(self.backend, name, file, arguments)
            try:
                return await run(call)
            except asyncio.CancelledError:
                call.cancel(self._threads.submit)
                raise

    async def delete(self, name: str) -> None:
        """Delete a file. A missing file is no error."""
        await self._run(self.backend.delete, name)

    async def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return await self._run(self.backend.exists, name)

    def url(self, name: str) -> str:
        """Return the public URL of a file, without asking the service."""
        return self.backend.url(name)

    async def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return await self._run(self.backend.size, name)

    # -- content ------------------------------------------------------------------------------------------------------

    async def write(self, path: str, content: Content, **arguments: Unpack[WriteArguments]) -> None:
        """Store content at *path*, replacing an existing file atomically; kinds of content as for :meth:`save`."""
        async with self._binary_file(content) as (file, run):
            source = CancellableSource(file)
            try:
                await run(self.backend.upload, source, path, **arguments)
            except asyncio.CancelledError:
                source.cancel()
                raise

    async def read(self, name: str, *, max_size: int | None = None) -> bytes:
        """Return a file's whole content."""
        return await self._run(self.backend.read, name, max_size=max_size)

    def iter_chunks(self, name: str, chunk_size: int = CHUNK_SIZE) -> AsyncGenerator[bytes]:
        """Yield a file's content in chunks of *chunk_size* bytes; all are of the same version of the file.

        The file is opened by the first step of the iteration, which needs no application context: Quart iterates over
        the body of a response when the view has returned. It is closed when the iteration ends, also when that is
        abandoned or cancelled.
        """
        return self._iter_chunks(self._threads, partial(self.backend.open, name, "r"), chunk_size)

    async def get(
        self, path: str, dest: str | os.PathLike[str], *, progress_callback: ProgressCallback | None = None
    ) -> None:
        """Download to a local file. The callback is called in a thread."""
        await self._run(self.backend.get, path, dest, progress_callback=progress_callback)

    async def put(
        self,
        path: str | os.PathLike[str],
        dest: str,
        *,
        progress_callback: ProgressCallback | None = None,
        **arguments: Unpack[WriteArguments],
    ) -> None:
        """Store a local file. The callback is called in a thread."""
        await self._run(self.backend.put, path, dest, progress_callback=progress_callback, **arguments)

    # -- other operations ---------------------------------------------------------------------------------------------

    async def stat(self, path: str) -> FileInfo:
        """Return size, date, etag, headers and metadata of a file."""
        return await self._run(self.backend.stat, path)

    async def copy(self, path: str, new_path: str, *, exclusive: bool = False, if_match: str | None = None) -> None:
        """Copy a file with its headers and metadata; the target is replaced atomically."""
        await self._run(self.backend.copy, path, new_path, exclusive=exclusive, if_match=if_match)

    async def move(self, path: str, new_path: str, *, exclusive: bool = False, if_match: str | None = None) -> None:
        """Move a file."""
        await self._run(self.backend.move, path, new_path, exclusive=exclusive, if_match=if_match)

    async def delete_many(self, paths: Iterable[str]) -> None:
        """Delete files. Missing files are no error."""
        await self._run(self.backend.delete_many, paths)

    async def delete_prefix(self, path: str) -> int:
        """Delete all files below a directory and return their number."""
        return await self._run(self.backend.delete_prefix, path)

    async def link_to(
        self,
        path: str,
        operation: ShareLinkOperation | str,
        expire: Expiry | None = None,
        output_path: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> str:
        """Return a signed URL with which a client can download, upload or remove one file until it expires."""
        return await self._run(self.backend.link_to, path, operation, expire, output_path, content_type, **arguments)

    async def links_to(
        self,
        paths: Iterable[str],
        operation: ShareLinkOperation | str,
        expire: Expiry | None = None,
        *,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> list[str]:
        """Return one link for each path, in order."""
        return await self._run(self.backend.links_to, paths, operation, expire, content_type=content_type, **arguments)

    async def upload_request(
        self,
        path: str,
        expire: Expiry | None = None,
        *,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> PresignedUpload:
        """Return the request with which a browser uploads one file: method, URL, headers, form fields."""
        return await self._run(self.backend.upload_request, path, expire, content_type=content_type, **arguments)

    async def create_upload_form(
        self,
        path: str,
        expire: Expiry | None = None,
        *,
        max_size: int,
        min_size: int = 0,
        content_type: str | None = None,
        redirect_to: str | None = None,
        **arguments: Unpack[FormArguments],
    ) -> PresignedUpload:
        """Return an HTML form with which a browser uploads one file, also without JavaScript."""
        return await self._run(
            self.backend.create_upload_form,
            path,
            expire,
            max_size=max_size,
            min_size=min_size,
            content_type=content_type,
            redirect_to=redirect_to,
            **arguments,
        )

    async def confirm_upload(
        self,
        path: str,
        *,
        size: int | None = None,
        max_size: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        cache_control: str | None = None,
        checksum: str | None = None,
        move_to: str | None = None,
    ) -> FileInfo:
        """Check a file that a client has uploaded by a link, and delete it if it is not as expected."""
        return await self._run(
            self.backend.confirm_upload,
            path,
            size=size,
            max_size=max_size,
            content_type=content_type,
            content_encoding=content_encoding,
            cache_control=cache_control,
            checksum=checksum,
            move_to=move_to,
        )

    async def check(self) -> None:
        """Check that the storage works."""
        await self._run(self.backend.check)

    async def sweep(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Remove temporary files and uploads that were never completed, and return their number."""
        return await self._run(self.backend.sweep, older_than)

    async def list(self, path: str = "", *, prefix: str | None = None, recursive: bool = True) -> list[ListEntry]:
        """Return every file below the directory *path*, sorted by full path."""
        return await self._run(self.backend.list, path, prefix=prefix, recursive=recursive)

    # -- inner --------------------------------------------------------------------------------------------------------

    @property
    def _threads(self) -> StorageThreads:
        return StorageThreads(self.backend, self._thread_count)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._threads.run(function, *args, **kwargs)

    async def _iter_chunks(
        self, threads: StorageThreads, open_file: Callable[[], RemoteFile], chunk_size: int
    ) -> AsyncGenerator[bytes]:
        async with ThreadedFile(threads, open_file) as reader:
            while chunk := await reader.run(reader.file.read, chunk_size):
                yield chunk

    @asynccontextmanager
    async def _binary_file(self, content: Content) -> AsyncIterator[tuple[SupportsRead, _Run]]:
        """Yield *content* as a binary file, and the function that calls others with this file in a thread."""
        if isinstance(content, bytes | bytearray | memoryview):
            yield io.BytesIO(content), self._run
        elif is_async(content):
            async with open_spool(self._threads) as spool:
                await fill_spool(spool, content)
                yield spool.file, spool.run
        elif hasattr(content, "read"):
            yield cast(SupportsRead, content), self._run
        else:
            raise TypeError(
                "content must be bytes, a binary file, an async iterable of bytes, or an object with a coroutine "
                f"method read, not {type(content).__name__}: encode text first"
            )


class _Run(Protocol):
    """Calls a function in a thread: :meth:`StorageThreads.run` or :meth:`ThreadedFile.run`."""

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Return the awaitable result."""
