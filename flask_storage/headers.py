"""What a browser is told about a stored file: its type, its name, and what it may not do with it.

Nothing here comes from the request. A type that can run scripts is never shown, only offered for saving, and none is
guessed from the content (``nosniff``).
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, urlsplit

from flask import current_app, request
from werkzeug.datastructures import Headers

from .values import FileInfo

# No comma anywhere: browsers take the last type of a list, and we would have looked at the first.
_TYPE = re.compile(r"""[\w.+-]+/[\w.+-]+([ \t]*;[ \t]*[\w.+-]+=([\w.+-]+|"[ !#-+\--\[\]-~]*"))*""", re.ASCII)
_HEADER_TEXT = re.compile(r"[\x20-\x7e]+")
_SHOWN_TYPES = {"image/avif", "image/gif", "image/jpeg", "image/png", "image/webp", "text/plain"}
# A browser shows an image, a film or a PDF in a document of its own making, which these rules bind too. In a sandbox
# Chromium plays no film, since that document has no origin and its own file is a stranger to it; and not every browser
# starts its PDF viewer there. Neither kind can be a page with scripts: `nosniff` holds browsers to the type.
_ALWAYS = "default-src 'none'; form-action 'none'; base-uri 'none'"
_LOCKED = f"{_ALWAYS}; sandbox"
_SHOWN = f"{_ALWAYS}; img-src 'self'; style-src 'unsafe-inline'; sandbox"
_PLAYED = f"{_ALWAYS}; media-src 'self'; object-src 'self'; style-src 'unsafe-inline'"

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


def describe(
    info: FileInfo,
    *,
    filename: str | None = None,
    disposition: str | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> Headers:
    """Return the headers that describe a file and keep a browser from making more of it than that.

    Needs a request. The arguments are those of :func:`~flask_storage.send_stored_file`.
    """
    kind = next(
        (given for given in (content_type, info.content_type) if given and _TYPE.fullmatch(given)), None
    ) or _guessed_type(info.path)
    policy = (_shown_under(kind) if disposition == "inline" else None) or _LOCKED
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Disposition": _disposition("attachment" if policy is _LOCKED else "inline", filename or info.path),
            "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "cross-origin" if _links_live_elsewhere() else "same-site",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
    )
    if encoding := header_text(content_encoding or info.content_encoding):
        headers["Content-Encoding"] = encoding
    return headers


def header_text(value: str | None) -> str | None:
    """Return *value* if a header can carry it: printable ASCII. A file that was stored elsewhere may say anything."""
    return value if value and _HEADER_TEXT.fullmatch(value) else None


def _guessed_type(path: str) -> str:
    return _TYPES_BY_EXTENSION.get(path.rpartition(".")[2].lower(), "application/octet-stream")


def _shown_under(content_type: str) -> str | None:
    """Return the policy under which a browser may show this type, or None for never."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/pdf" or kind.startswith(("audio/", "video/")):
        return _PLAYED
    return _SHOWN if kind in _SHOWN_TYPES else None


def _disposition(how: str, name: str) -> str:
    """Return the header's value: a plain name for every client and, where that is not the whole name, the whole one."""
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


def _links_live_elsewhere() -> bool:
    """Whether the app's own pages are on another site than its links, so that they embed files across sites."""
    links = urlsplit(current_app.config.get("STORAGE_EXTERNAL_URL") or "").hostname
    app = re.sub(r":\d*$", "", current_app.config.get("SERVER_NAME") or request.host).lower()
    return links is not None and _site(links) != _site(app)


def _site(host: str) -> str:
    """Return the last two labels of a host name; an address is a site of its own."""
    labels = host.strip("[]").split(".")
    return ".".join(labels if labels[-1].isdigit() else labels[-2:])
