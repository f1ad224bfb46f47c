"""Signed links to Azure, against the SDK that signs them, and against the least work that any signer does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

from ..containers import Container
from ..frame import Bench, Contender, Stage, task, times
from ..meters import Work
from ..peers import AZURE_SDK
from .s3_links import COUNT, HOUR, PATHS, in_bulk, least, one_by_one

SDK = "SDK generate_blob_sas"
# No server is asked, so none runs.
CONTAINER = Container("https://account.blob.core.windows.net", "account", "bm90LWEtc2VjcmV0", "container")


def by_sdk() -> Work:
    """Return work that has the SDK sign. It gives no more than the signature; the address is for the caller to make."""
    from azure.storage.blob import generate_blob_sas

    def link(path: str) -> str:
        return generate_blob_sas(
            CONTAINER.account,
            CONTAINER.container,
            path,
            account_key=CONTAINER.key,
            permission="r",
            expiry=datetime.now(UTC) + HOUR,
        )

    link("warm")
    return lambda: len([link(path) for path in PATHS])


def _stage(name: str, make: Callable[[], Work]) -> Iterator[Stage]:
    yield (
        [
            Contender(name, make, ours=True),
            Contender(SDK, by_sdk),
            Contender("one HMAC and one quote", least),
        ],
        COUNT,
    )


@task(
    "azure-links-single",
    "Azure: 10,000 download links, one at a time",
    times(SDK, 1.3),
    needs=[AZURE_SDK],
)
def single(_: Bench) -> Iterator[Stage]:
    """Make them one at a time."""
    yield from _stage("link_to", partial(one_by_one, CONTAINER))


@task(
    "azure-links-bulk",
    "Azure: 10,000 download links, in one call where there is one",
    times(SDK, 1.3),
    needs=[AZURE_SDK],
)
def bulk(_: Bench) -> Iterator[Stage]:
    """Make them at once."""
    yield from _stage("links_to", partial(in_bulk, CONTAINER))
