"""Usage stores for limited links, and the function that opens the one in ``STORAGE_LINK_USAGE``."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote

from ..errors import ConfigurationError
from .base import LinkUsageStore as LinkUsageStore, MemoryUsageStore as MemoryUsageStore
from .file_store import FileUsageStore as FileUsageStore


def open_usage_store(setting: str | LinkUsageStore | None, instance_path: str | os.PathLike[str]) -> LinkUsageStore:
    """Return the usage store that ``STORAGE_LINK_USAGE`` names.

    Args:
        setting: A URL (``redis``, ``rediss``, ``unix``, ``sqlite``, ``postgresql`` with or without a driver, ``file``),
            a ``LinkUsageStore``, or None for files in the instance folder, which all workers of one host share.
        instance_path: The app's instance folder. The file of a relative SQLite URL is in it too.

    Raises:
        ConfigurationError: when the setting is not a usage store, or a package that the store needs is missing.
    """
    if setting is None:
        return FileUsageStore(os.path.join(instance_path, "storage-links"))
    if isinstance(setting, LinkUsageStore):
        return setting
    value: Any = setting  # the configuration may contain any object
    scheme, separator, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if scheme in ("redis", "rediss", "unix"):
        from .redis_store import RedisUsageStore

        return RedisUsageStore(setting)
    if scheme.partition("+")[0] in ("sqlite", "postgresql"):
        from .sql_store import SQLUsageStore

        return SQLUsageStore(setting, directory=instance_path)
    if scheme == "file" and rest.startswith("/"):
        return FileUsageStore(unquote(rest))
    # The message does not show the setting: a misspelt URL may hold a password.
    shown = f"{scheme}://…" if separator else f"a {type(value).__name__} that is not a URL"
    raise ConfigurationError(
        f"STORAGE_LINK_USAGE is {shown}, which is not a usage store: use 'redis://host/0', "
        "'postgresql+psycopg://user:password@host/name', 'sqlite:///links.db', 'file:///directory', an instance of a "
        "LinkUsageStore subclass, or None for files in the instance folder"
    )
