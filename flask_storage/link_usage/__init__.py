"""Stores of used links, and which of them ``STORAGE_LINK_USAGE`` names."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote

from ..errors import ConfigurationError
from .base import LinkUsageStore as LinkUsageStore, MemoryUsageStore as MemoryUsageStore
from .file_store import FileUsageStore as FileUsageStore


def open_usage_store(setting: str | LinkUsageStore | None, instance_path: str | os.PathLike[str]) -> LinkUsageStore:
    """Return the store that ``STORAGE_LINK_USAGE`` names.

    Args:
        setting: A URL (``redis``, ``rediss``, ``unix``, ``sqlite``, ``postgresql`` with or without a driver, ``file``),
            a store of your own, or None: files in the instance folder, which all workers of one host share.
        instance_path: The app's instance folder. A relative SQLite file lies there too.

    Raises:
        ConfigurationError: when there is no such store, or what it needs is not installed.
    """
    if setting is None:
        return FileUsageStore(os.path.join(instance_path, "storage-links"))
    if isinstance(setting, LinkUsageStore):
        return setting
    given: Any = setting  # a configuration holds what it holds
    scheme, separator, rest = given.partition("://") if isinstance(given, str) else ("", "", "")
    if scheme in ("redis", "rediss", "unix"):
        from .redis_store import RedisUsageStore

        return RedisUsageStore(setting)
    if scheme.partition("+")[0] in ("sqlite", "postgresql"):
        from .sql_store import SQLUsageStore

        return SQLUsageStore(setting, directory=instance_path)
    if scheme == "file" and rest.startswith("/"):
        return FileUsageStore(unquote(rest))
    # The setting itself is not shown: what is misspelt may hold a password all the same.
    found = f"{scheme}://…" if separator else f"a {type(given).__name__} that is no URL"
    raise ConfigurationError(
        f"STORAGE_LINK_USAGE is {found}, which is no store of used links: use 'redis://host/0', "
        "'postgresql+psycopg://user:password@host/name', 'sqlite:///links.db', 'file:///folder', an object of a class "
        "made from LinkUsageStore, or None for files in the instance folder"
    )
