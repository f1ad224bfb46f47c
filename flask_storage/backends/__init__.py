"""The places: the wall, its hooks, and the backends that come with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._lazy import lazily

if TYPE_CHECKING:
    from ..errors import FileNotFoundInStorageError as FileNotFoundInStorageError, LocalFSError as LocalFSError
    from ..files import RemoteFile as RemoteFile
    from ..tokens import InternalLinkTokenData as InternalLinkTokenData
    from ..values import (
        FileMode as FileMode,
        ListEntry as ListEntry,
        ProgressCallback as ProgressCallback,
        ShareLinkOperation as ShareLinkOperation,
    )
    from .base import StorageBackend as StorageBackend
    from .filesystem import LocalFSFile as LocalFSFile, LocalFSStorage as LocalFSStorage
    from .internal_links import InternalLinksStorageBackend as InternalLinksStorageBackend
    from .memory import MemoryStorage as MemoryStorage

__all__, _load = lazily(
    __name__,
    {
        "backends.base": "StorageBackend",
        "backends.filesystem": "LocalFSFile LocalFSStorage",
        "backends.internal_links": "InternalLinksStorageBackend",
        "backends.memory": "MemoryStorage",
        "errors": "FileNotFoundInStorageError LocalFSError",
        "files": "RemoteFile",
        "tokens": "InternalLinkTokenData",
        "values": "FileMode ListEntry ProgressCallback ShareLinkOperation",
    },
)


def __getattr__(name: str) -> Any:
    return _load(name)
