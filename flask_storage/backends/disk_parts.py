"""Uploads in parts on local disk, and the sweep of what was never finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import FileNotFoundInStorageError, IntegrityError
from ..parts import Part, PartStore, PendingUpload
from ..paths import RESERVED_PREFIX
from ..values import WriteOptions
from .disk import Disk
from .disk_bytes import etag, write_all
from .disk_folder import Folder
from .upload_notes import NOTE_NAME, is_upload_id, new_upload_id, note_of, number_in, part_name, pending, read_note

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_CHUNK = 1024 * 1024


class DiskParts(PartStore):
    """Keeps each upload in a hidden folder of its own, beside a note of what it is to become.

    Args:
        backend: The storage's name.
        disk: Its door.
        new_file: Opens a writer on a path.
    """

    def __init__(self, backend: str, disk: Disk, new_file: Callable[[str, WriteOptions], Any]) -> None:
        self._backend = backend
        self._disk = disk
        self._new_file = new_file

    def put_whole(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """See :meth:`PartStore.put_whole`."""
        with self._new_file(path, options) as writer:
            writer.promise(options)
            writer.write(data)

    def begin(self, path: str, options: WriteOptions) -> str:
        """See :meth:`PartStore.begin`."""
        upload_id = new_upload_id()
        name = RESERVED_PREFIX + upload_id
        try:
            with self._disk.folder(name, create=True) as folder:
                self._store(folder, NOTE_NAME, note_of(path, options))
        except BaseException:
            _remove(self._disk, name)
            raise
        return upload_id

    def put_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """See :meth:`PartStore.put_part`."""
        folder, _ = self._open(path, upload_id)
        with folder:
            return self._store(folder, part_name(number), memoryview(data).cast("B"), number)

    def finish(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """See :meth:`PartStore.finish`."""
        folder, note = self._open(path, upload_id)
        with folder, self._new_file(path, options) as writer:
            writer.headers = {**note["headers"], **options.headers}
            writer.promise(options)
            for part in parts:
                try:
                    fd = folder.open_file(part_name(part.number))
                except FileNotFoundError as error:
                    raise IntegrityError(f"part {part.number} is missing: send it again", path=path) from error
                try:
                    if etag(os.fstat(fd)) != part.etag:
                        raise IntegrityError(f"part {part.number} is not the one that was named", path=path)
                    _append(writer, fd, through_here=bool(options.checksum))
                finally:
                    os.close(fd)
        with suppress(OSError):  # it is published, which an error would deny; the sweep takes the rest
            _remove(self._disk, RESERVED_PREFIX + upload_id)

    def discard(self, path: str, upload_id: str) -> None:
        """See :meth:`PartStore.discard`."""
        with suppress(FileNotFoundInStorageError):
            folder, _ = self._open(path, upload_id)
            folder.close()
            _remove(self._disk, RESERVED_PREFIX + upload_id)

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """See :meth:`PartStore.list_parts`."""
        folder, _ = self._open(path, upload_id)
        parts = []
        with folder:
            for name in os.listdir(folder.fd):
                number = number_in(name)
                if number is not None:
                    status = folder.stat(name)
                    parts.append(Part(number=number, size=status.st_size, etag=etag(status)))
        return sorted(parts, key=lambda part: part.number)

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """See :meth:`PartStore.list_uploads`."""
        with self._disk.folder("") as root:
            hidden = [name for name in os.listdir(root.fd) if name.startswith(RESERVED_PREFIX)]
        for upload_id in [name.removeprefix(RESERVED_PREFIX) for name in hidden]:
            with suppress(FileNotFoundInStorageError, IntegrityError):
                folder, note = self._open(None, upload_id)
                folder.close()
                if not path or note["path"].startswith(path + "/"):
                    yield pending(note, upload_id)

    def _open(self, path: str | None, upload_id: str) -> tuple[Folder, dict[str, Any]]:
        """Open the folder of an upload to *path* (None: to any) and read its note."""
        missing = FileNotFoundInStorageError(self._backend, f"{path} (upload)")
        if not is_upload_id(upload_id):
            raise missing
        try:
            folder = self._disk.folder(RESERVED_PREFIX + upload_id)
        except FileNotFoundError as error:
            raise missing from error
        try:
            with os.fdopen(folder.open_file(NOTE_NAME), "rb") as file:
                note = read_note(file.read())
        except FileNotFoundError as error:  # being begun or removed at this moment
            folder.close()
            raise missing from error
        except BaseException:
            folder.close()
            raise
        if path not in (None, note["path"]):
            folder.close()
            raise missing
        return folder, note

    def _store(self, folder: Folder, name: str, data: bytes | memoryview, number: int = 0) -> Part:
        temporary, fd = folder.create_temporary()
        try:
            try:
                write_all(fd, data)
                if self._disk.sync:
                    os.fsync(fd)
                status = os.fstat(fd)
            finally:
                os.close(fd)
            folder.publish(temporary, name, exclusive=False, allowed=None, sync=self._disk.sync)
        except BaseException:
            folder.unlink(temporary)
            raise
        return Part(number=number, size=status.st_size, etag=etag(status))


def sweep(disk: Disk, before: float) -> int:
    """Remove hidden files and uploads last touched before the time stamp *before*; return how many.

    Empty folders go too, uncounted: a crash leaves them between the making of a folder and that of its first file.
    """

    def left(path: str, folder: Folder) -> None:
        if os.fstat(folder.fd).st_mtime < before:
            disk.prune(path)

    count = 0
    for prefix, entry in disk.walk(left=left):
        if not entry.name.startswith(RESERVED_PREFIX):
            continue
        with suppress(FileNotFoundError):  # finished while we look
            if entry.stat(follow_symlinks=False).st_mtime >= before:
                continue
            if entry.is_dir(follow_symlinks=False):
                _remove(disk, prefix + entry.name)
            else:
                with disk.folder(prefix[:-1]) as folder:
                    folder.unlink(entry.name)
                disk.prune(prefix[:-1])
            count += 1
    return count


def _remove(disk: Disk, path: str) -> None:
    """Remove the hidden folder of an upload with what is in it."""
    with suppress(FileNotFoundError), disk.folder(path) as folder:  # else somebody removes it too
        for name in os.listdir(folder.fd):
            folder.unlink(name)
    disk.prune(path)


def _append(writer: Any, part: int, *, through_here: bool) -> None:
    """Append a part: the kernel copies it, unless its bytes must be seen for a checksum."""
    if not through_here:
        writer.take(part, 0)
        return
    offset = 0
    while chunk := os.pread(part, _CHUNK, offset):
        writer.write(chunk)
        offset += len(chunk)
