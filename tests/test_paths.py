"""Path validation: a path is rejected or normalized, and nothing is ever stripped from it."""

import contextlib
import re
import unicodedata

import pytest
from hypothesis import example, given, settings, strategies as st

from flask_storage import paths
from flask_storage.errors import InvalidPathError
from flask_storage.paths import (
    MAX_PATH_BYTES,
    extension_of,
    is_one_line,
    is_valid,
    normalize,
    normalize_directory,
    normalize_prefix,
    parent,
    safe_filename,
    safe_path,
    with_suffix,
)

from . import corpora
from .counts import count

# Characters that are used to get past path checks, and ordinary ones.
_HOSTILE = [".", "..", "/", "\\", "\x00", "\n", "\x7f", "\x85", "\u202e", "\u2028", "\u200e", "\u061c", "\ud800", "~"]
_ORDINARY = ["a", "b.txt", "folder", " ", "%2e", "\u00e9", "e\u0301", "\u4e2d", "\U0001f600", "\u200d", "CON", ":", "*"]
_LONG = ["a" * 100, "\u00e9" * 60, "b" * 255, "c" * 256, ".fs-tmp-", "\u0958" * 40]

any_path = st.one_of(
    st.lists(st.sampled_from(_HOSTILE + _ORDINARY + _LONG), max_size=12).map("".join),
    st.lists(st.sampled_from(_ORDINARY + _LONG), min_size=1, max_size=8).map("/".join),
    st.text(max_size=60),
    st.text(st.characters(codec=None), max_size=60),  # with lone surrogates
)


def ids(value):
    """A printable ASCII id of a test case."""
    return ascii(value if len(value) <= 40 else f"{value[:30]}… {len(value)} characters")


def rejection(path, *, portable=False):
    """The message with which a path is rejected; empty if it is valid."""
    try:
        normalize(path, portable=portable)
    except InvalidPathError as error:
        return str(error)
    return ""


def _is_non_character(character):
    """As Unicode defines them: the last two code points of each plane, and 32 others."""
    return ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF


def _is_valid_by_unicode_categories(path):
    """The path rules, implemented independently of the code: by Unicode categories, not by code points."""
    segments = path.split("/")
    return (
        path == unicodedata.normalize("NFC", path)
        and 0 < len(path.encode("utf-8", "surrogatepass")) <= 1024
        and all(0 < len(segment.encode("utf-8", "surrogatepass")) <= 255 for segment in segments)
        and not {".", ".."} & set(segments)
        and "\\" not in path
        and not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in path)
        and not any(
            unicodedata.bidirectional(character) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
            or character in "\u200e\u200f\u061c"
            for character in path
        )
        and not any(_is_non_character(character) for character in path)
        and not any(segment.casefold().startswith(".fs-tmp-") for segment in segments)
    )


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_corpus_is_large_enough():
    """At least 500 hostile paths, without duplicates."""
    assert len(corpora.HOSTILE_PATHS) >= 500
    assert len(set(corpora.HOSTILE_PATHS)) == len(corpora.HOSTILE_PATHS)


@pytest.mark.parametrize("path", corpora.HOSTILE_PATHS, ids=ids)
def test_a_hostile_path_is_rejected(path):
    """The error has the path, and its message no character that could control a terminal or forge a log line."""
    with pytest.raises(InvalidPathError) as caught:
        normalize(path)

    assert isinstance(caught.value.path, str)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_every_non_character_is_rejected():
    """XML cannot contain some of them, and one such name would make a whole listing unreadable."""
    non_characters = [chr(code) for code in range(0x110000) if _is_non_character(chr(code))]

    assert len(non_characters) == 66
    assert [character for character in non_characters if is_valid(f"a{character}")] == []
    assert {safe_filename(f"a{character}.txt") for character in non_characters} == {"a_.txt"}


def test_a_hostile_path_is_not_a_valid_name():
    """A listing leaves out such names, which another program may have stored."""
    assert list(filter(is_valid, corpora.HOSTILE_PATHS)) == []


@pytest.mark.parametrize("path", corpora.LEGAL_PATHS, ids=ids)
def test_a_valid_path_only_becomes_nfc(path):
    """Nothing else is changed."""
    assert normalize(path) == unicodedata.normalize("NFC", path)
    assert is_valid(unicodedata.normalize("NFC", path)) is True


@pytest.mark.parametrize("path", corpora.LEGAL_PATHS, ids=ids)
def test_composed_and_decomposed_spellings_are_the_same_path(path):
    """Decomposed names come from macOS."""
    assert normalize(corpora.decomposed(path)) == normalize(path)


@pytest.mark.parametrize("path", ["cafe\u0301.txt", "\u212b", "\u1112\u1161\u11ab"])
def test_a_stored_decomposed_name_is_not_valid(path):
    """No operation could reach it, since each normalizes its path."""
    assert is_valid(path) is False


def test_names_invalid_on_windows_are_rejected_only_if_portable():
    """Without `portable=True` they are accepted."""
    rejections = [rejection(path, portable=True) for path in corpora.NOT_PORTABLE_PATHS]
    without = [rejection(path) for path in corpora.NOT_PORTABLE_PATHS]

    assert len(rejections) > 900
    assert [text for text in rejections if not text.endswith("Windows does not allow it")] == []
    assert set(without) == {""}


@pytest.mark.parametrize("path", corpora.LEGAL_PORTABLE_PATHS, ids=ids)
def test_names_valid_on_windows_are_portable(path):
    """Also names that begin like a device, and dots and spaces within a name."""
    assert normalize(path, portable=True) == normalize(path)


@pytest.mark.parametrize("path", ["console", "com", "com0", "com10", "lpt", "auxiliary.txt", "nul_", "a.con", "x.nul"])
def test_names_that_only_look_like_devices_are_portable(path):
    """Windows does not reserve COM0 and COM10."""
    assert normalize(path, portable=True) == path


def test_one_leading_slash_is_dropped():
    """`/a` is the same path as `a`."""
    assert normalize("/a/b.txt") == "a/b.txt"


@pytest.mark.parametrize("thing", [None, 1, b"a", ["a"], object()], ids=lambda thing: type(thing).__name__)
@pytest.mark.parametrize("function", [normalize, normalize_directory, normalize_prefix])
def test_only_text_is_a_path(function, thing):
    """The encoding of bytes would have to be guessed."""
    with pytest.raises(InvalidPathError, match="must be a str, not"):
        function(thing)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("a//b", "empty segment"),
        ("a/../b", "'..'"),
        ("a\\b", "backslash"),
        ("a\x00b", "control character"),
        ("a\u202eb", "bidirectional"),
        ("a" * 256, "255 bytes"),
        ("a/" * 512 + "b", "1024 bytes"),
        ("a" * 5000, "1024 bytes"),
        (".fs-tmp-1", "temporary files"),
    ],
    ids=ids,
)
def test_the_message_says_what_is_wrong(path, reason):
    """The user can correct the path."""
    with pytest.raises(InvalidPathError, match=re.escape(reason)):
        normalize(path)


@settings(max_examples=count(2000, 10_000), deadline=None)
@given(any_path)
@example("\u0958" * 42)
@example("a/\u0344/b")
@example("/" * 2)
def test_any_path_is_rejected_or_normalized(path):
    """Only one leading slash is removed, normalization is idempotent, and each result is valid."""
    expected = unicodedata.normalize("NFC", path.removeprefix("/"))

    try:
        result = normalize(path)
    except InvalidPathError:
        assert not _is_valid_by_unicode_categories(expected)
        assert not is_valid(expected)
    else:
        assert result == expected
        assert _is_valid_by_unicode_categories(result)
        assert normalize(result) == result
        assert is_valid(result)


@settings(max_examples=count(500, 10_000), deadline=None)
@given(any_path)
def test_portable_rejects_more_and_changes_nothing(path):
    """What it accepts is accepted without it too, with the same result."""
    try:
        result = normalize(path, portable=True)
    except InvalidPathError:
        return
    assert result == normalize(path)
    assert not re.search(r'[<>:"|?*]|[. ](/|$)', result)


@pytest.mark.parametrize(
    "path", ["a" * 1_000_000, "\u0958" * 1_000_000, "../" * 1_000_000], ids=["a", "letters", "dots"]
)
def test_a_huge_text_is_rejected_before_it_is_normalized(path, monkeypatch):
    """Normalization takes time in proportion to the text."""
    monkeypatch.delattr(paths, "unicodedata")

    with pytest.raises(InvalidPathError, match="longer than 1024 bytes"):
        normalize(path)


# -- directories and prefixes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "directory"),
    [("", ""), ("/", ""), ("a", "a"), ("a/", "a"), ("/a/", "a"), ("a/b/", "a/b"), ("e\u0301/", "\u00e9")],
)
def test_a_directory_may_end_in_a_slash_and_may_be_the_root(path, directory):
    """One trailing slash is dropped."""
    assert normalize_directory(path) == directory


def test_a_hostile_directory_is_rejected():
    """Only a trailing slash is allowed in addition to what is allowed in paths of files."""
    hostile = [path for path in corpora.HOSTILE_PATHS if path not in corpora.DIRECTORIES_ONLY and path != "//"]

    accepted = []
    for path in hostile:
        with contextlib.suppress(InvalidPathError):
            accepted.append(normalize_directory(path))

    assert len(hostile) > 500
    assert accepted == []


def test_a_directory_can_be_required_to_be_portable():
    """Like a file."""
    with pytest.raises(InvalidPathError, match="Windows"):
        normalize_directory("con/", portable=True)


@pytest.mark.parametrize(
    ("given_prefix", "prefix"),
    [
        ("", ""),
        ("/", ""),
        ("a", "a"),
        ("a/", "a/"),
        ("/a/b", "a/b"),
        ("a/.", "a/."),
        ("..", ".."),
        ("e\u0301", "\u00e9"),
    ],
)
def test_a_prefix_may_end_anywhere(given_prefix, prefix):
    """It is compared as text: `a/.env` begins with `a/.`."""
    assert normalize_prefix(given_prefix) == prefix


@pytest.mark.parametrize(
    "prefix", ["../a", "a/../b", "a//b", "a//", "//a", "//a/b", "a\\", "a\x00", "a/\u202e", "./", "a" * 5000], ids=ids
)
def test_a_prefix_of_no_valid_path_is_rejected(prefix):
    """It could never match, so it is a mistake of the caller."""
    with pytest.raises(InvalidPathError):
        normalize_prefix(prefix)


@pytest.mark.parametrize(("path", "directory"), [("a", ""), ("a/b", "a"), ("a/b/c", "a/b")])
def test_the_parent_of_a_path_is_its_directory(path, directory):
    """The root is the empty string."""
    assert parent(path) == directory


# -- untrusted file names ---------------------------------------------------------------------------------------------


def _is_safe_everywhere(name):
    return (
        rejection(name, portable=True) == ""
        and normalize(name) == name
        and not any(segment.startswith(".") for segment in name.split("/"))
        and not set(name) & set("<>\"'`$&;|*?:%#{}[]()!\\")
    )


def test_a_safe_file_name_is_one_valid_segment_on_every_system():
    """No directory, no hidden file, and no character that is special to a shell or a browser; idempotent."""
    safe = [safe_filename(name) for name in corpora.FILE_NAMES]

    assert [name for name in safe if not _is_safe_everywhere(name) or "/" in name] == []
    assert [safe_filename(name) for name in safe] == safe


def test_a_safe_path_is_valid_on_every_system_or_rejected():
    """Directories are kept and parent references dropped. Only names without a file name, or too long, are rejected."""
    safe, refused = [], []
    for name in corpora.FILE_NAMES:
        try:
            safe.append(safe_path(name))
        except InvalidPathError:
            *directories, last = re.split(r"[/\\]", name)
            if last.strip(" ."):
                refused.append([segment for segment in (*directories, last) if segment.strip(" .")])

    assert len(safe) > 1400
    assert [name for name in safe if not _is_safe_everywhere(name)] == []
    assert [safe_path(name) for name in safe] == safe
    lengths = [len("/".join(map(safe_filename, segments)).encode()) for segments in refused]
    assert min(lengths) > MAX_PATH_BYTES - 64


@settings(max_examples=count(2000, 10_000), deadline=None)
@given(any_path)
def test_any_text_makes_a_safe_file_name(name):
    """Checked with generated names."""
    safe = safe_filename(name)

    assert _is_safe_everywhere(safe)
    assert "/" not in safe
    assert safe_filename(safe) == safe


@settings(max_examples=count(2000, 10_000), deadline=None)
@given(any_path)
def test_any_text_makes_a_safe_path_or_is_rejected(name):
    """The function is idempotent."""
    try:
        safe = safe_path(name)
    except InvalidPathError:
        return
    assert _is_safe_everywhere(safe)
    assert safe_path(safe) == safe


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.jpg", "photo.jpg"),
        ("My photo (1).JPG", "My photo _1_.JPG"),
        ("\u4e2d\u6587.png", "\u4e2d\u6587.png"),
        ("\u30d1\u30b9\u30ef\u30fc\u30c9.txt", "\u30d1\u30b9\u30ef\u30fc\u30c9.txt"),
        ("re\u0301sume\u0301.pdf", "r\u00e9sum\u00e9.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        (".bashrc", "_bashrc"),
        ("..", "file"),
        ("...", "file"),
        ("", "file"),
        ("a/", "file"),
        (" a ", "a"),
        ("a. .", "a"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("con .txt", "_con .txt"),
        ("a\x00b\nc.txt", "a_b_c.txt"),
        ("a\u202egpj.exe", "a_gpj.exe"),
        ("\ud800a.txt", "a.txt"),
        ("a" * 300 + ".jpeg", "a" * 250 + ".jpeg"),
        ("\u4e2d" * 100 + ".png", "\u4e2d" * 83 + ".png"),
        ("README", "README"),
    ],
    ids=ids,
)
def test_a_safe_file_name_keeps_letters_and_the_extension(name, safe):
    """Letters of every script."""
    assert safe_filename(name) == safe


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b/c.txt", "a/b/c.txt"),
        ("../../a/./b//c.txt", "a/b/c.txt"),
        ("C:\\Users\\me\\a.txt", "C_/Users/me/a.txt"),
        ("/.ssh/id_rsa", "_ssh/id_rsa"),
        ("a/ /b", "a/b"),
    ],
)
def test_a_safe_path_keeps_its_directories(name, safe):
    """Each segment is made safe like a file name."""
    assert safe_path(name) == safe


@pytest.mark.parametrize(
    "name",
    ["", "/", "..", "../..", "./.", " / ", "\\", "a/", "a\\", "a/..", "a/ ", "a/" * 1000 + "b", None, b"a"],
    ids=lambda name: ascii(name)[:40],
)
def test_a_name_without_a_file_name_makes_no_path(name):
    """Nor does one that remains too long: the name of a directory must not become that of a file."""
    with pytest.raises(InvalidPathError):
        safe_path(name)


# -- suffixes and extensions ------------------------------------------------------------------------------------------


_WITH_SPACE_FOR_A_SUFFIX = [path for path in corpora.LEGAL_PATHS if len(parent(path).encode()) < MAX_PATH_BYTES - 60]


@pytest.mark.parametrize("path", _WITH_SPACE_FOR_A_SUFFIX, ids=ids)
@pytest.mark.parametrize("suffix", [None, "1", "0" * 32])
def test_a_path_with_suffix_is_valid_in_the_same_directory(path, suffix):
    """Directory and extension are kept, however long the name is."""
    path = normalize(path)
    result = with_suffix(path, suffix)

    assert normalize(result) == result
    assert parent(result) == parent(path)
    assert extension_of(result) == extension_of(path)
    assert result != path


def test_the_suffix_is_before_the_extension():
    """So the file keeps its type."""
    assert with_suffix("a/photo.jpg", "1") == "a/photo_1.jpg"
    assert with_suffix("a.b/README", "1") == "a.b/README_1"
    assert with_suffix(".env", "1") == ".env_1"


def test_the_default_suffix_is_random():
    """32 hexadecimal digits."""
    results = {with_suffix("a.txt") for _ in range(100)}

    assert len(results) == 100
    assert all(re.fullmatch(r"a_[0-9a-f]{32}\.txt", result) for result in results)


def test_a_suffix_that_does_not_fit_makes_an_invalid_path():
    """It is not truncated to another file's path: `normalize` rejects the result."""
    path = "/".join(["a" * 255] * 3 + ["b" * 253, "c"])

    result = with_suffix(path)

    with pytest.raises(InvalidPathError, match="1024 bytes"):
        normalize(result)


@settings(max_examples=count(500, 10_000), deadline=None)
@given(any_path, st.sampled_from([None, "1", "copy 2"]))
def test_any_path_with_enough_space_can_get_a_suffix(path, suffix):
    """Truncation never splits a character or makes an invalid name."""
    try:
        path = normalize(path)
    except InvalidPathError:
        return
    if len(parent(path).encode()) > MAX_PATH_BYTES - 60:
        return
    result = with_suffix(path, suffix)

    assert normalize(result) == result
    assert parent(result) == parent(path)


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.txt", ".txt"),
        ("a.tar.gz", ".gz"),
        ("a.JPEG", ".JPEG"),
        (".bashrc", ""),
        ("README", ""),
        ("a.", ""),
        ("a. txt", ""),
        ("a.t\u00e9", ""),
        ("a.t/x", ""),
        ("a.txt\n", ""),
        ("a." + "x" * 16, "." + "x" * 16),
        ("a." + "x" * 17, ""),
        ("", ""),
    ],
)
def test_an_extension_is_short_and_alphanumeric(name, extension):
    """Anything else is a part of the name."""
    assert extension_of(name) == extension


@pytest.mark.parametrize("character", [*corpora.CONTROLS, *corpora.LINE_ENDS, *corpora.SURROGATES], ids=ascii)
def test_text_with_a_control_character_is_not_one_line(character):
    """It is not safe in a header or a log."""
    assert is_one_line(f"a{character}b") is False


@pytest.mark.parametrize(
    ("text", "expected"), [("", True), ("a b", True), ("\u4e2d", True), (b"a", False), (None, False)]
)
def test_only_text_is_a_line(text, expected):
    """Text of any script, and no bytes."""
    assert is_one_line(text) is expected
