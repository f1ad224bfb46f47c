"""Signed link tokens: signing, verification and the claims. This module does not depend on Flask.

A token is a JWT (`RFC 7519 <https://www.rfc-editor.org/rfc/rfc7519>`_) signed with HMAC-SHA-512 and nothing else. It
contains everything that the link view trusts: path, operations, the profile as audience, the expiry, and the
constraints of the :class:`~flask_storage.types.LinkRequest`. PyJWT verifies it. Before PyJWT is called, this module
rejects tokens that are too long, have another header, or are not in the canonical encoding. Signing is one HMAC over a
constant header and the claims; PyJWT would check the key and serialize the header again for each of thousands of links.

The signing key is not the app's secret but derived from it with HKDF (`RFC 5869
<https://www.rfc-editor.org/rfc/rfc5869>`_). The length and text of the audience go into the derivation, so that two
profiles never share a key and no two (audience, secret) pairs collide.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from types import ModuleType
from typing import Any, NamedTuple, Self

from .errors import ConfigurationError, ExpiredLinkError, InvalidLinkError
from .types import LinkRequest, ShareLinkOperation

ALGORITHM = "HS512"
MAX_TOKEN_LENGTH = 4096
"""In characters. The token of the longest valid path is shorter, and fits gunicorn's request line of 4094 bytes."""

# Base64 of {"alg":"HS512","typ":"JWT"}, as PyJWT encodes it. Any other header or encoding is rejected.
_HEADER = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9"
# The signature has 64 bytes, which are 86 characters. Decoders ignore four bits of the last character; in the canonical
# encoding they are zero.
_SHAPE = re.compile(_HEADER + r"\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{85}[AQgw]", re.ASCII)
CLOCK_SKEW = 60
"""The number of seconds by which the clock of the signing host may be ahead. It does not extend the expiry."""

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
    "form": ("form", bool),
    "min": ("min_size", int),
    "to": ("redirect_to", str),
}
_get_constraints = attrgetter(*(name for name, _ in _CONSTRAINT_CLAIMS.values()))


class _Pair(NamedTuple):
    path: str
    operations: ShareLinkOperation


class InternalLinkTokenData(_Pair):
    """The data of a verified token: a pair that unpacks into ``path, operations``, with further attributes.

    Attributes:
        path: The path in the storage.
        operations: The operations that the holder may perform.
        request: All constraints (:class:`~flask_storage.types.LinkRequest`); None when created without a request.
        token_id: Identifies the token in the usage counter; None when its uses are not limited.
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
        """Create the pair and set the attributes."""
        self = super().__new__(cls, path, operations)
        self.request = request
        self.token_id = token_id
        return self

    def _replace(self, **changes: Any) -> Self:
        """Return a copy with another path or other operations."""
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
        """Return the claims; the signer adds the audience and the time of issue.

        >>> InternalLinkTokenData("a.txt", ShareLinkOperation.download).serialize()
        {'key': 'a.txt', 'op': 'd'}
        """
        claims: dict[str, Any] = {"key": self.path, "op": str(self.operations)}
        if self.request is not None:
            constraints = zip(_CONSTRAINT_CLAIMS, _get_constraints(self.request), strict=True)
            claims["exp"] = int(self.request.expires_at.timestamp())
            claims |= {claim: value for claim, value in constraints if value is not None and value is not False}
        if self.token_id is not None:
            claims["jti"] = self.token_id
        return claims

    @classmethod
    def deserialize(cls, claims: Mapping[str, Any]) -> Self:
        """Return the data of a token from its claims.

        Raises:
            InvalidLinkError: when a claim is missing or has the wrong type.
        """
        try:
            path, operations = claims["key"], ShareLinkOperation.as_operation(claims["op"])
            constraints: dict[str, Any] = {}
            for claim in claims.keys() & _CONSTRAINT_CLAIMS.keys():
                name, claim_type = _CONSTRAINT_CLAIMS[claim]
                if type(claims[claim]) is not claim_type:
                    raise InvalidLinkError(f"the {name} of the link token is not of type {claim_type.__name__}")
                constraints[name] = claims[claim]
            token_id = claims.get("jti")
            if not isinstance(path, str) or not isinstance(token_id, str | None):
                raise InvalidLinkError("the link token has no path")
            if "exp" not in claims:
                if constraints or token_id is not None:
                    raise InvalidLinkError("the link token has constraints but no expiry")
                return cls(path, operations)
            expires_at = datetime.fromtimestamp(claims["exp"], UTC)
            request = LinkRequest(operations=operations, expires_at=expires_at, **constraints)
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise InvalidLinkError("the claims of the link token are incomplete or not valid") from error
        return cls(path, operations, request=request, token_id=token_id)


class LinkSigner:
    """Signs and verifies tokens for one audience.

    Args:
        keys: Secrets of any length; the first signs, all verify. The first should be 32 random bytes or more.
        audience: The profile; tokens of another profile are rejected.

    Raises:
        ConfigurationError: when PyJWT cannot be used.
    """

    def __init__(self, keys: Sequence[bytes], audience: str) -> None:
        import jwt  # takes 15 ms, so only when links are used

        _check_pyjwt(jwt)
        if not keys or not all(keys):
            raise ValueError("a link signer needs at least one key, and none may be empty")
        self.secrets = tuple(keys)
        self._audience = audience
        self._keys = [derive_key(key, audience) for key in keys]
        self._expired = jwt.ExpiredSignatureError
        self._error = jwt.PyJWTError
        required = ["exp", "iat", "aud", "key", "op"]
        self._decoder = jwt.PyJWT({"require": required, "strict_aud": True, "verify_sub": False, "verify_iat": False})

    def __repr__(self) -> str:
        return f"<LinkSigner for {self._audience!r}, {len(self._keys)} keys>"

    def sign(self, path: str, request: LinkRequest, now: datetime) -> str:
        """Return a token that allows *request* for *path* until it expires.

        Two tokens for the same path and request that are signed in the same second are equal, unless their uses are
        limited.

        Raises:
            ValueError: when the token would be longer than :data:`MAX_TOKEN_LENGTH`.
        """
        token_id = secrets.token_urlsafe(16) if request.uses is not None else None
        claims = InternalLinkTokenData(path, request.operations, request=request, token_id=token_id).serialize()
        claims["aud"] = self._audience
        claims["iat"] = int(now.timestamp())
        # Text is not escaped to ASCII: with six characters per letter, a long Cyrillic path would not fit into a URL.
        signed = f"{_HEADER}.{_base64(_to_json(claims).encode())}"
        token = f"{signed}.{_base64(hmac.digest(self._keys[0], signed.encode(), hashlib.sha512))}"
        if len(token) > MAX_TOKEN_LENGTH:
            raise ValueError(
                f"the token would have {len(token)} characters, and a link can have at most {MAX_TOKEN_LENGTH}: "
                "shorten filename, content_type or the other arguments"
            )
        return token

    def verify(self, token: str) -> InternalLinkTokenData:
        """Verify *token* and return its data.

        Raises:
            ExpiredLinkError: when the token is authentic and has expired.
            InvalidLinkError: when the token is not valid; the message reveals nothing that helps to forge one.
        """
        if len(token) > MAX_TOKEN_LENGTH or not _SHAPE.fullmatch(token):
            raise InvalidLinkError("this is not a link token of this app")
        failure: Exception | None = None
        for key in self._keys:
            try:
                claims = self._decoder.decode(token, key, algorithms=[ALGORITHM], audience=self._audience)
            except self._expired as error:
                raise ExpiredLinkError("the link has expired: request a new one") from error
            except (self._error, RecursionError, ValueError, OverflowError) as error:
                failure = error
            else:
                if type(claims["iat"]) is not int or claims["iat"] > time.time() + CLOCK_SKEW:
                    raise InvalidLinkError("the link is not valid yet")
                return InternalLinkTokenData.deserialize(claims)
        raise InvalidLinkError(
            "the link token is damaged, or was signed with another key or for another profile"
        ) from failure


def _check_pyjwt(jwt: ModuleType) -> None:
    """Raise if *jwt* is the package of another distribution, which has the same name."""
    if not all(hasattr(jwt, name) for name in ("PyJWT", "PyJWTError", "ExpiredSignatureError")):
        raise ConfigurationError(
            f"links cannot be signed: the package 'jwt' ({jwt.__file__}) is not PyJWT but that of another "
            "distribution: run 'pip uninstall jwt', then 'pip install --force-reinstall pyjwt'"
        )


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def derive_key(secret: bytes, audience: str) -> bytes:
    """Return the signing key for *audience*: HKDF-SHA-512 of *secret*, 64 bytes."""
    name = audience.encode()
    return hkdf(secret, salt=_CONTEXT, info=len(name).to_bytes(4, "big") + name)


def hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """Return 64 bytes of HKDF-SHA-512. One output block suffices, so extract and expand are one HMAC each."""
    pseudorandom = hmac.digest(salt, secret, hashlib.sha512)
    return hmac.digest(pseudorandom, info + b"\x01", hashlib.sha512)[:_KEY_BYTES]
