# ruff: noqa: S101, PT017, ARG001 - a test suite that is shipped
"""Links: every argument is signed or refused, and none is ignored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import parse_qs, quote, urlsplit

import arrow
import pytest

from ... import signals
from ...backends.base import StorageBackend
from ...backends.internal_links import InternalLinksStorageBackend
from ...errors import ConfigurationError, InvalidLinkError, InvalidPathError, UnsupportedOperationError
from ...types import LINK_CONSTRAINTS, LinkContext, ShareLinkOperation
from .base import ConformanceBase, needs

_HOUR = timedelta(hours=1)
_OPERATIONS = ["download", "upload", "remove"]
_DOWNLOAD_AND_UPLOAD = ShareLinkOperation.download | ShareLinkOperation.upload
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


def _has_tokens(storage: StorageBackend) -> TypeGuard[InternalLinksStorageBackend]:
    """Return whether links of this storage contain tokens that this package signs; also true for a wrapper of one."""
    return hasattr(storage, "create_link_token")


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

    @pytest.mark.parametrize("operation", _OPERATIONS)
    def test_a_link_is_an_absolute_url(self, linked: StorageBackend, operation: str) -> None:
        """Every declared operation returns a URL; every other one is refused."""
        if linked.capabilities.links & ShareLinkOperation[operation]:
            assert urlsplit(linked.link_to("a b/ü.txt", operation, _HOUR)).scheme in ("http", "https")
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.link_to("a b/ü.txt", operation, _HOUR)

    @pytest.mark.parametrize("operation", ["du", "dur", "ur", "rud"])
    def test_operations_combine_where_declared(self, linked: StorageBackend, operation: str) -> None:
        """Several operations in one link are signed together or refused together."""
        capabilities = linked.capabilities
        if capabilities.link_combinations and not ShareLinkOperation.as_operation(operation) & ~capabilities.links:
            assert linked.link_to("file.txt", operation, _HOUR)
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.link_to("file.txt", operation, _HOUR)

    @needs("links")
    def test_every_expiry_type_is_accepted(self, linked: StorageBackend) -> None:
        """A timedelta, a naive datetime in UTC, an aware datetime and an Arrow are accepted; others are a TypeError."""
        operation = self._operation(linked)
        aware = datetime.now(UTC) + _HOUR

        for expire in (_HOUR, aware, aware.replace(tzinfo=None), arrow.get(aware)):
            assert linked.link_to("file.txt", operation, expire)
        with pytest.raises(TypeError):
            linked.link_to("file.txt", operation, 3600)  # type: ignore[arg-type]  # what is tested

    @needs("links")
    def test_links_to_returns_one_link_for_each_path(self, linked: StorageBackend) -> None:
        """The links are in the order of the paths; one invalid path refuses all of them."""
        operation = self._operation(linked)

        links = linked.links_to(["a.txt", "b.txt", "c.txt"], operation, _HOUR)

        assert len(set(links)) == 3
        assert linked.links_to([], operation, _HOUR) == []
        with pytest.raises(TypeError):
            linked.links_to("a.txt", operation, _HOUR)
        with pytest.raises(InvalidPathError):
            linked.links_to(["a.txt", "../b.txt"], operation, _HOUR)

    @needs("links")
    def test_a_link_sends_a_signal(self, linked: StorageBackend) -> None:
        """`link_issued` is sent with the path and the request of the link."""
        operation = self._operation(linked)
        issued = []

        def record(sender: StorageBackend, path: str, request: Any, **extra: Any) -> None:
            issued.append((path, request.operations, request.filename))

        with signals.link_issued.connected_to(record, sender=linked):
            linked.link_to("file.txt", operation, _HOUR, "Name.txt")

        assert issued == [("file.txt", operation, "Name.txt")]

    @pytest.mark.parametrize("constraint", sorted(LINK_CONSTRAINTS))
    def test_constraints_are_signed_or_refused(self, linked: StorageBackend, constraint: str) -> None:
        """A constraint that cannot be signed is refused, not ignored."""
        capabilities = linked.capabilities
        operation = self._operation(linked)
        if constraint in _UPLOAD_CONSTRAINTS:
            operation = ShareLinkOperation.upload

        if operation & capabilities.links and constraint in capabilities.link_constraints:
            assert linked.link_to("file.txt", operation, _HOUR, **_arguments(constraint))
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.link_to("file.txt", operation, _HOUR, **_arguments(constraint))

    @pytest.mark.parametrize("limit", ["size", "max_size"])
    def test_a_limit_of_zero_is_signed_or_refused(self, linked: StorageBackend, limit: str) -> None:
        """It permits an empty file only; it is not the same as no limit."""
        capabilities = linked.capabilities
        arguments: Any = {limit: 0}

        if capabilities.links & ShareLinkOperation.upload and limit in capabilities.link_constraints:
            assert linked.link_to("file.txt", "upload", _HOUR, **arguments)
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.link_to("file.txt", "upload", _HOUR, **arguments)

    @pytest.mark.parametrize("constraint", sorted(LINK_CONSTRAINTS - {"disposition"}))
    def test_upload_request_constraints_are_enforced_or_refused(self, linked: StorageBackend, constraint: str) -> None:
        """A constraint of an upload request is enforced by the service, or refused."""
        capabilities = linked.capabilities

        if capabilities.links & ShareLinkOperation.upload and constraint in capabilities.upload_constraints:
            assert linked.upload_request("file.txt", _HOUR, **_arguments(constraint)).url
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.upload_request("file.txt", _HOUR, **_arguments(constraint))

    def test_an_upload_request_describes_the_request(self, linked: StorageBackend) -> None:
        """It has method, absolute URL, headers and expiry; or it is refused."""
        if not linked.capabilities.links & ShareLinkOperation.upload:
            with pytest.raises(UnsupportedOperationError):
                linked.upload_request("file.txt", _HOUR)
            return

        if not linked.capabilities.content_headers:
            with pytest.raises(UnsupportedOperationError):
                linked.upload_request("a b/ü.txt", _HOUR, content_type="image/x-mine")
        upload = linked.upload_request("a b/ü.txt", _HOUR, content_type="text/plain")

        assert upload.method in ("PUT", "POST")
        assert urlsplit(upload.url).scheme in ("http", "https")
        assert upload.expires_at > datetime.now(UTC)
        assert all(isinstance(value, str) for value in {**upload.headers, **upload.fields}.values())

    def test_a_token_contains_the_request(self, linked: StorageBackend) -> None:
        """A token returns path, operations and constraints, and unpacks into the first two."""
        capabilities = linked.capabilities
        has_both = capabilities.link_combinations and _DOWNLOAD_AND_UPLOAD in capabilities.links
        if not (_has_tokens(linked) and has_both):
            self._links_differ(linked)
            return
        arguments: dict[str, Any] = {"content_type": "text/plain"} if capabilities.content_headers else {}
        if "max_size" in capabilities.link_constraints:
            arguments["max_size"] = 5
        token = linked.create_link_token(
            path="/a b/ü.txt", operation="du", expire=_HOUR, output_path='Ü "1".txt', **arguments
        )

        data = linked.verify_link(token)

        path, operations = data
        assert (path, operations) == ("a b/ü.txt", _DOWNLOAD_AND_UPLOAD)
        assert (data.allow_download, data.allow_upload, data.allow_remove) == (True, True, False)
        assert data.request is not None
        assert (data.request.filename, data.request.exclusive) == ('Ü "1".txt', False)
        assert {name: getattr(data.request, name) for name in arguments} == arguments

    def test_a_link_contains_its_token(self, linked: StorageBackend) -> None:
        """The token in a link is valid for this storage; a changed token is not."""
        if not _has_tokens(linked):
            self._links_differ(linked)
            return

        operation = self._operation(linked)
        [token] = parse_qs(urlsplit(linked.link_to("file.txt", operation, _HOUR)).query)["token"]

        assert linked.verify_link(token) == linked.deserialize_link_token(token) == ("file.txt", operation)
        flipped = token[:-3] + ("A" if token[-3] != "A" else "B") + token[-2:]
        for forged in ("", "x", token + "=", token[:-1], flipped, token.partition(".")[2]):
            with pytest.raises(InvalidLinkError):
                linked.verify_link(forged)

    @pytest.mark.parametrize("token", ["", "x", "a.b.c", "\x00", "é" * 100])
    def test_an_invalid_token_is_refused(self, linked: StorageBackend, token: str) -> None:
        """It raises `InvalidLinkError`, or `UnsupportedOperationError` where the service verifies links itself."""
        with pytest.raises((InvalidLinkError, UnsupportedOperationError)):
            linked.verify_link(token)

    def test_an_unconfigured_storage_says_what_is_missing(self, storage: StorageBackend) -> None:
        """Without an app, a storage that needs a secret key says so; any other creates links."""
        if storage.link_context is None and _has_tokens(storage):
            with pytest.raises(ConfigurationError, match="secret_key"):
                storage.link_to("file.txt", self._operation(storage), _HOUR)
        else:
            self._links_differ(storage)

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

    def _links_differ(self, storage: StorageBackend) -> None:
        """Check the links of a service that signs them itself, without reading its signatures."""
        for operation in ShareLinkOperation:
            if operation & storage.capabilities.links:
                one, other = (storage.link_to(path, operation, _HOUR) for path in ("a.txt", "b.txt"))
                assert one != other
                assert "a.txt" in one

    def _operation(self, storage: StorageBackend) -> ShareLinkOperation:
        """Return an operation that links of this storage support."""
        supported = storage.capabilities.links
        return next((each for each in ShareLinkOperation if each & supported), ShareLinkOperation.download)
