# ruff: noqa: S101 - a test suite that is shipped
"""Options of a write: headers, metadata, expected size and checksum, conditions."""

from __future__ import annotations

import hashlib
import io

import pytest

from ...backends.base import StorageBackend
from ...errors import FileExistsInStorageError, IntegrityError, PreconditionFailedError
from .base import CHUNK, ConformanceBase, content_of, names, needs


class WriteOptionsTests(ConformanceBase):
    """Every option has an effect or is refused; none is ignored."""

    @needs("content_headers")
    def test_content_headers_are_kept(self, storage: StorageBackend) -> None:
        """`stat` returns content type, encoding, cache control and disposition unchanged."""
        headers = {
            "content_type": "text/plain; charset=utf-8",
            "content_encoding": "gzip",
            "cache_control": "public, max-age=3600",
            "content_disposition": 'attachment; filename="a.txt"',
        }

        storage.write("file.txt", b"abc", **headers)  # type: ignore[arg-type]  # all four are text

        info = storage.stat("file.txt")
        assert {name: getattr(info, name) for name in headers} == headers

    @needs("content_headers")
    def test_replacing_a_file_replaces_its_headers(self, storage: StorageBackend) -> None:
        """A new version has none of the headers of the old one."""
        storage.write("file.txt", b"abc", content_type="text/plain", cache_control="no-store")

        storage.write("file.txt", b"def", content_type="text/csv")

        info = storage.stat("file.txt")
        assert (info.content_type, info.cache_control) == ("text/csv", None)

    @needs("content_headers")
    def test_keg_storage_extra_args_are_accepted(self, storage: StorageBackend) -> None:
        """`open` and `upload` accept keg-storage's `extra_args`."""
        with storage.open("opened.txt", "w", {"ContentType": "text/plain"}) as writer:
            writer.write(b"abc")
        storage.upload(io.BytesIO(b"abc"), "uploaded.txt", extra_args={"CacheControl": "no-store"})

        assert storage.stat("opened.txt").content_type == "text/plain"
        assert storage.stat("uploaded.txt").cache_control == "no-store"

    @needs("metadata")
    def test_metadata_is_kept(self, storage: StorageBackend) -> None:
        """`stat` returns the app's keys and values unchanged, including non-ASCII text."""
        metadata = {"owner": "Zoë", "order_no": "17", "note": "a=b; c, d"}

        storage.write("file.txt", b"abc", metadata=metadata)

        assert dict(storage.stat("file.txt").metadata) == metadata

    @pytest.mark.parametrize("written", [0, 4, 6])
    def test_the_expected_size_is_checked(self, storage: StorageBackend, written: int) -> None:
        """With fewer or more bytes than expected nothing is published, and an existing file is unchanged."""
        storage.write("file.bin", b"kept")

        with pytest.raises(IntegrityError) as caught, storage.open("file.bin", "w", size=5) as writer:
            writer.write(bytes(written))

        assert caught.value.path == "file.bin"
        assert caught.value.backend == storage.name
        assert storage.read("file.bin") == b"kept"

    @pytest.mark.parametrize("size", [0, 1, CHUNK + 1])
    def test_a_correct_size_and_checksum_are_accepted(self, storage: StorageBackend, size: int) -> None:
        """Content with the expected size and checksum is published."""
        content = content_of(size)
        digest = hashlib.sha256(content).hexdigest()

        storage.upload(io.BytesIO(content), "file.bin", size=size, checksum=f"sha256:{digest.upper()}")

        assert storage.read("file.bin") == content

    def test_the_expected_checksum_is_checked(self, storage: StorageBackend) -> None:
        """With another checksum than expected nothing is published, and an existing file is unchanged."""
        storage.write("file.bin", b"kept")
        expected = "sha256:" + hashlib.sha256(b"right").hexdigest()

        with pytest.raises(IntegrityError):
            storage.write("file.bin", b"wrong", checksum=expected)

        assert storage.read("file.bin") == b"kept"

    @needs("exclusive")
    def test_an_exclusive_write_refuses_an_existing_file(self, storage: StorageBackend) -> None:
        """The first of two exclusive writes creates the file; the second is refused and changes nothing."""
        storage.write("file.bin", b"first", exclusive=True)

        with pytest.raises(FileExistsInStorageError) as caught:
            storage.write("file.bin", b"second", exclusive=True)

        assert isinstance(caught.value, FileExistsError)
        assert caught.value.path == "file.bin"
        assert caught.value.backend == storage.name
        assert storage.read("file.bin") == b"first"

    @needs("exclusive")
    def test_the_first_of_two_exclusive_writers_to_publish_wins(self, storage: StorageBackend) -> None:
        """If another writer creates the file first, closing the writer raises and publishes nothing."""
        slow = storage.open("file.bin", "w", exclusive=True)
        slow.write(b"slow")
        storage.write("file.bin", b"quick", exclusive=True)

        with pytest.raises(FileExistsInStorageError):
            slow.close()

        assert slow.closed
        assert storage.read("file.bin") == b"quick"
        assert names(storage) == ["file.bin"]

    @needs("if_match")
    def test_a_write_can_use_if_match(self, storage: StorageBackend) -> None:
        """A file with the given etag is replaced; one with another etag, or a missing one, is unchanged."""
        storage.write("file.bin", b"first")
        first = storage.stat("file.bin").etag or "none"

        storage.write("file.bin", b"second", if_match=first)

        with pytest.raises(PreconditionFailedError) as caught:
            storage.write("file.bin", b"third", if_match=first)
        assert caught.value.path == "file.bin"
        with pytest.raises(PreconditionFailedError):
            storage.write("new.bin", b"third", if_match=first)
        assert storage.read("file.bin") == b"second"
        assert names(storage) == ["file.bin"]
