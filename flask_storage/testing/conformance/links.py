# ruff: noqa: S101, PT017, ARG001 - a test suite that is shipped
"""Links: what is signed, what is refused, and that nothing is dropped in silence."""

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
_BOTH_WAYS = ShareLinkOperation.download | ShareLinkOperation.upload
_OF_UPLOADS = {"size", "max_size", "checksum", "exclusive"}
_VALUES = {
    "disposition": "inline",
    "size": 10,
    "max_size": 10,
    "checksum": f"md5:{'0' * 32}",  # the one that every place knows that compares any
    "exclusive": True,
    "uses": 1,
    "ip": "203.0.113.0/24",
}


def _has_tokens(storage: StorageBackend) -> TypeGuard[InternalLinksStorageBackend]:
    """Whether links of this storage carry tokens of ours; a storage that wraps another answers as that one does."""
    return hasattr(storage, "create_link_token")


def _terms(term: str) -> Any:
    """Return keyword arguments with a value that makes sense for *term*."""
    return {term: _VALUES[term]}


def _link_url(token: str, endpoint: str | None) -> str:
    return f"https://app.example.com/storage/conformance?token={quote(token)}"


class LinkTests(ConformanceBase):
    """Verbs that make URLs."""

    @pytest.fixture
    def linked(self, storage: StorageBackend) -> StorageBackend:
        """Return the storage as a profile of an app, which lends it a secret and an address where it needs them."""
        if storage.link_context is None:
            storage.set_link_context(
                LinkContext(
                    profile="conformance", secrets=lambda: (b"conformance" * 4,), strict=False, link_url=_link_url
                )
            )
        return storage

    @pytest.mark.parametrize("operation", _OPERATIONS)
    def test_a_link_is_an_absolute_url(self, linked: StorageBackend, operation: str) -> None:
        """Each operation that is declared makes a URL; each that is not is refused."""
        if linked.capabilities.links & ShareLinkOperation[operation]:
            assert urlsplit(linked.link_to("a b/ü.txt", operation, _HOUR)).scheme in ("http", "https")
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.link_to("a b/ü.txt", operation, _HOUR)

    @pytest.mark.parametrize("operation", ["du", "dur", "ur", "rud"])
    def test_operations_combine_where_declared(self, linked: StorageBackend, operation: str) -> None:
        """Several operations in one link are signed together or refused together, never in part."""
        able = linked.capabilities
        if able.link_combinations and not ShareLinkOperation.as_operation(operation) & ~able.links:
            assert linked.link_to("file.txt", operation, _HOUR)
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.link_to("file.txt", operation, _HOUR)

    @needs("links")
    def test_every_expiry_type_is_accepted(self, linked: StorageBackend) -> None:
        """A span, a naive moment in UTC, an aware one and an Arrow are all good; other things are a TypeError."""
        operation = self._operation(linked)
        aware = datetime.now(UTC) + _HOUR

        for expire in (_HOUR, aware, aware.replace(tzinfo=None), arrow.get(aware)):
            assert linked.link_to("file.txt", operation, expire)
        with pytest.raises(TypeError):
            linked.link_to("file.txt", operation, 3600)  # type: ignore[arg-type]  # wrong on purpose

    @needs("links")
    def test_links_to_returns_one_link_for_each_path(self, linked: StorageBackend) -> None:
        """Many links come in the order of their paths; one bad path makes none."""
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
        """Whoever audits hears which link was issued, on which terms."""
        operation = self._operation(linked)
        issued = []

        def note(sender: StorageBackend, path: str, request: Any, **extra: Any) -> None:
            issued.append((path, request.operations, request.filename))

        with signals.link_issued.connected_to(note, sender=linked):
            linked.link_to("file.txt", operation, _HOUR, "Name.txt")

        assert issued == [("file.txt", operation, "Name.txt")]

    @pytest.mark.parametrize("term", sorted(LINK_CONSTRAINTS))
    def test_constraints_are_signed_or_refused(self, linked: StorageBackend, term: str) -> None:
        """A term that a place cannot sign is refused, not left out."""
        able = linked.capabilities
        operation = self._operation(linked)
        if term in _OF_UPLOADS:
            operation = ShareLinkOperation.upload

        if operation & able.links and term in able.link_constraints:
            assert linked.link_to("file.txt", operation, _HOUR, **_terms(term))
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.link_to("file.txt", operation, _HOUR, **_terms(term))

    @pytest.mark.parametrize("term", sorted(LINK_CONSTRAINTS - {"disposition"}))
    def test_upload_request_constraints_are_enforced_or_refused(self, linked: StorageBackend, term: str) -> None:
        """What a browser uploads is held to what was asked, or nothing is promised."""
        able = linked.capabilities

        if able.links & ShareLinkOperation.upload and term in able.upload_constraints:
            assert linked.upload_request("file.txt", _HOUR, **_terms(term)).url
        else:
            with pytest.raises(UnsupportedOperationError):
                linked.upload_request("file.txt", _HOUR, **_terms(term))

    def test_an_upload_request_describes_the_request(self, linked: StorageBackend) -> None:
        """Method, absolute URL, headers and expiry: all that a browser needs, or a refusal."""
        if not linked.capabilities.links & ShareLinkOperation.upload:
            with pytest.raises(UnsupportedOperationError):
                linked.upload_request("file.txt", _HOUR)
            return

        content_type: str | None = "text/plain"
        if not linked.capabilities.content_headers:
            with pytest.raises(UnsupportedOperationError):
                linked.upload_request("a b/ü.txt", _HOUR, content_type=content_type)
            content_type = None
        instruction = linked.upload_request("a b/ü.txt", _HOUR, content_type=content_type)

        assert instruction.method in ("PUT", "POST")
        assert urlsplit(instruction.url).scheme in ("http", "https")
        assert instruction.expires_at > datetime.now(UTC)
        assert all(isinstance(value, str) for value in {**instruction.headers, **instruction.fields}.values())

    def test_a_token_contains_the_request(self, linked: StorageBackend) -> None:
        """Where tokens are ours, one comes back as path, operations and terms, and unpacks into the first two."""
        able = linked.capabilities
        if not (_has_tokens(linked) and able.link_combinations and _BOTH_WAYS in able.links):
            self._links_differ(linked)
            return
        terms: dict[str, Any] = {"content_type": "text/plain"} if able.content_headers else {}
        if "max_size" in able.link_constraints:
            terms["max_size"] = 5
        token = linked.create_link_token(
            path="/a b/ü.txt", operation="du", expire=_HOUR, output_path='Ü "1".txt', **terms
        )

        data = linked.verify_link(token)

        path, operations = data
        assert (path, operations) == ("a b/ü.txt", _BOTH_WAYS)
        assert (data.allow_download, data.allow_upload, data.allow_remove) == (True, True, False)
        assert data.request is not None
        assert (data.request.filename, data.request.exclusive) == ('Ü "1".txt', False)
        assert {name: getattr(data.request, name) for name in terms} == terms

    def test_a_link_contains_its_token(self, linked: StorageBackend) -> None:
        """Where tokens are ours, the link holds one that this storage, and no other profile's, honours."""
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
        """It is refused as no link of ours, or as what the place itself would have to verify."""
        with pytest.raises((InvalidLinkError, UnsupportedOperationError)):
            linked.verify_link(token)

    def test_an_unconfigured_storage_says_what_is_missing(self, storage: StorageBackend) -> None:
        """Before an app lends a secret, a storage that needs one says what is missing; any other needs no app."""
        if storage.link_context is None and _has_tokens(storage):
            with pytest.raises(ConfigurationError, match="secret_key"):
                storage.link_to("file.txt", self._operation(storage), _HOUR)
        else:
            self._links_differ(storage)

    def test_a_base_url_makes_public_urls(self, storage: StorageBackend) -> None:
        """With a public address every path has a URL, quoted, whether or not the file exists."""
        storage.base_url = "https://cdn.example.com/media/"

        assert storage.url("a b/100%/ü#?.txt") == "https://cdn.example.com/media/a%20b/100%25/%C3%BC%23%3F.txt"
        storage.base_url = "/media"
        assert storage.url("/a.txt") == "/media/a.txt"

    def test_without_a_base_url_there_is_no_public_url(self, storage: StorageBackend) -> None:
        """A storage has a public URL or says that it has none."""
        storage.base_url = None

        try:
            url = storage.url("file.txt")
        except UnsupportedOperationError as error:
            assert "link_to" in str(error)
        else:
            assert urlsplit(url).scheme in ("http", "https")

    @needs("local_paths")
    def test_a_local_path_is_where_the_file_is(self, storage: StorageBackend) -> None:
        """A local storage says where a file is; any other says None, and declares so."""
        storage.write("a b/ü.txt", b"abc")

        local_path = storage.local_path("a b/ü.txt")

        if local_path is None:
            raise UnsupportedOperationError("there is no local path")
        assert isinstance(local_path, Path)
        assert local_path.read_bytes() == b"abc"

    def _links_differ(self, storage: StorageBackend) -> None:
        """Check what can be seen of links whose inside is the place's own."""
        for operation in ShareLinkOperation:
            if operation & storage.capabilities.links:
                one, other = (storage.link_to(path, operation, _HOUR) for path in ("a.txt", "b.txt"))
                assert one != other
                assert "a.txt" in one

    def _operation(self, storage: StorageBackend) -> ShareLinkOperation:
        """Return an operation that a link of this storage may carry."""
        able = storage.capabilities.links
        return next((operation for operation in ShareLinkOperation if operation & able), ShareLinkOperation.download)
