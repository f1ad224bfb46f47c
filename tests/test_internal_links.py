"""Links of a storage without an app: their URLs come from Flask's `url_for`."""

import logging
from datetime import timedelta

import flask
import pytest

from flask_storage import ConfigurationError, InvalidLinkError, LocalFSStorage, MemoryStorage
from flask_storage.tokens import LinkSigner
from flask_storage.types import LinkRequest, ShareLinkOperation, to_utc

HOUR = timedelta(hours=1)
SECRET = "s" * 32


def test_a_storage_without_an_app_links_to_its_endpoint():
    """As in keg-storage, inside a request or wherever else `url_for` works."""
    storage = MemoryStorage(linked_endpoint="files", secret_key=SECRET)
    app = flask.Flask(__name__)
    app.add_url_rule("/files", endpoint="files", view_func=lambda: "x")

    with app.test_request_context():
        url = storage.link_to("a.txt", "d", HOUR)

    address, _, token = url.partition("?token=")
    assert address == "http://localhost/files"
    assert storage.deserialize_link_token(token).path == "a.txt"


@pytest.mark.parametrize("arguments", [{}, {"linked_endpoint": "files"}, {"secret_key": SECRET}])
def test_links_need_an_endpoint_and_a_secret(arguments):
    """The error names what to configure."""
    storage = MemoryStorage(**arguments)

    with pytest.raises(ConfigurationError, match=r"must be configured with .*secret_key to use this feature"):
        storage.link_to("a.txt", "d", HOUR)


def test_a_short_secret_without_an_app_is_warned_about_once(caplog):
    """Without `init_app` there is no point at which it could be refused."""
    storage = MemoryStorage(secret_key=b"short")

    with caplog.at_level(logging.WARNING, "flask_storage"):
        storage.create_link_token(path="a", operation="d", expire=HOUR)
        storage.create_link_token(path="a", operation="d", expire=HOUR)

    assert [record.getMessage() for record in caplog.records] == [
        "the secret_key of 'memory' has fewer than 32 bytes: links can be forged by guessing it"
    ]


def test_two_roots_with_the_same_name_reject_each_others_tokens(tmp_path):
    """Although both storages are called `fs-uploads` and share a secret."""
    one, two = (LocalFSStorage(tmp_path / tenant / "uploads", create=True, secret_key=SECRET) for tenant in "ab")
    assert one.name == two.name == "fs-uploads"

    token = one.create_link_token(path="a", operation="d", expire=HOUR)

    assert one.deserialize_link_token(token).path == "a"
    with pytest.raises(InvalidLinkError):
        two.deserialize_link_token(token)


def test_the_path_of_a_verified_token_is_normalized():
    """Although it was signed without the storage interface, with a leading slash and in another normal form."""
    storage = MemoryStorage(secret_key=SECRET)
    download = ShareLinkOperation.download
    request = LinkRequest(operations=download, expires_at=to_utc(HOUR), filename="f")
    now = to_utc(timedelta(microseconds=1))

    data = storage.deserialize_link_token(LinkSigner([SECRET.encode()], "memory").sign("/u\u0308.txt", request, now))

    assert tuple(data) == ("\u00fc.txt", download)
    assert data.request is not None
    assert data.request.filename == "f"
