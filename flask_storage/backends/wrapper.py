"""The base of storages that hold another storage, and forward to it what they do not do themselves."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from ..diagnostics import Diagnostics, Finding, Probe
from ..errors import ConfigurationError, FileNotFoundInStorageError, StorageError, UnsupportedOperationError
from ..files import RemoteFile
from ..multipart import MultipartStore, Part, PendingUpload
from ..streams import SupportsRead, SupportsWrite
from ..tokens import InternalLinkTokenData
from ..types import (
    Capabilities,
    FileInfo,
    FileMode,
    LinkRequest,
    ListEntry,
    PresignedUpload,
    ProgressCallback,
    WriteOptions,
)
from .base import StorageBackend
from .driver import ErrorTranslator

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class StorageWrapper(StorageBackend):
    """A storage that forwards every driver method to another one; a subclass overrides what is different.

    Public operations, their checks and their signals run once, in the outermost storage. A subclass whose paths differ
    from those of *inner* overrides :meth:`_to_inner` and :meth:`_to_outer`; errors, listings and open files then have
    its own paths.

    A wrapper that is a profile issues links of the app of its own: the profile is their audience, they contain its
    path, and the link view opens the wrapper. One that is created for a request uses those of *inner*. A wrapper never
    closes *inner*, which other storages may use.

    Args:
        inner: The storage.
        name: The name in errors and logs; by default that of *inner*.
        base_url: See :class:`~flask_storage.StorageBackend`. By default :meth:`url` returns the address that *inner*
            returns.

    Raises:
        ConfigurationError: when *inner* is not a storage.
    """

    argument_aliases: ClassVar[Mapping[str, str]] = {"storage": "inner"}
    storage_arguments: ClassVar[tuple[str, ...]] = ("inner",)

    def __init__(self, inner: StorageBackend, name: str | None = None, *, base_url: str | None = None) -> None:
        check_storage(type(self).__name__, inner)
        super().__init__(name or inner.name, base_url=base_url, portable=inner.portable)
        self.inner = inner
        self.links = inner.links
        self.unsupported_headers = inner.unsupported_headers

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the inner storage."""
        return self.inner.capabilities

    # -- paths --------------------------------------------------------------------------------------------------------

    def _to_inner(self, path: str) -> str:
        """Return the path in the inner storage of a file, a directory or a prefix; both are normalized."""
        return path

    def _to_outer(self, path: str) -> str:
        """Return this storage's path of what the inner storage calls *path*."""
        return path

    def _path(self, path: str) -> str:
        path = super()._path(path)
        with self._relabelling():
            return self._to_outer(self.inner._path(self._to_inner(path)))

    def _is_listed(self, name: str) -> bool:
        return self.inner._is_listed(self._to_inner(name))

    # -- errors -------------------------------------------------------------------------------------------------------

    def _error_translator(self, path: str | None = None) -> ErrorTranslator:
        return _RelabellingTranslator(self, path)

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        translated = self.inner._translate(error, self._to_inner(path) if path else None)
        return None if translated is None else self._relabel(translated)

    def _relabel(self, error: StorageError) -> StorageError:
        """Give an error of the inner storage the path and the name that callers of this storage know; return it.

        An error may pass several times, and through several wrappers, of which the innermost is first.
        """
        if id(self) in error._relabelled_by:
            return error
        if isinstance(self.inner, StorageWrapper):
            self.inner._relabel(error)
        if error.path is not None:
            error.path = self._to_outer(error.path)
        if isinstance(error, FileNotFoundInStorageError):
            FileNotFoundInStorageError.__init__(error, self.name, error.path or "")
        else:
            error.message = self._outer_text(error.message)
            error.args = (error.message, *error.args[1:])
        error.backend = self.name
        error._relabelled_by += (id(self),)
        return error

    def _outer_text(self, text: str) -> str:
        """Return the message of an error with this storage's paths in place of those of the inner storage."""
        return text

    @contextmanager
    def _relabelling(self) -> Iterator[None]:
        """Relabel the storage errors of the block, and translate no other error: it may come from the caller's file."""
        try:
            yield
        except StorageError as error:
            self._relabel(error)
            raise

    def _unsupported(self, what: str, path: str | None = None, *, instead: str = "") -> UnsupportedOperationError:
        error = super()._unsupported(what, path, instead=instead)
        error._relabelled_by = (id(self),)  # its path is one of this storage
        return error

    # -- reading ------------------------------------------------------------------------------------------------------

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        return self._outer_pages(self.inner._list(self._to_inner(path), recursive))

    def _list_prefix(self, prefix: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        return self._outer_pages(self.inner._list_prefix(self._inner_prefix(prefix), recursive))

    def _list_details(self, path: str, recursive: bool, prefix: str | None) -> Iterator[FileInfo]:
        inner_prefix = None if prefix is None else self._inner_prefix(prefix)
        for info in self.inner._list_details(self._to_inner(path), recursive, inner_prefix):
            yield self._outer_info(info)

    def _inner_prefix(self, prefix: str) -> str:
        """Return the plain string with which the inner paths of all files begin whose paths begin with *prefix*."""
        return prefix

    def _outer_pages(self, pages: Iterable[Sequence[ListEntry]]) -> Iterator[Sequence[ListEntry]]:
        for page in pages:
            yield [entry._replace(name=self._to_outer(entry.name)) for entry in page]

    def _outer_info(self, info: FileInfo) -> FileInfo:
        return replace(info, path=self._to_outer(info.path))

    def _outer_file(self, file: RemoteFile) -> RemoteFile:
        if file.info is not None:
            file.info = self._outer_info(file.info)
        return file

    def _open_reader(self, path: str) -> RemoteFile:
        return self._outer_file(self.inner._open_reader(self._to_inner(path)))

    def _open_whole(self, path: str) -> RemoteFile:
        return self._outer_file(self.inner._open_whole(self._to_inner(path)))

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        with self._relabelling():
            self.inner._download_file(self._to_inner(path), file_obj, progress)

    def _stat(self, path: str) -> FileInfo:
        return self._outer_info(self.inner._stat(self._to_inner(path)))

    def _local_path(self, path: str) -> Path | None:
        return self.inner._local_path(self._to_inner(path))

    # -- writing ------------------------------------------------------------------------------------------------------

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        return self.inner._open_writer(self._to_inner(path), options)

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        return self._outer_file(self.inner._open_updater(self._to_inner(path), options))

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        with self._relabelling():
            self.inner._upload_file(file_obj, self._to_inner(path), options, progress)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        self.inner._copy(self._to_inner(path), self._to_inner(new_path), options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        self.inner._move(self._to_inner(path), self._to_inner(new_path), options)

    def _delete(self, path: str) -> None:
        self.inner._delete(self._to_inner(path))

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        failed = self.inner._delete_many([self._to_inner(path) for path in paths])
        return {self._to_outer(path): self._relabel(error) for path, error in failed.items()}

    def _delete_prefix(self, path: str) -> int:
        return self.inner._delete_prefix(self._to_inner(path))

    def _multipart(self) -> MultipartStore:
        return WrapperMultipart(self, self.inner._multipart())

    # -- maintenance --------------------------------------------------------------------------------------------------

    def _sweep(self, before: datetime) -> int:
        return self.inner._sweep(before)

    def _check_uploaded(self, path: str) -> None:
        self.inner._check_uploaded(self._to_inner(path))

    def _diagnostics(self, origin: str) -> Diagnostics:
        found = self.inner._diagnostics(origin)
        return replace(found, probes={name: self._inner_probe(probe) for name, probe in found.probes.items()})

    def _inner_probe(self, probe: Probe) -> Probe:
        def call(directory: str) -> Finding:
            return probe(self._to_inner(directory))

        return call

    # -- links --------------------------------------------------------------------------------------------------------

    def _link_issuer(self) -> StorageBackend | None:
        """Return the storage whose links of the app this one uses; None if it issues its own."""
        return self.inner if self.link_context is None else None

    @property
    def link_lifetime(self) -> timedelta:
        """How long a link is valid for which no expiry is given."""
        issuer = self._link_issuer()
        return super().link_lifetime if issuer is None else issuer.link_lifetime

    def _profile_path(self, path: str) -> tuple[str, str]:
        issuer = self._link_issuer()
        return super()._profile_path(path) if issuer is None else issuer._profile_path(self._to_inner(path))

    def _sign(self, paths: Sequence[str], request: LinkRequest) -> list[str]:
        issuer = self._link_issuer()
        if issuer is None:
            return super()._sign(paths, request)
        return issuer._sign([self._to_inner(path) for path in paths], request)

    def _link_url(self, token: str) -> str:
        issuer = self._link_issuer()
        return super()._link_url(token) if issuer is None else issuer._link_url(token)

    def _verify_link(self, token: str) -> InternalLinkTokenData:
        issuer = self._link_issuer()
        if issuer is None:
            return super()._verify_link(token)
        data = issuer._verify_link(token)
        return data._replace(path=self._to_outer(data.path))

    def _signs_links(self) -> bool:
        return self.inner._signs_links()

    def _check_native(self, request: LinkRequest, constraints: frozenset[str]) -> None:
        self.inner._check_native(request, constraints)
        super()._check_native(request, constraints)

    def _url(self, path: str) -> str | None:
        try:
            return self.inner.url(self._to_inner(path))
        except UnsupportedOperationError:
            return None

    def _link_to(self, path: str, request: LinkRequest) -> str:
        return self.inner._link_to(self._to_inner(path), request)

    def _links_to(self, paths: Sequence[str], request: LinkRequest) -> Sequence[str]:
        return self.inner._links_to([self._to_inner(path) for path in paths], request)

    def _upload_request(self, path: str, request: LinkRequest) -> PresignedUpload:
        return self.inner._upload_request(self._to_inner(path), request)

    def _upload_form(self, path: str, request: LinkRequest) -> PresignedUpload:
        return self.inner._upload_form(self._to_inner(path), request)


class _RelabellingTranslator(ErrorTranslator):
    """Also gives the storage errors of the inner storage the paths of the wrapper."""

    __slots__ = ("_wrapper",)

    def __init__(self, wrapper: StorageWrapper, path: str | None) -> None:
        super().__init__(wrapper, path)
        self._wrapper = wrapper

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StorageError):
            # An error of the interface itself has this path already.
            is_outer = error.path is not None and error.path == self._path
            if not is_outer or self._wrapper._to_outer(error.path or "") == error.path:
                self._wrapper._relabel(error)
        super().__exit__(kind, error, trace)


class WrapperMultipart(MultipartStore):
    """The multipart calls of a wrapper: those of the inner storage, with its paths.

    Args:
        storage: The wrapper.
        inner: The calls of the inner storage.
    """

    def __init__(self, storage: StorageWrapper, inner: MultipartStore) -> None:
        self._inner = inner
        self._to_inner = storage._to_inner
        self._to_outer = storage._to_outer
        self.limits = inner.limits

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """See :meth:`MultipartStore.put`."""
        self._inner.put(self._to_inner(path), data, options)

    def create(self, path: str, options: WriteOptions) -> str:
        """See :meth:`MultipartStore.create`."""
        return self._inner.create(self._to_inner(path), options)

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """See :meth:`MultipartStore.upload_part`."""
        return self._inner.upload_part(self._to_inner(path), upload_id, number, data)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """See :meth:`MultipartStore.complete`."""
        self._inner.complete(self._to_inner(path), upload_id, parts, options)

    def abort(self, path: str, upload_id: str) -> None:
        """See :meth:`MultipartStore.abort`."""
        self._inner.abort(self._to_inner(path), upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """See :meth:`MultipartStore.list_parts`."""
        return self._inner.list_parts(self._to_inner(path), upload_id)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """See :meth:`MultipartStore.list_uploads`."""
        for upload in self._inner.list_uploads(self._to_inner(path)):
            yield replace(upload, path=self._to_outer(upload.path))


class ForwardingFile(RemoteFile):
    """An open file that forwards to another one. Both have their own state, so both refuse use after closing.

    Args:
        inner: The file of the inner storage. Its errors are those that it raises itself: attach a translator to it if
            they are not those of the inner storage of a wrapper.
    """

    def __init__(self, inner: RemoteFile) -> None:
        super().__init__(inner.file_mode)
        self.info = inner.info
        self.iter_chunk_size = inner.iter_chunk_size
        self._inner = inner

    def seekable(self) -> bool:
        """Whether :meth:`seek` works."""
        return self._inner.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in bytes and return it."""
        self._check(FileMode.read)
        with self._error_translator:
            return self._inner.seek(offset, whence)

    def will_read(self, count: int, /) -> None:
        """Announce how many bytes are going to be read."""
        self._inner.will_read(count)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._inner.tell() if self.readable() and not self.closed else super().tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Truncate or extend an edited file to *size* bytes (None: the position); return the size."""
        self._check(FileMode.write)
        with self._error_translator:
            return self._inner.truncate(size)

    def fileno(self) -> int:
        """Return the descriptor of a reader, if it has one."""
        self._check(FileMode.read)
        return self._inner.fileno()

    def _read(self, size: int) -> bytes:
        return self._inner.read(size)

    def _readinto(self, view: memoryview) -> int:
        return self._inner.readinto(view)

    def _readline(self, limit: int) -> bytes:
        return self._inner.readline(limit)

    def _write(self, view: memoryview) -> None:
        self._inner.write(view)

    def _publish(self) -> None:
        self._inner.close()

    def _discard(self) -> None:
        self._inner.abort()

    def _finalize(self) -> None:
        # The outer file has warned already; the inner one only releases its resources.
        self._inner._state = self._state
        self._inner._finalize()

    def _release(self) -> None:
        self._inner.close()


def check_storage(owner: str, storage: object) -> None:
    """Raise unless *storage*, an argument of *owner*, is a storage."""
    if not isinstance(storage, StorageBackend):
        raise ConfigurationError(
            f"{owner} wraps a storage, not {type(storage).__name__}: pass a storage, or in STORAGE_PROFILES the name "
            "of another profile"
        )
