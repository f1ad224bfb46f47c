"""The wall: one concrete :class:`StorageBackend` that users hold, over the hooks that places supply."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload
from urllib.parse import SplitResult

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
from ..paths import is_valid, normalize_directory, normalize_prefix
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
from .transfers import TransferOperations

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


class StorageBackend(TransferOperations, LinkOperations):
    """One place that keeps files.

    Every public verb checks and normalizes its paths before the place is asked anything, and raises only
    :class:`~flask_storage.errors.StorageError` for what goes wrong there. The verbs are final; a backend overrides the
    underscored hooks of :class:`~flask_storage.backends.driver.StorageDriver`. A storage may be shared between threads;
    the files it opens may not.

    Args:
        name: What errors, logs and links call this storage; a profile's name by default.
        base_url: Public address of the root, for :meth:`url`: absolute (``"https://cdn.example.com/media"``) or on the
            app's own host (``"/media"``).
        portable: Refuse paths that Windows could not hold.
    """

    url_aliases: ClassVar[Mapping[str, str]] = {}
    """Short names of arguments in a profile's URL, and what they stand for."""

    def __init__(self, name: str, *, base_url: str | None = None, portable: bool = False) -> None:
        if not (isinstance(base_url, str) or base_url is None):
            raise ConfigurationError(f"the base_url of {name!r} must be text")
        self.name = name
        self.base_url = base_url
        self.portable = portable
        self.link_context: LinkContext | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    # -- configuration ------------------------------------------------------------------------------------------------

    @classmethod
    def from_url(cls, url: SplitResult, options: dict[str, Any]) -> Self:
        """Make a storage of a profile's URL.

        Args:
            url: The parts of ``scheme://…``; the query is already in *options*.
            options: Keyword arguments of the constructor, as text.

        Raises:
            ConfigurationError: when this backend has no URL form, or the URL misses something.
        """
        raise ConfigurationError(f"{cls.__name__} cannot be configured by a URL: write a mapping instead")

    def set_link_context(self, binding: LinkContext) -> None:
        """Lend the storage what an app has for making links; called once, by the extension.

        Raises:
            ConfigurationError: when the storage already belongs to a profile.
        """
        if self.link_context is not None:
            raise ConfigurationError(
                f"{self!r} is already the profile {self.link_context.profile!r}: make one storage for each profile"
            )
        self.link_context = binding

    # -- looking ------------------------------------------------------------------------------------------------------

    def list(self, path: str = "", *, prefix: str | None = None, recursive: bool = True) -> list[ListEntry]:
        """Return every file below the folder *path*, sorted by full path.

        A folder that does not exist is an empty list. With ``recursive=False`` only the folder's own files and its
        sub-folders come; those end in ``/``. With *prefix* the files whose path begins with that text come instead.
        For very large folders use :meth:`iter`, which holds no more than a page.

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
        """Yield what :meth:`list` returns, lazily and in no promised order.

        Args:
            path: A folder; ``""`` is the root.
            prefix: Instead of *path*: a plain string that the paths begin with.
            recursive: Also what is below sub-folders.
            details: Yield a :class:`~flask_storage.FileInfo` of each file (folders are left out).

        Names in the store that no verb would take are skipped, counted and logged once.
        """
        if prefix is not None:
            if path:
                raise ValueError("iter() and list() take a folder or a prefix, not both")
            prefix = normalize_prefix(prefix)
            folder = prefix.rpartition("/")[0]
        else:
            folder = normalize_directory(path)
        if details:
            found: Iterator[FileInfo] = self._iter_details(folder, prefix, recursive)
            return found
        return self._iter_entries(folder, prefix, recursive)

    def exists(self, path: str) -> bool:
        """Return whether there is a file under *path*; a folder is not a file. A refusal is an error, not False."""
        try:
            self.stat(path)
        except FileNotFoundInStorageError:
            return False
        return True

    def stat(self, path: str) -> FileInfo:
        """Return what the storage knows of a file.

        Raises:
            FileNotFoundInStorageError: when there is none.
        """
        path = self._path(path)
        with self._error_translator(path):
            return self._stat(path)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            FileNotFoundInStorageError: when there is none.
        """
        return self.stat(path).size

    def local_path(self, path: str) -> Path | None:
        """Return where the file is on this machine, or None where it is not a local file. It may not exist.

        The result is for a web server in front (X-Accel-Redirect); opening it oneself forgoes the protection against
        symbolic links.
        """
        return self._local_path(self._path(path))

    # -- changing -----------------------------------------------------------------------------------------------------

    def copy(self, path: str, new_path: str, *, exclusive: bool = False, if_match: str | None = None) -> None:
        """Copy a file with its headers and metadata; the target is replaced atomically.

        Args:
            path: The file.
            new_path: The target. The same path is left as it is.
            exclusive: Refuse when the target exists.
            if_match: Refuse unless the target has this etag.

        Raises:
            FileNotFoundInStorageError: when there is no file under *path*.
            FileExistsInStorageError, PreconditionFailedError: as asked for; the target is untouched.
        """
        copied = self._copy_or_move(self._copy, path, new_path, exclusive, if_match)
        if copied:
            self._notify_stored(copied[1])

    def move(self, path: str, new_path: str, *, exclusive: bool = False, if_match: str | None = None) -> None:
        """Move a file; arguments and errors are those of :meth:`copy`. A failure leaves at least one of the two."""
        moved = self._copy_or_move(self._move, path, new_path, exclusive, if_match)
        if moved:
            self._notify_stored(moved[1])
            file_deleted.send(self, path=moved[0])

    def delete(self, path: str) -> None:
        """Delete a file; one that does not exist is no error."""
        path = self._path(path)
        with self._error_translator(path):
            self._delete(path)
        file_deleted.send(self, path=path)

    def delete_many(self, paths: Iterable[str]) -> None:
        """Delete files, in batches where the place has a call for that; missing ones are no error.

        Raises:
            InvalidPathError: when one of the paths is none; nothing was deleted.
            PartialFailureError: when some could not be deleted; its ``errors`` has one for each, the rest are gone.
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
        """Delete everything below a folder (``"a/b"`` never means ``a/bc``) and return how many files that were.

        Files whose names break the grammar go too.

        Raises:
            InvalidPathError: for the root; delete its folders one by one.
        """
        folder = normalize_directory(path)
        if not folder:
            raise InvalidPathError("delete_prefix() does not empty a whole storage: name a folder", path=path)
        with self._error_translator(folder):
            count = self._delete_prefix(folder)
        file_deleted.send(self, path=folder + "/")
        return count

    # -- upkeep -------------------------------------------------------------------------------------------------------

    @property
    def multipart(self) -> MultipartStore:
        """The seven calls behind an upload in parts (see :class:`~flask_storage.multipart.MultipartStore`).

        Raises:
            UnsupportedOperationError: when the storage takes none.
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
        """Remove what unfinished writes and uploads left behind, and return how many leftovers that were.

        Args:
            older_than: Only what was begun longer ago; keep it above the longest upload you expect.
        """
        with self._error_translator():
            return self._sweep(datetime.now(UTC) - older_than)

    def check(self) -> None:
        """See that the storage works; most write, read and delete a small hidden file.

        Raises:
            StorageError: what is wrong, and what to do.
        """
        with self._error_translator():
            self._check()

    def close(self) -> None:
        """Give back connections and threads, where the storage has any; what comes later opens new ones.

        An app need not call it. It is for whoever makes storages as they go. Close what is open first: a transfer that
        is under way fails.
        """
        with self._error_translator():
            self._close()

    # -- inner --------------------------------------------------------------------------------------------------------

    def _iter_entries(self, folder: str, prefix: str | None, recursive: bool) -> Iterator[ListEntry]:
        with self._error_translator(folder):
            pages = self._list(folder, recursive) if prefix is None else self._list_prefix(prefix, recursive)
            skipped = 0
            for page in pages:
                for entry in page:
                    if is_valid(entry[0].removesuffix("/")):
                        yield entry
                    else:
                        skipped += 1
        self._log_skipped(folder, skipped)

    def _iter_details(self, folder: str, prefix: str | None, recursive: bool) -> Iterator[FileInfo]:
        with self._error_translator(folder):
            skipped = 0
            for info in self._list_details(folder, recursive, prefix):
                if is_valid(info.path):
                    yield info
                else:
                    skipped += 1
        self._log_skipped(folder, skipped)

    def _log_skipped(self, folder: str, skipped: int) -> None:
        if skipped:
            logger.warning("%d names below %r in %r are no paths and were skipped", skipped, folder, self.name)

    def _check_complete_options(self, options: WriteOptions) -> WriteOptions:
        able = self.capabilities
        self._require_conditions(able.multipart_conditions, options, "for an upload in parts")
        if options.headers and not able.multipart_headers:
            raise self._unsupported(
                "change headers or metadata when an upload in parts ends", instead="give them to create()"
            )
        if options.checksum is not None and not able.multipart_checksums:
            raise self._unsupported(
                "compare a checksum before it publishes an upload in parts", instead="promise it to open() or upload()"
            )
        return self._check_options(options)

    def _require_conditions(self, able: bool, options: WriteOptions, when: str) -> None:
        if not able and (options.exclusive or options.if_match is not None):
            raise self._unsupported(f"decide exclusive or if_match {when}")

    def _copy_or_move(
        self,
        operation: Callable[[str, str, WriteOptions], None],
        path: str,
        new_path: str,
        exclusive: bool,
        if_match: str | None,
    ) -> tuple[str, str] | None:
        """Check both paths and the conditions, then do the operation; None when there is nothing to do."""
        path, new_path = self._path(path), self._path(new_path)
        options = WriteOptions(exclusive=exclusive, if_match=if_match)
        self._check_conditions(options)
        self._require_conditions(self.capabilities.copy_conditions, options, "when it copies or moves")
        with self._error_translator(path):
            if path != new_path:
                operation(path, new_path, options)
                return path, new_path
            info = self._stat(path)
            if options.exclusive:
                raise FileExistsInStorageError(f"{path} exists: it is the file itself", path=path)
            if options.if_match not in (None, info.etag):
                raise PreconditionFailedError(f"{path} is not the version that was named", path=path)
        return None


def __getattr__(name: str) -> Any:
    # keg-storage has these two here; they stand above this module, so it fetches them only for who asks.
    if name in ("InternalLinkTokenData", "InternalLinksStorageBackend"):
        return getattr(importlib.import_module("flask_storage.backends.internal_links"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
