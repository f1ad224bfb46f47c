"""A place's part calls, seen through the wall: what they are given is checked, and what they raise is ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..errors import IntegrityError
from ..parts import Part, PartStore, PendingUpload
from ..values import WriteOptions

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class CheckedParts(PartStore):
    """A place's part calls behind the wall: paths are normalized and errors are ours.

    Args:
        parts: The place's own calls.
        normalize: Brings the path of a file into its one form.
        normalize_folder: Likewise for a folder.
        check: Refuses options that the place cannot honour.
        check_ending: Likewise for what :meth:`finish` is given.
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
        check_ending: Callable[[WriteOptions], WriteOptions],
        guard: Callable[[str], AbstractContextManager[Any]],
        published: Callable[[str], None],
    ) -> None:
        self._parts = parts
        self.limits = parts.limits
        self._normalize = normalize
        self._normalize_folder = normalize_folder
        self._check = check
        self._check_ending = check_ending
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
        if not (type(number) is int and 1 <= number <= self.limits.max_count):
            raise ValueError(f"parts are numbered from 1 to {self.limits.max_count}, not {number!r}")
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
                path, upload_id, sorted(parts, key=lambda part: part.number), self._check_ending(options)
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
