"""Used links as files of one host."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from ..errors import StorageUnavailableError
from .base import LinkUsageStore

_KEY = re.compile(r"[0-9a-f]{64}")


class FileUsageStore(LinkUsageStore):
    """Used links as empty files, for all processes of one host.

    Each use is a file that only one process can create (``O_EXCL``): ``<hash of the id>/<number>``, modified at the
    moment when the link expires. A link of a hundred uses leaves up to a hundred files until it is forgotten;
    for links of many thousands take another store.

    Args:
        directory: Where; it is made when the first use is taken, for its owner alone (``0700``).
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.path.abspath(directory)

    def __repr__(self) -> str:
        return f"<FileUsageStore in {self._directory}>"

    def _count(self, key: str) -> int:
        with self._translated():
            return len(_names(os.path.join(self._directory, key)))

    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        folder = os.path.join(self._directory, key)
        with self._translated():
            return any(self._create(folder, str(number), expiry) for number in range(1, uses + 1))

    def _create(self, folder: str, name: str, expiry: int) -> bool:
        path = os.path.join(folder, name)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False  # this use is taken
        except FileNotFoundError:  # the first use of this link, or its empty folder was swept away in this moment
            os.makedirs(self._directory, 0o700, exist_ok=True)
            _sync(os.path.dirname(self._directory))
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            return self._create(folder, name, expiry)
        try:
            # Until now the file said that the link expires at once, which keeps it for an hour: nobody could sweep it
            # away under us. Had we died before, the use would not have been granted.
            os.utime(file if os.utime in os.supports_fd else path, (expiry, expiry))
            os.fsync(file)  # a use must outlive a power failure
        finally:
            os.close(file)
        # And so must the names. Whoever made the link's folder may not have come so far yet, so each use sees to both.
        _sync(folder)
        _sync(self._directory)
        return True

    def _decrement(self, key: str) -> None:
        folder = os.path.join(self._directory, key)
        with self._translated():
            for name in _names(folder):
                with contextlib.suppress(FileNotFoundError):  # another worker gave this one back
                    os.unlink(os.path.join(folder, name))
                    return

    def _delete_expired(self, expired: int) -> int:
        forgotten = 0
        with self._translated():
            for key in filter(_KEY.fullmatch, _names(self._directory)):
                folder = os.path.join(self._directory, key)
                for name in _names(folder):
                    with contextlib.suppress(FileNotFoundError):  # another worker sweeps too
                        file = os.path.join(folder, name)
                        if os.stat(file, follow_symlinks=False).st_mtime <= expired:
                            os.unlink(file)
                            forgotten += 1
                if not _names(folder):
                    with contextlib.suppress(OSError):  # gone already, or used again in this moment
                        os.rmdir(folder)
        return forgotten

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailableError(
                f"the folder of used links {self._directory} cannot be used ({error.strerror}): the app's user must be "
                "able to write there, or name another place in STORAGE_LINK_USAGE"
            ) from error


def _sync(folder: str) -> None:
    """Make the names in a folder durable, where the file system can."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
            raise
    finally:
        os.close(opened)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
