"""Columns for files of ``default_storage``: text in the database, the path of the file in Python."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import arrow
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeEngine

from ..aio import Storage, default_storage
from ..backends.base import StorageBackend
from ..errors import FileNotFoundInStorageError, StorageError
from ..paths import directory_prefix, extension_of, safe_filename
from ..streams import SupportsRead
from ..types import Capabilities, FileInfo, ListEntry, ProgressCallback, WriteOptions
from .file_type import FileType
from .stored_file import FileValidationError, StoredFile

T = TypeVar("T")

MAX_FILE_SIZE = 10 * 1024 * 1024
"""The greatest size of a file, in bytes, unless a column has another one."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "gif", "webp", "bmp", "tiff", "ico")
_RANDOM = "0" * 32
_MIN_ROOM = 32


class FilePath(str):
    """The path of a file that a transaction has stored, with its content until the commit.

    Attributes:
        file: The file; pending again after a rollback.
    """

    __slots__ = ("file",)

    file: StoredFile

    def __new__(cls, file: StoredFile) -> Self:
        """Return the path of *file*."""
        self = super().__new__(cls, file.path or "")
        self.file = file
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


class FileField(FileType):
    """A column for the path of one file in :data:`~flask_storage.aio.default_storage`, as openviper's field.

    Content that is assigned is checked at once, and stored when the session flushes. Then the attribute is the path, a
    ``str``: ``<upload_to>/<date>/<32 hexadecimal digits>_<name>``. A rollback removes the file, and a file
    that no row has any more is deleted after the commit, as with `FileType`.

    A ``str`` that is assigned is the path of a file that exists. The row owns that file from the commit on.

    Args:
        upload_to: The directory.
        max_file_size: In bytes; 10 MiB by default.
        max_length: The greatest length of the path. Names of files are shortened to fit.

    >>> from flask_storage.sqlalchemy import FileField
    >>> FileField(upload_to="documents/", max_file_size=4).coerce(b"hello")
    Traceback (most recent call last):
    flask_storage.sqlalchemy.stored_file.FileValidationError: The file is too large: it has 5 bytes, and 4 are allowed.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = sa.String
    cache_ok = True
    hashable = True

    def __init__(self, upload_to: str = "uploads/", *, max_file_size: int | None = None, max_length: int = 512) -> None:
        super().__init__(directory=upload_to, max_size=MAX_FILE_SIZE if max_file_size is None else max_file_size)
        self.impl = sa.String(max_length)
        self.upload_to = directory_prefix(upload_to)
        self.max_file_size = self.max_size
        self.max_length = max_length
        if self._room < _MIN_ROOM:
            least = max_length + _MIN_ROOM - self._room
            raise ValueError(f"max_length must be at least {least}, for paths in {upload_to!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_length={self.max_length})"

    def storage_for(self, profile: str | None = None) -> StorageBackend:
        """Return the storage of ``default_storage``."""
        storage = default_storage.get_storage()
        backend = getattr(storage, "backend", None)
        return backend if isinstance(backend, StorageBackend) else _CoroutineBackend(storage)

    def own_storage(self) -> StorageBackend | None:
        """Return the storage of ``default_storage``, which may be that of a profile or not."""
        return self.storage_for()

    # -- values -------------------------------------------------------------------------------------------------------

    def coerce(self, value: Any) -> Any:
        """Return what an attribute holds after *value* was assigned to it: a path, or a file that is not stored yet.

        Raises:
            ValueError: when a rule of the column refuses the file, or the path is too long.
            TypeError: when *value* is no content.
        """
        if not isinstance(value, str):
            return super().coerce(value)
        if len(value) > self.max_length:
            raise ValueError(f"the path has {len(value)} characters, and {self.max_length} are allowed")
        return value

    def files(self, value: Any) -> Sequence[StoredFile]:
        """Return the files of a value of this column."""
        if isinstance(value, FilePath):
            return (value.file,)
        if isinstance(value, str):
            storage = self.storage_for()
            return (StoredFile.from_dict({"profile": storage.name, "path": value, "name": value}, storage),)
        return super().files(value)

    def stored_value(self, value: Any) -> Any:
        """Return the path of a file that was stored."""
        file = value.file if isinstance(value, FilePath) else value
        return FilePath(file) if isinstance(file, StoredFile) and file.path != value else value

    def suffix_for(self, file: StoredFile) -> str:
        """Return the sanitized name of a file."""
        name = safe_filename(f"{_RANDOM}_{file.name}").removeprefix(_RANDOM)  # no segment is longer than 255 bytes
        extension = extension_of(name)
        return name.removesuffix(extension)[: self._room - len(extension)] + extension

    # -- SQLAlchemy ---------------------------------------------------------------------------------------------------

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:
        """Compare paths as text."""
        return self.impl_instance

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the path of a value; errors as for :meth:`FileType.process_bind_param`."""
        return value if type(value) is str else super().process_bind_param(value, dialect)

    def _dump(self, value: Any) -> Any:
        return None if value is None else self.files(value)[0].path

    def _load(self, value: Any) -> Any:
        return value

    @property
    def _room(self) -> int:
        """How many characters of a path are left for what follows the directory, the date and the random digits."""
        return self.max_length - len(f"{self.upload_to}2026-12-31/{_RANDOM}")


class ImageField(FileField):
    """A :class:`FileField` for images, which are known by the extensions of their names.

    Args:
        upload_to: The directory.
        allowed_extensions: In any case. A name without an extension is allowed.
        max_file_size: See :class:`FileField`.
        max_length: See :class:`FileField`.
    """

    cache_ok = True

    def __init__(
        self,
        upload_to: str = "images/",
        *,
        allowed_extensions: Iterable[str] = IMAGE_EXTENSIONS,
        max_file_size: int | None = None,
        max_length: int = 512,
    ) -> None:
        super().__init__(upload_to, max_file_size=max_file_size, max_length=max_length)
        self.allowed_extensions = tuple(extension.lower().removeprefix(".") for extension in allowed_extensions)

    def _check(self, file: StoredFile) -> None:
        extension = extension_of(file.name).lower()
        if extension and extension.removeprefix(".") not in self.allowed_extensions:
            raise FileValidationError(
                f"{extension} is not allowed: use {', '.join(f'.{name}' for name in self.allowed_extensions)}.",
                "extension",
            )
        super()._check(file)


class _CoroutineBackend(StorageBackend):
    """What a file column needs of a storage that has the five coroutines of :class:`flask_storage.aio.Storage` only.

    Files that a killed process has left cannot be found, because such a storage lists nothing.
    """

    capabilities = Capabilities()

    def __init__(self, storage: Storage) -> None:
        super().__init__("<default_storage>")
        self._inner = storage

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        if isinstance(error, FileNotFoundError):
            return FileNotFoundInStorageError(self.name, path or "")
        return StorageError(f"{type(self._inner).__name__} failed: {error}")

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        with self._error_translator(path):
            saved = _run(self._inner.save(path, file_obj))
            if saved != path:
                _run(self._inner.delete(saved))
                raise StorageError(
                    f"{type(self._inner).__name__} saved {path!r} as {saved!r}: a storage for FileField must keep a "
                    "name that no file has",
                    path=path,
                )

    def _delete(self, path: str) -> None:
        _run(self._inner.delete(path))

    def _stat(self, path: str) -> FileInfo:
        if not _run(self._inner.exists(path)):
            raise FileNotFoundInStorageError(self.name, path)
        return FileInfo(path=path, size=_run(self._inner.size(path)), last_modified=arrow.get(0))

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        return ()


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own: this one may have an event loop that runs."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()
