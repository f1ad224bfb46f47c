"""A ZIP file of several stored files, which is made while it is sent: no temporary file, and little memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence

from flask_storage import FileInfo, StorageBackend
from flask_storage.paths import extension_of

_FIRST_YEAR = 1980  # the first that ZIP files can represent


def stream_zip(backend: StorageBackend, infos: Sequence[FileInfo]) -> Iterator[bytes]:
    """Yield the bytes of a ZIP file of stored files, without compression: photos and videos would not get smaller.

    Args:
        backend: The storage of the files.
        infos: The files. Each gets the last segment of its path as its name, with a number if that is taken.
    """
    sink = _Sink()
    taken: set[str] = set()
    with zipfile.ZipFile(sink, "w") as archive:
        for info in infos:
            name = _unique(info.path.rpartition("/")[2], taken)
            modified = info.last_modified
            entry = zipfile.ZipInfo(name, (max(modified.year, _FIRST_YEAR), *modified.timetuple()[1:6]))
            with backend.open(info.path, "r") as reader, archive.open(entry, "w", force_zip64=True) as target:
                for chunk in reader.iter_chunks():
                    target.write(chunk)
                    yield sink.take()
    yield sink.take()


class _Sink:
    """A file object without a position that holds what was written until it is taken."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Hold *data*."""
        self._chunks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, with a number if a name that differs only in case is taken."""
    extension = extension_of(name)
    candidate, number = name, 1
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name.removesuffix(extension)} ({number}){extension}"
    taken.add(candidate.casefold())
    return candidate
