"""The contract of a place: the hooks that a backend supplies, and what the wall guarantees before it calls them.

Whoever writes a backend reads this module and runs :class:`flask_storage.testing.BackendConformance` on the result.
For every hook: *path* and *new_path* are normalized, not empty and not equal; *options* and *request* ask for nothing
that :attr:`StorageDriver.capabilities` declares missing. No hook checks that again. Any exception that leaves a hook
goes through :meth:`StorageDriver._translate`, so no hook translates one itself; the two transfer hooks are the
exception, because the caller's own file raises there too.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

from ..errors import FileNotFoundInStorageError, IntegrityError, StorageError, UnsupportedOperationError
from ..files import RemoteFile
from ..multipart import MultipartStore
from ..paths import RESERVED_PREFIX, normalize
from ..streams import SupportsRead, SupportsWrite, copy_chunks
from ..tokens import InternalLinkTokenData
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
    """What a backend overrides. Only :meth:`_list`, the two openers, :meth:`_delete` and :meth:`_stat` are required."""

    name: str
    base_url: str | None = None
    portable: bool = False

    @property
    def capabilities(self) -> Capabilities:
        """What this storage can do; a plain class attribute where that is the same for all of them."""
        return Capabilities()

    # -- required -------------------------------------------------------------------------------------------------

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        """Yield pages of what is below the folder *path* (``""``: the root), lazily, in any order.

        Names are full paths. Without *recursive* a sub-folder is one entry whose name ends in ``/``. A folder that
        does not exist yields nothing. Names that break the grammar may be yielded; the wall drops them.
        """
        raise NotImplementedError

    def _open_reader(self, path: str) -> RemoteFile:
        """Return the file, open for reading and seekable, with ``info`` set; what is read belongs to that version.

        Raises:
            FileNotFoundInStorageError: when there is none.
        """
        raise NotImplementedError

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        """Return a new file, open for writing, that replaces *path* atomically when it is published.

        ``exclusive`` and ``if_match`` are decided when publishing, ``size`` and ``checksum`` are watched by the file.
        """
        raise NotImplementedError

    def _delete(self, path: str) -> None:
        """Delete the file; one that does not exist is no error."""
        raise NotImplementedError

    def _stat(self, path: str) -> FileInfo:
        """Return what is known of the file.

        Raises:
            FileNotFoundInStorageError: when there is none.
        """
        raise NotImplementedError

    # -- optional: the default works everywhere, a place may do better ----------------------------------------------

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        """Return our error for one of the place's, or None when it is not the place's; the wall chains it."""
        return None

    def _list_prefix(self, prefix: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        """Like :meth:`_list`, for everything whose path begins with the plain string *prefix*."""
        for page in self._list(prefix.rpartition("/")[0], recursive):
            yield [entry for entry in page if entry.name.startswith(prefix)]

    def _list_details(self, path: str, recursive: bool, prefix: str | None) -> Iterator[FileInfo]:
        """Yield what is known of each file below *path*, or of those whose path begins with *prefix* if it is given.

        Files that vanish meanwhile are left out. Names that break the grammar may be yielded; the wall drops them.
        """
        for page in self._list(path, recursive) if prefix is None else self._list_prefix(prefix, recursive):
            for entry in page:
                if not entry.is_directory:
                    try:
                        yield self._stat(entry.name)
                    except FileNotFoundInStorageError:
                        continue

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        """Return a private copy of the existing file, open for reading and writing, published by closing."""
        raise self._unsupported("open a file for reading and writing at once", path)

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        """Store what *file_obj* yields. The default streams through :meth:`_open_writer`.

        Whoever overrides this wraps the calls of the place in ``with self._error_translator(path)``, and not the caller's file.
        """
        with self._writer(path, options) as writer:
            copy_chunks(file_obj, writer, progress)

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        """Write the content into *file_obj*. The default streams from :meth:`_open_reader`; as for uploads."""
        with self._reader(path) as reader:
            copy_chunks(reader, file_obj, progress)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        """Copy one file with its headers and metadata. The default streams through this process.

        Of *options* only ``exclusive`` and ``if_match`` (of the target) are set.
        """
        self._stream_to(self, path, new_path, options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        """Move one file. The default copies and then deletes, so that a failure leaves at least one of the two."""
        self._copy(path, new_path, options)
        self._delete(path)

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        """Delete all of *paths* and return an error for each that could not be deleted."""
        failed: dict[str, StorageError] = {}
        for path in paths:
            try:
                with self._error_translator(path):
                    self._delete(path)
            except StorageError as error:
                failed[path] = error
        return failed

    def _delete_prefix(self, path: str) -> int:
        """Delete everything below the folder *path*, and return how many files that were.

        Names that break the grammar go too, so :meth:`_delete_many` is here given names as they are stored.
        """
        count = 0
        for page in self._list(path, True):
            names = [entry.name for entry in page]
            for error in self._delete_many(names).values():
                raise error
            count += len(names)
        return count

    def _url(self, path: str) -> str | None:
        """Return the public URL that the place itself gives the file, or None."""
        return None

    def _link_to(self, path: str, request: LinkRequest) -> str:
        """Return a URL that grants what *request* says until it expires."""
        raise self._unsupported("sign links", path)

    def _links_to(self, paths: Sequence[str], request: LinkRequest) -> Sequence[str]:
        """Return such a URL for each of *paths*, in their order."""
        return [self._link_to(path, request) for path in paths]

    def _verify_link(self, token: str) -> InternalLinkTokenData:
        """Return what a token in a link of :meth:`_link_to` grants, where links are ours to verify."""
        raise self._unsupported("verify links: the place itself does")

    def _upload_request(self, path: str, request: LinkRequest) -> PresignedUpload:
        """Say how a browser uploads here. The default is a ``PUT`` to the link."""
        return PresignedUpload(
            method="PUT",
            url=self._link_to(path, request),
            headers={"Content-Type": request.content_type or "application/octet-stream"},
            expires_at=request.expires_at,
        )

    def _multipart(self) -> MultipartStore:
        """Return the place's part calls."""
        raise self._unsupported("take uploads in parts")

    def _sweep(self, before: datetime) -> int:
        """Remove leftovers of writes that began before *before*; return how many."""
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

    def _close(self) -> None:
        """Give back what is held in this process: connections, threads. What is asked for later is made anew."""

    def _local_path(self, path: str) -> Path | None:
        """Return where the file is on this machine, or None; whether it exists is not asked."""
        return None

    # -- what the wall lends to hooks -------------------------------------------------------------------------------

    def _path(self, path: str) -> str:
        """Return the path of a file in its one form; every verb calls this before it does anything."""
        return normalize(path, portable=self.portable)

    def _error_translator(self, path: str | None = None) -> ErrorTranslator:
        """Return the context in which the place's errors become ours; it may be entered any number of times."""
        return ErrorTranslator(self, path)

    def _reader(self, path: str, opener: Callable[[str], RemoteFile] | None = None) -> RemoteFile:
        """Open a reader whose errors are translated, by *opener* where a place has more than one way."""
        translator = self._error_translator(path)
        with translator:
            return (opener or self._open_reader)(path).attach(path, translator)

    def _writer(
        self, path: str, options: WriteOptions, opener: Callable[[str, WriteOptions], RemoteFile] | None = None
    ) -> RemoteFile:
        """Open a writer, likewise, that is held to what *options* promise."""
        translator = self._error_translator(path)
        with translator:
            writer = (opener or self._open_writer)(path, options).attach(path, translator)
        writer.set_expected(options)
        return writer

    def _stream_to(self, target: StorageDriver, path: str, new_path: str, options: WriteOptions) -> None:
        """Copy a file through this process, with its headers and metadata, into this storage or another."""
        with self._reader(path) as reader:
            info = reader.info or self._stat(path)
            kept = WriteOptions(
                content_type=info.content_type,
                content_encoding=info.content_encoding,
                cache_control=info.cache_control,
                content_disposition=info.content_disposition,
                metadata=info.metadata,
                exclusive=options.exclusive,
                if_match=options.if_match,
                size=info.size,
            )
            with target._writer(new_path, kept) as writer:
                copy_chunks(reader, writer)

    def _unsupported(self, what: str, path: str | None = None, *, instead: str = "") -> UnsupportedOperationError:
        """Return the error that says what this storage cannot do, and what to do *instead*."""
        text = f"{type(self).__name__} cannot {what}"
        return UnsupportedOperationError(f"{text}: {instead}" if instead else text, path=path, backend=self.name)


class ErrorTranslator:
    """Turns a place's errors into ours, in one place; ours pass and are told where they happened."""

    __slots__ = ("_backend", "_path")

    def __init__(self, backend: StorageDriver, path: str | None) -> None:
        self._backend = backend
        self._path = path

    def __enter__(self) -> None:
        """Begin watching."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise our error in place of the place's."""
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
