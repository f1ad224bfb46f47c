"""Signed link tokens: keys and claims in, strings out; strings in, claims out. No Flask, no clock of its own.

A token is a JWT (`RFC 7519 <https://www.rfc-editor.org/rfc/rfc7519>`_) signed with HMAC-SHA-512 and nothing else. It
carries everything that the link view will trust: path, operations, the profile as audience, the expiry, and the terms
of the :class:`~flask_storage.types.LinkRequest`. PyJWT does the cryptography; this module decides what is asked of
it, and refuses before PyJWT is asked whatever is too long, has another header, or is not in its one canonical spelling.

The signing key is never the app's secret itself but derived from it with HKDF (`RFC 5869
<https://www.rfc-editor.org/rfc/rfc5869>`_), bound to the audience by its length and text, so that two profiles never
share a key and no two (audience, secret) pairs collide.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple, Self

from .errors import ExpiredLinkError, InvalidLinkError
from .types import LinkRequest, ShareLinkOperation

ALGORITHM = "HS512"
MAX_TOKEN_LENGTH = 4096
"""In characters. The longest legal path makes a token that fits a request line of 4094 with room to spare."""

# Base64 of {"alg":"HS512","typ":"JWT"}, as PyJWT writes it. No other header is one of ours, nor another spelling of it.
_HEADER = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9"
# 64 bytes are 86 characters, of which the last has four bits that decoders ignore; only one spelling has them unset.
_SHAPE = re.compile(_HEADER + r"\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{85}[AQgw]", re.ASCII)
CLOCK_SKEW = 60
"""Seconds by which the clock of the host that signed may be ahead; the expiry knows no such grace."""

_KEY_BYTES = 64
_CONTEXT = b"flask-storage/link/v1"

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

# Claim names are short because they travel in URLs; "key" and "op" are keg-storage's.
_CONSTRAINT_CLAIMS = {
    "fn": ("filename", str),
    "cd": ("disposition", str),
    "ct": ("content_type", str),
    "ce": ("content_encoding", str),
    "cc": ("cache_control", str),
    "len": ("size", int),
    "max": ("max_size", int),
    "sum": ("checksum", str),
    "new": ("exclusive", bool),
    "use": ("uses", int),
    "ip": ("ip", str),
}
_get_constraints = attrgetter(*(term for term, _ in _CONSTRAINT_CLAIMS.values()))


class _Pair(NamedTuple):
    path: str
    operations: ShareLinkOperation


class InternalLinkTokenData(_Pair):
    """What a token grants: a pair that unpacks into ``path, operations``; the rest are attributes.

    Attributes:
        path: The path in the storage.
        operations: What the holder may do.
        request: All terms (:class:`~flask_storage.types.LinkRequest`); None when made by hand.
        token_id: Names this token in the store of used links; None when its uses are not counted.
    """

    request: LinkRequest | None
    token_id: str | None

    def __new__(
        cls,
        path: str,
        operations: ShareLinkOperation,
        *,
        request: LinkRequest | None = None,
        token_id: str | None = None,
    ) -> Self:
        """Make the pair and hang the terms on it."""
        self = super().__new__(cls, path, operations)
        self.request = request
        self.token_id = token_id
        return self

    def _replace(self, **changes: Any) -> Self:
        """Return the same grant with another path or other operations."""
        values = {**self._asdict(), "request": self.request, "token_id": self.token_id, **changes}
        return type(self)(**values)

    @property
    def allow_download(self) -> bool:
        """Whether the holder may read the file."""
        return bool(self.operations & ShareLinkOperation.download)

    @property
    def allow_upload(self) -> bool:
        """Whether the holder may write the file."""
        return bool(self.operations & ShareLinkOperation.upload)

    @property
    def allow_remove(self) -> bool:
        """Whether the holder may delete the file."""
        return bool(self.operations & ShareLinkOperation.remove)

    def serialize(self) -> dict[str, Any]:
        """Return the claims of this grant; audience and time of issue are the signer's to add.

        >>> InternalLinkTokenData("a.txt", ShareLinkOperation.download).serialize()
        {'key': 'a.txt', 'op': 'd'}
        """
        claims: dict[str, Any] = {"key": self.path, "op": str(self.operations)}
        if self.request is not None:
            terms = zip(_CONSTRAINT_CLAIMS, _get_constraints(self.request), strict=True)
            claims["exp"] = int(self.request.expires_at.timestamp())
            claims |= {claim: value for claim, value in terms if value is not None and value is not False}
        if self.token_id is not None:
            claims["jti"] = self.token_id
        return claims

    @classmethod
    def deserialize(cls, claims: Mapping[str, Any]) -> Self:
        """Return the grant that *claims* describe.

        Raises:
            InvalidLinkError: when one is missing or of the wrong type.
        """
        try:
            path, operations = claims["key"], ShareLinkOperation.as_operation(claims["op"])
            terms: dict[str, Any] = {}
            for claim in claims.keys() & _CONSTRAINT_CLAIMS.keys():
                term, kind = _CONSTRAINT_CLAIMS[claim]
                if type(claims[claim]) is not kind:
                    raise InvalidLinkError(f"the link's {term} is not of its type")
                terms[term] = claims[claim]
            token_id = claims.get("jti")
            if not isinstance(path, str) or not isinstance(token_id, str | None):
                raise InvalidLinkError("the link names no path")
            if "exp" not in claims:
                if terms or token_id is not None:
                    raise InvalidLinkError("the link has terms and no expiry")
                return cls(path, operations)
            expires_at = datetime.fromtimestamp(claims["exp"], UTC)
            request = LinkRequest(operations=operations, expires_at=expires_at, **terms)
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise InvalidLinkError("the link does not say what it grants") from error
        return cls(path, operations, request=request, token_id=token_id)


class LinkSigner:
    """Signs and verifies tokens for one audience.

    Args:
        keys: Secrets of any length; the first signs, all verify. Make the first 32 random bytes or more.
        audience: The profile; a token of another one is refused.
    """

    def __init__(self, keys: Sequence[bytes], audience: str) -> None:
        import jwt  # costs 15 ms; an app that makes no link never pays

        if not keys or not all(keys):
            raise ValueError("a link signer needs at least one key, and none may be empty")
        self.secrets = tuple(keys)
        self._audience = audience
        self._keys = [derive_key(key, audience) for key in keys]
        self._jws = jwt.PyJWS(algorithms=[ALGORITHM])
        self._expired = jwt.ExpiredSignatureError
        self._error = jwt.PyJWTError
        required = ["exp", "iat", "aud", "key", "op"]
        self._decoder = jwt.PyJWT({"require": required, "strict_aud": True, "verify_sub": False, "verify_iat": False})

    def __repr__(self) -> str:
        return f"<LinkSigner for {self._audience!r}, {len(self._keys)} keys>"

    def sign(self, path: str, request: LinkRequest, now: datetime) -> str:
        """Return a token that grants *request* for *path* until it expires.

        Two tokens for the same path, terms and second are equal, unless their uses are counted.

        Raises:
            ValueError: when the terms are too long for a URL that every server takes.
        """
        token_id = secrets.token_urlsafe(16) if request.uses is not None else None
        claims = InternalLinkTokenData(path, request.operations, request=request, token_id=token_id).serialize()
        claims["aud"] = self._audience
        claims["iat"] = int(now.timestamp())
        # Text is not escaped to ASCII: six characters for each letter of a Cyrillic path would not fit a request line.
        payload = _to_json(claims).encode()
        token = self._jws.encode(payload, self._keys[0], algorithm=ALGORITHM, headers={"typ": "JWT"})
        if len(token) > MAX_TOKEN_LENGTH:
            raise ValueError(f"{len(token)} characters are too long for a link: shorten what it says beside the path")
        return token

    def verify(self, token: str) -> InternalLinkTokenData:
        """Return what *token* grants.

        Raises:
            ExpiredLinkError: when it was good and is past its time.
            InvalidLinkError: for everything else that is wrong with it; the text does not help to forge.
        """
        if len(token) > MAX_TOKEN_LENGTH or not _SHAPE.fullmatch(token):
            raise InvalidLinkError("this is no link token of ours")
        failure: Exception | None = None
        for key in self._keys:
            try:
                claims = self._decoder.decode(token, key, algorithms=[ALGORITHM], audience=self._audience)
            except self._expired as error:
                raise ExpiredLinkError("the link has expired: ask for a new one") from error
            except (self._error, RecursionError, ValueError, OverflowError) as error:
                failure = error
            else:
                if type(claims["iat"]) is not int or claims["iat"] > time.time() + CLOCK_SKEW:
                    raise InvalidLinkError("the link is not valid yet")
                return InternalLinkTokenData.deserialize(claims)
        raise InvalidLinkError("the link is damaged or was not made for this place") from failure


def derive_key(secret: bytes, audience: str) -> bytes:
    """Return the signing key for *audience*: HKDF-SHA-512 of *secret*, 64 bytes."""
    name = audience.encode()
    return hkdf(secret, salt=_CONTEXT, info=len(name).to_bytes(4, "big") + name)


def hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """Return 64 bytes of HKDF-SHA-512. One output block suffices, which leaves RFC 5869 these two lines."""
    pseudorandom = hmac.digest(salt, secret, hashlib.sha512)
    return hmac.digest(pseudorandom, info + b"\x01", hashlib.sha512)[:_KEY_BYTES]
