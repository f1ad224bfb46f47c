"""Every option of writing and linking, on every backend: it works, or it is refused with the one error that says why.

The tables below are what a user who changes nothing but ``STORAGE_PROFILES`` has to know.
"""

import hashlib
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from flask_storage import LocalFSStorage, MemoryStorage
from flask_storage.errors import ConfigurationError, UnsupportedOperationError
from flask_storage.types import LinkContext
from tests import azure_storages, s3_storages, sftp_storages

pytest_plugins = ["tests.services.azurite", "tests.services.localstack", "tests.services.openssh"]

HOUR = timedelta(hours=1)
BODY = b"content"
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"

BACKENDS = ["local", "memory", "s3", "s3_aws", "azure", "sftp"]

NO_HEADERS = r"cannot store \w+ with .* in 'docs': leave it out"
NO_EXCLUSIVE = "cannot create a file exclusively"
NO_IF_MATCH = "cannot compare the stored version atomically"

WRITING = {
    # An option of writing: why a backend refuses it.
    "content_type": {},  # it is what the name says; the conformance suite has the other types
    "content_encoding": {"sftp": NO_HEADERS},
    "cache_control": {"sftp": NO_HEADERS},
    "content_disposition": {"sftp": NO_HEADERS},
    "metadata": {"sftp": NO_HEADERS},
    "exclusive": {"s3": NO_EXCLUSIVE},
    "if_match": {"s3": NO_IF_MATCH, "sftp": NO_IF_MATCH},
    "size": {},
    "checksum": {},
}
UPLOADING = {
    # An option of a link that uploads, likewise.
    "content_type": {},
    "content_encoding": {"sftp": NO_HEADERS},
    "cache_control": {"sftp": NO_HEADERS},
    "exclusive": {"s3": NO_EXCLUSIVE},
    "size": {},
    "max_size": {},
    "checksum": {},
    "md5": {},
    "uses": {},
    "ip": {},
}
FORMS = [option for option in UPLOADING if option not in ("size", "max_size")]  # a form has limits of its own
DOWNLOADING = ["content_type", "content_encoding", "cache_control", "disposition", "uses", "ip"]
NATIVE = {
    # What the service enforces, so that it needs no app.
    "local": set(),
    "memory": set(),
    "sftp": set(),
    "s3": {"content_type", "content_encoding", "cache_control", "size", "md5", "disposition"},
    "s3_aws": {
        *("content_type", "content_encoding", "cache_control", "size", "max_size", "checksum", "md5", "exclusive"),
        "disposition",
    },
    "azure": {"content_type", "content_encoding", "cache_control", "exclusive", "ip", "disposition"},
}
VALUES = {
    "content_type": "text/plain",
    "content_encoding": "identity",
    "cache_control": "no-cache",
    "content_disposition": "attachment",
    "metadata": {"key": "value"},
    "exclusive": True,
    "size": len(BODY),
    "max_size": 100,
    "checksum": SHA256,
    "md5": MD5,
    "disposition": "inline",
    "uses": 1,
    "ip": "203.0.113.0/24",
}


def make_storage(name, request):
    """Return an empty storage."""
    if name == "memory":
        return MemoryStorage("docs")
    if name == "local":
        directory = request.getfixturevalue("tmp_path_factory").mktemp("local")
        return LocalFSStorage(directory, name="docs", fsync=False)
    if name == "sftp":
        return sftp_storages.make_storage(request.getfixturevalue("openssh"), name="docs")
    if name == "azure":
        return azure_storages.make_storage(request.getfixturevalue("azurite"), name="docs")
    server = request.getfixturevalue("localstack")
    return s3_storages.make_storage(server, name="docs", preset="aws" if name == "s3_aws" else None)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    """The name of each backend, and a storage without an app."""
    storage = make_storage(request.param, request)
    yield request.param, storage
    storage.close()


@pytest.fixture(scope="module", params=BACKENDS)
def linked(request):
    """The name of each backend, and a storage of an app."""
    storage = make_storage(request.param, request)
    storage.set_link_context(
        LinkContext(
            profile="docs", secrets=lambda: (b"s" * 32,), link_url=lambda token, endpoint: f"https://app/?token={token}"
        )
    )
    yield request.param, storage
    storage.close()


def argument(option):
    """Return an option with a valid value."""
    return {"checksum" if option == "md5" else option: VALUES[option]}


@pytest.mark.parametrize("option", WRITING)
def test_an_option_of_writing_works_or_is_refused(backend, option):
    """A refused write stores nothing."""
    name, storage = backend
    path = f"{option}.txt"
    if option == "if_match":
        storage.write(path, b"old")
    arguments = {"if_match": storage.stat(path).etag} if option == "if_match" else argument(option)

    if reason := WRITING[option].get(name):
        with pytest.raises(UnsupportedOperationError, match=reason):
            storage.write(path, BODY, **arguments)
        assert not storage.exists(path) or storage.read(path) == b"old"
    else:
        storage.write(path, BODY, **arguments)
        info = storage.stat(path)
        assert storage.read(path) == BODY
        if option != "content_type" or storage.capabilities.content_headers:
            assert getattr(info, option, VALUES.get(option)) == VALUES.get(option)


@pytest.mark.parametrize("option", UPLOADING)
def test_an_option_of_an_upload_link_works_or_is_refused(linked, option):
    """Alike by `link_to`, `links_to` and `upload_request`."""
    name, storage = linked

    for make in (
        lambda: storage.link_to("a.txt", "upload", HOUR, **argument(option)),
        lambda: storage.links_to(["a.txt"], "upload", HOUR, **argument(option))[0],
        lambda: storage.upload_request("a.txt", HOUR, **argument(option)).url,
    ):
        if reason := UPLOADING[option].get(name):
            with pytest.raises(UnsupportedOperationError, match=reason):
                make()
        else:
            assert urlsplit(make()).scheme in ("http", "https")


@pytest.mark.parametrize("option", FORMS)
def test_an_option_of_an_upload_form_works_or_is_refused(linked, option):
    """As that of an upload link; a form of the service or of the app."""
    name, storage = linked

    def make():
        return storage.create_upload_form("a.txt", HOUR, **{"max_size": 100, **argument(option)})

    if reason := UPLOADING[option].get(name):
        with pytest.raises(UnsupportedOperationError, match=reason):
            make()
    else:
        form = make()
        is_native = name == "s3_aws" and option in ("content_type", "content_encoding", "cache_control")
        assert (form.method, form.url.startswith("https://app/")) == ("POST", not is_native)


@pytest.mark.parametrize("option", DOWNLOADING)
def test_every_option_of_a_download_link_works(linked, option):
    """For one path, for several, and for several operations."""
    _, storage = linked

    assert storage.link_to("a.txt", "download", HOUR, "Name.txt", **argument(option))
    assert len(storage.links_to(["a.txt", "b.txt"], "download", HOUR, **argument(option))) == 2
    assert storage.link_to("a.txt", "dr", HOUR, **argument(option))


def test_the_arguments_of_the_guides_work(linked):
    """Those of "Upload from a browser" and of "Presigned uploads"; only S3 without a preset lacks one of them."""
    name, storage = linked
    exclusive = {"exclusive": True} if name != "s3" else {}

    assert storage.upload_request("a.txt", HOUR, max_size=100, uses=1, **exclusive).method == "PUT"
    assert storage.upload_request("a.txt", HOUR, size=7, content_type="text/plain", **exclusive).method == "PUT"


@pytest.mark.parametrize("option", [*UPLOADING, "disposition"])
def test_without_an_app_a_link_has_what_the_service_enforces(backend, option):
    """Anything else is refused, and the error says so."""
    name, storage = backend

    def make():
        if option == "disposition":
            return storage.link_to("a.txt", "download", HOUR, **argument(option))
        return storage.upload_request("a.txt", HOUR, **argument(option)).url

    if option in NATIVE[name]:
        assert urlsplit(make()).scheme in ("http", "https")
    else:
        refusals = (UnsupportedOperationError, ConfigurationError)
        with pytest.raises(refusals, match=rf"a link of the app could|secret_key|{NO_HEADERS}|{NO_EXCLUSIVE}"):
            make()
