"""Links to Azure: each grants exactly what was signed, and Azurite, which checks signatures, refuses others."""

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
from azure.core.exceptions import DeserializationError, HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient, UserDelegationKey

from flask_storage import AzureStorage, signals
from flask_storage.backends.azure.sas import AzureSasBuilder
from flask_storage.errors import (
    ConfigurationError,
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidPathError,
    NoSignerError,
    StorageUnavailableError,
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
KEY = base64.b64encode(b"a secret that must not be inline").decode()
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
REFUSALS = {403, 400, 500}
"""403 for a wrong signature, 400 for a malformed request; Azurite fails with 500 at an encryption scope."""
PUT = {"x-ms-blob-type": "BlockBlob"}
NO_SIGNER = "Cannot create a SAS URL without account credentials: give the account's key, or a credential"


@pytest.fixture(scope="module")
def shared_storage(azurite):
    """A storage for the whole module."""
    storage = make_storage(azurite)
    yield storage
    storage.close()
    azurite.remove_container(storage.bucket)


@pytest.fixture
def storage(shared_storage):
    """An empty storage."""
    shared_storage.delete_many([entry.name for entry in shared_storage.list()])
    return shared_storage


def offline_storage(**arguments):
    """Return a storage to which no request is sent: links are created without the network."""
    return AzureStorage("acct", KEY, "files", **arguments)


def parameters_of(url):
    """Return the parameters of a link, unquoted."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def expiry_of(url):
    """Return when a link expires."""
    return datetime.fromisoformat(parameters_of(url)["se"])


def send_over_https(server, url, method="GET", headers=None, body=None):
    """Return status and body of the response to one request over https."""
    target = urlsplit(url)
    context = ssl.create_default_context(cafile=str(server.ca))
    connection = http.client.HTTPSConnection(target.hostname or "", target.port, timeout=20, context=context)
    connection.request(method, f"{target.path}?{target.query}", body, headers or {})
    response = connection.getresponse()
    result = response.status, response.read()
    connection.close()
    return result


# -- what a link grants -----------------------------------------------------------------------------------------------

REQUESTS = {"d": ("GET", {}, None, 200), "u": ("PUT", PUT, b"new", 201), "r": ("DELETE", {}, None, 202)}
COMBINATIONS = ["".join(letters) for size in (1, 2, 3) for letters in itertools.combinations("dur", size)]


@pytest.mark.parametrize("operations", COMBINATIONS)
def test_a_link_grants_its_operations_and_no_others(storage, operations):
    """Each combination of operations is tried with each request."""
    storage.write(PATH, BODY)
    url = storage.link_to(PATH, operations, HOUR)
    results = {}

    for letter in sorted(REQUESTS, key=lambda letter: letter in operations):  # refused requests first
        method, headers, body, _ = REQUESTS[letter]
        results[letter] = send(url, method, headers, body).status

    assert results == {letter: REQUESTS[letter][3] if letter in operations else 403 for letter in REQUESTS}
    if operations == "d":
        assert storage.read(PATH) == BODY


def test_a_remove_link_removes_once(storage):
    """The second request finds no file."""
    storage.write(PATH, BODY)
    url = storage.link_to(PATH, "remove", HOUR)

    assert [send(url, "DELETE").status for _ in range(2)] == [202, 404]
    assert not storage.exists(PATH)


def test_a_link_has_the_least_permissions():
    """Read, create and write, delete; a create-only link cannot write."""
    permissions = {
        operations: parameters_of(offline_storage().link_to("a", operations, HOUR))["sp"] for operations in COMBINATIONS
    }

    assert permissions == {"d": "r", "u": "cw", "r": "d", "du": "rcw", "dr": "rd", "ur": "cwd", "dur": "rcwd"}
    assert parameters_of(offline_storage().link_to("a", "upload", HOUR, exclusive=True))["sp"] == "c"


@pytest.mark.parametrize("operation", ["download", "upload", "remove"])
def test_an_expired_link_is_refused(storage, operation):
    """It expired five seconds ago."""
    storage.write("a", BODY)
    expired_at = datetime.now(UTC) - timedelta(seconds=5)
    parsed = ShareLinkOperation.as_operation(operation)
    method, headers, body, _ = REQUESTS[str(parsed)]

    url = storage._sas_builder.url("a", LinkRequest(operations=parsed, expires_at=expired_at))

    assert send(url, method, headers, body).status == 403
    assert storage.read("a") == BODY


def _with_character_changed(text, index):
    """Return the text with one character changed into another of the same class."""
    old = text[index]
    alphabet = next((alphabet for alphabet in (string.digits, string.ascii_letters) if old in alphabet), "-_")
    return text[:index] + next(char for char in alphabet if char != old) + text[index + 1 :]


def _tampered(url, other_container):
    """Yield the link with each parameter changed, emptied or removed, for other blobs and another container."""
    query, parts = parameters_of(url), urlsplit(url)
    for name, value in query.items():
        changes = {
            f"{name} at {at}": _with_character_changed(value, at)
            for at in range(0, len(value), max(1, len(value) // 5))
        }
        for case, changed in {**changes, f"{name} empty": ""}.items():
            yield case, parts._replace(query=urlencode({**query, name: changed})).geturl()
        yield f"no {name}", parts._replace(query=urlencode({key: query[key] for key in query if key != name})).geturl()
    for extra in ("rscl=de", "rsce=gzip", "sip=0.0.0.0-255.255.255.255", "spr=https,http", "ses=x", "st=2020-01-01"):
        yield f"with {extra}", f"{url}&{extra}"
    _, account, container, blob = parts.path.split("/", 3)
    for index in range(len(unquote(blob))):
        yield (
            f"blob at {index}",
            parts._replace(path=f"/{account}/{container}/{quote(_with_character_changed(blob, index))}").geturl(),
        )
    for case, path in {
        "longer": f"{container}/{blob}1",
        "below": f"{container}/{blob}/1",
        "container": container,
    }.items():
        yield case, parts._replace(path=f"/{account}/{path}").geturl()
    yield "other container", parts._replace(path=f"/{account}/{other_container}/{blob}").geturl()


def test_every_changed_download_link_is_refused(storage, azurite):
    """Nothing that is not signed has an effect on the response."""
    other = make_storage(azurite)
    for each in (storage, other):
        for path in ("folder/file", "folder/filf", "folder/file1"):
            each.write(path, BODY)
    url = storage.link_to("folder/file", "download", HOUR, "a.txt", "text/plain", cache_control="private")
    cases = dict(_tampered(url, other.bucket))

    responses = {case: send(changed, "GET") for case, changed in cases.items()}

    assert len(cases) > 60
    assert {case: response.status for case, response in responses.items() if response.status not in REFUSALS} == {}
    assert not any(BODY in response.body for response in responses.values())
    assert send(url, "GET").body == BODY


def test_every_changed_upload_link_is_refused(storage, azurite):
    """No other path and no other constraint is accepted."""
    other = make_storage(azurite)
    presigned = storage.upload_request("folder/file", HOUR)
    cases = dict(_tampered(presigned.url, other.bucket))

    statuses = {case: send(url, "PUT", presigned.headers, BODY).status for case, url in cases.items()}

    assert {case: status for case, status in statuses.items() if status not in REFUSALS} == {}
    assert storage.list() == other.list() == []
    assert follow(presigned, BODY).status == 201


# -- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "header", "value"),
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
def test_a_link_sets_response_headers(storage, arguments, header, value):
    """File name, type, encoding and caching are signed into the link."""
    storage.write(PATH, BODY)

    response = send(storage.link_to(PATH, "download", HOUR, **arguments), "GET")

    assert (response.status, response.body, response.headers[header]) == (200, BODY, value)


@pytest.mark.parametrize(
    ("path", "content_type", "inline"),
    [("a.png", None, True), ("a.html", None, False), ("a", None, False), ("a.png", "text/html", False)],
)
def test_only_content_that_cannot_run_scripts_is_shown_inline(storage, path, content_type, inline):
    """HTML is always an attachment; the stored type does not decide."""
    storage.write(path, BODY, content_type="text/html")

    response = send(storage.link_to(path, "download", HOUR, disposition="inline", content_type=content_type), "GET")

    assert response.headers["Content-Disposition"].startswith("inline" if inline else "attachment")


def test_a_link_without_arguments_sends_the_stored_type(storage):
    """A range can be requested too."""
    storage.write(PATH, BODY, content_type="text/x-mine")
    url = storage.link_to(PATH, "download", HOUR)

    whole, part = send(url, "GET"), send(url, "GET", {"Range": "bytes=5-6"})

    assert (whole.status, whole.body, whole.headers["Content-Type"]) == (200, BODY, "text/x-mine")
    assert (part.status, part.body) == (206, BODY[5:7])


def test_links_to_returns_the_same_links_as_link_to(azurite):
    """Below the prefix and in the same order; each sends a signal."""
    prefixed = make_storage(azurite, prefix="a/pr\u00e9fix")
    paths = [PATH, "b.txt", "b.txt"]
    issued: list[str] = []

    def record(sender, path, **extra):
        issued.append(path)

    with signals.link_issued.connected_to(record, sender=prefixed):
        links = prefixed.links_to(paths, "download", NOON)
    inline = prefixed.links_to(paths, "download", NOON, disposition="inline")
    prefixed.write(PATH, BODY)

    assert links == [prefixed.link_to(path, "download", NOON) for path in paths]
    assert inline == [prefixed.link_to(path, "download", NOON, disposition="inline") for path in paths]
    assert parameters_of(inline[1])["rsct"] == "text/plain; charset=utf-8"
    assert issued == paths
    assert prefixed.links_to([], "download", NOON) == []
    assert send(links[0], "GET").body == BODY


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_an_upload_stores_the_presigned_headers(storage):
    """The client sends only these headers; the app confirms the upload."""
    presigned = storage.upload_request(
        "a.png", HOUR, content_type="image/png", content_encoding="gzip", cache_control="private"
    )

    response = follow(presigned, BODY)

    info = storage.confirm_upload("a.png", size=len(BODY), content_type="image/")
    assert response.status == 201
    assert (info.content_type, info.content_encoding, info.cache_control) == ("image/png", "gzip", "private")
    assert (storage.read("a.png"), presigned.method) == (BODY, "PUT")
    assert presigned.expires_at == expiry_of(presigned.url)


def test_confirming_an_upload_of_another_type_deletes_it(storage):
    """A SAS cannot enforce type and size."""
    presigned = storage.upload_request("a.png", HOUR, content_type="image/png")
    changed = {**presigned.headers, "x-ms-blob-content-type": "text/html"}

    status = send(presigned.url, "PUT", changed, BODY).status

    with pytest.raises(
        IntegrityError, match="with content_type 'text/html' was uploaded where 'image/png' was expected"
    ):
        storage.confirm_upload("a.png", content_type="image/png")
    assert (status, storage.exists("a.png")) == (201, False)


def test_an_upload_without_a_type_is_application_octet_stream(storage):
    """The type is not guessed from the name; caching and encryption scope are the profile's."""
    presigned = storage.upload_request("a.html", HOUR)
    with_defaults = offline_storage(cache_control="max-age=9", encryption_scope="mine").upload_request("a", HOUR)
    link = offline_storage(encryption_scope="mine").link_to("a", "download", HOUR)

    follow(presigned, BODY)

    assert storage.stat("a.html").content_type == "application/octet-stream"
    assert with_defaults.headers == {
        **PUT,
        "x-ms-blob-content-type": "application/octet-stream",
        "x-ms-blob-cache-control": "max-age=9",
        "x-ms-encryption-scope": "mine",
    }
    assert parameters_of(with_defaults.url)["ses"] == "mine"
    assert "ses" not in parameters_of(link)


def test_an_exclusive_upload_link_creates_once(storage):
    """A second upload fails, also without the If-None-Match header."""
    presigned = storage.upload_request("a", HOUR, exclusive=True)
    without_condition = {name: value for name, value in presigned.headers.items() if name != "If-None-Match"}

    first = follow(presigned, BODY)
    again = [follow(presigned, b"another").status, send(presigned.url, "PUT", without_condition, b"another").status]

    assert first.status == 201
    assert set(again) <= {403, 409, 412}
    assert presigned.headers["If-None-Match"] == "*"
    assert storage.read("a") == BODY


@pytest.mark.parametrize("size", [3, 300_000])
def test_the_sdk_can_upload_with_a_link(storage, azurite, size):
    """In one request or in blocks, as users of keg-storage do."""
    url = storage.link_to(PATH, "upload", HOUR)

    with BlobClient.from_blob_url(url, max_single_put_size=100_000, max_block_size=100_000) as client:
        client.upload_blob(bytes(size))
        with pytest.raises(HttpResponseError):
            client.download_blob().readall()

    assert storage.read(PATH) == bytes(size)


# -- constraints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "constraint", "name"),
    [
        ("download", {"uses": 1}, "uses"),
        ("upload", {"size": 5}, "size"),
        ("upload", {"max_size": 5}, "max_size"),
        ("upload", {"checksum": f"md5:{'0' * 32}"}, "checksum"),
    ],
)
def test_constraints_that_azure_cannot_enforce_are_refused(operation, constraint, name):
    """No link is returned whose constraint would be ignored."""
    with pytest.raises(UnsupportedOperationError, match=f"enforce {name} in a link"):
        offline_storage().link_to("a", operation, HOUR, **constraint)
    with pytest.raises(UnsupportedOperationError, match="enforce"):
        offline_storage().upload_request("a", HOUR, **constraint)


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("203.0.113.0/24", "203.0.113.0-203.0.113.255"),
        ("203.0.113.77/24", "203.0.113.0-203.0.113.255"),
        ("0.0.0.0/0", "0.0.0.0-255.255.255.255"),
    ],
)
def test_a_network_is_converted_to_an_address_range(storage, ip, expected):
    """One address, or the first and the last; it is signed."""
    storage.write("a", BODY)
    url = storage.link_to("a", "download", HOUR, ip=ip)

    assert parameters_of(url)["sip"] == expected
    assert parameters_of(storage.create_container_url(HOUR, ip))["sip"] == expected
    assert send(url, "GET").status == 200  # Azurite checks the signature, but not the address
    assert send(url.replace("sip=", "sip=1"), "GET").status == 403


def test_an_ipv6_network_is_refused():
    """So is text that is no network."""
    for make in (
        lambda ip: offline_storage().link_to("a", "download", HOUR, ip=ip),
        lambda ip: offline_storage().create_container_url(HOUR, ip),
    ):
        with pytest.raises(UnsupportedOperationError, match="IPv4 addresses only"):
            make("2001:db8::/32")
        with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6"):
            make("somewhere")


def test_links_are_https_only_if_the_url_is_https(azurite):
    """link_https_only overrides it, and link_endpoint_url is the URL for browsers."""
    links = {
        "https": offline_storage(),
        "plain": offline_storage(endpoint_url="http://127.0.0.1:10000/acct"),
        "browsers": offline_storage(link_endpoint_url="http://files.example.com/"),
        "overridden": offline_storage(link_https_only=False),
        "forced": offline_storage(endpoint_url="http://127.0.0.1:10000/acct", link_https_only=True),
    }
    urls = {name: storage.link_to("a b", "download", HOUR) for name, storage in links.items()}
    refused = make_storage(azurite, link_https_only=True)
    refused.write("a", BODY)

    assert {name for name, url in urls.items() if parameters_of(url).get("spr") == "https"} == {"https", "forced"}
    assert urls["browsers"].startswith("http://files.example.com/files/a%20b?")
    assert send(refused.link_to("a", "download", HOUR), "GET").status == 403


@pytest.mark.parametrize("days", [1, 365])
def test_a_link_signed_by_the_key_expires_when_requested(days):
    """To the second, rounded up, without a maximum."""
    until = NOON + timedelta(days=days, microseconds=1)

    assert expiry_of(offline_storage().link_to("a", "download", until)) == NOON + timedelta(days=days, seconds=1)
    with pytest.raises(ValueError, match="past"):
        offline_storage().link_to("a", "download", datetime(2020, 1, 1, tzinfo=UTC))


def test_a_link_does_not_contain_the_key():
    """Nor does the repr of a presigned upload."""
    texts = [
        offline_storage().link_to("a", "dur", HOUR),
        offline_storage().create_container_url(HOUR),
        repr(offline_storage().upload_request("a", HOUR)),
    ]

    assert not [text for text in texts if KEY in unquote(text)]


# -- methods that only Azure or keg-storage has ------------------------------------------------------------------------


def test_the_deprecated_names_of_keg_storage_warn_and_work(storage):
    """The warning points to the caller."""
    with pytest.warns(DeprecationWarning, match="create_upload_url is link_to") as warned:
        upload = storage.create_upload_url(PATH, HOUR)
    with pytest.warns(DeprecationWarning, match="create_download_url is link_to") as again:
        download = storage.create_download_url(PATH, HOUR)

    assert send(upload, "PUT", PUT, BODY).status == 201
    assert send(download, "GET").body == BODY
    assert send(download, "DELETE").status == 403
    assert [warned[0].filename, again[0].filename] == [__file__, __file__]


def test_a_container_link_grants_all_operations_on_blobs(storage):
    """It cannot delete the container itself."""
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


def test_every_changed_container_link_is_refused(storage):
    """Other permissions, a later expiry, another address, or no signature."""
    storage.write("a", BODY)
    url = storage.create_container_url(HOUR, "203.0.113.5")
    listing = f"{url}&restype=container&comp=list"
    query = parameters_of(listing)
    changed = {
        "sp": {**query, "sp": "racwdl"},
        "se": {**query, "se": "2099-01-01T00:00:00Z"},
        "sip": {**query, "sip": "0.0.0.0-255.255.255.255"},
        "no sip": {name: value for name, value in query.items() if name != "sip"},
        "sr": {**query, "sr": "b"},
        "sig": {name: value for name, value in query.items() if name != "sig"},
    }

    statuses = {
        case: send(urlsplit(url)._replace(query=urlencode(parameters)).geturl(), "GET").status
        for case, parameters in changed.items()
    }

    assert {case: status for case, status in statuses.items() if status not in REFUSALS} == {}
    assert send(listing, "GET").status == 200


@pytest.mark.parametrize("name", ["sas_container_url", "sas_blob_url"])
def test_a_storage_with_a_sas_cannot_create_links(storage, azurite, name):
    """The error says what to configure, and the capabilities have no links."""
    container_url = storage.create_container_url(HOUR)
    url = container_url if name == "sas_container_url" else storage.link_to("a", "du", HOUR)
    with_sas = make_storage(azurite, **{name: url})

    for make in (
        lambda: with_sas.link_to("a", "download", HOUR),
        lambda: with_sas.links_to(["a"], "upload", HOUR),
        lambda: with_sas.upload_request("a", HOUR),
        lambda: with_sas.create_container_url(HOUR),
        lambda: with_sas.block_request("a", "A" * 22, 1, HOUR),
        lambda: with_sas.create_download_url("a", HOUR),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with pytest.raises(NoSignerError) as caught:
                make()
        assert isinstance(caught.value, ValueError)
        assert str(caught.value).startswith(NO_SIGNER)
    assert with_sas.capabilities.links == ShareLinkOperation(0)
    assert with_sas.capabilities.link_constraints == with_sas.capabilities.upload_constraints == frozenset()


# -- blocks -----------------------------------------------------------------------------------------------------------


def test_a_browser_can_send_the_blocks_of_an_upload_that_the_app_completes(storage):
    """The requests have no headers; the content type is the app's, and nothing is visible before."""
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


def test_a_block_that_is_sent_twice_is_stored_once(storage):
    """A browser may retry after a network error."""
    upload_id = storage.multipart.create("a", WriteOptions())
    request = storage.block_request("a", upload_id, 1, HOUR)

    for body in (b"cut o", b"whole"):
        follow(request, body)
    storage.multipart.complete("a", upload_id, storage.multipart.list_parts("a", upload_id), WriteOptions())

    assert storage.read("a") == b"whole"


def test_a_block_link_is_for_one_blob(storage):
    """It expires, and has the header of the encryption scope."""
    upload_id = storage.multipart.create("a", WriteOptions())
    request = storage.block_request("a", upload_id, 1, HOUR)

    assert send(request.url.replace("/a?", "/b?"), "PUT", {}, BODY).status == 403
    assert request.expires_at == expiry_of(request.url)
    assert offline_storage(encryption_scope="mine").block_request("a", "A" * 22, 1, HOUR).headers == {
        "x-ms-encryption-scope": "mine"
    }


@pytest.mark.parametrize("number", [0, -1, 50_001, True, "1", 1.0, None])
def test_an_invalid_block_number_is_refused(number):
    """Valid numbers are 1 to 50,000."""
    with pytest.raises(ValueError, match="part number from 1 to 50000"):
        offline_storage().block_request("a", "A" * 22, number, HOUR)


@pytest.mark.parametrize("upload_id", ["", "short", "A" * 21 + "/", "A" * 22 + "\n"])
def test_an_invalid_upload_id_is_refused(upload_id):
    """Before anything is signed."""
    with pytest.raises(FileNotFoundInStorageError, match=r"a \(upload\)"):
        offline_storage().block_request("a", upload_id, 1, HOUR)


# -- links signed by an identity --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def identity_storage(azurite_https, fake_credential):
    """A storage with an identity."""
    storage = make_storage(azurite_https, credential=fake_credential())
    yield storage
    storage.close()


def test_a_link_signed_by_an_identity_grants_what_was_signed(identity_storage, azurite_https):
    """The service verifies it with the key that it issued, and refuses changed links."""
    identity_storage.write(PATH, BODY)
    download, upload = (identity_storage.link_to(PATH, operation, HOUR) for operation in ("download", "upload"))
    refused = [
        download.replace("sp=r", "sp=rw"),
        download.replace("rscd=a", "rscd=b"),
        _with_another_signature(download),
    ]

    assert send_over_https(azurite_https, download) == (200, BODY)
    assert [send_over_https(azurite_https, url)[0] for url in refused] == [403, 403, 403]
    assert send_over_https(azurite_https, download, "DELETE")[0] == 403
    assert send_over_https(azurite_https, upload, "PUT", PUT, b"new")[0] == 201
    assert identity_storage.read(PATH) == b"new"
    assert parameters_of(download)["spr"] == "https"


def _with_another_signature(link):
    """Return a link with another signature, which is Base64 of 32 bytes and a padding."""
    assert link.endswith("%3D")
    return f"{link[:-4]}{'E' if link[-4] == 'A' else 'A'}%3D"


def test_an_identity_can_sign_every_type_of_link(identity_storage, azurite_https):
    """Many links, container links, block links, and the source of a copy."""
    identity_storage.write("a", BODY)
    upload_id = identity_storage.multipart.create("b", WriteOptions())
    block = identity_storage.block_request("b", upload_id, 1, HOUR)
    identity_storage.copy("a", "c")

    assert send_over_https(azurite_https, identity_storage.links_to(["a"], "download", HOUR)[0]) == (200, BODY)
    assert send_over_https(azurite_https, block.url, "PUT", {}, BODY)[0] == 201
    assert (
        send_over_https(azurite_https, f"{identity_storage.create_container_url(HOUR)}&restype=container&comp=list")[0]
        == 200
    )
    assert identity_storage.read("c") == BODY


class FakeDelegationKeys:
    """Issues delegation keys as the service does, and records the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[datetime, datetime]] = []

    def delegation_key(self, starts, ends):
        """Return a key with the requested lifetime."""
        self.requests.append((starts, ends))
        text = "%Y-%m-%dT%H:%M:%SZ"
        key = UserDelegationKey()
        key.signed_oid, key.signed_tid = "an-identity", "a-tenant"
        key.signed_start, key.signed_expiry = starts.strftime(text), ends.strftime(text)
        key.signed_service, key.signed_version = "b", "2022-11-02"
        key.value = base64.b64encode(f"key {len(self.requests)}".encode()).decode()
        return key


class FakeClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self):
        """Return the seconds since 1970."""
        return self.now.timestamp()


@pytest.fixture
def delegated():
    """A storage with fake delegation keys and a fake clock."""

    class Identity:
        def get_token(self, *scopes, **options):
            raise AssertionError(scopes)

    storage = AzureStorage("acct", bucket="files", credential=Identity())
    keys, clock = FakeDelegationKeys(), FakeClock()
    storage._sas_builder = AzureSasBuilder(storage._gateway, storage._account, keys, clock=clock)  # type: ignore[arg-type]  # a double
    return storage, keys, clock


def test_a_delegation_key_is_cached_and_renewed_in_time(delegated):
    """It is valid for a week; a link of an hour needs a new key when less than that is left."""
    storage, keys, clock = delegated
    requested = []

    for later in (timedelta(0), timedelta(days=6), WEEK - timedelta(minutes=66), WEEK - timedelta(minutes=64), WEEK):
        clock.now = NOON + later
        url = storage.link_to("a", "download", clock.now + HOUR)
        requested.append(len(keys.requests))
        assert expiry_of(url) == clock.now + HOUR

    assert requested == [1, 1, 1, 2, 2]
    # It starts five minutes earlier, because clocks differ.
    assert keys.requests[0] == (NOON - timedelta(minutes=5), NOON - timedelta(minutes=5) + WEEK)


def test_a_key_is_renewed_for_a_link_that_outlives_it(delegated):
    """A key that lasts an hour may not last six days."""
    storage, keys, clock = delegated
    storage.link_to("a", "download", NOON + HOUR)
    clock.now = NOON + timedelta(days=2)

    url = storage.link_to("a", "download", clock.now + timedelta(days=6))

    assert len(keys.requests) == 2
    assert expiry_of(url) == clock.now + timedelta(days=6)


def test_a_link_of_an_identity_is_limited_to_seven_days_with_a_warning(delegated):
    """The service would refuse a longer one."""
    storage, _, _ = delegated
    ends = NOON - timedelta(minutes=5) + WEEK
    makers = [
        lambda: storage.link_to("a", "download", NOON + timedelta(days=8)),
        lambda: storage.links_to(["a"], "download", NOON + timedelta(days=8))[0],
        lambda: storage.upload_request("a", NOON + timedelta(days=8)).url,
        lambda: storage.create_container_url(NOON + timedelta(days=8)),
    ]

    for make in makers:
        with pytest.warns(UserWarning, match="seven days at most: this link expires then"):
            assert expiry_of(make()) == ends
    with pytest.warns(UserWarning, match="seven days"):
        assert storage.upload_request("a", NOON + timedelta(days=8)).expires_at == ends
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert expiry_of(storage.link_to("a", "download", NOON + WEEK)) == ends


@pytest.mark.parametrize(
    "method", ["link_to", "links_to", "inline", "upload_request", "create_container_url", "block_request"]
)
def test_the_warning_points_to_the_caller(delegated, method):
    """Not to a line of the package."""
    storage, _, _ = delegated
    late = NOON + timedelta(days=8)
    call = {
        "link_to": lambda: storage.link_to("a", "download", late),
        "links_to": lambda: storage.links_to(["a"], "download", late),
        "inline": lambda: storage.links_to(["a"], "download", late, disposition="inline"),
        "upload_request": lambda: storage.upload_request("a", late),
        "create_container_url": lambda: storage.create_container_url(late),
        "block_request": lambda: storage.block_request("a", "A" * 22, 1, late),
    }[method]

    with pytest.warns(UserWarning, match="seven days") as warned:
        call()

    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("signed_expiry", None),
        ("signed_expiry", "soon"),
        ("signed_oid", None),
        ("signed_tid", ""),
        ("signed_service", None),
        ("signed_version", None),
        ("value", None),
        ("value", ""),
        ("value", "abc"),
        ("value", "no base64"),
    ],
)
def test_a_malformed_delegation_key_is_refused(delegated, monkeypatch, attribute, value):
    """Nothing is signed with it; the next link requests another key."""
    storage, keys, _ = delegated
    request_key = keys.delegation_key

    def malformed(starts, ends):
        key = request_key(starts, ends)
        setattr(key, attribute, value)
        return key

    monkeypatch.setattr(keys, "delegation_key", malformed)

    with pytest.raises(StorageUnavailableError, match="the response is malformed"):
        storage.link_to("a", "download", NOON + HOUR)
    with pytest.raises(StorageUnavailableError, match="the response is malformed"):
        storage.link_to("a", "download", NOON + HOUR)
    assert len(keys.requests) == 2


def test_an_expired_delegation_key_is_refused(delegated, monkeypatch):
    """The clocks differ by days; a link that is signed with it would have expired already."""
    storage, keys, _ = delegated
    request_key = keys.delegation_key
    monkeypatch.setattr(keys, "delegation_key", lambda starts, ends: request_key(starts - WEEK, ends - WEEK))

    with pytest.raises(StorageUnavailableError, match="already expired: check this machine's clock"):
        storage.link_to("a", "download", NOON + HOUR)


@pytest.mark.parametrize(
    ("sdk_error", "error", "message"),
    [
        (AttributeError("'NoneType' object has no attribute 'signed_oid'"), StorageUnavailableError, "is malformed"),
        (DeserializationError("iso-8601"), StorageUnavailableError, "is malformed"),
        (ResourceNotFoundError("404"), ConfigurationError, "does not know the account: check account"),
    ],
    ids=["empty body", "invalid time", "not found"],
)
def test_a_response_without_a_delegation_key_is_refused(monkeypatch, fake_credential, sdk_error, error, message):
    """The SDK raises built-in errors for malformed responses; a 404 is not a missing file."""

    def fail(*_):
        raise sdk_error

    monkeypatch.setattr(BlobServiceClient, "get_user_delegation_key", fail)
    storage = AzureStorage("acct", bucket="files", credential=fake_credential())

    with pytest.raises(error, match=message) as caught:
        storage.link_to("a", "download", HOUR)

    assert caught.value.path == "a"
    storage.close()


def test_a_delegation_key_is_requested_when_first_needed(delegated):
    """Not when the storage is created; 100 links need one key."""
    storage, keys, _ = delegated

    assert keys.requests == []
    storage.links_to([f"{number}" for number in range(100)], "download", NOON + HOUR)
    assert len(keys.requests) == 1


def test_a_link_of_an_identity_does_not_contain_the_delegation_key(delegated):
    """It contains the parameters by which the service finds the key; no repr shows the key."""
    storage, keys, _ = delegated
    value = keys.delegation_key(NOON, NOON + HOUR).value
    keys.requests.clear()

    url = storage.link_to("a", "download", NOON + HOUR)
    builder = storage._sas_builder
    shown = f"{unquote(url)} {storage!r} {builder!r} {vars(builder)!r} {builder._delegated()!r}"

    assert {name: parameters_of(url)[name] for name in ("skoid", "sktid", "skt", "ske", "sks", "skv")} == {
        "skoid": "an-identity",
        "sktid": "a-tenant",
        "skt": "2030-01-01T11:55:00Z",
        "ske": "2030-01-08T11:55:00Z",
        "sks": "b",
        "skv": "2022-11-02",
    }
    assert value not in shown


# -- invalid arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ip", ["", 5, b"1234", "no address", "::ffff:1.2.3.4", "fe80::1%a\n"])
def test_an_invalid_ip_of_a_container_link_is_refused(ip):
    """An empty variable must not open the container to all addresses."""
    with pytest.raises(
        ValueError,
        match=r"ip must be an address or a network as text|does not appear to be|write it as an IPv4 network",
    ):
        offline_storage().create_container_url(HOUR, ip)


def test_the_expiry_of_a_link_is_limited_to_the_year_9999():
    """Azure's times have four digits for the year."""
    latest = datetime.max.replace(tzinfo=UTC)

    assert parameters_of(offline_storage().link_to("a", "d", latest))["se"] == "9999-12-31T23:59:59Z"
    assert offline_storage().upload_request("a", latest).expires_at.year == 9999


@pytest.mark.parametrize("header", ["content_type", "content_encoding"])
def test_a_header_of_a_link_must_be_ascii(header):
    """The service would fail at others."""
    with pytest.raises(ValueError, match=f"{header} must be ASCII on this backend"):
        offline_storage().link_to("a", "d", HOUR, **{header: "日"})


@pytest.mark.parametrize("argument", ["output_path", "content_type", "content_encoding", "cache_control"])
@pytest.mark.parametrize("text", ["a\nb", "a\n", "\n", "a\rb"])
def test_a_link_with_a_line_end_is_refused(argument, text):
    """The SDK signs one value per line: with a line end in a value, two links could have the same signature."""
    with pytest.raises(ValueError, match="must be one line of text"):
        offline_storage().link_to("a", "download", HOUR, **{argument: text})


@pytest.mark.parametrize("path", ["a\nb", "a\n", "\n", "a\rb", "a\ud800"])
def test_a_link_to_a_path_with_control_characters_is_refused(path):
    """Nor is a path signed that has no UTF-8 encoding."""
    for make in (
        lambda: offline_storage().link_to(path, "download", HOUR),
        lambda: offline_storage().links_to(["a", path], "download", HOUR),
        lambda: offline_storage().upload_request(path, HOUR),
        lambda: offline_storage().block_request(path, "A" * 22, 1, HOUR),
    ):
        with pytest.raises(InvalidPathError, match="control character"):
            make()


@pytest.mark.parametrize("setting", ["account", "bucket", "prefix", "encryption_scope", "link_endpoint_url"])
def test_a_signed_setting_with_a_line_end_is_refused(setting):
    """When the storage is created."""
    settings: dict[str, Any] = {
        "account": "acct",
        "key": KEY,
        "bucket": "files",
        "endpoint_url": "https://files.example.com",
    }

    with pytest.raises((ConfigurationError, InvalidPathError)):
        AzureStorage(**{**settings, setting: "https://a.example.com/\nb" if "url" in setting else "abc\ndef"})


def test_a_key_that_is_about_to_expire_is_renewed(delegated):
    """Clocks differ by minutes, so a link of one minute needs a key of more than that."""
    storage, keys, clock = delegated
    storage.link_to("a", "download", NOON + HOUR)
    clock.now = NOON + WEEK - timedelta(minutes=7)

    storage.link_to("a", "download", clock.now + timedelta(minutes=1))

    assert len(keys.requests) == 2
