"""One open directory on the local disk. Everything in it is accessed by its descriptor and a name, never by a path."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Self

from ...errors import LocalFSError, LocalNotAFileError, PermissionDeniedError, UnsupportedOperationError
from ...paths import RESERVED_PREFIX
from .attributes import set_mode

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "LocalFSStorage needs a POSIX system, such as Linux, macOS or the Windows Subsystem for Linux"
    ) from error

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe that no process writes to would otherwise block forever.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Directory:
    """An open directory; leaving its ``with`` block closes it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory. Idempotent."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):  # nothing was written through it, so nothing can be lost
                os.close(fd)

    def child(self, name: str) -> Directory:
        """Open a subdirectory.

        Raises:
            FileNotFoundError: when it does not exist.
            NotADirectoryError: when it is a file.
            PermissionDeniedError: when it is a symbolic link.
        """
        try:
            return Directory(os.open(name, DIRECTORY_FLAGS, dir_fd=self.fd))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and stat.S_ISLNK(self.stat(name).st_mode):
                raise _symlink_error(name) from error
            raise

    def create_child(self, name: str, mode: int | None, *, sync: bool) -> None:
        """Create a subdirectory, unless it exists. The umask is ignored, unless *mode* is None."""
        try:
            os.mkdir(name, 0o777 if mode is None else 0o700, dir_fd=self.fd)
        except FileExistsError:
            return
        with suppress(FileNotFoundError), self.child(name) as child:  # another process may have removed it already
            set_mode(child.fd, mode, "directory_mode")
        if sync:
            self.sync()

    def stat(self, name: str) -> os.stat_result:
        """Return the status of *name*, without following a symbolic link."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def open_file(self, name: str) -> int:
        """Open a regular file for reading and return the descriptor.

        Raises:
            FileNotFoundError: when it does not exist, or is a directory.
            PermissionDeniedError: when it is a symbolic link.
            LocalNotAFileError: when it is a pipe, a socket or a device.
        """
        try:
            fd = os.open(name, _READ_FLAGS, dir_fd=self.fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _symlink_error(name) from error
            if error.errno == errno.ENXIO:  # a socket
                raise LocalNotAFileError(f"{name} is not a regular file: the storage cannot read it") from error
            raise
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return fd
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise FileNotFoundError(errno.ENOENT, "is a directory", name)
        raise LocalNotAFileError(f"{name} is not a regular file: the storage cannot read it")

    def create_temporary(self, mode: int = 0o600) -> tuple[str, int]:
        """Create a hidden file with an unpredictable name; return its name and descriptor.

        The length of the name does not depend on the final name, which may have 255 bytes. The umask limits *mode*.
        """
        name = RESERVED_PREFIX + secrets.token_hex(8)
        return name, os.open(name, _CREATE_FLAGS, mode, dir_fd=self.fd)

    def publish(
        self, temporary: str, name: str, *, exclusive: bool, precondition: Callable[[], None] | None, sync: bool
    ) -> None:
        """Rename a finished temporary file to *name*, atomically.

        Args:
            temporary: The name of the temporary file.
            name: The final name; an existing file is replaced.
            exclusive: Raise :class:`FileExistsError` if the name exists.
            precondition: Called under the directory's lock, before the file is published; may raise to prevent that.
            sync: Make the new name durable.
        """
        self.rename_to(temporary, self, name, exclusive=exclusive, precondition=precondition)
        if sync:
            self.fsync_entry(name)

    def rename_to(
        self, name: str, target: Directory, new_name: str, *, exclusive: bool, precondition: Callable[[], None] | None
    ) -> None:
        """Move a file into *target* under *new_name*; arguments as for :meth:`publish`."""
        with _lock_all(self, target, required=precondition is not None) as is_locked:
            if precondition is not None:
                precondition()
            if exclusive:
                if self.link_to(name, target, new_name):  # unlike rename, it fails when the name exists
                    self._unlink_old_name(name, target)
                    return
                if not is_locked:
                    raise UnsupportedOperationError(
                        "the file system has neither hard links nor locks, so it cannot check exclusive: omit it"
                    )
                if target.exists(new_name):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
            try:
                os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=target.fd)
            except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
                raise LocalNotAFileError(
                    f"{new_name} cannot be written, because it is a directory: choose another name"
                ) from error
            # rename() between two hard links of one file does nothing; a crash after link() leaves two such names.
            if self is not target and self._is_second_name(name, target, new_name):
                self._unlink_old_name(name, target)

    def link_to(self, name: str, target: Directory, new_name: str) -> bool:
        """Give a file a second name in *target* (a hard link), and return whether that is possible here.

        Raises:
            FileNotFoundError: when *name* does not exist.
            FileExistsError: when *new_name* exists.
        """
        try:
            # dst_dir_fd makes Python use linkat.
            os.link(name, new_name, src_dir_fd=self.fd, dst_dir_fd=target.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return False
        return True

    def exists(self, name: str) -> bool:
        """Return whether the name exists, as a file or anything else."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def refers_to(self, name: str, status: os.stat_result) -> bool:
        """Return whether *name* exists and is the file with this status."""
        try:
            return os.path.samestat(self.stat(name), status)
        except FileNotFoundError:
            return False

    def unlink(self, name: str) -> None:
        """Delete a file, if it exists.

        Raises:
            LocalNotAFileError: when it is a directory.
        """
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if stat.S_ISDIR(self.stat(name).st_mode):
                raise LocalNotAFileError(f"{name} is a directory: delete_prefix() deletes what is in it") from error
            raise

    @contextmanager
    def locked(self, *, required: bool = False) -> Iterator[bool]:
        """Hold the directory's lock, so that comparing and publishing are atomic among all processes.

        Without locks in the file system (some network file systems), continue unlocked, unless *required*. Yields
        whether the lock is held.
        """
        is_locked = True
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        except OSError as error:
            is_locked = False
            if required:
                raise UnsupportedOperationError(
                    f"the file system cannot lock a directory ({error.strerror}), so it cannot check if_match: omit it"
                ) from error
        try:
            yield is_locked
        finally:
            with suppress(OSError):
                fcntl.flock(self.fd, fcntl.LOCK_UN)

    def sync(self) -> None:
        """Make the names in the directory durable, if the file system supports that."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise

    def fsync_entry(self, name: str) -> None:
        """Make the new name of a file durable.

        Raises:
            LocalFSError: when the disk fails; the file is stored nevertheless.
        """
        try:
            self.sync()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise LocalFSError(
                f"{name} is in place, but the disk failed to make it durable ({error.strerror}): check the hardware, "
                "then store it again"
            ) from error

    def _is_second_name(self, name: str, target: Directory, new_name: str) -> bool:
        """Return whether *name* is another name of the file *new_name* in *target*, and not another spelling of it.

        A case-insensitive file system finds a file under any spelling, but lists only one of them.
        """
        if not self.refers_to(name, target.stat(new_name)):
            return False
        if not os.path.samestat(os.fstat(self.fd), os.fstat(target.fd)):
            return True
        return name != new_name and {name, new_name} <= set(os.listdir(self.fd))

    def _unlink_old_name(self, name: str, target: Directory) -> None:
        """Remove the old name of a file that has been linked to its new one."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except OSError:
            if self is not target:
                raise
            # A temporary name. The file is published, so this is no failure; the sweep removes the name.


@contextmanager
def _lock_all(*directories: Directory, required: bool) -> Iterator[bool]:
    """Hold the locks of all *directories*, each only once, in one global order, which rules out deadlocks."""
    with ExitStack() as stack:
        distinct = {os.fstat(directory.fd)[1:3]: directory for directory in directories}
        held = [stack.enter_context(directory.locked(required=required)) for _, directory in sorted(distinct.items())]
        yield all(held)


def _symlink_error(name: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"{name} is a symbolic link, which a storage never follows: replace it by its target")
