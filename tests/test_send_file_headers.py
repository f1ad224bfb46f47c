"""The headers of a stored file: content type, file name, and security policy."""

import mimetypes

import pytest
from flask import Flask, make_response, session
from werkzeug.http import parse_options_header

from flask_storage import MemoryStorage, send_stored_file

SAFE_TYPES = {
    "image/png": "img-src 'self'",
    "image/jpeg": "img-src 'self'",
    "image/gif": "img-src 'self'",
    "image/webp": "img-src 'self'",
    "image/avif": "img-src 'self'",
    "text/plain; charset=utf-8": "sandbox",
    "audio/mpeg": "media-src 'self'",
    "video/mp4": "media-src 'self'",
    "Video/WebM": "media-src 'self'",
    "application/pdf": "object-src 'self'",
}
UNSAFE_TYPES = [
    "image/svg+xml",
    "text/html",
    "text/html; charset=utf-8",
    "TEXT/HTML",
    "application/xhtml+xml",
    "text/xml",
    "application/xml",
    "text/javascript",
    "application/octet-stream",
    "multipart/x-mixed-replace; boundary=x",
    "video/x+xml",
    "video/html",
    "audio/foo+xml",
    "audio/svg+xml; codecs=x",
    "application/pdf+xml",
]
NAMES = {
    'say "hi" 100%.txt': "filename=\"say _hi_ 100_.txt\"; filename*=UTF-8''say%20%22hi%22%20100%25.txt",
    "a\r\nSet-Cookie: b=c.txt": 'filename="a__Set-Cookie: b=c.txt"',
    "👩\u200d🚀.png": "filename=\"___.png\"; filename*=UTF-8''%F0%9F%91%A9%E2%80%8D%F0%9F%9A%80.png",
    "invoice\u202egpj.exe": 'filename="invoice_gpj.exe"',
    "../../etc/Übung; filename=x\\.txt": (
        "filename=\".._.._etc_Ubung; filename=x_.txt\"; filename*=UTF-8''.._.._etc_%C3%9Cbung%3B%20filename%3Dx%5C.txt"
    ),
}


def sent(path="file", *, config=None, base_url="http://localhost", stored=None, **arguments):
    """Return the response to a request for a file with these arguments."""
    app = Flask(__name__)
    app.testing = True
    app.config.update(config or {})
    storage = MemoryStorage()
    storage.write(path, b"content", **(stored or {}))
    app.add_url_rule("/", view_func=lambda: send_stored_file(storage, path, **arguments), endpoint="file")
    return app.test_client().get("/", base_url=base_url)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("disposition", ["attachment", "inline"])
@pytest.mark.parametrize("content_type", [*SAFE_TYPES, *UNSAFE_TYPES])
def test_only_types_that_cannot_run_scripts_are_shown_inline(content_type, disposition, name):
    """For every type, disposition and unusual name there is one well-formed header each."""
    shown = disposition == "inline" and content_type in SAFE_TYPES

    response = sent(content_type=content_type, disposition=disposition, filename=name)

    assert response.status_code == 200
    assert response.headers.getlist("Content-Type") == [content_type]
    assert response.headers["Content-Disposition"] == f"{'inline' if shown else 'attachment'}; {NAMES[name]}"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "script-src" not in policy
    assert (
        (SAFE_TYPES[content_type] in policy)
        if shown
        else policy == "default-src 'none'; form-action 'none'; base-uri 'none'; sandbox"
    )
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-site"
    assert "Set-Cookie" not in response.headers
    assert all(value.isprintable() and value.isascii() for _, value in response.headers)


@pytest.mark.parametrize(
    ("name", "parsed_name"),
    [
        ("plain.txt", "plain.txt"),
        ("größe.txt", "größe.txt"),
        ("日本語.png", "日本語.png"),
        ("a'b;c=d.txt", "a'b;c=d.txt"),
        ("نیم\u200cفصل.pdf", "نیم\u200cفصل.pdf"),
        ("\ud800.txt", "_.txt"),
        ("a\u2028b\x00c\x7f.txt", "a_b_c_.txt"),
        ("AC/DC.mp3", "AC_DC.mp3"),
        ("folder/", "folder_"),
        ("x" * 300, "x" * 300),
    ],
)
def test_the_file_name_can_be_parsed_from_the_header(name, parsed_name):
    """It is complete, except for characters that could deceive the user."""
    response = sent(filename=name)

    kind, options = parse_options_header(response.headers["Content-Disposition"])
    assert (kind, options["filename"]) == ("attachment", parsed_name)


def test_the_default_file_name_is_the_last_segment_of_the_path():
    """The directory is not disclosed."""
    response = sent("private/folder/report.pdf")

    assert response.headers["Content-Disposition"] == 'attachment; filename="report.pdf"'


@pytest.mark.parametrize("disposition", ["INLINE", "form-data", "inline\r\nX: y", ""])
def test_any_other_disposition_is_an_attachment(disposition):
    """Only `inline` shows a file."""
    response = sent("a.png", disposition=disposition)

    assert response.headers["Content-Disposition"] == 'attachment; filename="a.png"'


# -- content types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "stored", "argument", "expected"),
    [
        ("a.png", "image/gif", "image/webp", "image/webp"),
        ("a.png", "image/gif", None, "image/gif"),
        ("a.png", None, None, "image/png"),
        ("a.PNG", None, None, "image/png"),
        ("a.tar.gz", None, None, "application/gzip"),
        ("a.html", None, None, "text/html; charset=utf-8"),
        ("a.svg", None, None, "image/svg+xml"),
        ("a.unknown", None, None, "application/octet-stream"),
        ("png", None, None, "image/png"),
        ("README", None, None, "application/octet-stream"),
        ("folder.png/README", None, None, "application/octet-stream"),
        ("a.png", "nonsense", None, "image/png"),
        ("a.png", "image/gif", "image/webp\r\nX-Evil: 1", "image/gif"),
        ("a.png", None, "text/html, image/png", "image/png"),
        ("a.png", None, "téxt/plain", "image/png"),
        ("a.txt", None, "text/plain;charset=iso-8859-1", "text/plain;charset=iso-8859-1"),
    ],
)
def test_the_content_type_is_given_or_stored_or_guessed_from_the_name(path, stored, argument, expected):
    """In this order; invalid types are ignored."""
    app = Flask(__name__)
    storage = MemoryStorage()
    storage.write(path, b"1")
    object.__setattr__(
        storage._files[path], "headers", {"content_type": stored}
    )  # as another program may have stored it
    app.add_url_rule("/", view_func=lambda: send_stored_file(storage, path, content_type=argument), endpoint="file")

    response = app.test_client().get("/")

    assert response.status_code == 200
    assert response.headers["Content-Type"] == expected
    assert "X-Evil" not in response.headers


def test_guessed_content_types_do_not_depend_on_the_system(monkeypatch):
    """A wrong entry in /etc/mime.types has no effect."""
    monkeypatch.setattr(mimetypes, "guess_type", lambda *args: ("text/evil", None))
    mimetypes.add_type("text/evil", ".png")
    try:
        response = sent("a.png")
    finally:
        mimetypes.init([])

    assert response.headers["Content-Type"] == "image/png"


def test_the_content_encoding_is_given_or_stored():
    """The browser decompresses content that was compressed before it was stored."""
    stored = sent("a.css", stored={"content_encoding": "gzip"})
    both = sent("a.css", stored={"content_encoding": "gzip"}, content_encoding="br")
    hostile = sent("a.css", content_encoding="gzip\r\nX: y")

    assert stored.headers["Content-Encoding"] == "gzip"
    assert both.headers["Content-Encoding"] == "br"
    assert "Content-Encoding" not in hostile.headers


# -- embedding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("external", "server_name", "base_url", "policy"),
    [
        (None, None, "http://example.com", "same-site"),
        ("https://example.com", None, "https://example.com", "same-site"),
        ("https://files.example.com", None, "https://www.example.com", "cross-origin"),
        ("https://alice.github.io", None, "https://bob.github.io", "cross-origin"),
        ("https://files.co.uk", "app.co.uk", "https://app.co.uk", "cross-origin"),
        ("https://files.example.net", None, "https://example.com", "cross-origin"),
        ("https://files.example.net", "example.com:8080", "https://example.com:8080", "cross-origin"),
        ("https://EXAMPLE.com:444/files", "example.com", "https://example.com", "same-site"),
        ("http://10.0.0.1", None, "http://11.0.0.1", "cross-origin"),
        ("http://[::1]:5000", None, "http://[::1]:6000", "same-site"),
        ("http://localhost:5000", None, "http://127.0.0.1:5000", "cross-origin"),
    ],
)
def test_pages_of_another_site_may_embed_files_when_links_have_another_host(external, server_name, base_url, policy):
    """The app's own pages can embed its files; those of other sites cannot, as long as links have the app's host."""
    config = {"STORAGE_EXTERNAL_URL": external, "SERVER_NAME": server_name}

    response = sent(config=config, base_url=base_url)

    assert response.headers["Cross-Origin-Resource-Policy"] == policy


def test_an_odd_host_header_is_no_error():
    """It is untrusted input."""
    app = Flask(__name__)
    app.config["STORAGE_EXTERNAL_URL"] = "https://example.com"
    storage = MemoryStorage()
    storage.write("file", b"content")

    with app.test_request_context(headers={"Host": "[::1"}):
        response = send_stored_file(storage, "file")

    assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    response.close()


# -- cookies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), ({"Range": "bytes=0-1"}, 206), ({"If-Modified-Since": "+"}, 304)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_changed_session_does_not_affect_the_response(method, headers, status):
    """It sets no cookie, and the response does not vary by one."""
    app = Flask(__name__)
    app.secret_key = "a secret for tests"
    storage = MemoryStorage()
    storage.write("file", b"content")

    @app.before_request
    def change_session():
        session["seen"] = True

    @app.after_request
    def vary(response):
        response.vary.add("Origin")
        return response

    @app.get("/")
    def file():
        response = send_stored_file(storage, "file")
        response.set_cookie("other", "value")
        return response

    app.add_url_rule("/page", view_func=lambda: make_response("page"), endpoint="page")
    if "If-Modified-Since" in headers:
        headers = {"If-Modified-Since": app.test_client().get("/").headers["Last-Modified"]}

    response = app.test_client().open("/", method=method, headers=headers)

    assert response.status_code == (200 if (method, status) == ("HEAD", 206) else status)
    assert "Set-Cookie" not in response.headers
    assert response.headers.getlist("Vary") == ["Origin"]
    # Other pages do set the cookie, so that the test can fail.
    assert "Set-Cookie" in app.test_client().get("/page").headers
