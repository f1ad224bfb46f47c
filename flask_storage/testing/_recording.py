"""Files, streams and multipart calls that report each call to a :class:`~flask_storage.testing.FailingStorage`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..files import RemoteFile
from ..multipart import MultipartStore, Part, PendingUpload
from ..streams import SupportsRead, SupportsWrite
from ..types import FileMode, WriteOptions

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from .failing import FailingStorage


class RecordingFile(RemoteFile):
    """Wraps an open file of the inner storage. Both files have their own state, so both refuse use after closing."""

    def __init__(self, storage: FailingStorage, inner: RemoteFile, path: str) -> None:
        super().__init__(inner.file_mode)
        self.info = inner.info
        self._storage = storage
        self._inner = inner
        self._path = path
        self._transferred = 0

    def seekable(self) -> bool:
        return self._inner.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check(FileMode.read)
        with self._error_translator:
            return self._inner.seek(offset, whence)

    def will_read(self, count: int, /) -> None:
        self._inner.will_read(count)

    def tell(self) -> int:
        return self._inner.tell() if self.readable() and not self.closed else super().tell()

    def truncate(self, size: int | None = None, /) -> int:
        self._check(FileMode.write)
        with self._error_translator:
            return self._inner.truncate(size)

    def fileno(self) -> int:
        self._check(FileMode.read)
        return self._inner.fileno()

    def _read(self, size: int) -> bytes:
        self._storage._record("read", self._path)
        data = self._inner.read(size)
        self._transferred += len(data)
        self._storage._check_limit("read", self._path, self._transferred)
        return data

    def _write(self, view: memoryview) -> None:
        self._storage._record("write", self._path)
        allowed = self._storage._allowed_bytes("write", self._path, self._transferred, len(view))
        self._inner.write(view[:allowed])
        self._transferred += len(view)
        self._storage._check_limit("write", self._path, self._transferred)
        self._inner.write(view[allowed:])

    def _publish(self) -> None:
        self._storage._record("publish", self._path)
        self._inner.close()

    def _discard(self) -> None:
        self._inner.abort()
        self._storage._record("discard", self._path)

    def _finalize(self) -> None:
        # The outer file has warned already; the inner one only releases its resources.
        self._inner._state = self._state
        self._inner._finalize()

    def _release(self) -> None:
        self._inner.close()


class RecordingSource:
    """The source that the inner storage reads an upload from: a read counts as "write", the end as "publish"."""

    def __init__(self, storage: FailingStorage, source: SupportsRead, path: str) -> None:
        self._storage = storage
        self._source = source
        self._path = path
        self._transferred = 0
        self._rest: Any = b""

    def read(self, size: int, /) -> Any:
        if self._rest:
            with self._storage._error_translator(self._path):
                self._storage._check_limit("write", self._path, self._transferred)
            rest, self._rest = self._rest, b""
            return rest
        data = self._source.read(size)
        if not isinstance(data, bytes | bytearray | memoryview):
            return data  # the inner storage raises TypeError for it
        with self._storage._error_translator(self._path):
            if not data:
                self._storage._record("publish", self._path)
                return data
            self._storage._record("write", self._path)
            allowed = self._storage._allowed_bytes("write", self._path, self._transferred, len(data))
            self._transferred += len(data)
            if not allowed:
                self._storage._check_limit("write", self._path, self._transferred)
                return data
        self._rest = data[allowed:]
        return data[:allowed]


class RecordingTarget:
    """The target that the inner storage writes a download to: each write counts as "read"."""

    def __init__(self, storage: FailingStorage, target: SupportsWrite, path: str) -> None:
        self._storage = storage
        self._target = target
        self._path = path
        self._transferred = 0

    def write(self, data: Any, /) -> Any:
        with self._storage._error_translator(self._path):
            self._storage._record("read", self._path)
            self._transferred += len(data)
            self._storage._check_limit("read", self._path, self._transferred)
        return self._target.write(data)


class RecordingMultipart(MultipartStore):
    """Wraps the multipart calls of the inner storage."""

    def __init__(self, storage: FailingStorage, inner: MultipartStore) -> None:
        self._storage = storage
        self._inner = inner
        self.limits = inner.limits

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        self._storage._record("put", path)
        self._inner.put(path, data, options)

    def create(self, path: str, options: WriteOptions) -> str:
        self._storage._record("create", path)
        return self._inner.create(path, options)

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        self._storage._record("upload_part", path)
        return self._inner.upload_part(path, upload_id, number, data)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        self._storage._record("complete", path)
        self._inner.complete(path, upload_id, parts, options)

    def abort(self, path: str, upload_id: str) -> None:
        self._storage._record("abort", path)
        self._inner.abort(path, upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        self._storage._record("list_parts", path)
        return self._inner.list_parts(path, upload_id)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        self._storage._record("list_uploads", path)
        yield from self._inner.list_uploads(path)
