"""Requests with tampered links: the link view rejects each of them, and never fails with a server error."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from flask import Flask

from flask_storage import Storage
from flask_storage.tokens import derive_key

from .counts import count
from .hostile_tokens import mutations, signed_by_hand

SECRET = "a secret of thirty-two bytes, or"
OLDER = "the secret that came before this"
REFUSALS = {400, 403, 404, 410, 414}


def make_app(tmp_path, **config):
    """An app with two profiles on local disk, each with one file."""
    app = Flask("links", instance_path=str(tmp_path / "instance"))
    app.config |= {
        "SECRET_KEY": SECRET,
        "SERVER_NAME": "example.com",
        "STORAGE_PROFILES": {
            name: {"backend": "local", "root": str(tmp_path / name), "create": True} for name in ("docs", "other")
        },
        **config,
    }
    Storage(app)
    for name in ("docs", "other"):
        profiles(app)[name].write("a.txt", f"the file of {name}".encode())
    return app


def profiles(app):
    """The storages of the app."""
    return app.extensions["storage"]


def link(app, path="a.txt", operation="download", profile="docs", **constraints):
    """A link that is valid for an hour."""
    with app.app_context():
        return profiles(app)[profile].link_to(path, operation, timedelta(hours=1), **constraints)


def token_of(url):
    """The token in a link."""
    return parse_qs(urlsplit(url).query)["token"][0]


def fetch(app, token, profile="docs", method="GET"):
    """The response to a request with this token: status and body."""
    url = f"http://example.com/storage/{profile}?token={quote(token, safe='', errors='surrogatepass')}"
    with app.test_client().open(url, method=method, data=b"evil" if method == "PUT" else None) as response:
        return response.status_code, response.data


@pytest.fixture
def app(tmp_path):
    """The app of `make_app`."""
    return make_app(tmp_path)


def test_a_valid_link_works(app):
    """So the other tests reject links because of what was changed."""
    assert fetch(app, token_of(link(app))) == (200, b"the file of docs")


def test_tampered_links_are_rejected_and_change_nothing(app):
    """With every method, thousands of times: 400, 403, 404, 410 or 414; no file is read, changed or deleted."""
    tokens = [token_of(link(app, path, "dur")) for path in ("a.txt", "b.txt", "c/d.txt")]
    tokens.append(token_of(link(app, uses=1)))
    keys = [SECRET.encode(), derive_key(SECRET.encode(), "docs")]
    methods = ["GET", "GET", "HEAD", "PUT", "DELETE"]
    changed = mutations(tokens, keys, count(1500, 10_000), random.Random(17))

    statuses: Counter[int] = Counter()
    for number, token in enumerate(changed):
        status, body = fetch(app, token, method=methods[number % len(methods)])
        statuses[status] += 1
        assert b"the file of" not in body

    assert set(statuses) <= REFUSALS
    assert statuses.total() >= count(1500, 10_000)
    assert [entry.name for entry in profiles(app)["docs"].list()] == ["a.txt"]
    assert profiles(app)["docs"].read("a.txt") == b"the file of docs"


@pytest.mark.parametrize(
    "claims",
    [
        {"key": "../other/a.txt"},
        {"key": "/etc/passwd"},
        {"key": "a\x00.txt"},
        {"key": "\ud800"},
        {"key": ""},
        {"key": "a" * 2000},
        {"key": 1},
        {"op": "x"},
        {"exp": 10**400},
        {"exp": None},
        {"aud": "other"},
        {"use": 1},
        {"use": 0, "jti": "x"},
        {"ip": "nonsense"},
        {"ip": "203.0.113.0/24"},
        {"nbf": 10**12},
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_a_link_signed_by_hand_does_not_bypass_validation(app, claims):
    """Even with the right key: an invalid path, a wrong type, a usage limit without an id."""
    now = datetime.now(UTC).timestamp()
    good = {"key": "a.txt", "op": "d", "aud": "docs", "iat": int(now), "exp": int(now) + 3600}
    key = derive_key(SECRET.encode(), "docs")
    assert fetch(app, signed_by_hand(good, key)) == (200, b"the file of docs")

    status, body = fetch(app, signed_by_hand(good | claims, key))

    assert status in REFUSALS
    assert b"the file" not in body


def test_a_link_of_one_profile_is_rejected_by_another(app):
    """The profile is the audience of the token."""
    token = token_of(link(app))

    assert fetch(app, token, "other")[0] == 403
    assert fetch(app, token, "missing")[0] == 404


def test_links_survive_the_rotation_of_the_secret_key(tmp_path):
    """Old links stay valid with `SECRET_KEY_FALLBACKS`; new ones are signed with the new key."""
    before = make_app(tmp_path, SECRET_KEY=OLDER)
    rotated = make_app(tmp_path, SECRET_KEY=SECRET, SECRET_KEY_FALLBACKS=[OLDER])
    after = make_app(tmp_path, SECRET_KEY=SECRET)
    old, new = token_of(link(before)), token_of(link(rotated))

    statuses = {
        "old": [fetch(app, old)[0] for app in (before, rotated, after)],
        "new": [fetch(app, new)[0] for app in (before, rotated, after)],
    }

    assert statuses == {"old": [200, 200, 403], "new": [403, 200, 200]}


def test_a_single_use_link_works_once_across_two_apps(tmp_path):
    """Two workers with one instance folder share the usage counter; HEAD requests are not counted."""
    first, second = make_app(tmp_path), make_app(tmp_path)
    token = token_of(link(first, uses=1))

    statuses = [
        fetch(first, token, method="HEAD")[0],
        fetch(second, token)[0],
        fetch(first, token)[0],
        fetch(second, token)[0],
    ]

    assert statuses == [200, 200, 403, 403]


def test_a_single_use_link_works_once_for_fifty_threads(app):
    """One of them gets the file, in every round; the others get 403."""
    for _ in range(count(3, 20)):
        token = token_of(link(app, uses=1))
        start = threading.Barrier(50)

        def follow(token=token, start=start):
            start.wait(60)
            return fetch(app, token)

        with ThreadPoolExecutor(50) as pool:
            responses = Counter(job.result() for job in [pool.submit(follow) for _ in range(50)])

        assert responses == {(200, b"the file of docs"): 1, (403, b"The link is used up.\n"): 49}
