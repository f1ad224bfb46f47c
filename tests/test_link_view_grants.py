"""What a token grants: the status for each operation, method, profile, key, time and constraint."""

import base64
import hashlib
import io
import json
from datetime import UTC, datetime

import jwt
import pytest

from tests.test_link_view import CONTENT, SECRET, app, forge, make_app, put

__all__ = ["app"]  # a fixture

METHODS = {"GET": "d", "HEAD": "d", "PUT": "u", "POST": "u", "DELETE": "r"}
OPERATIONS = ["d", "u", "r", "du", "dr", "ur", "dur"]
NEW_SECRET = "fedcba9876543210fedcba9876543210"


def _now(seconds=0):
    return int(datetime.now(UTC).timestamp()) + seconds


# Each causes a 403 for every method, except "good".
TOKENS = {
    "good": lambda op, profile: forge(profile, op=op),
    "expired": lambda op, profile: forge(profile, op=op, exp=_now(-5)),
    "not valid yet": lambda op, profile: forge(profile, op=op, nbf=_now(600)),
    "issued in the future": lambda op, profile: forge(profile, op=op, iat=_now(600)),
    "another key": lambda op, profile: forge(profile, op=op, secret=NEW_SECRET),
    "another profile": lambda op, profile: forge("disk" if profile == "docs" else "docs", op=op),
    "another profile in the claims only": lambda op, profile: forge(profile, op=op, aud="typeless"),
    "several profiles": lambda op, profile: forge(profile, op=op, aud=["docs", "disk"]),
    "a part of the profile's name": lambda op, profile: forge(profile, op=op, aud=profile[:-1]),
    "another algorithm": lambda op, profile: forge(profile, op=op, algorithm="HS256"),
    "the secret itself as key": lambda op, profile: jwt.encode(
        {"key": "a/file.txt", "op": op, "aud": profile, "iat": _now(), "exp": _now(60)}, SECRET * 2, "HS512"
    ),
    "no signature": lambda op, profile: jwt.encode(
        {"key": "a/file.txt", "op": op, "aud": profile, "iat": _now(), "exp": _now(60)}, "", "none"
    ),
}


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("operations", OPERATIONS)
def test_a_token_allows_only_its_operations(app, operations, method, profile):
    """For each combination and method; a refused request changes nothing."""
    storage = app.extensions["storage"][profile]
    storage.write("a/file.txt", CONTENT)
    allowed = METHODS[method] in operations

    response = app.test_client().open(
        f"/storage/{profile}?token={forge(profile, op=operations)}", method=method, data=b"new"
    )

    assert response.status_code == (200 if allowed else 403)
    changed = not storage.exists("a/file.txt") or storage.read("a/file.txt") != CONTENT
    assert changed == (allowed and METHODS[method] in "ur")


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", TOKENS)
def test_an_invalid_token_grants_nothing(app, fault, method, profile):
    """Expired, not yet valid, for another audience or wrongly signed: 403, and nothing is changed."""
    storage = app.extensions["storage"][profile]
    storage.write("a/file.txt", CONTENT)
    token = TOKENS[fault]("dur", profile)

    response = app.test_client().open(f"/storage/{profile}?token={token}", method=method, data=b"new")

    assert response.status_code == (200 if fault == "good" else 403)
    assert ("expired" in response.text) is (fault == "expired" and method != "HEAD")
    if fault != "good":
        assert storage.read("a/file.txt") == CONTENT


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "claims",
    [
        {"key": None},
        {"key": 7},
        {"key": ["a"]},
        {"op": None},
        {"op": ""},
        {"op": "x"},
        {"op": "dd"},
        {"op": 7},
        {"aud": None},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 10**400},
        {"iat": None},
        {"iat": "now"},
        {"nbf": "x"},
        {"use": "1"},
        {"use": True},
        {"len": "10"},
        {"max": 1.5},
        {"sum": 5},
        {"new": 1},
        {"fn": ["a"]},
        {"ct": {}},
        {"ip": 5},
        {"jti": 5},
        {"sub": 5, "key": None},
    ],
    ids=str,
)
def test_malformed_claims_grant_nothing(app, method, claims):
    """A validly signed token with wrong content is refused, and causes no error of the app."""
    storage = app.extensions["storage"]["docs"]
    storage.write("a/file.txt", CONTENT)

    response = app.test_client().open(f"/storage/docs?token={forge(**claims)}", method=method, data=b"new")

    assert response.status_code == 403
    assert storage.read("a/file.txt") == CONTENT


@pytest.mark.parametrize(
    "headers",
    [{"kid": "1"}, {"crit": ["exp"], "exp": 1}, {"b64": False}, {"jku": "http://x"}, {"typ": "at+jwt"}, {"cty": "JWT"}],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_token_with_another_header_is_refused(app, method, headers):
    """All valid tokens have the same header."""
    app.extensions["storage"]["docs"].write("a/file.txt", CONTENT)
    token = forge(headers=headers) if "b64" not in headers else _with_raw_header(headers)

    assert app.test_client().open(f"/storage/docs?token={token}", method=method, data=b"x").status_code == 403


def _with_raw_header(headers):
    header = json.dumps({"alg": "HS512", "typ": "JWT", **headers}).encode()
    return base64.urlsafe_b64encode(header).decode().strip("=") + "." + forge().partition(".")[2]


DIGEST = "sha256:" + hashlib.sha256(b"0123456789").hexdigest()


@pytest.mark.parametrize("profile", ["docs", "disk"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("file_exists", [True, False])
@pytest.mark.parametrize(
    ("claims", "body", "status"),
    [
        ({}, b"0123456789", 200),
        ({"len": 10}, b"0123456789", 200),
        ({"len": 10}, b"012345678", 400),
        ({"len": 10}, b"0123456789x", 413),
        ({"max": 10}, b"0123456789", 200),
        ({"max": 9}, b"0123456789", 413),
        ({"sum": DIGEST}, b"0123456789", 200),
        ({"sum": DIGEST}, b"012345678x", 400),
        ({"sum": DIGEST, "max": 9}, b"0123456789", 413),
        ({"sum": "nonsense"}, b"0123456789", 400),
        ({"new": True}, b"0123456789", "exclusive"),
        ({"new": True, "sum": DIGEST, "len": 10}, b"0123456789", "exclusive"),
        ({"ct": "image/png"}, b"0123456789", 200),
    ],
)
def test_an_upload_must_meet_every_signed_constraint(app, claims, body, status, file_exists, method, profile):
    """Size, checksum, type and exclusivity, alone and combined, with and without an existing file."""
    storage = app.extensions["storage"][profile]
    if file_exists:
        storage.write("a/file.txt", b"before")
    expected = (409 if file_exists else 200) if status == "exclusive" else status
    url = f"/storage/{profile}?token={forge(profile, op='u', **claims)}"

    code, _ = put(app, url, io.BytesIO(body), method=method, CONTENT_LENGTH=str(len(body)))

    assert code == expected
    if expected == 200:
        assert storage.read("a/file.txt") == body
        assert storage.stat("a/file.txt").content_type in ({"image/png", None} if "ct" in claims else {None})
    else:
        assert storage.exists("a/file.txt") == file_exists
        assert not file_exists or storage.read("a/file.txt") == b"before"


@pytest.mark.parametrize("method", METHODS)
def test_fallback_keys_verify_links_but_do_not_sign_them(tmp_path, method):
    """An old link works while its key is a fallback; new links are signed with the current key."""
    old = make_app(tmp_path)
    rotated = make_app(tmp_path, SECRET_KEY=NEW_SECRET, SECRET_KEY_FALLBACKS=[SECRET])
    dropped = make_app(tmp_path, SECRET_KEY=NEW_SECRET)
    for each in (old, rotated, dropped):
        each.extensions["storage"]["docs"].write("a/file.txt", CONTENT)

    def status(app, token):
        return app.test_client().open(f"/storage/docs?token={token}", method=method, data=b"x").status_code

    assert [status(each, forge()) for each in (old, rotated, dropped)] == [200, 200, 403]
    for each in (rotated, dropped):
        each.extensions["storage"]["docs"].write("a/file.txt", CONTENT)
    assert [status(each, forge(secret=NEW_SECRET)) for each in (old, rotated, dropped)] == [403, 200, 200]
