"""What a server and the connection say when something is wrong, and what we make of it."""

from __future__ import annotations

from concurrent.futures import CancelledError

import paramiko

from ...errors import (
    FileNotFoundInStorageError,
    InvalidPathError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from .protocol import (
    BAD_MESSAGE,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    ConnectionLostError,
    ProtocolError,
    StatusError,
)


def translated(error: Exception, path: str | None, storage: str) -> StorageError | None:
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


def _of_status(error: StatusError, path: str | None, storage: str) -> StorageError:
    if error.code == NO_SUCH_FILE:
        return FileNotFoundInStorageError(storage, path or "")
    if error.code == PERMISSION_DENIED:
        return PermissionDeniedError("the server denies this user access: check owner and mode of file and folder")
    if error.code == OP_UNSUPPORTED:
        return UnsupportedOperationError("the server does not do this")
    if error.code == BAD_MESSAGE:  # what OpenSSH says of a name that is too long for its file system
        return InvalidPathError("the server cannot hold a file of this name: choose a shorter one")
    return StorageError(f"the server failed, and says no more than {error.text!r}: see its log")
