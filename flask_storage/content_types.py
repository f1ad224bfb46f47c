"""What is said of content: its media type by its name, and the name it is saved under. Pure text, no Flask."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

from .types import LinkRequest

UNSPECIFIED_CONTENT_TYPE = "binary/octet-stream"
"""What a far place keeps for a file that was given no type: S3's own word. It is sent outright, as some guess one."""

DEFAULT_CONTENT_TYPE = "application/octet-stream"
"""The type of an upload by a link that says none."""

_INLINE_TYPES = {"image/avif", "image/gif", "image/jpeg", "image/png", "image/webp", "text/plain"}

# Fixed, because the tables of an operating system differ from each other and from release to release.
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
    """Return the media type that the extension of *path* stands for, or None for an unknown one.

    The table is ours and the same on every machine.

    >>> guess_content_type("a/Photo.JPG"), guess_content_type("README")
    ('image/jpeg', None)
    """
    return _TYPES_BY_EXTENSION.get(path.rpartition(".")[2].lower())


def is_shown_in_viewer(content_type: str) -> bool:
    """Whether a browser shows this type in a viewer of its own: PDF, audio, video."""
    kind = _essence(content_type)
    return kind == "application/pdf" or kind.startswith(("audio/", "video/"))


def is_safe_inline(content_type: str) -> bool:
    """Whether a browser may show this type instead of saving it: one that cannot run scripts.

    >>> is_safe_inline("image/png"), is_safe_inline("text/html"), is_safe_inline("image/svg+xml")
    (True, False, False)
    """
    return is_shown_in_viewer(content_type) or _essence(content_type) in _INLINE_TYPES


def content_disposition(how: str, name: str) -> str:
    r"""Return a ``Content-Disposition``: a plain name for every client and, where it is not the whole one, that too.

    Args:
        how: ``"attachment"`` or ``"inline"``.
        name: A path or a name; only its last segment is told, and nothing in it can end the header.

    >>> content_disposition("attachment", "a/Zoë.txt")
    'attachment; filename="Zoe.txt"; filename*=UTF-8\'\'Zo%C3%AB.txt'
    """
    leaf = name.rpartition("/")[2] or "download"
    # Cc and Cf: line ends, and the direction marks that make "gpj.exe" read "exe.jpg". Emoji need their joiners.
    leaf = "".join(
        "_" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char not in "\u200c\u200d" else char
        for char in leaf
    )
    plain = "".join(
        char if " " <= char <= "~" and char not in '"%/\\' else "_"
        for char in unicodedata.normalize("NFKD", leaf)
        if not unicodedata.combining(char)
    )
    value = f'{how}; filename="{plain}"'
    return value if plain == leaf else f"{value}; filename*=UTF-8''{quote(leaf, safe='!#$&+-.^_`|~')}"


def link_response_headers(path: str, request: LinkRequest) -> dict[str, str]:
    """Return the headers with which a place of its own is to answer a download by link; none that it need not be told.

    Args:
        path: The file.
        request: What the link was asked to say.
    """
    kind = request.content_type
    how = "attachment"
    if request.disposition == "inline":
        # Said outright, so that no stored type turns the link into a page with scripts.
        kind = kind or guess_content_type(path) or DEFAULT_CONTENT_TYPE
        how = "inline" if is_safe_inline(kind) else "attachment"
    headers = {
        "cache-control": request.cache_control,
        # Without a name of its own a download gets the last segment of the URL, which is the file's.
        "content-disposition": content_disposition(how, request.filename) if request.filename else how,
        "content-encoding": request.content_encoding,
        "content-type": kind,
    }
    return {name: value for name, value in headers.items() if value}


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
