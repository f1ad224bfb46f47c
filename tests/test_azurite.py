"""The Azurite of the tests refuses what Azure refuses: or else the tests on it would prove nothing."""

import base64
import dataclasses
import http.client
import secrets
import ssl
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from azure.storage.blob import BlobClient, BlobSasPermissions, generate_blob_sas

pytest_plugins = ["tests.services.azurite"]

HOUR = timedelta(hours=1)
OTHER_KEY = base64.b64encode(secrets.token_bytes(64)).decode()
# A strange origin, and ours.
FOREIGN, OURS = "http://foreign.example", "http://127.0.0.1:5000"


@pytest.fixture
def container(azurite):
    """A container with one blob, `file`."""
    name = azurite.make_container()
    with azurite.service() as service:
        service.get_blob_client(name, "file").upload_blob(b"content")
    yield name
    azurite.remove_container(name)


def _link(server, container, *, key=None, lasts=HOUR, **permissions):
    """A link to `file`."""
    now = datetime.now(UTC)
    query = generate_blob_sas(
        server.account,
        container,
        "file",
        account_key=key or server.key,
        permission=BlobSasPermissions(**(permissions or {"read": True})),
        start=now - 3 * HOUR,
        expiry=now + lasts,
    )
    return f"{server.url}/{container}/file?{query}"


def _come_in(link, method="GET", **headers):
    """The status that a link is answered with, the headers and the body."""
    target = urlsplit(link)
    connection = http.client.HTTPConnection(target.hostname, target.port, timeout=20)
    connection.request(method, f"{target.path}?{target.query}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def _refusal(call, *arguments, **options):
    """The status with which a call of Azure's client is refused."""
    with pytest.raises(HttpResponseError) as raised:
        call(*arguments, **options)
    return raised.value.status_code


# -- keys and links ---------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_and_the_right_one_is_not(azurite, container):
    """The one that a client signs its requests with."""
    with azurite.service() as service:
        assert service.get_blob_client(container, "file").download_blob().readall() == b"content"
    with dataclasses.replace(azurite, key=OTHER_KEY).service() as service:
        blob = service.get_blob_client(container, "file")
        assert _refusal(blob.get_blob_properties) == 403
        assert _refusal(blob.upload_blob, b"forged", overwrite=True) == 403


def test_a_request_without_a_signature_is_refused(azurite, container):
    """The containers are private."""
    with BlobClient.from_blob_url(f"{azurite.url}/{container}/file", retry_total=0) as blob:
        assert _refusal(blob.download_blob) in (403, 404)


def test_a_link_lets_in(azurite, container):
    """The measure of the refusals below."""
    status, _, body = _come_in(_link(azurite, container))
    assert (status, body) == (200, b"content")


@pytest.mark.parametrize(
    ("what", "changes"),
    [("expired", {"lasts": -HOUR}), ("signed with another key", {"key": OTHER_KEY})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_link_that_was_never_good_is_refused(azurite, container, what, changes):
    """With 403, and without a byte of the blob."""
    status, _, body = _come_in(_link(azurite, container, **changes))
    assert status == 403, what
    assert b"content" not in body


@pytest.mark.parametrize(
    ("name", "value"),
    [("se", "2199-01-01T00:00:00Z"), ("sp", "rwd"), ("sr", "c"), ("sv", "2020-02-10"), ("rscd", "inline")],
)
def test_a_link_that_somebody_has_changed_is_refused(azurite, container, name, value):
    """Until when it is, for what, or what the answer looks like."""
    before, *rest = _link(azurite, container).partition("?")
    parameters = [each for each in rest[1].split("&") if not each.startswith(f"{name}=")]
    status, _, body = _come_in(f"{before}?{'&'.join([*parameters, f'{name}={value}'])}")
    assert status == 403
    assert b"content" not in body


def test_a_link_for_reading_does_not_write(azurite, container):
    """Nor does it delete."""
    link = _link(azurite, container)
    assert _come_in(link, "PUT", **{"x-ms-blob-type": "BlockBlob", "Content-Length": "0"})[0] == 403
    assert _come_in(link, "DELETE")[0] == 403
    assert _come_in(link)[2] == b"content"


# -- what the service does for other tests ----------------------------------------------------------------------------


def test_an_emptied_container_is_empty(azurite, container):
    """Snapshots and the blocks of unfinished uploads are gone too."""
    with azurite.service() as service, service.get_container_client(container) as client:
        client.get_blob_client("file").create_snapshot()
        client.get_blob_client("file").stage_block("MDAwMDA=", b"block")
        client.get_blob_client("unfinished").stage_block("MDAwMDA=", b"block")
        azurite.empty_container(container)
        assert [blob.name for blob in client.list_blobs(include=["snapshots", "uncommittedblobs"])] == []


def test_scripts_of_the_allowed_origins_come_in(azurite, container):
    """Those of no other."""

    def allowed(origin):
        asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
        status, headers, _ = _come_in(_link(azurite, container), "OPTIONS", **asked)
        return status == 200 and headers["Access-Control-Allow-Origin"] == origin

    assert not allowed(OURS)
    azurite.allow_origin(OURS)
    assert allowed(OURS)
    assert not allowed(FOREIGN)
    azurite.allow_origin()
    assert not allowed(OURS)


# -- https and tokens -------------------------------------------------------------------------------------------------


def test_https_is_answered_with_the_certificate_of_the_server(azurite_https):
    """Which nobody else vouches for."""
    with azurite_https.service() as service:
        assert service.get_account_information()["account_kind"] == "StorageV2"
    with azurite_https.service(connection_verify=True) as service, pytest.raises(ServiceRequestError) as raised:
        service.get_account_information()
    assert "CERTIFICATE_VERIFY_FAILED" in str(raised.value)
    address = urlsplit(azurite_https.url)
    assert azurite_https.ca.read_text() == ssl.get_server_certificate((address.hostname, address.port))


def test_a_blob_is_copied_by_https(azurite_https):
    """For that the server has to trust itself."""
    container = azurite_https.make_container()
    with azurite_https.service() as service, service.get_container_client(container) as client:
        client.upload_blob("file", b"content")
        copy = client.get_blob_client("copy")
        copy.start_copy_from_url(_link(azurite_https, container), requires_sync=True)
        assert copy.download_blob().readall() == b"content"
    azurite_https.remove_container(container)


def test_a_token_lets_in_and_gets_a_key_to_sign_links_with(azurite_https, fake_credential):
    """As a managed identity does."""
    now = datetime.now(UTC)
    credential = fake_credential()
    with azurite_https.service(credential) as service:
        key = service.get_user_delegation_key(now, now + HOUR)
        assert len(base64.b64decode(key.value)) == 32
        service.delete_container(azurite_https.make_container())
    assert credential.asked == 1


@pytest.mark.parametrize("changes", [{"lasts": -HOUR.total_seconds()}, {"audience": "https://vault.azure.net"}])
def test_a_token_that_has_expired_or_is_for_another_service_is_refused(azurite_https, fake_credential, changes):
    """With 401 or 403."""
    with azurite_https.service(fake_credential(**changes)) as service:
        assert _refusal(service.create_container, "never-made") in (401, 403)


def test_the_key_is_not_in_what_a_failed_test_prints(azurite):
    """Which pytest shows of every argument."""
    assert azurite.key not in repr(azurite)
