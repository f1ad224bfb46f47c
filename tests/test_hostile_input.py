"""What attackers tried, and what must stay refused."""

import json
import os
import subprocess
import sys
from datetime import timedelta

import flask
import pytest

from example_app import create_app
from flask_storage import LocalFSStorage, Storage, send_stored_file
from flask_storage.paths import safe_filename, safe_path

HOUR = timedelta(hours=1)
SECRET = "s" * 32


@pytest.fixture
def app(tmp_path):
    """An app with one local profile that is served to everybody."""
    app = flask.Flask(__name__, instance_path=str(tmp_path / "instance"))
    profile = {"backend": "local", "root": tmp_path / "root", "create": True, "base_url": "/m", "serve": True}
    app.config.update(SECRET_KEY=SECRET, STORAGE_PROFILES={"docs": profile})
    Storage(app)
    return app


@pytest.fixture
def docs(app):
    """Its storage."""
    return app.extensions["storage"]["docs"]


@pytest.mark.parametrize(
    "kind",
    [
        "video/mp4; x, text/html",
        "application/pdf; a=1,text/html",
        "image/png, image/svg+xml",
        'video/mp4; x="a,text/html"',
        "text/plain; x, text/html",
        "video/mp4;",
        "video/mp4; x=1; , text/html",
        "video/mp4\n; x=1",
        "video/mp4; x=ü",
    ],
)
def test_a_type_that_is_a_list_is_no_type(app, docs, kind):
    """Browsers take the last one of a list; what is stored with such a type is offered for saving, by its name."""
    with app.test_request_context():
        response = send_stored_file(_stored(docs, "v.bin"), "v.bin", disposition="inline", content_type=kind)

        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["Content-Disposition"].startswith("attachment")
        assert response.headers["Content-Security-Policy"].endswith("; sandbox")
        response.close()


@pytest.mark.parametrize("kind", ['text/plain; charset="utf-8"', "text/plain;charset=utf-8;format=flowed"])
def test_a_type_with_parameters_is_one(app, docs, kind):
    """As long as each is well formed."""
    with app.test_request_context():
        response = send_stored_file(_stored(docs, "v"), "v", content_type=kind)

        assert response.headers["Content-Type"] == kind
        response.close()


def test_nothing_shown_may_send_a_form_or_change_its_base(app, docs):
    """`default-src` does not speak of these two."""
    for name in ("a.png", "a.mp4", "a.txt", "a.html"):
        with app.test_request_context():
            response = send_stored_file(_stored(docs, name), name, disposition="inline")
            assert "form-action 'none'; base-uri 'none'" in response.headers["Content-Security-Policy"]
            response.close()


@pytest.mark.parametrize(
    "value", ["Basic \xff\xfe", "Bearer", "Bearer ", "Digest x=y", "bearer a.b.c", "\x80", "Basic !"]
)
def test_no_authorization_header_is_an_error_of_ours(app, value):
    """It is a token or it is none."""
    response = app.test_client().get("/storage/docs", headers={"Authorization": value})

    assert response.status_code in {403, 404}


@pytest.mark.parametrize("stamp", [2**62, -(10**12), 2**40])
def test_a_date_that_no_calendar_has_spoils_no_listing(tmp_path_factory, stamp):
    """The disk holds what it is told to; tmpfs is asked here, which takes more dates than ext4."""
    folder = f"/dev/shm/flask-storage-{os.getpid()}"
    storage = LocalFSStorage(folder, create=True)
    try:
        storage.write("odd.txt", b"1")
        storage.write("even.txt", b"1")
        os.utime(storage.root / "odd.txt", (0, stamp))

        names = [entry.name for entry in storage.list() if entry.last_modified is not None]
        year = storage.stat("odd.txt").last_modified.year

        assert names == ["even.txt", "odd.txt"]
        assert year in {1, 9999, 1969, 1970} or year > 2000
    finally:
        storage.delete_many(["odd.txt", "even.txt"])
        storage.root.rmdir()


@pytest.mark.parametrize(
    "attribute",
    [
        {"metadata": {"\x1b]0;PWN\x07k": "v"}},
        {"metadata": {"k": "\x1b[31m"}},
        {"metadata": {"k": "\ud800"}},
        {"content_type": "text/html\r\nSet-Cookie: a=b"},
    ],
)
def test_an_attribute_that_we_could_not_have_written_is_not_believed(docs, attribute):
    """Whoever writes to the disk steers no terminal and no header."""
    docs.write("a.txt", b"1")
    os.setxattr(docs.root / "a.txt", "user.flask_storage", json.dumps(attribute).encode())

    info = docs.stat("a.txt")

    assert (info.content_type, dict(info.metadata)) == (None, {})


def test_names_of_accents_upon_accents_take_no_time(app):
    """Normalizing them is quadratic, so they are cut before; 90,000 of them took half a minute."""
    name = "a" + "\u0301\u0323" * 90_000

    assert len(safe_filename(name).encode()) <= 255
    assert len(safe_path(f"{name}/{name}").encode()) <= 1024


@pytest.mark.parametrize("text", [" " * 100_000, "1" * 100_000, "1" * 50_000 + " " * 50_000, "\t" * 100_000 + "-"])
def test_ranges_of_a_hundred_thousand_blanks_take_no_time(app, docs, text):
    """An expression that goes back and forth over them took 22 seconds."""
    docs.write("a.txt", b"0123456789")

    response = app.test_client().get("/m/a.txt", headers={"Range": f"bytes={text}x"})

    assert response.status_code == 416


@pytest.mark.parametrize(("path", "body"), [("/uploads", "[" * 2000), ("/share/a", "[" * 60_000), ("/uploads", "5")])
def test_brackets_upon_brackets_are_a_bad_request(tmp_path, path, body):
    """The example app reads no such JSON."""
    app = create_app(instance_path=str(tmp_path), config={"TESTING": True, "PROPAGATE_EXCEPTIONS": False})
    client = app.test_client()
    page = client.get("/").text
    token = page.partition('name="csrf-token" content="')[2].partition('"')[0]

    headers = {"X-CSRF-Token": token, "Content-Type": "application/json"}
    response = client.post(path, data=body, headers=headers)

    assert response.status_code == 400


@pytest.mark.parametrize("host", ["..", ".", "a..b", "x" * 100])
def test_a_host_that_is_none_is_a_bad_request(tmp_path, host):
    """Also for the page that says so."""
    app = create_app(instance_path=str(tmp_path))

    response = app.test_client().get("/", headers={"Host": host})

    assert response.status_code in {200, 400}


_APP = """
from flask import Flask
from flask_storage import Storage
app = Flask(__name__)
app.config["STORAGE_PROFILES"] = {"docs": "local:files?create=true"}
Storage(app)
"""


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("storage put one.txt p 2>&-", 0),
        ("storage get p - 2>&- >/dev/null", 0),
        ("storage delete --recursive folder <&-", 0),
        ("storage get p missing/", 2),
    ],
)
def test_closed_streams_and_missing_folders_make_no_traceback(tmp_path, command, status):
    """A shell may have closed any of them."""
    (tmp_path / "app.py").write_text(_APP)
    (tmp_path / "one.txt").write_bytes(b"1")
    storage = LocalFSStorage(tmp_path / "files", create=True)
    storage.write("p", b"1")
    storage.write("folder/a", b"1")

    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m flask --app app {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert storage.exists("p")


def _stored(storage, name):
    storage.write(name, b"content")
    return storage
