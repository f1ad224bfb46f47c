"""The storages of an app by profile name, and a proxy for those of the current app."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, cast

from flask import current_app, has_app_context
from flask.sansio.app import App
from werkzeug.local import LocalProxy

from .backends.base import StorageBackend
from .errors import UnknownProfileError
from .link_usage import LinkUsageStore


class Profiles(Mapping[str, StorageBackend]):
    """The storages of one app, by profile name, in the order of the configuration.

    Args:
        storages: By profile name.
        default: The name of the default profile.
        link_usage: The store that counts the uses of limited links.
        keep_deleted: How long files of deleted rows are kept.
    """

    def __init__(
        self,
        storages: Mapping[str, StorageBackend],
        default: str,
        link_usage: LinkUsageStore,
        keep_deleted: timedelta = timedelta(0),
    ) -> None:
        self._storages = dict(storages)
        self.default_name = default
        self.link_usage = link_usage
        self.keep_deleted = keep_deleted

    @property
    def default(self) -> StorageBackend:
        """The default profile's storage."""
        return self._storages[self.default_name]

    def __getitem__(self, profile: str) -> StorageBackend:
        """Return the storage of *profile*; :class:`~flask_storage.errors.UnknownProfileError` when there is none."""
        try:
            return self._storages[profile]
        except KeyError:
            raise UnknownProfileError(f"no profile is called {profile!r}: the profiles are {', '.join(self)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._storages)

    def __len__(self) -> int:
        return len(self._storages)

    def __repr__(self) -> str:
        return f"<Profiles {', '.join(self)}>"


def find_current_app() -> App | None:
    """Return the app whose context is active, one of Flask or of Quart; None outside of an application context."""
    if has_app_context():
        return current_app
    quart: Any = sys.modules.get("quart")  # an app of Quart exists only where Quart was imported
    return quart.current_app if quart is not None and quart.has_app_context() else None


def profiles_of(app: App) -> Profiles:
    """Return the storages of *app*, also outside its context.

    Raises:
        RuntimeError: when *app* has no :class:`~flask_storage.Storage`.
    """
    try:
        return cast(Profiles, app.extensions["storage"])
    except KeyError:
        raise RuntimeError("the Storage extension is not initialized on this app: call storage.init_app(app)") from None


current_storage = cast(Profiles, LocalProxy(lambda: profiles_of(find_current_app() or current_app)))
"""The storages of the current app: ``current_storage["docs"]``, ``current_storage.default``."""
