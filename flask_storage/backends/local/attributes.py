"""What the local disk keeps of a file beside its content: permissions, time stamp, headers, and the etag of a version.

An etag is made of inode, modification time and size. It never repeats as long as the file system keeps the microseconds
of a time stamp, since each version gets one of its own. A file system that rounds time stamps to milliseconds or more
also reuses inodes within one of them, so two versions could have the same etag. There, each version gets a random
number in its extended attribute. Where that is not possible either, the etag is weak.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import PermissionDeniedError, UnsupportedOperationError
from ...paths import is_one_line
from ...types import CONTENT_HEADERS, FileInfo

if TYPE_CHECKING:
    import arrow

_ATTRIBUTE = "user.flask_storage"
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# How mounts refuse to change permissions or time stamps: CIFS, FAT of another owner, FUSE without the operation.
_NOT_CHANGEABLE = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC).timestamp(), datetime(9999, 12, 30, tzinfo=UTC).timestamp()
_MILLISECOND = 1_000_000  # in ns
_VERSION = re.compile("[0-9a-f]{16}")


class Attributes(NamedTuple):
    """The extended attribute of a file: its headers and metadata, and the random number of its version, if any."""

    headers: dict[str, Any]
    version: str | None


def set_mode(fd: int, mode: int | None, setting: str) -> None:
    """Set the permissions of a file or directory, unless it has them; None leaves them alone.

    Args:
        fd: The descriptor.
        mode: The permissions.
        setting: The name of the argument that configures *mode*, for the error.

    Raises:
        PermissionDeniedError: when the file system does not allow that.
    """
    if mode is None or stat.S_IMODE(os.fstat(fd).st_mode) == mode:
        return
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in _NOT_CHANGEABLE:
            raise
        raise PermissionDeniedError(
            f"permissions cannot be set to 0o{mode:o}: the file system refuses that ({error.strerror}), as some "
            f"network mounts do; pass {setting}=None, which leaves them to the file system"
        ) from error


def set_time(fd: int) -> bool:
    """Set a time stamp that no other version has; return whether the file system keeps it to the microsecond."""
    # The kernel's own time stamps have a resolution of milliseconds.
    stamp = time.time_ns() // 1000 * 1000
    if stamp % _MILLISECOND == 0:
        stamp += 1000  # whole milliseconds look like a coarse time stamp, see _has_exact_time()
    try:
        os.utime(fd, ns=(stamp, stamp))
    except OSError as error:
        if error.errno not in _NOT_CHANGEABLE:
            raise
    return os.fstat(fd).st_mtime_ns == stamp


def keeps_microseconds(path: Path) -> bool:
    """Return whether the file system keeps the microseconds of time stamps; True if *path* cannot be examined."""
    try:
        return _has_exact_time(os.stat(path))
    except OSError:  # the next operation raises the error that says why
        return True


def _has_exact_time(status: os.stat_result) -> bool:
    """Return whether time stamps show that the file system keeps more than milliseconds.

    Other programs can set the modification time of a file to a whole second, but not its status change time.
    """
    return bool(status.st_mtime_ns % _MILLISECOND or status.st_ctime_ns % _MILLISECOND)


def file_info(path: str, fd: int) -> tuple[FileInfo, dict[str, Any]]:
    """Return the :class:`~flask_storage.FileInfo` of an open file, and its headers and metadata."""
    status, attributes = os.fstat(fd), read_attributes(fd)
    info = FileInfo(
        path=path,
        size=status.st_size,
        last_modified=last_modified(status),
        etag=_etag(status, attributes.version),
        etag_is_strong=attributes.version is not None or _has_exact_time(status),
        **attributes.headers,
    )
    return info, attributes.headers


def etag(fd: int) -> str:
    """Return the etag of an open file."""
    return _etag(os.fstat(fd), read_attributes(fd).version)


def _etag(status: os.stat_result, version: str | None) -> str:
    return f"{version or format(status.st_ino, 'x')}-{status.st_mtime_ns:x}-{status.st_size:x}"


def last_modified(status: os.stat_result) -> arrow.Arrow:
    """Return the modification time in UTC, limited to the years that :class:`datetime.datetime` supports."""
    import arrow

    # A disk may hold dates that datetime does not support; one such file must not make a whole listing fail.
    seconds = min(max(status.st_mtime, _EARLIEST), _LATEST)
    return arrow.Arrow.fromdatetime(datetime.fromtimestamp(seconds, UTC))


def supports_xattrs(root: Path | int) -> bool:
    """Return whether the file system supports extended attributes, by reading one."""
    if not hasattr(os, "getxattr"):
        return False
    try:
        os.getxattr(root, _ATTRIBUTE)
    except OSError as error:
        return error.errno not in _NO_ATTRIBUTES
    return True


def read_attributes(fd: int) -> Attributes:
    """Return content headers, metadata and version of a file; empty if there are none or they are invalid."""
    if not hasattr(os, "getxattr"):
        return Attributes({}, None)
    try:
        attribute = json.loads(os.getxattr(fd, _ATTRIBUTE))
    except OSError as error:
        if error.errno in (errno.ENODATA, *_NO_ATTRIBUTES):
            return Attributes({}, None)
        raise  # a failing disk must not look like a file without a content type
    except (ValueError, RecursionError):
        return Attributes({}, None)
    return _valid_attributes(attribute)


def _valid_attributes(attribute: object) -> Attributes:
    """Return the valid attributes: untrusted input, as any process with access can set them."""
    if not isinstance(attribute, dict):
        return Attributes({}, None)
    headers: dict[str, Any] = {name: attribute[name] for name in CONTENT_HEADERS if is_one_line(attribute.get(name))}
    metadata = attribute.get("metadata")
    if isinstance(metadata, dict) and all(is_one_line(text) for item in metadata.items() for text in item):
        headers["metadata"] = metadata
    version = attribute.get("version")
    return Attributes(headers, version if isinstance(version, str) and _VERSION.fullmatch(version) else None)


def write_attributes(fd: int, headers: dict[str, Any], *, needs_version: bool) -> None:
    """Store headers and metadata with a file, and if *needs_version* a random number, where the file system can."""
    attribute = headers
    if needs_version and hasattr(os, "setxattr"):
        attribute = {**headers, "version": secrets.token_hex(8)}
    if not attribute:
        return
    try:
        # Not escaped to ASCII: ext4 has 4 KiB for all attributes of a file.
        os.setxattr(fd, _ATTRIBUTE, json.dumps(attribute, ensure_ascii=False).encode())
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            if not headers:  # the etag is weak then
                return
            raise UnsupportedOperationError(
                "the file system keeps no content type or metadata (no extended attributes): store the file without"
            ) from error
        # ENOSPC means either that the attribute is too long or that the disk is full.
        too_long = error.errno in (errno.E2BIG, errno.ERANGE)
        if too_long or (error.errno == errno.ENOSPC and os.fstatvfs(fd).f_bavail):
            raise UnsupportedOperationError(
                "headers and metadata of the file are too long for the file system: shorten them"
            ) from error
        raise
