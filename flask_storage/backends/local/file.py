"""One file on the local disk: reading, writing and publishing."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...errors import LocalFSError, PreconditionFailedError, UnsupportedOperationError
from ...files import FileAdapter
from ...paths import parent
from ...types import FileMode, WriteOptions
from .attributes import file_info, read_attributes, set_mode, set_time, write_attributes
from .copy import copy_bytes
from .directory import Directory
from .rooted_tree import RootedTree

_BUFFER = 256 * 1024


class LocalFSFile(FileAdapter):
    """A file on the local disk.

    Args:
        path: The path in the storage; without *tree*, the local path of a file to open on its own.
        mode: ``"r"``, ``"w"``, ``"rw"`` or a :class:`~flask_storage.FileMode`.
        tree: The directory tree of the storage.
        options: Headers, metadata and conditions of a write.
        file_mode: Permissions of a written file; None leaves them to the umask and the file system.

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
        file_mode: int | None = 0o600,
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
                info, self.headers = file_info(self._storage_path, fp.fileno())
            except BaseException:
                fp.close()
                raise
            super().__init__(fp, mode, info=info)
            return
        original = tree.open_file(self._storage_path) if mode & FileMode.read else None
        try:
            self._directory, self._temporary, fd = tree.create_temporary(
                self._storage_path, 0o600 if file_mode is not None else 0o666
            )
            if original is None:
                super().__init__(io.BufferedWriter(io.FileIO(fd, "wb"), _BUFFER), mode)
            else:
                super().__init__(io.BufferedRandom(io.FileIO(fd, "rb+")), mode)
                try:
                    self.headers = {**read_attributes(original).headers, **self.headers}
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
        write_attributes(fd, self.headers, needs_version=not set_time(fd))
        set_mode(fd, self._file_mode, "file_mode")  # the last step: without the right to write, no attribute can be set
        if self._tree.sync:
            os.fsync(fd)
        self.fp.close()
        name = self._storage_path.rpartition("/")[2]
        try:
            self._directory.publish(
                self._temporary,
                name,
                exclusive=self._options.exclusive,
                precondition=if_match_check(self._directory, name, self._options),
                sync=self._tree.sync,
            )
        except FileNotFoundError as error:
            raise LocalFSError(
                "the temporary file was deleted before it was published, perhaps by a sweep: write the file again, and "
                "sweep only older files"
            ) from error
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
        try:
            fd = directory.open_file(name)
        except FileNotFoundError:
            info = None
        else:
            try:
                info, _ = file_info(name, fd)
            finally:
                os.close(fd)
        if info is None or info.etag != options.if_match:
            raise PreconditionFailedError("the file is not the version that if_match names: read it again")
        if not info.etag_is_strong:
            raise UnsupportedOperationError(
                "the file system keeps no exact time stamps, so it cannot tell whether the file is the version that "
                "if_match names: omit it"
            )

    return check
