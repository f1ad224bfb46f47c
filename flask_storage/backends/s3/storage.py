"""The storage backend for S3 and S3-compatible services."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult, unquote

from botocore import exceptions as sdk

from ...diagnostics import Diagnostics
from ...errors import (
    ConfigurationError,
    InvalidPathError,
    StorageError,
)
from ...multipart import MultipartStore
from ...paths import MAX_PATH_BYTES, directory_prefix
from ...process_local import thread_pool
from ...streams import SupportsRead, SupportsWrite, copy_chunks, remaining_size
from ...types import (
    Capabilities,
    FileInfo,
    ListEntry,
    ProgressCallback,
    WriteOptions,
)
from ...validation import (
    parse_ca,
    parse_choice,
    parse_connections,
    parse_http_url,
    parse_int,
    parse_optional_bool,
    parse_optional_text,
    parse_seconds,
)
from .client import Clients, ClientSettings
from .copy import copy_object, delete_version
from .diagnosis import diagnostics_of
from .endpoint import check_endpoint, parse_bucket, parse_region
from .errors import error_of, translate_error
from .files import CHUNK_SIZE, CONCURRENCY, S3Reader, S3Writer
from .gateway import BucketGateway, ObjectSettings
from .link_operations import S3LinkOperations
from .listing import details_of, entries_of, stat_object
from .multipart import MIN_PART, S3Multipart
from .presets import ADDRESSING, CHECKSUMS, S3Preset, capabilities_of, preset_of
from .presign import S3Presigner
from .responses import etag_of, translating_parse_errors
from .settings import customer_arguments, key_pair, rounding_of, stored_arguments

# Characters that XML 1.0 cannot represent, or changes. Paths do not have them, but keys of other programs may.
_NOT_IN_XML = re.compile("[\x00-\x1f\ufffe\uffff]")


class S3Storage(S3LinkOperations):
    """Stores files as objects of a bucket.

    The constructor sends no request to the service. A storage is thread-safe, and may be created before a fork. An
    upload or download holds at most ``chunk_size * (concurrency + 1)`` bytes in memory, whatever the size of the file;
    parts grow only for an upload of unknown size with more than 2,000 of them.

    Args:
        bucket: The name of the bucket.
        aws_region: The region of the bucket; boto3's default region without one.
        aws_access_key_id: The access key, with *aws_secret_access_key*. Without keys, boto3's credential chain is used:
            environment, ``~/.aws``, web identity, container or instance role.
        aws_secret_access_key: The secret key.
        aws_profile: A profile of ``~/.aws/config`` to use instead of keys.
        name: See :class:`~flask_storage.StorageBackend`.
        aws_session_token: The session token of explicit temporary credentials.
        endpoint_url: The endpoint of a service other than AWS; by default that of boto3's configuration
            (``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``~/.aws/config``), as it is when the storage is created.
        preset: The behavior of the service: ``"aws"``, ``"minio"``, ``"r2"``, ``"b2"``, ``"gcs"``, ``"ceph"``,
            ``"spaces"``, ``"wasabi"``, or an :class:`~flask_storage.S3Preset`. The default depends on the endpoint of
            the client: AWS, or settings that are safe with every S3-compatible service.
        prefix: A directory of the bucket to which the storage is confined.
        addressing_style: ``"virtual"``, ``"path"`` or ``"auto"``; by default that of the preset.
        checksums: ``"when_supported"`` or ``"when_required"``; by default that of the preset.
        verify_downloads: Whether to compare content that is read completely with its ETag or checksum. By default only
            over plain HTTP: TLS protects its content, and MD5 costs time.
        server_side_encryption: ``"AES256"`` or ``"aws:kms"``; by default that of the bucket.
        kms_key_id: The KMS key for ``"aws:kms"``.
        customer_key: A customer-provided key that encrypts every object, as 32 bytes or their base64. The service does
            not store the key, and the storage cannot sign links.
        storage_class: For example ``"STANDARD_IA"``.
        acl: For example ``"public-read"``; by default no ACL is sent.
        content_type: The content type of files for which none is given or guessed.
        guess_content_type: Whether to guess content types from names.
        cache_control: The ``Cache-Control`` header of files for which none is given.
        chunk_size: The size of a part, and of a range that is fetched ahead, in bytes; at least 5 MiB.
        concurrency: The number of parts or ranges that one upload or download transfers concurrently.
        session: Your own boto3 session, for its credentials.
        client: Your own boto3 client. Arguments for region, credentials, endpoint, time-outs, attempts, connections and
            certificates then have no effect or raise an error.
        connect_timeout: The time-out of connecting, and of sending data, in seconds.
        read_timeout: The longest time, in seconds, without data from the service.
        max_attempts: The number of attempts of a request, the first included.
        max_connections: The number of connections of one process to the service.
        verify: The file of a certificate authority, or False (for tests) to accept any certificate.
        base_url: The public URL of the root (a CDN, a public bucket), for :meth:`url`.
        link_credentials: Credentials that sign links only: ``{"access_key": …, "secret_key": …}``, with ``"token"`` for
            temporary ones; their limited rights limit the effect of a leaked link.
        link_endpoint_url: The endpoint in links, if browsers need another one than *endpoint_url*.
        link_rounding: Whole seconds up to a day, or a ``timedelta``: links made within this time are identical, so that
            caches can use them; a link is valid up to twice this time longer. Links for less than this time, or than
            a minute, are not rounded.
        portable: See :class:`~flask_storage.StorageBackend`.

    Raises:
        ConfigurationError: when the arguments are not valid. Errors that only the service can find are raised by the
            first operation.
    """

    def __init__(
        self,
        bucket: str,
        aws_region: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_profile: str | None = None,
        name: str = "s3",
        *,
        aws_session_token: str | None = None,
        endpoint_url: str | None = None,
        preset: str | S3Preset | None = None,
        prefix: str = "",
        addressing_style: str | None = None,
        checksums: str | None = None,
        verify_downloads: bool | None = None,
        server_side_encryption: str | None = None,
        kms_key_id: str | None = None,
        customer_key: str | bytes | None = None,
        storage_class: str | None = None,
        acl: str | None = None,
        content_type: str | None = None,
        guess_content_type: bool = True,
        cache_control: str | None = None,
        chunk_size: int = CHUNK_SIZE,
        concurrency: int = CONCURRENCY,
        session: Any = None,
        client: Any = None,
        connect_timeout: float = 10,
        read_timeout: float = 15,
        max_attempts: int = 3,
        max_connections: int = 50,
        verify: bool | str | None = None,
        base_url: str | None = None,
        link_credentials: Mapping[str, str] | None = None,
        link_endpoint_url: str | None = None,
        link_rounding: float | timedelta = 0,
        portable: bool = False,
    ) -> None:
        super().__init__(name, base_url=base_url, portable=portable)
        self.bucket = parse_bucket(bucket)
        if client is not None and (session or endpoint_url or addressing_style or aws_session_token):
            raise ConfigurationError(
                "client already has a session and an endpoint: remove session, endpoint_url, addressing_style and token"
            )
        if (client or session) is not None and (aws_access_key_id or aws_profile):
            raise ConfigurationError(
                "session or client already has credentials: remove aws_access_key_id and aws_profile"
            )
        if bool(aws_access_key_id) != bool(aws_secret_access_key):
            raise ConfigurationError(
                "aws_access_key_id and aws_secret_access_key are needed together: set both or neither"
            )
        self._chunk_size = parse_int("chunk_size", chunk_size, MIN_PART)
        self._concurrency = parse_int("concurrency", concurrency, 1)
        link_endpoint_url = parse_http_url("link_endpoint_url", link_endpoint_url)
        settings = ClientSettings(
            region=parse_region(aws_region),
            access_key=parse_optional_text("aws_access_key_id", aws_access_key_id),
            secret_key=parse_optional_text("aws_secret_access_key", aws_secret_access_key),
            token=parse_optional_text("aws_session_token", aws_session_token),
            profile=parse_optional_text("aws_profile", aws_profile),
            endpoint_url=parse_http_url("endpoint_url", endpoint_url),
        ).with_endpoint(session=session, client=client)
        check_endpoint("endpoint_url", settings.endpoint_url, bucket)
        check_endpoint("link_endpoint_url", link_endpoint_url, bucket)
        self.preset = preset_of(preset, settings.endpoint_url)
        if acl is not None and not self.preset.acl:
            raise ConfigurationError("this service does not support ACLs of single objects: remove acl")
        settings = replace(
            settings,
            region=settings.region or (self.preset.region if settings.endpoint_url else None),
            addressing=parse_choice("addressing_style", addressing_style, ADDRESSING) or self.preset.addressing,
            checksums=parse_choice("checksums", checksums, CHECKSUMS) or self.preset.checksums,
            connect_timeout=parse_seconds("connect_timeout", connect_timeout),
            read_timeout=parse_seconds("read_timeout", read_timeout),
            max_attempts=parse_int("max_attempts", max_attempts, 1),
            max_connections=parse_connections("max_connections", max_connections),
            bulk_delete_md5=self.preset.bulk_delete_md5,
            transcodes_gzip=self.preset.transcodes_gzip,
            verify=parse_ca("verify", verify),
        )
        self.preset = replace(self.preset, checksums=settings.checksums)
        self._clients = Clients(settings, session=session, client=client)
        self._workers = thread_pool(settings.max_connections)
        self._verify_downloads = parse_optional_bool("verify_downloads", verify_downloads)
        guesses = parse_optional_bool("guess_content_type", guess_content_type) is not False
        self._gateway = BucketGateway(
            bucket,
            name,
            self._clients.bounded_client,
            cleanup_client=self._clients.cleanup_client,
            prefix=directory_prefix(prefix),
            preset=self.preset,
            object_settings=ObjectSettings(
                stored=stored_arguments(server_side_encryption, kms_key_id, storage_class, acl),
                customer=customer_arguments(customer_key),
                content_type=parse_optional_text("content_type", content_type),
                cache_control=parse_optional_text("cache_control", cache_control),
                guess_content_type=guesses,
            ),
            read_timeout=settings.read_timeout,
            attempts=settings.max_attempts,
        )
        self._presigner = S3Presigner(
            self._gateway,
            self._clients,
            credentials=key_pair("link_credentials", link_credentials),
            endpoint_url=link_endpoint_url,
            rounding=rounding_of(link_rounding),
        )
        self.capabilities = capabilities_of(
            self.preset, signs=not self._gateway.object_settings.customer, guesses=guesses
        )

    capabilities = Capabilities()
    argument_aliases: ClassVar[Mapping[str, str]] = {"region": "aws_region"}

    @classmethod
    def from_url(cls, url: SplitResult, options: dict[str, Any]) -> Self:
        """Create a storage from ``s3://bucket/prefix?region=…``; the query has further arguments.

        Raises:
            ConfigurationError: when the URL has no bucket, or has credentials.
        """
        if not url.netloc or "@" in url.netloc or ":" in url.netloc:
            raise ConfigurationError(
                "the URL of an S3 storage must be s3://bucket/prefix?region=…; pass credentials as arguments"
            )
        if url.path.strip("/"):
            options.setdefault("prefix", unquote(url.path.strip("/")))
        return cls(url.netloc, **options)

    @property
    def client(self) -> Any:
        """The boto3 client of this process."""
        return self._gateway.client

    @property
    def session(self) -> Any:
        """The boto3 session of the client, or None for your own client."""
        return self._clients.session()

    # -- listing ------------------------------------------------------------------------------------------------------

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        return self._list_prefix(f"{path}/" if path else "", recursive)

    def _list_prefix(self, prefix: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        return entries_of(self._gateway, prefix, recursive=recursive)

    def _list_details(self, path: str, recursive: bool, prefix: str | None) -> Iterator[FileInfo]:
        pages = self._list(path, recursive) if prefix is None else self._list_prefix(prefix, recursive)
        return details_of(self._gateway, pages, self._concurrency, self._workers)

    def _stat(self, path: str) -> FileInfo:
        return stat_object(self._gateway, path)

    def _check(self) -> None:
        super()._check()
        region, used = self._gateway.region(), self.client.meta.region_name
        # boto3 follows redirects to the right region. Links are signed for one region, and the service refuses others.
        if self.preset.region is None and region not in (None, used):
            raise ConfigurationError(
                f"the bucket {self.bucket} is in the region {region}, and its links are signed for {used}: set "
                f"aws_region to {region}, or the region of your own client"
            )

    # -- content ------------------------------------------------------------------------------------------------------

    def _open_reader(self, path: str, *, whole: bool = False) -> S3Reader:
        verify = self._verify_downloads
        return S3Reader(
            self._gateway,
            path,
            chunk_size=self._chunk_size,
            concurrency=self._concurrency,
            workers=self._workers,
            verify=self._clients.is_plain_http() if verify is None else verify,
            whole=whole,
        )

    def _open_whole(self, path: str) -> S3Reader:
        return self._open_reader(path, whole=True)

    def _open_writer(self, path: str, options: WriteOptions, *, size: int | None = None) -> S3Writer:
        return S3Writer(
            self._gateway,
            path,
            chunk_size=self._chunk_size,
            options=options,
            concurrency=self._concurrency,
            workers=self._workers,
            size=size,
        )

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        with self._writer(path, options, partial(self._open_writer, size=remaining_size(file_obj))) as writer:
            # A chunk of the size of a part is sent without a copy.
            copy_chunks(file_obj, writer, progress, chunk_size=writer.iter_chunk_size)

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        with self._reader(path, self._open_whole) as reader:
            copy_chunks(reader, file_obj, progress, chunk_size=reader.iter_chunk_size)

    def _multipart(self) -> MultipartStore:
        if not self.preset.upload_listing:
            raise self._unsupported(
                "provide multipart uploads",
                instead="use open() or upload(), which send parts themselves",
            )
        return S3Multipart(self._gateway)

    # -- copy and delete ----------------------------------------------------------------------------------------------

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        self._copy_version(path, new_path, options)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        etag = self._copy_version(path, new_path, options)
        # A version that another client has stored since then was not copied, and stays.
        delete_version(self._gateway, path, etag)

    def _copy_version(self, path: str, new_path: str, options: WriteOptions) -> str:
        """Copy a file, and return the ETag of the version that was copied."""
        response = self._gateway.head(path)
        if not copy_object(self._gateway, path, response, new_path, options, self._workers):
            super()._copy(path, new_path, options)
        return etag_of(response)

    def _delete(self, path: str) -> None:
        self._gateway.call("delete_object", Key=self._gateway.key(path))

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        size = self.preset.bulk_delete
        if not size:
            return super()._delete_many(paths)
        bulk = [path for path in paths if not _NOT_IN_XML.search(path)]
        failed = super()._delete_many([path for path in paths if _NOT_IN_XML.search(path)])
        for start in range(0, len(bulk), size):
            batch = bulk[start : start + size]
            response = self._gateway.call(
                "delete_objects",
                Delete={"Objects": [{"Key": self._gateway.key(path)} for path in batch], "Quiet": True},
            )
            for item in response.get("Errors", ()):
                with translating_parse_errors():
                    path = self._gateway.path(item["Key"])
                failed[path] = error_of(str(item.get("Code", "")), path, self.bucket, self.name)
        return failed

    def _delete_prefix(self, path: str) -> int:
        count = 0
        for page in self._gateway.pages("list_objects_v2", Prefix=self._gateway.key(f"{path}/")):
            with translating_parse_errors():
                keys = [self._gateway.path(item["Key"]) for item in page.get("Contents", ())]
            for error in self._delete_many(keys).values():
                raise error
            count += sum(not key.endswith("/") for key in keys)
        return count

    def _diagnostics(self, origin: str) -> Diagnostics:
        return diagnostics_of(self._gateway, self._clients, origin)

    def _close(self) -> None:
        pool = self._workers.pop()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        self._clients.close()

    def _sweep(self, before: datetime) -> int:
        if not self.preset.upload_listing:
            raise self._unsupported(
                "list unfinished uploads", instead="set a lifecycle rule with which the service aborts them"
            )
        return S3Multipart(self._gateway).abort_older(before, sdk.ClientError)

    # -- paths and errors ----------------------------------------------------------------------------------------------

    def _path(self, path: str) -> str:
        path = super()._path(path)
        if len(self._gateway.key(path).encode()) > MAX_PATH_BYTES:
            raise InvalidPathError(f"with its prefix the path is longer than {MAX_PATH_BYTES} bytes", path=path)
        return path

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        return translate_error(error, path, self.bucket, self.name)
