"""Links of the app with a secret and a view of the storage's own, as in keg-storage."""

from __future__ import annotations

import logging

from ..errors import ConfigurationError
from ..tokens import InternalLinkTokenData
from ..types import LinkContext
from .base import StorageBackend

__all__ = ["InternalLinkTokenData", "InternalLinksStorageBackend"]

MIN_SECRET_BYTES = 32

logger = logging.getLogger("flask_storage")

_NOT_CONFIGURED = (
    "Backend must be configured with linked_endpoint and secret_key to use this feature: set both for {backend!r}, or "
    "configure it in STORAGE_PROFILES of an app that has a SECRET_KEY"
)


class InternalLinksStorageBackend(StorageBackend):
    """A storage whose links of the app can have a secret and a view of their own, also without the extension.

    Args:
        linked_endpoint: The endpoint of your own view (:class:`~flask_storage.LinkViewMixin`). By default, the view
            that the extension registers is used.
        secret_key: Signs the links of this storage: 32 random bytes or more. By default, a key derived from the app's
            ``SECRET_KEY`` is used.
        name: See :class:`~flask_storage.StorageBackend`.
        base_url: Likewise.
        portable: Likewise.

    Raises:
        ConfigurationError: when the secret is empty, or an argument has the wrong type.
    """

    def __init__(
        self,
        *,
        linked_endpoint: str | None,
        secret_key: str | bytes | None,
        name: str,
        base_url: str | None = None,
        portable: bool = False,
    ) -> None:
        super().__init__(name, base_url=base_url, portable=portable)
        if not (linked_endpoint is None or isinstance(linked_endpoint, str)):
            raise ConfigurationError(f"the linked_endpoint of {name!r} must be text")
        self.linked_endpoint = linked_endpoint
        self._secret_key = secret_key.encode() if isinstance(secret_key, str) else secret_key
        unchecked: object = self._secret_key  # settings may contain any type
        if not (unchecked is None or (isinstance(unchecked, bytes) and unchecked)):
            raise ConfigurationError(
                f"the secret_key of {name!r} is empty, or neither text nor bytes: use 32 random bytes or leave it out"
            )

    def set_link_context(self, context: LinkContext) -> None:
        """See :meth:`StorageBackend.set_link_context`. A strict *context* requires a secret of 32 bytes."""
        if self._secret_key is not None and len(self._secret_key) < MIN_SECRET_BYTES and context.strict:
            raise ConfigurationError(
                f"the secret_key of profile {context.profile!r} has fewer than {MIN_SECRET_BYTES} bytes: create one "
                "with secrets.token_bytes(32), or leave it out to use the app's SECRET_KEY"
            )
        super().set_link_context(context)
        self._signer = None

    # -- inner --------------------------------------------------------------------------------------------------------

    def _link_keys(self) -> tuple[bytes, ...]:
        if self._secret_key is not None:
            if self.link_context is None and len(self._secret_key) < MIN_SECRET_BYTES and self._signer is None:
                logger.warning(
                    "the secret_key of %r has fewer than %d bytes: links can be forged by guessing it",
                    self.name,
                    MIN_SECRET_BYTES,
                )
            return (self._secret_key,)
        if self.link_context is None:
            raise ConfigurationError(_NOT_CONFIGURED.format(backend=self))
        return super()._link_keys()

    def _link_url(self, token: str) -> str:
        if self.link_context is not None:
            return self.link_context.link_url(token, self.linked_endpoint)
        if self.linked_endpoint is None:
            raise ConfigurationError(_NOT_CONFIGURED.format(backend=self))
        return self._build_url(self.linked_endpoint, token)

    def _build_url(self, endpoint: str, token: str) -> str:
        """Return the absolute URL for *token*; called only for a storage without a link context."""
        import flask  # the only import of Flask in the backends

        return flask.url_for(endpoint, token=token, _external=True)
