"""From configuration to clients of the SDK: one for each process, made when it is first needed."""

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
    """How clients of the SDK are made; see :class:`~flask_storage.AzureStorage` for what each means."""

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
                "client_options takes no transport, for each process makes its own: verify, max_connections, the "
                "time-outs and proxies say what it is like"
            )

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a client, with a transport of its own."""
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
            # What is signed, or secret, is for one place; and no content goes where nobody configured it.
            "permit_redirects": False,
            **self.options,
        }


class _FastRetry(ExponentialRetry):
    """Waits a moment before it tries again, and twice as long each time; the SDK's own waits a quarter of a minute."""

    def get_backoff_time(self, settings: dict[str, Any]) -> float:
        return random.uniform(0, min(2 ** settings["count"], _MAX_BACKOFF)) / 2  # noqa: S311 - spreads, hides nothing


class Clients:
    """The clients of one storage, in whichever process they are needed.

    Args:
        account: Where the container is, and who asks.
        settings: How clients are made.
    """

    def __init__(self, account: Account, settings: ClientSettings) -> None:
        self._account = account
        self._settings = settings
        self._client = ProcessLocal(lambda: self._connect(settings))
        # It has connections of its own, which a fork must not share.
        self._identity = ProcessLocal(_default_credential)
        # To clear away what a failure left: the service may be the one in trouble.
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
        """Return this process's client of one blob, or one that gives up soon.

        Raises:
            InvalidPathError: when the address of a single other blob is all that was configured.
        """
        if self._account.blob not in (None, name):
            raise InvalidPathError("Invalid path for the configured SAS blob URL")
        client = (self._cleanup_client if for_cleanup else self._client)()
        return client if isinstance(client, BlobClient) else client.get_blob_client(name)

    def delegation_key(self, starts: datetime, ends: datetime) -> Any:
        """Ask the service for a key that signs links in the name of the identity that asks."""
        with self._make_client(BlobServiceClient, self._account.url, settings=self._settings) as service:
            return service.get_user_delegation_key(starts, ends)

    def close(self) -> None:
        """Close this process's connections; later ones are new."""
        self._identity.pop()  # not closed: a file that is open may need one more token
        for held in (self._client.pop(), self._cleanup_client.pop()):
            if held is not None:
                held.close()

    def _connect(self, settings: ClientSettings) -> Any:
        account = self._account
        if account.blob is not None:
            # Taken apart by us: the SDK takes a folder in the name for the container, where the domain is not Azure's.
            return self._make_client(BlobClient, account.url, account.container, account.blob, settings=settings)
        return self._make_client(ContainerClient, account.url, account.container, settings=settings)

    def _make_client(self, kind: Callable[..., Any], *place: str, settings: ClientSettings) -> Any:
        credential = self._credential()
        try:
            return kind(*place, credential=credential, **settings.arguments())
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"the SDK makes no client of client_options or retry_policy: {type(error).__name__}"
            ) from error

    def _credential(self) -> Any:
        account = self._account
        if account.sas is not None:
            return AzureSasCredential(account.sas)
        if account.credential is None:
            return AzureNamedKeyCredential(account.name, account.key or "")
        return self._identity() if account.credential == DEFAULT_CREDENTIAL else account.credential


def _default_credential() -> Any:
    from azure.identity import DefaultAzureCredential  # an extra package, for those who name it

    try:
        return DefaultAzureCredential()
    except ValueError as error:
        raise ConfigurationError(f"azure.identity finds variables that it does not understand: {error}") from error


def is_plain_http(url: str) -> bool:
    """Whether what is sent and read has no protection of its own on the way."""
    return urlsplit(url).scheme == "http"


BlobClientFactory = Callable[..., BlobClient]
"""Gives the client of a blob by its name; with ``for_cleanup=True`` one that gives up soon."""
