"""Compares files, in storages and on this machine: by size, then by a checksum, an etag, or their content."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from ..backends.base import StorageBackend
from ..streams import SupportsRead

_CHUNK = 1024 * 1024
_COMPUTABLE = ("sha256", "sha1", "md5", "crc32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content of one file.

    Attributes:
        size: In bytes.
        open: Opens it for reading.
        etag: The etag of this version, if equal etags mean equal bytes.
        checksums: Those that are known without reading it, by algorithm.
    """

    size: int
    open: Callable[[], AbstractContextManager[SupportsRead]]
    etag: str | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)

    def digest(self, algorithm: str) -> str:
        """Return a checksum, in hexadecimal; the content is read unless it is known."""
        if algorithm in self.checksums:
            return self.checksums[algorithm]
        with self.open() as file:
            chunks = iter(partial(file.read, _CHUNK), b"")
            if algorithm == "crc32":
                checksum = 0
                for chunk in chunks:
                    checksum = zlib.crc32(chunk, checksum)
                return f"{checksum:08x}"
            computed = hashlib.new(algorithm, usedforsecurity=False)
            for chunk in chunks:
                computed.update(chunk)
            return computed.hexdigest()


def stored_content(storage: StorageBackend, path: str) -> Content:
    """Return the content of a stored file.

    Raises:
        FileNotFoundInStorageError: when it does not exist.
    """
    info = storage.stat(path)
    return Content(
        size=info.size,
        open=lambda: storage.open(path, "r"),
        etag=info.etag if info.etag_is_strong else None,
        checksums=info.checksums,
    )


def local_content(file: str) -> Content:
    """Return the content of a file on this machine."""
    return Content(size=os.stat(file).st_size, open=lambda: open(file, "rb"))


def is_equal(one: Content, other: Content) -> bool:
    """Return whether both have the same content.

    Sizes are compared first, then checksums that are known of both, or etags. Otherwise a checksum is computed, for
    which the content of at least one of them is read.
    """
    if one.size != other.size:
        return False
    both = sorted(set(one.checksums) & set(other.checksums))
    if both:
        return all(one.checksums[name] == other.checksums[name] for name in both)
    if one.etag is not None and one.etag == other.etag:
        return True
    either = [name for name in _COMPUTABLE if name in {*one.checksums, *other.checksums}]
    algorithm = either[0] if either else _COMPUTABLE[0]
    return one.digest(algorithm) == other.digest(algorithm)
