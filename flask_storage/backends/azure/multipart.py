"""Multipart uploads: uncommitted blocks of a blob, and the manifests that let an upload outlive its writer.

Azure has no upload ids: uncommitted blocks belong to a blob, whichever client sent them, and committing a block list
discards all other blocks. So every block name contains the id of its upload. Two uploads never mix, and an upload fails
if another write of the same blob was committed first. The service deletes uncommitted blocks after a week:
https://learn.microsoft.com/rest/api/storageservices/put-block#remarks
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from azure.core import exceptions as sdk
from azure.storage.blob import BlobBlock, BlobProperties, ContainerClient

from ...errors import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
)
from ...multipart import MultipartStore, Part, PartLimits, PendingUpload
from ...paths import RESERVED_PREFIX
from ...types import CONTENT_HEADERS, WriteOptions
from ..multipart_manifest import is_upload_id, new_upload_id
from .blob_metadata import WRITE_KEY, condition_arguments, info_of, stored_metadata, unquoted_etag, write_arguments
from .errors import code_of, translating_conditions
from .gateway import ContainerGateway, translating_parse_errors
from .listing import readable_pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer

logger = logging.getLogger("flask_storage")

MAX_BLOCK = 100 * 1024 * 1024
"""The largest block that every version of the service accepts, in bytes."""
MAX_BLOCKS = 50_000

_BLOCK = re.compile(r"(\d{5})([A-Za-z0-9_-]{22})([0-9a-f]{36})", re.ASCII)
_NO_TAG = "0" * 36
_PATH_KEY = "path"
_METADATA_PREFIX = "of_"  # the metadata of the future blob
_MANIFEST_PREFIX = f"{RESERVED_PREFIX}upload-"


@contextmanager
def confirming_lost_response(container: ContainerGateway, path: str, options: WriteOptions) -> Iterator[dict[str, str]]:
    """Wrap one request that stores a blob; after an error, check whether this request stored the blob after all.

    A conditional request is not idempotent: when its response is lost, the retry fails because the first attempt has
    succeeded. An unreadable response does not tell whether it did. So a conditional write stores a random id in the
    blob's metadata; the body of the ``with`` statement gets the metadata to add, which is empty without conditions.

    Args:
        container: The gateway.
        path: The blob that is written.
        options: The conditions.
    """
    # One id for each write: other threads write through the same store at the same time.
    write_id = {WRITE_KEY: secrets.token_hex(8)} if condition_arguments(options) else {}
    with translating_conditions(path, options):
        try:
            yield write_id
        except (sdk.AzureError, StorageUnavailableError):
            if not (write_id and _is_our_write(container, path, write_id)):
                raise


def _is_our_write(container: ContainerGateway, path: str, write_id: dict[str, str]) -> bool:
    try:
        metadata = stored_metadata(container.head(path, for_cleanup=True))
    except (sdk.AzureError, StorageError):
        return False
    return metadata.get(WRITE_KEY) == write_id[WRITE_KEY]


def block_name(upload_id: str, number: int, tag: str = _NO_TAG) -> str:
    """Return the name of a block. All names have the same length, as the service requires for the blocks of one blob.

    Args:
        upload_id: The upload of the block.
        number: The number of the part.
        tag: Identifies the content, in case a part is sent more than once.
    """
    return f"{number:05}{upload_id}{tag}"


class BlockUpload(MultipartStore):
    """The uploads of one writer. They have no manifest, so another process cannot continue or list them.

    Args:
        container: The gateway.
    """

    limits = PartLimits(min_size=1, max_size=MAX_BLOCK, max_count=MAX_BLOCKS)

    def __init__(self, container: ContainerGateway) -> None:
        self._container = container
        self._started: dict[str, WriteOptions] = {}

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """Store a blob by one request."""
        data = bytes(data)
        self._write(
            "upload_blob",
            path,
            options,
            data,
            length=len(data),
            overwrite=not options.exclusive,
            **self._md5("transactional_content_md5", data),
        )

    def create(self, path: str, options: WriteOptions) -> str:
        """Return the id of a new upload, without a request to the service."""
        upload_id = new_upload_id()
        self._started[upload_id] = options
        return upload_id

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Send one block."""
        return self._stage(path, upload_id, number, data, _NO_TAG)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Commit the blocks, which makes the blob visible.

        Raises:
            PreconditionFailedError: when another write of this file was committed first; the blocks are lost.
        """
        self._commit(path, upload_id, parts, self._started[upload_id], options)

    def abort(self, path: str, upload_id: str) -> None:
        """Forget the upload. Its blocks cannot be deleted; the service deletes them after a week at the latest."""
        self._started.pop(upload_id, None)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return the parts that have arrived; if a part was sent more than once, the latest."""
        # A tag begins with the time, so the greatest tag is the latest.
        latest = {part.number: part for part in self._blocks(path, upload_id, "uncommitted")}
        return [latest[number] for number in sorted(latest)]

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield nothing: the uploads of a writer are not listed."""
        return iter(())

    # -- inner ------------------------------------------------------------------------------------------------------

    def _blocks(self, path: str, upload_id: str, which: str) -> list[Part]:
        """Return the blocks of one upload, by number and then by time: the uncommitted ones, or all."""
        try:
            committed, uncommitted = self._container.call("get_block_list", path, which)
        except sdk.HttpResponseError as error:
            if code_of(error) != "BlobNotFound":
                raise
            return []
        with translating_parse_errors():
            blocks = [(_BLOCK.fullmatch(block.id), int(block.size)) for block in (*committed, *uncommitted)]
        parts = [
            Part(number=int(name[1]), size=size, etag=name[3]) for name, size in blocks if name and name[2] == upload_id
        ]
        return sorted(parts, key=lambda part: (part.number, part.etag))

    def _stage(self, path: str, upload_id: str, number: int, data: ReadableBuffer, tag: str) -> Part:
        view = memoryview(data).cast("B")
        self._container.call(
            "stage_block",
            path,
            block_name(upload_id, number, tag),
            view,
            length=len(view),
            **self._container.settings.stored,
            **self._md5("transactional_content_md5", view),
        )
        return Part(number=number, size=len(view), etag=tag)

    def _commit(
        self,
        path: str,
        upload_id: str,
        parts: Sequence[Part],
        stored_options: WriteOptions,
        condition_options: WriteOptions,
    ) -> None:
        blocks = [BlobBlock(block_name(upload_id, part.number, part.etag)) for part in parts]
        self._write("commit_block_list", path, stored_options, blocks, condition_options=condition_options)

    def _write(
        self,
        operation: str,
        path: str,
        stored_options: WriteOptions,
        content: Any,
        *,
        condition_options: WriteOptions | None = None,
        **arguments: Any,
    ) -> None:
        """Send the one request that makes a blob visible."""
        condition_options = condition_options or stored_options
        conditions = condition_arguments(condition_options)
        arguments |= write_arguments(self._container, path, stored_options)
        with confirming_lost_response(self._container, path, condition_options) as write_id:
            arguments["metadata"] |= write_id
            self._container.call(operation, path, content, **arguments, **conditions)

    def _md5(self, name: str, data: ReadableBuffer) -> dict[str, Any]:
        digest = self._container.md5_of(data)
        return {} if digest is None else {name: digest}


class AzureMultipart(BlockUpload):
    """The multipart operations of the storage: an upload has a manifest, a small hidden blob beside its blocks.

    Args:
        container: The gateway.
        client: Returns the SDK's client of the whole container, for listing.
    """

    def __init__(self, container: ContainerGateway, client: Callable[[], ContainerClient]) -> None:
        super().__init__(container)
        self._client = client

    def create(self, path: str, options: WriteOptions) -> str:
        """Create an upload: its manifest holds the headers and metadata of the future blob."""
        upload_id = new_upload_id()
        arguments = write_arguments(self._container, path, options)
        arguments["metadata"] = {_METADATA_PREFIX + key: value for key, value in arguments["metadata"].items()}
        arguments["metadata"][_PATH_KEY] = base64.urlsafe_b64encode(path.encode()).decode()
        self._container.call("upload_blob", _MANIFEST_PREFIX + upload_id, b"", length=0, overwrite=True, **arguments)
        return upload_id

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Send one block.

        Raises:
            ValueError: when *data* is empty: Azure has no empty blocks.
        """
        if not memoryview(data).nbytes:
            raise ValueError("a part must have at least one byte: store an empty file with write()")
        self._manifest(path, upload_id)
        digest = hashlib.blake2b(data, digest_size=10).hexdigest()
        return self._stage(path, upload_id, number, data, f"{time.time_ns():016x}{digest}")

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Commit the blocks, after checking which have arrived."""
        manifest = self._manifest(path, upload_id)
        # Committed blocks count too: a caller that did not get the response calls complete() again.
        arrived = {part.number: part for part in self._blocks(path, upload_id, "all")}
        for part in parts:
            found = arrived.get(part.number)
            if found is None:
                self._check_conditions(path, options)
                raise IntegrityError(f"part {part.number} is missing: upload it again", path=path)
            if found.etag != part.etag:
                raise IntegrityError(
                    f"part {part.number} was replaced: list the parts again, or upload it again", path=path
                )
        size = sum(arrived[part.number].size for part in parts)
        if options.size is not None and size != options.size:
            raise IntegrityError(
                f"the parts have {size} bytes where {options.size} were expected; nothing was published"
            )
        stored_options = WriteOptions(**{**_manifest_headers(manifest), **options.headers})
        try:
            self._commit(path, upload_id, parts, stored_options, options)
        except sdk.HttpResponseError as error:
            if code_of(error) == "InvalidBlockList":
                raise IntegrityError("parts are missing: another write of this file ended during the upload") from error
            raise
        try:
            self._delete_manifest(upload_id)
        except (sdk.AzureError, StorageError) as error:
            # The file is published, so an error would be wrong.
            logger.warning(
                "the manifest of a completed upload could not be deleted, sweep() will delete it: %s",
                type(error).__name__,
            )

    def abort(self, path: str, upload_id: str) -> None:
        """Forget an upload; the service deletes its blocks after a week at the latest."""
        try:
            self._manifest(path, upload_id)
        except FileNotFoundInStorageError:
            return
        self._delete_manifest(upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return the parts that have arrived."""
        self._manifest(path, upload_id)
        return super().list_parts(path, upload_id)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield the uploads that have a manifest."""
        prefix = self._container.key(_MANIFEST_PREFIX)
        listing = self._client().list_blobs(name_starts_with=prefix, include=["metadata"])
        for page in readable_pages(listing, self._container):
            for blob in page:
                found = _manifest_path(blob)
                if found is not None and (not path or found.startswith(f"{path}/")):
                    upload_id = self._container.path(blob.name).removeprefix(_MANIFEST_PREFIX)
                    yield PendingUpload(path=found, upload_id=upload_id, started_at=blob.last_modified)

    # -- inner ------------------------------------------------------------------------------------------------------

    def _check_conditions(self, path: str, options: WriteOptions) -> None:
        """Raise the error of a failed condition: the write that broke it has also discarded the blocks."""
        if options.exclusive or options.if_match is not None:
            try:
                etag = unquoted_etag(self._container.head(path))
            except sdk.HttpResponseError as error:
                if code_of(error) != "BlobNotFound":
                    raise
                etag = None
            if options.exclusive and etag is not None:
                raise FileExistsInStorageError(f"{path} exists: choose another name", path=path)
            if options.if_match not in (None, etag):
                raise PreconditionFailedError(
                    f"{path} is not the version that if_match names: read it again", path=path
                )

    def _manifest(self, path: str, upload_id: str) -> BlobProperties:
        missing = FileNotFoundInStorageError(self._container.storage, f"{path} (upload)")
        if not is_upload_id(upload_id):
            raise missing
        try:
            manifest = self._container.head(_MANIFEST_PREFIX + upload_id)
        except sdk.HttpResponseError as error:
            if code_of(error) == "BlobNotFound":
                raise missing from error
            raise
        if _manifest_path(manifest) != path:
            raise missing
        return manifest

    def _delete_manifest(self, upload_id: str) -> None:
        try:
            self._container.call("delete_blob", _MANIFEST_PREFIX + upload_id)
        except sdk.HttpResponseError as error:
            if code_of(error) != "BlobNotFound":
                raise


def _manifest_headers(manifest: BlobProperties) -> dict[str, Any]:
    """Return the headers and metadata in a manifest, by the names of :class:`WriteOptions`."""
    info = info_of("", manifest)
    metadata = {
        key.removeprefix(_METADATA_PREFIX): value
        for key, value in info.metadata.items()
        if key.startswith(_METADATA_PREFIX)
    }
    return {**{name: getattr(info, name) for name in CONTENT_HEADERS}, "metadata": metadata}


def _manifest_path(manifest: BlobProperties) -> str | None:
    try:
        return base64.urlsafe_b64decode(stored_metadata(manifest)[_PATH_KEY]).decode() or None
    except (KeyError, ValueError):
        return None  # not a manifest of ours
