"""Removing many files: those of a folder, and what unfinished writes have left.

Both may be begun once more when the connection breaks off; what was counted by then stays counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from ...paths import RESERVED_PREFIX, parent
from .listing import is_directory, walk
from .multipart import remove_upload
from .protocol import NO_SUCH_FILE, PERMISSION_DENIED, REMOVE, RMDIR, Session, StatusError
from .remote_tree import RemoteTree, removable


class DirectoryDelete:
    """Deletes every file below a folder, and the folders.

    Args:
        tree: The door.
        path: The folder; ``""`` is the root, which stays.
    """

    def __init__(self, tree: RemoteTree, path: str) -> None:
        self._tree = tree
        self._path = path
        self._count = 0
        self._unconfirmed: set[str] = set()

    def __call__(self, session: Session) -> int:
        """Do it, and return how many files went, with those of attempts before."""
        folders = [self._path]
        for _, folder, entries in walk(self._tree, session, [self._path]):
            prefix = f"{folder}/" if folder else ""
            ours = [(prefix + name, about) for name, about in entries if not name.startswith(RESERVED_PREFIX)]
            self._remove(session, [name for name, about in ours if not is_directory(about)])
            folders += removable(prefix + name for name, about in entries if is_directory(about))
        # Asked for when the connection broke off, and not there any more.
        self._count += len(self._unconfirmed)
        self._unconfirmed.clear()
        *below, top = [session.request(RMDIR, self._tree.remote_path(session, folder)) for folder in reversed(folders)]
        for one in below:
            with suppress(StatusError):  # not empty, or gone already
                session.wait(one)
        with suppress(StatusError):
            session.wait(top)
            # Of a folder that was not there nobody has seen where it leads: above it, nothing is touched.
            self._tree.remove_empty_parents(session, parent(self._path))
        return self._count

    def _remove(self, session: Session, names: Sequence[str]) -> None:
        asked_before = self._unconfirmed.intersection(names)
        self._unconfirmed.update(names)
        asked = [(name, session.request(REMOVE, self._tree.remote_path(session, name))) for name in names]
        for name, one in asked:
            try:
                session.wait(one)
                self._count += 1
            except StatusError as error:  # somebody else deletes them too
                if error.code != NO_SUCH_FILE:
                    raise
                self._count += name in asked_before  # of the session that was lost, the server still did it
            self._unconfirmed.discard(name)


class Sweep:
    """Removes what unfinished writes and uploads left behind.

    Args:
        tree: The door.
        before: Only what was last touched before.
    """

    def __init__(self, tree: RemoteTree, before: datetime) -> None:
        self._tree = tree
        self._before = before.timestamp()
        self._count = 0

    def __call__(self, session: Session) -> int:
        """Do it, and return how many leftovers went, with those of attempts before.

        Raises:
            StatusError: when the server refuses some, or to look into a folder; the others are gone.
        """
        refused: StatusError | None = None

        def denied(_: str, folder: str) -> None:
            nonlocal refused
            refused = refused or StatusError(PERMISSION_DENIED, f"{folder} may not be looked into")

        old = [
            (f"{folder}/{name}" if folder else name, about)
            for _, folder, entries in walk(self._tree, session, [""], denied=denied)
            for name, about in entries
            if name.startswith(RESERVED_PREFIX) and (about.mtime or 0) < self._before
        ]
        for path, about in old:
            try:
                if is_directory(about):
                    remove_upload(self._tree, session, path)
                else:
                    self._tree.remove_temporary(session, path)
                self._count += 1
            except StatusError as error:
                if error.code != NO_SUCH_FILE:  # somebody else has taken it
                    refused = refused or error
        if refused is not None:
            raise refused
        return self._count
