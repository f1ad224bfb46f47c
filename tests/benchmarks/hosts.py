"""A directory of a private OpenSSH server, near or far, and the clients of all contenders.

No contender logs in before the clock runs unless its name says so, because `sftp`, a program, cannot either.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .distance import Distance, distant
from .peers import ASYNCSSH, KEG_SFTP, PARAMIKO, SFTP, SSHFS


@dataclass(frozen=True)
class Directory:
    """A directory with its address and credentials. All contenders are given the same."""

    login: Mapping[str, Any]
    """Host, port, user, key, and the file of known hosts, as our arguments call them."""
    directory: Path
    """On this machine, where the server has it too."""
    distance: Distance | None = None

    def at(self, key: str) -> str:
        """Return the path on the server of what ours calls *key*."""
        return f"{self.directory}/{key}"

    def ours(self, **settings: Any) -> Any:
        """Return our storage."""
        import arrow  # noqa: F401 - a storage imports it with its first date

        from flask_storage import SFTPStorage

        return SFTPStorage(**{**self.login, "root": str(self.directory), **settings})

    def connected(self, **settings: Any) -> Any:
        """Return our storage with an open connection, as a running app has it."""
        storage = self.ours(**settings)
        storage.exists("anything")
        return storage

    def unsynced(self) -> Any:
        """Return ours when it leaves what it wrote to the server's page cache, as the peers do."""
        return self.ours(fsync=False)

    def sftp(self) -> Sftp:
        """Return OpenSSH's program."""
        return Sftp(self.login)

    def paramiko(self) -> Paramiko:
        """Return paramiko, used by hand."""
        PARAMIKO.load()
        return Paramiko(self.login)

    def asyncssh(self) -> AsyncSSH:
        """Return asyncssh, used by hand."""
        ASYNCSSH.load()
        return AsyncSSH(self.login)

    def sshfs(self) -> SSHFSSystem:
        """Return fsspec's sshfs."""
        SSHFS.load()
        return SSHFSSystem(self.login)

    def keg(self) -> Any:
        """Return keg-storage's storage, which takes the same arguments."""
        return KEG_SFTP.load().SFTPStorage(**self.login)

    def sizes(self) -> Callable[[str], int]:
        """Return what tells how large a file is."""
        return lambda key: (self.directory / key).stat().st_size

    def counts(self) -> Callable[[], int]:
        """Return what tells how many files there are, hidden ones too."""
        return lambda: sum(1 for path in self.directory.rglob("*") if path.is_file())


class Sftp:
    """OpenSSH's program, with the defaults that it is built with; it is started again for each batch."""

    def __init__(self, login: Mapping[str, Any]) -> None:
        known = f"-oUserKnownHostsFile={login['known_hosts_fpath']}"
        self._command = [str(SFTP.path()), "-q", "-b", "-", "-F", "none", "-P", str(login["port"])]
        self._command += ["-i", login["key_filename"], "-oIdentitiesOnly=yes", known, "-oStrictHostKeyChecking=yes"]
        self._command += [f"{login['username']}@{login['host']}"]

    def run(self, *lines: str) -> str:
        """Have it do these lines, and return what it says."""
        batch = "".join(f"{line}\n" for line in lines)
        return subprocess.run(self._command, input=batch, check=True, text=True, stdout=subprocess.PIPE).stdout


@dataclass(frozen=True)
class Paramiko:
    """paramiko by hand: one connection with one session, made when it is first needed."""

    login: Mapping[str, Any]

    @cached_property
    def session(self) -> Any:
        """Log in."""
        self.__dict__["client"] = client = PARAMIKO.load().SSHClient()
        client.load_host_keys(self.login["known_hosts_fpath"])
        names = ("port", "username", "key_filename")
        client.connect(
            self.login["host"], **{name: self.login[name] for name in names}, allow_agent=False, look_for_keys=False
        )
        return client.open_sftp()


@dataclass(frozen=True)
class AsyncSSH:
    """asyncssh by hand, in a loop of its own: one connection with one session, made when it is first needed."""

    login: Mapping[str, Any]

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        return asyncio.new_event_loop()

    @cached_property
    def session(self) -> Any:
        """Log in."""

        async def entered() -> Any:
            self.__dict__["client"] = client = await ASYNCSSH.load().connect(
                self.login["host"], **_asyncssh(self.login)
            )
            return await client.start_sftp_client()

        return self.wait(entered())

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(work)

    def run(self, act: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """Do something with the session, and wait for it."""
        return self.wait(act(self.session))


@dataclass(frozen=True)
class SSHFSSystem:
    """sshfs, which logs in when it is made."""

    login: Mapping[str, Any]

    @cached_property
    def system(self) -> Any:
        """Return the file system."""
        return SSHFS.load().SSHFileSystem(self.login["host"], skip_instance_cache=True, **_asyncssh(self.login))


def _asyncssh(login: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "port": login["port"],
        "username": login["username"],
        "client_keys": [login["key_filename"]],
        "known_hosts": login["known_hosts_fpath"],
        "config": None,
    }


@contextlib.contextmanager
def running(directory: Path, *, far: bool = False, counted: bool = False) -> Iterator[Directory]:
    """Run an OpenSSH server, and yield an empty directory of it.

    Args:
        directory: Where the directory is made; it decides which disk is measured.
        far: Behind a proxy that delays, and limits nothing.
        counted: Behind a proxy that does nothing but count.
    """
    # It belongs to the tests, and only these tasks need it.
    from tests.services.openssh import SSHServer

    root = directory / "remote"
    root.mkdir()
    server = SSHServer()
    try:
        with contextlib.ExitStack() as stack:
            distance, login = None, server.login
            if far or counted:
                distance = stack.enter_context(
                    distant(server.port, rate=None) if far else distant(server.port, one_way=0, rate=None)
                )
                server.know(distance.port)
                login["port"] = distance.port
            yield Directory(login, root, distance)
    finally:
        server.remove()
