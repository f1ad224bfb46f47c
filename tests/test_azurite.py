"""The Azurite of the tests refuses invalid credentials; otherwise the tests of links and keys would prove nothing."""

import base64
import dataclasses
import secrets
from datetime import UTC, datetime, timedelta

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient, BlobSasPermissions, generate_blob_sas

pytest_plugins = ["tests.services.azurite"]

HOUR = timedelta(hours=1)
OTHER_KEY = base64.b64encode(secrets.token_bytes(64)).decode()


@pytest.fixture
def url(azurite):
    """The URL of a blob."""
    container = azurite.make_container()
    with azurite.service() as service:
        service.get_blob_client(container, "file").upload_blob(b"content")
    yield f"{azurite.url}/{container}/file"
    azurite.remove_container(container)


def _sas(server, url, key):
    expiry, permission = datetime.now(UTC) + HOUR, BlobSasPermissions(read=True)
    container = url.split("/")[-2]
    return generate_blob_sas(server.account, container, "file", account_key=key, permission=permission, expiry=expiry)


@pytest.mark.parametrize("credential", ["none", "wrong key", "SAS of a wrong key", "changed SAS"])
def test_a_request_with_an_invalid_signature_is_refused(azurite, url, credential):
    """A right signature is accepted."""
    wrong = {
        "none": None,
        "wrong key": {"account_name": azurite.account, "account_key": OTHER_KEY},
        "SAS of a wrong key": _sas(azurite, url, OTHER_KEY),
        "changed SAS": _sas(azurite, url, azurite.key).replace("sp=r", "sp=rw"),
    }
    with BlobClient.from_blob_url(url, wrong[credential], retry_total=0) as blob, pytest.raises(HttpResponseError):
        blob.download_blob()
    with BlobClient.from_blob_url(url, _sas(azurite, url, azurite.key), retry_total=0) as blob:
        assert blob.download_blob().readall() == b"content"


@pytest.mark.parametrize("changes", [{"lifetime": -HOUR.total_seconds()}, {"audience": "https://vault.azure.net"}])
def test_an_expired_token_and_a_token_for_another_service_are_refused(azurite_https, fake_credential, changes):
    """With status 401 or 403."""
    with azurite_https.service(fake_credential(**changes)) as service, pytest.raises(HttpResponseError) as caught:
        service.create_container("never-created")
    assert caught.value.status_code in (401, 403)


def test_the_repr_of_a_server_does_not_show_its_key(azurite):
    """Pytest prints the arguments of a failed test."""
    assert dataclasses.asdict(azurite)["key"] not in repr(azurite)
