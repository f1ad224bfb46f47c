"""What goes wrong, in words for the person in front of the screen."""

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
    400: ("That did not work", "The request was not one this page makes. Reload the page and try again."),
    403: (
        "This link no longer works",
        "It has run out, was already used, or lost a part on its way. Ask the person who sent it for a new one.",
    ),
    404: ("Nothing is here", "The file was deleted, or the address has a typo."),
    409: ("That name is taken", "Another upload was faster. Try again."),
    411: ("The size is missing", "An upload has to say how long it is."),
    413: ("That file is too large", "A file may have up to {limit}."),
    500: ("Something broke", "It is our fault, and it was written down. Try again in a moment."),
    503: ("The storage does not answer", "Nothing is lost. Try again in a moment."),
    507: ("The storage is full", "Nothing was stored. Delete something and try again."),
}

ERROR_STATUSES: list[tuple[type[StorageError], int]] = [
    (FileNotFoundInStorageError, 404),
    (InvalidPathError, 400),
    (TooLargeError, 413),
    (StorageFullError, 507),
    (StorageUnavailableError, 503),
]


def init_app(app: Flask) -> None:
    """Show every error as a page of ours, or as JSON to the page's script."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(StorageError, _storage_error)
    app.after_request(_html_errors_for_browsers)


def _http_error(error: HTTPException) -> BaseResponse:
    if error.code is None or error.code < 400 or error.response is not None:
        return error.get_response()  # a redirect, or an answer that somebody has made already
    # What abort() was given to say; Werkzeug's own texts are for developers.
    own_words = error.description if error.description != type(error).description else None
    response = _error_response(error.code, own_words)
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
    """Show who opened a shared link in a browser a page; programs keep the line of text that the link view sends."""
    asks_for_a_page = any(kind == "text/html" for kind, _ in request.accept_mimetypes)
    if response.status_code < 400 or not _is_link_view() or not asks_for_a_page:
        return response
    response.close()
    return _error_response(response.status_code)


def _error_response(status: int, detail: str | None = None) -> Response:
    title, text = ERROR_TEXTS.get(status) or ERROR_TEXTS[400 if status < 500 else 500]
    text = detail or text.format(limit=filesize(current_app.config["DROP_MAX_UPLOAD_SIZE"]))
    if isinstance(request.routing_exception, BadRequest):  # a Host that is none: no address can be built for a page
        response = make_response(f"{title}\n", {"Content-Type": "text/plain; charset=utf-8"})
    elif request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        response = jsonify(error=text)
    else:
        # Who came by a shared link is a guest: the list of all files is not theirs to be led to.
        home = not _is_link_view()
        response = make_response(render_template("message.html", mark=status, title=title, text=text, home=home))
        response.headers["Cache-Control"] = "no-store"
    response.status_code = status
    return response


def _is_link_view() -> bool:
    return request.endpoint is not None and request.endpoint.startswith("storage_")
