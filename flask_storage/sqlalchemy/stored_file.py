"""The value of a file column: content that is not stored yet, or a file in a storage. Knows nothing of databases."""

from __future__ import annotations

import io
import os
import re
import tempfile
import unicodedata
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, Unpack

from ..backends.base import StorageBackend
from ..content_types import guess_content_type
from ..paths import extension_of
from ..profiles import current_storage
from ..streams import SupportsRead, copy_chunks, is_rewindable
from ..types import Expiry, LinkArguments
from .content_rules import HEAD_BYTES, content_type_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIELDS = ("profile", "path", "name", "size", "content_type", "checksum", "width", "height", "metadata")
"""The fields of a stored file, and the keys of its JSON; those that are not set are left out there."""

FileContent: TypeAlias = bytes | bytearray | memoryview | os.PathLike[str] | SupportsRead
"""What can be assigned to a file column, besides a :class:`StoredFile` and an upload of Werkzeug."""

_SPOOL_BYTES = 1024 * 1024
_MAX_NAME = 255


class FileValidationError(ValueError):
    """A file was refused by a rule of its column; ``args[0]`` is a sentence that can be shown to the user.

    Args:
        message: The sentence.
        code: What was wrong, for translations: ``"too_large"``, ``"extension"``, ``"type"``, ``"empty"``, or a code of
            your own validator.
    """

    def __init__(self, message: str, code: str = "invalid") -> None:
        super().__init__(message)
        self.code = code


class StoredFile:
    """The file of a row. It is pending until the session flushes, and refers to a file in a storage afterwards.

    A ``StoredFile`` is a value: to change it, assign another one to the column. Two stored files are equal if all their
    fields are; a pending one is equal only to itself.

    Args:
        content: Bytes, a binary file, a :class:`pathlib.Path`, or an upload (``request.files["scan"]``). What cannot be
            read twice is copied, beyond 1 MiB to a temporary file. The content is read when the session flushes, and
            again if the row is added again after a rollback, so keep a file open until the commit.
        name: The file name for users; by default that of *content*. Only its last component is used.
        content_type: A media type that you have checked; by default that of the name's extension, or what the content
            shows if it contradicts the name. The type that a browser sends is not used.
        metadata: Your own values; they must be valid JSON, and are stored in the row only.

    Raises:
        TypeError: when *content* is something else, such as text.
        FileValidationError: when *content* is the upload of a form in which no file was selected.

    Attributes:
        profile: The name of the storage; None while pending.
        path: The path in the storage; None while pending.
        name: The original file name, for users. It is no path.
        size: In bytes.
        content_type: The media type, or None if it is unknown.
        checksum: ``"sha256:<hex>"`` of the content; None while pending.
        width: Of an image, in pixels, if it is known.
        height: Likewise.
        metadata: Your own values; read-only.

    >>> file = StoredFile(b"%PDF-1.7", name="June 2026.pdf")
    >>> file.pending, file.name, file.size, file.content_type
    (True, 'June 2026.pdf', 8, 'application/pdf')
    """

    __slots__ = (*FIELDS, "__weakref__", "_content", "_storage")

    profile: str | None
    path: str | None
    name: str
    size: int
    content_type: str | None
    checksum: str | None
    width: int | None
    height: int | None
    metadata: Mapping[str, Any]
    _content: Content | None
    _storage: StorageBackend | None

    def __init__(
        self,
        content: Any,
        *,
        name: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        source = Content(content)
        name = _display_name(name or source.name or "")
        self._set(
            name=name,
            size=source.size,
            content_type=content_type or content_type_of(name, source.head()),
            metadata=metadata,
            _content=source,
        )

    @classmethod
    def existing(
        cls, profile: str | StorageBackend, path: str, *, name: str | None = None, **fields: Any
    ) -> StoredFile:
        """Return the value for a file that is in a storage already: a finished direct upload, an import.

        When a row with it is committed, the file belongs to the row and is deleted with it. A rollback does not delete
        the file.

        Args:
            profile: The name of a profile of the current app, or a storage.
            path: The path in the storage.
            name: The file name for users; by default the last segment of the path.
            **fields: Other fields of the value (``content_type``, ``metadata``, ``width``, …), instead of the stored
                ones.

        Raises:
            FileNotFoundInStorageError: when the file does not exist.
        """
        storage = profile if isinstance(profile, StorageBackend) else current_storage[profile]
        info = storage.stat(path)
        digest = info.checksums.get("sha256")
        stored = {
            "profile": storage.name,
            "path": info.path,
            "name": _display_name(name or info.path),
            "size": info.size,
            "content_type": info.content_type or guess_content_type(info.path),
            "checksum": f"sha256:{digest}" if digest else None,
        }
        return cls.from_dict({**stored, **fields}, storage)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], storage: StorageBackend | None = None) -> StoredFile:
        """Return the value that :meth:`to_dict` has described.

        Args:
            fields: The fields; unknown ones are ignored.
            storage: The storage, if it is not that of a profile of the current app.
        """
        self = cls.__new__(cls)
        self._set(**{key: fields.get(key) for key in FIELDS}, _storage=storage)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as they are stored in the row."""
        fields = {key: value for key in FIELDS if (value := getattr(self, key)) is not None}
        if self.metadata:
            fields["metadata"] = dict(self.metadata)
        else:
            del fields["metadata"]
        return fields

    def replace(self, **fields: Any) -> StoredFile:
        """Return this file with other fields, such as ``name`` or ``metadata``; assign it to the column.

        Raises:
            TypeError: for a name that is no field.
            ValueError: when this file is pending: pass the fields to :class:`StoredFile` instead.
        """
        if unknown := sorted(set(fields) - set(FIELDS)):
            raise TypeError(f"a StoredFile has no field {', '.join(unknown)}: there are {', '.join(FIELDS)}")
        self._require_stored("replace fields of")
        return StoredFile.from_dict({**self.to_dict(), **fields}, self._storage)

    @property
    def pending(self) -> bool:
        """Whether the content is not stored yet, because the session was not flushed or was rolled back."""
        return self.path is None

    @property
    def storage(self) -> StorageBackend:
        """The storage of the file.

        Raises:
            ValueError: when the file is pending.
        """
        profile, _ = self._require_stored("find the storage of")
        return self._storage or current_storage[profile]

    def open(self) -> io.BufferedIOBase:
        """Open the file for reading; use it in a ``with`` block. A pending file can be opened any number of times.

        Raises:
            FileNotFoundInStorageError: when the file does not exist in its storage.
        """
        if self._content is not None:
            return self._content.open()
        _, path = self._require_stored("open")
        return self.storage.open(path, "r")

    def read(self) -> bytes:
        """Return the whole content; errors as for :meth:`open`."""
        with self.open() as file:
            return file.read()

    def link(self, expire: Expiry | None = None, **arguments: Unpack[LinkArguments]) -> str:
        """Return a signed link with which a client can download the file, under its name and with its content type.

        Args:
            expire: As for :meth:`~flask_storage.backends.base.StorageBackend.link_to`.
            **arguments: Likewise, for example ``disposition="inline"``.

        Raises:
            ValueError: when the file is pending.
        """
        _, path = self._require_stored("link to")
        return self.storage.link_to(path, "download", expire, self.name, self.content_type, **arguments)

    @property
    def url(self) -> str:
        """The public URL; errors as for :meth:`~flask_storage.backends.base.StorageBackend.url`."""
        _, path = self._require_stored("return a URL of")
        return self.storage.url(path)

    # -- for the lifecycle --------------------------------------------------------------------------------------------

    @property
    def content(self) -> Content | None:
        """The content, from the assignment to the commit; None for a file that was committed."""
        return self._content

    def set_stored(self, storage: StorageBackend, path: str, checksum: str) -> None:
        """Refer to the file at *path* from now on. The content is kept, for :meth:`set_pending`."""
        self._update(profile=storage.name, path=path, checksum=checksum, _storage=storage)

    def set_pending(self) -> None:
        """Be pending again, after a rollback; no effect on a file without content."""
        if self._content is not None:
            self._update(profile=None, path=None, checksum=None, _storage=None)

    def drop_content(self) -> None:
        """Release the content, after the commit."""
        self._update(_content=None)

    @property
    def known_storage(self) -> StorageBackend | None:
        """The storage, if it was not looked up by its profile's name."""
        return self._storage

    # -- inner --------------------------------------------------------------------------------------------------------

    def _set(self, *, metadata: Mapping[str, Any] | None = None, **fields: Any) -> None:
        unset: dict[str, Any] = dict.fromkeys([*FIELDS, "_content", "_storage"])
        self._update(**{**unset, **fields, "metadata": MappingProxyType(dict(metadata or {}))})

    def _update(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _require_stored(self, action: str) -> tuple[str, str]:
        if self.profile is None or self.path is None:
            raise ValueError(f"cannot {action} {self.name!r}: the file is not stored yet, flush the session first")
        return self.profile, self.path

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a StoredFile cannot be changed: assign file.replace({name}=...) to the column instead")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a StoredFile cannot be changed: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredFile):
            return NotImplemented
        return self is other or (not self.pending and self.to_dict() == other.to_dict())

    __hash__ = None  # type: ignore[assignment]  # the fields change when the session flushes, so no hash can be kept

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.pending:
            raise TypeError(f"{self.name!r} is not stored yet and cannot be pickled: flush the session first")
        return StoredFile.from_dict, (self.to_dict(),)

    def __repr__(self) -> str:
        return f"<StoredFile {self.name!r} {'pending' if self.pending else f'in {self.profile}: {self.path}'}>"


class Content:
    """The content of a pending file, which can be read any number of times.

    Attributes:
        name: The name of the file that was given; None for bytes.
        size: In bytes.
        open: Return a new reader at the start of the content. Closing it leaves the file that was given open.
    """

    name: str | None
    size: int
    open: Callable[[], io.BufferedIOBase]

    def __init__(self, content: Any) -> None:
        self.name = None
        # An upload of Werkzeug, or of Starlette; a gzip stream has a file name too.
        if hasattr(content, "content_type") and hasattr(content, "filename"):
            if not content.filename:
                raise FileValidationError("No file was chosen.", "empty")
            self.name = content.filename
            content = content.stream if hasattr(content, "stream") else content.file
        if isinstance(content, bytes | bytearray | memoryview):
            data = bytes(content)
            self.size, self.open = len(data), partial(io.BytesIO, data)
        elif isinstance(content, os.PathLike):
            path = os.fspath(content)
            self.name = self.name or os.path.basename(path)
            self.size, self.open = os.stat(path).st_size, partial(_open_local, path)
        elif hasattr(content, "read") and not isinstance(content, io.TextIOBase):
            self._use_file(content)
        else:
            advice = "encode text, or wrap a path in pathlib.Path" if isinstance(content, str) else "read it first"
            raise TypeError(
                "a file column takes bytes, a binary file, a pathlib.Path or an upload, not "
                f"{type(content).__name__}: {advice}"
            )

    def head(self) -> bytes:
        """Return the beginning of the content."""
        with self.open() as file:
            return file.read(HEAD_BYTES)

    def _use_file(self, file: Any) -> None:
        name = getattr(file, "name", None)  # a number for a file that was opened by its descriptor
        self.name = self.name or (name if isinstance(name, str) else None)
        shared = _SharedFile(file)
        self.size, self.open = shared.size, shared.open


class _SharedFile:
    """A file that several readers read. What cannot be read twice is copied to a temporary file."""

    def __init__(self, file: Any) -> None:
        if not is_rewindable(file):
            spool = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 -- closed with this object
            weakref.finalize(self, spool.close)
            copy_chunks(file, spool)
            spool.seek(0)
            file = spool
        self.file = file
        self.start = file.tell()
        self.size = file.seek(0, io.SEEK_END) - self.start
        file.seek(self.start)

    def open(self) -> io.BufferedIOBase:
        return io.BufferedReader(_SharedReader(self))


class _SharedReader(io.RawIOBase):
    """A reader with a position of its own."""

    def __init__(self, shared: _SharedFile) -> None:
        self._shared = shared
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._shared.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        self._shared.file.seek(self._shared.start + self._position)
        data = self._shared.file.read(min(len(view), max(self._shared.size - self._position, 0)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        # The file may be assigned again, as forms do that have checked it before.
        if not (self.closed or getattr(self._shared.file, "closed", False)):
            self._shared.file.seek(self._shared.start)
        super().close()


def _open_local(path: str) -> io.BufferedIOBase:
    return open(path, "rb")


def _display_name(name: str) -> str:
    """Return the last component of an untrusted name, without what databases cannot hold or what deceives readers."""
    name = re.split(r"[/\\]", name)[-1].strip()
    name = "".join(
        "_" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char not in "\u200c\u200d" else char
        for char in name
    )
    extension = extension_of(name)
    return name.removesuffix(extension)[: _MAX_NAME - len(extension)] + extension or "file"
