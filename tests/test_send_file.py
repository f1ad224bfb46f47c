"""`send_stored_file`: conditional requests, errors, and which files are opened, read and closed."""

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
from flask_storage.http.file_body import CHUNK_BYTES
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


class RecordingStorage(MemoryStorage):
    """Counts opened files, read bytes and closed files."""

    opened = closed = 0
    knows_info = True

    def __init__(self, name="recording", **options):
        super().__init__(name, **options)
        self.reads = []

    def _open_reader(self, path):
        with super()._open_reader(path) as reader:
            content = io.BytesIO(reader.read())
        self.opened += 1
        return RecordingFile(self, content, "r", info=reader.info if self.knows_info else None)


class BrokenStorage(MemoryStorage):
    """Raises one error from every operation."""

    error: Exception

    def _open_reader(self, path):
        raise self.error

    def _stat(self, path):
        raise self.error


@pytest.fixture
def storage():
    """A recording storage with one file."""
    storage = RecordingStorage()
    storage.write("a/b.bin", CONTENT)
    return storage


@pytest.fixture
def app(storage):
    """An app that sends the files of `storage`."""
    return make_app(storage)


def make_app(storage, **arguments):
    """Return an app that sends the files of *storage* with these arguments."""
    app = Flask(__name__)

    @app.route("/<path:path>", methods=["GET", "POST"])
    def file(path):
        return send_stored_file(storage, path, **arguments)

    return app


def quoted(storage):
    """Return the file's ETag header."""
    return f'"{storage.stat("a/b.bin").etag}"'


def date(storage, seconds=0):
    """Return the file's date as an HTTP date, plus *seconds*."""
    return http_date(storage.stat("a/b.bin").last_modified.datetime + timedelta(seconds=seconds))


# -- whole files ------------------------------------------------------------------------------------------------------


def test_a_file_is_sent_whole_with_its_length_and_validators(app, storage):
    """With ETag, Last-Modified and Accept-Ranges."""
    response = app.test_client().get("/a/b.bin")

    assert response.status_code == 200
    assert response.data == CONTENT
    assert response.headers["Content-Length"] == str(len(CONTENT))
    assert response.headers["ETag"] == quoted(storage)
    assert response.headers["Last-Modified"] == date(storage)
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Cache-Control"] == "private, no-cache"


def test_an_empty_file_is_sent_with_length_zero(app, storage):
    """Its body is one empty chunk, because some servers wait for a first chunk."""
    storage.write("empty", b"")

    response = app.test_client().get("/empty")
    body, status = run(app, "/empty")

    assert (response.status_code, response.data, response.headers["Content-Length"]) == (200, b"", "0")
    assert (status, list(body)) == ("200 OK", [b""])
    assert storage.closed == storage.opened == 2


def test_head_has_the_headers_of_get_and_opens_no_file(app, storage):
    """Only `stat` is called."""
    client = app.test_client()
    expected = client.get("/a/b.bin").headers
    storage.opened = 0

    response = client.head("/a/b.bin", headers={"Range": "bytes=0-1"})

    assert response.status_code == 200
    assert response.data == b""
    assert list(response.headers) == list(expected)
    assert storage.opened == 0


def test_at_most_one_chunk_is_read_at_a_time(app, storage):
    """The file is closed after the last chunk."""
    storage.write("large", bytes(3 * CHUNK_BYTES + 1))

    response = app.test_client().get("/large")

    assert len(response.data) == 3 * CHUNK_BYTES + 1
    assert storage.reads == [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, 1]
    response.close()
    assert storage.closed == storage.opened == 1


def test_the_file_is_closed_when_the_client_disconnects(app, storage):
    """The server closes the body, and the body closes the file."""
    storage.write("large", bytes(3 * CHUNK_BYTES))
    body = run(app, "/large")[0]

    next(iter(body))
    body.close()

    assert storage.closed == 1
    assert sum(storage.reads) < 3 * CHUNK_BYTES


def test_a_file_that_ends_early_aborts_the_response(app, storage):
    """A truncated body must not look like a complete one."""

    class Shrunk(RecordingStorage):
        def _open_reader(self, path):
            info = self._stat(path)
            return FileAdapter(io.BytesIO(b"short"), "r", info=info)

    shrunk = Shrunk()
    shrunk.write("file", b"a longer content")

    with pytest.raises(errors.IntegrityError, match="11 bytes early"):
        _ = make_app(shrunk).test_client().get("/file").data


def test_stat_is_called_for_a_reader_without_info(app, storage):
    """A third-party backend may return such readers."""
    storage.knows_info = False

    response = app.test_client().get("/a/b.bin")

    assert response.data == CONTENT
    assert response.headers["ETag"] == quoted(storage)


def test_a_failure_after_opening_closes_the_file(storage):
    """When no response is returned."""

    class Nameless(RecordingStorage):
        knows_info = False

        def _stat(self, path):
            raise errors.StorageUnavailableError("gone")

    nameless = Nameless()
    nameless.write("file", b"1")

    response = make_app(nameless).test_client().get("/file")

    assert response.status_code == 503
    assert nameless.opened == nameless.closed == 1


def test_headers_and_body_are_of_one_version(storage):
    """The file is replaced after it was opened; the response describes the opened version."""

    class Replaced(RecordingStorage):
        def _open_reader(self, path):
            reader = super()._open_reader(path)
            self.write(path, b"another and longer content")
            return reader

    replaced = Replaced()
    replaced.write("file", b"first")
    first_etag = replaced.stat("file").etag

    response = make_app(replaced).test_client().get("/file")

    assert response.data == b"first"
    assert response.headers["ETag"] == f'"{first_etag}"'
    assert response.headers["Content-Length"] == "5"


def test_conditions_and_ranges_are_ignored_for_other_methods(app, storage):
    """A view may send a file in response to POST."""
    headers = {"If-None-Match": quoted(storage), "Range": "bytes=0-1"}

    response = app.test_client().post("/a/b.bin", headers=headers)

    assert (response.status_code, response.data) == (200, CONTENT)


# -- wsgi.file_wrapper ------------------------------------------------------------------------------------------------


def run(app, path, **extra) -> tuple[Any, str]:
    """Return body (as the server gets it, unread) and status of a request with *extra* in its WSGI environment."""
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


def test_a_whole_local_file_uses_the_servers_file_wrapper(disk):
    """With it, gunicorn sends the file by sendfile(2)."""
    wrapped = []

    def wrapper(file, size):
        wrapped.append(file)
        return FileWrapper(file, size)

    body, _ = run(make_app(disk), "/file", **{"wsgi.file_wrapper": wrapper})

    assert b"".join(body) == CONTENT
    assert wrapped[0].fileno() > 0
    body.close()
    assert wrapped[0].closed


def test_a_range_of_a_local_file_does_not_use_the_file_wrapper(disk):
    """The wrapper may send up to the end of the file."""
    extra = {"wsgi.file_wrapper": FileWrapper, "HTTP_RANGE": "bytes=10-19"}

    body, status = run(make_app(disk), "/file", **extra)

    assert status == "206 PARTIAL CONTENT"
    assert b"".join(body) == CONTENT[10:20]
    body.close()


def test_a_file_without_a_descriptor_does_not_use_the_file_wrapper(app):
    """Files in memory or on a remote server have none."""
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
def test_conditions_are_evaluated_as_in_rfc_9110(app, storage, method, headers, status):
    """ETags take precedence over dates, If-Match compares strongly, If-None-Match weakly; invalid dates are ignored."""
    sent_headers = {name: _filled(value, storage) for name, value in headers.items()}

    response = app.test_client().open("/a/b.bin", method=method, headers=sent_headers)

    assert response.status_code == status
    response.close()
    assert storage.opened == storage.closed == (method == "GET")
    assert bool(storage.reads) == (status == 200 and method == "GET")


def _filled(value, storage):
    if value[:1] in "+-" and value[1:].isdigit():
        return date(storage, int(value))
    return value.replace("ETAG", quoted(storage))


def test_not_modified_has_the_validators_and_no_body(app, storage):
    """And neither length nor type."""
    response = app.test_client().get("/a/b.bin", headers={"If-None-Match": quoted(storage)})

    assert response.data == b""
    assert response.headers["ETag"] == quoted(storage)
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert "Content-Type" not in response.headers


class TaggedStorage(RecordingStorage):
    """Returns the file info that a test sets."""

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
    """A storage with one file, whose ETag a test can set."""
    storage = TaggedStorage()
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
def test_a_weak_etag_validates_a_cached_copy_but_no_range(tagged, headers, status):
    """Equal weak ETags do not mean equal bytes, so a download must not be resumed."""
    tagged.etag = "weak"

    response = make_app(tagged).test_client().get("/a/b.bin", headers=headers)

    assert response.status_code == status
    if status < 400:
        assert response.headers["ETag"] == 'W/"weak"'


def test_a_file_without_an_etag_is_validated_by_its_date(tagged):
    """Only dates and `*` can match."""
    client = make_app(tagged).test_client()

    plain = client.get("/a/b.bin")
    renewed = client.get("/a/b.bin", headers={"If-Modified-Since": plain.headers["Last-Modified"]})

    assert "ETag" not in plain.headers
    assert renewed.status_code == 304
    assert client.get("/a/b.bin", headers={"If-Match": '"x"'}).status_code == 412
    assert client.get("/a/b.bin", headers={"If-Match": "*"}).status_code == 200
    assert client.get("/a/b.bin", headers={"If-None-Match": '"None"'}).status_code == 200


@pytest.mark.parametrize("etag", ['a"b', "a,b", "ü", "a b", "a\r\nSet-Cookie: x=y", "%22", "0x8D;1"])
def test_any_etag_of_a_storage_becomes_a_valid_header(tagged, etag):
    """Quotes, commas and line ends are escaped, and the result matches itself."""
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
        (errors.FileNotFoundInStorageError("storage", "secret.txt"), 404),
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
def test_each_storage_error_has_its_own_status(method, error, status):
    """The text contains neither path nor profile name."""
    broken = BrokenStorage()
    broken.error = error

    response = make_app(broken).test_client().open("/file", method=method)

    assert response.status_code == status
    assert b"secret" not in response.data
    assert ("Retry-After" in response.headers) == isinstance(error, errors.ThrottledError)


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (errors.PermissionDeniedError("the key has expired"), ["403: PermissionDeniedError: the key has expired"]),
        (errors.StorageTimeoutError("no response"), ["504: StorageTimeoutError: no response"]),
        (errors.StorageFullError("free some space"), ["507: StorageFullError: free some space"]),
        (errors.FileNotFoundInStorageError("storage", "a.txt"), []),
        (errors.InvalidPathError("a path"), []),
    ],
)
def test_an_error_that_the_client_did_not_cause_is_logged(caplog, error, lines):
    """With its reason, which the response does not contain."""
    broken = BrokenStorage()
    broken.error = error

    make_app(broken).test_client().get("/file")

    assert [record.getMessage() for record in caplog.records] == [f"responded with {line}" for line in lines]


@pytest.mark.parametrize("error", [errors.ConfigurationError("no key"), errors.LocalFSError("broken disk")])
def test_a_configuration_or_disk_error_is_not_translated(error):
    """The app logs it as an error 500."""
    broken = BrokenStorage()
    broken.error = error
    app = make_app(broken)
    app.testing = True

    with pytest.raises(type(error)):
        app.test_client().get("/file")


@pytest.mark.parametrize("path", ["..%2fsecret", "a/%2e%2e/b", "a%00b", "a%e2%80%aeb", "a%5cb", "x" * 1025])
def test_an_invalid_path_is_a_bad_request(app, path):
    """The storage interface refuses it."""
    assert app.test_client().get(f"/{path}").status_code == 400


def test_errors_reach_the_error_handlers_of_the_app(app):
    """A missing file is a 404 like any other in a view of the app."""
    app.register_error_handler(404, lambda error: ("our own page", 404))

    assert app.test_client().get("/missing").text == "our own page"


def test_the_response_has_the_info_of_the_sent_version(app, storage):
    """So a view can add headers."""
    with app.test_request_context("/"):
        response = send_stored_file(storage, "a/b.bin")

    assert response.info.size == len(CONTENT)
    response.close()
    assert storage.closed == 1


def test_the_caller_can_set_cache_control(storage):
    """An invalid value is ignored."""
    public = make_app(storage, cache_control="public, max-age=60").test_client().get("/a/b.bin")
    hostile = make_app(storage, cache_control="public\r\nSet-Cookie: a=b").test_client().get("/a/b.bin")

    assert public.headers["Cache-Control"] == "public, max-age=60"
    assert hostile.headers["Cache-Control"] == "private, no-cache"


# -- X-Accel-Redirect and X-Sendfile ----------------------------------------------------------------------------------


def accel_app(storage, **config):
    """Return an app behind a web server."""
    app = make_app(storage)
    app.config.update(config)
    return app


@pytest.mark.parametrize("location", ["/internal/", "/internal"])
def test_x_accel_redirect_has_the_escaped_path(tmp_path, location):
    """The body, conditions and ranges are left to nginx."""
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


def test_x_sendfile_has_the_local_path(disk):
    """It is absolute."""
    response = accel_app(disk, STORAGE_X_SENDFILE=True).test_client().get("/file")

    assert response.headers["X-Sendfile"] == str(disk.local_path("file"))
    assert response.data == b""


@pytest.mark.parametrize("config", [{"STORAGE_X_SENDFILE": True}, {"STORAGE_X_ACCEL_REDIRECT": {"disk": "/i/"}}])
def test_a_missing_file_is_reported_by_the_app(tmp_path, config):
    """With the app's own 404 page."""
    disk = LocalFSStorage(tmp_path, name="disk")

    response = accel_app(disk, **config).test_client().get("/missing")

    assert response.status_code == 404
    assert not {"X-Sendfile", "X-Accel-Redirect"} & set(response.headers.keys())


def test_the_app_sends_what_the_web_server_cannot_send(app, storage, disk, tmp_path):
    """Files that are not local, files of other profiles, and encoded content."""
    encoded = accel_app(disk, STORAGE_X_SENDFILE=True)
    stored = TaggedStorage(name="stored")
    stored.write("file", b"1")

    @encoded.get("/encoded")
    def send_encoded():
        return send_stored_file(disk, "file", content_encoding="gzip")

    assert accel_app(storage, STORAGE_X_SENDFILE=True).test_client().get("/a/b.bin").data == CONTENT
    assert accel_app(disk, STORAGE_X_ACCEL_REDIRECT={"other": "/i/"}).test_client().get("/file").data == CONTENT
    assert encoded.test_client().get("/encoded").data == CONTENT


def test_the_app_sends_files_with_a_stored_content_encoding(tmp_path):
    """The web server (nginx) would drop the Content-Encoding header."""

    class Encoded(LocalFSStorage):
        def _stat(self, path):
            info = super()._stat(path)
            return FileInfo(path=info.path, size=info.size, last_modified=info.last_modified, content_encoding="gzip")

    disk = Encoded(tmp_path, name="disk")
    disk.write("file", CONTENT)

    response = accel_app(disk, STORAGE_X_ACCEL_REDIRECT={"disk": "/i/"}).test_client().get("/file")

    assert response.data == CONTENT
    assert "X-Accel-Redirect" not in response.headers


def test_the_app_sends_files_without_ranges(disk):
    """The web server would serve ranges."""
    app = make_app(disk, ranges=False)
    app.config["STORAGE_X_SENDFILE"] = True

    response = app.test_client().get("/file", headers={"Range": "bytes=0-1"})

    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Accept-Ranges"] == "none"


def test_it_can_be_called_in_a_test_request_context(app, storage):
    """A failed condition raises."""
    with app.test_request_context("/", headers={"If-Match": OTHER}), pytest.raises(HTTPException) as raised:
        send_stored_file(storage, request.path + "a/b.bin")

    assert raised.value.code == 412
    assert storage.closed == 1


def test_dates_are_compared_in_whole_seconds(storage):
    """The stored time has microseconds, the header has not."""
    modified = storage.stat("a/b.bin").last_modified.datetime

    response = make_app(storage).test_client().head("/a/b.bin", headers={"If-Unmodified-Since": http_date(modified)})

    assert response.status_code == 200
    assert datetime.now(UTC) >= modified
