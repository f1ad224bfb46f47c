"""Counts the uses of links in files of one host."""

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
    """Counts uses as empty files, for all processes of one host.

    Each use is a file that only one process can create (``O_EXCL``): ``<hash of the id>/<number>``. Its modification
    time is the expiry of the link. A link of a hundred uses leaves up to a hundred files until they are deleted; for
    links of many thousands of uses choose another store.

    Args:
        directory: The directory of the files; ``~`` stands for the home directory. It is created with the first use,
            for its owner alone (``0700``).
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.path.abspath(os.path.expanduser(directory))

    def __repr__(self) -> str:
        return f"<FileUsageStore in {self._directory}>"

    def _count(self, key: str) -> int:
        with self._translating_errors():
            return len(_names(os.path.join(self._directory, key)))

    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        link_directory = os.path.join(self._directory, key)
        with self._translating_errors():
            return any(self._create(link_directory, str(number), expiry) for number in range(1, uses + 1))

    def _create(self, link_directory: str, name: str, expiry: int) -> bool:
        path = os.path.join(link_directory, name)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False  # this use is consumed
        except FileNotFoundError:  # the first use of this link, or a sweep just removed its empty directory
            os.makedirs(self._directory, 0o700, exist_ok=True)
            _fsync_directory(os.path.dirname(self._directory))
            with contextlib.suppress(FileExistsError):
                os.mkdir(link_directory, 0o700)
            return self._create(link_directory, name, expiry)
        try:
            # Until now the modification time is that of the creation, so no sweep deletes the file within an hour. If
            # the process is killed here, the use is consumed although the operation did not take place.
            os.utime(file if os.utime in os.supports_fd else path, (expiry, expiry))
            os.fsync(file)  # the use must survive a power failure
        finally:
            os.close(file)
        # The directory entries must survive too. The process that created the link's directory may not have reached
        # this line yet, so each use syncs both directories.
        _fsync_directory(link_directory)
        _fsync_directory(self._directory)
        return True

    def _decrement(self, key: str) -> None:
        link_directory = os.path.join(self._directory, key)
        with self._translating_errors():
            for name in _names(link_directory):
                with contextlib.suppress(FileNotFoundError):  # another worker released this one
                    os.unlink(os.path.join(link_directory, name))
                    return

    def _delete_expired(self, expired: int) -> int:
        deleted = 0
        with self._translating_errors():
            for key in filter(_KEY.fullmatch, _names(self._directory)):
                link_directory = os.path.join(self._directory, key)
                for name in _names(link_directory):
                    with contextlib.suppress(FileNotFoundError):  # another worker sweeps too
                        file = os.path.join(link_directory, name)
                        if os.stat(file, follow_symlinks=False).st_mtime <= expired:
                            os.unlink(file)
                            deleted += 1
                if not _names(link_directory):
                    with contextlib.suppress(OSError):  # removed already, or used again just now
                        os.rmdir(link_directory)
        return deleted

    @contextlib.contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailableError(
                f"the usage store cannot write to {self._directory} ({error.strerror}): give the app's user write "
                "permission, or set STORAGE_LINK_USAGE to another directory"
            ) from error


def _fsync_directory(directory: str) -> None:
    """Make the entries of a directory durable, where the file system supports it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
            raise
    finally:
        os.close(descriptor)


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
