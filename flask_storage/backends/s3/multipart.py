"""Multipart uploads to S3, and how the outcome of a request is determined when its response was lost."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from botocore import exceptions as sdk

from ...errors import FileNotFoundInStorageError, IntegrityError, StorageError, StorageUnavailableError
from ...multipart import MultipartStore, Part, PartLimits, PendingUpload
from ...range_download import SEND_CHUNK_SIZE, Pieces
from ...types import WriteOptions
from .errors import code_of, status_of, translating_conditions
from .gateway import BucketGateway
from .object_metadata import WRITE_KEY, condition_arguments, stored_metadata, write_arguments
from .responses import check_listing, translating_parse_errors, unquoted_etag, upload_id_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MIN_PART = 5 * 1024 * 1024
MAX_PART = 5 * 1024 * 1024 * 1024
MAX_PARTS = 10_000

_MD5 = re.compile(r"[0-9a-f]{32}")
_UPLOAD_ID = re.compile(r"[ -~]{1,1024}")
_NOT_FOUND = 404
_SERVER_ERROR = 500
# After these errors the outcome of the request is unknown.
_LOST_RESPONSE_ERRORS = (sdk.ReadTimeoutError, sdk.ConnectionClosedError, sdk.HTTPClientError, StorageUnavailableError)


class S3Multipart(MultipartStore):
    """The multipart calls of one bucket.

    Args:
        bucket: The gateway to the bucket.
    """

    def __init__(self, bucket: BucketGateway) -> None:
        self._bucket = bucket
        self._nonce = secrets.token_hex(8)
        self.limits = PartLimits(
            min_size=MIN_PART, max_size=MAX_PART, max_count=MAX_PARTS, uniform=bucket.preset.uniform_parts
        )

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """Store an object with one request."""
        conditions = condition_arguments(options)
        arguments = {**write_arguments(self._bucket, path, options), **conditions}
        if conditions:
            arguments["Metadata"] = {**arguments.get("Metadata", {}), WRITE_KEY: self._nonce}
        with translating_conditions(path, options):
            try:
                self._bucket.call("put_object", Key=self._bucket.key(path), Body=_body(data), **arguments)
            except (sdk.ClientError, *_LOST_RESPONSE_ERRORS) as error:
                etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
                if not self._confirm_lost_response(error, path, etag, conditional=bool(conditions)):
                    raise

    def create(self, path: str, options: WriteOptions) -> str:
        """Create a multipart upload."""
        return self._create(path, write_arguments(self._bucket, path, options))

    def create_own(self, path: str, options: WriteOptions) -> str:
        """Create a multipart upload that this object also completes; its metadata identifies this writer."""
        arguments = write_arguments(self._bucket, path, options)
        arguments["Metadata"] = {**arguments.get("Metadata", {}), WRITE_KEY: self._nonce}
        if self._bucket.preset.checksums == "when_supported":
            arguments |= {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        return self._create(path, arguments)

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Upload one part."""
        response = self._call("upload_part", path, upload_id, PartNumber=number, Body=_body(data), **self._customer)
        return Part(number=number, size=memoryview(data).nbytes, etag=unquoted_etag(response))

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Complete a multipart upload.

        If the response is lost, the stored object shows whether the upload was completed. With a condition this works
        only for uploads of :meth:`create_own`: otherwise another client may have stored the same content.
        """
        if options.size is not None:
            self._check_size(path, upload_id, parts, options.size)
        part_list = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        conditions = condition_arguments(options)
        arguments = {**conditions, **self._customer}
        with translating_conditions(path, options):
            try:
                self._call(
                    "complete_multipart_upload", path, upload_id, MultipartUpload={"Parts": part_list}, **arguments
                )
            except (sdk.ClientError, *_LOST_RESPONSE_ERRORS) as error:
                etag = _etag_of_parts([part.etag for part in parts])
                if etag is None or not self._confirm_lost_response(error, path, etag, conditional=bool(conditions)):
                    self._raise_if_upload_missing(error, path, upload_id)
                    raise

    def abort(self, path: str, upload_id: str) -> None:
        """Abort a multipart upload, with short time-outs: the service itself is often the cause of the failure."""
        try:
            self._call("abort_multipart_upload", path, upload_id, for_cleanup=True)
        except FileNotFoundInStorageError:
            pass
        except sdk.ClientError as error:
            if code_of(error) not in ("NoSuchUpload", "NoSuchKey"):
                raise

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return the parts that the service has received."""
        found: list[Part] = []
        marker = 0
        while True:
            response = self._call("list_parts", path, upload_id, PartNumberMarker=marker, **self._customer)
            with translating_parse_errors():
                found += [
                    Part(number=part["PartNumber"], size=part["Size"], etag=unquoted_etag(part))
                    for part in response.get("Parts", ())
                ]
                if not response.get("IsTruncated"):
                    return found
                marker = response["NextPartNumberMarker"]

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield the multipart uploads that are neither completed nor aborted."""
        prefix = self._bucket.key(f"{path}/" if path else "")
        markers: dict[str, Any] = {}
        encoding: dict[str, Any] = {}
        while True:
            try:
                page = self._bucket.call("list_multipart_uploads", Prefix=prefix, **markers, **encoding)
            except (StorageUnavailableError, sdk.ClientError) as error:
                if isinstance(error, sdk.ClientError) and code_of(error) == "NoSuchUpload":
                    return  # rclone's response for a bucket that has had no upload yet
                if encoding or (isinstance(error, sdk.ClientError) and status_of(error) < _SERVER_ERROR):
                    raise
                # Maybe a key has a character that XML cannot represent: boto3 reports that as a server error. Keys are
                # encoded only in this case, because LocalStack says that they are and sends them as they are.
                encoding = {"EncodingType": "url"}
                continue
            check_listing(page)
            decode = unquote_plus if page.get("EncodingType") == "url" else str
            with translating_parse_errors():
                uploads = [
                    PendingUpload(
                        path=self._bucket.path(decode(upload["Key"])),
                        upload_id=upload["UploadId"],
                        started_at=upload["Initiated"],
                    )
                    for upload in page.get("Uploads", ())
                ]
                last, markers = markers, {}
                if page.get("IsTruncated"):
                    markers = {"KeyMarker": decode(page["NextKeyMarker"]), "UploadIdMarker": page["NextUploadIdMarker"]}
            yield from uploads
            if not markers:
                return
            if markers == last:
                raise StorageUnavailableError("the service repeats a page of the listing: check the preset")

    # -- inner ------------------------------------------------------------------------------------------------------

    @property
    def _customer(self) -> dict[str, Any]:
        """The arguments of boto3 for a customer-provided key."""
        return dict(self._bucket.object_settings.customer)

    def _create(self, path: str, arguments: dict[str, Any]) -> str:
        return upload_id_of(self._bucket.call("create_multipart_upload", Key=self._bucket.key(path), **arguments))

    def _call(self, operation: str, path: str, upload_id: str, **arguments: Any) -> Any:
        # A request with an empty id is one for the object itself, which it would store or delete.
        unchecked: object = upload_id  # it often comes from a client, and may have any type
        if not (isinstance(unchecked, str) and _UPLOAD_ID.fullmatch(unchecked)):
            raise FileNotFoundInStorageError(self._bucket.storage, f"{path} (upload)")
        return self._bucket.call(operation, Key=self._bucket.key(path), UploadId=upload_id, **arguments)

    def _check_size(self, path: str, upload_id: str, parts: Sequence[Part], size: int) -> None:
        sizes = {part.number: part.size for part in self.list_parts(path, upload_id)}
        total = sum(sizes.get(part.number, 0) for part in parts)
        if total != size:
            raise IntegrityError(f"the parts have {total} bytes where {size} were expected; nothing was published")

    def _raise_if_upload_missing(self, error: Exception, path: str, upload_id: str) -> None:
        """Raise FileNotFoundInStorageError if *error* is due to a missing upload: Ceph sends several codes for that."""
        if isinstance(error, sdk.ClientError) and code_of(error) in ("InternalError", "NoSuchKey"):
            try:
                self.list_parts(path, upload_id)
            except sdk.ClientError as gone:
                if status_of(gone) == _NOT_FOUND:
                    raise FileNotFoundInStorageError(self._bucket.storage, f"{path} (upload)") from error

    def _confirm_lost_response(self, error: Exception, path: str, etag: str, *, conditional: bool) -> bool:
        """Return whether the service executed the request although the client received only *error*.

        A server error may follow a successful write. A request that boto3 retried after a lost response is rejected the
        second time: the upload no longer exists, or the name is taken. The stored object decides. For a conditional
        write its content is not enough: the metadata must show that this writer stored it.
        """
        if isinstance(error, sdk.ClientError) and status_of(error) < _SERVER_ERROR:
            retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
            if not (retried and code_of(error) in ("NoSuchUpload", "PreconditionFailed", "NoSuchKey")):
                return False
        try:
            response = self._bucket.head(path, for_cleanup=True)
            is_own_write = not conditional or stored_metadata(response).get(WRITE_KEY) == self._nonce
            return is_own_write and unquoted_etag(response) == etag
        except (sdk.ClientError, sdk.BotoCoreError, StorageError):
            return False


def _etag_of_parts(etags: list[str]) -> str | None:
    """Return the ETag of an object whose parts have these ETags, or None if they are not MD5 digests."""
    if not all(_MD5.fullmatch(etag) for etag in etags):
        return None
    joined = hashlib.md5(bytes.fromhex("".join(etags)), usedforsecurity=False).hexdigest()
    return f"{joined}-{len(etags)}"


def _body(data: ReadableBuffer) -> Any:
    view = memoryview(data)
    return bytes(view) if len(view) <= SEND_CHUNK_SIZE else Pieces(view)
