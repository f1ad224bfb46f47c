"""Protection against cross-site request forgery: requests that change something must send the session's token."""

from __future__ import annotations

import hmac
import secrets

from flask import Flask, Response, abort, request, session

HEADER = "X-CSRF-Token"
FIELD = "csrf_token"

# Scripts, styles and images come from this app only; no inline scripts, and no HTML built from text (trusted types).
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'{origin}; media-src 'self'{origin}; "
    "connect-src 'self'{origin}; frame-src 'self'{origin}; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def init_app(app: Flask) -> None:
    """Make the token available in templates, and add security headers to every page."""
    app.add_template_global(token, "csrf_token")
    app.after_request(_add_security_headers)


def token() -> str:
    """Return the token of this visitor's session."""
    if FIELD not in session:
        session[FIELD] = secrets.token_urlsafe(32)
    return str(session[FIELD])


def protect() -> None:
    """Reject a request that would change something and has no valid token; for ``before_request``."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    # Browsers send Sec-Fetch-Site. It is checked first, so that the form of a cross-site request is not parsed.
    cross_site = request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")
    if cross_site or not _is_session_token(request.headers.get(HEADER) or request.form.get(FIELD, "")):
        abort(400, "This page is out of date. Reload it and try again.")


def _is_session_token(sent: str) -> bool:
    return hmac.compare_digest(sent.encode(), str(session.get(FIELD, "")).encode()) and bool(sent)


def _add_security_headers(response: Response) -> Response:
    # Responses of the link view have a stricter policy already, which stays.
    if response.mimetype == "text/html" and "Content-Security-Policy" not in response.headers:
        response.headers["Content-Security-Policy"] = PAGE_POLICY.format(origin="")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    return response
