"""Hostile input that was once a problem, or could be one."""

import json
import os
import subprocess
import sys
from datetime import timedelta

import flask
import pytest

from example_app import create_app
from flask_storage import LocalFSStorage, Storage, send_stored_file
from flask_storage.metadata_encoding import decode_metadata
from flask_storage.paths import safe_filename, safe_path

HOUR = timedelta(hours=1)
SECRET = "s" * 32


@pytest.fixture
def app(tmp_path):
    """An app with one local profile whose files are public."""
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
    "content_type",
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
def test_a_malformed_content_type_is_served_as_a_download(app, docs, content_type):
    """Browsers use the last type of a list, so a stored list of types could run scripts."""
    with app.test_request_context():
        response = send_stored_file(_stored(docs, "v.bin"), "v.bin", disposition="inline", content_type=content_type)

        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["Content-Disposition"].startswith("attachment")
        assert response.headers["Content-Security-Policy"].endswith("; sandbox")
        response.close()


@pytest.mark.parametrize("content_type", ['text/plain; charset="utf-8"', "text/plain;charset=utf-8;format=flowed"])
def test_a_content_type_with_valid_parameters_is_served_unchanged(app, docs, content_type):
    """Quoted or not."""
    with app.test_request_context():
        response = send_stored_file(_stored(docs, "v"), "v", content_type=content_type)

        assert response.headers["Content-Type"] == content_type
        response.close()


def test_inline_responses_forbid_forms_and_base_elements(app, docs):
    """`default-src` does not cover these two."""
    for name in ("a.png", "a.mp4", "a.txt", "a.html"):
        with app.test_request_context():
            response = send_stored_file(_stored(docs, name), name, disposition="inline")
            assert "form-action 'none'; base-uri 'none'" in response.headers["Content-Security-Policy"]
            response.close()


@pytest.mark.parametrize(
    "value", ["Basic \xff\xfe", "Bearer", "Bearer ", "Digest x=y", "bearer a.b.c", "\x80", "Basic !"]
)
def test_a_malformed_authorization_header_is_no_server_error(app, value):
    """It is a link token or it is ignored."""
    response = app.test_client().get("/storage/docs", headers={"Authorization": value})

    assert response.status_code in {403, 404}


@pytest.mark.parametrize("stamp", [2**62, -(10**12), 2**40])
def test_a_time_stamp_out_of_range_does_not_break_listings(tmp_path_factory, stamp):
    """On tmpfs, which stores a wider range of time stamps than ext4."""
    directory = f"/dev/shm/flask-storage-{os.getpid()}"
    storage = LocalFSStorage(directory, create=True)
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
def test_invalid_stored_attributes_are_ignored(docs, attribute):
    """Another program that writes to the disk cannot inject terminal controls or headers."""
    docs.write("a.txt", b"1")
    os.setxattr(docs.root / "a.txt", "user.flask_storage", json.dumps(attribute).encode())

    info = docs.stat("a.txt")

    assert (info.content_type, dict(info.metadata)) == (None, {})


def test_names_with_many_combining_marks_are_truncated_before_normalization(app):
    """Normalization takes quadratic time: 90,000 marks took half a minute."""
    name = "a" + "\u0301\u0323" * 90_000

    assert len(safe_filename(name).encode()) <= 255
    assert len(safe_path(f"{name}/{name}").encode()) <= 1024


@pytest.mark.parametrize("text", [" " * 100_000, "1" * 100_000, "1" * 50_000 + " " * 50_000, "\t" * 100_000 + "-"])
def test_a_long_malformed_range_header_is_rejected_without_backtracking(app, docs, text):
    """A regular expression that backtracks took 22 seconds."""
    docs.write("a.txt", b"0123456789")

    response = app.test_client().get("/m/a.txt", headers={"Range": f"bytes={text}x"})

    assert response.status_code == 416


@pytest.mark.parametrize(("path", "body"), [("/uploads", "[" * 2000), ("/share/a", "[" * 60_000), ("/uploads", "5")])
def test_deeply_nested_json_is_a_bad_request(tmp_path, path, body):
    """In the example app."""
    app = create_app(instance_path=str(tmp_path), config={"TESTING": True, "PROPAGATE_EXCEPTIONS": False})
    client = app.test_client()
    page = client.get("/").text
    token = page.partition('name="csrf-token" content="')[2].partition('"')[0]

    headers = {"X-CSRF-Token": token, "Content-Type": "application/json"}
    response = client.post(path, data=body, headers=headers)

    assert response.status_code == 400


@pytest.mark.parametrize("host", ["..", ".", "a..b", "x" * 100])
def test_an_invalid_host_header_is_no_server_error(tmp_path, host):
    """Nor is the error page for it."""
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
        ("storage delete --recursive directory <&-", 0),
        ("storage get p missing/", 2),
    ],
)
def test_closed_streams_and_missing_directories_cause_no_traceback(tmp_path, command, status):
    """A shell can close each of the standard streams."""
    (tmp_path / "app.py").write_text(_APP)
    (tmp_path / "one.txt").write_bytes(b"1")
    storage = LocalFSStorage(tmp_path / "files", create=True)
    storage.write("p", b"1")
    storage.write("directory/a", b"1")

    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m flask --app app {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert storage.exists("p")


@pytest.mark.parametrize(
    "value",
    [
        "=?UTF-8?B?a?=",
        "=?nonsense?B?YQ==?=",
        "=?idna?B?/w==?=",
        "=?punycode?B?/w==?=",
        "=?undefined?Q?a?=",
        "=?\0?B?YQ==?=",
    ],
    ids=ascii,
)
def test_stored_metadata_that_cannot_be_decoded_is_returned_unchanged(value):
    """Another program chose the encoding. An error would end the listing of a whole bucket."""
    assert decode_metadata(value) == value


def _stored(storage, name):
    storage.write(name, b"content")
    return storage
