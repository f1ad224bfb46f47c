"""Multipart uploads on the local disk, and the sweep of unfinished writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import FileNotFoundInStorageError, IntegrityError
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
from .attributes import etag, set_time, write_attributes
from .copy import write_all
from .directory import Directory
from .rooted_tree import RootedTree

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_CHUNK = 1024 * 1024


class LocalMultipart(MultipartStore):
    """Keeps each upload in its own hidden directory: the parts, and a manifest with path, headers and start time.

    Args:
        backend: The storage's name.
        tree: The directory tree of the storage.
        new_file: Opens a writer on a path.
    """

    def __init__(self, backend: str, tree: RootedTree, new_file: Callable[[str, WriteOptions], Any]) -> None:
        self._backend = backend
        self._tree = tree
        self._new_file = new_file

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """See :meth:`MultipartStore.put`."""
        with self._new_file(path, options) as writer:
            writer.set_expected(options)
            writer.write(data)

    def create(self, path: str, options: WriteOptions) -> str:
        """See :meth:`MultipartStore.create`."""
        upload_id = new_upload_id()
        name = RESERVED_PREFIX + upload_id
        try:
            with self._tree.open_directory(name, create=True) as directory:
                self._store(directory, MANIFEST_NAME, encode_manifest(path, options))
        except BaseException:
            _remove(self._tree, name)
            raise
        return upload_id

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """See :meth:`MultipartStore.upload_part`."""
        directory, _ = self._open(path, upload_id)
        with directory:
            return self._store(directory, part_name(number), memoryview(data).cast("B"), number)

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """See :meth:`MultipartStore.complete`."""
        directory, manifest = self._open(path, upload_id)
        with directory, self._new_file(path, options) as writer:
            writer.headers = {**manifest["headers"], **options.headers}
            writer.set_expected(options)
            for part in parts:
                try:
                    fd = directory.open_file(part_name(part.number))
                except FileNotFoundError as error:
                    raise IntegrityError(f"part {part.number} is missing: upload it again", path=path) from error
                try:
                    if etag(fd) != part.etag:
                        raise IntegrityError(
                            f"part {part.number} was replaced: list the parts again, or upload it again",
                            path=path,
                        )
                    _append(writer, fd, in_kernel=not options.checksum)
                finally:
                    os.close(fd)
        with suppress(OSError):  # the file is published, so this is no failure; the sweep removes the rest
            _remove(self._tree, RESERVED_PREFIX + upload_id)

    def abort(self, path: str, upload_id: str) -> None:
        """See :meth:`MultipartStore.abort`."""
        with suppress(FileNotFoundInStorageError):
            directory, _ = self._open(path, upload_id)
            directory.close()
            _remove(self._tree, RESERVED_PREFIX + upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """See :meth:`MultipartStore.list_parts`."""
        directory, _ = self._open(path, upload_id)
        parts = []
        with directory:
            for name in os.listdir(directory.fd):
                number = part_number_of(name)
                if number is not None:
                    with open(directory.open_file(name), "rb") as file:
                        size = os.fstat(file.fileno()).st_size
                        parts.append(Part(number=number, size=size, etag=etag(file.fileno())))
        return sorted(parts, key=lambda part: part.number)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """See :meth:`MultipartStore.list_uploads`."""
        with self._tree.open_directory("") as root:
            hidden = [name for name in os.listdir(root.fd) if name.startswith(RESERVED_PREFIX)]
        for upload_id in [name.removeprefix(RESERVED_PREFIX) for name in hidden]:
            with suppress(FileNotFoundInStorageError, IntegrityError):
                directory, manifest = self._open(None, upload_id)
                directory.close()
                if not path or manifest["path"].startswith(path + "/"):
                    yield pending_upload(manifest, upload_id)

    def _open(self, path: str | None, upload_id: str) -> tuple[Directory, dict[str, Any]]:
        """Open the directory of an upload to *path* (None: any path); return it and the manifest."""
        missing = FileNotFoundInStorageError(self._backend, f"{path} (upload)")
        if not is_upload_id(upload_id):
            raise missing
        try:
            directory = self._tree.open_directory(RESERVED_PREFIX + upload_id)
        except FileNotFoundError as error:
            raise missing from error
        try:
            with os.fdopen(directory.open_file(MANIFEST_NAME), "rb") as file:
                manifest = parse_manifest(file.read())
        except FileNotFoundError as error:  # it is created or removed concurrently
            directory.close()
            raise missing from error
        except BaseException:
            directory.close()
            raise
        if path not in (None, manifest["path"]):
            directory.close()
            raise missing
        return directory, manifest

    def _store(self, directory: Directory, name: str, data: bytes | memoryview, number: int = 0) -> Part:
        temporary, fd = directory.create_temporary()
        try:
            try:
                write_all(fd, data)
                write_attributes(fd, {}, needs_version=not set_time(fd))
                if self._tree.sync:
                    os.fsync(fd)
                part = Part(number=number, size=len(data), etag=etag(fd))
            finally:
                os.close(fd)
            directory.publish(temporary, name, exclusive=False, precondition=None, sync=self._tree.sync)
        except BaseException:
            directory.unlink(temporary)
            raise
        return part


def sweep(tree: RootedTree, before: float) -> int:
    """Remove hidden files and uploads last modified before the time stamp *before*; return the count.

    Empty directories are removed too, but not counted. A crash between creating a directory and its first file leaves
    them.
    """

    def on_exit(path: str, directory: Directory) -> None:
        if os.fstat(directory.fd).st_mtime < before:
            tree.remove_empty_parents(path)

    count = 0
    for prefix, entry in tree.walk(on_exit=on_exit):
        if not entry.name.startswith(RESERVED_PREFIX):
            continue
        with suppress(FileNotFoundError):  # it was published concurrently
            if entry.stat(follow_symlinks=False).st_mtime >= before:
                continue
            if entry.is_dir(follow_symlinks=False):
                _remove(tree, prefix + entry.name)
            else:
                with tree.open_directory(prefix[:-1]) as directory:
                    directory.unlink(entry.name)
                tree.remove_empty_parents(prefix[:-1])
            count += 1
    return count


def _remove(tree: RootedTree, path: str) -> None:
    """Remove the hidden directory of an upload and its files."""
    with suppress(FileNotFoundError), tree.open_directory(path) as directory:  # it may be removed concurrently
        for name in os.listdir(directory.fd):
            directory.unlink(name)
    tree.remove_empty_parents(path)


def _append(writer: Any, part: int, *, in_kernel: bool) -> None:
    """Append a part. The kernel cannot copy it when the writer computes a checksum of the bytes."""
    if in_kernel:
        writer.append_from(part, 0)
        return
    offset = 0
    while chunk := os.pread(part, _CHUNK, offset):
        writer.write(chunk)
        offset += len(chunk)
