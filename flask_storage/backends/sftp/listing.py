"""Looking through folders: many are asked for at once, so that a far server costs little more than a near one."""

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
    PendingReply,
    ProtocolError,
    Session,
    StatusError,
)
from .remote_tree import RemoteTree, is_kind

Entries: TypeAlias = list[tuple[str, Attributes]]

_MAX_OPEN_DIRECTORIES = 64
_MAX_EMPTY_REPLIES = 100
"""Answers without a name, one after the other, until nobody waits for one with names any more."""
_MAX_READAHEAD = 8
"""A server tells about a hundred names at a time: of a large folder so many answers are asked for ahead."""


def is_directory(attributes: Attributes) -> bool:
    """Whether it is a folder, as far as the server tells."""
    return is_kind(stat.S_ISDIR, attributes, unknown=False)


def is_file(attributes: Attributes) -> bool:
    """Whether it is a regular file, as far as the server tells."""
    return is_kind(stat.S_ISREG, attributes)


def walk(
    tree: RemoteTree,
    session: Session,
    tops: Sequence[str],
    *,
    recursive: bool = True,
    wanted: Callable[[str], bool] = lambda _: True,
    denied: Callable[[str, str], None] | None = None,
) -> Iterator[tuple[str, str, Entries]]:
    """Yield what is in folders: the top that leads to it, the folder's path and some of its entries, lazily.

    Names that are not UTF-8 have surrogates in them. Folders are yielded, and with *recursive* entered, except our own
    hidden ones. One that is not there (any more) yields nothing.

    Args:
        tree: The door.
        session: Kept as long as the walk goes on.
        tops: Where to begin; ``""`` is the root.
        recursive: Enter sub-folders.
        wanted: Whether what is below a top is still of interest; asked before each folder.
        denied: Told of folders that may not be looked into, with their top; without, that is an error.
    """
    begin = deque((top, top) for top in tops)
    reading: deque[_DirectoryScan] = deque()
    try:
        while begin or reading:
            while begin and len(reading) < _MAX_OPEN_DIRECTORIES:
                top, path = begin.popleft()
                if wanted(top):
                    reading.append(_DirectoryScan(tree, session, top, path))
            folder = reading.popleft() if reading else None
            entries = None if folder is None else folder.read(denied)
            if folder is None or entries is None:
                continue
            if not wanted(folder.top):
                folder.close()
                continue
            reading.append(folder)
            if recursive:
                begin.extend((folder.top, below) for below in folder.subdirectories(entries))
            if entries:
                yield folder.top, folder.path, entries
    finally:  # who has seen enough leaves folders behind that are open
        for folder in reading:
            folder.close()


def directories_with_files(tree: RemoteTree, session: Session, folders: Sequence[str]) -> list[str]:
    """Return the folders with a file below; an unfinished or broken-off write may have made one for nothing."""
    found: set[str] = set()
    looked = walk(
        tree,
        session,
        folders,
        wanted=lambda top: top not in found,
        denied=lambda top, _: found.add(top),  # it is there, and not ours to look into
    )
    for top, _, entries in looked:
        if any(is_file(about) and not name.startswith(RESERVED_PREFIX) for name, about in entries):
            found.add(top)
    return [folder for folder in folders if folder in found]


class _DirectoryScan:
    """A folder that is being read; opening it is asked for at once."""

    def __init__(self, tree: RemoteTree, session: Session, top: str, path: str) -> None:
        self.top = top
        self.path = path
        self._tree = tree
        self._session = session
        self._realpath = tree.request_realpath(session, path)
        self._opened = session.request(OPENDIR, tree.remote_path(session, path))
        self._handle: bytes | None = None
        self._pending: deque[PendingReply] = deque()
        self._readahead = 2
        self._empty_replies = 0

    def subdirectories(self, entries: Entries) -> list[str]:
        """Return the paths of the folders among some entries, without our own hidden ones."""
        prefix = f"{self.path}/" if self.path else ""
        return [
            prefix + name for name, about in entries if is_directory(about) and not name.startswith(RESERVED_PREFIX)
        ]

    def read(self, denied: Callable[[str, str], None] | None) -> Entries | None:
        """Return some entries, none while it is being opened, or None at its end; see :func:`walk`."""
        try:
            return self._read()
        except StatusError as error:
            if error.code == PERMISSION_DENIED and self.path == SYSTEM_DIRECTORY:
                return None
            if error.code != PERMISSION_DENIED or denied is None:
                raise
            denied(self.top, self.path)
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
            raise ProtocolError("a folder goes on and on, and tells no names")
        self._readahead = min(self._readahead * 2, _MAX_READAHEAD)
        self._request()
        return [
            (name.decode("utf-8", "surrogateescape"), attributes)
            for name, _, attributes in entries
            if name not in (b"", b".", b"..") and b"/" not in name
        ]

    def close(self) -> None:
        """Give the handle back; the answers that are still to come are not waited for."""
        if self._handle is None and not self._opened.is_done:
            self._session.close()  # the handle would be nobody's
        handle = self._handle or self._opened.value
        if handle is not None:
            self._tree.close_handle(self._session, handle)

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
                return False  # a moment ago it was not there; or it leads to where the server knows nothing
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
