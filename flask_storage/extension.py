"""The Flask extension: the profiles of each app, the link view, the command-line interface."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeGuard

from flask import Flask
from flask.sansio.app import App
from werkzeug.routing import Rule

from .backends.base import StorageBackend
from .cli.startup import errors_reported_by_click
from .config import (
    HOST_ARGUMENT,
    LINK_ENDPOINT,
    LinkURLBuilder,
    check_x_accel,
    default_profile,
    keep_deleted,
    link_lifetime,
    link_secrets,
    link_url_prefix,
    pop_public_profiles,
    profile_specs,
    warn_of_misspelled_settings,
)
from .errors import ConfigurationError
from .link_usage import open_usage_store
from .profiles import Profiles, current_storage, profiles_of
from .registry import make_storages
from .types import LinkContext


class Storage:
    """The Flask extension.

    :meth:`init_app` reads and validates these settings:

    ``STORAGE_PROFILES``
        A list of ``(class, arguments)`` pairs, a mapping of profile name to ``{"backend": "local", …}`` or to a URL,
        or either as JSON text. Without it there is one profile ``default`` on local disk, in the instance folder.
    ``STORAGE_DEFAULT_PROFILE``
        The default profile; otherwise the first one.
    ``STORAGE_LINK_URL_PREFIX``
        The URL prefix of the built-in link view (``"/storage"``); None for no such view.
    ``STORAGE_EXTERNAL_URL``
        The public address of the app, for links (``"https://example.com"``); it overrides the request's ``Host``
        header.
    ``STORAGE_LINK_LIFETIME``
        How long a link is valid that is created without an expiry: a ``timedelta`` or seconds (one hour).
    ``STORAGE_KEEP_DELETED``
        How long files of deleted rows are kept, where models have file columns: a ``timedelta`` or seconds (0).
    ``STORAGE_LINK_USAGE``
        The store that counts the uses of limited links: None for files in the instance folder (one host), a database
        URL, or a Redis URL.
    ``STORAGE_X_ACCEL_REDIRECT``, ``STORAGE_X_SENDFILE``
        Let the web server in front of the app send local files: a mapping of profile name to nginx's internal
        location, or True.

    An app may also be one of Quart. It gets its storages, and no views and commands: for these, mount a Flask app with
    the same profiles and the same ``SECRET_KEY`` below ``STORAGE_LINK_URL_PREFIX``.

    Args:
        app: The app; or call :meth:`init_app` later.
        cli_group_name: The name of the command group (``flask storage``).

    >>> from flask import Flask
    >>> app = Flask(__name__)
    >>> app.config["STORAGE_PROFILES"] = {"docs": {"backend": "memory"}}
    >>> storage = Storage(app)
    >>> storage.for_app(app)["docs"]
    <MemoryStorage 'docs'>
    """

    def __init__(self, app: App | None = None, cli_group_name: str = "storage") -> None:
        self.cli_group_name = cli_group_name
        if app is not None:
            self.init_app(app)

    def init_app(self, app: App) -> None:
        """Create the app's storages, and register the link view and the commands; this sends no requests.

        Raises:
            ConfigurationError: when the configuration is not valid, or the app was initialized before, or is neither
                a :class:`flask.Flask` nor an app of Quart.
        """
        with errors_reported_by_click():
            self._init_app(app)

    def _init_app(self, app: App) -> None:
        unchecked: object = app  # callers may ignore the annotation
        if not isinstance(unchecked, Flask) and not _is_quart(unchecked):
            raise ConfigurationError(
                f"Storage needs a Flask app, not {type(unchecked).__module__}.{type(unchecked).__qualname__}: pass an "
                "instance of flask.Flask or quart.Quart"
            )
        if "storage" in app.extensions:
            raise ConfigurationError("this app already has a Storage: create one Storage for it and import that")
        warn_of_misspelled_settings(app)
        specs = profile_specs(app)
        served = pop_public_profiles(specs)
        if served and not isinstance(app, Flask):
            raise ConfigurationError(
                f"profile {served[0]!r} has serve=True, which needs a Flask app: set it in a Flask app with the same "
                "profiles, and mount that at the base_url"
            )
        lifetime = link_lifetime(app)
        storages = make_storages(specs)
        default = default_profile(app, list(storages))
        prefix = link_url_prefix(app)
        check_x_accel(app, storages)
        url_builder = LinkURLBuilder(app, has_route=prefix is not None)
        secrets = partial(link_secrets, app)
        for name, storage in storages.items():
            storage.set_link_context(
                LinkContext(
                    profile=name,
                    lifetime=lifetime,
                    secrets=secrets,
                    strict=not (app.debug or app.testing),
                    link_url=partial(url_builder.link_url, name),
                    public_root=url_builder.public_root if name in served else None,
                )
            )
        link_usage = open_usage_store(app.config.get("STORAGE_LINK_USAGE"), app.instance_path)
        app.extensions["storage"] = Profiles(storages, default, link_usage, keep_deleted(app))
        if isinstance(app, Flask):
            _register_views(app, prefix, {name: storages[name].base_url or "/" for name in served})
            _register_commands(app, self.cli_group_name)
        else:
            _register_link_url(app, prefix)

    def for_app(self, app: App) -> Profiles:
        """Return the storages of *app*, also outside its context.

        Raises:
            RuntimeError: when *app* was never given to :meth:`init_app`.
        """
        return profiles_of(app)

    def get_interface(self, interface: str | None = None) -> StorageBackend:
        """Return a storage of the current app, the default one without a name (keg-storage's name for this)."""
        return current_storage.default if interface is None else current_storage[interface]


def _is_quart(app: object) -> TypeGuard[App]:
    quart: Any = sys.modules.get("quart")  # an app of Quart exists only where Quart was imported
    return quart is not None and isinstance(app, quart.Quart)


def _register_views(app: Flask, prefix: str | None, served: Mapping[str, str]) -> None:
    from .http.link_view import LinkView, PublicFileView, prepare_link_views, remove_cookies

    app.url_value_preprocessor(prepare_link_views)
    app.after_request(remove_cookies)
    # With host_matching, a route without a host would match no request.
    host = f"<{HOST_ARGUMENT}>" if app.url_map.host_matching else None
    if prefix is not None:
        # Not a blueprint, because an app may have a blueprint named "storage".
        app.add_url_rule(f"{prefix.rstrip('/')}/<profile>", view_func=LinkView.as_view(LINK_ENDPOINT), host=host)
    for name, base_url in served.items():
        app.add_url_rule(
            f"{base_url.rstrip('/')}/<path:path>",
            view_func=PublicFileView.as_view(f"storage_public_{name}"),
            defaults={"profile": name},
            host=host,
        )


def _register_link_url(app: App, prefix: str | None) -> None:
    """Let links be built for a link view that another app serves below *prefix*."""
    if prefix is not None:
        host = f"<{HOST_ARGUMENT}>" if app.url_map.host_matching else None
        app.url_map.add(Rule(f"{prefix.rstrip('/')}/<profile>", endpoint=LINK_ENDPOINT, host=host, build_only=True))


def _register_commands(app: Flask, group_name: str) -> None:
    from .cli import storage_commands

    app.cli.add_command(storage_commands, name=group_name)
