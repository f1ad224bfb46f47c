"""What can go wrong, in one tree.

Every error of this package is a :class:`StorageError`. Where Python has a word for the same trouble, the error is
that built-in too, so ``except FileNotFoundError`` keeps working.

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
        └── UnknownProfileError         (KeyError)

Each carries ``path`` and ``backend`` where they are known, chains the error it translates (``__cause__``), and its
text says what to do next. No text contains a key, a token or a signature.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any


class StorageError(Exception):
    """Anything that went wrong with a storage.

    Args:
        message: What happened and what to do about it, as a sentence.
        path: The path in the storage, where one is concerned.
        backend: The name of the storage.
    """

    path: str | None
    backend: str | None

    def __init__(self, message: str, *, path: str | None = None, backend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.backend = backend

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from ``args`` by default, which would call ``__init__`` without its keywords;
        # errors cross process borders in Celery and concurrent.futures, so they must survive pickling.
        # What a built-in OSError keeps lies outside ``__dict__``.
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
        filename: The path that was asked for.
    """

    def __init__(self, storage_type: str, filename: str) -> None:
        super().__init__(f"File {filename} not found in {storage_type}.", path=filename, backend=str(storage_type))
        self.errno = errno.ENOENT
        self.storage_type = storage_type
        self.filename = filename


class FileExistsInStorageError(StorageError, FileExistsError):
    """An exclusive write, copy or move found its name taken; what is stored there is untouched."""


class InvalidPathError(StorageError, ValueError):
    """The path is not one that a storage can hold; nothing was asked of the storage."""


class PermissionDeniedError(StorageError, PermissionError):
    """The storage refused. This is never the same as "not found"."""


class UnsupportedOperationError(StorageError, NotImplementedError):
    """This storage cannot do that, and says so instead of doing less."""


class StorageUnavailableError(StorageError, ConnectionError):
    """The storage could not be reached, or broke off; trying again later may help."""


class ThrottledError(StorageUnavailableError):
    """The storage asks to slow down."""


class StorageTimeoutError(StorageUnavailableError, TimeoutError):
    """The storage did not answer within the configured time."""


class IntegrityError(StorageError):
    """The bytes are not the ones that were promised: wrong length or wrong checksum. Nothing was published."""


class PreconditionFailedError(StorageError):
    """The file is not the version that was named (``if_match``), or changed while it was being read."""


class StorageFullError(StorageError):
    """No room is left, or a quota is used up. What was stored before is still there."""


class TooLargeError(StorageError):
    """More bytes than allowed. Nothing was published."""


class PartialFailureError(StorageError):
    """A bulk operation failed for some paths; the others were carried out.

    Attributes:
        errors: One error per path that failed.
    """

    def __init__(self, message: str, errors: Mapping[str, StorageError], *, backend: str | None = None) -> None:
        super().__init__(message, backend=backend)
        self.errors = dict(errors)


class InvalidLinkError(StorageError):
    """A link token that was not made by us, was made for another profile, or is damaged."""


class ExpiredLinkError(InvalidLinkError):
    """A link token that was good, and is past its time or used up."""


class NotAFileError(StorageError, IsADirectoryError):
    """A folder, a pipe or a device stands where a file should be, or a file where a folder should be."""


class LocalFSError(StorageError):
    """What only a disk can raise."""


class LocalNotAFileError(LocalFSError, NotAFileError):
    """A :class:`NotAFileError` on local disk."""


class ConfigurationError(StorageError, ValueError):
    """The configuration cannot work; the text names what exists and what to write instead."""


class UnknownProfileError(ConfigurationError, KeyError):
    """No profile has this name; the text names those that exist."""
