"""What an SFTP profile may say: every argument, in Python, JSON, a URL and the environment, and what is wrong."""

import json
import logging
import subprocess
import sys
import textwrap
import traceback
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask

from flask_storage import ConfigurationError, SFTPStorage, Storage
from flask_storage.backends.sftp.auth import CIPHERS
from flask_storage.backends.sftp.host_keys import KnownHosts
from flask_storage.backends.sftp.transport import JumpHost
from tests.sftp_storages import make_storage

pytest_plugins = ["tests.services.openssh"]

HIDDEN = "not-for-the-logs"
PRINT = f"SHA256:{'a+/Z' * 10}abc"
OTHER_PRINT = f"SHA256:{'b' * 43}"


def made(**arguments):
    """Return a storage that is not asked for anything."""
    return SFTPStorage(**{"host": "files.example.com", **arguments})


def login_of(storage):
    """Return what the arguments about the connection became."""
    return storage._connection_settings


def from_profile(spec):
    """Return the storage that an app makes of a profile."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = {"docs": spec}
    return Storage(app).for_app(app)["docs"]


def shown_by(error):
    """Return all that a log would show of an error."""
    return "".join(traceback.format_exception_only(error))


# -- what may be given, and what not ----------------------------------------------------------------------------------


def test_the_arguments_stand_in_the_order_of_the_predecessor():
    """Host, user, key, known hosts, port, agent, look for keys, endpoint, secret, name."""
    storage = SFTPStorage(
        "files.example.com", "web", "/keys/id", "/keys/known", 2222, True, True, "app.links", b"s" * 32, "docs"
    )
    login = login_of(storage)

    assert (login.host, login.username, login.key_filenames, login.port) == (
        "files.example.com",
        "web",
        ("/keys/id",),
        2222,
    )
    assert (str(login.known_hosts.path), login.allow_agent, login.look_for_keys) == ("/keys/known", True, True)
    assert (storage.linked_endpoint, storage._secret_key, storage.name) == ("app.links", b"s" * 32, "docs")


def test_a_host_is_enough():
    """The rest is what most people want: one's own known hosts, and no key that was not named."""
    login = login_of(made())

    assert (login.port, login.username, login.key_filenames) == (22, None, ())
    assert (login.allow_agent, login.look_for_keys) == (False, False)
    assert login.known_hosts.path == Path("~/.ssh/known_hosts").expanduser()
    assert login.fingerprints == frozenset()
    assert (login.password, login.passphrase, login.proxy_command, login.proxy_jump) == (None, None, None, None)
    assert (login.connect_timeout, login.read_timeout, login.keepalive) == (10, 15, 30)
    assert login.ciphers == CIPHERS
    assert (made().name, made().root) == ("sftp", ".")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"host": ""}, "host is a text of one line"),
        ({"host": None}, "host is a text of one line"),
        ({"host": "a\nb"}, "host is a text of one line"),
        ({"host": 5}, "host is a text of one line"),
        ({"username": ""}, "username is a text of one line"),
        ({"username": 5}, "username is a text of one line"),
        ({"key_filename": ""}, "key_filename is a text of one line"),
        ({"key_filename": "a\0b"}, "key_filename is a text of one line"),
        ({"key_filename": [5]}, "key_filename is a text of one line"),
        ({"key_filename": 5}, "key_filename is a path, or a list of paths"),
        ({"key_filename": True}, "key_filename is a path, or a list of paths"),
        ({"key_filename": b"id"}, "key_filename is a path, or a list of paths"),
        ({"key_filename": {"id": 1}}, "key_filename is a path, or a list of paths"),
        ({"known_hosts_fpath": ""}, "known_hosts_fpath is a text of one line"),
        ({"known_hosts_fpath": 5}, "known_hosts_fpath is a text of one line"),
        ({"known_hosts_fpath": "a\0b"}, "known_hosts_fpath is a text of one line"),
        ({"port": 0}, "port is a whole number from 1 on"),
        ({"port": "ssh"}, "port is a whole number from 1 on"),
        ({"port": None}, "port is a whole number from 1 on"),
        ({"port": True}, "port is a whole number from 1 on"),
        ({"port": 22.5}, "port is a whole number from 1 on"),
        ({"port": 65536}, "port is at most 65535"),
        ({"allow_agent": "perhaps"}, "allow_agent is true or false"),
        ({"look_for_keys": "perhaps"}, "look_for_keys is true or false"),
        ({"linked_endpoint": 5}, "linked_endpoint of 'sftp' must be text"),
        ({"secret_key": ""}, "secret_key of 'sftp' is empty"),
        ({"root": ""}, "root is a text of one line"),
        ({"root": None}, "root is a text of one line"),
        ({"root": b"files"}, "root is a text of one line"),
        ({"root": "a\0b"}, "root is a text of one line"),
        ({"password": ""}, "password is a text of one line"),
        ({"password": 5}, "password is a text of one line"),
        ({"password": f"{HIDDEN}\n"}, "password is a text of one line"),
        ({"passphrase": ""}, "passphrase is a text of one line"),
        ({"passphrase": HIDDEN.encode()}, "passphrase is a text of one line"),
        ({"host_key_fingerprint": ""}, "host_key_fingerprint is written 'SHA256:…'"),
        ({"host_key_fingerprint": []}, "host_key_fingerprint is written 'SHA256:…'"),
        ({"host_key_fingerprint": 5}, "host_key_fingerprint is written 'SHA256:…'"),
        ({"host_key_fingerprint": [5]}, "host_key_fingerprint is written 'SHA256:…'"),
        ({"host_key_fingerprint": [PRINT, "SHA256:abc"]}, "host_key_fingerprint is written 'SHA256:…'"),
        ({"host_key_fingerprint": f"{PRINT}x"}, "host_key_fingerprint is written 'SHA256:…'"),
        ({"host_key_fingerprint": PRINT.removeprefix("SHA256:")}, "host_key_fingerprint is written 'SHA256:…'"),
        ({"host_key_fingerprint": "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48"}, "is written 'SHA256:…'"),
        ({"proxy_command": ""}, "proxy_command is a text of one line"),
        ({"proxy_command": " "}, "proxy_command is a command as a shell takes it"),
        ({"proxy_command": f"sshpass -p '{HIDDEN}"}, "proxy_command is a command as a shell takes it"),
        ({"proxy_command": ["nc", "%h", "%p"]}, "proxy_command is a text of one line"),
        ({"proxy_command": "nc %h %p", "proxy_jump": "gate"}, "give a proxy_command or a proxy_jump, not both"),
        ({"proxy_jump": ""}, "proxy_jump is a text of one line"),
        ({"proxy_jump": "web@"}, "proxy_jump is written 'user@host:port'"),
        ({"proxy_jump": ":22"}, "proxy_jump is written 'user@host:port'"),
        ({"proxy_jump": "gate:ssh"}, "proxy_jump is written 'user@host:port'"),
        ({"proxy_jump": "gate:99999"}, "proxy_jump is written 'user@host:port'"),
        ({"proxy_jump": "[::1"}, "proxy_jump is written 'user@host:port'"),
        ({"proxy_jump": "gate/files"}, "proxy_jump is written 'user@host:port'"),
        ({"proxy_jump": f"web:{HIDDEN}@gate"}, "proxy_jump is written 'user@host:port'"),
        ({"ciphers": ""}, "ciphers is a list of names"),
        ({"ciphers": []}, "ciphers is a list of names"),
        ({"ciphers": 5}, "ciphers is a list of names"),
        ({"ciphers": [5]}, "ciphers is a list of names"),
        ({"connect_timeout": 0}, "connect_timeout is a number of seconds"),
        ({"connect_timeout": "wait_until"}, "connect_timeout is a number of seconds"),
        ({"read_timeout": -1}, "read_timeout is a number of seconds"),
        ({"read_timeout": float("nan")}, "read_timeout is a number of seconds"),
        ({"read_timeout": None}, "read_timeout is a number of seconds"),
        ({"keepalive": -1}, "keepalive is a number of seconds"),
        ({"keepalive": None}, "keepalive is a number of seconds"),
        ({"max_connections": 0}, "max_connections is a whole number from 1 on"),
        ({"max_connections": 10**9}, "max_connections is at most 10000"),
        ({"max_sessions": 0}, "max_sessions is a whole number from 1 on"),
        ({"max_sessions": "many"}, "max_sessions is a whole number from 1 on"),
        ({"idle_timeout": 0}, "idle_timeout is a number of seconds"),
        ({"file_mode": 640}, "no file_mode: write it in octal"),
        ({"file_mode": "rw"}, "no file_mode: write it in octal"),
        ({"file_mode": 0o400}, "no file_mode: write it in octal"),
        ({"directory_mode": 0o600}, "no directory_mode: write it in octal"),
        ({"directory_mode": None}, "no directory_mode: write it in octal"),
        ({"fsync": "perhaps"}, "fsync is true or false"),
        ({"base_url": 5}, "base_url"),
    ],
    ids=str,
)
def test_what_cannot_work_is_told_at_once(arguments, text):
    """Before anybody connects. The text says what would be right, and nowhere shows what may be a secret."""
    with pytest.raises(ConfigurationError) as caught:
        made(**arguments)

    assert text in str(caught.value)
    assert HIDDEN not in shown_by(caught.value)


@pytest.mark.parametrize("arguments", [{"color": "red"}, {"timeout": 5}])
def test_an_argument_that_there_is_not_is_told_with_those_that_there_are(arguments):
    """As a slip of the pen in a profile."""
    with pytest.raises(ConfigurationError, match=r"SFTPStorage takes host, username, key_filename, .*portable"):
        from_profile({"backend": "sftp", "host": "files.example.com", **arguments})


def test_without_a_host_there_is_no_storage():
    """The one argument that nothing stands in for."""
    with pytest.raises(ConfigurationError, match="missing a required argument: 'host'"):
        from_profile({"backend": "sftp"})


def test_keys_may_be_several_and_paths_and_of_ones_home(monkeypatch):
    """As ``IdentityFile`` is with OpenSSH."""
    monkeypatch.setenv("HOME", "/home/web")

    assert login_of(made(key_filename="~/id")).key_filenames == ("/home/web/id",)
    assert login_of(made(key_filename=Path("/keys/id"))).key_filenames == ("/keys/id",)
    assert login_of(made(key_filename=["/keys/a", Path("~/b")])).key_filenames == ("/keys/a", "/home/web/b")
    assert login_of(made(key_filename=("/keys/a",))).key_filenames == ("/keys/a",)
    assert login_of(made(key_filename=[])).key_filenames == ()
    assert login_of(made(known_hosts_fpath=Path("~/known"))).known_hosts.path == Path("/home/web/known")
    assert KnownHosts(None).path == Path("/home/web/.ssh/known_hosts")


@pytest.mark.parametrize(
    "given",
    [
        f"{PRINT},{OTHER_PRINT}",
        f"{PRINT} {OTHER_PRINT}",
        f"{PRINT}=, {OTHER_PRINT}=",
        [PRINT, OTHER_PRINT],
        {PRINT, OTHER_PRINT},
        (f"{PRINT}=", OTHER_PRINT),
    ],
    ids=str,
)
def test_fingerprints_may_be_several(given):
    """As while a server changes its key; the sign at the end, which some tools add, is no part of one."""
    assert login_of(made(host_key_fingerprint=given)).fingerprints == {PRINT, OTHER_PRINT}


@pytest.mark.parametrize(
    ("given", "jump"),
    [
        ("gate", JumpHost(None, "gate", 22)),
        ("gate:2222", JumpHost(None, "gate", 2222)),
        ("web@gate", JumpHost("web", "gate", 22)),
        ("web@gate.example.com:2222", JumpHost("web", "gate.example.com", 2222)),
        ("web@[::1]:2222", JumpHost("web", "::1", 2222)),
        ("@gate", JumpHost(None, "gate", 22)),
    ],
)
def test_a_server_in_between_is_named_as_with_openssh(given, jump):
    """User and port may be left out."""
    assert login_of(made(proxy_jump=given)).proxy_jump == jump


def test_a_command_in_between_is_split_as_a_shell_does():
    """But by no shell: nothing in it is looked up, run or written to."""
    given = login_of(made(proxy_command="sh -c 'exec nc %h %p' $(id) > x")).proxy_command

    assert given == ["sh", "-c", "exec nc %h %p", "$(id)", ">", "x"]


@pytest.mark.parametrize(
    "given",
    ["aes256-ctr,aes128-ctr", "aes256-ctr, aes128-ctr", ["aes256-ctr", "aes128-ctr"], ("aes256-ctr", "aes128-ctr")],
    ids=str,
)
def test_ciphers_are_a_list_or_a_text(given):
    """With commas, as OpenSSH has them."""
    assert login_of(made(ciphers=given)).ciphers == ("aes256-ctr", "aes128-ctr")


def test_times_may_be_spans_and_text():
    """A ``timedelta`` is a number of seconds."""
    login = login_of(made(connect_timeout=timedelta(seconds=3), read_timeout="1.5", keepalive=timedelta(0)))

    assert (login.connect_timeout, login.read_timeout, login.keepalive) == (3, 1.5, 0)


def test_the_pool_gets_its_bounds():
    """How many connections, how many sessions on each, and how long they wait for work."""
    pool = made(max_connections="3", max_sessions=5, idle_timeout=timedelta(minutes=1))._pool()

    assert (pool._max_connections, pool._sessions_per_connection, pool._idle_timeout, pool._acquire_timeout) == (
        3,
        5,
        60,
        25,
    )


def test_nobody_is_asked_when_a_storage_is_made():
    """An app starts while the server is away."""
    storage = made(host="no-such-host.invalid", known_hosts_fpath="/no/such/file", key_filename="/no/such/key")

    assert storage._pool.pop() is None


# -- as URL, JSON, environment and pair -------------------------------------------------------------------------------


def test_a_profile_may_be_a_url():
    """Text becomes what it means."""
    storage = from_profile(
        "sftp://web@files.example.com:2222/srv/files?key_filename=/keys/id&known_hosts_fpath=/keys/known"
        f"&host_key_fingerprint={quote(PRINT)}&connect_timeout=3&keepalive=0&fsync=no&file_mode=640&directory_mode=0750"
        "&allow_agent=true&look_for_keys=1&ciphers=aes256-ctr,aes128-ctr&max_connections=2&max_sessions=4&proxy_jump=gate"
    )
    login = login_of(storage)

    assert (storage.name, storage.root) == ("docs", "/srv/files")
    assert (login.host, login.port, login.username, login.password) == ("files.example.com", 2222, "web", None)
    assert (login.key_filenames, str(login.known_hosts.path)) == (("/keys/id",), "/keys/known")
    assert (login.fingerprints, login.connect_timeout, login.keepalive) == ({PRINT}, 3, 0)
    assert (login.allow_agent, login.look_for_keys) == (True, True)
    assert (login.ciphers, login.proxy_jump) == (("aes256-ctr", "aes128-ctr"), JumpHost(None, "gate", 22))
    atomic_write = storage._atomic_write
    assert (atomic_write._file_mode, atomic_write.tree._directory_mode, atomic_write._sync) == (0o640, 0o750, False)


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("", "."),
        ("/~", "."),
        ("/~/", "."),
        ("/~/files", "files"),
        ("/~/a/b", "a/b"),
        ("/~web/files", "/~web/files"),
        ("/srv/files", "/srv/files"),
        ("/srv/my%20files", "/srv/my files"),
        ("?root=elsewhere", "elsewhere"),
    ],
)
def test_the_path_of_a_url_is_the_root(path, root):
    """``/~/`` begins where the server puts the user, as in the URLs of git and curl."""
    assert from_profile(f"sftp://files.example.com{path}").root == root


def test_a_url_that_ends_after_the_host_is_not_for_the_whole_disk():
    """One slash too much would be; who means it, says so."""
    for path in ("/", "//", "/%2F", "/.", "/.."):
        with pytest.raises(ConfigurationError, match="write /~/ for the folder where it puts the user"):
            from_profile(f"sftp://files.example.com{path}")

    assert from_profile("sftp://files.example.com/?root=/").root == "/"


def test_what_a_url_cannot_hold_is_escaped():
    """In the user's name as in the password."""
    login = login_of(from_profile("sftp://web%40example.com:p%40ss%2Fword@files.example.com/srv"))

    assert (login.username, login.password, login.host) == ("web@example.com", "p@ss/word", "files.example.com")
    assert login_of(from_profile("sftp://[::1]:2222/srv")).host == "::1"


@pytest.mark.parametrize(
    "url",
    [
        "sftp:///srv/files",
        f"sftp://web:{HIDDEN}@/srv/files",
        f"sftp://web:{HIDDEN}@files.example.com:99999/srv",
        f"sftp://web:{HIDDEN}@files.example.com:ssh/srv",
        f"sftp://web:{HIDDEN}@files.example.com/srv?port=0",
        f"sftp://web:{HIDDEN}@files.example.com/srv?color=red",
        f"sftp://web:{HIDDEN}@files.example.com/srv?fsync=perhaps",
        f"sftp://web:{HIDDEN}@files.example.com/a%00b",
    ],
)
def test_a_url_that_cannot_work_is_told_without_its_password(url):
    """Logs would show it."""
    with pytest.raises(ConfigurationError) as caught:
        from_profile(url)

    assert HIDDEN not in shown_by(caught.value)


def test_a_profile_may_be_json():
    """Lists are lists there, and modes text."""
    spec = json.loads(
        '{"backend": "sftp", "host": "files.example.com", "key_filename": ["/keys/a", "/keys/b"], "port": 2222,'
        ' "ciphers": ["aes256-ctr"], "file_mode": "640", "root": "files", "username": null, "fsync": false}'
    )
    storage = from_profile(spec)
    login = login_of(storage)

    assert (login.key_filenames, login.port, login.ciphers, login.username) == (
        ("/keys/a", "/keys/b"),
        2222,
        ("aes256-ctr",),
        None,
    )
    assert (storage._atomic_write._file_mode, storage._atomic_write._sync, storage.root) == (0o640, False, "files")


@pytest.mark.parametrize("backend", ["sftp", SFTPStorage, "flask_storage.backends.sftp:SFTPStorage"])
def test_a_profile_may_be_the_predecessors_pair(backend):
    """A class, or its name, and its arguments."""
    storage = from_profile((backend, {"host": "files.example.com", "known_hosts_fpath": "/keys/known"}))

    assert isinstance(storage, SFTPStorage)
    assert (storage.name, login_of(storage).host) == ("docs", "files.example.com")


def test_a_profile_may_come_from_the_environment(monkeypatch):
    """As a URL, in one variable."""
    monkeypatch.setenv("FLASK_STORAGE_PROFILES", json.dumps({"docs": "sftp://web@files.example.com/~/files"}))
    app = Flask(__name__)
    app.config.from_prefixed_env()
    storage = Storage(app).for_app(app)["docs"]

    assert isinstance(storage, SFTPStorage)
    assert (login_of(storage).username, storage.root) == ("web", "files")


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_shown():
    """Neither by the storage, nor by what is in it: a debugger shows the values of a traceback."""
    storage = made(password=HIDDEN, passphrase=HIDDEN, secret_key=HIDDEN * 3, proxy_command=f"sshpass -p {HIDDEN} ssh")

    for shown in (repr(storage), str(storage), repr(login_of(storage)), repr(storage._tree), repr(storage._pool)):
        assert HIDDEN not in shown
    assert repr(storage) == "<SFTPStorage 'sftp'>"


def test_a_passphrase_reaches_no_log_and_no_error(openssh, tmp_path, caplog):
    """Whether it is right or wrong, with all that paramiko has to say."""
    key = tmp_path / "id_ed25519"
    key.write_text((openssh.home / "user_ed25519").read_text())
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", HIDDEN, "-f", str(key)], check=True, capture_output=True)
    caplog.set_level(logging.DEBUG)
    with closing(make_storage(openssh, key_filename=str(key), passphrase=HIDDEN)) as storage:
        storage.write("a.txt", b"1")
    with (
        closing(make_storage(openssh, key_filename=str(key), passphrase=f"{HIDDEN}!")) as storage,
        pytest.raises(ConfigurationError, match="passphrase is another") as caught,
    ):
        storage.list()

    assert "paramiko" in {record.name.partition(".")[0] for record in caplog.records}
    assert HIDDEN not in caplog.text
    assert HIDDEN not in shown_by(caught.value)


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "file_mode", "directory_mode"),
    [
        ({}, 0o600, 0o700),
        ({"file_mode": 0o640, "directory_mode": 0o750}, 0o640, 0o750),
        ({"file_mode": "666", "directory_mode": "0o777"}, 0o666, 0o777),
        ({"file_mode": 0o640, "directory_mode": 0o2770}, 0o640, 0o2770),
        ({"directory_mode": 0o2700}, 0o600, 0o2700),
    ],
    ids=str,
)
def test_files_and_folders_get_their_modes(openssh, arguments, file_mode, directory_mode):
    """Exactly, whatever the umask of the server is, and however a file is written."""
    with closing(make_storage(openssh, **arguments)) as storage:
        storage.write("a/b/one.txt", b"1")
        with storage.open("a/c/two.txt", "w") as writer:
            writer.write(b"2")
        storage.copy("a/b/one.txt", "d/three.txt")
        here = openssh.folder / storage.root

        files = {path.name: path.stat().st_mode & 0o7777 for path in here.rglob("*.txt")}
        folders = {path.name: path.stat().st_mode & 0o7777 for path in here.rglob("*") if path.is_dir()}

    assert files == dict.fromkeys(["one.txt", "two.txt", "three.txt"], file_mode)
    assert folders == dict.fromkeys(["a", "b", "c", "d"], directory_mode)


def test_what_was_replaced_gets_the_mode_of_the_profile(openssh):
    """Not that of the file before."""
    with closing(make_storage(openssh, file_mode="640")) as storage:
        storage.write("a.txt", b"1")
        (openssh.folder / storage.root / "a.txt").chmod(0o666)
        storage.write("a.txt", b"2")

        assert (openssh.folder / storage.root / "a.txt").stat().st_mode & 0o7777 == 0o640


def test_a_storage_says_what_it_can_do():
    """What it cannot, callers can ask for before they try."""
    capabilities: Any = made().capabilities

    assert (capabilities.read_write, capabilities.exclusive, capabilities.server_side_copy) == (True, True, False)
    assert capabilities.metadata is False


@pytest.mark.parametrize("host", ["web:hunter2@files.example.com", "sftp://files.example.com", "files example", "a/b"])
def test_a_host_is_a_host_and_nothing_else(host):
    """What stands beside it would be shown with every error."""
    with pytest.raises(ConfigurationError, match="host is a name or an address, and nothing else") as caught:
        SFTPStorage(host)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["sftp://u:hunter2/x@h/y", "sftp://h:99999/y", "sftp://h:0/y", "sftp://u:hunter2#@h/y"])
def test_a_url_whose_port_is_none_is_refused_without_its_password(url):
    """It may be a password with characters that have to be written otherwise."""
    with pytest.raises(ConfigurationError) as caught:
        from_profile(url)

    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert "port" in shown


# -- without paramiko -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        """
        try:
            from flask_storage import SFTPStorage
        except ImportError as error:
            print(error)
        """,
        """
        from flask import Flask
        from flask_storage import ConfigurationError, Storage
        app = Flask("app")
        app.config["STORAGE_PROFILES"] = {"docs": "sftp://web@files.example.com/~/docs"}
        try:
            Storage(app)
        except ConfigurationError as error:
            print(error)
        """,
    ],
    ids=["a name", "a profile"],
)
def test_without_paramiko_the_error_says_what_to_install(lines):
    """When it is asked for, and when the app starts."""
    hidden = "import sys\nsys.modules['paramiko'] = None\n"
    said = subprocess.run(
        [sys.executable, "-c", hidden + textwrap.dedent(lines)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert 'needs paramiko: pip install "flask-storage-profiles[sftp]"' in said
