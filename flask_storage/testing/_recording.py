"""Files, streams and multipart calls that report each call to a :class:`~flask_storage.testing.FailingStorage`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..backends.wrapper import ForwardingFile, WrapperMultipart
from ..files import RemoteFile
from ..multipart import MultipartStore, Part, PendingUpload
from ..streams import SupportsRead, SupportsWrite
from ..types import WriteOptions

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from .failing import FailingStorage


class RecordingFile(ForwardingFile):
    """Wraps an open file of the inner storage."""

    def __init__(self, storage: FailingStorage, inner: RemoteFile, path: str) -> None:
        super().__init__(inner)
        self._storage = storage
        self._path = path
        self._transferred = 0

    def _read(self, size: int) -> bytes:
        self._storage._record("read", self._path)
        data = self._inner.read(size)
        self._transferred += len(data)
        self._storage._check_limit("read", self._path, self._transferred)
        return data

    def _readinto(self, view: memoryview) -> int:
        return RemoteFile._readinto(self, view)  # which calls _read

    def _readline(self, limit: int) -> bytes:
        return RemoteFile._readline(self, limit)  # likewise

    def _write(self, view: memoryview) -> None:
        self._storage._record("write", self._path)
        allowed = self._storage._allowed_bytes("write", self._path, self._transferred, len(view))
        self._inner.write(view[:allowed])
        self._transferred += len(view)
        self._storage._check_limit("write", self._path, self._transferred)
        self._inner.write(view[allowed:])

    def _publish(self) -> None:
        self._storage._record("publish", self._path)
        super()._publish()

    def _discard(self) -> None:
        super()._discard()
        self._storage._record("discard", self._path)


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


class RecordingMultipart(WrapperMultipart):
    """Wraps the multipart calls of the inner storage."""

    def __init__(self, storage: FailingStorage, inner: MultipartStore) -> None:
        super().__init__(storage, inner)
        self._storage = storage

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        self._storage._record("put", path)
        super().put(path, data, options)

    def create(self, path: str, options: WriteOptions) -> str:
        self._storage._record("create", path)
        return super().create(path, options)

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        self._storage._record("upload_part", path)
        return super().upload_part(path, upload_id, number, data)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        self._storage._record("complete", path)
        super().complete(path, upload_id, parts, options)

    def abort(self, path: str, upload_id: str) -> None:
        self._storage._record("abort", path)
        super().abort(path, upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        self._storage._record("list_parts", path)
        return super().list_parts(path, upload_id)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        self._storage._record("list_uploads", path)
        yield from super().list_uploads(path)
