"""A container of a private Azurite, near or far, and the clients of all contenders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from .distance import Distance
from .peers import ADLFS, OBSTORE
from .remote import away


@dataclass(frozen=True)
class Container:
    """A container with its address and credentials. All contenders are given the same."""

    url: str
    """Of the account."""
    account: str
    key: str = field(repr=False)
    container: str
    distance: Distance | None = None
    put_headers: Mapping[str, str] = field(default_factory=lambda: {"x-ms-blob-type": "BlockBlob"})

    def ours(self, **settings: Any) -> Any:
        """Return our storage, with its client made: every contender's client is made before the clock runs."""
        import arrow  # noqa: F401 - a storage imports it with its first date

        from flask_storage import AzureStorage

        storage = AzureStorage(self.account, self.key, self.container, endpoint_url=self.url, **settings)
        assert storage.client is not None
        return storage

    def unchecked(self) -> Any:
        """Return ours as it is over HTTPS, without MD5: the peers compute none over plain HTTP either."""
        return self.ours(check_content=False)

    def sdk(self) -> Any:
        """Return the SDK's client, with its defaults."""
        from azure.storage.blob import ContainerClient

        credential = {"account_name": self.account, "account_key": self.key}
        return ContainerClient(self.url, self.container, credential=credential)

    def adlfs(self) -> Any:
        """Return adlfs's file system."""
        scheme = urlsplit(self.url).scheme
        return ADLFS.load().AzureBlobFileSystem(
            account_name=self.account,
            connection_string=f"DefaultEndpointsProtocol={scheme};AccountName={self.account};"
            f"AccountKey={self.key};BlobEndpoint={self.url};",
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def obstore(self) -> Any:
        """Return obstore's store."""
        OBSTORE.load()
        from obstore.store import AzureStore  # type: ignore[import-not-found,import-untyped,unused-ignore] # a peer

        return AzureStore(
            self.container,
            account_name=self.account,
            account_key=self.key,
            endpoint=self.url,
            client_options={"allow_http": True},
        )

    def sizes(self) -> Callable[[str], int]:
        """Return what tells how large a blob is; its client is made now and not when it is asked."""
        client = self.sdk()
        return lambda key: int(client.get_blob_client(key).get_blob_properties().size)

    def counts(self) -> Callable[[], int]:
        """Return what tells how many blobs there are."""
        client = self.sdk()
        return lambda: sum(1 for _ in client.list_blob_names())

    def addresses(self) -> Callable[[str, str], str]:
        """Return what signs the address of a blob for a method."""
        from azure.storage.blob import generate_blob_sas

        expiry = datetime.now(UTC) + timedelta(hours=1)

        def address(method: str, key: str) -> str:
            permission = {"GET": "r", "PUT": "cw"}[method]
            signature = generate_blob_sas(
                self.account, self.container, key, account_key=self.key, permission=permission, expiry=expiry
            )
            return f"{self.url}/{self.container}/{quote(key)}?{signature}"

        return address


@contextlib.contextmanager
def running(*, far: bool = False, counted: bool = False) -> Iterator[Container]:
    """Run an Azurite that has an empty container, and yield it.

    Args:
        far: Behind a proxy that delays and limits.
        counted: Behind a proxy that does nothing but count.
    """
    # They belong to the tests' dependencies, and only these tasks need them.
    from tests.services.azurite import Azurite
    from tests.services.s3_servers import start_with_retry

    azurite = start_with_retry(Azurite)
    try:
        server = azurite.server
        container = server.make_container()
        address = urlsplit(server.url)
        assert address.port is not None
        with away(address.port, far=far, counted=counted) as distance:
            url = f"http://127.0.0.1:{distance.port}{address.path}" if distance else server.url
            yield Container(url, server.account, server.key, container, distance)
    finally:
        azurite.close(keep_log=False)
