"""Deletions: one blob, or many by batch requests."""

from __future__ import annotations

from collections.abc import Sequence

from azure.core import exceptions as sdk
from azure.storage.blob import ContainerClient

from ...errors import StorageError
from .blob_metadata import if_unchanged
from .errors import code_of, error_of, known_code
from .gateway import ContainerGateway, translating_parse_errors

_BATCH_SIZE = 256
"""The limit of one request: https://learn.microsoft.com/rest/api/storageservices/blob-batch"""


def delete_blob(container: ContainerGateway, path: str, *, if_match: str | None = None) -> None:
    """Delete a blob with its snapshots; a missing one is no error.

    Args:
        container: The gateway.
        path: The blob.
        if_match: The etag of the version to delete. Another version stays, which is no error either.
    """
    conditions = {} if if_match is None else if_unchanged(if_match)
    try:
        container.call("delete_blob", path, delete_snapshots="include", **conditions)
    except sdk.HttpResponseError as error:
        code = code_of(error)
        if code != "BlobNotFound" and not (conditions and code == "ConditionNotMet"):
            raise


def delete_blobs(client: ContainerClient, container: ContainerGateway, paths: Sequence[str]) -> dict[str, StorageError]:
    """Delete blobs with their snapshots, and return the error of each that could not be deleted."""
    failed: dict[str, StorageError] = {}
    for start in range(0, len(paths), _BATCH_SIZE):
        batch = paths[start : start + _BATCH_SIZE]
        keys = [container.key(path) for path in batch]
        with translating_parse_errors():
            responses = list(client.delete_blobs(*keys, delete_snapshots="include", raise_on_any_failure=False))
            if len(responses) != len(batch):
                raise ValueError("the batch has not one response for each blob")
        for path, response in zip(batch, responses, strict=True):
            service_code = response.headers.get("x-ms-error-code", "")
            code = known_code(service_code, response.status_code)
            if response.status_code >= 300 and code != "BlobNotFound":
                failed[path] = error_of(code, path, container.name, container.storage, service_code=service_code)
    return failed
