"""Listing of directories: many are read concurrently, so that a long round-trip time has little effect."""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from ...paths import RESERVED_PREFIX, SYSTEM_DIRECTORY
from .codec import Attributes
from .protocol import (
    EOF,
    FAILURE,
    LSTAT,
    NO_SUCH_FILE,
    OPENDIR,
    PERMISSION_DENIED,
    READDIR,
    ConnectionLostError,
    PendingReply,
    ProtocolError,
    Session,
    StatusError,
)
from .remote_tree import RemoteTree, has_file_type

Entries: TypeAlias = list[tuple[str, Attributes]]

_MAX_OPEN_DIRECTORIES = 64
_MAX_EMPTY_REPLIES = 100
"""How many responses without a name may follow each other before that is an error."""
_MAX_READAHEAD = 8
"""Maximum number of READDIR requests in flight for one directory; a response has about a hundred names."""


def is_directory(attributes: Attributes) -> bool:
    """Whether the attributes are those of a directory; False if the server reports no mode."""
    return has_file_type(stat.S_ISDIR, attributes, unknown=False)


def is_file(attributes: Attributes) -> bool:
    """Whether the attributes are those of a regular file; True if the server reports no mode."""
    return has_file_type(stat.S_ISREG, attributes)


def walk(
    tree: RemoteTree,
    session: Session,
    tops: Sequence[str],
    *,
    recursive: bool = True,
    is_wanted: Callable[[str], bool] = lambda _: True,
    on_denied: Callable[[str, str], None] | None = None,
) -> Iterator[tuple[str, str, Entries]]:
    """Yield the entries of directories lazily, as tuples of a top, the path of a directory and some of its entries.

    Names that are not UTF-8 have surrogates in them. Directories are among the entries, and are listed too if
    *recursive* is set, except the hidden ones of this package. A directory that does not exist yields nothing.

    Args:
        tree: The remote tree.
        session: The session, which is in use as long as the iteration lasts.
        tops: The directories to start from; ``""`` is the root.
        recursive: List subdirectories.
        is_wanted: Called with a top before each directory below it is listed; when it returns False, the directory is
            skipped.
        on_denied: Called with the top and the path of each directory that the user must not list. By default, such a
            directory is an error.
    """
    waiting = deque((top, top) for top in tops)
    scans: deque[_DirectoryScan] = deque()
    try:
        while waiting or scans:
            while waiting and len(scans) < _MAX_OPEN_DIRECTORIES:
                top, path = waiting.popleft()
                if is_wanted(top):
                    scans.append(_DirectoryScan(tree, session, top, path))
            scan = scans.popleft() if scans else None
            entries = None if scan is None else scan.read(on_denied)
            if scan is None or entries is None:
                continue
            if not is_wanted(scan.top):
                scan.close()
                continue
            scans.append(scan)
            if recursive:
                waiting.extend((scan.top, subdirectory) for subdirectory in scan.subdirectories(entries))
            if entries:
                yield scan.top, scan.path, entries
    finally:  # a caller that stops early leaves directories open
        for scan in scans:
            scan.close()


def directories_with_files(tree: RemoteTree, session: Session, directories: Sequence[str]) -> list[str]:
    """Return the directories with a file below them; an unfinished write may have left an empty one."""
    found: set[str] = set()
    pages = walk(
        tree,
        session,
        directories,
        is_wanted=lambda top: top not in found,
        on_denied=lambda top, _: found.add(top),  # it exists, and may hold files that this user cannot see
    )
    for top, _, entries in pages:
        if any(is_file(attributes) and not name.startswith(RESERVED_PREFIX) for name, attributes in entries):
            found.add(top)
    return [directory for directory in directories if directory in found]


class _DirectoryScan:
    """A directory that is being listed; the constructor requests that it is opened."""

    def __init__(self, tree: RemoteTree, session: Session, top: str, path: str) -> None:
        self.top = top
        self.path = path
        self._tree = tree
        self._session = session
        self._realpath = tree.request_realpath(session, path)
        self._opened = session.request(OPENDIR, tree.remote_directory(session, path))
        self._handle: bytes | None = None
        self._pending: deque[PendingReply] = deque()
        self._readahead = 2
        self._empty_replies = 0

    def subdirectories(self, entries: Entries) -> list[str]:
        """Return the paths of the directories among some entries, without the hidden ones of this package."""
        prefix = f"{self.path}/" if self.path else ""
        return [
            prefix + name
            for name, attributes in entries
            if is_directory(attributes) and not name.startswith(RESERVED_PREFIX)
        ]

    def read(self, on_denied: Callable[[str, str], None] | None) -> Entries | None:
        """Return some entries; an empty list after opening, and None at the end; see :func:`walk`."""
        try:
            return self._read()
        except StatusError as error:
            if error.code == PERMISSION_DENIED and self.path == SYSTEM_DIRECTORY:
                return None
            if error.code != PERMISSION_DENIED or on_denied is None:
                raise
            on_denied(self.top, self.path)
            return None

    def _read(self) -> Entries | None:
        if self._handle is None:
            return [] if self._is_open() else None
        try:
            entries = self._session.wait(self._pending.popleft())
        except StatusError as error:
            self.close()
            if error.code in (EOF, NO_SUCH_FILE):
                return None
            raise
        self._empty_replies = 0 if entries else self._empty_replies + 1
        if self._empty_replies == _MAX_EMPTY_REPLIES:
            self.close()
            raise ProtocolError(f"the listing of the directory {self.path!r} does not end, and has no names")
        self._readahead = min(self._readahead * 2, _MAX_READAHEAD)
        self._request()
        return [
            (name.decode("utf-8", "surrogateescape"), attributes)
            for name, _, attributes in entries
            if name not in (b"", b".", b"..") and b"/" not in name
        ]

    def close(self) -> None:
        """Close the directory, without waiting for the entries that were requested."""
        with suppress(StatusError, ConnectionLostError, TimeoutError, ProtocolError):
            self._tree.close_handle(self._session, self._handle or self._session.wait(self._opened))

    def _is_open(self) -> bool:
        try:
            self._handle = self._session.wait(self._opened)
        except StatusError as error:
            with suppress(StatusError):
                self._tree.check_realpath(self._session, self.path, self._realpath)
            if error.code == NO_SUCH_FILE or (error.code == FAILURE and self._is_file()):
                if not self.path:
                    self._tree.recheck_root(self._session)
                return False
            raise
        try:
            self._tree.check_realpath(self._session, self.path, self._realpath)
        except BaseException as error:
            self.close()
            if isinstance(error, StatusError) and error.code == NO_SUCH_FILE:
                return False  # it did not exist when it was resolved, or is a link without a target
            raise
        self._request()
        return True

    def _request(self) -> None:
        while self._handle is not None and len(self._pending) < self._readahead:
            self._pending.append(self._session.request(READDIR, self._handle))

    def _is_file(self) -> bool:
        try:
            return not is_directory(
                self._session.wait(self._session.request(LSTAT, self._tree.remote_path(self._session, self.path)))
            )
        except StatusError:
            return True
