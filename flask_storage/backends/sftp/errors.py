"""What a server and the connection say when something is wrong, and what we make of it."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import suppress

import paramiko

from ...errors import (
    FileNotFoundInStorageError,
    InvalidPathError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from .codec import pack_string
from .protocol import (
    BAD_MESSAGE,
    FAILURE,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    ConnectionLostError,
    ProtocolError,
    Session,
    StatusError,
)

STATVFS = b"statvfs@openssh.com"
_IS_READ_ONLY = 1


def translate_error(error: Exception, path: str | None, storage: str) -> StorageError | None:
    """Return our error for one of the server's or the connection's, or None when it is neither's.

    Args:
        error: What was raised.
        path: The file that is concerned.
        storage: The name of the storage.
    """
    if isinstance(error, StatusError):
        return _of_status(error, path, storage)
    if isinstance(error, ConnectionLostError | EOFError):
        return StorageUnavailableError(f"the connection broke off ({error}): try again")
    if isinstance(error, CancelledError):
        return StorageUnavailableError("the storage was closed meanwhile: begin anew")
    if isinstance(error, ProtocolError):
        return StorageUnavailableError(f"{error}: check that the server offers the subsystem sftp")
    if isinstance(error, TimeoutError):
        return StorageTimeoutError("the server did not answer in time: try again, or raise read_timeout")
    if isinstance(error, paramiko.ChannelException):
        return StorageUnavailableError(
            f"the server opens no session ({error.text}): check its MaxSessions and its subsystem sftp"
        )
    if isinstance(error, paramiko.SSHException):
        return StorageUnavailableError(f"the connection failed ({error}): try again")
    return None


def printable(text: str) -> str:
    """Return a server's words as they can stand in a message: no line of it, and nothing for a terminal."""
    return text if text.isprintable() else ascii(text)


def write_error(session: Session, error: StatusError) -> Exception:
    """Return what a failure to write means: the server has one word for a full disk and for everything else.

    Args:
        session: In which it failed.
        error: What the server said.
    """
    if error.code == FAILURE and STATVFS in session.extensions and session.root is not None:
        with suppress(StatusError):
            answer = session.wait(session.extended(STATVFS, pack_string(session.root)))
            if len(answer or b"") < 88:
                return error
            numbers = [int.from_bytes(answer[start : start + 8]) for start in range(0, 88, 8)]
            if numbers[9] & _IS_READ_ONLY:
                return PermissionDeniedError("the server's file system is read-only: have it mounted for writing")
            # Blocks and files that are left for users; some file systems count no files.
            if not numbers[4] or (numbers[5] and not numbers[7]):
                return StorageFullError("the server's disk is full: make room")
    return error


def unknown_outcome(error: ConnectionLostError) -> StorageUnavailableError:
    """Return what is said where the connection broke off, and the server may have done what was asked, or not."""
    return StorageUnavailableError(
        f"the connection broke off ({error}): it may have been done, or not; look before you try again"
    )


def _of_status(error: StatusError, path: str | None, storage: str) -> StorageError:
    if error.code == NO_SUCH_FILE:
        if path is not None:
            return FileNotFoundInStorageError(storage, path)
        return StorageError("what was asked for is not on the server any more: somebody else removed it, try again")
    if error.code == PERMISSION_DENIED:
        return PermissionDeniedError("the server denies this user access: check owner and mode of file and folder")
    if error.code == OP_UNSUPPORTED:
        return UnsupportedOperationError("the server does not do this")
    if error.code == BAD_MESSAGE:  # what OpenSSH says of a name that is too long for its file system
        return InvalidPathError("the server cannot hold a file of this name: choose a shorter one")
    return StorageError(f"the server failed, and says no more than {error.text!r}: see its log")
