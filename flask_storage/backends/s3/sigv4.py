"""Signs S3 links and forms with Signature Version 4 in the query string. It uses no network, no SDK and no clock.

The result is, byte for byte, that of botocore's ``generate_presigned_url`` and ``generate_presigned_post`` with
``signature_version="s3v4"`` for the same second; the tests compare the two. botocore walks its service model for each
link. :class:`UrlSigner` computes everything that does not depend on the key once, so that a link costs one quoting, one
SHA-256 and one HMAC.

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
"""The longest lifetime of a link in seconds (seven days). S3 rejects longer ones; botocore signs them all the same."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVICE = "s3"
_END = "aws4_request"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_EMPTY: Mapping[str, str] = MappingProxyType({})

# Most keys need no quoting, and the regular expression is faster than quoting them; the table is faster than
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
    """The credentials that sign links.

    Attributes:
        access_key: The access key; it is visible in the link.
        secret_key: The secret key; it never leaves this process.
        token: The session token of temporary credentials; it is visible in the link, which expires with the session.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of a bucket.

    Attributes:
        url: The part of a URL before the key, slash included: ``"https://bucket.s3.eu-central-1.amazonaws.com/"`` or,
            with the bucket in the path, ``"http://127.0.0.1:9000/bucket/"``. Its path is signed unchanged.
        region: The region of signatures; a service without regions accepts ``"us-east-1"``.
        host: The ``Host`` header that clients send: in lower case, without the default port of the scheme.
        path: The path of *url*, to which keys are appended.

    Raises:
        ValueError: when *url* is not valid, does not end in a slash, or has a user, a query or a fragment.
    """

    url: str
    region: str
    host: str = field(init=False, repr=False)
    path: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Parse the URL, once for all links."""
        parts = urlsplit(self.url)
        whole = parts.geturl() == self.url and self.url.endswith("/") and not (parts.query or parts.fragment)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc or not whole:
            # The message does not repeat the URL, which may contain a password.
            raise ValueError(
                "the endpoint of a bucket must be an http or https URL that ends in a slash, without a user"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        if parts.port not in (None, _DEFAULT_PORTS[parts.scheme]):
            host = f"{host}:{parts.port}"
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "path", parts.path)


class UrlSigner:
    """Signs links that differ only in the key.

    Without *query* and *headers*, creating a signer costs less than signing one link.

    Args:
        endpoint: The endpoint of the bucket.
        credentials: The credentials that sign.
        method: The HTTP method, in capitals; the service rejects the link with any other.
        signed_at: The start of the validity, in whole seconds since 1970 (UTC).
        expires: The lifetime in seconds, 1 to :data:`MAX_EXPIRES`.
        query: Further parameters of the URL by their S3 names (``response-content-type``, ``uploadId``), not yet
            quoted. Their order is kept.
        headers: Headers that the client must send unchanged (``content-type``, ``if-none-match``, ``x-amz-acl``). All
            are signed; botocore does not sign the content type of HTML forms, so that a client could change it.

    Raises:
        ValueError: when *expires* is out of range, or the name of a parameter begins with a capital.
    """

    __slots__ = ("_after_key", "_before_digest", "_before_key", "_hmac", "_query", "_url")

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
            raise ValueError(f"the lifetime of an S3 link must be 1 to {MAX_EXPIRES} seconds, not {expires}")
        stamp = _stamp(signed_at)
        signing = _signing_keys.get(credentials, endpoint.region, stamp[:8])
        header_lines, names = f"host:{endpoint.host}", "host"
        if headers:
            header_lines, names = _canonical_headers(endpoint.host, headers)
        signed_query = f"{signing.query}{stamp}&X-Amz-Expires={expires}"
        signed_names = f"&X-Amz-SignedHeaders={_quoted(names)}"
        # The URL has the parameters of the operation first and the token last; the canonical request sorts them.
        unsorted, ordered = _parameters(query) if query else ("", "")
        self._url = endpoint.url
        self._query = f"?{unsorted}{signed_query}{signed_names}{signing.token}&X-Amz-Signature="
        self._before_key = f"{method}\n{endpoint.path}"
        self._after_key = (
            f"\n{signed_query}{signing.token}{signed_names}{ordered}\n{header_lines}\n\n{names}\nUNSIGNED-PAYLOAD"
        )
        self._before_digest = f"{_ALGORITHM}\n{stamp}\n{signing.scope}\n"
        self._hmac = signing.keyed_hmac

    def __repr__(self) -> str:
        return f"<UrlSigner for {self._url!r}>"

    def sign(self, key: str) -> str:
        """Return the link for *key*: the key of the object, not quoted, without a leading slash.

        Raises:
            UnicodeEncodeError: when *key* contains a lone surrogate.
        """
        if not _PLAIN_PATH.fullmatch(key):
            key = "".join(map(_quoted_byte_in_path, key.encode()))
        digest = sha256(f"{self._before_key}{key}{self._after_key}".encode()).hexdigest()
        # Copying a keyed HMAC is faster than creating one.
        signature = self._hmac.copy()
        signature.update(f"{self._before_digest}{digest}".encode())
        return f"{self._url}{key}{self._query}{signature.hexdigest()}"


def sign_policy(credentials: Credentials, region: str, signed_at: int, policy: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields that sign an upload form with *policy*.

    Args:
        credentials: The credentials that sign.
        region: The region of the bucket.
        signed_at: The time of the signature, in whole seconds since 1970 (UTC).
        policy: ``{"expiration": "2026-06-01T12:00:00Z", "conditions": […]}``, serializable as JSON. The conditions that
            the signature needs are added to a copy.
    """
    stamp = _stamp(signed_at)
    signing = _signing_keys.get(credentials, region, stamp[:8])
    fields = {
        "x-amz-algorithm": _ALGORITHM,
        "x-amz-credential": f"{credentials.access_key}/{signing.scope}",
        "x-amz-date": stamp,
    }
    if credentials.token is not None:
        fields["x-amz-security-token"] = credentials.token
    conditions = [*policy.get("conditions", ()), *({name: value} for name, value in fields.items())]
    text = base64.b64encode(json.dumps({**policy, "conditions": conditions}).encode())
    signature = signing.keyed_hmac.copy()
    signature.update(text)
    return {**fields, "policy": text.decode(), "x-amz-signature": signature.hexdigest()}


# -- caches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class _SigningKey:
    """The parts of a signature that depend on credentials, region and day only.

    Attributes:
        keyed_hmac: The HMAC with the key and without data; each signature uses a copy.
        scope: The credential scope: day, region and service.
        query: The query parameters of a link up to its date.
        token: The query parameter with the session token, or an empty string.
    """

    keyed_hmac: hmac.HMAC
    scope: str
    query: str
    token: str


class _SigningKeys:
    """A cache of signing keys: at most :attr:`LIMIT`, as credentials change by the hour, all of the same day."""

    LIMIT = 16

    def __init__(self) -> None:
        # The mapping is replaced and never mutated, so that no lock is needed; two threads may derive the same key.
        self.keys: Mapping[tuple[str, str, str, str | None, str], _SigningKey] = {}

    def get(self, credentials: Credentials, region: str, day: str) -> _SigningKey:
        """Return the key for *day* (``"20260601"``); the first key of a day evicts those of other days."""
        cache_key = (day, credentials.access_key, credentials.secret_key, credentials.token, region)
        signing = self.keys.get(cache_key)
        if signing is None:
            signing = _derive_key(credentials, region, day)
            today = [item for item in self.keys.items() if item[0][0] == day]
            self.keys = dict([*today[1 - self.LIMIT :], (cache_key, signing)])
        return signing


def _derive_key(credentials: Credentials, region: str, day: str) -> _SigningKey:
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (day, region, _SERVICE, _END):
        key = hmac.digest(key, part.encode(), sha256)
    scope = f"{day}/{region}/{_SERVICE}/{_END}"
    credential = _quoted(f"{credentials.access_key}/{scope}")
    return _SigningKey(
        keyed_hmac=hmac.new(key, digestmod=sha256),
        scope=scope,
        query=f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={credential}&X-Amz-Date=",
        token="" if credentials.token is None else f"&X-Amz-Security-Token={_quoted(credentials.token)}",
    )


_signing_keys = _SigningKeys()


@lru_cache(maxsize=16)  # thousands of links may be made in one second
def _stamp(signed_at: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(signed_at))


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else "".join(map(_quoted_byte, text.encode()))


def _parameters(query: Mapping[str, str]) -> tuple[str, str]:
    """Return the parameters for the start of the URL, in their order, and sorted for the end of the canonical query."""
    pairs = [(_quoted(name), _quoted(value)) for name, value in query.items()]
    unsorted = "".join([f"{name}={value}&" for name, value in pairs])
    pairs.sort()
    if pairs[0][0] < "a":
        raise ValueError(
            "the name of an S3 parameter begins with a lower-case letter; the parameters of the signature cannot be set"
        )
    return unsorted, "".join([f"&{name}={value}" for name, value in pairs])


def _canonical_headers(host: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the canonical headers, one on each line, and their names."""
    lines = {"host": host} | {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = sorted(lines)
    return "\n".join([f"{name}:{lines[name]}" for name in names]), ";".join(names)
