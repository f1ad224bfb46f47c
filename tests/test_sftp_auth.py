"""Who responses, and who asks: host keys, user keys, passwords, and the ways to a server."""

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
SOON = 0.3  # seconds; for whoever never responses
PATIENCE = 30  # seconds; for what should happen at once


def get_in(server, **arguments):
    """Log in and look around; a storage that is refused raises."""
    with closing(make_storage(server, **arguments)) as storage:
        storage.write("a.txt", b"1")
        assert storage.read("a.txt") == b"1"


def refusal(server, kind=PermissionDeniedError, **arguments):
    """Return what is said to somebody who does not get in."""
    with closing(make_storage(server, root=".", **arguments)) as storage, pytest.raises(kind) as caught:
        storage.list()
    assert type(caught.value) is kind
    return str(caught.value)


def require_transport(client) -> Any:
    """Return what a client speaks through."""
    return client.get_transport()


def keygen(*arguments):
    """Run OpenSSH's own tool, and return what it prints."""
    done = subprocess.run(
        ["ssh-keygen", *map(str, arguments)], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.stdout


def fingerprint(file):
    """Return what OpenSSH shows of a key."""
    return keygen("-l", "-f", file).split()[1]


def public(file):
    """Return the kind and the text of a key."""
    return " ".join(Path(f"{file}.pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """A folder with an authority that signs keys of users, and a list of keys that are not to be let in."""
    folder = tmp_path_factory.mktemp("papers")
    keygen("-q", "-t", "ed25519", "-N", "", "-f", folder / "authority")
    (folder / "revoked").touch()
    return folder


@pytest.fixture(scope="module")
def strict(openssh, papers):
    """A server with an authority, revoked keys and few ciphers, which leads on to others."""
    server = type(openssh)(
        f"TrustedUserCAKeys {papers}/authority.pub",
        f"RevokedKeys {papers}/revoked",
        "Ciphers aes256-ctr,aes128-gcm@openssh.com",
        "AllowTcpForwarding yes",
    )
    yield server
    server.remove()


# -- the key of the server --------------------------------------------------------------------------------------------


@pytest.fixture
def known(openssh, tmp_path):
    """Writes a file of known hosts, in which ``HOST``, ``ED``, ``RSA`` and ``OTHER`` stand for what they are."""
    meant = {
        "HOST": f"[127.0.0.1]:{openssh.port}",
        "ED": public(openssh.home / "host_ed25519"),
        "RSA": public(openssh.home / "host_rsa"),
        "OTHER": public(openssh.home / "other_ed25519"),
    }

    def written(text):
        file = tmp_path / "known"
        text = re.sub(r"(?<![\w+/])(HOST|ED|RSA|OTHER)(?![\w+/])", lambda found: meant[found[0]], text)
        file.write_bytes(text.encode("latin-1"))
        return file

    return written


@pytest.mark.parametrize(
    "text",
    [
        "HOST ED",
        "HOST RSA",
        "HOST RSA\nHOST ED",
        "HOST ED somebody@somewhere\n",
        "# ours\n\n  HOST\tED\n",
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
def test_a_known_server_is_trusted(openssh, known, text):
    """Whatever else the file holds: OpenSSH writes all of these, or reads past them."""
    get_in(openssh, known_hosts_fpath=known(text))


@pytest.mark.parametrize(("host", "text"), [("localhost", "[LocalHost]:* ED"), ("LocalHost", "[localhost]:* ED")])
def test_a_name_is_the_same_in_capitals(openssh, known, host, text):
    """As everywhere in the net."""
    get_in(openssh, host=host, known_hosts_fpath=known(text))


def test_a_hashed_file_serves_as_well(openssh, known):
    """Debian hashes names, so that the file tells nobody where one has been."""
    file = known("HOST ED\nelsewhere OTHER")
    keygen("-H", "-f", file)
    assert "127.0.0.1" not in file.read_text()

    get_in(openssh, known_hosts_fpath=file)


@pytest.mark.parametrize(("text", "kind"), [("HOST RSA", "ssh-rsa"), ("HOST ED", "ssh-ed25519")])
def test_the_server_is_asked_for_the_key_that_is_known(openssh, known, text, kind):
    """It has several, and would show another one by itself."""
    with make_storage(openssh, known_hosts_fpath=known(text)).create_client() as client:
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
def test_an_unknown_server_is_refused(openssh, known, text):
    """The error shows what `ssh-keygen -l` shows of the key, and where it belongs once it was compared."""
    file = known(text)
    entered = openssh.log.count("Accepted publickey")

    told = refusal(openssh, known_hosts_fpath=file)

    assert f"ssh-ed25519 {fingerprint(openssh.home / 'host_ed25519.pub')}" in told
    assert told.startswith(f"the host key of [127.0.0.1]:{openssh.port} is unknown")
    assert f"add the key to {file}" in told
    assert openssh.log.count("Accepted publickey") == entered


def test_a_server_with_another_key_is_refused(openssh, known):
    """Both keys are shown; nothing says how to get around it."""
    file = known("HOST OTHER")

    told = refusal(openssh, known_hosts_fpath=file)

    assert told.startswith("the host key of 127.0.0.1 has changed")
    assert f"shows ssh-ed25519 {fingerprint(openssh.home / 'host_ed25519.pub')}" in told
    assert f"{file} has ssh-ed25519 {fingerprint(openssh.home / 'other_ed25519.pub')}" in told
    assert "ask whoever runs the server" in told


def test_a_server_with_a_key_of_another_kind_only_is_refused(openssh, known, tmp_path):
    """It once had an ECDSA key, says the file; what comes now is not that."""
    keygen("-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "old")

    told = refusal(openssh, known_hosts_fpath=known(f"HOST {public(tmp_path / 'old')}"))

    assert "has changed: it shows ssh-ed25519" in told
    assert f"has ecdsa-sha2-nistp256 {fingerprint(tmp_path / 'old.pub')}" in told


@pytest.mark.parametrize(
    "text", ["HOST ED\n@revoked * ED", "@revoked elsewhere ED\nHOST ED", "HOST ED\n@revoked HOST ED"]
)
def test_a_revoked_key_is_refused(openssh, known, text):
    """Whichever host the line is about: whoever shows a stolen key is nobody."""
    file = known(text)
    print_of_it = fingerprint(openssh.home / "host_ed25519.pub")

    assert f"{print_of_it} is revoked, says {file}" in refusal(openssh, known_hosts_fpath=file)
    assert "is revoked" in refusal(openssh, known_hosts_fpath=file, host_key_fingerprint=print_of_it)


@pytest.mark.parametrize(
    ("kind", "text"), [("missing", "No such file"), ("folder", "Is a directory"), ("loop", "Too many levels")]
)
def test_a_file_of_known_hosts_that_cannot_be_read_is_told(openssh, tmp_path, kind, text):
    """A file that was named and is not there is a mistake, also where a fingerprint decides: it may revoke keys."""
    file = tmp_path / kind
    if kind == "folder":
        file.mkdir()
    if kind == "loop":
        file.symlink_to(file)
    right = fingerprint(openssh.home / "host_ed25519.pub")

    for arguments in ({}, {"host_key_fingerprint": right}):
        told = refusal(openssh, ConfigurationError, known_hosts_fpath=file, **arguments)
        assert f"the known hosts {file} cannot be read ({text}" in told


def test_the_file_of_the_user_may_be_missing(openssh, tmp_path, monkeypatch):
    """Nobody who has never used SSH has one: then no server is known, and a fingerprint will do."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ssh/known_hosts"
    right = fingerprint(openssh.home / "host_ed25519.pub")

    assert f"add the key to {file}" in refusal(openssh, known_hosts_fpath=None)
    get_in(openssh, known_hosts_fpath=None, host_key_fingerprint=right)

    file.parent.mkdir()
    shutil.copy(openssh.known_hosts, file)
    get_in(openssh, known_hosts_fpath=None)


def test_a_fingerprint_stands_for_the_file(openssh, known):
    """As OpenSSH shows it, one or several, with or without the sign that other tools put at its end."""
    right = fingerprint(openssh.home / "host_ed25519.pub")
    wrong = fingerprint(openssh.home / "other_ed25519.pub")

    for given in (right, f"{right}=", f"{wrong},{right}", [wrong, right]):
        get_in(openssh, known_hosts_fpath=known("HOST OTHER"), host_key_fingerprint=given)


@pytest.mark.parametrize("key", ["other_ed25519.pub", "user_ed25519.pub"])
def test_a_wrong_fingerprint_is_refused(openssh, key):
    """Also where the file knows the server: who gave one meant it."""
    told = refusal(openssh, host_key_fingerprint=fingerprint(openssh.home / key))

    assert fingerprint(openssh.home / "host_ed25519.pub") in told
    assert "is not the host_key_fingerprint of this profile" in told
    assert fingerprint(openssh.home / key) not in told


# -- a server made by hand --------------------------------------------------------------------------------------------


class Doorman(paramiko.ServerInterface):
    """Lets everybody in, and notes who came with what; attributes say where it stops."""

    transport: paramiko.Transport

    def __init__(self):
        self.passwords = []
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.waits = False
        self.hangs_up = False
        self.takes_keys = True
        self.wants_more = False

    def get_allowed_auths(self, username):
        """Both, or what comes after them."""
        return "keyboard-interactive" if self.wants_more else "password,publickey"

    def check_auth_password(self, username, password):
        """Note the password."""
        self.passwords.append(password)
        return AUTH_SUCCESSFUL

    def check_auth_publickey(self, username, key):
        """Stop here where we shall."""
        if self.hangs_up:
            self.transport.close()
        if self.waits:
            self.go_on.wait(PATIENCE)
        if self.wants_more:
            return AUTH_PARTIALLY_SUCCESSFUL
        return AUTH_SUCCESSFUL if self.takes_keys else AUTH_FAILED

    def check_channel_request(self, kind, chanid):
        """Open every session, for which there is no subsystem."""
        return OPEN_SUCCEEDED

    def check_global_request(self, kind, msg):
        """Note that somebody asked whether we are there."""
        self.asked.set()
        return False


@contextmanager
def listening(serve):
    """Run a server of one's own, which gets each connection; yield its port."""
    sockets = []

    def accept():
        with suppress(OSError):
            while True:
                sockets.append(door.accept()[0])
                threading.Thread(target=serve, args=(sockets[-1],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield door.getsockname()[1]
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
            for one in sockets:
                one.close()


@pytest.fixture
def doorman(openssh, tmp_path):
    """A server made by hand, and the arguments with which one gets to it."""
    keeper = Doorman()
    transports = []

    def serve(sock):
        keeper.transport = paramiko.Transport(sock)
        transports.append(keeper.transport)
        keeper.transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(openssh.home / "host_ed25519"))
        with suppress(paramiko.SSHException, EOFError, OSError):
            keeper.transport.start_server(server=keeper)

    with listening(serve) as port:
        file = tmp_path / "doorman"
        file.write_text(f"[127.0.0.1]:{port} {public(openssh.home / 'host_ed25519')}\n")
        yield keeper, {"port": port, "known_hosts_fpath": str(file)}
        keeper.go_on.set()
        for transport in transports:
            transport.close()
            transport.join(PATIENCE)


def test_a_refused_server_never_sees_a_password(openssh, doorman, tmp_path):
    """Unknown, changed or revoked: whoever it is, it is left before anybody logs in."""
    keeper, way = doorman
    login = {**way, "key_filename": None, "password": PASSPHRASE}
    kind, key = public(openssh.home / "host_ed25519").split()
    other = public(openssh.home / "other_ed25519")
    host = f"[127.0.0.1]:{way['port']}"
    for text in ("", f"{host} {other}", f"{host} {kind} {key}\n@revoked * {kind} {key}"):
        Path(way["known_hosts_fpath"]).write_text(text)
        refusal(openssh, **login)
    refusal(openssh, **login, host_key_fingerprint=fingerprint(openssh.home / "other_ed25519.pub"))
    assert keeper.passwords == []

    Path(way["known_hosts_fpath"]).write_text(f"{host} {kind} {key}")
    refusal(openssh, StorageUnavailableError, **login)
    assert keeper.passwords == [PASSPHRASE]


def test_a_server_without_the_subsystem_is_told(openssh, doorman):
    """Some let people in, and do not serve files."""
    _, way = doorman

    assert "subsystem sftp" in refusal(openssh, StorageUnavailableError, **way)


def test_a_login_that_nobody_answers_ends(openssh, doorman):
    """It is no refusal: nobody looked at the key."""
    keeper, way = doorman
    keeper.waits = True

    told = refusal(openssh, StorageTimeoutError, **way, connect_timeout=SOON)

    assert told == f"127.0.0.1:{way['port']} did not response in time: try again, or raise connect_timeout"


def test_a_login_that_breaks_off_is_no_refusal(openssh, doorman):
    """Trying again may help."""
    keeper, way = doorman
    keeper.hangs_up = True

    assert "check host, port and proxy" in refusal(openssh, StorageUnavailableError, **way)


def test_an_idle_connection_asks_whether_the_server_is_there(openssh, doorman):
    """Every so many seconds; less than one is one."""
    keeper, way = doorman
    with make_storage(openssh, root=".", **way, keepalive=0.2).create_client():
        assert keeper.asked.wait(PATIENCE)


# -- the key of the user ----------------------------------------------------------------------------------------------


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
def test_keys_of_each_kind_open_the_door(openssh, tmp_path, options):
    """Also with a passphrase; one that is missing or wrong is no fault of the server's."""
    plain, locked = tmp_path / "plain", tmp_path / "locked"
    keygen("-q", *options, "-N", "", "-f", plain)
    keygen("-q", *options, "-N", PASSPHRASE, "-f", locked)
    with (openssh.home / "authorized_keys").open("a") as file:
        file.write(f"{public(plain)}\n{public(locked)}\n")

    get_in(openssh, key_filename=plain)
    get_in(openssh, key_filename=plain, passphrase="not needed")
    get_in(openssh, key_filename=locked, passphrase=PASSPHRASE)
    assert refusal(openssh, ConfigurationError, key_filename=locked) == (
        f"the private key {locked} is encrypted: give its passphrase"
    )
    told = refusal(openssh, ConfigurationError, key_filename=locked, passphrase="wrong")
    assert told.startswith(f"the private key {locked} cannot be used")
    assert "its passphrase is another" in told


def test_the_key_of_a_stranger_is_refused(openssh):
    """The text says what to look at, on both sides."""
    told = refusal(openssh, key_filename=openssh.home / "other_ed25519")

    assert told.startswith(f"127.0.0.1:{openssh.port} does not let us in: check username and key")


def test_somebody_else_is_refused(openssh):
    """With a key that is good, under a name that is not."""
    assert "check username" in refusal(openssh, username="nobody-of-this-name")


def test_several_keys_are_tried(openssh, tmp_path):
    """Those that are of no use are passed over as long as one is."""
    (tmp_path / "garbage").write_text("no key")
    good = openssh.home / "user_ed25519"

    get_in(openssh, key_filename=[openssh.home / "other_ed25519", good])
    get_in(openssh, key_filename=[tmp_path / "garbage", good])


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
def test_a_file_that_is_no_key_is_told(openssh, tmp_path, content):
    """By name: the server has nothing to do with it."""
    file = tmp_path / "id"
    file.write_bytes(content)

    assert f"the private key {file} cannot be used" in refusal(openssh, ConfigurationError, key_filename=file)


@pytest.mark.parametrize(("kind", "text"), [("missing", "No such file"), ("folder", "Is a directory")])
def test_a_key_that_cannot_be_read_is_told(openssh, tmp_path, kind, text):
    """By name, too."""
    file = tmp_path / kind
    if kind == "folder":
        file.mkdir()

    told = refusal(openssh, ConfigurationError, key_filename=[openssh.home / "other_ed25519", file])
    assert f"the private key {file} cannot be read ({text}" in told


def test_with_nothing_to_log_in_with_nobody_gets_in(openssh):
    """The text names what there is to give."""
    assert "give a key_filename or a password" in refusal(openssh, ConfigurationError, key_filename=None)


def test_keys_lie_where_ssh_looks_for_them(openssh, tmp_path, monkeypatch):
    """In ``~/.ssh``, for those who say so."""
    (tmp_path / ".ssh").mkdir()
    shutil.copy(openssh.home / "user_ed25519", tmp_path / ".ssh/id_ed25519")
    monkeypatch.setenv("HOME", str(tmp_path))

    get_in(openssh, key_filename=None, look_for_keys=True)
    refusal(openssh, ConfigurationError, key_filename=None)


@pytest.mark.parametrize("content", [b"no key", b"\xff\xfe"], ids=repr)
def test_a_broken_key_where_ssh_looks_is_told(openssh, tmp_path, monkeypatch, content):
    """Not as a fault of a key that was named, and is fine."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    stranger = openssh.home / "other_ed25519"

    for key in (None, stranger):
        told = refusal(openssh, ConfigurationError, key_filename=key, look_for_keys=True)
        assert "check the keys that allow_agent and look_for_keys find" in told


def test_an_agent_holds_keys(openssh, tmp_path, monkeypatch):
    """For those who say so."""
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

        get_in(openssh, key_filename=None, allow_agent=True)
        refusal(openssh, ConfigurationError, key_filename=None)
    finally:
        agent.kill()
        agent.wait()


def signed(papers, folder, *options):
    """Return a key with a certificate beside it."""
    key = folder / "id"
    keygen("-q", "-t", "ed25519", "-N", "", "-f", key)
    keygen("-q", "-s", papers / "authority", "-I", "tests", *options, f"{key}.pub")
    return key


def test_a_certificate_is_found_beside_its_key(strict, papers, tmp_path):
    """The server knows the authority only; naming the certificate is as good as naming the key."""
    key = signed(papers, tmp_path, "-n", strict.username, "-V", "+1d")

    get_in(strict, key_filename=key)
    get_in(strict, key_filename=f"{key}-cert.pub")
    Path(f"{key}-cert.pub").unlink()
    refusal(strict, key_filename=key)


@pytest.mark.parametrize(
    "options", [["-n", "somebody-else"], ["-n", getpass.getuser(), "-V", "20200101:20200102"]], ids=["name", "time"]
)
def test_a_certificate_for_others_opens_nothing(strict, papers, tmp_path, options):
    """Nor one whose time is over."""
    assert "does not let us in" in refusal(strict, key_filename=signed(papers, tmp_path, *options))


def test_a_broken_certificate_is_told(strict, papers, tmp_path):
    """As a trouble of the key that it belongs to."""
    key = signed(papers, tmp_path, "-n", strict.username)
    Path(f"{key}-cert.pub").write_text("nothing")

    assert "it or its certificate is damaged" in refusal(strict, ConfigurationError, key_filename=key)


def test_a_revoked_key_of_a_user_is_refused(strict, papers, tmp_path):
    """It was let in a moment before."""
    key = tmp_path / "id"
    keygen("-q", "-t", "ed25519", "-N", "", "-f", key)
    with (strict.home / "authorized_keys").open("a") as file:
        file.write(f"{public(key)}\n")
    get_in(strict, key_filename=key)

    (papers / "revoked").write_text(f"{public(key)}\n")
    told = refusal(strict, key_filename=key)
    (papers / "revoked").write_text("")

    assert "does not let us in" in told


def test_the_local_user_logs_in_unless_another_is_named(openssh):
    """As with OpenSSH."""
    get_in(openssh, username=None)


def test_a_process_of_a_user_without_a_name_has_to_give_one(openssh, monkeypatch):
    """As in a container that runs under a bare number."""

    def nameless():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nameless)

    assert "give a username" in refusal(openssh, ConfigurationError, username=None)
    get_in(openssh)


def test_a_second_factor_is_asked_of_nobody(openssh, doorman):
    """Paramiko would print at the terminal of the process, and wait there."""
    keeper, way = doorman
    keeper.wants_more = True

    assert "which somebody has to type" in refusal(openssh, **way)


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
def test_a_line_that_is_none_is_not_trusted(openssh, tmp_path, line):
    """One that was commented out above all, or a part of a comment."""
    file = tmp_path / "known"
    host, key = f"[127.0.0.1]:{openssh.port}", public(openssh.home / "host_ed25519")
    file.write_text(line.replace("HOST", host).replace("ED", key) + "\n", "utf-8")

    assert "is unknown" in refusal(openssh, known_hosts_fpath=str(file))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_sound_key_that_the_server_does_not_know_is_refused_by_the_server(openssh, kind):
    """And not called something else, whatever paramiko tried it as."""
    key = openssh.make_key(f"unknown_{kind}_{secrets.token_hex(4)}", kind)

    assert "does not let us in" in refusal(openssh, key_filename=str(key))


@pytest.mark.parametrize("length", [74, 116])
def test_a_key_that_ends_too_early_is_told(openssh, tmp_path, length):
    """In our words: paramiko falls over some."""
    lines = (openssh.home / "user_ed25519").read_text().splitlines()
    body = base64.b64decode("".join(lines[1:-1]))[:length]
    key = tmp_path / "key"
    key.write_text("\n".join([lines[0], base64.b64encode(body).decode(), lines[-1], ""]))
    key.chmod(0o600)

    assert "cannot be used" in refusal(openssh, ConfigurationError, key_filename=str(key))


# -- passwords --------------------------------------------------------------------------------------------------------


def test_a_password_opens_the_door(plain_sftp, caplog):
    """No log shows it."""
    caplog.set_level(logging.DEBUG)

    get_in(plain_sftp, key_filename=None, password=plain_sftp.password)

    assert "paramiko" in {record.name.partition(".")[0] for record in caplog.records}
    assert plain_sftp.password not in caplog.text


def test_keys_are_tried_before_a_password(openssh, doorman):
    """Which is sent only where no key is taken."""
    keeper, way = doorman
    keeper.takes_keys = False
    with make_storage(openssh, **way, password=PASSPHRASE).create_client() as client:
        assert require_transport(client).is_authenticated()
    assert keeper.passwords == [PASSPHRASE]

    keeper.takes_keys = True
    with make_storage(openssh, **way, password=PASSPHRASE).create_client():
        assert keeper.passwords == [PASSPHRASE]


def test_a_wrong_password_is_refused(plain_sftp):
    """And not repeated."""
    told = refusal(plain_sftp, key_filename=None, password=PASSPHRASE)

    assert "does not let us in: check username and key or password" in told
    assert PASSPHRASE not in told


def test_a_server_that_takes_no_password_refuses(openssh):
    """It says so before it is sent one."""
    assert "does not let us in" in refusal(openssh, key_filename=None, password=PASSPHRASE)


# -- ways to the server -----------------------------------------------------------------------------------------------


@pytest.fixture
def lead(tmp_path):
    """A program that leads its input and output to a port, and notes how it was called."""
    program = tmp_path / "lead.py"
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


def test_a_command_leads_to_the_server(openssh, lead, tmp_path):
    """Its words are filled in, and it ends with the storage."""
    with closing(make_storage(openssh, proxy_command=f"{lead} %h %p '%r at %h' 100%% %x")) as storage:
        content = os.urandom(3 << 20)
        storage.write("a.bin", content)
        assert storage.read("a.bin") == content
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)

    called = (tmp_path / "called").read_text()
    assert called == repr(["127.0.0.1", str(openssh.port), f"{openssh.username} at 127.0.0.1", "100%", "%x"])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_server_behind_a_command_is_checked(openssh, lead, known):
    """Whoever leads there may lead astray."""
    told = refusal(openssh, proxy_command=f"{lead} %h %p", known_hosts_fpath=known(""))

    assert f"the host key of [127.0.0.1]:{openssh.port} is unknown" in told


def test_a_command_that_ends_is_noticed(openssh, lead, tmp_path):
    """At once, and a new one is started."""
    with closing(make_storage(openssh, proxy_command=f"{lead} %h %p")) as storage:
        storage.write("a.txt", b"1")
        first = (tmp_path / "pid").read_text()
        os.kill(int(first), 9)

        assert storage.read("a.txt") == b"1"
        assert (tmp_path / "pid").read_text() != first


@pytest.mark.parametrize(
    ("command", "kind", "text"),
    [
        ("/no/such/program %h", ConfigurationError, "cannot be run (No such file or directory): check its first word"),
        ("/ %h", ConfigurationError, "cannot be run (Permission denied)"),
        ("false", StorageUnavailableError, "check host, port and proxy"),
        ("echo hello", StorageUnavailableError, "check host, port and proxy"),
        ("sleep 60.5", StorageTimeoutError, "did not response in time"),
        ("sh -c 'trap : TERM; while :; do sleep 60; done'", StorageTimeoutError, "did not response in time"),
    ],
)
def test_a_command_that_leads_nowhere_is_told(openssh, monkeypatch, command, kind, text):
    """And does not stay behind, even if it wants to."""
    monkeypatch.setattr("flask_storage.backends.sftp.transport._TERMINATE_TIMEOUT", 0.1)
    patience = SOON if kind is StorageTimeoutError else PATIENCE
    told = refusal(openssh, kind, proxy_command=command, connect_timeout=patience)

    assert text in told
    assert command.partition(" ")[2] not in told or not command.partition(" ")[2]


def both_known(openssh, strict, tmp_path):
    """Return a file that knows both servers."""
    file = tmp_path / "both"
    file.write_text(openssh.known_hosts.read_text() + strict.known_hosts.read_text())
    return file


@pytest.mark.parametrize("form", ["{user}@127.0.0.1:{port}", "127.0.0.1:{port}"])
def test_a_server_leads_to_another(openssh, strict, tmp_path, form):
    """As ``ProxyJump`` does; both are checked, and both connections end with the storage."""
    shutil.copy(openssh.home / "user_ed25519.pub", tmp_path / "key.pub")
    with (strict.home / "authorized_keys").open("a") as file:
        file.write((tmp_path / "key.pub").read_text())
    jump = form.format(user=strict.username, port=strict.port)
    arguments = {"proxy_jump": jump, "known_hosts_fpath": both_known(openssh, strict, tmp_path)}
    entered = strict.log.count("Accepted publickey")

    get_in(openssh, **arguments)

    assert strict.log.count("Accepted publickey") == entered + 1
    right = fingerprint(openssh.home / "host_ed25519.pub")
    get_in(openssh, **arguments, host_key_fingerprint=right)
    strict_print = fingerprint(strict.home / "host_ed25519.pub")
    assert "is not the host_key_fingerprint" in refusal(openssh, **arguments, host_key_fingerprint=strict_print)


def test_a_server_in_between_has_to_be_known(openssh, strict):
    """Its key is none of the profile's, but of the file's."""
    told = refusal(openssh, proxy_jump=f"127.0.0.1:{strict.port}")

    assert f"the host key of [127.0.0.1]:{strict.port} is unknown" in told
    assert "host_key_fingerprint" not in told


def test_the_server_behind_another_has_to_be_known(openssh, strict):
    """Nobody is taken at the word of whoever leads there."""
    with (strict.home / "authorized_keys").open("a") as file:
        file.write((openssh.home / "user_ed25519.pub").read_text())

    told = refusal(openssh, proxy_jump=f"127.0.0.1:{strict.port}", known_hosts_fpath=strict.known_hosts)

    assert f"the host key of [127.0.0.1]:{openssh.port} is unknown" in told


def test_a_server_that_leads_nowhere_is_told(openssh, strict, tmp_path):
    """It may not, or nobody is there."""
    with (strict.home / "authorized_keys").open("a") as file:
        file.write((openssh.home / "user_ed25519.pub").read_text())
    port = free_port()

    told = refusal(
        openssh,
        StorageUnavailableError,
        port=port,
        proxy_jump=f"127.0.0.1:{strict.port}",
        known_hosts_fpath=strict.known_hosts,
    )

    assert told == f"127.0.0.1 does not connect to 127.0.0.1:{port}: check its AllowTcpForwarding"


def test_a_server_in_between_never_hears_the_password(openssh, papers):
    """It is the other's; the key is offered to both."""
    curious = type(openssh)("PasswordAuthentication yes", "AllowTcpForwarding yes")
    try:
        (curious.home / "authorized_keys").write_text("")
        told = refusal(
            openssh,
            proxy_jump=f"127.0.0.1:{curious.port}",
            known_hosts_fpath=curious.known_hosts,
            password="a secret of the other server",
        )
        heard = curious.log
    finally:
        curious.remove()

    assert f"127.0.0.1:{curious.port} does not let us in" in told
    assert "publickey" in heard
    assert "password" not in heard.lower()


def test_a_server_that_hangs_up_after_the_login_is_told(openssh):
    """As OpenSSH does where somebody else may write to its ``ChrootDirectory``."""
    open_to_all = type(openssh)("ChrootDirectory /tmp")
    try:
        told = refusal(open_to_all, StorageUnavailableError)
        heard = open_to_all.log
    finally:
        open_to_all.remove()

    assert "a ChrootDirectory and all above it must belong to root" in told
    assert "Accepted publickey" in heard


def test_a_connection_of_ones_own_ends_with_the_one_that_carries_it(openssh, strict, tmp_path):
    """Closing it closes both."""
    with (strict.home / "authorized_keys").open("a") as file:
        file.write((openssh.home / "user_ed25519.pub").read_text())
    known = both_known(openssh, strict, tmp_path)
    with closing(make_storage(openssh, proxy_jump=f"127.0.0.1:{strict.port}", known_hosts_fpath=known)) as storage:
        client: Any = storage.create_client()
        first = client.jump_client
        client.close()

    assert first.get_transport() is None


def test_a_line_that_takes_nothing_ends(monkeypatch):
    """After a while, which begins anew whenever it takes something: paramiko would try for ever."""
    now = [0.0]
    monkeypatch.setattr("flask_storage.backends.sftp.transport.time.monotonic", lambda: now[0])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.001)
        line = SendTimeoutSocket(ours, 5)

        def fill():
            while True:
                line.send(bytes(1 << 16))

        def ends(kind):
            with pytest.raises(kind) as caught:
                fill()
            assert type(caught.value) is kind

        for _ in range(2):
            ends(TimeoutError)
            now[0] += 4.9
            ends(TimeoutError)
            now[0] += 0.2
            ends(ConnectionAbortedError)
            theirs.recv(1 << 20)
        assert line.fileno() == ours.fileno()


def test_an_answer_for_which_paramiko_would_wait_for_ever_is_given_up():
    """As that of a server that never says whether it serves files."""
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
def test_the_favourite_cipher_of_both_is_used(strict, ciphers, used):
    """Those that the server or paramiko does not have are passed over."""
    with make_storage(strict, ciphers=ciphers).create_client() as client:
        assert require_transport(client).remote_cipher == used


def test_ciphers_that_nobody_has_are_told(strict):
    """With those that there are; or with what the server said."""
    told = refusal(strict, ConfigurationError, ciphers="rot13")

    assert told.startswith("ciphers names none that paramiko knows: ")
    assert "aes256-gcm@openssh.com" in told
    assert "cipher" in refusal(strict, StorageUnavailableError, ciphers="aes192-ctr")


# -- who does not response ----------------------------------------------------------------------------------------------


def test_a_port_that_nobody_listens_on_is_told(openssh):
    """With host and port."""
    port = free_port()

    told = refusal(openssh, StorageUnavailableError, port=port)

    assert told.startswith(f"127.0.0.1:{port} cannot be reached (")
    assert "refused" in told
    assert told.endswith("check host and port")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_host_that_there_is_not_is_told(openssh, host):
    """Also where no host can have this name."""
    told = refusal(openssh, StorageUnavailableError, host=host)
    assert told.startswith(f"{host}:{openssh.port} cannot be reached (")


def test_a_host_that_drops_what_it_gets_is_told(openssh):
    """As a firewall does; here a queue is full."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        address = door.getsockname()
        waiting: list[socket.socket] = []
        try:
            with suppress(TimeoutError):
                waiting.extend(socket.create_connection(address, 0.2) for _ in range(8))

            told = refusal(openssh, StorageTimeoutError, port=address[1], connect_timeout=SOON)
        finally:
            for one in waiting:
                one.close()

    assert told == f"127.0.0.1:{address[1]} did not response within 0.3 s: check host, port and firewalls"


def say(words):
    """Return what a server does that says *words*, and nothing more."""

    def serve(sock):
        with suppress(OSError):
            sock.sendall(words)

    return serve


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-slow\r\n"], ids=["nothing", "name"])
def test_a_server_that_says_nothing_more_is_told(openssh, words):
    """It is there, and does not get on with it."""
    with listening(say(words)) as port:
        told = refusal(openssh, StorageTimeoutError, port=port, connect_timeout=SOON)

    assert told == f"127.0.0.1:{port} did not response in time: try again, or raise connect_timeout"


def test_a_port_of_another_protocol_is_told(openssh):
    """The text shows how it answered."""

    def serve(sock):
        with suppress(OSError):
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            sock.recv(4096)
            sock.shutdown(socket.SHUT_RDWR)

    with listening(serve) as port:
        told = refusal(openssh, StorageUnavailableError, port=port)

    assert told.startswith(f"no connection to 127.0.0.1:{port} (")
    assert "check host, port" in told


def test_a_server_that_hangs_up_is_told(openssh):
    """As one that has enough connections."""
    with listening(lambda sock: sock.shutdown(socket.SHUT_RDWR)) as port:
        told = refusal(openssh, StorageUnavailableError, port=port)

    assert told.startswith(f"no connection to 127.0.0.1:{port} (")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("echo Welcome to this server; exec sleep 60", "a login that prints text breaks SFTP"),
        ("exit 1", "try again"),
        ("sleep 60.5", "did not response in time"),
    ],
)
def test_a_login_that_does_something_else_is_told(openssh, command, text):
    """A greeting in ``.bashrc`` is what many run into."""
    server = type(openssh)(f"ForceCommand {command}")
    try:
        kind = StorageTimeoutError if text.endswith("time") else StorageUnavailableError
        assert text in refusal(server, kind, read_timeout=0.5 if kind is StorageTimeoutError else 15)
    finally:
        server.remove()


# -- connections of one's own -----------------------------------------------------------------------------------------


def test_a_client_of_ones_own_is_the_same_as_ours(openssh):
    """Checked, let in, quick, and up to its borrower to close."""
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


def test_a_client_that_cannot_be_had_is_an_error_of_ours(openssh):
    """Not paramiko's."""
    storage = make_storage(openssh, key_filename=str(openssh.home / "other_ed25519"))

    with pytest.raises(PermissionDeniedError, match="does not let us in") as caught:
        storage.create_client()
    assert isinstance(caught.value.__cause__, paramiko.AuthenticationException)
    with pytest.raises(PermissionDeniedError, match="does not let us in"):
        storage.connection().__enter__()


def test_a_connection_is_lent_for_a_block(openssh):
    """With paramiko's own client, which nothing confines; it is closed behind."""
    storage = make_storage(openssh)
    with storage.connection() as client:
        with client.open(f"{storage.root}/a.txt", "w") as file:
            file.write("1")
        client.symlink("/etc/hostname", f"{storage.root}/link")
    with closing(storage):
        assert storage.read("a.txt") == b"1"

    with pytest.raises(OSError, match="closed"):
        client.listdir()


def test_a_connection_knows_when_it_has_ended(openssh):
    """And ends as often as somebody likes."""
    connection = make_storage(openssh)._connection_settings.connect()
    states = [connection.is_alive]
    connection.close()
    connection.close()

    assert [*states, connection.is_alive] == [True, False]
    with pytest.raises(ConnectionLostError, match="hung up"):
        connection.open()


def test_whoever_interrupts_a_login_is_heard(openssh, monkeypatch):
    """What is no error of connecting is not made one, and no connection stays behind."""
    sockets = []

    def interrupted(client, *arguments, sock, **more):
        sockets.append(sock)
        raise KeyboardInterrupt

    monkeypatch.setattr(paramiko.SSHClient, "connect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_storage(openssh).create_client()

    assert [sock.fileno() for sock in sockets] == [-1]
