"""Storage of files as block blobs in a container of Azure Blob Storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult, unquote

from azure.core import exceptions as sdk
from azure.storage.blob import ContainerClient

from ...diagnostics import Diagnostics
from ...errors import (
    ConfigurationError,
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidPathError,
    PreconditionFailedError,
    StorageError,
)
from ...multipart import MultipartStore
from ...paths import MAX_PATH_BYTES
from ...process_local import thread_pool
from ...streams import SupportsRead, SupportsWrite, copy_chunks, remaining_size
from ...types import (
    Capabilities,
    FileInfo,
    ListEntry,
    ProgressCallback,
    ShareLinkOperation,
    WriteOptions,
)
from ...validation import (
    parse_ca,
    parse_connections,
    parse_http_url,
    parse_int,
    parse_mapping,
    parse_optional_bool,
    parse_optional_text,
    parse_seconds,
)
from .account import blob_prefix, ends_in_dot, metadata_of, resolve_account
from .blob_metadata import info_of, is_block_blob, problem_of_upload, unquoted_etag
from .client import Clients, ClientSettings, is_plain_http
from .copy import copy_blob, is_source_error
from .delete import delete_blob, delete_blobs
from .diagnosis import diagnostics_of
from .errors import translate_error
from .files import CHUNK_SIZE, CONCURRENCY, AzureReader, AzureWriter
from .gateway import BlobSettings, ContainerGateway
from .link_operations import AzureLinkOperations
from .listing import details_of, entries_of, names_of
from .multipart import MAX_BLOCK, AzureMultipart
from .sas import AzureSasBuilder

_LINK_CONSTRAINTS = frozenset({"disposition", "exclusive", "ip"})


class AzureStorage(AzureLinkOperations):
    """A storage in a container of Azure Blob Storage.

    The constructor sends no request. A storage may be shared between threads and created before a fork. Every upload or
    download holds at most ``chunk_size * (concurrency + 1)`` bytes in memory, whatever the size of the file; blocks
    grow only for an upload of unknown size with more than 10,000 of them.

    If two clients write the same file concurrently, one of them gets a
    :class:`~flask_storage.errors.PreconditionFailedError`: Azure keeps the uncommitted blocks of a blob only until
    another write of it ends. Writes of at most *chunk_size* bytes are one request each, and the last one wins.

    Args:
        account: The name of the account. *account*, *key* and *bucket* are the first connection method; the others are
            *credential*, *connection_string*, *sas_container_url* and *sas_blob_url*.
        key: The account's access key.
        bucket: The name of the container; ``container`` in profiles.
        sas_container_url: The URL of a container with a shared access signature. It cannot sign links.
        sas_blob_url: The URL of a single blob with a shared access signature; the storage has only this file.
        chunk_size: The size of a block and of a range that is read ahead, in bytes; at most 100 MiB.
        name: See :class:`~flask_storage.StorageBackend`.
        credential: A credential object of ``azure.identity``, or ``"DefaultAzureCredential"``. Links are then signed
            with a user delegation key, which is valid for seven days at most.
        connection_string: The connection string in the portal; ``"UseDevelopmentStorage=true"`` is Azurite.
        endpoint_url: The URL of the account if it is not ``https://ACCOUNT.blob.core.windows.net``: another
            cloud, or Azurite (``http://127.0.0.1:10000/devstoreaccount1``).
        prefix: A directory of the container to which the storage is confined.
        content_type: The content type of files without one whose name does not imply one.
        guess_content_type: Whether to guess the content type from the name.
        cache_control: The Cache-Control of files without one.
        metadata: Keys and values that are added to the metadata of every file.
        encryption_scope: The encryption scope of written files; by default the container's own.
        concurrency: How many blocks or ranges of one upload or download are transferred at the same time.
        check_content: Whether to send and compare an MD5 with all content. By default only over plain HTTP: TLS
            protects its content, and MD5 costs time.
        connect_timeout: In seconds; also the limit for how long sending may stall.
        read_timeout: How long, in seconds, the service may send nothing.
        max_attempts: How often a request is attempted in total.
        max_connections: How many connections to the service one process opens.
        retry_policy: A retry policy of the SDK, instead of *max_attempts*.
        verify: The file of a certificate authority, or False (for tests) to trust any certificate.
        client_options: Further keyword arguments of the SDK's clients (``api_version``, ``proxies``), no ``transport``.
        base_url: The public URL of the root (a CDN, a public container), for :meth:`url`.
        link_endpoint_url: The URL of the account for browsers, if it is not *endpoint_url*.
        link_https_only: Whether the service refuses links over plain HTTP; by default, if that URL is https.
        portable: See :class:`~flask_storage.StorageBackend`.

    Raises:
        ConfigurationError: when the arguments are invalid; errors that only the service can detect are raised by the
            first operation.
    """

    def __init__(
        self,
        account: str | None = None,
        key: str | None = None,
        bucket: str | None = None,
        sas_container_url: str | None = None,
        sas_blob_url: str | None = None,
        chunk_size: int = CHUNK_SIZE,
        name: str = "azure",
        *,
        credential: Any = None,
        connection_string: str | None = None,
        endpoint_url: str | None = None,
        prefix: str = "",
        content_type: str | None = None,
        guess_content_type: bool = True,
        cache_control: str | None = None,
        metadata: dict[str, str] | None = None,
        encryption_scope: str | None = None,
        concurrency: int = CONCURRENCY,
        check_content: bool | None = None,
        connect_timeout: float = 10,
        read_timeout: float = 15,
        max_attempts: int = 3,
        max_connections: int = 50,
        retry_policy: Any = None,
        verify: bool | str | None = None,
        client_options: dict[str, Any] | None = None,
        base_url: str | None = None,
        link_endpoint_url: str | None = None,
        link_https_only: bool | None = None,
        portable: bool = False,
    ) -> None:
        super().__init__(name, base_url=base_url, portable=portable)
        self._account = resolve_account(
            account,
            key,
            bucket,
            sas_container_url,
            sas_blob_url,
            credential=credential,
            connection_string=connection_string,
            endpoint_url=endpoint_url,
        )
        self.bucket = self._account.container
        self._chunk_size = min(parse_int("chunk_size", chunk_size, 1), MAX_BLOCK)
        self._concurrency = parse_int("concurrency", concurrency, 1)
        settings = ClientSettings(
            connect_timeout=parse_seconds("connect_timeout", connect_timeout),
            read_timeout=parse_seconds("read_timeout", read_timeout),
            max_attempts=parse_int("max_attempts", max_attempts, 1),
            max_connections=parse_connections("max_connections", max_connections),
            verify=parse_ca("verify", verify),
            retry_policy=retry_policy,
            options=parse_mapping("client_options", client_options),
        )
        self._clients = Clients(self._account, settings)
        self._workers = thread_pool(settings.max_connections)
        check_content = parse_optional_bool("check_content", check_content)
        scope = parse_optional_text("encryption_scope", encryption_scope)
        guesses = parse_optional_bool("guess_content_type", guess_content_type) is not False
        content_type = parse_optional_text("content_type", content_type)
        cache_control = parse_optional_text("cache_control", cache_control)
        self._gateway = ContainerGateway(
            self.bucket,
            name,
            self._clients.blob,
            prefix=blob_prefix(prefix),
            settings=BlobSettings(
                stored={"encryption_scope": scope} if scope else {},
                metadata=metadata_of(metadata, content_type, cache_control),
                content_type=content_type,
                cache_control=cache_control,
                guess_content_type=guesses,
            ),
            check_content=is_plain_http(self._account.url) if check_content is None else check_content,
            read_timeout=settings.read_timeout,
            attempts=settings.max_attempts,
        )
        self._sas_builder = AzureSasBuilder(
            self._gateway,
            self._account,
            self._clients,
            endpoint_url=parse_http_url("link_endpoint_url", link_endpoint_url),
            https_only=parse_optional_bool("link_https_only", link_https_only),
        )
        signs = self._account.key is not None or self._account.credential is not None
        self.capabilities = Capabilities(
            exclusive=True,
            if_match=True,
            copy_conditions=True,
            multipart_conditions=True,
            multipart_headers=True,
            content_headers=True,
            metadata=True,
            guesses_content_type=guesses,
            concurrent_writes=False,
            links=~ShareLinkOperation(0) if signs else ShareLinkOperation(0),
            link_combinations=True,
            link_constraints=_LINK_CONSTRAINTS if signs else frozenset(),
            upload_constraints=_LINK_CONSTRAINTS if signs else frozenset(),
            multipart=self._account.blob is None,
            server_side_copy=True,
        )

    capabilities = Capabilities()

    argument_aliases: ClassVar[Mapping[str, str]] = {"container": "bucket"}

    @classmethod
    def from_url(cls, url: SplitResult, options: dict[str, Any]) -> Self:
        """Return the storage of ``azure://account/container/prefix?endpoint_url=…``; the query contains arguments.

        Raises:
            ConfigurationError: when the URL has no account or no container, or contains a password.
        """
        container, _, prefix = url.path.strip("/").partition("/")
        if not (url.netloc and container) or "@" in url.netloc or ":" in url.netloc:
            raise ConfigurationError(
                "the URL of an Azure storage must be azure://account/container/prefix; pass credentials as arguments"
            )
        if prefix:
            options.setdefault("prefix", unquote(prefix))
        return cls(url.netloc, bucket=unquote(container), **options)

    @property
    def client(self) -> ContainerClient:
        """This process's client of the SDK."""
        return self._clients.container()

    # -- listing and information --------------------------------------------------------------------------------------

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        return self._list_prefix(f"{path}/" if path else "", recursive)

    def _list_prefix(self, prefix: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        return entries_of(self.client, self._gateway, prefix, recursive)

    def _list_details(self, path: str, recursive: bool, prefix: str | None) -> Iterator[FileInfo]:
        start = (f"{path}/" if path else "") if prefix is None else prefix
        return details_of(self.client, self._gateway, start, recursive)

    def _stat(self, path: str) -> FileInfo:
        return info_of(path, self._gateway.head(path))

    # -- content ------------------------------------------------------------------------------------------------------

    def _open_reader(self, path: str, *, whole: bool = False) -> AzureReader:
        return AzureReader(
            "r",
            self._clients.blob(self._gateway.key(path)),
            self._chunk_size,
            gateway=self._gateway,
            path=path,
            concurrency=self._concurrency,
            workers=self._workers,
            whole=whole,
        )

    def _open_writer(self, path: str, options: WriteOptions, *, size: int | None = None) -> AzureWriter:
        return AzureWriter(
            "w",
            self._clients.blob(self._gateway.key(path)),
            self._chunk_size,
            gateway=self._gateway,
            path=path,
            options=options,
            concurrency=self._concurrency,
            workers=self._workers,
            size=size,
        )

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        with self._writer(path, options, partial(self._open_writer, size=remaining_size(file_obj))) as writer:
            # Full blocks are passed on without a copy in memory.
            copy_chunks(file_obj, writer, progress, chunk_size=writer.iter_chunk_size)

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        with self._reader(path, partial(self._open_reader, whole=True)) as reader:
            copy_chunks(reader, file_obj, progress, chunk_size=reader.iter_chunk_size)

    def _multipart(self) -> MultipartStore:
        if not self.capabilities.multipart:
            return super()._multipart()
        return AzureMultipart(self._gateway, self._clients.container)

    # -- copy and delete ----------------------------------------------------------------------------------------------

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        self._copy_version(self, path, new_path, options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        etag = self._copy_version(self, path, new_path, options)
        delete_blob(self._gateway, path, if_match=etag)

    def copy_from(
        self, other: AzureStorage, path: str, new_path: str, *, exclusive: bool = False, if_match: str | None = None
    ) -> None:
        """Copy a file of another container or account into this storage, with its headers and metadata.

        The copy is server-side where the service supports it: it reads the source by a short-lived link of *other*, or
        by the SAS that *other* is configured with, and no content passes through this process.

        Args:
            other: The storage of the source.
            path: The path of the source in *other*.
            new_path: The target, which is replaced atomically.
            exclusive: Fail if the target exists.
            if_match: Fail unless the target has this etag.

        Raises:
            FileNotFoundInStorageError: when there is no file under *path*.
            FileExistsInStorageError, PreconditionFailedError: when the condition fails; the target is unchanged.
            PermissionDeniedError: when the source cannot be read or the target cannot be written.
            TypeError: when *other* is not an :class:`AzureStorage`.

        Example::

            storage.copy_from(archive, "film.mp4", "films/film.mp4")
        """
        if not isinstance(other, AzureStorage):
            raise TypeError("copy_from() copies from another AzureStorage; for any other backend, open() both files")
        path, new_path = other._path(path), self._path(new_path)
        options = WriteOptions(exclusive=exclusive, if_match=if_match)
        self._check_conditions(options)
        self._copy_version(other, path, new_path, options)
        self._notify_stored(new_path)

    def _copy_version(self, source: AzureStorage, path: str, new_path: str, options: WriteOptions) -> str | None:
        """Copy a file of *source*, and return the etag of the version that was copied."""
        with source._error_translator(path):
            blob = source._gateway.head(path)
            if not is_block_blob(blob):
                raise PreconditionFailedError(
                    f"{path} is an append blob or a page blob, and Azure copies only block blobs: read it, and write "
                    "its content to the new path"
                )
        with self._error_translator(new_path), _translating_source_errors(source, path):
            if copy_blob(self._gateway, path, new_path, options, self._workers, source._sas_builder, blob):
                return unquoted_etag(blob)
        return source._stream_to(self, path, new_path, options).etag

    def _check_uploaded(self, path: str) -> None:
        problem = problem_of_upload(self._gateway.head(path))
        if problem is not None:
            raise IntegrityError(f"{problem}; it was deleted")

    def _delete(self, path: str) -> None:
        delete_blob(self._gateway, path)

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        if self._account.blob is not None:
            return super()._delete_many(paths)
        return delete_blobs(self.client, self._gateway, paths)

    def _delete_prefix(self, path: str) -> int:
        count = 0
        for names in names_of(self.client, self._gateway, f"{path}/"):
            for error in self._delete_many(names).values():
                raise error
            count += sum(not name.endswith("/") for name in names)  # a tool's marker of a directory is not a file
        return count

    def _sweep(self, before: datetime) -> int:
        if not self.capabilities.multipart:
            return 0  # the SAS of a single blob allows no manifests
        return AzureMultipart(self._gateway, self._clients.container).abort_older(before, sdk.HttpResponseError)

    def _check(self) -> None:
        if self._account.blob is None:
            super()._check()
        else:
            # The SAS allows access to this file only, which may not exist yet.
            with suppress(FileNotFoundInStorageError), self._error_translator():
                self._stat(self._gateway.path(self._account.blob))

    def _diagnostics(self, origin: str) -> Diagnostics:
        return diagnostics_of(self._account, origin)

    def _close(self) -> None:
        pool = self._workers.pop()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        self._clients.close()

    # -- paths and errors ----------------------------------------------------------------------------------------------

    def _path(self, path: str) -> str:
        path = super()._path(path)
        if len(self._gateway.key(path).encode()) > MAX_PATH_BYTES:
            raise InvalidPathError(f"the path with its prefix is longer than {MAX_PATH_BYTES} bytes", path=path)
        if ends_in_dot(path):
            raise InvalidPathError(
                f"{path} has a segment that ends in a dot, which Azure drops: choose another name", path=path
            )
        if self._account.blob not in (None, self._gateway.key(path)):
            raise InvalidPathError("Invalid path for the configured SAS blob URL", path=path)
        return path

    def _is_listed(self, name: str) -> bool:
        return super()._is_listed(name) and not ends_in_dot(name)

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        return translate_error(error, path, self.bucket, self.name)


@contextmanager
def _translating_source_errors(source: AzureStorage, path: str) -> Iterator[None]:
    """Raise the errors of a copy that are about its source with the name of the source."""
    try:
        yield
    except sdk.HttpResponseError as error:
        if not is_source_error(error):
            raise
        with source._error_translator(path):
            raise
