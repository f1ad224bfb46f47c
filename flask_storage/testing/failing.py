"""A storage that fails on request, to test how an app handles storage errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ..backends.base import StorageBackend
from ..backends.wrapper import StorageWrapper
from ..errors import StorageError, StorageUnavailableError
from ..files import RemoteFile
from ..multipart import MultipartStore
from ..streams import SupportsRead, SupportsWrite
from ..tokens import InternalLinkTokenData
from ..types import (
    FileInfo,
    LinkContext,
    LinkRequest,
    ListEntry,
    PresignedUpload,
    ProgressCallback,
    WriteOptions,
)
from ._recording import RecordingFile, RecordingMultipart, RecordingSource, RecordingTarget

CALLS = frozenset(
    {
        "list",
        "open_reader",
        "open_writer",
        "open_updater",
        "read",
        "write",
        "publish",
        "discard",
        "delete",
        "delete_prefix",
        "stat",
        "copy",
        "move",
        "link_to",
        "upload_request",
        "upload_form",
        "sweep",
        "check",
        "verify_link",
        "put",
        "create",
        "upload_part",
        "complete",
        "abort",
        "list_parts",
        "list_uploads",
    }
)


class Call(NamedTuple):
    """One call of the inner storage."""

    name: str
    path: str | None


@dataclass(slots=True)
class _Fault:
    call: str
    on: int
    times: int | None
    after: int | None
    path: str | None
    error: Exception | type[Exception] | None
    matched: int = 0

    def trigger(self) -> None:
        self.matched += 1
        if self.matched >= self.on and (self.times is None or self.matched < self.on + self.times):
            raise self.error or StorageUnavailableError(f"the storage was made to fail at {self.call}")


class FailingStorage(StorageWrapper):
    """Wraps any storage and forwards every call to it, except the calls that are made to fail.

    The names of calls are those of the driver methods of :class:`~flask_storage.backends.driver.StorageDriver` without
    the underscore (``"list"``, ``"open_writer"``, ``"delete"``, ``"stat"``, ``"copy"``, …), of the steps of an open
    file (``"read"``, ``"write"``, ``"publish"``, ``"discard"``), and of the multipart calls (``"upload_part"``,
    ``"complete"``, …, ``"abort"``). Uploads and downloads stream through open files, so a failing ``"write"`` affects
    ``write()``, ``put()``, ``upload()`` and ``save()``.

    Attributes:
        inner: The wrapped storage.
        calls: The calls so far, in order, as :class:`Call`.

    >>> from flask_storage import MemoryStorage
    >>> from flask_storage.testing import FailingStorage
    >>> storage = FailingStorage(MemoryStorage())
    >>> storage.write("report.txt", b"old")
    >>> storage.fail("write", after=2)
    >>> storage.write("report.txt", b"new")
    Traceback (most recent call last):
    flask_storage.errors.StorageUnavailableError: the storage was made to fail at write
    >>> storage.read("report.txt")
    b'old'
    """

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.calls: list[Call] = []
        self._faults: list[_Fault] = []
        self.link_context = inner.link_context

    def __getattr__(self, name: str) -> Any:
        # Attributes that only some backends have (deserialize_link_token, root, …) are forwarded too.
        if name.startswith("_") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def fail(
        self,
        call: str,
        *,
        on: int = 1,
        times: int | None = 1,
        after: int | None = None,
        path: str | None = None,
        error: Exception | type[Exception] | None = None,
    ) -> None:
        """Make a call fail from now on.

        Args:
            call: The name of the call; see the class.
            on: The first matching call to fail, counted from 1 and from now.
            times: How many matching calls fail from there on; None for all.
            after: For ``"read"`` and ``"write"``: fail the call that transfers more than this number of bytes of one
                file. Of a write, the bytes up to this number are written.
            path: Fail only calls with this path.
            error: The error to raise: a storage error, or an error of the backend's service or SDK, which the backend
                then translates. :class:`~flask_storage.errors.StorageUnavailableError` by default.

        Raises:
            ValueError: for an unknown call, or *after* with a call other than ``"read"`` and ``"write"``.
        """
        if call not in CALLS:
            raise ValueError(f"no call is named {call!r}: the calls are {', '.join(sorted(CALLS))}")
        if after is not None and call not in ("read", "write"):
            raise ValueError("only 'read' and 'write' can fail after a number of bytes")
        self._faults.append(_Fault(call, on, times, after, path, error))

    def reset(self) -> None:
        """Remove all failures that were requested; ``calls`` stays as it is."""
        self._faults.clear()

    def set_link_context(self, context: LinkContext) -> None:
        """Set the context of the inner storage too."""
        self.inner.set_link_context(context)
        self.link_context = context

    # -- recording and failing ----------------------------------------------------------------------------------------

    def _record(self, call: str, path: str | None = None) -> None:
        """Record a call, and raise if it is to fail."""
        self.calls.append(Call(call, path))
        for fault in self._matching_faults(call, path):
            if fault.after is None:
                fault.trigger()

    def _allowed_bytes(self, call: str, path: str, transferred: int, count: int) -> int:
        """Return how many of *count* more bytes may be transferred of a file of which *transferred* already are."""
        limits = [fault.after for fault in self._matching_faults(call, path) if fault.after is not None]
        return max(min([count, *(limit - transferred for limit in limits)]), 0)

    def _check_limit(self, call: str, path: str, transferred: int) -> None:
        """Raise if the call is to fail after fewer than *transferred* bytes of the file."""
        for fault in self._matching_faults(call, path):
            if fault.after is not None and transferred > fault.after:
                fault.trigger()

    def _matching_faults(self, call: str, path: str | None) -> list[_Fault]:
        return [fault for fault in self._faults if fault.call == call and fault.path in (None, path)]

    # -- driver methods -----------------------------------------------------------------------------------------------

    def _list(self, path: str, recursive: bool) -> Iterator[Sequence[ListEntry]]:
        return self._pages(self.inner._list(path, recursive), path)

    def _list_prefix(self, prefix: str, recursive: bool) -> Iterator[Sequence[ListEntry]]:
        return self._pages(self.inner._list_prefix(prefix, recursive), prefix)

    def _pages(self, pages: Iterable[Sequence[ListEntry]], path: str) -> Iterator[Sequence[ListEntry]]:
        for page in pages:
            self._record("list", path)
            yield page

    def _list_details(self, path: str, recursive: bool, prefix: str | None) -> Iterator[FileInfo]:
        self._record("list", path if prefix is None else prefix)
        return self.inner._list_details(path, recursive, prefix)

    def _open_reader(self, path: str) -> RemoteFile:
        self._record("open_reader", path)
        return RecordingFile(self, self.inner._open_reader(path), path)

    def _open_whole(self, path: str) -> RemoteFile:
        self._record("open_reader", path)
        return RecordingFile(self, self.inner._open_whole(path), path)

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        self._record("open_writer", path)
        return RecordingFile(self, self.inner._open_writer(path, options), path)

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        self._record("open_updater", path)
        return RecordingFile(self, self.inner._open_updater(path, options), path)

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        translator = self._error_translator(path)
        with translator:
            self._record("open_writer", path)
        try:
            self.inner._upload_file(RecordingSource(self, file_obj, path), path, options, progress)
        except BaseException:
            with suppress(StorageError), translator:  # the first error is the one to raise
                self._record("discard", path)
            raise

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        with self._error_translator(path):
            self._record("open_reader", path)
        self.inner._download_file(path, RecordingTarget(self, file_obj, path), progress)

    def _delete(self, path: str) -> None:
        self._record("delete", path)
        self.inner._delete(path)

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        failed: dict[str, StorageError] = {}
        for path in paths:
            try:
                with self._error_translator(path):
                    self._record("delete", path)
            except StorageError as error:
                failed[path] = error
        return failed | self.inner._delete_many([path for path in paths if path not in failed])

    def _delete_prefix(self, path: str) -> int:
        self._record("delete_prefix", path)
        return self.inner._delete_prefix(path)

    def _stat(self, path: str) -> FileInfo:
        self._record("stat", path)
        return self.inner._stat(path)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        self._record("copy", path)
        self.inner._copy(path, new_path, options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        self._record("move", path)
        self.inner._move(path, new_path, options)

    def _link_to(self, path: str, request: LinkRequest) -> str:
        self._record("link_to", path)
        return self.inner._link_to(path, request)

    def _app_links(self, paths: Sequence[str], request: LinkRequest, refused: Any) -> list[str]:
        for path in paths:
            self._record("link_to", path)
        return self.inner._app_links(paths, request, refused)

    def _app_upload_request(self, path: str, request: LinkRequest, refused: Any) -> PresignedUpload:
        self._record("upload_request", path)
        return self.inner._app_upload_request(path, request, refused)

    def _app_upload_form(self, path: str, request: LinkRequest, refused: Any) -> PresignedUpload:
        self._record("upload_form", path)
        return self.inner._app_upload_form(path, request, refused)

    def _link_issuer(self) -> StorageBackend:
        return self.inner

    def _verify_link(self, token: str) -> InternalLinkTokenData:
        self._record("verify_link")
        return super()._verify_link(token)

    def _upload_request(self, path: str, request: LinkRequest) -> PresignedUpload:
        self._record("upload_request", path)
        return self.inner._upload_request(path, request)

    def _upload_form(self, path: str, request: LinkRequest) -> PresignedUpload:
        self._record("upload_form", path)
        return self.inner._upload_form(path, request)

    def _multipart(self) -> MultipartStore:
        return RecordingMultipart(self, self.inner._multipart())

    def _sweep(self, before: datetime) -> int:
        self._record("sweep")
        return self.inner._sweep(before)

    def _close(self) -> None:
        self.inner._close()

    def _check(self) -> None:
        self._record("check")
        if type(self.inner)._check is StorageBackend._check:
            super()._check()  # through this storage, so that the calls it makes can fail
        else:
            self.inner._check()
