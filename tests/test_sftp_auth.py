"""Authentication over SSH: host keys, user keys, passwords, proxies, ciphers, and servers that do not respond."""

import base64
import getpass
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko
import pytest
from paramiko.common import AUTH_FAILED, AUTH_PARTIALLY_SUCCESSFUL, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from flask_storage import ConfigurationError, PermissionDeniedError, StorageTimeoutError, StorageUnavailableError
from flask_storage.backends.sftp.connection import _ChannelEvent
from flask_storage.backends.sftp.protocol import ConnectionLostError
from flask_storage.backends.sftp.transport import SendTimeoutSocket
from tests.services.s3_servers import free_port
from tests.sftp_storages import make_storage

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

PASSPHRASE = "open-sesame"
SHORT_TIMEOUT = 0.3  # seconds; for servers that never respond
TIMEOUT = 30  # seconds; for what should happen immediately


def assert_connects(server, **arguments):
    """Check that a storage with these arguments can write and read a file."""
    with closing(make_storage(server, **arguments)) as storage:
        storage.write("a.txt", b"1")
        assert storage.read("a.txt") == b"1"


def connection_error(server, error_type=PermissionDeniedError, **arguments):
    """Check that a storage with these arguments cannot connect, and return the message of the error."""
    with closing(make_storage(server, root=".", **arguments)) as storage, pytest.raises(error_type) as caught:
        storage.list()
    assert type(caught.value) is error_type
    return str(caught.value)


def require_transport(client) -> Any:
    """Return the transport of a client."""
    return client.get_transport()


def keygen(*arguments):
    """Run ``ssh-keygen``, and return its output."""
    done = subprocess.run(
        ["ssh-keygen", *map(str, arguments)], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.stdout


def fingerprint(file):
    """Return the fingerprint of a key, as OpenSSH prints it."""
    return keygen("-l", "-f", file).split()[1]


def public(file):
    """Return the type and the text of a public key."""
    return " ".join(Path(f"{file}.pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A directory with a certificate authority for user keys, and a list of revoked keys."""
    directory = tmp_path_factory.mktemp("authority")
    keygen("-q", "-t", "ed25519", "-N", "", "-f", directory / "authority")
    (directory / "revoked").touch()
    return directory


@pytest.fixture(scope="module")
def strict_server(openssh, authority):
    """A server with a certificate authority, revoked keys and few ciphers, which can be a jump host."""
    server = type(openssh)(
        f"TrustedUserCAKeys {authority}/authority.pub",
        f"RevokedKeys {authority}/revoked",
        "Ciphers aes256-ctr,aes128-gcm@openssh.com",
        "AllowTcpForwarding yes",
    )
    yield server
    server.remove()


# -- host keys --------------------------------------------------------------------------------------------------------


@pytest.fixture
def known_hosts(openssh, tmp_path):
    """Returns a function that writes a known hosts file, with values for ``HOST``, ``ED``, ``RSA`` and ``OTHER``."""
    values = {
        "HOST": f"[127.0.0.1]:{openssh.port}",
        "ED": public(openssh.home / "host_ed25519"),
        "RSA": public(openssh.home / "host_rsa"),
        "OTHER": public(openssh.home / "other_ed25519"),
    }

    def write(text):
        file = tmp_path / "known"
        text = re.sub(r"(?<![\w+/])(HOST|ED|RSA|OTHER)(?![\w+/])", lambda match: values[match[0]], text)
        file.write_bytes(text.encode("latin-1"))
        return file

    return write


@pytest.mark.parametrize(
    "text",
    [
        "HOST ED",
        "HOST RSA",
        "HOST RSA\nHOST ED",
        "HOST ED user@example\n",
        "# a comment\n\n  HOST\tED\n",
        "other,HOST,another ED",
        "[127.0.0.*]:* ED",
        "[127.0.0.?]:*,!10.* ED",
        "* ED",
        "HOST OTHER\nHOST ED",
        "HOST ED\nHOST OTHER",
        "HOST OTHER\n* ED",
        "@revoked * OTHER\nHOST ED",
        "@cert-authority * OTHER\nHOST ED",
        "HOST ssh-ed25519 AAAA\nHOST ssh-ed25519\nHOST ssh-unheard AAAA\n|1|x|y ED\nHOST ED",
        "andré OTHER\nHOST ED",
    ],
    ids=repr,
)
def test_a_server_with_a_known_key_is_accepted(openssh, known_hosts, text):
    """OpenSSH writes all of these lines, or ignores them."""
    assert_connects(openssh, known_hosts_fpath=known_hosts(text))


@pytest.mark.parametrize(("host", "text"), [("localhost", "[LocalHost]:* ED"), ("LocalHost", "[localhost]:* ED")])
def test_host_names_are_case_insensitive(openssh, known_hosts, host, text):
    """As in DNS."""
    assert_connects(openssh, host=host, known_hosts_fpath=known_hosts(text))


def test_hashed_host_names_are_supported(openssh, known_hosts):
    """Debian hashes names, so that the file does not reveal the servers of a user."""
    file = known_hosts("HOST ED\nelsewhere OTHER")
    keygen("-H", "-f", file)
    assert "127.0.0.1" not in file.read_text()

    assert_connects(openssh, known_hosts_fpath=file)


@pytest.mark.parametrize(("text", "kind"), [("HOST RSA", "ssh-rsa"), ("HOST ED", "ssh-ed25519")])
def test_the_server_is_asked_for_the_type_of_the_known_key(openssh, known_hosts, text, kind):
    """It has several keys, and would send another one by default."""
    with make_storage(openssh, known_hosts_fpath=known_hosts(text)).create_client() as client:
        assert require_transport(client).get_remote_server_key().get_name() == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1 ED",
        "[127.0.0.1]:1 ED",
        "[127.0.0.2]:* ED",
        "!HOST,* ED",
        "#HOST ED",
        "|1|bm9uZQ==|bm9uZQ== ED",
        "@cert-authority HOST ED",
        "[1]:* ED",
    ],
    ids=repr,
)
def test_a_server_with_an_unknown_key_is_refused(openssh, known_hosts, text):
    """The error has the fingerprint and the file to add the key to."""
    file = known_hosts(text)
    logins = openssh.log.count("Accepted publickey")

    message = connection_error(openssh, known_hosts_fpath=file)

    assert f"ssh-ed25519 {fingerprint(openssh.home / 'host_ed25519.pub')}" in message
    assert message.startswith(f"the host key of [127.0.0.1]:{openssh.port} is unknown")
    assert f"add the key to {file}" in message
    assert openssh.log.count("Accepted publickey") == logins


def test_a_server_with_a_changed_key_is_refused(openssh, known_hosts):
    """The error has both fingerprints, and no way to ignore the change."""
    file = known_hosts("HOST OTHER")

    message = connection_error(openssh, known_hosts_fpath=file)

    assert message.startswith("the host key of 127.0.0.1 has changed")
    assert f"sent ssh-ed25519 {fingerprint(openssh.home / 'host_ed25519.pub')}" in message
    assert f"{file} has ssh-ed25519 {fingerprint(openssh.home / 'other_ed25519.pub')}" in message
    assert "ask the administrator of the server" in message


def test_a_server_whose_key_changed_its_type_is_refused(openssh, known_hosts, tmp_path):
    """The file has an ECDSA key, which the server does not have."""
    keygen("-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "old")

    message = connection_error(openssh, known_hosts_fpath=known_hosts(f"HOST {public(tmp_path / 'old')}"))

    assert "has changed: it sent ssh-ed25519" in message
    assert f"has ecdsa-sha2-nistp256 {fingerprint(tmp_path / 'old.pub')}" in message


@pytest.mark.parametrize(
    "text", ["HOST ED\n@revoked * ED", "@revoked elsewhere ED\nHOST ED", "HOST ED\n@revoked HOST ED"]
)
def test_a_revoked_host_key_is_refused(openssh, known_hosts, text):
    """For any host, and also if its fingerprint was given: a revoked key may be stolen."""
    file = known_hosts(text)
    host_fingerprint = fingerprint(openssh.home / "host_ed25519.pub")

    assert f"{host_fingerprint} is revoked by {file}" in connection_error(openssh, known_hosts_fpath=file)
    assert "is revoked" in connection_error(openssh, known_hosts_fpath=file, host_key_fingerprint=host_fingerprint)


@pytest.mark.parametrize(
    ("kind", "text"), [("missing", "No such file"), ("directory", "Is a directory"), ("loop", "Too many levels")]
)
def test_a_known_hosts_file_that_cannot_be_read_is_reported(openssh, tmp_path, kind, text):
    """Also if a fingerprint was given, since the file may revoke keys."""
    file = tmp_path / kind
    if kind == "directory":
        file.mkdir()
    if kind == "loop":
        file.symlink_to(file)
    right = fingerprint(openssh.home / "host_ed25519.pub")

    for arguments in ({}, {"host_key_fingerprint": right}):
        message = connection_error(openssh, ConfigurationError, known_hosts_fpath=file, **arguments)
        assert f"the known hosts file {file} cannot be read ({text}" in message


def test_the_default_known_hosts_file_may_be_missing(openssh, tmp_path, monkeypatch):
    """Then every server is unknown, and a fingerprint can be given."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ssh/known_hosts"
    right = fingerprint(openssh.home / "host_ed25519.pub")

    assert f"add the key to {file}" in connection_error(openssh, known_hosts_fpath=None)
    assert_connects(openssh, known_hosts_fpath=None, host_key_fingerprint=right)

    file.parent.mkdir()
    shutil.copy(openssh.known_hosts, file)
    assert_connects(openssh, known_hosts_fpath=None)


def test_a_fingerprint_replaces_the_known_hosts_file(openssh, known_hosts):
    """One or several, with or without the padding that other tools print."""
    right = fingerprint(openssh.home / "host_ed25519.pub")
    wrong = fingerprint(openssh.home / "other_ed25519.pub")

    for given in (right, f"{right}=", f"{wrong},{right}", [wrong, right]):
        assert_connects(openssh, known_hosts_fpath=known_hosts("HOST OTHER"), host_key_fingerprint=given)


@pytest.mark.parametrize("key", ["other_ed25519.pub", "user_ed25519.pub"])
def test_a_server_with_another_fingerprint_is_refused(openssh, key):
    """Also if the file has the key of the server."""
    message = connection_error(openssh, host_key_fingerprint=fingerprint(openssh.home / key))

    assert fingerprint(openssh.home / "host_ed25519.pub") in message
    assert "is not the host_key_fingerprint of this profile" in message
    assert fingerprint(openssh.home / key) not in message


# -- a scripted server ------------------------------------------------------------------------------------------------


class RecordingServer(paramiko.ServerInterface):
    """Accepts every user, and records passwords; its attributes make it fail or wait."""

    transport: paramiko.Transport

    def __init__(self):
        self.passwords = []
        self.keepalive_received = threading.Event()
        self.resume = threading.Event()
        self.waits = False
        self.closes = False
        self.accepts_keys = True
        self.needs_second_factor = False

    def get_allowed_auths(self, username):
        """Allow passwords and keys, or the second factor only."""
        return "keyboard-interactive" if self.needs_second_factor else "password,publickey"

    def check_auth_password(self, username, password):
        """Record the password, and accept it."""
        self.passwords.append(password)
        return AUTH_SUCCESSFUL

    def check_auth_publickey(self, username, key):
        """Accept the key, or fail as configured."""
        if self.closes:
            self.transport.close()
        if self.waits:
            self.resume.wait(TIMEOUT)
        if self.needs_second_factor:
            return AUTH_PARTIALLY_SUCCESSFUL
        return AUTH_SUCCESSFUL if self.accepts_keys else AUTH_FAILED

    def check_channel_request(self, kind, chanid):
        """Open every session; there is no subsystem."""
        return OPEN_SUCCEEDED

    def check_global_request(self, kind, msg):
        """Record a keepalive message."""
        self.keepalive_received.set()
        return False


@contextmanager
def listening(serve):
    """Run *serve* in a thread for each connection to a new port; yield the port."""
    sockets = []

    def accept():
        with suppress(OSError):
            while True:
                sockets.append(listener.accept()[0])
                threading.Thread(target=serve, args=(sockets[-1],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT)
            for sock in sockets:
                sock.close()


@pytest.fixture
def recording_server(openssh, tmp_path):
    """A RecordingServer, and the arguments of a storage on it."""
    recorder = RecordingServer()
    transports = []

    def serve(sock):
        recorder.transport = paramiko.Transport(sock)
        transports.append(recorder.transport)
        recorder.transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(openssh.home / "host_ed25519"))
        with suppress(paramiko.SSHException, EOFError, OSError):
            recorder.transport.start_server(server=recorder)

    with listening(serve) as port:
        file = tmp_path / "recording_server"
        file.write_text(f"[127.0.0.1]:{port} {public(openssh.home / 'host_ed25519')}\n")
        yield recorder, {"port": port, "known_hosts_fpath": str(file)}
        recorder.resume.set()
        for transport in transports:
            transport.close()
            transport.join(TIMEOUT)


def test_a_refused_server_receives_no_password(openssh, recording_server, tmp_path):
    """An unknown, changed or revoked host key ends the connection before the authentication."""
    recorder, address = recording_server
    login = {**address, "key_filename": None, "password": PASSPHRASE}
    kind, key = public(openssh.home / "host_ed25519").split()
    other = public(openssh.home / "other_ed25519")
    host = f"[127.0.0.1]:{address['port']}"
    for text in ("", f"{host} {other}", f"{host} {kind} {key}\n@revoked * {kind} {key}"):
        Path(address["known_hosts_fpath"]).write_text(text)
        connection_error(openssh, **login)
    connection_error(openssh, **login, host_key_fingerprint=fingerprint(openssh.home / "other_ed25519.pub"))
    assert recorder.passwords == []

    Path(address["known_hosts_fpath"]).write_text(f"{host} {kind} {key}")
    connection_error(openssh, StorageUnavailableError, **login)
    assert recorder.passwords == [PASSPHRASE]


def test_a_server_without_the_sftp_subsystem_is_reported(openssh, recording_server):
    """Some servers authenticate users, and do not serve files."""
    _, address = recording_server

    assert "subsystem sftp" in connection_error(openssh, StorageUnavailableError, **address)


def test_an_authentication_without_a_response_raises_a_timeout(openssh, recording_server):
    """Not an error about the key, which was not checked."""
    recorder, address = recording_server
    recorder.waits = True

    message = connection_error(openssh, StorageTimeoutError, **address, connect_timeout=SHORT_TIMEOUT)

    server = f"{openssh.username}@127.0.0.1:{address['port']}"
    assert message == f"{server} did not respond in time: try again, or raise connect_timeout"


def test_a_connection_lost_during_the_authentication_is_no_refusal(openssh, recording_server):
    """A retry may help."""
    recorder, address = recording_server
    recorder.closes = True

    assert "check host, port and proxy" in connection_error(openssh, StorageUnavailableError, **address)


def test_keepalive_messages_are_sent_on_an_idle_connection(openssh, recording_server):
    """The interval is rounded up to a second."""
    recorder, address = recording_server
    with make_storage(openssh, root=".", **address, keepalive=0.2).create_client():
        assert recorder.keepalive_received.wait(TIMEOUT)


# -- user keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["-t", "ed25519"],
        ["-t", "ecdsa"],
        ["-t", "ecdsa", "-b", "521"],
        ["-t", "rsa", "-b", "2048"],
        ["-t", "ecdsa", "-m", "PEM"],
        ["-t", "rsa", "-b", "2048", "-m", "PEM"],
    ],
    ids=" ".join,
)
def test_private_keys_of_every_type_are_accepted(openssh, tmp_path, options):
    """Also with a passphrase; a missing or wrong one is not reported as a fault of the server."""
    plain, locked = tmp_path / "plain", tmp_path / "locked"
    keygen("-q", *options, "-N", "", "-f", plain)
    keygen("-q", *options, "-N", PASSPHRASE, "-f", locked)
    with (openssh.home / "authorized_keys").open("a") as file:
        file.write(f"{public(plain)}\n{public(locked)}\n")

    assert_connects(openssh, key_filename=plain)
    assert_connects(openssh, key_filename=plain, passphrase="not needed")
    assert_connects(openssh, key_filename=locked, passphrase=PASSPHRASE)
    assert connection_error(openssh, ConfigurationError, key_filename=locked) == (
        f"the private key {locked} is encrypted: give its passphrase"
    )
    message = connection_error(openssh, ConfigurationError, key_filename=locked, passphrase="wrong")
    assert message.startswith(f"the private key {locked} cannot be used")
    assert "the passphrase is wrong" in message


def test_an_unknown_private_key_is_refused(openssh):
    """The error says what to check, on both sides."""
    message = connection_error(openssh, key_filename=openssh.home / "other_ed25519")

    assert message.startswith(
        f"authentication failed for {openssh.username}@127.0.0.1:{openssh.port}: check username and key"
    )


def test_an_unknown_username_is_refused(openssh):
    """The key is good, the name is not."""
    assert "check username" in connection_error(openssh, username="unknown-user")


def test_several_private_keys_are_tried(openssh, tmp_path):
    """Those that are unusable are ignored as long as one is accepted."""
    (tmp_path / "garbage").write_text("no key")
    good = openssh.home / "user_ed25519"

    assert_connects(openssh, key_filename=[openssh.home / "other_ed25519", good])
    assert_connects(openssh, key_filename=[tmp_path / "garbage", good])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        b"\xff\x00" * 50,
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ+the+public+one\n",
    ],
    ids=repr,
)
def test_a_malformed_private_key_is_reported(openssh, tmp_path, content):
    """With its path, and not as a fault of the server."""
    file = tmp_path / "id"
    file.write_bytes(content)

    assert f"the private key {file} cannot be used" in connection_error(openssh, ConfigurationError, key_filename=file)


@pytest.mark.parametrize(("kind", "text"), [("missing", "No such file"), ("directory", "Is a directory")])
def test_a_private_key_that_cannot_be_read_is_reported(openssh, tmp_path, kind, text):
    """With its path."""
    file = tmp_path / kind
    if kind == "directory":
        file.mkdir()

    message = connection_error(openssh, ConfigurationError, key_filename=[openssh.home / "other_ed25519", file])
    assert f"the private key {file} cannot be read ({text}" in message


def test_without_credentials_the_connection_is_refused(openssh):
    """The error says what can be given."""
    assert "give a key_filename or a password" in connection_error(openssh, ConfigurationError, key_filename=None)


def test_look_for_keys_finds_the_default_keys(openssh, tmp_path, monkeypatch):
    """In ``~/.ssh``, if look_for_keys is set."""
    (tmp_path / ".ssh").mkdir()
    shutil.copy(openssh.home / "user_ed25519", tmp_path / ".ssh/id_ed25519")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert_connects(openssh, key_filename=None, look_for_keys=True)
    connection_error(openssh, ConfigurationError, key_filename=None)


@pytest.mark.parametrize("content", [b"no key", b"\xff\xfe"], ids=repr)
def test_a_malformed_default_key_is_reported(openssh, tmp_path, monkeypatch, content):
    """Not as a fault of the key that was given."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    refused_key = openssh.home / "other_ed25519"

    for key in (None, refused_key):
        message = connection_error(openssh, ConfigurationError, key_filename=key, look_for_keys=True)
        assert "check the keys that allow_agent and look_for_keys find" in message


def test_allow_agent_uses_the_keys_of_an_agent(openssh, tmp_path, monkeypatch):
    """If allow_agent is set."""
    address = str(tmp_path / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", address], stdout=subprocess.DEVNULL)
    try:
        key = openssh.home / "user_ed25519"
        environment = {**os.environ, "SSH_AUTH_SOCK": address}
        deadline = threading.Event()
        while subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=False, capture_output=True).returncode:
            assert agent.poll() is None
            deadline.wait(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", address)

        assert_connects(openssh, key_filename=None, allow_agent=True)
        connection_error(openssh, ConfigurationError, key_filename=None)
    finally:
        agent.kill()
        agent.wait()


def make_certificate(authority, directory, *options):
    """Return a key with a certificate beside it."""
    key = directory / "id"
    keygen("-q", "-t", "ed25519", "-N", "", "-f", key)
    keygen("-q", "-s", authority / "authority", "-I", "tests", *options, f"{key}.pub")
    return key


def test_a_certificate_beside_its_key_is_used(strict_server, authority, tmp_path):
    """The server knows the authority only; the path of the certificate may be given too."""
    key = make_certificate(authority, tmp_path, "-n", strict_server.username, "-V", "+1d")

    assert_connects(strict_server, key_filename=key)
    assert_connects(strict_server, key_filename=f"{key}-cert.pub")
    Path(f"{key}-cert.pub").unlink()
    connection_error(strict_server, key_filename=key)


@pytest.mark.parametrize(
    "options", [["-n", "another-user"], ["-n", getpass.getuser(), "-V", "20200101:20200102"]], ids=["name", "time"]
)
def test_a_certificate_of_another_user_or_time_is_refused(strict_server, authority, tmp_path, options):
    """Another principal, or expired."""
    assert "authentication failed" in connection_error(
        strict_server, key_filename=make_certificate(authority, tmp_path, *options)
    )


def test_a_malformed_certificate_is_reported(strict_server, authority, tmp_path):
    """As an error of its key."""
    key = make_certificate(authority, tmp_path, "-n", strict_server.username)
    Path(f"{key}-cert.pub").write_text("nothing")

    assert "the key or its certificate is damaged" in connection_error(
        strict_server, ConfigurationError, key_filename=key
    )


def test_a_revoked_user_key_is_refused(strict_server, authority, tmp_path):
    """It was accepted before it was revoked."""
    key = tmp_path / "id"
    keygen("-q", "-t", "ed25519", "-N", "", "-f", key)
    with (strict_server.home / "authorized_keys").open("a") as file:
        file.write(f"{public(key)}\n")
    assert_connects(strict_server, key_filename=key)

    (authority / "revoked").write_text(f"{public(key)}\n")
    message = connection_error(strict_server, key_filename=key)
    (authority / "revoked").write_text("")

    assert "authentication failed" in message


def test_the_default_username_is_that_of_the_local_user(openssh):
    """As with OpenSSH."""
    assert_connects(openssh, username=None)


def test_a_local_user_without_a_name_needs_the_username_argument(openssh, monkeypatch):
    """As in a container that runs under a number."""

    def nameless():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nameless)

    assert "give a username" in connection_error(openssh, ConfigurationError, username=None)
    assert_connects(openssh)


def test_an_interactive_second_factor_is_refused(openssh, recording_server):
    """Paramiko would print a prompt on the terminal of the process, and wait there."""
    recorder, address = recording_server
    recorder.needs_second_factor = True

    assert "interactive second factor" in connection_error(openssh, **address)


@pytest.mark.parametrize(
    "line",
    [
        "#old.example.com,HOST ED",
        "  # old.example.com,HOST ED",
        "@cert-authority,HOST ED",
        "# a note\u2028HOST ED",
        "# a note\x0bHOST ED",
    ],
)
def test_a_comment_in_the_known_hosts_file_is_not_a_key(openssh, tmp_path, line):
    """A line that is commented out, or a part of a comment."""
    file = tmp_path / "known"
    host, key = f"[127.0.0.1]:{openssh.port}", public(openssh.home / "host_ed25519")
    file.write_text(line.replace("HOST", host).replace("ED", key) + "\n", "utf-8")

    assert "is unknown" in connection_error(openssh, known_hosts_fpath=str(file))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_valid_key_that_is_refused_is_reported_as_a_refusal(openssh, kind):
    """And not as a malformed key, whatever type paramiko tried it as."""
    key = openssh.make_key(f"unknown_{kind}_{secrets.token_hex(4)}", kind)

    assert "authentication failed" in connection_error(openssh, key_filename=str(key))


@pytest.mark.parametrize("length", [74, 116])
def test_a_truncated_private_key_is_reported(openssh, tmp_path, length):
    """Paramiko raises other errors for some of them."""
    lines = (openssh.home / "user_ed25519").read_text().splitlines()
    body = base64.b64decode("".join(lines[1:-1]))[:length]
    key = tmp_path / "key"
    key.write_text("\n".join([lines[0], base64.b64encode(body).decode(), lines[-1], ""]))
    key.chmod(0o600)

    assert "cannot be used" in connection_error(openssh, ConfigurationError, key_filename=str(key))


# -- passwords --------------------------------------------------------------------------------------------------------


def test_a_correct_password_is_accepted(plain_sftp, caplog):
    """No log shows it."""
    caplog.set_level(logging.DEBUG)

    assert_connects(plain_sftp, key_filename=None, password=plain_sftp.password)

    assert "paramiko" in {record.name.partition(".")[0] for record in caplog.records}
    assert plain_sftp.password not in caplog.text


def test_keys_are_tried_before_the_password(openssh, recording_server):
    """The password is sent only if no key is accepted."""
    recorder, address = recording_server
    recorder.accepts_keys = False
    with make_storage(openssh, **address, password=PASSPHRASE).create_client() as client:
        assert require_transport(client).is_authenticated()
    assert recorder.passwords == [PASSPHRASE]

    recorder.accepts_keys = True
    with make_storage(openssh, **address, password=PASSPHRASE).create_client():
        assert recorder.passwords == [PASSPHRASE]


def test_a_wrong_password_is_refused(plain_sftp):
    """The error does not show it."""
    message = connection_error(plain_sftp, key_filename=None, password=PASSPHRASE)

    assert "check username and key or password" in message
    assert PASSPHRASE not in message


def test_a_server_without_password_authentication_refuses(openssh):
    """It refuses before a password is sent."""
    assert "authentication failed" in connection_error(openssh, key_filename=None, password=PASSPHRASE)


# -- proxies and jump hosts -------------------------------------------------------------------------------------------


@pytest.fixture
def relay_command(tmp_path):
    """A command that connects its input and output to a port, and records its arguments."""
    program = tmp_path / "relay_command.py"
    program.write_text(
        textwrap.dedent("""
            import os, pathlib, socket, sys, threading
            pathlib.Path(__file__).with_name("called").write_text(repr(sys.argv[1:]))
            pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
            sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
            def back():
                while data := sock.recv(65536):
                    os.write(1, data)
                os._exit(0)
            threading.Thread(target=back, daemon=True).start()
            while data := os.read(0, 65536):
                sock.sendall(data)
        """)
    )
    return f"{sys.executable} {program}"


def test_a_proxy_command_connects_to_the_server(openssh, relay_command, tmp_path):
    """Its placeholders are replaced, and it ends with the storage."""
    with closing(make_storage(openssh, proxy_command=f"{relay_command} %h %p '%r at %h' 100%% %x")) as storage:
        content = os.urandom(3 << 20)
        storage.write("a.bin", content)
        assert storage.read("a.bin") == content
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)

    called = (tmp_path / "called").read_text()
    assert called == repr(["127.0.0.1", str(openssh.port), f"{openssh.username} at 127.0.0.1", "100%", "%x"])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_host_key_is_checked_behind_a_proxy_command(openssh, relay_command, known_hosts):
    """The command may connect to another server."""
    message = connection_error(openssh, proxy_command=f"{relay_command} %h %p", known_hosts_fpath=known_hosts(""))

    assert f"the host key of [127.0.0.1]:{openssh.port} is unknown" in message


def test_a_proxy_command_that_ends_is_started_again(openssh, relay_command, tmp_path):
    """The end is detected immediately."""
    with closing(make_storage(openssh, proxy_command=f"{relay_command} %h %p")) as storage:
        storage.write("a.txt", b"1")
        first = (tmp_path / "pid").read_text()
        os.kill(int(first), 9)

        assert storage.read("a.txt") == b"1"
        assert (tmp_path / "pid").read_text() != first


@pytest.mark.parametrize(
    ("command", "error_type", "text"),
    [
        ("/no/such/program %h", ConfigurationError, "cannot be run (No such file or directory): check its first word"),
        ("/ %h", ConfigurationError, "cannot be run (Permission denied)"),
        ("false", StorageUnavailableError, "check host, port and proxy"),
        ("echo hello", StorageUnavailableError, "check host, port and proxy"),
        ("sleep 60.5", StorageTimeoutError, "did not respond in time"),
        ("sh -c 'trap : TERM; while :; do sleep 60; done'", StorageTimeoutError, "did not respond in time"),
    ],
)
def test_a_proxy_command_that_fails_is_reported(openssh, monkeypatch, command, error_type, text):
    """Its process is ended, also if it ignores SIGTERM."""
    monkeypatch.setattr("flask_storage.backends.sftp.transport._TERMINATE_TIMEOUT", 0.1)
    timeout = SHORT_TIMEOUT if error_type is StorageTimeoutError else TIMEOUT
    message = connection_error(openssh, error_type, proxy_command=command, connect_timeout=timeout)

    assert text in message
    assert command.partition(" ")[2] not in message or not command.partition(" ")[2]


def both_known_hosts(openssh, strict_server, tmp_path):
    """Return a known hosts file with the keys of both servers."""
    file = tmp_path / "both"
    file.write_text(openssh.known_hosts.read_text() + strict_server.known_hosts.read_text())
    return file


@pytest.mark.parametrize("form", ["{user}@127.0.0.1:{port}", "127.0.0.1:{port}"])
def test_a_jump_host_connects_to_the_server(openssh, strict_server, tmp_path, form):
    """As ``ProxyJump``: both host keys are checked, and both connections are closed with the storage."""
    shutil.copy(openssh.home / "user_ed25519.pub", tmp_path / "key.pub")
    with (strict_server.home / "authorized_keys").open("a") as file:
        file.write((tmp_path / "key.pub").read_text())
    jump = form.format(user=strict_server.username, port=strict_server.port)
    arguments = {"proxy_jump": jump, "known_hosts_fpath": both_known_hosts(openssh, strict_server, tmp_path)}
    logins = strict_server.log.count("Accepted publickey")

    assert_connects(openssh, **arguments)

    assert strict_server.log.count("Accepted publickey") == logins + 1
    right = fingerprint(openssh.home / "host_ed25519.pub")
    assert_connects(openssh, **arguments, host_key_fingerprint=right)
    jump_host_fingerprint = fingerprint(strict_server.home / "host_ed25519.pub")
    assert "is not the host_key_fingerprint" in connection_error(
        openssh, **arguments, host_key_fingerprint=jump_host_fingerprint
    )


def test_the_host_key_of_a_jump_host_is_checked(openssh, strict_server):
    """The fingerprint argument does not apply to it."""
    message = connection_error(openssh, proxy_jump=f"127.0.0.1:{strict_server.port}")

    assert f"the host key of [127.0.0.1]:{strict_server.port} is unknown" in message
    assert "host_key_fingerprint" not in message


def test_the_host_key_behind_a_jump_host_is_checked(openssh, strict_server):
    """The jump host may connect to another server."""
    with (strict_server.home / "authorized_keys").open("a") as file:
        file.write((openssh.home / "user_ed25519.pub").read_text())

    message = connection_error(
        openssh, proxy_jump=f"127.0.0.1:{strict_server.port}", known_hosts_fpath=strict_server.known_hosts
    )

    assert f"the host key of [127.0.0.1]:{openssh.port} is unknown" in message


def test_a_jump_host_that_cannot_connect_is_reported(openssh, strict_server, tmp_path):
    """It may not, or the port is closed."""
    with (strict_server.home / "authorized_keys").open("a") as file:
        file.write((openssh.home / "user_ed25519.pub").read_text())
    port = free_port()

    message = connection_error(
        openssh,
        StorageUnavailableError,
        port=port,
        proxy_jump=f"127.0.0.1:{strict_server.port}",
        known_hosts_fpath=strict_server.known_hosts,
    )

    assert message == (f"the jump host 127.0.0.1 refused to connect to 127.0.0.1:{port}: check its AllowTcpForwarding")


def test_a_jump_host_receives_no_password(openssh, authority):
    """The password belongs to the other server; the key is offered to both."""
    jump_host = type(openssh)("PasswordAuthentication yes", "AllowTcpForwarding yes")
    try:
        (jump_host.home / "authorized_keys").write_text("")
        message = connection_error(
            openssh,
            proxy_jump=f"127.0.0.1:{jump_host.port}",
            known_hosts_fpath=jump_host.known_hosts,
            password="a secret of the other server",
        )
        log = jump_host.log
    finally:
        jump_host.remove()

    assert f"authentication failed for {openssh.username}@127.0.0.1:{jump_host.port}" in message
    assert "publickey" in log
    assert "password" not in log.lower()


def test_a_connection_closed_after_the_authentication_is_reported(openssh):
    """OpenSSH does so if another user may write to its ``ChrootDirectory``."""
    server = type(openssh)("ChrootDirectory /tmp")
    try:
        message = connection_error(server, StorageUnavailableError)
        log = server.log
    finally:
        server.remove()

    assert "a ChrootDirectory and its parents must belong to root" in message
    assert "Accepted publickey" in log


def test_closing_a_client_closes_the_connection_to_the_jump_host(openssh, strict_server, tmp_path):
    """Both connections are closed."""
    with (strict_server.home / "authorized_keys").open("a") as file:
        file.write((openssh.home / "user_ed25519.pub").read_text())
    known_hosts = both_known_hosts(openssh, strict_server, tmp_path)
    with closing(
        make_storage(openssh, proxy_jump=f"127.0.0.1:{strict_server.port}", known_hosts_fpath=known_hosts)
    ) as storage:
        client: Any = storage.create_client()
        jump_client = client.jump_client
        client.close()

    assert jump_client.get_transport() is None


def test_a_socket_whose_peer_accepts_no_data_is_aborted(monkeypatch):
    """The time starts again whenever the peer accepts data; paramiko would retry for ever."""
    now = [0.0]
    monkeypatch.setattr("flask_storage.backends.sftp.transport.time.monotonic", lambda: now[0])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.001)
        sock = SendTimeoutSocket(ours, 5)

        def fill():
            while True:
                sock.send(bytes(1 << 16))

        def assert_raises(error_type):
            with pytest.raises(error_type) as caught:
                fill()
            assert type(caught.value) is error_type

        for _ in range(2):
            assert_raises(TimeoutError)
            now[0] += 4.9
            assert_raises(TimeoutError)
            now[0] += 0.2
            assert_raises(ConnectionAbortedError)
            theirs.recv(1 << 20)
        assert sock.fileno() == ours.fileno()


def test_waiting_for_a_channel_request_has_a_timeout():
    """Paramiko would wait for ever for a server that does not respond."""
    with pytest.raises(TimeoutError):
        _ChannelEvent(0.01).wait()


# -- ciphers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ciphers", "used"),
    [
        (None, "aes128-gcm@openssh.com"),
        ("aes256-ctr", "aes256-ctr"),
        ("aes256-ctr, aes128-gcm@openssh.com", "aes256-ctr"),
        (["aes128-ctr", "no-such-cipher", "aes128-gcm@openssh.com"], "aes128-gcm@openssh.com"),
    ],
    ids=str,
)
def test_the_first_common_cipher_is_used(strict_server, ciphers, used):
    """Ciphers that the server or paramiko does not support are ignored."""
    with make_storage(strict_server, ciphers=ciphers).create_client() as client:
        assert require_transport(client).remote_cipher == used


def test_unsupported_ciphers_are_reported(strict_server):
    """With those that paramiko supports, or the error of the server."""
    message = connection_error(strict_server, ConfigurationError, ciphers="rot13")

    assert message.startswith("ciphers has no name of a cipher that paramiko supports: ")
    assert "aes256-gcm@openssh.com" in message
    assert "cipher" in connection_error(strict_server, StorageUnavailableError, ciphers="aes192-ctr")


# -- servers that do not respond --------------------------------------------------------------------------------------


def test_a_closed_port_is_reported(openssh):
    """With host and port."""
    port = free_port()

    message = connection_error(openssh, StorageUnavailableError, port=port)

    assert message.startswith(f"127.0.0.1:{port} cannot be reached (")
    assert "refused" in message
    assert message.endswith("check host and port")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_an_unknown_host_is_reported(openssh, host):
    """Also if it is not a valid host name."""
    message = connection_error(openssh, StorageUnavailableError, host=host)
    assert message.startswith(f"{host}:{openssh.port} cannot be reached (")


def test_a_host_that_drops_packets_raises_a_timeout(openssh):
    """As a firewall does; here the queue of a socket is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting: list[socket.socket] = []
        try:
            with suppress(TimeoutError):
                waiting.extend(socket.create_connection(address, 0.2) for _ in range(8))

            message = connection_error(openssh, StorageTimeoutError, port=address[1], connect_timeout=SHORT_TIMEOUT)
        finally:
            for sock in waiting:
                sock.close()

    assert message == f"127.0.0.1:{address[1]} did not respond within 0.3 s: check host, port and firewalls"


def send_only(data):
    """Return a function that serves a connection by sending *data*, and nothing more."""

    def serve(sock):
        with suppress(OSError):
            sock.sendall(data)

    return serve


@pytest.mark.parametrize("data", [b"", b"SSH-2.0-slow\r\n"], ids=["nothing", "version"])
def test_a_server_that_does_not_continue_raises_a_timeout(openssh, data):
    """After the connection, or after its version."""
    with listening(send_only(data)) as port:
        message = connection_error(openssh, StorageTimeoutError, port=port, connect_timeout=SHORT_TIMEOUT)

    assert (
        message == f"{openssh.username}@127.0.0.1:{port} did not respond in time: try again, or raise connect_timeout"
    )


def test_a_port_of_another_protocol_is_reported(openssh):
    """The error shows the response."""

    def serve(sock):
        with suppress(OSError):
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            sock.recv(4096)
            sock.shutdown(socket.SHUT_RDWR)

    with listening(serve) as port:
        message = connection_error(openssh, StorageUnavailableError, port=port)

    assert message.startswith(f"cannot connect to {openssh.username}@127.0.0.1:{port} (")
    assert "check host, port" in message


def test_a_server_that_closes_the_connection_is_reported(openssh):
    """As a server with too many connections."""
    with listening(lambda sock: sock.shutdown(socket.SHUT_RDWR)) as port:
        message = connection_error(openssh, StorageUnavailableError, port=port)

    assert message.startswith(f"cannot connect to {openssh.username}@127.0.0.1:{port} (")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("echo Welcome to this server; exec sleep 60", "a login script that prints text breaks SFTP"),
        ("exit 1", "try again"),
        ("sleep 60.5", "did not respond in time"),
    ],
)
def test_a_login_shell_that_prints_or_fails_is_reported(openssh, command, text):
    """A greeting in ``.bashrc`` is a common mistake."""
    server = type(openssh)(f"ForceCommand {command}")
    try:
        error_type = StorageTimeoutError if text.endswith("time") else StorageUnavailableError
        timeout = 0.5 if error_type is StorageTimeoutError else 15
        assert text in connection_error(server, error_type, read_timeout=timeout)
    finally:
        server.remove()


# -- create_client and connection -------------------------------------------------------------------------------------


def test_create_client_returns_a_checked_and_authenticated_client(openssh):
    """With the same socket options; the caller closes it."""
    storage = make_storage(openssh)
    client = storage.create_client()
    with client:
        transport = require_transport(client)
        assert isinstance(client, paramiko.SSHClient)
        assert transport.is_authenticated()
        assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert storage.root in client.open_sftp().listdir()
    assert not transport.is_active()
    assert storage._pool.pop() is None


def test_create_client_raises_our_errors(openssh):
    """Not those of paramiko."""
    storage = make_storage(openssh, key_filename=str(openssh.home / "other_ed25519"))

    with pytest.raises(PermissionDeniedError, match="authentication failed") as caught:
        storage.create_client()
    assert isinstance(caught.value.__cause__, paramiko.AuthenticationException)
    with pytest.raises(PermissionDeniedError, match="authentication failed"):
        storage.connection().__enter__()


def test_connection_yields_an_sftp_client_for_a_block(openssh):
    """Paramiko's own client, which is not confined; it is closed after the block."""
    storage = make_storage(openssh)
    with storage.connection() as client:
        with client.open(f"{storage.root}/a.txt", "w") as file:
            file.write("1")
        client.symlink("/etc/hostname", f"{storage.root}/link")
    with closing(storage):
        assert storage.read("a.txt") == b"1"

    with pytest.raises(OSError, match="closed"):
        client.listdir()


def test_a_closed_connection_is_not_alive(openssh):
    """Closing is idempotent."""
    connection = make_storage(openssh)._connection_settings.connect()
    states = [connection.is_alive]
    connection.close()
    connection.close()

    assert [*states, connection.is_alive] == [True, False]
    with pytest.raises(ConnectionLostError, match="the server closed the connection"):
        connection.open()


def test_an_interrupt_during_the_authentication_is_raised(openssh, monkeypatch):
    """It is not translated, and the socket is closed."""
    sockets = []

    def interrupted_connect(client, *arguments, sock, **options):
        sockets.append(sock)
        raise KeyboardInterrupt

    monkeypatch.setattr(paramiko.SSHClient, "connect", interrupted_connect)
    with pytest.raises(KeyboardInterrupt):
        make_storage(openssh).create_client()

    assert [sock.fileno() for sock in sockets] == [-1]
