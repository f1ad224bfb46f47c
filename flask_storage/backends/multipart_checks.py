"""The multipart calls of the storage interface: arguments are checked, and errors are translated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..errors import IntegrityError
from ..multipart import MultipartStore, Part, PendingUpload
from ..types import WriteOptions

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class CheckedMultipart(MultipartStore):
    """Wraps the multipart calls of a backend: normalizes paths, checks arguments and translates errors.

    Args:
        multipart: The calls of the backend.
        normalize: Returns the canonical path of a file.
        normalize_directory: Returns the canonical path of a directory.
        check: Returns the options of a path as the backend gets them; raises for those that it does not support.
        check_complete: Likewise, for the options of :meth:`complete`.
        translator: Returns the context manager that translates errors about a path.
        published: Called with each path that was published.
    """

    def __init__(
        self,
        multipart: MultipartStore,
        *,
        normalize: Callable[[str], str],
        normalize_directory: Callable[[str], str],
        check: Callable[[str, WriteOptions], WriteOptions],
        check_complete: Callable[[str, WriteOptions], WriteOptions],
        translator: Callable[[str], AbstractContextManager[Any]],
        published: Callable[[str], None],
    ) -> None:
        self._multipart = multipart
        self.limits = multipart.limits
        self._normalize = normalize
        self._normalize_directory = normalize_directory
        self._check = check
        self._check_complete = check_complete
        self._error_translator = translator
        self._published = published

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """See :meth:`MultipartStore.put`."""
        path = self._normalize(path)
        memoryview(data)  # a TypeError for text, and for a number, which bytes() would take as a length
        with self._error_translator(path):
            self._multipart.put(path, data, self._check(path, options))
        self._published(path)

    def create(self, path: str, options: WriteOptions) -> str:
        """See :meth:`MultipartStore.create`."""
        path = self._normalize(path)
        conditions = (options.exclusive or None, options.if_match, options.size, options.checksum)
        if any(condition is not None for condition in conditions):
            raise ValueError("exclusive, if_match, size and checksum are arguments of complete(), not of create()")
        with self._error_translator(path):
            return self._multipart.create(path, self._check(path, options))

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """See :meth:`MultipartStore.upload_part`."""
        if not (type(number) is int and 1 <= number <= self.limits.max_count):
            raise ValueError(f"number must be a part number from 1 to {self.limits.max_count}, not {number!r}")
        path = self._normalize(path)
        memoryview(data)  # likewise
        with self._error_translator(path):
            return self._multipart.upload_part(path, upload_id, number, data)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """See :meth:`MultipartStore.complete`."""
        path = self._normalize(path)
        if not parts or len({part.number for part in parts}) != len(parts):
            raise IntegrityError("complete() needs at least one part, and no part number twice", path=path)
        with self._error_translator(path):
            self._multipart.complete(
                path, upload_id, sorted(parts, key=lambda part: part.number), self._check_complete(path, options)
            )
        self._published(path)

    def abort(self, path: str, upload_id: str) -> None:
        """See :meth:`MultipartStore.abort`."""
        path = self._normalize(path)
        with self._error_translator(path):
            self._multipart.abort(path, upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """See :meth:`MultipartStore.list_parts`."""
        path = self._normalize(path)
        with self._error_translator(path):
            return self._multipart.list_parts(path, upload_id)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """See :meth:`MultipartStore.list_uploads`."""
        path = self._normalize_directory(path)
        with self._error_translator(path):
            yield from self._multipart.list_uploads(path)
