"""Signs Azure links: shared access signatures, made by this process alone. No network, no SDK, no clock.

A link of an account key is, byte for byte, what the SDK's ``generate_blob_sas`` gives when it signs for
:data:`SAS_VERSION`; the tests compare the two. With a delegation key only the signature differs: there the SDK signs
four more lines, whatever the version, that belong to later versions. What a key and its terms decide is worked out
once (:class:`SasSigner`), so that a link costs one quoting and one HMAC.

The scheme is described at
https://learn.microsoft.com/en-us/rest/api/storageservices/create-service-sas ("Create a service SAS") and
https://learn.microsoft.com/en-us/rest/api/storageservices/create-user-delegation-sas ("Create a user delegation SAS").
"""

from __future__ import annotations

import binascii
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType

SAS_VERSION = "2022-11-02"
"""The ``sv`` of all links, which decides what is signed and how.

It is fixed, so that links stay what they are when the SDK is updated, and are understood by servers that know no
later version.
"""

PERMISSIONS = "racwdxyltfmeopi"
"""All permissions, in the only order that the service takes them in."""

ANSWER_HEADERS = ("rscc", "rscd", "rsce", "rscl", "rsct")
"""What a link may say about its answer: Cache-Control, Content-Disposition, -Encoding, -Language and -Type."""

_NOTHING: Mapping[str, str] = MappingProxyType({})
_ANSWER_NAMES = frozenset(ANSWER_HEADERS)
_NO_ANSWER_LINES = "\n" * (len(ANSWER_HEADERS) - 1)
_LINE_ENDS_BEFORE = 3
_LINE_ENDS_AFTER = 7 + len(ANSWER_HEADERS)
_ENDPOINT = re.compile(r"https?://[^\s/?#@]+/(?:[^\s?#]*/)?")

# Nearly every name is plain, and a look is quicker than quoting what needs none; the table is quicker than
# urllib.parse.quote, with the same result. A slash stays as it is, in the path and in the query.
_PLAIN = re.compile(r"[A-Za-z0-9_.~/\-]*")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/")
_QUOTED = [chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in range(256)]
_quoted_byte = _QUOTED.__getitem__


@dataclass(frozen=True, slots=True)
class AccountKey:
    """A key of a storage account: it can do everything there, and links that it signs live until it is changed.

    Attributes:
        account: The account's name.
        key: The key, as the portal shows it: base64. It never leaves this process.
        mac: The HMAC that signs, fed with nothing yet; each signature is made on a copy.
        lines: What stands for the key in what is signed.
        query: The parameters of a link that name the key; an account key has none.

    Raises:
        ValueError: when *key* is not base64.
    """

    account: str
    key: str = field(repr=False)
    mac: hmac.HMAC = field(init=False, repr=False, compare=False)
    lines: str = field(init=False, repr=False, compare=False)
    query: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out what all links of this key share."""
        object.__setattr__(self, "mac", _mac(self.key))
        object.__setattr__(self, "lines", "")  # where a stored access policy would be named
        object.__setattr__(self, "query", "")


@dataclass(frozen=True, slots=True)
class DelegationKey:
    """A user delegation key, which the service gave to an identity: its links end with it, at the latest.

    Attributes:
        account: The account's name.
        signed_oid: The identity that the key was given to.
        signed_tid: The tenant of that identity.
        signed_start: From when on the key is good, as the service wrote it (``"2026-06-01T12:00:00Z"``).
        signed_expiry: Until when, likewise.
        signed_service: What the key is good for: ``"b"``.
        signed_version: The version of the service that gave it.
        value: The key, in base64. It never leaves this process.
        mac: The HMAC that signs, fed with nothing yet; each signature is made on a copy.
        lines: What stands for the key in what is signed.
        query: The parameters of a link that name the key.

    Raises:
        ValueError: when *value* is not base64, or another field holds a line end.
    """

    account: str
    signed_oid: str
    signed_tid: str
    signed_start: str
    signed_expiry: str
    signed_service: str
    signed_version: str
    value: str = field(repr=False)
    mac: hmac.HMAC = field(init=False, repr=False, compare=False)
    lines: str = field(init=False, repr=False, compare=False)
    query: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out what all links of this key share."""
        named = {
            "skoid": self.signed_oid,
            "sktid": self.signed_tid,
            "skt": self.signed_start,
            "ske": self.signed_expiry,
            "sks": self.signed_service,
            "skv": self.signed_version,
        }
        # Three more lines are for identities of a data lake and for its log. None of ours is ever filled.
        lines = "\n".join([*named.values(), "", "", ""])
        _check_lines(lines, 8)
        object.__setattr__(self, "mac", _mac(self.value))
        object.__setattr__(self, "lines", lines)
        object.__setattr__(self, "query", "".join([_parameter(name, value) for name, value in named.items()]))


class SasSigner:
    """Signs links that differ in nothing but the blob.

    Making one costs about as much as signing two links, or three if it has an *answer*; it serves for a single link as
    well. The parameters of a link stand in the order of the SDK: ``st se sp sip spr sv sr``, the answer's headers,
    ``ses``, what names a delegation key, and ``sig``. What is not given is not there.

    Args:
        endpoint: The URL of the container as clients reach it, with a slash at its end:
            ``"https://acct.blob.core.windows.net/container/"`` or, with the account in the path,
            ``"http://127.0.0.1:10000/acct/container/"``. It is not signed.
        container: The container's name, which is signed.
        key: Who signs.
        permissions: Letters of :data:`PERMISSIONS`, in any order.
        expires: Until when the links are good, in whole seconds since 1970 (UTC).
        starts: From when on, likewise; ``None`` is from now on.
        ip: The address that may use them (``"1.2.3.4"``), or the first and the last (``"1.2.3.4-1.2.3.9"``).
        https_only: Whether they are refused over plain HTTP.
        answer: What the service says about its answer, by :data:`ANSWER_HEADERS`. An empty text says nothing.
        encryption_scope: What encrypts the blobs that are written.

    Raises:
        ValueError: when *endpoint* is no such URL, *permissions* are none or unknown, *answer* has another name, or
            any of them has a line end.
    """

    __slots__ = ("_after", "_before", "_mac", "_query", "_url")

    def __init__(
        self,
        endpoint: str,
        container: str,
        key: AccountKey | DelegationKey,
        permissions: str,
        expires: int,
        *,
        starts: int | None = None,
        ip: str | None = None,
        https_only: bool = False,
        answer: Mapping[str, str] = _NOTHING,
        encryption_scope: str | None = None,
    ) -> None:
        _check_endpoint(endpoint)
        before, after, self._query = _terms(
            "b", container, key, permissions, expires, starts, ip, https_only, answer, encryption_scope
        )
        self._url = endpoint
        self._before = f"{before}/"
        self._after = after
        self._mac = key.mac

    def __repr__(self) -> str:
        return f"<SasSigner for {self._url!r}>"

    def sign(self, blob: str) -> str:
        """Return the link for *blob*, which is as the container knows it: not quoted, without a leading slash.

        Raises:
            ValueError: when *blob* has a line end.
            UnicodeEncodeError: when *blob* holds a lone surrogate.
        """
        name = blob
        if not _PLAIN.fullmatch(blob):
            # Names are signed as they are, a line among lines: one with a line end could also be read as a shorter
            # name with other terms, and whoever holds the link could write it so.
            _check_lines(blob, 0)
            name = "".join(map(_quoted_byte, blob.encode()))
        return f"{self._url}{name}{self._query}{_signature(self._mac, f'{self._before}{blob}{self._after}')}"


def sign_container(
    endpoint: str,
    container: str,
    key: AccountKey | DelegationKey,
    permissions: str,
    expires: int,
    *,
    starts: int | None = None,
    ip: str | None = None,
    https_only: bool = False,
    answer: Mapping[str, str] = _NOTHING,
    encryption_scope: str | None = None,
) -> str:
    """Return a link to the container itself: the same terms hold for it and for every blob in it.

    Args:
        endpoint: The URL of the container, with a slash at its end; the link has none.
        container: The container's name.
        key: Who signs.
        permissions: Letters of :data:`PERMISSIONS`, in any order.
        expires: Until when the link is good, in whole seconds since 1970 (UTC).
        starts: From when on, likewise; ``None`` is from now on.
        ip: The address that may use it, or the first and the last with a hyphen between.
        https_only: Whether it is refused over plain HTTP.
        answer: What the service says about its answers, by :data:`ANSWER_HEADERS`.
        encryption_scope: What encrypts the blobs that are written.

    Raises:
        ValueError: as :class:`SasSigner`.
    """
    _check_endpoint(endpoint)
    before, after, query = _terms(
        "c", container, key, permissions, expires, starts, ip, https_only, answer, encryption_scope
    )
    return f"{endpoint[:-1]}{query}{_signature(key.mac, f'{before}{after}')}"


# -- what all links of a key, a second, a signer share --------------------------------------------------------------


def _mac(key: str) -> hmac.HMAC:
    try:
        secret = binascii.a2b_base64(key, strict_mode=True)
    except ValueError:
        secret = b""
    if not secret:
        # Neither the text is repeated nor the error kept: a key with one wrong letter is nearly the key.
        raise ValueError("the key of an Azure account is base64, and this one is not") from None
    return hmac.new(secret, digestmod=sha256)


def _check_endpoint(endpoint: str) -> None:
    if not _ENDPOINT.fullmatch(endpoint):
        # The text is not repeated: it may hold a password.
        raise ValueError("the endpoint of a container is an http or https URL that ends in a slash, without a user")


def _check_lines(text: str, line_ends: int) -> None:
    if text.count("\n") != line_ends:
        raise ValueError("what is signed for Azure stands on a line of its own, and may not hold a line end")


def _terms(
    resource: str,
    container: str,
    key: AccountKey | DelegationKey,
    permissions: str,
    expires: int,
    starts: int | None,
    ip: str | None,
    https_only: bool,
    answer: Mapping[str, str],
    encryption_scope: str | None,
) -> tuple[str, str, str]:
    """Return what is signed up to the container's name, what is signed behind the blob's, and the query."""
    ordered = _ordered(permissions)
    expiry = _stamp(expires)
    start = "" if starts is None else _stamp(starts)
    protocol = "https" if https_only else ""
    answer_lines, answer_query = _answer(answer) if answer else (_NO_ANSWER_LINES, "")
    before = f"{ordered}\n{start}\n{expiry}\n/blob/{key.account}/{container}"
    # The empty line is for the moment of a snapshot.
    terms = f"\n{ip or ''}\n{protocol}\n{SAS_VERSION}\n{resource}\n\n{encryption_scope or ''}\n{answer_lines}"
    _check_lines(before, _LINE_ENDS_BEFORE)
    _check_lines(terms, _LINE_ENDS_AFTER - 1)
    query = (
        f"{_parameter('st', start)}{_parameter('se', expiry)}&sp={ordered}{_parameter('sip', ip)}"
        f"{_parameter('spr', protocol)}&sv={SAS_VERSION}&sr={resource}{answer_query}"
        f"{_parameter('ses', encryption_scope)}{key.query}&sig="
    )
    return before, f"\n{key.lines}{terms}", f"?{query[1:]}"


@lru_cache(maxsize=16)  # an application asks for the same few again and again
def _ordered(permissions: str) -> str:
    if not permissions or not set(permissions).issubset(PERMISSIONS):
        raise ValueError(f"the permissions of an Azure link are letters of {PERMISSIONS!r}, not {permissions!r}")
    return "".join([letter for letter in PERMISSIONS if letter in permissions])


@lru_cache(maxsize=16)  # links made one by one come by the thousand in a second
def _stamp(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else "".join(map(_quoted_byte, text.encode()))


def _parameter(name: str, value: str | None) -> str:
    return f"&{name}={_quoted(value)}" if value else ""


def _answer(answer: Mapping[str, str]) -> tuple[str, str]:
    """Return the answer's headers as they are signed, a line each, and as they stand in the query."""
    if not _ANSWER_NAMES.issuperset(answer):
        raise ValueError(f"what an Azure link says about its answer is named {', '.join(ANSWER_HEADERS)}")
    values = [answer.get(name, "") for name in ANSWER_HEADERS]
    return "\n".join(values), "".join(map(_parameter, ANSWER_HEADERS, values))


def _signature(mac: hmac.HMAC, text: str) -> str:
    # A copy of an HMAC that has its key is quicker than a new one.
    signature = mac.copy()
    signature.update(text.encode())
    # Of the letters of base64, these two need quoting; a slash does not.
    return binascii.b2a_base64(signature.digest(), newline=False).decode().replace("+", "%2B").replace("=", "%3D")
