"""Uploads in parts: blocks under a blob's own name, and the notes by which an upload outlives its writer.

Azure has no uploads: uncommitted blocks belong to a blob, whoever sent them, and committing a list of blocks forgets
all others. So the name of every block says which upload it is of, two uploads never mix, and one that was overtaken by
another write of the same blob finds its blocks gone. Blocks that nobody commits are freed by the service after a week:
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
from .blob_metadata import WRITE_KEY, condition_arguments, info_of, unquoted_etag, write_arguments
from .errors import code_of, translating_conditions
from .gateway import ContainerGateway, iter_pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer

logger = logging.getLogger("flask_storage")

MAX_BLOCK = 100 * 1024 * 1024
"""What every version of the service takes, in bytes."""
MAX_BLOCKS = 50_000

_BLOCK = re.compile(r"(\d{5})([A-Za-z0-9_-]{22})([0-9a-f]{36})", re.ASCII)
_NO_TAG = "0" * 36
_PATH_KEY = "path"
_METADATA_PREFIX = "of_"  # the metadata of the blob to come
_MANIFEST_PREFIX = f"{RESERVED_PREFIX}upload-"


@contextmanager
def confirming_lost_response(container: ContainerGateway, path: str, options: WriteOptions) -> Iterator[dict[str, str]]:
    """Make one request that stores a blob; with conditions, it gives metadata by which its deed is known again.

    A request that is repeated, because its first answer was lost, finds its own deed in the way; and an answer that
    makes no sense says nothing of what was done. What is stored tells.

    Args:
        container: The gateway.
        path: The blob that is written.
        options: The conditions.
    """
    # Of this write alone: others go through the same store at the same time.
    mark = {WRITE_KEY: secrets.token_hex(8)} if condition_arguments(options) else {}
    with translating_conditions(path, options):
        try:
            yield mark
        except (sdk.AzureError, StorageUnavailableError):
            if not (mark and _is_our_write(container, path, mark)):
                raise


def _is_our_write(container: ContainerGateway, path: str, mark: dict[str, str]) -> bool:
    try:
        found = container.head(path, for_cleanup=True).metadata or {}
    except (sdk.AzureError, StorageError):
        return False
    return found.get(WRITE_KEY) == mark[WRITE_KEY]


def block_name(upload_id: str, number: int, tag: str = _NO_TAG) -> str:
    """Return the name of a block. All are of one length, which the service asks of the blocks of one blob.

    Args:
        upload_id: Which upload it is of.
        number: Which part it is.
        tag: What tells this content from another that was sent for the same part.
    """
    return f"{number:05}{upload_id}{tag}"


class BlockUpload(MultipartStore):
    """What one writer does: the blocks of an upload that nobody else will ever ask for.

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
        """Choose the id of an upload; nothing is asked of the service."""
        upload_id = new_upload_id()
        self._started[upload_id] = options
        return upload_id

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Send one block."""
        return self._stage(path, upload_id, number, data, _NO_TAG)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Commit the blocks: from now on they are the blob.

        Raises:
            PreconditionFailedError: when another write of this file has ended meanwhile; the blocks are gone.
        """
        self._commit(path, upload_id, parts, self._started[upload_id], options)

    def abort(self, path: str, upload_id: str) -> None:
        """Forget the upload. Its blocks cannot be deleted; the service frees them, at the latest after a week."""
        self._started.pop(upload_id, None)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return the parts that have arrived; of several contents of one part the latest."""
        # A tag begins with the time, so that the greatest is the latest.
        found = {part.number: part for part in self._blocks(path, upload_id, "uncommitted")}
        return [found[number] for number in sorted(found)]

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield nothing: what a writer begins is known to nobody else."""
        return iter(())

    # -- inner ------------------------------------------------------------------------------------------------------

    def _blocks(self, path: str, upload_id: str, which: str) -> list[Part]:
        """Return the blocks of one upload, by number and then by time: the waiting ones, or all."""
        try:
            committed, waiting = self._container.call("get_block_list", path, which)
        except sdk.HttpResponseError as error:
            if code_of(error) != "BlobNotFound":
                raise
            return []
        named = [(_BLOCK.fullmatch(block.id), block.size) for block in (*committed, *waiting)]
        parts = [
            Part(number=int(name[1]), size=size, etag=name[3]) for name, size in named if name and name[2] == upload_id
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
        self, path: str, upload_id: str, parts: Sequence[Part], kept: WriteOptions, decided: WriteOptions
    ) -> None:
        blocks = [BlobBlock(block_name(upload_id, part.number, part.etag)) for part in parts]
        self._write("commit_block_list", path, kept, blocks, decided=decided)

    def _write(
        self,
        operation: str,
        path: str,
        kept: WriteOptions,
        content: Any,
        *,
        decided: WriteOptions | None = None,
        **arguments: Any,
    ) -> None:
        """Make the one request by which a blob becomes visible."""
        decided = decided or kept
        conditions = condition_arguments(decided)
        arguments |= write_arguments(self._container, path, kept)
        with confirming_lost_response(self._container, path, decided) as mark:
            arguments["metadata"] |= mark
            self._container.call(operation, path, content, **arguments, **conditions)

    def _md5(self, name: str, data: ReadableBuffer) -> dict[str, Any]:
        digest = self._container.md5_of(data)
        return {} if digest is None else {name: digest}


class AzureMultipart(BlockUpload):
    """The seven part calls: an upload is a small hidden blob that says what it is to become, beside the blocks.

    Args:
        container: The gateway.
        client: Gives the SDK's client of the whole container, for listing.
    """

    def __init__(self, container: ContainerGateway, client: Callable[[], ContainerClient]) -> None:
        super().__init__(container)
        self._client = client

    def create(self, path: str, options: WriteOptions) -> str:
        """Open an upload: the note keeps the headers and metadata of the blob to come."""
        upload_id = new_upload_id()
        arguments = write_arguments(self._container, path, options)
        arguments["metadata"] = {_METADATA_PREFIX + key: value for key, value in arguments["metadata"].items()}
        arguments["metadata"][_PATH_KEY] = base64.urlsafe_b64encode(path.encode()).decode()
        self._container.call("upload_blob", _MANIFEST_PREFIX + upload_id, b"", length=0, overwrite=True, **arguments)
        return upload_id

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Send one block.

        Raises:
            ValueError: when it is empty: Azure has no empty blocks.
        """
        if not memoryview(data).nbytes:
            raise ValueError("a part holds one byte at least: an empty file is stored by write()")
        self._manifest(path, upload_id)
        digest = hashlib.blake2b(data, digest_size=10).hexdigest()
        return self._stage(path, upload_id, number, data, f"{time.time_ns():016x}{digest}")

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Commit the blocks, after a look at what has arrived."""
        note = self._manifest(path, upload_id)
        # Also those that are committed: whoever was not told that this went well finishes once more.
        arrived = {part.number: part for part in self._blocks(path, upload_id, "all")}
        for part in parts:
            found = arrived.get(part.number)
            if found is None:
                self._check_conditions(path, options)
                raise IntegrityError(f"part {part.number} is missing: send it again", path=path)
            if found.etag != part.etag:
                raise IntegrityError(f"part {part.number} is not the one that was named", path=path)
        size = sum(arrived[part.number].size for part in parts)
        if options.size is not None and size != options.size:
            raise IntegrityError(f"{size} bytes were sent where {options.size} were promised; nothing was published")
        kept = WriteOptions(**{**_manifest_headers(note), **options.headers})
        try:
            self._commit(path, upload_id, parts, kept, options)
        except sdk.HttpResponseError as error:
            if code_of(error) == "InvalidBlockList":
                raise IntegrityError("parts are missing: another write of this file ended meanwhile") from error
            raise
        try:
            self._delete_manifest(upload_id)
        except (sdk.AzureError, StorageError) as error:
            # It is published, which an error would deny.
            logger.warning("the note of a finished upload was left for the sweep: %s", type(error).__name__)

    def abort(self, path: str, upload_id: str) -> None:
        """Forget an upload; its blocks are freed by the service, at the latest after a week."""
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
        """Yield the uploads that have a note."""
        notes = self._client().list_blobs(name_starts_with=self._container.key(_MANIFEST_PREFIX), include=["metadata"])
        for page in iter_pages(notes):
            for blob in page:
                found = _manifest_path(blob)
                if found is not None and (not path or found.startswith(f"{path}/")):
                    upload_id = self._container.path(blob.name).removeprefix(_MANIFEST_PREFIX)
                    yield PendingUpload(path=found, upload_id=upload_id, started_at=blob.last_modified)

    # -- inner ------------------------------------------------------------------------------------------------------

    def _check_conditions(self, path: str, options: WriteOptions) -> None:
        """Say whose condition does not hold: the write that broke it has also taken the blocks."""
        if options.exclusive or options.if_match is not None:
            try:
                there = unquoted_etag(self._container.head(path))
            except sdk.HttpResponseError as error:
                if code_of(error) != "BlobNotFound":
                    raise
                there = None
            if options.exclusive and there is not None:
                raise FileExistsInStorageError(f"{path} exists: choose another name", path=path)
            if options.if_match not in (None, there):
                raise PreconditionFailedError(f"{path} is not the version that was named", path=path)

    def _manifest(self, path: str, upload_id: str) -> BlobProperties:
        missing = FileNotFoundInStorageError(self._container.storage, f"{path} (upload)")
        if not is_upload_id(upload_id):
            raise missing
        try:
            note = self._container.head(_MANIFEST_PREFIX + upload_id)
        except sdk.HttpResponseError as error:
            if code_of(error) == "BlobNotFound":
                raise missing from error
            raise
        if _manifest_path(note) != path:
            raise missing
        return note

    def _delete_manifest(self, upload_id: str) -> None:
        try:
            self._container.call("delete_blob", _MANIFEST_PREFIX + upload_id)
        except sdk.HttpResponseError as error:
            if code_of(error) != "BlobNotFound":
                raise


def _manifest_headers(note: BlobProperties) -> dict[str, Any]:
    """Return what a note keeps of the blob to come, by the names of :class:`WriteOptions`."""
    info = info_of("", note)
    metadata = {
        key.removeprefix(_METADATA_PREFIX): value
        for key, value in info.metadata.items()
        if key.startswith(_METADATA_PREFIX)
    }
    return {**{name: getattr(info, name) for name in CONTENT_HEADERS}, "metadata": metadata}


def _manifest_path(note: BlobProperties) -> str | None:
    try:
        return base64.urlsafe_b64decode((note.metadata or {})[_PATH_KEY]).decode()
    except (KeyError, ValueError):
        return None  # somebody else's
