"""A storage in a fresh folder of one of the SSH servers that the tests start."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask_storage.backends.sftp import SFTPStorage
from flask_storage.backends.sftp.protocol import Session

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


def settle(storage: SFTPStorage, path: str) -> None:
    """Have a file be a day old, so that its time tells its version from all that are written now."""
    yesterday = time.time() - 24 * 60 * 60
    with storage.connection() as client:
        client.utime(f"{storage.root}/{path}", (yesterday, yesterday))


@contextmanager
def session_of(storage: SFTPStorage) -> Iterator[Session]:
    """Borrow one of a storage's sessions for a block."""
    pool = storage._pool()
    session, _ = pool.acquire()
    try:
        yield session
    finally:
        pool.release(session)


def soon(reached: Callable[[], bool]) -> None:
    """Wait for what a server does by itself."""
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def let_end(server: SSHServer) -> None:
    """Wait until a server has done all that it was asked and serves nobody; close your storages before.

    What a connection that has broken off had asked for may be done a moment later.
    """
    deadline = time.monotonic() + _ENDS_WITHIN
    while _serves(server):
        assert time.monotonic() < deadline, "somebody is served still"
        time.sleep(0.005)


def _serves(server: SSHServer) -> bool:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):  # it has ended, or is somebody else's
                if Path(os.readlink(f"/proc/{name}/cwd")) == server.folder:
                    return True
    return False


_ENDS_WITHIN = 30  # seconds
