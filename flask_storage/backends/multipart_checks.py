"""A place's part calls, seen through the wall: what they are given is checked, and what they raise is ours."""

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
    """A place's part calls behind the wall: paths are normalized and errors are ours.

    Args:
        multipart: The backend's own calls.
        normalize: Brings the path of a file into its one form.
        normalize_directory: Likewise for a folder.
        check: Refuses options that the place cannot honour.
        check_complete: Likewise for what :meth:`complete` is given.
        translator: Makes the context in which errors about a path are translated.
        published: Called with a path that has been published.
    """

    def __init__(
        self,
        multipart: MultipartStore,
        *,
        normalize: Callable[[str], str],
        normalize_directory: Callable[[str], str],
        check: Callable[[WriteOptions], WriteOptions],
        check_complete: Callable[[WriteOptions], WriteOptions],
        translator: Callable[[str], AbstractContextManager[Any]],
        published: Callable[[str], None],
    ) -> None:
        self._multipart = multipart
        self.limits = multipart.limits
        self._normalize = normalize
        self._normalize_directory = normalize_directory
        self._check = check
        self._check_ending = check_complete
        self._error_translator = translator
        self._published = published

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """See :meth:`MultipartStore.put`."""
        path = self._normalize(path)
        with self._error_translator(path):
            self._multipart.put(path, data, self._check(options))
        self._published(path)

    def create(self, path: str, options: WriteOptions) -> str:
        """See :meth:`MultipartStore.create`."""
        path = self._normalize(path)
        decided = (options.exclusive or None, options.if_match, options.size, options.checksum)
        if any(term is not None for term in decided):
            raise ValueError("exclusive, if_match, size and checksum are given to complete(), which decides them")
        with self._error_translator(path):
            return self._multipart.create(path, self._check(options))

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """See :meth:`MultipartStore.upload_part`."""
        if not (type(number) is int and 1 <= number <= self.limits.max_count):
            raise ValueError(f"parts are numbered from 1 to {self.limits.max_count}, not {number!r}")
        path = self._normalize(path)
        with self._error_translator(path):
            return self._multipart.upload_part(path, upload_id, number, data)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """See :meth:`MultipartStore.complete`."""
        path = self._normalize(path)
        if not parts or len({part.number for part in parts}) != len(parts):
            raise IntegrityError("an upload is finished with at least one part, and each of them once", path=path)
        with self._error_translator(path):
            self._multipart.complete(
                path, upload_id, sorted(parts, key=lambda part: part.number), self._check_ending(options)
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
