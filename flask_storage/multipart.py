"""Multipart uploads: the interface that a backend implements, and the writer that uses it.

Upload ids are explicit, so that an upload can be created, filled and completed in different requests and processes. The
caller is responsible for buffering, threads and retries; :class:`MultipartWriter` does that for one open file.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from .errors import StorageTimeoutError, StorageUnavailableError, TooLargeError
from .files import RemoteFile
from .types import FileMode, WriteOptions

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part that was uploaded.

    Attributes:
        number: At least 1; parts are joined in the order of their numbers.
        size: In bytes.
        etag: Identifies the content; :meth:`MultipartStore.complete` compares it.
    """

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingUpload:
    """An upload that was created and neither completed nor aborted."""

    path: str
    upload_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLimits:
    """The limits of a backend for parts.

    Attributes:
        min_size: The smallest size of a part, except the last one, in bytes.
        max_size: The largest size of a part in bytes; None for no limit.
        max_count: The largest number of parts of one upload.
        uniform: Whether all parts, except the last one, must have the same size.
    """

    min_size: int = 0
    max_size: int | None = None
    max_count: int = 10_000
    uniform: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSizing:
    """The sizes of the parts of one upload, chosen so that the part numbers suffice.

    Attributes:
        first: The size of the first part, in bytes.
        grows: Whether later parts are larger, for an upload of unknown size: the first fifth of the allowed parts have
            the size *first*, and after that the size doubles every 8 % of them. With parts of 5 MiB, parts grow after
            10 GiB, and 10,000 parts hold more than 5 TiB.
    """

    first: int
    grows: bool

    @classmethod
    def for_upload(cls, limits: PartLimits, chunk_size: int, size: int | None) -> PartSizing:
        """Return the sizing for *size* bytes (None: unknown) in parts of at least *chunk_size* bytes."""
        first = max(chunk_size, limits.min_size)
        if size is not None:
            needed = -(-size // limits.max_count)
            if needed > first:
                first = -(-needed // _SIZE_UNIT) * _SIZE_UNIT
        return cls(first=min(first, limits.max_size or first), grows=size is None and not limits.uniform)

    def size_of(self, number: int, limits: PartLimits) -> int:
        """Return the size of part *number*, in bytes."""
        equal_parts = limits.max_count // 5
        if not self.grows or number <= equal_parts:
            return self.first
        doublings = 1 + (number - equal_parts - 1) // max(limits.max_count * 8 // 100, 1)
        return min(self.first << doublings, limits.max_size or self.first << doublings)


_SIZE_UNIT = 1024 * 1024
"""Computed part sizes are rounded up to a multiple of this number of bytes."""


class MultipartStore(ABC):
    """The multipart calls that a backend implements. Nothing is visible before :meth:`complete` or :meth:`put`.

    Options are passed twice, because services expect them in different calls: :meth:`create` gets what is stored with
    the file (content headers and metadata), :meth:`complete` the conditions (``exclusive``, ``if_match``, ``size``,
    ``checksum``), and headers again if they have changed.
    """

    limits = PartLimits()

    @abstractmethod
    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """Store a small file in one request, atomically."""

    @abstractmethod
    def create(self, path: str, options: WriteOptions) -> str:
        """Create an upload and return its id, which is not guessable.

        Raises:
            ValueError: when *options* contain conditions, which belong to :meth:`complete`.
        """

    @abstractmethod
    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Store one part, replacing one with the same number. Parts may be uploaded in any order, and concurrently.

        Raises:
            FileNotFoundInStorageError: when the upload does not exist (any more).
        """

    @abstractmethod
    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Join *parts* and publish them under *path*, atomically.

        Raises:
            IntegrityError: when *parts* is empty or has duplicates, or a part is missing or differs from the stored
                one. The upload is kept.
            FileExistsInStorageError: when *options* are exclusive and the file exists.
        """

    @abstractmethod
    def abort(self, path: str, upload_id: str) -> None:
        """Delete an upload and its parts. Idempotent: an upload that does not exist is not an error."""

    @abstractmethod
    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return the parts that are stored, ordered by number."""

    @abstractmethod
    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield the pending uploads below the directory *path*."""

    def abort_older(self, before: datetime, error_class: type[Exception]) -> int:
        """Abort every upload that was started before a time, and return their number.

        One that cannot be aborted does not end this: its error, of *error_class*, is raised after all others are.
        """
        count = 0
        failed = None
        for upload in list(self.list_uploads()):
            if upload.started_at < before:
                try:
                    self.abort(upload.path, upload.upload_id)
                    count += 1
                except error_class as error:
                    failed = failed or error
        if failed is not None:
            raise failed
        return count


class MultipartWriter(RemoteFile):
    """Writes one file through a :class:`MultipartStore`, and uploads parts in parallel while the next one is written.

    Content that fits into one part, also an empty file, is stored by a single :meth:`MultipartStore.put`. Otherwise
    worker threads upload each full part. While *concurrency* uploads are in flight, ``write`` blocks, so at most
    ``chunk_size * (concurrency + 1)`` bytes are held; where parts grow (see :class:`PartSizing`), the current part size
    replaces ``chunk_size``. A part that fails because the backend is unavailable is retried once. When a part fails, or
    the file is aborted, the upload is aborted once the parts in flight have ended.

    Args:
        store: The multipart calls of the backend.
        path: The path of the file.
        options: The write options; ``size`` is the expected size and sets the size of the parts.
        chunk_size: The size of a part, in bytes.
        concurrency: The largest number of part uploads in flight.
        workers: Returns the executor that uploads parts.
        size: An estimate of the size in bytes, if there is one; it is not enforced.
    """

    def __init__(
        self,
        store: MultipartStore,
        path: str,
        options: WriteOptions,
        *,
        chunk_size: int,
        concurrency: int,
        workers: Callable[[], Executor],
        size: int | None = None,
    ) -> None:
        super().__init__(FileMode.write)
        self.name = path
        self._target = path  # not `name`, which a storage that wraps another one sets to its own path of the file
        self._store = store
        self._options = options
        self._concurrency = concurrency
        self._workers = workers
        self._sizing = PartSizing.for_upload(store.limits, chunk_size, size if options.size is None else options.size)
        self.iter_chunk_size = self._sizing.first
        self._buffer = bytearray()
        self._full_part: memoryview | None = None
        self._upload_id: str | None = None
        self._in_flight: set[Future[Part]] = set()
        self._uploaded: list[Part] = []
        self._number = 1

    @property
    def part_size(self) -> int:
        """The size of the current part in bytes. Writes of this size avoid a copy."""
        return self._sizing.size_of(self._number, self._store.limits)

    def _write(self, view: memoryview) -> None:
        while len(view):
            if self._buffered_size() == self.part_size:
                self._submit_part()
            missing = self.part_size - self._buffered_size()
            if not self._buffer and len(view) >= missing and type(view.obj) is bytes:
                self._full_part = view[:missing]  # bytes are immutable, so a full part needs no copy
            else:
                self._buffer += view[:missing]
            view = view[missing:]
        if self._upload_id is not None and self._buffered_size() == self.part_size:
            self._submit_part()  # not the only part, so `put` is not possible any more

    def _publish(self) -> None:
        if self._upload_id is None:
            self._store.put(self._target, self._take_buffer(), self._options)
            return
        if self._buffered_size():
            self._submit_part()
        self._wait_for_parts(in_flight=0)
        parts = sorted(self._uploaded, key=lambda part: part.number)
        # The file has checked the expected size and checksum already.
        conditions = WriteOptions(exclusive=self._options.exclusive, if_match=self._options.if_match)
        self._store.complete(self._target, self._upload_id, parts, conditions)

    def _discard(self) -> None:
        self._cancel_parts()
        # A part that arrives after the abort would stay in the storage, so wait for the parts in flight first.
        wait(self._in_flight)
        self._in_flight.clear()
        if self._upload_id is not None:
            self._store.abort(self._target, self._upload_id)

    def _release(self) -> None:
        if self._pid == os.getpid():  # after a fork, the locks of the futures may be held for ever
            self._cancel_parts()

    def _cancel_parts(self) -> None:
        # Uploads that no thread has started are cancelled and not waited for: a thread may not be free for long.
        self._in_flight = {future for future in self._in_flight if not future.cancel()}
        self._buffer = bytearray()
        self._full_part = None

    # -- private ----------------------------------------------------------------------------------------------------

    def _buffered_size(self) -> int:
        return len(self._buffer) if self._full_part is None else len(self._full_part)

    def _take_buffer(self) -> ReadableBuffer:
        content = self._buffer if self._full_part is None else self._full_part
        self._buffer, self._full_part = bytearray(), None
        return content

    def _submit_part(self) -> None:
        """Submit the current part to a worker, once fewer than *concurrency* uploads are in flight."""
        if self._number > self._store.limits.max_count:
            raise TooLargeError(
                f"more than {self._count} bytes do not fit into {self._store.limits.max_count} parts: "
                "pass the expected size (size=…), or use a larger chunk_size"
            )
        if self._upload_id is None:
            self._upload_id = self._create_upload()
        self._wait_for_parts(in_flight=self._concurrency - 1)
        # No reference to this file, so that an unclosed writer is garbage-collected, and warns, immediately.
        args = (self._store, self._error_translator, self._target, self._upload_id, self._number, self._take_buffer())
        try:
            self._in_flight.add(self._workers().submit(_upload_part, *args))
        except RuntimeError:  # no thread can be started, as at interpreter shutdown
            self._uploaded.append(_upload_part(*args))
        self._number += 1

    def _create_upload(self) -> str:
        return self._store.create(self._target, self._stored_options())

    def _stored_options(self) -> WriteOptions:
        """Return the options that are stored with the file, without the conditions of completing."""
        return replace(self._options, exclusive=False, if_match=None, size=None, checksum=None)

    def _wait_for_parts(self, in_flight: int) -> None:
        """Wait until at most *in_flight* uploads are in flight; raise the error of one that failed."""
        done = {future for future in self._in_flight if future.done()}
        while True:
            self._in_flight -= done
            try:
                self._uploaded += [future.result() for future in done]
            except CancelledError:
                raise StorageUnavailableError(
                    "the storage was closed during the upload: write the file again"
                ) from None
            if len(self._in_flight) <= in_flight:
                return
            done, _ = wait(self._in_flight, return_when=FIRST_COMPLETED)


def _upload_part(
    store: MultipartStore,
    translator: AbstractContextManager[object],
    path: str,
    upload_id: str,
    number: int,
    data: ReadableBuffer,
) -> Part:
    try:
        with translator:
            return store.upload_part(path, upload_id, number, data)
    except StorageTimeoutError:
        raise  # not retried: the time-out has been waited for once
    except StorageUnavailableError:
        with translator:
            return store.upload_part(path, upload_id, number, data)
