"""A storage in a fresh container of one of the Azurite servers that the tests start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask_storage import AzureStorage

if TYPE_CHECKING:
    from tests.services.azurite import AzureServer


def place(
    server: AzureServer, *, bucket: str | None = None, kind: type[AzureStorage] = AzureStorage, **arguments: Any
) -> AzureStorage:
    """Return a storage on *server*, in a container of its own unless one is named.

    Args:
        server: Which one.
        bucket: The name of a container that exists.
        kind: The storage's class.
        **arguments: Of the storage, in place of ours.
    """
    ours: dict[str, Any] = {"verify": str(server.ca)}
    if not {"connection_string", "sas_container_url", "sas_blob_url"} & set(arguments):
        ours["endpoint_url"] = server.url
        if "credential" not in arguments:
            ours |= {"account": server.account, "key": server.key}
    if not {"sas_container_url", "sas_blob_url"} & set(arguments):
        ours["bucket"] = bucket or server.make_container()
    return kind(**{**ours, **arguments})


def left_in(storage: AzureStorage) -> list[str]:
    """Return the names of the hidden blobs that unfinished uploads have left, as Azure's own client sees them."""
    return [blob.name for blob in storage.client.list_blobs() if "/.fs-" in f"/{blob.name}"]
