# ruff: noqa: S101, ARG005 - a test suite that is shipped; every verb in the table takes the same arguments
"""Names: every legal one round-trips, every hostile one is refused before the place is asked."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ...backends.base import StorageBackend
from ...errors import InvalidPathError
from ...values import WriteOptions
from .ground import Ground, names

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
    "...",
    "..a",
    "a..",
    "dot./.dot/d.o.t",
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
"""Names that are legal, and that something between a browser and a disk usually mistreats."""

HOSTILE = [
    ".",
    "..",
    "../secret",
    "../../../../etc/passwd",
    "a/../b",
    "a/..",
    "a/./b",
    "./a",
    "a//b",
    "//etc/passwd",
    "/",
    "",
    "a/",
    "/a/",
    "a\\b",
    "..\\secret",
    "\\\\host\\share",
    "nul\x00byte",
    "line\nbreak",
    "carriage\rreturn",
    "tab\there",
    "escape\x1b[31m",
    "delete\x7f",
    "c1\x85control",
    "\u202egpj.exe",
    "left\u200eright",
    "isolate\u2066d",
    "line\u2028separator",
    "lone\ud800surrogate",
    "s" * 256,
    "ü" * 128,
    "folder/" + "s" * 256 + "/file",
    "/".join(["d" * 200] * 5) + "/" + "x" * 100,
    ".fs-tmp-unfinished",
    "folder/.fs-tmp-unfinished",
    ".FS-TMP-unfinished/file",
]
"""Names that no verb takes."""

_FOLDERS = {"", "/", "a/", "/a/"}
"""Legal where a folder is meant."""

_NOT_STRINGS: list[Any] = [None, b"bytes", 5, Path("a"), ["a"]]

Verb = Callable[[StorageBackend, Any, Path], Any]

FILE_VERBS: dict[str, Verb] = {
    "open for reading": lambda storage, path, here: storage.open(path, "r"),
    "open for writing": lambda storage, path, here: storage.open(path, "w"),
    "open for both": lambda storage, path, here: storage.open(path, "rw"),
    "read": lambda storage, path, here: storage.read(path),
    "write": lambda storage, path, here: storage.write(path, b"x"),
    "upload": lambda storage, path, here: storage.upload(io.BytesIO(b"x"), path),
    "download": lambda storage, path, here: storage.download(path, io.BytesIO()),
    "put": lambda storage, path, here: storage.put(here / "local.bin", path),
    "get": lambda storage, path, here: storage.get(path, here / "fetched.bin"),
    "copy from": lambda storage, path, here: storage.copy(path, "new.bin"),
    "copy to": lambda storage, path, here: storage.copy("there.bin", path),
    "move from": lambda storage, path, here: storage.move(path, "new.bin"),
    "move to": lambda storage, path, here: storage.move("there.bin", path),
    "delete": lambda storage, path, here: storage.delete(path),
    "delete_many": lambda storage, path, here: storage.delete_many(["there.bin", path]),
    "exists": lambda storage, path, here: storage.exists(path),
    "stat": lambda storage, path, here: storage.stat(path),
    "size": lambda storage, path, here: storage.size(path),
    "local_path": lambda storage, path, here: storage.local_path(path),
    "url": lambda storage, path, here: storage.url(path),
    "link_to": lambda storage, path, here: storage.link_to(path, "d", timedelta(minutes=1)),
    "links_to": lambda storage, path, here: storage.links_to([path], "d", timedelta(minutes=1)),
    "upload_request": lambda storage, path, here: storage.upload_request(path, timedelta(minutes=1)),
}
FOLDER_VERBS: dict[str, Verb] = {
    "list": lambda storage, path, here: storage.list(path),
    "list one level": lambda storage, path, here: storage.list(path, recursive=False),
    "iter": lambda storage, path, here: list(storage.iter(path)),
    "iter details": lambda storage, path, here: list(storage.iter(path, details=True)),
    "delete_prefix": lambda storage, path, here: storage.delete_prefix(path),
}
PART_VERBS: dict[str, Verb] = {
    "put_whole": lambda storage, path, here: storage.parts.put_whole(path, b"x", WriteOptions()),
    "begin": lambda storage, path, here: storage.parts.begin(path, WriteOptions()),
    "put_part": lambda storage, path, here: storage.parts.put_part(path, "x" * 22, 1, b"x"),
    "finish": lambda storage, path, here: storage.parts.finish(path, "x" * 22, [], WriteOptions()),
    "discard": lambda storage, path, here: storage.parts.discard(path, "x" * 22),
    "list_parts": lambda storage, path, here: storage.parts.list_parts(path, "x" * 22),
}


class Naming(Ground):
    """Which names a storage holds, and which it refuses."""

    @pytest.mark.parametrize("name", AWKWARD, ids=ascii)
    def test_an_awkward_name_is_a_name(self, storage: StorageBackend, name: str) -> None:
        """It is stored, listed, read, copied, moved and deleted as it is, and is no other file's name."""
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

    def test_awkward_names_do_not_meet(self, storage: StorageBackend) -> None:
        """Names that decode, unquote, trim or fold into one another are different files."""
        alike = [
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
        for name in alike:
            storage.write(name, name.encode())

        assert names(storage) == sorted(alike)
        assert {name: storage.read(name).decode() for name in alike} == {name: name for name in alike}

    @pytest.mark.parametrize("name", ["Café/naïve.txt", "Å", "한글", "ǭ.bin", "q̣̇"])
    def test_both_normal_forms_name_one_file(self, storage: StorageBackend, name: str) -> None:
        """What one system writes composed and another decomposed is one file, stored composed."""
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
    def test_a_segment_of_255_bytes_is_held(self, storage: StorageBackend, segment: str) -> None:
        """The longest segment works as a file and as a folder, and its writer finds room for its own names."""
        path = f"{segment}/{segment}"

        storage.write(path, b"abc")
        storage.write(path, b"def")
        storage.copy(path, "copy.bin")

        assert storage.read(path) == storage.read("copy.bin") == b"def"
        assert names(storage, segment) == [path]
        assert names(storage, recursive=False) == sorted(["copy.bin", f"{segment}/"])

    @pytest.mark.parametrize("letter", ["d", "é"])
    def test_a_path_of_1024_bytes_is_held(self, storage: StorageBackend, letter: str) -> None:
        """The longest path works, in few long segments and in many short ones."""
        width = len(letter.encode())
        long = "/".join([letter * (204 // width)] * 5)
        long = long[:-1] + letter + "x" * (1024 - len((long[:-1] + letter).encode()))
        short = "/".join(["a"] * 512) + "b"

        for path in (long, short):
            assert len(path.encode()) == 1024
            storage.write(path, b"abc")
            assert storage.read(path) == b"abc"

        assert names(storage) == sorted([long, short])
        storage.delete_prefix("a")
        assert names(storage) == [long]

    def test_a_leading_slash_is_dropped(self, storage: StorageBackend) -> None:
        """`/a` and `a` are one file, in every verb."""
        storage.write("/folder/file.bin", b"abc")

        assert names(storage) == names(storage, "/") == names(storage, "/folder/") == ["folder/file.bin"]
        assert storage.read("folder/file.bin") == storage.read("/folder/file.bin") == b"abc"
        storage.copy("/folder/file.bin", "/copy.bin")
        storage.delete("/folder/file.bin")
        assert names(storage) == ["copy.bin"]

    @pytest.mark.parametrize("verb", FILE_VERBS)
    def test_hostile_names_are_refused(self, storage: StorageBackend, tmp_path: Path, verb: str) -> None:
        """No verb takes a name that is none; nothing is written, read or deleted."""
        self._refuses(storage, tmp_path, FILE_VERBS[verb], HOSTILE + _NOT_STRINGS)

    @pytest.mark.parametrize("verb", FOLDER_VERBS)
    def test_hostile_folders_are_refused(self, storage: StorageBackend, tmp_path: Path, verb: str) -> None:
        """No verb takes a folder that is none."""
        hostile = [name for name in HOSTILE if name not in _FOLDERS]
        self._refuses(storage, tmp_path, FOLDER_VERBS[verb], hostile + _NOT_STRINGS)

    @pytest.mark.parametrize("verb", PART_VERBS)
    def test_hostile_names_are_refused_in_parts(self, storage: StorageBackend, tmp_path: Path, verb: str) -> None:
        """The part calls take no name that is none; a storage without them refuses them all."""
        if storage.capabilities.parts:
            self._refuses(storage, tmp_path, PART_VERBS[verb], HOSTILE + _NOT_STRINGS)
        else:
            with pytest.raises(NotImplementedError):
                PART_VERBS[verb](storage, "file.bin", tmp_path)

    def test_hostile_prefixes_are_refused(self, storage: StorageBackend) -> None:
        """A prefix that no path could have is refused, not searched for."""
        for prefix in ("../", "a/../b", "a//", "a\\", "nul\x00", "\u202e", "lone\ud800", *_NOT_STRINGS[1:]):
            with pytest.raises(InvalidPathError):
                storage.list(prefix=prefix)

    def _refuses(self, storage: StorageBackend, tmp_path: Path, verb: Verb, hostile: list[Any]) -> None:
        storage.write("there.bin", b"kept")
        here = tmp_path / "here"
        here.mkdir()
        (here / "local.bin").write_bytes(b"local")
        for name in hostile:
            with pytest.raises(InvalidPathError) as caught:
                verb(storage, name, here)
            assert isinstance(caught.value, ValueError)
            assert str(caught.value).isprintable()
        assert names(storage) == ["there.bin"]
        assert storage.read("there.bin") == b"kept"
        assert os.listdir(here) == ["local.bin"]
