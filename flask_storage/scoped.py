"""Storages that show another storage in a different way: a directory of it, its files read-only, two as one.

They are profiles (``{"backend": "prefix", "storage": "docs", "prefix": "tenants/acme"}``), or created where they are
needed::

    files = PrefixStorage(current_storage["docs"], f"tenants/{g.tenant}")

They hold no connection of their own, so they need not be closed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .backends.base import StorageBackend
from .backends.wrapper import ForwardingFile, StorageWrapper, WrapperMultipart, check_storage
from .diagnostics import Diagnostics
from .errors import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    InvalidLinkError,
    InvalidPathError,
    PartialFailureError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from .files import RemoteFile
from .multipart import MultipartStore, Part
from .paths import normalize_directory
from .streams import SupportsRead, SupportsWrite, copy_chunks
from .tokens import InternalLinkTokenData
from .types import (
    CONTENT_HEADERS,
    Capabilities,
    FileInfo,
    LinkRequest,
    ListEntry,
    ProgressCallback,
    ShareLinkOperation,
    WriteOptions,
)
from .validation import check_count

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["MirrorStorage", "PrefixStorage", "ReadOnlyStorage", "ReadThroughStorage", "StorageWrapper"]

logger = logging.getLogger("flask_storage")

_T = TypeVar("_T")
_MAX_COPIES = 20  # attempts to copy a file that is replaced concurrently each time
_NOTHING = ShareLinkOperation(0)


class PrefixStorage(StorageWrapper):
    """One directory of a storage, as a storage of its own: the files of one tenant, for example.

    No path, listing, multipart upload or link leaves the directory. Errors, signals and open files have the path
    inside it.

    Args:
        inner: The storage; in a profile ``"storage"``, the name of another profile.
        prefix: The directory, without a slash at the end; it need not exist. It and a path have at most 1024 bytes.
        name: See :class:`~flask_storage.backends.wrapper.StorageWrapper`.
        base_url: Likewise.

    Raises:
        InvalidPathError: when *prefix* is empty, or not the path of a directory in *inner*.

    >>> from flask_storage import MemoryStorage, PrefixStorage
    >>> docs = MemoryStorage()
    >>> acme = PrefixStorage(docs, "tenants/acme")
    >>> acme.write("report.txt", b"1")
    >>> [entry.name for entry in acme.list()], [entry.name for entry in docs.list()]
    (['report.txt'], ['tenants/acme/report.txt'])
    """

    def __init__(
        self, inner: StorageBackend, prefix: str, name: str | None = None, *, base_url: str | None = None
    ) -> None:
        super().__init__(inner, name, base_url=base_url)
        try:
            # A file's path, which has no slash at the end: "tenants/" could be "tenants/{name}" with an empty name.
            self.prefix = inner._path(prefix)
        except InvalidPathError as error:
            raise InvalidPathError(
                f"the prefix of {self.name!r} must be a directory, without a slash at the end: {error}", path=error.path
            ) from error
        self._start = f"{self.prefix}/"
        # In error messages. Without the slash, a directory of one segment may be a word of the message.
        directory = rf"|{re.escape(self.prefix)}(?![\w/-])" if "/" in self.prefix else ""
        self._inner_paths = re.compile(rf"(?<![\w./-])(?:{re.escape(self._start)}{directory})")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.prefix!r} of {self.inner!r}>"

    def _to_inner(self, path: str) -> str:
        return f"{self._start}{path}" if path else self.prefix

    def _to_outer(self, path: str) -> str:
        return "" if path == self.prefix else path.removeprefix(self._start)

    def _inner_prefix(self, prefix: str) -> str:
        return f"{self._start}{prefix}"

    def _outer_text(self, text: str) -> str:
        return self._inner_paths.sub(lambda match: "" if match[0] == self._start else "/", text)

    def _verify_link(self, token: str) -> InternalLinkTokenData:
        issuer = self._link_issuer()
        if issuer is not None and not issuer._verify_link(token).path.startswith(self._start):
            raise InvalidLinkError("the link is for another directory of the storage")
        return super()._verify_link(token)


class ReadOnlyStorage(StorageWrapper):
    """The files of a storage, without any way to change them.

    Every operation that writes or deletes, also by a link, raises
    :class:`~flask_storage.errors.UnsupportedOperationError`, and the inner storage is not called.

    Args:
        inner: The storage; in a profile ``"storage"``, the name of another profile.
        name: See :class:`~flask_storage.backends.wrapper.StorageWrapper`.
        base_url: Likewise.

    >>> from flask_storage import MemoryStorage, ReadOnlyStorage
    >>> ReadOnlyStorage(MemoryStorage()).write("a.txt", b"1")
    Traceback (most recent call last):
    flask_storage.errors.UnsupportedOperationError: ReadOnlyStorage cannot write a.txt: 'memory' is read-only
    """

    @property
    def capabilities(self) -> Capabilities:
        """Those of the inner storage that need no write; only downloads have links."""
        inner = self.inner.capabilities
        return Capabilities(
            content_headers=inner.content_headers,
            metadata=inner.metadata,
            guesses_content_type=inner.guesses_content_type,
            links=inner.links & ShareLinkOperation.download,
            link_constraints=inner.link_constraints - {"size", "max_size", "checksum", "exclusive"},
            local_paths=inner.local_paths,
        )

    def _read_only(self, what: str, path: str | None = None) -> UnsupportedOperationError:
        return self._unsupported(what, path, instead=f"{self.name!r} is read-only")

    def _check_options(self, path: str, options: WriteOptions) -> WriteOptions:
        if options != WriteOptions():  # those of a reader are empty
            raise self._read_only(f"write {path}", path)
        return options

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        raise self._read_only(f"write {path}", path)

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        raise self._read_only(f"write {path}", path)

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        raise self._read_only(f"write {path}", path)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        raise self._read_only(f"copy {path} to {new_path}", path)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        raise self._read_only(f"move {path} to {new_path}", path)

    def _delete(self, path: str) -> None:
        raise self._read_only(f"delete {path}", path)

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        raise self._read_only("delete files")

    def _delete_prefix(self, path: str) -> int:
        raise self._read_only(f"delete {path}", path)

    def _multipart(self) -> MultipartStore:
        raise self._read_only("provide multipart uploads")

    def _sweep(self, before: datetime) -> int:
        raise self._read_only("remove unfinished uploads")

    def _check(self) -> None:
        next(iter(self._list("", False)), None)

    def _diagnostics(self, origin: str) -> Diagnostics:
        return Diagnostics()  # the probes of backends write

    def _check_app_link(self, path: str, request: LinkRequest) -> None:
        if request.operations != ShareLinkOperation.download:
            raise self._read_only(f"issue a link that changes {path}", path)


class MirrorStorage(StorageWrapper):
    """A storage whose files are also kept in others, its mirrors.

    All reads use *inner*, which also decides about conditions. After *inner* has published or deleted a file, each
    mirror gets what *inner* then has, as a stream through this process. Files that are written and deleted by several
    clients concurrently are equal everywhere at the end, unless ``delete_many`` or ``delete_prefix`` deletes a file
    that another client writes: :meth:`resync` repairs that.

    Downloads can have links of the service. Uploads and removals by link pass the app, whose link view opens this
    storage, so it must be a profile for them.

    Args:
        inner: The storage; in a profile ``"storage"``, the name of another profile.
        mirrors: The storages that follow it, at least one; in a profile a list of names. They must be able to hold the
            same names: local disk, which cannot have a file ``a`` beside ``a/b``, cannot mirror every bucket.
        name: See :class:`~flask_storage.backends.wrapper.StorageWrapper`.
        base_url: Likewise.
        strict: Whether an operation fails when a mirror fails. Its error says that *inner* has done it. Otherwise the
            failure is logged.

    Raises:
        ConfigurationError: when there is no mirror, or *inner* is one of them.

    >>> from flask_storage import MemoryStorage, MirrorStorage
    >>> primary, copy = MemoryStorage(), MemoryStorage()
    >>> MirrorStorage(primary, [copy]).write("a.txt", b"1")
    >>> copy.read("a.txt")
    b'1'
    """

    storage_arguments = ("inner", "mirrors")

    def __init__(
        self,
        inner: StorageBackend,
        mirrors: Sequence[StorageBackend],
        name: str | None = None,
        *,
        base_url: str | None = None,
        strict: bool = True,
    ) -> None:
        super().__init__(inner, name, base_url=base_url)
        unchecked: object = mirrors  # settings may contain anything
        if not isinstance(unchecked, list | tuple) or not unchecked:
            raise ConfigurationError(f"the mirrors of {self.name!r} must be a list of at least one storage")
        for mirror in mirrors:
            check_storage(type(self).__name__, mirror)
            if mirror is inner:
                raise ConfigurationError(f"{self.name!r} cannot mirror a storage to itself: name another one")
        self.mirrors = tuple(mirrors)
        self.strict = strict

    @property
    def capabilities(self) -> Capabilities:
        """Those of the inner storage; what a mirror cannot keep is not supported, and only downloads have its links."""
        inner = self.inner.capabilities
        mirrors = [mirror.capabilities for mirror in self.mirrors]
        return replace(
            inner,
            content_headers=inner.content_headers and all(mirror.content_headers for mirror in mirrors),
            metadata=inner.metadata and all(mirror.metadata for mirror in mirrors),
            links=inner.links & ShareLinkOperation.download,
            link_combinations=False,
            upload_constraints=frozenset(),
            server_side_copy=False,
        )

    def resync(self, path: str = "") -> int:
        """Make the mirrors equal to the inner storage, and return how many files were copied or deleted there.

        A file is copied if a mirror has none, one of another size, or one that is older. The names, sizes and dates of
        all files below *path* in one mirror are held in memory. Other clients may write and delete concurrently.

        Args:
            path: A directory; ``""`` is the root.

        Raises:
            StorageError: when a mirror fails, also without *strict*; call it again.
        """
        path = normalize_directory(path)
        changed = 0
        for mirror in self.mirrors:
            copies = {entry.name: entry for entry in mirror.iter(path)}
            for entry in self.inner.iter(path):
                copy = copies.pop(entry.name, None)
                if copy is None or copy.size != entry.size or _is_older(copy, entry):
                    self._follow_one(mirror, entry.name)
                    changed += 1
            for name in copies:
                self._follow_one(mirror, name)
                changed += 1
        return changed

    # -- inner --------------------------------------------------------------------------------------------------------

    def _follow(self, path: str) -> None:
        """Make the file in each mirror what it is in the inner storage, or absent."""
        self._on_mirrors(lambda mirror: self._follow_one(mirror, path), path)

    def _follow_one(self, mirror: StorageBackend, path: str) -> None:
        # Other clients do the same. Each compares again after it has changed the mirror, so the last one to change it
        # has left the version that the inner storage then had.
        for _ in range(_MAX_COPIES):
            etag = self._copy_or_delete(mirror, path)
            if etag == self._etag(path):
                return

    def _copy_or_delete(self, mirror: StorageBackend, path: str) -> str | bool | None:
        """Copy the file, or delete its copy if there is none; return the etag of what was copied, False without one."""
        with suppress(PreconditionFailedError):  # it was replaced while it was read
            try:
                return _copy_file(self.inner, path, mirror, path).etag
            except FileNotFoundInStorageError:
                with mirror._error_translator(path):
                    mirror._delete(path)
                return False
        return True

    def _etag(self, path: str) -> str | bool | None:
        try:
            return self.inner.stat(path).etag
        except FileNotFoundInStorageError:
            return False

    def _on_mirrors(self, act: Callable[[StorageBackend], object], path: str | None = None) -> None:
        """Call *act* for each mirror, also if it fails for one; raise the first failure, or only log them."""
        failures = []
        for mirror in self.mirrors:
            try:
                with mirror._error_translator(path):
                    act(mirror)
            except StorageError as error:
                what = "files were deleted" if path is None else f"{path} was changed"
                text = f"{what} in {self.inner.name!r}, but not in the mirror {mirror.name!r}: {error}"
                if not self.strict:
                    logger.error("%s; call resync()", text)
                    continue
                failure = StorageUnavailableError(
                    f"{text}; repair the mirror and call resync()", path=path, backend=self.name
                )
                failure._relabelled_by = (id(self),)
                failure.__cause__ = error
                failures.append(failure)
        if failures:
            raise failures[0]

    def _following(self, file: RemoteFile, path: str) -> RemoteFile:
        return _WatchedFile(file, lambda: None, lambda: self._follow(path))

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        return self._following(super()._open_writer(path, options), path)

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        return self._following(super()._open_updater(path, options), path)

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        super()._upload_file(file_obj, path, options, progress)
        self._follow(path)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        super()._copy(path, new_path, options)
        self._follow(new_path)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        super()._move(path, new_path, options)
        self._follow(new_path)
        self._follow(path)

    def _delete(self, path: str) -> None:
        super()._delete(path)
        self._follow(path)

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        failed = super()._delete_many(paths)
        deleted = [path for path in paths if path not in failed]
        self._on_mirrors(lambda mirror: _delete_all(mirror, deleted))
        return failed

    def _delete_prefix(self, path: str) -> int:
        count = super()._delete_prefix(path)
        self._on_mirrors(lambda mirror: mirror._delete_prefix(path), path)
        return count

    def _multipart(self) -> MultipartStore:
        return _MirrorMultipart(self, self.inner._multipart(), self._follow)

    def _sweep(self, before: datetime) -> int:
        count = super()._sweep(before)
        for mirror in self.mirrors:
            with mirror._error_translator():
                count += mirror._sweep(before)
        return count

    def _check(self) -> None:
        for storage in (self.inner, *self.mirrors):
            storage.check()

    def _link_issuer(self) -> StorageBackend | None:
        return None  # its view would not write to the mirrors


class _MirrorMultipart(WrapperMultipart):
    def __init__(self, storage: MirrorStorage, inner: MultipartStore, follow: Callable[[str], None]) -> None:
        super().__init__(storage, inner)
        self._follow = follow

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        super().put(path, data, options)
        self._follow(path)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        super().complete(path, upload_id, parts, options)
        self._follow(path)


class ReadThroughStorage(StorageWrapper):
    """A storage that also shows the files of an older one, from which they are moved while the app runs.

    Reads and listings prefer the new storage, and have the rest from the old one. Writes go to the new one, and
    deletions to both. :meth:`migrate` copies the rest. So the app can change to another backend without an
    interruption: see *Move to another backend without downtime* in the documentation.

    All links are links of the app, whose view opens this storage, so it must be a profile for them: a link of the
    service would be one of the wrong service as soon as the file has moved.

    Args:
        inner: The new storage; in a profile ``"storage"``, the name of another profile.
        old: The storage that has the files; in a profile the name of another one.
        name: See :class:`~flask_storage.backends.wrapper.StorageWrapper`.
        base_url: See :class:`~flask_storage.StorageBackend`; by default no file has a public URL.

    Raises:
        ConfigurationError: when both are the same storage.

    >>> from flask_storage import MemoryStorage, ReadThroughStorage
    >>> old, new = MemoryStorage(), MemoryStorage()
    >>> old.write("a.txt", b"1")
    >>> files = ReadThroughStorage(new, old)
    >>> files.read("a.txt"), files.migrate(delete=True), new.read("a.txt"), old.exists("a.txt")
    (b'1', 1, b'1', False)
    """

    storage_arguments = ("inner", "old")

    def __init__(
        self, inner: StorageBackend, old: StorageBackend, name: str | None = None, *, base_url: str | None = None
    ) -> None:
        super().__init__(inner, name, base_url=base_url)
        check_storage(type(self).__name__, old)
        if old is inner:
            raise ConfigurationError(f"the old storage of {self.name!r} is the new one: name another one")
        self.old = old

    @property
    def capabilities(self) -> Capabilities:
        """Those of the new storage that do not depend on which of both has the file."""
        inner = self.inner.capabilities
        return replace(
            inner,
            read_write=inner.read_write and inner.exclusive,
            if_match=False,
            copy_conditions=False,
            multipart_conditions=False,
            links=_NOTHING,
            link_combinations=False,
            link_constraints=frozenset(),
            upload_constraints=frozenset(),
            local_paths=False,
            server_side_copy=False,
        )

    def migrate(self, path: str = "", *, limit: int | None = None, delete: bool = False) -> int:
        """Copy the files that only the old storage has to the new one, and return their number.

        Other processes may read, write and delete concurrently: a file that the new storage has is never replaced. An
        interrupted call is continued by another one. Run one call at a time. The names of all files below *path* in
        both storages are held in memory.

        Args:
            path: A directory; ``""`` is the root.
            limit: Stop after this number of copied files; None for all.
            delete: Delete from the old storage what the new one has.

        Raises:
            UnsupportedOperationError: when the new storage cannot create files exclusively: a file that is written
                concurrently could be replaced by its old version.
            ValueError: when *limit* is not a number of files.
            PartialFailureError: when the new storage cannot hold some of the files, because of their names or headers;
                all others were copied. Its ``errors`` maps each of them to its error.
        """
        path = normalize_directory(path)
        if limit is not None:
            check_count("limit", limit)
        if not self.inner.capabilities.exclusive:
            raise self._unsupported(
                "migrate files while the app writes",
                instead=f"{self.inner.name!r} cannot create files exclusively; stop the app and copy them",
            )
        stored = {entry.name for entry in self.inner.iter(path)}
        found = [entry.name for entry in self.old.iter(path)]
        failed: dict[str, StorageError] = {}
        copied = 0
        for name in found:
            if copied == limit:
                break
            try:
                if name in stored or not self._fetch(name):
                    continue
            except (InvalidPathError, UnsupportedOperationError) as error:
                failed[name] = error
                continue
            copied += 1
            if delete:
                _delete_all(self.old, [name])
        if delete:
            # Only what was there before: a process that copies a file deletes the copy if the original is gone at once.
            _delete_all(self.old, [name for name in found if name in stored])
        if failed:
            raise PartialFailureError(
                f"{len(failed)} files cannot be stored in {self.inner.name!r}, and {copied} were copied; see .errors",
                failed,
                backend=self.name,
            )
        return copied

    # -- inner --------------------------------------------------------------------------------------------------------

    def _fetch(self, path: str) -> bool:
        """Copy a file to the new storage and return True; False if that has the file, or the old one does not."""
        try:
            info = _copy_file(self.old, path, self.inner, self.inner._path(path), exclusive=True)
        except (FileExistsInStorageError, FileNotFoundInStorageError):
            return False
        except PreconditionFailedError:  # it was deleted while it was read
            if self.old.exists(path):
                raise
            return False
        if self.old.exists(path):
            return True
        # A client has deleted it since it was read, and may have done so before the copy was there.
        with suppress(FileNotFoundInStorageError):
            if self.inner.size(path) == info.size:
                with self.inner._error_translator(path):
                    self.inner._delete(path)
        return False

    def _first(self, path: str, call: Callable[[StorageBackend], _T]) -> _T:
        """Return what *call* returns for the storage that has the file."""
        # The new one again, in case the file was moved between the first two calls.
        for storage in (self.inner, self.old):
            with suppress(FileNotFoundInStorageError), storage._error_translator(path):
                return call(storage)
        with self.inner._error_translator(path):
            return call(self.inner)

    def _open(self, path: str, opener: Callable[[StorageBackend], Callable[[str], RemoteFile]]) -> RemoteFile:
        def call(storage: StorageBackend) -> RemoteFile:
            if storage is self.inner:
                return opener(storage)(path)
            return ForwardingFile(storage._reader(path, opener(storage)))  # its errors are those of the old storage

        return self._first(path, call)

    def _open_reader(self, path: str) -> RemoteFile:
        return self._open(path, lambda storage: storage._open_reader)

    def _open_whole(self, path: str) -> RemoteFile:
        return self._open(path, lambda storage: storage._open_whole)

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        with self._reader(path, self._open_whole) as reader:
            copy_chunks(reader, file_obj, progress, chunk_size=reader.iter_chunk_size)

    def _stat(self, path: str) -> FileInfo:
        return self._first(path, lambda storage: storage._stat(path))

    def _list(self, path: str, recursive: bool) -> Iterator[Sequence[ListEntry]]:
        return self._both_pages(path, lambda storage: storage._list(path, recursive))

    def _list_prefix(self, prefix: str, recursive: bool) -> Iterator[Sequence[ListEntry]]:
        return self._both_pages(prefix, lambda storage: storage._list_prefix(prefix, recursive))

    def _both_pages(
        self, path: str, pages: Callable[[StorageBackend], Iterable[Sequence[ListEntry]]]
    ) -> Iterator[Sequence[ListEntry]]:
        # The old storage first: a file that is moved concurrently is then in the second listing.
        with self.old._error_translator(path):
            old = {entry.name: entry for page in pages(self.old) for entry in page}
        for page in pages(self.inner):
            for entry in page:
                old.pop(entry.name, None)
            yield page
        yield list(old.values())

    def _list_details(self, path: str, recursive: bool, prefix: str | None) -> Iterator[FileInfo]:
        with self.old._error_translator(path):
            old = {info.path: info for info in self.old._list_details(path, recursive, prefix)}
        for info in self.inner._list_details(path, recursive, prefix):
            old.pop(info.path, None)
            yield info
        yield from old.values()

    def _local_path(self, path: str) -> Path | None:
        return None  # a web server would look in one directory only

    def _check_new(self, path: str, options: WriteOptions) -> None:
        """Raise if *options* are exclusive and the old storage has the file; the new one checks it when publishing."""
        if options.exclusive and self.old.exists(path):
            raise FileExistsInStorageError(f"{path} exists: choose another name", path=path, backend=self.name)

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        writer = super()._open_writer(path, options)
        return _WatchedFile(writer, lambda: self._check_new(path, options)) if options.exclusive else writer

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        if not self.inner.exists(path):
            self._fetch(path)
        return super()._open_updater(path, options)

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        # No file is added to the old storage, so one that is not there now is not there later.
        self._check_new(path, options)
        super()._upload_file(file_obj, path, options, progress)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        def call(storage: StorageBackend) -> None:
            if storage is self.inner:
                storage._copy(path, new_path, options)
            else:
                _copy_file(storage, path, self.inner, new_path)

        self._first(path, call)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        if self.inner.exists(path):
            super()._move(path, new_path, options)
        elif self.inner.capabilities.exclusive:
            self._fetch(path)
            super()._move(path, new_path, options)
        else:
            _copy_file(self.old, path, self.inner, new_path)
        # Last: as long as the old storage has the file, a concurrent migrate() keeps its copy.
        with self.old._error_translator(path):
            self.old._delete(path)

    def _delete(self, path: str) -> None:
        # First from the old storage, so that no process can read the file there after it is deleted from the new one.
        with self.old._error_translator(path):
            self.old._delete(path)
        super()._delete(path)

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        with self.old._error_translator():
            failed = {path: self._relabel(error) for path, error in self.old._delete_many(paths).items()}
        return failed | super()._delete_many([path for path in paths if path not in failed])

    def _delete_prefix(self, path: str) -> int:
        count = sum(len(page) for page in self._list(path, True))
        with self.old._error_translator(path):
            self.old._delete_prefix(path)
        super()._delete_prefix(path)
        return count

    def _sweep(self, before: datetime) -> int:
        with self.old._error_translator():
            count = self.old._sweep(before)
        return count + super()._sweep(before)

    def _check(self) -> None:
        for storage in (self.inner, self.old):
            storage.check()

    def _multipart(self) -> MultipartStore:
        return _ReadThroughMultipart(self, self.inner._multipart(), self._check_new)

    def _link_issuer(self) -> StorageBackend | None:
        return None  # its view would not find the files of the old storage

    def _signs_links(self) -> bool:
        return False

    def _url(self, path: str) -> str | None:
        return None


class _ReadThroughMultipart(WrapperMultipart):
    def __init__(
        self, storage: ReadThroughStorage, inner: MultipartStore, check: Callable[[str, WriteOptions], None]
    ) -> None:
        super().__init__(storage, inner)
        self._check_new = check

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        self._check_new(path, options)
        super().put(path, data, options)


class _WatchedFile(ForwardingFile):
    """A writer with a function that is called before it publishes, and one that is called afterwards."""

    def __init__(self, inner: RemoteFile, before: Callable[[], None], after: Callable[[], None] = lambda: None) -> None:
        super().__init__(inner)
        self._before = before
        self._after = after

    def _publish(self) -> None:
        self._before()
        super()._publish()
        self._after()


def _copy_file(
    source: StorageBackend, path: str, target: StorageBackend, new_path: str, *, exclusive: bool = False
) -> FileInfo:
    """Copy a file with those headers that the target keeps, without signals; return the info of what was copied."""
    with source._reader(path, source._open_whole) as reader:
        info = reader.info or source.stat(path)
        headers: dict[str, Any] = {name: getattr(info, name) for name in CONTENT_HEADERS}
        options = WriteOptions(**headers, metadata=info.metadata, exclusive=exclusive, size=info.size)
        target._upload_file(reader, new_path, target._check_options(new_path, options), None)
    return info


def _delete_all(storage: StorageBackend, paths: Sequence[str]) -> None:
    """Delete files without signals, and raise the error of the first that could not be deleted."""
    with storage._error_translator():
        for error in storage._delete_many(paths).values():
            raise error


def _is_older(copy: ListEntry, entry: ListEntry) -> bool:
    return copy.last_modified is None or entry.last_modified is None or copy.last_modified < entry.last_modified
