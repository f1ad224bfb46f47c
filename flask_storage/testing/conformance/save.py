# ruff: noqa: S101 - a test suite that is shipped
"""Saving under user-supplied names."""

from __future__ import annotations

import io

import pytest

from ...backends.base import StorageBackend
from .base import ConformanceBase, UnseekableSource, content_of, gzip_over_a_pipe, names, needs


class SaveTests(ConformanceBase):
    """`save` never replaces a file, and never writes outside of the root."""

    def test_save_keeps_an_unused_name(self, storage: StorageBackend) -> None:
        """A safe and unused name is not changed, if the storage can create files exclusively."""
        path = storage.save("letters/to you.txt", b"abc")

        assert storage.read(path) == b"abc"
        assert path.startswith("letters/to you")
        assert path == "letters/to you.txt" or not storage.capabilities.exclusive

    def test_save_never_replaces(self, storage: StorageBackend) -> None:
        """An existing name gets a suffix before its extension; every content stays readable."""
        paths = [storage.save("file.tar.gz", str(number).encode()) for number in range(4)]

        assert len(set(paths)) == 4
        assert all(path.startswith("file.tar") and path.endswith(".gz") for path in paths)
        assert [storage.read(path) for path in paths] == [b"0", b"1", b"2", b"3"]

    def test_save_keeps_the_name_within_255_bytes(self, storage: StorageBackend) -> None:
        """A long name is cut between two characters, also with a suffix, and keeps its extension."""
        paths = [storage.save("folder/" + "ü" * 300 + ".jpeg", b"abc") for _ in range(2)]

        for path in paths:
            directory, _, file_name = path.rpartition("/")
            assert directory == "folder"
            assert len(file_name.encode()) <= 255
            assert file_name.startswith("ü" * 50)
            assert file_name.endswith(".jpeg")
        assert len(set(names(storage))) == 2

    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "/etc/passwd", "a/../b.txt", "..\\evil.txt", "x\x00y\n.txt", ".env"]
    )
    def test_save_sanitizes_user_supplied_names(self, storage: StorageBackend, name: str) -> None:
        """A file with an untrusted name is stored below the root, under a valid path."""
        path = storage.save(name, b"abc")

        assert storage.read(path) == b"abc"
        assert names(storage) == [path]
        assert ".." not in path.split("/")

    def test_save_accepts_unseekable_content(self, storage: StorageBackend) -> None:
        """A source that can be read only once is stored whole, also when the name exists already."""
        content = content_of(200_000)
        storage.write("file.bin", b"taken")

        path = storage.save("file.bin", UnseekableSource(content))

        assert storage.read(path) == content
        assert storage.read("file.bin") == b"taken"

    def test_save_accepts_a_source_that_only_claims_to_be_seekable(self, storage: StorageBackend) -> None:
        """Its content is not read to find out its size, and not lost when the name exists already."""
        storage.write("file.bin", b"taken")

        with gzip_over_a_pipe(b"hello") as source:
            path = storage.save("file.bin", source)

        assert storage.read(path) == b"hello"
        assert storage.read("file.bin") == b"taken"

    def test_save_starts_at_the_sources_position(self, storage: StorageBackend) -> None:
        """After a collision the source is read again from its initial position, not from its first byte."""
        storage.write("file.bin", b"taken")
        source = io.BytesIO(b"skipped, stored")
        source.seek(9)

        path = storage.save("file.bin", source)

        assert storage.read(path) == b"stored"

    @needs("content_headers", "metadata")
    def test_save_keeps_headers_and_metadata(self, storage: StorageBackend) -> None:
        """The stored file has the given headers and metadata."""
        path = storage.save("file.txt", b"abc", content_type="text/plain", metadata={"a": "1"})

        info = storage.stat(path)
        assert (info.content_type, dict(info.metadata)) == ("text/plain", {"a": "1"})
