"""Error messages for the user of the page."""

from __future__ import annotations

from flask import Flask, Response, current_app, jsonify, make_response, render_template, request
from werkzeug.exceptions import BadRequest, HTTPException
from werkzeug.wrappers import Response as BaseResponse

from flask_storage import (
    FileNotFoundInStorageError,
    InvalidPathError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    TooLargeError,
)

from .formats import filesize

ERROR_TEXTS = {
    400: ("Invalid request", "The app could not understand this request. Reload the page and try again."),
    403: (
        "This link does not work",
        "It has expired, was already used, or is incomplete. Ask the sender for a new link.",
    ),
    404: ("File not found", "The file was deleted, or the address is wrong."),
    409: ("The name is taken", "Another upload has used this name. Try again."),
    411: ("The size is missing", "An upload must state its size (the Content-Length header)."),
    413: ("The file is too large", "A file may have up to {limit}."),
    500: ("Something went wrong", "The error is on our side and has been logged. Try again later."),
    503: ("The storage is unavailable", "Your files are not affected. Try again in a moment."),
    507: ("The storage is full", "The file was not stored. Delete some files and try again."),
}

UNTRUSTED_HOST_TEXT = (
    "The app is not served at this address. If you run it, add the address to FLASK_TRUSTED_HOSTS, for example\n"
    """FLASK_TRUSTED_HOSTS='["files.example.com"]'\n"""
)

ERROR_STATUSES: list[tuple[type[StorageError], int]] = [
    (FileNotFoundInStorageError, 404),
    (InvalidPathError, 400),
    (TooLargeError, 413),
    (StorageFullError, 507),
    (StorageUnavailableError, 503),
]


def init_app(app: Flask) -> None:
    """Show every error as a page of the app, or as JSON to the page's script."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(StorageError, _storage_error)
    app.after_request(_html_errors_for_browsers)


def _http_error(error: HTTPException) -> BaseResponse:
    if error.code is None or error.code < 400 or error.response is not None:
        return error.get_response()  # a redirect, or an error that carries its own response
    # Use a text that was passed to abort(); Werkzeug's default texts are for developers.
    detail = error.description if error.description != type(error).description else None
    response = _error_response(error.code, detail)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _storage_error(error: StorageError) -> Response:
    for cls, status in ERROR_STATUSES:
        if isinstance(error, cls):
            return _error_response(status)
    current_app.logger.error("the storage failed", exc_info=error)
    return _error_response(500)


def _html_errors_for_browsers(response: Response) -> Response:
    """Replace the link view's plain-text errors by a page in browsers; other clients keep the text."""
    accepts_html = any(mimetype == "text/html" for mimetype, _ in request.accept_mimetypes)
    if response.status_code < 400 or not _is_link_view() or not accepts_html:
        return response
    response.close()
    return _error_response(response.status_code)


def _error_response(status: int, detail: str | None = None) -> Response:
    title, text = ERROR_TEXTS.get(status) or ERROR_TEXTS[400 if status < 500 else 500]
    text = detail or text.format(limit=filesize(current_app.config["DROP_MAX_UPLOAD_SIZE"]))
    if isinstance(request.routing_exception, BadRequest):  # a Host that is not trusted: url_for() fails in templates
        response = make_response(UNTRUSTED_HOST_TEXT, {"Content-Type": "text/plain; charset=utf-8"})
    elif request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        response = jsonify(error=text)
    else:
        # A visitor with a shared link gets no link to the list of all files.
        home = not _is_link_view()
        response = make_response(render_template("message.html", mark=status, title=title, text=text, home=home))
        response.headers["Cache-Control"] = "no-store"
    response.status_code = status
    return response


def _is_link_view() -> bool:
    return request.endpoint is not None and (
        request.endpoint.startswith("storage_") or request.endpoint == "drop.shared"
    )
