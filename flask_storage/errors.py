"""The errors of this package.

Each is a :class:`StorageError`, and also the built-in exception of the same meaning where there is one (in
parentheses), so ``except FileNotFoundError`` works.

.. code-block:: text

    StorageError
    ├── FileNotFoundInStorageError      (FileNotFoundError)
    ├── FileExistsInStorageError        (FileExistsError)
    ├── InvalidPathError                (ValueError)
    ├── PermissionDeniedError           (PermissionError)
    ├── UnsupportedOperationError       (NotImplementedError)
    ├── StorageUnavailableError         (ConnectionError)
    │   ├── ThrottledError
    │   └── StorageTimeoutError         (TimeoutError)
    ├── IntegrityError
    ├── PreconditionFailedError
    ├── StorageFullError
    ├── TooLargeError
    ├── PartialFailureError
    ├── InvalidLinkError
    │   └── ExpiredLinkError
    ├── NotAFileError                   (IsADirectoryError)
    ├── LocalFSError
    │   └── LocalNotAFileError
    └── ConfigurationError              (ValueError)
        ├── NoSignerError
        └── UnknownProfileError         (KeyError)

An error has ``path`` and ``backend`` where they are known, and chains the error that it translates (``__cause__``). Its
message says what to do next, and contains no key, token or signature.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any


class StorageError(Exception):
    """The base class of every error of this package.

    Args:
        message: What failed, why, and what to do about it.
        path: The path in the storage, if the error concerns one.
        backend: The name of the storage.
    """

    path: str | None
    backend: str | None
    _relabelled_by: tuple[int, ...] = ()  # the storages that have put their own path in place of their inner one's

    def __init__(self, message: str, *, path: str | None = None, backend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.backend = backend

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Celery and concurrent.futures pickle errors. By default, unpickling calls ``__init__`` with ``args`` and
        # without the keywords. The attributes of a built-in OSError are not in ``__dict__``.
        slots = {name: getattr(self, name) for name in _OS_ERROR_SLOTS if getattr(self, name, None) is not None}
        return _rebuild, (type(self), self.args, slots | self.__dict__)


_OS_ERROR_SLOTS = ("errno", "strerror", "filename", "filename2")


def _rebuild(cls: type[StorageError], args: tuple[Any, ...], state: dict[str, Any]) -> StorageError:
    error = cls.__new__(cls, *args)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


class FileNotFoundInStorageError(StorageError, FileNotFoundError):
    """There is no file under this path.

    Args:
        storage_type: The name of the storage.
        filename: The path in the storage.
    """

    def __init__(self, storage_type: str, filename: str) -> None:
        super().__init__(f"File {filename} not found in {storage_type}.", path=filename, backend=str(storage_type))
        self.errno = errno.ENOENT
        self.storage_type = storage_type
        self.filename = filename


class FileExistsInStorageError(StorageError, FileExistsError):
    """An exclusive write, copy or move was refused because the path exists; the stored file is unchanged."""


class InvalidPathError(StorageError, ValueError):
    """The path is not valid; it was rejected before the backend was called."""


class PermissionDeniedError(StorageError, PermissionError):
    """The storage denied access. This is never raised for a missing file."""


class UnsupportedOperationError(StorageError, NotImplementedError):
    """This storage does not support the operation or an argument of it; nothing was done."""


class StorageUnavailableError(StorageError, ConnectionError):
    """The storage could not be reached, or the connection was lost; a later retry may succeed."""


class ThrottledError(StorageUnavailableError):
    """The storage limits the rate of requests; retry later."""


class StorageTimeoutError(StorageUnavailableError, TimeoutError):
    """The storage did not respond within the configured time-out."""


class IntegrityError(StorageError):
    """The content does not have the expected size or checksum. Nothing was published."""


class PreconditionFailedError(StorageError):
    """The stored file is another version than expected (``if_match``), or was replaced while it was read."""


class StorageFullError(StorageError):
    """The storage is full, or a quota is exhausted. What was stored before is unchanged."""


class TooLargeError(StorageError):
    """The content is larger than allowed. Nothing was published."""


class PartialFailureError(StorageError):
    """A bulk operation failed for some paths and succeeded for the others.

    Attributes:
        errors: One error per path that failed.
    """

    def __init__(self, message: str, errors: Mapping[str, StorageError], *, backend: str | None = None) -> None:
        super().__init__(message, backend=backend)
        self.errors = dict(errors)


class InvalidLinkError(StorageError):
    """The link token is not valid: it was not signed here, belongs to another profile, or is damaged."""


class ExpiredLinkError(InvalidLinkError):
    """The link token was valid, and has expired or reached its usage limit."""


class NotAFileError(StorageError, IsADirectoryError):
    """The path is a directory, a pipe or a device instead of a file, or a file instead of a directory."""


class LocalFSError(StorageError):
    """An error that only local disk raises."""


class LocalNotAFileError(LocalFSError, NotAFileError):
    """A :class:`NotAFileError` on local disk."""


class ConfigurationError(StorageError, ValueError):
    """The configuration is not valid; the message says what is accepted."""


class NoSignerError(ConfigurationError):
    """The profile has no credentials with which the service's links can be signed."""


class UnknownProfileError(ConfigurationError, KeyError):
    """No profile has this name; the message lists those that exist."""
