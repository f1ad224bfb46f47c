"""Tokens that were tampered with, and tokens that were signed by somebody who has the key and no sense."""

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
    """Base64 as tokens have it; of compact JSON unless it is bytes already."""
    data = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(segment):
    """The bytes of one segment of a token."""
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


_OURS = {"alg": ALGORITHM, "typ": "JWT"}


def signed_by_hand(claims, key, *, header=_OURS, digest=hashlib.sha512):
    """A token with these claims (bytes: this payload), whatever our own signer thinks of them."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(hmac.digest(key, signed.encode(), digest))}"


def mutations(tokens, known_keys, number, dice):
    """Yield *number* or a few more texts that are none of *tokens* and were made from them.

    Args:
        tokens: Good ones; some share a key.
        known_keys: Keys with which an algorithm that is not ours is tried. (None may be accepted even with them.)
        number: How many at least.
        dice: A seeded :class:`random.Random`, so that a failure can be had again.
    """
    ways = [_flip, _splice, _replace_header, _replace_claims, _respell, _damage, _confuse]
    made = 0
    while made < number:
        for way in ways:
            text = way(tokens, known_keys, dice)
            if text not in tokens:
                made += 1
                yield text


def _flip(tokens, known_keys, dice):
    """One bit of one segment's bytes, or of one character of the text."""
    token = dice.choice(tokens)
    if dice.random() < 0.5:
        place = dice.randrange(len(token))
        return token[:place] + chr(ord(token[place]) ^ (1 << dice.randrange(7))) + token[place + 1 :]
    segments = token.split(".")
    which = dice.randrange(3)
    data = bytearray(decoded(segments[which]))
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    segments[which] = encoded(bytes(data))
    return ".".join(segments)


def _splice(tokens, known_keys, dice):
    """Header, payload and signature of different tokens, or from different places."""
    parts = [segment for token in dice.sample(tokens, 2) for segment in token.split(".")]
    if dice.random() < 0.5:
        one, other = dice.sample(tokens, 2)
        place = dice.randrange(1, min(len(one), len(other)))
        return one[:place] + other[place:]
    return ".".join(dice.choices(parts, k=dice.choice([1, 2, 3, 3, 3, 4, 5])))


def _replace_header(tokens, known_keys, dice):
    """Another algorithm or another header, with the old signature, none, or one of the named kind."""
    _, payload, signature = dice.choice(tokens).split(".")
    header = dict(_OURS)
    if dice.random() < 0.5:
        header["alg"] = dice.choice(_ALGORITHMS)
    else:
        header |= dice.choice(_HEADERS)
    signed = f"{encoded(header)}.{payload}"
    digest = dice.choice(["sha256", "sha384", "sha512"])
    forged = encoded(hmac.digest(dice.choice(known_keys), signed.encode(), digest))
    return f"{signed}.{dice.choice([signature, '', forged, 'AA'])}"


def _replace_claims(tokens, known_keys, dice):
    """Other claims under the old signature, or under one with a key that anybody could guess."""
    header, payload, signature = dice.choice(tokens).split(".")
    claims = json.loads(decoded(payload))
    claims |= dice.choice(_CLAIMS)
    if dice.random() < 0.2:
        claims.pop(dice.choice(list(claims)))
    payload = encoded(claims)
    guessed = hmac.digest(dice.choice([b"", b"docs", b"secret"]), f"{header}.{payload}".encode(), "sha512")
    return f"{header}.{payload}.{dice.choice([signature, encoded(guessed)])}"


def _respell(tokens, known_keys, dice):
    """The same bytes in another spelling of base64, and the same JSON in another form."""
    token = dice.choice(tokens)
    header, payload, signature = token.split(".")
    return dice.choice(
        [
            token + "=" * dice.randrange(1, 5),
            token[:-1] + dice.choice(ALPHABET),
            f"{header}=.{payload}.{signature}",
            f"{header}.{payload}==.{signature}",
            f"{encoded(json.dumps(json.loads(decoded(header)), indent=1).encode())}.{payload}.{signature}",
            f"{header}.{encoded(json.dumps(json.loads(decoded(payload)), indent=1).encode())}.{signature}",
            token.replace("-", "+").replace("_", "/") + "=",
            token + dice.choice(string.whitespace),
            dice.choice(string.whitespace) + token,
            token.upper(),
            token.swapcase(),
            f'"{token}"',
        ]
    )


def _damage(tokens, known_keys, dice):
    """Cut, doubled, stretched, nested, or nothing of the kind at all."""
    token = dice.choice(tokens)
    place = dice.randrange(len(token))
    junk = "".join(dice.choices(ALPHABET + ".=%/+ \x00\n\u00e9\u0661", k=dice.randrange(1, 40)))
    deep = encoded(b"[" * dice.choice([100, 2000]))
    return dice.choice(
        [
            token[:place],
            token[place:],
            token[:place] + token[place + 1 :],
            token[:place] + junk + token[place:],
            token + token,
            token + "." + token,
            junk,
            f"{deep}.{deep}.{deep}",
            f"{encoded(_OURS)}.{deep}.{token.rpartition('.')[2]}",
            token.replace(".", "..", 1),
            token.replace(".", ""),
            token[:place] + "A" * 5000,
        ]
    )


def _confuse(tokens, known_keys, dice):
    """Claims of one's own under a weaker algorithm: with the secret itself, an empty key, or the right one."""
    claims = json.loads(decoded(dice.choice(tokens).split(".")[1])) | dice.choice(_CLAIMS)
    algorithm = dice.choice(["none", "HS256", "HS384", "RS256"])
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384}.get(algorithm, hashlib.sha512)
    return signed_by_hand(claims, dice.choice([*known_keys, b""]), header=_OURS | {"alg": algorithm}, digest=digest)
