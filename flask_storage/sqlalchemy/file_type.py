"""The column types: JSON in the database, a :class:`StoredFile` or a list of them in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Self, SupportsIndex, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.mutable import MutableList
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..backends.base import StorageBackend
from ..paths import extension_of, normalize_directory
from ..profiles import current_storage
from .stored_file import FileValidationError, StoredFile


class FileType(TypeDecorator[Any]):
    """A column for one file that belongs to its row.

    What is assigned to the attribute is checked at once and stored when the session flushes, under a new random name:
    ``<directory>/<date>/<32 hexadecimal digits><extension>``. A rollback removes it. A file that no row has any more is
    deleted after the commit. See :doc:`/how-to/files-on-models`.

    Args:
        profile: The profile's name, or a storage. By default ``storage_profile`` of a model that extends
            :class:`~flask_storage.StorageOperations`, else the app's default profile.
        directory: The directory of the files; also a member of an :class:`~enum.Enum` whose value is the directory, or
            a function that returns it for a row (for a statement without a row, it is called with None).
        max_size: In bytes.
        extensions: The allowed extensions of file names (``{"pdf"}``), in any case.
        content_types: The allowed media types; ``"image/"`` allows all that begin with it.
        validators: Called with the pending :class:`StoredFile` on assignment; raise :class:`FileValidationError`.
        content_addressed: Store each content once, as ``<directory>/<2 digits>/<SHA-256>``, however many rows have it.
            Columns of another database, or of another schema, need another directory. SQLite and PostgreSQL only.

    >>> invoices = FileType("docs", directory="invoices", max_size=10_000_000, extensions={"pdf"})
    >>> invoices.coerce(b"%PDF-1.7")
    Traceback (most recent call last):
    flask_storage.sqlalchemy.stored_file.FileValidationError: Files of this kind are not allowed: use .pdf.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = sa.JSON(none_as_null=True).with_variant(
        JSONB(none_as_null=True), "postgresql"
    )
    cache_ok = True
    hashable = False

    def __init__(
        self,
        profile: str | StorageBackend | None = None,
        *,
        directory: str | Enum | Callable[[Any], str] = "",
        max_size: int | None = None,
        extensions: Iterable[str] | None = None,
        content_types: Iterable[str] | None = None,
        validators: Iterable[Callable[[StoredFile], None]] = (),
        content_addressed: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(directory, Enum):
            directory = cast(str, directory.value)
        # The names are those of the arguments, and the values can be hashed: SQLAlchemy caches statements by them.
        self.profile = profile
        self.directory = directory if callable(directory) else normalize_directory(directory)
        self.max_size = max_size
        self.extensions = _frozen(extensions, lambda extension: extension.lower().removeprefix("."))
        self.content_types = _frozen(content_types, str.lower)
        self.validators = tuple(validators)
        self.content_addressed = content_addressed

    def __repr__(self) -> str:
        # Alembic writes it into migrations, and the rules are not part of the schema.
        return f"{type(self).__name__}()"

    def storage_for(self, profile: str | None = None) -> StorageBackend:
        """Return the storage for new files, or that of a stored file.

        Args:
            profile: The profile of a stored file.

        Raises:
            UnknownProfileError: when the current app has no such profile.
        """
        if isinstance(self.profile, StorageBackend) and profile in (None, self.profile.name):
            return self.profile
        name = profile or self.profile
        return current_storage.default if name is None else current_storage[cast(str, name)]

    def own_storage(self) -> StorageBackend | None:
        """Return the storage of the column, if it is not that of a profile."""
        return self.profile if isinstance(self.profile, StorageBackend) else None

    def directory_for(self, row: Any) -> str:
        """Return the directory for the files of *row*."""
        return normalize_directory(self.directory(row)) if callable(self.directory) else self.directory

    # -- values -------------------------------------------------------------------------------------------------------

    def coerce(self, value: Any) -> Any:
        """Return what an attribute holds after *value* was assigned to it. Nothing is stored yet.

        Raises:
            FileValidationError: when a rule of the column refuses the file.
            TypeError: when *value* is no content.
        """
        return None if value is None else self.coerce_file(value)

    def coerce_file(self, value: Any) -> StoredFile:
        """Return *value* as a file, checked; a file that is stored already is not checked again."""
        file = value if isinstance(value, StoredFile) else StoredFile(value)
        if file.pending:
            self._check(file)
        return file

    def files(self, value: Any) -> Sequence[StoredFile]:
        """Return the files of a value of this column."""
        return () if value is None else (value,)

    def stored_value(self, value: Any) -> Any:
        """Return what an attribute with *value* holds after the files of *value* were stored."""
        return value

    def suffix_for(self, file: StoredFile) -> str:
        """Return the end of the path for a new file, after 32 random digits: its extension."""
        return extension_of(file.name).lower()

    def _check(self, file: StoredFile) -> None:
        if self.max_size is not None and file.size > self.max_size:
            raise FileValidationError(
                f"The file is too large: it has {file.size} bytes, and {self.max_size} are allowed.", "too_large"
            )
        if self.extensions is not None and extension_of(file.name).lower().removeprefix(".") not in self.extensions:
            allowed = ", ".join(f".{extension}" for extension in sorted(self.extensions))
            raise FileValidationError(f"Files of this kind are not allowed: use {allowed}.", "extension")
        if self.content_types is not None and not _is_allowed(file.content_type, self.content_types):
            allowed = ", ".join(name + "*" * name.endswith("/") for name in sorted(self.content_types))
            raise FileValidationError(f"Files of this type are not allowed: use {allowed}.", "type")
        for check in self.validators:
            check(file)

    # -- SQLAlchemy ---------------------------------------------------------------------------------------------------

    def compare_values(self, x: Any, y: Any) -> bool:
        """Return whether two values are equal."""
        return bool(x == y)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the JSON of a value.

        Raises:
            TypeError: for content that is no :class:`StoredFile`.
            ValueError: for a pending file: the statement was not executed through a session.
        """
        for file in self.files(value):
            if not isinstance(file, StoredFile):
                raise TypeError(
                    f"a file column cannot store {type(file).__name__}: wrap the content in StoredFile(...)"
                )
            if file.pending:
                raise ValueError(f"{file!r} is not stored yet: execute the statement through a Session")
        return self._dump(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Return the value for JSON."""
        return None if value is None else self._load(value)

    def _dump(self, value: Any) -> Any:
        return None if value is None else value.to_dict()

    def _load(self, value: Any) -> Any:
        return self._load_file(value)

    def _load_file(self, fields: dict[str, Any]) -> StoredFile:
        own = isinstance(self.profile, StorageBackend) and self.profile.name == fields.get("profile")
        return StoredFile.from_dict(fields, cast(StorageBackend, self.profile) if own else None)


class FileListType(FileType):
    """A column for several files of a row, as a list; arguments as for :class:`FileType`.

    Changes of the list (``append``, ``remove``, ``pop``, assigning to an index, …) are noticed. The attribute of a new
    object is an empty list.
    """

    cache_ok = True

    def coerce(self, value: Any) -> FileList | None:
        """Return a list of checked files; see :meth:`FileType.coerce`."""
        if value is None:
            return None
        if isinstance(value, str | bytes | bytearray | StoredFile) or not isinstance(value, Iterable):
            raise TypeError(f"a column of several files takes a list of them, not {type(value).__name__}")
        return FileList(self.coerce_file(item) for item in value)

    def files(self, value: Any) -> Sequence[StoredFile]:
        """Return the files of a value of this column."""
        return tuple(value or ())

    def _dump(self, value: Any) -> Any:
        return None if value is None else [file.to_dict() for file in value]

    def _load(self, value: Any) -> FileList:
        return FileList(self._load_file(fields) for fields in value)


class FileList(MutableList[StoredFile]):
    """The files of a row. What is added is wrapped and checked like an assignment; see :class:`FileType`."""

    @classmethod
    def coerce(cls, key: str, value: Any) -> FileList | None:
        """Return *value* as a list whose changes are noticed."""
        return value if value is None or isinstance(value, cls) else cls(value)

    def append(self, x: Any) -> None:
        """Add a file at the end."""
        super().append(self._file(x))

    def insert(self, i: SupportsIndex, x: Any) -> None:
        """Add a file before position *i*."""
        super().insert(i, self._file(x))

    def extend(self, x: Iterable[Any]) -> None:
        """Add several files at the end."""
        super().extend([self._file(item) for item in x])

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        checked = [self._file(item) for item in value] if isinstance(index, slice) else self._file(value)
        super().__setitem__(index, checked)

    def __iadd__(self, x: Iterable[Any]) -> Self:  # type: ignore[override,misc]  # takes content too
        self.extend(x)
        return self

    def _file(self, value: Any) -> StoredFile:
        # A list that belongs to no object yet is checked when it is assigned.
        for state, key in self._parents.items():
            column_type = state.mapper.column_attrs[key].columns[0].type
            return cast(FileType, column_type).coerce_file(value)
        return value if isinstance(value, StoredFile) else StoredFile(value)


def _frozen(values: Iterable[str] | None, spelling: Callable[[str], str]) -> frozenset[str] | None:
    return None if values is None else frozenset(spelling(value) for value in values)


def _is_allowed(content_type: str | None, allowed: frozenset[str]) -> bool:
    essence = (content_type or "").partition(";")[0].strip().lower()
    return essence in allowed or f"{essence.partition('/')[0]}/" in allowed
