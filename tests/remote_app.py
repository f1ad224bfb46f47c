"""An app whose files are in a remote place: everything that works with a folder works there, by its profile alone."""

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
from flask_storage.http.send_file import CHUNK_BYTES
from flask_storage.types import WriteOptions
from tests.counts import count
from tests.services.fault_proxy import FaultProxy

MiB = 1024 * 1024
SMALL = bytes(range(100))


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


class Folder(Enum):
    invoices = "accounting/invoices"


class Invoice(StorageOperations):
    storage_location = Folder.invoices


class RemoteApp:
    """Inherit, and say by a fixture `profile` where the files are: a mapping with an `endpoint_url`."""

    @pytest.fixture
    def app(self, tmp_path, profile):
        """An app with one profile."""
        return make_app(tmp_path, {"docs": profile})

    @pytest.fixture
    def docs(self, app):
        """Its storage."""
        return app.extensions["storage"]["docs"]

    def test_a_model_keeps_its_files_there(self, app, docs):
        """Storing, from a form too, fetching, copying and deleting go below the model's folder, as anywhere."""
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

    def test_a_file_there_is_sent(self, app, docs):
        """With type and validators; HEAD says the same without the content, and what is known need not come again."""
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

    def test_a_file_that_is_not_there_is_not_found(self, app):
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
    def test_one_range_is_honoured(self, app, docs, value, first, last):
        """From a place, to a place, or the last so many bytes."""
        docs.write("a.bin", SMALL)

        answer = app.test_client().get("/files/a.bin", headers={"Range": value})

        assert (answer.status_code, answer.data) == (206, SMALL[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/100"

    @pytest.mark.parametrize(
        "value", ["bytes=0-1,3-4", f"bytes={'0-1,' * 999}0-1", "lines=1-2"], ids=["2", "1000", "lines"]
    )
    def test_several_ranges_are_answered_with_the_whole(self, app, docs, value):
        """A thousand of them too, and those of another unit."""
        docs.write("a.bin", SMALL)

        answer = app.test_client().get("/files/a.bin", headers={"Range": value})

        assert (answer.status_code, answer.data) == (200, SMALL)

    @pytest.mark.parametrize("value", ["bytes=100-", "bytes=-0", "bytes=5-4", "bytes=abc"])
    def test_a_range_that_does_not_exist_is_refused_with_the_size(self, app, docs, value):
        """Before the service is asked for it."""
        docs.write("a.bin", SMALL)

        answer = app.test_client().get("/files/a.bin", headers={"Range": value})

        assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */100")

    def test_an_old_version_is_not_continued(self, app, docs):
        """`If-Range` with another file's validator brings the whole of the new one."""
        docs.write("a.bin", b"old")
        old = app.test_client().get("/files/a.bin").headers["ETag"]
        docs.write("a.bin", SMALL)

        answer = app.test_client().get("/files/a.bin", headers={"Range": "bytes=1-2", "If-Range": old})

        assert (answer.status_code, answer.data) == (200, SMALL)

    @pytest.fixture
    def line(self, profile):
        """A line to the server on which the bytes are counted."""
        parts = urlsplit(profile["endpoint_url"])
        with FaultProxy(parts.hostname, parts.port) as proxy:
            yield proxy

    @pytest.fixture
    def counted(self, tmp_path, profile, line):
        """An app that reaches its bucket through that line."""
        endpoint_url = urlsplit(profile["endpoint_url"])._replace(netloc=line.address).geturl()
        app = make_app(tmp_path, {"docs": {**profile, "endpoint_url": endpoint_url}})
        yield app
        app.extensions["storage"]["docs"].close()

    def test_random_ranges_are_exact_and_move_hardly_more(self, counted, line):
        """Whatever range is asked for, long or short, the service sends that and at most one chunk more."""
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

    def test_what_needs_no_content_fetches_hardly_any(self, counted, line):
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

    @pytest.fixture
    def run(self, app, tmp_path, monkeypatch):
        """Run `flask storage` with these arguments, in an empty folder of its own."""
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")

        def run(*args, stdin=None):
            result = app.test_cli_runner().invoke(args=["storage", *args], input=stdin)
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
            return result

        return run

    def test_the_commands_for_files_work(self, run, docs, tmp_path):
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

    def test_unfinished_uploads_are_listed_and_swept(self, run, docs):
        """First only shown, then forgotten; how many is said, and what was begun a moment ago is left alone."""
        begun = {docs.multipart.create(path, WriteOptions()): path for path in ("a/1.bin", "b.bin")}
        docs.multipart.upload_part("b.bin", list(begun)[1], 1, b"1")

        listed = run("sweep", "--dry-run", "--older-than", "0")
        early = run("sweep")
        left = len(list(docs.multipart.list_uploads()))
        late = run("sweep", "--older-than", "0")

        rows = [line.split("\t") for line in listed.stdout.splitlines()]
        assert {upload_id: path for _, upload_id, path in rows} == begun
        assert all(datetime.now(UTC) - datetime.fromisoformat(row[0]) < timedelta(hours=1) for row in rows)
        assert listed.stderr == "2 unfinished uploads in parts in docs.\n"
        assert (early.stderr, left) == ("Removed 0 leftovers from docs.\n", 2)
        assert late.stderr == "Removed 2 leftovers from docs.\n"
        assert list(docs.multipart.list_uploads()) == []
