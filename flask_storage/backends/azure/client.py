"""Clients of the SDK: each process creates its own when it first needs one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient, ExponentialRetry

from ...errors import ConfigurationError, InvalidPathError
from ...process_local import ProcessLocal
from .account import DEFAULT_CREDENTIAL, Account
from .transport import make_transport

_MAX_SINGLE_PUT = 100 * 1024 * 1024
_MAX_BACKOFF = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The settings of the SDK's clients; they are described at :class:`~flask_storage.AzureStorage`."""

    connect_timeout: float = 10
    read_timeout: float = 15
    max_attempts: int = 3
    max_connections: int = 50
    verify: bool | str | None = None
    retry_policy: Any = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if "transport" in self.options:
            raise ConfigurationError(
                "client_options cannot contain a transport, because each process creates its own: configure it by "
                "verify, max_connections, connect_timeout, read_timeout and proxies"
            )

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a client, including a new transport."""
        return {
            "transport": make_transport(
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
                max_connections=self.max_connections,
                verify=self.verify,
            ),
            "retry_policy": self.retry_policy or _FastRetry(retry_total=self.max_attempts - 1),
            "max_single_put_size": _MAX_SINGLE_PUT,
            "max_block_size": _MAX_SINGLE_PUT,
            # Signatures, secrets and content must not be sent to a host that was not configured.
            "permit_redirects": False,
            **self.options,
        }


class _FastRetry(ExponentialRetry):
    """Exponential backoff from half a second on; the SDK's own policy waits 15 seconds before the first retry."""

    def get_backoff_time(self, settings: dict[str, Any]) -> float:
        return random.uniform(0, min(2 ** settings["count"], _MAX_BACKOFF)) / 2  # noqa: S311 - jitter, not a secret


class Clients:
    """The clients of one storage; each process gets its own.

    Args:
        account: The location of the container, and the credentials.
        settings: The settings of the clients.
    """

    def __init__(self, account: Account, settings: ClientSettings) -> None:
        self._account = account
        self._settings = settings
        # The latest client of a blob, and what it was created for: creating one takes a tenth of the time of a small
        # request, and an operation needs it more than once. Threads need no lock, as the tuple is replaced as a whole.
        self._latest: tuple[Any, str, Any] = (None, "", None)
        self._client = ProcessLocal(lambda: self._connect(settings))
        # The credential has its own connections, which processes must not share after a fork.
        self._identity = ProcessLocal(_default_credential)
        # Cleans up after a failure, with short time-outs, because the service itself may be failing.
        self._cleanup_client = ProcessLocal(
            lambda: self._connect(
                replace(
                    settings,
                    connect_timeout=min(settings.connect_timeout, 2),
                    read_timeout=min(settings.read_timeout, 2),
                    max_attempts=2,
                )
            )
        )

    def container(self) -> ContainerClient:
        """Return this process's client of the container."""
        if self._account.blob is not None:
            raise ConfigurationError(
                "Cannot perform list operation when configured with SAS blob URL, which opens one blob and nothing "
                "else: configure a sas_container_url"
            )
        client: ContainerClient = self._client()
        return client

    def blob(self, name: str, *, for_cleanup: bool = False) -> BlobClient:
        """Return this process's client of one blob; with *for_cleanup*, the client with short time-outs.

        Raises:
            InvalidPathError: when the storage is configured with the SAS URL of another blob.
        """
        if self._account.blob not in (None, name):
            raise InvalidPathError("Invalid path for the configured SAS blob URL")
        client = (self._cleanup_client if for_cleanup else self._client)()
        if isinstance(client, BlobClient):
            return client
        parent, blob_name, latest = self._latest
        if parent is not client or blob_name != name:  # after a fork or close(), the client is another one
            latest = client.get_blob_client(name)
            self._latest = client, name, latest
        return latest  # type: ignore[no-any-return]  # the remembered client is Any

    def delegation_key(self, starts: datetime, ends: datetime) -> Any:
        """Request a user delegation key from the service; it signs links on behalf of the configured identity."""
        with self._make_client(BlobServiceClient, self._account.url, settings=self._settings) as service:
            return service.get_user_delegation_key(starts, ends)

    def close(self) -> None:
        """Close this process's connections; a later request opens new ones."""
        self._latest = (None, "", None)
        self._identity.pop()  # not closed: an open file may need another token
        for client in (self._client.pop(), self._cleanup_client.pop()):
            if client is not None:
                client.close()

    def _connect(self, settings: ClientSettings) -> Any:
        account = self._account
        if account.blob is not None:
            # We split the URL: on a custom domain, the SDK mistakes a directory in the blob name for the container.
            return self._make_client(BlobClient, account.url, account.container, account.blob, settings=settings)
        return self._make_client(ContainerClient, account.url, account.container, settings=settings)

    def _make_client(self, client_class: Callable[..., Any], *location: str, settings: ClientSettings) -> Any:
        credential = self._credential()
        try:
            return client_class(*location, credential=credential, **settings.arguments())
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"the SDK does not accept client_options or retry_policy ({type(error).__name__}): correct them"
            ) from error

    def _credential(self) -> Any:
        account = self._account
        if account.sas is not None:
            return AzureSasCredential(account.sas)
        if account.credential is None:
            return AzureNamedKeyCredential(account.name, account.key or "")
        return self._identity() if account.credential == DEFAULT_CREDENTIAL else account.credential


def _default_credential() -> Any:
    from azure.identity import DefaultAzureCredential  # a separate package, needed only with this credential

    try:
        return DefaultAzureCredential()
    except ValueError as error:
        raise ConfigurationError(f"azure.identity found invalid environment variables: {error}") from error


def is_plain_http(url: str) -> bool:
    """Return whether *url* is plain HTTP, which does not protect content in transit."""
    return urlsplit(url).scheme == "http"


BlobClientFactory = Callable[..., BlobClient]
"""Returns the client of a blob by its name; with ``for_cleanup=True`` one with short time-outs."""
