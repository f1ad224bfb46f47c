"""Content types by file name extension, and the headers of downloads. Independent of Flask."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

from .types import LinkRequest

UNSPECIFIED_CONTENT_TYPE = "binary/octet-stream"
"""Stored by remote backends for a file without a content type. Always sent, since some services guess otherwise."""

DEFAULT_CONTENT_TYPE = "application/octet-stream"
"""The content type of an upload by link when the link sets none."""

_INLINE_TYPES = {"image/avif", "image/gif", "image/jpeg", "image/png", "image/webp", "text/plain"}

# Not every audio/* and video/*: browsers treat video/x+xml, as every type that ends in +xml, as XML with scripts.
_AUDIO_SUBTYPES = (
    "3gpp 3gpp2 aac aiff amr basic flac m4a midi mp3 mp4 mpeg ogg opus vnd.wave wav wave webm x-aac x-aiff x-flac "
    "x-m4a x-midi x-mp3 x-mpeg x-wav"
)
_VIDEO_SUBTYPES = "3gpp 3gpp2 avi mp2t mp4 mpeg ogg quicktime webm x-flv x-m4v x-matroska x-ms-wmv x-msvideo"
_VIEWER_TYPES = {
    "application/pdf",
    *(f"audio/{subtype}" for subtype in _AUDIO_SUBTYPES.split()),
    *(f"video/{subtype}" for subtype in _VIDEO_SUBTYPES.split()),
}

# A fixed table, because those of operating systems differ between systems and releases.
_TYPES_BY_EXTENSION = {
    extension: content_type
    for content_type, extensions in {
        "application/epub+zip": "epub",
        "application/gzip": "gz tgz",
        "application/json": "json map",
        "application/msword": "doc",
        "application/pdf": "pdf",
        "application/rtf": "rtf",
        "application/vnd.ms-excel": "xls",
        "application/vnd.ms-powerpoint": "ppt",
        "application/vnd.oasis.opendocument.presentation": "odp",
        "application/vnd.oasis.opendocument.spreadsheet": "ods",
        "application/vnd.oasis.opendocument.text": "odt",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
        "application/wasm": "wasm",
        "application/x-7z-compressed": "7z",
        "application/x-bzip2": "bz2",
        "application/x-tar": "tar",
        "application/x-xz": "xz",
        "application/xhtml+xml": "xhtml xht",
        "application/xml": "xml xsl xslt",
        "application/zip": "zip",
        "application/zstd": "zst",
        "audio/aac": "aac",
        "audio/flac": "flac",
        "audio/midi": "mid midi",
        "audio/mp4": "m4a",
        "audio/mpeg": "mp3",
        "audio/ogg": "oga ogg opus",
        "audio/wav": "wav",
        "audio/webm": "weba",
        "font/otf": "otf",
        "font/ttf": "ttf",
        "font/woff": "woff",
        "font/woff2": "woff2",
        "image/avif": "avif",
        "image/bmp": "bmp",
        "image/gif": "gif",
        "image/heic": "heic heif",
        "image/jpeg": "jpeg jpg",
        "image/png": "apng png",
        "image/svg+xml": "svg",
        "image/tiff": "tif tiff",
        "image/vnd.microsoft.icon": "ico",
        "image/webp": "webp",
        "message/rfc822": "eml mht mhtml",
        "text/calendar; charset=utf-8": "ics",
        "text/css; charset=utf-8": "css",
        "text/csv; charset=utf-8": "csv",
        "text/html; charset=utf-8": "htm html shtml",
        "text/javascript; charset=utf-8": "js mjs",
        "text/markdown; charset=utf-8": "md",
        "text/plain; charset=utf-8": "log text txt",
        "text/vcard; charset=utf-8": "vcf",
        "text/vtt; charset=utf-8": "vtt",
        "video/mp4": "m4v mp4",
        "video/mpeg": "mpeg mpg",
        "video/ogg": "ogv",
        "video/quicktime": "mov",
        "video/webm": "webm",
        "video/x-matroska": "mkv",
        "video/x-msvideo": "avi",
    }.items()
    for extension in extensions.split()
}


def guess_content_type(path: str) -> str | None:
    """Return the media type for the extension of *path*, or None if it is unknown.

    The table is fixed, so the result is the same on every machine.

    >>> guess_content_type("a/Photo.JPG"), guess_content_type("README")
    ('image/jpeg', None)
    """
    return _TYPES_BY_EXTENSION.get(path.rpartition(".")[2].lower())


def is_implied_by_name(content_type: str, path: str) -> bool:
    """Whether a file at *path* is served with *content_type* also when no content type is stored with it.

    Case does not matter, nor do parameters that *content_type* leaves out.

    >>> is_implied_by_name("text/csv", "a.csv"), is_implied_by_name("text/csv; charset=latin-1", "a.csv")
    (True, False)
    """
    implied = guess_content_type(path) or DEFAULT_CONTENT_TYPE
    return _canonical(content_type) in (_canonical(implied), _essence(implied))


def is_shown_in_viewer(content_type: str) -> bool:
    """Whether browsers have a viewer for this type: PDF, audio, video."""
    return _essence(content_type) in _VIEWER_TYPES


def is_safe_inline(content_type: str) -> bool:
    """Whether a browser may show this type inline: whether it cannot run scripts.

    >>> is_safe_inline("image/png"), is_safe_inline("text/html"), is_safe_inline("image/svg+xml")
    (True, False, False)
    """
    return is_shown_in_viewer(content_type) or _essence(content_type) in _INLINE_TYPES


def content_disposition(how: str, name: str) -> str:
    r"""Return a ``Content-Disposition``, with ``filename`` in ASCII and, if that differs from the name, ``filename*``.

    Args:
        how: ``"attachment"`` or ``"inline"``.
        name: A file name, possibly untrusted: it cannot break the header. A slash becomes ``_``, since browsers would
            remove what is before it.

    >>> content_disposition("attachment", "Zoë 1/2.txt")
    'attachment; filename="Zoe 1_2.txt"; filename*=UTF-8\'\'Zo%C3%AB%201_2.txt'
    """
    filename = name.replace("/", "_") or "download"
    # Cc and Cf: line ends, and the bidirectional controls that display "gpj.exe" as "exe.jpg". Emoji need joiners.
    filename = "".join(
        "_" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char not in "\u200c\u200d" else char
        for char in filename
    )
    plain = "".join(
        char if " " <= char <= "~" and char not in '"%\\' else "_"
        for char in unicodedata.normalize("NFKD", filename)
        if not unicodedata.combining(char)
    )
    value = f'{how}; filename="{plain}"'
    return value if plain == filename else f"{value}; filename*=UTF-8''{quote(filename, safe='!#$&+-.^_`|~')}"


def link_response_headers(path: str, request: LinkRequest) -> dict[str, str]:
    """Return the response headers that a download link of a service must request. Unset headers are left out.

    Args:
        path: The path of the file.
        request: What the link allows.
    """
    content_type = request.content_type
    how = "attachment"
    if request.disposition == "inline":
        # Always set, so that the stored content type cannot make the response a page with scripts.
        content_type = content_type or guess_content_type(path) or DEFAULT_CONTENT_TYPE
        how = "inline" if is_safe_inline(content_type) else "attachment"
    headers = {
        "cache-control": request.cache_control,
        # Without a filename, browsers use the last segment of the URL, which is that of the path.
        "content-disposition": content_disposition(how, request.filename) if request.filename else how,
        "content-encoding": request.content_encoding,
        "content-type": content_type,
    }
    return {name: value for name, value in headers.items() if value}


def _canonical(content_type: str) -> str:
    """Return a media type without the differences of spelling that have no meaning."""
    return "".join(content_type.lower().replace('"', "").split())


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
