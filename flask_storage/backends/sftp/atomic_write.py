"""What is being written: a hidden file beside the one that it becomes, in one step and when it is whole."""

from __future__ import annotations

import secrets
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from ...errors import (
    FileExistsInStorageError,
    NotAFileError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
)
from ...paths import RESERVED_PREFIX, parent
from ...types import WriteOptions
from .codec import Attributes, pack_string
from .errors import write_error
from .protocol import (
    CLOSE,
    FAILURE,
    FSETSTAT,
    FSTAT,
    FXF_CREAT,
    FXF_EXCL,
    FXF_READ,
    FXF_WRITE,
    LSTAT,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    REMOVE,
    SETSTAT,
    PendingReply,
    Session,
    StatusError,
)
from .remote_tree import RemoteTree, is_kind

_ATTEMPTS = 100
_MAX_RACES = 20
"""How often others may be quicker before that is an error."""
_PRIVATE = 0o600
_MIN_DISK_RATE = 4 * 1024 * 1024  # in bytes a second
_LAST_SECOND = 0xFFFFFFFF
_DIRECTORY_DELETED = "the folder is deleted again and again by somebody else: try again"
_REPLACED = "somebody put another file in the place of the one that was written"
FSYNC, POSIX_RENAME, HARDLINK = b"fsync@openssh.com", b"posix-rename@openssh.com", b"hardlink@openssh.com"

TemporaryPath: TypeAlias = str
"""The path of a hidden file in the folder of the file that it is to become."""


class AtomicWrite:
    """Hidden files, and how they get their names.

    Args:
        tree: The door.
        file_mode: Mode of files.
        sync: Have content made durable before it is published, where the server can.
    """

    def __init__(self, tree: RemoteTree, *, file_mode: int, sync: bool) -> None:
        self.tree = tree
        self._file_mode = file_mode
        self._sync = sync

    def create(self, session: Session, path: str, *, readable: bool = False) -> tuple[TemporaryPath, bytes]:
        """Make a hidden file in the folder of *path*; return its path and a handle."""
        folder = parent(path)
        flags = FXF_WRITE | FXF_CREAT | FXF_EXCL | (FXF_READ if readable else 0)
        for _ in range(_ATTEMPTS):
            temporary = f"{folder}/{_temporary_name()}" if folder else _temporary_name()
            try:
                self.tree.check_realpath(session, folder, self.tree.request_realpath(session, folder))
                return temporary, session.wait(session.open(self.tree.remote_path(session, temporary), flags, _PRIVATE))
            except StatusError as error:
                # The folder is not there yet, or was pruned by somebody else; or a file stands in its place.
                if error.code not in (NO_SUCH_FILE, FAILURE):
                    raise
                if not folder:
                    self.tree.recheck_root(session)
                self.tree.make_directories(session, folder)
                if error.code == FAILURE:
                    raise write_error(session, error) from error
        raise StorageError(_DIRECTORY_DELETED)

    def reopen(self, session: Session, temporary: TemporaryPath, made: Attributes) -> bytes:
        """Return one more handle of a hidden file, in two turns.

        Args:
            session: For which.
            temporary: The path of the file.
            made: What was known of it when it was made.

        Raises:
            StorageError: when somebody who may write to the folder has replaced it, as its kind, its owner or its mode
                tells; see :meth:`~.remote_tree.RemoteTree.stat`.
        """
        self.tree.stat(session, temporary)
        opened = session.open(self.tree.remote_path(session, temporary), FXF_WRITE)
        try:
            found = self.tree.stat(session, temporary)
            if (found.mode, found.owner) != (made.mode, made.owner):
                raise PermissionDeniedError(_REPLACED)
        except BaseException:
            if not session.broken:
                with suppress(StatusError):
                    self.tree.close_handle(session, session.wait(opened))
            raise
        handle: bytes = session.wait(opened)
        return handle

    def commit(
        self,
        session: Session,
        handle: bytes,
        size: int,
        temporary: TemporaryPath,
        path: str,
        options: WriteOptions,
        *,
        written: Sequence[PendingReply] = (),
    ) -> None:
        """Close a temporary file, durable where that was asked for, and give it its name.

        One request gives the name where the server knows ``posix-rename@openssh.com``, or the name is free. Elsewhere
        the old file gets a hidden name before, and has its own back when the new one cannot have it; for a moment
        there is none.

        Args:
            session: In which the file was opened.
            handle: Of it.
            size: How long it must be: servers have lost bytes, and said nothing.
            temporary: Its path.
            path: What it is to be called.
            options: Whether that must be a free name.
            written: Writes that were not waited for.

        Raises:
            FileExistsInStorageError: when it must be, and is taken.
            NotAFileError: when a folder has this name.
            StorageFullError: when the server has another number of bytes.
            PermissionDeniedError: when somebody has replaced it, or its folder by a link.
        """
        asked = [*written]
        if self._file_mode != _PRIVATE:
            asked.append(session.request(FSETSTAT, handle, Attributes(mode=self._file_mode).pack()))
        if self._sync and FSYNC in session.extensions:
            asked.append(session.extended(FSYNC, pack_string(handle)))
        about, there = session.request(FSTAT, handle), session.request(LSTAT, self.tree.remote_path(session, temporary))
        before = session.request(LSTAT, self.tree.remote_path(session, path))
        folder = parent(path)
        leads = self.tree.request_realpath(session, folder)  # much may have happened since the file was made
        asked.append(session.request(CLOSE, handle))
        session.extra_timeout = size / _MIN_DISK_RATE
        try:
            session.wait_for_all(asked)
            attributes = session.wait(about)
        except StatusError as error:
            raise write_error(session, error) from error
        finally:
            session.extra_timeout = 0
        if attributes.size != size:
            raise StorageFullError(
                f"{attributes.size} bytes are on the server where {size} were written: is its disk full?"
            )
        self._check_not_replaced(session, attributes, there)
        self.tree.check_realpath(session, folder, leads)
        self._ensure_newer_mtime(session, temporary, attributes, before)
        self.publish(session, temporary, path, options)

    def resize(self, session: Session, handle: bytes, size: int) -> None:
        """Make an open file so long, in bytes."""
        session.wait(session.request(FSETSTAT, handle, Attributes(size=size).pack()))

    def publish(self, session: Session, temporary: TemporaryPath, path: str, options: WriteOptions) -> None:
        """Give a file another name; see :meth:`commit`."""
        source, target = self.tree.remote_path(session, temporary), self.tree.remote_path(session, path)
        if options.exclusive:
            self._publish_exclusive(session, source, target, path)
            return
        try:
            if POSIX_RENAME in session.extensions:
                session.wait(session.extended(POSIX_RENAME, pack_string(source), pack_string(target)))
            else:
                self._replace(session, source, target)
        except StatusError as error:
            with suppress(StatusError):
                if is_kind(stat.S_ISDIR, session.wait(session.request(LSTAT, target)), unknown=False):
                    raise NotAFileError(f"a folder stands where the file {path} should be") from error
            raise

    def move(self, session: Session, path: str, attributes: Attributes, new_path: str, options: WriteOptions) -> None:
        """Give a file a name in a folder that may not be there yet; see :meth:`commit`.

        Args:
            session: To do it in.
            path: The file.
            attributes: What is known of it.
            new_path: Its new name.
            options: Whether that must be free.

        Raises:
            FileNotFoundInStorageError: when the file is gone.
        """
        for _ in range(_ATTEMPTS):
            replaced = session.request(LSTAT, self.tree.remote_path(session, new_path))
            self.tree.make_directories(session, parent(new_path))
            try:
                if not options.exclusive:
                    self._ensure_newer_mtime(session, path, attributes, replaced, is_new=False)
                self.publish(session, path, new_path, options)
                return
            except StatusError as error:
                if error.code != NO_SUCH_FILE:
                    raise
                self.tree.stat(session, path)  # if it is there, the folder was pruned by somebody else
        raise StorageError(_DIRECTORY_DELETED)

    def discard(self, session: Session, temporary: TemporaryPath, handle: bytes) -> None:
        """Drop a temporary file that is open: as long as it is, it takes up room."""
        self.tree.close_handle(session, handle)
        self.tree.try_remove_temporary(session, temporary)

    # -- inner --------------------------------------------------------------------------------------------------------

    def _check_not_replaced(self, session: Session, written: Attributes, there: PendingReply) -> None:
        """See that what gets a name is the file that was written, as far as its mode, owner and size tell."""
        try:
            found = session.wait(there)
        except StatusError as error:
            if error.code != NO_SUCH_FILE:
                raise
            raise StorageError(
                "what was written is gone, perhaps by a sweep: write it anew, and sweep only what is older"
            ) from error
        if (found.mode, found.owner, found.size) != (written.mode, written.owner, written.size):
            raise PermissionDeniedError(_REPLACED)

    def _ensure_newer_mtime(
        self, session: Session, path: str, new: Attributes, replaced: PendingReply, *, is_new: bool = True
    ) -> None:
        """See to it that a file does not have the time of the one it replaces, which SFTP tells in whole seconds.

        Also where the sizes differ: the next version may have the size of the last but one. What was written just now
        becomes the younger one; what was there before keeps its own time where it can.
        """
        with suppress(StatusError):  # the name is free
            old = session.wait(replaced)
            ahead = (old.mtime or 0) - (new.mtime or 0)
            if is_kind(stat.S_ISREG, old) and (ahead == 0 or (is_new and ahead > 0)):
                later = Attributes(mtime=min((old.mtime or 0) + 1, _LAST_SECOND))
                session.request(SETSTAT, self.tree.remote_path(session, path), later.pack())

    def _publish_exclusive(self, session: Session, source: bytes, target: bytes, path: str) -> None:
        # A hidden file is nobody else's, and a link fails where the name is taken, on every server. What others may
        # replace at any time must not be removed by its name after that: of a rename, the server does both.
        is_linked = HARDLINK in session.extensions and _is_temporary(source)
        left = _MAX_RACES
        while True:
            try:
                if is_linked:
                    session.wait(session.extended(HARDLINK, pack_string(source), pack_string(target)))
                else:
                    session.wait(session.rename(source, target))
                break
            except StatusError as error:
                if error.code == NO_SUCH_FILE:
                    raise
                if self._succeeded(session, session.request(LSTAT, target)):
                    raise FileExistsInStorageError(f"{path} exists: choose another name", path=path) from error
                # The name has become free again; or it is a file system without links, of which Linux says that the
                # permission is denied.
                if error.code not in (FAILURE, *((OP_UNSUPPORTED, PERMISSION_DENIED) if is_linked else ())) or not left:
                    raise
                is_linked, left = False, left - 1
        if is_linked:
            # It is published, which an error would deny; the sweep takes the name.
            self._succeeded(session, session.request(REMOVE, source))

    def _replace(self, session: Session, source: bytes, target: bytes) -> None:
        folder, slash, _ = target.rpartition(b"/")
        left = _MAX_RACES
        while True:
            try:
                session.wait(session.rename(source, target))
                return
            except StatusError as error:
                attributes = self._stat_target(session, source, target, error)
            aside = folder + slash + _temporary_name().encode()
            moved = session.rename(target, aside)
            # The sweep must not take at once what may be all there is, when the connection breaks off now.
            self._touch(session, aside, attributes, int(time.time()))
            try:
                session.wait(session.rename(source, target))
                session.request(REMOVE, aside)  # or the sweep will
                return
            except StatusError:
                if self._succeeded(session, moved):
                    if self._succeeded(session, session.rename(aside, target)):
                        self._touch(session, target, attributes, attributes.mtime)
                        raise
                    session.request(REMOVE, aside)  # somebody else has the name by now, for what is newer
                if not left:
                    raise
                left -= 1

    def _stat_target(self, session: Session, source: bytes, target: bytes, refusal: StatusError) -> Attributes:
        """Return what is known of the file that has a name.

        Raises:
            StatusError: the refusal, when the old file must not suffer for it: what may not be renamed, or is not
                there, never gets the name.
        """
        there, about = session.request(LSTAT, source), session.request(LSTAT, target)
        session.wait(there)
        try:
            attributes: Attributes = session.wait(about)
        except StatusError:
            raise refusal from None
        if refusal.code == PERMISSION_DENIED or is_kind(stat.S_ISDIR, attributes):
            raise refusal from None
        return attributes

    def _succeeded(self, session: Session, asked: PendingReply) -> bool:
        try:
            session.wait(asked)
        except StatusError:
            return False
        return True

    def _touch(self, session: Session, name: bytes, attributes: Attributes, mtime: int | None) -> None:
        if mtime is not None and is_kind(stat.S_ISREG, attributes):  # of a link, this would be about where it leads
            session.request(SETSTAT, name, Attributes(mtime=mtime).pack())


def _temporary_name() -> str:
    return RESERVED_PREFIX + secrets.token_hex(8)


def _is_temporary(name: bytes) -> bool:
    return name.rpartition(b"/")[2].startswith(RESERVED_PREFIX.encode())
