"""The arguments of an SFTP profile in Python, JSON, a URL and the environment: accepted, and refused with an error."""

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

SECRET = "not-for-the-logs"
FINGERPRINT = f"SHA256:{'a+/Z' * 10}abc"
OTHER_FINGERPRINT = f"SHA256:{'b' * 43}"


def new_storage(**arguments):
    """Return a storage that no test uses to connect."""
    return SFTPStorage(**{"host": "files.example.com", **arguments})


def settings_of(storage):
    """Return the connection settings of a storage."""
    return storage._connection_settings


def from_profile(spec):
    """Return the storage that an app makes from a profile."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = {"docs": spec}
    return Storage(app).for_app(app)["docs"]


def formatted(error):
    """Return an error as a log shows it."""
    return "".join(traceback.format_exception_only(error))


# -- arguments --------------------------------------------------------------------------------------------------------


def test_positional_arguments_have_the_order_of_keg_storage():
    """Host, user, key, known hosts, port, agent, look for keys, endpoint, secret, name."""
    storage = SFTPStorage(
        "files.example.com", "web", "/keys/id", "/keys/known", 2222, True, True, "app.links", b"s" * 32, "docs"
    )
    config = settings_of(storage)

    assert (config.host, config.username, config.key_filenames, config.port) == (
        "files.example.com",
        "web",
        ("/keys/id",),
        2222,
    )
    assert (str(config.known_hosts.path), config.allow_agent, config.look_for_keys) == ("/keys/known", True, True)
    assert (storage.linked_endpoint, storage._secret_key, storage.name) == ("app.links", b"s" * 32, "docs")


def test_only_the_host_is_required():
    """By default, no key is tried that was not given."""
    config = settings_of(new_storage())

    assert (config.port, config.username, config.key_filenames) == (22, None, ())
    assert (config.allow_agent, config.look_for_keys) == (False, False)
    assert config.known_hosts.path == Path("~/.ssh/known_hosts").expanduser()
    assert config.fingerprints == frozenset()
    assert (config.password, config.passphrase, config.proxy_command, config.proxy_jump) == (
        None,
        None,
        None,
        None,
    )
    assert (config.connect_timeout, config.read_timeout, config.keepalive) == (10, 15, 30)
    assert config.ciphers == CIPHERS
    assert (new_storage().name, new_storage().root) == ("sftp", ".")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"host": ""}, "host must be one line of text"),
        ({"host": None}, "host must be one line of text"),
        ({"host": "a\nb"}, "host must be one line of text"),
        ({"host": 5}, "host must be one line of text"),
        ({"username": ""}, "username must be one line of text"),
        ({"username": 5}, "username must be one line of text"),
        ({"key_filename": ""}, "key_filename must be one line of text"),
        ({"key_filename": "a\0b"}, "key_filename must be one line of text"),
        ({"key_filename": [5]}, "key_filename must be one line of text"),
        ({"key_filename": 5}, "key_filename must be a path, or a list of paths"),
        ({"key_filename": True}, "key_filename must be a path, or a list of paths"),
        ({"key_filename": b"id"}, "key_filename must be a path, or a list of paths"),
        ({"key_filename": {"id": 1}}, "key_filename must be a path, or a list of paths"),
        ({"known_hosts_fpath": ""}, "known_hosts_fpath must be one line of text"),
        ({"known_hosts_fpath": 5}, "known_hosts_fpath must be one line of text"),
        ({"known_hosts_fpath": "a\0b"}, "known_hosts_fpath must be one line of text"),
        ({"port": 0}, "port must be a whole number of at least 1"),
        ({"port": "ssh"}, "port must be a whole number of at least 1"),
        ({"port": None}, "port must be a whole number of at least 1"),
        ({"port": True}, "port must be a whole number of at least 1"),
        ({"port": 22.5}, "port must be a whole number of at least 1"),
        ({"port": 65536}, "port must be at most 65535"),
        ({"allow_agent": "perhaps"}, "allow_agent must be true or false"),
        ({"look_for_keys": "perhaps"}, "look_for_keys must be true or false"),
        ({"linked_endpoint": 5}, "linked_endpoint of 'sftp' must be text"),
        ({"secret_key": ""}, "secret_key of 'sftp' is empty"),
        ({"root": ""}, "root must be one line of text"),
        ({"root": None}, "root must be one line of text"),
        ({"root": b"files"}, "root must be one line of text"),
        ({"root": "a\0b"}, "root must be one line of text"),
        ({"password": ""}, "password must be one line of text"),
        ({"password": 5}, "password must be one line of text"),
        ({"password": f"{SECRET}\n"}, "password must be one line of text"),
        ({"passphrase": ""}, "passphrase must be one line of text"),
        ({"passphrase": SECRET.encode()}, "passphrase must be one line of text"),
        ({"host_key_fingerprint": ""}, "host_key_fingerprint must be 'SHA256:…'"),
        ({"host_key_fingerprint": []}, "host_key_fingerprint must be 'SHA256:…'"),
        ({"host_key_fingerprint": 5}, "host_key_fingerprint must be 'SHA256:…'"),
        ({"host_key_fingerprint": [5]}, "host_key_fingerprint must be 'SHA256:…'"),
        ({"host_key_fingerprint": [FINGERPRINT, "SHA256:abc"]}, "host_key_fingerprint must be 'SHA256:…'"),
        ({"host_key_fingerprint": f"{FINGERPRINT}x"}, "host_key_fingerprint must be 'SHA256:…'"),
        ({"host_key_fingerprint": FINGERPRINT.removeprefix("SHA256:")}, "host_key_fingerprint must be 'SHA256:…'"),
        ({"host_key_fingerprint": "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48"}, "must be 'SHA256:…'"),
        ({"proxy_command": ""}, "proxy_command must be one line of text"),
        ({"proxy_command": " "}, "proxy_command is not a valid shell command"),
        ({"proxy_command": f"sshpass -p '{SECRET}"}, "proxy_command is not a valid shell command"),
        ({"proxy_command": ["nc", "%h", "%p"]}, "proxy_command must be one line of text"),
        ({"proxy_command": "nc %h %p", "proxy_jump": "gate"}, "proxy_command and proxy_jump cannot be combined"),
        ({"proxy_jump": ""}, "proxy_jump must be one line of text"),
        ({"proxy_jump": "web@"}, "proxy_jump must be 'user@host:port'"),
        ({"proxy_jump": ":22"}, "proxy_jump must be 'user@host:port'"),
        ({"proxy_jump": "gate:ssh"}, "proxy_jump must be 'user@host:port'"),
        ({"proxy_jump": "gate:99999"}, "proxy_jump must be 'user@host:port'"),
        ({"proxy_jump": "[::1"}, "proxy_jump must be 'user@host:port'"),
        ({"proxy_jump": "gate/files"}, "proxy_jump must be 'user@host:port'"),
        ({"proxy_jump": f"web:{SECRET}@gate"}, "proxy_jump must be 'user@host:port'"),
        ({"ciphers": ""}, "ciphers must be a list of names"),
        ({"ciphers": []}, "ciphers must be a list of names"),
        ({"ciphers": 5}, "ciphers must be a list of names"),
        ({"ciphers": [5]}, "ciphers must be a list of names"),
        ({"connect_timeout": 0}, "connect_timeout must be a number of seconds"),
        ({"connect_timeout": "wait_until"}, "connect_timeout must be a number of seconds"),
        ({"read_timeout": -1}, "read_timeout must be a number of seconds"),
        ({"read_timeout": float("nan")}, "read_timeout must be a number of seconds"),
        ({"read_timeout": None}, "read_timeout must be a number of seconds"),
        ({"keepalive": -1}, "keepalive must be a number of seconds"),
        ({"keepalive": None}, "keepalive must be a number of seconds"),
        ({"max_connections": 0}, "max_connections must be a whole number of at least 1"),
        ({"max_connections": 10**9}, "max_connections must be at most 10000"),
        ({"max_sessions": 0}, "max_sessions must be a whole number of at least 1"),
        ({"max_sessions": "many"}, "max_sessions must be a whole number of at least 1"),
        ({"idle_timeout": 0}, "idle_timeout must be a number of seconds"),
        ({"file_mode": 640}, "file_mode: write it in octal"),
        ({"file_mode": "rw"}, "file_mode: write it in octal"),
        ({"file_mode": 0o400}, "file_mode: write it in octal"),
        ({"directory_mode": 0o600}, "directory_mode: write it in octal"),
        ({"fsync": "perhaps"}, "fsync must be true or false"),
        ({"base_url": 5}, "base_url"),
    ],
    ids=str,
)
def test_an_invalid_argument_is_refused(arguments, text):
    """Before a connection is made. The error says what is valid, and does not show secrets."""
    with pytest.raises(ConfigurationError) as caught:
        new_storage(**arguments)

    assert text in str(caught.value)
    assert SECRET not in formatted(caught.value)


@pytest.mark.parametrize("arguments", [{"color": "red"}, {"timeout": 5}])
def test_an_unknown_argument_is_refused(arguments):
    """It may be a typing error in a profile."""
    with pytest.raises(ConfigurationError, match="SFTPStorage has no argument"):
        from_profile({"backend": "sftp", "host": "files.example.com", **arguments})


def test_a_profile_without_a_host_is_refused():
    """The only argument without a default."""
    with pytest.raises(ConfigurationError, match="missing a required argument: 'host'"):
        from_profile({"backend": "sftp"})


def test_keys_may_be_several_paths_and_begin_with_a_tilde(monkeypatch):
    """As ``IdentityFile`` of OpenSSH."""
    monkeypatch.setenv("HOME", "/home/web")

    assert settings_of(new_storage(key_filename="~/id")).key_filenames == ("/home/web/id",)
    assert settings_of(new_storage(key_filename=Path("/keys/id"))).key_filenames == ("/keys/id",)
    assert settings_of(new_storage(key_filename=["/keys/a", Path("~/b")])).key_filenames == ("/keys/a", "/home/web/b")
    assert settings_of(new_storage(key_filename=("/keys/a",))).key_filenames == ("/keys/a",)
    assert settings_of(new_storage(key_filename=[])).key_filenames == ()
    assert settings_of(new_storage(known_hosts_fpath=Path("~/known"))).known_hosts.path == Path("/home/web/known")
    assert KnownHosts(None).path == Path("/home/web/.ssh/known_hosts")


@pytest.mark.parametrize(
    "given",
    [
        f"{FINGERPRINT},{OTHER_FINGERPRINT}",
        f"{FINGERPRINT} {OTHER_FINGERPRINT}",
        f"{FINGERPRINT}=, {OTHER_FINGERPRINT}=",
        [FINGERPRINT, OTHER_FINGERPRINT],
        {FINGERPRINT, OTHER_FINGERPRINT},
        (f"{FINGERPRINT}=", OTHER_FINGERPRINT),
    ],
    ids=str,
)
def test_several_fingerprints_may_be_given(given):
    """For a key rotation; the padding that some tools print is removed."""
    assert settings_of(new_storage(host_key_fingerprint=given)).fingerprints == {FINGERPRINT, OTHER_FINGERPRINT}


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
def test_proxy_jump_has_the_form_of_openssh(given, jump):
    """User and port may be left out."""
    assert settings_of(new_storage(proxy_jump=given)).proxy_jump == jump


def test_proxy_command_is_split_by_the_rules_of_a_shell():
    """But no shell runs it: nothing in it is substituted or redirected."""
    given = settings_of(new_storage(proxy_command="sh -c 'exec nc %h %p' $(id) > x")).proxy_command

    assert given == ["sh", "-c", "exec nc %h %p", "$(id)", ">", "x"]


@pytest.mark.parametrize(
    "given",
    ["aes256-ctr,aes128-ctr", "aes256-ctr, aes128-ctr", ["aes256-ctr", "aes128-ctr"], ("aes256-ctr", "aes128-ctr")],
    ids=str,
)
def test_ciphers_may_be_a_list_or_text(given):
    """With commas, as OpenSSH has them."""
    assert settings_of(new_storage(ciphers=given)).ciphers == ("aes256-ctr", "aes128-ctr")


def test_times_may_be_timedelta_objects_or_text():
    """A number is in seconds."""
    config = settings_of(new_storage(connect_timeout=timedelta(seconds=3), read_timeout="1.5", keepalive=timedelta(0)))

    assert (config.connect_timeout, config.read_timeout, config.keepalive) == (3, 1.5, 0)


def test_the_limits_are_passed_to_the_pool():
    """Numbers of connections and sessions, and the time-outs."""
    pool = new_storage(max_connections="3", max_sessions=5, idle_timeout=timedelta(minutes=1))._pool()

    assert (pool._max_connections, pool._sessions_per_connection, pool._idle_timeout, pool._acquire_timeout) == (
        3,
        5,
        60,
        25,
    )


def test_the_constructor_makes_no_connection():
    """An app starts even if the server is down."""
    storage = new_storage(host="no-such-host.invalid", known_hosts_fpath="/no/such/file", key_filename="/no/such/key")

    assert storage._pool.pop() is None


# -- profiles as URL, JSON, environment variable and pair -------------------------------------------------------------


def test_a_profile_may_be_a_url():
    """Text is converted to the types of the arguments."""
    storage = from_profile(
        "sftp://web@files.example.com:2222/srv/files?key_filename=/keys/id&known_hosts_fpath=/keys/known"
        f"&host_key_fingerprint={quote(FINGERPRINT)}&connect_timeout=3&keepalive=0&fsync=no&file_mode=640&directory_mode=0750"
        "&allow_agent=true&look_for_keys=1&ciphers=aes256-ctr,aes128-ctr&max_connections=2&max_sessions=4&proxy_jump=gate"
    )
    config = settings_of(storage)

    assert (storage.name, storage.root) == ("docs", "/srv/files")
    assert (config.host, config.port, config.username, config.password) == (
        "files.example.com",
        2222,
        "web",
        None,
    )
    assert (config.key_filenames, str(config.known_hosts.path)) == (("/keys/id",), "/keys/known")
    assert (config.fingerprints, config.connect_timeout, config.keepalive) == ({FINGERPRINT}, 3, 0)
    assert (config.allow_agent, config.look_for_keys) == (True, True)
    assert (config.ciphers, config.proxy_jump) == (("aes256-ctr", "aes128-ctr"), JumpHost(None, "gate", 22))
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
    """``/~/`` is the user's initial directory, as in the URLs of git and curl."""
    assert from_profile(f"sftp://files.example.com{path}").root == root


def test_a_url_with_the_path_slash_is_refused():
    """It is probably a mistake; root=/ in the query allows the whole disk."""
    for path in ("/", "//", "/%2F", "/.", "/.."):
        with pytest.raises(ConfigurationError, match="write a path, /~/ for the user's initial directory"):
            from_profile(f"sftp://files.example.com{path}")

    assert from_profile("sftp://files.example.com/?root=/").root == "/"


def test_user_and_password_of_a_url_are_unquoted():
    """As the path is."""
    config = settings_of(from_profile("sftp://web%40example.com:p%40ss%2Fword@files.example.com/srv"))

    assert (config.username, config.password, config.host) == (
        "web@example.com",
        "p@ss/word",
        "files.example.com",
    )
    assert settings_of(from_profile("sftp://[::1]:2222/srv")).host == "::1"


@pytest.mark.parametrize(
    "url",
    [
        "sftp:///srv/files",
        f"sftp://web:{SECRET}@/srv/files",
        f"sftp://web:{SECRET}@files.example.com:99999/srv",
        f"sftp://web:{SECRET}@files.example.com:ssh/srv",
        f"sftp://web:{SECRET}@files.example.com/srv?port=0",
        f"sftp://web:{SECRET}@files.example.com/srv?color=red",
        f"sftp://web:{SECRET}@files.example.com/srv?fsync=perhaps",
        f"sftp://web:{SECRET}@files.example.com/a%00b",
    ],
)
def test_the_error_of_an_invalid_url_does_not_show_its_password(url):
    """It would be in the logs."""
    with pytest.raises(ConfigurationError) as caught:
        from_profile(url)

    assert SECRET not in formatted(caught.value)


def test_a_profile_may_be_json():
    """Lists are lists, and modes are text."""
    spec = json.loads(
        '{"backend": "sftp", "host": "files.example.com", "key_filename": ["/keys/a", "/keys/b"], "port": 2222,'
        ' "ciphers": ["aes256-ctr"], "file_mode": "640", "root": "files", "username": null, "fsync": false}'
    )
    storage = from_profile(spec)
    config = settings_of(storage)

    assert (config.key_filenames, config.port, config.ciphers, config.username) == (
        ("/keys/a", "/keys/b"),
        2222,
        ("aes256-ctr",),
        None,
    )
    assert (storage._atomic_write._file_mode, storage._atomic_write._sync, storage.root) == (0o640, False, "files")


@pytest.mark.parametrize("backend", ["sftp", SFTPStorage, "flask_storage.backends.sftp:SFTPStorage"])
def test_a_profile_may_be_a_pair_as_in_keg_storage(backend):
    """A class or its name, and its arguments."""
    storage = from_profile((backend, {"host": "files.example.com", "known_hosts_fpath": "/keys/known"}))

    assert isinstance(storage, SFTPStorage)
    assert (storage.name, settings_of(storage).host) == ("docs", "files.example.com")


def test_a_profile_may_come_from_the_environment(monkeypatch):
    """As a URL in one variable."""
    monkeypatch.setenv("FLASK_STORAGE_PROFILES", json.dumps({"docs": "sftp://web@files.example.com/~/files"}))
    app = Flask(__name__)
    app.config.from_prefixed_env()
    storage = Storage(app).for_app(app)["docs"]

    assert isinstance(storage, SFTPStorage)
    assert (settings_of(storage).username, storage.root) == ("web", "files")


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_no_repr_shows_a_secret():
    """Neither that of the storage nor those of its attributes, which a debugger shows."""
    storage = new_storage(
        password=SECRET, passphrase=SECRET, secret_key=SECRET * 3, proxy_command=f"sshpass -p {SECRET} ssh"
    )

    for text in (repr(storage), str(storage), repr(settings_of(storage)), repr(storage._tree), repr(storage._pool)):
        assert SECRET not in text
    assert repr(storage) == "<SFTPStorage 'sftp'>"


def test_a_passphrase_is_in_no_log_and_no_error(openssh, tmp_path, caplog):
    """Whether it is correct or wrong, also in the logs of paramiko."""
    key = tmp_path / "id_ed25519"
    key.write_text((openssh.home / "user_ed25519").read_text())
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", SECRET, "-f", str(key)], check=True, capture_output=True)
    caplog.set_level(logging.DEBUG)
    with closing(make_storage(openssh, key_filename=str(key), passphrase=SECRET)) as storage:
        storage.write("a.txt", b"1")
    with (
        closing(make_storage(openssh, key_filename=str(key), passphrase=f"{SECRET}!")) as storage,
        pytest.raises(ConfigurationError, match="the passphrase is wrong") as caught,
    ):
        storage.list()

    assert "paramiko" in {record.name.partition(".")[0] for record in caplog.records}
    assert SECRET not in caplog.text
    assert SECRET not in formatted(caught.value)


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
def test_files_and_directories_get_the_configured_modes(openssh, arguments, file_mode, directory_mode):
    """Exactly, regardless of the umask of the server and of the way a file is written."""
    with closing(make_storage(openssh, **arguments)) as storage:
        storage.write("a/b/one.txt", b"1")
        with storage.open("a/c/two.txt", "w") as writer:
            writer.write(b"2")
        storage.copy("a/b/one.txt", "d/three.txt")
        root = openssh.folder / storage.root

        files = {path.name: path.stat().st_mode & 0o7777 for path in root.rglob("*.txt")}
        directories = {path.name: path.stat().st_mode & 0o7777 for path in root.rglob("*") if path.is_dir()}

    assert files == dict.fromkeys(["one.txt", "two.txt", "three.txt"], file_mode)
    assert directories == dict.fromkeys(["a", "b", "c", "d"], directory_mode)


def test_a_replaced_file_gets_the_configured_mode(openssh):
    """Not that of the old file."""
    with closing(make_storage(openssh, file_mode="640")) as storage:
        storage.write("a.txt", b"1")
        (openssh.folder / storage.root / "a.txt").chmod(0o666)
        storage.write("a.txt", b"2")

        assert (openssh.folder / storage.root / "a.txt").stat().st_mode & 0o7777 == 0o640


def test_capabilities_are_declared():
    """Callers can check them before they use a feature."""
    capabilities: Any = new_storage().capabilities

    assert (capabilities.read_write, capabilities.exclusive, capabilities.server_side_copy) == (True, True, False)
    assert capabilities.metadata is False


@pytest.mark.parametrize("host", ["web:hunter2@files.example.com", "sftp://files.example.com", "files example", "a/b"])
def test_a_host_with_user_or_scheme_is_refused(host):
    """A password in it would be shown with every error."""
    with pytest.raises(ConfigurationError, match="host must be a host name or an address only") as caught:
        SFTPStorage(host)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["sftp://u:hunter2/x@h/y", "sftp://h:99999/y", "sftp://h:0/y", "sftp://u:hunter2#@h/y"])
def test_the_error_of_an_invalid_port_does_not_show_a_password(url):
    """The invalid port may be a part of a password whose characters were not quoted."""
    with pytest.raises(ConfigurationError) as caught:
        from_profile(url)

    text = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in text
    assert "port" in text


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
    ids=["import", "profile"],
)
def test_without_paramiko_the_error_says_what_to_install(lines):
    """When the class is imported, and when an app starts."""
    without_paramiko = "import sys\nsys.modules['paramiko'] = None\n"
    output = subprocess.run(
        [sys.executable, "-c", without_paramiko + textwrap.dedent(lines)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert 'needs paramiko: pip install "flask-storage-profiles[sftp]"' in output
