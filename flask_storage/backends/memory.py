"""Files in this process's memory: for tests, and as the smallest example of a backend."""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import SplitResult

from ..errors import FileExistsInStorageError, FileNotFoundInStorageError, IntegrityError, PreconditionFailedError
from ..files import FileAdapter, RemoteFile
from ..multipart import MultipartStore, Part, PendingUpload
from ..types import Capabilities, FileInfo, FileMode, ListEntry, WriteOptions
from .internal_links import InternalLinksStorageBackend

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class MemoryStorage(InternalLinksStorageBackend):
    """Stores files in memory, with every guarantee of the storage interface, until the process ends.

    Args:
        name: See :class:`~flask_storage.StorageBackend`.
        linked_endpoint: See :class:`~flask_storage.InternalLinksStorageBackend`.
        secret_key: Likewise.
        base_url: See :class:`~flask_storage.StorageBackend`.
        portable: Likewise.

    >>> storage = MemoryStorage()
    >>> storage.write("greeting.txt", b"hello")
    >>> storage.read("greeting.txt")
    b'hello'
    """

    capabilities = Capabilities(
        read_write=True,
        exclusive=True,
        if_match=True,
        copy_conditions=True,
        multipart_conditions=True,
        multipart_headers=True,
        multipart_checksums=True,
        content_headers=True,
        metadata=True,
        multipart=True,
        server_side_copy=True,
    )

    def __init__(
        self,
        name: str = "memory",
        *,
        linked_endpoint: str | None = None,
        secret_key: str | bytes | None = None,
        base_url: str | None = None,
        portable: bool = False,
    ) -> None:
        super().__init__(
            linked_endpoint=linked_endpoint, secret_key=secret_key, name=name, base_url=base_url, portable=portable
        )
        self._files: dict[str, _Stored] = {}
        self._pending: dict[str, _PendingUpload] = {}
        self._lock = threading.RLock()

    @classmethod
    def from_url(cls, url: SplitResult, options: dict[str, Any]) -> Self:
        """Create a storage from ``memory:``."""
        return cls(**options)

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        prefix = f"{path}/" if path else ""
        with self._lock:
            stored = [file for name, file in self._files.items() if name.startswith(prefix)]
        directories: set[str] = set()
        files = []
        for file in stored:
            head, slash, _ = file.path[len(prefix) :].partition("/")
            if slash and not recursive:
                directories.add(prefix + head + slash)
            else:
                files.append(ListEntry(file.path, file.last_modified, len(file.data)))
        yield files
        yield [ListEntry(directory, None, 0) for directory in directories]

    def _open_reader(self, path: str) -> RemoteFile:
        file = self._find(path)
        return FileAdapter(io.BytesIO(file.data), FileMode.read, info=file.info())

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        return _MemoryWriter(self, path, options, FileMode.write)

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        file = self._find(path)
        headers = {**file.headers, **options.headers}
        return _MemoryWriter(self, path, options, FileMode.read | FileMode.write, file.data, headers)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        file = self._find(path)
        self._store(new_path, file.data, file.headers, options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        with self._lock:
            self._copy(path, new_path, options)
            self._delete(path)

    def _delete(self, path: str) -> None:
        with self._lock:
            self._files.pop(path, None)

    def _stat(self, path: str) -> FileInfo:
        return self._find(path).info()

    def _multipart(self) -> MultipartStore:
        return _MemoryMultipart(self)

    def _sweep(self, before: datetime) -> int:
        with self._lock:
            stale = [key for key, upload in self._pending.items() if upload.started_at < before]
            for upload_id in stale:
                del self._pending[upload_id]
        return len(stale)

    def _find(self, path: str) -> _Stored:
        with self._lock:
            file = self._files.get(path)
        if file is None:
            raise FileNotFoundInStorageError(self.name, path)
        return file

    def _store(self, path: str, data: bytes, headers: dict[str, Any], options: WriteOptions) -> None:
        """Check the conditions and publish, both under the lock."""
        with self._lock:
            current = self._files.get(path)
            if options.exclusive and current is not None:
                raise FileExistsInStorageError(f"{path} exists: choose another name", path=path)
            if options.if_match is not None and (current is None or current.etag != options.if_match):
                raise PreconditionFailedError(
                    f"{path} is not the version that if_match names: read it again", path=path
                )
            self._files[path] = _Stored(path, data, headers)


@dataclass(frozen=True, slots=True)
class _Stored:
    path: str
    data: bytes
    headers: dict[str, Any]
    etag: str = field(default_factory=lambda: secrets.token_hex(16))
    modified_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def last_modified(self) -> Any:
        import arrow

        return arrow.Arrow.fromdatetime(self.modified_at)

    def info(self) -> FileInfo:
        return FileInfo(
            path=self.path,
            size=len(self.data),
            last_modified=self.last_modified,
            etag=self.etag,
            etag_is_strong=True,
            **self.headers,
        )


class _MemoryWriter(FileAdapter):
    def __init__(
        self,
        storage: MemoryStorage,
        path: str,
        options: WriteOptions,
        mode: FileMode,
        content: bytes = b"",
        headers: dict[str, Any] | None = None,
    ) -> None:
        self._buffer = io.BytesIO(content)
        super().__init__(self._buffer, mode)
        self._storage = storage
        self._path = path
        self._options = options
        self._headers = options.headers if headers is None else headers

    def _publish(self) -> None:
        self._storage._store(self._path, self._buffer.getvalue(), self._headers, self._options)
        self._buffer.close()

    def _discard(self) -> None:
        self._buffer.close()


@dataclass(slots=True)
class _PendingUpload:
    path: str
    options: WriteOptions
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class _MemoryMultipart(MultipartStore):
    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        self._store(path, bytes(data), options.headers, options)

    def create(self, path: str, options: WriteOptions) -> str:
        upload_id = secrets.token_urlsafe(16)
        with self._storage._lock:
            self._storage._pending[upload_id] = _PendingUpload(path, options)
        return upload_id

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        content = bytes(data)
        part = Part(number=number, size=len(content), etag=hashlib.sha256(content).hexdigest())
        with self._storage._lock:
            self._pending(path, upload_id).parts[number] = part, content
        return part

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        with self._storage._lock:
            pending = self._pending(path, upload_id)
            if any(pending.parts.get(part.number, (None,))[0] != part for part in parts):
                raise IntegrityError(
                    "a part is missing or was replaced: list the parts again, or upload it again", path=path
                )
            content = b"".join(pending.parts[part.number][1] for part in parts)
            self._store(path, content, {**pending.options.headers, **options.headers}, options)
            del self._storage._pending[upload_id]

    def abort(self, path: str, upload_id: str) -> None:
        with self._storage._lock, suppress(FileNotFoundInStorageError):
            self._pending(path, upload_id)
            del self._storage._pending[upload_id]

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        with self._storage._lock:
            return [part for _, (part, _) in sorted(self._pending(path, upload_id).parts.items())]

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        with self._storage._lock:
            pending = list(self._storage._pending.items())
        for upload_id, upload in pending:
            if not path or upload.path.startswith(path + "/"):
                yield PendingUpload(path=upload.path, upload_id=upload_id, started_at=upload.started_at)

    def _store(self, path: str, content: bytes, headers: dict[str, Any], options: WriteOptions) -> None:
        with _MemoryWriter(self._storage, path, options, FileMode.write, headers=headers) as writer:
            writer.set_expected(options)
            writer.write(content)

    def _pending(self, path: str, upload_id: str) -> _PendingUpload:
        pending = self._storage._pending.get(upload_id)
        if pending is None or pending.path != path:
            raise FileNotFoundInStorageError(self._storage.name, f"{path} (upload)")
        return pending
