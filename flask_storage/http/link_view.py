"""Views that honour signed links, and one that serves public files.

The token is the authority: whoever holds it may do what it says, and nothing else in a request is believed. So a link
needs no login and no cookie, and cross-site request forgery has nothing to forge (:func:`exempt_link_views`).
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from flask import Response, current_app, request
from flask.views import MethodView
from werkzeug import exceptions
from werkzeug.exceptions import HTTPException

from ..backends.base import StorageBackend
from ..errors import ConfigurationError, IntegrityError, NotAFileError, StorageError, UnsupportedOperationError
from ..files import RemoteFile
from ..profiles import current_storage
from ..signals import link_used
from ..tokens import InternalLinkTokenData
from ..types import LinkRequest, ShareLinkOperation, WriteArguments
from .response_headers import header_value
from .send_file import CHUNK_BYTES, CookielessResponse, ErrorResponses, http_errors, send_stored_file

logger = logging.getLogger("flask_storage")

_WRITE_ERROR_RESPONSES: ErrorResponses = {
    NotAFileError: lambda: exceptions.Forbidden("There is a folder of that name."),
    IntegrityError: lambda: exceptions.BadRequest("These are not the bytes that were announced."),
}


class LinkViewMixin:
    """Honours signed links; mix it into a :class:`flask.views.MethodView`.

    GET and HEAD download, PUT and POST store the raw body, DELETE deletes. The extension registers a ready-made
    :class:`LinkView`; write your own for another URL, another way to carry the token, or to be told of each upload:

    .. code-block:: python

        class Avatars(LinkViewMixin, MethodView):
            def get_storage_backend(self):
                return current_storage["avatars"]

            def on_upload_success(self, token_data):
                resize.delay(token_data.path)


        app.add_url_rule("/avatars", view_func=Avatars.as_view("avatars"))

    and name its endpoint as the profile's ``linked_endpoint``.

    ====== =====================================================================================================
    status when
    ====== =====================================================================================================
    400    the body is shorter than announced or has another checksum; the signed path is none
    403    the token is expired, damaged, used up, of another profile, or does not allow this
    404    there is no token, or no file
    409    an exclusive upload finds its name taken
    411    the body's length is not announced
    412    a condition of the request does not hold
    413    the body is larger than the token, or else the app's ``MAX_CONTENT_LENGTH``, allows
    415    the body is a form
    416    the range asked for does not exist
    503    the storage cannot be reached (504: does not answer, 507: is full)
    ====== =====================================================================================================

    An upload is visible only when all of it has arrived; until then what was there before stays.
    """

    # -- hooks --------------------------------------------------------------------------------------------------------

    def get_storage_backend(self) -> StorageBackend:
        """Return the storage whose links this view honours."""
        raise NotImplementedError("a link view says which storage it serves: override get_storage_backend()")

    def get_request_token(self) -> str | None:
        """Return the token of the request: the query's ``token``, or else ``Authorization: Bearer …``."""
        if token := request.args.get("token"):
            return token
        # Not request.authorization: it also decodes schemes that are none of ours, and fails on some.
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def get_token_data(self, storage: StorageBackend) -> InternalLinkTokenData:
        """Return what the request's token grants.

        Raises:
            werkzeug.exceptions.NotFound: when there is no token, or the storage has no key and so no links.
            InvalidLinkError: when it is not a good one.
        """
        token = self.get_request_token()
        if not token:
            raise exceptions.NotFound("There is no such link.")
        try:
            return storage.verify_link(token)
        except (ConfigurationError, UnsupportedOperationError) as error:
            raise exceptions.NotFound("There is no such link.") from error

    def on_upload_success(self, token_data: InternalLinkTokenData) -> None:
        """Do something after an upload was published."""

    def on_delete_success(self, token_data: InternalLinkTokenData) -> None:
        """Do something after a file was deleted."""

    # -- methods ------------------------------------------------------------------------------------------------------

    def get(self, **view_args: Any) -> Response:
        """Send the file."""
        return _with_text_errors(self._download)

    def head(self, **view_args: Any) -> Response:
        """Say what GET would say, and use nothing up."""
        return _with_text_errors(self._describe)

    def put(self, **view_args: Any) -> Response:
        """Store the body."""
        return _with_text_errors(self._upload)

    def post(self, **view_args: Any) -> Response:
        """Store the body."""
        return _with_text_errors(self._upload)

    def delete(self, **view_args: Any) -> Response:
        """Delete the file."""
        return _with_text_errors(self._remove)

    # -- what they do -------------------------------------------------------------------------------------------------

    def _describe(self) -> Response:
        return _send_file(*self._authorize(ShareLinkOperation.download))

    def _download(self) -> Response:
        storage, data, terms = self._authorize(ShareLinkOperation.download)
        response = _send_file(storage, data, terms)
        try:
            if response.status_code != 304:
                _consume_use(data, terms)
            _notify_link_used(storage, data, ShareLinkOperation.download)
        except BaseException:
            response.close()
            raise
        return response

    def _upload(self) -> Response:
        storage, data, terms = self._authorize(ShareLinkOperation.upload)
        length = _content_length(terms)
        with http_errors(_WRITE_ERROR_RESPONSES):
            if terms.exclusive and storage.exists(data.path):
                raise exceptions.Conflict("There is a file already.")
            writer = _open_upload(storage, data.path, terms, length)
            with _release_on_failure(lambda: writer.published, data, terms) as use_up, writer:
                _copy_body(writer, length)
                use_up()
        _notify_link_used(storage, data, ShareLinkOperation.upload)
        self.on_upload_success(data)
        return CookielessResponse("OK", headers=_PLAIN_TEXT_HEADERS)

    def _remove(self) -> Response:
        storage, data, terms = self._authorize(ShareLinkOperation.remove)
        with (
            http_errors(_WRITE_ERROR_RESPONSES),
            _release_on_failure(lambda: not storage.exists(data.path), data, terms) as use_up,
        ):
            use_up()
            storage.delete(data.path)
        _notify_link_used(storage, data, ShareLinkOperation.remove)
        self.on_delete_success(data)
        return CookielessResponse("OK", headers=_PLAIN_TEXT_HEADERS)

    def _authorize(self, operation: ShareLinkOperation) -> tuple[StorageBackend, InternalLinkTokenData, LinkRequest]:
        """Return storage, grant and terms, when the request's token allows *operation* here and now."""
        storage = self.get_storage_backend()
        with http_errors():
            data = self.get_token_data(storage)
            # A view of one's own may grant by hand, with no terms at all.
            terms = data.request or LinkRequest(operations=data.operations, expires_at=_NEVER)
            if not operation & data.operations:
                raise exceptions.Forbidden("The link is for something else.")
            if terms.ip is not None and not _is_from_network(terms.ip):
                raise exceptions.Forbidden("The link is for another address.")
            if terms.uses is not None and (
                data.token_id is None or _usage_store().is_exhausted(data.token_id, terms.uses)
            ):
                raise exceptions.Forbidden("The link is used up.")
        return storage, data, terms


class LinkView(LinkViewMixin, MethodView):
    """The ready-made link view: ``<prefix>/<profile>?token=…``."""

    init_every_request = False

    def get_storage_backend(self) -> StorageBackend:
        """Return the storage of the profile in the URL; 404 for one that does not exist."""
        storage = current_storage.get((request.view_args or {})["profile"])
        if storage is None:
            raise exceptions.NotFound("There is no such profile.")
        return storage


class PublicFileView(MethodView):
    """Serves the files of a profile to everybody, read-only: ``<base_url>/<path>``.

    What can be shown is shown. A file's own ``cache_control`` is passed on; without one, caches ask again each time.
    """

    init_every_request = False

    def get(self, profile: str, path: str) -> Response:
        """Send the file."""
        storage = current_storage[profile]
        response = send_stored_file(storage, path, disposition="inline")
        response.headers["Cache-Control"] = header_value(response.info.cache_control) or "public, no-cache"
        return response


def exempt_link_views(endpoint: str | None, _values: dict[str, Any] | None) -> None:
    """Exempt the link view that is about to be called from Flask-WTF's CSRF protection, where the app has it.

    The extension registers this with :meth:`flask.Flask.url_value_preprocessor`, which runs before every
    ``before_request``. So it does not matter which of the two extensions, and which of your own views, came first.
    """
    view: Any = current_app.view_functions.get(endpoint or "")
    protection = current_app.extensions.get("csrf")
    if protection is None or not issubclass(getattr(view, "view_class", object), LinkViewMixin):
        return
    # Flask-WTF knows views by module and name, and a form's view may have this one's: no other has such a name.
    view.__name__ = f"{view.view_class.__name__} (signed links)"
    protection.exempt(view)


# -- answers ----------------------------------------------------------------------------------------------------------

_PLAIN_TEXT_HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _with_text_errors(handler: Callable[[], Response]) -> Response:
    """Do it; say in plain text what went wrong, whatever pages the app has for errors: programs follow links too."""
    try:
        return handler()
    except HTTPException as error:
        if error.response is not None or error.code is None or error.code < 400:
            raise
        logger.info("a link was refused: %s %s", error.code, error.description)
        headers = dict(error.get_headers(request.environ))
        return CookielessResponse(
            f"{error.description or error.name}\n", status=error.code, headers={**headers, **_PLAIN_TEXT_HEADERS}
        )


def _send_file(storage: StorageBackend, data: InternalLinkTokenData, terms: LinkRequest) -> Response:
    counted = terms.uses is not None
    return send_stored_file(
        storage,
        data.path,
        filename=terms.filename,
        disposition=terms.disposition,
        content_type=terms.content_type,
        content_encoding=terms.content_encoding,
        cache_control="no-store" if counted else terms.cache_control,
        ranges=not counted,
    )


def _notify_link_used(storage: StorageBackend, data: InternalLinkTokenData, operation: ShareLinkOperation) -> None:
    logger.info("a link was honoured: %s of %r in %r", operation.name, data.path, storage.name)
    link_used.send(storage, path=data.path, operation=operation, token_data=data)


# -- uses -------------------------------------------------------------------------------------------------------------

_NEVER = datetime.max.replace(tzinfo=UTC)


def _usage_store() -> Any:
    return current_storage.link_usage


def _consume_use(data: InternalLinkTokenData, terms: LinkRequest) -> None:
    """Take one use from a counted link; of any number of requests at once only as many succeed as it has uses."""
    if terms.uses is not None:
        with http_errors():
            if not _usage_store().consume(data.token_id, terms.uses, terms.expires_at):
                raise exceptions.Forbidden("The link is used up.")


@contextmanager
def _release_on_failure(
    done: Callable[[], bool], data: InternalLinkTokenData, terms: LinkRequest
) -> Iterator[Callable[[], None]]:
    """Lend the function that takes one use; when the block fails and it is not *done*, give the use back."""
    used = False

    def use_up() -> None:
        nonlocal used
        _consume_use(data, terms)
        used = terms.uses is not None

    try:
        yield use_up
    except BaseException:
        if used and not done():
            _usage_store().release(data.token_id)
        raise


def _is_from_network(network: str) -> bool:
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
        allowed = ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
    # A server that listens on IPv6 sees 203.0.113.7 as ::ffff:203.0.113.7.
    return (getattr(address, "ipv4_mapped", None) or address) in allowed


# -- uploads ----------------------------------------------------------------------------------------------------------

_LENGTH = re.compile(r"[0-9]{1,18}")


def _content_length(terms: LinkRequest) -> int:
    """Return how many bytes the body will have, before one of them is read.

    Without a length nobody could tell a body that was cut from one that has ended: gunicorn reports both alike, and
    some servers hand over a chunked body as an empty one.
    """
    if request.mimetype.startswith("multipart/"):
        raise exceptions.UnsupportedMediaType("Send the file itself as the body, not a form.")
    announced = request.environ.get("CONTENT_LENGTH") or ""
    if request.environ.get("HTTP_TRANSFER_ENCODING") or not _LENGTH.fullmatch(announced):
        raise exceptions.LengthRequired("Say how long the body is (Content-Length).")
    length = int(announced)
    signed = [limit for limit in (terms.size, terms.max_size) if limit is not None]
    limit = min(signed) if signed else request.max_content_length
    if limit is not None and length > limit:
        raise exceptions.RequestEntityTooLarge(f"The body may have {limit} bytes.")
    if terms.size is not None and length != terms.size:
        raise exceptions.BadRequest(f"The body must have {terms.size} bytes.")
    return length


def _open_upload(storage: StorageBackend, path: str, terms: LinkRequest, length: int) -> RemoteFile:
    """Return a writer for the body that holds it to the signed terms."""
    arguments: WriteArguments = {
        "size": length,
        "checksum": terms.checksum,
        "exclusive": terms.exclusive,
        "content_type": terms.content_type,
        "content_encoding": terms.content_encoding,
        "cache_control": terms.cache_control,
    }
    try:
        return storage.open(path, "w", **arguments)
    except StorageError:
        raise
    except ValueError as error:
        raise exceptions.BadRequest("The link asks for what cannot be checked.") from error


def _copy_body(writer: RemoteFile, length: int) -> None:
    """Copy the body, counting: what is short was cut off, and the exception discards it."""
    # Not request.stream: it raises on the app's own limit, which a signed one overrides.
    stream = request.environ["wsgi.input"]
    left = length
    while left:
        try:
            chunk = stream.read(min(CHUNK_BYTES, left))
        except OSError as error:
            raise exceptions.BadRequest("The body broke off.") from error
        if not chunk:
            raise exceptions.BadRequest("The body broke off.")
        writer.write(chunk)
        left -= len(chunk)
