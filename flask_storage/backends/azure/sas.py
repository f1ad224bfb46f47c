"""Links that the service itself honours: shared access signatures (SAS), which the SDK makes without a request.

The SDK signs for the newest service version that it knows. It signs one value per line and accepts a line end in a
value, so that two different links could have the same signature. The public operations therefore refuse line ends and
other control characters in paths, prefixes and all arguments; nothing is checked again here.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from azure.storage.blob import UserDelegationKey, generate_blob_sas, generate_container_sas

from ...content_types import DEFAULT_CONTENT_TYPE, link_response_headers
from ...errors import ConfigurationError, UnsupportedOperationError
from ...metadata_encoding import check_ascii
from ...process_local import ProcessLocal
from ...types import LinkRequest, PresignedUpload, ShareLinkOperation
from .account import Account
from .client import Clients
from .gateway import ContainerGateway
from .multipart import MAX_BLOCKS, block_name

NO_SIGNER = "Cannot create a SAS URL without account credentials: give the account's key, or a credential"
_MAX_KEY_LIFETIME = timedelta(days=7)
_CLOCK_SKEW = timedelta(minutes=5)
_RENEW_BEFORE = timedelta(hours=1)
"""A key that ends sooner than this is replaced by a new one."""
_LATEST = 253402300799  # the last second of the year 9999: Azure's times have four digits for the year
_PACKAGE = __name__.partition(".")[0] + "."


class AzureSasBuilder:
    """What signs for one storage.

    Args:
        container: The gateway; nothing goes through it.
        account: Where the container is and who signs.
        clients: Get a key to sign with from the service, where an identity signs.
        endpoint_url: The address of the account that browsers know, if another.
        https_only: Whether links are refused by plain HTTP; without a word, where the address is https.
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
        """Return a link for each path; what they have in common is worked out once."""
        if request.disposition == "inline":  # their types differ
            return [self.url(path, request) for path in paths]
        if not paths:
            return []
        arguments = self._sas_arguments("", request)
        return [self._blob_url(path, arguments) for path in paths]

    def upload(self, path: str, request: LinkRequest) -> PresignedUpload:
        """Return how a browser puts one file here in one request."""
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

    def block(self, path: str, request: LinkRequest, upload_id: str, number: int) -> PresignedUpload:
        """Return how a browser sends one block of an upload."""
        if not (type(number) is int and 1 <= number <= MAX_BLOCKS):
            raise ValueError(f"parts are numbered from 1 to {MAX_BLOCKS}, not {number!r}")
        arguments = self._sas_arguments(path, request)
        block = base64.urlsafe_b64encode(block_name(upload_id, number).encode()).decode()
        url = f"{self._blob_url(path, arguments)}&comp=block&blockid={block}"
        headers = {"x-ms-encryption-scope": self._scope} if self._scope else {}
        return PresignedUpload(method="PUT", url=url, headers=headers, expires_at=arguments["expiry"])

    def container_url(self, expires_at: datetime, ip: str | None) -> str:
        """Return a link for the whole container: read, write, delete, list."""
        sas = generate_container_sas(
            self._account.name,
            self._account.container,
            permission="rwdl",
            ip=None if ip is None else _range_of(ip),
            protocol=self._protocol,
            encryption_scope=self._scope,
            **self._signing_key(math.ceil(expires_at.timestamp())),
        )
        return f"{self._endpoint[:-1]}?{sas}"

    @property
    def uses_given_sas(self) -> bool:
        """Whether the only signature there is was given to us, for we know not what else."""
        return self._account.sas is not None

    def source_url(self, path: str, lasting: timedelta) -> str:
        """Return the address by which the service itself may read a blob for a copy, for a while."""
        sas = self._account.sas
        if sas is None:
            key = self._signing_key(math.ceil(self._clock() + lasting.total_seconds()))
            sas = self._sas(path, {"permission": "r", **key})
        return f"{self._account.url}/{self._account.container}/{quote(self._container.key(path))}?{sas}"

    # -- inner ------------------------------------------------------------------------------------------------------

    def _blob_url(self, path: str, arguments: dict[str, Any]) -> str:
        return f"{self._endpoint}{quote(self._container.key(path))}?{self._sas(path, arguments)}"

    def _sas(self, path: str, arguments: dict[str, Any]) -> str:
        return generate_blob_sas(self._account.name, self._account.container, self._container.key(path), **arguments)

    def _sas_arguments(self, path: str, request: LinkRequest) -> dict[str, Any]:
        """Return what the SDK is told of such links, apart from the blob: the arguments of ``generate_blob_sas``."""
        check_ascii({name: getattr(request, name) for name in ("content_type", "content_encoding", "cache_control")})
        arguments = self._signing_key(math.ceil(request.expires_at.timestamp()))
        arguments["permission"] = _permissions(request)
        arguments["protocol"] = self._protocol
        if request.ip is not None:
            arguments["ip"] = _range_of(request.ip)
        if request.operations & ShareLinkOperation.upload:
            arguments["encryption_scope"] = self._scope
        if request.operations & ShareLinkOperation.download:
            arguments |= {name.replace("-", "_"): value for name, value in link_response_headers(path, request).items()}
        return arguments

    def _signing_key(self, wanted: int) -> dict[str, Any]:
        """Return the key that signs, and the expiry of a link that is wanted until *wanted*, as the SDK's arguments."""
        wanted = min(wanted, _LATEST)
        if self._account.key is not None:
            return {"account_key": self._account.key, "expiry": _to_datetime(wanted)}
        if self._account.credential is None:
            raise ConfigurationError(NO_SIGNER)
        key, last = self._delegated().valid_until(wanted)
        if wanted > last:
            if wanted > last + 1 and wanted - self._clock() > _MAX_KEY_LIFETIME.total_seconds():
                warnings.warn(
                    "Azure honours such a link for seven days at most: this one ends then",
                    stacklevel=_caller_stacklevel(),
                )
            wanted = last
        return {"user_delegation_key": key, "expiry": _to_datetime(wanted)}


class _DelegationKeys:
    """The key with which an identity signs, in one process: asked for when needed, kept as long as it is good."""

    def __init__(self, ask: Callable[[datetime, datetime], UserDelegationKey], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        # Replaced and never changed, so that threads need no lock: the worst is that two ask.
        self._cached: tuple[UserDelegationKey, int] | None = None

    def valid_until(self, wanted: int) -> tuple[UserDelegationKey, int]:
        """Return a key that lasts until *wanted*, or as long as any does, and when it ends."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        held = self._cached
        enough = min(wanted, int((now + _MAX_KEY_LIFETIME - _RENEW_BEFORE).timestamp()))
        if held is None or held[1] < max(enough, int((now + _CLOCK_SKEW).timestamp())):
            held = self._cached = self._new(now)
        return held

    def _new(self, now: datetime) -> tuple[UserDelegationKey, int]:
        key = self._ask(now - _CLOCK_SKEW, now - _CLOCK_SKEW + _MAX_KEY_LIFETIME)
        return key, int(datetime.fromisoformat(str(key.signed_expiry)).timestamp())


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


def _range_of(network: str) -> str:
    """Return a network as Azure writes it: an address, or the first and the last."""
    found = ipaddress.ip_network(network, strict=False)
    if found.version != 4:
        raise UnsupportedOperationError("Azure binds links to IPv4 addresses only")
    first, last = str(found[0]), str(found[-1])
    return first if first == last else f"{first}-{last}"


def _caller_stacklevel() -> int:
    """Return how many calls up from the one who asks somebody else's code is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def _to_datetime(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
