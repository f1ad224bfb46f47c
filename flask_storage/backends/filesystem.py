"""keg-storage name of :mod:`flask_storage.backends.local`."""

from ..errors import LocalFSError
from .local.file import LocalFSFile
from .local.storage import LocalFSStorage

__all__ = ["LocalFSError", "LocalFSFile", "LocalFSStorage"]
