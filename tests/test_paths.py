"""What a path may look like: refused or brought into its one form, never repaired by taking something out."""

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

# Characters that have been used against somebody's check, among ordinary ones.
_WICKED = [".", "..", "/", "\\", "\x00", "\n", "\x7f", "\x85", "\u202e", "\u2028", "\u200e", "\u061c", "\ud800", "~"]
_ORDINARY = ["a", "b.txt", "folder", " ", "%2e", "\u00e9", "e\u0301", "\u4e2d", "\U0001f600", "\u200d", "CON", ":", "*"]
_LONG = ["a" * 100, "\u00e9" * 60, "b" * 255, "c" * 256, ".fs-tmp-", "\u0958" * 40]

any_path = st.one_of(
    st.lists(st.sampled_from(_WICKED + _ORDINARY + _LONG), max_size=12).map("".join),
    st.lists(st.sampled_from(_ORDINARY + _LONG), min_size=1, max_size=8).map("/".join),
    st.text(max_size=60),
    st.text(st.characters(codec=None), max_size=60),  # with lone surrogates
)


def ids(value):
    """A name for the case that any terminal can show."""
    return ascii(value if len(value) <= 40 else f"{value[:30]}… {len(value)} characters")


def refusal(path, *, portable=False):
    """The message with which a path is refused; empty for one that is taken."""
    try:
        normalize(path, portable=portable)
    except InvalidPathError as error:
        return str(error)
    return ""


def _is_in_the_grammar(path):
    """The grammar said once more, in another way than the code says it: from categories, not from code points."""
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
        and not any(segment.casefold().startswith(".fs-tmp-") for segment in segments)
    )


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_corpus_is_large_enough():
    """Five hundred hostile paths, and each of them once."""
    assert len(corpora.HOSTILE_PATHS) >= 500
    assert len(set(corpora.HOSTILE_PATHS)) == len(corpora.HOSTILE_PATHS)


@pytest.mark.parametrize("path", corpora.HOSTILE_PATHS, ids=ids)
def test_a_hostile_path_is_refused(path):
    """With the path on the error, and without a character in the message that steers a terminal or a log."""
    with pytest.raises(InvalidPathError) as caught:
        normalize(path)

    assert isinstance(caught.value.path, str)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_hostile_path_is_no_valid_name():
    """A store that holds such a name, whoever put it there, does not list it."""
    assert list(filter(is_valid, corpora.HOSTILE_PATHS)) == []


@pytest.mark.parametrize("path", corpora.LEGAL_PATHS, ids=ids)
def test_a_legal_path_stays_what_it_is(path):
    """Only its letters are composed."""
    assert normalize(path) == unicodedata.normalize("NFC", path)
    assert is_valid(unicodedata.normalize("NFC", path)) is True


@pytest.mark.parametrize("path", corpora.LEGAL_PATHS, ids=ids)
def test_both_spellings_of_a_letter_are_one_path(path):
    """What macOS sends in pieces is the same file."""
    assert normalize(corpora.decomposed(path)) == normalize(path)


@pytest.mark.parametrize("path", ["cafe\u0301.txt", "\u212b", "\u1112\u1161\u11ab"])
def test_a_decomposed_name_in_a_store_is_not_valid(path):
    """No verb could name it: each would compose it first."""
    assert is_valid(path) is False


def test_what_windows_cannot_hold_is_refused_when_asked():
    """And only then."""
    refusals = [refusal(path, portable=True) for path in corpora.NOT_PORTABLE_PATHS]
    without = [refusal(path) for path in corpora.NOT_PORTABLE_PATHS]

    assert len(refusals) > 900
    assert [text for text in refusals if not text.endswith("Windows could not hold it")] == []
    assert set(without) == {""}


@pytest.mark.parametrize("path", corpora.LEGAL_PORTABLE_PATHS, ids=ids)
def test_what_windows_can_hold_is_portable(path):
    """Names that only begin like a device, dots and spaces inside: all fine."""
    assert normalize(path, portable=True) == normalize(path)


@pytest.mark.parametrize("path", ["console", "com", "com0", "com10", "lpt", "auxiliary.txt", "nul_", "a.con", "x.nul"])
def test_names_that_only_look_like_devices_are_portable(path):
    """COM0 and COM10 are ports that Windows does not reserve."""
    assert normalize(path, portable=True) == path


def test_one_leading_slash_is_dropped():
    """`/a` means the same as `a`; the root has no other name."""
    assert normalize("/a/b.txt") == "a/b.txt"


@pytest.mark.parametrize("thing", [None, 1, b"a", ["a"], object()], ids=lambda thing: type(thing).__name__)
@pytest.mark.parametrize("function", [normalize, normalize_directory, normalize_prefix])
def test_only_text_is_a_path(function, thing):
    """Bytes have an encoding that we would have to guess."""
    with pytest.raises(InvalidPathError, match="is a str, not"):
        function(thing)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("a//b", "empty segment"),
        ("a/../b", "'..'"),
        ("a\\b", "backslash"),
        ("a\x00b", "control character"),
        ("a\u202eb", "hides"),
        ("a" * 256, "255 bytes"),
        ("a/" * 512 + "b", "1024 bytes"),
        ("a" * 5000, "1024 bytes"),
        (".fs-tmp-1", "unfinished files"),
    ],
    ids=ids,
)
def test_the_message_says_what_is_wrong(path, reason):
    """So that a person can mend it."""
    with pytest.raises(InvalidPathError, match=re.escape(reason)):
        normalize(path)


@settings(max_examples=count(2000, 10_000), deadline=None)
@given(any_path)
@example("\u0958" * 42)
@example("a/\u0344/b")
@example("/" * 2)
def test_a_path_is_refused_or_brought_into_its_one_form(path):
    """Nothing is ever taken out of it but one slash; a second pass changes nothing; every result is in the grammar."""
    wanted = unicodedata.normalize("NFC", path.removeprefix("/"))

    try:
        result = normalize(path)
    except InvalidPathError:
        assert not _is_in_the_grammar(wanted)
        assert not is_valid(wanted)
    else:
        assert result == wanted
        assert _is_in_the_grammar(result)
        assert normalize(result) == result
        assert is_valid(result)


@settings(max_examples=count(500, 10_000), deadline=None)
@given(any_path)
def test_portable_only_refuses_more(path):
    """It never changes a path, and takes none that would not be taken without it."""
    try:
        result = normalize(path, portable=True)
    except InvalidPathError:
        return
    assert result == normalize(path)
    assert not re.search(r'[<>:"|?*]|[. ](/|$)', result)


@pytest.mark.parametrize(
    "path", ["a" * 1_000_000, "\u0958" * 1_000_000, "../" * 1_000_000], ids=["a", "letters", "dots"]
)
def test_a_huge_text_is_refused_before_work_is_done_on_it(path, monkeypatch):
    """Composing letters costs time in proportion to the text, and no text of that length can become a path."""
    monkeypatch.delattr(paths, "unicodedata")

    with pytest.raises(InvalidPathError, match="longer than 1024 bytes"):
        normalize(path)


# -- folders and prefixes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "folder"),
    [("", ""), ("/", ""), ("a", "a"), ("a/", "a"), ("/a/", "a"), ("a/b/", "a/b"), ("e\u0301/", "\u00e9")],
)
def test_a_folder_may_end_in_a_slash_and_the_root_is_one(path, folder):
    """One trailing slash, as people write folders."""
    assert normalize_directory(path) == folder


def test_a_hostile_folder_is_refused():
    """What is no path of a file is none of a folder either, but for one slash at its end."""
    hostile = [path for path in corpora.HOSTILE_PATHS if path not in corpora.FOLDERS_ONLY and path != "//"]

    taken = []
    for path in hostile:
        with contextlib.suppress(InvalidPathError):
            taken.append(normalize_directory(path))

    assert len(hostile) > 500
    assert taken == []


def test_a_folder_can_be_held_to_windows():
    """As a file can."""
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
    """It is compared as text: `a/.` is how `a/.env` begins."""
    assert normalize_prefix(given_prefix) == prefix


@pytest.mark.parametrize(
    "prefix", ["../a", "a/../b", "a//b", "a//", "//a", "//a/b", "a\\", "a\x00", "a/\u202e", "./", "a" * 5000], ids=ids
)
def test_a_prefix_with_which_no_path_begins_is_refused(prefix):
    """It would find nothing, and somebody believes that it would."""
    with pytest.raises(InvalidPathError):
        normalize_prefix(prefix)


@pytest.mark.parametrize(("path", "folder"), [("a", ""), ("a/b", "a"), ("a/b/c", "a/b")])
def test_a_path_lies_in_its_folder(path, folder):
    """The root is the empty text."""
    assert parent(path) == folder


# -- names from strangers ---------------------------------------------------------------------------------------------


def _is_safe_everywhere(name):
    return (
        refusal(name, portable=True) == ""
        and normalize(name) == name
        and not any(segment.startswith(".") for segment in name.split("/"))
        and not set(name) & set("<>\"'`$&;|*?:%#{}[]()!\\")
    )


def test_a_safe_file_name_is_one_legal_segment_everywhere():
    """Whatever a stranger calls a file: no folder, nothing hidden, nothing that a shell or a browser understands."""
    safe = [safe_filename(name) for name in corpora.FILE_NAMES]

    assert [name for name in safe if not _is_safe_everywhere(name) or "/" in name] == []
    assert [safe_filename(name) for name in safe] == safe


def test_a_safe_path_is_legal_everywhere_or_refused():
    """Folders stay; what climbs does not. Refused is only what is empty or too long."""
    safe, refused = [], []
    for name in corpora.FILE_NAMES:
        try:
            safe.append(safe_path(name))
        except InvalidPathError:
            refused.append([segment for segment in re.split(r"[/\\]", name) if segment.strip(" .")])

    assert len(safe) > 1500
    assert [name for name in safe if not _is_safe_everywhere(name)] == []
    assert [safe_path(name) for name in safe] == safe
    lengths = [len("/".join(map(safe_filename, segments)).encode()) for segments in refused if segments]
    assert min(lengths) > MAX_PATH_BYTES - 64


@settings(max_examples=count(2000, 10_000), deadline=None)
@given(any_path)
def test_any_text_makes_a_safe_file_name(name):
    """Also one that nobody thought of."""
    safe = safe_filename(name)

    assert _is_safe_everywhere(safe)
    assert "/" not in safe
    assert safe_filename(safe) == safe


@settings(max_examples=count(2000, 10_000), deadline=None)
@given(any_path)
def test_any_text_makes_a_safe_path_or_none(name):
    """Made safe once is safe."""
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
def test_a_safe_file_name_keeps_what_it_can(name, safe):
    """Letters of every script and the extension stay."""
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
def test_a_safe_path_keeps_its_folders(name, safe):
    """Each is made safe like a file."""
    assert safe_path(name) == safe


@pytest.mark.parametrize("name", ["", "/", "..", "../..", "./.", " / ", "\\", "a/" * 1000 + "b"], ids=ids)
def test_a_name_of_which_nothing_is_left_makes_no_path(name):
    """Nor does one that stays too long."""
    with pytest.raises(InvalidPathError):
        safe_path(name)


# -- suffixes and extensions ------------------------------------------------------------------------------------------


_WITH_ROOM = [path for path in corpora.LEGAL_PATHS if len(parent(path).encode()) < MAX_PATH_BYTES - 60]


@pytest.mark.parametrize("path", _WITH_ROOM, ids=ids)
@pytest.mark.parametrize("suffix", [None, "1", "0" * 32])
def test_a_suffixed_path_is_legal_in_the_same_folder(path, suffix):
    """However long the name was, it keeps its folder and its extension."""
    path = normalize(path)
    result = with_suffix(path, suffix)

    assert normalize(result) == result
    assert parent(result) == parent(path)
    assert extension_of(result) == extension_of(path)
    assert result != path


def test_a_suffix_stands_before_the_extension():
    """So that a picture stays one."""
    assert with_suffix("a/photo.jpg", "1") == "a/photo_1.jpg"
    assert with_suffix("a.b/README", "1") == "a.b/README_1"
    assert with_suffix(".env", "1") == ".env_1"


def test_a_suffix_without_a_name_is_random():
    """32 hexadecimal digits, never the same."""
    results = {with_suffix("a.txt") for _ in range(100)}

    assert len(results) == 100
    assert all(re.fullmatch(r"a_[0-9a-f]{32}\.txt", result) for result in results)


def test_a_folder_that_leaves_no_room_for_a_suffix_is_refused_by_the_grammar():
    """A path that grows past its limit is not cut into a path somewhere else: normalizing it tells."""
    path = "/".join(["a" * 255] * 3 + ["b" * 253, "c"])

    result = with_suffix(path)

    with pytest.raises(InvalidPathError, match="1024 bytes"):
        normalize(result)


@settings(max_examples=count(500, 10_000), deadline=None)
@given(any_path, st.sampled_from([None, "1", "copy 2"]))
def test_any_path_with_room_can_be_suffixed(path, suffix):
    """A cut in the middle of a letter leaves no broken one, and no name that is not allowed."""
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
def test_an_extension_is_short_and_plain(name, extension):
    """Anything else may mean something: it is no extension then, but a part of the name."""
    assert extension_of(name) == extension


@pytest.mark.parametrize("character", [*corpora.CONTROLS, *corpora.LINE_ENDS, *corpora.SURROGATES], ids=ascii)
def test_a_line_ends_with_its_first_control_character(character):
    """Fit for a header or a log is what has none."""
    assert is_one_line(f"a{character}b") is False


@pytest.mark.parametrize(("text", "fit"), [("", True), ("a b", True), ("\u4e2d", True), (b"a", False), (None, False)])
def test_only_text_is_a_line(text, fit):
    """Of any script."""
    assert is_one_line(text) is fit
