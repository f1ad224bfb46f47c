"""The probes of ``flask storage doctor`` for files, through the public operations of a storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..backends.base import StorageBackend
from ..diagnostics import Finding
from ..errors import FileExistsInStorageError, PreconditionFailedError, UnsupportedOperationError
from ..types import WriteOptions

FIRST, SECOND = b"the first version\n", b"another version..\n"  # of the same size
_METADATA = {"doctor": "Mixed Case", "two_words": "1"}
_TYPE = "text/x-doctor"
_IGNORED = "make the profile's settings those of the service (on S3, preset), so that the storage refuses such calls"


class FileProbes:
    """Tries to write, read, list and delete files, and what the storage declares about them.

    Args:
        storage: The storage.
        directory: The directory of the files.
    """

    def __init__(self, storage: StorageBackend, directory: str) -> None:
        self._storage = storage
        self._directory = directory

    def probes(self) -> Mapping[str, Callable[[], Finding]]:
        """Return the probes that need a storage that can be written."""
        return {
            "read": self.read,
            "list": self.listing,
            "delete": self.delete,
            "headers": self.headers,
            "exclusive": self.exclusive,
            "if_match": self.if_match,
            "copy": self.copies,
            "multipart": self.multipart,
            "etag": self.etag,
            "case": self.case,
        }

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _write_two(self, name: str) -> tuple[str, str | None]:
        """Write two versions of a file, and return its path and the etag of the first one."""
        path = self._path(name)
        self._storage.write(path, FIRST)
        etag = self._storage.stat(path).etag
        self._storage.write(path, SECOND)
        return path, etag

    def access(self) -> Finding:
        """Try the credentials, by listing an empty directory."""
        self._storage.list(self._directory)
        return Finding("ok", "the storage answers")

    def write(self) -> Finding:
        """Write a file."""
        try:
            self._storage.write(self._path("file.txt"), FIRST)
        except UnsupportedOperationError as error:  # a read-only profile
            return Finding("note", str(error))
        return Finding("ok", "a file was written")

    def read(self) -> Finding:
        """Read the file, all of it and from its middle."""
        with self._storage.open(self._path("file.txt"), "r") as reader:
            whole = reader.read()
            reader.seek(4)
            rest = reader.read()
        if (whole, rest) != (FIRST, FIRST[4:]):
            return Finding("failed", "other bytes were read than written", "check the proxies between app and service")
        return Finding("ok", "the file was read")

    def listing(self) -> Finding:
        """List the file."""
        names = [entry.name for entry in self._storage.list(self._directory)]
        if self._path("file.txt") not in names:
            return Finding(
                "failed", "a written file is not listed", "the service is not consistent: do not rely on list()"
            )
        return Finding("ok", "the file is listed")

    def delete(self) -> Finding:
        """Delete a file."""
        path = self._path("deleted.txt")
        self._storage.write(path, FIRST)
        self._storage.delete(path)
        if self._storage.exists(path):
            return Finding("failed", "a deleted file still exists", "check the credentials, and locks of the service")
        return Finding("ok", "a file was deleted")

    def headers(self) -> Finding:
        """Compare content type and metadata with what was sent."""
        capabilities, path = self._storage.capabilities, self._path("headers")
        if not (capabilities.content_headers or capabilities.metadata):
            return Finding("note", "content types and metadata are not stored")
        metadata = _METADATA if capabilities.metadata else {}
        self._storage.write(
            path, FIRST, content_type=_TYPE if capabilities.content_headers else None, metadata=metadata
        )
        info = self._storage.stat(path)
        advice = "check the proxies between app and service, and the settings of the profile (on S3, preset)"
        if dict(info.metadata) != metadata:
            return Finding("failed", f"metadata comes back changed, with the keys {', '.join(info.metadata)}", advice)
        if capabilities.content_headers and info.content_type != _TYPE:
            return Finding("failed", "the content type comes back changed", advice)
        return Finding("ok", "content type and metadata come back as they were sent")

    # -- conditions ---------------------------------------------------------------------------------------------------

    def exclusive(self) -> Finding:
        """Try to replace a file with ``exclusive=True``."""
        if not self._storage.capabilities.exclusive:
            return Finding("note", "exclusive=True is refused, and save() adds a random suffix to every name")
        path = self._path("exclusive")
        self._storage.write(path, FIRST)
        return self._refused(path, "exclusive=True", lambda: self._storage.write(path, SECOND, exclusive=True))

    def if_match(self) -> Finding:
        """Try to replace another version than the one that ``if_match`` names, and then that one."""
        if not self._storage.capabilities.if_match:
            return Finding("note", "if_match is refused")
        path, old = self._write_two("if-match")
        finding = self._refused(path, "if_match", lambda: self._storage.write(path, FIRST, if_match=old), SECOND)
        if finding.status == "ok":
            self._storage.write(path, FIRST, if_match=self._storage.stat(path).etag)
        return finding

    def copies(self) -> Finding:
        """Try to replace a file by a copy with ``exclusive=True``."""
        source, target = self._path("source"), self._path("target")
        self._storage.write(source, SECOND)
        self._storage.write(target, FIRST)
        if not self._storage.capabilities.copy_conditions:
            self._storage.copy(source, target)
            return Finding("note", "a file was copied; exclusive=True and if_match are refused for copies")
        return self._refused(
            target, "exclusive=True of a copy", lambda: self._storage.copy(source, target, exclusive=True)
        )

    def multipart(self) -> Finding:
        """Complete a multipart upload over a file, with ``exclusive=True`` where the storage declares that."""
        capabilities, path = self._storage.capabilities, self._path("multipart")
        if not capabilities.multipart:
            return Finding("note", "multipart uploads are not supported")
        self._storage.write(path, FIRST)
        multipart = self._storage.multipart
        upload_id = multipart.create(path, WriteOptions())
        try:
            parts = [multipart.upload_part(path, upload_id, 1, SECOND)]
            if not capabilities.multipart_conditions:
                multipart.complete(path, upload_id, parts, WriteOptions())
                return Finding("note", "an upload was completed; exclusive=True and if_match are refused there")
            options = WriteOptions(exclusive=True)
            return self._refused(
                path, "exclusive=True of an upload", lambda: multipart.complete(path, upload_id, parts, options)
            )
        finally:
            multipart.abort(path, upload_id)

    def _refused(self, path: str, condition: str, write: Callable[[], None], stays: bytes = FIRST) -> Finding:
        """Return whether *write* was refused and the file has still the content *stays*."""
        try:
            write()
        except (FileExistsInStorageError, PreconditionFailedError):
            if self._storage.read(path) == stays:
                return Finding("ok", f"{condition} is honoured")
        return Finding("failed", f"{condition} is ignored by the service: the file was overwritten", _IGNORED)

    def etag(self) -> Finding:
        """Compare the etags of two versions that are written immediately after each other."""
        path, first = self._write_two("etag")
        info = self._storage.stat(path)
        if info.etag is None or info.etag == first:
            return Finding("failed", "two versions have the same etag", "do not use if_match, and no caches of links")
        if not info.etag_is_strong:
            return Finding("note", "etags are weak: a broken download starts again, and is not resumed")
        return Finding("ok", "etags are strong")

    def case(self) -> Finding:
        """Look whether names that differ only in case are one file."""
        self._storage.write(self._path("Case"), FIRST)
        if self._storage.exists(self._path("case")):
            return Finding(
                "note", "names that differ only in case are one file", "let the app compare names in lower case"
            )
        return Finding("ok", "names that differ only in case are two files")
