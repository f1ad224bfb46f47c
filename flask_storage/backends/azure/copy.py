"""Server-side copies: the service reads the source itself, and no content passes through this process."""

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
from .errors import code_of, service_code_of, status_of
from .gateway import ContainerGateway
from .multipart import BlockUpload, block_name, confirming_lost_response
from .sas import AzureSasBuilder

MAX_SINGLE_COPY = 256 * 1024 * 1024
"""One call copies no more: https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url"""
_PART = 64 * 1024 * 1024
_NOT_IMPLEMENTED = 501
_MAX_URL_LENGTH = 2048
"""Of a source: https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url#request-headers"""
_SOURCE_ERRORS = {"BlobArchived", "BlobBeingRehydrated", "BlobNotFound", "SourceConditionNotMet"}
_COPY_TIMEOUT = 300.0
"""The read time-out of one copy call, in seconds: 256 MiB from another region take longer than other requests."""
_SINGLE_COPY_URL_LIFETIME = timedelta(minutes=20)
"""Enough for two attempts; the service tolerates a clock difference of 15 minutes."""
_BLOCK_COPY_URL_LIFETIME = timedelta(days=1)


def copy_blob(
    container: ContainerGateway,
    path: str,
    new_path: str,
    options: WriteOptions,
    workers: Callable[[], Executor],
    sas_builder: AzureSasBuilder,
    blob: BlobProperties,
    *,
    max_single_copy: int = MAX_SINGLE_COPY,
) -> bool:
    """Copy one version of a blob, with its headers and metadata; fail if the blob was replaced.

    Args:
        container: The gateway of the target.
        path: The source.
        new_path: The target, which is replaced atomically.
        options: Conditions of the target.
        workers: Returns the executor that runs the block copies.
        sas_builder: Builds the URL by which the service may read the source.
        blob: The properties of the version.
        max_single_copy: Up to this size, in bytes, one call copies the blob; a larger one is copied in blocks.

    Returns:
        Whether the blob was copied. It is not copied if the source URL is too long, if the blob is empty and would have
        to be copied in blocks, or if the server (an emulator) does not support block copies.
    """
    # Readers of the copy can see its source URL with the signature (x-ms-copy-source). So a URL that we sign is valid
    # for minutes only; with a SAS of unknown scope, we copy in blocks, which discloses no URL.
    in_blocks = blob.size > max_single_copy or sas_builder.uses_configured_sas
    url = sas_builder.source_url(path, _BLOCK_COPY_URL_LIFETIME if in_blocks else _SINGLE_COPY_URL_LIFETIME)
    if len(url) > _MAX_URL_LENGTH or (in_blocks and not blob.size):
        return False
    unchanged = {"source_etag": blob.etag, "source_match_condition": MatchConditions.IfNotModified}
    if not in_blocks:
        arguments = {"requires_sync": True, **unchanged, **container.settings.stored, **condition_arguments(options)}
        with confirming_lost_response(container, new_path, options) as write_id:
            if write_id:  # a copy with metadata arguments does not inherit the source's metadata
                arguments["metadata"] = {**(blob.metadata or {}), **write_id}
            container.call("start_copy_from_url", new_path, url, **arguments, read_timeout=_copy_timeout(container))
        return True
    return _copy_in_blocks(container, new_path, url, blob, options, workers)


def is_source_error(error: sdk.HttpResponseError) -> bool:
    """Return whether the error of a copy is about its source; all others are about its target."""
    return service_code_of(error) == "CannotVerifyCopySource" or code_of(error) in _SOURCE_ERRORS


def _copy_in_blocks(
    container: ContainerGateway,
    new_path: str,
    url: str,
    blob: BlobProperties,
    options: WriteOptions,
    workers: Callable[[], Executor],
) -> bool:
    size = int(blob.size)
    # The service supports conditions on the source of a block; the SDK has no argument for them.
    condition = {"x-ms-source-if-match": str(blob.etag)}
    # A copy keeps the source's headers and metadata; the profile's defaults are only for new files.
    arguments = {"content_settings": blob.content_settings, **container.settings.stored, **condition_arguments(options)}
    sizing = PartSizing.for_upload(BlockUpload.limits, _PART, size)
    upload_id = new_upload_id()

    def copy_block(number: int, start: int) -> BlobBlock:
        name = block_name(upload_id, number)
        source: dict[str, Any] = {"source_offset": start, "source_length": min(sizing.first, size - start)}
        source |= {"headers": condition, "read_timeout": _copy_timeout(container)}
        container.call("stage_block_from_url", new_path, name, url, **source, **container.settings.stored)
        return BlobBlock(name)

    futures: list[Future[BlobBlock]] = []
    try:
        blocks = [copy_block(1, 0)]
        for number, start in enumerate(range(sizing.first, size, sizing.first), 2):
            futures.append(workers().submit(copy_block, number, start))
        blocks += [future.result() for future in futures]
    except sdk.HttpResponseError as error:
        if status_of(error) != _NOT_IMPLEMENTED:
            raise
        return False
    finally:
        wait([future for future in futures if not future.cancel()])
    with confirming_lost_response(container, new_path, options) as write_id:
        metadata = {**(blob.metadata or {}), **write_id}
        container.call("commit_block_list", new_path, blocks, metadata=metadata, **arguments)
    return True


def _copy_timeout(container: ContainerGateway) -> float:
    """Return the read time-out of a copy, in seconds: the service responds only when everything is copied."""
    return max(container.read_timeout, _COPY_TIMEOUT)
