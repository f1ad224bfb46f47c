"""One file on local disk: how it is written, published and described."""

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
    """A file on local tree.

    Args:
        path: The path in the storage; without *tree*, the local path of a file to open on its own.
        mode: What for.
        tree: The directory tree of the storage.
        options: How it is to be written.
        file_mode: Mode of the file that is written.

    Attributes:
        path: As given.
        fp: Python's own file underneath.
        headers: Content headers and metadata, as kept beside the content.
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
        """Append everything from *offset* on of another descriptor, in the kernel where it can; return the count."""
        count = copy_bytes(source, self.fp.fileno(), offset=offset, progress=progress, writing=self._error_translator)
        self._count += count
        return count

    def _publish(self) -> None:
        self.fp.flush()
        fd = self.fp.fileno()
        os.fchmod(fd, self._file_mode)
        _write_headers(fd, self.headers)
        # The kernel's own stamps tick every few milliseconds; the etag needs two versions never to look alike.
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
        # Not fp.close(): in a forked child that would flush the parent's bytes into the parent's file once more.
        self.fp.raw.close()
        self._directory.close()


def if_match_check(directory: Directory, name: str, options: WriteOptions) -> Callable[[], None] | None:
    """Return what must hold, at the moment of publication, for *name* in *directory*; None for nothing."""
    if options.if_match is None:
        return None

    def check() -> None:
        if not (directory.exists(name) and etag(directory.stat(name)) == options.if_match):
            raise PreconditionFailedError("the file is not the version that was named: read it again")

    return check


def last_modified(status: os.stat_result) -> arrow.Arrow:
    """Return when the file was last modified."""
    import arrow

    # A disk holds dates that no calendar has; one such file must not spoil a whole listing.
    seconds = min(max(status.st_mtime, _EARLIEST), _LATEST)
    return arrow.Arrow.fromdatetime(datetime.fromtimestamp(seconds, UTC))


def file_info(path: str, status: os.stat_result, headers: dict[str, Any]) -> FileInfo:
    """Return what is known of a file."""
    return FileInfo(
        path=path,
        size=status.st_size,
        last_modified=last_modified(status),
        etag=etag(status),
        etag_is_strong=True,
        **headers,
    )


def supports_xattrs(root: Path) -> bool:
    """Whether the file system keeps extended attributes; asking for one changes nothing."""
    if not hasattr(os, "getxattr"):
        return False
    try:
        os.getxattr(root, _ATTRIBUTE)
    except OSError as error:
        return error.errno not in _NO_ATTRIBUTES
    return True


def read_headers(fd: int) -> dict[str, Any]:
    """Return what is kept beside a file's content; nothing where nothing is, or not by us."""
    if not hasattr(os, "getxattr"):
        return {}
    try:
        kept = json.loads(os.getxattr(fd, _ATTRIBUTE))
    except OSError as error:
        if error.errno in (errno.ENODATA, *_NO_ATTRIBUTES):
            return {}
        raise  # a disk that fails must not pass for a file without a type
    except (ValueError, RecursionError):
        return {}
    return _valid_headers(kept)


def _valid_headers(kept: object) -> dict[str, Any]:
    """Return what we could have written ourselves: anybody with access to the disk can set attributes."""
    if not isinstance(kept, dict):
        return {}
    headers: dict[str, Any] = {name: kept[name] for name in CONTENT_HEADERS if is_one_line(kept.get(name))}
    metadata = kept.get("metadata")
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
                "the file system keeps no content type or metadata: store the file without, or elsewhere"
            ) from error
        # ENOSPC stands for both a long attribute and a full tree.
        too_long = error.errno in (errno.E2BIG, errno.ERANGE)
        if too_long or (error.errno == errno.ENOSPC and os.fstatvfs(fd).f_bavail):
            raise UnsupportedOperationError(
                "the file system has no room for so much metadata with one file: keep it shorter"
            ) from error
        raise
