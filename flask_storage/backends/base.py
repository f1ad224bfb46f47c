"""The storage interface: one concrete class, :class:`StorageBackend`, over the driver methods of each backend."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload
from urllib.parse import SplitResult

from ..diagnostics import Diagnostics, Finding, Probe
from ..errors import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    InvalidPathError,
    PartialFailureError,
    PreconditionFailedError,
)
from ..files import RemoteFile
from ..multipart import MultipartStore
from ..paths import normalize_directory, normalize_prefix
from ..signals import file_deleted
from ..types import (
    FileInfo,
    FileMode,
    LinkContext,
    ListEntry,
    ProgressCallback,
    ShareLinkOperation,
    WriteOptions,
)
from .links import LinkOperations, reject_single_path
from .multipart_checks import CheckedMultipart

__all__ = [
    "FileMode",
    "FileNotFoundInStorageError",
    "ListEntry",
    "ProgressCallback",
    "RemoteFile",
    "ShareLinkOperation",
    "StorageBackend",
]

logger = logging.getLogger("flask_storage")


class StorageBackend(LinkOperations):
    """A storage of files: the base class of every backend.

    Every public operation checks and normalizes its paths before it calls the backend, and raises only
    :class:`~flask_storage.errors.StorageError` for what fails there. The public operations are final; a backend
    overrides the underscored driver methods of :class:`~flask_storage.backends.driver.StorageDriver`. Threads may
    share a storage, but not the files that it opens. A storage cannot be pickled, because it contains credentials: pass
    the name of its profile to another process.

    Args:
        name: The name of this storage in errors, logs and links; by default the name of its profile.
        base_url: Public address of the root, for :meth:`url`: absolute (``"https://cdn.example.com/media"``) or on the
            app's own host (``"/media"``).
        portable: Refuse paths that are not valid on Windows.
    """

    argument_aliases: ClassVar[Mapping[str, str]] = {}
    """Other names of constructor arguments in a profile, and the argument that each stands for."""
    storage_arguments: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that are storages, or lists of them: a profile has the names of other profiles there."""

    def __init__(self, name: str, *, base_url: str | None = None, portable: bool = False) -> None:
        if not (isinstance(base_url, str) or base_url is None):
            raise ConfigurationError(f"the base_url of {name!r} must be text")
        self.name = name
        self.base_url = base_url
        self.portable = portable
        self.link_context = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def __getstate__(self) -> object:
        # The keys in a pickle would leave the process unnoticed: in the queue or the cache that it is stored in.
        raise TypeError(
            f"{self!r} cannot be pickled or copied, because it contains credentials and connections: pass the name of "
            "the profile, and use current_storage[name] there"
        )

    # -- configuration ------------------------------------------------------------------------------------------------

    @classmethod
    def from_url(cls, url: SplitResult, options: dict[str, Any]) -> Self:
        """Create a storage from a profile's URL.

        Args:
            url: The parts of ``scheme://…``; the query is already in *options*.
            options: Keyword arguments of the constructor, as text.

        Raises:
            ConfigurationError: when this backend cannot be configured by a URL, or a required part is missing.
        """
        raise ConfigurationError(f"{cls.__name__} cannot be configured by a URL: write a mapping instead")

    def set_link_context(self, context: LinkContext) -> None:
        """Set the app's context for creating links. The extension calls this once.

        Raises:
            ConfigurationError: when the storage already belongs to a profile.
        """
        if self.link_context is not None:
            raise ConfigurationError(
                f"{self!r} already belongs to the profile {self.link_context.profile!r}: create one storage for each "
                "profile"
            )
        self.link_context = context

    # -- reading ------------------------------------------------------------------------------------------------------

    def list(self, path: str = "", *, prefix: str | None = None, recursive: bool = True) -> list[ListEntry]:
        """Return every file below the directory *path*, sorted by full path.

        For a directory that does not exist the list is empty. With ``recursive=False`` the list has only the files and
        the subdirectories directly in *path*; the name of a subdirectory ends in ``/``. With *prefix* the list has the
        files whose path begins with that string instead. For very large directories use :meth:`iter`, which holds at
        most one page in memory.

        >>> from flask_storage import MemoryStorage
        >>> storage = MemoryStorage()
        >>> storage.write("a/b.txt", b"1")
        >>> [entry.name for entry in storage.list("a")]
        ['a/b.txt']
        """
        return sorted(self.iter(path, prefix=prefix, recursive=recursive), key=lambda entry: entry.name)

    @overload
    def iter(
        self, path: str = "", *, prefix: str | None = None, recursive: bool = True, details: Literal[False] = False
    ) -> Iterator[ListEntry]: ...
    @overload
    def iter(
        self, path: str = "", *, prefix: str | None = None, recursive: bool = True, details: Literal[True]
    ) -> Iterator[FileInfo]: ...
    def iter(
        self, path: str = "", *, prefix: str | None = None, recursive: bool = True, details: bool = False
    ) -> Iterator[ListEntry] | Iterator[FileInfo]:
        """Yield the entries that :meth:`list` returns, lazily and in no guaranteed order.

        Args:
            path: A directory; ``""`` is the root.
            prefix: Instead of *path*: a plain string that the paths begin with.
            recursive: Include the contents of subdirectories.
            details: Yield a :class:`~flask_storage.FileInfo` of each file (directories are left out).

        Stored names that are not valid paths are skipped; their number is logged once, as a warning.
        """
        if prefix is not None:
            if path:
                raise ValueError("iter() and list() accept a directory or a prefix, not both")
            prefix = normalize_prefix(prefix)
            directory = prefix.rpartition("/")[0]
        else:
            directory = normalize_directory(path)
        if details:
            infos: Iterator[FileInfo] = self._iter_details(directory, prefix, recursive)
            return infos
        return self._iter_entries(directory, prefix, recursive)

    def exists(self, path: str) -> bool:
        """Return whether a file exists at *path*; False for a directory. Denied access is an error, not False."""
        try:
            self.stat(path)
        except FileNotFoundInStorageError:
            return False
        return True

    def stat(self, path: str) -> FileInfo:
        """Return size, date, etag, headers and metadata of a file.

        Raises:
            FileNotFoundInStorageError: when it does not exist.
        """
        path = self._path(path)
        with self._error_translator(path):
            return self._stat(path)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            FileNotFoundInStorageError: when it does not exist.
        """
        return self.stat(path).size

    def local_path(self, path: str) -> Path | None:
        """Return the path of the file on this machine, or None if the backend is not local. The file may not exist.

        The result is for a web server in front of the app (X-Accel-Redirect). Code that opens it directly has no
        protection against symbolic links.
        """
        return self._local_path(self._path(path))

    # -- writing -----------------------------------------------------------------------------------------------------

    def copy(self, path: str, new_path: str, *, exclusive: bool = False, if_match: str | None = None) -> None:
        """Copy a file with its headers and metadata; the target is replaced atomically.

        Args:
            path: The file.
            new_path: The target. If it equals *path*, nothing is changed.
            exclusive: Fail if the target exists.
            if_match: Fail unless the target has this etag.

        Raises:
            FileNotFoundInStorageError: when *path* does not exist.
            FileExistsInStorageError: when *exclusive* is set and the target exists; the target is unchanged.
            PreconditionFailedError: when the target does not have the etag *if_match*; the target is unchanged.
        """
        paths = self._copy_or_move(self._copy, path, new_path, exclusive, if_match)
        if paths is not None:
            _, new_path = paths
            self._notify_stored(new_path)

    def move(self, path: str, new_path: str, *, exclusive: bool = False, if_match: str | None = None) -> None:
        """Move a file; arguments and errors as for :meth:`copy`. After a failure at least one of both files exists.

        If another client replaces the file at *path* concurrently, its new version is not deleted. On a service that
        cannot delete one version only, a replacement at the very moment of the deletion is lost.
        """
        paths = self._copy_or_move(self._move, path, new_path, exclusive, if_match)
        if paths is not None:
            path, new_path = paths
            self._notify_stored(new_path)
            file_deleted.send(self, path=path)

    def delete(self, path: str) -> None:
        """Delete a file. A missing file is no error."""
        path = self._path(path)
        with self._error_translator(path):
            self._delete(path)
        file_deleted.send(self, path=path)

    def delete_many(self, paths: Iterable[str]) -> None:
        """Delete files, in batches where the service supports that. Missing files are no error.

        Raises:
            InvalidPathError: when one of the paths is invalid; nothing was deleted.
            PartialFailureError: when some files could not be deleted; its ``errors`` maps each of them to its error.
                The other files are deleted.
        """
        normalized = [self._path(path) for path in reject_single_path(paths)]
        with self._error_translator():
            failed = self._delete_many(normalized)
        for path in normalized:
            if path not in failed:
                file_deleted.send(self, path=path)
        if failed:
            raise PartialFailureError(
                f"{len(failed)} of {len(normalized)} files could not be deleted; see .errors", failed, backend=self.name
            )

    def delete_prefix(self, path: str) -> int:
        """Delete all files below a directory and return their number; ``"a/b"`` never includes ``a/bc``.

        Files whose names are not valid paths are deleted too.

        Raises:
            InvalidPathError: for the root; delete its directories one by one.
        """
        directory = normalize_directory(path)
        if not directory:
            raise InvalidPathError("delete_prefix() does not delete a whole storage: name a directory", path=path)
        with self._error_translator(directory):
            count = self._delete_prefix(directory)
        file_deleted.send(self, path=directory + "/")
        return count

    # -- maintenance --------------------------------------------------------------------------------------------------

    @property
    def multipart(self) -> MultipartStore:
        """The calls for multipart uploads (see :class:`~flask_storage.multipart.MultipartStore`), arguments checked.

        Raises:
            UnsupportedOperationError: when the storage has no multipart uploads.
        """
        return CheckedMultipart(
            self._multipart(),
            normalize=self._path,
            normalize_directory=normalize_directory,
            check=self._check_options,
            check_complete=self._check_complete_options,
            translator=self._error_translator,
            published=self._notify_stored,
        )

    def sweep(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Remove temporary files and uploads that were never completed, and return their number.

        Args:
            older_than: The minimum age of a removed file or upload; longer than the longest upload you expect.
        """
        with self._error_translator():
            return self._sweep(datetime.now(UTC) - older_than)

    def check(self) -> None:
        """Check that the storage works. Most backends write, read and delete a small hidden file.

        Raises:
            StorageError: when it does not; the message says why and what to do.
        """
        with self._error_translator():
            self._check()

    def diagnostics(self, *, origin: str = "https://app.example.com") -> Diagnostics:
        """Return what only this backend can find out about itself; ``flask storage doctor`` runs its probes.

        Args:
            origin: The origin of the app's pages, for the rules that browsers need.
        """
        found = self._diagnostics(origin)
        return replace(found, probes={name: self._translated(probe) for name, probe in found.probes.items()})

    def close(self) -> None:
        """Close the storage's connections and threads, if it has any; later operations open new ones.

        An app need not call this. It is for code that creates storages dynamically. Close open files first: a running
        transfer fails.
        """
        with self._error_translator():
            self._close()

    # -- inner --------------------------------------------------------------------------------------------------------

    def _translated(self, probe: Probe) -> Probe:
        def call(directory: str) -> Finding:
            with self._error_translator():
                return probe(directory)

        return call

    def _iter_entries(self, directory: str, prefix: str | None, recursive: bool) -> Iterator[ListEntry]:
        with self._error_translator(directory):
            pages = self._list(directory, recursive) if prefix is None else self._list_prefix(prefix, recursive)
            skipped = 0
            for page in pages:
                for entry in page:
                    if self._is_listed(entry[0].removesuffix("/")):
                        yield entry
                    else:
                        skipped += 1
        self._log_skipped(directory, skipped)

    def _iter_details(self, directory: str, prefix: str | None, recursive: bool) -> Iterator[FileInfo]:
        with self._error_translator(directory):
            skipped = 0
            for info in self._list_details(directory, recursive, prefix):
                if self._is_listed(info.path):
                    yield info
                else:
                    skipped += 1
        self._log_skipped(directory, skipped)

    def _log_skipped(self, directory: str, skipped: int) -> None:
        if skipped:
            logger.warning(
                "%d names below %r in %r are not valid paths and were skipped", skipped, directory, self.name
            )

    def _check_complete_options(self, path: str, options: WriteOptions) -> WriteOptions:
        capabilities = self.capabilities
        options = self._check_options(path, options)
        self._require_conditions(capabilities.multipart_conditions, options, "for a multipart upload")
        if options.headers and not capabilities.multipart_headers:
            raise self._unsupported(
                "change headers or metadata when a multipart upload is completed", instead="pass them to create()"
            )
        if options.checksum is not None and not capabilities.multipart_checksums:
            raise self._unsupported(
                "verify a checksum when a multipart upload is completed", instead="pass it to open() or upload()"
            )
        return options

    def _require_conditions(self, supported: bool, options: WriteOptions, when: str) -> None:
        if not supported and (options.exclusive or options.if_match is not None):
            raise self._unsupported(f"check exclusive or if_match {when}")

    def _copy_or_move(
        self,
        operation: Callable[[str, str, WriteOptions], None],
        path: str,
        new_path: str,
        exclusive: bool,
        if_match: str | None,
    ) -> tuple[str, str] | None:
        """Check the arguments, then call *operation*; return the normalized paths, or None if they are equal."""
        path, new_path = self._path(path), self._path(new_path)
        options = WriteOptions(exclusive=exclusive, if_match=if_match)
        self._check_conditions(options)
        self._require_conditions(self.capabilities.copy_conditions, options, "for a copy or a move")
        with self._error_translator(path):
            if path != new_path:
                operation(path, new_path, options)
                return path, new_path
            info = self._stat(path)
            if options.exclusive:
                raise FileExistsInStorageError(f"{path} exists: source and target are the same file", path=path)
            if options.if_match not in (None, info.etag):
                raise PreconditionFailedError(
                    f"{path} is not the version that if_match names: read it again", path=path
                )
        return None


def __getattr__(name: str) -> Any:
    # keg-storage has these two names here. Their module imports this one, so they are imported on first use.
    if name in ("InternalLinkTokenData", "InternalLinksStorageBackend"):
        return getattr(importlib.import_module("flask_storage.backends.internal_links"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
