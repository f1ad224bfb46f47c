"""Links that the service itself honours: shared access signatures, made here without asking it."""

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

from ...errors import ConfigurationError, UnsupportedOperationError
from ...header_text import check_ascii
from ...media import OCTETS, answer_headers
from ...values import LinkRequest, ShareLinkOperation, UploadInstruction
from ...workers import PerProcess
from .client import Clients
from .container import Container
from .parts import MAX_BLOCKS, block_name
from .settings import Account
from .signing import AccountKey, DelegationKey, SasSigner, sign_container

_ANSWER = {
    "cache-control": "rscc",
    "content-disposition": "rscd",
    "content-encoding": "rsce",
    "content-type": "rsct",
}
NO_SIGNER = "Cannot create a SAS URL without account credentials: give the account's key, or a credential"
_LONGEST_KEY = timedelta(days=7)
_CLOCK_SKEW = timedelta(minutes=5)
_NEW_FROM = timedelta(hours=1)
"""A key that ends sooner than this is replaced by a new one."""
_LATEST = 253402300799  # the last second of the year 9999: Azure's times have four digits for the year
_PACKAGE = __name__.partition(".")[0] + "."


class AzureLinks:
    """What signs for one storage.

    Args:
        container: The door; nothing goes through it.
        account: Where the container is and who signs.
        clients: Get a key to sign with from the service, where an identity signs.
        endpoint_url: The address of the account that browsers know, if another.
        https_only: Whether links are refused by plain HTTP; without a word, where the address is https.
        clock: Returns the seconds since 1970.
    """

    def __init__(
        self,
        container: Container,
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
        self._https_only = base.startswith("https:") if https_only is None else https_only
        self._scope = container.settings.stored.get("encryption_scope")
        self._account_key = None if account.key is None else AccountKey(account.name, account.key)
        self._delegated = PerProcess(lambda: _Delegated(account.name, clients.delegation_key, clock))
        self._last: tuple[Any, SasSigner] | None = None

    def url(self, path: str, request: LinkRequest) -> str:
        """Return the link for one path."""
        return self._signer(path, request)[0].sign(self._container.key(path))

    def urls(self, paths: Sequence[str], request: LinkRequest) -> list[str]:
        """Return a link for each path; what they have in common is worked out once."""
        if request.disposition == "inline":  # their types differ
            return [self.url(path, request) for path in paths]
        if not paths:
            return []
        sign = self._signer("", request)[0].sign
        prefix = self._container.prefix
        return [sign(prefix + path) for path in paths]

    def upload(self, path: str, request: LinkRequest) -> UploadInstruction:
        """Return how a browser puts one file here in one request."""
        signer, ends = self._signer(path, request)
        headers = {"x-ms-blob-type": "BlockBlob", "x-ms-blob-content-type": request.content_type or OCTETS}
        cache_control = request.cache_control or self._container.settings.cache_control
        if cache_control:
            headers["x-ms-blob-cache-control"] = cache_control
        if request.content_encoding:
            headers["x-ms-blob-content-encoding"] = request.content_encoding
        if request.exclusive:
            headers["If-None-Match"] = "*"
        if self._scope:
            headers["x-ms-encryption-scope"] = self._scope
        return UploadInstruction(
            method="PUT", url=signer.sign(self._container.key(path)), headers=headers, expires_at=_moment(ends)
        )

    def block(self, path: str, request: LinkRequest, upload_id: str, number: int) -> UploadInstruction:
        """Return how a browser sends one block of an upload."""
        if not (type(number) is int and 1 <= number <= MAX_BLOCKS):
            raise ValueError(f"parts are numbered from 1 to {MAX_BLOCKS}, not {number!r}")
        signer, ends = self._signer(path, request)
        block = base64.urlsafe_b64encode(block_name(upload_id, number).encode()).decode()
        url = f"{signer.sign(self._container.key(path))}&comp=block&blockid={block}"
        headers = {"x-ms-encryption-scope": self._scope} if self._scope else {}
        return UploadInstruction(method="PUT", url=url, headers=headers, expires_at=_moment(ends))

    def container_url(self, expires_at: datetime, ip: str | None) -> str:
        """Return a link for the whole container: read, write, delete, list."""
        key, ends = self._key_until(math.ceil(expires_at.timestamp()))
        terms = {
            "ip": None if ip is None else _range_of(ip),
            "https_only": self._https_only,
            "encryption_scope": self._scope,
        }
        return sign_container(self._endpoint, self._account.container, key, "rwdl", ends, **terms)  # type: ignore[arg-type]  # each of its kind

    @property
    def are_given(self) -> bool:
        """Whether the only signature there is was given to us, for we know not what else."""
        return self._account.sas is not None

    def source_url(self, path: str, lasting: timedelta) -> str:
        """Return the address by which the service itself may read a blob for a copy, for a while."""
        url = f"{self._account.url}/{self._account.container}/"
        if self._account.sas is not None:
            return f"{url}{quote(self._container.key(path), safe='~/')}?{self._account.sas}"
        key, ends = self._key_until(math.ceil(self._clock() + lasting.total_seconds()))
        return SasSigner(url, self._account.container, key, "r", ends).sign(self._container.key(path))

    # -- inner ------------------------------------------------------------------------------------------------------

    def _signer(self, path: str, request: LinkRequest) -> tuple[SasSigner, int]:
        """Return what signs such links, and when they end."""
        check_ascii({name: getattr(request, name) for name in ("content_type", "content_encoding", "cache_control")})
        key, ends = self._key_until(math.ceil(request.expires_at.timestamp()))
        answer: dict[str, str] = {}
        if request.operations & ShareLinkOperation.download:
            answer = {_ANSWER[name]: value for name, value in answer_headers(path, request).items()}
        permissions = _permissions(request)
        terms = key, permissions, ends, request.ip, answer
        last = self._last
        if last is not None and last[0] == terms:  # links that are made one by one differ only in their name
            return last[1], ends
        signer = SasSigner(
            self._endpoint,
            self._account.container,
            key,
            permissions,
            ends,
            ip=None if request.ip is None else _range_of(request.ip),
            https_only=self._https_only,
            answer=answer,
            encryption_scope=self._scope if request.operations & ShareLinkOperation.upload else None,
        )
        self._last = terms, signer
        return signer, ends

    def _key_until(self, wanted: int) -> tuple[AccountKey | DelegationKey, int]:
        """Return who signs, and until when a link is good that is wanted until *wanted*."""
        wanted = min(wanted, _LATEST)
        if self._account_key is not None:
            return self._account_key, wanted
        if self._account.credential is None:
            raise ConfigurationError(NO_SIGNER)
        key, last = self._delegated().until(wanted)
        if wanted > last:
            if wanted > last + 1 and wanted - self._clock() > _LONGEST_KEY.total_seconds():
                warnings.warn(
                    "Azure honours such a link for seven days at most: this one ends then", stacklevel=_to_the_app()
                )
            wanted = last
        return key, wanted


class _Delegated:
    """The key with which an identity signs, in one process: asked for when needed, kept as long as it is good."""

    def __init__(self, account: str, ask: Callable[[datetime, datetime], Any], clock: Callable[[], float]) -> None:
        self._account = account
        self._ask = ask
        self._clock = clock
        # Replaced and never changed, so that threads need no lock: the worst is that two ask.
        self._held: tuple[DelegationKey, int] | None = None

    def until(self, wanted: int) -> tuple[DelegationKey, int]:
        """Return a key that lasts until *wanted*, or as long as any does, and when it ends."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        held = self._held
        enough = min(wanted, int((now + _LONGEST_KEY - _NEW_FROM).timestamp()))
        if held is None or held[1] < max(enough, int((now + _CLOCK_SKEW).timestamp())):
            held = self._held = self._new(now)
        return held

    def _new(self, now: datetime) -> tuple[DelegationKey, int]:
        given = self._ask(now - _CLOCK_SKEW, now - _CLOCK_SKEW + _LONGEST_KEY)
        key = DelegationKey(
            account=self._account,
            signed_oid=given.signed_oid,
            signed_tid=given.signed_tid,
            signed_start=given.signed_start,
            signed_expiry=given.signed_expiry,
            signed_service=given.signed_service,
            signed_version=given.signed_version,
            value=given.value,
        )
        return key, int(datetime.fromisoformat(given.signed_expiry).timestamp())


def _permissions(request: LinkRequest) -> str:
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


def _to_the_app() -> int:
    """Return how many calls up from the one who asks somebody else's code is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
