"""The storage interface, its driver methods, and the backends of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._lazy import lazy_exports

if TYPE_CHECKING:
    from ..errors import FileNotFoundInStorageError as FileNotFoundInStorageError, LocalFSError as LocalFSError
    from ..files import RemoteFile as RemoteFile
    from ..tokens import InternalLinkTokenData as InternalLinkTokenData
    from ..types import (
        FileMode as FileMode,
        ListEntry as ListEntry,
        ProgressCallback as ProgressCallback,
        ShareLinkOperation as ShareLinkOperation,
    )
    from .azure import (
        AzureFile as AzureFile,
        AzureReader as AzureReader,
        AzureStorage as AzureStorage,
        AzureWriter as AzureWriter,
    )
    from .base import StorageBackend as StorageBackend
    from .internal_links import InternalLinksStorageBackend as InternalLinksStorageBackend
    from .local.storage import LocalFSFile as LocalFSFile, LocalFSStorage as LocalFSStorage
    from .memory import MemoryStorage as MemoryStorage
    from .s3 import (
        S3FileBase as S3FileBase,
        S3Preset as S3Preset,
        S3Reader as S3Reader,
        S3Storage as S3Storage,
        S3Writer as S3Writer,
    )
    from .sftp import SFTPRemoteFile as SFTPRemoteFile, SFTPStorage as SFTPStorage

_EXPORTS = {
    "backends.azure": "AzureFile AzureReader AzureStorage AzureWriter",
    "backends.base": "StorageBackend",
    "backends.filesystem": "LocalFSFile LocalFSStorage",
    "backends.internal_links": "InternalLinksStorageBackend",
    "backends.memory": "MemoryStorage",
    "backends.s3": "S3FileBase S3Preset S3Reader S3Storage S3Writer",
    "backends.sftp": "SFTPRemoteFile SFTPStorage",
    "errors": "FileNotFoundInStorageError LocalFSError",
    "files": "RemoteFile",
    "tokens": "InternalLinkTokenData",
    "types": "FileMode ListEntry ProgressCallback ShareLinkOperation",
}
__all__, _load = lazy_exports(__name__, _EXPORTS)


def __getattr__(name: str) -> Any:
    return _load(name)
