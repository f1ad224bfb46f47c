"""The one door to the local disk: folders by descriptor, never by name.

Between checking a path and opening it somebody can put a symbolic link in its way; a program that resolves first and
opens later follows it (309 of 20,000 attempts, measured on such a program). So nothing here takes a path with a slash
in it. :meth:`Disk.folder` walks from the root one segment at a time, each opened relative to the one before with
``O_NOFOLLOW``, and everything else is done relative to the folder it returns.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import LocalFSError, NotAFileError, PermissionDeniedError, UnsupportedOperationError
from ..paths import RESERVED_PREFIX

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "LocalFSStorage needs a POSIX system, such as Linux, macOS or the Windows Subsystem for Linux"
    ) from error

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe that nobody writes to would otherwise hang for ever.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_COPY_CHUNK = 8 * 1024 * 1024
_PLAIN = nullcontext()
_ATTEMPTS = 100
# A tree may be nested 512 deep, and a process is often allowed no more than 1024 descriptors.
_OPEN_LEVELS = 32


class Folder:
    """An open folder; closed by leaving its ``with`` block."""

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
        """Close the folder; again is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):  # nothing was written to it, so nothing can be lost
                os.close(fd)

    def child(self, name: str) -> Folder:
        """Open a sub-folder.

        Raises:
            FileNotFoundError: when it does not exist.
            NotADirectoryError: when it is a file.
            PermissionDeniedError: when it is a symbolic link.
        """
        try:
            return Folder(os.open(name, _FOLDER_FLAGS, dir_fd=self.fd))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and stat.S_ISLNK(self.stat(name).st_mode):
                raise _linked(name) from error
            raise

    def make_child(self, name: str, mode: int, *, sync: bool) -> None:
        """Make a sub-folder; one that exists is fine. The umask has no say."""
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
            FileNotFoundError: when it does not exist, or is a folder (which is no file).
            PermissionDeniedError: when it is a symbolic link.
            NotAFileError: when it is a pipe, a socket or a device.
        """
        try:
            fd = os.open(name, _READ_FLAGS, dir_fd=self.fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _linked(name) from error
            if error.errno == errno.ENXIO:  # a socket
                raise NotAFileError(f"{name} is no regular file") from error
            raise
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return fd
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise FileNotFoundError(errno.ENOENT, "is a folder", name)
        raise NotAFileError(f"{name} is no regular file")

    def create_temporary(self) -> tuple[str, int]:
        """Make a hidden file that nobody else can name, and return its name and descriptor.

        The name's length does not depend on the final name, so one of 255 bytes is no problem.
        """
        name = RESERVED_PREFIX + secrets.token_hex(8)
        return name, os.open(name, _CREATE_FLAGS, 0o600, dir_fd=self.fd)

    def publish(
        self, temporary: str, name: str, *, exclusive: bool, allowed: Callable[[], None] | None, sync: bool
    ) -> None:
        """Give a finished temporary file its name, atomically.

        Args:
            temporary: The temporary file.
            name: Its name from now on; a file that has it is replaced.
            exclusive: Fail with :class:`FileExistsError` when the name is taken.
            allowed: Called while nothing else in this folder can be published or deleted; raises to stop this one.
            sync: Make the new name durable.
        """
        self.rename_to(temporary, self, name, exclusive=exclusive, allowed=allowed)
        if sync:
            self.sync()

    def rename_to(
        self, name: str, target: Folder, new_name: str, *, exclusive: bool, allowed: Callable[[], None] | None
    ) -> None:
        """Move a file into *target* under *new_name*; arguments as for :meth:`publish`."""
        with _all_locked(self, target, required=allowed is not None):
            if allowed is not None:
                allowed()
            if exclusive:
                try:
                    # Unlike rename, link fails when the name is taken. dst_dir_fd makes Python use linkat.
                    os.link(name, new_name, src_dir_fd=self.fd, dst_dir_fd=target.fd, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _NO_HARD_LINKS:
                        raise
                    if target.has(new_name):
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name) from error
                else:
                    self._drop(name, target)
                    return
            try:
                os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=target.fd)
            except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
                raise NotAFileError(f"a folder stands where the file {new_name} should be") from error
            # Between two names of one file rename succeeds and does nothing; a crash after link leaves two names.
            if self is not target and self.has(name) and os.path.samestat(self.stat(name), target.stat(new_name)):
                self._drop(name, target)

    def has(self, name: str) -> bool:
        """Whether anything has this name."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def unlink(self, name: str) -> None:
        """Delete a file; one that does not exist is fine.

        Raises:
            NotAFileError: when it is a folder.
        """
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if stat.S_ISDIR(self.stat(name).st_mode):
                raise NotAFileError(f"{name} is a folder: delete_prefix() deletes what is in it") from error
            raise

    @contextmanager
    def locked(self, *, required: bool = False) -> Iterator[None]:
        """Hold the folder's lock, so that comparing and publishing are one step among all processes.

        Where the file system has no locks (some network ones), go on without, unless it is *required*.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        except OSError as error:
            if required:
                raise UnsupportedOperationError(
                    f"the file system locks no folder ({error.strerror}), so if_match cannot be decided safely: omit it"
                ) from error
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self.fd, fcntl.LOCK_UN)

    def sync(self) -> None:
        """Make the folder's names durable, where the file system can."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise

    def _drop(self, name: str, target: Folder) -> None:
        """Remove the old name of a file that has its new one."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except OSError:
            if self is not target:
                raise
            # A temporary name: the file is published, which an error would deny; the sweep takes the name.


class Disk:
    """A folder tree that nothing leaves.

    Args:
        root: An existing folder.
        folder_mode: Mode of folders made here.
        sync: Make every change durable before it is reported done.
    """

    def __init__(self, root: Path, *, folder_mode: int, sync: bool) -> None:
        self.root = root
        self.sync = sync
        self._folder_mode = folder_mode

    def folder(self, path: str, *, create: bool = False) -> Folder:
        """Open a folder below the root. Every access to this storage goes through here.

        Args:
            path: Normalized; ``""`` is the root.
            create: Make what is missing.

        Raises:
            FileNotFoundError: when it does not exist, or a file stands in its way (unless *create*).
            LocalFSError: when a file stands in its way (with *create*), or the root is gone.
            PermissionDeniedError: when a symbolic link does.
        """
        if not create:
            return self._reach(path, create=False)
        try:
            for _ in range(_ATTEMPTS):
                with suppress(FileNotFoundError):  # somebody pruned on our way what was there, or what we made
                    return self._reach(path, create=True)
            raise LocalFSError(f"the folder {path} is deleted again and again by somebody else")
        except BaseException:
            self.prune(path)
            raise

    def parent(self, path: str, *, create: bool = False) -> tuple[Folder, str]:
        """Open the folder of a file; return it and the file's own name."""
        parent, _, name = path.rpartition("/")
        return self.folder(parent, create=create), name

    def open_file(self, path: str) -> int:
        """Open a file for reading; see :meth:`Folder.open_file`."""
        folder, name = self.parent(path)
        with folder:
            return folder.open_file(name)

    def create_temporary(self, path: str) -> tuple[Folder, str, int]:
        """Make a temporary file in the folder of *path*; return folder, name and descriptor."""
        for _ in range(_ATTEMPTS):
            folder, _name = self.parent(path, create=True)
            try:
                name, fd = folder.create_temporary()
            except FileNotFoundError:  # the folder was pruned between opening it and here
                folder.close()
            except BaseException:
                folder.close()
                self.prune(path.rpartition("/")[0])
                raise
            else:
                return folder, name, fd
        raise LocalFSError("the folder is deleted again and again by somebody else")

    def prune(self, path: str) -> None:
        """Remove the folder *path* and those above it as far as they are empty; never the root.

        Object stores have no folders; where the last file of one is gone, so should be the folder.
        """
        while path:
            parent, _, name = path.rpartition("/")
            try:
                with self.folder(parent) as folder:
                    os.rmdir(name, dir_fd=folder.fd)
            except LocalFSError:
                return
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return
                # Gone already or never made, so the one above may be empty now; or not ours to remove.
            path = parent

    def walk(
        self, path: str = "", *, recursive: bool = True, left: Callable[[str, Folder], None] | None = None
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield what is below a folder, with the folder's path (ending in ``/``, or ``""``), lazily, in any order.

        With *recursive*, folders are entered and not yielded, except our own hidden ones, which are yielded and not
        entered. What vanishes meanwhile is left out, and a folder that does not exist yields nothing. However deep
        the tree, at most 64 descriptors are open.

        Args:
            path: Normalized; ``""`` is the root.
            recursive: Enter sub-folders.
            left: Called with each folder that was entered, when all of its own files have been yielded.
        """
        pending = [path]
        while pending:
            yield from self._descend(pending.pop(), recursive, left, pending)

    def _descend(
        self, path: str, recursive: bool, left: Callable[[str, Folder], None] | None, too_deep: list[str]
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        levels: list[_Level] = []
        try:
            with suppress(FileNotFoundError):
                levels.append(_Level(self.folder(path), path))
            while levels:
                level = levels[-1]
                entry = next(level.entries, None)
                if entry is None:
                    if left is not None:
                        left(level.path, level.folder)
                    levels.pop().close()
                elif not recursive or entry.name.startswith(RESERVED_PREFIX) or not entry.is_dir(follow_symlinks=False):
                    yield level.prefix, entry
                elif len(levels) == _OPEN_LEVELS:
                    too_deep.append(level.prefix + entry.name)
                else:
                    with suppress(FileNotFoundError, NotADirectoryError, PermissionDeniedError):
                        levels.append(_Level(level.folder.child(entry.name), level.prefix + entry.name))
        finally:
            for level in levels:
                level.close()

    def _reach(self, path: str, *, create: bool) -> Folder:
        folder = self._open_root()
        try:
            for name in path.split("/") if path else ():
                parent = folder
                folder = self._step(parent, name, create)
                parent.close()
        except NotADirectoryError as error:
            folder.close()
            if create:
                raise NotAFileError(f"a file stands where the folder {path} should be") from error
            raise FileNotFoundError(errno.ENOENT, "a file stands in the way", path) from error
        except BaseException:
            folder.close()
            raise
        return folder

    def _open_root(self) -> Folder:
        try:
            return Folder(os.open(self.root, _FOLDER_FLAGS))
        except (FileNotFoundError, NotADirectoryError) as error:
            # Not "file not found": a volume that is not mounted must not look like an empty storage.
            raise LocalFSError(f"the root {self.root} is gone or no folder any more: is its volume mounted?") from error

    def _step(self, parent: Folder, name: str, create: bool) -> Folder:
        try:
            return parent.child(name)
        except FileNotFoundError:
            if not create:
                raise
        parent.make_child(name, self._folder_mode, sync=self.sync)
        return parent.child(name)


class _Level:
    """A folder that is being walked."""

    def __init__(self, folder: Folder, path: str) -> None:
        self.folder = folder
        self.path = path
        self.prefix = f"{path}/" if path else ""
        try:
            self.entries = os.scandir(folder.fd)
        except BaseException:
            folder.close()
            raise

    def close(self) -> None:
        self.entries.close()
        self.folder.close()


@contextmanager
def _all_locked(*folders: Folder, required: bool) -> Iterator[None]:
    """Hold the locks of all *folders*, in an order that everybody keeps to, and each folder's only once."""
    with ExitStack() as stack:
        distinct = {os.fstat(folder.fd)[1:3]: folder for folder in folders}
        for _, folder in sorted(distinct.items()):
            stack.enter_context(folder.locked(required=required))
        yield


def make_root(root: Path, mode: int) -> None:
    """Make a folder and those above it that are missing; the umask has no say."""
    missing = []
    while not os.path.lexists(root):
        missing.append(root)
        root = root.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):  # somebody else makes it too
            os.mkdir(folder, 0o700)
            os.chmod(folder, mode)


def copy_bytes(
    source: int,
    target: int,
    *,
    offset: int = 0,
    progress: Callable[[int], None] | None = None,
    reading: AbstractContextManager[Any] = _PLAIN,
    writing: AbstractContextManager[Any] = _PLAIN,
) -> int:
    """Copy from one descriptor, from *offset* on, to another where it stands; return the number of bytes.

    The kernel copies (``copy_file_range``), without reading where the file system shares blocks; where it cannot,
    for whatever reason, the bytes go through this process, 8 MiB at a time, and a fault shows where it is.

    Args:
        source: A regular file.
        target: A regular file.
        offset: Where to begin, in bytes.
        progress: Called after each 8 MiB with the number of bytes so far.
        reading: Entered around every read, to translate its errors.
        writing: Entered around every write, likewise.
    """
    total = 0
    in_kernel = hasattr(os, "copy_file_range")
    while True:
        if in_kernel:
            try:
                count = os.copy_file_range(source, target, _COPY_CHUNK, offset_src=offset + total)
            except OSError:
                in_kernel = False
                continue
            if not count and not total:  # some kernels say so of what is no plain file, as in /proc: look oneself
                in_kernel = False
                continue
        else:
            with reading:
                chunk = os.pread(source, _COPY_CHUNK, offset + total)
            with writing:
                write_all(target, chunk)
            count = len(chunk)
        if not count:
            return total
        total += count
        if progress is not None:
            progress(total)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of *data*; a write to a nearly full disk may take only some."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def etag(status: os.stat_result) -> str:
    """Return a tag that changes with every version: each is a new inode with a stamp of its own."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _linked(name: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"{name} is a symbolic link: a storage follows none")
