# ruff: noqa: S101 - a test suite that is shipped
"""What is kept beside the content, what is promised of it, and on which condition it is written."""

from __future__ import annotations

import hashlib
import io

import pytest

from ...backends.base import StorageBackend
from ...errors import FileExistsInStorageError, IntegrityError, PreconditionFailedError
from .base import CHUNK, ConformanceBase, content_of, names, needs


class WriteOptionsTests(ConformanceBase):
    """Every option is honoured or refused; none is dropped."""

    @needs("content_headers")
    def test_content_headers_are_kept(self, storage: StorageBackend) -> None:
        """Type, encoding, caching and disposition come back as they were given."""
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
        """Writing anew without headers leaves none of the old ones."""
        storage.write("file.txt", b"abc", content_type="text/plain", cache_control="no-store")

        storage.write("file.txt", b"def", content_type="text/csv")

        info = storage.stat("file.txt")
        assert (info.content_type, info.cache_control) == ("text/csv", None)

    @needs("content_headers")
    def test_keg_storage_extra_args_are_accepted(self, storage: StorageBackend) -> None:
        """The spelling of keg-storage means the same, in `open` and in `upload`."""
        with storage.open("opened.txt", "w", {"ContentType": "text/plain"}) as writer:
            writer.write(b"abc")
        storage.upload(io.BytesIO(b"abc"), "uploaded.txt", extra_args={"CacheControl": "no-store"})

        assert storage.stat("opened.txt").content_type == "text/plain"
        assert storage.stat("uploaded.txt").cache_control == "no-store"

    @needs("metadata")
    def test_metadata_is_kept(self, storage: StorageBackend) -> None:
        """The app's own keys and values come back, text of every script among them."""
        metadata = {"owner": "Zoë", "order_no": "17", "note": "a=b; c, d"}

        storage.write("file.txt", b"abc", metadata=metadata)

        assert dict(storage.stat("file.txt").metadata) == metadata

    @pytest.mark.parametrize("written", [0, 4, 6])
    def test_the_expected_size_is_checked(self, storage: StorageBackend, written: int) -> None:
        """Fewer or more bytes than promised publish nothing; what was there stays."""
        storage.write("file.bin", b"kept")

        with pytest.raises(IntegrityError) as caught, storage.open("file.bin", "w", size=5) as writer:
            writer.write(bytes(written))

        assert caught.value.path == "file.bin"
        assert caught.value.backend == storage.name
        assert storage.read("file.bin") == b"kept"

    @pytest.mark.parametrize("size", [0, 1, CHUNK + 1])
    def test_the_expected_size_publishes(self, storage: StorageBackend, size: int) -> None:
        """As many bytes as promised, with the promised digest, are published."""
        content = content_of(size)
        digest = hashlib.sha256(content).hexdigest()

        storage.upload(io.BytesIO(content), "file.bin", size=size, checksum=f"sha256:{digest.upper()}")

        assert storage.read("file.bin") == content

    def test_the_expected_checksum_is_checked(self, storage: StorageBackend) -> None:
        """Content with another digest publishes nothing; what was there stays."""
        storage.write("file.bin", b"kept")
        promised = "sha256:" + hashlib.sha256(b"right").hexdigest()

        with pytest.raises(IntegrityError):
            storage.write("file.bin", b"wrong", checksum=promised)

        assert storage.read("file.bin") == b"kept"

    @needs("exclusive")
    def test_an_exclusive_write_refuses_an_existing_file(self, storage: StorageBackend) -> None:
        """The first of two exclusive writes makes the file, the second leaves it as it is."""
        storage.write("file.bin", b"first", exclusive=True)

        with pytest.raises(FileExistsInStorageError) as caught:
            storage.write("file.bin", b"second", exclusive=True)

        assert isinstance(caught.value, FileExistsError)
        assert caught.value.path == "file.bin"
        assert caught.value.backend == storage.name
        assert storage.read("file.bin") == b"first"

    @needs("exclusive")
    def test_of_two_exclusive_writers_the_first_to_publish_wins(self, storage: StorageBackend) -> None:
        """A name that is taken while one writes is taken; the loser publishes nothing."""
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
        """The named version is replaced; another one, or none, is left as it is."""
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
