"""Open blobs: the seed's three classes, on the machinery that every remote place shares."""

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
_FIRST = 64 * 1024

_workers = thread_pool(CONCURRENCY)


class AzureFile(RemoteFile):
    """What an open blob has, whether it is read or written.

    Args:
        mode: What it is opened for.
        blob_client: The SDK's client of the blob.
        chunk_size: How much travels at a time, in bytes.
    """

    def __init__(self, mode: FileMode | str, blob_client: BlobClient, chunk_size: int = CHUNK_SIZE) -> None:
        super().__init__(mode)
        self._belong(blob_client, chunk_size)

    @property
    def buffer(self) -> bytes:
        """What was written and is not on its way yet; of a file that is read, nothing."""
        return b""

    def _belong(self, blob_client: BlobClient, chunk_size: int) -> None:
        self.client = blob_client
        self.chunk_size = chunk_size


class AzureReader(AzureFile, RangeReader):
    """Reads a blob by ranges, all of one version; see :class:`~flask_storage.range_reader.RangeReader`.

    Opening brings the first 64 KiB along, so a small blob costs one request. Over plain HTTP every range is compared
    with its MD5, and what is read from beginning to end with that of the blob, where it has one.

    Args:
        mode: ``"r"``.
        blob_client: The SDK's client of the blob.
        chunk_size: The largest range asked for at once, in bytes.
        gateway: The container, where there is more to know than the client knows.
        path: The path below the gateway's prefix.
        concurrency: How many ranges may be on their way at once.
        workers: Gives the threads that fetch them.
        whole: All of it will be read, from the beginning.

    Raises:
        FileNotFoundInStorageError: when there is no such blob (behind a storage's gateway; else the SDK's own error).
        ValueError: when *chunk_size* is no size.
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
        head, blob = container.get_first_bytes(name, chunk_size if whole else min(_FIRST, chunk_size))
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
        self._belong(blob_client, chunk_size)


class AzureWriter(AzureFile, MultipartWriter):
    """Writes a blob in blocks; see :class:`~flask_storage.multipart.MultipartWriter`. It is visible when it is closed.

    A file that is written by somebody else while this one is open is not mixed up with it: whoever ends second is told
    so by a :class:`~flask_storage.errors.PreconditionFailedError`, as Azure has forgotten its blocks by then. Content
    of no more than *chunk_size* is stored by one request and knows no such trouble.

    Args:
        mode: ``"w"``.
        blob_client: The SDK's client of the blob.
        chunk_size: The size of a block, in bytes; at most 100 MiB.
        gateway: The container, where there is more to know than the client knows.
        path: The path below the gateway's prefix.
        options: How the blob is written.
        concurrency: How many blocks may be on their way at once.
        workers: Gives the threads that send them.
        size: How much will come, as far as anybody knows.

    Raises:
        ValueError: when *chunk_size* is no size.
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
        self._belong(blob_client, chunk_size)

    @property
    def buffer(self) -> bytes:
        """What was written and is not on its way yet."""
        return bytes(self._buffer if self._full_part is None else self._full_part)


def _check_mode(mode: FileMode | str, wanted: FileMode) -> None:
    if FileMode.as_mode(mode) != wanted:
        raise ValueError(f"this file is opened with {str(wanted)!r}, not {str(FileMode.as_mode(mode))!r}")


def _gateway(client: BlobClient) -> ContainerGateway:
    def the_one(_name: str, **_: Any) -> BlobClient:
        return client

    return ContainerGateway(client.container_name, "azure", the_one, check_content=is_plain_http(client.url))
