"""An app whose files are on Azure: every feature works after changing the profile only."""

import json
import random
from contextlib import closing
from datetime import timedelta
from urllib.parse import quote
from uuid import uuid4

import pytest
from azure.storage.blob import BlobBlock

from flask_storage.http.file_body import CHUNK_BYTES
from tests.counts import count
from tests.plain_client import send
from tests.remote_app import Invoice, MiB, RemoteApp, make_app

pytest_plugins = ["tests.services.azurite"]


@pytest.fixture(scope="module")
def container(azurite):
    """A container for the tests of this module; each test has its own prefix in it."""
    container = azurite.make_container()
    yield container
    azurite.remove_container(container)


@pytest.fixture
def profile(azurite, container):
    """A profile, as a mapping."""
    return {
        "backend": "azure",
        "account": azurite.account,
        "key": azurite.key,
        "bucket": container,
        "prefix": uuid4().hex,
        "endpoint_url": azurite.url,
    }


# -- configuration ----------------------------------------------------------------------------------------------------


def as_mapping(profile):
    """A mapping from name to profile."""
    return {"docs": profile}


def as_pair(profile):
    """A pair of class and arguments."""
    from flask_storage import AzureStorage

    return [(AzureStorage, {"name": "docs", **{key: value for key, value in profile.items() if key != "backend"}})]


def as_url(profile):
    """A URL."""
    query = f"key={quote(profile['key'], safe='')}&endpoint_url={profile['endpoint_url']}"
    return {"docs": f"azure://{profile['account']}/{profile['bucket']}/{profile['prefix']}?{query}"}


def as_connection_string(profile):
    """A connection string as the portal shows it."""
    account = f"AccountName={profile['account']};AccountKey={profile['key']}"
    return {
        "docs": {
            "backend": "azure",
            "bucket": profile["bucket"],
            "prefix": profile["prefix"],
            "connection_string": f"{account};BlobEndpoint={profile['endpoint_url']}",
        }
    }


@pytest.mark.parametrize("form", [as_mapping, as_pair, as_url, as_connection_string])
@pytest.mark.parametrize("source", ["code", "environment"])
def test_a_container_can_be_configured_in_every_form(monkeypatch, tmp_path, azurite, profile, form, source):
    """Mapping, pair, URL and connection string, in code or as JSON in the environment, configure the same container.

    JSON has no classes, so it uses the short name of the backend.
    """
    profiles = form(profile)
    if source == "environment":
        monkeypatch.setenv("FLASK_STORAGE_PROFILES", json.dumps(profiles, default=lambda _: "azure"))
        profiles = None

    storage = make_app(tmp_path, profiles).extensions["storage"]["docs"]

    storage.write("a.txt", b"content")
    with azurite.service() as service:
        blob = service.get_blob_client(profile["bucket"], f"{profile['prefix']}/a.txt")
        assert blob.download_blob().readall() == b"content"
    assert storage.name == "docs"
    storage.close()


# -- apps -------------------------------------------------------------------------------------------------------------


class TestAzure(RemoteApp):
    """The tests of every remote backend, and tests of Azure's links."""

    def test_links_of_a_model_are_native_links(self, app, docs, azurite):
        """One uploads and one downloads with the given file name; both are URLs of the service."""
        with app.app_context():
            link, name = Invoice.storage_get_upload_link("june.pdf", 5, content_type="application/pdf")
            headers = {"x-ms-blob-type": "BlockBlob", "x-ms-blob-content-type": "application/pdf"}
            put = send(link, "PUT", headers, b"%PDF")
            got = send(Invoice.storage_get_download_link(name, 5, output_path="June.pdf"), "GET")

        assert link.startswith(azurite.url)
        assert (put.status, got.status, got.body) == (201, 200, b"%PDF")
        assert got.headers["Content-Type"] == "application/pdf"
        assert got.headers["Content-Disposition"] == 'attachment; filename="June.pdf"'
        assert docs.stat(f"accounting/invoices/{name}").content_type == "application/pdf"

    def test_a_range_near_the_end_of_a_very_large_blob_fetches_only_the_range(self, counted, azurite, profile, line):
        """100 bytes at 4.9 of 5 GiB are 100 bytes of traffic; without --all the blob is smaller."""
        each, number = count(5, 64) * MiB, count(4, 80)
        block = random.Random(5).randbytes(each)
        with closing(azurite.service()) as service:
            blob = service.get_blob_client(profile["bucket"], f"{profile['prefix']}/large.bin")
            blob.stage_block("same", block)  # one block that is repeated
            blob.commit_block_list([BlobBlock("same")] * number)
        start, before = each * number * 49 // 50, line.counters.down

        response = counted.test_client().get("/files/large.bin", headers={"Range": f"bytes={start}-{start + 99}"})

        assert response.status_code == 206
        assert response.data == block[start % each : start % each + 100]
        assert response.headers["Content-Range"] == f"bytes {start}-{start + 99}/{each * number}"
        assert line.counters.down - before <= 100 + CHUNK_BYTES

    def test_the_link_command_prints_a_native_link(self, run, docs):
        """It needs no address of the app, and one link may allow several operations."""
        docs.write("a.txt", b"hello")

        got = send(run("link", "a.txt").stdout.strip(), "GET")
        link = run("link", "b.txt", "--no-download", "--upload").stdout.strip()
        put = send(link, "PUT", {"x-ms-blob-type": "BlockBlob"}, b"sent")
        both = run("link", "a.txt", "--upload").stdout.strip()
        replaced = send(both, "PUT", {"x-ms-blob-type": "BlockBlob"}, b"replaced")

        assert (got.status, got.body) == (200, b"hello")
        assert (put.status, docs.read("b.txt")) == (201, b"sent")
        assert (replaced.status, send(both, "GET").body) == (201, b"replaced")

    def test_the_check_commands_report_a_missing_container(self, run, docs, azurite, tmp_path, profile):
        """The output contains no secret."""
        checked = run("check")
        profiles = run("profiles", "--check")
        broken_app = make_app(tmp_path, {"docs": {**profile, "bucket": f"no-{uuid4().hex}"}})
        failed = broken_app.test_cli_runner().invoke(args=["storage", "profiles", "--check"])

        assert (checked.exit_code, checked.stderr) == (0, "docs works.\n")
        assert profiles.stdout.startswith("* docs (AzureStorage) works\n")
        assert "download, upload, remove" in profiles.stdout
        assert docs.list() == []
        assert failed.exit_code == 1
        assert "FAILS: " in failed.stdout
        assert azurite.key not in profiles.output + failed.output

    def test_a_container_link_can_be_a_profile(self, docs, tmp_path):
        """The output of the commands does not contain its signature."""
        link = docs.create_container_url(timedelta(hours=1))
        docs.write("a.txt", b"hello")
        app = make_app(
            tmp_path, {"docs": {"backend": "azure", "sas_container_url": link, "prefix": docs._gateway.prefix}}
        )

        checked = app.test_cli_runner().invoke(args=["storage", "profiles", "--check"])
        got = app.test_client().get("/files/a.txt")

        assert checked.exit_code == 0, checked.output
        assert "sig=" not in checked.output
        assert (got.status_code, got.data) == (200, b"hello")
        app.extensions["storage"]["docs"].close()
