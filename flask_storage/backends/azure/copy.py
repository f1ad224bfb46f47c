"""Copying inside a container: no byte comes here, however large the blob, wherever the service can do that."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from datetime import timedelta
from typing import Any

from azure.core import MatchConditions, exceptions as sdk
from azure.storage.blob import BlobBlock, BlobProperties

from ...multipart import PartSizing
from ...types import WriteOptions
from ..multipart_manifest import new_upload_id
from .blob_metadata import condition_arguments
from .errors import status_of
from .gateway import ContainerGateway
from .multipart import BlockUpload, block_name, confirming_lost_response
from .sas import AzureSasBuilder

MAX_SINGLE_COPY = 256 * 1024 * 1024
"""One call copies no more: https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url"""
_PART = 64 * 1024 * 1024
_NOT_IMPLEMENTED = 501
_MAX_URL_LENGTH = 2048
"""Of a source: https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url#request-headers"""
_COPY_TIMEOUT = 300.0
"""How long one call may take, in seconds: 256 MiB from another region are no matter of the usual patience."""
_SINGLE_COPY_URL_LIFETIME = timedelta(minutes=20)
"""An attempt or two; and the service forgives clocks that differ by a quarter of an hour."""
_BLOCK_COPY_URL_LIFETIME = timedelta(days=1)


def copy_blob(
    container: ContainerGateway,
    path: str,
    new_path: str,
    options: WriteOptions,
    workers: Callable[[], Executor],
    sas_builder: AzureSasBuilder,
    *,
    blob: BlobProperties | None = None,
    max_single_copy: int = MAX_SINGLE_COPY,
) -> bool:
    """Copy one blob with its headers and metadata, the version that is there now.

    Args:
        container: The gateway.
        path: The blob.
        new_path: The target, which is replaced atomically.
        options: Conditions of the target.
        workers: Gives the threads that ask for blocks.
        sas_builder: Give the address by which the service may read the blob.
        blob: What is known of the blob, where it is in another container.
        max_single_copy: Up to this size, in bytes, one call copies the blob; a larger one is copied in blocks.

    Returns:
        Whether it was copied. It is not where the address is too long, where it is empty and would go in blocks, or
        by an emulator that copies no blocks.
    """
    blob = blob or container.head(path)
    # Whoever reads the copy is told the address that it was copied from (x-ms-copy-source), with its signature. So that
    # is one for a few minutes; of one that was given to us, a copy in blocks tells nobody.
    in_blocks = blob.size > max_single_copy or sas_builder.uses_given_sas
    url = sas_builder.source_url(path, _BLOCK_COPY_URL_LIFETIME if in_blocks else _SINGLE_COPY_URL_LIFETIME)
    if len(url) > _MAX_URL_LENGTH or (in_blocks and not blob.size):
        return False
    unchanged = {"source_etag": blob.etag, "source_match_condition": MatchConditions.IfNotModified}
    if not in_blocks:
        arguments = {"requires_sync": True, **unchanged, **container.settings.stored, **condition_arguments(options)}
        with confirming_lost_response(container, new_path, options) as mark:
            if mark:  # without metadata of its own, the copy has the source's
                arguments["metadata"] = {**(blob.metadata or {}), **mark}
            container.call("start_copy_from_url", new_path, url, **arguments, read_timeout=_copy_timeout(container))
        return True
    return _copy_in_blocks(container, new_path, url, blob, options, workers)


def _copy_in_blocks(
    container: ContainerGateway,
    new_path: str,
    url: str,
    blob: BlobProperties,
    options: WriteOptions,
    workers: Callable[[], Executor],
) -> bool:
    size = int(blob.size)
    # The SDK knows no conditions of the source for a block, where the service does.
    condition = {"x-ms-source-if-match": str(blob.etag)}
    # The source's own headers and metadata: what the profile adds to a new file is none of a copy that is made there.
    kept = {"content_settings": blob.content_settings, **container.settings.stored, **condition_arguments(options)}
    plan = PartSizing.for_upload(BlockUpload.limits, _PART, size)
    upload_id = new_upload_id()

    def copy_block(number: int, start: int) -> BlobBlock:
        name = block_name(upload_id, number)
        piece: dict[str, Any] = {"source_offset": start, "source_length": min(plan.first, size - start)}
        piece |= {"headers": condition, "read_timeout": _copy_timeout(container)}
        container.call("stage_block_from_url", new_path, name, url, **piece, **container.settings.stored)
        return BlobBlock(name)

    futures: list[Future[BlobBlock]] = []
    try:
        blocks = [copy_block(1, 0)]
        for number, start in enumerate(range(plan.first, size, plan.first), 2):
            futures.append(workers().submit(copy_block, number, start))
        blocks += [future.result() for future in futures]
    except sdk.HttpResponseError as error:
        if status_of(error) != _NOT_IMPLEMENTED:
            raise
        return False
    finally:
        wait([future for future in futures if not future.cancel()])
    with confirming_lost_response(container, new_path, options) as mark:
        metadata = {**(blob.metadata or {}), **mark}
        container.call("commit_block_list", new_path, blocks, metadata=metadata, **kept)
    return True


def _copy_timeout(container: ContainerGateway) -> float:
    """Return for how long a copy may say nothing, in seconds: the answer comes when all is copied."""
    return max(container.read_timeout, _COPY_TIMEOUT)
