"""The storage for uploaded files that an app's settings name, as in openviper: ``default_storage``."""

from __future__ import annotations

import os
import pkgutil
import threading
from typing import Any, Unpack, cast
from urllib.parse import quote

from flask.sansio.app import App

from ..backends.base import StorageBackend
from ..errors import ConfigurationError, InvalidPathError, TooLargeError
from ..paths import safe_path
from ..profiles import Profiles, find_current_app
from ..registry import make_storage
from ..types import WriteArguments
from .content import Content
from .storage import AsyncStorage, Storage

MAX_READ_SIZE = 100 * 1024 * 1024
"""The size, in bytes, of the largest file that :meth:`FileSystemStorage.read` returns unless it is told otherwise."""
_EXTENSION_KEY = "storage_aio"
_NAME = "<media>"  # in errors and in the ledger of file columns; no profile can have it


class FileSystemStorage(AsyncStorage):
    """Files in a directory of this machine, as openviper's class of this name.

    The methods of :class:`Storage`, :meth:`read` and :meth:`listdir` sanitize names, as :meth:`validate_name` does; the
    other operations take paths as they are. The directory is created with the first operation; files get the mode
    ``0640``. A directory does not exist as a file: ``exists`` is false for it.

    Args:
        location: The directory; by default the setting ``MEDIA_ROOT`` of the current app, or ``"./media/"``.
        base_url: What precedes a file's path in its URL; by default the setting ``MEDIA_URL``, or ``"/media/"``. The
            app or a web server must serve it.
        chunk_size: Accepted and not used: files are written in chunks of the backend's own size.
        threads: See :class:`AsyncStorage`.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        base_url: str | None = None,
        chunk_size: int | None = None,
        *,
        threads: int = 16,
    ) -> None:
        super().__init__(_NAME, threads=threads)
        self._location = location
        self._base_url = base_url
        self._backends: dict[tuple[str, str], StorageBackend] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {os.fspath(self.location)!r}>"

    @property
    def location(self) -> str:
        """The directory."""
        return os.fspath(self._location if self._location is not None else _setting("MEDIA_ROOT", "./media/"))

    @property
    def base_url(self) -> str:
        """What precedes a file's path in its URL."""
        return self._base_url if self._base_url is not None else cast(str, _setting("MEDIA_URL", "/media/"))

    @property
    def backend(self) -> StorageBackend:
        """The storage itself, a :class:`~flask_storage.LocalFSStorage`; created on first use."""
        key = location, base_url = self.location, self.base_url  # of the current app
        if key not in self._backends:
            spec = {
                "backend": "local",
                "root": location,
                "create": True,
                "base_url": base_url,
                "file_mode": 0o640,
                "directory_mode": 0o755,
            }
            self._backends.setdefault(key, make_storage(_NAME, spec))
        return self._backends[key]

    def validate_name(self, name: str) -> str:
        """Return the path for a user-supplied name: see :func:`flask_storage.paths.safe_path`.

        Raises:
            ValueError: when the name is empty, has a null byte, or nothing of it is left.
        """
        if not name:
            raise InvalidPathError("Storage name must not be empty.", path=name)
        if "\0" in name:
            raise InvalidPathError("Storage name must not contain null bytes.", path=name)
        try:
            return safe_path(name)
        except InvalidPathError as error:
            raise InvalidPathError(
                f"Storage name {name!r} resolves to an empty path after sanitisation, or is too long.", path=name
            ) from error

    async def save(self, name: str, content: Content, **arguments: Unpack[WriteArguments]) -> str:
        """Store content, and never replace a file: see :meth:`AsyncStorage.save`."""
        return await super().save(self.validate_name(name), content, **arguments)

    async def delete(self, name: str) -> None:
        """Delete a file. A missing file is no error."""
        await super().delete(self.validate_name(name))

    async def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return await super().exists(self.validate_name(name))

    def url(self, name: str) -> str:
        """Return the URL of a file; whether it exists is not checked."""
        return f"{self.base_url.rstrip('/')}/{quote(self.validate_name(name))}"

    async def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return await super().size(self.validate_name(name))

    async def read(self, name: str, *, max_size: int | None = MAX_READ_SIZE) -> bytes:
        """Return a file's whole content.

        Raises:
            ValueError: when the file is larger than *max_size* bytes.
        """
        try:
            return await super().read(self.validate_name(name), max_size=max_size)
        except TooLargeError as error:
            raise ValueError(f"File {name!r} is exceeding the maximum read size of {max_size} bytes.") from error

    async def listdir(self, path: str = "") -> list[str]:
        """Return the names of the files and directories directly below *path*; none for a missing directory."""
        directory = self.validate_name(path) if path else ""
        entries = await self.list(directory, recursive=False)
        return [entry.name.rstrip("/").rpartition("/")[2] for entry in entries]


class DefaultStorage(Storage):
    """A proxy to the storage that the settings of the current app name; :data:`default_storage` is one.

    It is the first of these that applies:

    1. what :meth:`configure` was given;
    2. the profile that ``DEFAULT_FILE_STORAGE`` names;
    3. what the class or function returns whose import path is ``DEFAULT_FILE_STORAGE`` (``"shop.storage.Files"``),
       called without arguments;
    4. a :class:`FileSystemStorage`, if ``MEDIA_ROOT`` is set;
    5. the app's default profile, if it has the extension;
    6. a :class:`FileSystemStorage` in ``./media/``.

    It is looked up once for each app, and once outside of an application context. Besides the five methods of
    :class:`Storage` it has those of the storage itself.
    """

    def __init__(self) -> None:
        self._configured: Storage | None = None
        self._without_app: dict[str, Any] = {}
        self._lock = threading.Lock()

    def configure(self, storage: Storage | StorageBackend | None) -> None:
        """Use *storage* whatever the settings say, in every app of this process; None for the settings again."""
        self._configured = AsyncStorage(storage) if isinstance(storage, StorageBackend) else storage

    def get_storage(self) -> Storage:
        """Return the storage that is used now.

        Raises:
            ConfigurationError: when ``DEFAULT_FILE_STORAGE`` names neither a profile nor a storage.
        """
        if self._configured is not None:
            return self._configured
        app = find_current_app()
        found = self._without_app if app is None else app.extensions
        with self._lock:
            if _EXTENSION_KEY not in found:
                found[_EXTENSION_KEY] = _storage_of(app)
            return cast(Storage, found[_EXTENSION_KEY])

    async def save(self, name: str, content: Content) -> str:
        """Store content, and never replace a file; return its path."""
        return await self.get_storage().save(name, content)

    async def delete(self, name: str) -> None:
        """Delete a file. A missing file is no error."""
        await self.get_storage().delete(name)

    async def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return await self.get_storage().exists(name)

    def url(self, name: str) -> str:
        """Return the public URL of a file."""
        return self.get_storage().url(name)

    async def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return await self.get_storage().size(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.get_storage(), name)


default_storage = DefaultStorage()
"""The storage of the current app, by its settings."""


def _storage_of(app: App | None) -> Storage:
    """Return the storage that the settings of *app* name."""
    if app is None:
        return FileSystemStorage()
    name = app.config.get("DEFAULT_FILE_STORAGE")
    profiles: Profiles | None = app.extensions.get("storage")
    if name is not None:
        return AsyncStorage(profiles[name]) if profiles and name in profiles else _imported(name)
    if profiles and not app.config.get("MEDIA_ROOT"):
        return AsyncStorage(profiles.default)
    return FileSystemStorage()


def _imported(path: str) -> Storage:
    try:
        factory = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"DEFAULT_FILE_STORAGE is {path!r}, which is neither a profile nor the import path of a class: {error}"
        ) from error
    storage = factory()
    return AsyncStorage(storage) if isinstance(storage, StorageBackend) else cast(Storage, storage)


def _setting(name: str, default: str) -> Any:
    app = find_current_app()
    return default if app is None else app.config.get(name) or default
