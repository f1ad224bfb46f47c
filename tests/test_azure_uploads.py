"""What the holder of an upload link can store on Azure, and what `confirm_upload` and `move` do about it."""

import hashlib
from datetime import timedelta

import pytest

from flask_storage import IntegrityError, PermissionDeniedError, PreconditionFailedError, WriteOptions
from tests.azure_storages import make_storage
from tests.plain_client import send

pytest_plugins = ["tests.services.azurite"]

HOUR = timedelta(hours=1)
BODY = b"some content"
BLOCK_BLOB = {"x-ms-blob-type": "BlockBlob"}
PAGE_BLOB = {"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": "512"}
APPEND_BLOB = {"x-ms-blob-type": "AppendBlob"}
ARCHIVED = {**BLOCK_BLOB, "x-ms-access-tier": "Archive"}


@pytest.fixture
def storage(azurite):
    """An empty storage."""
    made = make_storage(azurite)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


def _upload(storage, path, headers, body=b""):
    """Upload by a link, with headers that the link does not sign."""
    assert send(storage.link_to(path, "upload", HOUR), "PUT", headers, body).status == 201


@pytest.mark.parametrize("move_to", [None, "files/a"])
@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        (PAGE_BLOB, b"", "an append blob or a page blob was uploaded"),
        (APPEND_BLOB, b"", "an append blob or a page blob was uploaded"),
        (ARCHIVED, BODY, "the blob was uploaded to the archive"),
    ],
    ids=["page blob", "append blob", "archived"],
)
def test_an_upload_that_is_no_readable_block_blob_is_refused_and_deleted(storage, headers, body, message, move_to):
    """The headers that determine this are not signed, and later writes or reads of such a blob fail."""
    _upload(storage, "in/a", headers, body)
    digest = hashlib.sha256(body).hexdigest()

    with pytest.raises(IntegrityError, match=message) as caught:
        storage.confirm_upload("in/a", checksum=f"sha256:{digest}", move_to=move_to)

    assert caught.value.path == "in/a"
    assert storage.list() == []


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_a_blob_of_another_type_is_not_copied(storage, operation):
    """The service copies block blobs only."""
    _upload(storage, "in/a", APPEND_BLOB)

    with pytest.raises(PreconditionFailedError, match=r"in/a is an append blob or a page blob") as caught:
        getattr(storage, operation)("in/a", "b")

    assert caught.value.path == "in/a"
    assert [entry.name for entry in storage.list()] == ["in/a"]


def test_a_blob_in_the_archive_is_not_copied(storage):
    """The error names it, and not the target."""
    _upload(storage, "in/a", ARCHIVED, BODY)

    with pytest.raises(PermissionDeniedError, match=r"^in/a in the container .* archived"):
        storage.copy("in/a", "b")


def test_a_block_link_cannot_change_what_was_moved_and_confirmed(storage):
    """The link allows to write the whole blob, until it expires, at its own path only."""
    upload_id = storage.multipart.create("in/a.png", WriteOptions(content_type="image/png"))
    link = storage.block_request("in/a.png", upload_id, 1, HOUR)
    assert send(link.url, link.method, link.headers, BODY).status == 201
    parts = storage.multipart.list_parts("in/a.png", upload_id)
    storage.multipart.complete("in/a.png", upload_id, parts, WriteOptions())

    info = storage.confirm_upload("in/a.png", size=len(BODY), content_type="image/png", move_to="files/a.png")
    whole_blob = link.url.partition("&comp=block")[0]
    status = send(whole_blob, "PUT", {**BLOCK_BLOB, "x-ms-blob-content-type": "text/html"}, b"<script>").status

    assert status == 201
    assert storage.stat("in/a.png").content_type == "text/html"
    assert storage.stat(info.path) == info
    assert (info.content_type, storage.read(info.path)) == ("image/png", BODY)
