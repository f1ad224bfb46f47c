"""An app whose files are in S3: everything that works with a folder works with a bucket, by changing the profile."""

import json
import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage

from example_app import config, create_app
from flask_storage import (
    FileNotFoundInStorageError,
    Storage,
    StorageOperations,
    current_storage,
    send_stored_file,
)
from flask_storage.delivery import CHUNK_BYTES
from flask_storage.values import WriteOptions
from tests.counts import count
from tests.plain_client import send
from tests.services.fault_proxy import FaultProxy

pytest_plugins = ["tests.services.rgw"]

MiB = 1024 * 1024
SMALL = bytes(range(100))


@pytest.fixture(scope="module")
def bucket(rgw):
    """A bucket for the tests of this module; each has a folder of its own in it."""
    bucket = rgw.make_bucket()
    yield bucket
    rgw.remove_bucket(bucket)


@pytest.fixture
def profile(rgw, bucket):
    """A profile, as a mapping."""
    return {
        "backend": "s3",
        "bucket": bucket,
        "prefix": uuid4().hex,
        "aws_region": rgw.region,
        "aws_access_key_id": rgw.access_key,
        "aws_secret_access_key": rgw.secret_key,
        "endpoint_url": rgw.http,
        "preset": rgw.preset,
    }


def make_app(tmp_path, profiles=None):
    """An app that sends any file of its default profile."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config["SECRET_KEY"] = "k" * 32
    if profiles is None:
        app.config.from_prefixed_env()
    else:
        app.config["STORAGE_PROFILES"] = profiles
    Storage(app)
    app.add_url_rule("/files/<path:path>", "file", lambda path: send_stored_file(current_storage.default, path))
    return app


@pytest.fixture
def app(tmp_path, profile):
    """An app with one profile."""
    return make_app(tmp_path, {"docs": profile})


@pytest.fixture
def docs(app):
    """Its storage."""
    return app.extensions["storage"]["docs"]


# -- configuration ----------------------------------------------------------------------------------------------------


def as_mapping(profile):
    """The profile by its name."""
    return {"docs": profile}


def as_pair(profile):
    """Class and arguments."""
    from flask_storage import S3Storage

    return [(S3Storage, {"name": "docs", **{key: value for key, value in profile.items() if key != "backend"}})]


def as_url(profile):
    """A URL; the credentials are where boto3 looks for them."""
    query = "region={aws_region}&endpoint_url={endpoint_url}&preset={preset}".format_map(profile)
    return {"docs": f"s3://{profile['bucket']}/{profile['prefix']}?{query}"}


@pytest.mark.parametrize("form", [as_mapping, as_pair, as_url])
@pytest.mark.parametrize("source", ["code", "environment"])
def test_a_bucket_is_configured_in_every_form(monkeypatch, tmp_path, rgw, profile, form, source):
    """Mapping, pair and URL, in the app's code or as JSON in its environment, mean the same place.

    JSON knows no classes: there the short name stands for one.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)
    profiles = form(profile)
    if source == "environment":
        monkeypatch.setenv("FLASK_STORAGE_PROFILES", json.dumps(profiles, default=lambda _: "s3"))
        profiles = None

    storage = make_app(tmp_path, profiles).extensions["storage"]["docs"]

    storage.write("a.txt", b"content")
    with closing(rgw.client()) as client:
        stored = client.get_object(Bucket=profile["bucket"], Key=f"{profile['prefix']}/a.txt")["Body"].read()
    assert stored == b"content"
    assert storage.name == "docs"


@pytest.mark.parametrize("form", [config.as_mapping, config.as_pairs, config.as_urls])
def test_the_example_app_shows_the_same_bucket_in_every_form(monkeypatch, tmp_path, form):
    """Its links tell bucket, folder and region, and nothing is asked of AWS before there is a file."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    app = create_app(str(tmp_path), {"STORAGE_PROFILES": form(tmp_path)})

    with app.app_context():
        link = current_storage["bucket"].link_to("a.txt", "download", timedelta(hours=1))

        assert list(current_storage) == ["drop", "public", "bucket", "scratch"]
        assert link.startswith("https://example.s3.eu-central-1.amazonaws.com/drop/a.txt?")


# -- operations -------------------------------------------------------------------------------------------------------


class Folder(Enum):
    invoices = "accounting/invoices"


class Invoice(StorageOperations):
    storage_location = Folder.invoices


def test_a_model_keeps_its_files_in_a_bucket(app, docs):
    """Storing, from a form too, fetching, copying and deleting go where they always go: below the model's folder."""
    uploaded = FileStorage(stream=open(__file__, "rb"), filename="june.py")  # noqa: SIM115 -- the request closes it
    with app.test_request_context(method="POST", data={"file": uploaded}):
        name = Invoice.storage_upload_form_file("file", content_type="text/x-python")
        copy = Invoice.storage_duplicate_file(name)
        content = Invoice.storage_download_file(copy).read()
        Invoice.storage_delete_file(name)

        assert content == Path(__file__).read_bytes()
        assert [entry.name for entry in docs.list()] == [f"accounting/invoices/{copy}"]
        assert docs.stat(f"accounting/invoices/{copy}").content_type == "text/x-python"
        with pytest.raises(FileNotFoundInStorageError):
            Invoice.storage_download_file(name)


def test_a_models_links_lead_to_the_bucket(app, docs, rgw):
    """One uploads, one downloads under the name that was wished, and both are S3's own."""
    with app.app_context():
        link, name = Invoice.storage_get_upload_link("june.pdf", 5, content_type="application/pdf")
        put = send(link, "PUT", {"Content-Type": "application/pdf"}, b"%PDF")
        got = send(Invoice.storage_get_download_link(name, 5, output_path="June.pdf"), "GET")

    assert link.startswith(rgw.http)
    assert (put.status, got.status, got.body) == (200, 200, b"%PDF")
    assert got.headers["Content-Type"] == "application/pdf"
    assert got.headers["Content-Disposition"] == 'attachment; filename="June.pdf"'


# -- files as answers -------------------------------------------------------------------------------------------------


def test_a_file_of_a_bucket_is_sent(app, docs):
    """With its type and validators; HEAD says the same without the content, and what is known need not come again."""
    docs.write("a.txt", SMALL, content_type="text/plain", cache_control="max-age=60")
    client = app.test_client()

    whole = client.get("/files/a.txt")
    head = client.head("/files/a.txt")
    known = client.get("/files/a.txt", headers={"If-None-Match": whole.headers["ETag"]})
    since = client.get("/files/a.txt", headers={"If-Modified-Since": whole.headers["Last-Modified"]})
    other = client.get("/files/a.txt", headers={"If-Match": '"another"'})

    assert (whole.status_code, whole.data, whole.mimetype) == (200, SMALL, "text/plain")
    assert whole.headers["ETag"] == f'"{docs.stat("a.txt").etag}"'
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "100")
    assert head.headers["ETag"] == whole.headers["ETag"]
    assert [known.status_code, since.status_code, other.status_code] == [304, 304, 412]
    assert known.data == since.data == b""


def test_a_file_that_is_not_there_is_not_found(app):
    """As anywhere, and an empty one is there."""
    client = app.test_client()
    app.extensions["storage"]["docs"].write("empty", b"")

    assert client.get("/files/nothing").status_code == client.head("/files/nothing").status_code == 404
    assert (client.get("/files/empty").status_code, client.get("/files/empty").data) == (200, b"")


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("bytes=10-19", 10, 19),
        ("bytes=90-", 90, 99),
        ("bytes=-1", 99, 99),
        ("bytes=-1000", 0, 99),
        ("bytes=99-5000", 99, 99),
    ],
)
def test_one_range_is_honoured(app, docs, value, first, last):
    """From a place, to a place, or the last so many bytes."""
    docs.write("a.bin", SMALL)

    answer = app.test_client().get("/files/a.bin", headers={"Range": value})

    assert (answer.status_code, answer.data) == (206, SMALL[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/100"


@pytest.mark.parametrize(
    "value", ["bytes=0-1,3-4", f"bytes={'0-1,' * 999}0-1", "lines=1-2"], ids=["2", "1000", "lines"]
)
def test_several_ranges_are_answered_with_the_whole(app, docs, value):
    """A thousand of them too, and those of another unit."""
    docs.write("a.bin", SMALL)

    answer = app.test_client().get("/files/a.bin", headers={"Range": value})

    assert (answer.status_code, answer.data) == (200, SMALL)


@pytest.mark.parametrize("value", ["bytes=100-", "bytes=-0", "bytes=5-4", "bytes=abc"])
def test_a_range_that_does_not_exist_is_refused_with_the_size(app, docs, value):
    """Before S3 is asked for it."""
    docs.write("a.bin", SMALL)

    answer = app.test_client().get("/files/a.bin", headers={"Range": value})

    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */100")


def test_an_old_version_is_not_continued(app, docs):
    """`If-Range` with another file's validator brings the whole of the new one."""
    docs.write("a.bin", b"old")
    old = app.test_client().get("/files/a.bin").headers["ETag"]
    docs.write("a.bin", SMALL)

    answer = app.test_client().get("/files/a.bin", headers={"Range": "bytes=1-2", "If-Range": old})

    assert (answer.status_code, answer.data) == (200, SMALL)


@pytest.fixture
def line(rgw):
    """A line to the server on which the bytes are counted."""
    parts = urlsplit(rgw.http)
    with FaultProxy(parts.hostname, parts.port) as proxy:
        yield proxy


@pytest.fixture
def counted(tmp_path, profile, line):
    """An app that reaches its bucket through that line."""
    app = make_app(tmp_path, {"docs": {**profile, "endpoint_url": f"http://{line.address}"}})
    yield app
    app.extensions["storage"]["docs"].close()


def test_random_ranges_are_exact_and_move_hardly_more(counted, line):
    """Whatever range is asked for, long or short, S3 sends that and at most one chunk more."""
    rng = random.Random(24)
    content = rng.randbytes(24 * MiB + 12_345)
    counted.extensions["storage"]["docs"].write("a.bin", content)
    client = counted.test_client()

    for _ in range(count(100, 1000)):
        length = int(len(content) ** rng.random())
        start = rng.randrange(len(content) - length + 1)
        before = line.counters.down

        answer = client.get("/files/a.bin", headers={"Range": f"bytes={start}-{start + length - 1}"})

        assert answer.status_code == 206
        assert answer.data == content[start : start + length]
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + length - 1}/{len(content)}"
        assert line.counters.down - before <= length + CHUNK_BYTES


def test_what_needs_no_content_fetches_hardly_any(counted, line):
    """HEAD asks for none; news that there is no news costs one chunk at most, and so does a range that is none."""
    counted.extensions["storage"]["docs"].write("a.bin", bytes(8 * MiB))
    client = counted.test_client()
    before = line.counters.down

    head = client.head("/files/a.bin")
    for_head = line.counters.down - before
    known = client.get("/files/a.bin", headers={"If-None-Match": head.headers["ETag"]})
    senseless = client.get("/files/a.bin", headers={"Range": f"bytes={8 * MiB}-"})

    assert (head.status_code, known.status_code, senseless.status_code) == (200, 304, 416)
    assert for_head < 10_000
    assert line.counters.down - before - for_head <= 2 * CHUNK_BYTES


def test_a_range_far_into_a_very_large_object_fetches_only_the_range(counted, rgw, bucket, profile, line):
    """At 4.9 of 5 GiB a hundred bytes are a hundred bytes (everyday the object is smaller)."""
    each, number = count(5, 64) * MiB, count(4, 80)
    block = random.Random(5).randbytes(each)
    counted.extensions["storage"]["docs"].write("part.bin", block)
    source, key = ({"Bucket": bucket, "Key": f"{profile['prefix']}/{name}"} for name in ("part.bin", "large.bin"))
    with closing(rgw.client()) as client:
        upload = {**key, "UploadId": client.create_multipart_upload(**key)["UploadId"]}
        parts = []
        for n in range(1, number + 1):
            copied = client.upload_part_copy(**upload, CopySource=source, PartNumber=n)
            parts.append({"PartNumber": n, "ETag": copied["CopyPartResult"]["ETag"]})
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    start, before = each * number * 49 // 50, line.counters.down

    answer = counted.test_client().get("/files/large.bin", headers={"Range": f"bytes={start}-{start + 99}"})

    assert answer.status_code == 206
    assert answer.data == block[start % each : start % each + 100]
    assert answer.headers["Content-Range"] == f"bytes {start}-{start + 99}/{each * number}"
    assert line.counters.down - before <= 100 + CHUNK_BYTES


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(app, tmp_path, monkeypatch):
    """Run `flask storage` with these arguments, in an empty folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*args, stdin=None):
        result = app.test_cli_runner().invoke(args=["storage", *args], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def test_the_commands_for_files_work_on_a_bucket(run, docs, tmp_path):
    """What they say and what is there afterwards is what it is with a folder."""
    (tmp_path / "here/a.txt").write_bytes(b"hello")

    put = run("put", "a.txt", "b/", "--content-type", "text/csv")
    piped = run("put", "-", "b/c.bin", stdin=b"\x00\xff")
    listed = run("list", "--no-recursive")
    copied = run("copy", "b/a.txt", "d/e.txt")
    moved = run("move", "b/c.bin", "f.bin")
    got = run("get", "d/e.txt")
    stat = json.loads(run("stat", "d/e.txt", "--json").stdout)
    deleted = run("delete", "f.bin")
    cleared = run("delete", "-r", "b")

    assert put.stderr == "Uploaded a.txt to b/a.txt.\n"
    assert piped.exit_code == 0
    assert listed.stdout == "-\t-\tb/\n"
    assert (copied.stderr, moved.stderr) == ("Copied b/a.txt to d/e.txt.\n", "Moved b/c.bin to f.bin.\n")
    assert (got.stderr, (tmp_path / "here/e.txt").read_bytes()) == ("Downloaded d/e.txt to e.txt.\n", b"hello")
    assert (stat["size"], stat["content_type"]) == (5, "text/csv")
    assert (deleted.stderr, cleared.stderr) == ("Deleted f.bin.\n", "Deleted 1 file below b.\n")
    assert [entry.name for entry in docs.list()] == ["d/e.txt"]
    assert run("get", "f.bin").stderr == "Error: Could not open file 'f.bin': Not found in docs.\n"


def test_a_link_from_the_shell_leads_to_the_bucket(run, docs):
    """No address of the app has to be known; one operation each, as S3 signs them."""
    docs.write("a.txt", b"hello")

    got = send(run("link", "a.txt").stdout.strip(), "GET")
    link = run("link", "b.txt", "--no-download", "--upload").stdout.strip()
    put = send(link, "PUT", {"Content-Type": "application/octet-stream"}, b"sent")
    both = run("link", "a.txt", "--upload")

    assert (got.status, got.body) == (200, b"hello")
    assert (put.status, docs.read("b.txt")) == (200, b"sent")
    assert both.exit_code == 1
    assert both.stderr == "Error: S3Storage cannot sign several operations in one link: make one link for each\n"


def test_unfinished_uploads_are_listed_and_swept(run, docs):
    """First only shown, then aborted; how many is said, and what was begun a moment ago is left alone."""
    begun = {docs.parts.begin(path, WriteOptions()): path for path in ("a/1.bin", "b.bin")}
    docs.parts.put_part("b.bin", list(begun)[1], 1, b"1")

    listed = run("sweep", "--dry-run", "--older-than", "0")
    early = run("sweep")
    left = len(list(docs.parts.list_uploads()))
    late = run("sweep", "--older-than", "0")

    rows = [line.split("\t") for line in listed.stdout.splitlines()]
    assert {upload_id: path for _, upload_id, path in rows} == begun
    assert all(datetime.now(UTC) - datetime.fromisoformat(row[0]) < timedelta(hours=1) for row in rows)
    assert listed.stderr == "2 unfinished uploads in parts in docs.\n"
    assert (early.stderr, left) == ("Removed 0 leftovers from docs.\n", 2)
    assert late.stderr == "Removed 2 leftovers from docs.\n"
    assert list(docs.parts.list_uploads()) == []


def test_a_bucket_is_checked(run, docs, rgw, tmp_path, profile):
    """One that is not there is named, and no secret is."""
    well = run("check")
    profiles = run("profiles", "--check")
    lost = make_app(tmp_path, {"docs": {**profile, "bucket": f"no-{uuid4().hex}"}})
    ill = lost.test_cli_runner().invoke(args=["storage", "profiles", "--check"])

    assert (well.exit_code, well.stderr) == (0, "docs works.\n")
    assert profiles.stdout.startswith("* docs  S3Storage  works; ")
    assert "links:download+upload+remove" in profiles.stdout
    assert docs.list() == []
    assert ill.exit_code == 1
    assert "FAILS: " in ill.stdout
    assert rgw.secret_key not in profiles.output + ill.output
