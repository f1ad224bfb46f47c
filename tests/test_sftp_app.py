"""An app with an SFTP profile: models, responses, links, commands and the example app work as with a local profile."""

import hashlib
import io
import json
import logging
import os
import random
import re
import subprocess
import sys
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import jwt
import pytest
from werkzeug.datastructures import FileStorage
from werkzeug.test import EnvironBuilder, run_wsgi_app

from example_app import config, create_app
from flask_storage import FileNotFoundInStorageError, SFTPStorage, current_storage
from flask_storage.http.file_body import CHUNK_BYTES
from flask_storage.tokens import derive_key
from tests.counts import count
from tests.remote_app import SMALL, Invoice, MiB, RemoteApp, make_app
from tests.services.fault_proxy import FaultProxy
from tests.test_example_app import Visitor, path_of

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

HOUR = timedelta(hours=1)
GiB = 1024 * MiB
SECRET = "not-for-the-logs"
MIN_FETCH = 64 * 1024
"""How much of a file is fetched with opening it, and the minimum of a range elsewhere in it, in bytes."""
OVERHEAD = 4096
"""Bytes of the protocol around one MiB of content."""


@pytest.fixture
def profile(openssh):
    """A profile as a mapping, with a new directory in the user's initial directory."""
    root = f"app-{uuid4().hex}"
    (openssh.folder / root).mkdir()
    return {"backend": "sftp", **openssh.login, "root": root}


@contextmanager
def app_of(tmp_path, profiles, make=make_app):
    """Yield an app, and close its storages after the block."""
    app = make(tmp_path, profiles)
    yield app
    for name in app.extensions["storage"]:
        app.extensions["storage"][name].close()


# -- configuration ----------------------------------------------------------------------------------------------------


def as_mapping(profile, _):
    """Return profiles as a mapping."""
    return {"docs": profile}


def as_pair(profile, _):
    """Return profiles as pairs of class and arguments."""
    return [(SFTPStorage, {"name": "docs", **{key: value for key, value in profile.items() if key != "backend"}})]


def url_of(profile, path):
    """Return a URL with this path."""
    keys = "&".join(f"{key}={quote(profile[key], safe='')}" for key in ("key_filename", "known_hosts_fpath"))
    return f"sftp://{profile['username']}@{profile['host']}:{profile['port']}{path}?{keys}"


def as_url_with_relative_path(profile, _):
    """Return a URL whose path starts at the user's initial directory."""
    return {"docs": url_of(profile, f"/~/{profile['root']}")}


def as_url_with_absolute_path(profile, directory):
    """Return a URL with an absolute path."""
    return {"docs": url_of(profile, quote(str(directory)))}


@pytest.mark.parametrize("form", [as_mapping, as_pair, as_url_with_relative_path, as_url_with_absolute_path])
@pytest.mark.parametrize("source", ["code", "environment"])
def test_every_form_of_a_profile_means_the_same_directory(monkeypatch, tmp_path, openssh, profile, form, source):
    """Mapping, pair and URL, in the code of the app or as JSON in its environment.

    JSON has no classes, so a pair has the short name there.
    """
    directory = openssh.folder / profile["root"]
    profiles = form(profile, directory)
    if source == "environment":
        monkeypatch.setenv("FLASK_STORAGE_PROFILES", json.dumps(profiles, default=lambda _: "sftp"))
        profiles = None

    with app_of(tmp_path, profiles) as app:
        storage = app.extensions["storage"]["docs"]
        storage.write("a.txt", b"content")

        assert (directory / "a.txt").read_bytes() == b"content"
        assert storage.name == "docs"


def test_a_url_with_a_tilde_is_the_initial_directory(tmp_path, openssh, profile):
    """`/~/` alone is the user's initial directory."""
    with app_of(tmp_path, {"docs": url_of(profile, "/~/")}) as app:
        app.extensions["storage"]["docs"].write(f"{profile['root']}/a.txt", b"content")

    assert (openssh.folder / profile["root"] / "a.txt").read_bytes() == b"content"


# -- apps -------------------------------------------------------------------------------------------------------------


class TestSFTP(RemoteApp):
    """The tests for remote backends, and those for SFTP, which stores content and mtime only."""

    @pytest.fixture
    def app(self, tmp_path, profile):
        """An app with one profile."""
        with app_of(tmp_path, {"docs": profile}) as app:
            yield app

    @pytest.fixture
    def line(self, openssh):
        """A proxy to the server that counts bytes."""
        with FaultProxy("127.0.0.1", openssh.port) as proxy:
            openssh.know(proxy.port)
            yield proxy

    @pytest.fixture
    def counted(self, tmp_path, profile, line):
        """An app whose profile is behind that proxy."""
        with app_of(tmp_path, {"docs": {**profile, "port": line.port}}) as app:
            yield app

    @pytest.fixture
    def link(self, app):
        """Returns a function that makes a link, relative to the root of the app."""

        def link(path, operation, expire=HOUR, profile="docs", **constraints):
            with app.test_request_context():
                return path_of(app.extensions["storage"][profile].link_to(path, operation, expire, **constraints))

        return link

    # These tests replace those of RemoteApp that need a stored content type or a strong ETag.

    def test_a_model_stores_its_files_in_the_backend(self, app, docs):
        """Uploads, also from a form, downloads, copies and deletions are below the directory of the model."""
        uploaded = FileStorage(stream=open(__file__, "rb"), filename="june.py")  # noqa: SIM115 -- the request closes it
        with app.test_request_context(method="POST", data={"file": uploaded}):
            name = Invoice.storage_upload_form_file("file")
            copy = Invoice.storage_duplicate_file(name)
            content = Invoice.storage_download_file(copy).read()
            Invoice.storage_delete_file(name)

            assert content == Path(__file__).read_bytes()
            assert [entry.name for entry in docs.list()] == [f"accounting/invoices/{copy}"]
            with pytest.raises(FileNotFoundInStorageError):
                Invoice.storage_download_file(name)

    def test_a_file_is_sent_with_type_and_validators(self, app, docs):
        """The content type is that of the name; HEAD has the same headers; conditional requests are answered."""
        docs.write("a.txt", SMALL)
        client = app.test_client()

        whole = client.get("/files/a.txt")
        head = client.head("/files/a.txt")
        not_modified = client.get("/files/a.txt", headers={"If-None-Match": whole.headers["ETag"]})
        since = client.get("/files/a.txt", headers={"If-Modified-Since": whole.headers["Last-Modified"]})
        other = client.get("/files/a.txt", headers={"If-Match": '"another"'})

        assert (whole.status_code, whole.data, whole.mimetype) == (200, SMALL, "text/plain")
        assert whole.headers["ETag"] == f'W/"{docs.stat("a.txt").etag}"'
        assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "100")
        assert head.headers["ETag"] == whole.headers["ETag"]
        assert [not_modified.status_code, since.status_code, other.status_code] == [304, 304, 412]
        assert not_modified.data == since.data == b""

    def test_the_commands_for_files_work(self, run, docs, tmp_path):
        """Their output and the files are the same as with a local profile."""
        (tmp_path / "here/a.txt").write_bytes(b"hello")

        put = run("put", "a.txt", "b/")
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
        assert (stat["size"], stat["content_type"]) == (5, None)
        assert (deleted.stderr, cleared.stderr) == ("Deleted f.bin.\n", "Deleted 1 file below b.\n")
        assert [entry.name for entry in docs.list()] == ["d/e.txt"]
        assert run("get", "f.bin").stderr == "Error: Could not open file 'f.bin': Not found in docs.\n"

    def test_random_ranges_are_exact_and_transfer_little_more(self, counted, line):
        """For any range, the server sends the range and at most one chunk more.

        Every response is closed, as by web servers: until then it uses a session.
        """
        rng = random.Random(24)
        content = rng.randbytes(24 * MiB + 12_345)
        counted.extensions["storage"]["docs"].write("a.bin", content)
        client = counted.test_client()

        for _ in range(count(100, 1000)):
            length = int(len(content) ** rng.random())
            start = rng.randrange(len(content) - length + 1)
            before = line.counters.down

            with client.get("/files/a.bin", headers={"Range": f"bytes={start}-{start + length - 1}"}) as response:
                assert response.status_code == 206
                assert response.data == content[start : start + length]
                assert response.headers["Content-Range"] == f"bytes {start}-{start + length - 1}/{len(content)}"
            assert line.counters.down - before <= length + CHUNK_BYTES

        assert line.counters.connections == 1

    def test_a_command_with_a_content_type_that_would_be_lost_is_refused(self, run, docs, tmp_path):
        """SFTP cannot store a content type, and nothing is stored without it, unless the name implies it."""
        (tmp_path / "here/a.txt").write_bytes(b"hello")

        put = run("put", "a.txt", "b.txt", "--content-type", "text/csv")

        assert (put.exit_code, docs.list()) == (1, [])
        assert put.stderr.startswith("Error: SFTPStorage cannot store content_type with b.txt in 'docs': leave it out ")
        assert run("put", "a.txt", "b.csv", "--content-type", "text/csv").exit_code == 0

    def test_put_and_get_change_no_byte(self, run, docs, tmp_path):
        """Of a file of several megabytes that replaces another one; no temporary file is left on either side."""
        content = random.Random(7).randbytes(5 * MiB + 3)
        (tmp_path / "here/a.bin").write_bytes(content)
        (tmp_path / "here/back.bin").write_bytes(b"another")
        docs.write("b/a.bin", b"another")

        run("put", "a.bin", "b/a.bin")
        got = run("get", "b/a.bin", "back.bin")

        assert got.stderr == "Downloaded b/a.bin to back.bin.\n"
        assert (tmp_path / "here/back.bin").read_bytes() == content
        assert sorted(os.listdir(tmp_path / "here")) == ["a.bin", "back.bin"]

    # -- links --------------------------------------------------------------------------------------------------------

    def test_links_of_a_model_are_served_by_the_app(self, app, docs, openssh, profile):
        """One uploads, one downloads under the requested name."""
        with app.test_request_context():
            upload, name = Invoice.storage_get_upload_link("june.pdf", 5)
            download = Invoice.storage_get_download_link(name, 5, output_path="June.pdf")
        client = app.test_client()
        put = client.put(path_of(upload), data=b"%PDF")
        got = client.get(path_of(download))

        assert upload.startswith("http://localhost/storage/docs?token=")
        assert (put.status_code, got.status_code, got.data) == (200, 200, b"%PDF")
        assert got.headers["Content-Type"] == "application/pdf"
        assert got.headers["Content-Disposition"] == 'attachment; filename="June.pdf"'
        assert (openssh.folder / profile["root"] / "accounting/invoices" / name).read_bytes() == b"%PDF"

    @pytest.mark.parametrize("size", [1, 100, MiB])
    def test_a_range_of_a_very_large_file_transfers_only_the_range(self, counted, openssh, profile, line, size):
        """At 4.9 of 5 GiB; a hundred bytes transfer the minimum of a range."""
        start = 49 * GiB // 10
        content = random.Random(5).randbytes(size)
        with open(openssh.folder / profile["root"] / "large.bin", "wb") as file:  # a sparse file
            file.truncate(5 * GiB)
            file.seek(start)
            file.write(content)
        with counted.test_request_context():
            link = path_of(counted.extensions["storage"]["docs"].link_to("large.bin", "download", HOUR))
        client = counted.test_client()
        assert client.head(link).content_length == 5 * GiB  # and the connection is open
        before = line.counters.down

        response = client.get(link, headers={"Range": f"bytes={start}-{start + size - 1}"})

        assert (response.status_code, response.data) == (206, content)
        assert response.headers["Content-Range"] == f"bytes {start}-{start + size - 1}/{5 * GiB}"
        assert line.counters.down - before <= max(size, MIN_FETCH) + MIN_FETCH + OVERHEAD

    def test_the_last_bytes_of_a_very_large_file_are_transferred_alone(self, counted, openssh, profile, line):
        """By a range that counts from the end."""
        with open(openssh.folder / profile["root"] / "large.bin", "wb") as file:
            file.truncate(5 * GiB - 3)
            file.seek(0, os.SEEK_END)
            file.write(b"end")
        client = counted.test_client()
        client.head("/files/large.bin")
        before = line.counters.down

        response = client.get("/files/large.bin", headers={"Range": "bytes=-3"})

        assert (response.status_code, response.data) == (206, b"end")
        assert line.counters.down - before <= 2 * MIN_FETCH + OVERHEAD

    def test_a_response_that_is_closed_early_does_not_transfer_the_rest(self, counted, openssh, profile, line):
        """Read-ahead is limited, however large the file is."""
        with open(openssh.folder / profile["root"] / "large.bin", "wb") as file:
            file.truncate(5 * GiB)
        before = line.counters.down

        response = counted.test_client().get("/files/large.bin", buffered=False)
        first = next(response.iter_encoded())
        response.close()

        assert first == bytes(len(first))
        assert counted.test_client().head("/files/large.bin").status_code == 200  # all requested data has arrived
        assert line.counters.down - before <= 20 * MiB

    def test_an_upload_link_stores_the_body(self, app, docs, link):
        """It replaces the old file, unless the body differs from the signed checksum or size."""
        content = random.Random(8).randbytes(5 * MiB + 1)
        docs.write("a/file.bin", b"old")
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        checked = link("a/file.bin", "upload", checksum=checksum, size=len(content))
        client = app.test_client()

        wrong = client.put(checked, data=content[:-1] + bytes([content[-1] ^ 1]))
        short = client.put(checked, data=content[:-1])
        after = docs.read("a/file.bin")
        right = client.put(checked, data=content)

        assert [wrong.status_code, short.status_code, right.status_code] == [400, 400, 200]
        assert after == b"old"
        assert docs.read("a/file.bin") == content
        assert [entry.name for entry in docs.list()] == ["a/file.bin"]

    def test_an_exclusive_upload_link_does_not_replace_a_file(self, app, docs, link):
        """The first upload succeeds."""
        exclusive = link("a.txt", "upload", exclusive=True)

        first = app.test_client().put(exclusive, data=b"first")
        second = app.test_client().put(exclusive, data=b"second")

        assert (first.status_code, second.status_code, docs.read("a.txt")) == (200, 409, b"first")

    def test_a_conditional_upload_is_stored_only_if_the_condition_holds(self, app, docs, link):
        """SFTP creates a file exclusively; it cannot compare versions, so such a condition is refused."""
        client, url = app.test_client(), link("a.txt", "upload")

        created = client.put(url, data=b"first", headers={"If-None-Match": "*"})
        repeated = client.put(url, data=b"second", headers={"If-None-Match": "*"})
        compared = client.put(url, data=b"third", headers={"If-Match": "*"})

        assert [created.status_code, repeated.status_code, compared.status_code] == [200, 412, 501]
        assert docs.read("a.txt") == b"first"

    def test_a_truncated_body_publishes_nothing(self, app, docs, link, openssh, profile):
        """The old file stays, and no temporary file is left."""
        docs.write("a.txt", b"old")
        environ = EnvironBuilder(path=link("a.txt", "upload"), method="PUT").get_environ()
        environ.update({"wsgi.input": io.BytesIO(bytes(5 * MiB)), "CONTENT_LENGTH": str(9 * MiB)})

        _, status, _ = run_wsgi_app(app, environ)

        assert status.startswith("400 ")
        assert docs.read("a.txt") == b"old"
        assert os.listdir(openssh.folder / profile["root"]) == ["a.txt"]

    def test_a_remove_link_is_idempotent(self, app, docs, link):
        """The directory is removed with its last file."""
        docs.write("a/b.txt", b"content")
        remove = link("a/b.txt", "remove")

        responses = [app.test_client().delete(remove).status_code for _ in range(2)]

        assert responses == [200, 200]
        assert docs.list(recursive=False) == []

    def test_a_link_allows_only_its_operations(self, app, docs, link):
        """A link for downloads does not upload or delete."""
        docs.write("a.txt", b"content")
        client, download = app.test_client(), link("a.txt", "download")

        assert client.put(download, data=b"other").status_code == 403
        assert client.delete(download).status_code == 403
        assert (client.get(download).status_code, docs.read("a.txt")) == (200, b"content")

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
    def test_an_expired_link_is_refused(self, app, docs, method):
        """Its signature is valid."""
        docs.write("a.txt", b"content")
        now = int(datetime.now(UTC).timestamp())
        claims = {"key": "a.txt", "op": "dur", "aud": "docs", "iat": now - 7200, "exp": now - 3600}

        def request(**changed):
            token = jwt.encode({**claims, **changed}, derive_key(b"k" * 32, "docs"), algorithm="HS512")
            return app.test_client().open(f"/storage/docs?token={token}", method=method, data=b"new")

        expired = request()

        assert expired.status_code == 403
        assert b"content" not in expired.data
        assert docs.read("a.txt") == b"content"
        assert request(exp=now + 3600).status_code == 200  # so only the time was wrong

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    def test_a_link_is_valid_for_its_profile_only(self, tmp_path, openssh, profile, method):
        """Even if another profile has the same directory."""
        with app_of(tmp_path, {"docs": profile, "other": profile}) as app:
            docs, client = app.extensions["storage"]["docs"], app.test_client()
            docs.write("a.txt", b"content")
            with app.test_request_context():
                link = path_of(
                    docs.link_to("a.txt", {"GET": "download", "PUT": "upload", "DELETE": "remove"}[method], HOUR)
                )

            other_profile = client.open(link.replace("/docs?", "/other?"), method=method, data=b"new")
            unchanged = docs.read("a.txt")

            assert other_profile.status_code == 403
            assert unchanged == b"content"
            assert client.open(link, method=method, data=b"new").status_code == 200

    def test_a_server_that_is_down_is_reported_with_503(self, counted, line):
        """When it is up again, its links work."""
        storage, client = counted.extensions["storage"]["docs"], counted.test_client()
        storage.write("a.txt", b"content")
        with counted.test_request_context():
            link = path_of(storage.link_to("a.txt", "download", HOUR))
        line.refuse()
        line.kill()

        down = client.get(link)
        line.remove_faults()
        up = client.get(link)

        assert (down.status_code, up.status_code, up.data) == (503, 200, b"content")
        assert str(line.port) not in down.text

    # -- commands -----------------------------------------------------------------------------------------------------

    def test_the_link_command_makes_links_of_the_app(self, app, run, docs, monkeypatch):
        """It needs the address of the app; one link may allow several operations."""
        docs.write("a.txt", b"hello")
        client = app.test_client()
        without_address = run("link", "a.txt")
        monkeypatch.setitem(app.config, "SERVER_NAME", "shop.example.com")
        monkeypatch.setitem(app.config, "PREFERRED_URL_SCHEME", "https")

        link = run("link", "a.txt", "--upload").stdout.strip()
        got = client.get(path_of(link), base_url="https://shop.example.com")
        put = client.put(path_of(link), base_url="https://shop.example.com", data=b"sent")

        assert (without_address.exit_code, "STORAGE_EXTERNAL_URL" in without_address.stderr) == (2, True)
        assert link.startswith("https://shop.example.com/storage/docs?token=")
        assert (got.status_code, got.data) == (200, b"hello")
        assert (put.status_code, docs.read("a.txt")) == (200, b"sent")

    def test_the_check_command_reports_a_missing_root(self, run, docs, tmp_path, profile):
        """With the path of the root."""
        check = run("check")
        profiles = run("profiles", "--check")
        with app_of(tmp_path, {"docs": {**profile, "root": f"no-{profile['root']}"}}) as other_app:
            failed = other_app.test_cli_runner().invoke(args=["storage", "profiles", "--check"])

        assert (check.exit_code, check.stderr) == (0, "docs works.\n")
        assert profiles.stdout.startswith("* docs (SFTPStorage) works\n")
        assert docs.list() == []
        assert failed.exit_code == 1
        assert "FAILS: " in failed.stdout
        assert f"no-{profile['root']}" in failed.stdout

    def test_the_check_command_shows_both_fingerprints_of_a_changed_host_key(self, tmp_path, openssh, profile):
        """They can be compared."""
        known_hosts = tmp_path / "known"
        other_key = (openssh.home / "other_ed25519.pub").read_text().split()[:2]
        known_hosts.write_text(f"[127.0.0.1]:{openssh.port} {' '.join(other_key)}\n")
        with app_of(tmp_path, {"docs": {**profile, "known_hosts_fpath": str(known_hosts)}}) as app:
            result = app.test_cli_runner().invoke(args=["storage", "check"])

        assert result.exit_code == 1
        assert len(set(re.findall(r"SHA256:[\w+/]{43}", result.stderr))) == 2

    def test_the_sweep_command_removes_old_temporary_files(self, run, docs, openssh, profile):
        """Files stay."""
        root = openssh.folder / profile["root"]
        docs.write("a/b.txt", b"content")
        leftover = root / "a/.fs-tmp-0123456789abcdef"
        leftover.write_bytes(b"half")

        early = run("sweep")
        existed = leftover.exists()
        late = run("sweep", "--older-than", "0")

        assert (early.stderr, existed) == ("Removed 0 leftovers from docs.\n", True)
        assert (late.stderr, leftover.exists()) == ("Removed 1 leftover from docs.\n", False)
        assert docs.read("a/b.txt") == b"content"


# -- the example app --------------------------------------------------------------------------------------------------


def example(tmp_path, profiles):
    """Return the example app with these profiles."""
    return create_app(str(tmp_path / "instance"), {"STORAGE_PROFILES": profiles})


def test_slow_downloads_do_not_block_other_requests(tmp_path, profile):
    """More of them than there are sessions; each sends the version with which it began."""
    limits = {"max_connections": 1, "max_sessions": 2, "connect_timeout": 5, "read_timeout": 5}
    content = random.Random(11).randbytes(3 * MiB)
    with app_of(tmp_path, {"docs": {**profile, **limits}}) as app:
        client, docs = app.test_client(), app.extensions["storage"]["docs"]
        docs.write("film.bin", content)
        downloads = [client.get("/files/film.bin") for _ in range(8)]
        bodies = [download.iter_encoded() for download in downloads]
        starts = [next(body) for body in bodies]

        docs.write("film.bin", b"another")
        quick = client.get("/files/film.bin")

        assert quick.data == b"another"
        assert {len(start) for start in starts} == {CHUNK_BYTES}
        assert [start + b"".join(body) for start, body in zip(starts, bodies, strict=True)] == [content] * 8
        for download in downloads:
            download.close()


def test_the_example_app_works_with_sftp(tmp_path, openssh, profile):
    """Upload by a form, download in part and as a whole, sharing and deletion."""
    with app_of(tmp_path, {"drop": profile}, example) as app:
        visitor, content = Visitor(app), random.Random(9).randbytes(300_000)
        form = {"csrf_token": visitor.headers["X-CSRF-Token"]}

        sent = visitor.client.post("/files", data={**form, "files": (io.BytesIO(content), "photo (1).jpg")})
        [file] = [file for file in (openssh.folder / profile["root"]).rglob("*") if file.is_file()]
        path, stored, names = file.relative_to(openssh.folder / profile["root"]), file.read_bytes(), visitor.names()
        link = path_of(visitor.client.get(f"/download/{path}").location)
        part = visitor.client.get(link, headers={"Range": "bytes=100-199"})
        shared = visitor.post(f"/share/{path}", {"lifetime": "once"}).json
        follows = [visitor.client.get(visitor.shared_link(shared["url"])) for _ in range(2)]
        deleted = visitor.client.post(f"/delete/{path}", data={**form, "confirmed": "yes"})

        assert (sent.status_code, path.name, stored == content) == (303, "photo (1).jpg", True)
        assert names == ["photo (1).jpg"]
        assert (part.status_code, part.data, part.mimetype) == (206, content[100:200], "image/jpeg")
        assert [response.status_code for response in follows] == [200, 403]
        assert follows[0].data == content
        assert (deleted.status_code, visitor.names()) == (303, [])
        assert list((openssh.folder / profile["root"]).iterdir()) == []


def test_the_example_app_accepts_uploads_by_links(tmp_path, openssh, profile):
    """SFTP cannot store the content type: it follows from the name. A later upload does not change a confirmed file."""
    content = random.Random(10).randbytes(2 * MiB + 5)
    with app_of(tmp_path, {"drop": profile}, example) as app:
        visitor = Visitor(app)

        instruction, put = visitor.upload("photo (1).jpg", content)
        confirmed = visitor.confirm(instruction)
        again = visitor.client.put(path_of(instruction["url"]), data=b"x" * len(content))

        assert [response.status_code for response in (put, confirmed, again)] == [200, 200, 200]
        assert (openssh.folder / profile["root"] / confirmed.json["path"]).read_bytes() == content
        assert set(visitor.names()) == {"photo (1).jpg"}


def test_every_form_of_the_example_configuration_means_the_same_server(tmp_path):
    """No connection is made before a file is used."""
    seen = []
    for form in (config.as_mapping, config.as_pairs, config.as_urls):
        app = create_app(str(tmp_path), {"STORAGE_PROFILES": form(tmp_path)})
        with app.app_context():
            storage = current_storage["server"]
            assert isinstance(storage, SFTPStorage)
            settings = storage._connection_settings
            seen.append((settings.host, settings.username, settings.key_filenames, storage.root))

    assert seen == [("files.example.com", "web", ("/etc/drop/id_ed25519",), "/srv/drop")] * 3


# -- secrets ----------------------------------------------------------------------------------------------------------

RELAY = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while data := sock.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    sock.sendall(data)
"""


@pytest.fixture
def profile_with_secrets(openssh, tmp_path):
    """A profile with a correct secret in each argument that may have one."""
    key = tmp_path / "id_ed25519"
    key.write_text((openssh.home / "user_ed25519").read_text())
    key.chmod(0o600)
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", SECRET, "-f", str(key)]
    subprocess.run(change, check=True, capture_output=True)
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    root = f"app-{uuid4().hex}"
    (openssh.folder / root).mkdir()
    return {
        "backend": "sftp",
        **openssh.login,
        "root": root,
        "key_filename": str(key),
        "passphrase": SECRET,
        "password": SECRET,
        "proxy_command": f"{sys.executable} {relay} %h %p {SECRET}",
        "secret_key": SECRET * 3,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"passphrase": f"{SECRET}!"},
        {"passphrase": None, "password": f"{SECRET}!"},
        {"key_filename": None},
        {"key_filename": "/no/such/key"},
        {"proxy_command": f"/no/such/program {SECRET}"},
        {"proxy_command": f"false {SECRET}"},
        {"known_hosts_fpath": os.devnull},
        {"known_hosts_fpath": "/no/such/file"},
        {"root": "no/such/folder"},
    ],
    ids=lambda changes: "-".join(map(str, changes)) or "none",
)
def test_no_secret_is_shown_after_any_error(tmp_path, profile_with_secrets, changes, caplog):
    """Neither in the output of commands, nor in a log at level DEBUG, nor in a traceback with all causes."""
    caplog.set_level(logging.DEBUG)
    with app_of(tmp_path, {"docs": {**profile_with_secrets, **changes}}) as app:
        run = app.test_cli_runner().invoke
        results = [
            run(args=["storage", *args])
            for args in (["check"], ["profiles"], ["profiles", "--check", "--json"], ["list"], ["get", "a.txt", "-"])
        ]
        storage = app.extensions["storage"]["docs"]
        traceback_lines = []
        try:
            storage.read("a.txt")
        except Exception as error:  # noqa: BLE001 -- any error is formatted
            traceback_lines = traceback.format_exception(error)
        reprs = [repr(storage), str(storage), repr(app.extensions["storage"])]
        response = app.test_client().get("/files/a.txt")

    assert results[0].exit_code in ((1, 2) if changes else (0,)), results[0].output  # 2: a wrong setting
    assert traceback_lines, "the file does not exist"
    for text in (*(result.output for result in results), *traceback_lines, *reprs, caplog.text, response.text):
        assert SECRET not in text


@pytest.mark.parametrize("is_right", [True, False])
def test_a_password_in_a_url_is_not_shown(tmp_path, plain_sftp, caplog, is_right):
    """Whether it is correct or wrong."""
    caplog.set_level(logging.DEBUG)
    password = plain_sftp.password if is_right else plain_sftp.password[::-1] + SECRET
    known_hosts = quote(plain_sftp.login["known_hosts_fpath"], safe="")
    url = f"sftp://{plain_sftp.username}:{password}@127.0.0.1:{plain_sftp.port}/~/?known_hosts_fpath={known_hosts}"

    with app_of(tmp_path, {"docs": url}) as app:
        run = app.test_cli_runner().invoke
        results = [run(args=["storage", *args]) for args in (["check"], ["profiles", "--check", "--json"], ["list"])]
        storage_repr = repr(app.extensions["storage"]["docs"])

    assert [result.exit_code == 0 for result in results] == [is_right] * 3
    assert caplog.records
    for text in (*(result.output for result in results), storage_repr, caplog.text):
        assert password not in text


def test_the_error_of_an_invalid_url_does_not_show_its_password(tmp_path):
    """The app does not start."""
    with pytest.raises(Exception, match="the port of an sftp:// URL") as caught:
        make_app(tmp_path, {"docs": f"sftp://web:{SECRET}@files.example.com:no/srv"})

    assert SECRET not in "".join(traceback.format_exception_only(caught.value))
