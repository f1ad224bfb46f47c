"""Atomic writes: create a temporary file beside the target, and rename it to the target when its content is complete.

:class:`AtomicWrite` owns the temporary files from :meth:`~AtomicWrite.create` to :meth:`~AtomicWrite.commit` or
:meth:`~AtomicWrite.discard`, and all renames. The content is written by the callers (:mod:`.upload`, :mod:`.copy`,
:mod:`.files`). Paths are resolved and checked by :mod:`.remote_tree`; requests go through :mod:`.protocol`.
"""

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
    HARDLINK,
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
from .remote_tree import RemoteTree, check_mode_set, has_file_type

_ATTEMPTS = 100
_MAX_RACES = 20
"""How many lost race conditions are retried before they are an error."""
_PRIVATE_MODE = 0o600
_MIN_DISK_RATE = 4 * 1024 * 1024  # in bytes a second
_LAST_SECOND = 0xFFFFFFFF
_DIRECTORY_DELETED = "another process deletes the directory repeatedly while a file is written to it: try again"
_REPLACED = (
    "the temporary file was replaced with another file while it was written: check who may write to its directory"
)
FSYNC, POSIX_RENAME = b"fsync@openssh.com", b"posix-rename@openssh.com"

TemporaryPath: TypeAlias = str
"""The path of a temporary file, which is in the directory of its target; its name begins with the reserved prefix."""


class AtomicWrite:
    """Creates temporary files, and renames them to their targets.

    Args:
        tree: The remote tree.
        file_mode: Mode of new files; None leaves it to the server.
        sync: Make content durable before it is published, if the server supports that.
    """

    def __init__(self, tree: RemoteTree, *, file_mode: int | None, sync: bool) -> None:
        self.tree = tree
        self._file_mode = file_mode
        self._sync = sync

    def create(self, session: Session, path: str, *, readable: bool = False) -> tuple[TemporaryPath, bytes]:
        """Create a temporary file in the directory of *path*; return its path and a handle.

        Missing directories are created. The mode is 0600 until :meth:`commit`, unless it is left to the server.

        The directory is checked before the file is created. One that was checked before in this session is checked at
        the same time, where the server does not resolve a path through a link; see
        :meth:`~.remote_tree.RemoteTree.remote_path`.
        """
        directory = parent(path)
        flags = FXF_WRITE | FXF_CREAT | FXF_EXCL | (FXF_READ if readable else 0)
        for _ in range(_ATTEMPTS):
            temporary = f"{directory}/{_temporary_name()}" if directory else _temporary_name()
            realpath, opened = self.tree.request_realpath(session, directory), None
            try:
                if directory not in session.checked_directories or HARDLINK not in session.extensions:
                    self.tree.check_directory(session, directory, realpath)
                mode = None if self._file_mode is None else _PRIVATE_MODE
                opened = session.open(self.tree.remote_path(session, temporary), flags, mode)
                self.tree.check_directory(session, directory, realpath)
                return temporary, session.wait(opened)
            except PermissionDeniedError:
                self._remove_unchecked(session, temporary, opened)
                raise
            except StatusError as error:
                self._remove_unchecked(session, temporary, opened)
                # The directory does not exist yet, or another process removed it; or a file has its name.
                if error.code not in (NO_SUCH_FILE, FAILURE):
                    raise
                if not directory:
                    self.tree.recheck_root(session)
                self.tree.make_directories(session, directory)
                if error.code == FAILURE:
                    raise write_error(session, error) from error
        raise StorageError(_DIRECTORY_DELETED)

    def reopen(self, session: Session, temporary: TemporaryPath, created: Attributes) -> bytes:
        """Open a temporary file in one more session and return the handle, in two round trips.

        Args:
            session: The session.
            temporary: The path of the file.
            created: The attributes of the file when it was created.

        Raises:
            StorageError: when another process has replaced the file, as its type, owner or mode shows; see
                :meth:`~.remote_tree.RemoteTree.stat`.
        """
        self.tree.stat(session, temporary)
        opened = session.open(self.tree.remote_path(session, temporary), FXF_WRITE)
        try:
            current = self.tree.stat(session, temporary)
            if (current.mode, current.owner) != (created.mode, created.owner):
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
        pending_writes: Sequence[PendingReply] = (),
    ) -> None:
        """Close a temporary file and rename it to *path*.

        The content is made durable first, if that is configured and supported. The rename is one atomic request if
        the server supports ``posix-rename@openssh.com`` or *path* does not exist. Otherwise the old file is renamed to
        a backup, then the new file to *path*; if that fails, the backup is renamed back. Between the two renames,
        *path* does not exist.

        Args:
            session: The session in which the file was opened.
            handle: The handle of the file.
            size: The expected size in bytes: some servers lose bytes without an error.
            temporary: The path of the temporary file.
            path: The final path.
            options: With ``exclusive``, the final path must not exist.
            pending_writes: Writes whose responses were not waited for.

        Raises:
            FileExistsInStorageError: when the write is exclusive and the path exists.
            NotAFileError: when a directory has this path.
            StorageFullError: when the file on the server has another size.
            PermissionDeniedError: when another process has replaced the temporary file, or its directory by a link.
        """
        pending = [*pending_writes]
        mode_set = None
        if self._file_mode not in (None, _PRIVATE_MODE):
            mode_set = session.request(FSETSTAT, handle, Attributes(mode=self._file_mode).pack())
        if self._sync and FSYNC in session.extensions:
            pending.append(session.extended(FSYNC, pack_string(handle)))
        handle_stat = session.request(FSTAT, handle)
        path_stat = session.request(LSTAT, self.tree.remote_path(session, temporary))
        target_stat = session.request(LSTAT, self.tree.remote_path(session, path))
        directory = parent(path)
        # The directory was checked when the file was created, and may have been replaced by a link since.
        realpath = self.tree.request_realpath(session, directory)
        pending.append(session.request(CLOSE, handle))
        session.extra_timeout = size / _MIN_DISK_RATE
        try:
            session.wait_for_all(pending)
            attributes = session.wait(handle_stat)
        except StatusError as error:
            raise write_error(session, error) from error
        finally:
            session.extra_timeout = 0
        if attributes.size != size:
            raise StorageFullError(
                f"the server has stored {attributes.size} of {size} bytes: check whether its disk is full"
            )
        try:
            self._check_not_replaced(session, attributes, path_stat)
        except StorageError:
            with suppress(StatusError):  # a link in the path is the cause
                self.tree.check_realpath(session, directory, realpath)
            raise
        self.tree.check_realpath(session, directory, realpath)
        if mode_set is not None and self._file_mode is not None:
            check_mode_set(session, mode_set, attributes, self._file_mode, "file_mode")
        self._ensure_newer_mtime(session, temporary, attributes, target_stat)
        self.publish(session, temporary, path, options)

    def resize(self, session: Session, handle: bytes, size: int) -> None:
        """Set the size of an open file, in bytes."""
        session.wait(session.request(FSETSTAT, handle, Attributes(size=size).pack()))

    def publish(self, session: Session, temporary: TemporaryPath, path: str, options: WriteOptions) -> None:
        """Rename a file to *path*; see :meth:`commit`."""
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
                if has_file_type(stat.S_ISDIR, session.wait(session.request(LSTAT, target)), unknown=False):
                    raise NotAFileError(f"{path} cannot be written: a directory has this path") from error
            raise

    def move(self, session: Session, path: str, attributes: Attributes, new_path: str, options: WriteOptions) -> None:
        """Rename a stored file to *new_path*, whose directory is created if needed; see :meth:`commit`.

        Args:
            session: The session.
            path: The file.
            attributes: The attributes of the file.
            new_path: The new path.
            options: With ``exclusive``, the new path must not exist.

        Raises:
            FileNotFoundInStorageError: when the file does not exist any more.
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
                self.tree.stat(session, path)  # raises if the file is gone; else another process removed the directory
        raise StorageError(_DIRECTORY_DELETED)

    def discard(self, session: Session, temporary: TemporaryPath, handle: bytes) -> None:
        """Close and delete a temporary file; the server frees its space only when it is closed."""
        self.tree.close_handle(session, handle)
        self.tree.try_remove_temporary(session, temporary)

    # -- inner --------------------------------------------------------------------------------------------------------

    def _remove_unchecked(self, session: Session, temporary: TemporaryPath, opened: PendingReply | None) -> None:
        """Remove a file, if there is one, whose directory did not pass the check that was made at the same time."""
        if opened is not None:
            with suppress(StatusError):
                self.tree.close_handle(session, session.wait(opened))
                session.wait(session.request(REMOVE, self.tree.remote_path(session, temporary)))

    def _check_not_replaced(self, session: Session, written: Attributes, path_stat: PendingReply) -> None:
        """Check that the temporary path still names the file that was written, by its mode, owner and size."""
        try:
            current = session.wait(path_stat)
        except StatusError as error:
            if error.code != NO_SUCH_FILE:
                raise
            raise StorageError(
                "the temporary file was deleted before it was published, perhaps by a sweep: write the file again, and "
                "sweep only older files"
            ) from error
        if (current.mode, current.owner, current.size) != (written.mode, written.owner, written.size):
            raise PermissionDeniedError(_REPLACED)

    def _ensure_newer_mtime(
        self, session: Session, path: str, new: Attributes, replaced: PendingReply, *, is_new: bool = True
    ) -> None:
        """Make sure that a file and the one it replaces differ in mtime, which SFTP has in whole seconds.

        This is done even if the sizes differ, since the next version may have the size of the old file. A file that was
        just written (*is_new*) gets an mtime after that of the old file; a moved file keeps its own unless both are
        equal.
        """
        with suppress(StatusError):  # no file has the path
            old = session.wait(replaced)
            ahead = (old.mtime or 0) - (new.mtime or 0)
            if has_file_type(stat.S_ISREG, old) and (ahead == 0 or (is_new and ahead > 0)):
                later = Attributes(mtime=min((old.mtime or 0) + 1, _LAST_SECOND))
                session.request(SETSTAT, self.tree.remote_path(session, path), later.pack())

    def _publish_exclusive(self, session: Session, source: bytes, target: bytes, path: str) -> None:
        # On every server, creating a hard link fails if the target exists. The source then has to be removed by its
        # path. That is safe for a temporary file only: another process may replace any other file between the two
        # requests. So other files are renamed, which is one request.
        use_hardlink = HARDLINK in session.extensions and _is_temporary(source)
        retries = _MAX_RACES
        while True:
            try:
                if use_hardlink:
                    session.wait(session.extended(HARDLINK, pack_string(source), pack_string(target)))
                else:
                    session.wait(session.rename(source, target))
                break
            except StatusError as error:
                if error.code == NO_SUCH_FILE:
                    raise
                if self._succeeded(session, session.request(LSTAT, target)):
                    raise FileExistsInStorageError(f"{path} exists: choose another name", path=path) from error
                # The target was removed since; or the file system has no hard links, which Linux reports as
                # "permission denied".
                retriable = (FAILURE, OP_UNSUPPORTED, PERMISSION_DENIED) if use_hardlink else (FAILURE,)
                if error.code not in retriable or not retries:
                    raise
                use_hardlink, retries = False, retries - 1
        if use_hardlink:
            # The file is published, so a failure here is not an error: `sweep` removes the temporary path.
            self._succeeded(session, session.request(REMOVE, source))

    def _replace(self, session: Session, source: bytes, target: bytes) -> None:
        """Rename *source* to *target* on a server without posix-rename, whose rename may fail if the target exists."""
        directory, slash, _ = target.rpartition(b"/")
        retries = _MAX_RACES
        while True:
            try:
                session.wait(session.rename(source, target))
                return
            except StatusError as error:
                attributes = self._stat_target(session, source, target, error)
            backup = directory + slash + _temporary_name().encode()
            backed_up = session.rename(target, backup)
            # If the connection is lost now, the backup may be the only copy: a new mtime protects it from `sweep`.
            self._touch(session, backup, attributes, int(time.time()))
            try:
                session.wait(session.rename(source, target))
                session.request(REMOVE, backup)  # if this fails, `sweep` removes it
                return
            except StatusError as error:
                if self._succeeded(session, backed_up):
                    if self._succeeded(session, session.rename(backup, target)):
                        self._touch(session, target, attributes, attributes.mtime)
                        if error.code == NO_SUCH_FILE and _differ_in_case_only(source, target):
                            return  # the server ignores case: the backup was the source, and has its new name now
                        raise
                    session.request(REMOVE, backup)  # another process has written a newer file to the target
                if not retries:
                    raise
                retries -= 1

    def _stat_target(self, session: Session, source: bytes, target: bytes, refusal: StatusError) -> Attributes:
        """Return the attributes of the file at *target*, which is to be renamed to a backup.

        Raises:
            StatusError: when a backup would not help: *source* does not exist, the target does not exist or is a
                directory, or the rename was not permitted. The old file stays.
        """
        source_stat, target_stat = session.request(LSTAT, source), session.request(LSTAT, target)
        session.wait(source_stat)
        try:
            attributes: Attributes = session.wait(target_stat)
        except StatusError:
            raise refusal from None
        if refusal.code == PERMISSION_DENIED or has_file_type(stat.S_ISDIR, attributes):
            raise refusal from None
        return attributes

    def _succeeded(self, session: Session, pending: PendingReply) -> bool:
        try:
            session.wait(pending)
        except StatusError:
            return False
        return True

    def _touch(self, session: Session, name: bytes, attributes: Attributes, mtime: int | None) -> None:
        # Not for a symbolic link: the request would change the file that the link leads to.
        if mtime is not None and has_file_type(stat.S_ISREG, attributes):
            session.request(SETSTAT, name, Attributes(mtime=mtime).pack())


def _temporary_name() -> str:
    return RESERVED_PREFIX + secrets.token_hex(8)


def _differ_in_case_only(one: bytes, other: bytes) -> bool:
    return one.decode("utf-8", "replace").casefold() == other.decode("utf-8", "replace").casefold()


def _is_temporary(name: bytes) -> bool:
    return name.rpartition(b"/")[2].startswith(RESERVED_PREFIX.encode())
