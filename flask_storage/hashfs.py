"""The interfaces of hashfs and Flask-HashFS: a content store on local disk, configured by ``HASHFS_*`` settings."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, cast, overload

from flask import Config, Flask, current_app, request

from .backends.base import StorageBackend
from .backends.local.storage import LocalFSStorage
from .content_store import ContentStore, Found, HashAddress, extensions_of
from .errors import FileExistsInStorageError, LocalNotAFileError
from .profiles import profiles_of
from .streams import SupportsRead
from .types import ListEntry

__all__ = ["FlaskHashFS", "HashAddress", "HashFS", "urljoin"]

_BUFFER_BYTES = 256 * 1024


class HashFS(ContentStore):
    """A content store on local disk with the methods of :class:`hashfs.HashFS`, whose paths are absolute.

    It reads and continues the trees of hashfs. An extension becomes a second name of the file (a hard link), so that a
    web server in front of the app finds it. Content is counted and listed once, under the last of its names in
    alphabetical order: the one with an extension, if there is one. Where the file system has no hard links, the paths
    with an extension exist for this class only.

    Unlike hashfs, it reads and deletes only what is in the root, and follows no symbolic link there. Deleting content
    deletes it under every extension.

    Args:
        root: The directory, which the first :meth:`put` creates. Writes are not made durable, as in hashfs. Or any
            storage: the paths are then those in the storage, unless it is on local disk, and extensions are not linked.
        depth: See :class:`~flask_storage.ContentStore`.
        width: See :class:`~flask_storage.ContentStore`.
        algorithm: See :class:`~flask_storage.ContentStore`.
        fmode: Permissions of files; None leaves them to the umask.
        dmode: Permissions of directories that are created.

    Raises:
        ValueError: as for :class:`~flask_storage.ContentStore`.

    >>> import tempfile
    >>> from io import StringIO
    >>> fs = HashFS(tempfile.mkdtemp())
    >>> address = fs.put(StringIO("hello"), ".txt")
    >>> fs.get(address.id) == fs.get(address.abspath) == address
    True
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | StorageBackend,
        depth: int = 4,
        width: int = 1,
        algorithm: str = "sha256",
        fmode: int | None = 0o664,
        dmode: int = 0o755,
    ) -> None:
        # Here a string is a directory, and not the name of a profile.
        super().__init__(root if isinstance(root, StorageBackend) else os.path.realpath(root), depth, width, algorithm)
        self.fmode = fmode
        self.dmode = dmode

    @property
    def backend(self) -> StorageBackend:
        """The storage. For a directory, it is created at the first use, with the directory."""
        if isinstance(self._backend, str):
            self._backend = LocalFSStorage(
                self._backend, name="hashfs", create=True, fsync=False, file_mode=self.fmode, directory_mode=self.dmode
            )
        return self._backend

    @property
    def root(self) -> str | None:
        """The absolute path of the directory; None for a storage that is not on local disk."""
        if isinstance(self._backend, LocalFSStorage):
            return str(self._backend.root)
        return self._backend if isinstance(self._backend, str) else None

    def put(self, file: str | os.PathLike[str] | SupportsRead, extension: str | None = None) -> HashAddress:
        """Store the content of a file, as :meth:`ContentStore.put <flask_storage.ContentStore.put>` does."""
        address = super().put(file, extension)
        backend, path = self.backend, self._shown(address.relpath)
        if address.abspath == path or not isinstance(backend, LocalFSStorage):
            return address
        is_linked = True
        with suppress(FileExistsInStorageError):
            is_linked = backend.hard_link(self.relpath(str(address.abspath)), address.relpath)
        return address._replace(abspath=path) if is_linked else address

    @overload  # type: ignore[override]  # hashfs returns Python's own file objects
    def open(self, file: str | os.PathLike[str], mode: Literal["rb"] = "rb") -> io.BufferedReader: ...
    @overload
    def open(self, file: str | os.PathLike[str], mode: Literal["r", "rt"]) -> io.TextIOWrapper: ...
    def open(self, file: str | os.PathLike[str], mode: str = "rb") -> io.BufferedReader | io.TextIOWrapper:
        """Open content for reading, by id or path.

        Args:
            file: An id or a path.
            mode: ``"rb"``, or ``"r"`` for text. Content is never changed, since its hash would change.

        Raises:
            FileNotFoundInStorageError: when there is no such content; it is an ``OSError``.
            ValueError: for another mode.
        """
        if mode not in ("rb", "r", "rt"):
            raise ValueError(f"content can only be read, with mode 'rb' or 'r', not {mode!r}: put() the new content")
        reader = cast(io.BufferedReader, io.BufferedReader(cast(io.RawIOBase, super().open(file)), _BUFFER_BYTES))
        return reader if mode == "rb" else io.TextIOWrapper(reader)

    def repair(self, extensions: bool = True) -> list[tuple[str, HashAddress]]:
        """Move each file that ``corrupted`` finds to its address, set its permissions, and return what that yields."""
        repaired = super().repair(extensions)
        for _, address in repaired:
            path = self.stored_path(address.id)
            if path is not None and self.fmode is not None and isinstance(self.backend, LocalFSStorage):
                fd = self.backend.tree.open_file(path)
                try:
                    os.fchmod(fd, self.fmode)
                finally:
                    os.close(fd)
        return repaired

    # -- paths --------------------------------------------------------------------------------------------------------

    def idpath(self, id: str, extension: str = "") -> str:  # noqa: A002 - hashfs's name
        """Return the absolute path of an id, whether or not it is stored."""
        return self._shown(self.path_of(id) + _with_dot(extension))

    def realpath(self, file: str | os.PathLike[str]) -> str | None:
        """Return the absolute path of stored content, by id or path; None if there is none."""
        address = self.get(file)
        return None if address is None else address.abspath or address.relpath

    def relpath(self, path: str | os.PathLike[str]) -> str:
        """Return an absolute path relative to the root."""
        return os.path.relpath(path, self.root) if self.root is not None else os.fspath(path)

    def haspath(self, path: str | os.PathLike[str]) -> bool:
        """Return whether a path is the root or below it, after following symbolic links; it need not exist.

        A relative path is relative to the working directory, as in hashfs.
        """
        return self.root is not None and os.path.commonpath([os.path.realpath(path), self.root]) == self.root

    def makepath(self, path: str | os.PathLike[str]) -> None:
        """Create a directory below the root, with its parents.

        Raises:
            ValueError: when *path* is not below the root.
            AssertionError: when it is a file, as in hashfs.
        """
        backend = self.backend
        if not isinstance(backend, LocalFSStorage) or not self.haspath(path):
            raise ValueError(f"{os.fspath(path)!r} is not below the root {self.root}")
        try:
            backend.tree.open_directory(self._directory(path), create=True).close()
        except LocalNotAFileError as error:
            raise AssertionError(f"expected {os.fspath(path)} to be a directory") from error

    def remove_empty(self, subpath: str | os.PathLike[str]) -> None:
        """Remove a directory and its parents as far as they are empty, but nothing outside of the root, nor the root.

        It stops at a symbolic link.
        """
        backend = self.backend
        if isinstance(backend, LocalFSStorage) and self.haspath(subpath) and not os.path.islink(subpath):
            backend.tree.remove_empty_parents(self._directory(subpath))

    # -- inner --------------------------------------------------------------------------------------------------------

    @property
    def _is_missing(self) -> bool:
        """Whether there is no root yet, which reading must not create."""
        return isinstance(self._backend, str) and not os.path.isdir(self._backend)

    def _find(self, file: str | os.PathLike[str]) -> Found | None:
        return None if self._is_missing else super()._find(file)

    def _directory(self, path: str | os.PathLike[str]) -> str:
        relative = os.path.relpath(os.path.realpath(path), self.root)
        return "" if relative == os.curdir else relative

    def _relative(self, path: str) -> str:
        if self.root is None or not os.path.isabs(path):
            return path
        directory, name = os.path.split(path)
        # The root may be given by a symbolic link. One below the root leads elsewhere, which is then not found.
        return os.path.relpath(os.path.join(os.path.realpath(directory), name), self.root)

    def _shown(self, path: str) -> str:
        if self.root is None:
            return path
        return os.path.join(self.root, path) if path else self.root

    def _aliases(self, path: str) -> list[str]:
        stem = path.removesuffix(extensions_of(path))
        return [name for name in self._with_extensions(stem) if name != path and self._is_linked(name, path)]

    def _is_linked(self, name: str, other: str) -> bool:
        """Return whether two paths are those of one file."""
        with suppress(FileNotFoundError):  # it was deleted concurrently
            return os.path.samestat(os.lstat(self._shown(name)), os.lstat(self._shown(other)))
        return False

    def _listed(self) -> Iterator[ListEntry]:
        if self._is_missing:
            return iter(())
        return self._listed_below("") if isinstance(self.backend, LocalFSStorage) else super()._listed()

    def _listed_below(self, directory: str) -> Iterator[ListEntry]:
        """Yield one entry for each file below a directory: the last of its names. Holds one directory in memory."""
        entries = self.backend.list(directory, recursive=False)
        files = sorted((entry for entry in entries if not entry.is_directory), key=_without_extensions)
        for _, group in itertools.groupby(files, key=_without_extensions):
            *others, last = group
            yield from (entry for entry in others if not self._is_linked(entry.name, last.name))
            yield last
        for entry in entries:
            if entry.is_directory:
                yield from self._listed_below(entry.name.removesuffix("/"))


class FlaskHashFS:
    """The extension of Flask-HashFS: one :class:`HashFS` for each app, configured by its settings.

    Every attribute and method of the :class:`HashFS` of the current app is one of the extension too. It registers no
    routes: a web server in front of the app serves the files.

    Args:
        app: Initialize this app now.

    >>> import tempfile
    >>> app = Flask("app")
    >>> app.config.update(HASHFS_ROOT_FOLDER=tempfile.mkdtemp(), HASHFS_PATH_PREFIX="/uploads")
    >>> fs = FlaskHashFS(app)
    >>> with app.test_request_context():
    ...     address = fs.put(io.BytesIO(b"hello"), ".txt")
    ...     fs.url_for(address.relpath)[:33]
    'http://localhost/uploads/2/c/f/2/'
    """

    def __init__(self, app: Flask | None = None) -> None:
        self.app = app
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the ``HASHFS_*`` settings of an app, and create its :class:`HashFS`.

        Raises:
            ValueError: when a setting is missing or not valid.
            UnknownProfileError: when there is no profile ``HASHFS_PROFILE``.
            RuntimeError: when ``HASHFS_PROFILE`` is set, and ``Storage`` is not initialized on the app yet.
        """
        for name, default in _DEFAULTS.items():
            app.config.setdefault(name, default)
        settings = app.config
        prefix = settings["HASHFS_PATH_PREFIX"]
        if prefix is None:
            raise ValueError('Missing configuration value for Flask-HashFS: "HASHFS_PATH_PREFIX" must be set')
        if prefix and not prefix.startswith("/"):
            raise ValueError(
                'Invalid configuration value for Flask-HashFS: "HASHFS_PATH_PREFIX" must start with a leading slash'
            )
        root, profile = settings["HASHFS_ROOT_FOLDER"], settings["HASHFS_PROFILE"]
        if not root and not profile:
            raise ValueError(
                'Missing configuration value for Flask-HashFS: "HASHFS_ROOT_FOLDER" must be set, or "HASHFS_PROFILE"'
            )
        if root and profile:
            raise ValueError('set either "HASHFS_ROOT_FOLDER" or "HASHFS_PROFILE", not both')
        client = HashFS(
            profiles_of(app)[profile] if profile else root,
            settings["HASHFS_DEPTH"],
            settings["HASHFS_WIDTH"],
            settings["HASHFS_ALGORITHM"],
        )
        app.extensions["hashfs"] = {"client": client}

    @property
    def config(self) -> Config:
        """The settings of the current app."""
        return current_app.config

    @property
    def client(self) -> HashFS:
        """The :class:`HashFS` of the current app."""
        return cast(HashFS, current_app.extensions["hashfs"]["client"])

    def url_for(self, relpath: str, external: bool = True) -> str:
        """Return the URL of a path: host, ``HASHFS_PATH_PREFIX`` and the path, joined by single slashes.

        The path is not quoted, and need not exist.

        Args:
            relpath: The ``relpath`` of an address.
            external: Begin with ``HASHFS_HOST``, or without one with the host of the request.
        """
        parts = ["/", self.config["HASHFS_PATH_PREFIX"], relpath]
        return urljoin(self.config["HASHFS_HOST"] or request.host_url, *parts) if external else urljoin(*parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    # Special methods are looked up on the class, so `__getattr__` does not find them.

    def __len__(self) -> int:
        return len(self.client)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.client)

    def __contains__(self, file: str | os.PathLike[str]) -> bool:
        return file in self.client


_DEFAULTS = {
    "HASHFS_HOST": None,
    "HASHFS_PATH_PREFIX": "",
    "HASHFS_ROOT_FOLDER": None,
    "HASHFS_PROFILE": None,
    "HASHFS_DEPTH": 4,
    "HASHFS_WIDTH": 1,
    "HASHFS_ALGORITHM": "sha256",
}


def urljoin(*paths: str) -> str:
    """Join parts of a URL by single slashes; one at the beginning or the end is kept.

    >>> urljoin("https://example.com/", "/uploads", "a/b.txt"), urljoin("/", "", "a/"), urljoin()
    ('https://example.com/uploads/a/b.txt', '/a/', '')
    """
    parts = [path for path in paths if path]
    if len(parts) < 2:
        return "".join(parts)
    leading = "/" if parts[0].startswith("/") else ""
    trailing = "/" if parts[-1].endswith("/") else ""
    return leading + "/".join(path.strip("/") for path in parts if path.strip("/")) + trailing


def _with_dot(extension: str) -> str:
    return extension if not extension or extension.startswith(".") else f".{extension}"


def _without_extensions(entry: ListEntry) -> str:
    return entry.name.rpartition("/")[2].partition(".")[0]
