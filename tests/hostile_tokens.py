"""Tampered tokens, and tokens with invalid content that are signed with the right key."""

import base64
import hashlib
import hmac
import json
import string

from flask_storage.tokens import ALGORITHM

ALPHABET = string.ascii_letters + string.digits + "-_"
_ALGORITHMS: list[object] = [
    "none",
    "None",
    "NONE",
    "HS256",
    "HS384",
    "RS256",
    "ES512",
    "PS384",
    "EdDSA",
    "hs512",
    "",
    None,
    0,
    [],
]
_HEADERS = [
    {"kid": "1"},
    {"kid": "../../../dev/null"},
    {"kid": "' OR 1=1 --"},
    {"crit": ["exp"]},
    {"crit": ["b64"], "b64": False},
    {"b64": False},
    {"jku": "https://example.com/keys"},
    {"jwk": {"kty": "oct", "k": "AA"}},
    {"x5c": ["AA"]},
    {"zip": "DEF"},
    {"typ": "at+jwt"},
    {"typ": None},
]
_CLAIMS = [
    {"key": "../../etc/passwd"},
    {"key": "another.txt"},
    {"key": None},
    {"key": ["a"]},
    {"op": "dur"},
    {"op": "r"},
    {"op": 7},
    {"op": {}},
    {"exp": 10**400},
    {"exp": 2**63},
    {"exp": -1},
    {"exp": "never"},
    {"exp": None},
    {"exp": 1e308},
    {"aud": "other"},
    {"aud": ["docs"]},
    {"aud": None},
    {"iat": "x"},
    {"iat": 10**400},
    {"nbf": 10**400},
    {"jti": None},
    {"use": 10**9},
    {"use": True},
    {"max": 10**400},
    {"len": "1"},
    {"fn": {"a": 1}},
    {"new": "no"},
    {"ct": "text/html"},
    {"ip": "0.0.0.0/0"},
]


def encoded(data):
    """The base64url text of bytes, or of compact JSON, without padding."""
    data = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(segment):
    """The decoded bytes of one segment of a token."""
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


_HEADER = {"alg": ALGORITHM, "typ": "JWT"}


def signed_by_hand(claims, key, *, header=_HEADER, digest=hashlib.sha512):
    """A token with these claims (bytes: with this payload), signed without any check."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(hmac.digest(key, signed.encode(), digest))}"


def mutations(tokens, known_keys, number, rng):
    """Yield at least *number* texts that are derived from *tokens* and differ from all of them.

    Args:
        tokens: Valid tokens; some share a key.
        known_keys: Keys for signatures with other algorithms, which must be rejected even so.
        number: The minimum count.
        rng: A seeded :class:`random.Random`, so that failures are reproducible.
    """
    mutators = [_flip, _splice, _replace_header, _replace_claims, _reencode, _damage, _confuse]
    count = 0
    while count < number:
        for mutate in mutators:
            text = mutate(tokens, known_keys, rng)
            if text not in tokens:
                count += 1
                yield text


def _flip(tokens, known_keys, rng):
    """Flip one bit of one segment's bytes, or of one character of the text."""
    token = rng.choice(tokens)
    if rng.random() < 0.5:
        position = rng.randrange(len(token))
        return token[:position] + chr(ord(token[position]) ^ (1 << rng.randrange(7))) + token[position + 1 :]
    segments = token.split(".")
    which = rng.randrange(3)
    data = bytearray(decoded(segments[which]))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    segments[which] = encoded(bytes(data))
    return ".".join(segments)


def _splice(tokens, known_keys, rng):
    """Combine headers, payloads and signatures of different tokens, or cut two tokens and join them."""
    parts = [segment for token in rng.sample(tokens, 2) for segment in token.split(".")]
    if rng.random() < 0.5:
        one, other = rng.sample(tokens, 2)
        position = rng.randrange(1, min(len(one), len(other)))
        return one[:position] + other[position:]
    return ".".join(rng.choices(parts, k=rng.choice([1, 2, 3, 3, 3, 4, 5])))


def _replace_header(tokens, known_keys, rng):
    """Use another algorithm or another header, with the old signature, none, or one of that algorithm."""
    _, payload, signature = rng.choice(tokens).split(".")
    header = dict(_HEADER)
    if rng.random() < 0.5:
        header["alg"] = rng.choice(_ALGORITHMS)
    else:
        header |= rng.choice(_HEADERS)
    signed = f"{encoded(header)}.{payload}"
    digest = rng.choice(["sha256", "sha384", "sha512"])
    forged = encoded(hmac.digest(rng.choice(known_keys), signed.encode(), digest))
    return f"{signed}.{rng.choice([signature, '', forged, 'AA'])}"


def _replace_claims(tokens, known_keys, rng):
    """Use other claims with the old signature, or with that of an easily guessed key."""
    header, payload, signature = rng.choice(tokens).split(".")
    claims = json.loads(decoded(payload))
    claims |= rng.choice(_CLAIMS)
    if rng.random() < 0.2:
        claims.pop(rng.choice(list(claims)))
    payload = encoded(claims)
    guessed = hmac.digest(rng.choice([b"", b"docs", b"secret"]), f"{header}.{payload}".encode(), "sha512")
    return f"{header}.{payload}.{rng.choice([signature, encoded(guessed)])}"


def _reencode(tokens, known_keys, rng):
    """Encode the same bytes in another form of base64, or the same JSON in another form."""
    token = rng.choice(tokens)
    header, payload, signature = token.split(".")
    return rng.choice(
        [
            token + "=" * rng.randrange(1, 5),
            token[:-1] + rng.choice(ALPHABET),
            f"{header}=.{payload}.{signature}",
            f"{header}.{payload}==.{signature}",
            f"{encoded(json.dumps(json.loads(decoded(header)), indent=1).encode())}.{payload}.{signature}",
            f"{header}.{encoded(json.dumps(json.loads(decoded(payload)), indent=1).encode())}.{signature}",
            token.replace("-", "+").replace("_", "/") + "=",
            token + rng.choice(string.whitespace),
            rng.choice(string.whitespace) + token,
            token.upper(),
            token.swapcase(),
            f'"{token}"',
        ]
    )


def _damage(tokens, known_keys, rng):
    """Truncate, double, extend or nest a token, or return random text."""
    token = rng.choice(tokens)
    position = rng.randrange(len(token))
    junk = "".join(rng.choices(ALPHABET + ".=%/+ \x00\n\u00e9\u0661", k=rng.randrange(1, 40)))
    deep = encoded(b"[" * rng.choice([100, 2000]))
    return rng.choice(
        [
            token[:position],
            token[position:],
            token[:position] + token[position + 1 :],
            token[:position] + junk + token[position:],
            token + token,
            token + "." + token,
            junk,
            f"{deep}.{deep}.{deep}",
            f"{encoded(_HEADER)}.{deep}.{token.rpartition('.')[2]}",
            token.replace(".", "..", 1),
            token.replace(".", ""),
            token[:position] + "A" * 5000,
        ]
    )


def _confuse(tokens, known_keys, rng):
    """Sign other claims with a weaker algorithm and the secret itself, an empty key, or the right key."""
    claims = json.loads(decoded(rng.choice(tokens).split(".")[1])) | rng.choice(_CLAIMS)
    algorithm = rng.choice(["none", "HS256", "HS384", "RS256"])
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384}.get(algorithm, hashlib.sha512)
    return signed_by_hand(claims, rng.choice([*known_keys, b""]), header=_HEADER | {"alg": algorithm}, digest=digest)
