"""Signed links to S3, against boto3, against its signer alone, and against what no signer can do without."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

from ..buckets import Bucket
from ..frame import Bench, Contender, Stage, task, times
from ..meters import Work
from ..peers import BOTO3
from ..remote import Remote

COUNT = 10_000
PATHS = [f"reports/2025/{number:05}.pdf" for number in range(COUNT)]
HOUR = timedelta(hours=1)
# No server is asked, so none runs.
BUCKET = Bucket("https://s3.example.com", "access-key", "not-a-secret", "eu-central-1", None, "bucket")


def one_by_one(where: Remote) -> Work:
    """Return work that makes each of our links by a call of its own."""
    storage = _warm(where)
    return lambda: len([storage.link_to(path, "download", HOUR) for path in PATHS])


def in_bulk(where: Remote) -> Work:
    """Return work that makes all of ours in one call."""
    storage = _warm(where)
    return lambda: len(storage.links_to(PATHS, "download", HOUR))


def by_boto3() -> Work:
    """Return work that has boto3 make them."""
    client = BUCKET.boto3()

    def link(path: str) -> Any:
        return client.generate_presigned_url("get_object", {"Bucket": BUCKET.bucket, "Key": path}, 3600)

    link("warm")
    return lambda: len([link(path) for path in PATHS])


def by_signer() -> Work:
    """Return work that has botocore's signer sign addresses that are given to it ready-made."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    signer = S3SigV4QueryAuth(Credentials(BUCKET.access_key, BUCKET.secret_key), "s3", BUCKET.region, 3600)
    base = f"{BUCKET.endpoint}/{BUCKET.bucket}/"

    def link(path: str) -> Any:
        request = AWSRequest("GET", base + path)
        signer.add_auth(request)
        return request.url

    return lambda: len([link(path) for path in PATHS])


def least() -> Work:
    """Return work that is one HMAC and one quoting for each link: less cannot sign."""
    key = b"k" * 32

    def link(path: str) -> str:
        quoted = quote(path)
        return quoted + hmac.new(key, quoted.encode(), hashlib.sha256).hexdigest()

    return lambda: len([link(path) for path in PATHS])


def _warm(where: Remote) -> Any:
    storage = where.ours()
    storage.link_to("warm", "download", HOUR)
    return storage


def _stage(*ours: tuple[str, Callable[[], Work]]) -> Iterator[Stage]:
    yield (
        [
            *[Contender(name, make, ours=True, needs=[BOTO3]) for name, make in ours],
            Contender("boto3 generate_presigned_url", by_boto3, needs=[BOTO3]),
            Contender("botocore's query signer alone", by_signer, needs=[BOTO3]),
            Contender("one HMAC and one quote", least),
        ],
        COUNT,
    )


@task(
    "s3-links-single",
    "S3: 10,000 download links, one at a time",
    times("boto3 generate_presigned_url", 1 / 12, text="≥ 12 times as fast as boto3"),
)
def single(_: Bench) -> Iterator[Stage]:
    """Make them one at a time."""
    yield from _stage(("link_to", partial(one_by_one, BUCKET)))


@task(
    "s3-links-bulk",
    "S3: 10,000 download links, in one call where there is one",
    times("boto3 generate_presigned_url", 1 / 25, text="≥ 25 times as fast as boto3"),
)
def bulk(_: Bench) -> Iterator[Stage]:
    """Make them at once."""
    yield from _stage(("links_to", partial(in_bulk, BUCKET)))
