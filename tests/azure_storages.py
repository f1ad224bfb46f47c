"""Storages in new containers of the Azurite servers that the tests start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask_storage import AzureStorage

if TYPE_CHECKING:
    from tests.services.azurite import AzureServer


def make_storage(
    server: AzureServer,
    *,
    bucket: str | None = None,
    storage_class: type[AzureStorage] = AzureStorage,
    **arguments: Any,
) -> AzureStorage:
    """Return a storage on *server*, in a new container unless *bucket* is given.

    Args:
        server: The server.
        bucket: The name of an existing container.
        storage_class: The class of the storage.
        **arguments: Arguments of the storage; they override the defaults.
    """
    defaults: dict[str, Any] = {"verify": str(server.ca)}
    if not {"connection_string", "sas_container_url", "sas_blob_url"} & set(arguments):
        defaults["endpoint_url"] = server.url
        if "credential" not in arguments:
            defaults |= {"account": server.account, "key": server.key}
    if not {"sas_container_url", "sas_blob_url"} & set(arguments):
        defaults["bucket"] = bucket or server.make_container()
    return storage_class(**{**defaults, **arguments})


def leftovers(storage: AzureStorage) -> list[str]:
    """Return the names of the hidden blobs of unfinished uploads, as the SDK's own client lists them."""
    return [blob.name for blob in storage.client.list_blobs() if "/.fs-" in f"/{blob.name}"]
