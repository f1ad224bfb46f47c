"""The base of every test class of the suite: the storage under test, required capabilities, test content."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from ...backends.base import StorageBackend
from ...errors import PreconditionFailedError, StorageError, UnsupportedOperationError
from ...files import RemoteFile
from ...multipart import MultipartStore

CHUNK = RemoteFile.iter_chunk_size
SIZES = [0, 1, 2, 1023, 1024, 1025, 8191, 8192, 8193, 65_536, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1]
"""In bytes, around every boundary where a buffer begins or ends."""

Test = TypeVar("Test", bound=Callable[..., None])


class ConformanceBase:
    """One storage for each test."""

    replaced_errors: ClassVar[tuple[type[StorageError], ...]] = (PreconditionFailedError,)
    """The errors that a read may raise while its file is replaced concurrently; a subclass may allow more."""

    max_path_bytes: ClassVar[int] = 1024
    """The longest path that the storage accepts; a subclass whose storage adds a prefix to each path sets less."""

    def make_storage(self, tmp_path: Path) -> StorageBackend:
        """Return an empty storage; *tmp_path* is a fresh local directory that it may use."""
        raise NotImplementedError("the conformance suite needs a storage to test: override make_storage()")

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[StorageBackend]:
        """Return the storage under test."""
        directory = tmp_path / "storage"
        directory.mkdir()
        storage = self.make_storage(directory)
        yield storage
        storage.close()


def needs(*capabilities: str) -> Callable[[Test], Test]:
    """Decorate a test that needs optional capabilities.

    If the storage does not declare all of *capabilities*, the same test must raise
    :class:`~flask_storage.errors.UnsupportedOperationError`.
    """

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(self: ConformanceBase, **fixtures: Any) -> None:
            declared = next(value.capabilities for value in fixtures.values() if isinstance(value, StorageBackend))
            if all(getattr(declared, capability) for capability in capabilities):
                test(self, **fixtures)
            else:
                with pytest.raises(UnsupportedOperationError):
                    test(self, **fixtures)

        return run  # type: ignore[return-value]  # wraps() keeps the signature; the type checker cannot see that

    return decorate


def content_of(size: int, seed: int = 0) -> bytes:
    """Return *size* bytes in which no two blocks are equal, so that a lost, doubled or swapped block is noticed."""
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


def part_content(parts: MultipartStore, seed: int, size: int = CHUNK) -> bytes:
    """Return the content of a part that is not the last: *size* bytes, or as near as the part limits allow."""
    limits = parts.limits
    return content_of(max(limits.min_size, min(size, limits.max_size or size)), seed)


def names(storage: StorageBackend, path: str = "", **arguments: Any) -> list[str]:
    """Return the names in a listing."""
    return [entry.name for entry in storage.list(path, **arguments)]


@contextmanager
def gzip_over_a_pipe(content: bytes) -> Iterator[gzip.GzipFile]:
    """Yield a source that claims to be seekable, and cannot seek back; *content* must fit into the buffer of a pipe."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as target:
        target.write(gzip.compress(content))
    with os.fdopen(reading, "rb") as pipe, gzip.GzipFile(fileobj=pipe) as source:
        yield source


class UnseekableSource:
    """A source like a socket: not seekable, and with short reads."""

    def __init__(self, content: bytes) -> None:
        self._source = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        """Return at most 70,000 bytes, however large *size* is."""
        return self._source.read(min(size, 70_000) if size >= 0 else 70_000)
