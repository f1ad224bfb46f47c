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
from ...values import WriteOptions
from .errors import not_written
from .packing import Attributes, packed
from .protocol import (
    CLOSE,
    FAILURE,
    FOR_READING,
    FOR_WRITING,
    FSETSTAT,
    FSTAT,
    IF_NEW,
    LSTAT,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    REMOVE,
    SETSTAT,
    TO_CREATE,
    Pending,
    Session,
    StatusError,
)
from .tree import Tree, is_kind

_ATTEMPTS = 100
_RACES = 20
"""How often others may be quicker before that is an error."""
_PRIVATE = 0o600
_SLOWEST_DISK = 4 * 1024 * 1024  # in bytes a second
_LAST_SECOND = 0xFFFFFFFF
_GONE = "the folder is deleted again and again by somebody else: try again"
_REPLACED = "somebody put another file in the place of the one that was written"
FSYNC, POSIX_RENAME, HARDLINK = b"fsync@openssh.com", b"posix-rename@openssh.com", b"hardlink@openssh.com"

Temporary: TypeAlias = str
"""The path of a hidden file in the folder of the file that it is to become."""


class Drafts:
    """Hidden files, and how they get their names.

    Args:
        tree: The door.
        file_mode: Mode of files.
        sync: Have content made durable before it is published, where the server can.
    """

    def __init__(self, tree: Tree, *, file_mode: int, sync: bool) -> None:
        self.tree = tree
        self._file_mode = file_mode
        self._sync = sync

    def create(self, session: Session, path: str, *, readable: bool = False) -> tuple[Temporary, bytes]:
        """Make a hidden file in the folder of *path*; return its path and a handle."""
        folder = parent(path)
        flags = FOR_WRITING | TO_CREATE | IF_NEW | (FOR_READING if readable else 0)
        for _ in range(_ATTEMPTS):
            temporary = f"{folder}/{_hidden()}" if folder else _hidden()
            try:
                self.tree.confirm(session, folder, self.tree.leads_to(session, folder))
                return temporary, session.wait(session.open(self.tree.at(session, temporary), flags, _PRIVATE))
            except StatusError as error:
                # The folder is not there yet, or was pruned by somebody else; or a file stands in its place.
                if error.code not in (NO_SUCH_FILE, FAILURE):
                    raise
                if not folder:
                    self.tree.ask_again(session)
                self.tree.make_folders(session, folder)
                if error.code == FAILURE:
                    raise not_written(session, error) from error
        raise StorageError(_GONE)

    def open_again(self, session: Session, temporary: Temporary, made: Attributes) -> bytes:
        """Return one more handle of a hidden file, in two turns.

        Args:
            session: For which.
            temporary: The path of the file.
            made: What was known of it when it was made.

        Raises:
            StorageError: when somebody who may write to the folder has replaced it, as its kind, its owner or its mode
                tells; see :meth:`~.tree.Tree.look`.
        """
        self.tree.look(session, temporary)
        opened = session.open(self.tree.at(session, temporary), FOR_WRITING)
        try:
            found = self.tree.look(session, temporary)
            if (found.mode, found.owner) != (made.mode, made.owner):
                raise PermissionDeniedError(_REPLACED)
        except BaseException:
            if not session.broken:
                with suppress(StatusError):
                    self.tree.let_go(session, session.wait(opened))
            raise
        handle: bytes = session.wait(opened)
        return handle

    def finish(
        self,
        session: Session,
        handle: bytes,
        size: int,
        temporary: Temporary,
        path: str,
        options: WriteOptions,
        *,
        written: Sequence[Pending] = (),
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
            asked.append(session.about(FSETSTAT, handle, Attributes(mode=self._file_mode).pack()))
        if self._sync and FSYNC in session.extensions:
            asked.append(session.extended(FSYNC, packed(handle)))
        about, there = session.about(FSTAT, handle), session.about(LSTAT, self.tree.at(session, temporary))
        before = session.about(LSTAT, self.tree.at(session, path))
        folder = parent(path)
        leads = self.tree.leads_to(session, folder)  # much may have happened since the file was made
        asked.append(session.about(CLOSE, handle))
        session.grace = size / _SLOWEST_DISK
        try:
            session.wait_for_all(asked)
            attributes = session.wait(about)
        except StatusError as error:
            raise not_written(session, error) from error
        finally:
            session.grace = 0
        if attributes.size != size:
            raise StorageFullError(
                f"{attributes.size} bytes are on the server where {size} were written: is its disk full?"
            )
        self._confirm(session, attributes, there)
        self.tree.confirm(session, folder, leads)
        self._tell_apart(session, temporary, attributes, before)
        self.publish(session, temporary, path, options)

    def resize(self, session: Session, handle: bytes, size: int) -> None:
        """Make an open file so long, in bytes."""
        session.wait(session.about(FSETSTAT, handle, Attributes(size=size).pack()))

    def publish(self, session: Session, temporary: Temporary, path: str, options: WriteOptions) -> None:
        """Give a file another name; see :meth:`finish`."""
        source, target = self.tree.at(session, temporary), self.tree.at(session, path)
        if options.exclusive:
            self._publish_as_new(session, source, target, path)
            return
        try:
            if POSIX_RENAME in session.extensions:
                session.wait(session.extended(POSIX_RENAME, packed(source), packed(target)))
            else:
                self._replace(session, source, target)
        except StatusError as error:
            with suppress(StatusError):
                if is_kind(stat.S_ISDIR, session.wait(session.about(LSTAT, target)), unknown=False):
                    raise NotAFileError(f"a folder stands where the file {path} should be") from error
            raise

    def move(self, session: Session, path: str, attributes: Attributes, new_path: str, options: WriteOptions) -> None:
        """Give a file a name in a folder that may not be there yet; see :meth:`finish`.

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
            replaced = session.about(LSTAT, self.tree.at(session, new_path))
            self.tree.make_folders(session, parent(new_path))
            try:
                if not options.exclusive:
                    self._tell_apart(session, path, attributes, replaced, is_new=False)
                self.publish(session, path, new_path, options)
                return
            except StatusError as error:
                if error.code != NO_SUCH_FILE:
                    raise
                self.tree.look(session, path)  # if it is there, the folder was pruned by somebody else
        raise StorageError(_GONE)

    def give_up(self, session: Session, temporary: Temporary, handle: bytes) -> None:
        """Drop a temporary file that is open: as long as it is, it takes up room."""
        self.tree.let_go(session, handle)
        self.tree.drop(session, temporary)

    # -- inner --------------------------------------------------------------------------------------------------------

    def _confirm(self, session: Session, written: Attributes, there: Pending) -> None:
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

    def _tell_apart(
        self, session: Session, path: str, new: Attributes, replaced: Pending, *, is_new: bool = True
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
                session.about(SETSTAT, self.tree.at(session, path), later.pack())

    def _publish_as_new(self, session: Session, source: bytes, target: bytes, path: str) -> None:
        # A hidden file is nobody else's, and a link fails where the name is taken, on every server. What others may
        # replace at any time must not be removed by its name after that: of a rename, the server does both.
        is_linked = HARDLINK in session.extensions and _is_hidden(source)
        left = _RACES
        while True:
            try:
                if is_linked:
                    session.wait(session.extended(HARDLINK, packed(source), packed(target)))
                else:
                    session.wait(session.rename(source, target))
                break
            except StatusError as error:
                if error.code == NO_SUCH_FILE:
                    raise
                if self._is_done(session, session.about(LSTAT, target)):
                    raise FileExistsInStorageError(f"{path} exists: choose another name", path=path) from error
                # The name has become free again; or it is a file system without links, of which Linux says that the
                # permission is denied.
                if error.code not in (FAILURE, *((OP_UNSUPPORTED, PERMISSION_DENIED) if is_linked else ())) or not left:
                    raise
                is_linked, left = False, left - 1
        if is_linked:
            # It is published, which an error would deny; the sweep takes the name.
            self._is_done(session, session.about(REMOVE, source))

    def _replace(self, session: Session, source: bytes, target: bytes) -> None:
        folder, slash, _ = target.rpartition(b"/")
        left = _RACES
        while True:
            try:
                session.wait(session.rename(source, target))
                return
            except StatusError as error:
                attributes = self._in_the_way(session, source, target, error)
            aside = folder + slash + _hidden().encode()
            moved = session.rename(target, aside)
            # The sweep must not take at once what may be all there is, when the connection breaks off now.
            self._touch(session, aside, attributes, int(time.time()))
            try:
                session.wait(session.rename(source, target))
                session.about(REMOVE, aside)  # or the sweep will
                return
            except StatusError:
                if self._is_done(session, moved):
                    if self._is_done(session, session.rename(aside, target)):
                        self._touch(session, target, attributes, attributes.mtime)
                        raise
                    session.about(REMOVE, aside)  # somebody else has the name by now, for what is newer
                if not left:
                    raise
                left -= 1

    def _in_the_way(self, session: Session, source: bytes, target: bytes, refusal: StatusError) -> Attributes:
        """Return what is known of the file that has a name.

        Raises:
            StatusError: the refusal, when the old file must not suffer for it: what may not be renamed, or is not
                there, never gets the name.
        """
        there, about = session.about(LSTAT, source), session.about(LSTAT, target)
        session.wait(there)
        try:
            attributes: Attributes = session.wait(about)
        except StatusError:
            raise refusal from None
        if refusal.code == PERMISSION_DENIED or is_kind(stat.S_ISDIR, attributes):
            raise refusal from None
        return attributes

    def _is_done(self, session: Session, asked: Pending) -> bool:
        try:
            session.wait(asked)
        except StatusError:
            return False
        return True

    def _touch(self, session: Session, name: bytes, attributes: Attributes, mtime: int | None) -> None:
        if mtime is not None and is_kind(stat.S_ISREG, attributes):  # of a link, this would be about where it leads
            session.about(SETSTAT, name, Attributes(mtime=mtime).pack())


def _hidden() -> str:
    return RESERVED_PREFIX + secrets.token_hex(8)


def _is_hidden(name: bytes) -> bool:
    return name.rpartition(b"/")[2].startswith(RESERVED_PREFIX.encode())
