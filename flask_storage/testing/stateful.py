# ruff: noqa: S101, PT012, N818, SIM117 - a test suite that is shipped: it asserts, and raises within blocks
"""A hypothesis state machine: random sequences of operations, compared with a dictionary as the model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from ..backends.base import StorageBackend
from ..content_types import guess_content_type
from ..errors import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    PreconditionFailedError,
    UnsupportedOperationError,
)
from ..files import RemoteFile
from ..multipart import Part
from ..types import WriteOptions

PATHS = ["a", "b", "a b", "d/x", "d/y", "d/e/z", "d/e/f/z", "dd/x", "%20+#?", "é/ß"]
"""Few, so that operations meet on one path. No path is a parent of another; not every backend can store both."""

paths = st.sampled_from(PATHS)
contents = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda seed, size: bytes([seed]) * size, st.integers(0, 255), st.sampled_from([8192, 65_535, 65_537])),
)
types = st.sampled_from([None, "text/plain", "image/png"])


@dataclass
class _File:
    """One file of the model."""

    content: bytes
    content_type: str | None = None


@dataclass
class _OpenWriter:
    """An open writer and the content written to it so far."""

    path: str
    writer: RemoteFile
    content: bytearray
    content_type: str | None


@dataclass
class _OpenUpload:
    """A multipart upload that is neither completed nor aborted."""

    path: str
    upload_id: str
    content_type: str | None
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class _Interrupted(Exception):
    """Raised within a block, to leave it early."""


class StorageMachine(RuleBasedStateMachine):
    """Runs random sequences of operations on a storage and on a dictionary, and compares both after every step.

    Subclass it, return your storage from ``make_storage``, and give pytest its ``TestCase``::

        class MyMachine(StorageMachine):
            def make_storage(self):
                return MyStorage(...)


        TestMyHistories = MyMachine.TestCase
        TestMyHistories.settings = hypothesis.settings(max_examples=200, stateful_step_count=50, deadline=None)

    ``make_storage`` is called for every sequence and must return an empty storage; clean up in ``teardown``. Whatever
    the capabilities declare unsupported must be refused at any time.
    """

    writers: Bundle[_OpenWriter] = Bundle("writers")
    readers: Bundle[tuple[RemoteFile, str, _File]] = Bundle("readers")
    uploads: Bundle[_OpenUpload] = Bundle("uploads")

    def make_storage(self) -> StorageBackend:
        """Return an empty storage."""
        raise NotImplementedError("StorageMachine needs a storage to test: override make_storage()")

    @initialize()
    def begin(self) -> None:
        """Start with an empty storage and an empty model."""
        self.storage = self.make_storage()
        self.files: dict[str, _File] = {}
        self.tags: dict[str, set[str]] = {}
        self.opened: list[RemoteFile] = []
        self.long_writes = 0

    def teardown(self) -> None:
        """Abort the files that are still open."""
        for file in getattr(self, "opened", []):
            file.abort()

    # -- writing ------------------------------------------------------------------------------------------------------

    @rule(path=paths, content=contents, content_type=types)
    def put(self, path: str, content: bytes, content_type: str | None) -> None:
        """Store a file, or replace it."""
        headers = self._headers(content_type)
        self.storage.upload(io.BytesIO(content), path, **headers)
        self.files[path] = _File(content, self._type(path, headers))

    @rule(path=paths)
    def put_empty(self, path: str) -> None:
        """Store an empty file."""
        with self.storage.open(path, "w"):
            pass
        self.files[path] = _File(b"", self._type(path))

    @rule(path=paths, content=contents)
    def put_exclusive(self, path: str, content: bytes) -> None:
        """Store a file exclusively; an existing file is refused."""
        with (
            self._expect_unsupported_if(not self.storage.capabilities.exclusive),
            self._expect_exists_error_if_stored(path, True),
        ):
            self.storage.write(path, content, exclusive=True)
            self.files[path] = _File(content, self._type(path))

    @rule(path=paths, content=contents, other=st.booleans())
    def put_if_match(self, path: str, content: bytes, other: bool) -> None:
        """Replace the stored version by its etag, or fail with an etag that never existed."""
        if not self.storage.capabilities.if_match:
            with pytest.raises(UnsupportedOperationError):
                self.storage.write(path, content, if_match="x")
        elif path in self.files and not other:
            self.storage.write(path, content, if_match=self.storage.stat(path).etag)
            self.files[path] = _File(content, self._type(path))
        else:
            with pytest.raises(PreconditionFailedError):
                self.storage.write(path, content, if_match="no such version")

    @rule(path=paths, content=contents, excess=st.integers(1, 4))
    def upload_wrong_size(self, path: str, content: bytes, excess: int) -> None:
        """Declare a larger size than the content has."""
        with pytest.raises(IntegrityError):
            self.storage.upload(io.BytesIO(content), path, size=len(content) + excess)

    @rule(path=paths, content=contents)
    def abort(self, path: str, content: bytes) -> None:
        """Leave a writer's block by an exception."""
        with pytest.raises(_Interrupted), self.storage.open(path, "w") as writer:
            writer.write(content)
            raise _Interrupted

    @rule(target=writers, path=paths, content=contents, content_type=types)
    def open_writer(self, path: str, content: bytes, content_type: str | None) -> _OpenWriter:
        """Open a writer that stays open during the following steps."""
        path, headers = self._unique_path(path), self._headers(content_type)
        writer = self.storage.open(path, "w", **headers)
        self.opened.append(writer)
        writer.write(content)
        return _OpenWriter(path, writer, bytearray(content), self._type(path, headers))

    @rule(writing=writers, content=contents)
    def write_more(self, writing: _OpenWriter, content: bytes) -> None:
        """Write more content to an open writer."""
        writing.writer.write(content)
        writing.content += content

    @rule(writing=consumes(writers))
    def publish(self, writing: _OpenWriter) -> None:
        """Close an open writer."""
        writing.writer.close()
        self.files[writing.path] = _File(bytes(writing.content), writing.content_type)

    @rule(writing=consumes(writers))
    def abort_writer(self, writing: _OpenWriter) -> None:
        """Abort an open writer."""
        writing.writer.abort()

    @rule(path=paths, offset=st.integers(0, 50), content=st.binary(max_size=20), interrupted=st.booleans())
    def reopen(self, path: str, offset: int, content: bytes, interrupted: bool) -> None:
        """Edit a file, and publish or abort the edit."""
        if not self.storage.capabilities.read_write:
            with pytest.raises(UnsupportedOperationError):
                self.storage.open(path, "rw")
        elif path not in self.files:
            with pytest.raises(FileNotFoundInStorageError):
                self.storage.open(path, "rw")
        else:
            old = self.files[path]
            offset = min(offset, len(old.content))
            updater = self.storage.open(path, "rw")
            updater.seek(offset)
            updater.write(content)
            if interrupted:
                updater.abort()
            else:
                updater.close()
                edited = old.content[:offset] + content + old.content[offset + len(content) :]
                self.files[path] = _File(edited, old.content_type)

    @rule(name=st.sampled_from(["a", "d/x", "new", "d/x.txt"]), content=contents)
    def save(self, name: str, content: bytes) -> None:
        """Save under a name that may exist; nothing is replaced."""
        path = self.storage.save(name, content)
        assert path not in self.files
        self.files[path] = _File(content, self._type(path))

    # -- reading ------------------------------------------------------------------------------------------------------

    @rule(path=paths)
    def get(self, path: str) -> None:
        """Read a whole file, or fail because it does not exist."""
        with self._expect_found_if_stored(path):
            assert self.storage.read(path) == self.files[path].content

    @rule(path=paths, start=st.integers(0, 70_000), size=st.integers(0, 70_000))
    def get_range(self, path: str, start: int, size: int) -> None:
        """Read a range of a file."""
        with self._expect_found_if_stored(path), self.storage.open(path, "r") as reader:
            reader.seek(start)
            assert reader.read(size) == self.files[path].content[start : start + size]

    @rule(path=paths)
    def stat(self, path: str) -> None:
        """Compare `exists` and `stat` with the model."""
        assert self.storage.exists(path) is (path in self.files)
        with self._expect_found_if_stored(path):
            info = self.storage.stat(path)
            assert (info.path, info.size) == (path, len(self.files[path].content))
            if self.storage.capabilities.content_headers:
                assert info.content_type == self.files[path].content_type

    @rule(target=readers, path=paths)
    def open_reader(self, path: str) -> Any:
        """Open a reader that stays open while the file is replaced, moved or deleted."""
        if path not in self.files:
            return multiple()
        reader = self.storage.open(path, "r")
        self.opened.append(reader)
        return reader, path, self.files[path]

    @rule(reading=readers, start=st.integers(0, 100))
    def read_more(self, reading: tuple[RemoteFile, str, _File], start: int) -> None:
        """Read from an open reader: the version that it opened, or an error if the file has changed since."""
        reader, path, file = reading
        reader.seek(start)
        try:
            assert reader.read() == file.content[start:]
        except PreconditionFailedError:
            assert self.files.get(path) is not file

    # -- moving and deleting ------------------------------------------------------------------------------------------

    @rule(path=paths, new_path=paths, exclusive=st.booleans(), move=st.booleans())
    def copy_or_move(self, path: str, new_path: str, exclusive: bool, move: bool) -> None:
        """Copy or move a file, also onto itself."""
        operation = self.storage.move if move else self.storage.copy
        supported = self.storage.capabilities.exclusive and self.storage.capabilities.copy_conditions
        with self._expect_unsupported_if(exclusive and not supported), self._expect_found_if_stored(path):
            with self._expect_exists_error_if_stored(new_path, exclusive and path in self.files):
                operation(path, new_path, exclusive=exclusive)
                self.files[new_path] = self.files[path]
                if move and path != new_path:
                    del self.files[path]

    @rule(path=paths)
    def delete(self, path: str) -> None:
        """Delete a file that may exist."""
        self.storage.delete(path)
        self.files.pop(path, None)

    @rule(some=st.lists(paths, max_size=4))
    def delete_many(self, some: list[str]) -> None:
        """Delete several files that may exist."""
        self.storage.delete_many(some)
        for path in some:
            self.files.pop(path, None)

    @rule(directory=st.sampled_from(["d", "d/e", "dd", "é", "a", "nothing"]))
    def delete_directory(self, directory: str) -> None:
        """Delete all files below a directory."""
        below = [path for path in self.files if path.startswith(directory + "/")]
        assert self.storage.delete_prefix(directory) == len(below)
        for path in below:
            del self.files[path]

    # -- multipart uploads --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.storage.capabilities.multipart)
    @rule(target=uploads, path=paths, content_type=types)
    def create_upload(self, path: str, content_type: str | None) -> _OpenUpload:
        """Create a multipart upload."""
        path, headers = self._unique_path(path), self._headers(content_type)
        upload_id = self.storage.multipart.create(path, WriteOptions(**headers))
        return _OpenUpload(path, upload_id, self._type(path, headers))

    @rule(upload=uploads, number=st.integers(1, 4), content=contents)
    def upload_part(self, upload: _OpenUpload, number: int, content: bytes) -> None:
        """Upload a part, or replace one."""
        # Every part may become one that is not the last, which has a minimum size.
        content = content.ljust(self.storage.multipart.limits.min_size, b"-")
        part = self.storage.multipart.upload_part(upload.path, upload.upload_id, number, content)
        upload.parts[number] = part, content

    @rule(upload=consumes(uploads), complete=st.booleans())
    def end_upload(self, upload: _OpenUpload, complete: bool) -> None:
        """Complete an upload with all of its parts, or abort it."""
        multipart = self.storage.multipart
        assert multipart.list_parts(upload.path, upload.upload_id) == [
            part for _, (part, _) in sorted(upload.parts.items())
        ]
        if complete and upload.parts:
            multipart.complete(
                upload.path, upload.upload_id, [part for part, _ in upload.parts.values()], WriteOptions()
            )
            content = b"".join(content for _, (_, content) in sorted(upload.parts.items()))
            self.files[upload.path] = _File(content, upload.content_type)
        else:
            multipart.abort(upload.path, upload.upload_id)

    @rule()
    def sweep(self) -> None:
        """Sweep what is older than a day, which is nothing."""
        assert self.storage.sweep(timedelta(days=1)) == 0

    # -- after every step ---------------------------------------------------------------------------------------------

    @invariant()
    def listing_matches_model(self) -> None:
        """Every file is listed with its size, and nothing else."""
        if not hasattr(self, "storage"):
            return
        expected = [(path, len(file.content)) for path, file in sorted(self.files.items())]
        assert [(entry.name, entry.size) for entry in self.storage.list()] == expected

    @invariant()
    def directory_listings_match_model(self) -> None:
        """A directory is listed as long as a file is below it."""
        if not hasattr(self, "storage"):
            return
        for directory in ("", "d", "d/e"):
            prefix = f"{directory}/" if directory else ""
            below = [path[len(prefix) :] for path in self.files if path.startswith(prefix)]
            expected = {prefix + head + slash for head, slash, _ in (path.partition("/") for path in below)}
            assert [entry.name for entry in self.storage.list(directory, recursive=False)] == sorted(expected)

    # -- inner --------------------------------------------------------------------------------------------------------

    def _unique_path(self, path: str) -> str:
        """Return the path for a write that stays open; a unique one unless the storage has ``concurrent_writes``."""
        self.long_writes += 1
        return path if self.storage.capabilities.concurrent_writes else f"{path} {self.long_writes}"

    def _headers(self, content_type: str | None) -> Any:
        """Return *content_type* as keyword arguments, or none if the storage does not keep content types."""
        return {"content_type": content_type} if self.storage.capabilities.content_headers else {}

    def _type(self, path: str, headers: Any = None) -> str | None:
        """Return the expected content type of *path*: the one in *headers*, or one that the backend guesses."""
        content_type: str | None = (headers or {}).get("content_type")
        return content_type or (guess_content_type(path) if self.storage.capabilities.guesses_content_type else None)

    @contextmanager
    def _expect_unsupported_if(self, unsupported: bool) -> Iterator[None]:
        if not unsupported:
            yield
            return
        with pytest.raises(UnsupportedOperationError):
            yield

    @contextmanager
    def _expect_exists_error_if_stored(self, path: str, exclusive: bool) -> Iterator[None]:
        if not (exclusive and path in self.files):
            yield
            return
        with pytest.raises(FileExistsInStorageError):
            yield

    @contextmanager
    def _expect_found_if_stored(self, path: str) -> Iterator[None]:
        if path in self.files:
            yield
            return
        with pytest.raises(FileNotFoundInStorageError):
            yield
