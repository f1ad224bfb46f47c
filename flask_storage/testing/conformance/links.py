# ruff: noqa: S101, PT017, ARG001 - a test suite that is shipped
"""Links: every argument is enforced by the service or by a link of the app, or refused, and none is ignored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import arrow
import pytest

from ... import signals
from ...backends.base import StorageBackend
from ...errors import ConfigurationError, InvalidLinkError, InvalidPathError, UnsupportedOperationError
from ...types import LINK_CONSTRAINTS, LinkContext, ShareLinkOperation
from .base import ConformanceBase, needs

_HOUR = timedelta(hours=1)
_OPERATIONS = ["download", "upload", "remove"]
_UPLOAD_CONSTRAINTS = {"size", "max_size", "checksum", "exclusive"}
_VALUES = {
    "disposition": "inline",
    "size": 10,
    "max_size": 10,
    "checksum": f"md5:{'0' * 32}",  # the only algorithm that every service with checksums supports
    "exclusive": True,
    "uses": 1,
    "ip": "203.0.113.0/24",
}


def _arguments(constraint: str) -> Any:
    """Return keyword arguments with a valid value for *constraint*."""
    return {constraint: _VALUES[constraint]}


def _link_url(token: str, endpoint: str | None) -> str:
    return f"https://app.example.com/storage/conformance?token={quote(token)}"


class LinkTests(ConformanceBase):
    """The operations that create URLs."""

    @pytest.fixture
    def linked(self, storage: StorageBackend) -> StorageBackend:
        """Return the storage as a profile of an app, with a secret key and an address for links."""
        if storage.link_context is None:
            storage.set_link_context(
                LinkContext(
                    profile="conformance", secrets=lambda: (b"conformance" * 4,), strict=False, link_url=_link_url
                )
            )
        return storage

    @pytest.mark.parametrize("operation", [*_OPERATIONS, "du", "dur", "ur", "rud"])
    def test_a_link_is_an_absolute_url(self, linked: StorageBackend, operation: str) -> None:
        """For every operation and every combination of them: what the service cannot sign, the app can."""
        assert urlsplit(linked.link_to("a b/ü.txt", operation, _HOUR)).scheme in ("http", "https")

    def test_every_expiry_type_is_accepted(self, linked: StorageBackend) -> None:
        """A timedelta, a naive datetime in UTC, an aware datetime and an Arrow are accepted; others are a TypeError."""
        aware = datetime.now(UTC) + _HOUR

        for expire in (_HOUR, aware, aware.replace(tzinfo=None), arrow.get(aware)):
            assert linked.link_to("file.txt", "download", expire)
        with pytest.raises(TypeError):
            linked.link_to("file.txt", "download", 3600)  # type: ignore[arg-type]  # what is tested

    def test_a_link_without_an_expiry_is_valid_for_an_hour(self, linked: StorageBackend) -> None:
        """Unless the app sets another lifetime."""
        before = datetime.now(UTC)

        expires_at = linked.upload_request("file.txt").expires_at

        assert before + _HOUR <= expires_at <= datetime.now(UTC) + _HOUR + timedelta(seconds=1)

    def test_links_to_returns_one_link_for_each_path(self, linked: StorageBackend) -> None:
        """The links are in the order of the paths; one invalid path refuses all of them."""
        links = linked.links_to(["a.txt", "b.txt", "c.txt"], "download", _HOUR)

        assert len(set(links)) == 3
        assert linked.links_to([], "download", _HOUR) == []
        with pytest.raises(TypeError):
            linked.links_to("a.txt", "download", _HOUR)
        with pytest.raises(InvalidPathError):
            linked.links_to(["a.txt", "../b.txt"], "download", _HOUR)

    def test_a_link_sends_a_signal(self, linked: StorageBackend) -> None:
        """`link_issued` is sent with the path and the request of the link."""
        issued = []

        def record(sender: StorageBackend, path: str, request: Any, **extra: Any) -> None:
            issued.append((path, request.operations, request.filename))

        with signals.link_issued.connected_to(record, sender=linked):
            linked.link_to("file.txt", "download", _HOUR, "Name.txt")

        assert issued == [("file.txt", ShareLinkOperation.download, "Name.txt")]

    @pytest.mark.parametrize("constraint", sorted(LINK_CONSTRAINTS))
    def test_every_constraint_is_enforced(self, linked: StorageBackend, constraint: str) -> None:
        """By the service or by the app; only `exclusive` needs a storage that can refuse a write atomically."""
        operation = "upload" if constraint in _UPLOAD_CONSTRAINTS else "download"
        capabilities = linked.capabilities

        calls: list[tuple[frozenset[str], Callable[[], str]]] = [
            (capabilities.link_constraints, lambda: linked.link_to("a", operation, _HOUR, **_arguments(constraint))),
            (capabilities.link_constraints, lambda: linked.links_to(["a"], operation, **_arguments(constraint))[0]),
            (capabilities.upload_constraints, lambda: linked.upload_request("a", _HOUR, **_arguments(constraint)).url),
        ]

        for constraints, make in calls:
            if constraint == "exclusive" and not (capabilities.exclusive or constraint in constraints):
                with pytest.raises(UnsupportedOperationError, match="exclusive"):
                    make()
            else:
                assert urlsplit(make()).scheme in ("http", "https")

    @pytest.mark.parametrize("limit", ["size", "max_size"])
    def test_a_limit_of_zero_is_a_limit(self, linked: StorageBackend, limit: str) -> None:
        """It permits an empty file only; it is not the same as no limit."""
        arguments: Any = {limit: 0}

        assert linked.link_to("file.txt", "upload", _HOUR, **arguments)
        assert linked.upload_request("file.txt", _HOUR, **arguments).url
        data = linked.verify_link(linked.create_link_token(path="file.txt", operation="upload", **arguments))
        assert data.request is not None
        assert getattr(data.request, limit) == 0

    @pytest.mark.parametrize("constraint", [None, *sorted(LINK_CONSTRAINTS)])
    def test_without_an_app_the_service_signs_what_it_enforces(
        self, storage: StorageBackend, constraint: str | None
    ) -> None:
        """Everything else is refused, not ignored, and the error says what a link of the app needs."""
        if storage.link_context is not None:
            return
        operation = "upload" if constraint in _UPLOAD_CONSTRAINTS else "download"
        arguments = {} if constraint is None else _arguments(constraint)
        capabilities = storage.capabilities
        is_native = constraint is None or constraint in capabilities.link_constraints

        if storage._signs_links() and is_native and ShareLinkOperation[operation] in capabilities.links:
            assert storage.link_to("file.txt", operation, _HOUR, **arguments)
        else:
            with pytest.raises((ConfigurationError, UnsupportedOperationError), match=r"app|exclusive|secret_key"):
                storage.link_to("file.txt", operation, _HOUR, **arguments)

    def test_an_upload_link_stores_one_exact_type(self, linked: StorageBackend) -> None:
        """A prefix of types, which `confirm_upload` accepts, would be stored as it is."""
        with pytest.raises(ValueError, match="exact content type"):
            linked.upload_request("file.png", _HOUR, content_type="image/")

    def test_an_upload_request_describes_the_request(self, linked: StorageBackend) -> None:
        """It has method, absolute URL, headers and expiry."""
        if not linked.capabilities.content_headers:
            with pytest.raises(UnsupportedOperationError):
                linked.upload_request("a b/ü.txt", _HOUR, content_type="image/x-mine")

        upload = linked.upload_request("a b/ü.txt", _HOUR, content_type="text/plain")

        assert upload.method in ("PUT", "POST")
        assert urlsplit(upload.url).scheme in ("http", "https")
        assert upload.expires_at > datetime.now(UTC)
        assert all(isinstance(value, str) for value in {**upload.headers, **upload.fields}.values())

    @pytest.mark.parametrize("content_type", [None, "text/plain", "text/"])
    def test_an_upload_form_describes_the_form(self, linked: StorageBackend, content_type: str | None) -> None:
        """By the service or by the app: an absolute URL, and the fields to send before the file."""
        if not linked.capabilities.exclusive:
            with pytest.raises(UnsupportedOperationError, match="exclusive"):
                linked.create_upload_form("a.txt", _HOUR, max_size=5, exclusive=True)

        for uses in (None, 1):
            form = linked.create_upload_form("a b/ü.txt", max_size=5, content_type=content_type, uses=uses)

            assert form.method == "POST"
            assert not form.headers
            assert urlsplit(form.url).scheme in ("http", "https")
            assert form.expires_at > datetime.now(UTC)
            if content_type != "text/":
                assert form.fields["Content-Type"] == (content_type or "application/octet-stream")
            else:
                assert "Content-Type" not in form.fields

    def test_a_token_contains_the_request(self, linked: StorageBackend) -> None:
        """A token returns path, operations and constraints, and unpacks into the first two."""
        arguments: dict[str, Any] = {"max_size": 5, "uses": 2, "ip": "203.0.113.0/24"}
        if linked.capabilities.content_headers:
            arguments["content_type"] = "text/plain"
        token = linked.create_link_token(
            path="/a b/ü.txt", operation="du", expire=_HOUR, output_path='Ü "1".txt', **arguments
        )

        data = linked.verify_link(token)

        path, operations = data
        assert (path, operations) == ("a b/ü.txt", ShareLinkOperation.download | ShareLinkOperation.upload)
        assert (data.allow_download, data.allow_upload, data.allow_remove) == (True, True, False)
        assert data.request is not None
        assert (data.request.filename, data.request.exclusive) == ('Ü "1".txt', False)
        assert {name: getattr(data.request, name) for name in arguments} == arguments

    def test_a_link_of_the_app_contains_its_token(self, linked: StorageBackend) -> None:
        """The token in a link is valid for this storage; a changed token is not."""
        [token] = parse_qs(urlsplit(linked.link_to("file.txt", "dur", _HOUR, uses=3)).query)["token"]

        assert linked.verify_link(token) == linked.deserialize_link_token(token) == ("file.txt", ~ShareLinkOperation(0))
        flipped = token[:-3] + ("A" if token[-3] != "A" else "B") + token[-2:]
        for forged in ("", "x", token + "=", token[:-1], flipped, token.partition(".")[2]):
            with pytest.raises(InvalidLinkError):
                linked.verify_link(forged)

    @pytest.mark.parametrize("token", ["", "x", "a.b.c", "\x00", "é" * 100])
    def test_an_invalid_token_is_refused(self, linked: StorageBackend, token: str) -> None:
        """It raises `InvalidLinkError`."""
        with pytest.raises(InvalidLinkError):
            linked.verify_link(token)

    def test_links_differ(self, storage: StorageBackend) -> None:
        """Links of the service to two files differ, and contain the path."""
        for operation in ShareLinkOperation:
            if storage._signs_links() and operation & storage.capabilities.links:
                one, other = (storage.link_to(path, operation, _HOUR) for path in ("a.txt", "b.txt"))
                assert one != other
                assert "a.txt" in one

    def test_a_short_link_is_one_of_the_service(self, linked: StorageBackend) -> None:
        """The link view redirects to it; it never stands for a limited number of uses."""
        data = linked.verify_link(linked.create_link_token(path="a.txt", operation="d"))
        limited = linked.verify_link(linked.create_link_token(path="a.txt", operation="d", uses=1))
        assert data.request is not None
        assert limited.request is not None

        link = linked.short_link("a.txt", data.request)

        assert (link is not None) == (
            linked._signs_links() and ShareLinkOperation.download in linked.capabilities.links
        )
        assert linked.short_link("a.txt", limited.request) is None

    def test_a_base_url_makes_public_urls(self, storage: StorageBackend) -> None:
        """With a `base_url` every path has a quoted URL, whether or not the file exists."""
        storage.base_url = "https://cdn.example.com/media/"

        assert storage.url("a b/100%/ü#?.txt") == "https://cdn.example.com/media/a%20b/100%25/%C3%BC%23%3F.txt"
        storage.base_url = "/media"
        assert storage.url("/a.txt") == "/media/a.txt"

    def test_without_a_base_url_there_is_no_public_url(self, storage: StorageBackend) -> None:
        """Without a `base_url` the service gives a public URL, or the error names `link_to`."""
        storage.base_url = None

        try:
            url = storage.url("file.txt")
        except UnsupportedOperationError as error:
            assert "link_to" in str(error)
        else:
            assert urlsplit(url).scheme in ("http", "https")

    @needs("local_paths")
    def test_a_local_path_is_where_the_file_is(self, storage: StorageBackend) -> None:
        """A local storage returns the path of the stored file; any other declares that it has none."""
        storage.write("a b/ü.txt", b"abc")

        local_path = storage.local_path("a b/ü.txt")

        if local_path is None:
            raise UnsupportedOperationError("there is no local path")
        assert isinstance(local_path, Path)
        assert local_path.read_bytes() == b"abc"
