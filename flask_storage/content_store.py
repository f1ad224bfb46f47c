"""A store in which content is known by its hash, on any backend, so that equal content is stored once."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple, cast

from .backends.base import StorageBackend
from .content_types import guess_content_type
from .errors import FileExistsInStorageError, FileNotFoundInStorageError, InvalidPathError
from .files import RemoteFile
from .paths import normalize, parent
from .profiles import current_storage
from .streams import SupportsRead, copy_chunks, is_rewindable
from .types import ListEntry, WriteArguments
from .validation import check_count

_CHUNK = 1024 * 1024
_SPOOL_BYTES = 8 * 1024 * 1024
_EXTENSION = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_HEX_DIGITS = frozenset("0123456789abcdef")


class HashAddress(NamedTuple):
    """Where content is stored. Two addresses are equal whether or not one of them was a duplicate.

    Attributes:
        id: The hexadecimal hash of the content.
        relpath: The path that stands for the content, with the extension that was asked for. Use
            :meth:`ContentStore.stored_path` for operations of the storage.
        abspath: The path of the content on this machine; None on a backend that is not local.
        is_duplicate: Whether the content was stored before; only after :meth:`ContentStore.put`.
    """

    id: str
    relpath: str
    abspath: str | None
    is_duplicate: bool = False

    def __eq__(self, other: object) -> bool:
        return self[:3] == other[:3] if isinstance(other, HashAddress) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:3])


class Found(NamedTuple):
    """What a caller's id or path has led to: the id, the normalized path, and the names of the content, sorted."""

    id: str
    path: str
    names: list[str]


class ContentStore:
    """Stores content under its hash, so that equal content is stored once, whatever it was called.

    The bytes are stored under the sharded hash alone (``2/c/2/6/b46b…``). An extension is part of an address only: the
    path with any extension, or none, leads to the same bytes. Two threads or processes that put the same
    content concurrently store one copy, on a backend with the capability ``exclusive``; on others, both write the same
    bytes to the same path.

    Content is found in trees that hashfs made (``2/c/2/6/b46b….txt``), and is not stored a second time. A store expects
    to be alone in its storage: to share a bucket, give the profile a ``prefix``.

    Methods accept an id, or a path with any extension or none. Content that another program has stored at another depth
    is found by its path. A path that leads out of the storage stands for nothing.

    Deleting content that another thread or process puts at this moment makes the new address invalid. If several
    records may refer to one content, count them under a lock that putting takes as well, and delete with the last one.

    Args:
        backend: A storage, or the name of a profile of the current app.
        depth: The number of directories that the hash is divided into. On local disk, use at least 2 for a million
            files, since each lookup lists one directory.
        width: The number of hexadecimal digits in the name of each directory.
        algorithm: A hash of :mod:`hashlib`. With one whose collisions are known (MD5, SHA-1), an untrusted user can
            store content that is then returned for the content of another user.

    Raises:
        ValueError: when there is no such hash, or *depth* or *width* are not whole numbers.

    >>> from io import BytesIO
    >>> from flask_storage import MemoryStorage
    >>> store = ContentStore(MemoryStorage())
    >>> address = store.put(BytesIO(b"hello"), "txt")
    >>> address.relpath
    '2/c/f/2/4dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824.txt'
    >>> store.put(BytesIO(b"hello"), "md").is_duplicate
    True
    >>> store.open(address.id).read()
    b'hello'
    """

    def __init__(
        self, backend: StorageBackend | str, depth: int = 4, width: int = 1, algorithm: str = "sha256"
    ) -> None:
        check_count("depth", depth)
        check_count("width", width, 1)
        self._backend = backend
        self.depth = depth
        self.width = width
        self.algorithm = algorithm
        self._id_length = 2 * _hasher(algorithm).digest_size

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._backend!r}>"

    @property
    def backend(self) -> StorageBackend:
        """The storage; for the name of a profile, that of the current app."""
        return current_storage[self._backend] if isinstance(self._backend, str) else self._backend

    # -- one content --------------------------------------------------------------------------------------------------

    def put(self, file: str | os.PathLike[str] | SupportsRead, extension: str | None = None) -> HashAddress:
        """Store the content of a file, unless it is stored already, and return its address.

        The content is hashed first and then uploaded with its size and checksum: a file that changes in between is an
        error, and never stored under a wrong hash. A file object that perhaps cannot be read twice is spooled, beyond
        8 MiB to disk. New content takes two requests, content that is stored already takes one.

        Args:
            file: The path of a local file, or a file object. It is read from its beginning where it can seek, and its
                position is restored; it is not closed. Text is encoded as UTF-8.
            extension: Becomes part of the address, ``"txt"`` or ``".txt"``. The first one also determines the content
                type that is stored, where the backend stores any.

        Raises:
            ValueError: when *file* is neither a file nor readable, or *extension* is not an extension.
            IntegrityError: when the file changed while it was stored; nothing was stored.
            StorageError: when it could not be stored.
        """
        suffix = _suffix(extension)
        with _rewound(file) as source:
            content_id, size = self._digest(source)
            names = self._names(content_id)
            is_duplicate = bool(names)
            if not names:
                names = [self.path_of(content_id)]
                source.seek(0)
                is_duplicate = not self._store(
                    source, names[0], suffix, {"size": size, "checksum": self._checksum(content_id)}
                )
        return self._address(content_id, self._name(content_id, suffix, names), names, is_duplicate=is_duplicate)

    def get(self, file: str | os.PathLike[str]) -> HashAddress | None:
        """Return the address of stored content, or None if there is none.

        Args:
            file: An id or a path. The address repeats the extension of the path.
        """
        found = self._find(file)
        if found is None:
            return None
        suffix = extensions_of(found.path)
        if found.path in found.names or not suffix:
            path = found.path if found.path in found.names else found.names[-1]
        else:
            path = self.path_of(found.id) + suffix
        return self._address(found.id, path, found.names)

    def open(self, file: str | os.PathLike[str]) -> RemoteFile:
        """Open stored content for reading, by id or path.

        Raises:
            FileNotFoundInStorageError: when there is no such content. It is an ``OSError``, as in hashfs.
        """
        path = self.stored_path(file)
        if path is None:
            raise FileNotFoundInStorageError(self.backend.name, os.fspath(file))
        return self.backend.open(path, "r")

    def delete(self, file: str | os.PathLike[str]) -> None:
        """Delete content, by id or path, under all of its names. Missing content is no error."""
        found = self._find(file)
        if found is None:
            return
        paths = set(found.names)
        is_at_another_depth = found.path != found.id == _joined(found.path) and found.path not in paths
        if is_at_another_depth and self.backend.exists(found.path):
            paths.add(found.path)
        self.backend.delete_many(sorted(paths))

    def exists(self, file: str | os.PathLike[str]) -> bool:
        """Return whether content is stored, by id or path."""
        return self._find(file) is not None

    __contains__ = exists

    def stored_path(self, file: str | os.PathLike[str]) -> str | None:
        """Return the path of stored content in the storage, by id or path; None if there is none.

        Content that hashfs has stored has an extension there. For content that this store has put, :meth:`path_of`
        needs no request.
        """
        found = self._find(file)
        if found is None:
            return None
        return found.path if found.path in found.names else found.names[0]

    # -- all content --------------------------------------------------------------------------------------------------

    def files(self) -> Iterator[str]:
        """Yield the path of each content, lazily and in no guaranteed order."""
        for entry in self._listed():
            yield self._shown(entry.name)

    __iter__ = files

    def folders(self) -> Iterator[str]:
        """Yield each directory that contains content; their names are held in memory."""
        seen: set[str] = set()
        for entry in self._listed():
            directory = parent(entry.name)
            if directory not in seen:
                seen.add(directory)
                yield self._shown(directory)

    def count(self) -> int:
        """Return the number of contents. It lists the whole storage."""
        return sum(1 for _ in self._listed())

    __len__ = count

    def __bool__(self) -> bool:
        # An empty store is a store, and asking must not list it.
        return True

    def size(self) -> int:
        """Return the size of all content in bytes. It lists the whole storage."""
        return sum(entry.size for entry in self._listed())

    def corrupted(self, extensions: bool = True) -> Iterator[tuple[str, HashAddress]]:
        """Read everything, and yield the path and the right address of each file that is not where its hash says.

        This finds content that has changed, and content that was stored with another depth or width.

        Args:
            extensions: Whether the right address keeps the extension of the file.
        """
        for path, address in self._corrupted(extensions):
            yield self._shown(path), address

    def repair(self, extensions: bool = True) -> list[tuple[str, HashAddress]]:
        """Move each file that :meth:`corrupted` finds to its address, and return what that yields.

        A file whose content is already stored at its address is deleted. Content itself is never changed: after a
        disk error, what was stored is lost, and what is left is stored under its own hash.
        """
        pending = {path: (path, address) for path, address in self._corrupted(extensions)}
        repaired = []
        while pending:
            path = next(iter(pending))
            original, address = pending.pop(path)
            target = address.relpath
            if target in pending:  # another corrupted file is in the way: it keeps its turn
                aside = f"{target}.{secrets.token_hex(8)}"
                self.backend.move(target, aside)
                pending[aside] = pending.pop(target)
            aliases = [name for name in self._aliases(path) if name != target]
            if any(name not in {path, *aliases, *pending} for name in self._names(address.id)):
                self.backend.delete(path)
            else:
                self.backend.move(path, target)
            self.backend.delete_many(aliases)
            repaired.append((self._shown(original), address))
        return repaired

    # -- names --------------------------------------------------------------------------------------------------------

    def path_of(self, content_id: str) -> str:
        """Return the path in the storage under which :meth:`put` stores content with this id; no request is sent.

        It is for the operations of the storage: ``store.backend.link_to(store.path_of(address.id), "download")``.
        """
        return "/".join(self.shard(content_id))

    def shard(self, id: str) -> list[str]:  # noqa: A002 - hashfs's name
        """Return the directories of an id, and the rest of it.

        >>> from flask_storage import MemoryStorage
        >>> ContentStore(MemoryStorage(), depth=2, width=3).shard("b46bc26c")
        ['b46', 'bc2', '6c']
        """
        end = self.depth * self.width
        pieces = [id[start : start + self.width] for start in range(0, min(end, len(id)), self.width)]
        return [*pieces, id[end:]] if id[end:] else pieces

    def unshard(self, path: str | os.PathLike[str]) -> str:
        """Return the id that a path stands for, whether or not it is stored.

        Raises:
            ValueError: when the path stands for no id, or leads out of the storage.
        """
        with suppress(InvalidPathError):
            content_id = self._id_in(normalize(self._relative(os.fspath(path))))
            if content_id is not None:
                return content_id
        raise ValueError(f"{os.fspath(path)!r} is not the path of content in this store")

    def computehash(self, stream: SupportsRead) -> str:
        """Return the hash of a file object, from its current position to its end; text is encoded as UTF-8."""
        return self._digest(_Encoded(stream))[0]

    # -- inner --------------------------------------------------------------------------------------------------------

    def _digest(self, source: SupportsRead) -> tuple[str, int]:
        """Return the hash and the number of bytes of what *source* yields."""
        hasher, size = _hasher(self.algorithm), 0
        while chunk := source.read(_CHUNK):
            hasher.update(chunk)
            size += len(chunk)
        return hasher.hexdigest(), size

    def _checksum(self, content_id: str) -> str:
        return f"{self.algorithm}:{content_id}"

    def _store(self, source: BinaryIO, path: str, suffix: str, arguments: WriteArguments) -> bool:
        """Upload new content; return False if it was stored concurrently."""
        capabilities = self.backend.capabilities
        arguments["exclusive"] = capabilities.exclusive
        if capabilities.content_headers and suffix:
            arguments["content_type"] = guess_content_type(suffix)  # the path itself implies none
        try:
            self.backend.upload(source, path, **arguments)
        except FileExistsInStorageError:
            return False
        return True

    def _find(self, file: str | os.PathLike[str]) -> Found | None:
        """Look up an id or a path: first the id that it stands for, then the path itself."""
        with suppress(InvalidPathError):
            path = normalize(self._relative(os.fspath(file)))
            content_id = self._id_in(path)
            if content_id is not None and (names := self._names(content_id)):
                return Found(content_id, path, names)
            if self.backend.exists(path):
                return Found(_joined(path), path, [path])
        return None

    def _names(self, content_id: str) -> list[str]:
        """Return every path under which content is stored, sorted: first the one without an extension."""
        return self._with_extensions(self.path_of(content_id))

    def _with_extensions(self, path: str) -> list[str]:
        """Return the stored paths that are *path*, which has no extension, with any extension or none, sorted."""
        names = (entry.name for entry in self.backend.iter(prefix=path, recursive=False))
        return sorted(name for name in names if name[len(path) :][:1] in ("", "."))

    def _name(self, content_id: str, suffix: str, names: list[str]) -> str:
        """Return the path of the address of content that was put with this extension; *names* are those it has."""
        bare = self.path_of(content_id)
        if suffix:
            return bare + suffix
        return bare if bare in names else names[-1]

    def _aliases(self, path: str) -> list[str]:
        """Return the other names of the same stored file."""
        return []

    def _id_in(self, path: str) -> str | None:
        """Return the id that a path stands for, at any depth and with any extension."""
        content_id = self._joined(path).lower()
        return content_id if len(content_id) == self._id_length and _HEX_DIGITS.issuperset(content_id) else None

    def _joined(self, path: str) -> str:
        """Return a path without separators and extensions."""
        return _joined(path)

    def _relative(self, path: str) -> str:
        """Return the caller's path as a path in the storage."""
        return path

    def _shown(self, path: str) -> str:
        """Return a path in the storage as callers get it."""
        return path

    def _listed(self) -> Iterator[ListEntry]:
        """Yield an entry for each content."""
        return self.backend.iter()

    def _corrupted(self, extensions: bool) -> Iterator[tuple[str, HashAddress]]:
        for entry in self._listed():
            try:
                with self.backend.open(entry.name, "r") as reader:
                    content_id, _ = self._digest(reader)
            except FileNotFoundInStorageError:  # it was deleted concurrently
                continue
            expected = self.path_of(content_id) + (extensions_of(entry.name) if extensions else "")
            if expected != entry.name:
                yield entry.name, self._address(content_id, expected, [expected])

    def _address(self, content_id: str, path: str, names: list[str], *, is_duplicate: bool = False) -> HashAddress:
        local_path = self.backend.local_path(path if path in names else names[0])
        return HashAddress(content_id, path, None if local_path is None else str(local_path), is_duplicate)


class KaijuContentStore(ContentStore):
    """A content store with the layout of kaiju-files: ``<hash>/<hash>``, the MD5 of the content written as a UUID.

    Content is found by its hash, its UUID, or the path of a name beside it (``<hash>/report.pdf``). The symbolic links
    that kaiju-files made for such names are neither followed nor changed. MD5 has known collisions: use
    :class:`ContentStore` for a new store.

    Args:
        backend: A storage, or the name of a profile of the current app.

    >>> from io import BytesIO
    >>> from flask_storage import MemoryStorage
    >>> KaijuContentStore(MemoryStorage()).put(BytesIO(b"hello")).relpath
    '5d41402a-bc4b-2a76-b971-9d911017c592/5d41402a-bc4b-2a76-b971-9d911017c592'
    """

    def __init__(self, backend: StorageBackend | str) -> None:
        super().__init__(backend, depth=0, algorithm="md5")

    def shard(self, id: str) -> list[str]:  # noqa: A002 - hashfs's name
        """Return the hash as a UUID, twice: the directory and the file.

        Raises:
            ValueError: when the id is not an MD5.
        """
        return [str(uuid.UUID(id))] * 2

    def _joined(self, path: str) -> str:
        # Names in the directory, other than the content itself, are links with the names of records.
        return path.partition("/")[0].partition(".")[0].replace("-", "")


class _Encoded:
    """A file object whose text is encoded as UTF-8."""

    def __init__(self, file: SupportsRead) -> None:
        self._file = file

    def read(self, size: int, /) -> Any:
        """Return up to *size* bytes or encoded characters."""
        chunk = self._file.read(size)
        return chunk.encode() if isinstance(chunk, str) else chunk


def _hasher(algorithm: str) -> Any:
    """Return a new hash object of a fixed length.

    Raises:
        ValueError: when there is none.
    """
    with suppress(ValueError, TypeError):
        hasher = hashlib.new(algorithm, usedforsecurity=False)
        if hasher.digest_size:
            return hasher
    raise ValueError(f"there is no hash of a fixed length called {algorithm!r}: use one of hashlib, such as 'sha256'")


@contextmanager
def _rewound(file: object) -> Iterator[BinaryIO]:
    """Yield a binary file object at the beginning of the content, which can be read twice.

    Afterwards, what was opened is closed, and the caller's file object is at its former position.

    Args:
        file: What the caller passed to :meth:`ContentStore.put`.
    """
    if not callable(getattr(file, "read", None)):
        with open(_local_file(file), "rb") as opened:
            yield opened
        return
    source = cast(BinaryIO, file)
    is_binary = "b" in str(getattr(file, "mode", "b"))  # a SpooledTemporaryFile may contain text
    with ExitStack() as stack:
        if _can_seek(source):
            position = source.tell()
            stack.callback(_seek_back, source, position)
            if position:
                source.seek(0)
        if not (is_rewindable(source) and is_binary):
            spool = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES))
            copy_chunks(_Encoded(source), spool)
            spool.seek(0)
            source = cast(BinaryIO, spool)
        yield source


def _local_file(file: object) -> str | os.PathLike[str]:
    if not isinstance(file, str | os.PathLike):
        raise ValueError(
            f"put() requires the path of a file or a readable object, not {type(file).__name__}: use BytesIO for bytes"
        )
    if not os.path.isfile(file):
        raise ValueError(f"put() requires the path of a file or a readable object: {os.fspath(file)!r} is no file")
    return file


def _can_seek(file: Any) -> bool:
    return bool(file.seekable()) if hasattr(file, "seekable") else hasattr(file, "seek")


def _seek_back(file: BinaryIO, position: int) -> None:
    with suppress(io.UnsupportedOperation):  # a gzip stream over a pipe claims to be seekable
        file.seek(position)


def _suffix(extension: str | None) -> str:
    """Return an extension with its dot, or an empty string.

    Raises:
        ValueError: when it contains more than letters and digits, and single separators between them.
    """
    extension = (extension or "").removeprefix(".")
    if extension and not _EXTENSION.fullmatch(extension):
        raise ValueError(f"{extension!r} is not an extension: use letters and digits, like 'txt' or 'tar.gz'")
    return f".{extension}" if extension else ""


def extensions_of(path: str) -> str:
    """Return all extensions of a path with their dots; a hash contains no dot."""
    _, dot, extensions = path.rpartition("/")[2].partition(".")
    return dot + extensions


def _joined(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return directory.replace("/", "") + name.partition(".")[0]
