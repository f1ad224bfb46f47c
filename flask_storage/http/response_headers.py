"""What a browser is told about a stored file: its type, its name, and what it may not do with it.

Nothing here comes from the request. A type that can run scripts is never shown, only offered for saving, and none is
guessed from the content (``nosniff``).
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from flask import current_app, request
from werkzeug.datastructures import Headers

from ..content_types import content_disposition, guess_content_type, is_safe_inline, is_shown_in_viewer
from ..types import FileInfo

# No comma anywhere: browsers take the last type of a list, and we would have looked at the first.
_TYPE = re.compile(r"""[\w.+-]+/[\w.+-]+([ \t]*;[ \t]*[\w.+-]+=([\w.+-]+|"[ !#-+\--\[\]-~]*"))*""", re.ASCII)
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]+")
# A browser shows an image, a film or a PDF in a document of its own making, which these rules bind too. In a sandbox
# Chromium plays no film, since that document has no origin and its own file is a stranger to it; and not every browser
# starts its PDF viewer there. Neither kind can be a page with scripts: `nosniff` holds browsers to the type.
_BASE_POLICY = "default-src 'none'; form-action 'none'; base-uri 'none'"
_ATTACHMENT_POLICY = f"{_BASE_POLICY}; sandbox"
_INLINE_POLICY = f"{_BASE_POLICY}; img-src 'self'; style-src 'unsafe-inline'; sandbox"
_VIEWER_POLICY = f"{_BASE_POLICY}; media-src 'self'; object-src 'self'; style-src 'unsafe-inline'"


def file_headers(
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
    kind = next((given for given in (content_type, info.content_type) if given and _TYPE.fullmatch(given)), None) or (
        guess_content_type(info.path) or "application/octet-stream"
    )
    policy = _inline_policy(kind) if disposition == "inline" and is_safe_inline(kind) else _ATTACHMENT_POLICY
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Disposition": content_disposition(
                "attachment" if policy is _ATTACHMENT_POLICY else "inline", filename or info.path
            ),
            "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "cross-origin" if _links_are_cross_site() else "same-site",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
    )
    if encoding := header_value(content_encoding or info.content_encoding):
        headers["Content-Encoding"] = encoding
    return headers


def header_value(value: str | None) -> str | None:
    """Return *value* if a header can carry it: printable ASCII. A file that was stored elsewhere may say anything."""
    return value if value and _PRINTABLE_ASCII.fullmatch(value) else None


def _inline_policy(content_type: str) -> str:
    """Return the policy under which a browser shows a type that may be shown."""
    return _VIEWER_POLICY if is_shown_in_viewer(content_type) else _INLINE_POLICY


def _links_are_cross_site() -> bool:
    """Whether the app's own pages are on another site than its links, so that they embed files across sites."""
    links = urlsplit(current_app.config.get("STORAGE_EXTERNAL_URL") or "").hostname
    app = re.sub(r":\d*$", "", current_app.config.get("SERVER_NAME") or request.host).lower()
    return links is not None and _site(links) != _site(app)


def _site(host: str) -> str:
    """Return the last two labels of a host name; an address is a site of its own."""
    labels = host.strip("[]").split(".")
    return ".".join(labels if labels[-1].isdigit() else labels[-2:])
