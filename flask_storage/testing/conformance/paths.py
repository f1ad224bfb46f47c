# ruff: noqa: S101 - a test suite that is shipped; every operation in the table takes the same arguments
"""Paths: every valid path is stored and listed unchanged."""

from __future__ import annotations

import unicodedata

import pytest

from ...backends.base import StorageBackend
from ...errors import InvalidPathError
from .base import ConformanceBase, names

AWKWARD = [
    "a b.txt",
    " leading and trailing ",
    "plus+sign.txt",
    "per%20cent.txt",
    "%2e%2e%2fetc",
    "hash#question?.txt",
    "quote'double\"back`.txt",
    "amp&semi;eq=comma,.txt",
    "<tag>|pipe*star?.txt",
    "[brackets]{braces}.txt",
    "tilde~dollar$bang!caret^.txt",
    ".hidden",
    "..a",
    ".dot/d.o.t",
    "-rf",
    "--help",
    "CON",
    "nul.txt",
    "a:b",
    "C:/Windows",
    "UPPER/lower/Upper",
    "no extension",
    "many.dots.tar.gz",
    "日本語/ファイル.txt",
    "кириллица.txt",
    "עברית.txt",
    "emoji 👩‍👩‍👧.png",
    "می‌خواهم.txt",
    "ﬁ ligature",
    "İstanbul ẞ ǅ",
    "\u00a0no-break\u3000space",
    "con/aux/prn",
    "0",
    "None",
    "index.html",
    "a/b/c/d/e/f/g/h/i/j/k",
]
"""Valid names that browsers, servers, SDKs or file systems often handle wrongly."""


class PathTests(ConformanceBase):
    """The names that every storage must support."""

    @pytest.mark.parametrize("name", AWKWARD, ids=ascii)
    def test_an_unusual_name_is_accepted(self, storage: StorageBackend, name: str) -> None:
        """It is stored, listed, read, copied, moved and deleted unchanged."""
        self._check_name(storage, name)

    @pytest.mark.parametrize("name", ["...", "a..", "dot./d.o.t"])
    def test_a_name_whose_final_dot_is_dropped_is_refused(self, storage: StorageBackend, name: str) -> None:
        """Some services drop a dot at the end of a segment, so that two names would be one file."""
        try:
            storage.write(name, b"")
        except InvalidPathError:
            for operation in (storage.read, storage.stat, storage.delete):
                with pytest.raises(InvalidPathError):
                    operation(name)
            assert names(storage) == []
        else:
            self._check_name(storage, name)

    def _check_name(self, storage: StorageBackend, name: str) -> None:
        """Check that a name is stored, listed, read, copied, moved and deleted unchanged."""
        content = name.encode()
        storage.write(name, content)

        assert names(storage) == [name]
        assert storage.read(name) == content
        assert storage.stat(name).path == name
        storage.copy(name, "copies/" + name)
        assert names(storage, "copies") == ["copies/" + name]
        storage.move("copies/" + name, "moved/" + name)
        assert storage.read("moved/" + name) == content
        storage.delete(name)
        assert names(storage) == ["moved/" + name]

    def test_unusual_names_do_not_collide(self, storage: StorageBackend) -> None:
        """Names that become equal by decoding, unquoting, trimming or folding are different files."""
        similar = [
            "a b",
            "a+b",
            "a%20b",
            "a%2520b",
            "a_b",
            "a b ",
            " a b",
            "a  b",
            "x/a",
            "x%2Fa",
            "é",
            "e",
            "%C3%A9",
            "..e",
        ]
        for name in similar:
            storage.write(name, name.encode())

        assert names(storage) == sorted(similar)
        assert {name: storage.read(name).decode() for name in similar} == {name: name for name in similar}

    @pytest.mark.parametrize("name", ["Café/naïve.txt", "Å", "한글", "ǭ.bin", "q̣̇"])
    def test_both_normal_forms_name_one_file(self, storage: StorageBackend, name: str) -> None:
        """A composed and a decomposed spelling (NFC and NFD) are one file, stored as NFC."""
        composed, decomposed = unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)

        storage.write(decomposed, b"first")
        assert names(storage) == [composed]
        assert storage.read(composed) == storage.read(decomposed) == b"first"
        storage.write(composed, b"second")

        assert storage.read(decomposed) == b"second"
        assert names(storage) == [composed]
        storage.delete(decomposed)
        assert not storage.exists(composed)

    @pytest.mark.parametrize("segment", ["s" * 255, "ü" * 127, "語" * 85, "👍" * 63 + "abc"], ids=ascii)
    def test_a_segment_of_255_bytes_is_accepted(self, storage: StorageBackend, segment: str) -> None:
        """The longest segment works for files and directories, although a writer needs temporary names beside it."""
        path = f"{segment}/{segment}"

        storage.write(path, b"abc")
        storage.write(path, b"def")
        storage.copy(path, "copy.bin")

        assert storage.read(path) == storage.read("copy.bin") == b"def"
        assert names(storage, segment) == [path]
        assert names(storage, recursive=False) == sorted(["copy.bin", f"{segment}/"])

    @pytest.mark.parametrize(
        "path",
        [
            "/".join(["d" * 204] * 5),
            "/".join(["é" * 102] * 5),
            "/".join(["a"] * 512) + "b",
        ],
        ids=["ascii", "two-byte characters", "512 segments"],
    )
    def test_a_path_of_1024_bytes_is_accepted(self, storage: StorageBackend, path: str) -> None:
        """The longest path works, with few long segments and with many short ones."""
        assert len(path.encode()) == 1024
        path = path.encode()[: self.max_path_bytes].decode(errors="ignore").rstrip("/")
        storage.write(path, b"abc")

        assert storage.read(path) == b"abc"
        assert names(storage) == [path]
        storage.delete_prefix(path.partition("/")[0])
        assert names(storage) == []

    def test_a_leading_slash_is_dropped(self, storage: StorageBackend) -> None:
        """`/a` and `a` are one file, in every operation."""
        storage.write("/folder/file.bin", b"abc")

        assert names(storage) == names(storage, "/") == names(storage, "/folder/") == ["folder/file.bin"]
        assert storage.read("folder/file.bin") == storage.read("/folder/file.bin") == b"abc"
        storage.copy("/folder/file.bin", "/copy.bin")
        storage.delete("/folder/file.bin")
        assert names(storage) == ["copy.bin"]
