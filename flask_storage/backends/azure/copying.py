"""Copying inside a container: no byte comes here, however large the blob, wherever the service can do that."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any

from azure.core import MatchConditions, exceptions as sdk

from ...parts import Part, PartPlan
from ...values import CONTENT_HEADERS, WriteOptions
from .blobs import condition_arguments, info_of
from .container import Container
from .errors import status_of
from .parts import BlockWrites, block_name, known_again

AT_ONCE = 256 * 1024 * 1024
"""One call copies no more: https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url"""
_PART = 64 * 1024 * 1024
_NOT_DONE_HERE = 501


def copy_blob(
    container: Container,
    path: str,
    new_path: str,
    options: WriteOptions,
    workers: Callable[[], Executor],
    url: str,
    *,
    source: Container | None = None,
    at_once: int = AT_ONCE,
) -> bool:
    """Copy one blob with its headers and metadata, the version that is there now.

    Args:
        container: The door.
        path: The blob.
        new_path: The target, which is replaced atomically.
        options: Conditions of the target.
        workers: Gives the threads that ask for blocks.
        url: The address by which the service may read the blob.
        source: The door to the blob, where it is in another container.
        at_once: Up to this size, in bytes, one call copies the blob; a larger one is copied in blocks.

    Returns:
        Whether it was copied: an emulator copies no blocks.
    """
    blob = (source or container).head(path)
    unchanged = {"source_etag": blob.etag, "source_match_condition": MatchConditions.IfNotModified}
    if blob.size <= at_once:
        arguments = {"requires_sync": True, **unchanged, **container.settings.stored, **condition_arguments(options)}
        with known_again(container, new_path, options) as mark:
            if mark:  # without metadata of its own, the copy has the source's
                arguments["metadata"] = {**(blob.metadata or {}), **mark}
            container.ask("start_copy_from_url", new_path, url, **arguments)
        return True
    info = info_of(path, blob)
    headers: dict[str, Any] = {name: getattr(info, name) for name in CONTENT_HEADERS}
    kept = WriteOptions(**headers, metadata=info.metadata)
    # The SDK knows no conditions of the source for a block, where the service does.
    condition = {"x-ms-source-if-match": str(blob.etag)}
    return _copy_in_blocks(container, new_path, url, condition, kept, options, info.size, workers)


def _copy_in_blocks(
    container: Container,
    new_path: str,
    url: str,
    condition: dict[str, str],
    kept: WriteOptions,
    options: WriteOptions,
    size: int,
    workers: Callable[[], Executor],
) -> bool:
    store = BlockWrites(container)
    plan = PartPlan.of(store.limits, _PART, size)
    upload_id = store.begin(new_path, kept)

    def copy_block(number: int, start: int) -> Part:
        length = min(plan.first, size - start)
        name = block_name(upload_id, number)
        piece: dict[str, Any] = {"source_offset": start, "source_length": length}
        piece["headers"] = condition
        container.ask("stage_block_from_url", new_path, name, url, **piece, **container.settings.stored)
        return Part(number=number, size=length, etag=name[-36:])

    futures: list[Future[Part]] = []
    try:
        parts = [copy_block(1, 0)]
        for number, start in enumerate(range(plan.first, size, plan.first), 2):
            futures.append(workers().submit(copy_block, number, start))
        parts += [future.result() for future in futures]
    except sdk.HttpResponseError as error:
        if status_of(error) != _NOT_DONE_HERE:
            raise
        return False
    finally:
        wait([future for future in futures if not future.cancel()])
    store.finish(new_path, upload_id, parts, options)
    return True
