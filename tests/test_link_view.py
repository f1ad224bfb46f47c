"""Signed links over HTTP: authorization, checks of uploads, signals and hooks."""

import hashlib
import io
import logging
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from flask import Flask, Request, Response, abort, redirect, request, session
from flask.views import MethodView
from werkzeug.routing import RequestRedirect
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flask_storage import (
    InternalLinkTokenData,
    LinkViewMixin,
    LocalFSStorage,
    MemoryStorage,
    ShareLinkOperation,
    Storage,
    UnsupportedOperationError,
    errors,
)
from flask_storage.files import FileAdapter
from flask_storage.signals import link_used
from flask_storage.tokens import derive_key
from flask_storage.types import Capabilities

HOUR = timedelta(hours=1)
SECRET = "0123456789abcdef0123456789abcdef"
CONTENT = b"0123456789"


class FailingMemoryStorage(MemoryStorage):
    """A storage that fails in the operations that a test selects, and counts opened files."""

    opened = 0
    fails: dict[str, Exception] = {}  # noqa: RUF012 -- replaced, never changed

    def _fail(self, operation_name):
        if operation_name in self.fails:
            raise self.fails[operation_name]

    def _open_reader(self, path):
        self._fail("read")
        self.opened += 1
        return super()._open_reader(path)

    def _open_writer(self, path, options):
        self._fail("write")
        self.opened += 1
        return super()._open_writer(path, options)

    def _store(self, *args):
        self._fail("store")
        super()._store(*args)

    def _delete(self, path):
        self._fail("delete")
        super()._delete(path)


class TypelessStorage(FailingMemoryStorage):
    """Stores content only, like a file system without extended attributes."""

    @property
    def capabilities(self):  # type: ignore[override]  # a property, where the base class has an attribute
        """Support neither headers nor metadata."""
        return Capabilities(exclusive=True)


def make_app(tmp_path, **config):
    """Return an app with three profiles, and files in *tmp_path*."""
    app = Flask(__name__, instance_path=str(tmp_path / "instance"))
    app.testing = True
    app.config.update(
        SECRET_KEY=SECRET,
        STORAGE_PROFILES=[
            (FailingMemoryStorage, {"name": "docs"}),
            (LocalFSStorage, {"name": "disk", "root": str(tmp_path / "disk"), "create": True}),
            (TypelessStorage, {"name": "typeless"}),
        ],
    )
    app.config.update(config)
    Storage(app)
    return app


@pytest.fixture
def app(tmp_path):
    """An app with three profiles."""
    return make_app(tmp_path)


@pytest.fixture
def docs(app):
    """The app's first profile, with one file."""
    docs = app.extensions["storage"]["docs"]
    docs.write("a/file.txt", CONTENT)
    return docs


@pytest.fixture
def client(app, docs):
    """A test client of the app."""
    return app.test_client()


@pytest.fixture
def link(app):
    """A function that creates a link, relative to the app's root."""

    def link(operation, path="a/file.txt", expire=HOUR, *, profile="docs", **constraints):
        with app.test_request_context():
            return app.extensions["storage"][profile].link_to(path, operation, expire, **constraints)

    return link


def forge(profile="docs", *, secret=SECRET, algorithm="HS512", headers=None, **claims):
    """Return a token with any claims, signed with the app's key."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"key": "a/file.txt", "op": "dur", "aud": profile, "iat": now, "exp": now + 3600, **claims}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, derive_key(secret.encode(), profile), algorithm=algorithm, headers=headers)


# -- methods ----------------------------------------------------------------------------------------------------------


def test_a_download_link_downloads(client, link):
    """GET sends the file, as an attachment, with the last segment of the path as its name."""
    response = client.get(link("download"))

    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Content-Disposition"] == 'attachment; filename="file.txt"'
    assert response.headers["Cache-Control"] == "private, no-cache"


def test_a_download_has_the_signed_headers(client, link):
    """Name, type, disposition, encoding and caching come from the token."""
    url = link(
        "download",
        output_path="Übersicht.txt",
        content_type="text/plain; charset=iso-8859-15",
        disposition="inline",
        content_encoding="identity",
        cache_control="private, max-age=60",
    )

    response = client.get(url)

    assert response.headers["Content-Type"] == "text/plain; charset=iso-8859-15"
    assert response.headers["Content-Disposition"].startswith('inline; filename="Ubersicht.txt"; filename*=')
    assert response.headers["Content-Encoding"] == "identity"
    assert response.headers["Cache-Control"] == "private, max-age=60"


def test_unsigned_query_arguments_are_ignored(client, link):
    """Name, type and disposition are taken from the token only."""
    url = link("download")
    expected = list(client.get(url).headers)

    response = client.get(
        url + "&output_path=evil.html&content_type=text/html&disposition=inline&key=b&op=u&filename=%0d%0aX:y"
    )

    assert list(response.headers) == expected


def test_head_opens_no_file(client, docs, link):
    """It has the headers of GET."""
    url = link("download")
    expected = list(client.get(url).headers)
    docs.opened = 0

    response = client.head(url)

    assert (response.status_code, response.data) == (200, b"")
    assert list(response.headers) == expected
    assert docs.opened == 0


def test_a_link_supports_ranges(client, link):
    """A browser can seek in a video."""
    response = client.get(link("download"), headers={"Range": "bytes=2-4"})

    assert (response.status_code, response.data) == (206, b"234")


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_link_stores_the_raw_body(app, client, link, method, profile):
    """Whatever content type the client sends; the response is a plain OK."""
    url = link("upload", "new/größe.bin", profile=profile, content_type="application/x-thing")

    response = client.open(url, method=method, data=b"raw & body", content_type="application/x-www-form-urlencoded")

    assert (response.status_code, response.data) == (200, b"OK")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    stored = app.extensions["storage"][profile]
    assert stored.read("new/größe.bin") == b"raw & body"
    assert stored.stat("new/größe.bin").content_type in {"application/x-thing", None}


def test_an_upload_is_stored_with_the_signed_headers(client, docs, link):
    """Type, encoding and caching; not those that the client sends."""
    url = link("upload", content_type="text/css", content_encoding="gzip", cache_control="public, max-age=5")

    client.put(
        url, data=b"x", content_type="text/html", headers={"Content-Encoding": "gzip", "Cache-Control": "no-store"}
    )

    info = docs.stat("a/file.txt")
    assert (info.content_type, info.content_encoding, info.cache_control) == ("text/css", "gzip", "public, max-age=5")


def test_a_storage_without_content_types_refuses_one_that_an_upload_would_lose(app, client, link):
    """When the link is issued. The type that the name implies is accepted, and so is everything that may be dropped."""
    typeless = app.extensions["storage"]["typeless"]
    for argument in ("content_type", "content_encoding", "cache_control"):
        for issue in (
            lambda **given: link("upload", "a.css", profile="typeless", **given),
            lambda **given: typeless.links_to(["a.css"], "u", timedelta(hours=1), **given),
            lambda **given: typeless.upload_request("a.css", timedelta(hours=1), **given),
            lambda **given: typeless.create_link_token(path="a.css", operation="u", expire=timedelta(hours=1), **given),
        ):
            with pytest.raises(UnsupportedOperationError, match=f"cannot store {argument} with a.css"):
                issue(**{argument: "text/x-mine"})
    implied = link("upload", "a.css", profile="typeless", content_type="text/css")
    typeless.unsupported_headers = "drop"
    dropped = link("upload", "b.css", profile="typeless", content_type="text/x-mine", cache_control="no-store")

    responses = [client.put(url, data=b"x") for url in (implied, dropped)]

    assert [response.status_code for response in responses] == [200, 200]
    assert typeless.read("a.css") == typeless.read("b.css") == b"x"


def test_deleting_through_a_link_is_idempotent(client, docs, link):
    """DELETE of a missing file succeeds."""
    url = link("remove")

    first, second = client.delete(url), client.delete(url)

    assert (first.status_code, first.data) == (second.status_code, second.data) == (200, b"OK")
    assert not docs.exists("a/file.txt")


def test_options_lists_the_methods(client, link):
    """Flask handles OPTIONS; PATCH is not allowed."""
    response = client.options(link("download"))

    assert response.status_code == 200
    assert set(response.allow) == {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"}
    assert "Access-Control-Allow-Origin" not in response.headers
    assert client.patch(link("download")).status_code == 405


def test_a_token_can_be_sent_in_the_authorization_header(client, link):
    """So a script can keep it out of URLs and logs."""
    path, _, token = link("download").partition("?token=")

    assert client.get(path, headers={"Authorization": f"Bearer {token}"}).data == CONTENT
    assert client.get(path, headers={"Authorization": f"bearer {token}"}).data == CONTENT
    assert client.get(path, headers={"Authorization": "Bearer "}).status_code == 404
    assert client.get(path, headers={"Authorization": "Basic dXNlcjpwYXNz"}).status_code == 404
    assert client.get(f"{path}?token=x", headers={"Authorization": f"Bearer {token}"}).status_code == 403


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?token=", "?other=x", "?token"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
def test_a_request_without_a_token_is_not_found(client, method, query):
    """The URL alone grants nothing."""
    assert client.open(f"/storage/docs{query}", method=method).status_code == 404


@pytest.mark.parametrize("profile", ["unknown", "..", "docs%00", "%F0%9F%98%80"])
def test_an_unknown_profile_is_not_found(client, profile):
    """Whatever the token."""
    assert client.get(f"/storage/{profile}?token=x").status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_app_without_a_secret_key_serves_no_links(tmp_path, method):
    """It responds with 404, not with an error of the app."""
    app = make_app(tmp_path, SECRET_KEY=None)

    assert app.test_client().open("/storage/docs?token=a.b.c", method=method).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("key", ["../secret", "a/../b", "a\x00b", "a\\b", "", "a//b", "x" * 1025])
def test_an_invalid_signed_path_is_a_bad_request(client, method, key):
    """Even a valid signature does not grant access outside the storage."""
    url = f"/storage/docs?token={forge(key=key)}"

    assert client.open(url, method=method, data=b"x").status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "folder", 404),
        ("HEAD", "folder", 404),
        ("PUT", "folder", 403),
        ("DELETE", "folder", 403),
        ("GET", "missing", 404),
        ("HEAD", "missing", 404),
        ("GET", "folder/missing", 404),
        ("PUT", "folder/file/below", 403),
    ],
)
def test_a_link_to_a_directory_is_refused(app, client, link, method, path, status):
    """It is neither sent nor replaced nor deleted, and its content stays."""
    disk = app.extensions["storage"]["disk"]
    disk.write("folder/file", CONTENT)

    response = client.open(link("dur", path, profile="disk"), method=method, data=b"x")

    assert response.status_code == status
    assert disk.read("folder/file") == CONTENT


@pytest.mark.parametrize(
    ("network", "address", "status"),
    [
        ("203.0.113.7", "203.0.113.7", 200),
        ("203.0.113.0/24", "203.0.113.200", 200),
        ("203.0.113.0/24", "203.0.114.1", 403),
        ("203.0.113.0/24", "::ffff:203.0.113.1", 200),
        ("2001:db8::/32", "2001:db8::1", 200),
        ("2001:db8::/32", "203.0.113.1", 403),
        ("203.0.113.0/24", "", 403),
        ("203.0.113.0/24", "unix:", 403),
    ],
)
def test_a_link_for_a_network_is_refused_from_other_addresses(client, link, network, address, status):
    """The client address is the one that the server sees; an IPv4-mapped IPv6 address is the same address."""
    url = link("dur", ip=network)

    response = client.get(url, environ_overrides={"REMOTE_ADDR": address}, headers={"X-Forwarded-For": "203.0.113.7"})

    assert response.status_code == status


def test_an_invalid_signed_network_grants_nothing(client):
    """Such a token must be forged with the app's key."""
    assert client.get(f"/storage/docs?token={forge(ip='anywhere')}").status_code == 403


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.PermissionDeniedError("secret-text"), 403),
        (errors.StorageUnavailableError("secret-text"), 503),
        (errors.ThrottledError("secret-text"), 503),
        (errors.StorageTimeoutError("secret-text"), 504),
        (errors.StorageFullError("secret-text"), 507),
        (errors.NotAFileError("secret-text"), None),
    ],
)
@pytest.mark.parametrize(
    ("method", "operation_name"), [("GET", "read"), ("PUT", "write"), ("POST", "store"), ("DELETE", "delete")]
)
def test_each_storage_error_has_its_own_status(client, docs, link, method, operation_name, error, status):
    """The text does not contain the storage's message, and the stored content stays."""
    status = status or (404 if method == "GET" else 403)
    url = link("dur")
    docs.fails = {operation_name: error}

    response = client.open(url, method=method, data=b"new")

    docs.fails = {}
    assert response.status_code == status
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert b"secret" not in response.data
    assert len(response.data) < 100
    assert docs.read("a/file.txt") == CONTENT


@pytest.mark.parametrize("operation_name", ["write", "store"])
def test_an_integrity_error_of_an_upload_is_a_bad_request(client, docs, link, operation_name):
    """The storage rejected the content, and the client can send it again."""
    docs.fails = {operation_name: errors.IntegrityError("secret-text")}

    assert client.put(link("upload"), data=b"new").status_code == 400


def test_an_integrity_error_of_a_download_is_an_error_of_the_app(client, docs, link):
    """It is logged, and not a bad request."""
    docs.fails = {"read": errors.IntegrityError("damaged")}

    with pytest.raises(errors.IntegrityError):
        client.get(link("download"))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_link_errors_are_plain_text_despite_error_pages_of_the_app(app, client, method):
    """Scripts use links too: the errors are short and not cached."""
    app.register_error_handler(403, lambda error: ("<h1>page</h1>", 403))

    response = client.open("/storage/docs?token=a.b.c", method=method)

    assert response.text == "The link is not valid. Check that it was copied completely.\n"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


# -- checks of uploads ------------------------------------------------------------------------------------------------


def put(app, url, body, *, method="PUT", **environ):
    """Send a body that may not match its headers; return status and text."""
    builder = EnvironBuilder(path=url, method=method, base_url="http://localhost")
    request_environ = builder.get_environ()
    request_environ["wsgi.input"] = body if hasattr(body, "read") else io.BytesIO(body)
    request_environ.update(environ)
    for name in [name for name, value in request_environ.items() if value is None]:
        del request_environ[name]
    chunks, status, _ = run_wsgi_app(app, request_environ)
    return int(status[:3]), b"".join(chunks)


class Breaking:
    """A body whose connection breaks off."""

    def __init__(self, content, error=None):
        self._content = io.BytesIO(content)
        self._error = error

    def read(self, size=-1):
        """Return the content, then an empty chunk or the error."""
        chunk = self._content.read(size)
        if not chunk and self._error is not None:
            raise self._error
        return chunk


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"half", None),
        (b"", None),
        (b"half", ConnectionResetError()),
        (b"half", TimeoutError()),
        (b"half", OSError("unexpected end of file while reading request")),
    ],
)
def test_a_truncated_body_is_not_stored(app, link, profile, content, error):
    """However the server reports it: 400, and the old content stays."""
    storage = app.extensions["storage"][profile]
    storage.write("a/file.txt", CONTENT)
    body = Breaking(content, error)

    status, text = put(app, link("upload", profile=profile), body, CONTENT_LENGTH="1000")

    assert (status, text) == (400, b"The body is shorter than announced.\n")
    assert storage.read("a/file.txt") == CONTENT
    assert [entry.name for entry in storage.list()] == ["a/file.txt"]


def test_another_error_while_reading_the_body_is_an_error_of_the_app(app, docs, link):
    """It is not reported as a truncated body; nothing is stored either."""
    with pytest.raises(ZeroDivisionError):
        put(app, link("upload"), Breaking(b"half", ZeroDivisionError()), CONTENT_LENGTH="1000")

    assert docs.read("a/file.txt") == CONTENT


@pytest.mark.parametrize(
    "environ",
    [
        {"CONTENT_LENGTH": None},
        {"CONTENT_LENGTH": ""},
        {"CONTENT_LENGTH": "-1"},
        {"CONTENT_LENGTH": "ten"},
        {"CONTENT_LENGTH": "1_0"},
        {"CONTENT_LENGTH": "9" * 5000},
        {"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True},
        {"CONTENT_LENGTH": "10", "HTTP_TRANSFER_ENCODING": "chunked"},
        {"CONTENT_LENGTH": "10", "HTTP_TRANSFER_ENCODING": "identity"},
    ],
)
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_body_of_unknown_length_is_refused(app, docs, link, method, environ):
    """411: without a length a truncated body cannot be detected."""
    docs.opened = 0

    status, _ = put(app, link("upload"), CONTENT, method=method, **environ)

    assert status == 411
    assert docs.opened == 0


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "Multipart/Mixed", "multipart/form-data"])
def test_a_multipart_form_is_refused(client, docs, link, method, content_type):
    """It would be stored with its boundaries: 415."""
    response = client.open(link("upload"), method=method, data=b"--x\r\n\r\n1\r\n--x--", content_type=content_type)

    assert response.status_code == 415
    assert docs.read("a/file.txt") == CONTENT


def test_no_more_than_the_announced_length_is_read(app, docs, link):
    """The bytes after the body belong to the next request."""
    stream = io.BytesIO(b"12345GET / HTTP/1.1")

    status, _ = put(app, link("upload"), stream, CONTENT_LENGTH="5")

    assert status == 200
    assert docs.read("a/file.txt") == b"12345"
    assert stream.read() == b"GET / HTTP/1.1"


def test_an_empty_body_is_an_empty_file(app, docs, link):
    """A length of zero is valid."""
    assert put(app, link("upload"), b"", CONTENT_LENGTH="0")[0] == 200
    assert docs.read("a/file.txt") == b""


@pytest.mark.parametrize(
    ("constraints", "app_limit", "length", "status"),
    [
        ({}, None, 1000, 200),
        ({}, 10, 10, 200),
        ({}, 10, 11, 413),
        ({"max_size": 10}, None, 10, 200),
        ({"max_size": 10}, None, 11, 413),
        ({"max_size": 10}, None, 0, 200),
        ({"max_size": 0}, None, 1, 413),
        ({"max_size": 100}, 10, 50, 200),
        ({"max_size": 10}, 100, 50, 413),
        ({"size": 10}, None, 10, 200),
        ({"size": 10}, None, 9, 400),
        ({"size": 10}, None, 11, 413),
        ({"size": 0}, None, 0, 200),
        ({"size": 50}, 10, 50, 200),
        ({"size": 50, "max_size": 10}, None, 50, 413),
    ],
)
@pytest.mark.parametrize("profile", ["docs", "disk"])
def test_a_signed_size_takes_precedence_over_the_apps_limit(app, link, profile, constraints, app_limit, length, status):
    """Without one MAX_CONTENT_LENGTH applies; a size equal to the limit is allowed."""
    app.config["MAX_CONTENT_LENGTH"] = app_limit
    storage = app.extensions["storage"][profile]
    body = io.BytesIO(bytes(length))

    code, _ = put(app, link("upload", "sized", profile=profile, **constraints), body, CONTENT_LENGTH=str(length))

    assert code == status
    assert storage.exists("sized") == (status == 200)
    assert (body.tell() == length) == (status == 200 or length == 0)


@pytest.mark.parametrize("profile", ["docs", "disk"])
def test_an_upload_with_a_wrong_checksum_is_not_stored(app, client, link, profile):
    """The signed checksum is compared with that of the content."""
    storage = app.extensions["storage"][profile]
    url = link("upload", "sum", profile=profile, checksum="sha256:" + hashlib.sha256(b"right").hexdigest())

    assert client.put(url, data=b"wrong").status_code == 400
    assert not storage.exists("sum")
    assert client.put(url, data=b"right").status_code == 200
    assert storage.read("sum") == b"right"


def test_an_unknown_checksum_algorithm_is_a_bad_request(client, docs):
    """Such a token must be forged with the app's key."""
    response = client.put(f"/storage/docs?token={forge(sum='crc77:00')}", data=b"x")

    assert response.status_code == 400
    assert docs.read("a/file.txt") == CONTENT


@pytest.mark.parametrize("profile", ["docs", "disk"])
def test_an_exclusive_upload_replaces_no_file(app, client, link, profile):
    """The second upload is a conflict, refused before its body is read."""
    storage = app.extensions["storage"][profile]
    url = link("upload", "new", profile=profile, exclusive=True)
    body = io.BytesIO(b"second")

    assert client.put(url, data=b"first").status_code == 200
    assert put(app, url, body, CONTENT_LENGTH="6")[0] == 409
    assert body.tell() == 0
    assert storage.read("new") == b"first"


def test_an_exclusive_upload_that_loses_the_race_is_a_conflict(app, docs, link):
    """Another upload is stored while the body is read."""

    class Rival:
        def read(self, size):
            """Let another upload finish first."""
            docs.write("new", b"rival")
            return b"x" * size

    status, _ = put(app, link("upload", "new", exclusive=True), Rival(), CONTENT_LENGTH="3")

    assert status == 409
    assert docs.read("new") == b"rival"


def test_the_body_is_never_parsed_as_a_form(app, client, link):
    """Flask's form parser would buffer it."""
    parsed = []

    class RecordingRequest(Request):
        def _load_form_data(self):
            parsed.append(self.path)

    app.request_class = RecordingRequest

    client.post(link("upload"), data=b"a=b", content_type="application/x-www-form-urlencoded")

    assert parsed == []


# -- signals and logging ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("GET", ShareLinkOperation.download),
        ("PUT", ShareLinkOperation.upload),
        ("POST", ShareLinkOperation.upload),
        ("DELETE", ShareLinkOperation.remove),
    ],
)
def test_link_used_is_sent_for_each_used_link(client, docs, link, method, operation):
    """Not for refused links, and not for HEAD."""
    signals = []

    def listen(storage, **facts):
        signals.append((storage, facts))

    with link_used.connected_to(listen):
        client.head(link("dur"))
        client.open("/storage/docs?token=x", method=method)
        client.open(link("dur"), method=method, data=b"x")

    [(storage, facts)] = signals
    assert storage is docs
    assert (facts["path"], facts["operation"]) == ("a/file.txt", operation)
    assert facts["token_data"].allow_download


def test_tokens_are_never_logged(client, link, caplog):
    """The log names operation, path and refusal."""
    caplog.set_level(logging.DEBUG, "flask_storage")
    urls = [link("dur"), link("download"), "/storage/docs?token=aaaa.bbbb.cccc"]

    for url in urls:
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            client.open(url, method=method, data=b"x")

    assert "link used: upload of 'a/file.txt' in 'docs'" in caplog.text
    assert "link refused: 403" in caplog.text
    for url in urls:
        assert url.rpartition("=")[2] not in caplog.text
        assert url.rpartition(".")[2] not in caplog.text


# -- custom views -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixin_first", [True, False])
def test_hooks_are_called_after_success(app, docs, mixin_first):
    """And not after a failure; the order of the base classes does not matter."""
    calls = []

    class Hooks(LinkViewMixin):
        def get_storage_backend(self):
            return docs

        def on_upload_success(self, token_data):
            calls.append(("upload", *token_data))

        def on_delete_success(self, token_data):
            calls.append(("delete", token_data.path))

    class MixinFirst(Hooks, MethodView): ...

    class MixinLast(MethodView, Hooks): ...

    view = MixinFirst if mixin_first else MixinLast
    app.add_url_rule("/own/<name>", view_func=view.as_view("own"))
    client = app.test_client()
    everything = ShareLinkOperation.as_operation("dur")
    url = f"/own/x?token={docs.create_link_token(path='b', operation='dur', expire=HOUR, max_size=3)}"

    assert client.get(url).status_code == 404
    assert client.put(url, data=b"four").status_code == 413
    assert client.put(url, data=b"new").status_code == 200
    assert client.delete(url).status_code == 200
    assert calls == [("upload", "b", everything), ("delete", "b")]


def test_a_view_can_authorize_without_a_token(app, docs):
    """`get_token_data` may return a pair of path and operations, for example from the session."""

    class SessionView(LinkViewMixin, MethodView):
        def get_storage_backend(self):
            return docs

        def get_token_data(self, storage):
            return InternalLinkTokenData("a/file.txt", ShareLinkOperation.as_operation("du"))

    app.add_url_rule("/hand", view_func=SessionView.as_view("hand"))
    client = app.test_client()

    assert client.get("/hand").data == CONTENT
    assert client.put("/hand", data=b"new").status_code == 200
    assert client.delete("/hand").status_code == 403


def test_a_view_can_read_the_token_from_the_path(app, docs):
    """With `get_request_token`."""

    class PathTokenView(LinkViewMixin, MethodView):
        def get_storage_backend(self):
            return docs

        def get_request_token(self):
            return (request.view_args or {})["token"]

    app.add_url_rule("/p/<token>", view_func=PathTokenView.as_view("in_path"))
    token = docs.create_link_token(path="a/file.txt", operation="d", expire=HOUR)

    assert app.test_client().get(f"/p/{token}").data == CONTENT


def test_a_view_without_a_storage_raises_an_error(app):
    """The message names the method to override."""

    class Own(LinkViewMixin, MethodView): ...

    app.add_url_rule("/own", view_func=Own.as_view("own"))

    with pytest.raises(NotImplementedError, match="get_storage_backend"):
        app.test_client().get("/own?token=x")


@pytest.mark.parametrize(
    ("raised", "status", "text"),
    [
        (lambda: abort(401, "Log in first."), 401, "Log in first.\n"),
        (lambda: abort(Response("teapot", 418)), 418, "teapot"),
        (lambda: abort(redirect("/login")), 302, None),
        (lambda: (_ for _ in ()).throw(RequestRedirect("http://localhost/x")), 308, None),
    ],
)
def test_a_hook_can_abort_with_its_own_response(app, docs, raised, status, text):
    """`abort` becomes plain text; a response or a redirect is returned unchanged."""

    class Own(LinkViewMixin, MethodView):
        def get_storage_backend(self):
            return docs

        def get_token_data(self, storage):
            raised()
            raise AssertionError("abort did not raise")

    app.add_url_rule("/own", view_func=Own.as_view("own"))

    response = app.test_client().get("/own")

    assert response.status_code == status
    assert text is None or response.text == text


# -- public files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def public(tmp_path):
    """An app that serves two profiles publicly."""
    profiles = {
        "media": {"backend": "local", "root": str(tmp_path / "m"), "create": True, "base_url": "/media", "serve": True},
        "pages": {"backend": "memory", "base_url": "/pages/", "serve": True},
    }
    app = make_app(tmp_path, STORAGE_PROFILES=profiles)
    app.extensions["storage"]["media"].write("a/ü b.png", CONTENT)
    app.extensions["storage"]["pages"].write("a.html", CONTENT, cache_control="public, max-age=60")
    return app


def test_public_files_are_served_at_their_url(public):
    """`url()` returns it; files of a safe type are shown inline."""
    with public.test_request_context():
        url = public.extensions["storage"]["media"].url("a/ü b.png")

    response = public.test_client().get(url)

    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Content-Disposition"].startswith("inline; ")
    assert response.headers["Cache-Control"] == "public, no-cache"
    assert public.test_client().get(url, headers={"Range": "bytes=0-1"}).status_code == 206
    assert public.test_client().head(url).headers["Content-Length"] == "10"


def test_a_public_file_has_its_stored_cache_control(public):
    """An HTML page is an attachment."""
    response = public.test_client().get("/pages/a.html")

    assert response.headers["Cache-Control"] == "public, max-age=60"
    assert response.headers["Content-Disposition"] == 'attachment; filename="a.html"'
    assert (
        response.headers["Content-Security-Policy"]
        == "default-src 'none'; form-action 'none'; base-uri 'none'; sandbox"
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/media/missing", 404),
        ("GET", "/media/a", 404),
        ("GET", "/media/", 404),
        ("GET", "/media/..%2fm%2fa", 400),
        ("PUT", "/media/a/x", 405),
        ("POST", "/media/a/x", 405),
        ("DELETE", "/media/a/x", 405),
    ],
)
def test_the_public_route_only_reads_files(public, method, path, status):
    """Nothing is listed or written, and no path leads out of the storage."""
    assert public.test_client().open(path, method=method, data=b"x").status_code == status


# -- cookies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize(
    ("method", "headers", "operation", "status"),
    [
        ("GET", {}, "d", 200),
        ("HEAD", {}, "d", 200),
        ("GET", {"Range": "bytes=0-1"}, "d", 206),
        ("GET", {"Range": "bytes=99-"}, "d", 416),
        ("HEAD", {"If-None-Match": "*"}, "d", 304),
        ("GET", {"If-None-Match": "*"}, "d", 304),
        ("GET", {"If-Match": '"x"'}, "d", 412),
        ("GET", {}, "missing", 404),
        ("HEAD", {}, "missing", 404),
        ("GET", {}, "u", 403),
        ("HEAD", {}, "u", 403),
        ("PUT", {}, "u", 200),
        ("POST", {}, "u", 200),
        ("PUT", {"Content-Type": "multipart/form-data"}, "u", 415),
        ("DELETE", {}, "r", 200),
        ("DELETE", {}, "d", 403),
    ],
)
def test_responses_to_links_set_no_cookie(app, docs, link, profile, method, headers, operation, status):
    """Even when the app changes the session; HEAD and errors open no file."""
    storage = app.extensions["storage"][profile]
    storage.write("a/file.txt", CONTENT)
    docs.opened = 0
    path = "missing" if operation == "missing" else "a/file.txt"
    url = link("d" if operation == "missing" else operation, path, profile=profile)

    @app.before_request
    def change_session():
        session["seen"] = True

    response = app.test_client().open(url, method=method, headers=headers, data=b"x" if method in "PUTPOST" else None)

    assert response.status_code == status
    assert "Set-Cookie" not in response.headers
    assert "Vary" not in response.headers
    assert method != "HEAD" or response.data == b""
    if profile == "docs" and (method == "HEAD" or status in {403, 415}):
        assert docs.opened == 0


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/storage/docs", "OPTIONS", 200),
        ("/storage/docs", "PATCH", 405),
        ("/storage/docs", "PROPFIND", 405),
        ("/own", "OPTIONS", 200),
        ("/own", "PATCH", 405),
        ("/media/a.txt", "OPTIONS", 200),
        ("/media/a.txt", "PUT", 405),
    ],
)
def test_responses_that_flask_creates_for_a_link_set_no_cookie(tmp_path, path, method, status):
    """To OPTIONS and to other methods, for the built-in views and a custom one. Pages of the app set theirs."""
    profiles = {"docs": "memory:", "media": {"backend": "memory", "base_url": "/media", "serve": True}}
    app = make_app(tmp_path, STORAGE_PROFILES=profiles)

    class Own(LinkViewMixin, MethodView): ...

    app.add_url_rule("/own", view_func=Own.as_view("own"))
    app.add_url_rule("/page", view_func=lambda: "page", methods=["GET"], endpoint="page")

    @app.before_request
    def change_session():
        session["seen"] = True

    @app.after_request
    def add_header(response):
        response.headers["X-App"] = "1"
        return response

    response = app.test_client().open(path, method=method)
    page = app.test_client().open("/page", method=method if status == 200 else "PATCH")

    assert (response.status_code, page.status_code) == (status, status)
    assert response.headers["Allow"]
    assert response.headers["X-App"] == "1"
    assert "Set-Cookie" not in response.headers
    assert "Set-Cookie" in page.headers


def test_every_reader_is_closed(app, docs, link):
    """After the last byte, after a refusal and after a 304."""
    readers = []

    class RecordingFile(FileAdapter):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            readers.append(self)

    docs._open_reader = lambda path: RecordingFile(io.BytesIO(CONTENT), "r", info=docs._stat(path))
    client = app.test_client()

    for headers in ({}, {"If-None-Match": "*"}, {"If-Match": '"x"'}, {"Range": "bytes=99-"}):
        client.get(link("d"), headers=headers).close()

    assert len(readers) == 4
    assert all(reader.closed for reader in readers)
