"""Uploads in parts: the calls that a service supplies, and the values they speak in.

Ids are explicit, so that an upload can be begun in one request, fed in others and finished in a last one, by other
processes. Whoever drives the calls owns buffering, threads and retries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .errors import IntegrityError
from .values import WriteOptions

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part that the place holds.

    Attributes:
        number: From 1 on; parts are joined in the order of their numbers.
        size: In bytes.
        etag: What the place calls this content; :meth:`PartStore.finish` compares it.
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
    """

    min_size: int = 0
    max_size: int | None = None
    max_count: int = 10_000


class PartStore(ABC):
    """The seven calls behind every upload in parts. Nothing is visible before :meth:`finish` or :meth:`put_whole`.

    Options are given twice, because services want them at different ends: :meth:`begin` takes what is kept (content
    headers and metadata), :meth:`finish` what is decided (``exclusive``, ``if_match``, ``size``, ``checksum``), and the
    headers once more where they have changed.
    """

    limits = PartLimits()

    @abstractmethod
    def put_whole(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """Store a small file in one go, atomically."""

    @abstractmethod
    def begin(self, path: str, options: WriteOptions) -> str:
        """Open an upload and return its id, which nobody can guess.

        Raises:
            ValueError: when *options* hold what only :meth:`finish` decides.
        """

    @abstractmethod
    def put_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Store one part; a number that was used before is replaced. Parts may come in any order and at once.

        Raises:
            FileNotFoundInStorageError: when there is no such upload (any more).
        """

    @abstractmethod
    def finish(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Join *parts* and publish them under *path*, atomically.

        Raises:
            IntegrityError: when there is no part, or one twice, or one is missing or not what was stored; the upload
                stays.
            FileExistsInStorageError: when *options* ask for an exclusive write and the name is taken.
        """

    @abstractmethod
    def discard(self, path: str, upload_id: str) -> None:
        """Forget an upload and free its parts; one that is gone is no error."""

    @abstractmethod
    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return the parts that have arrived, by number."""

    @abstractmethod
    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield the unfinished uploads below the folder *path*."""


class CheckedParts(PartStore):
    """A place's part calls behind the wall: paths are normalized and errors are ours.

    Args:
        parts: The place's own calls.
        normalize: Brings the path of a file into its one form.
        normalize_folder: Likewise for a folder.
        check: Refuses options that the place cannot honour.
        check_conditions: Likewise for those that :meth:`finish` decides.
        guard: Makes the context in which errors about a path are translated.
        published: Called with a path that has been published.
    """

    def __init__(
        self,
        parts: PartStore,
        *,
        normalize: Callable[[str], str],
        normalize_folder: Callable[[str], str],
        check: Callable[[WriteOptions], WriteOptions],
        check_conditions: Callable[[WriteOptions], WriteOptions],
        guard: Callable[[str], AbstractContextManager[Any]],
        published: Callable[[str], None],
    ) -> None:
        self._parts = parts
        self.limits = parts.limits
        self._normalize = normalize
        self._normalize_folder = normalize_folder
        self._check = check
        self._check_conditions = check_conditions
        self._guard = guard
        self._published = published

    def put_whole(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """See :meth:`PartStore.put_whole`."""
        path = self._normalize(path)
        with self._guard(path):
            self._parts.put_whole(path, data, self._check(options))
        self._published(path)

    def begin(self, path: str, options: WriteOptions) -> str:
        """See :meth:`PartStore.begin`."""
        path = self._normalize(path)
        decided = (options.exclusive or None, options.if_match, options.size, options.checksum)
        if any(term is not None for term in decided):
            raise ValueError("exclusive, if_match, size and checksum are given to finish(), which decides them")
        with self._guard(path):
            return self._parts.begin(path, self._check(options))

    def put_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """See :meth:`PartStore.put_part`."""
        if number < 1:
            raise ValueError(f"parts are numbered from 1, not {number}")
        path = self._normalize(path)
        with self._guard(path):
            return self._parts.put_part(path, upload_id, number, data)

    def finish(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """See :meth:`PartStore.finish`."""
        path = self._normalize(path)
        if not parts or len({part.number for part in parts}) != len(parts):
            raise IntegrityError("an upload is finished with at least one part, and each of them once", path=path)
        with self._guard(path):
            self._parts.finish(
                path, upload_id, sorted(parts, key=lambda part: part.number), self._check_conditions(options)
            )
        self._published(path)

    def discard(self, path: str, upload_id: str) -> None:
        """See :meth:`PartStore.discard`."""
        path = self._normalize(path)
        with self._guard(path):
            self._parts.discard(path, upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """See :meth:`PartStore.list_parts`."""
        path = self._normalize(path)
        with self._guard(path):
            return self._parts.list_parts(path, upload_id)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """See :meth:`PartStore.list_uploads`."""
        path = self._normalize_folder(path)
        with self._guard(path):
            yield from self._parts.list_uploads(path)
