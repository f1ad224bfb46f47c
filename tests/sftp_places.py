"""A storage in a fresh folder of one of the SSH servers that the tests start."""

from __future__ import annotations

import secrets
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
