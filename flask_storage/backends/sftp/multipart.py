"""Uploads in parts on a server: hidden files, put together there when all have come."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import (
    FileNotFoundInStorageError,
    IntegrityError,
    NotAFileError,
    PermissionDeniedError,
    StorageError,
)
from ...multipart import MultipartStore, Part, PendingUpload
from ...paths import RESERVED_PREFIX
from ...types import WriteOptions
from ..multipart_manifest import (
    MANIFEST_NAME,
    encode_manifest,
    is_upload_id,
    new_upload_id,
    parse_manifest,
    part_name,
    part_number_of,
    pending_upload,
)
from .atomic_write import AtomicWrite
from .codec import Attributes
from .copy import copy_bytes
from .errors import unknown_outcome
from .listing import walk
from .pool import Pool
from .protocol import PERMISSION_DENIED, REMOVE, ConnectionLostError, ProtocolError, Session, StatusError
from .remote_tree import RemoteTree
from .upload import SFTPUpload

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logger = logging.getLogger(__name__)

_MAX_MANIFEST_SIZE = 64 * 1024


class SFTPMultipart(MultipartStore):
    """Keeps each upload in a hidden folder of its own, beside a note of what it is to become.

    Args:
        atomic_write: Makes the file that they become, and publishes it.
        pool: Lends sessions.
        upload: Stores a file in one go.
    """

    def __init__(self, atomic_write: AtomicWrite, pool: Pool, upload: SFTPUpload) -> None:
        self._atomic_write = atomic_write
        self._tree = atomic_write.tree
        self._pool = pool
        self._file_upload = upload

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """See :meth:`MultipartStore.put`."""
        self._file_upload.put(path, data, options)

    def create(self, path: str, options: WriteOptions) -> str:
        """See :meth:`MultipartStore.create`."""
        upload_id = new_upload_id()
        self._file_upload.put(f"{_folder(upload_id)}/{MANIFEST_NAME}", encode_manifest(path, options), WriteOptions())
        return upload_id

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """See :meth:`MultipartStore.upload_part`."""
        self._pool.run(lambda session: self._manifest(session, path, upload_id))
        name = f"{_folder(upload_id)}/{part_name(number)}"
        self._file_upload.put(name, data, WriteOptions())
        return self._part(number, self._pool.run(lambda session: self._tree.stat(session, name)))

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """See :meth:`MultipartStore.complete`."""

        def finished(session: Session) -> None:
            self._manifest(session, path, upload_id)
            size = sum(part.size for part in parts)
            if options.size not in (None, size):
                raise IntegrityError(
                    f"{size} bytes were sent where {options.size} were promised; nothing was published"
                )
            temporary, handle = self._atomic_write.create(session, path)
            try:
                start = 0
                for part in parts:
                    self._append(session, path, upload_id, part, handle, start)
                    start += part.size
                self._atomic_write.commit(session, handle, size, temporary, path, options)
            except ConnectionLostError as error:
                raise unknown_outcome(error) from error
            except BaseException:
                if not session.broken:
                    self._atomic_write.discard(session, temporary, handle)
                raise

        self._pool.run(finished)
        try:
            self._pool.run(lambda session: remove_upload(self._tree, session, _folder(upload_id)))
        except (StatusError, ConnectionLostError, ProtocolError, OSError, StorageError) as error:
            # It is published, which an error would deny.
            logger.warning("the parts of a finished upload were left for the sweep: %s", type(error).__name__)

    def abort(self, path: str, upload_id: str) -> None:
        """See :meth:`MultipartStore.abort`."""

        def discarded(session: Session) -> None:
            with suppress(FileNotFoundInStorageError):
                self._manifest(session, path, upload_id)
                remove_upload(self._tree, session, _folder(upload_id))

        self._pool.run(discarded)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """See :meth:`MultipartStore.list_parts`."""

        def listed(session: Session) -> list[Part]:
            self._manifest(session, path, upload_id)
            parts = []
            for _, _, entries in walk(self._tree, session, [_folder(upload_id)]):
                numbered = ((part_number_of(name), attributes) for name, attributes in entries)
                parts += [self._part(number, attributes) for number, attributes in numbered if number is not None]
            return sorted(parts, key=lambda part: part.number)

        return self._pool.run(listed)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """See :meth:`MultipartStore.list_uploads`."""

        def listed(session: Session) -> list[PendingUpload]:
            names = [name for _, _, entries in walk(self._tree, session, [""], recursive=False) for name, _ in entries]
            found = []
            for upload_id in [name[len(RESERVED_PREFIX) :] for name in names if name.startswith(RESERVED_PREFIX)]:
                # What others put there, with a link or a pipe in it, is none of ours.
                with suppress(FileNotFoundInStorageError, IntegrityError, PermissionDeniedError, NotAFileError):
                    note = self._manifest(session, None, upload_id)
                    if not path or note["path"].startswith(f"{path}/"):
                        found.append(pending_upload(note, upload_id))
            return found

        yield from self._pool.run(listed)

    # -- inner --------------------------------------------------------------------------------------------------------

    def _manifest(self, session: Session, path: str | None, upload_id: str) -> dict[str, Any]:
        """Return the note of an upload to *path* (None: to any)."""
        missing = FileNotFoundInStorageError(self._tree.storage, f"{path} (upload)")
        if not is_upload_id(upload_id):
            raise missing
        name = f"{_folder(upload_id)}/{MANIFEST_NAME}"
        try:
            handle, _, content = self._tree.open_file(session, name, first=_MAX_MANIFEST_SIZE)
        except FileNotFoundInStorageError as error:
            raise missing from error
        self._tree.close_handle(session, handle)
        note = parse_manifest(content)
        if path not in (None, note["path"]):
            raise missing
        return note

    def _part(self, number: int, attributes: Attributes) -> Part:
        etag = self._tree.file_info("", attributes).etag or ""
        return Part(number=number, size=attributes.size or 0, etag=etag)

    def _append(self, session: Session, path: str, upload_id: str, part: Part, target: bytes, start: int) -> None:
        try:
            handle, attributes, _ = self._tree.open_file(session, f"{_folder(upload_id)}/{part_name(part.number)}")
        except FileNotFoundInStorageError as error:
            raise IntegrityError(f"part {part.number} is missing: send it again", path=path) from error
        try:
            if self._part(part.number, attributes) != part:
                raise IntegrityError(f"part {part.number} is not the one that was named", path=path)
            copy_bytes(session, handle, target, part.size, at=start)
        finally:
            self._tree.close_handle(session, handle)


def remove_upload(tree: RemoteTree, session: Session, path: str) -> None:
    """Remove the hidden folder of an upload with what is in it."""
    for _, folder, entries in list(walk(tree, session, [path])):
        for one in [session.request(REMOVE, tree.remote_path(session, f"{folder}/{name}")) for name, _ in entries]:
            try:
                session.wait(one)
            except StatusError as error:  # gone already, or a folder of somebody else's
                if error.code == PERMISSION_DENIED:
                    raise
    tree.remove_empty_parents(session, path)


def _folder(upload_id: str) -> str:
    return RESERVED_PREFIX + upload_id
