"""Open blobs: keg-storage's three classes, built on the shared range reader and multipart writer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from azure.storage.blob import BlobClient

from ...files import RemoteFile
from ...multipart import MultipartWriter
from ...process_local import thread_pool
from ...range_download import MD5Check
from ...range_reader import RangeReader
from ...types import FileMode, WriteOptions
from ...validation import check_count
from .blob_metadata import info_of
from .client import is_plain_http
from .gateway import ContainerGateway
from .multipart import MAX_BLOCK, BlockUpload

CHUNK_SIZE = 5 * 1024 * 1024
CONCURRENCY = 8
_FIRST_REQUEST_SIZE = 64 * 1024

_workers = thread_pool(CONCURRENCY)


class AzureFile(RemoteFile):
    """An open blob; the base class of the reader and the writer.

    Args:
        mode: ``"r"`` or ``"w"``.
        blob_client: The SDK's client of the blob.
        chunk_size: The size of a range or block, in bytes.
    """

    def __init__(self, mode: FileMode | str, blob_client: BlobClient, chunk_size: int = CHUNK_SIZE) -> None:
        super().__init__(mode)
        self._set_client(blob_client, chunk_size)

    @property
    def buffer(self) -> bytes:
        """The bytes that were written and are not being sent yet; empty for a reader."""
        return b""

    def _set_client(self, blob_client: BlobClient, chunk_size: int) -> None:
        self.client = blob_client
        self.chunk_size = chunk_size


class AzureReader(AzureFile, RangeReader):
    """Reads a blob by ranges, all of one version; see :class:`~flask_storage.range_reader.RangeReader`.

    Opening requests the first 64 KiB, so a small blob costs one request. Over plain HTTP every range is compared
    with its MD5, and a blob that is read from beginning to end with the blob's MD5, if it has one.

    Args:
        mode: ``"r"``.
        blob_client: The SDK's client of the blob.
        chunk_size: The largest range of one request, in bytes.
        gateway: The gateway to the container, if the blob belongs to a storage.
        path: The path below the gateway's prefix.
        concurrency: How many ranges may be requested at the same time.
        workers: Returns the executor that requests them.
        whole: The whole blob will be read, from the beginning.

    Raises:
        FileNotFoundInStorageError: when there is no such blob (with a storage's gateway; otherwise the SDK's error).
        ValueError: when *chunk_size* is not a positive integer.
    """

    def __init__(
        self,
        mode: FileMode | str,
        blob_client: BlobClient,
        chunk_size: int = CHUNK_SIZE,
        *,
        gateway: ContainerGateway | None = None,
        path: str | None = None,
        concurrency: int = CONCURRENCY,
        workers: Callable[[], Executor] = _workers,
        whole: bool = False,
    ) -> None:
        _check_mode(mode, FileMode.read)
        check_count("chunk_size", chunk_size, 1)
        container = gateway or _gateway(blob_client)
        name = blob_client.blob_name if path is None else path
        head, blob = container.get_first_bytes(name, chunk_size if whole else min(_FIRST_REQUEST_SIZE, chunk_size))
        info = info_of(name, blob)
        md5 = info.checksums.get("md5") if container.check_content else None
        RangeReader.__init__(
            self,
            lambda start, stop, into: container.get_range(name, start, stop, into, blob),
            info,
            head=head,
            check=MD5Check(md5) if md5 else None,
            chunk_size=chunk_size,
            concurrency=concurrency,
            workers=workers,
            eager=whole,
        )
        self._set_client(blob_client, chunk_size)


class AzureWriter(AzureFile, MultipartWriter):
    """Writes a blob in blocks; see :class:`~flask_storage.multipart.MultipartWriter`. Closing makes it visible.

    Concurrent writes of one blob are never mixed: the writer that is closed second raises
    :class:`~flask_storage.errors.PreconditionFailedError`, because Azure has discarded its blocks by then. Content of
    at most *chunk_size* is stored by one request and cannot fail like this.

    Args:
        mode: ``"w"``.
        blob_client: The SDK's client of the blob.
        chunk_size: The size of a block, in bytes; at most 100 MiB.
        gateway: The gateway to the container, if the blob belongs to a storage.
        path: The path below the gateway's prefix.
        options: Headers, metadata and conditions of the write.
        concurrency: How many blocks may be sent at the same time.
        workers: Returns the executor that sends them.
        size: The size of the content in bytes, if it is known.

    Raises:
        ValueError: when *chunk_size* is not a positive integer.
    """

    def __init__(
        self,
        mode: FileMode | str,
        blob_client: BlobClient,
        chunk_size: int = CHUNK_SIZE,
        *,
        gateway: ContainerGateway | None = None,
        path: str | None = None,
        options: WriteOptions | None = None,
        concurrency: int = CONCURRENCY,
        workers: Callable[[], Executor] = _workers,
        size: int | None = None,
    ) -> None:
        _check_mode(mode, FileMode.write)
        check_count("chunk_size", chunk_size, 1)
        chunk_size = min(chunk_size, MAX_BLOCK)
        MultipartWriter.__init__(
            self,
            BlockUpload(gateway or _gateway(blob_client)),
            blob_client.blob_name if path is None else path,
            options or WriteOptions(),
            chunk_size=chunk_size,
            concurrency=concurrency,
            workers=workers,
            size=size,
        )
        self._set_client(blob_client, chunk_size)

    @property
    def buffer(self) -> bytes:
        """The bytes that were written and are not being sent yet."""
        return bytes(self._buffer if self._full_part is None else self._full_part)


def _check_mode(mode: FileMode | str, wanted: FileMode) -> None:
    if FileMode.as_mode(mode) != wanted:
        raise ValueError(f"this class opens files with mode {str(wanted)!r}, not {str(FileMode.as_mode(mode))!r}")


def _gateway(client: BlobClient) -> ContainerGateway:
    def get_client(_name: str, **_: Any) -> BlobClient:
        return client

    return ContainerGateway(client.container_name, "azure", get_client, check_content=is_plain_http(client.url))
