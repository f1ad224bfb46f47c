"""Storage on an SFTP server, over SSH.

The modules, from the constructor down to the wire:

* ``storage``: the constructor, and one driver method for each operation.
* ``files``, ``upload``, ``multipart``, ``copy``, ``delete``, ``listing``: the operations.
* ``atomic_write``: creates a temporary file, and renames it to its final path.
* ``remote_tree``: turns a path of the storage into a path of the server, and refuses symbolic links.
* ``protocol``: sends the requests of SFTP version 3 and reads the responses; ``codec`` encodes their fields.
* ``pool``, ``connection``, ``auth``, ``transport``, ``host_keys``: provide authenticated sessions.
* ``errors``: translates the errors of the server and of paramiko.

How ``put`` works: ``SFTPStorage._upload_file`` opens an ``SFTPWriter``, which sends the content to an ``SFTPUpload``.
That acquires a session of the ``Pool``, lets ``AtomicWrite.create`` create a temporary file, writes the content to it
(``start_write``), and lets ``AtomicWrite.commit`` rename it. ``AtomicWrite`` has each path resolved and checked by
``RemoteTree``. A small file is one ``SFTPUpload.put``; a larger one is ``create``, ``upload_part`` for each part, and
``complete``.
"""

try:
    import paramiko as _paramiko  # noqa: F401 - only to check that it is installed
except ImportError as error:
    raise ImportError('SFTPStorage needs paramiko: pip install "flask-storage-profiles[sftp]"') from error

from .files import SFTPRemoteFile
from .storage import SFTPStorage

__all__ = ["SFTPRemoteFile", "SFTPStorage"]
