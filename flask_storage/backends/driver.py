"""The driver interface: the methods that a backend implements, and what the caller guarantees to each of them.

To write a backend, implement these methods and run :class:`flask_storage.testing.BackendConformance` on the result.
:class:`~flask_storage.backends.base.StorageBackend` calls every driver method with checked arguments: *path* and
*new_path* are normalized, not empty and not equal, and *options* and *request* contain only what
:attr:`StorageDriver.capabilities` declares. Driver methods do not check this again.

The caller translates errors of the service or its SDK with :meth:`StorageDriver._translate`, so driver methods do not.
Only :meth:`~StorageDriver._upload_file` and :meth:`~StorageDriver._download_file` translate errors themselves: the file
object that they get may raise errors too, which must pass unchanged.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

from ..diagnostics import Diagnostics
from ..errors import (
    FileNotFoundInStorageError,
    IntegrityError,
    PreconditionFailedError,
    StorageError,
    UnsupportedOperationError,
)
from ..files import RemoteFile
from ..multipart import MultipartStore
from ..paths import RESERVED_PREFIX, is_valid, normalize
from ..streams import SupportsRead, SupportsWrite, copy_chunks
from ..types import (
    Capabilities,
    FileInfo,
    LinkRequest,
    ListEntry,
    PresignedUpload,
    ProgressCallback,
    WriteOptions,
)


class StorageDriver:
    """The methods that a backend overrides.

    Required are :meth:`_list`, :meth:`_open_reader`, :meth:`_open_writer`, :meth:`_delete` and :meth:`_stat`.
    """

    name: str
    base_url: str | None = None
    portable: bool = False

    @property
    def capabilities(self) -> Capabilities:
        """What this storage supports; may be a class attribute if it is the same for all instances."""
        return Capabilities()

    # -- required -------------------------------------------------------------------------------------------------

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        """Yield the entries below the directory *path* in pages, lazily and in any order.

        The caller guarantees that *path* is normalized; ``""`` is the root. Names are full paths. Without *recursive*
        a subdirectory is one entry whose name ends in ``/``. A directory that does not exist yields nothing. Names
        that are not valid paths may be yielded; the caller skips them.
        """
        raise NotImplementedError

    def _open_reader(self, path: str) -> RemoteFile:
        """Return a seekable reader of the file, with ``info`` set; it reads only the version that ``info`` describes.

        The caller guarantees that *path* is normalized and not empty.

        Raises:
            FileNotFoundInStorageError: when the file does not exist.
        """
        raise NotImplementedError

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        """Return a writer of a new file that replaces *path* atomically when it is published.

        The caller guarantees that *path* is normalized and not empty, and that the storage supports *options*. The
        writer checks ``exclusive`` and ``if_match`` when it publishes. ``size`` and ``checksum`` are checked by
        :class:`~flask_storage.files.RemoteFile`.
        """
        raise NotImplementedError

    def _delete(self, path: str) -> None:
        """Delete the file; a missing file is no error.

        The caller guarantees that *path* is normalized and not empty.
        """
        raise NotImplementedError

    def _stat(self, path: str) -> FileInfo:
        """Return size, date, etag, headers and metadata of the file.

        The caller guarantees that *path* is normalized and not empty.

        Raises:
            FileNotFoundInStorageError: when the file does not exist.
        """
        raise NotImplementedError

    # -- optional: the default works on every backend ---------------------------------------------------------------

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        """Return the storage error for *error*, or None if *error* does not come from the service or its SDK.

        The caller sets the path and the backend of the returned error and raises it ``from`` *error*. *error* is
        never a :class:`~flask_storage.errors.StorageError`.
        """
        return None

    def _list_prefix(self, prefix: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        """Yield entries as :meth:`_list` does, of all files whose path begins with the plain string *prefix*.

        The caller guarantees that *prefix* is normalized; it may be empty.
        """
        for page in self._list(prefix.rpartition("/")[0], recursive):
            yield [entry for entry in page if entry.name.startswith(prefix)]

    def _list_details(self, path: str, recursive: bool, prefix: str | None) -> Iterator[FileInfo]:
        """Yield the :class:`~flask_storage.FileInfo` of each file below *path*, or with *prefix* if that is not None.

        The caller guarantees that *path* and *prefix* are normalized. Files that are deleted concurrently are left
        out. Names that are not valid paths may be yielded; the caller skips them.
        """
        for page in self._list(path, recursive) if prefix is None else self._list_prefix(prefix, recursive):
            for entry in page:
                if not entry.is_directory:
                    try:
                        yield self._stat(entry.name)
                    except FileNotFoundInStorageError:
                        continue

    def _open_whole(self, path: str) -> RemoteFile:
        """Return a reader as :meth:`_open_reader` does, for a caller that reads the whole file, from the beginning.

        The caller guarantees the same, and closes the reader soon.
        """
        return self._open_reader(path)

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        """Return a private copy of the existing file, open for reading and writing, which closing publishes.

        The caller guarantees that *path* is normalized, that ``read_write`` is among the capabilities, and that
        *options* have neither a size nor a checksum.
        """
        raise self._unsupported("open a file for reading and writing", path)

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        """Store the content that *file_obj* yields. The default streams through :meth:`_open_writer`.

        The caller guarantees that *path* is normalized and that the storage supports *options*, but translates no
        errors here: an override wraps its calls of the service in ``with self._error_translator(path)``, and leaves
        the calls of *file_obj* outside.
        """
        with self._writer(path, options) as writer:
            copy_chunks(file_obj, writer, progress)

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        """Write the content into *file_obj*. The default streams from :meth:`_open_reader`.

        The caller guarantees that *path* is normalized, but translates no errors, as for :meth:`_upload_file`.
        """
        with self._reader(path) as reader:
            copy_chunks(reader, file_obj, progress)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        """Copy one file with its headers and metadata. The default streams through this process.

        The caller guarantees that both paths are normalized and differ, and that *options* have at most ``exclusive``
        and ``if_match``, which are conditions on the target.
        """
        self._stream_to(self, path, new_path, options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        """Move one file; the caller's guarantees are those of :meth:`_copy`.

        The default copies and then deletes, so that after a failure at least one of both files exists. It raises
        :class:`~flask_storage.errors.PreconditionFailedError`, and deletes nothing, when another etag tells that the
        file was replaced during the copy. Between that check and the deletion it can still be replaced: override this
        method if the service deletes on condition of the etag.
        """
        etag = self._stat(path).etag
        self._copy(path, new_path, options)
        if self._stat(path).etag != etag:
            raise PreconditionFailedError(
                f"{path} was replaced while it was copied to {new_path}: it was not deleted; move it again", path=path
            )
        self._delete(path)

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        """Delete all files of *paths* and return the error of each that could not be deleted.

        The caller guarantees that *paths* are normalized, except within :meth:`_delete_prefix`, whose default passes
        the names as they are stored.
        """
        failed: dict[str, StorageError] = {}
        for path in paths:
            try:
                with self._error_translator(path):
                    self._delete(path)
            except StorageError as error:
                failed[path] = error
        return failed

    def _delete_prefix(self, path: str) -> int:
        """Delete all files below the directory *path*, also those whose names are not valid paths; return the count.

        The caller guarantees that *path* is normalized and not the root.
        """
        count = 0
        for page in self._list(path, True):
            names = [entry.name for entry in page]
            for error in self._delete_many(names).values():
                raise error
            count += len(names)
        return count

    def _url(self, path: str) -> str | None:
        """Return the public URL that the service gives the file, or None. Called only without a ``base_url``."""
        return None

    def _link_to(self, path: str, request: LinkRequest) -> str:
        """Return a URL of the service that grants the operations of *request* until it expires.

        The caller guarantees that *path* is normalized, and that the capabilities include the operations and the
        constraints of *request*. If the service cannot sign this request all the same, raise
        :class:`~flask_storage.errors.UnsupportedOperationError`, or :class:`~flask_storage.errors.NoSignerError`: the
        caller then issues a link of the app. A backend whose service signs no links does not override this.
        """
        raise self._unsupported("sign links", path)

    def _links_to(self, paths: Sequence[str], request: LinkRequest) -> Sequence[str]:
        """Return a link for each of *paths*, in their order; the caller's guarantees are those of :meth:`_link_to`."""
        return [self._link_to(path, request) for path in paths]

    def _upload_request(self, path: str, request: LinkRequest) -> PresignedUpload:
        """Return the request by which a browser uploads the file. The default is a ``PUT`` to the link.

        The caller guarantees that *path* is normalized, and that ``upload_constraints`` include those of *request*.
        Errors as for :meth:`_link_to`.
        """
        return PresignedUpload(
            method="PUT",
            url=self._link_to(path, request),
            headers={"Content-Type": request.content_type or "application/octet-stream"},
            expires_at=request.expires_at,
        )

    def _upload_form(self, path: str, request: LinkRequest) -> PresignedUpload:
        """Return the form of the service by which a browser uploads the file.

        The caller's guarantees are those of :meth:`_upload_request`; *request* has a ``max_size``, and its content type
        may be a prefix. Errors as for :meth:`_link_to`. A backend whose service accepts no forms does not override
        this.
        """
        raise self._unsupported("create an upload form", path)

    def _check_uploaded(self, path: str) -> None:
        """Raise :class:`~flask_storage.errors.IntegrityError` for a file that only a client could have stored.

        ``confirm_upload`` calls this and then deletes the file. Override it if the service lets the holder of an upload
        link store what this storage never writes, and cannot replace. The caller guarantees that *path* is normalized.
        """

    def _multipart(self) -> MultipartStore:
        """Return the multipart calls. The caller checks their arguments and translates their errors."""
        raise self._unsupported("provide multipart uploads")

    def _sweep(self, before: datetime) -> int:
        """Remove temporary files and pending uploads that were begun before *before*; return their number.

        The caller guarantees that *before* is aware and in UTC.
        """
        return 0

    def _check(self) -> None:
        """Raise when the storage does not work. The default writes, reads and deletes a small hidden file."""
        path = f"{RESERVED_PREFIX}check-{secrets.token_hex(8)}"
        content = secrets.token_bytes(16)
        with self._writer(path, WriteOptions(size=len(content))) as writer:
            writer.write(content)
        try:
            with self._reader(path) as reader:
                if reader.read() != content:
                    raise IntegrityError("the storage returned other bytes than were stored", path=path)
        finally:
            self._delete(path)

    def _diagnostics(self, origin: str) -> Diagnostics:
        """Return what only this backend can find out, and the rights and rules that it needs at its service.

        *origin* is that of the app's pages (``"https://app.example.com"``), for rules about browsers. The caller
        translates the errors of the probes.
        """
        return Diagnostics()

    def _close(self) -> None:
        """Close the connections and threads of this process. Later operations create new ones."""

    def _local_path(self, path: str) -> Path | None:
        """Return the path of the file on this machine, or None. The file need not exist."""
        return None

    # -- for driver methods to call ---------------------------------------------------------------------------------

    def _path(self, path: str) -> str:
        """Return the normalized path of a file; every public operation calls this first."""
        return normalize(path, portable=self.portable)

    def _is_listed(self, name: str) -> bool:
        """Return whether listings include a stored name; those that :meth:`_path` refuses are skipped and counted."""
        return is_valid(name)

    def _error_translator(self, path: str | None = None) -> ErrorTranslator:
        """Return a reusable context manager that translates errors (see :class:`ErrorTranslator`)."""
        return ErrorTranslator(self, path)

    def _reader(self, path: str, opener: Callable[[str], RemoteFile] | None = None) -> RemoteFile:
        """Open a reader, with :meth:`_open_reader` or *opener*, whose errors are translated."""
        translator = self._error_translator(path)
        with translator:
            return (opener or self._open_reader)(path).attach(path, translator)

    def _writer(
        self, path: str, options: WriteOptions, opener: Callable[[str, WriteOptions], RemoteFile] | None = None
    ) -> RemoteFile:
        """Open a writer, with :meth:`_open_writer` or *opener*, that also checks size and checksum of *options*."""
        translator = self._error_translator(path)
        with translator:
            writer = (opener or self._open_writer)(path, options).attach(path, translator)
        writer.set_expected(options)
        return writer

    def _stream_to(self, target: StorageDriver, path: str, new_path: str, options: WriteOptions) -> FileInfo:
        """Copy a file with its headers and metadata through this process, to *target*, which may be this storage.

        Returns:
            The info of the version that was copied.
        """
        with self._reader(path) as reader:
            info = reader.info or self._stat(path)
            target_options = WriteOptions(
                content_type=info.content_type,
                content_encoding=info.content_encoding,
                cache_control=info.cache_control,
                content_disposition=info.content_disposition,
                metadata=info.metadata,
                exclusive=options.exclusive,
                if_match=options.if_match,
                size=info.size,
            )
            with target._writer(new_path, target_options) as writer:
                copy_chunks(reader, writer)
        return info

    def _unsupported(self, what: str, path: str | None = None, *, instead: str = "") -> UnsupportedOperationError:
        """Return an error that says *what* this storage cannot do, and what to do *instead*."""
        text = f"{type(self).__name__} cannot {what}"
        return UnsupportedOperationError(f"{text}: {instead}" if instead else text, path=path, backend=self.name)


class ErrorTranslator:
    """Context manager that raises a storage error in place of an error of the service or its SDK.

    Storage errors and errors that are not translated pass unchanged, except that a storage error without a path or a
    backend gets those of this translator.
    """

    __slots__ = ("_backend", "_path")

    def __init__(self, backend: StorageDriver, path: str | None) -> None:
        self._backend = backend
        self._path = path

    def __enter__(self) -> None:
        """Do nothing; errors are translated on exit."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise the translated error, if there is one."""
        if error is None or not isinstance(error, Exception):
            return
        if not isinstance(error, StorageError):
            translated = self._backend._translate(error, self._path)
            if translated is None:
                return
            self._add_context(translated)
            raise translated from error
        self._add_context(error)

    def _add_context(self, error: StorageError) -> None:
        error.path = error.path or self._path
        error.backend = error.backend or self._backend.name
