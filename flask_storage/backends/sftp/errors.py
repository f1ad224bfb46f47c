"""Translation of the errors of the server, the connection and paramiko into errors of the package."""

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
    """Return the storage error for an error of the server or the connection, or None for any other error.

    Args:
        error: The error that was raised.
        path: The file that the operation was about, or None.
        storage: The name of the storage.
    """
    if isinstance(error, StatusError):
        return _of_status(error, path, storage)
    if isinstance(error, ConnectionLostError | EOFError):
        return StorageUnavailableError(f"the connection was lost ({error}): try again")
    if isinstance(error, CancelledError):
        return StorageUnavailableError("the storage was closed during the operation: start it again")
    if isinstance(error, ProtocolError):
        return StorageUnavailableError(f"{error}: check that the server offers the subsystem sftp")
    if isinstance(error, TimeoutError):
        return StorageTimeoutError("the server did not respond in time: try again, or raise read_timeout")
    if isinstance(error, paramiko.ChannelException):
        return StorageUnavailableError(
            f"the server refused to open a session ({error.text}): check its MaxSessions and its subsystem sftp"
        )
    if isinstance(error, paramiko.SSHException):
        return StorageUnavailableError(f"the connection failed ({error}): try again")
    return None


def printable(text: str) -> str:
    """Return the text of a server for an error message, with line breaks and control characters escaped."""
    return text if text.isprintable() else ascii(text)


def write_error(session: Session, error: StatusError) -> Exception:
    """Return the cause of a failed write: servers report a full disk by the same status as any other failure.

    Args:
        session: The session in which it failed.
        error: The server's response.
    """
    if error.code == FAILURE and STATVFS in session.extensions and session.root is not None:
        with suppress(StatusError):
            reply = session.wait(session.extended(STATVFS, pack_string(session.root)))
            if len(reply or b"") < 88:
                return error
            fields = [int.from_bytes(reply[start : start + 8]) for start in range(0, 88, 8)]
            if fields[9] & _IS_READ_ONLY:
                return PermissionDeniedError("the server's file system is read-only: mount it for writing")
            # f_bavail, f_files and f_favail: blocks and files left for users; some file systems do not count files.
            if not fields[4] or (fields[5] and not fields[7]):
                return StorageFullError("the server's disk is full: free space on it")
    return error


def unknown_outcome(error: ConnectionLostError) -> StorageUnavailableError:
    """Return the error for a lost connection when it is unknown whether the server executed the last request."""
    return StorageUnavailableError(
        f"the connection was lost ({error}), and the operation may or may not have been carried out: check before you "
        "try again"
    )


def _of_status(error: StatusError, path: str | None, storage: str) -> StorageError:
    if error.code == NO_SUCH_FILE:
        if path is not None:
            return FileNotFoundInStorageError(storage, path)
        return StorageError("a file or directory was removed by another process during the operation: try again")
    if error.code == PERMISSION_DENIED:
        return PermissionDeniedError("the server denies this user access: check owner and mode of file and directory")
    if error.code == OP_UNSUPPORTED:
        return UnsupportedOperationError("the server does not support this operation")
    if error.code == BAD_MESSAGE:  # OpenSSH's status for a name that is too long for its file system
        return InvalidPathError("the server cannot store a file of this name: choose a shorter one")
    return StorageError(f"the server reported a failure without a reason ({error.text!r}): see its log")
