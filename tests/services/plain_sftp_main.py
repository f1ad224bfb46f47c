"""Serves a folder by SFTP with asyncssh, without any of OpenSSH's extensions; run as a program, with a port and keys.

The folder is the whole world of whoever logs in, with the password or the key that it is told.
"""

import asyncio
import json
import sys

import asyncssh
from asyncssh import sftp


class _Login(asyncssh.SSHServer):
    """Lets in whoever knows the password; keys are asyncssh's own business."""

    def __init__(self, password):
        self._password = password

    def password_auth_supported(self):
        """Yes."""
        return True

    def validate_password(self, username, password):
        """Whether it is the one."""
        return password == self._password


async def main():
    """Serve until the input ends."""
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
