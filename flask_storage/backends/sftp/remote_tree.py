"""The one door to a folder of the server, which nothing leaves.

SFTP opens by path, and follows symbolic links on its way. So the server is asked, before anything is touched, where a
path really leads (``REALPATH``), and any other answer than the path itself is refused: no link is followed, inside the
root or out of it. Between that answer and the next request somebody with a shell on the server could put a link in the
way, and take it away again; version 3 of the protocol has nothing against that. Who shares the machine with strangers
gives the storage a ``ChrootDirectory``.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from datetime import UTC
from typing import TYPE_CHECKING

from ...errors import (
    FileNotFoundInStorageError,
    NotAFileError,
    PermissionDeniedError,
    StorageError,
)
from ...paths import SYSTEM_DIRECTORY, parent
from ...types import FileInfo
from .codec import Attributes
from .errors import printable, write_error
from .protocol import (
    CLOSE,
    FAILURE,
    FSTAT,
    FXF_READ,
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


class RemoteTree:
    """A folder of the server.

    Args:
        root: Its path there; what is not absolute begins where the server puts the user.
        directory_mode: Mode of folders that are made.
        storage: The storage's name.
    """

    def __init__(self, root: str, *, directory_mode: int, storage: str) -> None:
        self.storage = storage
        self._root = root.encode()
        self._directory_mode = directory_mode

    # -- where things are ---------------------------------------------------------------------------------------------

    def root(self, session: Session) -> bytes:
        """Return where the root really is; asked once in each session.

        Raises:
            StorageError: when it is gone, or is no folder.
        """
        if session.root is None:
            begun = time.monotonic()
            asked = [session.request(REALPATH, self._root), session.request(STAT, self._root)]
            try:
                [[(real, _, _)], attributes] = session.wait_for_all(asked)
            except StatusError as error:
                # Not "file not found": what is not mounted must not look like an empty storage.
                raise StorageError(
                    f"the root {self._root.decode()!r} is not there for this user ({printable(error.text)}): make it on "
                    "the server, or check root and username"
                ) from error
            if not is_kind(stat.S_ISDIR, attributes):
                raise StorageError(f"the root {self._root.decode()!r} is no folder on the server")
            session.root, session.round_trip_time = real, time.monotonic() - begun
        return session.root

    def recheck_root(self, session: Session) -> None:
        """See that the root is there still, as :meth:`root`."""
        session.root = None
        self.root(session)

    def remote_path(self, session: Session, path: str) -> bytes:
        """Return what the server calls *path*; ``""`` is the root."""
        root = self.root(session)
        return root.rstrip(b"/") + b"/" + path.encode("utf-8", "surrogateescape") if path else root

    def request_realpath(self, session: Session, path: str) -> PendingReply:
        """Ask where *path* really leads; :meth:`check_realpath` looks at the answer."""
        return session.request(REALPATH, self.remote_path(session, path))

    def check_realpath(self, session: Session, path: str, asked: PendingReply) -> None:
        """Refuse a path that does not lead where it says.

        Raises:
            PermissionDeniedError: when a link is on its way.
        """
        [(real, _, _)] = session.wait(asked)
        if real != self.remote_path(session, path):
            raise PermissionDeniedError("a symbolic link is in the way: a storage follows none")

    def stat(self, session: Session, path: str) -> Attributes:
        """Return what the server knows of a file.

        Raises:
            FileNotFoundInStorageError: when there is none, or a folder (which is no file).
            PermissionDeniedError: when a symbolic link is there, or on the way.
            NotAFileError: when it is a pipe, a socket or a device.
        """
        return self._check_stat(session, path, *self._request_stat(session, path))

    def file_info(self, path: str, attributes: Attributes) -> FileInfo:
        """Return what is known of a file. Whoever else writes there may make two versions look alike."""
        modified = min(attributes.mtime or 0, _LATEST)
        return FileInfo(
            path=path,
            size=attributes.size or 0,
            last_modified=to_datetime(modified),
            etag=f"{modified:x}-{attributes.size or 0:x}",
            etag_is_strong=False,
        )

    # -- folders ------------------------------------------------------------------------------------------------------

    def make_directories(self, session: Session, path: str) -> None:
        """See to it that a folder is there, and everything above it.

        Raises:
            NotAFileError: when a file stands in its way.
            PermissionDeniedError: when a symbolic link does.
        """
        if not path:
            self.root(session)
            return
        levels = _ancestors(path)
        missing: list[str] | None = None
        while missing is None:
            try:
                missing = self._missing_directories(session, levels)
            except StatusError as error:  # somebody has made one between two questions about it: ask again
                if error.code != NO_SUCH_FILE:
                    raise
        if missing:
            self._make_missing(session, missing)

    def remove_empty_parents(self, session: Session, path: str) -> None:
        """Remove the folder *path* and those above it as far as they are empty; never the root.

        Object stores have no folders; where the last file of one is gone, so should be the folder.
        """
        asked = [
            session.request(RMDIR, self.remote_path(session, level)) for level in removable(reversed(_ancestors(path)))
        ]
        for one in asked:
            # Not empty, gone already, or not ours to remove.
            with suppress(StatusError):
                session.wait(one)

    # -- files --------------------------------------------------------------------------------------------------------

    def open_file(self, session: Session, path: str, first: int = 0) -> tuple[bytes, Attributes, bytes]:
        """Open a file for reading, in three turns.

        It is looked at before: opening a pipe that nobody writes to would hold a process of the server for ever.

        Args:
            session: In which it is open then.
            path: The file.
            first: How many bytes of it come along, at most.

        Returns:
            Its handle, what is known of it, and its first bytes.

        Raises:
            StorageError: as :meth:`stat`.
        """
        with self._translating_missing(path):
            self.stat(session, path)
            handle: bytes = session.wait(session.open(self.remote_path(session, path), FXF_READ))
        try:
            head = bytearray(min(first, session.read_size))
            about, again = session.request(FSTAT, handle), self._request_stat(session, path)
            content = session.read(handle, 0, memoryview(head)) if head else None
            attributes: Attributes = session.wait(about)
            # Somebody may have put a link there before it was opened; a file that is gone stays readable.
            with suppress(FileNotFoundInStorageError):
                self._check_stat(session, path, *again)
            if not is_kind(stat.S_ISREG, attributes):
                raise NotAFileError(f"{path} is no regular file")
            if attributes.size is None:
                raise StorageError("the server does not tell how long files are: nothing can be read from it")
            return handle, attributes, bytes(head[: session.byte_count(content)]) if content else b""
        except BaseException:
            self.close_handle(session, handle)
            raise

    def remove(self, session: Session, path: str) -> None:
        """Delete a file; one that is not there is fine. Folders that become empty go with it.

        Raises:
            NotAFileError: when it is a folder.
        """
        for error in self.remove_all(session, [path]).values():
            raise error

    def remove_all(self, session: Session, paths: Sequence[str]) -> dict[str, StatusError | StorageError]:
        """Delete files as :meth:`remove`, many at once, and return what was wrong with each that was not deleted."""
        failed: dict[str, StatusError | StorageError] = {}
        for start in range(0, len(paths), _DELETE_BATCH_SIZE):
            batch = paths[start : start + _DELETE_BATCH_SIZE]
            asked = [
                (
                    path,
                    self.request_realpath(session, parent(path)),
                    session.request(LSTAT, self.remote_path(session, path)),
                )
                for path in batch
            ]
            removed: list[tuple[str, PendingReply]] = []
            for path, leads, about in asked:
                try:
                    if self._may_remove(session, path, leads, about):
                        removed.append((path, session.request(REMOVE, self.remote_path(session, path))))
                except (StatusError, StorageError) as error:
                    failed[path] = error
            emptied = {level for path, _ in removed for level in _ancestors(parent(path))}
            deepest_first = sorted(emptied, key=len, reverse=True)
            pruned = [session.request(RMDIR, self.remote_path(session, one)) for one in removable(deepest_first)]
            for path, one in removed:
                try:
                    session.wait(one)
                except StatusError as error:
                    if error.code != NO_SUCH_FILE:
                        failed[path] = error
            for one in pruned:
                with suppress(StatusError):  # not empty, gone already, or not ours to remove
                    session.wait(one)
        return failed

    def try_remove_temporary(self, session: Session, temporary: str) -> None:
        """Delete a temporary file as :meth:`remove_temporary`; if the server does not, the sweep will."""
        with suppress(StatusError):
            self.remove_temporary(session, temporary)

    def remove_temporary(self, session: Session, temporary: str) -> None:
        """Delete a temporary file, and the folders that were made for it alone.

        Raises:
            StatusError: when the server does not.
        """
        gone = session.request(REMOVE, self.remote_path(session, temporary))
        self.remove_empty_parents(session, parent(temporary))
        session.wait(gone)

    def close_handle(self, session: Session, handle: bytes) -> None:
        """Close a handle of which nothing more is asked; nobody waits for the answer."""
        with suppress(ConnectionLostError):
            session.request(CLOSE, handle)

    # -- inner --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _translating_missing(self, path: str) -> Iterator[None]:
        """Raise our error where the server says that a file is not there; others may delete or make it at any time."""
        try:
            yield
        except StatusError as error:
            if error.code != NO_SUCH_FILE:
                raise
            raise FileNotFoundInStorageError(self.storage, path) from error

    def _request_stat(self, session: Session, path: str) -> tuple[PendingReply, PendingReply, PendingReply]:
        leads, asked = self.request_realpath(session, path), session.request(LSTAT, self.remote_path(session, path))
        return leads, asked, session.request(STAT, self._root)

    def _check_stat(
        self, session: Session, path: str, leads: PendingReply, asked: PendingReply, root: PendingReply
    ) -> Attributes:
        missing = FileNotFoundInStorageError(self.storage, path)
        try:
            attributes: Attributes = session.wait(asked)
        except StatusError as error:
            # A file in the place of a folder is a plain failure for the server; there is nothing below it.
            if error.code == NO_SUCH_FILE or self._is_below_a_file(session, path):
                with suppress(StatusError):  # a folder is missing too
                    self.check_realpath(session, path, leads)
                try:
                    session.wait(root)
                except StatusError:
                    self.recheck_root(session)
                raise missing from error
            raise
        if is_kind(stat.S_ISLNK, attributes, unknown=False):
            raise PermissionDeniedError(f"{path} is a symbolic link: a storage follows none")
        self.check_realpath(session, path, leads)
        if is_kind(stat.S_ISDIR, attributes, unknown=False):
            raise missing
        if not is_kind(stat.S_ISREG, attributes):
            raise NotAFileError(f"{path} is no regular file")
        return attributes

    def _may_remove(self, session: Session, path: str, leads: PendingReply, asked: PendingReply) -> bool:
        """Whether there is a file to delete."""
        try:
            self.check_realpath(session, parent(path), leads)
            attributes = session.wait(asked)
        except StatusError as error:
            if error.code == NO_SUCH_FILE or self._is_below_a_file(session, path):
                return False
            raise
        if is_kind(stat.S_ISDIR, attributes, unknown=False):
            raise NotAFileError(f"{path} is a folder: delete_prefix() deletes what is in it")
        return True

    def _missing_directories(self, session: Session, levels: Sequence[str]) -> list[str]:
        asked = [
            (self.request_realpath(session, one), session.request(LSTAT, self.remote_path(session, one)))
            for one in levels
        ]
        missing: list[str] = []
        for level, (leads, about) in zip(levels, asked, strict=True):
            try:
                attributes = session.wait(about)
            except StatusError as error:
                if error.code not in (NO_SUCH_FILE, FAILURE):
                    raise
                missing.append(level)
            else:
                if is_kind(stat.S_ISDIR, attributes):
                    self.check_realpath(session, level, leads)
                elif is_kind(stat.S_ISLNK, attributes, unknown=False):
                    raise PermissionDeniedError(f"{level} is a symbolic link: a storage follows none")
                else:
                    raise NotAFileError(f"a file stands where the folder {level} should be")
        return missing

    def _make_missing(self, session: Session, levels: list[str]) -> None:
        asked = [
            session.request(MKDIR, self.remote_path(session, one), Attributes(mode=self._directory_mode).pack())
            for one in levels
        ]
        made = []
        for level, one in zip(levels, asked, strict=True):
            try:
                session.wait(one)
                made.append(level)
            except StatusError as error:  # somebody else makes it too; or it cannot be made, as a file will tell
                if error.code == PERMISSION_DENIED:  # of a file in it, the server would only say that it is not there
                    raise
                if error.code == NO_SUCH_FILE:
                    self.recheck_root(session)
                elif (found := write_error(session, error)) is not error:
                    raise found from error
        if self._directory_mode & 0o7077:  # what the umask of the server may have taken away
            mode = Attributes(mode=self._directory_mode).pack()
            for one in [session.request(SETSTAT, self.remote_path(session, level), mode) for level in made]:
                with suppress(StatusError):  # pruned already
                    session.wait(one)

    def _is_below_a_file(self, session: Session, path: str) -> bool:
        for one in [session.request(LSTAT, self.remote_path(session, level)) for level in _ancestors(parent(path))]:
            with suppress(StatusError):
                if is_kind(stat.S_ISREG, session.wait(one), unknown=False):
                    return True
        return False


_LATEST = 253402300799  # the last second of the year 9999


def to_datetime(seconds: int | None) -> arrow.Arrow:
    """Return a time of the server's."""
    import arrow

    return arrow.get(min(seconds or 0, _LATEST), tzinfo=UTC)


def is_kind(kind: Callable[[int], bool], attributes: Attributes, *, unknown: bool = True) -> bool:
    """Whether a file is of a *kind*, as :mod:`stat` has them; of servers that do not tell modes nothing is known."""
    return unknown if attributes.mode is None else kind(attributes.mode)


def removable(folders: Iterable[str]) -> Iterator[str]:
    """Yield those of some folders that may be removed when they are empty."""
    return (folder for folder in folders if folder != SYSTEM_DIRECTORY)


def _ancestors(path: str) -> list[str]:
    """Return a folder and those above it, the highest first, without the root."""
    parts = path.split("/") if path else []
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
