# ruff: noqa: S101, PT012, N818, SIM117 - a test suite that is shipped: it asserts, and breaks off in the middle of blocks
"""Histories that nobody would think of: hypothesis invents them, a plain dictionary says how they must end."""

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
"""Few, so that histories meet themselves; no file is another's directory, which not every place could hold."""

paths = st.sampled_from(PATHS)
contents = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda seed, size: bytes([seed]) * size, st.integers(0, 255), st.sampled_from([8192, 65_535, 65_537])),
)
types = st.sampled_from([None, "text/plain", "image/png"])


@dataclass
class _File:
    """What the model knows of one file."""

    content: bytes
    content_type: str | None = None


@dataclass
class _OpenWriter:
    """A writer that is open, and what it will have written."""

    path: str
    writer: RemoteFile
    content: bytearray
    content_type: str | None


@dataclass
class _OpenUpload:
    """An upload in parts that is neither finished nor discarded."""

    path: str
    upload_id: str
    content_type: str | None
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class _Interrupted(Exception):
    """What ends a block in the middle."""


class StorageMachine(RuleBasedStateMachine):
    """Runs invented histories against a storage and a dictionary, and compares them after every step.

    Subclass it, make your storage, and hand pytest its ``TestCase``::

        class MyMachine(StorageMachine):
            def make_storage(self):
                return MyStorage(...)


        TestMyHistories = MyMachine.TestCase
        TestMyHistories.settings = hypothesis.settings(max_examples=200, stateful_step_count=50, deadline=None)

    ``make_storage`` is called for every history and must return an empty storage; clear away in ``teardown``. What the
    storage declares missing must be refused, at any time.
    """

    writers: Bundle[_OpenWriter] = Bundle("writers")
    readers: Bundle[tuple[RemoteFile, str, _File]] = Bundle("readers")
    uploads: Bundle[_OpenUpload] = Bundle("uploads")

    def make_storage(self) -> StorageBackend:
        """Return an empty storage."""
        raise NotImplementedError("a storage machine makes the storage that it runs: override make_storage()")

    @initialize()
    def begin(self) -> None:
        """Start with nothing."""
        self.storage = self.make_storage()
        self.files: dict[str, _File] = {}
        self.tags: dict[str, set[str]] = {}
        self.opened: list[RemoteFile] = []
        self.long_writes = 0

    def teardown(self) -> None:
        """Abandon whatever is still open."""
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
        """Store nothing, which is a file too."""
        with self.storage.open(path, "w"):
            pass
        self.files[path] = _File(b"", self._type(path))

    @rule(path=paths, content=contents)
    def put_exclusive(self, path: str, content: bytes) -> None:
        """Store a file where none is; a taken name is refused."""
        with (
            self._expect_unsupported_if(not self.storage.capabilities.exclusive),
            self._expect_exists_error_if_stored(path, True),
        ):
            self.storage.write(path, content, exclusive=True)
            self.files[path] = _File(content, self._type(path))

    @rule(path=paths, content=contents, other=st.booleans())
    def put_if_match(self, path: str, content: bytes, other: bool) -> None:
        """Replace the version that is there, or fail to replace one that never was."""
        if not self.storage.capabilities.if_match:
            with pytest.raises(UnsupportedOperationError):
                self.storage.write(path, content, if_match="x")
        elif path in self.files and not other:
            self.storage.write(path, content, if_match=self.storage.stat(path).etag)
            self.files[path] = _File(content, self._type(path))
        else:
            with pytest.raises(PreconditionFailedError):
                self.storage.write(path, content, if_match="no such version")

    @rule(path=paths, content=contents, promised=st.integers(0, 3))
    def upload_wrong_size(self, path: str, content: bytes, promised: int) -> None:
        """Announce more bytes than come."""
        with pytest.raises(IntegrityError):
            self.storage.upload(io.BytesIO(content), path, size=len(content) + promised + 1)

    @rule(path=paths, content=contents)
    def abort(self, path: str, content: bytes) -> None:
        """Leave a writer by an exception."""
        with pytest.raises(_Interrupted), self.storage.open(path, "w") as writer:
            writer.write(content)
            raise _Interrupted

    @rule(target=writers, path=paths, content=contents, content_type=types)
    def open_writer(self, path: str, content: bytes, content_type: str | None) -> _OpenWriter:
        """Open a writer that stays open while other things happen."""
        path, headers = self._unique_path(path), self._headers(content_type)
        writer = self.storage.open(path, "w", **headers)
        self.opened.append(writer)
        writer.write(content)
        return _OpenWriter(path, writer, bytearray(content), self._type(path, headers))

    @rule(writing=writers, content=contents)
    def write_more(self, writing: _OpenWriter, content: bytes) -> None:
        """Write some more."""
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
        """Edit a file, and keep the edit or not."""
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
        """Store under a name that may be taken, and nothing is replaced."""
        path = self.storage.save(name, content)
        assert path not in self.files
        self.files[path] = _File(content, self._type(path))

    # -- reading ------------------------------------------------------------------------------------------------------

    @rule(path=paths)
    def get(self, path: str) -> None:
        """Read a file whole, or learn that there is none."""
        with self._expect_found_if_stored(path):
            assert self.storage.read(path) == self.files[path].content

    @rule(path=paths, start=st.integers(0, 70_000), size=st.integers(0, 70_000))
    def get_range(self, path: str, start: int, size: int) -> None:
        """Read a piece from the middle."""
        with self._expect_found_if_stored(path), self.storage.open(path, "r") as reader:
            reader.seek(start)
            assert reader.read(size) == self.files[path].content[start : start + size]

    @rule(path=paths)
    def stat(self, path: str) -> None:
        """Ask what is known of a file."""
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
        """What an open reader yields is the version that it opened; of one that is gone it may yield nothing."""
        reader, path, file = reading
        reader.seek(start)
        try:
            assert reader.read() == file.content[start:]
        except PreconditionFailedError:
            assert self.files.get(path) is not file

    # -- moving and deleting ------------------------------------------------------------------------------------------

    @rule(path=paths, new_path=paths, exclusive=st.booleans(), moved=st.booleans())
    def copy_or_move(self, path: str, new_path: str, exclusive: bool, moved: bool) -> None:
        """Copy or move a file, also onto itself."""
        operation = self.storage.move if moved else self.storage.copy
        able = self.storage.capabilities.exclusive and self.storage.capabilities.copy_conditions
        with self._expect_unsupported_if(exclusive and not able), self._expect_found_if_stored(path):
            with self._expect_exists_error_if_stored(new_path, exclusive and path in self.files):
                operation(path, new_path, exclusive=exclusive)
                self.files[new_path] = self.files[path]
                if moved and path != new_path:
                    del self.files[path]

    @rule(path=paths)
    def delete(self, path: str) -> None:
        """Delete a file that may be there."""
        self.storage.delete(path)
        self.files.pop(path, None)

    @rule(some=st.lists(paths, max_size=4))
    def delete_many(self, some: list[str]) -> None:
        """Delete several files that may be there."""
        self.storage.delete_many(some)
        for path in some:
            self.files.pop(path, None)

    @rule(directory=st.sampled_from(["d", "d/e", "dd", "é", "a", "nothing"]))
    def delete_directory(self, directory: str) -> None:
        """Delete everything below a directory."""
        below = [path for path in self.files if path.startswith(directory + "/")]
        assert self.storage.delete_prefix(directory) == len(below)
        for path in below:
            del self.files[path]

    # -- uploads in parts ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.storage.capabilities.multipart)
    @rule(target=uploads, path=paths, content_type=types)
    def create_upload(self, path: str, content_type: str | None) -> _OpenUpload:
        """Open an upload in parts."""
        path, headers = self._unique_path(path), self._headers(content_type)
        upload_id = self.storage.multipart.create(path, WriteOptions(**headers))
        return _OpenUpload(path, upload_id, self._type(path, headers))

    @rule(upload=uploads, number=st.integers(1, 4), content=contents)
    def upload_part(self, upload: _OpenUpload, number: int, content: bytes) -> None:
        """Send a part, or send it anew."""
        content = content.ljust(
            self.storage.multipart.limits.min_size, b"-"
        )  # any part but the last may have to be larger
        part = self.storage.multipart.upload_part(upload.path, upload.upload_id, number, content)
        upload.parts[number] = part, content

    @rule(upload=consumes(uploads), finished=st.booleans())
    def finish_upload(self, upload: _OpenUpload, finished: bool) -> None:
        """Finish an upload with all of its parts, or discard it."""
        parts = self.storage.multipart
        assert parts.list_parts(upload.path, upload.upload_id) == [
            part for _, (part, _) in sorted(upload.parts.items())
        ]
        if finished and upload.parts:
            parts.complete(upload.path, upload.upload_id, [part for part, _ in upload.parts.values()], WriteOptions())
            content = b"".join(content for _, (_, content) in sorted(upload.parts.items()))
            self.files[upload.path] = _File(content, upload.content_type)
        else:
            parts.abort(upload.path, upload.upload_id)

    @rule()
    def sweep(self) -> None:
        """Clear away what is old: nothing here is."""
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
        """Folders are shown as long as something is below them."""
        if not hasattr(self, "storage"):
            return
        for directory in ("", "d", "d/e"):
            prefix = f"{directory}/" if directory else ""
            below = [path[len(prefix) :] for path in self.files if path.startswith(prefix)]
            expected = {prefix + head + slash for head, slash, _ in (path.partition("/") for path in below)}
            assert [entry.name for entry in self.storage.list(directory, recursive=False)] == sorted(expected)

    # -- inner --------------------------------------------------------------------------------------------------------

    def _unique_path(self, path: str) -> str:
        """Return where a write goes that stays open: to a name of its own where two that meet cannot both end."""
        self.long_writes += 1
        return path if self.storage.capabilities.concurrent_writes else f"{path} {self.long_writes}"

    def _headers(self, content_type: str | None) -> Any:
        """Return the keyword arguments for *content_type*, where the storage keeps one."""
        return {"content_type": content_type} if self.storage.capabilities.content_headers else {}

    def _type(self, path: str, headers: Any = None) -> str | None:
        """Return the content type that *path* will have: the one it is given, or what the place makes of its name."""
        given: str | None = (headers or {}).get("content_type")
        return given or (guess_content_type(path) if self.storage.capabilities.guesses_content_type else None)

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
