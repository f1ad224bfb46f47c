"""Untrusted names: paths that every operation must reject or accept, and file names of every kind.

All tests share one corpus, so that no operation is checked less strictly than another.
"""

from __future__ import annotations

import unicodedata

# All characters are escaped, because an editor might hide one or change its normal form.
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
LINE_ENDS = ["\u2028", "\u2029"]
BIDI = ["\u061c", "\u200e", "\u200f", *(chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))]
NON_CHARACTERS = ["\ufdd0", "\ufdef", "\ufffe", "\uffff", "\U0001fffe", "\U0010ffff"]
SURROGATES = ["\ud800", "\udbff", "\udc00", "\udc80", "\udcff", "\udfff"]

# Disguises of `..` that get past weak checks. Each is used before, between and after ordinary segments.
_PARENT_REFERENCES = [
    "..",
    "../..",
    "../../..",
    "../" * 8 + "etc/passwd",
    "..\\",
    "..\\..\\windows\\win.ini",
    "..\\/..\\/",
    "..\x00",
    "\x00..",
    "..\x00/..",
    ".",
    "./.",
    "./..",
    "../.",
    ".//..",
    "..//..",
    "..\n",
    "..\r\n",
    "..\t",
    ".\x00.",
    ".\x7f.",
    ".\u200e.",
    ".\u202e.",
    "..\u202e",
    "..\u2028",
    ".\ud800.",
]

_TRAVERSALS = [
    spelled
    for reference in _PARENT_REFERENCES
    for spelled in (
        reference,
        f"/{reference}",
        f"a/{reference}",
        f"{reference}/a",
        f"a/{reference}/b",
        f"a/b/{reference}/../c",
        f"{reference}/root2/secret.txt",
    )
]

# `/srv/files` is a string prefix of its sibling `/srv/files2`: a check must compare with the separator.
_SIBLINGS = [
    f"{parents}{name}"
    for parents in ("../", "a/../../", "./../", "/../", "..//")
    for name in ("root", "root2", "root.bak", "storage2/x", "files2", "files-old/y")
]

_ABSOLUTE = [
    "//etc/passwd",
    "///etc/passwd",
    "//server/share/file",
    "\\etc\\passwd",
    "\\\\server\\share\\file",
    "\\\\?\\C:\\windows",
    "\\\\.\\COM1",
    "C:\\windows\\win.ini",
    "C:..\\secret",
    "/\\etc/passwd",
    "\\/etc/passwd",
]

_SLASHES = [
    "",
    "/",
    "//",
    "///",
    "a//b",
    "a///b",
    "a/b//",
    "a/",
    "a/b/",
    "//a",
    "a//",
    "/a/",
    " //",
    "a/./b",
    "a/.",
    "./a",
    "././a",
    "a/b/./",
]

_BACKSLASHES = ["\\", "a\\b", "a/\\b", "\\a", "a\\", "a/b\\c.txt", "a\\..\\b", "\\\\", "%5c\\", "file.txt\\"]

_HIDDEN_CHARACTERS = [
    spelled
    for character in (*CONTROLS, *LINE_ENDS, *BIDI, *NON_CHARACTERS, *SURROGATES)
    for spelled in (f"{character}", f"{character}a", f"a{character}b.txt", f"a/b{character}", f"{character}/a")
]

_RESERVED = [
    spelled
    for name in (".fs-tmp-", ".fs-tmp-0123456789abcdef", ".FS-TMP-x", ".Fs-Tmp-1", ".fs-tmp-x.txt")
    for spelled in (name, f"a/{name}", f"{name}/a", f"a/{name}/b", f"/{name}")
]

TOO_LONG = {
    "a segment of 256 letters": "a" * 256,
    "a segment of 256 letters in a directory": "folder/" + "b" * 256,
    "a directory of 256 letters": "c" * 256 + "/d",
    "a segment of 256 bytes in two-byte letters": "\u00e9" * 128,
    "a segment of 258 bytes in three-byte letters": "\u4e2d" * 86,
    "a segment of 256 bytes in four-byte letters": "\U0001f600" * 64,
    "an extension that makes 256 bytes": "a" * 252 + ".txt",
    "1025 bytes in valid segments": "/".join(["a" * 255] * 3 + ["b" * 254, "cc"]),
    "1025 bytes of one-letter directories": "a/" * 512 + "b",
    "1026 bytes of two-byte letters": "/".join(["\u00e9" * 127] * 4) + "\u00e9ab",
    "2000 bytes": "/".join(["a" * 199] * 10),
    "a megabyte": "a" * 1_000_000,
    "a megabyte of directories": "a/" * 500_000 + "a",
    "a megabyte of parent references": "../" * 350_000,
    "5000 letters that only grow in normal form": "\u0958" * 5000,
    "a kilobyte that grows past the limit in normal form": "/".join(["\u0958" * 42] * 8),
}

# Valid names that look dangerous: no backend may decode, expand or fold them.
HARMLESS_LOOKALIKES = [
    "..%2f..%2fetc/passwd",
    "%2e%2e/%2e%2e/etc/passwd",
    "%252e%252e/a",
    "..%00/a",
    "%00",
    "..;/a",
    "...",
    "....",
    "a/.../b",
    "..a",
    "a..",
    ". .",
    "~",
    "~root/.ssh/id_rsa",
    "$HOME/a",
    "${IFS}",
    "`id`",
    "$(id)",
    "a;b",
    "a|b",
    "a&b",
    "-rf",
    "--help",
    "*",
    "?",
    "[a-z]",
    "{a,b}",
    "a*b?c[d]{e}",
    "file:/etc/passwd",
    "http:/example.com/a",
    "c:/windows",
    "\uff0e\uff0e/a",
    "\u2025/a",
    "\u2024\u2024/a",
    "a\u2215b",
    "a\uff0fb",
    "a\u29f5b",
]

HOSTILE_PATHS = list(
    dict.fromkeys(
        [
            *_TRAVERSALS,
            *_SIBLINGS,
            *_ABSOLUTE,
            *_SLASHES,
            *_BACKSLASHES,
            *_HIDDEN_CHARACTERS,
            *_RESERVED,
            *TOO_LONG.values(),
        ]
    )
)
"""Every operation rejects each of these as the path of a file, before it calls the backend.

``""``, ``"/"`` and ``"a/"`` are among them: they are valid paths of a *directory* only, see `DIRECTORIES_ONLY`.
"""

DIRECTORIES_ONLY = ["", "/", "a/", "a/b/", "/a/"]
"""Valid paths of directories, and not of files."""

_DEVICES = [
    *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
    *(f"{device}{digit}" for device in ("COM", "LPT") for digit in "123456789\u00b9\u00b2\u00b3"),
]

WINDOWS_DEVICES = [
    spelled
    for device in _DEVICES
    for name in (device, device.lower(), device.capitalize())
    for spelled in (
        name,
        f"{name}.txt",
        f"{name}.tar.gz",
        f"{name} .txt",
        f"{name} ",
        f"{name}.",
        f"{name}:stream",
        f"a/{name}",
        f"{name}/a",
        f"a/{name}.log/b",
    )
]

NOT_PORTABLE_PATHS = list(
    dict.fromkeys(
        [
            *WINDOWS_DEVICES,
            *(f"a{character}b" for character in '<>:"|?*'),
            *(f"folder{character}/b" for character in '<>:"|?*'),
            *("a.", "a ", "a. ", "a .", "a./b", "a /b", "a/b.", "a/b ", "...", "a/...", " ", "a/ ", "a...", "a\u3000 "),
            *("a:b", "c:", "c:/a", "file.txt:stream", "file.txt::$DATA", "a*", "?", '"', "a|b", "<script>"),
        ]
    )
)
"""Valid paths that ``portable=True`` rejects, because Windows does not allow them."""

LEGAL_PATHS = list(
    dict.fromkeys(
        [
            *("a", "a.txt", "a/b", "a/b/c.tar.gz", ".env", ".hidden/.file", "README", "a b.txt", " a", "a+b", "a%20b"),
            *("100%.txt", "a#b?c=d&e", "it's.txt", 'say "hi".txt', "a,b;c=d", "(1).txt", "[1].txt", "{a}", "a@b", "a!"),
            *("caf\u00e9.txt", "\u0444\u0430\u0439\u043b.txt", "\u4e2d\u6587.png", "\u30d1\u30b9/\u30ef\u30fc\u30c9"),
            *("\U0001f600.gif", "\U0001f468\u200d\U0001f469\u200d\U0001f467.png", "\u0645\u06cc\u200c\u062e\u0648"),
            *("\u05e9\u05dc\u05d5\u05dd.txt", "\u0e44\u0e17\u0e22", "\u1112\u1161\u11ab".join("ab"), "\ufeffbom.txt"),
            *("\xa0nbsp", "\xad", "\U0010fffd", "\ue000", "\ufffd", "\u3000", "a\u0301", "\u212b", "\ufb01"),
            *(".fs-tm-p", ".fs-tmp", "a.fs-tmp-x", "fs-tmp-x", "..a", "a..b", "con/x", "nul.txt"),
            *("x" * 255, "\u00e9" * 127, "\u4e2d" * 85, "\U0001f600" * 63, "a" * 251 + ".txt"),
            "/".join(["a" * 255] * 3 + ["b" * 253, "c"]),
            "a/" * 511 + "bb",
            *HARMLESS_LOOKALIKES,
        ]
    )
)
"""Every operation accepts each of these; a listing returns ``unicodedata.normalize("NFC", path)``.

Not all at the same time: ``a`` is a file in one and a directory in another.
"""

_NOT_ON_WINDOWS = {"con/x", "nul.txt", "a..", "...", "....", "a/.../b", ". ."}

LEGAL_PORTABLE_PATHS = [path for path in LEGAL_PATHS if not set(path) & set('<>:"|?*') and path not in _NOT_ON_WINDOWS]
"""Those of `LEGAL_PATHS` that ``portable=True`` accepts."""

FILE_NAMES = list(
    dict.fromkeys(
        [
            *HOSTILE_PATHS,
            *NOT_PORTABLE_PATHS,
            *LEGAL_PATHS,
            'a"; filename="evil.html',
            "a\r\nSet-Cookie: a=b",
            "a\r\n\r\n<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>.png",
            "photo.jpg.exe",
            "photo\u202egpj.exe",
            "UTF-8''%e2%82%ac.txt",
            "=?utf-8?q?a?=",
            "%0d%0aLocation: x",
            "a" * 1000 + ".jpeg",
            "\u4e2d" * 1000 + ".png",
            "." * 300,
            " " * 300,
            "." + "a" * 300,
            "e\u0301" * 300 + ".txt",
            "name." + "x" * 300,
            "con.",
            "con .txt",
            "\x00",
            "\ud800",
            "a\ud800.txt",
        ]
    )
)
"""File names that may come from a browser, an e-mail or an archive: hostile, unusual and ordinary."""


def decomposed(path: str) -> str:
    """The path in NFD, as macOS sends it."""
    return unicodedata.normalize("NFD", path)
