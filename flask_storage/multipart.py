"""Uploads in parts: the calls that a service supplies, and the writer that drives them.

Ids are explicit, so that an upload can be begun in one request, fed in others and finished in a last one, by other
processes. Whoever drives the calls owns buffering, threads and retries; :class:`MultipartWriter` does, for one open file.
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
    """One part that the place holds.

    Attributes:
        number: From 1 on; parts are joined in the order of their numbers.
        size: In bytes.
        etag: What the place calls this content; :meth:`MultipartStore.complete` compares it.
    """

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingUpload:
    """An upload that was begun and neither finished nor discarded."""

    path: str
    upload_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLimits:
    """What a place allows of parts.

    Attributes:
        min_size: Of every part but the last, in bytes.
        max_size: Of every part, in bytes; None for any.
        max_count: How many parts one upload may have.
        uniform: Whether all parts but the last must be of one size.
    """

    min_size: int = 0
    max_size: int | None = None
    max_count: int = 10_000
    uniform: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSizing:
    """How large each part of one upload is, so that nobody runs out of part numbers.

    Attributes:
        first: The size of the first part, in bytes.
        grows: Whether later parts are larger: where nobody knows how much will come, the first fifth of the allowed
            parts have one size, and then every 8 % of them are twice as large as those before. With parts of 5 MiB
            that is 10 GiB in parts of one size, and more than 5 TiB in 10,000 parts.
    """

    first: int
    grows: bool

    @classmethod
    def for_upload(cls, limits: PartLimits, chunk_size: int, size: int | None) -> PartSizing:
        """Make a plan for *size* bytes (None: nobody knows) in parts of at least *chunk_size*."""
        first = max(chunk_size, limits.min_size)
        if size is not None:
            enough = -(-size // limits.max_count)
            if enough > first:
                first = -(-enough // _STEP) * _STEP
        return cls(first=min(first, limits.max_size or first), grows=size is None and not limits.uniform)

    def size_of(self, number: int, limits: PartLimits) -> int:
        """Return the size of part *number*, in bytes."""
        settled = limits.max_count // 5
        if not self.grows or number <= settled:
            return self.first
        doublings = 1 + (number - settled - 1) // max(limits.max_count * 8 // 100, 1)
        return min(self.first << doublings, limits.max_size or self.first << doublings)


_STEP = 1024 * 1024


class MultipartStore(ABC):
    """The seven calls behind every upload in parts. Nothing is visible before :meth:`complete` or :meth:`put`.

    Options are given twice, because services want them at different ends: :meth:`create` takes what is kept (content
    headers and metadata), :meth:`complete` what is decided (``exclusive``, ``if_match``, ``size``, ``checksum``), and the
    headers once more where they have changed.
    """

    limits = PartLimits()

    @abstractmethod
    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """Store a small file in one go, atomically."""

    @abstractmethod
    def create(self, path: str, options: WriteOptions) -> str:
        """Open an upload and return its id, which nobody can guess.

        Raises:
            ValueError: when *options* hold what only :meth:`complete` decides.
        """

    @abstractmethod
    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Store one part; a number that was used before is replaced. Parts may come in any order and at once.

        Raises:
            FileNotFoundInStorageError: when there is no such upload (any more).
        """

    @abstractmethod
    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Join *parts* and publish them under *path*, atomically.

        Raises:
            IntegrityError: when there is no part, or one twice, or one is missing or not what was stored; the upload
                stays.
            FileExistsInStorageError: when *options* ask for an exclusive write and the name is taken.
        """

    @abstractmethod
    def abort(self, path: str, upload_id: str) -> None:
        """Forget an upload and free its parts; one that is gone is no error."""

    @abstractmethod
    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return the parts that have arrived, by number."""

    @abstractmethod
    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield the unfinished uploads below the folder *path*."""


class MultipartWriter(RemoteFile):
    """Writes one file through a :class:`MultipartStore`: parts go out in parallel while the next one is being written.

    Content that fits one part is stored by one :meth:`MultipartStore.put`, the empty file too. Of more, every full
    part is handed to a worker. When *concurrency* of them are on their way, writing waits until one has arrived, so at
    most ``chunk_size * (concurrency + 1)`` bytes are held; where parts grow (see :class:`PartSizing`), their current size
    counts. A part that the place did not take is sent once more. When a part fails for good, or the file is aborted,
    the upload is discarded, after the parts that are on their way.

    Args:
        store: The place's part calls.
        path: The file.
        options: How it is written; ``size`` is a promise and sets the size of the parts.
        chunk_size: The size of a part, in bytes.
        concurrency: How many parts may be on their way at once.
        workers: Gives the threads that send them.
        size: How much will come, as far as anybody knows; nothing is held to it.
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
        """The size of the part that is being filled, in bytes: writing so much at a time saves a copy."""
        return self._sizing.size_of(self._number, self._store.limits)

    def _write(self, view: memoryview) -> None:
        while len(view):
            if self._buffered_size() == self.part_size:
                self._submit_part()
            room = self.part_size - self._buffered_size()
            if not self._buffer and len(view) >= room and type(view.obj) is bytes:
                self._full_part = view[:room]  # bytes never change, so a whole part of them needs no copy
            else:
                self._buffer += view[:room]
            view = view[room:]
        if self._upload_id is not None and self._buffered_size() == self.part_size:
            self._submit_part()  # not the only part, so it need not wait for what comes after it

    def _publish(self) -> None:
        if self._upload_id is None:
            self._store.put(self.name, self._take_buffer(), self._options)
            return
        if self._buffered_size():
            self._submit_part()
        self._wait_for_parts(room=self._concurrency)
        parts = sorted(self._uploaded, key=lambda part: part.number)
        # Size and checksum are the file's own promises, which it has kept already.
        decided = WriteOptions(exclusive=self._options.exclusive, if_match=self._options.if_match)
        self._store.complete(self.name, self._upload_id, parts, decided)

    def _discard(self) -> None:
        self._cancel_parts()
        # A part that arrives after the upload was discarded would stay behind, so those on their way come first.
        wait(self._in_flight)
        self._in_flight.clear()
        if self._upload_id is not None:
            self._store.abort(self.name, self._upload_id)

    def _release(self) -> None:
        if self._pid == os.getpid():  # the child of a fork may find their locks held for ever
            self._cancel_parts()

    def _cancel_parts(self) -> None:
        # What no thread has taken up is called back, and not waited for: a thread may be long in coming.
        self._in_flight = {future for future in self._in_flight if not future.cancel()}
        self._buffer = bytearray()
        self._full_part = None

    # -- inner ------------------------------------------------------------------------------------------------------

    def _buffered_size(self) -> int:
        return len(self._buffer) if self._full_part is None else len(self._full_part)

    def _take_buffer(self) -> ReadableBuffer:
        content = self._buffer if self._full_part is None else self._full_part
        self._buffer, self._full_part = bytearray(), None
        return content

    def _submit_part(self) -> None:
        """Hand the full part to a worker, as soon as there is room for it on the way."""
        if self._number > self._store.limits.max_count:
            raise TooLargeError(
                f"{self._count} bytes and more do not fit {self._store.limits.max_count} parts: "
                "say the size beforehand (size=…) or choose a larger chunk_size"
            )
        if self._upload_id is None:
            self._upload_id = self._create_upload()
        self._wait_for_parts(room=1)
        # Without a reference to this file, so that one that was forgotten is found out at once.
        args = (self._store, self._error_translator, self.name, self._upload_id, self._number, self._take_buffer())
        try:
            self._in_flight.add(self._workers().submit(_upload_part, *args))
        except RuntimeError:  # no thread is to be had, as when the interpreter ends
            self._uploaded.append(_upload_part(*args))
        self._number += 1

    def _create_upload(self) -> str:
        return self._store.create(self.name, self._stored_options())

    def _stored_options(self) -> WriteOptions:
        """Return what is kept with the file, without what finishing decides."""
        return replace(self._options, exclusive=False, if_match=None, size=None, checksum=None)

    def _wait_for_parts(self, room: int) -> None:
        """Wait until *room* more parts may be on their way; raise what went wrong with one that was."""
        done = {future for future in self._in_flight if future.done()}
        while True:
            self._in_flight -= done
            try:
                self._uploaded += [future.result() for future in done]
            except CancelledError:
                raise StorageUnavailableError("the storage was closed meanwhile: write the file anew") from None
            if len(self._in_flight) <= self._concurrency - room:
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
        raise  # whoever waited long enough once does not wait again
    except StorageUnavailableError:
        with translator:
            return store.upload_part(path, upload_id, number, data)
