"""Links of the app: a signed token in a URL of the app, which the link view checks and serves.

Every storage can issue them, whatever its service can sign, as soon as it has a secret and an address for links.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Unpack

from ..content_types import guess_content_type
from ..errors import ConfigurationError, NoSignerError, UnsupportedOperationError
from ..files import parse_checksum
from ..paths import is_one_line
from ..tokens import InternalLinkTokenData, LinkSigner
from ..types import (
    LINK_LIFETIME,
    Expiry,
    FormArguments,
    LinkArguments,
    LinkContext,
    LinkRequest,
    ShareLinkOperation,
    WriteOptions,
    to_utc,
)
from ..validation import check_count, check_names, check_network
from .transfers import TransferOperations

_UPLOAD = ShareLinkOperation.upload.value  # operations of enum.Flag are slow


class AppLinkOperations(TransferOperations):
    """Link requests, and the tokens that the app signs for them."""

    link_context: LinkContext | None = None
    _signer: LinkSigner | None = None

    @property
    def link_lifetime(self) -> timedelta:
        """How long a link is valid for which no expiry is given: ``STORAGE_LINK_LIFETIME``, or one hour."""
        return self.link_context.lifetime if self.link_context is not None else LINK_LIFETIME

    def create_link_token(
        self,
        *,
        path: str,
        operation: ShareLinkOperation | str,
        expire: Expiry | None = None,
        output_path: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> str:
        """Return the signed token of a link of the app, without the URL; arguments and errors as for ``link_to``."""
        path = self._path(path)
        request = self._link_request(operation, expire, output_path, content_type, arguments)
        self._check_app_link(path, request)
        return self._sign([path], request)[0]

    def verify_link(self, token: str) -> InternalLinkTokenData:
        """Verify the token of a link of the app and return its data; the path is normalized.

        Raises:
            ExpiredLinkError: when the token is valid but has expired.
            InvalidLinkError: when this storage did not sign the token, or it was changed.
            InvalidPathError: when its path is invalid (a token signed by hand).
            ConfigurationError: when the storage has no secret key.
        """
        data = self._verify_link(token)
        path = self._path(data.path)
        return data if path == data.path else data._replace(path=path)

    def deserialize_link_token(self, token: str) -> InternalLinkTokenData:
        """Verify a token and return its data: keg-storage's name for :meth:`verify_link`."""
        return self.verify_link(token)

    # -- inner ------------------------------------------------------------------------------------------------------

    def _link_request(
        self,
        operation: ShareLinkOperation | str,
        expire: Expiry | None,
        filename: str | None,
        content_type: str | None,
        arguments: FormArguments,
    ) -> LinkRequest:
        """Return the link request of these arguments; raise if one of them is invalid on every backend."""
        check_names("a link", arguments, LinkArguments.__annotations__)
        request = LinkRequest(
            operations=ShareLinkOperation.as_operation(operation),
            expires_at=to_utc(self.link_lifetime if expire is None else expire),
            filename=filename,
            content_type=content_type,
            **arguments,
        )
        if arguments or filename is not None or content_type is not None:  # most links have nothing to check
            _check_values(request)
        return request

    def _app_links(
        self, paths: Sequence[str], request: LinkRequest, refused: UnsupportedOperationError | NoSignerError | None
    ) -> list[str]:
        """Return a link of the app for each path.

        Args:
            paths: Normalized paths.
            request: What the links allow.
            refused: Why the service cannot issue them; None if it was not asked.

        Raises:
            UnsupportedOperationError: when the storage cannot do what the link view would have to.
            ConfigurationError: when the app has no secret, or no address for links.
        """
        try:
            for path in paths:
                self._check_app_link(path, request)
            return [self._link_url(token) for token in self._sign(paths, request)]
        except UnsupportedOperationError as error:
            raise error from refused
        except ConfigurationError as obstacle:
            if refused is None:
                raise
            raise self._no_app_link(refused, str(obstacle)) from obstacle

    def _no_app_link(
        self, refused: UnsupportedOperationError | NoSignerError, obstacle: str
    ) -> UnsupportedOperationError | NoSignerError:
        """Return the error of a link that the service cannot issue, and the app only without *obstacle*."""
        kind = NoSignerError if isinstance(refused, NoSignerError) else UnsupportedOperationError
        text = f"{refused}; a link of the app could, but {obstacle}"
        return kind(text, path=refused.path, backend=self.name)

    def _check_app_link(self, path: str, request: LinkRequest) -> None:
        """Raise if the link view could not carry out *request*: an upload is a write with the same options."""
        if request.operations.value & _UPLOAD:
            content_type, implied = request.content_type, guess_content_type(path)
            if content_type and content_type.endswith("/") and (implied or "").startswith(content_type):
                content_type = implied  # a form that permits the type of the name can be used
            self._check_options(
                path,
                WriteOptions(
                    content_type=content_type,
                    content_encoding=request.content_encoding,
                    cache_control=request.cache_control,
                    exclusive=request.exclusive,
                ),
            )

    def _sign(self, paths: Sequence[str], request: LinkRequest) -> list[str]:
        """Return a token for each path.

        Raises:
            ConfigurationError: when there is no secret.
        """
        signer, now = self._link_signer(), datetime.now(UTC)
        return [signer.sign(path, request, now) for path in paths]

    def _verify_link(self, token: str) -> InternalLinkTokenData:
        """Verify a token, which is untrusted input, and return its data."""
        return self._link_signer().verify(token)

    def _link_signer(self) -> LinkSigner:
        """Return the signer of tokens; it is kept until a secret changes.

        Raises:
            ConfigurationError: when there is no secret.
        """
        keys = self._link_keys()
        signer = self._signer
        if signer is None or signer.secrets != keys:
            signer = self._signer = LinkSigner(keys, self._link_audience())
        return signer

    def _link_keys(self) -> tuple[bytes, ...]:
        """Return the secrets: the first signs and verifies, the others only verify.

        Raises:
            ConfigurationError: when there is none.
        """
        keys = self._require_link_context().secrets()
        if not keys:
            raise ConfigurationError("links cannot be signed: the app has no SECRET_KEY: set it")
        return keys

    def _link_audience(self) -> str:
        """Return the audience of tokens: the profile's name, or outside of an app the storage's name."""
        return self.link_context.profile if self.link_context is not None else self.name

    def _profile_path(self, path: str) -> tuple[str, str]:
        """Return the profile, or outside of an app the storage's name, and the path that the file has there."""
        return self.link_context.profile if self.link_context is not None else self.name, path

    def _link_url(self, token: str) -> str:
        """Return the URL of the app for *token*.

        Raises:
            ConfigurationError: when there is no link view, or the app's address is unknown.
        """
        return self._require_link_context().link_url(token, None)

    def _require_link_context(self) -> LinkContext:
        if self.link_context is None:
            raise ConfigurationError(f"{self!r} belongs to no app: configure it in STORAGE_PROFILES")
        return self.link_context


def _check_values(request: LinkRequest) -> None:
    """Raise if an attribute is invalid: a link that could never be used is not signed."""
    for name in ("filename", "content_type", "content_encoding", "cache_control"):
        value = getattr(request, name)
        if value is not None and not is_one_line(value):
            raise ValueError(f"the {name} of a link must be one line of text")
    if request.disposition not in (None, "inline", "attachment"):
        raise ValueError(f"disposition must be 'inline' or 'attachment', not {request.disposition!r}")
    _check_limits(request)
    if request.ip is not None:
        check_network(request.ip)


def _check_limits(request: LinkRequest) -> None:
    for name, least in (("size", 0), ("max_size", 0), ("uses", 1)):
        value = getattr(request, name)
        if value is not None:
            check_count(f"the {name} of a link", value, least)
    if type(request.exclusive) is not bool:
        raise ValueError(f"exclusive must be True or False, not {request.exclusive!r}")
    if request.checksum is not None:
        parse_checksum(request.checksum)
    if not request.operations & ShareLinkOperation.upload:
        for name in ("size", "max_size", "checksum", "exclusive"):
            if is_set(getattr(request, name)):
                raise ValueError(f"{name} is only for links that upload")


def is_set(value: object) -> bool:
    """Whether a constraint was given. The size 0 is one, although it equals False."""
    return value is not None and value is not False
