"""Storages in new directories of the SSH servers that the tests start, and helpers for them."""

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


def make_storage(server: SSHServer | PlainSFTPServer, *, root: str | None = None, **arguments: Any) -> SFTPStorage:
    """Return a storage on *server*, in a new directory unless *root* is given.

    Args:
        server: The server.
        root: A directory that exists.
        **arguments: Arguments of the storage; they replace the defaults for the server.
    """
    if root is None:
        root = f"storage-{secrets.token_hex(8)}"
        (server.folder / root).mkdir()
    return SFTPStorage(**{**server.login, "root": root, **arguments})


def temporary_files(storage: SFTPStorage) -> list[str]:
    """Return the paths, on the server, of the temporary files that unfinished writes have left."""
    paths: list[str] = []

    def search(client: Any, directory: str) -> None:
        for entry in client.listdir_attr(directory):
            path = f"{directory}/{entry.filename}"
            if stat.S_ISDIR(entry.st_mode):
                search(client, path)
            elif "/.fs-" in path:
                paths.append(path)

    with storage.connection() as client:
        search(client, storage.root)
    return paths


def backdate(storage: SFTPStorage, path: str) -> None:
    """Set the mtime of a file to yesterday, so that it identifies the version."""
    yesterday = time.time() - 24 * 60 * 60
    with storage.connection() as client:
        client.utime(f"{storage.root}/{path}", (yesterday, yesterday))


@contextmanager
def pooled_session(storage: SFTPStorage) -> Iterator[Session]:
    """Acquire a session of a storage for a block."""
    pool = storage._pool()
    session, _ = pool.acquire()
    try:
        yield session
    finally:
        pool.release(session)


def end_waiting_openers(pipe: Path) -> bool:
    """End the processes of a server that wait for a writer of a named pipe; return whether there were any."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # no process waits
        return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that a server does asynchronously."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_idle(server: SSHServer) -> None:
    """Wait until a server has processed all requests and has no connection; close the storages before.

    A server may process the last requests of a lost connection with a delay.
    """
    deadline = time.monotonic() + _IDLE_WITHIN
    while _has_connections(server):
        assert time.monotonic() < deadline, "the server still has a connection"
        time.sleep(0.005)


def _has_connections(server: SSHServer) -> bool:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):  # the process has ended, or belongs to another user
                if Path(os.readlink(f"/proc/{name}/cwd")) == server.folder:
                    return True
    return False


_IDLE_WITHIN = 30  # seconds
