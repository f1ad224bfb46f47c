"""The remote tree: turns paths of the storage into paths of the server, and confines them to the root.

:class:`RemoteTree` owns path resolution and everything that is done to a path: stat, open for reading, create and
remove directories, remove files. The modules above call it with paths of the storage; it sends requests through
:mod:`.protocol`. :mod:`.atomic_write` writes and renames files, and gets their remote paths from this module.

SFTP opens files by path, and follows symbolic links in it. So a request resolves the path (``REALPATH``), and any
result other than the path itself is refused: no link is followed, inside the root or out of it. A user with a shell on
the server may swap links between two requests. Two measures are against that:

* A path is sent as ``a/b/../../a/b/file`` to servers that have POSIX paths (:meth:`RemoteTree.remote_path`). The
  server's kernel resolves it in one call. If ``a`` or ``b`` is a link, ``..`` leads to a parent of the link's target,
  where ``a/b`` does not exist.
* An open file is compared with what the path named before it was opened (:meth:`RemoteTree.open_file`).

A race condition remains, which version 3 of the protocol cannot exclude: a link that appears while the kernel resolves
the path. If untrusted users share the server, confine the account of the storage by ``ChrootDirectory``.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple
from datetime import UTC
from typing import TYPE_CHECKING

from ...errors import (
    FileNotFoundInStorageError,
    NotAFileError,
    PermissionDeniedError,
    StorageError,
    StorageUnavailableError,
)
from ...paths import SYSTEM_DIRECTORY, parent
from ...types import FileInfo
from .codec import Attributes
from .errors import printable, write_error
from .protocol import (
    BAD_MESSAGE,
    CLOSE,
    FAILURE,
    FSTAT,
    FXF_READ,
    HARDLINK,
    LSTAT,
    MKDIR,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    REALPATH,
    REMOVE,
    RMDIR,
    SETSTAT,
    STAT,
    ConnectionLostError,
    PendingReply,
    Session,
    StatusError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import arrow

_DELETE_BATCH_SIZE = 64
_MAX_RACES = 20
"""How many lost race conditions are retried before they are an error."""
_MAX_PATH = 1023
"""The longest path that every POSIX system resolves, in bytes."""
_MAX_CHECKED_DIRECTORIES = 1000


class RemoteTree:
    """A directory of the server, and all that is below it.

    Args:
        root: Its path on the server; a relative path starts at the user's initial directory.
        directory_mode: Mode of new directories; None leaves it to the server.
        storage: The name of the storage, for errors.
    """

    def __init__(self, root: str, *, directory_mode: int | None, storage: str) -> None:
        self.storage = storage
        self._root = root.encode()
        self._directory_mode = directory_mode
        self._opens_after_check = False  # a path was refused before: opening a pipe would block the server

    # -- paths --------------------------------------------------------------------------------------------------------

    def root(self, session: Session) -> bytes:
        """Return the resolved path of the root; one request in each session.

        Raises:
            StorageError: when it does not exist, or is not a directory.
        """
        if session.root is None:
            started_at = time.monotonic()
            pending = [session.request(REALPATH, self._root), session.request(STAT, self._root)]
            try:
                [[(real, _, _)], attributes] = session.wait_for_all(pending)
            except StatusError as error:
                # Not "file not found": a file system that is not mounted must not look like an empty storage.
                raise StorageError(
                    f"the root {self._root.decode()!r} does not exist for this user ({printable(error.text)}): create "
                    "it on the server, or check root and username"
                ) from error
            if not has_file_type(stat.S_ISDIR, attributes):
                raise StorageError(
                    f"the root {self._root.decode()!r} is not a directory on the server: check the argument root"
                )
            session.root, session.round_trip_time = real, time.monotonic() - started_at
        return session.root

    def recheck_root(self, session: Session) -> None:
        """Check that the root still exists; see :meth:`root`."""
        session.root = None
        self.root(session)

    def remote_path(self, session: Session, path: str) -> bytes:
        """Return a path of *path* on the server; ``""`` is the root.

        Where the server has POSIX paths, the path cannot be resolved if one of its directories is a link; see the
        module. A server with hard links has such paths; others might refuse ``..``.
        """
        return self._path_through(session, parent(path), path)

    def remote_directory(self, session: Session, path: str) -> bytes:
        """Return a path of the directory *path*, as :meth:`remote_path`; also not resolved if itself is a link."""
        return self._path_through(session, path, path)

    def request_realpath(self, session: Session, path: str) -> PendingReply:
        """Ask the server to resolve *path*; :meth:`check_realpath` checks the response."""
        return session.request(REALPATH, self._plain_path(session, path))

    def check_realpath(self, session: Session, path: str, realpath: PendingReply) -> None:
        """Check that *path* resolves to itself, by the response to :meth:`request_realpath`.

        Raises:
            PermissionDeniedError: when the path contains a symbolic link, or contained one for a moment.
        """
        try:
            [(real, _, _)] = session.wait(realpath)
        except StatusError as error:
            if error.code != BAD_MESSAGE:
                raise
            # OpenSSH sends this for a name that is too long, and for a link that vanished while it was resolved.
            session.wait(session.request(LSTAT, self._plain_path(session, path)))
            real = b""
        if real != self._plain_path(session, path):
            session.checked_directories.discard(path)
            raise PermissionDeniedError(
                "the path contains a symbolic link: storages do not follow links, replace it with a directory or file"
            )

    def check_directory(self, session: Session, path: str, realpath: PendingReply) -> None:
        """Check a directory as :meth:`check_realpath`, and remember in the session that it was no link."""
        self.check_realpath(session, path, realpath)
        if len(session.checked_directories) >= _MAX_CHECKED_DIRECTORIES:
            session.checked_directories.clear()
        session.checked_directories.add(path)

    def stat(self, session: Session, path: str) -> Attributes:
        """Return the attributes of a file.

        Raises:
            FileNotFoundInStorageError: when it does not exist, or is a directory.
            PermissionDeniedError: when it is a symbolic link, or its path contains one.
            NotAFileError: when it is a pipe, a socket or a device.
        """
        return self._check_stat(session, path, *self._request_stat(session, path))

    def file_info(self, path: str, attributes: Attributes) -> FileInfo:
        """Return attributes as a :class:`FileInfo`. Its etag is weak: two versions by other writers may share one."""
        modified = min(attributes.mtime or 0, _LATEST)
        return FileInfo(
            path=path,
            size=attributes.size or 0,
            last_modified=to_datetime(modified),
            etag=f"{modified:x}-{attributes.size or 0:x}",
            etag_is_strong=False,
        )

    # -- directories --------------------------------------------------------------------------------------------------

    def make_directories(self, session: Session, path: str) -> None:
        """Create a directory and its parents as far as they do not exist.

        Raises:
            NotAFileError: when one of these paths is a file.
            PermissionDeniedError: when one of them is a symbolic link.
        """
        if not path:
            self.root(session)
            return
        levels = _ancestors(path)
        missing: list[str] | None = None
        retries = _MAX_RACES
        while missing is None:
            try:
                missing = self._missing_directories(session, levels)
            except StatusError as error:  # another process created one between two requests: retry
                if error.code != NO_SUCH_FILE or not retries:
                    raise
                retries -= 1
        if missing:
            self._make_missing(session, missing)

    def remove_empty_parents(self, session: Session, path: str) -> None:
        """Remove the directory *path* and its parents as far as they are empty; never the root.

        Object stores have no directories, so here a directory exists only as long as it has a file.
        """
        pending = [
            session.request(RMDIR, self.remote_path(session, level))
            for level in removable_directories(reversed(_ancestors(path)))
        ]
        for request in pending:
            # Not empty, already removed, or not permitted.
            with suppress(StatusError):
                session.wait(request)

    # -- files --------------------------------------------------------------------------------------------------------

    def open_file(self, session: Session, path: str, first: int = 0) -> tuple[bytes, Attributes, bytes]:
        """Open a file for reading, in two round trips.

        The requests that check the path and the one that opens it are sent together, in this order. The open file must
        be the one that was checked, by its size, mode, owner and mtime; otherwise it was replaced, and is opened again.

        Opening a pipe without a writer blocks a process of the server until there is one. So after a path was refused,
        files are opened only when the check has succeeded, in three round trips.

        Args:
            session: The session in which the file is opened.
            path: The file.
            first: How many bytes of the content are fetched with it, at most.

        Returns:
            Its handle, its attributes, and its first bytes.

        Raises:
            StorageError: as :meth:`stat`.
            StorageUnavailableError: when the file is replaced each time it is opened.
        """
        for _ in range(_MAX_RACES):
            try:
                checked, opened = self._open(session, path)
                handle: bytes = session.wait(opened)
            except StatusError as error:
                if error.code != NO_SUCH_FILE:
                    raise
                continue  # deleted or replaced since it was checked: the next check tells which
            try:
                head = bytearray(min(first, session.read_size))
                handle_stat, realpath = session.request(FSTAT, handle), self.request_realpath(session, path)
                content = session.read(handle, 0, memoryview(head)) if head else None
                attributes: Attributes = session.wait(handle_stat)
                with suppress(StatusError):  # a file that was deleted since stays readable
                    self.check_realpath(session, path, realpath)
                if not is_same_version(attributes, checked):
                    attributes, checked = self._stat_opened(session, path, handle)
                if is_same_version(attributes, checked):
                    if attributes.size is None:
                        raise StorageError(f"{path} cannot be read: the server does not report the sizes of files")
                    return handle, attributes, bytes(head[: session.byte_count(content)]) if content else b""
            except BaseException:
                self.close_handle(session, handle)
                raise
            self.close_handle(session, handle)
        raise StorageUnavailableError(f"{path} is replaced by another process each time it is opened: try again")

    def remove(self, session: Session, path: str) -> None:
        """Delete a file, and the directories that become empty. The call is idempotent.

        Raises:
            NotAFileError: when it is a directory.
        """
        for error in self.remove_all(session, [path]).values():
            raise error

    def remove_all(self, session: Session, paths: Sequence[str]) -> dict[str, StatusError | StorageError]:
        """Delete many files, as :meth:`remove`; return the error of each file that was not deleted."""
        failed: dict[str, StatusError | StorageError] = {}
        for start in range(0, len(paths), _DELETE_BATCH_SIZE):
            batch = paths[start : start + _DELETE_BATCH_SIZE]
            checks = [
                (
                    path,
                    self.request_realpath(session, parent(path)),
                    session.request(LSTAT, self.remote_path(session, path)),
                )
                for path in batch
            ]
            removals: list[tuple[str, PendingReply]] = []
            for path, realpath, path_stat in checks:
                try:
                    if self._may_remove(session, path, realpath, path_stat):
                        removals.append((path, session.request(REMOVE, self.remote_path(session, path))))
                except (StatusError, StorageError) as error:
                    failed[path] = error
            parents = {level for path, _ in removals for level in _ancestors(parent(path))}
            deepest_first = sorted(parents, key=len, reverse=True)
            directory_removals = [
                session.request(RMDIR, self.remote_path(session, directory))
                for directory in removable_directories(deepest_first)
            ]
            for path, request in removals:
                try:
                    session.wait(request)
                except StatusError as error:
                    if error.code != NO_SUCH_FILE:
                        failed[path] = error
            for request in directory_removals:
                with suppress(StatusError):  # not empty, already removed, or not permitted
                    session.wait(request)
        return failed

    def try_remove_temporary(self, session: Session, temporary: str) -> None:
        """Delete a temporary file as :meth:`remove_temporary`; if that fails, `sweep` removes it later."""
        with suppress(StatusError):
            self.remove_temporary(session, temporary)

    def remove_temporary(self, session: Session, temporary: str) -> None:
        """Delete a temporary file, and its parent directories as far as they are empty.

        Raises:
            StatusError: when the server refuses to delete the file.
        """
        removal = session.request(REMOVE, self.remote_path(session, temporary))
        self.remove_empty_parents(session, parent(temporary))
        session.wait(removal)

    def close_handle(self, session: Session, handle: bytes) -> None:
        """Close a handle; the response is not waited for."""
        with suppress(ConnectionLostError):
            session.request(CLOSE, handle)

    # -- inner --------------------------------------------------------------------------------------------------------

    def _plain_path(self, session: Session, path: str) -> bytes:
        root = self.root(session)
        return root.rstrip(b"/") + b"/" + path.encode("utf-8", "surrogateescape") if path else root

    def _path_through(self, session: Session, directory: str, path: str) -> bytes:
        """Return the path of *path* that leads through *directory*, up to the root, and down again."""
        plain = self._plain_path(session, path)
        if directory and HARDLINK in session.extensions:
            through = self._plain_path(session, f"{directory}{'/..' * (directory.count('/') + 1)}/{path}")
            if len(through) <= _MAX_PATH:
                return through
        return plain

    def _open(self, session: Session, path: str) -> tuple[Attributes, PendingReply]:
        """Return the attributes of the file at a path, and the request that opens it."""
        remote_path = self.remote_path(session, path)
        path_stat, realpath = session.request(LSTAT, remote_path), self.request_realpath(session, path)
        opened = None if self._opens_after_check else session.open(remote_path, FXF_READ)
        try:
            checked = self._check_stat(session, path, path_stat, realpath)
        except (NotAFileError, PermissionDeniedError):
            self._opens_after_check = True
            if opened is not None:
                session.close()  # the server may wait for a writer of the pipe that it opens
            raise
        except BaseException:
            if opened is not None and not session.broken:
                with suppress(StatusError):
                    self.close_handle(session, session.wait(opened))
            raise
        return checked, opened or session.open(remote_path, FXF_READ)

    def _stat_opened(self, session: Session, path: str, handle: bytes) -> tuple[Attributes, Attributes]:
        """Return the attributes of an open file, and those of its path; the file may be growing."""
        handle_stat = session.request(FSTAT, handle)
        path_stat, realpath = (
            session.request(LSTAT, self.remote_path(session, path)),
            self.request_realpath(session, path),
        )
        return session.wait(handle_stat), self._check_stat(session, path, path_stat, realpath)

    def _request_stat(self, session: Session, path: str) -> tuple[PendingReply, PendingReply, PendingReply]:
        path_stat = session.request(LSTAT, self.remote_path(session, path))
        return path_stat, self.request_realpath(session, path), session.request(STAT, self._root)

    def _check_stat(
        self,
        session: Session,
        path: str,
        path_stat: PendingReply,
        realpath: PendingReply,
        root_stat: PendingReply | None = None,
    ) -> Attributes:
        missing = FileNotFoundInStorageError(self.storage, path)
        try:
            attributes: Attributes = session.wait(path_stat)
        except StatusError as error:
            # If a parent is a file, the server reports a general failure; the path cannot exist then.
            if error.code == NO_SUCH_FILE or self._is_below_a_file(session, path):
                with suppress(StatusError):  # a directory of the path is missing too
                    self.check_realpath(session, path, realpath)
                try:
                    session.wait(root_stat or session.request(STAT, self._root))
                except StatusError:
                    self.recheck_root(session)
                raise missing from error
            raise
        if has_file_type(stat.S_ISLNK, attributes, unknown=False):
            raise PermissionDeniedError(f"{path} is a symbolic link: storages do not follow links, replace it")
        self.check_realpath(session, path, realpath)
        if has_file_type(stat.S_ISDIR, attributes, unknown=False):
            raise missing
        if not has_file_type(stat.S_ISREG, attributes):
            raise NotAFileError(f"{path} is not a regular file")
        return attributes

    def _may_remove(self, session: Session, path: str, realpath: PendingReply, path_stat: PendingReply) -> bool:
        """Whether there is a file to delete."""
        try:
            self.check_realpath(session, parent(path), realpath)
            attributes = session.wait(path_stat)
        except StatusError as error:
            if error.code == NO_SUCH_FILE or self._is_below_a_file(session, path):
                return False
            raise
        if has_file_type(stat.S_ISDIR, attributes, unknown=False):
            raise NotAFileError(f"{path} is a directory: delete its files with delete_prefix()")
        return True

    def _missing_directories(self, session: Session, levels: Sequence[str]) -> list[str]:
        checks = [
            (self.request_realpath(session, level), session.request(LSTAT, self.remote_path(session, level)))
            for level in levels
        ]
        missing: list[str] = []
        for level, (realpath, path_stat) in zip(levels, checks, strict=True):
            try:
                attributes = session.wait(path_stat)
            except StatusError as error:
                if error.code not in (NO_SUCH_FILE, FAILURE):
                    raise
                missing.append(level)
            else:
                if has_file_type(stat.S_ISDIR, attributes):
                    self.check_realpath(session, level, realpath)
                elif has_file_type(stat.S_ISLNK, attributes, unknown=False):
                    raise PermissionDeniedError(f"{level} is a symbolic link: storages do not follow links, replace it")
                else:
                    raise NotAFileError(f"the directory {level} cannot be created: a file has this path")
        return missing

    def _make_missing(self, session: Session, levels: list[str]) -> None:
        pending = [
            session.request(MKDIR, self.remote_path(session, level), Attributes(mode=self._directory_mode).pack())
            for level in levels
        ]
        created = []
        for level, request in zip(levels, pending, strict=True):
            try:
                session.wait(request)
                created.append(level)
            except StatusError as error:
                # Another process may have created it. If not, creating a file in it reports the reason, except for
                # "permission denied": then the server would only report "no such file".
                if error.code == PERMISSION_DENIED:
                    raise
                if error.code == NO_SUCH_FILE:
                    self.recheck_root(session)
                elif (cause := write_error(session, error)) is not error:
                    raise cause from error
        mode = self._directory_mode
        if mode is None or not mode & 0o7077:  # the umask of the server may have removed these bits
            return
        paths = [self.remote_path(session, level) for level in created]
        packed = Attributes(mode=mode).pack()
        requests = [(session.request(SETSTAT, path, packed), session.request(LSTAT, path)) for path in paths]
        try:
            for mode_set, path_stat in requests:
                with suppress(StatusError):  # another process has removed it
                    check_mode_set(session, mode_set, session.wait(path_stat), mode, "directory_mode")
        except PermissionDeniedError:
            self.remove_empty_parents(session, created[-1])  # the next write would find directories of another mode
            raise

    def _is_below_a_file(self, session: Session, path: str) -> bool:
        parents = _ancestors(parent(path))
        for request in [session.request(LSTAT, self.remote_path(session, level)) for level in parents]:
            with suppress(StatusError):
                if has_file_type(stat.S_ISREG, session.wait(request), unknown=False):
                    return True
        return False


def check_mode_set(session: Session, request: PendingReply, current: Attributes, mode: int, setting: str) -> None:
    """Wait for a request that sets the mode of a file or directory.

    Args:
        session: The session.
        request: The request.
        current: The attributes after it.
        mode: The mode.
        setting: The argument that configures *mode*, for the error.

    Raises:
        PermissionDeniedError: when the server refuses it, and the mode is another one.
        StatusError: when the file does not exist any more.
    """
    try:
        session.wait(request)
    except StatusError as error:
        if error.code == NO_SUCH_FILE:
            raise
        if current.mode is None or stat.S_IMODE(current.mode) != mode:
            raise PermissionDeniedError(
                f"permissions cannot be set to 0o{mode:o}: the server refuses that ({printable(error.text)}), as for "
                f"some network mounts; pass {setting}=None, which leaves them to the server"
            ) from error


_LATEST = 253402300799  # the last second of the year 9999


def to_datetime(seconds: int | None) -> arrow.Arrow:
    """Return a time stamp of the server as a date and time in UTC."""
    import arrow

    return arrow.get(min(seconds or 0, _LATEST), tzinfo=UTC)


def is_same_version(one: Attributes, other: Attributes) -> bool:
    """Whether two files may be the same version of one file, by the attributes that the server reports for both."""
    pairs = zip(astuple(one), astuple(other), strict=True)
    return all(first == second or first is None or second is None for first, second in pairs)


def has_file_type(test: Callable[[int], bool], attributes: Attributes, *, unknown: bool = True) -> bool:
    """Whether a file has a type, by a *test* of :mod:`stat`; *unknown* is returned if the server reports no modes."""
    return unknown if attributes.mode is None else test(attributes.mode)


def removable_directories(directories: Iterable[str]) -> Iterator[str]:
    """Yield the directories that may be removed when they are empty: all but the file system's own."""
    return (directory for directory in directories if directory != SYSTEM_DIRECTORY)


def _ancestors(path: str) -> list[str]:
    """Return a directory and its parents, the highest first, without the root."""
    parts = path.split("/") if path else []
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
