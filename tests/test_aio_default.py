"""`FileSystemStorage`, and `default_storage` with the settings that choose it."""

import asyncio
import stat
from dataclasses import dataclass

import flask
import pytest

from flask_storage import (
    ConfigurationError,
    FileNotFoundInStorageError,
    MemoryStorage,
    Storage as StorageExtension,
)
from flask_storage.aio import DefaultStorage, FileSystemStorage, Storage, default_storage


@pytest.fixture
def media(tmp_path):
    """Files in a directory that does not exist yet."""
    return FileSystemStorage(tmp_path / "media")


@pytest.fixture
def make_app(tmp_path, monkeypatch):
    """A function that returns an app with the given settings; the working directory is empty."""
    monkeypatch.chdir(tmp_path)

    def make(*, extension=False, **settings):
        app = flask.Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(settings)
        if extension:
            StorageExtension(app)
        return app

    return make


# -- FileSystemStorage ------------------------------------------------------------------------------------------------


def test_files_are_stored_in_the_directory_and_have_urls(media, tmp_path):
    """The directory is created with the first file, which the group may read."""
    path = asyncio.run(media.save("uploads/a b.txt", b"hello"))

    assert (tmp_path / "media" / path).read_bytes() == b"hello"
    assert stat.S_IMODE((tmp_path / "media" / path).stat().st_mode) == 0o640
    assert media.url(path) == "/media/uploads/a%20b.txt"


@pytest.mark.parametrize("base_url", ["/media", "/media/", "/media//"])
def test_slashes_at_the_end_of_the_base_url_do_not_matter(base_url, tmp_path):
    """There is one between it and the path."""
    assert FileSystemStorage(tmp_path, base_url).url("a.txt") == "/media/a.txt"


@pytest.mark.parametrize("name", ["../.env", "/.env", "..\\.env"])
def test_every_method_sanitizes_names(media, name):
    """Not only `save`: what a client sends as a name finds the file that was saved under that name."""

    async def act():
        path = await media.save(name, b"hello")
        found = [path, await media.exists(name), await media.size(name), await media.read(name), media.url(name)]
        await media.delete(name)
        return [*found, await media.exists(path)]

    assert asyncio.run(act()) == ["_env", True, 5, b"hello", "/media/_env", False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "must not be empty"),
        ("a\0b", "must not contain null bytes"),
        ("../..", "resolves to an empty path after sanitisation"),
    ],
)
def test_a_name_that_cannot_be_used_is_a_value_error(media, name, message):
    """With the message of openviper."""
    with pytest.raises(ValueError, match=message):
        asyncio.run(media.save(name, b"1"))


def test_a_directory_does_not_exist_as_a_file(media):
    """It has no size, and cannot be read or deleted."""

    async def act():
        await media.save("uploads/a.txt", b"1")
        assert not await media.exists("uploads")
        with pytest.raises(FileNotFoundError):
            await media.size("missing.txt")
        with pytest.raises(FileNotFoundInStorageError):
            await media.read("missing.txt")
        return await media.listdir()

    assert asyncio.run(act()) == ["uploads"]


def test_a_directory_can_be_listed(media):
    """By the names of its files and directories; a missing one is empty."""

    async def act():
        for name in ("d/b.txt", "d/a.txt", "d/e/c.txt"):
            await media.save(name, b"1")
        return await media.listdir("d"), await media.listdir("missing"), await media.listdir()

    assert asyncio.run(act()) == (["a.txt", "b.txt", "e"], [], ["d"])


def test_a_file_that_is_too_large_to_be_read_is_a_value_error(media):
    """The limit is 100 MiB unless another one is given."""
    asyncio.run(media.save("a.txt", b"hello"))

    with pytest.raises(ValueError, match="exceeding the maximum read size of 4 bytes"):
        asyncio.run(media.read("a.txt", max_size=4))
    assert asyncio.run(media.read("a.txt", max_size=5)) == b"hello"


def test_no_symbolic_link_is_followed(media, tmp_path):
    """Neither out of the directory nor inside of it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.txt").write_bytes(b"secret")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(OSError, match="link"):
        asyncio.run(media.read("link/a.txt"))


def test_the_directory_and_the_url_are_settings_of_the_current_app(make_app, tmp_path):
    """One object that was made at import serves every app; outside of one there are defaults."""
    media = FileSystemStorage()
    for name in ("one", "two"):
        app = make_app(MEDIA_ROOT=tmp_path / name, MEDIA_URL=f"https://{name}.example.com/")
        with app.app_context():
            asyncio.run(media.save("a.txt", name.encode()))
            assert (media.location, media.url("a.txt")) == (str(tmp_path / name), f"https://{name}.example.com/a.txt")
    asyncio.run(media.save("a.txt", b"no app"))

    assert [(tmp_path / name / "a.txt").read_bytes() for name in ("one", "two", "media")] == [b"one", b"two", b"no app"]
    assert (media.location, media.url("a.txt")) == ("./media/", "/media/a.txt")
    assert repr(media) == "<FileSystemStorage './media/'>"


# -- default_storage --------------------------------------------------------------------------------------------------


@dataclass
class Bucket(Storage):
    """A storage of an app's own, as openviper's page shows it."""

    bucket: str = "files"

    async def save(self, name, content):
        """Store nothing."""
        return name

    async def delete(self, name):
        """Delete nothing."""

    async def exists(self, name):
        """Return False."""
        return False

    def url(self, name):
        """Return a URL."""
        return f"https://{self.bucket}.example.com/{name}"

    async def size(self, name):
        """Return zero."""
        return 0


def make_memory_storage():
    """Return a storage without an async API."""
    return MemoryStorage("made", base_url="/made")


HERE = __name__
PROFILES = {"first": "memory:?base_url=/first", "docs": "memory:?base_url=/docs"}


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"DEFAULT_FILE_STORAGE": "docs", "STORAGE_PROFILES": PROFILES, "MEDIA_ROOT": "m"}, "/docs/a.txt"),
        ({"DEFAULT_FILE_STORAGE": f"{HERE}.Bucket", "STORAGE_PROFILES": PROFILES}, "https://files.example.com/a.txt"),
        ({"DEFAULT_FILE_STORAGE": f"{HERE}.Bucket"}, "https://files.example.com/a.txt"),
        ({"DEFAULT_FILE_STORAGE": f"{HERE}.make_memory_storage"}, "/made/a.txt"),
        ({"STORAGE_PROFILES": PROFILES, "MEDIA_ROOT": "m", "MEDIA_URL": "/m/"}, "/m/a.txt"),
        ({"STORAGE_PROFILES": PROFILES}, "/first/a.txt"),
        ({"STORAGE_PROFILES": PROFILES, "STORAGE_DEFAULT_PROFILE": "docs"}, "/docs/a.txt"),
        ({}, "/media/a.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value,
)
def test_the_settings_choose_the_default_storage(make_app, settings, url):
    """The first of them that applies; it is looked up once for each app."""
    app = make_app(extension="STORAGE_PROFILES" in settings, **settings)

    with app.app_context():
        path = asyncio.run(default_storage.save("a.txt", b"1"))
        assert default_storage.url(path) == url
        assert default_storage.get_storage() is default_storage.get_storage()


@pytest.mark.parametrize("name", ["dosc", f"{HERE}.Missing", "missing.module.Class", "", "."])
def test_a_default_storage_that_does_not_exist_is_reported(make_app, name):
    """With the name of the setting; it is not replaced by another storage silently."""
    app = make_app(DEFAULT_FILE_STORAGE=name)

    with (
        app.app_context(),
        pytest.raises(ConfigurationError, match=r"^DEFAULT_FILE_STORAGE is .*neither a profile nor"),
    ):
        default_storage.get_storage()


def test_a_storage_can_be_configured_in_code():
    """It comes before every setting; other proxies are not affected."""
    proxy, other = DefaultStorage(), DefaultStorage()
    bucket, memory = Bucket("mine"), MemoryStorage()

    proxy.configure(bucket)
    assert proxy.get_storage() is bucket
    proxy.configure(memory)
    assert proxy.backend is memory
    proxy.configure(None)
    assert isinstance(proxy.get_storage(), FileSystemStorage)
    assert isinstance(other.get_storage(), FileSystemStorage)


def test_the_proxy_has_the_methods_of_the_interface_and_of_the_storage():
    """It can be used in place of the storage itself."""
    proxy = DefaultStorage()
    proxy.configure(MemoryStorage(base_url="/m"))

    async def act():
        path = await proxy.save("d/a.txt", b"hello")
        found = [await proxy.exists(path), await proxy.size(path), await proxy.read(path), proxy.url(path)]
        listed = [entry.name for entry in await proxy.list("d")]
        await proxy.delete(path)
        return [*found, listed, await proxy.exists(path)]

    assert asyncio.run(act()) == [True, 5, b"hello", "/m/d/a.txt", ["d/a.txt"], False]
    assert not hasattr(proxy, "_private")
    with pytest.raises(AttributeError, match="missing"):
        proxy.missing()


def test_two_apps_do_not_share_their_default_storage(make_app):
    """Each has that of its own settings."""
    apps = [make_app(extension=True, STORAGE_PROFILES={name: "memory:"}) for name in ("one", "two")]

    for app in apps:
        with app.app_context():
            asyncio.run(default_storage.save("a.txt", app.config["STORAGE_PROFILES"].popitem()[0].encode()))

    contents = [app.extensions["storage"].default.read("a.txt") for app in apps]
    assert contents == [b"one", b"two"]
