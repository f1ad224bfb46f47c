"""File storage for Flask apps; moving to another backend changes ``STORAGE_PROFILES`` and nothing else.

>>> from flask import Flask
>>> from flask_storage import Storage, current_storage
>>> app = Flask(__name__)
>>> app.config["STORAGE_PROFILES"] = {"docs": "memory:"}
>>> storage = Storage(app)
>>> with app.app_context():
...     current_storage["docs"].write("hello.txt", b"hello")
...     current_storage["docs"].read("hello.txt")
b'hello'

Every public name can be imported from here. The module that defines a name is imported on first access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._lazy import lazy_exports, warn_about_conflicting_distribution

if TYPE_CHECKING:
    from .backends import (
        azure as azure,
        base as base,
        filesystem as filesystem,
        memory as memory,
        s3 as s3,
        sftp as sftp,
    )
    from .backends.azure import (
        AzureFile as AzureFile,
        AzureReader as AzureReader,
        AzureStorage as AzureStorage,
        AzureWriter as AzureWriter,
    )
    from .backends.base import StorageBackend as StorageBackend
    from .backends.internal_links import InternalLinksStorageBackend as InternalLinksStorageBackend
    from .backends.local.storage import LocalFSFile as LocalFSFile, LocalFSStorage as LocalFSStorage
    from .backends.memory import MemoryStorage as MemoryStorage
    from .backends.s3 import (
        S3FileBase as S3FileBase,
        S3Preset as S3Preset,
        S3Reader as S3Reader,
        S3Storage as S3Storage,
        S3Writer as S3Writer,
    )
    from .backends.sftp import SFTPRemoteFile as SFTPRemoteFile, SFTPStorage as SFTPStorage
    from .content_store import (
        ContentStore as ContentStore,
        HashAddress as HashAddress,
        KaijuContentStore as KaijuContentStore,
    )
    from .errors import (
        ConfigurationError as ConfigurationError,
        ExpiredLinkError as ExpiredLinkError,
        FileExistsInStorageError as FileExistsInStorageError,
        FileNotFoundInStorageError as FileNotFoundInStorageError,
        IntegrityError as IntegrityError,
        InvalidLinkError as InvalidLinkError,
        InvalidPathError as InvalidPathError,
        LocalFSError as LocalFSError,
        LocalNotAFileError as LocalNotAFileError,
        NoSignerError as NoSignerError,
        NotAFileError as NotAFileError,
        PartialFailureError as PartialFailureError,
        PermissionDeniedError as PermissionDeniedError,
        PreconditionFailedError as PreconditionFailedError,
        StorageError as StorageError,
        StorageFullError as StorageFullError,
        StorageTimeoutError as StorageTimeoutError,
        StorageUnavailableError as StorageUnavailableError,
        ThrottledError as ThrottledError,
        TooLargeError as TooLargeError,
        UnknownProfileError as UnknownProfileError,
        UnsupportedOperationError as UnsupportedOperationError,
    )
    from .extension import Storage as Storage
    from .files import RemoteFile as RemoteFile
    from .hashfs import FlaskHashFS as FlaskHashFS, HashFS as HashFS
    from .http.link_view import LinkView as LinkView, LinkViewMixin as LinkViewMixin
    from .http.send_file import http_errors as http_errors, send_stored_file as send_stored_file
    from .operations import StorageOperations as StorageOperations
    from .profiles import Profiles as Profiles, current_storage as current_storage
    from .scoped import (
        MirrorStorage as MirrorStorage,
        PrefixStorage as PrefixStorage,
        ReadOnlyStorage as ReadOnlyStorage,
        ReadThroughStorage as ReadThroughStorage,
        StorageWrapper as StorageWrapper,
    )
    from .tokens import InternalLinkTokenData as InternalLinkTokenData
    from .types import (
        Capabilities as Capabilities,
        FileInfo as FileInfo,
        FileMode as FileMode,
        LinkRequest as LinkRequest,
        ListEntry as ListEntry,
        PresignedUpload as PresignedUpload,
        ProgressCallback as ProgressCallback,
        ShareLinkOperation as ShareLinkOperation,
        WriteOptions as WriteOptions,
    )

    __version__: str

_ERRORS = (
    "ConfigurationError ExpiredLinkError FileExistsInStorageError FileNotFoundInStorageError IntegrityError "
    "InvalidLinkError InvalidPathError LocalFSError LocalNotAFileError NoSignerError NotAFileError PartialFailureError "
    "PermissionDeniedError PreconditionFailedError StorageError StorageFullError StorageTimeoutError "
    "StorageUnavailableError ThrottledError TooLargeError UnknownProfileError UnsupportedOperationError"
)
_EXPORTS = {
    "backends": "",
    "backends.azure": "AzureFile AzureReader AzureStorage AzureWriter",
    "backends.base": "StorageBackend",
    "backends.filesystem": "LocalFSFile LocalFSStorage",
    "backends.internal_links": "InternalLinksStorageBackend",
    "backends.memory": "MemoryStorage",
    "backends.s3": "S3FileBase S3Preset S3Reader S3Storage S3Writer",
    "backends.sftp": "SFTPRemoteFile SFTPStorage",
    "content_store": "ContentStore HashAddress KaijuContentStore",
    "hashfs": "FlaskHashFS HashFS",
    "http.send_file": "http_errors send_stored_file",
    "errors": _ERRORS,
    "extension": "Storage",
    "files": "RemoteFile",
    "operations": "StorageOperations",
    "profiles": "Profiles current_storage",
    "scoped": "MirrorStorage PrefixStorage ReadOnlyStorage ReadThroughStorage StorageWrapper",
    "tokens": "InternalLinkTokenData",
    "types": "Capabilities FileInfo FileMode LinkRequest ListEntry ProgressCallback ShareLinkOperation "
    "PresignedUpload WriteOptions",
    "http.link_view": "LinkView LinkViewMixin",
}
__all__, _load = lazy_exports(__name__, _EXPORTS)
warn_about_conflicting_distribution(__file__)


def __getattr__(name: str) -> Any:
    return _load(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
