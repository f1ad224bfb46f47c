"""Uploads in parts on Azure: notes beside the blobs, blocks under the blob's own name, and who else may be there."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import BlobBlock

from flask_storage import (
    ConfigurationError,
    FileNotFoundInStorageError,
    IntegrityError,
    PermissionDeniedError,
    PreconditionFailedError,
    WriteOptions,
)
from flask_storage.backends.azure.multipart import BlockUpload, block_name
from flask_storage.backends.multipart_manifest import is_upload_id
from flask_storage.multipart import Part
from tests.azure_storages import leftovers, make_storage
from tests.services.scripted_proxy import Lose, ScriptedProxy, azure_error

pytest_plugins = ["tests.services.azurite"]

PATH = "a folder/caf\u00e9.bin"
NONE = "A" * 22


@pytest.fixture(scope="module")
def ground(azurite):
    """A storage, kept for the whole module."""
    made = make_storage(azurite)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


@pytest.fixture
def storage(ground, azurite):
    """An empty storage."""
    azurite.empty_container(ground.bucket)
    return ground


@pytest.fixture
def through(azurite):
    """A storage through a proxy, and the proxy."""
    address = urlsplit(azurite.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        made = make_storage(azurite, endpoint_url=proxy.url + address.path, max_attempts=1)
        yield made, proxy
        made.close()


def test_an_upload_keeps_what_its_blob_will_have(storage):
    """Headers and metadata are told when it begins; those told at its end win."""
    upload = storage.multipart.create(
        PATH, WriteOptions(content_type="text/x-a", cache_control="private", metadata={"color": "blue \u00e9"})
    )
    sent = [storage.multipart.upload_part(PATH, upload, number, content) for number, content in ((2, b"b"), (1, b"a"))]
    pending = list(storage.multipart.list_uploads("a folder"))

    storage.multipart.complete(
        PATH, upload, sorted(sent, key=lambda part: part.number), WriteOptions(content_type="text/x-b")
    )

    info = storage.stat(PATH)
    assert [(found.path, found.upload_id) for found in pending] == [(PATH, upload)]
    assert pending[0].started_at > datetime.now(UTC) - timedelta(minutes=5)
    assert storage.read(PATH) == b"ab"
    assert (info.content_type, info.cache_control, info.metadata) == ("text/x-b", "private", {"color": "blue \u00e9"})
    assert (list(storage.multipart.list_uploads()), leftovers(storage)) == ([], [])


def test_two_uploads_of_one_name_do_not_mix(storage):
    """Their blocks tell whose they are; the one that ends first takes the blocks of the other away."""
    first, second = (storage.multipart.create("a", WriteOptions()) for _ in range(2))
    one = storage.multipart.upload_part("a", first, 1, b"first")
    two = storage.multipart.upload_part("a", second, 1, b"second")

    listed = [[part.etag for part in storage.multipart.list_parts("a", upload)] for upload in (first, second)]
    storage.multipart.complete("a", second, [two], WriteOptions())

    assert listed == [[one.etag], [two.etag]]
    with pytest.raises(IntegrityError, match="part 1 is missing: send it again"):
        storage.multipart.complete("a", first, [one], WriteOptions())
    assert storage.read("a") == b"second"


def test_a_part_that_is_sent_again_replaces_the_first(storage):
    """And the first may no longer be named."""
    upload = storage.multipart.create("a", WriteOptions())
    old = storage.multipart.upload_part("a", upload, 1, b"old")
    new = storage.multipart.upload_part("a", upload, 1, b"new!")

    assert [(part.number, part.size) for part in storage.multipart.list_parts("a", upload)] == [(1, 4)]
    with pytest.raises(IntegrityError, match="part 1 is not the one that was named"):
        storage.multipart.complete("a", upload, [old], WriteOptions())
    storage.multipart.complete("a", upload, [new], WriteOptions())
    assert storage.read("a") == b"new!"


def test_a_promised_size_is_held(storage):
    """Or nothing is published, and the upload stays."""
    upload = storage.multipart.create("a", WriteOptions())
    part = storage.multipart.upload_part("a", upload, 1, b"12345")

    with pytest.raises(IntegrityError, match="5 bytes were sent where 6 were promised; nothing was published"):
        storage.multipart.complete("a", upload, [part], WriteOptions(size=6))

    assert not storage.exists("a")
    storage.multipart.complete("a", upload, [part], WriteOptions(size=5))
    assert storage.read("a") == b"12345"


@pytest.mark.parametrize("upload_id", [NONE, "", "../a", "A" * 21 + "\u00e4"])
def test_an_upload_that_does_not_exist_is_not_found(storage, upload_id):
    """Whatever is asked of it; to discard it is no error."""
    for verb in (
        lambda: storage.multipart.upload_part("a", upload_id, 1, b"1"),
        lambda: storage.multipart.list_parts("a", upload_id),
        lambda: storage.multipart.complete("a", upload_id, [Part(number=1, size=1, etag="")], WriteOptions()),
    ):
        with pytest.raises(FileNotFoundInStorageError):
            verb()
    storage.multipart.abort("a", upload_id)


def test_an_upload_is_of_one_path(storage):
    """By another, it is not found; discarded, it is gone for all."""
    upload = storage.multipart.create("a", WriteOptions())

    with pytest.raises(FileNotFoundInStorageError, match=r"b \(upload\)"):
        storage.multipart.upload_part("b", upload, 1, b"1")
    storage.multipart.abort("b", upload)
    still = [found.upload_id for found in storage.multipart.list_uploads()]
    storage.multipart.abort("a", upload)
    storage.multipart.abort("a", upload)

    assert still == [upload]
    assert list(storage.multipart.list_uploads()) == []


def test_notes_of_others_are_no_uploads(storage, azurite):
    """A blob that only looks like a note is left alone."""
    with azurite.service() as service, service.get_container_client(storage.bucket) as client:
        client.upload_blob(f".fs-tmp-upload-{NONE}", b"", metadata={"path": "\u00e4".encode().hex()})
        client.upload_blob(f".fs-tmp-upload-{'B' * 22}", b"")
        client.upload_blob(f".fs-tmp-upload-{'C' * 22}", b"", metadata={"path": "/w=="})

    assert list(storage.multipart.list_uploads()) == []
    assert storage.sweep(older_than=timedelta(seconds=-5)) == 0
    with pytest.raises(FileNotFoundInStorageError):
        storage.multipart.list_parts("a", "B" * 22)


def test_blocks_of_others_are_not_taken_for_ours(storage, azurite):
    """A program that shares the name names its blocks otherwise; with names as long, both can be."""
    upload = storage.multipart.create("a", WriteOptions())
    with azurite.service() as service, service.get_blob_client(storage.bucket, "a") as blob:
        blob.stage_block(block_name(upload, 1).replace("0", "x"), b"of others")
        part = storage.multipart.upload_part("a", upload, 1, b"ours")

        assert storage.multipart.list_parts("a", upload) == [part]
        storage.multipart.complete("a", upload, [part], WriteOptions())
    assert storage.read("a") == b"ours"


def test_blocks_of_another_length_in_their_names_are_explained(through):
    """The service refuses to mix them; the text says what to do."""
    storage, proxy = through
    upload = storage.multipart.create("a", WriteOptions())
    proxy.script = lambda request: azure_error(400, "InvalidBlobOrBlock") if "blockid" in request.query else None

    with pytest.raises(PreconditionFailedError, match="blocks of another program wait under this name"):
        storage.multipart.upload_part("a", upload, 1, b"ours")


def test_a_writer_that_was_overtaken_is_told(azurite, storage):
    """Azure forgets the blocks of a blob when another write of it ends, Azurite when that was one in blocks."""
    slow = make_storage(azurite, bucket=storage.bucket, chunk_size=1000)
    writer = slow.open("a", "w")
    writer.write(bytes(5000))
    while not BlockUpload(slow._gateway)._container.call("get_block_list", "a", "uncommitted")[1]:
        pass
    slow.write("a", b"quick" * 1000)

    with pytest.raises(PreconditionFailedError, match="another write of this file ended while this one went on"):
        writer.close()

    assert storage.read("a") == b"quick" * 1000


def test_parts_that_vanish_at_the_end_are_told(through):
    """Between the look and the commit, another write may end."""
    storage, proxy = through
    upload = storage.multipart.create("a", WriteOptions())
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    proxy.script = lambda request: (
        azure_error(400, "InvalidBlockList")
        if (request.method, request.query.get("comp")) == ("PUT", "blocklist")
        else None
    )

    with pytest.raises(IntegrityError, match="parts are missing: another write of this file ended meanwhile"):
        storage.multipart.complete("a", upload, [part], WriteOptions())


@pytest.mark.parametrize("verb", ["complete", "list_parts", "abort", "delete note"])
def test_a_refusal_is_never_a_missing_upload(through, verb):
    """Nor is it "done"."""
    storage, proxy = through
    upload = storage.multipart.create("a", WriteOptions())
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    refused = {"complete": ("PUT", "blocklist"), "list_parts": ("GET", "blocklist"), "abort": ("HEAD", None)}
    refused["delete note"] = ("DELETE", None)
    proxy.script = lambda request: (
        azure_error(403, "AuthorizationFailure")
        if (request.method, request.query.get("comp")) == refused[verb]
        else None
    )

    arguments = ("a", upload, [part], WriteOptions()) if verb == "complete" else ("a", upload)
    ask = getattr(storage.multipart, verb.replace("delete note", "abort"))
    with pytest.raises(PermissionDeniedError):
        ask(*arguments)


def test_an_upload_that_somebody_else_ended_meanwhile_is_ended(through):
    """The note that is to be deleted may be gone."""
    storage, proxy = through
    upload = storage.multipart.create("a", WriteOptions())
    proxy.script = lambda request: azure_error(404, "BlobNotFound") if request.method == "DELETE" else None

    storage.multipart.abort("a", upload)

    assert [found.upload_id for found in storage.multipart.list_uploads()] == [upload]


@pytest.mark.parametrize("size", [5, 3000])
def test_a_write_whose_answer_was_lost_finds_its_own_deed(azurite, size):
    """With a condition, the repeated request is refused for what the first has done: that is no trouble."""
    address = urlsplit(azurite.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        storage = make_storage(azurite, endpoint_url=proxy.url + address.path, max_attempts=2, chunk_size=1000)
        lost: list[Any] = []

        def script(request):
            if request.method == "PUT" and request.query.get("comp") in (None, "blocklist") and not lost:
                lost.append(request)
                return Lose(after_server=True)
            return None

        proxy.script = script
        storage.write("a", bytes(size), exclusive=True)
        storage.close()

        assert storage.size("a") == size
        assert lost


def test_a_write_that_cannot_look_is_not_taken_for_done(through):
    """Where the service is in trouble, what was raised first is raised."""
    storage, proxy = through
    proxy.script = lambda request: (
        azure_error(403, "AuthorizationFailure") if request.method == "PUT" else Lose(after_server=False)
    )

    with pytest.raises(PermissionDeniedError):
        storage.write("a", b"1", exclusive=True)


def test_what_a_writer_begins_is_known_to_nobody_else(storage):
    """It leaves no note, lists no uploads, and finds no blocks where there is no blob."""
    store = BlockUpload(storage._gateway)
    upload = store.create("a", WriteOptions())

    assert list(store.list_uploads()) == []
    assert store.list_parts("a", upload) == []
    store.abort("a", upload)
    store.abort("a", upload)
    assert leftovers(storage) == []


def test_the_blocks_of_a_writer_are_not_asked_for_in_a_missing_container(azurite):
    """That is a mistake in the configuration."""
    storage = make_storage(azurite, bucket="no-such-container", max_attempts=1)

    with pytest.raises(ConfigurationError), storage._error_translator("a"):
        BlockUpload(storage._gateway).list_parts("a", NONE)


def test_all_names_of_blocks_are_of_one_length():
    """The service asks that of the blocks of one blob; the ids in them are ours alone."""
    names = [block_name(NONE, number, tag) for number, tag in ((1, "0" * 36), (50_000, "f" * 36))]

    assert {len(name) for name in names} == {63}
    assert len(base64.b64encode(names[0].encode())) <= 88
    assert BlobBlock(names[0]).id == names[0]
    assert [is_upload_id(text) for text in (NONE, "", "A" * 23, f"{NONE}\n", "../" + "A" * 19)] == [True] + [False] * 4


def test_a_part_is_never_empty(storage):
    """Azure has no empty blocks."""
    upload = storage.multipart.create("a", WriteOptions())

    with pytest.raises(ValueError, match="one byte at least"):
        storage.multipart.upload_part("a", upload, 1, b"")


def test_an_upload_whose_note_cannot_be_deleted_is_published(through, caplog):
    """An error would deny it; the sweep takes the note."""
    storage, proxy = through
    upload = storage.multipart.create("a", WriteOptions())
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    proxy.script = lambda request: azure_error(503, "ServerBusy") if request.method == "DELETE" else None

    storage.multipart.complete("a", upload, [part], WriteOptions())

    assert storage.read("a") == b"1"
    assert "left for the sweep" in caplog.text
    proxy.script = lambda _: None
    storage.multipart.complete("a", upload, [part], WriteOptions())  # by somebody who was not told
    assert storage.read("a") == b"1"
    assert not leftovers(storage)


@pytest.mark.parametrize("upload_id", [None, 5, b"A" * 22])
def test_what_is_no_text_is_no_upload(storage, upload_id):
    """It is told so, as any other that is not there."""
    with pytest.raises(FileNotFoundInStorageError):
        storage.multipart.list_parts("a", upload_id)


def test_a_condition_that_cannot_be_looked_at_is_an_error_of_its_own(through):
    """A part is missing, and whether the name was taken meanwhile is not told."""
    storage, proxy = through
    upload = storage.multipart.create("a", WriteOptions())
    proxy.script = lambda request: (
        azure_error(403, "AuthorizationFailure") if request.method == "HEAD" and request.path.endswith("/a") else None
    )

    with pytest.raises(PermissionDeniedError):
        storage.multipart.complete("a", upload, [Part(number=1, size=1, etag="")], WriteOptions(exclusive=True))
