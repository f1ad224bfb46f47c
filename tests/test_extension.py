"""The extension: the storages of an app, the link view, and errors for invalid settings."""

import json
import logging
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta
from importlib.metadata import EntryPoint, EntryPoints
from types import MappingProxyType

import flask
import pytest
from flask.sansio import app as sansio
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_storage import (
    ConfigurationError,
    LocalFSError,
    LocalFSStorage,
    MemoryStorage,
    Storage,
    UnknownProfileError,
    current_storage,
    registry,
)

HOUR = timedelta(hours=1)
SECRET = "s" * 32


@pytest.fixture
def make_app(tmp_path):
    """A function that creates an app with the given settings, and a Storage for it."""

    def make(**config):
        app = flask.Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update({"SECRET_KEY": SECRET, **config})
        Storage(app)
        return app

    return make


def profiles_of(app):
    """Return the storages of *app*."""
    return app.extensions["storage"]


# -- profiles ---------------------------------------------------------------------------------------------------------


def test_the_default_profile_is_a_directory_in_the_instance_folder(make_app, tmp_path):
    """Without any configuration; the directory is created."""
    app = make_app()

    profiles_of(app).default.write("a.txt", b"1")

    assert list(profiles_of(app)) == ["default"]
    assert (tmp_path / "instance" / "storage" / "a.txt").read_bytes() == b"1"


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param([(MemoryStorage, {"name": "docs"}), (MemoryStorage, {"name": "pics"})], id="pairs"),
        pytest.param([["memory", {"name": "docs"}], ["memory", {"name": "pics"}]], id="pairs with short names"),
        pytest.param({"docs": {"backend": "memory"}, "pics": {"backend": "memory"}}, id="mapping"),
        pytest.param({"docs": "memory:", "pics": "memory:?portable=true"}, id="URLs"),
        pytest.param({"docs": (MemoryStorage, {}), "pics": MemoryStorage()}, id="mapping of pairs and storages"),
        pytest.param(json.dumps({"docs": "memory:", "pics": {"backend": "memory"}}), id="JSON"),
        pytest.param(json.dumps([["memory", {"name": "docs"}], ["memory", {"name": "pics"}]]), id="JSON of pairs"),
    ],
)
def test_profiles_can_be_configured_in_every_form(make_app, setting):
    """All forms have the same result; the first profile is the default."""
    app = make_app(STORAGE_PROFILES=setting)

    profiles = profiles_of(app)

    assert list(profiles) == ["docs", "pics"]
    assert len(profiles) == 2
    assert all(isinstance(storage, MemoryStorage) for storage in profiles.values())
    assert profiles.default is profiles["docs"]
    assert repr(profiles) == "<Profiles docs, pics>"


def test_a_setting_selects_the_default_profile(make_app):
    """The order of the profiles does not matter then."""
    app = make_app(STORAGE_PROFILES={"a": "memory:", "b": "memory:"}, STORAGE_DEFAULT_PROFILE="b")

    assert profiles_of(app).default_name == "b"


def test_profiles_can_come_from_environment_variables(make_app, monkeypatch, tmp_path):
    """With `from_prefixed_env` alone."""
    monkeypatch.setenv("FLASK_STORAGE_PROFILES", json.dumps({"docs": f"local://{tmp_path}"}))
    app = flask.Flask(__name__)
    app.config.from_prefixed_env()

    Storage(app)

    assert isinstance(profiles_of(app)["docs"], LocalFSStorage)


def test_profiles_from_single_variables_require_a_default_profile(monkeypatch):
    """Environment variables have no defined order."""
    monkeypatch.setenv("FLASK_STORAGE_PROFILES__docs__backend", "memory")
    monkeypatch.setenv("FLASK_STORAGE_PROFILES__pics__backend", "memory")
    app = flask.Flask(__name__)
    app.config.from_prefixed_env()

    with pytest.raises(ConfigurationError, match="set STORAGE_DEFAULT_PROFILE to one of docs, pics"):
        Storage(app)

    app.config["STORAGE_DEFAULT_PROFILE"] = "pics"
    Storage(app)
    assert profiles_of(app).default_name == "pics"


def test_keg_storages_setting_is_read_with_a_warning(make_app):
    """A migration can start with the old name of the setting."""
    with pytest.warns(DeprecationWarning, match="STORAGE_PROFILES: rename"):
        app = make_app(KEG_STORAGE_PROFILES=[(MemoryStorage, {"name": "old"})])

    assert list(profiles_of(app)) == ["old"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("{no json", "not valid JSON"),
        (5, "is a int"),
        ({}, "contains no profile"),
        ([], "contains no profile"),
        ({"a/b": "memory:"}, "not a valid profile name"),
        ({5: "memory:"}, "not a valid profile name"),
        ([(MemoryStorage, {"name": "a"}), (MemoryStorage, {"name": "a"})], "two profiles are called 'a'"),
        ([(MemoryStorage, {})], r"\[0\] has no name"),
        ([MemoryStorage], r"\[0\] is not a pair"),
        ({"a": {"root": "x"}}, "has no backend"),
        ({"a": {"backend": "tape"}}, "no backend is called 'tape': the backends are azure, local, memory"),
        ({"a": {"backend": "no.such:Thing"}}, "cannot be imported"),
        ({"a": {"backend": "flask_storage.backends.memory:Nothing"}}, "cannot be imported"),
        ({"a": {"backend": "flask:Flask"}}, "is not a StorageBackend class"),
        ({"a": {"backend": object}}, "is not a StorageBackend class"),
        (
            {"a": {"backend": "memory", "colour": "red"}},
            "^profile 'a': MemoryStorage has no argument 'colour': its arguments are name, linked_endpoint",
        ),
        ({"a": {"backend": "local"}}, "^profile 'a': LocalFSStorage: missing a required argument: 'root'"),
        ({"a": {"backend": "local", "rot": "x"}}, "LocalFSStorage has no argument 'rot': did you mean 'root'"),
        ({"a": {"backend": "memory", "srve": True}}, "has no argument 'srve': did you mean 'serve'"),
        ({"a": {"backend": "memory", 5: 6}}, "has no argument 5: its arguments are name"),
        ({"a": "memory:?serve=1"}, "^profile 'a': a URL or a pair cannot have the key 'serve': write the profile as a"),
        ({"a": (MemoryStorage, {"serve": True})}, "^profile 'a': a URL or a pair cannot have the key 'serve'"),
        ({"a": "memory:?backend=s3"}, "cannot have the key 'backend'"),
        ({"a": {"backend": "memry"}}, "no backend is called 'memry': did you mean 'memory'"),
        ({"a": "files"}, "text but not a URL"),
        ({"a": "tape://x"}, "no backend is called 'tape'"),
        ({"a": "gs://bucket"}, "use the backend 's3' with preset='gcs' and the endpoint_url"),
        ({"a": {"backend": "minio", "bucket": "b"}}, "use the backend 's3' with preset='minio'"),
        (
            {"a": "memory:?colour=red"},
            "^profile 'a': MemoryStorage has no argument 'colour': its arguments are name, linked_endpoint",
        ),
        ({"a": "memory:?portable=perhaps"}, "portable must be true or false"),
        ({"a": "local://[::1/x"}, "not a URL"),
        ({"a": {"backend": ".tape:Tape"}}, "no backend is called '.tape:Tape'"),
        ({"a": {"backend": "tape://x"}}, "backend is a URL or a path: write a name like 'local'"),
        ({"a": {"backend": "local", "root": None}}, "^profile 'a': root is the path of a directory, and not empty"),
        ({"a": {"backend": "local", "root": ""}}, "^profile 'a': root is the path of a directory, and not empty"),
        ({"a": "local:"}, "^profile 'a': root is the path of a directory, and not empty"),
        ({"a": {"backend": "local", "root": "\0"}}, "LocalFSStorage cannot be created with these arguments"),
        ({"a": {"backend": "memory", "secret_key": 5}}, "^the secret_key of 'a' is empty"),
        ({"a": {"backend": "memory", "base_url": 5}}, "base_url of 'a' must be text"),
        ({"a": {"backend": "memory", "secret_key": 5}}, "neither text nor bytes"),
        ({"a": 5}, "is a int"),
        ({"a": {"backend": "memory", "secret_key": ""}}, "empty"),
        ({"a": {"backend": "memory", "secret_key": "short"}}, "fewer than 32 bytes"),
        ({"a": {"backend": "memory", "serve": True}}, "give it a base_url"),
        ({"a": {"backend": "memory", "unsupported_headers": "ignore"}}, "of 'a' must be 'error' or 'drop'"),
        ({"a": {"backend": "memory", "unsupported_headers": ["drop"]}}, "of 'a' must be 'error' or 'drop'"),
        ([(MemoryStorage, {"name": "a", "unsupported_headers": None})], "of 'a' must be 'error' or 'drop'"),
        ({"a": "memory:?unsupported_headers="}, "of 'a' must be 'error' or 'drop'"),
        ({"a": {"backend": "memory", "serve": True, "base_url": "https://cdn.example.com"}}, "give it a base_url"),
    ],
)
def test_an_invalid_profile_is_reported_at_start(make_app, setting, message):
    """The message names the valid choices."""
    with pytest.raises(ConfigurationError, match=message):
        make_app(STORAGE_PROFILES=setting)


def test_an_unknown_default_profile_is_reported_at_start(make_app):
    """The message lists the profiles."""
    with pytest.raises(ConfigurationError, match="did you mean 'docs'"):
        make_app(STORAGE_PROFILES={"docs": "memory:"}, STORAGE_DEFAULT_PROFILE="dosc")
    with pytest.raises(ConfigurationError, match="the profiles are docs"):
        make_app(STORAGE_PROFILES={"docs": "memory:"}, STORAGE_DEFAULT_PROFILE=5)


def test_a_missing_root_directory_is_reported_at_start(make_app, tmp_path):
    """Without `create`, a wrong path must not pass unnoticed."""
    with pytest.raises(LocalFSError, match="create=True"):
        make_app(STORAGE_PROFILES={"docs": {"backend": "local", "root": tmp_path / "missing"}})


@pytest.mark.parametrize(
    "spec", [{"backend": "memory", "secret_kee": "hunter2" * 8}, {"backend": "sftp://web:hunter2@files.example.com"}]
)
def test_no_message_shows_a_secret(make_app, spec):
    """Messages do not repeat the value of an argument: it may be a key, or a URL with a password."""
    with pytest.raises(ConfigurationError) as caught:
        make_app(STORAGE_PROFILES={"a": spec})

    assert "hunter2" not in str(caught.value)


def test_a_short_profile_secret_is_accepted_in_tests_and_debug_mode(make_app):
    """Tests and debugging need no real keys."""
    app = make_app(TESTING=True, STORAGE_PROFILES={"a": {"backend": "memory", "secret_key": "short"}})

    assert profiles_of(app)["a"].create_link_token(path="x", operation="d", expire=HOUR)


def test_a_profile_chooses_what_happens_to_headers_that_its_storage_cannot_keep(make_app, monkeypatch):
    """In every form of the configuration; a storage object has it as an attribute."""
    storage = MemoryStorage("object")
    storage.unsupported_headers = "drop"
    monkeypatch.setenv("FLASK_STORAGE_PROFILES__variables__backend", "memory")
    monkeypatch.setenv("FLASK_STORAGE_PROFILES__variables__unsupported_headers", "drop")
    monkeypatch.setenv("FLASK_STORAGE_DEFAULT_PROFILE", "variables")
    from_environment = flask.Flask(__name__)
    from_environment.config.from_prefixed_env()
    Storage(from_environment)

    profiles = profiles_of(
        make_app(
            STORAGE_PROFILES={
                "mapping": {"backend": "memory", "unsupported_headers": "drop"},
                "pair": (MemoryStorage, {"unsupported_headers": "drop"}),
                "url": "memory:?unsupported_headers=drop",
                "object": storage,
                "default": "memory:",
            }
        )
    )

    assert [profile.unsupported_headers for profile in profiles.values()] == ["drop"] * 4 + ["error"]
    assert profiles_of(from_environment)["variables"].unsupported_headers == "drop"


def test_a_storage_object_can_belong_to_one_profile_only(make_app):
    """A profile's name is the audience of its link tokens."""
    storage = MemoryStorage()

    with pytest.raises(ConfigurationError, match="already belongs to the profile 'a'"):
        make_app(STORAGE_PROFILES={"a": storage, "b": storage})


def test_a_url_is_equivalent_to_keyword_arguments(make_app, tmp_path):
    """Booleans and octal modes are parsed; paths are unquoted."""
    root = tmp_path / "my files"
    url = f"local://{tmp_path}/my%20files?create=yes&fsync=0&file_mode=0o640&base_url=/media"

    storage = profiles_of(make_app(STORAGE_PROFILES={"docs": url}))["docs"]

    assert storage.root == root
    assert storage.file_mode == 0o640
    assert not storage.tree.sync
    assert storage.base_url == "/media"


@pytest.mark.parametrize("mode", [0o640, "0o640", "640"])
def test_a_file_mode_may_be_octal_text(make_app, tmp_path, mode):
    """Environment variables are always text."""
    app = make_app(STORAGE_PROFILES={"docs": {"backend": "local", "root": tmp_path, "file_mode": mode}})

    assert profiles_of(app)["docs"].file_mode == 0o640


@pytest.mark.parametrize("mode", ["rw-r-----", 640, 644, 600, 755, True, -1, "", 1.5, "0o222", "7777777"])
def test_an_invalid_file_mode_is_reported_at_start(make_app, tmp_path, mode):
    """Not at the first write; decimal 640 would be 0o1200, which its owner cannot read."""
    with pytest.raises(ConfigurationError, match="is not a valid file_mode: write it in octal"):
        make_app(STORAGE_PROFILES={"docs": {"backend": "local", "root": tmp_path, "file_mode": mode}})


def test_an_unsupported_operating_system_is_reported():
    """Not as an import error of a missing module."""
    code = "import sys; sys.modules['fcntl'] = None; from flask_storage import LocalFSStorage"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "LocalFSStorage needs a POSIX system" in done.stderr


def test_a_distribution_can_register_a_backend_by_entry_point(make_app, monkeypatch):
    """`{"backend": "tape"}` works when an installed distribution registers it."""
    point = EntryPoint("tape", "flask_storage.backends.memory:MemoryStorage", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([point]).select(group=group))

    app = make_app(STORAGE_PROFILES={"docs": {"backend": "tape"}})

    assert isinstance(profiles_of(app)["docs"], MemoryStorage)


# -- the app ----------------------------------------------------------------------------------------------------------


def test_two_apps_in_one_process_are_independent(make_app):
    """All state is on the app; the extension object has none."""
    storage = Storage()
    first, second = flask.Flask("first"), flask.Flask("second")
    for app in (first, second):
        app.config["STORAGE_PROFILES"] = {"docs": "memory:"}
        storage.init_app(app)

    storage.for_app(first)["docs"].write("a", b"1")

    assert not storage.for_app(second)["docs"].exists("a")
    with second.app_context():
        assert current_storage["docs"] is storage.for_app(second)["docs"]
    with first.app_context():
        assert current_storage["docs"] is storage.for_app(first)["docs"]


def test_a_second_storage_on_one_app_is_an_error(make_app):
    """In keg-storage it replaced the first one's profiles."""
    app = make_app()

    with pytest.raises(ConfigurationError, match="already has a Storage"):
        Storage(app)


def test_an_unknown_profile_is_a_key_error_that_lists_the_profiles(make_app):
    """It is a KeyError (as of a mapping) and a ConfigurationError."""
    profiles = profiles_of(make_app(STORAGE_PROFILES={"docs": "memory:", "pics": "memory:"}))

    with pytest.raises(
        UnknownProfileError, match=r"^no profile is called 'dosc': the profiles are docs, pics$"
    ) as caught:
        profiles["dosc"]

    assert isinstance(caught.value, KeyError)
    assert profiles.get("dosc") is None


def test_an_app_without_the_extension_is_reported():
    """Not as a bare KeyError."""
    app = flask.Flask(__name__)

    with pytest.raises(RuntimeError, match="init_app"):
        Storage().for_app(app)
    with app.app_context(), pytest.raises(RuntimeError, match="init_app"):
        current_storage["docs"]


def test_get_interface_returns_a_storage_as_in_keg_storage(make_app):
    """The default one, or the one of the given profile."""
    app = make_app(STORAGE_PROFILES={"docs": "memory:", "pics": "memory:"})
    storage = Storage()

    with app.app_context():
        assert storage.get_interface().name == "docs"
        assert storage.get_interface("pics").name == "pics"
        with pytest.raises(ValueError, match="foo"):
            storage.get_interface("foo")


def test_the_command_group_can_have_another_name():
    """For apps that have their own `storage` commands."""
    app = flask.Flask(__name__)
    app.config["STORAGE_PROFILES"] = {"docs": "memory:"}

    Storage(app, cli_group_name="files")

    assert "files" in app.cli.commands
    assert "storage" not in app.cli.commands


def test_an_app_may_have_a_blueprint_called_storage(make_app):
    """The extension registers no blueprint of that name."""
    app = make_app()

    app.register_blueprint(flask.Blueprint("storage", __name__))

    assert "storage" in app.blueprints


class QuartLikeApp(sansio.App):
    """Like Quart's app: of Flask's base class, and not a Flask app."""

    def __init__(self):
        self.extensions = {}


@pytest.mark.parametrize("app", [QuartLikeApp(), object()])
def test_an_app_that_is_not_a_flask_app_is_refused_at_start(app):
    """Otherwise every request would fail, because there is no current app of Flask."""
    with pytest.raises(ConfigurationError, match=f"needs a Flask app, not .*{type(app).__name__}: pass an instance of"):
        Storage(app)


# -- links ------------------------------------------------------------------------------------------------------------


def test_a_link_works_without_code_in_the_app(make_app):
    """The extension registers the view."""
    app = make_app()
    profiles_of(app).default.write("a.txt", b"hi")

    with app.test_request_context():
        url = current_storage.default.link_to("a.txt", "download", HOUR)

    assert url.startswith("http://localhost/storage/default?token=")
    assert app.test_client().get(url).data == b"hi"


def test_a_link_is_valid_for_its_own_profile_only(make_app):
    """The profile is the token's audience."""
    app = make_app(STORAGE_PROFILES={"a": "memory:", "b": "memory:"})
    for storage in profiles_of(app).values():
        storage.write("x", b"1")

    with app.test_request_context():
        url = current_storage["a"].link_to("x", "d", HOUR)

    assert app.test_client().get(url).status_code == 200
    assert app.test_client().get(url.replace("/storage/a", "/storage/b")).status_code == 403


def test_the_link_view_has_the_configured_url_prefix(make_app):
    """Links contain the prefix too."""
    app = make_app(STORAGE_LINK_URL_PREFIX="/f/")
    profiles_of(app).default.write("x", b"1")

    with app.test_request_context():
        url = current_storage.default.link_to("x", "d", HOUR)

    assert url.startswith("http://localhost/f/default?")
    assert app.test_client().get(url).status_code == 200


def test_a_link_without_the_built_in_view_requires_an_endpoint(make_app):
    """`STORAGE_LINK_URL_PREFIX = None` disables the built-in view."""
    app = make_app(STORAGE_LINK_URL_PREFIX=None)

    with app.test_request_context(), pytest.raises(ConfigurationError, match="set linked_endpoint"):
        current_storage.default.link_to("x", "d", HOUR)

    assert app.test_client().get("/storage/default?token=x").status_code == 404


def test_a_linked_endpoint_is_used_for_links(make_app):
    """The token is in the query."""
    app = make_app(STORAGE_PROFILES={"docs": {"backend": "memory", "linked_endpoint": "mine"}})
    app.add_url_rule("/mine", endpoint="mine", view_func=lambda: "x")

    with app.test_request_context():
        assert current_storage.default.link_to("x", "d", HOUR).startswith("http://localhost/mine?token=")


def test_links_of_one_request_are_cached_by_profile_and_endpoint(make_app):
    """A cached URL must not be used for another profile."""
    profiles = {"a": "memory:", "b": {"backend": "memory", "linked_endpoint": "mine"}}
    app = make_app(STORAGE_PROFILES=profiles)
    app.add_url_rule("/mine/<token>/x", endpoint="mine", view_func=lambda token: token)

    with app.test_request_context():
        urls = [current_storage[profile].link_to(path, "d", HOUR) for path in "xy" for profile in "ab"]

    assert [url.startswith("http://localhost/storage/a?token=") for url in urls] == [True, False] * 2
    assert [url.startswith("http://localhost/mine/") and url.endswith("/x") for url in urls] == [False, True] * 2
    assert len(set(urls)) == 4


@pytest.fixture
def host_matching_app():
    """A function that creates an app whose routes are for certain hosts, with a link view of its own."""

    def make(**config):
        app = flask.Flask("hosts", host_matching=True, static_host="static.example")
        profiles = {
            "docs": {"backend": "memory", "base_url": "/media", "serve": True},
            "own": {"backend": "memory", "linked_endpoint": "own"},
            "hostless": {"backend": "memory", "linked_endpoint": "hostless"},
        }
        app.config.update(SECRET_KEY=SECRET, STORAGE_PROFILES=profiles, **config)
        Storage(app)
        app.add_url_rule("/own", endpoint="own", view_func=lambda: "own", host="own.example")
        app.add_url_rule("/hostless", endpoint="hostless", view_func=lambda: "")
        profiles_of(app)["docs"].write("x", b"1")
        return app

    return make


@pytest.mark.parametrize(
    ("config", "context", "start"),
    [
        ({}, "inside a request", "http://www.example:5000/storage/docs?token="),
        ({"SERVER_NAME": "files.example"}, "outside", "http://files.example/storage/docs?token="),
        ({"STORAGE_EXTERNAL_URL": "https://cdn.example"}, "outside", "https://cdn.example/storage/docs?token="),
        ({"STORAGE_EXTERNAL_URL": "https://cdn.example"}, "inside a request", "https://cdn.example/storage/docs?"),
    ],
)
def test_links_and_public_files_work_with_host_matching(host_matching_app, config, context, start):
    """The routes of the extension exist on every host; those of the app keep their own."""
    app = host_matching_app(**config)
    docs, own = profiles_of(app)["docs"], profiles_of(app)["own"]
    request_context = app.test_request_context(base_url="http://www.example:5000")

    with request_context if context == "inside a request" else nullcontext():
        url, own_url = docs.link_to("x", "d", HOUR), own.link_to("x", "d", HOUR)

    base_url = url.partition("/storage/")[0]
    assert url.startswith(start)
    assert app.test_client().get(url).data == b"1"
    assert app.test_client().get(docs.url("x").removeprefix(base_url), base_url=base_url).data == b"1"
    assert own_url.partition("://")[2].startswith("own.example/own?token=")


def test_a_linked_endpoint_without_a_host_is_reported_with_host_matching(host_matching_app):
    """Its URL would be `http:///hostless`."""
    app = host_matching_app(STORAGE_EXTERNAL_URL="https://cdn.example")

    with pytest.raises(ConfigurationError, match=r"'hostless' of profile 'hostless' has no host.*pass host="):
        profiles_of(app)["hostless"].link_to("x", "d", HOUR)


def test_an_unknown_linked_endpoint_is_reported(make_app):
    """Not as Werkzeug's BuildError."""
    app = make_app(STORAGE_PROFILES={"docs": {"backend": "memory", "linked_endpoint": "mien"}})

    with (
        app.test_request_context(),
        pytest.raises(ConfigurationError, match="'mien' of profile 'docs' is not an endpoint"),
    ):
        current_storage.default.link_to("x", "d", HOUR)


def test_a_link_outside_a_request_requires_the_apps_address(make_app):
    """The message names the settings."""
    app = make_app()

    with pytest.raises(ConfigurationError, match="STORAGE_EXTERNAL_URL"):
        profiles_of(app).default.link_to("x", "d", HOUR)


def test_a_link_outside_a_request_uses_the_server_name(make_app):
    """With Flask's own settings for scheme and root."""
    app = make_app(SERVER_NAME="shop.example.com", PREFERRED_URL_SCHEME="https", APPLICATION_ROOT="/app")

    url = profiles_of(app).default.link_to("x", "d", HOUR)

    assert url.startswith("https://shop.example.com/app/storage/default?token=")


def test_a_request_to_another_app_does_not_provide_the_address(make_app):
    """Its host is not this app's."""
    app = make_app()

    with flask.Flask("other").test_request_context(), pytest.raises(ConfigurationError, match="outside a request"):
        profiles_of(app).default.link_to("x", "d", HOUR)


@pytest.mark.parametrize("context", ["inside a request", "outside"])
def test_the_external_url_takes_precedence_over_the_request_host(make_app, context):
    """A forged Host header never gets into a link."""
    app = make_app(STORAGE_EXTERNAL_URL="https://files.example.com/base")

    if context == "outside":
        url = profiles_of(app).default.link_to("x", "d", HOUR)
    else:
        with app.test_request_context(headers={"Host": "evil.example"}):
            url = current_storage.default.link_to("x", "d", HOUR)

    assert url.startswith("https://files.example.com/base/storage/default?token=")


@pytest.mark.parametrize(
    "address",
    [
        "files.example.com",
        "ftp://files.example.com",
        "https://",
        "http://[::1",
        "https://files.example.com:port",
        "https://files.example.com\n",
        "https://files.example.com/?a=b",
        "https://files.example.com/#a",
        "https://web:hunter2@files.example.com",
        5,
    ],
)
def test_an_invalid_external_url_is_reported_at_start(make_app, address):
    """It must be an absolute http(s) URL to which the path of a link can be appended; the message does not show it."""
    with pytest.raises(ConfigurationError, match="STORAGE_EXTERNAL_URL must be an absolute") as caught:
        make_app(STORAGE_EXTERNAL_URL=address)

    assert "hunter2" not in str(caught.value)


def test_links_without_a_secret_key_are_refused_with_the_reason(make_app):
    """Everything else works."""
    app = make_app(SECRET_KEY=None)
    profiles_of(app).default.write("x", b"1")

    with app.test_request_context(), pytest.raises(ConfigurationError, match="the app has no SECRET_KEY"):
        current_storage.default.link_to("x", "d", HOUR)

    assert app.test_client().get("/storage/default?token=a.b.c").status_code == 404


def test_the_secret_key_can_be_set_after_init_app(make_app):
    """Many apps do that."""
    app = make_app(SECRET_KEY=None)

    app.secret_key = SECRET

    with app.test_request_context():
        assert current_storage.default.link_to("x", "d", HOUR)


def test_a_short_secret_key_causes_one_warning(make_app, caplog):
    """It is used nevertheless, because the app uses it too."""
    app = make_app(SECRET_KEY=b"dev")

    with caplog.at_level(logging.WARNING, "flask_storage"), app.test_request_context():
        current_storage.default.link_to("x", "d", HOUR)
        current_storage.default.link_to("x", "d", HOUR)

    assert [record.getMessage() for record in caplog.records] == [
        "SECRET_KEY or a fallback has fewer than 32 bytes: links can be forged by guessing it"
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"SECRET_KEY": 12345678},
        {"SECRET_KEY": ["a", "list"]},
        {"SECRET_KEY_FALLBACKS": "a text, whose letters would each be a key"},
        {"SECRET_KEY_FALLBACKS": [SECRET, 5]},
    ],
)
def test_secret_keys_that_are_not_text_or_bytes_are_refused(make_app, settings):
    """A number from the environment would become so many zero bytes."""
    app = make_app(**settings)

    with app.test_request_context(), pytest.raises(ConfigurationError, match="SECRET_KEY"):
        current_storage.default.link_to("x", "d", HOUR)


def test_a_short_fallback_key_causes_a_warning_too(make_app, caplog):
    """Links can be forged with any key that verifies."""
    app = make_app(SECRET_KEY_FALLBACKS=["old"])

    with caplog.at_level(logging.WARNING, "flask_storage"), app.test_request_context():
        current_storage.default.link_to("x", "d", HOUR)

    assert "fewer than 32 bytes" in caplog.text


def test_a_link_in_a_request_to_another_app_has_its_own_server_name(make_app):
    """The host of that request is the other app's."""
    app = make_app(SERVER_NAME="b.example", PREFERRED_URL_SCHEME="https")

    with flask.Flask("a").test_request_context(headers={"Host": "a.example"}):
        url = profiles_of(app).default.link_to("x", "d", HOUR)

    assert url.startswith("https://b.example/storage/default?")


@pytest.mark.parametrize("prefix", ["storage", 5, "", "/<x>", "//host", "/a?b"])
def test_an_invalid_url_prefix_is_reported_at_start(make_app, prefix):
    """Before anything is registered."""
    with pytest.raises(ConfigurationError, match="STORAGE_LINK_URL_PREFIX must be a path that begins with a slash"):
        make_app(STORAGE_LINK_URL_PREFIX=prefix)


def test_fallback_keys_verify_links_but_do_not_sign_them(make_app):
    """Old links work while their key is a fallback; new links are signed with the current key."""
    app = make_app(SECRET_KEY="old" * 16)
    profiles_of(app).default.write("x", b"1")
    client = app.test_client()

    def link():
        with app.test_request_context():
            return current_storage.default.link_to("x", "d", HOUR)

    old = link()
    app.config.update(SECRET_KEY="new" * 16, SECRET_KEY_FALLBACKS=["old" * 16])
    new = link()
    assert [client.get(url).status_code for url in (old, new)] == [200, 200]
    app.config.update(SECRET_KEY_FALLBACKS=None)
    assert [client.get(url).status_code for url in (old, new)] == [403, 200]
    app.config.update(SECRET_KEY="old" * 16)
    assert [client.get(url).status_code for url in (old, new)] == [200, 403]


# -- settings as text ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("serve", "status"), [("False", 404), ("no", 404), (0, 404), ("TRUE", 200), (True, 200)])
def test_a_boolean_setting_can_be_text(make_app, serve, status):
    """`False` from the environment is text; read as true it would publish every file."""
    app = make_app(STORAGE_PROFILES={"pics": {"backend": "memory", "base_url": "/media", "serve": serve}})
    profiles_of(app)["pics"].write("x", b"1")

    assert app.test_client().get("/media/x").status_code == status


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"STORAGE_PROFILES": {"a": {"backend": "memory", "serve": "perhaps"}}}, "serve must be true or false"),
        ({"STORAGE_PROFILES": {"a": {"backend": "memory", "portable": "perhaps"}}}, "portable must be true or false"),
        ({"STORAGE_X_SENDFILE": "perhaps"}, "STORAGE_X_SENDFILE must be true or false"),
        ({"STORAGE_X_ACCEL_REDIRECT": "/internal"}, "must be a mapping of profiles"),
        ({"STORAGE_X_ACCEL_REDIRECT": {"unknown": "/internal"}}, "the profiles are default"),
        ({"STORAGE_X_ACCEL_REDIRECT": {"default": 5}}, "must be a mapping of profiles"),
        ({"STORAGE_PROFILES": "[" * 100_000}, "not valid JSON"),
        (
            {"STORAGE_PROFILES": {"a": {"backend": "memory", "linked_endpoint": 1}}},
            "linked_endpoint of 'a' must be text",
        ),
        (
            {
                "STORAGE_PROFILES": {
                    "a": {"backend": "memory", "serve": True, "base_url": "/m"},
                    "b": {"backend": "memory", "serve": True, "base_url": "/m/"},
                }
            },
            "profiles 'b' and 'a' have the same base_url",
        ),
    ],
)
def test_an_invalid_setting_is_reported_at_start(make_app, settings, message):
    """The message says what to write instead."""
    with pytest.raises(ConfigurationError, match=message):
        make_app(**settings)


def test_two_apps_that_share_a_wsgi_environment_keep_their_addresses():
    """A dispatcher may pass one request on to a second app; each links to itself."""
    urls = {}
    apps = {}
    for name in ("one", "two"):
        app = apps[name] = flask.Flask(name)
        app.config.update(SECRET_KEY=SECRET, STORAGE_PROFILES={"docs": "memory:"}, STORAGE_LINK_URL_PREFIX=f"/s-{name}")
        Storage(app)

    environ = apps["one"].test_request_context().request.environ
    for name, app in apps.items():
        with app.request_context(environ):
            urls[name] = current_storage.default.link_to("x", "d", HOUR)

    assert urls["one"].startswith("http://localhost/s-one/")
    assert urls["two"].startswith("http://localhost/s-two/")


def test_environment_variables_of_other_profiles_are_ignored(make_app, monkeypatch):
    """The order is unknown only if all profiles of the app come from variables."""
    monkeypatch.setenv("OTHERAPP_STORAGE_PROFILES__x", "1")

    assert profiles_of(make_app(STORAGE_PROFILES={"a": "memory:", "b": "memory:"})).default_name == "a"


# -- public files -----------------------------------------------------------------------------------------------------


def test_a_profile_can_be_served_publicly(make_app):
    """Read-only, at its base_url."""
    app = make_app(STORAGE_PROFILES={"pics": {"backend": "memory", "base_url": "/media", "serve": True}})
    storage = profiles_of(app)["pics"]
    storage.write("a b/ü.txt", b"hi")
    client = app.test_client()

    url = storage.url("a b/ü.txt")

    assert url == "/media/a%20b/%C3%BC.txt"
    assert client.get(url).data == b"hi"
    assert client.head(url).headers["Content-Length"] == "2"
    assert client.put(url, data=b"x").status_code == 405
    assert client.delete(url).status_code == 405
    assert client.get("/media/missing").status_code == 404


@pytest.mark.parametrize(
    ("settings", "inside", "outside"),
    [
        ({}, "/app/media", "/media"),
        ({"APPLICATION_ROOT": "/app/"}, "/app/media", "/app/media"),
        ({"STORAGE_EXTERNAL_URL": "http://localhost/app/"}, "http://localhost/app/media", "http://localhost/app/media"),
    ],
)
def test_a_public_url_has_the_prefix_where_the_app_is_mounted(make_app, settings, inside, outside):
    """So it can be fetched from the app below a dispatcher, and links and public URLs begin alike."""
    profiles = {
        "pics": {"backend": "memory", "base_url": "/media/", "serve": True},
        "other": {"backend": "memory", "base_url": "/other"},
    }
    app = make_app(STORAGE_PROFILES=profiles, **settings)
    profiles_of(app)["pics"].write("a b", b"hi")
    app.add_url_rule("/page", view_func=lambda: current_storage["pics"].url("a b"))
    client = Client(DispatcherMiddleware(flask.Flask("root"), {"/app": app}))

    url = client.get("/app/page").text

    assert url == f"{inside}/a%20b"
    assert client.get(url).data == b"hi"
    assert profiles_of(app)["pics"].url("a b") == f"{outside}/a%20b"
    # Without `serve`, another program serves the files, at exactly this address.
    assert profiles_of(app)["other"].url("x") == "/other/x"


def test_the_prefix_of_a_request_to_another_app_is_not_used(make_app):
    """A public URL of this app does not depend on where the other app is mounted."""
    app = make_app(STORAGE_PROFILES={"pics": {"backend": "memory", "base_url": "/media", "serve": True}})

    with flask.Flask("other").test_request_context(base_url="http://localhost/other"):
        assert profiles_of(app)["pics"].url("x") == "/media/x"


def test_a_base_url_without_serve_publishes_nothing(make_app):
    """The app serves files only with `serve`."""
    app = make_app(STORAGE_PROFILES={"pics": {"backend": "memory", "base_url": "/media"}})
    profiles_of(app)["pics"].write("x", b"1")

    assert app.test_client().get("/media/x").status_code == 404


class RegionalStorage(MemoryStorage):
    """A backend one of whose arguments has a short name in profiles."""

    argument_aliases = MappingProxyType({"region": "cloud_region"})

    def __init__(self, cloud_region="none", name="memory"):
        super().__init__(name=name)
        self.cloud_region = cloud_region


@pytest.mark.parametrize("name", ["region", "cloud_region"])
@pytest.mark.parametrize("form", ["mapping", "pair", "url"])
def test_an_argument_may_have_another_name_in_every_form_of_a_profile(make_app, monkeypatch, form, name):
    """As `region` is short for the `aws_region` of S3."""
    monkeypatch.setitem(registry.BUILT_IN_BACKENDS, "regional", f"{__name__}:RegionalStorage")
    spec = {"backend": RegionalStorage, name: "west"} if form == "mapping" else f"regional:?{name}=west"
    setting = [(RegionalStorage, {"name": "a", name: "west"})] if form == "pair" else {"a": spec}

    app = make_app(STORAGE_PROFILES=setting)

    assert profiles_of(app)["a"].cloud_region == "west"


def test_an_argument_cannot_be_given_under_both_of_its_names(make_app):
    """One of them would be ignored."""
    spec = {"backend": RegionalStorage, "cloud_region": "west", "region": "east"}

    with pytest.raises(ConfigurationError, match=r"^profile 'a' has cloud_region twice: leave region out"):
        make_app(STORAGE_PROFILES={"a": spec})


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("STORAGE_PROFILE", "STORAGE_PROFILES"),
        ("FLASK_STORAGE_PROFILES", "STORAGE_PROFILES"),
        ("STORAGE_XSENDFILE", "STORAGE_X_SENDFILE"),
        ("STORAGE_EXTERNAL_URI", "STORAGE_EXTERNAL_URL"),
    ],
)
def test_a_misspelled_setting_causes_a_warning(make_app, caplog, name, setting):
    """It would be ignored silently; the app starts, because the setting may belong to another extension."""
    make_app(**{name: None})

    assert [record.message for record in caplog.records] == [
        f"the setting {name} is ignored: did you mean {setting!r}?"
    ]


@pytest.mark.parametrize(
    "name", ["STORAGE_PROVIDER", "STORAGE_SERVER_URL", "STORAGE_KEY", "RATELIMIT_STORAGE_URI", "KEG_STORAGE_PROFILES"]
)
def test_settings_of_other_extensions_cause_no_warning(make_app, caplog, name):
    """Those of flask-cloudy, Flask-Limiter and others; keg-storage's has a warning of its own."""
    make_app(STORAGE_PROFILES={"docs": "memory:"}, **{name: "x"})

    assert caplog.records == []
