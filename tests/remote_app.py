"""An app with files in a remote backend: every feature works with the profile alone, as with a local directory."""

import json
import random
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage

from flask_storage import FileNotFoundInStorageError, Storage, StorageOperations, current_storage, send_stored_file
from flask_storage.http.file_body import CHUNK_BYTES
from flask_storage.types import WriteOptions
from tests.counts import count
from tests.services.fault_proxy import FaultProxy

MiB = 1024 * 1024
SMALL = bytes(range(100))


def make_app(tmp_path, profiles=None):
    """Return an app that sends any file of its default profile."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config["SECRET_KEY"] = "k" * 32
    if profiles is None:
        app.config.from_prefixed_env()
    else:
        app.config["STORAGE_PROFILES"] = profiles
    Storage(app)
    app.add_url_rule("/files/<path:path>", "file", lambda path: send_stored_file(current_storage.default, path))
    return app


class Location(Enum):
    invoices = "accounting/invoices"


class Invoice(StorageOperations):
    storage_location = Location.invoices


class RemoteApp:
    """Subclasses define a fixture `profile`: a mapping with an `endpoint_url`."""

    @pytest.fixture
    def app(self, tmp_path, profile):
        """An app with one profile."""
        return make_app(tmp_path, {"docs": profile})

    @pytest.fixture
    def docs(self, app):
        """The storage of the app."""
        return app.extensions["storage"]["docs"]

    def test_a_model_stores_its_files_in_the_backend(self, app, docs):
        """Upload, form upload, download, copy and deletion are below the model's directory."""
        uploaded = FileStorage(stream=open(__file__, "rb"), filename="june.py")  # noqa: SIM115 -- closed by the request
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

    def test_a_file_is_sent_with_type_and_validators(self, app, docs):
        """HEAD has the same headers without content, and a cached version is a 304."""
        docs.write("a.txt", SMALL, content_type="text/plain", cache_control="max-age=60")
        client = app.test_client()

        full = client.get("/files/a.txt")
        head = client.head("/files/a.txt")
        cached = client.get("/files/a.txt", headers={"If-None-Match": full.headers["ETag"]})
        since = client.get("/files/a.txt", headers={"If-Modified-Since": full.headers["Last-Modified"]})
        other = client.get("/files/a.txt", headers={"If-Match": '"another"'})

        assert (full.status_code, full.data, full.mimetype) == (200, SMALL, "text/plain")
        assert full.headers["ETag"] == f'"{docs.stat("a.txt").etag}"'
        assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "100")
        assert head.headers["ETag"] == full.headers["ETag"]
        assert [cached.status_code, since.status_code, other.status_code] == [304, 304, 412]
        assert cached.data == since.data == b""

    def test_a_missing_file_is_a_404(self, app):
        """An empty file is not."""
        client = app.test_client()
        app.extensions["storage"]["docs"].write("empty", b"")

        assert client.get("/files/missing").status_code == client.head("/files/missing").status_code == 404
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
    def test_a_single_range_is_sent(self, app, docs, value, first, last):
        """From a position, to a position, or the last bytes."""
        docs.write("a.bin", SMALL)

        response = app.test_client().get("/files/a.bin", headers={"Range": value})

        assert (response.status_code, response.data) == (206, SMALL[first : last + 1])
        assert response.headers["Content-Range"] == f"bytes {first}-{last}/100"

    @pytest.mark.parametrize(
        "value", ["bytes=0-1,3-4", f"bytes={'0-1,' * 999}0-1", "lines=1-2"], ids=["2", "1000", "lines"]
    )
    def test_several_ranges_get_the_whole_file(self, app, docs, value):
        """Also a thousand of them, and those of another unit."""
        docs.write("a.bin", SMALL)

        response = app.test_client().get("/files/a.bin", headers={"Range": value})

        assert (response.status_code, response.data) == (200, SMALL)

    @pytest.mark.parametrize("value", ["bytes=100-", "bytes=-0", "bytes=5-4", "bytes=abc"])
    def test_an_unsatisfiable_range_is_refused_with_the_size(self, app, docs, value):
        """With status 416."""
        docs.write("a.bin", SMALL)

        response = app.test_client().get("/files/a.bin", headers={"Range": value})

        assert (response.status_code, response.headers["Content-Range"]) == (416, "bytes */100")

    def test_if_range_with_an_old_etag_sends_the_whole_new_version(self, app, docs):
        """A client cannot combine two versions."""
        docs.write("a.bin", b"old")
        old = app.test_client().get("/files/a.bin").headers["ETag"]
        docs.write("a.bin", SMALL)

        response = app.test_client().get("/files/a.bin", headers={"Range": "bytes=1-2", "If-Range": old})

        assert (response.status_code, response.data) == (200, SMALL)

    @pytest.fixture
    def line(self, profile):
        """A proxy before the server that counts bytes."""
        parts = urlsplit(profile["endpoint_url"])
        with FaultProxy(parts.hostname, parts.port) as proxy:
            yield proxy

    @pytest.fixture
    def counted(self, tmp_path, profile, line):
        """An app that accesses its bucket through that proxy."""
        endpoint_url = urlsplit(profile["endpoint_url"])._replace(netloc=line.address).geturl()
        app = make_app(tmp_path, {"docs": {**profile, "endpoint_url": endpoint_url}})
        yield app
        app.extensions["storage"]["docs"].close()

    def test_random_ranges_are_exact_and_transfer_little_more(self, counted, line):
        """The service sends the range and at most one chunk more."""
        rng = random.Random(24)
        content = rng.randbytes(24 * MiB + 12_345)
        counted.extensions["storage"]["docs"].write("a.bin", content)
        client = counted.test_client()

        for _ in range(count(100, 1000)):
            length = int(len(content) ** rng.random())
            start = rng.randrange(len(content) - length + 1)
            before = line.counters.down

            response = client.get("/files/a.bin", headers={"Range": f"bytes={start}-{start + length - 1}"})

            assert response.status_code == 206
            assert response.data == content[start : start + length]
            assert response.headers["Content-Range"] == f"bytes {start}-{start + length - 1}/{len(content)}"
            assert line.counters.down - before <= length + CHUNK_BYTES

    def test_little_is_read_ahead_of_a_client_that_may_be_slow(self, counted, line):
        """At most 2 MiB, until it has taken more than sockets can hold."""
        content = random.Random(25).randbytes(8 * MiB)
        counted.extensions["storage"]["docs"].write("a.bin", content)
        before, received = line.counters.down, b""

        response = counted.test_client().get("/files/a.bin")
        for chunk in response.response:
            received += chunk
            if len(received) <= 5 * MiB:
                assert line.counters.down - before <= len(received) + 2 * MiB + CHUNK_BYTES
        response.close()

        assert received == content

    def test_responses_without_content_transfer_little(self, counted, line):
        """HEAD requests no content; a 304 and a 416 cost one chunk at most."""
        counted.extensions["storage"]["docs"].write("a.bin", bytes(8 * MiB))
        client = counted.test_client()
        before = line.counters.down

        head = client.head("/files/a.bin")
        head_bytes = line.counters.down - before
        cached = client.get("/files/a.bin", headers={"If-None-Match": head.headers["ETag"]})
        unsatisfiable = client.get("/files/a.bin", headers={"Range": f"bytes={8 * MiB}-"})

        assert (head.status_code, cached.status_code, unsatisfiable.status_code) == (200, 304, 416)
        assert head_bytes < 10_000
        assert line.counters.down - before - head_bytes <= 2 * CHUNK_BYTES

    @pytest.fixture
    def run(self, app, tmp_path, monkeypatch):
        """Run `flask storage` with these arguments, in its own empty directory."""
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")

        def run(*args, stdin=None):
            result = app.test_cli_runner().invoke(args=["storage", *args], input=stdin)
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
            return result

        return run

    def test_the_commands_for_files_work(self, run, docs, tmp_path):
        """Their output and effect are those with a local directory."""
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

    def test_unfinished_uploads_are_listed_and_swept(self, run, docs):
        """First with --dry-run; recent uploads are kept by default."""
        created = {docs.multipart.create(path, WriteOptions()): path for path in ("a/1.bin", "b.bin")}
        docs.multipart.upload_part("b.bin", list(created)[1], 1, b"1")

        listed = run("sweep", "--dry-run", "--older-than", "0")
        default = run("sweep")
        remaining = len(list(docs.multipart.list_uploads()))
        all_swept = run("sweep", "--older-than", "0")

        rows = [line.split("\t") for line in listed.stdout.splitlines()]
        assert {upload_id: path for _, upload_id, path in rows} == created
        assert all(datetime.now(UTC) - datetime.fromisoformat(row[0]) < timedelta(hours=1) for row in rows)
        assert listed.stderr == "2 unfinished multipart uploads in docs.\n"
        assert (default.stderr, remaining) == ("Removed 0 leftovers from docs.\n", 2)
        assert all_swept.stderr == "Removed 2 leftovers from docs.\n"
        assert list(docs.multipart.list_uploads()) == []
