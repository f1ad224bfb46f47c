# ruff: noqa: S101 - a test suite that is shipped
"""Content headers and metadata on storages that can keep them, and on storages that cannot."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ...backends.base import StorageBackend
from ...errors import IntegrityError, UnsupportedOperationError
from ...types import WriteOptions
from .base import ConformanceBase, names

_HEADERS: dict[str, Any] = {
    "content_type": "image/x-mine",
    "content_encoding": "gzip",
    "cache_control": "no-store",
    "content_disposition": "attachment",
    "metadata": {"a": "1"},
}


def _open(storage: StorageBackend, path: str, mode: str, arguments: dict[str, Any]) -> None:
    with storage.open(path, mode, **arguments):
        pass


def _writes(storage: StorageBackend, tmp_path: Path) -> dict[str, Callable[..., object]]:
    """Return every call that stores headers, by name; each takes a path and the headers."""
    local_file = tmp_path / "local.bin"
    local_file.write_bytes(b"1")
    calls: dict[str, Callable[..., object]] = {
        "write": lambda path, **headers: storage.write(path, b"1", **headers),
        "upload": lambda path, **headers: storage.upload(io.BytesIO(b"1"), path, **headers),
        "put": lambda path, **headers: storage.put(local_file, path, **headers),
        "save": lambda path, **headers: storage.save(path, b"1", **headers),
        "open": lambda path, **headers: _open(storage, path, "w", headers),
    }
    if storage.capabilities.read_write:
        storage.write("edit.csv", b"1")
        calls["edit"] = lambda path, **headers: _open(storage, path, "rw", headers)
    if storage.capabilities.multipart:
        parts = storage.multipart
        calls["multipart.put"] = lambda path, **headers: parts.put(path, b"1", WriteOptions(**headers))
        calls["multipart.create"] = lambda path, **headers: parts.abort(
            path, parts.create(path, WriteOptions(**headers))
        )
    return calls


class HeaderTests(ConformanceBase):
    """Headers are kept, refused, or dropped because that was asked for; they are never lost silently."""

    @pytest.mark.parametrize("content_type", ["text/csv", 'Text/CSV; charset="UTF-8"'])
    def test_a_content_type_that_the_name_implies_is_accepted(
        self, storage: StorageBackend, tmp_path: Path, content_type: str
    ) -> None:
        """Where no content type can be stored, nothing is lost: the file is served with this type anyway."""
        for name, call in _writes(storage, tmp_path).items():
            call(f"{name}.csv", content_type=content_type)

        expected = {content_type} if storage.capabilities.content_headers else {None}
        assert {storage.stat(path).content_type for path in names(storage)} == expected

    def test_headers_are_kept_or_refused(self, storage: StorageBackend, tmp_path: Path) -> None:
        """By every call alike; a refused call stores nothing and says how to drop the header."""
        calls = _writes(storage, tmp_path)
        capabilities = storage.capabilities
        before = names(storage)
        for header, value in _HEADERS.items():
            if capabilities.metadata if header == "metadata" else capabilities.content_headers:
                continue
            for name, call in calls.items():
                with pytest.raises(UnsupportedOperationError, match=f"store {header}.*unsupported_headers") as caught:
                    call(f"{name}.csv", **{header: value})
                assert caught.value.path == f"{name}.csv"

        assert names(storage) == before

    def test_headers_that_cannot_be_kept_can_be_dropped(self, storage: StorageBackend, tmp_path: Path) -> None:
        """With `unsupported_headers="drop"` every call accepts them, and keeps those that it can."""
        storage.unsupported_headers = "drop"
        capabilities = storage.capabilities

        for name, call in _writes(storage, tmp_path).items():
            call(f"{name}.csv", **_HEADERS)

        for path in names(storage):
            info = storage.stat(path)
            kept = {header: getattr(info, header) for header in _HEADERS if getattr(info, header)}
            assert kept == {
                header: value
                for header, value in _HEADERS.items()
                if (capabilities.metadata if header == "metadata" else capabilities.content_headers)
            }

    def test_a_confirmed_upload_has_the_expected_content_type(self, storage: StorageBackend) -> None:
        """It is the stored one; where none can be stored, it is the one that the name implies."""
        storage.write("a.csv", b"1", content_type="text/csv")
        storage.write("plain", b"1")

        for expected in ("text/csv", "text/"):
            assert storage.confirm_upload("a.csv", content_type=expected).path == "a.csv"
        for path in ("a.csv", "plain"):
            with pytest.raises(IntegrityError):
                storage.confirm_upload(path, content_type="image/png")

        assert names(storage) == []

    def test_a_content_type_that_was_dropped_is_not_expected(self, storage: StorageBackend) -> None:
        """With `unsupported_headers="drop"`, a file is confirmed although its type was dropped; not under another."""
        storage.unsupported_headers = "drop"
        storage.write("plain", b"1", content_type="image/png")
        storage.write("a.csv", b"1", content_type="text/csv; charset=latin-1")

        storage.confirm_upload("plain", content_type="image/png")
        storage.confirm_upload("a.csv", content_type="text/csv; charset=latin-1")
        with pytest.raises(IntegrityError):
            storage.confirm_upload("a.csv", content_type="image/png")

        assert names(storage) == ["plain"]
