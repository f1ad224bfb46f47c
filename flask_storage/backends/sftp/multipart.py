"""Multipart uploads: the parts are files in a hidden directory, and are joined into the target on the server.

:class:`SFTPMultipart` owns the directories of the uploads: a manifest (``multipart_manifest``) and one file per part,
each written by :meth:`.upload.SFTPUpload.put`. Joining copies the parts into a temporary file (:mod:`.copy`), which
:mod:`.atomic_write` commits.
"""

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
    """Stores each upload in a hidden directory of its own, with a manifest of its target.

    Args:
        atomic_write: Creates the joined file, and commits it.
        pool: Provides sessions.
        upload: Stores manifests and parts.
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
        self._file_upload.put(
            f"{_upload_directory(upload_id)}/{MANIFEST_NAME}", encode_manifest(path, options), WriteOptions()
        )
        return upload_id

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """See :meth:`MultipartStore.upload_part`."""
        self._pool.run(lambda session: self._manifest(session, path, upload_id))
        name = f"{_upload_directory(upload_id)}/{part_name(number)}"
        self._file_upload.put(name, data, WriteOptions())
        return self._part(number, self._pool.run(lambda session: self._tree.stat(session, name)))

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """See :meth:`MultipartStore.complete`."""

        def join_parts(session: Session) -> None:
            self._manifest(session, path, upload_id)
            size = sum(part.size for part in parts)
            if options.size not in (None, size):
                raise IntegrityError(
                    f"the parts have {size} bytes where {options.size} were expected; nothing was published"
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

        self._pool.run(join_parts)
        try:
            self._pool.run(lambda session: remove_upload(self._tree, session, _upload_directory(upload_id)))
        except (StatusError, ConnectionLostError, ProtocolError, OSError, StorageError) as error:
            # The file is published, so this is not an error of the call.
            logger.warning(
                "could not delete the parts of the completed upload of %r, which sweep will delete: %s",
                path,
                type(error).__name__,
            )

    def abort(self, path: str, upload_id: str) -> None:
        """See :meth:`MultipartStore.abort`."""

        def remove(session: Session) -> None:
            with suppress(FileNotFoundInStorageError):
                self._manifest(session, path, upload_id)
                remove_upload(self._tree, session, _upload_directory(upload_id))

        self._pool.run(remove)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """See :meth:`MultipartStore.list_parts`."""

        def read_parts(session: Session) -> list[Part]:
            self._manifest(session, path, upload_id)
            parts = []
            for _, _, entries in walk(self._tree, session, [_upload_directory(upload_id)]):
                numbered = ((part_number_of(name), attributes) for name, attributes in entries)
                parts += [self._part(number, attributes) for number, attributes in numbered if number is not None]
            return sorted(parts, key=lambda part: part.number)

        return self._pool.run(read_parts)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """See :meth:`MultipartStore.list_uploads`."""

        def read_uploads(session: Session) -> list[PendingUpload]:
            names = [name for _, _, entries in walk(self._tree, session, [""], recursive=False) for name, _ in entries]
            uploads = []
            for upload_id in [name[len(RESERVED_PREFIX) :] for name in names if name.startswith(RESERVED_PREFIX)]:
                # Another program may have created this name, for example as a link or a pipe: that is not an upload.
                with suppress(FileNotFoundInStorageError, IntegrityError, PermissionDeniedError, NotAFileError):
                    manifest = self._manifest(session, None, upload_id)
                    if not path or manifest["path"].startswith(f"{path}/"):
                        uploads.append(pending_upload(manifest, upload_id))
            return uploads

        yield from self._pool.run(read_uploads)

    # -- inner --------------------------------------------------------------------------------------------------------

    def _manifest(self, session: Session, path: str | None, upload_id: str) -> dict[str, Any]:
        """Return the manifest of an upload to *path* (None: to any path)."""
        missing = FileNotFoundInStorageError(self._tree.storage, f"{path} (upload)")
        if not is_upload_id(upload_id):
            raise missing
        name = f"{_upload_directory(upload_id)}/{MANIFEST_NAME}"
        try:
            handle, _, content = self._tree.open_file(session, name, first=_MAX_MANIFEST_SIZE)
        except FileNotFoundInStorageError as error:
            raise missing from error
        self._tree.close_handle(session, handle)
        manifest = parse_manifest(content)
        if path not in (None, manifest["path"]):
            raise missing
        return manifest

    def _part(self, number: int, attributes: Attributes) -> Part:
        etag = self._tree.file_info("", attributes).etag or ""
        return Part(number=number, size=attributes.size or 0, etag=etag)

    def _append(self, session: Session, path: str, upload_id: str, part: Part, target: bytes, start: int) -> None:
        try:
            handle, attributes, _ = self._tree.open_file(
                session, f"{_upload_directory(upload_id)}/{part_name(part.number)}"
            )
        except FileNotFoundInStorageError as error:
            raise IntegrityError(f"part {part.number} is missing: upload it again", path=path) from error
        try:
            if self._part(part.number, attributes) != part:
                raise IntegrityError(
                    f"part {part.number} was replaced: list the parts again, or upload it again",
                    path=path,
                )
            copy_bytes(session, handle, target, part.size, at=start)
        finally:
            self._tree.close_handle(session, handle)


def remove_upload(tree: RemoteTree, session: Session, path: str) -> None:
    """Remove the hidden directory of an upload and its files."""
    for _, directory, entries in list(walk(tree, session, [path])):
        removals = [session.request(REMOVE, tree.remote_path(session, f"{directory}/{name}")) for name, _ in entries]
        for removal in removals:
            try:
                session.wait(removal)
            except StatusError as error:  # already removed, or a directory that another program put there
                if error.code == PERMISSION_DENIED:
                    raise
    tree.remove_empty_parents(session, path)


def _upload_directory(upload_id: str) -> str:
    return RESERVED_PREFIX + upload_id
