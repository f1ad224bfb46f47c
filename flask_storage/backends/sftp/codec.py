"""Encoding and decoding of the fields of SFTP messages. Nothing is sent here: :mod:`.protocol` does that."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_MORE = 0x1, 0x2, 0x4, 0x8, 0x80000000


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of a file; those that the server does not report are None."""

    size: int | None = None
    mode: int | None = None
    mtime: int | None = None
    owner: int | None = None

    def pack(self) -> bytes:
        """Return the encoded attributes, for a request that sets them: the protocol sets both times together."""
        flags, fields = 0, b""
        if self.size is not None:
            flags, fields = flags | _HAS_SIZE, fields + struct.pack(">Q", self.size)
        if self.mode is not None:
            flags, fields = flags | _HAS_MODE, fields + struct.pack(">I", self.mode)
        if self.mtime is not None:
            flags, fields = flags | _HAS_TIMES, fields + struct.pack(">II", self.mtime, self.mtime)
        return struct.pack(">I", flags) + fields


class MessageReader:
    """Reads the fields of a response in order; a missing field is a ``struct.error``."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        """Number of bytes that were not read yet."""
        return len(self._data) - self._position

    def get_uint32(self) -> int:
        """Read a number."""
        return int(self._unpack(">I"))

    def get_string(self) -> bytes:
        """Read bytes that are preceded by their length."""
        length = self.get_uint32()
        if length > self.remaining:
            raise struct.error("a string is longer than the message")
        self._position += length
        return self._data[self._position - length : self._position]

    def get_remainder(self) -> bytes:
        """Return the bytes that were not read yet."""
        return self._data[self._position :]

    def get_attributes(self) -> Attributes:
        """Read the attributes of a file."""
        flags = self.get_uint32()
        size = int(self._unpack(">Q")) if flags & _HAS_SIZE else None
        owner = int(self._unpack(">Q")) >> 32 if flags & _HAS_OWNER else None
        mode = self.get_uint32() if flags & _HAS_MODE else None
        mtime = int(self._unpack(">Q")) & 0xFFFFFFFF if flags & _HAS_TIMES else None
        if flags & _HAS_MORE:
            for _ in range(self.get_uint32()):
                self.get_string(), self.get_string()
        return Attributes(size, mode, mtime, owner)

    def _unpack(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._position)
        self._position += struct.calcsize(form)
        return value


def pack_string(data: bytes) -> bytes:
    """Return bytes preceded by their length, which is how names, paths and handles are encoded."""
    return struct.pack(">I", len(data)) + data
