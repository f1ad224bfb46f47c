"""Request fields that change what an upload or a deletion means are obeyed or refused, never ignored."""

from datetime import timedelta

import pytest
from flask import Response, request
from flask.views import MethodView
from werkzeug.http import http_date

from flask_storage import LinkViewMixin
from flask_storage.types import Capabilities
from tests.test_link_view import CONTENT, app, client, docs, link, put

__all__ = ["app", "client", "docs", "link"]  # fixtures

NEW = b"new content"


# -- parts of a file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 5-9/10"},
        {"Content-Range": "bytes 0-9/10"},
        {"Content-Range": ""},
        {"Tus-Resumable": "1.0.0", "Upload-Length": "10"},
        {"Upload-Complete": "?0"},
        {"Upload-Incomplete": "?1"},
        {"Upload-Offset": "5"},
    ],
    ids=str,
)
def test_a_part_of_a_file_is_refused(app, client, link, headers, method, profile):
    """A resumed upload would replace the file by its tail: 400, and the link is not used up."""
    storage = app.extensions["storage"][profile]
    storage.write("a/file.txt", CONTENT)
    url = link("dur", profile=profile, uses=1)

    refused = client.open(url, method=method, data=b"56789", headers=headers)

    assert (refused.status_code, storage.read("a/file.txt")) == (400, CONTENT)
    assert "send all of it in one request" in refused.text
    assert client.open(url, method=method, data=NEW).status_code == 200


def test_headers_without_a_meaning_for_uploads_are_ignored(client, docs, link):
    """RFC 9110 defines `Range` and `If-Modified-Since` for downloads; `?1` announces the whole file."""
    headers = {
        "Range": "bytes=5-9",
        "If-Modified-Since": http_date(),
        "Upload-Complete": "?1",
        "Upload-Incomplete": "?0",
    }

    response = client.put(link("upload"), data=NEW, headers=headers)

    assert (response.status_code, docs.read("a/file.txt")) == (200, NEW)


@pytest.mark.parametrize(
    ("signed", "sent", "status"),
    [
        (None, "identity", 200),
        (None, "", 200),
        (None, "gzip", 415),
        ("gzip", None, 200),
        ("gzip", "GZIP", 200),
        ("gzip", "identity", 200),
        ("gzip", "br", 415),
        ("gzip", "gzip, br", 415),
    ],
)
def test_a_body_with_another_encoding_than_the_link_is_refused(client, docs, link, signed, sent, status):
    """It would be stored, and later be sent, as if it were not encoded."""
    headers = {} if sent is None else {"Content-Encoding": sent}

    response = client.put(link("upload", content_encoding=signed), data=NEW, headers=headers)

    assert response.status_code == status
    assert docs.read("a/file.txt") == (NEW if status == 200 else CONTENT)


# -- conditions -------------------------------------------------------------------------------------------------------

# Whether the condition holds when the file exists, and when it is missing.
CONDITIONS = {
    "If-None-Match: *": (False, True),
    "If-None-Match: ETAG": (False, True),
    'If-None-Match: "x", W/ETAG': (False, True),
    'If-None-Match: "x"': (True, True),
    "If-Match: *": (True, False),
    "If-Match: ETAG": (True, False),
    'If-Match: "x", ETAG': (True, False),
    'If-Match: "x"': (False, False),
    "If-Match: W/ETAG": (False, False),
    "If-Match: ": (False, False),
    "If-Unmodified-Since: +0": (True, True),
    "If-Unmodified-Since: -1": (False, True),
    "If-Unmodified-Since: never": (True, True),
}


def condition_header(condition, info):
    """Return a condition as a header, for the file with these attributes."""
    name, _, value = condition.partition(": ")
    if value in {"+0", "-1"}:
        value = http_date(info.last_modified.datetime + timedelta(seconds=int(value)))
    return {name: value.replace("ETAG", f'"{info.etag}"')}


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize("state", ["exists", "is missing"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_an_upload_is_stored_only_if_its_condition_holds(app, client, link, condition, state, profile):
    """Otherwise 412, and nothing is changed."""
    storage = app.extensions["storage"][profile]
    storage.write("a/file.txt", CONTENT)
    headers = condition_header(condition, storage.stat("a/file.txt"))
    if state == "is missing":
        storage.delete("a/file.txt")
    holds = CONDITIONS[condition][state == "is missing"]

    response = client.put(link("upload", profile=profile), data=NEW, headers=headers)

    assert response.status_code == (200 if holds else 412)
    assert storage.exists("a/file.txt") == (holds or state == "exists")
    assert not storage.exists("a/file.txt") or storage.read("a/file.txt") == (NEW if holds else CONTENT)


class Concurrent:
    """A body during whose upload another upload of the same file is stored."""

    def __init__(self, storage):
        self.storage = storage

    def read(self, size):
        """Let the other upload finish first."""
        self.storage.write("a/file.txt", b"concurrent")
        return bytes(size)


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize(
    ("state", "condition"),
    [
        ("exists", "If-Match: ETAG"),
        ("exists", "If-Match: *"),
        ("exists", 'If-None-Match: "x"'),
        ("exists", "If-Unmodified-Since: +0"),
        ("is missing", "If-None-Match: *"),
    ],
)
def test_a_condition_must_still_hold_when_the_upload_is_published(app, docs, link, condition, state, profile):
    """Of two concurrent uploads with the same condition, the second is refused; its use of the link is given back."""
    storage = app.extensions["storage"][profile]
    storage.write("a/file.txt", CONTENT)
    headers = condition_header(condition, storage.stat("a/file.txt"))
    if state == "is missing":
        storage.delete("a/file.txt")
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    url = link("upload", profile=profile, uses=1)

    status, _ = put(app, url, Concurrent(storage), CONTENT_LENGTH="3", **environ)

    assert (status, storage.read("a/file.txt")) == (412, b"concurrent")
    assert put(app, url, NEW, CONTENT_LENGTH=str(len(NEW)))[0] == 200


def test_an_exclusive_link_with_a_condition_is_a_conflict(client, docs, link):
    """The link's own limit does not depend on what the client sends."""
    response = client.put(link("upload", exclusive=True), data=NEW, headers={"If-Match": "*"})

    assert (response.status_code, docs.read("a/file.txt")) == (409, CONTENT)


@pytest.mark.parametrize(
    ("capabilities", "state", "condition", "status"),
    [
        (Capabilities(exclusive=True), "exists", "If-Match: ETAG", 501),
        (Capabilities(exclusive=True), "exists", 'If-Match: "x"', 412),
        (Capabilities(exclusive=True), "is missing", "If-None-Match: *", 200),
        (Capabilities(if_match=True), "exists", "If-Match: ETAG", 200),
        (Capabilities(if_match=True), "is missing", "If-None-Match: *", 501),
        (Capabilities(if_match=True), "exists", "If-None-Match: *", 412),
    ],
)
def test_a_condition_that_the_storage_cannot_check_atomically_is_refused(
    client, docs, link, capabilities, state, condition, status
):
    """501, unless it does not hold anyway; nothing is changed."""
    headers = condition_header(condition, docs.stat("a/file.txt"))
    if state == "is missing":
        docs.delete("a/file.txt")
    url = link("upload")
    docs.capabilities = capabilities

    response = client.put(url, data=NEW, headers=headers)

    assert response.status_code == status
    assert docs.exists("a/file.txt") == (state == "exists" or status == 200)
    assert not docs.exists("a/file.txt") or docs.read("a/file.txt") == (NEW if status == 200 else CONTENT)


@pytest.mark.parametrize(
    ("state", "condition", "status"),
    [
        ("exists", "If-Match: *", 200),
        ("exists", "If-Match: ETAG", 501),
        ("exists", 'If-Match: "x"', 412),
        ("exists", "If-None-Match: *", 412),
        ("exists", "If-Unmodified-Since: +0", 501),
        ("exists", "If-Unmodified-Since: -1", 412),
        ("is missing", "If-Match: *", 412),
        ("is missing", "If-None-Match: *", 501),
    ],
)
@pytest.mark.parametrize("profile", ["docs", "disk"])
def test_a_deletion_on_a_condition_is_checked_or_refused(app, client, link, profile, state, condition, status):
    """No storage deletes a certain version only, so a condition that names one is refused even if it holds."""
    storage = app.extensions["storage"][profile]
    storage.write("a/file.txt", CONTENT)
    headers = condition_header(condition, storage.stat("a/file.txt"))
    if state == "is missing":
        storage.delete("a/file.txt")

    response = client.delete(link("remove", profile=profile), headers=headers)

    assert response.status_code == status
    assert storage.exists("a/file.txt") == (state == "exists" and status != 200)


# -- bodies that were read before -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda: request.get_data(as_text=True),
        lambda: request.get_json(silent=True, force=True),
        lambda: request.data,
        lambda: request.form,
        lambda: (request.files, request.values),
        lambda: (request.get_data(), request.form),
    ],
    ids=["get_data", "get_json", "data", "form", "files and values", "get_data and form"],
)
@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", None])
def test_the_app_may_read_the_body_before_the_link_view(app, docs, client, link, content_type, method, read):
    """A `before_request` function that logs requests, for example; curl declares every body to be a form."""

    @app.before_request
    def log():
        read()

    body = b'{"a": 1}&b=%20' * 1000

    response = client.open(link("upload"), method=method, data=body, content_type=content_type)

    assert (response.status_code, docs.read("a/file.txt")) == (200, body)


def test_a_view_of_the_app_that_overrides_post_can_read_a_form(app, docs):
    """Only the methods that store the raw body ignore forms."""

    class FormView(LinkViewMixin, MethodView):
        def get_storage_backend(self):
            return docs

        def post(self, **view_args):
            return Response(request.form["name"])

    app.add_url_rule("/form", view_func=FormView.as_view("form"))

    assert app.test_client().post("/form", data={"name": "value"}).text == "value"
