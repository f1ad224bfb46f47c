"""Native links of the service: shared access signatures (SAS), which the SDK creates without a request.

The SDK signs for the newest service version that it knows. It signs one value per line and accepts a line end in a
value, so that two different links could have the same signature. The public operations therefore refuse line ends and
other control characters in paths, prefixes and all arguments; this module does not check them again.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from azure.storage.blob import UserDelegationKey, generate_blob_sas, generate_container_sas

from ...content_types import DEFAULT_CONTENT_TYPE, link_response_headers
from ...errors import NoSignerError, StorageUnavailableError, UnsupportedOperationError
from ...metadata_encoding import check_ascii
from ...process_local import ProcessLocal
from ...types import LinkRequest, PresignedUpload, ShareLinkOperation
from ...validation import caller_stacklevel
from .account import Account
from .client import Clients
from .errors import translating_missing_account
from .gateway import ContainerGateway, translating_parse_errors
from .multipart import MAX_BLOCKS, block_name

NO_SIGNER = "Cannot create a SAS URL without account credentials: give the account's key, or a credential"
_MAX_KEY_LIFETIME = timedelta(days=7)
_CLOCK_SKEW = timedelta(minutes=5)
_RENEW_BEFORE = timedelta(hours=1)
"""A key that expires sooner than this is replaced."""
_MAX_TIMESTAMP = 253402300799  # the last second of the year 9999: Azure's times have four digits for the year


class AzureSasBuilder:
    """Creates the signed URLs of one storage.

    Args:
        container: The gateway, for blob names and settings; no request goes through it.
        account: The location of the container and the credentials that sign.
        clients: Request a user delegation key from the service, if an identity signs.
        endpoint_url: The URL of the account for browsers, if it is another one.
        https_only: Whether the service refuses the links over plain HTTP; by default, if the URL is https.
        clock: Returns the seconds since 1970.
    """

    def __init__(
        self,
        container: ContainerGateway,
        account: Account,
        clients: Clients,
        *,
        endpoint_url: str | None = None,
        https_only: bool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._container = container
        self._account = account
        self._clock = clock
        base = (endpoint_url or account.url).rstrip("/")
        self._endpoint = f"{base}/{account.container}/"
        self._protocol = "https" if (base.startswith("https:") if https_only is None else https_only) else None
        self._scope = container.settings.stored.get("encryption_scope")
        self._delegated = ProcessLocal(lambda: _DelegationKeys(clients.delegation_key, clock))

    def url(self, path: str, request: LinkRequest) -> str:
        """Return the link for one path."""
        return self._blob_url(path, self._sas_arguments(path, request))

    def urls(self, paths: Sequence[str], request: LinkRequest) -> list[str]:
        """Return a link for each path; the arguments that they share are computed once."""
        if request.disposition == "inline":  # the content types differ
            return [self.url(path, request) for path in paths]
        if not paths:
            return []
        arguments = self._sas_arguments("", request)
        return [self._blob_url(path, arguments) for path in paths]

    def upload(self, path: str, request: LinkRequest) -> PresignedUpload:
        """Return the request by which a browser uploads one file."""
        arguments = self._sas_arguments(path, request)
        headers = {
            "x-ms-blob-type": "BlockBlob",
            "x-ms-blob-content-type": request.content_type or DEFAULT_CONTENT_TYPE,
        }
        cache_control = request.cache_control or self._container.settings.cache_control
        if cache_control:
            headers["x-ms-blob-cache-control"] = cache_control
        if request.content_encoding:
            headers["x-ms-blob-content-encoding"] = request.content_encoding
        if request.exclusive:
            headers["If-None-Match"] = "*"
        if self._scope:
            headers["x-ms-encryption-scope"] = self._scope
        return PresignedUpload(
            method="PUT", url=self._blob_url(path, arguments), headers=headers, expires_at=arguments["expiry"]
        )

    def block_upload(self, path: str, request: LinkRequest, upload_id: str, number: int) -> PresignedUpload:
        """Return the request by which a browser sends one block of an upload."""
        if not (type(number) is int and 1 <= number <= MAX_BLOCKS):
            raise ValueError(f"number must be a part number from 1 to {MAX_BLOCKS}, not {number!r}")
        arguments = self._sas_arguments(path, request)
        block = base64.urlsafe_b64encode(block_name(upload_id, number).encode()).decode()
        url = f"{self._blob_url(path, arguments)}&comp=block&blockid={block}"
        headers = {"x-ms-encryption-scope": self._scope} if self._scope else {}
        return PresignedUpload(method="PUT", url=url, headers=headers, expires_at=arguments["expiry"])

    def container_url(self, expires_at: datetime, ip: str | None) -> str:
        """Return a link that allows to read, write, delete and list in the whole container."""
        sas = generate_container_sas(
            self._account.name,
            self._account.container,
            permission="rwdl",
            ip=None if ip is None else _sas_ip_range(ip),
            protocol=self._protocol,
            encryption_scope=self._scope,
            **self._signing_key(math.ceil(expires_at.timestamp())),
        )
        return f"{self._endpoint[:-1]}?{sas}"

    @property
    def uses_configured_sas(self) -> bool:
        """Whether the profile has a SAS, of unknown scope, instead of a key or an identity."""
        return self._account.sas is not None

    def source_url(self, path: str, lifetime: timedelta) -> str:
        """Return a URL by which the service itself may read a blob for a copy, valid for *lifetime*."""
        sas = self._account.sas
        if sas is None:
            key = self._signing_key(math.ceil(self._clock() + lifetime.total_seconds()))
            sas = self._sas(path, {"permission": "r", **key})
        return f"{self._account.url}/{self._account.container}/{quote(self._container.key(path))}?{sas}"

    # -- inner ------------------------------------------------------------------------------------------------------

    def _blob_url(self, path: str, arguments: dict[str, Any]) -> str:
        return f"{self._endpoint}{quote(self._container.key(path))}?{self._sas(path, arguments)}"

    def _sas(self, path: str, arguments: dict[str, Any]) -> str:
        return generate_blob_sas(self._account.name, self._account.container, self._container.key(path), **arguments)

    def _sas_arguments(self, path: str, request: LinkRequest) -> dict[str, Any]:
        """Return the arguments of ``generate_blob_sas``, apart from the blob."""
        check_ascii({name: getattr(request, name) for name in ("content_type", "content_encoding", "cache_control")})
        arguments = self._signing_key(math.ceil(request.expires_at.timestamp()))
        arguments["permission"] = _permissions(request)
        arguments["protocol"] = self._protocol
        if request.ip is not None:
            arguments["ip"] = _sas_ip_range(request.ip)
        if request.operations & ShareLinkOperation.upload:
            arguments["encryption_scope"] = self._scope
        if request.operations & ShareLinkOperation.download:
            arguments |= {name.replace("-", "_"): value for name, value in link_response_headers(path, request).items()}
        return arguments

    def _signing_key(self, expires: int) -> dict[str, Any]:
        """Return the signing key and the expiry, as the SDK's arguments; *expires* is in seconds since 1970."""
        expires = min(expires, _MAX_TIMESTAMP)
        if self._account.key is not None:
            return {"account_key": self._account.key, "expiry": _to_datetime(expires)}
        if self._account.credential is None:
            raise NoSignerError(NO_SIGNER)
        key, key_expires = self._delegated().valid_until(expires)
        if expires > key_expires:
            if expires > key_expires + 1 and expires - self._clock() > _MAX_KEY_LIFETIME.total_seconds():
                warnings.warn(
                    "Azure accepts a link that an identity signed for seven days at most: this link expires then",
                    stacklevel=caller_stacklevel(),
                )
            expires = key_expires
        return {"user_delegation_key": key, "expiry": _to_datetime(expires)}


class _DelegationKeys:
    """The user delegation key of one process: requested when it is first needed, and cached until it expires."""

    def __init__(
        self, request_key: Callable[[datetime, datetime], UserDelegationKey], clock: Callable[[], float]
    ) -> None:
        self._request_key = request_key
        self._clock = clock
        # The tuple is replaced as a whole, so threads need no lock; at worst, two of them request a key.
        self._cached: tuple[UserDelegationKey, int] | None = None

    def valid_until(self, expires: int) -> tuple[UserDelegationKey, int]:
        """Return a key that is valid until *expires*, or the longest-lived possible, and its expiry."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        cached = self._cached
        required = min(expires, int((now + _MAX_KEY_LIFETIME - _RENEW_BEFORE).timestamp()))
        if cached is None or cached[1] < max(required, int((now + _CLOCK_SKEW).timestamp())):
            cached = self._cached = self._new_key(now)
        return cached

    def _new_key(self, now: datetime) -> tuple[UserDelegationKey, int]:
        with translating_missing_account(), translating_parse_errors():
            key = self._request_key(now - _CLOCK_SKEW, now - _CLOCK_SKEW + _MAX_KEY_LIFETIME)
            expires = int(datetime.fromisoformat(str(key.signed_expiry)).timestamp())
            # A link is signed with all of them, and without one the service refuses the link only when it is used.
            if not all((key.signed_oid, key.signed_tid, key.signed_service, key.signed_version)):
                raise ValueError("the user delegation key is incomplete")
            if not base64.b64decode(key.value or "", validate=True):
                raise ValueError("the user delegation key is empty")
        if expires <= now.timestamp():
            raise StorageUnavailableError(
                "the service returned a user delegation key that has already expired: check this machine's clock (NTP)"
            )
        return key, expires


def _permissions(request: LinkRequest) -> str:
    """Return the letters of the operations, in the only order that the service accepts."""
    letters = ""
    if request.operations & ShareLinkOperation.download:
        letters += "r"
    if request.operations & ShareLinkOperation.upload:
        letters += "c" if request.exclusive else "cw"
    if request.operations & ShareLinkOperation.remove:
        letters += "d"
    return letters


def _sas_ip_range(network: str) -> str:
    """Return a network in Azure's notation: one address, or the first and the last."""
    addresses = ipaddress.ip_network(network, strict=False)
    if addresses.version != 4:
        raise UnsupportedOperationError("Azure restricts links to IPv4 addresses only: give an IPv4 address or network")
    first, last = str(addresses[0]), str(addresses[-1])
    return first if first == last else f"{first}-{last}"


def _to_datetime(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
