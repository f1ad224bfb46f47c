"""Path validation: which paths a storage accepts. Pure functions without I/O.

A path is relative, consists of segments joined by ``/``, and is in Unicode normal form C. :func:`normalize` returns
that form or rejects the path; it never removes anything, because stripping after a check is how ``....//`` becomes
``../``. Only :func:`safe_filename` and :func:`safe_path` rewrite names, and their result is valid for
:func:`normalize`.
"""

from __future__ import annotations

import re
import unicodedata
import uuid

from .errors import InvalidPathError

MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255
RESERVED_PREFIX = ".fs-tmp-"
"""The prefix of temporary files. Segments that begin with it are rejected in paths and left out of listings."""
SYSTEM_DIRECTORY = "lost+found"
"""e2fsck's directory at the root of an ext4 volume: never removed, and left out of listings if not readable."""

# Listed by code point, not by category, so that every Python with every Unicode table decides the same: C0, DEL, C1,
# surrogates, the two Unicode line ends, the bidirectional controls that make a name read backwards, and the 66
# non-characters, of which XML cannot contain U+FFFE and U+FFFF: S3 and Azure list names in XML. Joiners (U+200C,
# U+200D) stay legal: Persian words and emoji need them.
_NON_CHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | code) for plane in range(17) for code in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(
    f"[\\x00-\\x1f\\x7f-\\x9f\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff{_NON_CHARACTERS}]"
)
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_PORTABLE = re.compile(r'[<>:"|?*]')
_WINDOWS_NAMES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [device + digit for device in ("com", "lpt") for digit in "123456789¹²³"]
)
_EXTENSION = re.compile(r"(?<=[^/])\.[A-Za-z0-9]{1,16}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .\-]*(?:/[A-Za-z0-9_][A-Za-z0-9_ .\-]*)*")
_SUFFIX_BYTES = 64  # bytes, for "_", 32 digits and an extension


def normalize(path: str, *, portable: bool = False) -> str:
    """Return the path of a file in its canonical form.

    One leading slash is dropped and the text is converted to NFC. Rejected are empty, ``.`` and ``..`` segments,
    backslashes, control characters, lone surrogates, line separators, bidirectional controls, non-characters (U+FFFE,
    U+FFFF and others), more than 1024 bytes of UTF-8 (255 in one segment), and segments that begin with ``.fs-tmp-``.

    Args:
        path: The path, possibly untrusted.
        portable: Also reject names that Windows does not allow (``CON``, ``a:b``, a trailing dot or space).

    Raises:
        InvalidPathError: when the path is not valid; the message says why.

    >>> normalize("/reports/2026/june.pdf")
    'reports/2026/june.pdf'
    """
    return _checked(_canonical(path), portable)


def normalize_directory(path: str, *, portable: bool = False) -> str:
    """Like :func:`normalize`, for a directory: ``""`` and ``"/"`` are the root, and one trailing slash is dropped."""
    path = _canonical(path).removesuffix("/")
    return _checked(path, portable) if path else ""


def directory_prefix(path: str) -> str:
    """Return the common prefix of all paths below a directory: its path and a slash, or ``""`` for the root.

    >>> directory_prefix("/media/"), directory_prefix("")
    ('media/', '')
    """
    directory = normalize_directory(path)
    return f"{directory}/" if directory else ""


def normalize_prefix(prefix: str) -> str:
    """Return a plain string prefix of paths; it may end in the middle of a segment.

    Raises:
        InvalidPathError: when no valid path begins with it.
    """
    prefix = _canonical(prefix)
    directory, slash, start = prefix.rpartition("/")
    if slash:
        _checked(directory, False)
    if _FORBIDDEN.search(start):
        raise InvalidPathError(f"{_quoted(prefix)} is not a valid prefix of a path: {_FORBIDDEN_REASON}", path=prefix)
    return prefix


def is_valid(path: str) -> bool:
    """Whether a name that a backend lists is a valid path in its canonical form."""
    return (path.isascii() or unicodedata.is_normalized("NFC", path)) and _rejection_reason(
        path, portable=False
    ) is None


def parent(path: str) -> str:
    """Return the directory of *path*; the root is ``""``."""
    return path.rpartition("/")[0]


def is_one_line(text: object) -> bool:
    """Whether *text* is a str without control characters, line ends or lone surrogates: fit for a header or a log."""
    return isinstance(text, str) and not _CONTROLS.search(text)


def safe_filename(name: str) -> str:
    r"""Return a file name that is safe on every system, made from an untrusted one.

    Only the last component (after ``/`` and ``\``) is used. Letters, digits and marks of every script stay; every
    character that is special to a shell, a browser or a file system becomes ``_``, and so does a leading dot. The
    result has at most 255 bytes, with the extension. If nothing is left, the result is ``file``.

    Raises:
        InvalidPathError: when *name* is not text.

    >>> safe_filename("../../etc/パスワード <1>.txt")
    'パスワード _1_.txt'
    """
    result = re.split(r"[/\\]", _text(name))[-1]
    # Truncated before normalization, whose time is quadratic in a run of combining marks. The extension is kept.
    extension = extension_of(result)
    result = result.removesuffix(extension)[: 4 * MAX_SEGMENT_BYTES] + extension
    result = unicodedata.normalize("NFC", result.encode("utf-8", "ignore").decode())
    result = "".join(letter if _is_safe_character(letter) else "_" for letter in result).strip(" ").rstrip(" .")
    if result.startswith("."):
        result = "_" + result[1:]
    if result.partition(".")[0].rstrip(" ").lower() in _WINDOWS_NAMES:
        result = "_" + result
    return _truncate(result, MAX_SEGMENT_BYTES).rstrip(" .") or "file"


def safe_path(name: str) -> str:
    """Like :func:`safe_filename` for a path: each segment is made safe; empty, ``.`` and ``..`` segments are dropped.

    Raises:
        InvalidPathError: when the last segment is one of those, so that there is no file name: a form in which no file
            was selected has an empty one. Also when the result is too long.
    """
    everything = re.split(r"[/\\]", _text(name))
    segments = [segment for segment in everything if segment.strip(" .")]
    if not everything[-1].strip(" ."):
        raise InvalidPathError(f"{_quoted(name)} contains no file name", path=name)
    if len(segments) > MAX_PATH_BYTES // 2:
        raise InvalidPathError(f"{_quoted(name)} has too many segments", path=name)
    path = "/".join(safe_filename(segment) for segment in segments)
    if len(path.encode()) > MAX_PATH_BYTES - _SUFFIX_BYTES:
        raise InvalidPathError(
            f"{_quoted(name)} is too long: with a suffix it would exceed {MAX_PATH_BYTES} bytes", path=name
        )
    return normalize(path)


def with_suffix(path: str, suffix: str | None = None) -> str:
    """Return *path* with a suffix before its last extension, within 255 bytes for the segment and 1024 for the path.

    Args:
        path: A normalized path.
        suffix: Without one, the 32 hexadecimal digits of a random UUID (122 random bits).

    >>> with_suffix("a/x.tar.gz", "1")
    'a/x.tar_1.gz'
    """
    suffix = uuid.uuid4().hex if suffix is None else suffix
    directory, slash, name = path.rpartition("/")
    extension = extension_of(name)
    tail = f"_{suffix}{extension}"
    max_bytes = min(MAX_SEGMENT_BYTES, MAX_PATH_BYTES - len(f"{directory}{slash}".encode())) - len(tail.encode())
    return directory + slash + _truncate_bytes(name.removesuffix(extension), max_bytes) + tail


def extension_of(filename: str) -> str:
    """Return the last extension with its dot, or ``""`` when it is not 1 to 16 ASCII letters and digits.

    >>> extension_of("photo.JPEG"), extension_of("x.tar.gz"), extension_of(".bashrc"), extension_of("README")
    ('.JPEG', '.gz', '', '')
    """
    match = _EXTENSION.search(filename)
    return match.group() if match else ""


_FORBIDDEN_REASON = "it contains a backslash, a control character, a bidirectional control or a Unicode non-character"


def _text(path: str) -> str:
    if not isinstance(path, str):
        raise InvalidPathError(f"a path in a storage must be a str, not {type(path).__name__}")
    return path


def _canonical(path: str) -> str:
    path = _text(path)
    # Normalization takes time in proportion to the text, and no text of four times the limit becomes a valid path.
    if len(path) > 4 * MAX_PATH_BYTES:
        raise InvalidPathError(f"{_quoted(path)} is longer than {MAX_PATH_BYTES} bytes", path=path)
    path = path.removeprefix("/")
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def _checked(path: str, portable: bool) -> str:
    reason = _rejection_reason(path, portable=portable)
    if reason is not None:
        raise InvalidPathError(f"{_quoted(path)} is not a path in a storage: {reason}", path=path)
    return path


def _rejection_reason(path: str, *, portable: bool) -> str | None:
    if not portable and len(path) <= MAX_SEGMENT_BYTES and _PLAIN.fullmatch(path):
        return None  # nearly every path, in a fifth of the time: listings check each name
    if not path:
        return "it is empty"
    if _FORBIDDEN.search(path):
        return _FORBIDDEN_REASON
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"it is longer than {MAX_PATH_BYTES} bytes of UTF-8"
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            return "it has an empty segment, '.' or '..'"
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            return f"a segment is longer than {MAX_SEGMENT_BYTES} bytes of UTF-8"
        if segment[: len(RESERVED_PREFIX)].lower() == RESERVED_PREFIX:
            return f"names beginning with {RESERVED_PREFIX} are reserved for temporary files"
        if portable and _is_invalid_on_windows(segment):
            return "Windows does not allow it"
    return None


def _is_invalid_on_windows(segment: str) -> bool:
    stem = segment.partition(".")[0].rstrip(" ").lower()
    return segment[-1] in ". " or bool(_NOT_PORTABLE.search(segment)) or stem in _WINDOWS_NAMES


def _is_safe_character(letter: str) -> bool:
    """Letters, digits and marks of every script (Hindi and Thai need theirs), and the joiners of Persian and emoji."""
    return letter.isalnum() or letter in "_ .-\u200c\u200d" or unicodedata.category(letter) in ("Mn", "Mc")


def _truncate(name: str, max_bytes: int) -> str:
    extension = extension_of(name)
    return _truncate_bytes(name.removesuffix(extension), max_bytes - len(extension)) + extension


def _truncate_bytes(text: str, max_bytes: int) -> str:
    return text.encode()[: max(max_bytes, 0)].decode("utf-8", "ignore")


def _quoted(path: str) -> str:
    # ascii() so that an untrusted path cannot forge log lines or send terminal control sequences.
    return ascii(path if len(path) <= 100 else path[:100] + "…")
