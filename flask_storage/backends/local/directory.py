"""One open directory of the local disk: what is done in it goes by its descriptor and a bare name, never by a path."""

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

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "LocalFSStorage needs a POSIX system, such as Linux, macOS or the Windows Subsystem for Linux"
    ) from error

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe that nobody writes to would otherwise hang for ever.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Directory:
    """An open directory; closed by leaving its ``with`` block."""

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
        """Close the directory; again is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):  # nothing was written to it, so nothing can be lost
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

    def create_child(self, name: str, mode: int, *, sync: bool) -> None:
        """Make a subdirectory; one that exists is fine. The umask has no say."""
        try:
            os.mkdir(name, 0o700, dir_fd=self.fd)
        except FileExistsError:
            return
        with suppress(FileNotFoundError), self.child(name) as child:  # somebody may have pruned it already
            os.fchmod(child.fd, mode)
        if sync:
            self.sync()

    def stat(self, name: str) -> os.stat_result:
        """Return what *name* is, following no link."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def open_file(self, name: str) -> int:
        """Open a regular file for reading and return the descriptor.

        Raises:
            FileNotFoundError: when it does not exist, or is a directory (which is no file).
            PermissionDeniedError: when it is a symbolic link.
            LocalNotAFileError: when it is a pipe, a socket or a device.
        """
        try:
            fd = os.open(name, _READ_FLAGS, dir_fd=self.fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _symlink_error(name) from error
            if error.errno == errno.ENXIO:  # a socket
                raise LocalNotAFileError(f"{name} is no regular file") from error
            raise
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return fd
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise FileNotFoundError(errno.ENOENT, "is a folder", name)
        raise LocalNotAFileError(f"{name} is no regular file")

    def create_temporary(self) -> tuple[str, int]:
        """Make a hidden file that nobody else can name, and return its name and descriptor.

        The name's length does not depend on the final name, so one of 255 bytes is no problem.
        """
        name = RESERVED_PREFIX + secrets.token_hex(8)
        return name, os.open(name, _CREATE_FLAGS, 0o600, dir_fd=self.fd)

    def publish(
        self, temporary: str, name: str, *, exclusive: bool, precondition: Callable[[], None] | None, sync: bool
    ) -> None:
        """Give a finished temporary file its name, atomically.

        Args:
            temporary: The temporary file.
            name: Its name from now on; a file that has it is replaced.
            exclusive: Fail with :class:`FileExistsError` when the name is taken.
            precondition: Called while nothing else in this directory can be published or deleted; raises to stop this one.
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
                try:
                    # Unlike rename, link fails when the name is taken. dst_dir_fd makes Python use linkat.
                    os.link(name, new_name, src_dir_fd=self.fd, dst_dir_fd=target.fd, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _NO_HARD_LINKS:
                        raise
                    if not is_locked:
                        raise UnsupportedOperationError(
                            "the file system has neither hard links nor locks, so exclusive cannot be decided: omit it"
                        ) from error
                    if target.exists(new_name):
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name) from error
                else:
                    self._unlink_old_name(name, target)
                    return
            try:
                os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=target.fd)
            except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
                raise LocalNotAFileError(f"a folder stands where the file {new_name} should be") from error
            # Between two names of one file rename succeeds and does nothing; a crash after link leaves two names.
            if self is not target and self.exists(name) and os.path.samestat(self.stat(name), target.stat(new_name)):
                self._unlink_old_name(name, target)

    def exists(self, name: str) -> bool:
        """Whether anything has this name."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def unlink(self, name: str) -> None:
        """Delete a file; one that does not exist is fine.

        Raises:
            LocalNotAFileError: when it is a directory.
        """
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if stat.S_ISDIR(self.stat(name).st_mode):
                raise LocalNotAFileError(f"{name} is a folder: delete_prefix() deletes what is in it") from error
            raise

    @contextmanager
    def locked(self, *, required: bool = False) -> Iterator[bool]:
        """Hold the directory's lock, so that comparing and publishing are one step among all processes.

        Where the file system has no locks (some network ones), go on without, unless it is *required*; the block is
        told whether it is held.
        """
        is_locked = True
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        except OSError as error:
            is_locked = False
            if required:
                raise UnsupportedOperationError(
                    f"the file system locks no folder ({error.strerror}), so if_match cannot be decided safely: omit it"
                ) from error
        try:
            yield is_locked
        finally:
            with suppress(OSError):
                fcntl.flock(self.fd, fcntl.LOCK_UN)

    def sync(self) -> None:
        """Make the directory's names durable, where the file system can."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise

    def fsync_entry(self, name: str) -> None:
        """Make the new name of a file durable.

        Raises:
            LocalFSError: when the disk fails at that; the file is in place all the same.
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

    def _unlink_old_name(self, name: str, target: Directory) -> None:
        """Remove the old name of a file that has its new one."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except OSError:
            if self is not target:
                raise
            # A temporary name: the file is published, which an error would deny; the sweep takes the name.


@contextmanager
def _lock_all(*directories: Directory, required: bool) -> Iterator[bool]:
    """Hold the locks of all *directories*, in an order that everybody keeps to, and each directory's only once."""
    with ExitStack() as stack:
        distinct = {os.fstat(directory.fd)[1:3]: directory for directory in directories}
        held = [stack.enter_context(directory.locked(required=required)) for _, directory in sorted(distinct.items())]
        yield all(held)


def _symlink_error(name: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"{name} is a symbolic link: a storage follows none")
