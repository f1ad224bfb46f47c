"""Copying inside a container: with everything that belongs to the blob, whole or not at all, whatever its size."""

import base64
import dataclasses
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from flask_storage import (
    FileExistsInStorageError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageUnavailableError,
    WriteOptions,
)
from flask_storage.backends.azure import copy as copy_module, storage as storage_module
from flask_storage.backends.azure.copy import copy_blob
from tests.azure_storages import make_storage
from tests.copies import (
    ASCII_HEADERS,
    copy_all_that_belongs_to_it,
    copy_what_is_not_there,
    kept,
    move_away,
    replace_by_a_copy,
)
from tests.plain_client import send
from tests.services.scripted_proxy import Answer, ScriptedProxy, azure_error

pytest_plugins = ["tests.services.azurite"]

MIB = 1 << 20
HOUR = timedelta(hours=1)


@pytest.fixture(params=["key", "container", "identity"])
def storage(request):
    """An empty storage, that comes in by the account's key, by a link to the container, or as an identity."""
    if request.param == "identity":
        server = request.getfixturevalue("azurite_https")
        made = make_storage(server, credential=request.getfixturevalue("fake_credential")())
    else:
        server = request.getfixturevalue("azurite")
        made = make_storage(server)
        if request.param == "container":
            made = make_storage(server, sas_container_url=made.create_container_url(HOUR))
    yield made
    made.close()
    server.remove_container(made.bucket)


@pytest.fixture
def by_key(azurite):
    """An empty storage."""
    made = make_storage(azurite)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


@pytest.fixture
def large():
    """What takes four blocks, where a block of a copy is 1 MiB, and is no pattern."""
    return random.Random(4).randbytes(3 * MIB + 1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 1 MiB, from 1 byte on."""
    monkeypatch.setattr(copy_module, "_PART", MIB)
    monkeypatch.setattr(storage_module, "copy_blob", partial(copy_blob, max_single_copy=1))


@pytest.fixture
def seen(azurite, by_key, small_blocks):
    """A proxy before the server that copies blocks as Azure does, and the storage as it is seen through it."""
    address = urlsplit(azurite.url)
    with ScriptedProxy(address.hostname, address.port) as proxy:
        proxy.script = _copies_blocks(by_key, address)
        server = dataclasses.replace(azurite, http=f"{proxy.url}{address.path}")
        storage = make_storage(
            server,
            bucket=by_key.bucket,
            max_attempts=1,
            concurrency=2,
            max_connections=4,
            metadata={"team": "x"},
            cache_control="max-age=9",
        )
        yield proxy, storage
        storage.close()


def _is_block(request):
    return request.query.get("comp") == "block" and "x-ms-copy-source" in request.headers


def _copies_blocks(inside, address):
    """The script for what Azurite cannot: a block whose content is fetched from a signed address."""

    def script(request):
        if not _is_block(request):
            return None
        source = urlsplit(request.headers["x-ms-copy-source"])._replace(netloc=address.netloc).geturl()
        wanted = {"Range": request.headers["x-ms-source-range"], "If-Match": request.headers["x-ms-source-if-match"]}
        got = send(source, "GET", wanted)
        if got.status != 206:
            code = "SourceConditionNotMet" if got.status == 412 else "CannotVerifyCopySource"
            return azure_error(got.status, code)
        name = base64.b64decode(request.query["blockid"]).decode()
        inside.client.get_blob_client(request.path.rpartition("/")[2]).stage_block(name, got.body)
        return Answer(201)

    return script


# -- at once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_copy_has_all_that_belongs_to_the_file(storage, content):
    """Content, headers and metadata; no byte comes here."""
    copy_all_that_belongs_to_it(storage, content, ASCII_HEADERS)


def test_a_copy_replaces_its_target(storage):
    """With everything that belonged to it."""
    replace_by_a_copy(storage)


def test_what_is_not_there_cannot_be_copied(storage):
    """Nor moved; the target stays what it is."""
    copy_what_is_not_there(storage)


def test_a_move_leaves_nothing_behind(storage):
    """But the file under its new name."""
    move_away(storage, ASCII_HEADERS)


def test_a_copy_is_no_download(by_key, azurite):
    """The service is asked what is there, and told to copy that."""
    address = urlsplit(azurite.url)
    by_key.write("a", b"hello")
    with ScriptedProxy(address.hostname, address.port) as proxy:
        server = dataclasses.replace(azurite, http=f"{proxy.url}{address.path}")
        storage = make_storage(server, bucket=by_key.bucket)
        storage.copy("a", "b")
        ours = [each.request for each in proxy.exchanges if "sig" not in each.request.query]
        storage.close()

    assert [request.method for request in ours] == ["HEAD", "PUT"]
    assert by_key.read("b") == b"hello"


def test_a_link_that_only_reads_copies_nothing(azurite, by_key):
    """It is refused, and nothing is there."""
    by_key.write("a", b"hello")
    with azurite.service() as service:
        url = f"{service.get_container_client(by_key.bucket).url}?{_read_only(azurite, by_key.bucket)}"
    storage = make_storage(azurite, sas_container_url=url)

    with pytest.raises(PermissionDeniedError):
        storage.copy("a", "b")

    assert storage.read("a") == b"hello"
    assert not by_key.exists("b")
    storage.close()


def _read_only(server, container):
    return generate_container_sas(
        server.account,
        container,
        account_key=server.key,
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + HOUR,
    )


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["copy", "move"])
def test_an_exclusive_copy_refuses_a_taken_name(storage, verb):
    """Both files stay what they are."""
    storage.write("a", b"new")
    storage.write("b", b"old")

    with pytest.raises(FileExistsInStorageError):
        getattr(storage, verb)("a", "b", exclusive=True)
    kept_both = storage.read("a"), storage.read("b")
    getattr(storage, verb)("a", "c", exclusive=True)

    assert kept_both == (b"new", b"old")
    assert storage.read("c") == b"new"
    assert storage.exists("a") is (verb == "copy")


@pytest.mark.parametrize("verb", ["copy", "move"])
def test_a_copy_may_ask_for_a_version_of_its_target(storage, verb):
    """Another one is left alone, and so is a name that is free."""
    storage.write("a", b"new")
    storage.write("b", b"old")
    etag = storage.stat("b").etag

    with pytest.raises(PreconditionFailedError):
        getattr(storage, verb)("a", "b", if_match="0x0")
    with pytest.raises(PreconditionFailedError):
        getattr(storage, verb)("a", "c", if_match=etag)
    untouched = storage.read("a"), storage.read("b"), storage.exists("c")
    getattr(storage, verb)("a", "b", if_match=etag)

    assert untouched == (b"new", b"old", False)
    assert storage.read("b") == b"new"


@pytest.mark.parametrize("in_blocks", [False, True], ids=["at once", "in blocks"])
def test_a_source_that_is_replaced_meanwhile_is_an_error(monkeypatch, seen, by_key, large, in_blocks):
    """And never a mix, nor a version that nobody has looked at."""
    proxy, storage = seen
    by_key.write("a", large)
    copies_blocks = proxy.script
    if not in_blocks:
        monkeypatch.setattr(storage_module, "copy_blob", copy_blob)

    def script(request):
        if "x-ms-copy-source" in request.headers:
            by_key.write("a", bytes(len(large)))
        return copies_blocks(request)

    proxy.script = script
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b")

    assert not by_key.exists("b")
    assert "blocklist" not in [exchange.request.query.get("comp") for exchange in proxy.exchanges]


# -- where the service copies no blocks -------------------------------------------------------------------------------


def test_what_the_service_does_not_copy_is_streamed(storage, small_blocks, large):
    """An emulator answers that it copies no blocks: then the bytes come here, and go back with all that they have."""
    storage.write("a", large, **ASCII_HEADERS)

    copied = copy_blob(
        storage._gateway, "a", "b", WriteOptions(), storage._workers, storage._sas_builder, max_single_copy=MIB
    )
    storage.copy("a", "c")

    assert copied is False
    assert not storage.exists("b")
    assert storage.read("c") == large
    assert kept(storage.stat("c")) == ASCII_HEADERS


def test_a_streamed_copy_keeps_conditions(by_key, small_blocks, large):
    """Whatever the way, the target is the one that was named."""
    by_key.write("a", large)
    by_key.write("b", b"old")
    etag = by_key.stat("b").etag

    with pytest.raises(FileExistsInStorageError):
        by_key.copy("a", "b", exclusive=True)
    with pytest.raises(PreconditionFailedError):
        by_key.copy("a", "b", if_match="0x0")
    untouched = by_key.read("b")
    by_key.move("a", "b", if_match=etag)

    assert untouched == b"old"
    assert by_key.read("b") == large
    assert not by_key.exists("a")


# -- in blocks --------------------------------------------------------------------------------------------------------


def test_a_copy_in_blocks_has_all_that_belongs_to_the_file(seen, by_key, large):
    """As one at once has; no byte of it comes here, and every block is copied once."""
    proxy, storage = seen
    by_key.write("a", large, **ASCII_HEADERS)
    proxy.exchanges.clear()

    storage.copy("a", "b")

    asked = [exchange.request for exchange in proxy.exchanges]
    ranges = [request.headers["x-ms-source-range"] for request in asked if _is_block(request)]
    assert not [request for request in asked if request.method == "GET"]
    assert sorted(ranges) == sorted(
        f"bytes={start}-{min(start + MIB, len(large)) - 1}" for start in range(0, len(large), MIB)
    )
    assert storage.read("b") == large
    assert kept(storage.stat("b")) == ASCII_HEADERS


def test_a_copy_in_blocks_gains_nothing(seen, by_key):
    """No metadata and no headers that were not there, whatever the profile adds to what it writes."""
    _, storage = seen
    by_key.client.upload_blob("a.txt", bytes(MIB + 1))

    storage.copy("a.txt", "b.html")

    assert kept(storage.stat("b.html")) == kept(storage.stat("a.txt"))
    assert storage.stat("b.html").metadata == {}
    assert storage.read("b.html") == bytes(MIB + 1)


def test_conditions_count_in_blocks_too(seen, large):
    """They are decided when the blocks are committed."""
    _, storage = seen
    storage.write("a", large)
    storage.write("b", b"old")
    etag = storage.stat("b").etag

    with pytest.raises(FileExistsInStorageError):
        storage.copy("a", "b", exclusive=True)
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b", if_match="0x0")
    untouched = storage.read("b")
    storage.copy("a", "c", exclusive=True)
    storage.move("a", "b", if_match=etag)

    assert untouched == b"old"
    assert storage.read("c") == storage.read("b") == large
    assert not storage.exists("a")


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_failing_block_ends_the_copy(seen, large, number):
    """Nothing is committed, nothing of it is still on its way, and the target stays what it is."""
    proxy, storage = seen
    storage.write("a", large)
    storage.write("b", b"old")
    copies_blocks = proxy.script

    def script(request):
        if _is_block(request) and base64.b64decode(request.query["blockid"]).startswith(f"{number:05}".encode()):
            return azure_error(500, "InternalError")
        return copies_blocks(request)

    proxy.script = script
    with pytest.raises(StorageUnavailableError):
        storage.move("a", "b")
    after = len(proxy.exchanges)

    assert storage.read("b") == b"old"
    assert storage.read("a") == large
    assert not [exchange for exchange in proxy.exchanges if exchange.request.query.get("comp") == "blocklist"]
    assert not [exchange for exchange in proxy.exchanges[after:] if _is_block(exchange.request)]
    proxy.script = copies_blocks
    storage.copy("a", "b")
    assert storage.read("b") == large


def test_a_copy_that_cannot_be_committed_leaves_the_target(seen, large):
    """And says that it was not done."""
    proxy, storage = seen
    storage.write("a", large)
    storage.write("b", b"old")
    copies_blocks = proxy.script
    proxy.script = lambda request: (
        azure_error(500, "InternalError") if request.query.get("comp") == "blocklist" else copies_blocks(request)
    )

    with pytest.raises(StorageUnavailableError):
        storage.copy("a", "b")

    assert storage.read("b") == b"old"


def test_a_copy_in_blocks_that_is_overtaken_says_so(seen, azurite, large):
    """Somebody else has written the target in blocks while ours were copied: that one is there, whole."""
    proxy, storage = seen
    other = make_storage(azurite, bucket=storage.bucket, chunk_size=1000)
    storage.write("a", large)
    storage.write("b", b"old")
    copies_blocks = proxy.script

    def script(request):
        if request.query.get("comp") == "blocklist":
            other.write("b", b"other" * 1000)
        return copies_blocks(request)

    proxy.script = script
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b")

    assert storage.read("b") == b"other" * 1000
    other.close()


def test_a_copy_in_blocks_is_stored_as_the_profile_says(azurite, by_key, small_blocks, large):
    """Every block, and the whole, in the profile's encryption scope."""
    address = urlsplit(azurite.url)
    by_key.write("a", large)
    with ScriptedProxy(address.hostname, address.port) as proxy:
        server = dataclasses.replace(azurite, http=f"{proxy.url}{address.path}")
        storage = make_storage(server, bucket=by_key.bucket, encryption_scope="ours")
        proxy.script = lambda request: Answer(201, headers=_WRITTEN) if request.method == "PUT" else None
        storage.copy("a", "b")
        storage.close()

    scopes = [each.request.headers["x-ms-encryption-scope"] for each in proxy.exchanges if each.request.method == "PUT"]
    assert scopes == ["ours"] * 5


_WRITTEN = {"ETag": '"0x1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "x-ms-request-server-encrypted": "true"}


# -- the address of the source ----------------------------------------------------------------------------------------


def _told_of_its_source(storage, path):
    """Return what Azure tells whoever reads a copy of where it came from."""
    return send(storage.link_to(path, "d", HOUR), "GET").headers.get("x-ms-copy-source", "")


def test_a_copy_tells_an_address_that_is_good_for_minutes(by_key):
    """Whoever may read the copy is shown it, and it opens the one source for reading."""
    by_key.write("a", b"hello")

    by_key.copy("a", "b")

    terms = parse_qs(urlsplit(_told_of_its_source(by_key, "b")).query)
    assert (terms["sp"], terms["sr"]) == (["r"], ["b"])
    assert datetime.fromisoformat(terms["se"][0]) - datetime.now(UTC) <= timedelta(minutes=20, seconds=1)


@pytest.mark.parametrize("copies", [True, False], ids=["in blocks", "through here"])
def test_a_signature_that_was_given_to_us_is_shown_to_nobody(seen, by_key, azurite, copies):
    """It opens whole containers, for as long as somebody thought fit; so blocks are copied, which tells nobody."""
    proxy, storage = seen
    other = make_storage(azurite)
    other.write("a.txt", b"hello", metadata={"color": "red"})
    guest = make_storage(azurite, sas_container_url=other.create_container_url(HOUR))
    target = storage if copies else by_key

    target.copy_from(guest, "a.txt", "b")
    guest.copy("a.txt", "c.txt")

    assert target.read("b") == guest.read("c.txt") == b"hello"
    assert target.stat("b").metadata["color"] == "red"
    assert _told_of_its_source(by_key, "b") == _told_of_its_source(other, "c.txt") == ""
    assert any(_is_block(exchange.request) for exchange in proxy.exchanges) == copies
    azurite.remove_container(other.bucket)


def test_an_empty_file_is_copied_by_a_signature_that_was_given_to_us(azurite):
    """There is no block to copy."""
    other = make_storage(azurite)
    other.write("a.txt", b"", metadata={"color": "red"})
    guest = make_storage(azurite, sas_container_url=other.create_container_url(HOUR))

    guest.copy("a.txt", "b.txt")

    assert (guest.read("b.txt"), guest.stat("b.txt").metadata) == (b"", {"color": "red"})
    azurite.remove_container(other.bucket)


def test_what_has_too_long_an_address_comes_through_here(by_key):
    """The service takes 2 KB, which names of other letters than ASCII soon fill."""
    path = "/".join(["ж" * 120] * 4)
    by_key.write(path, b"hello", metadata={"color": "red"})
    by_key.copy(path, "b")

    assert (by_key.read("b"), by_key.stat("b").metadata) == (b"hello", {"color": "red"})
    assert _told_of_its_source(by_key, "b") == ""


def test_a_copy_may_take_longer_than_other_answers(seen, large, monkeypatch):
    """The service answers when all is copied."""
    _, storage = seen
    storage.write("a", large)
    patience = {}
    ask = storage._gateway.call

    def noted(operation, *arguments, **more):
        patience[operation] = more.get("read_timeout")
        return ask(operation, *arguments, **more)

    monkeypatch.setattr(storage._gateway, "call", noted)
    storage.copy("a", "b")
    copy_blob(storage._gateway, "a", "c", WriteOptions(), storage._workers, storage._sas_builder)

    assert patience["stage_block_from_url"] == patience["start_copy_from_url"] == 300
