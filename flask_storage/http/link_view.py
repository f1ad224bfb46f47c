"""Views that serve signed links, and one that serves public files.

The token is the only credential: any client that sends it may perform its operations, and no other part of the request
is trusted. So a link needs no login and no cookie, and protection against cross-site request forgery is not needed
(:func:`prepare_link_views`).
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from flask import Response, current_app, request
from flask.views import MethodView
from werkzeug import exceptions
from werkzeug.exceptions import HTTPException

from ..backends.base import StorageBackend
from ..errors import (
    ConfigurationError,
    FileExistsInStorageError,
    IntegrityError,
    NotAFileError,
    UnsupportedOperationError,
)
from ..profiles import current_storage
from ..signals import link_used
from ..tokens import InternalLinkTokenData
from ..types import LinkRequest, ShareLinkOperation
from .conditions import check_delete_conditions, write_conditions
from .form_body import form_body
from .request_body import check_content_encoding, open_upload, raw_body, refuse_part_of_file
from .response_headers import header_value
from .send_file import CookielessResponse, ErrorResponses, http_errors, send_stored_file

logger = logging.getLogger("flask_storage")

_WRITE_ERROR_RESPONSES: ErrorResponses = {
    NotAFileError: lambda: exceptions.Forbidden("A folder has that name."),
    IntegrityError: lambda: exceptions.BadRequest("The body does not have the announced size or checksum."),
}
_CONDITION_ERROR_RESPONSES: ErrorResponses = {
    **_WRITE_ERROR_RESPONSES,
    FileExistsInStorageError: lambda: exceptions.PreconditionFailed("The file exists already."),
}


class LinkViewMixin:
    """Serves signed links; mix it into a :class:`flask.views.MethodView`.

    GET and HEAD download, PUT and POST store the raw body, or the file of an upload form, DELETE deletes. The extension
    registers the built-in :class:`LinkView`. Write your own view for another URL, to read the token from elsewhere, or
    to act on each upload:

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
    204    the file of a form was stored; 303 if the form has a ``redirect_to``
    302    a plain download, which the service itself sends: by a link that expires within a minute
    400    the body is shorter than announced, has another checksum or is only a part of a file (``Content-Range``);
           a form is damaged, or has no file, several, or one that is too small; the signed path is invalid
    403    the token is expired, damaged, used up, of another profile, or does not allow the operation; a form has a
           field that was not signed
    404    the request has no token, or the file does not exist
    409    the file of an exclusive upload exists
    411    the request has no ``Content-Length``
    412    a condition of the request does not hold (``If-Match``, ``If-None-Match``, ``If-Unmodified-Since``)
    413    the body is larger than the token allows (without a limit there: the app's ``MAX_CONTENT_LENGTH``)
    415    the body is a form, and the link is not for one, or the reverse; it has another ``Content-Encoding`` than
           the link
    416    the requested range does not exist
    501    the storage cannot check a condition of an upload or a deletion atomically
    503    the storage cannot be reached (504: does not respond, 507: is full)
    ====== =====================================================================================================

    Uploads are atomic: a file appears, or is replaced, when the whole body has arrived.
    """

    # -- hooks --------------------------------------------------------------------------------------------------------

    def get_storage_backend(self) -> StorageBackend:
        """Return the storage whose links this view serves."""
        raise NotImplementedError(f"{type(self).__name__} has no storage: override get_storage_backend()")

    def get_request_token(self) -> str | None:
        """Return the token of the request: the query's ``token``, or else ``Authorization: Bearer …``."""
        if token := request.args.get("token"):
            return token
        # Not request.authorization: it also decodes other schemes, and raises on some values.
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def get_token_data(self, storage: StorageBackend) -> InternalLinkTokenData:
        """Verify the request's token and return its data.

        Raises:
            werkzeug.exceptions.NotFound: when the request has no token, or the app has no ``SECRET_KEY`` for links.
            InvalidLinkError: when the token is not valid.
        """
        token = self.get_request_token()
        if not token:
            raise exceptions.NotFound("There is no such link.")
        try:
            return storage.verify_link(token)
        except (ConfigurationError, UnsupportedOperationError) as error:
            raise exceptions.NotFound("There is no such link.") from error

    def on_upload_success(self, token_data: InternalLinkTokenData) -> None:
        """Called after an upload was stored; does nothing by default."""

    def on_delete_success(self, token_data: InternalLinkTokenData) -> None:
        """Called after a file was deleted; does nothing by default."""

    # -- methods ------------------------------------------------------------------------------------------------------

    def get(self, **view_args: Any) -> Response:
        """Send the file."""
        return _with_text_errors(self._download)

    def head(self, **view_args: Any) -> Response:
        """Send the headers of GET; this does not count as a use of a limited link."""
        return _with_text_errors(self._describe)

    def put(self, **view_args: Any) -> Response:
        """Store the body."""
        return _with_text_errors(self._upload)

    def post(self, **view_args: Any) -> Response:
        """Store the body, or the file of an upload form."""
        return _with_text_errors(self._upload)

    def delete(self, **view_args: Any) -> Response:
        """Delete the file."""
        return _with_text_errors(self._remove)

    # -- operations ---------------------------------------------------------------------------------------------------

    def _describe(self) -> Response:
        return _send_file(*self._authorize(ShareLinkOperation.download))

    def _download(self) -> Response:
        storage, data, constraints = self._authorize(ShareLinkOperation.download)
        if (redirect := _redirect_to_service(storage, data, constraints)) is not None:
            _notify_link_used(storage, data, ShareLinkOperation.download)
            return redirect
        response = _send_file(storage, data, constraints)
        try:
            if response.status_code != 304:
                _consume_use(data, constraints)
            _notify_link_used(storage, data, ShareLinkOperation.download)
        except BaseException:
            response.close()
            raise
        return response

    def _upload(self) -> Response:
        storage, data, constraints = self._authorize(ShareLinkOperation.upload)
        refuse_part_of_file()
        check_content_encoding(constraints)
        body = form_body(constraints) if constraints.form else raw_body(constraints)
        with http_errors(_WRITE_ERROR_RESPONSES):
            if constraints.exclusive and storage.exists(data.path):
                raise exceptions.Conflict("The file exists already.")
            conditions = write_conditions(storage, data.path)
        with http_errors(_CONDITION_ERROR_RESPONSES if conditions else _WRITE_ERROR_RESPONSES):
            writer = open_upload(storage, data.path, constraints, body, conditions)
            with _release_on_failure(lambda: writer.published, data, constraints) as consume_use, writer:
                for chunk in body.chunks:
                    writer.write(chunk)
                consume_use()
        _notify_link_used(storage, data, ShareLinkOperation.upload)
        self.on_upload_success(data)
        if constraints.redirect_to is not None:
            return CookielessResponse(status=303, headers={**_PLAIN_TEXT_HEADERS, "Location": constraints.redirect_to})
        if constraints.form:  # as S3 responds
            return CookielessResponse(status=204, headers=_PLAIN_TEXT_HEADERS)
        return CookielessResponse("OK", headers=_PLAIN_TEXT_HEADERS)

    def _remove(self) -> Response:
        storage, data, constraints = self._authorize(ShareLinkOperation.remove)
        refuse_part_of_file()
        with http_errors(_WRITE_ERROR_RESPONSES):
            check_delete_conditions(storage, data.path)
        with (
            http_errors(_WRITE_ERROR_RESPONSES),
            _release_on_failure(lambda: not storage.exists(data.path), data, constraints) as consume_use,
        ):
            consume_use()
            storage.delete(data.path)
        _notify_link_used(storage, data, ShareLinkOperation.remove)
        self.on_delete_success(data)
        return CookielessResponse("OK", headers=_PLAIN_TEXT_HEADERS)

    def _authorize(self, operation: ShareLinkOperation) -> tuple[StorageBackend, InternalLinkTokenData, LinkRequest]:
        """Return the storage, the token's data and its constraints, if the token allows *operation* now.

        Raises:
            werkzeug.exceptions.HTTPException: when it does not.
        """
        storage = self.get_storage_backend()
        with http_errors():
            data = self.get_token_data(storage)
            # A custom view may override get_token_data() and return data without constraints.
            constraints = data.request or LinkRequest(operations=data.operations, expires_at=_NEVER)
            if not operation & data.operations:
                raise exceptions.Forbidden("The link does not allow this operation.")
            if constraints.ip is not None and not _is_from_network(constraints.ip):
                raise exceptions.Forbidden("The link is not valid from this network address.")
            if constraints.uses is not None and (
                data.token_id is None or _usage_store().is_exhausted(data.token_id, constraints.uses)
            ):
                raise exceptions.Forbidden("The link is used up.")
        return storage, data, constraints


class LinkView(LinkViewMixin, MethodView):
    """The built-in link view: ``<prefix>/<profile>?token=…``."""

    init_every_request = False

    def get_storage_backend(self) -> StorageBackend:
        """Return the storage of the profile in the URL; 404 for one that does not exist."""
        storage = current_storage.get((request.view_args or {})["profile"])
        if storage is None:
            raise exceptions.NotFound("There is no such profile.")
        return storage


class PublicFileView(MethodView):
    """Serves the files of a profile without authorization, read-only: ``<base_url>/<path>``.

    Files of a safe type are shown inline. A file's own ``cache_control`` is sent; without one, caches must revalidate.
    """

    init_every_request = False

    def get(self, profile: str, path: str, **view_args: Any) -> Response:
        """Send the file."""
        storage = current_storage[profile]
        response = send_stored_file(storage, path, disposition="inline")
        response.headers["Cache-Control"] = header_value(response.info.cache_control) or "public, no-cache"
        return response


def prepare_link_views(endpoint: str | None, _values: dict[str, Any] | None) -> None:
    """Prepare the request if a link view is about to be called.

    The extension registers this with :meth:`flask.Flask.url_value_preprocessor`, which runs before every
    ``before_request``. So the order in which extensions and views are registered does not matter.
    """
    view: Any = current_app.view_functions.get(endpoint or "")
    view_class = getattr(view, "view_class", object)
    if not issubclass(view_class, LinkViewMixin):
        return
    if getattr(view_class, request.method.lower(), None) in {LinkViewMixin.put, LinkViewMixin.post}:
        # The body is a file, whatever its content type. A before_request function that reads request.form would
        # consume it, and curl declares every body to be a form.
        vars(request).update(form=request.parameter_storage_class(), files=request.parameter_storage_class())
    if (protection := current_app.extensions.get("csrf")) is not None:
        # Flask-WTF identifies views by module and name. This name is unique, so no other view is exempted.
        view.__name__ = f"{view_class.__name__} (signed links)"
        protection.exempt(view)


def remove_cookies(response: Response) -> Response:
    """Remove the session's cookie from the responses that Flask creates in place of a view of this module.

    These are the responses to OPTIONS and to methods that the view does not have (405). The extension registers this
    with :meth:`flask.Flask.after_request`.
    """
    if request.method != "OPTIONS" and response.status_code != 405:
        return response
    endpoint = request.endpoint
    if isinstance(request.routing_exception, exceptions.MethodNotAllowed):
        adapter: Any = current_app.create_url_adapter(request)
        with suppress(HTTPException):  # a redirect
            endpoint = adapter.match(method=adapter.allowed_methods()[0])[0]
    view_class = getattr(current_app.view_functions.get(endpoint or ""), "view_class", object)
    if issubclass(view_class, (LinkViewMixin, PublicFileView)):
        CookielessResponse.force_type(response)  # changes the class of the response itself
    return response


# -- responses --------------------------------------------------------------------------------------------------------

_PLAIN_TEXT_HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _with_text_errors(handler: Callable[[], Response]) -> Response:
    """Call *handler*, and report HTTP errors in plain text instead of the app's error pages: scripts use links too."""
    try:
        return handler()
    except HTTPException as error:
        if error.response is not None or error.code is None or error.code < 400:
            raise
        logger.info("link refused: %s %s", error.code, error.description)
        headers = dict(error.get_headers(request.environ))
        return CookielessResponse(
            f"{error.description or error.name}\n", status=error.code, headers={**headers, **_PLAIN_TEXT_HEADERS}
        )


def _send_file(storage: StorageBackend, data: InternalLinkTokenData, constraints: LinkRequest) -> Response:
    is_limited = constraints.uses is not None
    return send_stored_file(
        storage,
        data.path,
        filename=constraints.filename,
        disposition=constraints.disposition,
        content_type=constraints.content_type,
        content_encoding=constraints.content_encoding,
        cache_control="no-store" if is_limited else constraints.cache_control,
        ranges=not is_limited,
    )


def _redirect_to_service(
    storage: StorageBackend, data: InternalLinkTokenData, constraints: LinkRequest
) -> Response | None:
    """Return a redirect to a link of the service that expires within a minute; None where the file must be streamed."""
    if not _leaves_the_page():
        return None
    with http_errors():
        url = storage.short_link(data.path, constraints)
    if url is None:
        return None
    return CookielessResponse(status=302, headers={**_PLAIN_TEXT_HEADERS, "Location": url})


def _leaves_the_page() -> bool:
    """Whether the request is a navigation, or comes from a program: a browser's other requests are streamed.

    A video player sends all later ranges to the address that it was redirected to, and fails when that has expired. An
    image or a script of another host is blocked by the page's content security policy, and a fetch by a bucket without
    CORS. Browsers send no ``Sec-Fetch-*`` to a host without https, but ``Range`` for media. A client that resumes a
    download sends ``Range`` too.
    """
    headers = request.headers
    return (
        "Range" not in headers
        and headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
        and headers.get("Sec-Fetch-Dest", "document") in ("document", "empty")
    )


def _notify_link_used(storage: StorageBackend, data: InternalLinkTokenData, operation: ShareLinkOperation) -> None:
    logger.info("link used: %s of %r in %r", operation.name, data.path, storage.name)
    link_used.send(storage, path=data.path, operation=operation, token_data=data)


# -- usage limits and networks ----------------------------------------------------------------------------------------

_NEVER = datetime.max.replace(tzinfo=UTC)


def _usage_store() -> Any:
    return current_storage.link_usage


def _consume_use(data: InternalLinkTokenData, constraints: LinkRequest) -> None:
    """Consume one use of a limited link; 403 if none is left. Concurrent requests never consume more than its uses."""
    if constraints.uses is not None:
        with http_errors():
            if not _usage_store().consume(data.token_id, constraints.uses, constraints.expires_at):
                raise exceptions.Forbidden("The link is used up.")


@contextmanager
def _release_on_failure(
    done: Callable[[], bool], data: InternalLinkTokenData, constraints: LinkRequest
) -> Iterator[Callable[[], None]]:
    """Yield a function that consumes one use; release the use when the block raises and the operation is not *done*."""
    is_consumed = False

    def consume_use() -> None:
        nonlocal is_consumed
        _consume_use(data, constraints)
        is_consumed = constraints.uses is not None

    try:
        yield consume_use
    except BaseException:
        if is_consumed and not done():
            _usage_store().release(data.token_id)
        raise


def _is_from_network(network: str) -> bool:
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
        allowed = ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
    # On a server that listens on IPv6, the address of the client 203.0.113.7 is ::ffff:203.0.113.7.
    return (getattr(address, "ipv4_mapped", None) or address) in allowed
