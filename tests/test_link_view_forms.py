"""Upload forms of the app: the file of a form is stored while it arrives, and only what was signed is accepted."""

import hashlib
import io
import random
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from itertools import chain, repeat

import pytest
from flask import Flask
from urllib3.filepost import encode_multipart_formdata

from flask_storage import LocalFSStorage, MemoryStorage, Storage, UnsupportedOperationError
from flask_storage.http import form_body
from flask_storage.link_usage import MemoryUsageStore
from flask_storage.signals import link_issued, link_used
from tests.test_link_view import Breaking, put

HOUR = timedelta(hours=1)
MiB = 1024 * 1024
BOUNDARY = "--form-boundary"
TYPE = {"Content-Type": "application/octet-stream"}
FILE = ("file", ("a.html", b"content", "text/html"))


class Typeless(MemoryStorage):
    """Stores content only, like a server for SFTP."""

    capabilities = replace(MemoryStorage.capabilities, content_headers=False, metadata=False)


@pytest.fixture
def app(tmp_path):
    """An app with files in memory and on disk."""
    app = Flask(__name__, instance_path=str(tmp_path / "instance"))
    app.config.update(
        SECRET_KEY="s" * 32,
        STORAGE_LINK_USAGE=MemoryUsageStore(),
        STORAGE_EXTERNAL_URL="http://localhost",
        STORAGE_PROFILES={
            "docs": {"backend": "memory"},
            "disk": {"backend": LocalFSStorage, "root": str(tmp_path / "disk"), "create": True},
            "typeless": {"backend": Typeless},
        },
    )
    Storage(app)
    return app


@pytest.fixture
def docs(app):
    """The files in memory."""
    return app.extensions["storage"]["docs"]


@pytest.fixture(params=["docs", "disk"])
def storage(app, request):
    """Both kinds of storage."""
    return app.extensions["storage"][request.param]


def encode(*parts):
    """Return a form as a browser sends it."""
    return encode_multipart_formdata(parts, BOUNDARY)


def send(app, form, *parts, **environ):
    """Send a form; return status and text."""
    body, content_type = encode(*parts)
    return send_body(app, form, body, **{"CONTENT_TYPE": content_type, **environ})


def send_body(app, form, body, **environ):
    """Send any body with the content type of a form; return status and text."""
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    length = str(len(body)) if isinstance(body, bytes) else None
    environ = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": length, **environ}
    return put(app, form.url.removeprefix("http://localhost"), body, method="POST", **environ)


# -- the form ---------------------------------------------------------------------------------------------------------


def test_a_form_stores_its_file(app, storage):
    """204, as S3 responds; the file has the bytes of the field, and the signed type."""
    form = storage.create_upload_form("in/a", HOUR, max_size=100, content_type="image/png")
    used = []

    def record(sender, path, **extra):
        used.append(path)

    with link_used.connected_to(record, sender=storage):
        response = send(
            app, form, *form.fields.items(), ("file", ("Grüße 東京.html", b"\r\n--\r\ncontent\r", "text/html"))
        )

    assert (form.method, form.headers, form.fields) == ("POST", {}, {"Content-Type": "image/png"})
    assert response == (204, b"")
    assert storage.read("in/a") == b"\r\n--\r\ncontent\r"
    assert storage.stat("in/a").content_type == "image/png"
    assert used == ["in/a"]


def test_a_form_without_a_type_stores_none(app, docs):
    """As an upload link without a type; the type that the browser sends is not used."""
    form = docs.create_upload_form("in/a", max_size=100)

    assert form.fields == TYPE
    assert send(app, form, *form.fields.items(), FILE)[0] == 204
    assert docs.stat("in/a").content_type is None


def test_a_form_redirects_to_the_signed_address_only(app, docs):
    """303; nothing in the request chooses another address."""
    form = docs.create_upload_form("a", HOUR, max_size=100, redirect_to="https://www.example.com/done?x=ü")
    body, content_type = encode(*form.fields.items(), FILE, ("success_action_redirect", "https://evil.example.com"))

    url = form.url.removeprefix("http://localhost")
    response = app.test_client().post(
        f"{url}&redirect_to=https://evil.example.com", data=body, content_type=content_type
    )

    assert response.status_code == 303
    assert response.headers["Location"] == "https://www.example.com/done?x=%C3%BC"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize(
    "url", ["/done", "//example.com/done", "javascript:alert(1)", "https://", "https://[", "https://a/\r\nX: y", "", 5]
)
def test_an_address_that_is_not_absolute_is_refused(docs, url):
    """S3 would ignore it."""
    with pytest.raises(ValueError, match="redirect_to must be an absolute URL"):
        docs.create_upload_form("a", HOUR, max_size=5, redirect_to=url)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_size": None}, ValueError, "max_size must be a whole number"),
        ({"min_size": -1}, ValueError, "min_size must be a whole number"),
        ({"min_size": 6}, ValueError, "min_size .6. is larger than max_size .5."),
        ({"size": 5}, TypeError, "an upload form has no argument 'size'"),
        ({"uses": 0}, ValueError, "uses"),
        ({"content_type": "a\n/"}, ValueError, "one line"),
    ],
)
def test_invalid_arguments_of_a_form_are_refused(docs, arguments, error, message):
    """Such a form would accept no file, or not what was asked."""
    with pytest.raises(error, match=message):
        docs.create_upload_form("a", HOUR, **{"max_size": 5, **arguments})


def test_a_form_sends_one_signal(docs):
    """As each link."""
    issued = []

    def record(sender, path, request, **extra):
        issued.append((path, request.form, request.max_size, request.min_size))

    with link_issued.connected_to(record, sender=docs):
        docs.create_upload_form("a", HOUR, max_size=5)

    assert issued == [("a", True, 5, None)]


def test_a_form_and_a_link_do_not_replace_each_other(app, docs):
    """The token says which of them is accepted: 415 for the other."""
    form = docs.create_upload_form("a", HOUR, max_size=100)
    link = docs.upload_request("a", HOUR, max_size=100)

    raw = {
        method: put(app, form.url[16:], b"content", method=method, CONTENT_LENGTH="7")[0] for method in ("PUT", "POST")
    }
    sent = send(app, link, *TYPE.items(), FILE)[0]

    assert (raw, sent) == ({"PUT": 415, "POST": 415}, 415)
    assert not docs.exists("a")


# -- its constraints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "status"), [(0, 400), (1, 400), (2, 204), (5, 204), (6, 413), (19_000, 413), (10**6, 413)]
)
@pytest.mark.parametrize("app_limit", [None, 1])
def test_the_sizes_of_a_form_are_enforced(app, storage, size, status, app_limit):
    """The limits are inclusive, and those of the file; a signed limit replaces MAX_CONTENT_LENGTH."""
    app.config["MAX_CONTENT_LENGTH"] = app_limit
    form = storage.create_upload_form("a", HOUR, min_size=2, max_size=5)

    response = send(app, form, *form.fields.items(), ("file", ("a", b"x" * size)))

    assert response[0] == status
    assert storage.exists("a") is (status == 204)
    assert len(storage.list()) == (status == 204)


def test_a_form_that_is_far_too_large_is_refused_unread(app, docs):
    """By the length that it announces."""
    form = docs.create_upload_form("a", HOUR, max_size=5)
    body = io.BytesIO(b"x")

    assert send_body(app, form, body, CONTENT_LENGTH=str(form_body.MAX_FIELD_BYTES + 6))[0] == 413
    assert body.tell() == 0


def test_a_form_is_exclusive_counted_and_bound_to_an_address_and_a_checksum(app, storage):
    """What a form of S3 cannot enforce."""
    checksum = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    arguments = {"max_size": 100, "uses": 1, "ip": "203.0.113.0/24", "checksum": checksum, "exclusive": True}
    form, other = (storage.create_upload_form("a", HOUR, **arguments) for _ in range(2))
    fields = form.fields.items()
    inside = {"REMOTE_ADDR": "203.0.113.7"}

    statuses = [
        send(app, form, *fields, FILE)[0],
        send(app, form, *fields, ("file", ("a", b"other")), **inside)[0],
        send(app, form, *fields, FILE, **inside)[0],
        send(app, form, *fields, FILE, **inside)[0],
        send(app, other, *fields, FILE, **inside)[0],
    ]

    assert statuses == [403, 400, 204, 403, 409]
    assert storage.read("a") == b"content"


@pytest.mark.parametrize(
    ("signed", "sent", "status"),
    [
        ("image/png", ["image/png"], 204),
        ("image/png", ["text/html"], 403),
        ("image/png", [], 403),
        ("image/png", ["image/png", "image/png"], 403),
        ("image/", ["image/webp"], 204),
        ("image/", ["text/html"], 403),
        ("image/", [], 403),
        ("image/", ["image/" + "x" * 250], 403),
        (None, ["text/html"], 403),
    ],
)
def test_the_type_of_a_form_is_the_signed_one(app, docs, signed, sent, status):
    """A prefix lets the client choose the rest; a missing field is refused, as by S3."""
    form = docs.create_upload_form("a", HOUR, max_size=100, content_type=signed)

    response = send(app, form, *(("Content-Type", value) for value in sent), FILE)

    assert response[0] == status
    assert docs.exists("a") is (status == 204)
    if status == 204:
        assert docs.stat("a").content_type == sent[0]


def test_a_storage_without_types_accepts_a_prefix_of_the_type_of_the_name(app):
    """Another type, and a name that implies none, are refused: the type would be lost."""
    typeless = app.extensions["storage"]["typeless"]
    form = typeless.create_upload_form("a.png", HOUR, max_size=100, content_type="image/")

    statuses = [send(app, form, ("Content-Type", kind), FILE)[0] for kind in ("image/webp", "image/png")]

    assert statuses == [403, 204]
    with pytest.raises(UnsupportedOperationError, match="content_type"):
        typeless.create_upload_form("a", HOUR, max_size=100, content_type="image/")


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ([("csrf_token", "x")], [], 403),
        ([("key", "other")], [], 403),
        ([], [("submit", "Send"), ("Content-Type", "text/html")], 204),
    ],
)
def test_fields_that_were_not_signed_are_refused_before_the_file(app, docs, before, after, status):
    """As by S3, which ignores what follows the file."""
    form = docs.create_upload_form("a", HOUR, max_size=100)

    assert send(app, form, *form.fields.items(), *before, FILE, *after)[0] == status
    assert docs.exists("a") is (status == 204)


# -- broken forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([], 400),
        ([*TYPE.items()], 400),
        ([FILE], 403),
        ([*TYPE.items(), ("file", "text")], 400),
        ([*TYPE.items(), ("file", ("", b""))], 400),
        ([*TYPE.items(), ("photo", ("a", b"x"))], 400),
        ([*TYPE.items(), FILE, FILE], 400),
        ([*TYPE.items(), FILE, ("other", ("a", b"x"))], 400),
        ([*TYPE.items(), FILE, ("other", ("", b""))], 204),
        ([*TYPE.items(), ("file", ("a", b""))], 204),
    ],
    ids=[
        "empty",
        "no file",
        "file first",
        "text",
        "not selected",
        "name",
        "two",
        "two names",
        "one of two",
        "empty file",
    ],
)
def test_a_form_has_one_file(app, storage, parts, status):
    """Nothing is stored unless the whole form is valid."""
    form = storage.create_upload_form("a", HOUR, max_size=100)

    assert send(app, form, *parts)[0] == status
    assert storage.exists("a") is (status == 204)
    assert len(storage.list()) == (status == 204)


def test_a_form_that_ends_early_is_not_stored(app, storage):
    """At every byte: with a length that is shorter, and with a connection that breaks off."""
    form = storage.create_upload_form("a", HOUR, max_size=100)
    body, _ = encode(*TYPE.items(), FILE)
    needed = len(body) - 2  # the last line end is optional

    for end in range(needed):
        assert send_body(app, form, body[:end])[0] == 400
        assert send_body(app, form, Breaking(body[:end], OSError()), CONTENT_LENGTH=str(len(body)))[0] == 400

    assert storage.list() == []
    assert send_body(app, form, body[:needed])[0] == 204
    assert send_body(app, form, b"preamble\r\n" + body + b"epilogue")[0] == 204
    assert storage.read("a") == b"content"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda body: body.replace(b"\r\n", b"\n"), 400),
        (lambda body: body.replace(b"boundary\r\n", b"boundary\t\r\n"), 400),
        (lambda body: body.replace(b"Content-Disposition", b"X-Other"), 400),
        (lambda body: body.replace(b'name="', b'title="'), 400),
        (lambda body: body.replace(b'name="Content-Type"', b'name="\xff\xfe"'), 403),
        (lambda body: body.replace(b"\r\n\r\ncontent", b"\r\nX: " + b"x" * 30_000 + b"\r\n\r\ncontent"), 413),
        (lambda body: body.replace(b"octet-stream", b"x" * 30_000), 413),
        (lambda body: b"x" * 30_000 + b"\r\n" + body, 413),
        (
            lambda body: body.replace(b"--\r\n", b"\r\nContent-Disposition: form-data; name=x\r\n\r\n" + b"x" * 30_000),
            413,
        ),
    ],
    ids=["line ends", "delimiter", "header", "name", "bytes", "headers", "field", "preamble", "trailing field"],
)
def test_a_damaged_form_is_refused(app, docs, change, status):
    """What is not the file has at most 20,000 bytes together."""
    form = docs.create_upload_form("a", HOUR, max_size=100_000)
    body, _ = encode(*TYPE.items(), FILE)

    assert send_body(app, form, change(body))[0] == status
    assert not docs.exists("a")


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"CONTENT_TYPE": "multipart/form-data"}, 415),
        ({"CONTENT_TYPE": "multipart/form-data; boundary="}, 415),
        ({"CONTENT_TYPE": "multipart/mixed; boundary=--form-boundary"}, 415),
        ({"CONTENT_TYPE": "multipart/form-data; boundary=other"}, 400),
        ({"CONTENT_TYPE": "multipart/form-data; boundary*=UTF-8''%E4%B8%AD"}, 400),
        ({"CONTENT_TYPE": "application/x-www-form-urlencoded"}, 415),
        ({"CONTENT_LENGTH": None}, 411),
        ({"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"HTTP_CONTENT_ENCODING": "gzip"}, 415),
        ({"HTTP_CONTENT_RANGE": "bytes 0-1/2"}, 400),
    ],
)
def test_a_request_that_is_no_form_is_refused(app, docs, environ, status):
    """By its headers."""
    form = docs.create_upload_form("a", HOUR, max_size=100)

    assert send(app, form, *TYPE.items(), FILE, **environ)[0] == status
    assert not docs.exists("a")


class Pieces(io.BytesIO):
    """A body of which each call returns up to a random number of bytes."""

    def __init__(self, content, source):
        super().__init__(content)
        self._source = source

    def read(self, size=-1):
        """Return a few bytes."""
        return super().read(min(size, self._source.choice([1, 2, 3, 7, 50])))


def test_no_byte_is_changed_wherever_the_body_is_split(app, docs):
    """Contents that resemble the delimiter, in pieces of a few bytes."""
    source = random.Random(1)
    form = docs.create_upload_form("a", HOUR, max_size=1000)
    fragments = [
        b"\r",
        b"\n",
        b"-",
        b"x",
        b"\r\n--",
        b"--form-boundary",
        b"\r\n----form-bounda",
        b"----form-boundary--",
    ]

    for _ in range(300):
        content = b"".join(source.choices(fragments, k=source.randrange(12))).replace(b"\r\n----form-boundary", b"")
        body, _ = encode(*TYPE.items(), ("file", ("a", content)), ("submit", "Send"))
        assert send_body(app, form, Pieces(body, source), CONTENT_LENGTH=str(len(body))) == (204, b"")
        assert docs.read("a") == content


class Large:
    """A body with a file of *size* zeros, which are created when they are read."""

    def __init__(self, size):
        head, tail = encode(*TYPE.items(), ("file", ("a", b"|")))[0].split(b"|")
        self.length = len(head) + size + len(tail)
        self._pieces = chain([head], repeat(bytes(65_536), size // 65_536), [tail])

    def read(self, size):
        """Return the next piece, which is smaller than *size*."""
        return next(self._pieces)


def test_a_file_is_not_held_in_memory(app):
    """Only the chunk that has arrived, while it is written to disk."""
    disk = app.extensions["storage"]["disk"]
    form = disk.create_upload_form("a", HOUR, max_size=10**9)
    body = Large(64 * MiB)

    tracemalloc.start()
    try:
        status, _ = send_body(app, form, body, CONTENT_LENGTH=str(body.length))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert status == 204
    assert disk.size("a") == 64 * MiB
    assert peak < 4 * MiB
