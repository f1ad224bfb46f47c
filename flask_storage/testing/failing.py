"""A storage that fails on request: for what an app does when its storage cannot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backends.base import StorageBackend
from ..errors import StorageError, StorageUnavailableError
from ..files import RemoteFile
from ..parts import Part, PartStore, PendingUpload
from ..streams import SupportsRead, SupportsWrite
from ..tokens import InternalLinkTokenData
from ..values import (
    Capabilities,
    FileInfo,
    FileMode,
    LinkBinding,
    LinkRequest,
    ListEntry,
    ProgressCallback,
    UploadInstruction,
    WriteOptions,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

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
        "sweep",
        "check",
        "verify_link",
        "put_whole",
        "begin",
        "put_part",
        "finish",
        "discard_upload",
        "list_parts",
        "list_uploads",
    }
)


class Call(NamedTuple):
    """One thing that was asked of the storage underneath."""

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
    seen: int = 0

    def strike(self) -> None:
        self.seen += 1
        if self.seen >= self.on and (self.times is None or self.seen < self.on + self.times):
            raise self.error or StorageUnavailableError(f"the storage was made to fail at {self.call}")


class FailingStorage(StorageBackend):
    """Wraps any storage; every call goes through to it until one is made to fail.

    Calls are named after the hooks of :class:`~flask_storage.backends.hooks.StorageHooks` without their underscore
    (``"list"``, ``"open_writer"``, ``"delete"``, ``"stat"``, ``"copy"``, …), after what an open file does (``"read"``,
    ``"write"``, ``"publish"``, ``"discard"``), and after the part calls (``"put_part"``, ``"finish"``, …,
    ``"discard_upload"``). Uploads and downloads stream through open files, so a failing ``"write"`` reaches all of
    ``write()``, ``put()``, ``upload()`` and ``save()``.

    Attributes:
        inner: The storage underneath.
        calls: What was asked of it so far, in order, as :class:`Call`.

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
        super().__init__(inner.name, base_url=inner.base_url, portable=inner.portable)
        self.inner = inner
        self.calls: list[Call] = []
        self._faults: list[_Fault] = []
        self.link_binding = inner.link_binding

    def __getattr__(self, name: str) -> Any:
        # What a place offers beyond the wall (deserialize_link_token, root, …) is reached through us too.
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
            call: Which one; see the class.
            on: The first matching call to fail, counted from 1 and from now.
            times: How many matching calls fail from there on; None for all.
            after: For ``"read"`` and ``"write"``: the call that moves more than so many bytes of one file fails; of a
                write, the bytes up to there do arrive.
            path: Only calls about this path.
            error: What to raise: an error of ours, or one that the place itself would raise, which is then translated
                as the place's are. :class:`~flask_storage.errors.StorageUnavailableError` by default.

        Raises:
            ValueError: for a call that does not exist.
        """
        if call not in CALLS:
            raise ValueError(f"no call is named {call!r}: there are {', '.join(sorted(CALLS))}")
        if after is not None and call not in ("read", "write"):
            raise ValueError("only 'read' and 'write' can fail after a number of bytes")
        self._faults.append(_Fault(call, on, times, after, path, error))

    def heal(self) -> None:
        """Forget every failure that was asked for; what happened so far stays in ``calls``."""
        self._faults.clear()

    @property
    def capabilities(self) -> Capabilities:
        """What the storage underneath can do."""
        return self.inner.capabilities

    def bind_links(self, binding: LinkBinding) -> None:
        """Bind the storage underneath."""
        self.inner.bind_links(binding)
        self.link_binding = binding

    # -- the one gate -------------------------------------------------------------------------------------------------

    def _called(self, call: str, path: str | None = None) -> None:
        """Note a call, and raise if it was made to fail."""
        self.calls.append(Call(call, path))
        for fault in self._matching(call, path):
            if fault.after is None:
                fault.strike()

    def _room(self, call: str, path: str, moved: int, count: int) -> int:
        """Return how many of *count* bytes may pass in a file through which *moved* have passed."""
        limits = [fault.after for fault in self._matching(call, path) if fault.after is not None]
        return max(min([count, *(limit - moved for limit in limits)]), 0)

    def _crossed(self, call: str, path: str, moved: int) -> None:
        """Raise if a call was made to fail before *moved* bytes of a file had passed."""
        for fault in self._matching(call, path):
            if fault.after is not None and moved > fault.after:
                fault.strike()

    def _matching(self, call: str, path: str | None) -> list[_Fault]:
        return [fault for fault in self._faults if fault.call == call and fault.path in (None, path)]

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        return self.inner._translate(error, path)

    # -- hooks --------------------------------------------------------------------------------------------------------

    def _list(self, path: str, recursive: bool) -> Iterator[Sequence[ListEntry]]:
        return self._pages(self.inner._list(path, recursive), path)

    def _list_prefix(self, prefix: str, recursive: bool) -> Iterator[Sequence[ListEntry]]:
        return self._pages(self.inner._list_prefix(prefix, recursive), prefix)

    def _pages(self, pages: Iterable[Sequence[ListEntry]], path: str) -> Iterator[Sequence[ListEntry]]:
        for page in pages:
            self._called("list", path)
            yield page

    def _list_details(self, path: str, recursive: bool, prefix: str | None) -> Iterator[FileInfo]:
        self._called("list", path if prefix is None else prefix)
        return self.inner._list_details(path, recursive, prefix)

    def _open_reader(self, path: str) -> RemoteFile:
        self._called("open_reader", path)
        return _WatchedFile(self, self.inner._open_reader(path), path)

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        self._called("open_writer", path)
        return _WatchedFile(self, self.inner._open_writer(path, options), path)

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        self._called("open_updater", path)
        return _WatchedFile(self, self.inner._open_updater(path, options), path)

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        guard = self._guard(path)
        with guard:
            self._called("open_writer", path)
        try:
            self.inner._upload_file(_WatchedSource(self, file_obj, path), path, options, progress)
        except BaseException:
            with suppress(StorageError), guard:  # what made it give up matters more
                self._called("discard", path)
            raise

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        with self._guard(path):
            self._called("open_reader", path)
        self.inner._download_file(path, _WatchedTarget(self, file_obj, path), progress)

    def _delete(self, path: str) -> None:
        self._called("delete", path)
        self.inner._delete(path)

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        failed: dict[str, StorageError] = {}
        for path in paths:
            try:
                with self._guard(path):
                    self._called("delete", path)
            except StorageError as error:
                failed[path] = error
        return failed | self.inner._delete_many([path for path in paths if path not in failed])

    def _delete_prefix(self, path: str) -> int:
        self._called("delete_prefix", path)
        return self.inner._delete_prefix(path)

    def _stat(self, path: str) -> FileInfo:
        self._called("stat", path)
        return self.inner._stat(path)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        self._called("copy", path)
        self.inner._copy(path, new_path, options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        self._called("move", path)
        self.inner._move(path, new_path, options)

    def _url(self, path: str) -> str | None:
        return self.inner._url(path)

    def _link_to(self, path: str, request: LinkRequest) -> str:
        self._called("link_to", path)
        return self.inner._link_to(path, request)

    def _verify_link(self, token: str) -> InternalLinkTokenData:
        self._called("verify_link")
        return self.inner._verify_link(token)

    def _upload_request(self, path: str, request: LinkRequest) -> UploadInstruction:
        self._called("upload_request", path)
        return self.inner._upload_request(path, request)

    def _parts(self) -> PartStore:
        return _WatchedParts(self, self.inner._parts())

    def _sweep(self, before: datetime) -> int:
        self._called("sweep")
        return self.inner._sweep(before)

    def _check(self) -> None:
        self._called("check")
        if type(self.inner)._check is StorageBackend._check:
            super()._check()  # through us, so that what fails in it is what was made to fail
        else:
            self.inner._check()

    def _local_path(self, path: str) -> Path | None:
        return self.inner._local_path(path)


class _WatchedFile(RemoteFile):
    """A file of the storage underneath; both keep their own state, so both refuse what comes after the end."""

    def __init__(self, storage: FailingStorage, inner: RemoteFile, path: str) -> None:
        super().__init__(inner.file_mode)
        self.info = inner.info
        self._storage = storage
        self._inner = inner
        self._path = path
        self._moved = 0

    def seekable(self) -> bool:
        return self._inner.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check(FileMode.read)
        with self._guard:
            return self._inner.seek(offset, whence)

    def tell(self) -> int:
        return self._inner.tell() if self.readable() and not self.closed else super().tell()

    def truncate(self, size: int | None = None, /) -> int:
        self._check(FileMode.write)
        with self._guard:
            return self._inner.truncate(size)

    def fileno(self) -> int:
        self._check(FileMode.read)
        return self._inner.fileno()

    def _read(self, size: int) -> bytes:
        self._storage._called("read", self._path)
        data = self._inner.read(size)
        self._moved += len(data)
        self._storage._crossed("read", self._path, self._moved)
        return data

    def _write(self, view: memoryview) -> None:
        self._storage._called("write", self._path)
        room = self._storage._room("write", self._path, self._moved, len(view))
        self._inner.write(view[:room])
        self._moved += len(view)
        self._storage._crossed("write", self._path, self._moved)
        self._inner.write(view[room:])

    def _publish(self) -> None:
        self._storage._called("publish", self._path)
        self._inner.close()

    def _discard(self) -> None:
        self._inner.abort()
        self._storage._called("discard", self._path)

    def _forget(self) -> None:
        # The outer file has warned already; the inner one only frees what it holds.
        self._inner._state = self._state
        self._inner._forget()

    def _release(self) -> None:
        self._inner.close()


class _WatchedSource:
    """What the storage underneath reads an upload from: each read is a write, and the end is the publication."""

    def __init__(self, storage: FailingStorage, source: SupportsRead, path: str) -> None:
        self._storage = storage
        self._source = source
        self._path = path
        self._moved = 0
        self._rest: Any = b""

    def read(self, size: int, /) -> Any:
        if self._rest:
            with self._storage._guard(self._path):
                self._storage._crossed("write", self._path, self._moved)
            rest, self._rest = self._rest, b""
            return rest
        data = self._source.read(size)
        if not isinstance(data, bytes | bytearray | memoryview):
            return data  # refused by whoever reads
        with self._storage._guard(self._path):
            if not data:
                self._storage._called("publish", self._path)
                return data
            self._storage._called("write", self._path)
            room = self._storage._room("write", self._path, self._moved, len(data))
            self._moved += len(data)
            if not room:
                self._storage._crossed("write", self._path, self._moved)
                return data
        self._rest = data[room:]
        return data[:room]


class _WatchedTarget:
    """What the storage underneath writes a download to."""

    def __init__(self, storage: FailingStorage, target: SupportsWrite, path: str) -> None:
        self._storage = storage
        self._target = target
        self._path = path
        self._moved = 0

    def write(self, data: Any, /) -> Any:
        with self._storage._guard(self._path):
            self._storage._called("read", self._path)
            self._moved += len(data)
            self._storage._crossed("read", self._path, self._moved)
        return self._target.write(data)


class _WatchedParts(PartStore):
    def __init__(self, storage: FailingStorage, inner: PartStore) -> None:
        self._storage = storage
        self._inner = inner
        self.limits = inner.limits

    def put_whole(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        self._storage._called("put_whole", path)
        self._inner.put_whole(path, data, options)

    def begin(self, path: str, options: WriteOptions) -> str:
        self._storage._called("begin", path)
        return self._inner.begin(path, options)

    def put_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        self._storage._called("put_part", path)
        return self._inner.put_part(path, upload_id, number, data)

    def finish(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        self._storage._called("finish", path)
        self._inner.finish(path, upload_id, parts, options)

    def discard(self, path: str, upload_id: str) -> None:
        self._storage._called("discard_upload", path)
        self._inner.discard(path, upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        self._storage._called("list_parts", path)
        return self._inner.list_parts(path, upload_id)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        self._storage._called("list_uploads", path)
        yield from self._inner.list_uploads(path)
