"""What Azure does by itself or in part, copying and a range, and what of it comes through this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from ..containers import Container, running
from ..frame import Bench, Contender, GiB, MiB, Stage, at_most, task, times
from ..meters import CPU, MOVED, PEAK, WALL
from ..peers import ADLFS, AZURE_SDK, AZURITE, OBSTORE
from ..remote import apart
from ..report import size as in_words
from .files import filled
from .objects import copying, counting

AT_ONCE = 256 * MiB
"""Of what one call copies. A larger blob is copied in blocks, which Azurite does not know."""
NEEDS = (AZURE_SDK, AZURITE)


def copy_size(bench: Bench) -> int:
    """Return how much is copied."""
    return min(bench.size(GiB), AT_ONCE)


@task(
    "azure-copy",
    lambda bench: f"Azure: {in_words(copy_size(bench))} copied within a container",
    at_most(MOVED, MiB, "no content through this process: ≤ 1 MiB moved"),
    times("SDK download and upload", 1),
    columns=(WALL, CPU, MOVED),
    needs=NEEDS,
)
def copy(bench: Bench) -> Iterator[Stage]:
    """Copy a blob, behind a proxy that counts and does nothing else."""
    size = copy_size(bench)
    source = filled(bench.directory / "source", size)
    with running(counted=True) as where:
        apart(lambda: where.ours().put(source, "big"))
        container = where.container

        def sdk(client: Any, key: str) -> None:
            client.get_blob_client(key).start_copy_from_url(client.get_blob_client("big").url)

        def through(client: Any, key: str) -> None:
            held = io.BytesIO()
            client.download_blob("big").readinto(held)
            held.seek(0)
            client.upload_blob(key, held, overwrite=True)

        def contender(name: str, make: Any, act: Any, key: str, **others: Any) -> Contender:
            return Contender(name, copying(where, make, act, key), **others)

        yield (
            [
                contender("copy", where.ours, lambda s, key: s.copy("big", key), "a", ours=True),
                contender("SDK start_copy_from_url", where.sdk, sdk, "b"),
                contender("SDK download and upload", where.sdk, through, "c"),
                contender(
                    "adlfs cp_file",
                    where.adlfs,
                    lambda s, key: s.cp_file(f"{container}/big", f"{container}/{key}"),
                    "d",
                    needs=[ADLFS],
                ),
                contender(
                    "obstore copy",
                    where.obstore,
                    lambda s, key: OBSTORE.load().copy(s, "big", key),
                    "e",
                    needs=[OBSTORE],
                ),
            ],
            size,
        )


def viewing(where: Container, size: int) -> Callable[[], Callable[[], int]]:
    """Return what makes a view; it answers a request for the last MiB, and returns how much the answer had."""

    def make() -> Callable[[], int]:
        from flask import Flask

        from flask_storage import send_stored_file

        storage, app = where.ours(), Flask(__name__)

        def view() -> int:
            with app.test_request_context(headers={"Range": f"bytes={size - MiB}-"}):
                answer = send_stored_file(storage, "big")
                assert answer.status_code == 206
                with answer:
                    return sum(map(len, answer.iter_encoded()))

        return view

    return make


@task(
    "azure-range",
    lambda bench: f"Azure: the last MiB of {in_words(bench.size(5 * GiB))} by range",
    at_most(MOVED, MiB + 128 * 1024, "only that MiB: ≤ 1.125 MiB moved"),
    columns=(WALL, CPU, PEAK, MOVED),
    needs=NEEDS,
)
def last_mib(bench: Bench) -> Iterator[Stage]:
    """Read the end of a large blob, behind a proxy that counts and does nothing else."""
    size = bench.size(5 * GiB)
    source = filled(bench.directory / "source", size)
    with running(counted=True) as where:
        apart(lambda: where.ours().put(source, "big"))
        start = size - MiB

        def sought(storage: Any) -> int:
            with storage.open("big", "r") as file:
                file.seek(start)
                return len(file.read())

        yield (
            [
                Contender(
                    "send_stored_file, Range", counting(where, viewing(where, size), lambda view: view()), ours=True
                ),
                Contender('open("r"), seek, read', counting(where, where.ours, sought), ours=True),
                Contender(
                    "SDK download_blob(offset)",
                    counting(where, where.sdk, lambda c: len(c.download_blob("big", offset=start).readall())),
                ),
                Contender(
                    "adlfs cat_file(start)",
                    counting(
                        where, where.adlfs, lambda s: len(s.cat_file(f"{where.container}/big", start=start, end=size))
                    ),
                    needs=[ADLFS],
                ),
                Contender(
                    "obstore get_range",
                    counting(
                        where,
                        where.obstore,
                        lambda s: len(OBSTORE.load().get_range(s, "big", start=start, length=MiB)),
                    ),
                    needs=[OBSTORE],
                ),
            ],
            MiB,
        )
