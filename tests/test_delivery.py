"""A stored file as an HTTP response: conditions, errors, what is opened, read and closed."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import http_date
from werkzeug.test import EnvironBuilder, run_wsgi_app
from werkzeug.wsgi import FileWrapper

from flask_storage import LocalFSStorage, MemoryStorage, errors, send_stored_file
from flask_storage.files import FileAdapter
from flask_storage.http.send_file import CHUNK_BYTES
from flask_storage.types import FileInfo

CONTENT = bytes(range(256)) * 4


class RecordingFile(FileAdapter):
    def __init__(self, storage, *args, **options):
        super().__init__(*args, **options)
        self.storage = storage

    def _read(self, size):
        data = super()._read(size)
        self.storage.reads.append(len(data))
        return data

    def _release(self):
        self.storage.closed += 1
        super()._release()


class WatchedStorage(MemoryStorage):
    """Counts what is opened, read and closed."""

    opened = closed = 0
    knows_info = True

    def __init__(self, name="watched", **options):
        super().__init__(name, **options)
        self.reads = []

    def _open_reader(self, path):
        with super()._open_reader(path) as reader:
            content = io.BytesIO(reader.read())
        self.opened += 1
        return RecordingFile(self, content, "r", info=reader.info if self.knows_info else None)


class BrokenStorage(MemoryStorage):
    """Raises one error from everything."""

    error: Exception

    def _open_reader(self, path):
        raise self.error

    def _stat(self, path):
        raise self.error


@pytest.fixture
def storage():
    """A watched storage with one file."""
    storage = WatchedStorage()
    storage.write("a/b.bin", CONTENT)
    return storage


@pytest.fixture
def app(storage):
    """An app that sends the files of that storage."""
    return make_app(storage)


def make_app(storage, **arguments):
    """Make an app that sends the files of *storage* with these arguments."""
    app = Flask(__name__)

    @app.route("/<path:path>", methods=["GET", "POST"])
    def file(path):
        return send_stored_file(storage, path, **arguments)

    return app


def quoted(storage):
    """Return the file's tag as HTTP writes it."""
    return f'"{storage.stat("a/b.bin").etag}"'


def date(storage, seconds=0):
    """Return the file's date as HTTP writes it, some seconds off."""
    return http_date(storage.stat("a/b.bin").last_modified.datetime + timedelta(seconds=seconds))


# -- whole files ------------------------------------------------------------------------------------------------------


def test_a_file_is_sent_whole_with_its_length_and_validators(app, storage):
    """GET answers with every byte, the length, both validators and the offer of ranges."""
    response = app.test_client().get("/a/b.bin")

    assert response.status_code == 200
    assert response.data == CONTENT
    assert response.headers["Content-Length"] == str(len(CONTENT))
    assert response.headers["ETag"] == quoted(storage)
    assert response.headers["Last-Modified"] == date(storage)
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Cache-Control"] == "private, no-cache"


def test_an_empty_file_is_sent_with_length_zero(app, storage):
    """A file without content is a file, and its body is one empty chunk: some servers wait for a first one."""
    storage.write("empty", b"")

    response = app.test_client().get("/empty")
    body, status = run(app, "/empty")

    assert (response.status_code, response.data, response.headers["Content-Length"]) == (200, b"", "0")
    assert (status, list(body)) == ("200 OK", [b""])
    assert storage.closed == storage.opened == 2


def test_head_says_what_get_says_and_opens_nothing(app, storage):
    """HEAD is answered from what the storage knows of the file."""
    client = app.test_client()
    expected = client.get("/a/b.bin").headers
    storage.opened = 0

    response = client.head("/a/b.bin", headers={"Range": "bytes=0-1"})

    assert response.status_code == 200
    assert response.data == b""
    assert list(response.headers) == list(expected)
    assert storage.opened == 0


def test_no_more_than_a_chunk_is_read_at_a_time(app, storage):
    """A large file goes out in chunks, and is closed after the last one."""
    storage.write("large", bytes(3 * CHUNK_BYTES + 1))

    response = app.test_client().get("/large")

    assert len(response.data) == 3 * CHUNK_BYTES + 1
    assert storage.reads == [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, 1]
    response.close()
    assert storage.closed == storage.opened == 1


def test_a_client_that_goes_away_has_the_file_closed(app, storage):
    """The server closes the body in the middle, and the body closes the file."""
    storage.write("large", bytes(3 * CHUNK_BYTES))
    body = run(app, "/large")[0]

    next(iter(body))
    body.close()

    assert storage.closed == 1
    assert sum(storage.reads) < 3 * CHUNK_BYTES


def test_a_file_that_ends_early_breaks_the_response(app, storage):
    """A body that is shorter than its length must not look like a complete one."""

    class Shrunk(WatchedStorage):
        def _open_reader(self, path):
            info = self._stat(path)
            return FileAdapter(io.BytesIO(b"short"), "r", info=info)

    shrunk = Shrunk()
    shrunk.write("file", b"a longer content")

    with pytest.raises(errors.IntegrityError, match="11 bytes early"):
        _ = make_app(shrunk).test_client().get("/file").data


def test_a_reader_that_knows_nothing_of_its_file_is_helped_by_stat(app, storage):
    """A backend of someone else's may open a file and say nothing of it."""
    storage.knows_info = False

    response = app.test_client().get("/a/b.bin")

    assert response.data == CONTENT
    assert response.headers["ETag"] == quoted(storage)


def test_a_failure_after_opening_closes_the_file(storage):
    """Whatever happens between opening and answering, nothing stays open."""

    class Nameless(WatchedStorage):
        knows_info = False

        def _stat(self, path):
            raise errors.StorageUnavailableError("gone")

    nameless = Nameless()
    nameless.write("file", b"1")

    response = make_app(nameless).test_client().get("/file")

    assert response.status_code == 503
    assert nameless.opened == nameless.closed == 1


def test_headers_and_body_are_of_one_version(storage):
    """A file that is replaced after it was opened is answered as it was when it was opened."""

    class Replaced(WatchedStorage):
        def _open_reader(self, path):
            reader = super()._open_reader(path)
            self.write(path, b"another and longer content")
            return reader

    replaced = Replaced()
    replaced.write("file", b"first")
    before = replaced.stat("file").etag

    response = make_app(replaced).test_client().get("/file")

    assert response.data == b"first"
    assert response.headers["ETag"] == f'"{before}"'
    assert response.headers["Content-Length"] == "5"


def test_other_methods_get_the_file_without_conditions_or_ranges(app, storage):
    """A view may answer POST with a file; only GET and HEAD have caches and ranges."""
    headers = {"If-None-Match": quoted(storage), "Range": "bytes=0-1"}

    response = app.test_client().post("/a/b.bin", headers=headers)

    assert (response.status_code, response.data) == (200, CONTENT)


# -- the server's own way to send a file ------------------------------------------------------------------------------


def run(app, path, **extra) -> tuple[Any, str]:
    """Return body (as the server gets it, unread) and status of a request with *extra* in its environment."""
    environ = EnvironBuilder(path=path).get_environ()
    environ.update(extra)
    body, status, _ = run_wsgi_app(app, environ)
    return body, status


@pytest.fixture
def disk(tmp_path):
    """A local storage with one file."""
    disk = LocalFSStorage(tmp_path / "root", create=True)
    disk.write("file", CONTENT)
    return disk


def test_a_whole_local_file_goes_through_the_servers_file_wrapper(disk):
    """There it is copied inside the kernel (gunicorn)."""
    wrapped = []

    def wrapper(file, size):
        wrapped.append(file)
        return FileWrapper(file, size)

    body, _ = run(make_app(disk), "/file", **{"wsgi.file_wrapper": wrapper})

    assert b"".join(body) == CONTENT
    assert wrapped[0].fileno() > 0
    body.close()
    assert wrapped[0].closed


def test_a_range_of_a_local_file_stops_where_it_ends(disk):
    """The server's wrapper, which may send up to the end of the file, is not used for a part of it."""
    extra = {"wsgi.file_wrapper": FileWrapper, "HTTP_RANGE": "bytes=10-19"}

    body, status = run(make_app(disk), "/file", **extra)

    assert status == "206 PARTIAL CONTENT"
    assert b"".join(body) == CONTENT[10:20]
    body.close()


def test_a_file_without_a_descriptor_is_not_given_to_the_file_wrapper(app):
    """What is in memory or far away has none."""
    body, _ = run(app, "/a/b.bin", **{"wsgi.file_wrapper": _refuse})

    assert b"".join(body) == CONTENT
    body.close()


def _refuse(file, size):
    raise AssertionError("the file wrapper was called")


# -- conditions -------------------------------------------------------------------------------------------------------

OTHER = '"0123456789"'


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "ETAG"}, 304),
        ({"If-None-Match": "W/ETAG"}, 304),
        ({"If-None-Match": f"{OTHER}, ETAG"}, 304),
        ({"If-None-Match": f"{OTHER},W/ETAG ,W/{OTHER}"}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": OTHER}, 200),
        ({"If-None-Match": ""}, 200),
        ({"If-None-Match": '"'}, 200),
        ({"If-None-Match": OTHER, "If-Modified-Since": "+0"}, 200),
        ({"If-None-Match": "ETAG", "If-Modified-Since": "-1"}, 304),
        ({"If-Modified-Since": "+0"}, 304),
        ({"If-Modified-Since": "+60"}, 304),
        ({"If-Modified-Since": "-1"}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Modified-Since": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, 200),
        ({"If-Match": "ETAG"}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f"{OTHER}, ETAG"}, 200),
        ({"If-Match": OTHER}, 412),
        ({"If-Match": "W/ETAG"}, 412),
        ({"If-Match": "ETAG", "If-Unmodified-Since": "-1"}, 200),
        ({"If-Match": "ETAG", "If-None-Match": "ETAG"}, 304),
        ({"If-Unmodified-Since": "+0"}, 200),
        ({"If-Unmodified-Since": "-1"}, 412),
        ({"If-Unmodified-Since": "never"}, 200),
    ],
)
def test_conditions_are_weighed_as_http_says(app, storage, method, headers, status):
    """Tags beat dates, If-Match compares strongly, If-None-Match weakly, and nonsense counts as no date."""
    given = {name: _filled(value, storage) for name, value in headers.items()}

    response = app.test_client().open("/a/b.bin", method=method, headers=given)

    assert response.status_code == status
    response.close()
    assert storage.opened == storage.closed == (method == "GET")
    assert bool(storage.reads) == (status == 200 and method == "GET")


def _filled(value, storage):
    if value[:1] in "+-" and value[1:].isdigit():
        return date(storage, int(value))
    return value.replace("ETAG", quoted(storage))


def test_not_modified_carries_the_validators_and_no_body(app, storage):
    """A 304 renews the cached copy: it has the tag and the caching rule, and neither length nor type."""
    response = app.test_client().get("/a/b.bin", headers={"If-None-Match": quoted(storage)})

    assert response.data == b""
    assert response.headers["ETag"] == quoted(storage)
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert "Content-Type" not in response.headers


class Tagged(WatchedStorage):
    """Says of its files what a test wants said."""

    etag: str | None = None
    etag_is_strong = False

    def _info(self, info):
        return FileInfo(
            path=info.path,
            size=info.size,
            last_modified=info.last_modified,
            etag=self.etag,
            etag_is_strong=self.etag_is_strong,
        )

    def _stat(self, path):
        return self._info(super()._stat(path))

    def _open_reader(self, path):
        reader = super()._open_reader(path)
        reader.info = self._info(reader.info)
        return reader


@pytest.fixture
def tagged():
    """A storage whose one file has the tag that a test wants."""
    storage = Tagged()
    storage.write("a/b.bin", CONTENT)
    return storage


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"If-None-Match": '"weak"'}, 304),
        ({"If-None-Match": 'W/"weak"'}, 304),
        ({"If-Match": 'W/"weak"'}, 412),
        ({"If-Match": '"weak"'}, 412),
        ({"If-Match": "*"}, 200),
        ({"Range": "bytes=0-1", "If-Range": 'W/"weak"'}, 200),
        ({"Range": "bytes=0-1", "If-Range": '"weak"'}, 200),
        ({"Range": "bytes=0-1"}, 206),
    ],
)
def test_a_weak_tag_renews_a_copy_and_resumes_nothing(tagged, headers, status):
    """Equal weak tags do not mean equal bytes, so two halves must not be joined by one."""
    tagged.etag = "weak"

    response = make_app(tagged).test_client().get("/a/b.bin", headers=headers)

    assert response.status_code == status
    if status < 400:
        assert response.headers["ETag"] == 'W/"weak"'


def test_a_file_without_a_tag_is_known_by_its_date(tagged):
    """Where the place has no tags, only dates and `*` can match."""
    client = make_app(tagged).test_client()

    plain = client.get("/a/b.bin")
    renewed = client.get("/a/b.bin", headers={"If-Modified-Since": plain.headers["Last-Modified"]})

    assert "ETag" not in plain.headers
    assert renewed.status_code == 304
    assert client.get("/a/b.bin", headers={"If-Match": '"x"'}).status_code == 412
    assert client.get("/a/b.bin", headers={"If-Match": "*"}).status_code == 200
    assert client.get("/a/b.bin", headers={"If-None-Match": '"None"'}).status_code == 200


@pytest.mark.parametrize("etag", ['a"b', "a,b", "ü", "a b", "a\r\nSet-Cookie: x=y", "%22", "0x8D;1"])
def test_any_tag_of_a_place_becomes_one_that_http_can_carry(tagged, etag):
    """Quotes, commas and line ends in a tag are escaped, and the result still matches itself."""
    tagged.etag, tagged.etag_is_strong = etag, True
    client = make_app(tagged).test_client()

    sent = client.get("/a/b.bin").headers["ETag"]

    assert sent.isascii()
    assert not set('\r\n ,"') & set(sent[1:-1])
    assert client.get("/a/b.bin", headers={"If-None-Match": f'"x", {sent}'}).status_code == 304
    assert client.get("/a/b.bin", headers={"If-Match": sent}).status_code == 200


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.FileNotFoundInStorageError("place", "secret.txt"), 404),
        (errors.NotAFileError("secret.txt is a folder"), 404),
        (errors.InvalidPathError("secret.txt"), 400),
        (errors.PermissionDeniedError("secret.txt"), 403),
        (errors.UnsupportedOperationError("secret.txt"), 403),
        (errors.InvalidLinkError("secret.txt"), 403),
        (errors.ExpiredLinkError("secret.txt"), 403),
        (errors.FileExistsInStorageError("secret.txt"), 409),
        (errors.PreconditionFailedError("secret.txt"), 412),
        (errors.TooLargeError("secret.txt"), 413),
        (errors.StorageUnavailableError("secret.txt"), 503),
        (errors.ThrottledError("secret.txt"), 503),
        (errors.StorageTimeoutError("secret.txt"), 504),
        (errors.StorageFullError("secret.txt"), 507),
    ],
)
def test_a_storage_error_has_its_own_status_and_tells_no_secret(method, error, status):
    """The error page says what happened, and neither a path nor a name."""
    broken = BrokenStorage()
    broken.error = error

    response = make_app(broken).test_client().open("/file", method=method)

    assert response.status_code == status
    assert b"secret" not in response.data
    assert ("Retry-After" in response.headers) == isinstance(error, errors.ThrottledError)


@pytest.mark.parametrize("error", [errors.ConfigurationError("no key"), errors.LocalFSError("broken disk")])
def test_what_is_the_apps_own_trouble_stays_an_error_of_the_app(error):
    """A wrong configuration is for the log and its reader, not an answer to a client."""
    broken = BrokenStorage()
    broken.error = error
    app = make_app(broken)
    app.testing = True

    with pytest.raises(type(error)):
        app.test_client().get("/file")


@pytest.mark.parametrize("path", ["..%2fsecret", "a/%2e%2e/b", "a%00b", "a%e2%80%aeb", "a%5cb", "x" * 1025])
def test_a_path_that_is_none_is_a_bad_request(app, path):
    """The wall refuses it before the storage is asked."""
    assert app.test_client().get(f"/{path}").status_code == 400


def test_errors_reach_the_error_handlers_of_the_app(app):
    """In a view of one's own a missing file is a 404 like any other."""
    app.register_error_handler(404, lambda error: ("our own page", 404))

    assert app.test_client().get("/missing").text == "our own page"


def test_the_response_knows_what_it_sends(app, storage):
    """A view can add to the headers by what is known of the very version that is sent."""
    with app.test_request_context("/"):
        response = send_stored_file(storage, "a/b.bin")

    assert response.info.size == len(CONTENT)
    response.close()
    assert storage.closed == 1


def test_caching_is_the_callers_choice(storage):
    """A caller may let others cache, and a value that no header can carry counts as none."""
    public = make_app(storage, cache_control="public, max-age=60").test_client().get("/a/b.bin")
    hostile = make_app(storage, cache_control="public\r\nSet-Cookie: a=b").test_client().get("/a/b.bin")

    assert public.headers["Cache-Control"] == "public, max-age=60"
    assert hostile.headers["Cache-Control"] == "private, no-cache"


# -- the web server in front ------------------------------------------------------------------------------------------


def accel_app(storage, **config):
    """Make an app with a web server in front."""
    app = make_app(storage)
    app.config.update(config)
    return app


@pytest.mark.parametrize("location", ["/internal/", "/internal"])
def test_nginx_is_told_where_the_file_is(tmp_path, location):
    """The path is escaped, the body is left to nginx, and so are conditions and ranges."""
    disk = LocalFSStorage(tmp_path, name="disk")
    disk.write("ordner/größe 100%?.txt", b"content")
    app = accel_app(disk, STORAGE_X_ACCEL_REDIRECT={"disk": location})

    response = app.test_client().get("/ordner/größe 100%25%3F.txt", headers={"Range": "bytes=0-0", "If-Match": '"x"'})

    assert response.status_code == 200
    assert response.data == b""
    assert response.headers["X-Accel-Redirect"] == "/internal/ordner/gr%C3%B6%C3%9Fe%20100%25%3F.txt"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert "ETag" not in response.headers


def test_apache_is_told_the_local_path(disk):
    """X-Sendfile takes an absolute path."""
    response = accel_app(disk, STORAGE_X_SENDFILE=True).test_client().get("/file")

    assert response.headers["X-Sendfile"] == str(disk.local_path("file"))
    assert response.data == b""


@pytest.mark.parametrize("config", [{"STORAGE_X_SENDFILE": True}, {"STORAGE_X_ACCEL_REDIRECT": {"disk": "/i/"}}])
def test_a_missing_file_is_not_left_to_the_web_server(tmp_path, config):
    """404 comes from the app, with the app's own page."""
    disk = LocalFSStorage(tmp_path, name="disk")

    response = accel_app(disk, **config).test_client().get("/missing")

    assert response.status_code == 404
    assert not {"X-Sendfile", "X-Accel-Redirect"} & set(response.headers.keys())


def test_what_the_web_server_cannot_send_is_sent_by_us(app, storage, disk, tmp_path):
    """Files that are nowhere on this disk, profiles that are not named, and encoded content are sent as ever."""
    encoded = accel_app(disk, STORAGE_X_SENDFILE=True)
    stored = Tagged(name="stored")
    stored.write("file", b"1")

    @encoded.get("/encoded")
    def send_encoded():
        return send_stored_file(disk, "file", content_encoding="gzip")

    assert accel_app(storage, STORAGE_X_SENDFILE=True).test_client().get("/a/b.bin").data == CONTENT
    assert accel_app(disk, STORAGE_X_ACCEL_REDIRECT={"other": "/i/"}).test_client().get("/file").data == CONTENT
    assert encoded.test_client().get("/encoded").data == CONTENT


def test_content_that_was_stored_encoded_is_not_left_to_nginx(tmp_path):
    """It would drop the encoding and show compressed bytes."""

    class Encoded(LocalFSStorage):
        def _stat(self, path):
            info = super()._stat(path)
            return FileInfo(path=info.path, size=info.size, last_modified=info.last_modified, content_encoding="gzip")

    disk = Encoded(tmp_path, name="disk")
    disk.write("file", CONTENT)

    response = accel_app(disk, STORAGE_X_ACCEL_REDIRECT={"disk": "/i/"}).test_client().get("/file")

    assert response.data == CONTENT
    assert "X-Accel-Redirect" not in response.headers


def test_a_file_that_takes_no_ranges_is_not_left_to_the_web_server(disk):
    """The web server would serve ranges."""
    app = make_app(disk, ranges=False)
    app.config["STORAGE_X_SENDFILE"] = True

    response = app.test_client().get("/file", headers={"Range": "bytes=0-1"})

    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Accept-Ranges"] == "none"


def test_it_can_be_called_from_a_test_request(app, storage):
    """Whatever request is current is the one that is answered; a bad condition raises."""
    with app.test_request_context("/", headers={"If-Match": OTHER}), pytest.raises(HTTPException) as raised:
        send_stored_file(storage, request.path + "a/b.bin")

    assert raised.value.code == 412
    assert storage.closed == 1


def test_a_date_is_compared_by_whole_seconds(storage):
    """The stored moment has microseconds, the header has none, and both name the same version."""
    moment = storage.stat("a/b.bin").last_modified.datetime

    response = make_app(storage).test_client().head("/a/b.bin", headers={"If-Unmodified-Since": http_date(moment)})

    assert response.status_code == 200
    assert datetime.now(UTC) >= moment
