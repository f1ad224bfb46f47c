# ruff: noqa: S101 - a test suite that is shipped
"""Saving under names that strangers chose."""

from __future__ import annotations

import io

import pytest

from ...backends.base import StorageBackend
from .base import ConformanceBase, UnseekableSource, content_of, names, needs


class SaveTests(ConformanceBase):
    """`save` never replaces, and never leaves the root."""

    def test_save_keeps_an_unused_name(self, storage: StorageBackend) -> None:
        """A name that is free and safe is kept, where the storage can be sure that it is free."""
        path = storage.save("letters/to you.txt", b"abc")

        assert storage.read(path) == b"abc"
        assert path.startswith("letters/to you")
        assert path == "letters/to you.txt" or not storage.capabilities.exclusive

    def test_save_never_replaces(self, storage: StorageBackend) -> None:
        """A taken name gets a suffix before its extension; every content stays readable."""
        paths = [storage.save("file.tar.gz", str(number).encode()) for number in range(4)]

        assert len(set(paths)) == 4
        assert all(path.startswith("file.tar") and path.endswith(".gz") for path in paths)
        assert [storage.read(path) for path in paths] == [b"0", b"1", b"2", b"3"]

    def test_save_keeps_the_name_within_255_bytes(self, storage: StorageBackend) -> None:
        """The longest name is cut, also with its suffix, on a whole character, and keeps its extension."""
        paths = [storage.save("folder/" + "ü" * 300 + ".jpeg", b"abc") for _ in range(2)]

        for path in paths:
            directory, _, leaf = path.rpartition("/")
            assert directory == "folder"
            assert len(leaf.encode()) <= 255
            assert leaf.startswith("ü" * 50)
            assert leaf.endswith(".jpeg")
        assert len(set(names(storage))) == 2

    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "/etc/passwd", "a/../b.txt", "..\\evil.txt", "x\x00y\n.txt", ".env"]
    )
    def test_save_sanitizes_user_supplied_names(self, storage: StorageBackend, name: str) -> None:
        """Whatever a stranger calls a file, it is stored below the root under a name that every verb takes."""
        path = storage.save(name, b"abc")

        assert storage.read(path) == b"abc"
        assert names(storage) == [path]
        assert ".." not in path.split("/")

    def test_save_accepts_unseekable_content(self, storage: StorageBackend) -> None:
        """A source that can be read only once is stored whole, also when its name was taken."""
        content = content_of(200_000)
        storage.write("file.bin", b"taken")

        path = storage.save("file.bin", UnseekableSource(content))

        assert storage.read(path) == content
        assert storage.read("file.bin") == b"taken"

    def test_save_starts_at_the_sources_position(self, storage: StorageBackend) -> None:
        """A collision starts the source again from where it stood, not from its first byte."""
        storage.write("file.bin", b"taken")
        source = io.BytesIO(b"skipped, stored")
        source.seek(9)

        path = storage.save("file.bin", source)

        assert storage.read(path) == b"stored"

    @needs("content_headers", "metadata")
    def test_save_keeps_headers_and_metadata(self, storage: StorageBackend) -> None:
        """Headers and metadata reach the stored file."""
        path = storage.save("file.txt", b"abc", content_type="text/plain", metadata={"a": "1"})

        info = storage.stat(path)
        assert (info.content_type, dict(info.metadata)) == ("text/plain", {"a": "1"})
