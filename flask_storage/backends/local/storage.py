"""The local file system backend."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import SplitResult, unquote

from ...diagnostics import Diagnostics
from ...errors import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    InvalidPathError,
    LocalFSError,
    LocalNotAFileError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
)
from ...files import RemoteFile
from ...multipart import MultipartStore
from ...paths import RESERVED_PREFIX, SYSTEM_DIRECTORY, parent
from ...streams import LocalFile, SupportsRead, SupportsWrite
from ...types import (
    Capabilities,
    FileInfo,
    FileMode,
    ListEntry,
    ProgressCallback,
    WriteOptions,
)
from ...validation import expand_home, parse_optional_mode
from ..internal_links import InternalLinksStorageBackend
from .attributes import file_info, keeps_microseconds, last_modified, supports_xattrs
from .copy import copy_bytes
from .diagnosis import diagnostics_of
from .directory import Directory
from .file import LocalFSFile, if_match_check
from .inspection import FilesystemReport, inspect_filesystem
from .multipart import LocalMultipart, sweep
from .rooted_tree import RootedTree, create_root

__all__ = ["FilesystemReport", "LocalFSError", "LocalFSFile", "LocalFSStorage"]

_PAGE = 1000
_ATTEMPTS = 100


class LocalFSStorage(InternalLinksStorageBackend):
    """Stores files below a directory of this machine.

    A write goes to a hidden temporary file in the target's directory, is made durable, and is then renamed. A partly
    written file is never visible under its path, not even after a crash (:meth:`StorageBackend.sweep` removes the
    temporary file). Symbolic links are never followed. Directories are created with their first file and removed with
    their last.

    Content headers and metadata are stored in an extended attribute of the file. On a file system without extended
    attributes, giving any raises :class:`~flask_storage.errors.UnsupportedOperationError`.

    Args:
        root: The directory; ``~`` stands for the home directory.
        linked_endpoint: See :class:`~flask_storage.InternalLinksStorageBackend`.
        secret_key: See :class:`~flask_storage.InternalLinksStorageBackend`.
        name: ``fs-<name of the root>`` by default.
        create: Create the root if it does not exist.
        fsync: Make every change durable before the call returns. Without it a power failure may lose the last writes,
            and on some file systems leave the files that they replaced empty.
        file_mode: Permissions of files, as a number or as octal text (``"0o640"``); the umask is ignored. A web server
            that reads the files directly needs ``0o640`` or similar. None (as text ``"none"``) never sets any: the
            umask and the file system decide. A mount that refuses ``chmod`` needs that.
        directory_mode: Permissions of created directories, likewise.
        base_url: See :class:`~flask_storage.StorageBackend`.
        portable: See :class:`~flask_storage.StorageBackend`.

    Raises:
        LocalFSError: when *root* is not a directory.

    >>> import tempfile
    >>> storage = LocalFSStorage(tempfile.mkdtemp(), name="docs")
    >>> storage.write("2026/report.txt", b"fine")
    >>> storage.size("2026/report.txt")
    4
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        linked_endpoint: str | None = None,
        secret_key: str | bytes | None = None,
        name: str | None = None,
        *,
        create: bool = False,
        fsync: bool = True,
        file_mode: int | str | None = 0o600,
        directory_mode: int | str | None = 0o700,
        base_url: str | None = None,
        portable: bool = False,
    ) -> None:
        unchecked: object = root  # JSON may hold any type
        if not isinstance(unchecked, str | os.PathLike) or not os.fspath(unchecked):
            raise ConfigurationError("root is the path of a directory, and not empty: '.' is the working directory")
        root = expand_home("root", root)
        super().__init__(
            linked_endpoint=linked_endpoint,
            secret_key=secret_key,
            name=f"fs-{Path(root).name or Path(root).absolute().name}" if name is None else name,
            base_url=base_url,
            portable=portable,
        )
        self.root = Path(os.path.realpath(root))
        self.file_mode = parse_optional_mode("file_mode", file_mode, 0o400)
        directory_mode = parse_optional_mode("directory_mode", directory_mode, 0o700)
        try:
            if create:
                create_root(self.root, directory_mode)
            is_directory = self.root.is_dir()
        except PermissionDeniedError as error:
            raise PermissionDeniedError(f"the root {self.root} of {self.name!r}: {error}", backend=self.name) from error
        except OSError as error:
            error_class, reason = _ERRORS.get(error.errno or 0, (LocalFSError, "it cannot be used"))
            raise error_class(
                f"the root {self.root} of {self.name!r}: {reason} ({error.strerror})", backend=self.name
            ) from error
        if not is_directory:
            raise LocalFSError(
                f"Storage root does not exist or is not a directory: {self.root} of {self.name!r}; create it, or pass "
                "create=True",
                backend=self.name,
            )
        self.tree = RootedTree(self.root, directory_mode=directory_mode, sync=fsync)
        self._is_named = name is not None
        self._configured_root = Path(root).absolute()

    @classmethod
    def from_url(cls, url: SplitResult, options: dict[str, Any]) -> Self:
        """Create a storage from ``local:///srv/files``, ``local:~/files`` or ``local:uploads``.

        The last one is relative to the working directory.
        """
        return cls(unquote(url.netloc + url.path), **options)

    @cached_property
    def capabilities(self) -> Capabilities:
        """Everything, as far as the file system of the root supports it.

        Content headers and metadata need extended attributes, ``if_match`` needs these or exact time stamps.
        """
        attributes = supports_xattrs(self.root)
        return Capabilities(
            read_write=True,
            exclusive=True,
            if_match=attributes or keeps_microseconds(self.root),
            copy_conditions=True,
            multipart_conditions=True,
            multipart_headers=True,
            multipart_checksums=True,
            content_headers=attributes,
            metadata=attributes,
            multipart=True,
            local_paths=True,
            server_side_copy=True,
        )

    def inspect_filesystem(self) -> FilesystemReport:
        """Find out what the file system below the root does, by creating and removing one hidden file in the root.

        A subdirectory that is another mount, or is case-insensitive on its own, may differ.

        Raises:
            StorageError: when the root cannot be read, or nothing can be created in it.
        """
        with self._error_translator():
            return inspect_filesystem(self.tree, self._configured_root)

    def hard_link(self, path: str, new_path: str) -> bool:
        """Give a stored file a second path (a hard link), and return whether it has it.

        Both paths are equal: a write to one of them replaces that one only, and deleting one keeps the other. The size
        of a file with two paths is counted twice in listings.

        Args:
            path: The file.
            new_path: Its other path. An existing file is not replaced.

        Returns:
            False if the file system has no hard links, or the file has too many.

        Raises:
            FileNotFoundInStorageError: when *path* does not exist.
            FileExistsInStorageError: when *new_path* exists.
        """
        path, new_path = self._path(path), self._path(new_path)
        with self._error_translator(path):
            source, name = self.tree.open_parent(path)
            with source:
                os.close(source.open_file(name))  # raises for a directory or a symbolic link
                return self._hard_link_to(source, name, new_path)

    def _diagnostics(self, origin: str) -> Diagnostics:
        return diagnostics_of(self.inspect_filesystem)

    # -- driver methods -----------------------------------------------------------------------------------------------

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        if isinstance(error, UnicodeEncodeError):
            return InvalidPathError("the file system's encoding cannot represent this name: run with a UTF-8 locale")
        if not isinstance(error, OSError):
            return None
        if error.errno == errno.ENOENT:
            return FileNotFoundInStorageError(self.name, path or str(self.root))
        error_class, reason = _ERRORS.get(error.errno or 0, (LocalFSError, "the disk refused"))
        where = path or f"the root of {self.name!r}"
        return error_class(f"{where}: {reason} ({error.strerror or error})")

    def _link_audience(self) -> str:
        # Two directories called "uploads" have the same default name; without a profile their tokens must still differ.
        audience = super()._link_audience()
        if self.link_context is not None or self._is_named:
            return audience
        return f"{audience}:{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]}"

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        page: list[ListEntry] = []
        for prefix, entry in self.tree.walk(path, recursive=recursive):
            if entry.name.startswith(RESERVED_PREFIX):
                continue
            if entry.is_dir(follow_symlinks=False):
                if self._contains_files(prefix + entry.name):
                    page.append(ListEntry(f"{prefix}{entry.name}/", None, 0))
            elif entry.is_file(follow_symlinks=False):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # it was deleted concurrently
                    continue
                page.append(ListEntry(prefix + entry.name, last_modified(status), status.st_size))
            if len(page) >= _PAGE:
                yield page
                page = []
        yield page

    def _open_reader(self, path: str) -> RemoteFile:
        return LocalFSFile(path, FileMode.read, tree=self.tree)

    def _open_writer(self, path: str, options: WriteOptions) -> RemoteFile:
        return self._new_file(path, options)

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        mode = FileMode.read | FileMode.write
        return LocalFSFile(path, mode, tree=self.tree, options=options, file_mode=self.file_mode)

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        source = _regular_file(file_obj)
        if source is None or options.checksum:  # to compute a checksum, this process must read the bytes
            super()._upload_file(file_obj, path, options, progress)
            return
        source.flush()  # a file that is open for writing too may hold bytes that are not on disk yet
        start = source.tell()
        with self._new_file(path, options) as writer:
            writer.set_expected(options)
            source.seek(start + writer.append_from(source.fileno(), start, progress))

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        target = _regular_file(file_obj)
        if target is None:
            super()._download_file(path, file_obj, progress)
            return
        with self._reader(path) as reader:
            target.flush()
            start = target.tell()
            os.lseek(target.fileno(), start, os.SEEK_SET)
            translator = self._error_translator(path)
            target.seek(start + copy_bytes(reader.fileno(), target.fileno(), progress=progress, reading=translator))

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        with LocalFSFile(path, FileMode.read, tree=self.tree) as reader:
            self._copy_from(reader, new_path, options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        try:
            self._rename(path, new_path, options)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_and_delete(path, new_path, options)  # a subdirectory is another file system
        finally:
            self.tree.remove_empty_parents(parent(path))
            self.tree.remove_empty_parents(parent(new_path))  # created in vain if the move failed

    def _delete(self, path: str, version: os.stat_result | None = None) -> None:
        """See :meth:`StorageDriver._delete`; with *version*, delete the file only if this is its status."""
        try:
            directory, name = self.tree.open_parent(path)
        except FileNotFoundError:
            return
        with directory:
            with directory.locked():
                if version is None or directory.refers_to(name, version):
                    directory.unlink(name)
            if self.tree.sync:
                directory.sync()
        self.tree.remove_empty_parents(parent(path))

    def _delete_prefix(self, path: str) -> int:
        def on_exit(directory_path: str, directory: Directory) -> None:
            if self.tree.sync:
                directory.sync()  # once for all of its files
            self.tree.remove_empty_parents(directory_path)

        count = 0
        for prefix, entry in self.tree.walk(path, on_exit=on_exit):
            if not entry.name.startswith(RESERVED_PREFIX):
                with (
                    suppress(FileNotFoundError),
                    self.tree.open_directory(prefix[:-1]) as directory,
                ):  # its directory may be deleted concurrently
                    with directory.locked():
                        directory.unlink(entry.name)
                    count += 1
        return count

    def _stat(self, path: str) -> FileInfo:
        fd = self.tree.open_file(path)
        try:
            return file_info(path, fd)[0]
        finally:
            os.close(fd)

    def _local_path(self, path: str) -> Path | None:
        return self.root / path

    def _multipart(self) -> MultipartStore:
        return LocalMultipart(self.name, self.tree, self._new_file)

    def _sweep(self, before: datetime) -> int:
        return sweep(self.tree, before.timestamp())

    # -- inner --------------------------------------------------------------------------------------------------------

    def _new_file(self, path: str, options: WriteOptions) -> LocalFSFile:
        translator = self._error_translator(path)
        with translator:
            file = LocalFSFile(path, FileMode.write, tree=self.tree, options=options, file_mode=self.file_mode)
        return file.attach(path, translator)

    def _contains_files(self, path: str) -> bool:
        """Return whether a file is below a directory; an unfinished or interrupted write may have created it."""
        try:
            return any(
                entry.is_file(follow_symlinks=False) and not entry.name.startswith(RESERVED_PREFIX)
                for _, entry in self.tree.walk(path)
            )
        except PermissionError:  # it exists, but this process may not read it
            return path != SYSTEM_DIRECTORY

    def _copy_from(self, reader: LocalFSFile, new_path: str, options: WriteOptions) -> None:
        with self._new_file(new_path, options) as writer:
            writer.headers = reader.headers
            writer.append_from(reader.fileno(), 0)

    def _copy_and_delete(self, path: str, new_path: str, options: WriteOptions) -> None:
        """Copy a file and delete it, unless *path* is another file by then: one that was stored there concurrently.

        It may also be the copy, where both paths lead to one file by mounts.
        """
        with LocalFSFile(path, FileMode.read, tree=self.tree) as reader:
            self._copy_from(reader, new_path, options)
            self._delete(path, os.fstat(reader.fileno()))

    def _hard_link_to(self, source: Directory, name: str, new_path: str) -> bool:
        is_linked = False
        try:
            with self._error_translator(new_path):
                target, new_name = self.tree.open_parent(new_path, create=True)
                with target:
                    is_linked = source.link_to(name, target, new_name)
                    if is_linked and self.tree.sync:
                        target.fsync_entry(new_name)
        finally:
            if not is_linked:
                self.tree.remove_empty_parents(parent(new_path))  # created in vain
        return is_linked

    def _rename(self, path: str, new_path: str, options: WriteOptions) -> None:
        source, name = self.tree.open_parent(path)
        with source:
            os.close(source.open_file(name))  # raises for a directory or a symbolic link
            for _ in range(_ATTEMPTS):
                with self._error_translator(new_path):
                    target, new_name = self.tree.open_parent(new_path, create=True)
                with target:
                    precondition = if_match_check(target, new_name, options)
                    try:
                        source.rename_to(name, target, new_name, exclusive=options.exclusive, precondition=precondition)
                    except FileNotFoundError:  # target directory or source was removed concurrently
                        if source.exists(name):
                            continue
                        raise
                    except (FileExistsError, StorageError):
                        with self._error_translator(new_path):  # the error is about the target
                            raise
                    if self.tree.sync:
                        target.fsync_entry(new_name)
                        source.fsync_entry(name)
                return
        raise LocalFSError(
            f"{path} cannot be moved to {new_path}: the system reported {_ATTEMPTS} times that the directory does not "
            "exist, although it was created; try again later, or choose another name"
        )


_ERRORS: dict[int, tuple[type[StorageError], str]] = {
    errno.EEXIST: (FileExistsInStorageError, "the name exists already: choose another"),
    errno.EACCES: (PermissionDeniedError, "the system denies this process access: check owner and mode of the root"),
    errno.EPERM: (PermissionDeniedError, "the system does not permit this: check owner and flags of the root"),
    errno.EROFS: (PermissionDeniedError, "the file system is read-only: mount it writable"),
    errno.ELOOP: (
        PermissionDeniedError,
        "a part of the path is a symbolic link, which a storage never follows: replace it by its target",
    ),
    errno.ENOSPC: (StorageFullError, "the disk is full: free some space"),
    errno.EDQUOT: (StorageFullError, "the disk quota is used up: free some space"),
    errno.EFBIG: (StorageFullError, "the file is larger than the system allows: raise the limit"),
    errno.ENAMETOOLONG: (InvalidPathError, "the name is too long for the file system: choose a shorter one"),
    errno.EILSEQ: (InvalidPathError, "the file system cannot represent this name: choose another"),
    errno.EISDIR: (LocalNotAFileError, "the path is a directory, not a file: choose another"),
    errno.ENOTDIR: (LocalNotAFileError, "a part of the path is a file, not a directory: choose another"),
    errno.EIO: (LocalFSError, "the disk failed: check the hardware"),
}


def _regular_file(file_obj: object) -> io.BufferedReader | io.BufferedWriter | io.BufferedRandom | LocalFile | None:
    """Return *file_obj* if the kernel may copy its content: a plain Python file object of a regular file.

    ``fileno()`` alone is not enough: a :class:`gzip.GzipFile` has one too, but its content differs from the bytes on
    disk. The same may hold for a subclass.
    """
    if type(file_obj) not in (io.BufferedReader, io.BufferedWriter, io.BufferedRandom, LocalFile):
        return None
    file = cast(io.BufferedRandom, file_obj)
    is_plain = isinstance(file_obj, LocalFile) or type(file.raw) is io.FileIO
    return file if is_plain and stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
