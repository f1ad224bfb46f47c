"""Local file system backend."""

from ...errors import LocalFSError as LocalFSError
from .file import LocalFSFile as LocalFSFile
from .storage import LocalFSStorage as LocalFSStorage
