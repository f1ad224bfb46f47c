"""An app whose files are on a server, over SSH: what works with a folder works there, by changing the profile."""

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
from flask_storage.http.send_file import CHUNK_BYTES
from flask_storage.tokens import derive_key
from tests.counts import count
from tests.remote_app import SMALL, Invoice, MiB, RemoteApp, make_app
from tests.services.fault_proxy import FaultProxy
from tests.test_example_app import Visitor, path_of

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

HOUR = timedelta(hours=1)
GiB = 1024 * MiB
HIDDEN = "not-for-the-logs"
LEAST = 64 * 1024
"""What opening a file brings along, and what is fetched at least from elsewhere in it, in bytes."""
HEADS = 4096
"""Bytes of all that is around the content, for an response of a megabyte."""


@pytest.fixture
def profile(openssh):
    """A profile, as a mapping: a folder of its own where the server puts the user."""
    root = f"app-{uuid4().hex}"
    (openssh.folder / root).mkdir()
    return {"backend": "sftp", **openssh.login, "root": root}


@contextmanager
def app_of(tmp_path, profiles, make=make_app):
    """An app whose storages are closed at the end."""
    app = make(tmp_path, profiles)
    yield app
    for name in app.extensions["storage"]:
        app.extensions["storage"][name].close()


# -- configuration ----------------------------------------------------------------------------------------------------


def as_mapping(profile, _):
    """The profile by its name."""
    return {"docs": profile}


def as_pair(profile, _):
    """Class and arguments."""
    return [(SFTPStorage, {"name": "docs", **{key: value for key, value in profile.items() if key != "backend"}})]


def url_of(profile, path):
    """A URL with this path."""
    keys = "&".join(f"{key}={quote(profile[key], safe='')}" for key in ("key_filename", "known_hosts_fpath"))
    return f"sftp://{profile['username']}@{profile['host']}:{profile['port']}{path}?{keys}"


def as_url_from_home(profile, _):
    """A URL whose path begins where the server puts the user."""
    return {"docs": url_of(profile, f"/~/{profile['root']}")}


def as_url_from_the_top(profile, folder):
    """A URL whose path is the server's."""
    return {"docs": url_of(profile, quote(str(folder)))}


@pytest.mark.parametrize("form", [as_mapping, as_pair, as_url_from_home, as_url_from_the_top])
@pytest.mark.parametrize("source", ["code", "environment"])
def test_a_folder_of_a_server_is_configured_in_every_form(monkeypatch, tmp_path, openssh, profile, form, source):
    """Mapping, pair and URL, in the app's code or as JSON in its environment, mean the same place.

    JSON knows no classes: there the short name stands for one.
    """
    folder = openssh.folder / profile["root"]
    profiles = form(profile, folder)
    if source == "environment":
        monkeypatch.setenv("FLASK_STORAGE_PROFILES", json.dumps(profiles, default=lambda _: "sftp"))
        profiles = None

    with app_of(tmp_path, profiles) as app:
        storage = app.extensions["storage"]["docs"]
        storage.write("a.txt", b"content")

        assert (folder / "a.txt").read_bytes() == b"content"
        assert storage.name == "docs"


def test_a_url_that_ends_with_the_home_is_the_home(tmp_path, openssh, profile):
    """`/~/` alone is where the server puts the user."""
    with app_of(tmp_path, {"docs": url_of(profile, "/~/")}) as app:
        app.extensions["storage"]["docs"].write(f"{profile['root']}/a.txt", b"content")

    assert (openssh.folder / profile["root"] / "a.txt").read_bytes() == b"content"


# -- apps -------------------------------------------------------------------------------------------------------------


class TestSFTP(RemoteApp):
    """What any remote place does for an app, and what only this one does: it keeps content and its time, and no more.

    Links are those of the app, and all that they move passes through it.
    """

    @pytest.fixture
    def app(self, tmp_path, profile):
        """An app with one profile."""
        with app_of(tmp_path, {"docs": profile}) as app:
            yield app

    @pytest.fixture
    def line(self, openssh):
        """A line to the server on which the bytes are counted."""
        with FaultProxy("127.0.0.1", openssh.port) as proxy:
            openssh.know(proxy.port)
            yield proxy

    @pytest.fixture
    def counted(self, tmp_path, profile, line):
        """An app that reaches its folder through that line."""
        with app_of(tmp_path, {"docs": {**profile, "port": line.port}}) as app:
            yield app

    @pytest.fixture
    def link(self, app):
        """Makes a link relative to the app's root."""

        def link(path, operation, expire=HOUR, profile="docs", **terms):
            with app.test_request_context():
                return path_of(app.extensions["storage"][profile].link_to(path, operation, expire, **terms))

        return link

    # What a type or a strong ETag is needed for elsewhere is asked here as it is without them.

    def test_a_model_keeps_its_files_there(self, app, docs):
        """Storing, from a form too, fetching, copying and deleting go below the model's folder, as anywhere."""
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

    def test_a_file_there_is_sent(self, app, docs):
        """Its type is that of its name; HEAD says the same without the content; what is known need not come again."""
        docs.write("a.txt", SMALL)
        client = app.test_client()

        whole = client.get("/files/a.txt")
        head = client.head("/files/a.txt")
        known = client.get("/files/a.txt", headers={"If-None-Match": whole.headers["ETag"]})
        since = client.get("/files/a.txt", headers={"If-Modified-Since": whole.headers["Last-Modified"]})
        other = client.get("/files/a.txt", headers={"If-Match": '"another"'})

        assert (whole.status_code, whole.data, whole.mimetype) == (200, SMALL, "text/plain")
        assert whole.headers["ETag"] == f'W/"{docs.stat("a.txt").etag}"'
        assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "100")
        assert head.headers["ETag"] == whole.headers["ETag"]
        assert [known.status_code, since.status_code, other.status_code] == [304, 304, 412]
        assert known.data == since.data == b""

    def test_the_commands_for_files_work(self, run, docs, tmp_path):
        """What they say and what is there afterwards is what it is with a folder."""
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

    def test_random_ranges_are_exact_and_move_hardly_more(self, counted, line):
        """Whatever range is asked for, long or short, the server sends that and at most one chunk more.

        Every response is closed, as web servers do: until then it holds a session.
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

    def test_a_type_cannot_be_kept_and_the_shell_says_so(self, run, docs, tmp_path):
        """Nothing is stored without it, as if it had been."""
        (tmp_path / "here/a.txt").write_bytes(b"hello")

        put = run("put", "a.txt", "b.txt", "--content-type", "text/csv")

        assert (put.exit_code, docs.list()) == (1, [])
        assert put.stderr == "Error: SFTPStorage cannot keep a content type or another header with a file\n"

    def test_a_files_way_to_the_server_and_back_changes_no_byte(self, run, docs, tmp_path):
        """Of a few megabytes, and into a file that was another before; nothing of ours is left on either side."""
        content = random.Random(7).randbytes(5 * MiB + 3)
        (tmp_path / "here/a.bin").write_bytes(content)
        (tmp_path / "here/back.bin").write_bytes(b"another")
        docs.write("far/a.bin", b"another")

        run("put", "a.bin", "far/a.bin")
        got = run("get", "far/a.bin", "back.bin")

        assert got.stderr == "Downloaded far/a.bin to back.bin.\n"
        assert (tmp_path / "here/back.bin").read_bytes() == content
        assert sorted(os.listdir(tmp_path / "here")) == ["a.bin", "back.bin"]

    # -- links --------------------------------------------------------------------------------------------------------

    def test_a_models_links_lead_to_the_app(self, app, docs, openssh, profile):
        """One uploads, one downloads under the name that was wished."""
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
    def test_a_range_of_a_link_far_into_a_very_large_file_fetches_only_the_range(
        self, counted, openssh, profile, line, size
    ):
        """At 4.9 of 5 GiB a megabyte is a megabyte, and a hundred bytes are the least that is fetched at once."""
        start = 49 * GiB // 10
        content = random.Random(5).randbytes(size)
        with open(openssh.folder / profile["root"] / "large.bin", "wb") as file:  # nearly all of it is a hole
            file.truncate(5 * GiB)
            file.seek(start)
            file.write(content)
        with counted.test_request_context():
            link = path_of(counted.extensions["storage"]["docs"].link_to("large.bin", "download", HOUR))
        client = counted.test_client()
        assert client.head(link).content_length == 5 * GiB  # and the connection is there
        before = line.counters.down

        response = client.get(link, headers={"Range": f"bytes={start}-{start + size - 1}"})

        assert (response.status_code, response.data) == (206, content)
        assert response.headers["Content-Range"] == f"bytes {start}-{start + size - 1}/{5 * GiB}"
        assert line.counters.down - before <= max(size, LEAST) + LEAST + HEADS

    def test_the_last_bytes_of_a_very_large_file_come_alone(self, counted, openssh, profile, line):
        """So do those that are asked for from the end."""
        with open(openssh.folder / profile["root"] / "large.bin", "wb") as file:
            file.truncate(5 * GiB - 3)
            file.seek(0, os.SEEK_END)
            file.write(b"end")
        client = counted.test_client()
        client.head("/files/large.bin")
        before = line.counters.down

        response = client.get("/files/large.bin", headers={"Range": "bytes=-3"})

        assert (response.status_code, response.data) == (206, b"end")
        assert line.counters.down - before <= 2 * LEAST + HEADS

    def test_a_client_that_leaves_early_does_not_fetch_the_rest(self, counted, openssh, profile, line):
        """What is read ahead is bounded, however large the file is."""
        with open(openssh.folder / profile["root"] / "large.bin", "wb") as file:
            file.truncate(5 * GiB)
        before = line.counters.down

        response = counted.test_client().get("/files/large.bin", buffered=False)
        first = next(response.iter_encoded())
        response.close()

        assert first == bytes(len(first))
        assert counted.test_client().head("/files/large.bin").status_code == 200  # all that was asked for has come
        assert line.counters.down - before <= 20 * MiB

    def test_an_upload_link_stores_the_body(self, app, docs, link):
        """In place of what was there, and not when the content is another than was signed."""
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

    def test_an_exclusive_upload_link_replaces_nothing(self, app, docs, link):
        """The first one who follows it has the name."""
        exclusive = link("a.txt", "upload", exclusive=True)

        first = app.test_client().put(exclusive, data=b"first")
        second = app.test_client().put(exclusive, data=b"second")

        assert (first.status_code, second.status_code, docs.read("a.txt")) == (200, 409, b"first")

    def test_a_body_that_is_cut_publishes_nothing(self, app, docs, link, openssh, profile):
        """The old file stays, and nothing hidden is left beside it."""
        docs.write("a.txt", b"old")
        environ = EnvironBuilder(path=link("a.txt", "upload"), method="PUT").get_environ()
        environ.update({"wsgi.input": io.BytesIO(bytes(5 * MiB)), "CONTENT_LENGTH": str(9 * MiB)})

        _, status, _ = run_wsgi_app(app, environ)

        assert status.startswith("400 ")
        assert docs.read("a.txt") == b"old"
        assert os.listdir(openssh.folder / profile["root"]) == ["a.txt"]

    def test_a_remove_link_deletes_and_deletes_again(self, app, docs, link):
        """The second time there is nothing to do; the folder goes with its last file."""
        docs.write("a/b.txt", b"content")
        remove = link("a/b.txt", "remove")

        responses = [app.test_client().delete(remove).status_code for _ in range(2)]

        assert responses == [200, 200]
        assert docs.list(recursive=False) == []

    def test_a_link_allows_what_it_was_made_for_and_nothing_else(self, app, docs, link):
        """A link to download uploads and removes nothing."""
        docs.write("a.txt", b"content")
        client, download = app.test_client(), link("a.txt", "download")

        assert client.put(download, data=b"other").status_code == 403
        assert client.delete(download).status_code == 403
        assert (client.get(download).status_code, docs.read("a.txt")) == (200, b"content")

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
    def test_an_expired_link_opens_nothing(self, app, docs, method):
        """The token is the app's own; only its time is over."""
        docs.write("a.txt", b"content")
        now = int(datetime.now(UTC).timestamp())
        claims = {"key": "a.txt", "op": "dur", "aud": "docs", "iat": now - 7200, "exp": now - 3600}

        def ask(**changed):
            token = jwt.encode({**claims, **changed}, derive_key(b"k" * 32, "docs"), algorithm="HS512")
            return app.test_client().open(f"/storage/docs?token={token}", method=method, data=b"new")

        late = ask()

        assert late.status_code == 403
        assert b"content" not in late.data
        assert docs.read("a.txt") == b"content"
        assert ask(exp=now + 3600).status_code == 200  # which shows that it was the time

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    def test_a_link_of_one_profile_opens_no_other(self, tmp_path, openssh, profile, method):
        """Not even one of the same server and folder."""
        with app_of(tmp_path, {"docs": profile, "other": profile}) as app:
            docs, client = app.extensions["storage"]["docs"], app.test_client()
            docs.write("a.txt", b"content")
            with app.test_request_context():
                link = path_of(
                    docs.link_to("a.txt", {"GET": "download", "PUT": "upload", "DELETE": "remove"}[method], HOUR)
                )

            elsewhere = client.open(link.replace("/docs?", "/other?"), method=method, data=b"new")
            unchanged = docs.read("a.txt")

            assert elsewhere.status_code == 403
            assert unchanged == b"content"
            assert client.open(link, method=method, data=b"new").status_code == 200

    def test_a_server_that_is_away_is_no_fault_of_the_client(self, counted, line):
        """Its links are answered with 503 until it is back, and then as ever."""
        storage, client = counted.extensions["storage"]["docs"], counted.test_client()
        storage.write("a.txt", b"content")
        with counted.test_request_context():
            link = path_of(storage.link_to("a.txt", "download", HOUR))
        line.refuse()
        line.kill()

        away = client.get(link)
        line.heal()
        back = client.get(link)

        assert (away.status_code, back.status_code, back.data) == (503, 200, b"content")
        assert str(line.port) not in away.text

    # -- the shell ----------------------------------------------------------------------------------------------------

    def test_a_link_from_the_shell_leads_to_the_app(self, app, run, docs, monkeypatch):
        """Its address has to be known; one link may do several things."""
        docs.write("a.txt", b"hello")
        client = app.test_client()
        homeless = run("link", "a.txt")
        monkeypatch.setitem(app.config, "SERVER_NAME", "shop.example.com")
        monkeypatch.setitem(app.config, "PREFERRED_URL_SCHEME", "https")

        link = run("link", "a.txt", "--upload").stdout.strip()
        got = client.get(path_of(link), base_url="https://shop.example.com")
        put = client.put(path_of(link), base_url="https://shop.example.com", data=b"sent")

        assert (homeless.exit_code, "STORAGE_EXTERNAL_URL" in homeless.stderr) == (1, True)
        assert link.startswith("https://shop.example.com/storage/docs?token=")
        assert (got.status_code, got.data) == (200, b"hello")
        assert (put.status_code, docs.read("a.txt")) == (200, b"sent")

    def test_a_folder_is_checked(self, run, docs, tmp_path, profile):
        """One that is not there is named, and so is what can be done."""
        well = run("check")
        profiles = run("profiles", "--check")
        with app_of(tmp_path, {"docs": {**profile, "root": f"no-{profile['root']}"}}) as lost:
            ill = lost.test_cli_runner().invoke(args=["storage", "profiles", "--check"])

        assert (well.exit_code, well.stderr) == (0, "docs works.\n")
        assert profiles.stdout.startswith("* docs  SFTPStorage  works; ")
        assert "links:download+upload+remove" in profiles.stdout
        assert docs.list() == []
        assert ill.exit_code == 1
        assert "FAILS: " in ill.stdout
        assert f"no-{profile['root']}" in ill.stdout

    def test_a_server_whose_key_is_another_is_checked(self, tmp_path, openssh, profile):
        """The shell shows both fingerprints, which is what somebody compares."""
        known = tmp_path / "known"
        stranger = (openssh.home / "other_ed25519.pub").read_text().split()[:2]
        known.write_text(f"[127.0.0.1]:{openssh.port} {' '.join(stranger)}\n")
        with app_of(tmp_path, {"docs": {**profile, "known_hosts_fpath": str(known)}}) as app:
            result = app.test_cli_runner().invoke(args=["storage", "check"])

        assert result.exit_code == 1
        assert len(set(re.findall(r"SHA256:[\w+/]{43}", result.stderr))) == 2

    def test_what_a_killed_write_left_is_swept(self, run, docs, openssh, profile):
        """When it is old enough; files stay."""
        folder = openssh.folder / profile["root"]
        docs.write("a/b.txt", b"content")
        leftover = folder / "a/.fs-tmp-0123456789abcdef"
        leftover.write_bytes(b"half")

        early = run("sweep")
        there = leftover.exists()
        late = run("sweep", "--older-than", "0")

        assert (early.stderr, there) == ("Removed 0 leftovers from docs.\n", True)
        assert (late.stderr, leftover.exists()) == ("Removed 1 leftover from docs.\n", False)
        assert docs.read("a/b.txt") == b"content"


# -- the example app --------------------------------------------------------------------------------------------------


def example(tmp_path, profiles):
    """The example app with these profiles."""
    return create_app(str(tmp_path / "instance"), {"STORAGE_PROFILES": profiles})


def test_the_example_app_keeps_its_files_there(tmp_path, openssh, profile):
    """What a form uploads is on the server and on the page, comes back in part and whole, is shared, and deleted."""
    with app_of(tmp_path, {"drop": profile}, example) as app:
        visitor, content = Visitor(app), random.Random(9).randbytes(300_000)
        form = {"csrf_token": visitor.headers["X-CSRF-Token"]}

        sent = visitor.client.post("/files", data={**form, "files": (io.BytesIO(content), "photo (1).jpg")})
        [file] = [file for file in (openssh.folder / profile["root"]).rglob("*") if file.is_file()]
        path, stored, names = file.relative_to(openssh.folder / profile["root"]), file.read_bytes(), visitor.names()
        link = path_of(visitor.client.get(f"/download/{path}").location)
        part = visitor.client.get(link, headers={"Range": "bytes=100-199"})
        shared = visitor.post(f"/share/{path}", {"lifetime": "once"}).json
        follows = [visitor.client.get(path_of(shared["url"])) for _ in range(2)]
        deleted = visitor.client.post(f"/delete/{path}", data={**form, "confirmed": "yes"})

        assert (sent.status_code, path.name, stored == content) == (303, "photo (1).jpg", True)
        assert names == ["photo (1).jpg"]
        assert (part.status_code, part.data, part.mimetype) == (206, content[100:200], "image/jpeg")
        assert [response.status_code for response in follows] == [200, 403]
        assert follows[0].data == content
        assert (deleted.status_code, visitor.names()) == (303, [])
        assert list((openssh.folder / profile["root"]).iterdir()) == []


def test_the_example_app_takes_what_a_script_sends(tmp_path, openssh, profile):
    """By a link that signs all but the type, which this place cannot keep: it is that of the name afterwards."""
    content = random.Random(10).randbytes(2 * MiB + 5)
    with app_of(tmp_path, {"drop": profile}, example) as app:
        visitor = Visitor(app)

        instruction, put = visitor.upload("photo (1).jpg", content)
        confirmed = visitor.confirm(instruction)
        again = visitor.client.put(path_of(instruction["url"]), data=b"x" * len(content))

        assert [response.status_code for response in (put, confirmed, again)] == [200, 200, 409]
        assert (openssh.folder / profile["root"] / instruction["path"]).read_bytes() == content
        assert visitor.names() == ["photo (1).jpg"]


def test_the_example_app_names_the_same_server_in_every_form(tmp_path):
    """And asks it nothing before there is a file."""
    seen = []
    for form in (config.as_mapping, config.as_pairs, config.as_urls):
        app = create_app(str(tmp_path), {"STORAGE_PROFILES": form(tmp_path)})
        with app.app_context():
            storage = current_storage["server"]
            assert isinstance(storage, SFTPStorage)
            login = storage._connection_settings
            seen.append((login.host, login.username, login.key_filenames, storage.root))

    assert seen == [("files.example.com", "web", ("/etc/drop/id_ed25519",), "/srv/drop")] * 3


# -- secrets ----------------------------------------------------------------------------------------------------------

LEAD = """
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
def secretive(openssh, tmp_path):
    """A profile with a secret in each argument that may have one, all of which are right."""
    key = tmp_path / "id_ed25519"
    key.write_text((openssh.home / "user_ed25519").read_text())
    key.chmod(0o600)
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", HIDDEN, "-f", str(key)]
    subprocess.run(change, check=True, capture_output=True)
    lead = tmp_path / "lead.py"
    lead.write_text(LEAD)
    root = f"app-{uuid4().hex}"
    (openssh.folder / root).mkdir()
    return {
        "backend": "sftp",
        **openssh.login,
        "root": root,
        "key_filename": str(key),
        "passphrase": HIDDEN,
        "password": HIDDEN,
        "proxy_command": f"{sys.executable} {lead} %h %p {HIDDEN}",
        "secret_key": HIDDEN * 3,
    }


@pytest.mark.parametrize(
    "trouble",
    [
        {},
        {"passphrase": f"{HIDDEN}!"},
        {"passphrase": None, "password": f"{HIDDEN}!"},
        {"key_filename": None},
        {"key_filename": "/no/such/key"},
        {"proxy_command": f"/no/such/program {HIDDEN}"},
        {"proxy_command": f"false {HIDDEN}"},
        {"known_hosts_fpath": os.devnull},
        {"known_hosts_fpath": "/no/such/file"},
        {"root": "no/such/folder"},
    ],
    ids=lambda trouble: "-".join(map(str, trouble)) or "none",
)
def test_no_secret_is_shown_whatever_happens(tmp_path, secretive, trouble, caplog):
    """Neither in what the shell prints, nor in a log of everything, nor in an error with all its causes."""
    caplog.set_level(logging.DEBUG)
    with app_of(tmp_path, {"docs": {**secretive, **trouble}}) as app:
        run = app.test_cli_runner().invoke
        results = [
            run(args=["storage", *args])
            for args in (["check"], ["profiles"], ["profiles", "--check", "--json"], ["list"], ["get", "a.txt", "-"])
        ]
        storage = app.extensions["storage"]["docs"]
        told = []
        try:
            storage.read("a.txt")
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is shown
            told = traceback.format_exception(error)
        shown = [repr(storage), str(storage), repr(app.extensions["storage"])]
        response = app.test_client().get("/files/a.txt")

    assert results[0].exit_code == (1 if trouble else 0), results[0].output
    assert told, "there is no such file"
    for text in (*(result.output for result in results), *told, *shown, caplog.text, response.text):
        assert HIDDEN not in text


@pytest.mark.parametrize("is_right", [True, False])
def test_a_password_is_not_shown_where_it_is_what_opens_the_door(tmp_path, plain_sftp, caplog, is_right):
    """Nor one in a URL, with which it comes into the app's configuration."""
    caplog.set_level(logging.DEBUG)
    password = plain_sftp.password if is_right else plain_sftp.password[::-1] + HIDDEN
    known = quote(plain_sftp.login["known_hosts_fpath"], safe="")
    url = f"sftp://{plain_sftp.username}:{password}@127.0.0.1:{plain_sftp.port}/~/?known_hosts_fpath={known}"

    with app_of(tmp_path, {"docs": url}) as app:
        run = app.test_cli_runner().invoke
        results = [run(args=["storage", *args]) for args in (["check"], ["profiles", "--check", "--json"], ["list"])]
        shown = repr(app.extensions["storage"]["docs"])

    assert [result.exit_code == 0 for result in results] == [is_right] * 3
    assert caplog.records
    for text in (*(result.output for result in results), shown, caplog.text):
        assert password not in text


def test_a_url_that_cannot_work_is_not_shown_with_its_password(tmp_path):
    """The app does not start, and says why."""
    with pytest.raises(Exception, match="the port of an sftp:// URL") as caught:
        make_app(tmp_path, {"docs": f"sftp://web:{HIDDEN}@files.example.com:no/srv"})

    assert HIDDEN not in "".join(traceback.format_exception_only(caught.value))
