"""A storage in a fresh folder of one of the SSH servers that the tests start."""

from __future__ import annotations

import secrets
import stat
from typing import TYPE_CHECKING, Any

from flask_storage.backends.sftp import SFTPStorage

if TYPE_CHECKING:
    from tests.services.openssh import SSHServer
    from tests.services.plain_sftp import PlainSFTPServer


def place(server: SSHServer | PlainSFTPServer, *, root: str | None = None, **arguments: Any) -> SFTPStorage:
    """Return a storage on *server*, in a folder of its own unless one is named.

    Args:
        server: Which one.
        root: A folder that exists.
        **arguments: Of the storage, in place of ours.
    """
    if root is None:
        root = f"place-{secrets.token_hex(8)}"
        (server.folder / root).mkdir()
    return SFTPStorage(**{**server.login, "root": root, **arguments})


def left_in(storage: SFTPStorage) -> list[str]:
    """Return the names of the hidden files that unfinished writes have left, as the server sees them."""
    found: list[str] = []

    def look(client: Any, folder: str) -> None:
        for entry in client.listdir_attr(folder):
            path = f"{folder}/{entry.filename}"
            if stat.S_ISDIR(entry.st_mode):
                look(client, path)
            elif "/.fs-" in path:
                found.append(path)

    with storage.connection() as client:
        look(client, storage.root)
    return found
