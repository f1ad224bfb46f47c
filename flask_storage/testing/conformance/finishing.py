# ruff: noqa: S101 - a test suite that is shipped
"""How an upload in parts ends: on which conditions, with which promises and headers."""

from __future__ import annotations

import hashlib

import pytest

from ...backends.base import StorageBackend
from ...errors import FileExistsInStorageError, IntegrityError, PreconditionFailedError
from ...parts import Part
from ...values import WriteOptions
from .ground import Ground, needs, part_of

_PLAIN = WriteOptions()


def _two_parts(storage: StorageBackend, content: bytes) -> tuple[str, list[Part]]:
    """Begin an upload and send *content*, the last four bytes as a part of their own."""
    upload_id = storage.parts.begin("file.bin", _PLAIN)
    pieces = enumerate([content[:-4], content[-4:]], 1)
    return upload_id, [storage.parts.put_part("file.bin", upload_id, number, piece) for number, piece in pieces]


class Finishing(Ground):
    """What the end decides is decided before anything is visible."""

    @needs("parts", "exclusive", "part_conditions")
    def test_finishing_can_be_exclusive(self, storage: StorageBackend) -> None:
        """A name that was taken meanwhile is refused and left."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        part = parts.put_part("file.bin", upload_id, 1, b"late")
        storage.write("file.bin", b"early")

        with pytest.raises(FileExistsInStorageError):
            parts.finish("file.bin", upload_id, [part], WriteOptions(exclusive=True))

        assert storage.read("file.bin") == b"early"

    @needs("parts", "if_match", "part_conditions")
    def test_finishing_can_name_a_version(self, storage: StorageBackend) -> None:
        """Another version than the one named stays; the one that was named is replaced."""
        parts = storage.parts
        storage.write("file.bin", b"old")
        tag = storage.stat("file.bin").etag
        upload_id = parts.begin("file.bin", _PLAIN)
        part = parts.put_part("file.bin", upload_id, 1, b"new")

        with pytest.raises(PreconditionFailedError):
            parts.finish("file.bin", upload_id, [part], WriteOptions(if_match=f"{tag}-other"))
        assert storage.read("file.bin") == b"old"
        parts.finish("file.bin", upload_id, [part], WriteOptions(if_match=tag))

        assert storage.read("file.bin") == b"new"

    @needs("parts")
    def test_finishing_holds_to_a_promised_size(self, storage: StorageBackend) -> None:
        """Another size than was promised publishes nothing; the right one does."""
        parts = storage.parts
        content = part_of(parts, 1, 5) + b"last"
        upload_id, arrived = _two_parts(storage, content)

        with pytest.raises(IntegrityError):
            parts.finish("file.bin", upload_id, arrived, WriteOptions(size=len(content) + 1))
        assert storage.list() == []
        parts.finish("file.bin", upload_id, arrived, WriteOptions(size=len(content)))

        assert storage.read("file.bin") == content

    @needs("parts", "part_checksums")
    def test_finishing_holds_to_a_promised_checksum(self, storage: StorageBackend) -> None:
        """Another digest than was promised publishes nothing; the right one does."""
        parts = storage.parts
        content = part_of(parts, 1, 5) + b"last"
        upload_id, arrived = _two_parts(storage, content)

        wrong = hashlib.sha256(b"other").hexdigest()
        with pytest.raises(IntegrityError):
            parts.finish("file.bin", upload_id, arrived, WriteOptions(checksum=f"sha256:{wrong}"))
        assert storage.list() == []
        right = hashlib.sha256(content).hexdigest()
        parts.finish("file.bin", upload_id, arrived, WriteOptions(checksum=f"sha256:{right}"))

        assert storage.read("file.bin") == content

    @needs("parts", "content_headers", "metadata", "part_headers")
    def test_headers_at_the_end_win(self, storage: StorageBackend) -> None:
        """What is only known at the end replaces what was given at the beginning; the rest stays."""
        parts = storage.parts
        begun = WriteOptions(content_type="text/plain", cache_control="no-store", metadata={"a": "1"})
        upload_id = parts.begin("file.txt", begun)
        part = parts.put_part("file.txt", upload_id, 1, b"x")

        parts.finish("file.txt", upload_id, [part], WriteOptions(content_type="text/csv", metadata={"b": "2"}))

        info = storage.stat("file.txt")
        assert (info.content_type, info.cache_control, dict(info.metadata)) == ("text/csv", "no-store", {"b": "2"})
