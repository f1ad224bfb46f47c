"""Signs S3 links and forms: Signature Version 4 in the query, made by this process alone. No network, no SDK, no clock.

What comes out is, byte for byte, what botocore's ``generate_presigned_url`` and ``generate_presigned_post`` give with
``signature_version="s3v4"`` for the same second; the tests compare the two. botocore walks its service model for each
link. Here everything that the key does not decide is worked out once (:class:`UrlSigner`), so that a link costs one
quoting, one SHA-256 and one HMAC.

The scheme is described at
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html and
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

MAX_EXPIRES = 604_800
"""Seconds: S3 refuses a link that is to live for more than seven days; botocore signs it all the same."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVICE = "s3"
_END = "aws4_request"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_EMPTY: Mapping[str, str] = MappingProxyType({})

# Nearly every key is plain, and a look is quicker than quoting what needs none; the table is quicker than
# urllib.parse.quote, with the same result.
_PLAIN = re.compile(r"[A-Za-z0-9_.~\-]*")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.~/\-]*")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")
_QUOTED = [chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in range(256)]
_QUOTED_IN_PATH = [*_QUOTED]
_QUOTED_IN_PATH[ord("/")] = "/"
_quoted_byte = _QUOTED.__getitem__
_quoted_byte_in_path = _QUOTED_IN_PATH.__getitem__


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whose name a link is signed in.

    Attributes:
        access_key: Stands in the link for all to read.
        secret_key: Signs; it never leaves this process.
        token: The session token of temporary credentials. It stands in the link, which dies with the session.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is reached.

    Attributes:
        url: All that stands before the key, slash included: ``"https://bucket.s3.eu-central-1.amazonaws.com/"`` or,
            with the bucket in the path, ``"http://127.0.0.1:9000/bucket/"``. Its path is signed as it is written.
        region: The region that signatures are made for; a service that has none takes ``"us-east-1"``.
        host: The ``Host`` header that clients send there: in lower case, without the scheme's own port.
        path: The path of *url*, which keys are appended to.

    Raises:
        ValueError: when *url* is none, does not end in a slash, or has a user, a query or a fragment.
    """

    url: str
    region: str
    host: str = field(init=False, repr=False)
    path: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Take the URL to pieces, once for all links."""
        parts = urlsplit(self.url)
        whole = parts.geturl() == self.url and self.url.endswith("/") and not (parts.query or parts.fragment)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc or not whole:
            # The text is not repeated: it may hold a password.
            raise ValueError("the endpoint of a bucket is an http or https URL that ends in a slash, without a user")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        if parts.port not in (None, _DEFAULT_PORTS[parts.scheme]):
            host = f"{host}:{parts.port}"
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "path", parts.path)


class UrlSigner:
    """Signs links that differ in nothing but the key.

    Making one costs less than signing one link, as long as neither query nor headers are given; it serves for a single
    link as well.

    Args:
        endpoint: Where the bucket is.
        credentials: Who signs.
        method: The HTTP method, in capitals; the link is good for no other.
        signed_at: From when on the link is good, in whole seconds since 1970 (UTC).
        expires: For how many seconds, 1 to :data:`MAX_EXPIRES`.
        query: Further parameters of the URL by their S3 names (``response-content-type``, ``uploadId``), not yet
            quoted. They keep their order.
        headers: What the client must send along, exactly so (``content-type``, ``if-none-match``, ``x-amz-acl``). All
            are signed; botocore leaves one out, the content type of HTML forms, which anybody could then change.

    Raises:
        ValueError: when *expires* is out of its range, or a parameter's name begins with a capital.
    """

    __slots__ = ("_before_digest", "_before_key", "_key", "_query", "_rest", "_url")

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        method: str,
        signed_at: int,
        expires: int,
        query: Mapping[str, str] = _EMPTY,
        headers: Mapping[str, str] = _EMPTY,
    ) -> None:
        if not 0 < expires <= MAX_EXPIRES:
            raise ValueError(f"a signed S3 link lives for 1 to {MAX_EXPIRES} seconds, not {expires}")
        stamp = _stamp(signed_at)
        signing = _signing_keys.of(credentials, endpoint.region, stamp[:8])
        header_lines, names = f"host:{endpoint.host}", "host"
        if headers:
            header_lines, names = _canonical_headers(endpoint.host, headers)
        proof = f"{signing.query}{stamp}&X-Amz-Expires={expires}"
        signed_names = f"&X-Amz-SignedHeaders={_quoted(names)}"
        # The two spellings of the query differ: a URL names the parameters of the operation first and the token last,
        # what is signed is sorted.
        given, ordered = _parameters(query) if query else ("", "")
        self._url = endpoint.url
        self._query = f"?{given}{proof}{signed_names}{signing.token}&X-Amz-Signature="
        self._before_key = f"{method}\n{endpoint.path}"
        self._rest = f"\n{proof}{signing.token}{signed_names}{ordered}\n{header_lines}\n\n{names}\nUNSIGNED-PAYLOAD"
        self._before_digest = f"{_ALGORITHM}\n{stamp}\n{signing.scope}\n"
        self._key = signing.key

    def __repr__(self) -> str:
        return f"<UrlSigner for {self._url!r}>"

    def sign(self, key: str) -> str:
        """Return the link for *key*, which is as the bucket knows it: not quoted, without a leading slash.

        Raises:
            UnicodeEncodeError: when *key* holds a lone surrogate.
        """
        if not _PLAIN_PATH.fullmatch(key):
            key = "".join(map(_quoted_byte_in_path, key.encode()))
        digest = sha256(f"{self._before_key}{key}{self._rest}".encode()).hexdigest()
        # A copy of an HMAC that has its key is quicker than a new one.
        signature = self._key.copy()
        signature.update(f"{self._before_digest}{digest}".encode())
        return f"{self._url}{key}{self._query}{signature.hexdigest()}"


def sign_policy(credentials: Credentials, region: str, signed_at: int, policy: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields that a form needs beside its own in order to upload under *policy*.

    Args:
        credentials: Who signs.
        region: The region that the bucket is in.
        signed_at: When it is signed, in whole seconds since 1970 (UTC).
        policy: ``{"expiration": "2026-06-01T12:00:00Z", "conditions": […]}``, fit for JSON. What the signature needs
            is added to a copy.
    """
    stamp = _stamp(signed_at)
    signing = _signing_keys.of(credentials, region, stamp[:8])
    fields = {
        "x-amz-algorithm": _ALGORITHM,
        "x-amz-credential": f"{credentials.access_key}/{signing.scope}",
        "x-amz-date": stamp,
    }
    if credentials.token is not None:
        fields["x-amz-security-token"] = credentials.token
    conditions = [*policy.get("conditions", ()), *({name: value} for name, value in fields.items())]
    text = base64.b64encode(json.dumps({**policy, "conditions": conditions}).encode())
    signature = signing.key.copy()
    signature.update(text)
    return {**fields, "policy": text.decode(), "x-amz-signature": signature.hexdigest()}


# -- what all links of a second, a day, a signer share --------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class _SigningKey:
    """What credentials, region and day decide.

    Attributes:
        key: The HMAC that signs, fed with nothing yet; each signature is made on a copy.
        scope: Day, region and service, as they are signed.
        query: The parameters of a link up to its date.
        token: The parameter that carries the session token; empty where there is none.
    """

    key: hmac.HMAC
    scope: str
    query: str
    token: str


class _SigningKeys:
    """The keys of today: at most :attr:`LIMIT`, since credentials change by the hour, and none of another day."""

    LIMIT = 16

    def __init__(self) -> None:
        # Replaced and never changed, so that threads need no lock: the worst is that two derive the same key.
        self.kept: Mapping[tuple[str, str, str, str | None, str], _SigningKey] = {}

    def of(self, credentials: Credentials, region: str, day: str) -> _SigningKey:
        """Return the key for *day* (``"20260601"``); the first of a day forgets all others."""
        name = (day, credentials.access_key, credentials.secret_key, credentials.token, region)
        signing = self.kept.get(name)
        if signing is None:
            signing = _derive_key(credentials, region, day)
            today = [item for item in self.kept.items() if item[0][0] == day]
            self.kept = dict([*today[1 - self.LIMIT :], (name, signing)])
        return signing


def _derive_key(credentials: Credentials, region: str, day: str) -> _SigningKey:
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (day, region, _SERVICE, _END):
        key = hmac.digest(key, part.encode(), sha256)
    scope = f"{day}/{region}/{_SERVICE}/{_END}"
    whose = _quoted(f"{credentials.access_key}/{scope}")
    return _SigningKey(
        key=hmac.new(key, digestmod=sha256),
        scope=scope,
        query=f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={whose}&X-Amz-Date=",
        token="" if credentials.token is None else f"&X-Amz-Security-Token={_quoted(credentials.token)}",
    )


_signing_keys = _SigningKeys()


@lru_cache(maxsize=16)  # links made one by one come by the thousand in a second
def _stamp(signed_at: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(signed_at))


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else "".join(map(_quoted_byte, text.encode()))


def _parameters(query: Mapping[str, str]) -> tuple[str, str]:
    """Return the parameters for the front of a URL, in their order, and sorted for the end of what is signed."""
    pairs = [(_quoted(name), _quoted(value)) for name, value in query.items()]
    given = "".join([f"{name}={value}&" for name, value in pairs])
    pairs.sort()
    if pairs[0][0] < "a":
        raise ValueError("a parameter of S3 begins with a small letter; those of the signature are not yours to give")
    return given, "".join([f"&{name}={value}" for name, value in pairs])


def _canonical_headers(host: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the headers as they are signed, a line each, and their names."""
    lines = {"host": host} | {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = sorted(lines)
    return "\n".join([f"{name}:{lines[name]}" for name in names]), ";".join(names)
