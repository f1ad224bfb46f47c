"""Storage on an SFTP server, over SSH."""

try:
    import paramiko as _paramiko  # noqa: F401 - only to check that it is installed
except ImportError as error:
    raise ImportError('SFTPStorage needs paramiko: pip install "flask-storage-profiles[sftp]"') from error

from .files import SFTPRemoteFile
from .storage import SFTPStorage

__all__ = ["SFTPRemoteFile", "SFTPStorage"]
