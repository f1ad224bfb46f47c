"""Only our own page may change something: a token in the session must come back with every such request."""

from __future__ import annotations

import hmac
import secrets

from flask import Flask, Response, abort, request, session

HEADER = "X-CSRF-Token"
FIELD = "csrf_token"

# Scripts, styles and pictures are files of ours; no code in the page, no code in an attribute, no text made code.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'{origin}; media-src 'self'{origin}; "
    "connect-src 'self'{origin}; frame-src 'self'{origin}; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def init_app(app: Flask) -> None:
    """Let the templates ask for the token, and send every page with a strict policy."""
    app.add_template_global(token, "csrf_token")
    app.after_request(_harden)


def token() -> str:
    """Return the token of this visitor's session."""
    if FIELD not in session:
        session[FIELD] = secrets.token_urlsafe(32)
    return str(session[FIELD])


def protect() -> None:
    """Refuse a request that would change something and does not come from our page; for ``before_request``."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    # Browsers tell where a request comes from; asking that first spares reading a stranger's form.
    foreign = request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")
    if foreign or not _is_ours(request.headers.get(HEADER) or request.form.get(FIELD, "")):
        abort(400, "This page is out of date. Reload it and try again.")


def _is_ours(sent: str) -> bool:
    return hmac.compare_digest(sent.encode(), str(session.get(FIELD, "")).encode()) and bool(sent)


def _harden(response: Response) -> Response:
    # What the link view sends has a stricter policy of its own, which stays.
    if response.mimetype == "text/html" and "Content-Security-Policy" not in response.headers:
        response.headers["Content-Security-Policy"] = PAGE_POLICY.format(origin="")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    return response
