"""The media type of a file, from its name and the beginning of its content; what a client says is not asked for."""

from __future__ import annotations

import codecs
import re

from ..content_types import DEFAULT_CONTENT_TYPE, guess_content_type

HEAD_BYTES = 8192
"""How much of a file :func:`content_type_of` looks at."""

_BINARY = {
    # What a file of each type begins with. Short ones are made longer, since text may begin with "BM", "MZ" or "ID3".
    "application/gzip": rb"\x1f\x8b\x08",
    "application/java-archive": rb"\xca\xfe\xba\xbe",
    "application/ogg": rb"OggS\0",
    "application/pdf": rb"%PDF-",
    "application/postscript": rb"%!PS",
    "application/rtf": rb"\{\\rtf",
    "application/vnd.apache.parquet": rb"PAR1",
    "application/vnd.debian.binary-package": rb"!<arch>\ndebian",
    "application/vnd.microsoft.portable-executable": rb"MZ.{0,62}\0",
    "application/vnd.rar": rb"Rar!\x1a\x07",
    "application/vnd.sqlite3": rb"SQLite format 3\0",
    "application/wasm": rb"\0asm",
    "application/x-7z-compressed": rb"7z\xbc\xaf\x27\x1c",
    "application/x-bzip2": rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)",
    "application/x-executable": rb"\x7fELF",
    "application/x-hdf5": rb"\x89HDF\r\n\x1a\n",
    "application/x-mach-binary": rb"[\xce\xcf]\xfa\xed\xfe",
    "application/x-ole-storage": rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "application/x-tar": rb".{257}ustar",
    "application/x-xz": rb"\xfd7zXZ\0",
    "application/zip": rb"PK(?:\x03\x04|\x05\x06|\x07\x08)",
    "application/zstd": rb"\x28\xb5\x2f\xfd",
    "audio/aac": rb"\xff[\xf0\xf1\xf8\xf9]",
    "audio/aiff": rb"FORM.{4}AIF[FC]",
    "audio/amr": rb"#!AMR",
    "audio/flac": rb"fLaC",
    "audio/midi": rb"MThd\0",
    "audio/mp4": rb".{4}ftypM4[AB] ",
    "audio/mpeg": rb"ID3[\x02-\x04]|\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]",
    "audio/wav": rb"RIFF.{4}WAVE",
    "font/otf": rb"OTTO\0",
    "font/ttf": rb"\0\x01\0\0\0|true\0|ttcf\0",
    "font/woff": rb"wOFF",
    "font/woff2": rb"wOF2",
    "image/avif": rb".{4}ftypavi[fs]",
    "image/bmp": rb"BM.{4}\0{4}",
    "image/gif": rb"GIF8[79]a",
    "image/heic": rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "image/jp2": rb"\0\0\0\x0cjP {2}",
    "image/jpeg": rb"\xff\xd8\xff",
    "image/png": rb"\x89PNG\r\n\x1a\n",
    "image/tiff": rb"II[*+]\0|MM\0[*+]",
    "image/vnd.adobe.photoshop": rb"8BPS\0",
    "image/vnd.microsoft.icon": rb"\0\0\x01\0[^\0]\0",
    "image/webp": rb"RIFF.{4}WEBP",
    "video/3gpp": rb".{4}ftyp3g",
    "video/mpeg": rb"\0\0\x01[\xb3\xba]",
    "video/quicktime": rb".{4}(?:ftypqt {2}|moov|mdat|wide|free)",
    "video/webm": rb"\x1aE\xdf\xa3.{0,64}?webm",
    "video/x-flv": rb"FLV\x01",
    "video/x-ms-asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "video/x-msvideo": rb"RIFF.{4}AVI ",
    # Last: others begin in the same way.
    "video/mp4": rb".{4}ftyp",
    "video/x-matroska": rb"\x1aE\xdf\xa3",
}
_TYPES = list(_BINARY)
_ANY_BINARY = re.compile(b"|".join(b"(%s)" % pattern for pattern in _BINARY.values()), re.DOTALL)

# One type of content may have several names. What the content shows first, then what the name may say beside it.
_OGG = {"audio/ogg", "video/ogg"}
_OFFICE = "application/vnd.openxmlformats-officedocument"
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument"
_NAMED_TYPES = {
    "application/ogg": _OGG,
    "application/x-ole-storage": {"application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"},
    "application/zip": {
        "application/epub+zip",
        *(f"{_OPEN_DOCUMENT}.{kind}" for kind in ("presentation", "spreadsheet", "text")),
        *(
            f"{_OFFICE}.{kind}"
            for kind in ("presentationml.presentation", "spreadsheetml.sheet", "wordprocessingml.document")
        ),
    },
    "audio/mpeg": {"audio/aac", "audio/flac"},  # with the same tags in front
    "image/heic": {"image/avif"},
    "video/mp4": {"audio/mp4", "video/quicktime"},
    "video/quicktime": {"audio/mp4", "video/mp4"},
    "video/webm": {"audio/webm", "video/x-matroska"},
    "application/xml": {"application/xhtml+xml"},
    "image/svg+xml": {"text/markdown"},
    "text/html": {"application/xhtml+xml", "message/rfc822", "text/markdown"},
}
# Files of these types need not begin in a way that can be recognized.
_WITHOUT_SIGNATURE = {"application/x-tar", "audio/aac", "audio/mpeg"}

_MARKUP = {"application/xhtml+xml", "application/xml", "image/svg+xml"}

_PROLOG = re.compile(
    r"(?:\s++|<\?.*?\?>|<!--.*?-->|<!doctype(?!\s+html)[^<>\[]*+(?:\[.*?\]\s*)?>)*+", re.DOTALL | re.IGNORECASE
)
_SVG = re.compile(r"<(?:[a-z][\w.-]*:)?svg[\s/>]", re.IGNORECASE)
# The tags by which browsers recognize HTML (https://mimesniff.spec.whatwg.org/).
_HTML = re.compile(
    r"<(?:!doctype\s+html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\s/>]", re.IGNORECASE
)
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def content_type_of(name: str, head: bytes) -> str | None:
    """Return the media type of a file, by its name and by what its content begins with.

    Where both agree, the result is that of the name, as of
    :func:`~flask_storage.content_types.guess_content_type`. A name can say more than the content, for example which
    kind of document a ZIP archive is. Where they contradict each other, the content decides: a page that is called
    ``photo.png`` is ``text/html``, and content that no image begins with is ``application/octet-stream``. What is
    inside an archive is not looked at.

    Args:
        name: The file name; it may be untrusted.
        head: The first :data:`HEAD_BYTES` of the content, or all of it.

    Returns:
        The media type; None if neither name nor content show one.

    >>> content_type_of("photo.png", b"<html><script>alert(1)</script>")
    'text/html; charset=utf-8'
    >>> content_type_of("table.csv", b"id,name")
    'text/csv; charset=utf-8'
    """
    named = guess_content_type(name)
    if not head:
        return named
    essence = (named or "").partition(";")[0]
    found = _binary_type(head)
    if found is None and essence == "application/pdf" and b"%PDF-" in head[:1024]:  # some programs write before it
        found = essence
    if found is not None:
        return named if _agree(found, essence) else found
    text, is_utf8 = _decoded(head)
    if text is None:
        return named if named is None or essence in _WITHOUT_SIGNATURE else DEFAULT_CONTENT_TYPE
    found = _text_type(text, essence)
    if _agree(found, essence) or (found == "text/plain" and _is_plain(essence)):
        return named if is_utf8 else essence  # the names say charset=utf-8
    return f"{found}; charset=utf-8" if is_utf8 and found.startswith("text/") else found


def _agree(found: str, named: str) -> bool:
    return found == named or named in _NAMED_TYPES.get(found, ())


def _binary_type(head: bytes) -> str | None:
    match = _ANY_BINARY.match(head)
    return _TYPES[match.lastindex - 1] if match and match.lastindex else None


def _decoded(head: bytes) -> tuple[str | None, bool]:
    """Return *head* as text, or None if it is none; and whether it is UTF-8."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return head.decode("utf-16", "replace"), False
    if _CONTROL_BYTES.search(head):
        return None, False
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(head), True
    except UnicodeDecodeError:
        return head.decode("latin-1"), False


def _text_type(text: str, named: str) -> str:
    """Return the type of markup that *text* begins with, or ``text/plain``."""
    markup = _PROLOG.sub("", text, count=1)
    if _SVG.match(markup):
        return "image/svg+xml"
    if _HTML.match(markup):
        return "text/html"
    is_xml = text.lstrip().startswith("<" if named in _MARKUP else "<?xml")
    return "application/xml" if is_xml else "text/plain"


def _is_plain(named: str) -> bool:
    """Whether text without markup can be of this type; HTML can, since a fragment may begin with text."""
    return named.startswith("text/") or named in {"application/json", "message/rfc822"}
