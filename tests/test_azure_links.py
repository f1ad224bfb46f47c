"""Links into Azure: each is good for exactly what was signed, and Azurite, which checks signatures, refuses others."""

import base64
import http.client
import itertools
import ssl
import string
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient, ContainerClient, UserDelegationKey

from flask_storage import AzureStorage, signals
from flask_storage.backends.azure.sas import AzureSasBuilder
from flask_storage.errors import (
    ConfigurationError,
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidPathError,
    UnsupportedOperationError,
)
from flask_storage.types import LinkRequest, ShareLinkOperation, WriteOptions
from tests.azure_storages import make_storage
from tests.plain_client import follow, send

pytest_plugins = ["tests.services.azurite"]

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
BODY = b"some content"
PATH = "a folder/caf\u00e9 \u4e2d+&=%2F#?.txt"
KEY = base64.b64encode(b"a secret that nobody may see").decode()
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
REFUSALS = {403, 400, 500}
"""A wrong signature is 403, what is no well-formed request 400; Azurite stumbles over an encryption scope."""
PUT = {"x-ms-blob-type": "BlockBlob"}
NO_SIGNER = "Cannot create a SAS URL without account credentials: give the account's key, or a credential"


@pytest.fixture(scope="module")
def ground(azurite):
    """A storage, kept for the whole module."""
    made = make_storage(azurite)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


@pytest.fixture
def storage(ground):
    """An empty storage."""
    ground.delete_many([entry.name for entry in ground.list()])
    return ground


def far(**arguments):
    """A storage of Azure, which nothing is asked of: links are made without the network."""
    return AzureStorage("acct", KEY, "files", **arguments)


def query_of(url):
    """The parameters of a link, unquoted."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def end_of(url):
    """Until when a link is good."""
    return datetime.fromisoformat(query_of(url)["se"])


def securely(server, url, method="GET", headers=None, body=None):
    """The status and the body of one request by https."""
    target = urlsplit(url)
    trusted = ssl.create_default_context(cafile=str(server.ca))
    connection = http.client.HTTPSConnection(target.hostname or "", target.port, timeout=20, context=trusted)
    connection.request(method, f"{target.path}?{target.query}", body, headers or {})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


# -- what a link is good for ------------------------------------------------------------------------------------------

REQUESTS = {"d": ("GET", {}, None, 200), "u": ("PUT", PUT, b"new", 201), "r": ("DELETE", {}, None, 202)}
COMBINATIONS = ["".join(letters) for size in (1, 2, 3) for letters in itertools.combinations("dur", size)]


@pytest.mark.parametrize("operations", COMBINATIONS)
def test_a_link_grants_what_it_was_made_for_and_nothing_else(storage, operations):
    """Each operation and every combination of them, each asked for everything."""
    storage.write(PATH, BODY)
    url = storage.link_to(PATH, operations, HOUR)
    results = {}

    for letter in sorted(REQUESTS, key=lambda letter: letter in operations):  # first what must be refused
        method, headers, body, _ = REQUESTS[letter]
        results[letter] = send(url, method, headers, body).status

    assert results == {letter: REQUESTS[letter][3] if letter in operations else 403 for letter in REQUESTS}
    if operations == "d":
        assert storage.read(PATH) == BODY


def test_a_link_to_remove_removes_once(storage):
    """A second time there is nothing."""
    storage.write(PATH, BODY)
    url = storage.link_to(PATH, "remove", HOUR)

    assert [send(url, "DELETE").status for _ in range(2)] == [202, 404]
    assert not storage.exists(PATH)


def test_the_permissions_of_a_link_are_the_least_that_do():
    """Reading, creating and writing, deleting; create-only does not write."""
    made = {operations: query_of(far().link_to("a", operations, HOUR))["sp"] for operations in COMBINATIONS}

    assert made == {"d": "r", "u": "cw", "r": "d", "du": "rcw", "dr": "rd", "ur": "cwd", "dur": "rcwd"}
    assert query_of(far().link_to("a", "upload", HOUR, exclusive=True))["sp"] == "c"


@pytest.mark.parametrize("operation", ["download", "upload", "remove"])
def test_a_link_that_has_expired_is_refused(storage, operation):
    """It was good until five seconds ago."""
    storage.write("a", BODY)
    ended = datetime.now(UTC) - timedelta(seconds=5)
    chosen = ShareLinkOperation.as_operation(operation)
    method, headers, body, _ = REQUESTS[str(chosen)]

    url = storage._sas_builder.url("a", LinkRequest(operations=chosen, expires_at=ended))

    assert send(url, method, headers, body).status == 403
    assert storage.read("a") == BODY


def _flipped(text, index):
    """The text with one character changed into another of its kind."""
    old = text[index]
    kind = next((kind for kind in (string.digits, string.ascii_letters) if old in kind), "-_")
    return text[:index] + next(char for char in kind if char != old) + text[index + 1 :]


def _tampered(url, other_container):
    """The link with each parameter changed, emptied or left out, to other blobs, and to another container."""
    query, parts = query_of(url), urlsplit(url)
    for name, value in query.items():
        changes = {f"{name} at {at}": _flipped(value, at) for at in range(0, len(value), max(1, len(value) // 5))}
        for what, changed in {**changes, f"{name} empty": ""}.items():
            yield what, parts._replace(query=urlencode({**query, name: changed})).geturl()
        yield f"no {name}", parts._replace(query=urlencode({key: query[key] for key in query if key != name})).geturl()
    for more in ("rscl=de", "rsce=gzip", "sip=0.0.0.0-255.255.255.255", "spr=https,http", "ses=x", "st=2020-01-01"):
        yield f"with {more}", f"{url}&{more}"
    _, account, container, blob = parts.path.split("/", 3)
    for index in range(len(unquote(blob))):
        yield f"blob at {index}", parts._replace(path=f"/{account}/{container}/{quote(_flipped(blob, index))}").geturl()
    for what, path in {
        "longer": f"{container}/{blob}1",
        "below": f"{container}/{blob}/1",
        "container": container,
    }.items():
        yield what, parts._replace(path=f"/{account}/{path}").geturl()
    yield "other container", parts._replace(path=f"/{account}/{other_container}/{blob}").geturl()


def test_no_changed_download_is_answered(storage, azurite):
    """Nor does anything else than what was signed decide how the service answers."""
    other = make_storage(azurite)
    for held in (storage, other):
        for path in ("folder/file", "folder/filf", "folder/file1"):
            held.write(path, BODY)
    url = storage.link_to("folder/file", "download", HOUR, "a.txt", "text/plain", cache_control="private")
    cases = dict(_tampered(url, other.bucket))

    answers = {what: send(changed, "GET") for what, changed in cases.items()}

    assert len(cases) > 60
    assert {what: answer.status for what, answer in answers.items() if answer.status not in REFUSALS} == {}
    assert not any(BODY in answer.body for answer in answers.values())
    assert send(url, "GET").body == BODY


def test_no_changed_upload_is_taken(storage, azurite):
    """Neither to another name nor with other terms."""
    other = make_storage(azurite)
    instruction = storage.upload_request("folder/file", HOUR)
    cases = dict(_tampered(instruction.url, other.bucket))

    statuses = {what: send(url, "PUT", instruction.headers, BODY).status for what, url in cases.items()}

    assert {what: status for what, status in statuses.items() if status not in REFUSALS} == {}
    assert storage.list() == other.list() == []
    assert follow(instruction, BODY).status == 201


# -- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "header", "value"),
    [
        ({"output_path": "report.pdf"}, "Content-Disposition", 'attachment; filename="report.pdf"'),
        (
            {"output_path": 'Zo\u00eb "1"; x=\\.txt'},
            "Content-Disposition",
            "attachment; filename=\"Zoe _1_; x=_.txt\"; filename*=UTF-8''Zo%C3%AB%20%221%22%3B%20x%3D%5C.txt",
        ),
        (
            {"output_path": "\u4e2d\U0001f600.txt"},
            "Content-Disposition",
            "attachment; filename=\"__.txt\"; filename*=UTF-8''%E4%B8%AD%F0%9F%98%80.txt",
        ),
        ({"content_type": "text/x-special; a=b"}, "Content-Type", "text/x-special; a=b"),
        ({"content_encoding": "gzip"}, "Content-Encoding", "gzip"),
        ({"cache_control": "private, max-age=5"}, "Cache-Control", "private, max-age=5"),
        ({"disposition": "attachment", "output_path": "b.txt"}, "Content-Disposition", 'attachment; filename="b.txt"'),
        ({"disposition": "inline", "output_path": "b.txt"}, "Content-Disposition", 'inline; filename="b.txt"'),
        ({}, "Content-Disposition", "attachment"),
    ],
)
def test_a_link_says_how_the_service_answers(storage, terms, header, value):
    """Name, type, encoding and caching are signed into the link, and arrive as they were given."""
    storage.write(PATH, BODY)

    answer = send(storage.link_to(PATH, "download", HOUR, **terms), "GET")

    assert (answer.status, answer.body, answer.headers[header]) == (200, BODY, value)


@pytest.mark.parametrize(
    ("path", "content_type", "shown"),
    [("a.png", None, True), ("a.html", None, False), ("a", None, False), ("a.png", "text/html", False)],
)
def test_only_what_can_run_nothing_is_shown(storage, path, content_type, shown):
    """Whatever is asked for, a page with scripts is saved, and the stored type does not decide."""
    storage.write(path, BODY, content_type="text/html")

    answer = send(storage.link_to(path, "download", HOUR, disposition="inline", content_type=content_type), "GET")

    assert answer.headers["Content-Disposition"].startswith("inline" if shown else "attachment")


def test_a_link_without_terms_answers_with_what_is_stored(storage):
    """Type and content are those of the file, and a piece may be asked for."""
    storage.write(PATH, BODY, content_type="text/x-mine")
    url = storage.link_to(PATH, "download", HOUR)

    whole, piece = send(url, "GET"), send(url, "GET", {"Range": "bytes=5-6"})

    assert (whole.status, whole.body, whole.headers["Content-Type"]) == (200, BODY, "text/x-mine")
    assert (piece.status, piece.body) == (206, BODY[5:7])


def test_many_links_are_those_made_one_by_one(azurite):
    """With the text that each has alone, below the prefix, in their order; each is announced."""
    below = make_storage(azurite, prefix="a/pr\u00e9fix")
    paths = [PATH, "b.txt", "b.txt"]
    issued: list[str] = []

    def note(sender, path, **extra):
        issued.append(path)

    with signals.link_issued.connected_to(note, sender=below):
        together = below.links_to(paths, "download", NOON)
    shown = below.links_to(paths, "download", NOON, disposition="inline")
    below.write(PATH, BODY)

    assert together == [below.link_to(path, "download", NOON) for path in paths]
    assert shown == [below.link_to(path, "download", NOON, disposition="inline") for path in paths]
    assert query_of(shown[1])["rsct"] == "text/plain; charset=utf-8"
    assert issued == paths
    assert below.links_to([], "download", NOON) == []
    assert send(together[0], "GET").body == BODY


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_an_upload_is_stored_as_the_instruction_says(storage):
    """By a client that sends its headers and nothing else; the app looks at what came."""
    instruction = storage.upload_request(
        "a.png", HOUR, content_type="image/png", content_encoding="gzip", cache_control="private"
    )

    answer = follow(instruction, BODY)

    info = storage.confirm_upload("a.png", size=len(BODY), content_type="image/")
    assert answer.status == 201
    assert (info.content_type, info.content_encoding, info.cache_control) == ("image/png", "gzip", "private")
    assert (storage.read("a.png"), instruction.method) == (BODY, "PUT")
    assert instruction.expires_at == end_of(instruction.url)


def test_an_upload_that_is_not_what_was_asked_for_is_deleted(storage):
    """A signature of Azure binds no type and no size: looking afterwards does."""
    instruction = storage.upload_request("a.png", HOUR, content_type="image/png")
    changed = {**instruction.headers, "x-ms-blob-content-type": "text/html"}

    status = send(instruction.url, "PUT", changed, BODY).status

    with pytest.raises(IntegrityError, match="of type 'text/html' was uploaded where 'image/png' was asked"):
        storage.confirm_upload("a.png", content_type="image/png")
    assert (status, storage.exists("a.png")) == (201, False)


def test_an_upload_without_a_type_is_bytes_without_a_meaning(storage):
    """The name of the file tells nothing; caching and the encryption scope are the profile's."""
    instruction = storage.upload_request("a.html", HOUR)
    stated = far(cache_control="max-age=9", encryption_scope="mine").upload_request("a", HOUR)
    link = far(encryption_scope="mine").link_to("a", "download", HOUR)

    follow(instruction, BODY)

    assert storage.stat("a.html").content_type == "application/octet-stream"
    assert stated.headers == {
        **PUT,
        "x-ms-blob-content-type": "application/octet-stream",
        "x-ms-blob-cache-control": "max-age=9",
        "x-ms-encryption-scope": "mine",
    }
    assert query_of(stated.url)["ses"] == "mine"
    assert "ses" not in query_of(link)


def test_create_only_takes_a_free_name_once(storage):
    """The second upload by the same link finds the name taken, and without the header it is not allowed to."""
    instruction = storage.upload_request("a", HOUR, exclusive=True)
    bare = {name: value for name, value in instruction.headers.items() if name != "If-None-Match"}

    first = follow(instruction, BODY)
    again = [follow(instruction, b"another").status, send(instruction.url, "PUT", bare, b"another").status]

    assert first.status == 201
    assert set(again) <= {403, 409, 412}
    assert instruction.headers["If-None-Match"] == "*"
    assert storage.read("a") == BODY


@pytest.mark.parametrize("size", [3, 300_000])
def test_azures_own_client_uploads_by_a_link(storage, azurite, size):
    """In one request or in blocks, as keg-storage's users do."""
    url = storage.link_to(PATH, "upload", HOUR)

    with BlobClient.from_blob_url(url, max_single_put_size=100_000, max_block_size=100_000) as client:
        client.upload_blob(bytes(size))
        with pytest.raises(HttpResponseError):
            client.download_blob().readall()

    assert storage.read(PATH) == bytes(size)


# -- terms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "terms", "name"),
    [
        ("download", {"uses": 1}, "uses"),
        ("upload", {"size": 5}, "size"),
        ("upload", {"max_size": 5}, "max_size"),
        ("upload", {"checksum": f"md5:{'0' * 32}"}, "checksum"),
    ],
)
def test_terms_that_azure_cannot_bind_are_refused(operation, terms, name):
    """Better no link than one that promises what nobody looks at."""
    with pytest.raises(UnsupportedOperationError, match=f"bind {name} in a link"):
        far().link_to("a", operation, HOUR, **terms)
    with pytest.raises(UnsupportedOperationError, match="bind"):
        far().upload_request("a", HOUR, **terms)


@pytest.mark.parametrize(
    ("ip", "written"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("203.0.113.0/24", "203.0.113.0-203.0.113.255"),
        ("203.0.113.77/24", "203.0.113.0-203.0.113.255"),
        ("0.0.0.0/0", "0.0.0.0-255.255.255.255"),
    ],
)
def test_a_network_is_written_as_azure_does(storage, ip, written):
    """An address, or the first and the last; it is signed."""
    storage.write("a", BODY)
    url = storage.link_to("a", "download", HOUR, ip=ip)

    assert query_of(url)["sip"] == written
    assert query_of(storage.create_container_url(HOUR, ip))["sip"] == written
    assert send(url, "GET").status == 200  # Azurite does not look at the address, but at the signature
    assert send(url.replace("sip=", "sip=1"), "GET").status == 403


def test_a_network_that_azure_does_not_know_is_refused():
    """It has no links for IPv6; what is no address is none."""
    for make in (
        lambda ip: far().link_to("a", "download", HOUR, ip=ip),
        lambda ip: far().create_container_url(HOUR, ip),
    ):
        with pytest.raises(UnsupportedOperationError, match="IPv4 addresses only"):
            make("2001:db8::/32")
        with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6"):
            make("somewhere")


def test_links_are_for_https_where_the_address_is(azurite):
    """Unless somebody says otherwise, or browsers know another address."""
    links = {
        "https": far(),
        "plain": far(endpoint_url="http://127.0.0.1:10000/acct"),
        "browsers": far(link_endpoint_url="http://files.example.com/"),
        "told": far(link_https_only=False),
        "told to": far(endpoint_url="http://127.0.0.1:10000/acct", link_https_only=True),
    }
    made = {name: storage.link_to("a b", "download", HOUR) for name, storage in links.items()}
    refused = make_storage(azurite, link_https_only=True)
    refused.write("a", BODY)

    assert {name for name, url in made.items() if query_of(url).get("spr") == "https"} == {"https", "told to"}
    assert made["browsers"].startswith("http://files.example.com/files/a%20b?")
    assert send(refused.link_to("a", "download", HOUR), "GET").status == 403


@pytest.mark.parametrize("days", [1, 365])
def test_a_link_of_the_key_ends_when_it_was_asked_to(days):
    """To the second, never earlier, and however late."""
    until = NOON + timedelta(days=days, microseconds=1)

    assert end_of(far().link_to("a", "download", until)) == NOON + timedelta(days=days, seconds=1)
    with pytest.raises(ValueError, match="past"):
        far().link_to("a", "download", datetime(2020, 1, 1, tzinfo=UTC))


def test_no_secret_is_in_a_link():
    """Nor in an instruction."""
    made = [far().link_to("a", "dur", HOUR), far().create_container_url(HOUR), repr(far().upload_request("a", HOUR))]

    assert not [text for text in made if KEY in unquote(text)]


# -- what only Azure has, and the seed's names -------------------------------------------------------------------------


def test_the_seeds_names_warn_and_work(storage):
    """They are ``link_to`` with an operation, and the warning points at the caller."""
    with pytest.warns(DeprecationWarning, match="create_upload_url is link_to") as warned:
        upload = storage.create_upload_url(PATH, HOUR)
    with pytest.warns(DeprecationWarning, match="create_download_url is link_to") as again:
        download = storage.create_download_url(PATH, HOUR)

    assert send(upload, "PUT", PUT, BODY).status == 201
    assert send(download, "GET").body == BODY
    assert send(download, "DELETE").status == 403
    assert [warned[0].filename, again[0].filename] == [__file__, __file__]


def test_a_link_to_the_container_does_everything_in_it(storage):
    """Listing, reading, writing and deleting; and nothing with the container itself."""
    storage.write("a", BODY)

    with ContainerClient.from_container_url(storage.create_container_url(HOUR), retry_total=0) as client:
        names = [blob.name for blob in client.list_blobs()]
        content = client.download_blob("a").readall()
        client.upload_blob("b", b"2")
        client.delete_blob("a")
        with pytest.raises(HttpResponseError):
            client.delete_container()

    assert (names, content) == (["a"], BODY)
    assert [entry.name for entry in storage.list()] == ["b"]
    with pytest.raises(ValueError, match="past"):
        storage.create_container_url(timedelta(hours=-1))


def test_no_changed_link_to_the_container_is_answered(storage):
    """Neither with other permissions, a later expiry or another address, nor without its signature."""
    storage.write("a", BODY)
    url = storage.create_container_url(HOUR, "203.0.113.5")
    listing = f"{url}&restype=container&comp=list"
    query = query_of(listing)
    changed = {
        "sp": {**query, "sp": "racwdl"},
        "se": {**query, "se": "2099-01-01T00:00:00Z"},
        "sip": {**query, "sip": "0.0.0.0-255.255.255.255"},
        "no sip": {name: value for name, value in query.items() if name != "sip"},
        "sr": {**query, "sr": "b"},
        "sig": {name: value for name, value in query.items() if name != "sig"},
    }

    statuses = {
        what: send(urlsplit(url)._replace(query=urlencode(terms)).geturl(), "GET").status
        for what, terms in changed.items()
    }

    assert {what: status for what, status in statuses.items() if status not in REFUSALS} == {}
    assert send(listing, "GET").status == 200


@pytest.mark.parametrize("name", ["sas_container_url", "sas_blob_url"])
def test_without_credentials_there_are_no_links(storage, azurite, name):
    """What signs nothing says so, in its capabilities too, and what to give instead."""
    made = storage.create_container_url(HOUR)
    url = made if name == "sas_container_url" else storage.link_to("a", "du", HOUR)
    without = make_storage(azurite, **{name: url})

    for make in (
        lambda: without.link_to("a", "download", HOUR),
        lambda: without.links_to(["a"], "upload", HOUR),
        lambda: without.upload_request("a", HOUR),
        lambda: without.create_container_url(HOUR),
        lambda: without.block_request("a", "A" * 22, 1, HOUR),
        lambda: without.create_download_url("a", HOUR),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with pytest.raises(ConfigurationError) as caught:
                make()
        assert isinstance(caught.value, ValueError)
        assert str(caught.value) == NO_SIGNER
    assert without.capabilities.links == ShareLinkOperation(0)
    assert without.capabilities.link_constraints == without.capabilities.upload_constraints == frozenset()


# -- blocks -----------------------------------------------------------------------------------------------------------


def test_a_browser_sends_the_blocks_and_the_app_finishes(storage):
    """Two requests without any header; the content type is the app's, and nothing is visible before."""
    upload_id = storage.multipart.create(PATH, WriteOptions(content_type="video/mp4"))
    requests = [storage.block_request(PATH, upload_id, number, HOUR) for number in (1, 2)]

    statuses = [follow(request, body).status for request, body in zip(requests, (b"first,", b"second"), strict=True)]
    early = storage.exists(PATH)
    listed = storage.multipart.list_parts(PATH, upload_id)
    storage.multipart.complete(PATH, upload_id, listed, WriteOptions())

    assert (statuses, early) == ([201, 201], False)
    assert [(part.number, part.size) for part in listed] == [(1, 6), (2, 6)]
    assert [request.headers for request in requests] == [{}, {}]
    assert (storage.read(PATH), storage.stat(PATH).content_type) == (b"first,second", "video/mp4")


def test_a_block_that_is_sent_twice_counts_once(storage):
    """A browser tries again where the net broke off."""
    upload_id = storage.multipart.create("a", WriteOptions())
    request = storage.block_request("a", upload_id, 1, HOUR)

    for body in (b"cut o", b"whole"):
        follow(request, body)
    storage.multipart.complete("a", upload_id, storage.multipart.list_parts("a", upload_id), WriteOptions())

    assert storage.read("a") == b"whole"


def test_a_block_is_bound_to_its_blob(storage):
    """The link is for this name, and ends."""
    upload_id = storage.multipart.create("a", WriteOptions())
    request = storage.block_request("a", upload_id, 1, HOUR)

    assert send(request.url.replace("/a?", "/b?"), "PUT", {}, BODY).status == 403
    assert request.expires_at == end_of(request.url)
    assert far(encryption_scope="mine").block_request("a", "A" * 22, 1, HOUR).headers == {
        "x-ms-encryption-scope": "mine"
    }


@pytest.mark.parametrize("number", [0, -1, 50_001, True, "1", 1.0, None])
def test_a_block_has_a_number_that_the_service_takes(number):
    """From 1 to 50,000."""
    with pytest.raises(ValueError, match="numbered from 1 to 50000"):
        far().block_request("a", "A" * 22, number, HOUR)


@pytest.mark.parametrize("upload_id", ["", "short", "A" * 21 + "/", "A" * 22 + "\n"])
def test_a_block_of_no_upload_is_refused(upload_id):
    """Before anything is signed."""
    with pytest.raises(FileNotFoundInStorageError, match=r"a \(upload\)"):
        far().block_request("a", upload_id, 1, HOUR)


# -- links that an identity signs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def identified(azurite_https, fake_credential):
    """A storage that an identity opens."""
    made = make_storage(azurite_https, credential=fake_credential())
    yield made
    made.close()


def test_a_link_of_an_identity_is_good_for_what_was_signed(identified, azurite_https):
    """Verified by the service with the key that it gave; tampered with, it is refused."""
    identified.write(PATH, BODY)
    download, upload = (identified.link_to(PATH, operation, HOUR) for operation in ("download", "upload"))
    refused = [download.replace("sp=r", "sp=rw"), download.replace("rscd=a", "rscd=b"), _ends_otherwise(download)]

    assert securely(azurite_https, download) == (200, BODY)
    assert [securely(azurite_https, url)[0] for url in refused] == [403, 403, 403]
    assert securely(azurite_https, download, "DELETE")[0] == 403
    assert securely(azurite_https, upload, "PUT", PUT, b"new")[0] == 201
    assert identified.read(PATH) == b"new"
    assert query_of(download)["spr"] == "https"


def _ends_otherwise(link):
    """Return a link with another signature, which is Base64 of 32 bytes and a padding."""
    assert link.endswith("%3D")
    return f"{link[:-4]}{'E' if link[-4] == 'A' else 'A'}%3D"


def test_other_links_of_an_identity_work_too(identified, azurite_https):
    """In bulk, to the container, for blocks and for a copy."""
    identified.write("a", BODY)
    upload_id = identified.multipart.create("b", WriteOptions())
    block = identified.block_request("b", upload_id, 1, HOUR)
    identified.copy("a", "c")

    assert securely(azurite_https, identified.links_to(["a"], "download", HOUR)[0]) == (200, BODY)
    assert securely(azurite_https, block.url, "PUT", {}, BODY)[0] == 201
    assert securely(azurite_https, f"{identified.create_container_url(HOUR)}&restype=container&comp=list")[0] == 200
    assert identified.read("c") == BODY


class Keys:
    """Gives keys to sign with as the service does, and counts them."""

    def __init__(self) -> None:
        self.asked: list[tuple[datetime, datetime]] = []

    def delegation_key(self, starts, ends):
        """Return a key that lasts as long as was asked."""
        self.asked.append((starts, ends))
        text = "%Y-%m-%dT%H:%M:%SZ"
        key = UserDelegationKey()
        key.signed_oid, key.signed_tid = "an-identity", "a-tenant"
        key.signed_start, key.signed_expiry = starts.strftime(text), ends.strftime(text)
        key.signed_service, key.signed_version = "b", "2022-11-02"
        key.value = base64.b64encode(f"key {len(self.asked)}".encode()).decode()
        return key


class Clock:
    """Says what it is told."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self):
        """The seconds since 1970."""
        return self.now.timestamp()


@pytest.fixture
def delegated():
    """A storage whose key to sign with is ours, and whose clock too."""

    class Identity:
        def get_token(self, *scopes, **options):
            raise AssertionError(scopes)

    storage = AzureStorage("acct", bucket="files", credential=Identity())
    keys, clock = Keys(), Clock()
    storage._sas_builder = AzureSasBuilder(storage._gateway, storage._account, keys, clock=clock)  # type: ignore[arg-type]  # gives keys
    return storage, keys, clock


def test_a_key_to_sign_with_is_asked_for_once_and_in_time(delegated):
    """It is good for a week; links of an hour need a new one when less than that is left."""
    storage, keys, clock = delegated
    asked = []

    for later in (timedelta(0), timedelta(days=6), WEEK - timedelta(minutes=66), WEEK - timedelta(minutes=64), WEEK):
        clock.now = NOON + later
        url = storage.link_to("a", "download", clock.now + HOUR)
        asked.append(len(keys.asked))
        assert end_of(url) == clock.now + HOUR

    assert asked == [1, 1, 1, 2, 2]
    # Begun a little earlier, as clocks differ.
    assert keys.asked[0] == (NOON - timedelta(minutes=5), NOON - timedelta(minutes=5) + WEEK)


def test_a_longer_link_needs_a_longer_key(delegated):
    """A key that does for an hour may not do for six days."""
    storage, keys, clock = delegated
    storage.link_to("a", "download", NOON + HOUR)
    clock.now = NOON + timedelta(days=2)

    url = storage.link_to("a", "download", clock.now + timedelta(days=6))

    assert len(keys.asked) == 2
    assert end_of(url) == clock.now + timedelta(days=6)


def test_more_than_seven_days_are_seven_days_and_a_warning(delegated):
    """The service would refuse the link; whoever asked for it is told, and so is when it ends."""
    storage, _, _ = delegated
    ends = NOON - timedelta(minutes=5) + WEEK
    makers = [
        lambda: storage.link_to("a", "download", NOON + timedelta(days=8)),
        lambda: storage.links_to(["a"], "download", NOON + timedelta(days=8))[0],
        lambda: storage.upload_request("a", NOON + timedelta(days=8)).url,
        lambda: storage.create_container_url(NOON + timedelta(days=8)),
    ]

    for make in makers:
        with pytest.warns(UserWarning, match="seven days at most: this one ends then"):
            assert end_of(make()) == ends
    with pytest.warns(UserWarning, match="seven days"):
        assert storage.upload_request("a", NOON + timedelta(days=8)).expires_at == ends
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert end_of(storage.link_to("a", "download", NOON + WEEK)) == ends


@pytest.mark.parametrize(
    "verb", ["link_to", "links_to", "inline", "upload_request", "create_container_url", "block_request"]
)
def test_a_warning_points_at_whoever_asked(delegated, verb):
    """And not at the inside of the package."""
    storage, _, _ = delegated
    late = NOON + timedelta(days=8)
    ask = {
        "link_to": lambda: storage.link_to("a", "download", late),
        "links_to": lambda: storage.links_to(["a"], "download", late),
        "inline": lambda: storage.links_to(["a"], "download", late, disposition="inline"),
        "upload_request": lambda: storage.upload_request("a", late),
        "create_container_url": lambda: storage.create_container_url(late),
        "block_request": lambda: storage.block_request("a", "A" * 22, 1, late),
    }[verb]

    with pytest.warns(UserWarning, match="seven days") as warned:
        ask()

    assert warned[0].filename == __file__


def test_a_key_of_another_process_is_not_used(delegated):
    """Each asks for its own after a fork; here, making the storage asked for none."""
    storage, keys, _ = delegated

    assert keys.asked == []
    storage.links_to([f"{number}" for number in range(100)], "download", NOON + HOUR)
    assert len(keys.asked) == 1


def test_a_link_of_an_identity_names_the_key_and_does_not_contain_it(delegated):
    """The link has all parameters by which the service finds the key; no text shows the key itself."""
    storage, keys, _ = delegated
    value = keys.delegation_key(NOON, NOON + HOUR).value
    keys.asked.clear()

    url = storage.link_to("a", "download", NOON + HOUR)
    shown = f"{unquote(url)} {storage!r} {storage._sas_builder!r} {vars(storage._sas_builder)!r} {storage._sas_builder._delegated()!r}"

    assert {name: query_of(url)[name] for name in ("skoid", "sktid", "skt", "ske", "sks", "skv")} == {
        "skoid": "an-identity",
        "sktid": "a-tenant",
        "skt": "2030-01-01T11:55:00Z",
        "ske": "2030-01-08T11:55:00Z",
        "sks": "b",
        "skv": "2022-11-02",
    }
    assert value not in shown


# -- what is no link --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ip", ["", 5, b"1234", "no address", "::ffff:1.2.3.4"])
def test_a_container_is_opened_to_what_is_an_address(ip):
    """A variable that is not set must not open it to everybody."""
    with pytest.raises(ValueError, match=r"ip is the text|does not appear to be|write it as an IPv4 network"):
        far().create_container_url(HOUR, ip)


def test_a_link_ends_in_a_year_of_four_digits():
    """As the times of Azure do."""
    far_off = datetime.max.replace(tzinfo=UTC)

    assert query_of(far().link_to("a", "d", far_off))["se"] == "9999-12-31T23:59:59Z"
    assert far().upload_request("a", far_off).expires_at.year == 9999


@pytest.mark.parametrize("header", ["content_type", "content_encoding"])
def test_a_link_holds_headers_that_can_be_sent(header):
    """The service would fail at others."""
    with pytest.raises(ValueError, match=f"{header} is kept in ASCII here"):
        far().link_to("a", "d", HOUR, **{header: "日"})


@pytest.mark.parametrize("term", ["output_path", "content_type", "content_encoding", "cache_control"])
@pytest.mark.parametrize("text", ["a\nb", "a\n", "\n", "a\rb"])
def test_a_link_holds_no_line_end(term, text):
    """The SDK signs one value per line: with a line end in a value, two different links have one signature."""
    with pytest.raises(ValueError, match="must be one line of text"):
        far().link_to("a", "download", HOUR, **{term: text})


@pytest.mark.parametrize("path", ["a\nb", "a\n", "\n", "a\rb", "a\ud800"])
def test_a_link_is_for_a_path_without_control_characters(path):
    """No operation signs a name with a line end, or one that has no bytes in UTF-8."""
    for make in (
        lambda: far().link_to(path, "download", HOUR),
        lambda: far().links_to(["a", path], "download", HOUR),
        lambda: far().upload_request(path, HOUR),
        lambda: far().block_request(path, "A" * 22, 1, HOUR),
    ):
        with pytest.raises(InvalidPathError, match="control character"):
            make()


@pytest.mark.parametrize("setting", ["account", "bucket", "prefix", "encryption_scope", "link_endpoint_url"])
def test_a_setting_that_is_signed_holds_no_line_end(setting):
    """A profile with one is refused before it makes a link."""
    settings: dict[str, Any] = {
        "account": "acct",
        "key": KEY,
        "bucket": "files",
        "endpoint_url": "https://files.example.com",
    }

    with pytest.raises((ConfigurationError, InvalidPathError)):
        AzureStorage(**{**settings, setting: "https://a.example.com/\nb" if "url" in setting else "abc\ndef"})


def test_a_key_that_is_about_to_end_signs_nothing_more(delegated):
    """Clocks differ by minutes: a link for one minute by a key that has two left might be refused at once."""
    storage, keys, clock = delegated
    storage.link_to("a", "download", NOON + HOUR)
    clock.now = NOON + WEEK - timedelta(minutes=7)

    storage.link_to("a", "download", clock.now + timedelta(minutes=1))

    assert len(keys.asked) == 2
