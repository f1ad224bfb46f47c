"""The gateway to the local disk: a directory tree in which no path resolves to anything outside.

Resolving a path first and opening it later has a race condition: another process can replace a directory by a symbolic
link in between (measured on a program that does so: 309 of 20,000 attempts). So no system call here gets a path with a
slash. :meth:`RootedTree.open_directory` opens one segment after the other from the root on, each relative to the one
before and with ``O_NOFOLLOW``. Every other call is relative to the directory that it returns.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import LocalFSError, LocalNotAFileError, PermissionDeniedError
from ...paths import RESERVED_PREFIX, SYSTEM_DIRECTORY
from .attributes import set_mode
from .directory import DIRECTORY_FLAGS, Directory

_ATTEMPTS = 100
# A tree may be 512 levels deep, and the limit of open descriptors per process is often 1024.
_MAX_OPEN_LEVELS = 32


class RootedTree:
    """A directory tree in which no path resolves to anything outside.

    Args:
        root: An existing directory.
        directory_mode: Permissions of the directories that are created here; None leaves them to the umask and the
            file system.
        sync: Make every change durable before the call returns.
    """

    def __init__(self, root: Path, *, directory_mode: int | None, sync: bool) -> None:
        self.root = root
        self.sync = sync
        self._directory_mode = directory_mode

    def open_directory(self, path: str, *, create: bool = False) -> Directory:
        """Open a directory below the root. Every access to this storage goes through here.

        Args:
            path: Normalized; ``""`` is the root.
            create: Create missing directories.

        Raises:
            FileNotFoundError: when it does not exist, or a part of the path is a file (without *create*).
            LocalFSError: when a part of the path is a file (with *create*), or the root does not exist.
            PermissionDeniedError: when a part of the path is a symbolic link.
        """
        if not create:
            return self._open_path(path, create=False)
        try:
            for _ in range(_ATTEMPTS):
                with suppress(FileNotFoundError):  # another process removed an empty directory of the path
                    return self._open_path(path, create=True)
            raise LocalFSError(f"another process deletes the directory {path} repeatedly: try again later")
        except BaseException:
            self.remove_empty_parents(path)
            raise

    def open_parent(self, path: str, *, create: bool = False) -> tuple[Directory, str]:
        """Open the directory of a file; return it and the name of the file in it."""
        parent, _, name = path.rpartition("/")
        return self.open_directory(parent, create=create), name

    def open_file(self, path: str) -> int:
        """Open a file for reading; see :meth:`Directory.open_file`."""
        directory, name = self.open_parent(path)
        with directory:
            return directory.open_file(name)

    def create_temporary(self, path: str, mode: int = 0o600) -> tuple[Directory, str, int]:
        """Create a temporary file in the directory of *path*; return directory, name and descriptor."""
        for _ in range(_ATTEMPTS):
            directory, _name = self.open_parent(path, create=True)
            try:
                name, fd = directory.create_temporary(mode)
            except FileNotFoundError:  # the directory was removed concurrently
                directory.close()
            except BaseException:
                directory.close()
                self.remove_empty_parents(path.rpartition("/")[0])
                raise
            else:
                return directory, name, fd
        raise LocalFSError(f"another process deletes the directory of {path} repeatedly: try again later")

    def remove_empty_parents(self, path: str) -> None:
        """Remove the directory *path* and its parents as far as they are empty, but never the root.

        Object stores have no directories: a directory exists as long as a file is in it.
        """
        while path and path != SYSTEM_DIRECTORY:
            parent, _, name = path.rpartition("/")
            try:
                with self.open_directory(parent) as directory:
                    os.rmdir(name, dir_fd=directory.fd)
            except LocalFSError:
                return
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return
                # It does not exist, so its parent may be empty; or this process may not remove it.
            path = parent

    def walk(
        self, path: str = "", *, recursive: bool = True, on_exit: Callable[[str, Directory], None] | None = None
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the entries below a directory, each with its directory's path (``""``, or ends in ``/``), in any order.

        With *recursive*, directories are entered and not yielded, except the storage's hidden ones, which are yielded
        and not entered. Entries that are deleted concurrently are left out, and a directory that does not exist yields
        nothing. At most 64 descriptors are open, however deep the tree is.

        Args:
            path: Normalized; ``""`` is the root.
            recursive: Enter subdirectories.
            on_exit: Called with each entered directory after its last entry.
        """
        pending = [path]
        while pending:
            yield from self._walk_below(pending.pop(), recursive, on_exit, pending)

    def _walk_below(
        self, path: str, recursive: bool, on_exit: Callable[[str, Directory], None] | None, too_deep: list[str]
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        levels: list[_WalkLevel] = []
        try:
            with suppress(FileNotFoundError):
                levels.append(_WalkLevel(self.open_directory(path), path))
            while levels:
                level = levels[-1]
                entry = next(level.entries, None)
                if entry is None:
                    if on_exit is not None:
                        on_exit(level.path, level.directory)
                    levels.pop().close()
                elif not recursive or entry.name.startswith(RESERVED_PREFIX) or not entry.is_dir(follow_symlinks=False):
                    yield level.prefix, entry
                elif len(levels) == _MAX_OPEN_LEVELS:
                    too_deep.append(level.prefix + entry.name)
                else:
                    self._enter_directory(levels, entry.name)
        finally:
            for level in levels:
                level.close()

    def _enter_directory(self, levels: list[_WalkLevel], name: str) -> None:
        """Enter a subdirectory, unless it was concurrently deleted or replaced by something else."""
        level = levels[-1]
        try:
            levels.append(_WalkLevel(level.directory.child(name), level.prefix + name))
        except (FileNotFoundError, NotADirectoryError, PermissionDeniedError):
            return
        except PermissionError:
            if level.prefix + name != SYSTEM_DIRECTORY:
                raise

    def _open_path(self, path: str, *, create: bool) -> Directory:
        directory = self._open_root()
        try:
            for name in path.split("/") if path else ():
                parent = directory
                directory = self._open_child(parent, name, create)
                parent.close()
        except NotADirectoryError as error:
            directory.close()
            if create:
                raise LocalNotAFileError(
                    f"the directory {path} cannot be created, because a part of it is a file: choose another path"
                ) from error
            raise FileNotFoundError(errno.ENOENT, "a part of the path is a file", path) from error
        except BaseException:
            directory.close()
            raise
        return directory

    def _open_root(self) -> Directory:
        try:
            return Directory(os.open(self.root, DIRECTORY_FLAGS))
        except (FileNotFoundError, NotADirectoryError) as error:
            # Not FileNotFoundError: a volume that is not mounted must not look like an empty storage.
            raise LocalFSError(
                f"the root {self.root} does not exist any more, or is not a directory: is its volume mounted?"
            ) from error

    def _open_child(self, parent: Directory, name: str, create: bool) -> Directory:
        try:
            return parent.child(name)
        except FileNotFoundError:
            if not create:
                raise
        parent.create_child(name, self._directory_mode, sync=self.sync)
        return parent.child(name)


class _WalkLevel:
    """A directory whose entries are being yielded."""

    def __init__(self, directory: Directory, path: str) -> None:
        self.directory = directory
        self.path = path
        self.prefix = f"{path}/" if path else ""
        try:
            self.entries = os.scandir(directory.fd)
        except BaseException:
            directory.close()
            raise

    def close(self) -> None:
        self.entries.close()
        self.directory.close()


def create_root(root: Path, mode: int | None) -> None:
    """Create a directory and its missing parents. The umask is ignored, unless *mode* is None."""
    missing = []
    while not os.path.lexists(root):
        missing.append(root)
        root = root.parent
    for path in reversed(missing):
        with suppress(FileExistsError):  # it may be created concurrently
            os.mkdir(path, 0o777 if mode is None else 0o700)
            with Directory(os.open(path, DIRECTORY_FLAGS)) as directory:
                set_mode(directory.fd, mode, "directory_mode")
