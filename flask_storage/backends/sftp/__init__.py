"""SFTP: folders of another machine, over SSH."""

try:
    import paramiko as _paramiko  # noqa: F401 - only to say what is missing
except ImportError as error:
    raise ImportError('SFTPStorage needs paramiko: pip install "flask-storage-profiles[sftp]"') from error

from .files import SFTPRemoteFile
from .storage import SFTPStorage

__all__ = ["SFTPRemoteFile", "SFTPStorage"]
