"""Signed links, against PyJWT asked for the same claims and against keg-storage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..frame import Bench, Contender, Stage, task, times
from ..meters import Work
from ..peers import KEG, PYJWT

COUNT = 10_000
PATHS = [f"reports/2025/{number:05}.pdf" for number in range(COUNT)]
HOUR = timedelta(hours=1)
SECRET = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"


def profile() -> Any:
    """Return the storage of an app, as an application finds it while it answers a request."""
    from flask import Flask

    from flask_storage import MemoryStorage, Storage

    app = Flask(__name__)
    app.config.update(SECRET_KEY=SECRET, STORAGE_PROFILES=[(MemoryStorage, {"name": "docs"})])
    storage = Storage(app)
    app.test_request_context().push()
    return storage.for_app(app)["docs"]


def make_ours(*, make: bool, verify: bool, bare: bool = False) -> Work:
    """Return work with our links, or with *bare* tokens that are not in a URL."""
    storage = profile()

    def encode(path: str) -> str:
        if bare:
            token: str = storage.create_link_token(path=path, operation="download", expire=HOUR)
            return token
        return token_of(storage.link_to(path, "download", HOUR))

    made = [] if make else [encode(path) for path in PATHS]

    def work() -> int:
        tokens = [encode(path) for path in PATHS] if make else made
        return len([storage.deserialize_link_token(token) for token in tokens] if verify else tokens)

    return work


def make_in_bulk() -> Work:
    """Return work that makes all links in one call."""
    storage = profile()
    return lambda: len(storage.links_to(PATHS, "download", HOUR))


def token_of(url: str) -> str:
    """Return the token in a link."""
    return url.rpartition("=")[2]


def make_jwt(*, make: bool, verify: bool) -> Work:
    """Return the same work with nothing but PyJWT."""
    import jwt

    def encode(path: str) -> str:
        now = int(time.time())
        claims = {"key": path, "op": "d", "aud": "docs", "iat": now, "exp": now + 3600}
        return jwt.encode(claims, SECRET, "HS512")

    def decode(token: str) -> Any:
        return jwt.decode(token, SECRET, ["HS512"], audience="docs", options={"require": ["exp", "iat", "aud"]})

    made = [] if make else [encode(path) for path in PATHS]

    def work() -> int:
        tokens = [encode(path) for path in PATHS] if make else made
        return len([decode(token) for token in tokens] if verify else tokens)

    return work


def make_keg(directory: Path, *, make: bool, verify: bool) -> Work:
    """Return the same work with keg-storage; it has no address to put its tokens into."""
    from keg_storage import ShareLinkOperation  # type: ignore[import-not-found,import-untyped,unused-ignore] # a peer

    storage = KEG.load().LocalFSStorage(directory, "view", SECRET, name="docs")

    def encode(path: str) -> str:
        # It takes an arrow object: a timedelta is not accepted.
        import arrow

        expire = arrow.get(datetime.now(UTC) + HOUR)
        token: str = storage.create_link_token(path=path, operation=ShareLinkOperation.download, expire=expire)
        return token

    made = [] if make else [encode(path) for path in PATHS]

    def work() -> int:
        tokens = [encode(path) for path in PATHS] if make else made
        return len([storage.deserialize_link_token(token) for token in tokens] if verify else tokens)

    return work


def stage(bench: Bench, *, make: bool, verify: bool) -> Iterator[Stage]:
    """Yield the contenders for making links, verifying them, or both."""
    contenders = [
        Contender(
            "link_to" if make else "deserialize_link_token", lambda: make_ours(make=make, verify=verify), ours=True
        ),
        Contender("PyJWT", lambda: make_jwt(make=make, verify=verify), needs=[PYJWT]),
        Contender("keg-storage", lambda: make_keg(bench.directory, make=make, verify=verify), needs=[KEG]),
    ]
    if make:
        tokens = Contender(
            "create_link_token, no URL", lambda: make_ours(make=True, verify=verify, bare=True), ours=True
        )
        contenders.insert(1, tokens)
    if not verify:
        contenders.insert(1, Contender("links_to", make_in_bulk, ours=True))
    yield contenders, COUNT


@task("links", "10,000 links signed and verified", times("PyJWT", 1.5))
def links(bench: Bench) -> Iterator[Stage]:
    """Make links and read their tokens again."""
    yield from stage(bench, make=True, verify=True)


@task("links-made", "10,000 links signed")
def links_made(bench: Bench) -> Iterator[Stage]:
    """Make links."""
    yield from stage(bench, make=True, verify=False)


@task("links-verified", "10,000 links verified")
def links_verified(bench: Bench) -> Iterator[Stage]:
    """Read tokens."""
    yield from stage(bench, make=False, verify=True)
