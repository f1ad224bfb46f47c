"""Signed links over HTTP: who may do what, what an upload must be, and what is told to whom."""

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
    StorageBackend,
    UnsupportedOperationError,
    errors,
)
from flask_storage.files import FileAdapter
from flask_storage.signals import link_used
from flask_storage.tokens import derive_key
from flask_storage.types import LINK_CONSTRAINTS, Capabilities

HOUR = timedelta(hours=1)
SECRET = "0123456789abcdef0123456789abcdef"
CONTENT = b"0123456789"


class Place(MemoryStorage):
    """A storage that fails where a test wants it to, and counts what is opened."""

    opened = 0
    fails: dict[str, Exception] = {}  # noqa: RUF012 -- replaced, never changed

    def _fail(self, verb):
        if verb in self.fails:
            raise self.fails[verb]

    def _open_reader(self, path):
        self._fail("read")
        self.opened += 1
        return super()._open_reader(path)

    def _open_writer(self, path, options):
        self._fail("write")
        self.opened += 1
        return super()._open_writer(path, options)

    def _store(self, *args):
        self._fail("publish")
        super()._store(*args)

    def _delete(self, path):
        self._fail("delete")
        super()._delete(path)


class TypelessPlace(Place):
    """Keeps nothing beside the content, like a disk without extended attributes."""

    @property
    def capabilities(self):  # type: ignore[override]  # a property where the wall has an attribute
        """Take neither headers nor metadata."""
        able = super().capabilities
        return Capabilities(exclusive=True, links=able.links, link_combinations=True, link_constraints=LINK_CONSTRAINTS)


class NoLinks(StorageBackend):
    def _list(self, path, recursive):
        return []

    def _delete(self, path):
        pass


def make_app(tmp_path, **config):
    """Make an app with four profiles, and files in *tmp_path*."""
    app = Flask(__name__, instance_path=str(tmp_path / "instance"))
    app.testing = True
    app.config.update(
        SECRET_KEY=SECRET,
        STORAGE_PROFILES=[
            (Place, {"name": "docs"}),
            (LocalFSStorage, {"name": "disk", "root": str(tmp_path / "disk"), "create": True}),
            (TypelessPlace, {"name": "typeless"}),
            (NoLinks, {"name": "nolinks"}),
        ],
    )
    app.config.update(config)
    Storage(app)
    return app


@pytest.fixture
def app(tmp_path):
    """An app with four profiles."""
    return make_app(tmp_path)


@pytest.fixture
def docs(app):
    """Its first profile, with one file."""
    docs = app.extensions["storage"]["docs"]
    docs.write("a/file.txt", CONTENT)
    return docs


@pytest.fixture
def client(app, docs):
    """A client of that app."""
    return app.test_client()


@pytest.fixture
def link(app):
    """Makes a link relative to the app's root."""

    def link(operation, path="a/file.txt", expire=HOUR, *, profile="docs", **terms):
        with app.test_request_context():
            return app.extensions["storage"][profile].link_to(path, operation, expire, **terms)

    return link


def forge(profile="docs", *, secret=SECRET, algorithm="HS512", headers=None, **claims):
    """A token signed by hand: whatever the view gets to see, it may see."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"key": "a/file.txt", "op": "dur", "aud": profile, "iat": now, "exp": now + 3600, **claims}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, derive_key(secret.encode(), profile), algorithm=algorithm, headers=headers)


# -- the methods ------------------------------------------------------------------------------------------------------


def test_a_download_link_downloads(client, link):
    """GET sends the file, as an attachment, under the path's last part."""
    response = client.get(link("download"))

    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Content-Disposition"] == 'attachment; filename="file.txt"'
    assert response.headers["Cache-Control"] == "private, no-cache"


def test_what_the_link_signs_is_what_the_browser_is_told(client, link):
    """Name, type, disposition, encoding and caching of a download come from the token."""
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


def test_what_is_only_written_into_the_url_is_ignored(client, link):
    """Nothing unsigned is believed: not a name, not a type, not a disposition."""
    url = link("download")
    expected = list(client.get(url).headers)

    response = client.get(
        url + "&output_path=evil.html&content_type=text/html&disposition=inline&key=b&op=u&filename=%0d%0aX:y"
    )

    assert list(response.headers) == expected


def test_head_describes_and_opens_nothing(client, docs, link):
    """HEAD has the headers of GET and no data stream is opened."""
    url = link("download")
    expected = list(client.get(url).headers)
    docs.opened = 0

    response = client.head(url)

    assert (response.status_code, response.data) == (200, b"")
    assert list(response.headers) == expected
    assert docs.opened == 0


def test_a_range_of_a_link_is_partial_content(client, link):
    """Videos can be wound through a link."""
    response = client.get(link("download"), headers={"Range": "bytes=2-4"})

    assert (response.status_code, response.data) == (206, b"234")


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_link_stores_the_raw_body(app, client, link, method, profile):
    """The body is the file, whatever type the client says it has; the answer is a plain OK."""
    url = link("upload", "new/größe.bin", profile=profile, content_type="application/x-thing")

    response = client.open(url, method=method, data=b"raw & body", content_type="application/x-www-form-urlencoded")

    assert (response.status_code, response.data) == (200, b"OK")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    stored = app.extensions["storage"][profile]
    assert stored.read("new/größe.bin") == b"raw & body"
    assert stored.stat("new/größe.bin").content_type in {"application/x-thing", None}


def test_an_upload_keeps_the_signed_headers(client, docs, link):
    """Type, encoding and caching are stored as signed, not as the client says."""
    url = link("upload", content_type="text/css", content_encoding="gzip", cache_control="public, max-age=5")

    client.put(
        url, data=b"x", content_type="text/html", headers={"Content-Encoding": "br", "Cache-Control": "no-store"}
    )

    info = docs.stat("a/file.txt")
    assert (info.content_type, info.content_encoding, info.cache_control) == ("text/css", "gzip", "public, max-age=5")


def test_a_place_that_keeps_no_types_signs_none(app, client, link):
    """Whoever asks for one learns at once that it would be lost; without one an upload is stored."""
    for lost in ("content_type", "content_encoding", "cache_control"):
        with pytest.raises(UnsupportedOperationError, match="cannot keep a content type"):
            link("upload", "a.css", profile="typeless", **{lost: "text/css"})

    response = client.put(link("upload", "a.css", profile="typeless"), data=b"x")

    assert response.status_code == 200
    assert app.extensions["storage"]["typeless"].read("a.css") == b"x"


def test_a_remove_link_deletes_and_deletes_again(client, docs, link):
    """DELETE of what is already gone is as good as done."""
    url = link("remove")

    first, second = client.delete(url), client.delete(url)

    assert (first.status_code, first.data) == (second.status_code, second.data) == (200, b"OK")
    assert not docs.exists("a/file.txt")


def test_options_names_the_methods(client, link):
    """OPTIONS is Flask's own answer; PATCH is not offered."""
    response = client.options(link("download"))

    assert response.status_code == 200
    assert set(response.allow) == {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"}
    assert "Access-Control-Allow-Origin" not in response.headers
    assert client.patch(link("download")).status_code == 405


def test_a_token_travels_in_a_header_too(client, link):
    """A program can keep the token out of URLs and their logs."""
    path, _, token = link("download").partition("?token=")

    assert client.get(path, headers={"Authorization": f"Bearer {token}"}).data == CONTENT
    assert client.get(path, headers={"Authorization": f"bearer {token}"}).data == CONTENT
    assert client.get(path, headers={"Authorization": "Bearer "}).status_code == 404
    assert client.get(path, headers={"Authorization": "Basic dXNlcjpwYXNz"}).status_code == 404
    assert client.get(f"{path}?token=x", headers={"Authorization": f"Bearer {token}"}).status_code == 403


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?token=", "?other=x", "?token"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
def test_without_a_token_there_is_nothing(client, method, query):
    """The URL alone means nothing: 404."""
    assert client.open(f"/storage/docs{query}", method=method).status_code == 404


@pytest.mark.parametrize("profile", ["unknown", "nolinks", "..", "docs%00", "%F0%9F%98%80"])
def test_a_profile_without_links_is_not_found(client, profile):
    """Neither a profile that does not exist nor one whose storage signs its own links."""
    assert client.get(f"/storage/{profile}?token=x").status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_app_without_a_secret_has_no_links(tmp_path, method):
    """Without a key no link can be good, and asking is no error of the app."""
    app = make_app(tmp_path, SECRET_KEY=None)

    assert app.test_client().open("/storage/docs?token=a.b.c", method=method).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("key", ["../secret", "a/../b", "a\x00b", "a\\b", "", "a//b", "x" * 1025])
def test_a_signed_path_that_is_none_is_a_bad_request(client, method, key):
    """Even a token signed with the right key names no file outside the storage."""
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
def test_a_directory_is_not_a_file(app, client, link, method, path, status):
    """A folder is neither sent nor replaced nor deleted, and what is in it stays."""
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
def test_a_link_for_an_address_works_from_there_only(client, link, network, address, status):
    """The address is the one the server sees, and IPv4 inside IPv6 is the same address."""
    url = link("dur", ip=network)

    response = client.get(url, environ_overrides={"REMOTE_ADDR": address}, headers={"X-Forwarded-For": "203.0.113.7"})

    assert response.status_code == status


def test_an_address_that_is_none_lets_nobody_in(client):
    """A token signed by hand with nonsense grants nothing."""
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
    ("method", "verb"), [("GET", "read"), ("PUT", "write"), ("POST", "publish"), ("DELETE", "delete")]
)
def test_trouble_of_the_storage_has_a_status_of_its_own(client, docs, link, method, verb, error, status):
    """Whatever happens, in plain text, without the storage's words, and what was stored before stays."""
    status = status or (404 if method == "GET" else 403)
    url = link("dur")
    docs.fails = {verb: error}

    response = client.open(url, method=method, data=b"new")

    docs.fails = {}
    assert response.status_code == status
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert b"secret" not in response.data
    assert len(response.data) < 100
    assert docs.read("a/file.txt") == CONTENT


@pytest.mark.parametrize("verb", ["write", "publish"])
def test_content_that_arrived_wrong_is_the_clients_to_send_again(client, docs, link, verb):
    """What the storage itself finds wrong with the bytes is a bad request, too."""
    docs.fails = {verb: errors.IntegrityError("secret-text")}

    assert client.put(link("upload"), data=b"new").status_code == 400


def test_content_that_is_damaged_in_the_storage_is_no_fault_of_who_downloads_it(client, docs, link):
    """It stays an error of the app, for the log."""
    docs.fails = {"read": errors.IntegrityError("damaged")}

    with pytest.raises(errors.IntegrityError):
        client.get(link("download"))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_error_pages_of_the_app_do_not_reach_clients_of_links(app, client, method):
    """Programs follow links too: their errors are plain text, short, uncached."""
    app.register_error_handler(403, lambda error: ("<h1>page</h1>", 403))

    response = client.open("/storage/docs?token=a.b.c", method=method)

    assert response.text == "The link is not valid, or no longer.\n"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


# -- what an upload must be -------------------------------------------------------------------------------------------


def put(app, url, body, *, method="PUT", **environ):
    """Send a body whose headers and reality may differ; return status and text."""
    builder = EnvironBuilder(path=url, method=method, base_url="http://localhost")
    given = builder.get_environ()
    given["wsgi.input"] = body if hasattr(body, "read") else io.BytesIO(body)
    given.update(environ)
    for name in [name for name, value in given.items() if value is None]:
        del given[name]
    chunks, status, _ = run_wsgi_app(app, given)
    return int(status[:3]), b"".join(chunks)


class Breaking:
    """A body whose connection breaks."""

    def __init__(self, content, error=None):
        self._content = io.BytesIO(content)
        self._error = error

    def read(self, size=-1):
        """Return what there is, and then the end or the error."""
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
def test_a_body_that_is_cut_publishes_nothing(app, link, profile, content, error):
    """Fewer bytes than announced, however the server shows it: 400, and the old content stays."""
    place = app.extensions["storage"][profile]
    place.write("a/file.txt", CONTENT)
    body = Breaking(content, error)

    status, text = put(app, link("upload", profile=profile), body, CONTENT_LENGTH="1000")

    assert (status, text) == (400, b"The body broke off.\n")
    assert place.read("a/file.txt") == CONTENT
    assert [entry.name for entry in place.list()] == ["a/file.txt"]


def test_a_programs_own_failure_while_reading_is_no_cut_body(app, docs, link):
    """What is neither the connection nor the storage is an error of the app; nothing is published either."""
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
    """411: without a length nobody could tell a cut body from a whole one."""
    docs.opened = 0

    status, _ = put(app, link("upload"), CONTENT, method=method, **environ)

    assert status == 411
    assert docs.opened == 0


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "Multipart/Mixed", "multipart/form-data"])
def test_a_form_is_not_stored_as_a_file(client, docs, link, method, content_type):
    """A multipart body would store its envelope with the content: 415."""
    response = client.open(link("upload"), method=method, data=b"--x\r\n\r\n1\r\n--x--", content_type=content_type)

    assert response.status_code == 415
    assert docs.read("a/file.txt") == CONTENT


def test_no_more_than_the_announced_length_is_read(app, docs, link):
    """What comes after the body belongs to the next request."""
    rest = io.BytesIO(b"12345GET / HTTP/1.1")

    status, _ = put(app, link("upload"), rest, CONTENT_LENGTH="5")

    assert status == 200
    assert docs.read("a/file.txt") == b"12345"
    assert rest.read() == b"GET / HTTP/1.1"


def test_an_empty_body_is_an_empty_file(app, docs, link):
    """Zero bytes, announced as zero, are a file."""
    assert put(app, link("upload"), b"", CONTENT_LENGTH="0")[0] == 200
    assert docs.read("a/file.txt") == b""


@pytest.mark.parametrize(
    ("terms", "app_limit", "length", "status"),
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
def test_a_signed_size_beats_the_apps_limit(app, link, profile, terms, app_limit, length, status):
    """The limit of the token holds, or without one MAX_CONTENT_LENGTH; equal is allowed."""
    app.config["MAX_CONTENT_LENGTH"] = app_limit
    place = app.extensions["storage"][profile]
    body = io.BytesIO(bytes(length))

    code, _ = put(app, link("upload", "sized", profile=profile, **terms), body, CONTENT_LENGTH=str(length))

    assert code == status
    assert place.exists("sized") == (status == 200)
    assert (body.tell() == length) == (status == 200 or length == 0)


@pytest.mark.parametrize("profile", ["docs", "disk"])
def test_a_checksum_must_be_right(app, client, link, profile):
    """Content with another digest than the signed one is not published."""
    place = app.extensions["storage"][profile]
    url = link("upload", "sum", profile=profile, checksum="sha256:" + hashlib.sha256(b"right").hexdigest())

    assert client.put(url, data=b"wrong").status_code == 400
    assert not place.exists("sum")
    assert client.put(url, data=b"right").status_code == 200
    assert place.read("sum") == b"right"


def test_a_checksum_nobody_can_compute_is_a_bad_request(client, docs):
    """A token signed by hand may name an algorithm that does not exist."""
    response = client.put(f"/storage/docs?token={forge(sum='crc77:00')}", data=b"x")

    assert response.status_code == 400
    assert docs.read("a/file.txt") == CONTENT


@pytest.mark.parametrize("profile", ["docs", "disk"])
def test_an_exclusive_upload_replaces_nothing(app, client, link, profile):
    """The first one is stored, the second is a conflict, refused before its body is read."""
    place = app.extensions["storage"][profile]
    url = link("upload", "new", profile=profile, exclusive=True)
    unread = io.BytesIO(b"second")

    assert client.put(url, data=b"first").status_code == 200
    assert put(app, url, unread, CONTENT_LENGTH="6")[0] == 409
    assert unread.tell() == 0
    assert place.read("new") == b"first"


def test_an_exclusive_upload_that_loses_the_race_is_a_conflict(app, docs, link):
    """Whoever publishes first wins, however the other one began."""

    class Rival:
        def read(self, size):
            """Let another upload be quicker."""
            docs.write("new", b"rival")
            return b"x" * size

    status, _ = put(app, link("upload", "new", exclusive=True), Rival(), CONTENT_LENGTH="3")

    assert status == 409
    assert docs.read("new") == b"rival"


def test_forms_and_files_of_the_request_are_never_parsed(app, client, link):
    """The body streams: Flask's parsers, which would buffer it, are not asked."""
    touched = []

    class Watched(Request):
        def _load_form_data(self):
            touched.append(self.path)

    app.request_class = Watched

    client.post(link("upload"), data=b"a=b", content_type="application/x-www-form-urlencoded")

    assert touched == []


# -- telling others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("GET", ShareLinkOperation.download),
        ("PUT", ShareLinkOperation.upload),
        ("POST", ShareLinkOperation.upload),
        ("DELETE", ShareLinkOperation.remove),
    ],
)
def test_a_used_link_is_signalled(client, docs, link, method, operation):
    """Listeners hear which link was honoured; a refusal and HEAD are no use."""
    heard = []

    def listen(storage, **facts):
        heard.append((storage, facts))

    with link_used.connected_to(listen):
        client.head(link("dur"))
        client.open("/storage/docs?token=x", method=method)
        client.open(link("dur"), method=method, data=b"x")

    [(storage, facts)] = heard
    assert storage is docs
    assert (facts["path"], facts["operation"]) == ("a/file.txt", operation)
    assert facts["token_data"].allow_download


def test_tokens_are_never_logged(client, link, caplog):
    """The log says what was done and refused, and holds nothing that would open a file."""
    caplog.set_level(logging.DEBUG, "flask_storage")
    urls = [link("dur"), link("download"), "/storage/docs?token=aaaa.bbbb.cccc"]

    for url in urls:
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            client.open(url, method=method, data=b"x")

    assert "a link was honoured: upload of 'a/file.txt' in 'docs'" in caplog.text
    assert "a link was refused: 403" in caplog.text
    for url in urls:
        assert url.rpartition("=")[2] not in caplog.text
        assert url.rpartition(".")[2] not in caplog.text


# -- views of one's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixin_first", [True, False])
def test_a_view_of_ones_own_is_told_of_success(app, docs, mixin_first):
    """The hooks of the mixin run after the deed, and not when it fails; the order of the bases does not matter."""
    told = []

    class Hooks(LinkViewMixin):
        def get_storage_backend(self):
            return docs

        def on_upload_success(self, token_data):
            told.append(("upload", *token_data))

        def on_delete_success(self, token_data):
            told.append(("delete", token_data.path))

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
    assert told == [("upload", "b", everything), ("delete", "b")]


def test_a_view_may_grant_by_hand(app, docs):
    """A session may stand for the token: a pair of path and operations is enough."""

    class ByHand(LinkViewMixin, MethodView):
        def get_storage_backend(self):
            return docs

        def get_token_data(self, storage):
            return InternalLinkTokenData("a/file.txt", ShareLinkOperation.as_operation("du"))

    app.add_url_rule("/hand", view_func=ByHand.as_view("hand"))
    client = app.test_client()

    assert client.get("/hand").data == CONTENT
    assert client.put("/hand", data=b"new").status_code == 200
    assert client.delete("/hand").status_code == 403


def test_a_view_may_carry_the_token_elsewhere(app, docs):
    """The token may be part of the path."""

    class InPath(LinkViewMixin, MethodView):
        def get_storage_backend(self):
            return docs

        def get_request_token(self):
            return (request.view_args or {})["token"]

    app.add_url_rule("/p/<token>", view_func=InPath.as_view("in_path"))
    token = docs.create_link_token(path="a/file.txt", operation="d", expire=HOUR)

    assert app.test_client().get(f"/p/{token}").data == CONTENT


def test_a_view_that_names_no_storage_says_so(app):
    """Forgetting the one hook that is needed is a mistake of the program."""

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
def test_a_hook_may_refuse_in_its_own_words(app, docs, raised, status, text):
    """`abort` in a hook is answered in plain text; a response or a redirect is passed on as it is."""

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
    """An app that serves two profiles to everybody."""
    profiles = {
        "media": {"backend": "local", "root": str(tmp_path / "m"), "create": True, "base_url": "/media", "serve": True},
        "pages": {"backend": "memory", "base_url": "/pages/", "serve": True},
    }
    app = make_app(tmp_path, STORAGE_PROFILES=profiles)
    app.extensions["storage"]["media"].write("a/ü b.png", CONTENT)
    app.extensions["storage"]["pages"].write("a.html", CONTENT, cache_control="public, max-age=60")
    return app


def test_public_files_are_served_where_url_says(public):
    """`url()` of a served profile leads to the file, shown where that is safe."""
    with public.test_request_context():
        url = public.extensions["storage"]["media"].url("a/ü b.png")

    response = public.test_client().get(url)

    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Content-Disposition"].startswith("inline; ")
    assert response.headers["Cache-Control"] == "public, no-cache"
    assert public.test_client().get(url, headers={"Range": "bytes=0-1"}).status_code == 206
    assert public.test_client().head(url).headers["Content-Length"] == "10"


def test_a_public_file_keeps_its_own_caching_and_never_runs(public):
    """What was said when the file was stored is passed on, and a page is offered for saving only."""
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
def test_the_public_route_reads_only_and_only_files(public, method, path, status):
    """Nothing is listed, nothing is written, nothing outside is read."""
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
def test_links_leave_no_cookie_whatever_the_app_does(app, docs, link, profile, method, headers, operation, status):
    """Answers to links hold no one's session, may be kept by no one else, and HEAD and errors open no file."""
    place = app.extensions["storage"][profile]
    place.write("a/file.txt", CONTENT)
    docs.opened = 0
    path = "missing" if operation == "missing" else "a/file.txt"
    url = link("d" if operation == "missing" else operation, path, profile=profile)

    @app.before_request
    def touch():
        session["seen"] = True

    response = app.test_client().open(url, method=method, headers=headers, data=b"x" if method in "PUTPOST" else None)

    assert response.status_code == status
    assert "Set-Cookie" not in response.headers
    assert "Vary" not in response.headers
    assert method != "HEAD" or response.data == b""
    if profile == "docs" and (method == "HEAD" or status in {403, 415}):
        assert docs.opened == 0


def test_a_file_that_is_kept_open_by_nobody(app, docs, link):
    """A reader is closed after the last byte, after a refusal and after a 304."""
    readers = []

    class Noted(FileAdapter):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            readers.append(self)

    docs._open_reader = lambda path: Noted(io.BytesIO(CONTENT), "r", info=docs._stat(path))
    client = app.test_client()

    for headers in ({}, {"If-None-Match": "*"}, {"If-Match": '"x"'}, {"Range": "bytes=99-"}):
        client.get(link("d"), headers=headers).close()

    assert len(readers) == 4
    assert all(reader.closed for reader in readers)
