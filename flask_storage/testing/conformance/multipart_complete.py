# ruff: noqa: S101 - a test suite that is shipped
"""Completing a multipart upload: conditions, expected size and checksum, headers."""

from __future__ import annotations

import hashlib

import pytest

from ...backends.base import StorageBackend
from ...errors import FileExistsInStorageError, IntegrityError, PreconditionFailedError
from ...multipart import Part
from ...types import WriteOptions
from .base import ConformanceBase, needs, part_content

_DEFAULTS = WriteOptions()


def _two_parts(storage: StorageBackend, content: bytes) -> tuple[str, list[Part]]:
    """Create an upload of *content* in two parts; the second one has the last four bytes."""
    upload_id = storage.multipart.create("file.bin", _DEFAULTS)
    pieces = enumerate([content[:-4], content[-4:]], 1)
    return upload_id, [storage.multipart.upload_part("file.bin", upload_id, number, piece) for number, piece in pieces]


class MultipartCompleteTests(ConformanceBase):
    """All checks are made before the file is published."""

    @needs("multipart", "exclusive", "multipart_conditions")
    def test_complete_can_be_exclusive(self, storage: StorageBackend) -> None:
        """A file that was created concurrently is refused and unchanged."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        part = parts.upload_part("file.bin", upload_id, 1, b"late")
        storage.write("file.bin", b"early")

        with pytest.raises(FileExistsInStorageError):
            parts.complete("file.bin", upload_id, [part], WriteOptions(exclusive=True))

        assert storage.read("file.bin") == b"early"

    @needs("multipart", "if_match", "multipart_conditions")
    def test_complete_can_use_if_match(self, storage: StorageBackend) -> None:
        """A file with the given etag is replaced; one with another etag is unchanged."""
        parts = storage.multipart
        storage.write("file.bin", b"old")
        tag = storage.stat("file.bin").etag
        upload_id = parts.create("file.bin", _DEFAULTS)
        part = parts.upload_part("file.bin", upload_id, 1, b"new")

        with pytest.raises(PreconditionFailedError):
            parts.complete("file.bin", upload_id, [part], WriteOptions(if_match=f"{tag}-other"))
        assert storage.read("file.bin") == b"old"
        parts.complete("file.bin", upload_id, [part], WriteOptions(if_match=tag))

        assert storage.read("file.bin") == b"new"

    @needs("multipart")
    def test_complete_checks_the_expected_size(self, storage: StorageBackend) -> None:
        """With a size other than the expected one nothing is published."""
        parts = storage.multipart
        content = part_content(parts, 1, 5) + b"last"
        upload_id, uploaded = _two_parts(storage, content)

        with pytest.raises(IntegrityError):
            parts.complete("file.bin", upload_id, uploaded, WriteOptions(size=len(content) + 1))
        assert storage.list() == []
        parts.complete("file.bin", upload_id, uploaded, WriteOptions(size=len(content)))

        assert storage.read("file.bin") == content

    @needs("multipart", "multipart_checksums")
    def test_complete_checks_the_expected_checksum(self, storage: StorageBackend) -> None:
        """With a checksum other than the expected one nothing is published."""
        parts = storage.multipart
        content = part_content(parts, 1, 5) + b"last"
        upload_id, uploaded = _two_parts(storage, content)

        wrong = hashlib.sha256(b"other").hexdigest()
        with pytest.raises(IntegrityError):
            parts.complete("file.bin", upload_id, uploaded, WriteOptions(checksum=f"sha256:{wrong}"))
        assert storage.list() == []
        right = hashlib.sha256(content).hexdigest()
        parts.complete("file.bin", upload_id, uploaded, WriteOptions(checksum=f"sha256:{right}"))

        assert storage.read("file.bin") == content

    @needs("multipart", "content_headers", "metadata", "multipart_headers")
    def test_headers_given_to_complete_win(self, storage: StorageBackend) -> None:
        """Headers given to `complete` replace those given to `create`; the others stay."""
        parts = storage.multipart
        options = WriteOptions(content_type="text/plain", cache_control="no-store", metadata={"a": "1"})
        upload_id = parts.create("file.txt", options)
        part = parts.upload_part("file.txt", upload_id, 1, b"x")

        parts.complete("file.txt", upload_id, [part], WriteOptions(content_type="text/csv", metadata={"b": "2"}))

        info = storage.stat("file.txt")
        assert (info.content_type, info.cache_control, dict(info.metadata)) == ("text/csv", "no-store", {"b": "2"})
