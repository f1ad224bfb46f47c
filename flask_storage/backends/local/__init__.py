"""Local file system backend."""

from ...errors import LocalFSError as LocalFSError
from .file import LocalFSFile as LocalFSFile
from .inspection import FilesystemReport as FilesystemReport
from .storage import LocalFSStorage as LocalFSStorage
