"""The response headers of a stored file: content type, file name, and the security policy.

No value is taken from the request. A file whose type can run scripts is always an attachment, and browsers must not
guess a type from the content (``nosniff``).
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from flask import current_app, request
from werkzeug.datastructures import Headers

from ..content_types import content_disposition, guess_content_type, is_safe_inline, is_shown_in_viewer
from ..types import FileInfo

# No comma anywhere: in a list of types, browsers use the last, and the check for safe types would use the first.
_TYPE = re.compile(r"""[\w.+-]+/[\w.+-]+([ \t]*;[ \t]*[\w.+-]+=([\w.+-]+|"[ !#-+\--\[\]-~]*"))*""", re.ASCII)
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]+")
# A browser shows an image, a video or a PDF in a document that it generates, and applies the policy to that document.
# In a sandbox, Chromium plays no video, because the document has an opaque origin and the video is cross-origin to it;
# and some browsers do not start their PDF viewer. So the policy for viewers has no sandbox. These types cannot run
# scripts, since `nosniff` keeps browsers from treating them as another type.
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
    """Return the headers that describe a file, and that keep a browser from running scripts in it.

    Needs a request. The arguments are those of :func:`~flask_storage.send_stored_file`.
    """
    sent_type = next((value for value in (content_type, info.content_type) if value and _TYPE.fullmatch(value)), None)
    sent_type = sent_type or guess_content_type(info.path) or "application/octet-stream"
    policy = _inline_policy(sent_type) if disposition == "inline" and is_safe_inline(sent_type) else _ATTACHMENT_POLICY
    headers = Headers(
        {
            "Content-Type": sent_type,
            "Content-Disposition": content_disposition(
                "attachment" if policy is _ATTACHMENT_POLICY else "inline", filename or info.path.rpartition("/")[2]
            ),
            "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "cross-origin" if _links_have_their_own_host() else "same-site",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
    )
    if encoding := header_value(content_encoding or info.content_encoding):
        headers["Content-Encoding"] = encoding
    return headers


def header_value(value: str | None) -> str | None:
    """Return *value* if it is valid in a header (printable ASCII); other programs may have stored any value."""
    return value if value and _PRINTABLE_ASCII.fullmatch(value) else None


def _inline_policy(content_type: str) -> str:
    """Return the content security policy for a type that is safe to show inline."""
    return _VIEWER_POLICY if is_shown_in_viewer(content_type) else _INLINE_POLICY


def _links_have_their_own_host() -> bool:
    """Whether the app's pages and its links have different hosts, so that the pages may embed files across sites.

    Whether two hosts are of one site depends on the list of public suffixes: ``a.example.com`` and ``b.example.com``
    are, ``a.github.io`` and ``b.github.io`` are not.
    """
    links = urlsplit(current_app.config.get("STORAGE_EXTERNAL_URL") or "").hostname
    # Not urlsplit: it raises on some values of the Host header.
    app = re.sub(r":\d*$", "", current_app.config.get("SERVER_NAME") or request.host).strip("[]").lower()
    return links is not None and links != app
