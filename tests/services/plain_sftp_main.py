"""Serves a directory by SFTP with asyncssh, without OpenSSH's extensions.

Run as a program, whose argument is a JSON object with the port, the keys, the password and the directory. Users are
confined to that directory.
"""

import asyncio
import json
import sys

import asyncssh
from asyncssh import sftp


class _Login(asyncssh.SSHServer):
    """Accepts the password from every user; asyncssh itself checks keys."""

    def __init__(self, password):
        self._password = password

    def password_auth_supported(self):
        """Return True."""
        return True

    def validate_password(self, username, password):
        """Whether the password is correct."""
        return password == self._password


async def main():
    """Serve until the standard input is closed."""
    settings = json.loads(sys.argv[1])
    sftp.SFTPServerHandler._extensions = []
    server = await asyncssh.listen(
        "127.0.0.1",
        settings["port"],
        server_factory=lambda: _Login(settings["password"]),
        server_host_keys=[settings["host_key"]],
        authorized_client_keys=settings["authorized_keys"],
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=settings["folder"]),
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
