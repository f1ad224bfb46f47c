"""Deleting many files: all files of a directory, and the temporary files of unfinished writes.

Both classes are run by :meth:`.pool.Pool.run`, which runs them a second time when the connection is lost. They keep
their counts between the two runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from ...paths import RESERVED_PREFIX, parent
from .listing import is_directory, walk
from .multipart import remove_upload
from .protocol import NO_SUCH_FILE, PERMISSION_DENIED, REMOVE, RMDIR, Session, StatusError
from .remote_tree import RemoteTree, removable_directories


class DirectoryDelete:
    """Deletes all files below a directory, and the directories.

    Args:
        tree: The remote tree.
        path: The directory; ``""`` is the root, which stays.
    """

    def __init__(self, tree: RemoteTree, path: str) -> None:
        self._tree = tree
        self._path = path
        self._count = 0
        self._unconfirmed: set[str] = set()

    def __call__(self, session: Session) -> int:
        """Delete them, and return the number of deleted files, including those of earlier runs."""
        directories = [self._path]
        for _, directory, entries in walk(self._tree, session, [self._path]):
            prefix = f"{directory}/" if directory else ""
            visible = [
                (prefix + name, attributes) for name, attributes in entries if not name.startswith(RESERVED_PREFIX)
            ]
            self._remove(session, [name for name, attributes in visible if not is_directory(attributes)])
            directories += removable_directories(
                prefix + name for name, attributes in entries if is_directory(attributes)
            )
        # Files whose removal was requested before the connection was lost and that are not listed now: deleted too.
        self._count += len(self._unconfirmed)
        self._unconfirmed.clear()
        *subdirectories, top = [
            session.request(RMDIR, self._tree.remote_path(session, directory)) for directory in reversed(directories)
        ]
        for request in subdirectories:
            with suppress(StatusError):  # not empty, or already removed
                session.wait(request)
        with suppress(StatusError):
            session.wait(top)
            # Only if the directory existed: its path was checked for links then, so its parents may be removed.
            self._tree.remove_empty_parents(session, parent(self._path))
        return self._count

    def _remove(self, session: Session, names: Sequence[str]) -> None:
        requested_before = self._unconfirmed.intersection(names)
        self._unconfirmed.update(names)
        removals = [(name, session.request(REMOVE, self._tree.remote_path(session, name))) for name in names]
        for name, request in removals:
            try:
                session.wait(request)
                self._count += 1
            except StatusError as error:  # another process has deleted the file
                if error.code != NO_SUCH_FILE:
                    raise
                self._count += name in requested_before  # the request of the lost session may have deleted it
            self._unconfirmed.discard(name)


class Sweep:
    """Removes the temporary files of unfinished writes, and the directories of unfinished uploads.

    Args:
        tree: The remote tree.
        before: Only those that were last modified before this time are removed.
    """

    def __init__(self, tree: RemoteTree, before: datetime) -> None:
        self._tree = tree
        self._before = before.timestamp()
        self._count = 0

    def __call__(self, session: Session) -> int:
        """Remove them, and return their number, including those of earlier runs.

        Raises:
            StatusError: when the server refused to remove some, or to list a directory; the others are removed.
        """
        refused: StatusError | None = None

        def on_denied(_: str, directory: str) -> None:
            nonlocal refused
            refused = refused or StatusError(PERMISSION_DENIED, f"the directory {directory} may not be listed")

        old = [
            (f"{directory}/{name}" if directory else name, attributes)
            for _, directory, entries in walk(self._tree, session, [""], on_denied=on_denied)
            for name, attributes in entries
            if name.startswith(RESERVED_PREFIX) and (attributes.mtime or 0) < self._before
        ]
        for path, attributes in old:
            try:
                if is_directory(attributes):
                    remove_upload(self._tree, session, path)
                else:
                    self._tree.remove_temporary(session, path)
                self._count += 1
            except StatusError as error:
                if error.code != NO_SUCH_FILE:  # another process has removed it
                    refused = refused or error
        if refused is not None:
            raise refused
        return self._count
