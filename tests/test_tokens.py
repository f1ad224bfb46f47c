"""Link tokens: signing and verification, and the rejection of every other token."""

import base64
import hashlib
import hmac
import json
import random
import string
import sys
import types
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import jwt
import pytest

from flask_storage.errors import ConfigurationError, ExpiredLinkError, InvalidLinkError
from flask_storage.paths import MAX_PATH_BYTES, normalize
from flask_storage.tokens import (
    CLOCK_SKEW,
    MAX_TOKEN_LENGTH,
    InternalLinkTokenData,
    LinkSigner,
    derive_key,
    hkdf,
)
from flask_storage.types import LinkRequest, ShareLinkOperation

from .hostile_tokens import mutations, signed_by_hand

DOWNLOAD, UPLOAD, REMOVE = ShareLinkOperation.download, ShareLinkOperation.upload, ShareLinkOperation.remove
OPERATIONS = [
    DOWNLOAD,
    UPLOAD,
    REMOVE,
    DOWNLOAD | UPLOAD,
    DOWNLOAD | REMOVE,
    UPLOAD | REMOVE,
    DOWNLOAD | UPLOAD | REMOVE,
]
SECRET = b"a secret of thirty-two bytes, or"
OLDER = b"the secret that came before this"
OTHER = b"the secret of another signer...."
NOW = datetime.now(UTC).replace(microsecond=0)
LATER = NOW + timedelta(hours=1)

LINK_CONSTRAINTS: dict[str, list[Any]] = {
    "filename": ["a.txt", 'say "hi".txt', "\u4e2d\u6587.png", "\u05e9\u05dc\u05d5\u05dd \U0001f600", "a;b=c", ""],
    "disposition": ["attachment", "inline"],
    "content_type": ["image/png", "text/html; charset=utf-8"],
    "content_encoding": ["gzip"],
    "cache_control": ["private, max-age=60"],
    "size": [0, 1, 2**53],
    "max_size": [0, 1, 2**63],
    "checksum": ["sha256:" + "0" * 64],
    "exclusive": [True],
    "ip": ["203.0.113.7", "203.0.113.0/24", "2001:db8::/32"],
}


@pytest.fixture
def signer():
    """Signs for the profile `docs`."""
    return LinkSigner([SECRET], "docs")


def request_for(operations=DOWNLOAD, expires_at=LATER, **constraints):
    """A valid request."""
    return LinkRequest(operations=operations, expires_at=expires_at, **constraints)


def claims_of(token):
    """The claims of a token, without verification."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def test_a_small_clock_skew_is_tolerated(signer):
    """The hosts of one app verify each other's tokens; a token issued further in the future is rejected."""
    now = datetime.now(UTC)

    slightly_ahead = signer.sign("a.txt", request_for(), now + timedelta(seconds=CLOCK_SKEW - 10))
    too_far_ahead = signer.sign("a.txt", request_for(), now + timedelta(seconds=CLOCK_SKEW + 10))

    assert signer.verify(slightly_ahead).path == "a.txt"
    with pytest.raises(InvalidLinkError, match="not valid yet"):
        signer.verify(too_far_ahead)


# -- signed tokens are verified ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("operations", OPERATIONS, ids=str)
def test_a_verified_token_has_the_signed_path_and_operations(signer, operations):
    """It unpacks into a pair, and has the request and properties for each operation."""
    token = signer.sign("a/b c.txt", request_for(operations), NOW)

    data = signer.verify(token)

    path, allowed = data
    assert (path, allowed) == ("a/b c.txt", operations)
    assert data.request == request_for(operations)
    assert data.token_id is None
    assert data.allow_download is bool(operations & DOWNLOAD)
    assert data.allow_upload is bool(operations & UPLOAD)
    assert data.allow_remove is bool(operations & REMOVE)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in LINK_CONSTRAINTS.items() for value in values]
)
def test_a_verified_token_has_each_signed_constraint(signer, name, value):
    """With the same value and type."""
    request = request_for(DOWNLOAD | UPLOAD, **{name: value})

    data = signer.verify(signer.sign("a.txt", request, NOW))

    assert data.request == request
    assert type(getattr(data.request, name)) is type(value)


def test_all_constraints_fit_into_one_token(signer):
    """They do not interfere."""
    request = request_for(DOWNLOAD | UPLOAD, uses=3, **{name: values[-1] for name, values in LINK_CONSTRAINTS.items()})

    data = signer.verify(signer.sign("a.txt", request, NOW))

    assert data.request == request


@pytest.mark.parametrize(
    "path", ["a", "a/b", 'a"b', "\u0444\u0430\u0439\u043b.txt", "\U0001f600", "a'b&c=d#e?f%g+h", "<b>"]
)
def test_a_path_of_any_script_can_be_signed(signer, path):
    """Also one with characters that JSON or a URL would escape."""
    assert signer.verify(signer.sign(path, request_for(), NOW)).path == path


def test_a_token_has_the_claims_of_keg_storage_and_no_others(signer):
    """`key` and `op` as in keg-storage, the audience, and two times in whole seconds."""
    token = signer.sign("a.txt", request_for(UPLOAD | DOWNLOAD), NOW)

    assert jwt.get_unverified_header(token) == {"alg": "HS512", "typ": "JWT"}
    assert claims_of(token) == {
        "key": "a.txt",
        "op": "du",
        "aud": "docs",
        "iat": int(NOW.timestamp()),
        "exp": int(LATER.timestamp()),
    }


def test_the_same_request_makes_the_same_token(signer):
    """So that pages can be cached. Tokens with a usage limit differ, because each is counted separately."""
    plain = {signer.sign("a.txt", request_for(), NOW) for _ in range(10)}
    counted = [signer.verify(signer.sign("a.txt", request_for(uses=1), NOW)) for _ in range(10)]

    assert len(plain) == 1
    assert len({data.token_id for data in counted}) == 10
    assert all(len(data.token_id) == 22 for data in counted)


def test_other_libraries_can_verify_a_token(signer):
    """It is a standard JWT, signed with the derived key."""
    token = signer.sign("a.txt", request_for(), NOW)

    claims = jwt.decode(token, derive_key(SECRET, "docs"), algorithms=["HS512"], audience="docs")

    assert claims["key"] == "a.txt"


@pytest.mark.parametrize("path", ["a.txt", "\u0444\u0430\u0439\u043b 1.txt", "\U0001f600", "x" * 255])
@pytest.mark.parametrize(
    "constraints", [{}, {"uses": 1}, {name: values[-1] for name, values in LINK_CONSTRAINTS.items()}]
)
def test_a_token_is_exactly_what_pyjwt_would_sign(signer, path, constraints):
    """Byte for byte; and tokens that PyJWT signs are valid here."""
    token = signer.sign(path, request_for(DOWNLOAD | UPLOAD, **constraints), NOW)
    payload = token.split(".")[1]
    claims = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    key = derive_key(SECRET, "docs")

    signed_by_pyjwt = jwt.PyJWS().encode(claims, key, algorithm="HS512", headers={"typ": "JWT"})
    claims_by_pyjwt = jwt.encode(json.loads(claims), key, algorithm="HS512")

    assert token == signed_by_pyjwt
    assert signer.verify(claims_by_pyjwt) == signer.verify(token) == (path, DOWNLOAD | UPLOAD)
    assert signer.verify(claims_by_pyjwt).request == signer.verify(token).request


def test_token_data_can_be_serialized_and_deserialized():
    """As in keg-storage; without an expiry there are no constraints."""
    data = InternalLinkTokenData("a.txt", DOWNLOAD | REMOVE)

    claims = data.serialize()
    again = InternalLinkTokenData.deserialize(claims)

    assert claims == {"key": "a.txt", "op": "dr"}
    assert again == data
    assert (again.request, again.token_id) == (None, None)


# -- length -----------------------------------------------------------------------------------------------------------


def longest_path(character, size, segment=255):
    """The longest path of one character in at most *size* bytes, with segments of at most *segment* bytes."""
    width = len(character.encode())
    text = ""
    while True:
        full = len(text.rpartition("/")[2].encode()) + width > segment
        more = "/" + character if full else character
        if len((text + more).encode()) > size:
            return text
        text += more


@pytest.mark.parametrize("character", ["a", '"', "\u00e9", "\u4e2d", "\U0001f600", "\u200d", "~", "'"], ids=ascii)
def test_the_link_of_the_longest_path_fits_the_request_line(character):
    """With the longest file name and common arguments, it is below gunicorn's limit of 4094 bytes."""
    path = longest_path(character, MAX_PATH_BYTES)
    filename = longest_path(character, 255)  # one segment
    profile = "a-profile-with-a-rather-long-name"
    signer = LinkSigner([SECRET], profile)
    request = request_for(DOWNLOAD, filename=filename, uses=1, content_type="application/octet-stream")

    token = signer.sign(path, request, NOW)

    assert normalize(path) == path
    assert len(path.encode()) > MAX_PATH_BYTES - 8
    assert len(f"GET /storage/{profile}?token={token} HTTP/1.1\r\n") < 4094
    assert signer.verify(token).path == path


def test_a_token_that_would_be_too_long_is_not_signed(signer):
    """The error comes when the link is issued, not when it is used."""
    with pytest.raises(ValueError, match=r"the token would have .* characters, and a link can have at most 4096"):
        signer.sign("a.txt", request_for(filename="a" * 4000), NOW)


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "salt", "info", "key"),
    [
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            (
                "832390086cda71fb47625bb5ceb168e4c8e26a1a16ed34d9fc7fe92c1481579338da362cb8d9f925d7cbcce0dff7098769cf15959867"
                "d571c1715450cb530137"
            ),
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            (
                "ce6c97192805b346e6161e821ed165673b84f400a2b514b2fe23d84cd189ddf1b695b48cbd1c8388441137b3ce28f16aa64ba33ba466"
                "b24df6cfcb021ecff235"
            ),
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            (
                "f5fa02b18298a72a8c23898a8703472c6eb179dc204c03425c970e3b164bf90fff22d04836d0e2343bacc4e7cb6045faaa698e0e3b3e"
                "b91331306def1db8319e"
            ),
        ),
    ],
)
def test_keys_are_derived_as_in_rfc_5869(secret, salt, info, key):
    """The inputs are those of its test cases; the SHA-512 results are those of `cryptography` and OpenSSL."""
    assert hkdf(secret, salt=salt, info=info).hex() == key


@pytest.mark.parametrize(
    ("audience", "key"),
    [
        (
            "docs",
            (
                "90df43edf1f27f9a279872c6a30da0af36ed6ecdd8ca57fd6a1ae492e547e0c48f1445bb31623381758aa2e5f3bfd5645ec520e9acb1"
                "f0c2125295f4efb533d7"
            ),
        ),
        (
            "\u00dcn\u00efcode",
            (
                "47e23b94644c8058290517f15156bef554f0b92f453d58c7a00facf90e8b7308353ac38627066fe6264a425e610e555062f0bc431739"
                "a5eedda77d47886e0e3c"
            ),
        ),
    ],
)
def test_the_key_of_an_audience_never_changes(audience, key):
    """Other versions of this library must accept the links of this one."""
    assert derive_key(b"0123456789abcdef0123456789abcdef", audience).hex() == key


COLLIDING = [
    ("a", b"bc"),
    ("ab", b"c"),
    ("abc", b""),
    ("a\x00", b"bc"),
    ("a", b"\x00bc"),
    ("asigner", b"bc"),
    ("a", b"signerbc"),
    ("\x00\x00\x00\x01a", b"bc"),
    ("docs", b"x" * 32),
    ("docsx", b"x" * 31),
    ("docs", b"x" * 32 + b"\x00"),
    ("docs\x00", b"x" * 32),
    ("docs\x01", b"x" * 32),
    ("", b"docs" + b"x" * 32),
    ("\u00e9", b"x" * 32),
    ("e\u0301", b"x" * 32),
    ("\u00c3\u00a9", b"x" * 32),
    ("DOCS", b"x" * 32),
    ("docs ", b"x" * 32),
    ("docs", b"X" * 32),
    ("docs", b"\xff" * 32),
]


def test_pairs_of_audience_and_secret_do_not_collide():
    """The derivation separates the two: pairs that are equal when joined have different keys."""
    keys = {derive_key(secret, name) for name, secret in COLLIDING}

    assert len(keys) == len(COLLIDING)


@pytest.mark.parametrize(
    ("signing", "verifying"),
    [((a, b), (c, d)) for (a, b), (c, d) in product(COLLIDING, repeat=2) if a and b and c and d],
)
def test_a_token_is_valid_only_for_its_own_audience_and_secret(signing, verifying):
    """Checked for all pairs of similar names and secrets."""
    token = LinkSigner([signing[1]], signing[0]).sign("a.txt", request_for(), NOW)
    verifier = LinkSigner([verifying[1]], verifying[0])

    try:
        accepted = verifier.verify(token).path == "a.txt"
    except InvalidLinkError:
        accepted = False

    assert accepted is (signing == verifying)


@pytest.mark.parametrize("keys", [[], [b""], [SECRET, b""], [b"", SECRET], ()], ids=repr)
def test_an_empty_key_is_refused(keys):
    """An attacker knows it, also when it only verifies."""
    with pytest.raises(ValueError, match="none may be empty"):
        LinkSigner(keys, "docs")


def test_a_secret_may_be_arbitrary_bytes(signer):
    """Random bytes are seldom valid UTF-8."""
    binary = LinkSigner([bytes(range(256))], "docs")

    assert binary.verify(binary.sign("a.txt", request_for(), NOW)).path == "a.txt"


def test_keys_rotate():
    """Old links stay valid as long as their key is kept as a fallback; new ones need the new key."""
    before, rotated, after = (
        LinkSigner([OLDER], "docs"),
        LinkSigner([SECRET, OLDER], "docs"),
        LinkSigner([SECRET], "docs"),
    )
    old = before.sign("old.txt", request_for(), NOW)
    new = rotated.sign("new.txt", request_for(), NOW)

    assert rotated.verify(old).path == "old.txt"
    assert rotated.verify(new).path == "new.txt"
    assert after.verify(new).path == "new.txt"
    assert new == after.sign("new.txt", request_for(), NOW)
    for signer, token in ((after, old), (before, new)):
        with pytest.raises(InvalidLinkError, match="signed with another key or for another profile"):
            signer.verify(token)


def test_the_first_key_signs_and_all_keys_verify():
    """With any number of keys."""
    keys = [bytes([number]) * 32 for number in range(1, 9)]
    signer = LinkSigner(keys, "docs")

    verified = [signer.verify(LinkSigner([key], "docs").sign("a.txt", request_for(), NOW)).path for key in keys]

    assert verified == ["a.txt"] * 8
    assert LinkSigner(keys[:1], "docs").verify(signer.sign("a.txt", request_for(), NOW)).path == "a.txt"


def test_an_expired_token_of_an_old_key_is_reported_as_expired():
    """It is not reported as forged."""
    token = LinkSigner([OLDER], "docs").sign("a.txt", request_for(expires_at=NOW - timedelta(seconds=5)), NOW)

    with pytest.raises(ExpiredLinkError, match="request a new one"):
        LinkSigner([SECRET, OLDER], "docs").verify(token)


# -- all combinations of operation, profile, key and expiry -----------------------------------------------------------

_PROFILES = ["docs", "docs2", "doc", "Docs", "docs ", "other"]
_KEYS = {"current": SECRET, "older": OLDER, "foreign": OTHER}
_EXPIRIES = {"valid": timedelta(hours=1), "just expired": timedelta(seconds=-2), "long expired": timedelta(days=-400)}


@pytest.mark.parametrize("operations", OPERATIONS, ids=str)
@pytest.mark.parametrize("profile", _PROFILES)
@pytest.mark.parametrize("key", _KEYS)
@pytest.mark.parametrize("expiry", _EXPIRIES)
def test_a_token_is_valid_for_its_profile_and_key_until_it_expires(operations, profile, key, expiry):
    """Only an authentic expired token is reported as expired; every other mismatch as invalid."""
    token = LinkSigner([_KEYS[key]], profile).sign("a.txt", request_for(operations, NOW + _EXPIRIES[expiry]), NOW)
    verifier = LinkSigner([SECRET, OLDER], "docs")

    outcome: object
    try:
        outcome = verifier.verify(token)
    except InvalidLinkError as error:
        outcome = type(error)

    if profile != "docs" or key == "foreign":
        assert outcome is InvalidLinkError
    elif expiry != "valid":
        assert outcome is ExpiredLinkError
    else:
        assert outcome == ("a.txt", operations)


# -- other tokens are rejected ----------------------------------------------------------------------------------------


def test_ten_thousand_tampered_tokens_are_rejected(signer):
    """Flipped, spliced, re-encoded, with other algorithms and headers: each raises one of our two errors."""
    tokens = [signer.sign(f"file {number}.txt", request_for(), NOW) for number in range(4)]
    tokens.append(signer.sign("counted.txt", request_for(uses=1, filename="\u4e2d.txt"), NOW))
    changed = mutations(tokens, [SECRET, derive_key(SECRET, "docs")], 10_000, random.Random(20))

    messages, accepted = [], []
    for token in changed:
        try:
            signer.verify(token)
        except InvalidLinkError as error:
            messages.append(str(error))
        else:
            accepted.append(token)

    assert accepted == []
    assert len(messages) >= 10_000
    assert len(set(messages)) == 2  # "not a link token" or "damaged": the messages reveal nothing


@pytest.mark.parametrize("suffix", ["=", "==", ".", "\n", " ", "\x00", "A", "\u200b", "%3D"], ids=ascii)
def test_only_the_canonical_encoding_of_a_token_is_valid(signer, suffix):
    """Characters that decoders ignore are not ignored."""
    token = signer.sign("a.txt", request_for(), NOW)

    for changed in (token + suffix, suffix + token, token.replace(".", suffix + ".", 1)):
        with pytest.raises(InvalidLinkError):
            signer.verify(changed)


def test_unused_bits_of_base64_must_be_zero(signer):
    """The last character of a 64-byte signature has sixteen encodings, of which one is valid."""
    token = signer.sign("a.txt", request_for(), NOW)
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"

    accepted = []
    for character in alphabet:
        try:
            signer.verify(token[:-1] + character)
        except InvalidLinkError:
            continue
        accepted.append(character)

    assert accepted == [token[-1]]


GOOD_CLAIMS = {"key": "a.txt", "op": "d", "aud": "docs", "iat": int(NOW.timestamp()), "exp": int(LATER.timestamp())}


def test_a_token_signed_by_hand_is_valid(signer):
    """So the tokens of the next tests are rejected for their content, not for how they are made."""
    token = signed_by_hand(GOOD_CLAIMS, derive_key(SECRET, "docs"))

    assert signer.verify(token) == ("a.txt", DOWNLOAD)


_FAR = 10**400
_ODD: list[Any] = [None, True, False, 0, -1, 1.5, "", "x", [], {}, ["docs"], [["docs"]], {"docs": 1}, "\x00", "9" * 400]
WRONG_TYPES: dict[str, list[Any]] = {
    "key": [value for value in _ODD if not isinstance(value, str)],
    "op": [*_ODD, "read", "write", "upload,download", "dd", "D"],
    "aud": [*_ODD, "doc", "docs2", "DOCS", " docs", ["docs", "other"]],
    "exp": [*_ODD, _FAR, -_FAR, 1e308, "soon", 253402300800, str(int(LATER.timestamp()))],
    "iat": [None, [], {}, "x", "", _FAR, int(LATER.timestamp()) + 10**6],
    "nbf": [None, [], {}, "x", "", _FAR, int(LATER.timestamp())],
    "jti": [True, 1, 1.5, [], {}, ["x"]],
    "fn": [None, True, 1, [], {}, ["a.txt"]],
    "cd": [None, 1, ["inline"]],
    "ct": [None, 1, ["text/html"]],
    "ce": [None, 1],
    "cc": [None, 1],
    "len": [None, True, 1.0, "1", [1]],
    "max": [None, False, 1.0, "1", [1]],
    "sum": [None, 1, {}],
    "new": [None, 1, 0, "true", []],
    "use": [None, True, 1.0, "1", [1]],
    "ip": [None, 1, []],
}


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        # Numbered: an id that contains the current time would differ between the processes of one test run.
        pytest.param(claim, value, id=f"{claim}-{number}-{type(value).__name__}")
        for claim, values in WRONG_TYPES.items()
        for number, value in enumerate(values)
    ],
)
def test_a_signed_claim_of_the_wrong_type_is_rejected(signer, claim, value):
    """Another program may sign with our key, for example an older version or a script."""
    token = signed_by_hand(GOOD_CLAIMS | {claim: value}, derive_key(SECRET, "docs"))

    with pytest.raises(InvalidLinkError):
        signer.verify(token)


@pytest.mark.parametrize("claim", GOOD_CLAIMS)
def test_a_token_without_a_required_claim_is_rejected(signer, claim):
    """A token without an expiry would be valid for ever."""
    claims = {name: value for name, value in GOOD_CLAIMS.items() if name != claim}

    with pytest.raises(InvalidLinkError):
        signer.verify(signed_by_hand(claims, derive_key(SECRET, "docs")))


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"op": "d"},
        {"key": "a.txt"},
        {"key": 1, "op": "d"},
        {"key": "a.txt", "op": "x"},
        {"key": "a.txt", "op": ""},
        {"key": "a.txt", "op": "d", "jti": 1},
        {"key": "a.txt", "op": "d", "exp": None},
        {"key": "a.txt", "op": "d", "exp": "tomorrow"},
        {"key": "a.txt", "op": "d", "exp": _FAR},
        {"key": "a.txt", "op": "d", "exp": 10**17},
        {"key": "a.txt", "op": "d", "exp": float("nan")},
        {"key": "a.txt", "op": "d", "fn": 7},
    ],
    ids=lambda value: repr(value)[:60],
)
def test_invalid_claims_are_rejected(claims):
    """By `deserialize` alone, without a token."""
    with pytest.raises(InvalidLinkError):
        InternalLinkTokenData.deserialize(claims)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"a.txt"',
        b"1",
        b"{",
        b"{}x",
        b"\xff\xfe",
        b'{"key": NaN}',
        b"[" * 2500,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        json.dumps(GOOD_CLAIMS | {"exp": "EXP"}).replace('"EXP"', "NaN").encode(),
        json.dumps(GOOD_CLAIMS | {"exp": "EXP"}).replace('"EXP"', "Infinity").encode(),
        json.dumps(GOOD_CLAIMS | {"exp": "EXP"}).replace('"EXP"', "-Infinity").encode(),
        json.dumps(GOOD_CLAIMS | {"iat": "IAT"}).replace('"IAT"', "NaN").encode(),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_signed_payload_that_is_not_claims_is_rejected(signer, payload):
    """Invalid JSON, other types, deep nesting, and numbers that are not finite."""
    with pytest.raises(InvalidLinkError):
        signer.verify(signed_by_hand(payload, derive_key(SECRET, "docs")))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "JWT"},
        {"alg": "None", "typ": "JWT"},
        {"alg": "", "typ": "JWT"},
        {"alg": None, "typ": "JWT"},
        {"alg": ["HS512"], "typ": "JWT"},
        {"alg": "hs512", "typ": "JWT"},
        {"alg": "HS256", "typ": "JWT"},
        {"alg": "HS384", "typ": "JWT"},
        {"alg": "RS256", "typ": "JWT"},
        {"alg": "ES256", "typ": "JWT"},
        {"alg": "EdDSA", "typ": "JWT"},
        {"typ": "JWT"},
        {"alg": "HS512"},
        {"alg": "HS512", "typ": "jwt"},
        {"alg": "HS512", "typ": "at+jwt"},
        {"alg": "HS512", "typ": "JWT", "kid": "1"},
        {"alg": "HS512", "typ": "JWT", "kid": "../../dev/null"},
        {"alg": "HS512", "typ": "JWT", "crit": ["exp"]},
        {"alg": "HS512", "typ": "JWT", "crit": []},
        {"alg": "HS512", "typ": "JWT", "b64": False, "crit": ["b64"]},
        {"alg": "HS512", "typ": "JWT", "b64": True},
        {"alg": "HS512", "typ": "JWT", "jwk": {"kty": "oct", "k": "AA"}},
        {"alg": "HS512", "typ": "JWT", "jku": "https://example.com"},
        {"alg": "HS512", "typ": "JWT", "x5u": "https://example.com"},
        {"alg": "HS512", "typ": "JWT", "zip": "DEF"},
        {"alg": "HS512", "typ": "JWT", "cty": "JWT"},
        [],
        "HS512",
        None,
        1,
    ],
    ids=lambda value: repr(value)[:60],
)
@pytest.mark.parametrize(
    "digest", [hashlib.sha256, hashlib.sha384, hashlib.sha512], ids=lambda digest: digest.__name__[8:]
)
def test_another_header_is_rejected_even_if_signed_with_the_right_key(signer, header, digest):
    """Algorithm and type are fixed; the token cannot choose how it is verified."""
    token = signed_by_hand(GOOD_CLAIMS, derive_key(SECRET, "docs"), header=header, digest=digest)

    with pytest.raises(InvalidLinkError, match="not a link token of this app"):
        signer.verify(token)


@pytest.mark.parametrize(
    "digest", [hashlib.sha1, hashlib.sha256, hashlib.sha384], ids=lambda digest: digest.__name__[8:]
)
def test_a_weaker_signature_with_our_header_is_rejected(signer, digest):
    """The signature must be HMAC-SHA-512."""
    token = signed_by_hand(GOOD_CLAIMS, derive_key(SECRET, "docs"), digest=digest)

    with pytest.raises(InvalidLinkError):
        signer.verify(token)


@pytest.mark.parametrize("key", [b"", b"\x00" * 64, SECRET, b"docs", derive_key(SECRET, ""), derive_key(OTHER, "docs")])
def test_another_key_is_rejected(signer, key):
    """Also the secret itself: only the key that is derived for this audience is valid."""
    with pytest.raises(InvalidLinkError, match="signed with another key or for another profile"):
        signer.verify(signed_by_hand(GOOD_CLAIMS, key))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "....",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        " ",
        "\x00",
        "null",
        "{}",
        "\u0661.\u0661.\u0661",
        "e30.e30.e30",
        "A" * MAX_TOKEN_LENGTH,
        "A" * 5_000_000,
        ".".join(["A" * 2_000_000] * 3),
        "." * 5_000_000,
        base64.urlsafe_b64encode(b'{"alg":' + b"[" * 100_000).decode() + ".e30.AA",
        base64.urlsafe_b64encode(b"[" * 2900).decode().rstrip("=") + ".e30.AA",
        "e30.e30.A",
        "A.A.A",
    ],
    ids=lambda value: ascii(value)[:30] + f" {len(value)}",
)
def test_text_that_is_not_a_token_is_rejected(signer, token):
    """The length is checked first, so that huge texts cost nothing."""
    with pytest.raises(InvalidLinkError):
        signer.verify(token)


def test_a_signature_of_an_impossible_length_is_rejected(signer):
    """Base64 of no byte string has such a length."""
    header, payload, signature = signer.sign("a.txt", request_for(), NOW).split(".")

    for changed in (signature[:1], signature[:5], signature + "AAA"):
        with pytest.raises(InvalidLinkError):
            signer.verify(f"{header}.{payload}.{changed}")


def test_the_repr_and_errors_of_a_signer_contain_no_secret():
    """Nor do the errors in the chain of causes."""
    signer = LinkSigner([SECRET, OLDER], "docs")

    output = repr(signer)
    with pytest.raises(InvalidLinkError) as caught:
        signer.verify(signed_by_hand(GOOD_CLAIMS, OTHER))

    error: BaseException | None = caught.value
    while error is not None:
        output += f"{error!r} {error}"
        error = error.__cause__
    for secret in (SECRET, OLDER, derive_key(SECRET, "docs")):
        assert repr(secret)[2:-1] not in output
        assert secret.hex() not in output
        assert base64.b64encode(secret).decode() not in output
    assert "docs" in repr(signer)


def test_signatures_are_hmac_sha_512(signer):
    """Of the header and payload as encoded in the token."""
    signed, _, signature = signer.sign("a.txt", request_for(), NOW).rpartition(".")

    expected = hmac.digest(derive_key(SECRET, "docs"), signed.encode(), "sha512")

    assert base64.urlsafe_b64decode(signature + "==") == expected


def test_replacing_the_path_keeps_the_constraints():
    """`_replace` of the named tuple keeps the attributes too."""
    request = request_for(UPLOAD, max_size=5)
    data = InternalLinkTokenData("a.txt", UPLOAD, request=request, token_id="id")

    moved = data._replace(path="b.txt")

    assert tuple(moved) == ("b.txt", UPLOAD)
    assert (moved.request, moved.token_id) == (request, "id")


def test_token_data_with_constraints_survives_serialization():
    """Constraints without an expiry are rejected, not dropped."""
    data = InternalLinkTokenData("a.txt", UPLOAD, request=request_for(UPLOAD, max_size=5, uses=1), token_id="id")

    back = InternalLinkTokenData.deserialize(data.serialize())

    assert (tuple(back), back.request, back.token_id) == (tuple(data), data.request, data.token_id)
    with pytest.raises(InvalidLinkError, match="no expiry"):
        InternalLinkTokenData.deserialize({"key": "a.txt", "op": "u", "max": 5})


def test_another_package_called_jwt_is_a_configuration_error(monkeypatch):
    """Other distributions install one too. The message says how to get PyJWT back."""
    foreign = types.ModuleType("jwt")
    foreign.__file__ = "/site-packages/jwt/__init__.py"
    monkeypatch.setitem(sys.modules, "jwt", foreign)

    with pytest.raises(ConfigurationError, match="'pip install --force-reinstall pyjwt'"):
        LinkSigner([SECRET], "docs")
