"""An application with an S3 profile: everything that works with a local directory works with a bucket."""

import json
import random
from contextlib import closing
from datetime import timedelta
from uuid import uuid4

import pytest

from example_app import config, create_app
from flask_storage import current_storage
from flask_storage.http.file_body import CHUNK_BYTES
from tests.counts import count
from tests.plain_client import send
from tests.remote_app import Invoice, MiB, RemoteApp, make_app

pytest_plugins = ["tests.services.s3"]


@pytest.fixture(scope="module")
def bucket(s3):
    """A bucket for the tests of this module; each has a prefix of its own."""
    bucket = s3.make_bucket()
    yield bucket
    s3.remove_bucket(bucket)


@pytest.fixture
def profile(s3, bucket):
    """A profile as a mapping."""
    return {
        "backend": "s3",
        "bucket": bucket,
        "prefix": uuid4().hex,
        "aws_region": s3.region,
        "aws_access_key_id": s3.access_key,
        "aws_secret_access_key": s3.secret_key,
        "endpoint_url": s3.http,
        "preset": s3.preset,
    }


# -- configuration ----------------------------------------------------------------------------------------------------


def as_mapping(profile):
    """Return the profile under its name."""
    return {"docs": profile}


def as_pair(profile):
    """Return class and arguments."""
    from flask_storage import S3Storage

    return [(S3Storage, {"name": "docs", **{key: value for key, value in profile.items() if key != "backend"}})]


def as_url(profile):
    """Return a URL; boto3 finds the credentials in the environment."""
    query = "region={aws_region}&endpoint_url={endpoint_url}&preset={preset}".format_map(profile)
    return {"docs": f"s3://{profile['bucket']}/{profile['prefix']}?{query}"}


@pytest.mark.parametrize("form", [as_mapping, as_pair, as_url])
@pytest.mark.parametrize("source", ["code", "environment"])
def test_a_bucket_is_configured_in_every_form(monkeypatch, tmp_path, s3, profile, form, source):
    """Mapping, pair and URL, in code or as JSON in the environment, configure the same storage.

    In JSON the short name stands for the class.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    profiles = form(profile)
    if source == "environment":
        monkeypatch.setenv("FLASK_STORAGE_PROFILES", json.dumps(profiles, default=lambda _: "s3"))
        profiles = None

    storage = make_app(tmp_path, profiles).extensions["storage"]["docs"]

    storage.write("a.txt", b"content")
    with closing(s3.client()) as client:
        stored = client.get_object(Bucket=profile["bucket"], Key=f"{profile['prefix']}/a.txt")["Body"].read()
    assert stored == b"content"
    assert storage.name == "docs"


@pytest.mark.parametrize("form", [config.as_mapping, config.as_pairs, config.as_urls])
def test_the_example_app_configures_the_same_bucket_in_every_form(monkeypatch, tmp_path, form):
    """Its links have bucket, prefix and region, and no request is sent to AWS before there is a file."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    app = create_app(str(tmp_path), {"STORAGE_PROFILES": form(tmp_path)})

    with app.app_context():
        link = current_storage["bucket"].link_to("a.txt", "download", timedelta(hours=1))

        assert list(current_storage) == ["drop", "public", "bucket", "container", "server", "scratch"]
        assert link.startswith("https://example.s3.eu-central-1.amazonaws.com/drop/a.txt?")


# -- applications -----------------------------------------------------------------------------------------------------


class TestS3(RemoteApp):
    """Tests of every remote backend in an application, and of S3 only."""

    def test_a_models_links_lead_to_the_bucket(self, app, docs, s3):
        """Upload and download links are signed for S3, and the download has the requested name."""
        with app.app_context():
            link, name = Invoice.storage_get_upload_link("june.pdf", 5, content_type="application/pdf")
            put = send(link, "PUT", {"Content-Type": "application/pdf"}, b"%PDF")
            got = send(Invoice.storage_get_download_link(name, 5, output_path="June.pdf"), "GET")

        assert link.startswith(s3.http)
        assert (put.status, got.status, got.body) == (200, 200, b"%PDF")
        assert got.headers["Content-Type"] == "application/pdf"
        assert got.headers["Content-Disposition"] == 'attachment; filename="June.pdf"'

    def test_a_range_of_a_very_large_object_fetches_only_the_range(self, counted, s3, bucket, profile, line):
        """100 bytes at 4.9 of 5 GiB (a smaller object by default)."""
        each, number = count(5, 64) * MiB, count(4, 80)
        block = random.Random(5).randbytes(each)
        counted.extensions["storage"]["docs"].write("part.bin", block)
        source, key = ({"Bucket": bucket, "Key": f"{profile['prefix']}/{name}"} for name in ("part.bin", "large.bin"))
        with closing(s3.client()) as client:
            upload = {**key, "UploadId": client.create_multipart_upload(**key)["UploadId"]}
            parts = []
            for n in range(1, number + 1):
                copied = client.upload_part_copy(**upload, CopySource=source, PartNumber=n)
                parts.append({"PartNumber": n, "ETag": copied["CopyPartResult"]["ETag"]})
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        start, before = each * number * 49 // 50, line.counters.down

        response = counted.test_client().get("/files/large.bin", headers={"Range": f"bytes={start}-{start + 99}"})

        assert response.status_code == 206
        assert response.data == block[start % each : start % each + 100]
        assert response.headers["Content-Range"] == f"bytes {start}-{start + 99}/{each * number}"
        assert line.counters.down - before <= 100 + CHUNK_BYTES

    def test_links_of_the_command_line_lead_to_the_bucket(self, run, docs):
        """The address of the application is not needed, except for what S3 cannot sign, as several operations."""
        docs.write("a.txt", b"hello")

        got = send(run("link", "a.txt").stdout.strip(), "GET")
        link = run("link", "b.txt", "--no-download", "--upload").stdout.strip()
        put = send(link, "PUT", {"Content-Type": "application/octet-stream"}, b"sent")
        both = run("link", "a.txt", "--upload")

        assert (got.status, got.body) == (200, b"hello")
        assert (put.status, docs.read("b.txt")) == (200, b"sent")
        assert both.exit_code == 1
        assert both.stderr == (
            "Error: S3Storage cannot sign several operations in one link; a link of the app could, but a link created "
            "outside a request needs the app's address: set STORAGE_EXTERNAL_URL (or SERVER_NAME)\n"
        )

    def test_check_reports_a_missing_bucket(self, run, docs, s3, tmp_path, profile):
        """The error names it, and shows no secret."""
        existing = run("check")
        profiles = run("profiles", "--check")
        app = make_app(tmp_path, {"docs": {**profile, "bucket": f"no-{uuid4().hex}"}})
        missing = app.test_cli_runner().invoke(args=["storage", "profiles", "--check"])

        assert (existing.exit_code, existing.stderr) == (0, "docs works.\n")
        assert profiles.stdout.startswith("* docs (S3Storage) works\n")
        assert "download, upload, remove" in profiles.stdout
        assert docs.list() == []
        assert missing.exit_code == 1
        assert "FAILS: " in missing.stdout
        assert s3.secret_key not in profiles.output + missing.output
