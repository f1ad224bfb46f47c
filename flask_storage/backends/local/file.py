"""One file on the local disk: reading, writing, publishing, status and headers."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import PreconditionFailedError, UnsupportedOperationError
from ...files import FileAdapter
from ...paths import is_one_line, parent
from ...types import CONTENT_HEADERS, FileInfo, FileMode, WriteOptions
from .copy import copy_bytes, etag
from .directory import Directory
from .rooted_tree import RootedTree

if TYPE_CHECKING:
    import arrow

_ATTRIBUTE = "user.flask_storage"
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_BUFFER = 256 * 1024
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC).timestamp(), datetime(9999, 12, 30, tzinfo=UTC).timestamp()


class LocalFSFile(FileAdapter):
    """A file on the local disk.

    Args:
        path: The path in the storage; without *tree*, the local path of a file to open on its own.
        mode: ``"r"``, ``"w"``, ``"rw"`` or a :class:`~flask_storage.FileMode`.
        tree: The directory tree of the storage.
        options: Headers, metadata and conditions of a write.
        file_mode: Permissions of a written file.

    Attributes:
        path: The argument.
        fp: The wrapped Python file object.
        headers: Content headers and metadata of the file.
    """

    fp: io.BufferedReader | io.BufferedWriter | io.BufferedRandom

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: FileMode | str,
        *,
        tree: RootedTree | None = None,
        options: WriteOptions | None = None,
        file_mode: int = 0o600,
    ) -> None:
        self.path = path
        self._directory = Directory(-1)
        mode = FileMode.as_mode(mode)
        if tree is None:
            local_path = Path(path)
            tree = RootedTree(Path(os.path.realpath(local_path.parent)), directory_mode=0o700, sync=True)
            path = local_path.name
        self._tree = tree
        self._storage_path = os.fspath(path)
        self._options = options or WriteOptions()
        self._file_mode = file_mode
        self.headers = self._options.headers
        if mode is FileMode.read:
            fp = io.BufferedReader(io.FileIO(tree.open_file(self._storage_path), "rb"))
            try:
                self.headers = read_headers(fp.fileno())
                info = file_info(self._storage_path, os.fstat(fp.fileno()), self.headers)
            except BaseException:
                fp.close()
                raise
            super().__init__(fp, mode, info=info)
            return
        original = tree.open_file(self._storage_path) if mode & FileMode.read else None
        try:
            self._directory, self._temporary, fd = tree.create_temporary(self._storage_path)
            if original is None:
                super().__init__(io.BufferedWriter(io.FileIO(fd, "wb"), _BUFFER), mode)
            else:
                super().__init__(io.BufferedRandom(io.FileIO(fd, "rb+")), mode)
                try:
                    self.headers = {**read_headers(original), **self.headers}
                    copy_bytes(original, fd)
                    os.lseek(fd, 0, os.SEEK_SET)
                except BaseException:
                    self.abort()
                    raise
        finally:
            if original is not None:
                with suppress(OSError):  # nothing was written to it
                    os.close(original)

    def append_from(self, source: int, offset: int, progress: Callable[[int], None] | None = None) -> int:
        """Append the content of another descriptor from *offset* on, in the kernel if it can; return the byte count."""
        count = copy_bytes(source, self.fp.fileno(), offset=offset, progress=progress, writing=self._error_translator)
        self._count += count
        return count

    def _publish(self) -> None:
        self.fp.flush()
        fd = self.fp.fileno()
        os.fchmod(fd, self._file_mode)
        _write_headers(fd, self.headers)
        # The kernel's time stamps have a resolution of milliseconds; the etags of two versions must never be equal.
        now = datetime.now(UTC)
        stamp = int(now.timestamp()) * 10**9 + now.microsecond * 1000
        os.utime(fd, ns=(stamp, stamp))
        if self._tree.sync:
            os.fsync(fd)
        self.fp.close()
        name = self._storage_path.rpartition("/")[2]
        self._directory.publish(
            self._temporary,
            name,
            exclusive=self._options.exclusive,
            precondition=if_match_check(self._directory, name, self._options),
            sync=self._tree.sync,
        )
        self._directory.close()

    def _discard(self) -> None:
        self._finalize()
        self._tree.remove_empty_parents(parent(self._storage_path))

    def _finalize(self) -> None:
        if not self.writable():
            self._release()
            return
        self.fp.raw.close()
        with self._directory:
            self._directory.unlink(self._temporary)

    def _release(self) -> None:
        # Not fp.close(): in a forked child that would write the parent's buffer to the parent's file a second time.
        self.fp.raw.close()
        self._directory.close()


def if_match_check(directory: Directory, name: str, options: WriteOptions) -> Callable[[], None] | None:
    """Return a function that raises unless *name* in *directory* has the etag ``if_match``; None without one."""
    if options.if_match is None:
        return None

    def check() -> None:
        if not (directory.exists(name) and etag(directory.stat(name)) == options.if_match):
            raise PreconditionFailedError("the file is not the version that if_match names: read it again")

    return check


def last_modified(status: os.stat_result) -> arrow.Arrow:
    """Return the modification time in UTC, limited to the years that :class:`datetime.datetime` supports."""
    import arrow

    # A disk may hold dates that datetime does not support; one such file must not make a whole listing fail.
    seconds = min(max(status.st_mtime, _EARLIEST), _LATEST)
    return arrow.Arrow.fromdatetime(datetime.fromtimestamp(seconds, UTC))


def file_info(path: str, status: os.stat_result, headers: dict[str, Any]) -> FileInfo:
    """Return the :class:`~flask_storage.FileInfo` of a file."""
    return FileInfo(
        path=path,
        size=status.st_size,
        last_modified=last_modified(status),
        etag=etag(status),
        etag_is_strong=True,
        **headers,
    )


def supports_xattrs(root: Path) -> bool:
    """Return whether the file system supports extended attributes, by reading one."""
    if not hasattr(os, "getxattr"):
        return False
    try:
        os.getxattr(root, _ATTRIBUTE)
    except OSError as error:
        return error.errno not in _NO_ATTRIBUTES
    return True


def read_headers(fd: int) -> dict[str, Any]:
    """Return content headers and metadata of a file; empty if there are none or they are invalid."""
    if not hasattr(os, "getxattr"):
        return {}
    try:
        attribute = json.loads(os.getxattr(fd, _ATTRIBUTE))
    except OSError as error:
        if error.errno in (errno.ENODATA, *_NO_ATTRIBUTES):
            return {}
        raise  # a failing disk must not look like a file without a content type
    except (ValueError, RecursionError):
        return {}
    return _valid_headers(attribute)


def _valid_headers(attribute: object) -> dict[str, Any]:
    """Return the valid headers and metadata: untrusted input, as any process with access can set attributes."""
    if not isinstance(attribute, dict):
        return {}
    headers: dict[str, Any] = {name: attribute[name] for name in CONTENT_HEADERS if is_one_line(attribute.get(name))}
    metadata = attribute.get("metadata")
    if isinstance(metadata, dict) and all(is_one_line(text) for item in metadata.items() for text in item):
        headers["metadata"] = metadata
    return headers


def _write_headers(fd: int, headers: dict[str, Any]) -> None:
    if not headers:
        return
    try:
        # Not escaped to ASCII: ext4 has 4 KiB for all attributes of a file.
        os.setxattr(fd, _ATTRIBUTE, json.dumps(headers, ensure_ascii=False).encode())
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            raise UnsupportedOperationError(
                "the file system keeps no content type or metadata (no extended attributes): store the file without"
            ) from error
        # ENOSPC means either that the attribute is too long or that the disk is full.
        too_long = error.errno in (errno.E2BIG, errno.ERANGE)
        if too_long or (error.errno == errno.ENOSPC and os.fstatvfs(fd).f_bavail):
            raise UnsupportedOperationError(
                "headers and metadata of the file are too long for the file system: shorten them"
            ) from error
        raise
