"""Finds out what the file system below a storage does, by creating and removing one temporary file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .attributes import file_info, set_time, supports_xattrs, write_attributes
from .rooted_tree import RootedTree

# No resolution divides this time stamp. An odd number of seconds, as FAT keeps only even ones.
_STAMP = 1_000_000_001_111_111_111
_RESOLUTIONS = (2_000_000_000, 1_000_000_000, 10_000_000, 1_000_000, 1_000, 100, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemReport:
    """What the file system of a local storage does (:meth:`LocalFSStorage.inspect_filesystem`).

    Attributes:
        root: The directory, with symbolic links resolved.
        symlinks: The symbolic links in the path that was configured as root. They are resolved once, when the storage
            is created: a link that is changed later has no effect until the app restarts.
        case_sensitive: Whether names that differ only in case are different files.
        permissions: ``"kept"``; ``"ignored"`` when the file system accepts other permissions but does not keep them;
            ``"refused"`` when it raises an error, as some network mounts do (``file_mode=None`` and
            ``directory_mode=None`` are needed then, unless it gives every file the configured permissions anyway).
        time_resolution: Of modification times, in nanoseconds; None if the file system does not let them be set.
        xattrs: Whether content types, metadata and versions can be stored in extended attributes.
        etag_is_strong: Whether every version of a file that this storage writes has an etag of its own. Without,
            ``if_match`` is refused.
        free_bytes: The free space for this process, in bytes.
    """

    root: Path
    symlinks: tuple[Path, ...]
    case_sensitive: bool
    permissions: str
    time_resolution: int | None
    xattrs: bool
    etag_is_strong: bool
    free_bytes: int


def inspect_filesystem(tree: RootedTree, configured_root: Path) -> FilesystemReport:
    """Create a temporary file in the root, look at what the file system makes of it, and remove it."""
    with tree.open_directory("") as directory:
        space = os.fstatvfs(directory.fd)
        name, fd = directory.create_temporary()
        try:
            resolution = _time_resolution(fd)
            write_attributes(fd, {}, needs_version=not set_time(fd))
            info, _ = file_info(name, fd)
            return FilesystemReport(
                root=tree.root,
                symlinks=_symlinks(configured_root),
                case_sensitive=not directory.exists(name.upper()),
                permissions=_permissions(fd),
                time_resolution=resolution,
                xattrs=supports_xattrs(fd),
                etag_is_strong=info.etag_is_strong,
                free_bytes=space.f_bavail * space.f_frsize,
            )
        finally:
            os.close(fd)
            directory.unlink(name)


def _symlinks(path: Path) -> tuple[Path, ...]:
    return tuple(part for part in (*reversed(path.parents), path) if part.is_symlink())


def _permissions(fd: int) -> str:
    try:
        os.fchmod(fd, 0o640)
    except OSError:
        return "refused"
    return "kept" if os.fstat(fd).st_mode & 0o777 == 0o640 else "ignored"


def _time_resolution(fd: int) -> int | None:
    try:
        os.utime(fd, ns=(_STAMP, _STAMP))
    except OSError:
        return None
    kept = os.fstat(fd).st_mtime_ns
    return next(resolution for resolution in _RESOLUTIONS if kept % resolution == 0)
