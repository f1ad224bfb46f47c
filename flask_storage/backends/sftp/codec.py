"""The fields of SFTP's messages: how they are put together and taken apart."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_MORE = 0x1, 0x2, 0x4, 0x8, 0x80000000


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the server tells of a file; what it does not tell is None."""

    size: int | None = None
    mode: int | None = None
    mtime: int | None = None
    owner: int | None = None

    def pack(self) -> bytes:
        """Return this as the protocol has it, for setting: times are set both at once."""
        flags, fields = 0, b""
        if self.size is not None:
            flags, fields = flags | _HAS_SIZE, fields + struct.pack(">Q", self.size)
        if self.mode is not None:
            flags, fields = flags | _HAS_MODE, fields + struct.pack(">I", self.mode)
        if self.mtime is not None:
            flags, fields = flags | _HAS_TIMES, fields + struct.pack(">II", self.mtime, self.mtime)
        return struct.pack(">I", flags) + fields


class MessageReader:
    """The fields of an answer, taken one after the other; too few are a ``struct.error``."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        """How many bytes have not been taken."""
        return len(self._data) - self._position

    def get_uint32(self) -> int:
        """Take a number."""
        return int(self._unpack(">I"))

    def get_string(self) -> bytes:
        """Take bytes that are told with their length."""
        length = self.get_uint32()
        if length > self.remaining:
            raise struct.error("a text is longer than the answer")
        self._position += length
        return self._data[self._position - length : self._position]

    def get_remainder(self) -> bytes:
        """Return all that is left."""
        return self._data[self._position :]

    def get_attributes(self) -> Attributes:
        """Take what is told of a file."""
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
    """Return bytes after their length, as the protocol has names, paths and handles."""
    return struct.pack(">I", len(data)) + data
