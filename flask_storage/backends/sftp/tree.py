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
from ...paths import SYSTEM_FOLDER, parent
from ...values import FileInfo
from .errors import not_written, shown
from .packing import Attributes
from .protocol import (
    CLOSE,
    FAILURE,
    FOR_READING,
    FSTAT,
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
    Pending,
    Session,
    StatusError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import arrow

_FILES_AT_ONCE = 64


class Tree:
    """A folder of the server.

    Args:
        root: Its path there; what is not absolute begins where the server puts the user.
        folder_mode: Mode of folders that are made.
        storage: The storage's name.
    """

    def __init__(self, root: str, *, folder_mode: int, storage: str) -> None:
        self.storage = storage
        self._root = root.encode()
        self._folder_mode = folder_mode

    # -- where things are ---------------------------------------------------------------------------------------------

    def root(self, session: Session) -> bytes:
        """Return where the root really is; asked once in each session.

        Raises:
            StorageError: when it is gone, or is no folder.
        """
        if session.root is None:
            begun = time.monotonic()
            asked = [session.about(REALPATH, self._root), session.about(STAT, self._root)]
            try:
                [[(real, _, _)], attributes] = session.wait_for_all(asked)
            except StatusError as error:
                # Not "file not found": what is not mounted must not look like an empty storage.
                raise StorageError(
                    f"the root {self._root.decode()!r} is not there for this user ({shown(error.text)}): make it on "
                    "the server, or check root and username"
                ) from error
            if not is_kind(stat.S_ISDIR, attributes):
                raise StorageError(f"the root {self._root.decode()!r} is no folder on the server")
            session.root, session.distance = real, time.monotonic() - begun
        return session.root

    def ask_again(self, session: Session) -> None:
        """See that the root is there still, as :meth:`root`."""
        session.root = None
        self.root(session)

    def at(self, session: Session, path: str) -> bytes:
        """Return what the server calls *path*; ``""`` is the root."""
        root = self.root(session)
        return root.rstrip(b"/") + b"/" + path.encode("utf-8", "surrogateescape") if path else root

    def leads_to(self, session: Session, path: str) -> Pending:
        """Ask where *path* really leads; :meth:`confirm` looks at the answer."""
        return session.about(REALPATH, self.at(session, path))

    def confirm(self, session: Session, path: str, asked: Pending) -> None:
        """Refuse a path that does not lead where it says.

        Raises:
            PermissionDeniedError: when a link is on its way.
        """
        [(real, _, _)] = session.wait(asked)
        if real != self.at(session, path):
            raise PermissionDeniedError("a symbolic link is in the way: a storage follows none")

    def look(self, session: Session, path: str) -> Attributes:
        """Return what the server knows of a file.

        Raises:
            FileNotFoundInStorageError: when there is none, or a folder (which is no file).
            PermissionDeniedError: when a symbolic link is there, or on the way.
            NotAFileError: when it is a pipe, a socket or a device.
        """
        return self._judge(session, path, *self._ask_about(session, path))

    def info(self, path: str, attributes: Attributes) -> FileInfo:
        """Return what is known of a file. Whoever else writes there may make two versions look alike."""
        modified = min(attributes.mtime or 0, _LATEST)
        return FileInfo(
            path=path,
            size=attributes.size or 0,
            last_modified=moment(modified),
            etag=f"{modified:x}-{attributes.size or 0:x}",
            etag_is_strong=False,
        )

    # -- folders ------------------------------------------------------------------------------------------------------

    def make_folders(self, session: Session, path: str) -> None:
        """See to it that a folder is there, and everything above it.

        Raises:
            NotAFileError: when a file stands in its way.
            PermissionDeniedError: when a symbolic link does.
        """
        if not path:
            self.root(session)
            return
        levels = _levels(path)
        missing: list[str] | None = None
        while missing is None:
            try:
                missing = self._missing_of(session, levels)
            except StatusError as error:  # somebody has made one between two questions about it: ask again
                if error.code != NO_SUCH_FILE:
                    raise
        if missing:
            self._make(session, missing)

    def prune(self, session: Session, path: str) -> None:
        """Remove the folder *path* and those above it as far as they are empty; never the root.

        Object stores have no folders; where the last file of one is gone, so should be the folder.
        """
        asked = [session.about(RMDIR, self.at(session, level)) for level in removable(reversed(_levels(path)))]
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
            StorageError: as :meth:`look`.
        """
        with self._missing(path):
            self.look(session, path)
            handle: bytes = session.wait(session.open(self.at(session, path), FOR_READING))
        try:
            head = bytearray(min(first, session.read_size))
            about, again = session.about(FSTAT, handle), self._ask_about(session, path)
            content = session.read(handle, 0, memoryview(head)) if head else None
            attributes: Attributes = session.wait(about)
            # Somebody may have put a link there before it was opened; a file that is gone stays readable.
            with suppress(FileNotFoundInStorageError):
                self._judge(session, path, *again)
            if not is_kind(stat.S_ISREG, attributes):
                raise NotAFileError(f"{path} is no regular file")
            if attributes.size is None:
                raise StorageError("the server does not tell how long files are: nothing can be read from it")
            return handle, attributes, bytes(head[: session.count(content)]) if content else b""
        except BaseException:
            self.let_go(session, handle)
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
        for start in range(0, len(paths), _FILES_AT_ONCE):
            batch = paths[start : start + _FILES_AT_ONCE]
            asked = [
                (path, self.leads_to(session, parent(path)), session.about(LSTAT, self.at(session, path)))
                for path in batch
            ]
            removed: list[tuple[str, Pending]] = []
            for path, leads, about in asked:
                try:
                    if self._may_go(session, path, leads, about):
                        removed.append((path, session.about(REMOVE, self.at(session, path))))
                except (StatusError, StorageError) as error:
                    failed[path] = error
            emptied = {level for path, _ in removed for level in _levels(parent(path))}
            deepest_first = sorted(emptied, key=len, reverse=True)
            pruned = [session.about(RMDIR, self.at(session, one)) for one in removable(deepest_first)]
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

    def drop(self, session: Session, temporary: str) -> None:
        """Delete a temporary file as :meth:`clear`; if the server does not, the sweep will."""
        with suppress(StatusError):
            self.clear(session, temporary)

    def clear(self, session: Session, temporary: str) -> None:
        """Delete a temporary file, and the folders that were made for it alone.

        Raises:
            StatusError: when the server does not.
        """
        gone = session.about(REMOVE, self.at(session, temporary))
        self.prune(session, parent(temporary))
        session.wait(gone)

    def let_go(self, session: Session, handle: bytes) -> None:
        """Close a handle of which nothing more is asked; nobody waits for the answer."""
        with suppress(ConnectionLostError):
            session.about(CLOSE, handle)

    # -- inner --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _missing(self, path: str) -> Iterator[None]:
        """Raise our error where the server says that a file is not there; others may delete or make it at any time."""
        try:
            yield
        except StatusError as error:
            if error.code != NO_SUCH_FILE:
                raise
            raise FileNotFoundInStorageError(self.storage, path) from error

    def _ask_about(self, session: Session, path: str) -> tuple[Pending, Pending, Pending]:
        leads, asked = self.leads_to(session, path), session.about(LSTAT, self.at(session, path))
        return leads, asked, session.about(STAT, self._root)

    def _judge(self, session: Session, path: str, leads: Pending, asked: Pending, root: Pending) -> Attributes:
        missing = FileNotFoundInStorageError(self.storage, path)
        try:
            attributes: Attributes = session.wait(asked)
        except StatusError as error:
            # A file in the place of a folder is a plain failure for the server; there is nothing below it.
            if error.code == NO_SUCH_FILE or self._is_below_a_file(session, path):
                with suppress(StatusError):  # a folder is missing too
                    self.confirm(session, path, leads)
                try:
                    session.wait(root)
                except StatusError:
                    self.ask_again(session)
                raise missing from error
            raise
        if is_kind(stat.S_ISLNK, attributes, unknown=False):
            raise PermissionDeniedError(f"{path} is a symbolic link: a storage follows none")
        self.confirm(session, path, leads)
        if is_kind(stat.S_ISDIR, attributes, unknown=False):
            raise missing
        if not is_kind(stat.S_ISREG, attributes):
            raise NotAFileError(f"{path} is no regular file")
        return attributes

    def _may_go(self, session: Session, path: str, leads: Pending, asked: Pending) -> bool:
        """Whether there is a file to delete."""
        try:
            self.confirm(session, parent(path), leads)
            attributes = session.wait(asked)
        except StatusError as error:
            if error.code == NO_SUCH_FILE or self._is_below_a_file(session, path):
                return False
            raise
        if is_kind(stat.S_ISDIR, attributes, unknown=False):
            raise NotAFileError(f"{path} is a folder: delete_prefix() deletes what is in it")
        return True

    def _missing_of(self, session: Session, levels: Sequence[str]) -> list[str]:
        asked = [(self.leads_to(session, one), session.about(LSTAT, self.at(session, one))) for one in levels]
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
                    self.confirm(session, level, leads)
                elif is_kind(stat.S_ISLNK, attributes, unknown=False):
                    raise PermissionDeniedError(f"{level} is a symbolic link: a storage follows none")
                else:
                    raise NotAFileError(f"a file stands where the folder {level} should be")
        return missing

    def _make(self, session: Session, levels: list[str]) -> None:
        asked = [
            session.about(MKDIR, self.at(session, one), Attributes(mode=self._folder_mode).pack()) for one in levels
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
                    self.ask_again(session)
                elif (found := not_written(session, error)) is not error:
                    raise found from error
        if self._folder_mode & 0o7077:  # what the umask of the server may have taken away
            mode = Attributes(mode=self._folder_mode).pack()
            for one in [session.about(SETSTAT, self.at(session, level), mode) for level in made]:
                with suppress(StatusError):  # pruned already
                    session.wait(one)

    def _is_below_a_file(self, session: Session, path: str) -> bool:
        for one in [session.about(LSTAT, self.at(session, level)) for level in _levels(parent(path))]:
            with suppress(StatusError):
                if is_kind(stat.S_ISREG, session.wait(one), unknown=False):
                    return True
        return False


_LATEST = 253402300799  # the last second of the year 9999


def moment(seconds: int | None) -> arrow.Arrow:
    """Return a time of the server's."""
    import arrow

    return arrow.get(min(seconds or 0, _LATEST), tzinfo=UTC)


def is_kind(kind: Callable[[int], bool], attributes: Attributes, *, unknown: bool = True) -> bool:
    """Whether a file is of a *kind*, as :mod:`stat` has them; of servers that do not tell modes nothing is known."""
    return unknown if attributes.mode is None else kind(attributes.mode)


def removable(folders: Iterable[str]) -> Iterator[str]:
    """Yield those of some folders that may be removed when they are empty."""
    return (folder for folder in folders if folder != SYSTEM_FOLDER)


def _levels(path: str) -> list[str]:
    """Return a folder and those above it, the highest first, without the root."""
    parts = path.split("/") if path else []
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
