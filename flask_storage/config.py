"""Reads and validates the ``STORAGE_*`` settings of an app."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeGuard, cast
from urllib.parse import SplitResult, quote, urlsplit

from flask import current_app, has_request_context, request, url_for
from flask.sansio.app import App
from werkzeug.routing import BuildError

from .errors import ConfigurationError
from .types import LINK_LIFETIME
from .validation import did_you_mean, parse_bool, parse_http_url, parse_seconds

SETTINGS = (
    "STORAGE_PROFILES",
    "STORAGE_DEFAULT_PROFILE",
    "STORAGE_LINK_LIFETIME",
    "STORAGE_LINK_URL_PREFIX",
    "STORAGE_EXTERNAL_URL",
    "STORAGE_KEEP_DELETED",
    "STORAGE_LINK_USAGE",
    "STORAGE_X_ACCEL_REDIRECT",
    "STORAGE_X_SENDFILE",
)
"""Every setting that the extension reads, apart from those of Flask and keg-storage."""
_LIKENESS = 0.83  # accepts STORAGE_PROFILE and FLASK_STORAGE_PROFILES, and not another extension's STORAGE_PROVIDER

LINK_ENDPOINT = "storage_link"  # no dot: that would make it the property of a blueprint called "storage"
HOST_ARGUMENT = "storage_host"
"""The view argument for the host in the routes of the extension, in an app with ``host_matching``."""
_PLACEHOLDER = "the-token-goes-here"  # safe in URLs, as every token is
_ROUTE = re.compile(r"/(?:[^/<>?#%\s][^<>?#%\s]*)?")
_PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MIN_SECRET_BYTES = 32

logger = logging.getLogger("flask_storage")


def warn_of_misspelled_settings(app: App) -> None:
    """Log a warning for each setting that the extension ignores and that is spelled almost like one of its own.

    This is no error, because the setting may belong to another extension.
    """
    ignored = [name for name in app.config if name.startswith(("STORAGE", "FLASK_STORAGE")) and name not in SETTINGS]
    for name in ignored:
        if question := did_you_mean(name, SETTINGS, likeness=_LIKENESS):
            logger.warning("the setting %s is ignored: %s", name, question)


def profile_specs(app: App) -> dict[str, Any]:
    """Return the specification of each profile by name, in order; a mapping is a copy that the caller may change.

    Raises:
        ConfigurationError: when a profile has no valid name, or no profile is configured.
    """
    setting = app.config.get("STORAGE_PROFILES")
    if setting is None and "KEG_STORAGE_PROFILES" in app.config:
        warnings.warn(
            "KEG_STORAGE_PROFILES is now STORAGE_PROFILES: rename the setting", DeprecationWarning, stacklevel=5
        )
        setting = app.config["KEG_STORAGE_PROFILES"]
    if setting is None:
        return {"default": {"backend": "local", "root": Path(app.instance_path, "storage"), "create": True}}
    if isinstance(setting, str):
        try:
            setting = json.loads(setting)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"STORAGE_PROFILES is text but not valid JSON: {error}") from error
    specs: dict[str, Any] = {}
    for name, spec in _pairs(setting):
        if not isinstance(name, str) or not _PROFILE_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is not a valid profile name: use letters, digits, '_', '-' and '.'")
        if name in specs:
            raise ConfigurationError(f"two profiles are called {name!r}: give each profile a different name")
        specs[name] = dict(spec) if isinstance(spec, Mapping) else spec
    if not specs:
        raise ConfigurationError("STORAGE_PROFILES contains no profile: add one, or leave the setting out")
    return specs


def _pairs(setting: object) -> list[tuple[Any, Any]]:
    """Return the name and the specification of each profile, from the mapping form or the list form."""
    if isinstance(setting, Mapping):
        return list(setting.items())
    if isinstance(setting, list | tuple):
        return [_named_spec(spec, position) for position, spec in enumerate(setting)]
    raise ConfigurationError(f"STORAGE_PROFILES is a {type(setting).__name__}: write a mapping of profiles")


def _named_spec(spec: object, position: int) -> tuple[str, Any]:
    """Return the name and the specification of an item of the list form, whose arguments contain the name."""
    if not (isinstance(spec, list | tuple) and len(spec) == 2 and isinstance(spec[1], Mapping)):
        raise ConfigurationError(
            f"STORAGE_PROFILES[{position}] is not a pair of a class and its arguments: write (class, {{…}})"
        )
    backend, arguments = spec
    if not arguments.get("name"):
        raise ConfigurationError(f'STORAGE_PROFILES[{position}] has no name: add "name" to its arguments')
    return arguments["name"], {"backend": backend, **arguments}


def default_profile(app: App, profiles: list[str]) -> str:
    """Return the name of the default profile.

    Raises:
        ConfigurationError: when no profile has that name, or the default cannot be determined.
    """
    name = app.config.get("STORAGE_DEFAULT_PROFILE")
    if name is None:
        # FLASK_STORAGE_PROFILES__docs__backend=…: one variable for each value; environment variables have no order.
        if len(profiles) > 1 and all(_is_from_environment(profile) for profile in profiles):
            raise ConfigurationError(
                "profiles from environment variables have no order: set STORAGE_DEFAULT_PROFILE to one of "
                + ", ".join(profiles)
            )
        return profiles[0]
    if name not in profiles:
        choices = did_you_mean(str(name), profiles) or f"the profiles are {', '.join(profiles)}"
        raise ConfigurationError(f"STORAGE_DEFAULT_PROFILE is {name!r}, which is not a profile: {choices}")
    return cast(str, name)


def _is_from_environment(profile: str) -> bool:
    return any(f"STORAGE_PROFILES__{profile}__" in variable for variable in os.environ)


def link_secrets(app: App) -> tuple[bytes, ...]:
    """Return the app's secret keys, the one that signs first; an empty tuple without a ``SECRET_KEY``.

    Raises:
        ConfigurationError: when one is neither text nor bytes: a number or a list would make a key that can be guessed.
    """
    current = app.config.get("SECRET_KEY")
    fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or []
    if not current:
        return ()
    if not isinstance(fallbacks, list | tuple):
        raise ConfigurationError("SECRET_KEY_FALLBACKS must be a list of keys")
    secrets = [current, *(key for key in fallbacks if key)]
    if not all(isinstance(key, str | bytes) for key in secrets):
        raise ConfigurationError("SECRET_KEY and its fallbacks must be text or bytes: put quotes around a number")
    keys = tuple(key.encode() if isinstance(key, str) else key for key in secrets)
    if min(map(len, keys)) < _MIN_SECRET_BYTES and not app.extensions.get("storage_short_secret"):
        app.extensions["storage_short_secret"] = True
        logger.warning(
            "SECRET_KEY or a fallback has fewer than %d bytes: links can be forged by guessing it", _MIN_SECRET_BYTES
        )
    return keys


class LinkURLBuilder:
    """Builds absolute URLs from link tokens, inside and outside a request.

    Args:
        app: The app.
        has_route: Whether the built-in link view is registered.
    """

    def __init__(self, app: App, *, has_route: bool) -> None:
        self._app = app
        self._has_route = has_route
        self._external = _parse_external_url(app.config.get("STORAGE_EXTERNAL_URL"))
        self._url_parts: dict[tuple[str, str | None], tuple[str, str]] = {}

    def link_url(self, profile: str, token: str, endpoint: str | None) -> str:
        """Return the URL of *token* at *endpoint* (None: the built-in link view).

        Raises:
            ConfigurationError: when the view does not exist, or the app's address is unknown here.
        """
        # Building a URL takes as long as signing a token, and URLs differ only in the token. So the other parts are
        # cached: permanently with STORAGE_EXTERNAL_URL, otherwise for one request.
        cache = self._url_parts
        if self._external is None:
            # One WSGI environment may pass through several apps, whose addresses differ.
            cache = (
                request.environ.setdefault(f"flask_storage.links.{id(self)}", {}) if self._is_in_app_request() else {}
            )
        if (profile, endpoint) not in cache:
            before, _, after = self._build(profile, endpoint).partition(_PLACEHOLDER)
            cache[profile, endpoint] = before, after
        before, after = cache[profile, endpoint]
        return f"{before}{token}{after}"

    def public_root(self) -> str:
        """Return what precedes the app's routes in a URL: the prefix below which the app is mounted, or "".

        With ``STORAGE_EXTERNAL_URL`` it is that URL, which pages on any host of the app can use.
        """
        if self._external is not None:
            return self._external.geturl().rstrip("/")
        root: str = request.root_path if self._is_in_app_request() else self._app.config["APPLICATION_ROOT"]
        return quote(root.rstrip("/"))

    def _is_in_app_request(self) -> bool:
        """Whether a request to this app is being handled; a request to another app has another address."""
        return has_request_context() and current_app == self._app

    def _build(self, profile: str, endpoint: str | None) -> str:
        values = {"token": _PLACEHOLDER}
        if endpoint is None:
            if not self._has_route:
                raise ConfigurationError(
                    f"profile {profile!r} has no link view: STORAGE_LINK_URL_PREFIX is None, so set it, or set "
                    "linked_endpoint where the backend has that argument"
                )
            endpoint, values["profile"] = LINK_ENDPOINT, profile
        try:
            url = self._absolute(endpoint, values)
        except BuildError as error:
            raise ConfigurationError(
                f"the linked_endpoint {endpoint!r} of profile {profile!r} is not an endpoint of this app"
            ) from error
        if not urlsplit(url).netloc:
            raise ConfigurationError(
                f"the linked_endpoint {endpoint!r} of profile {profile!r} has no host, and the app has host_matching: "
                "pass host=… to add_url_rule()"
            )
        return url

    def _absolute(self, endpoint: str, values: dict[str, str]) -> str:
        config = self._app.config
        if self._external is not None:
            scheme, host, root = self._external.scheme, self._external.netloc, self._external.path
        elif self._is_in_app_request():
            scheme, host, root = request.scheme, request.host, request.root_path
        elif config.get("SERVER_NAME"):
            # Not Flask's url_for: inside a request to another app it would return that app's host.
            scheme = config.get("PREFERRED_URL_SCHEME", "http")  # not among the settings of Quart
            host, root = config["SERVER_NAME"], config["APPLICATION_ROOT"]
        else:
            raise ConfigurationError(
                "a link created outside a request needs the app's address: set STORAGE_EXTERNAL_URL (or SERVER_NAME)"
            )
        if endpoint == LINK_ENDPOINT and self._app.url_map.host_matching:
            values[HOST_ARGUMENT] = host
        if self._external is None and self._is_in_app_request():
            return url_for(endpoint, _external=True, **values)  # with what the app adds by url_defaults()
        adapter = self._app.url_map.bind(host, script_name=root or "/", url_scheme=scheme)
        return adapter.build(endpoint, values, force_external=True)


def _parse_external_url(address: object) -> SplitResult | None:
    """Return the parts of ``STORAGE_EXTERNAL_URL``, if it is set."""
    if not address:
        return None
    try:
        return urlsplit(str(parse_http_url("STORAGE_EXTERNAL_URL", address if isinstance(address, str) else "")))
    except ConfigurationError as error:
        raise ConfigurationError(
            "STORAGE_EXTERNAL_URL must be an absolute http(s) URL without user, query and fragment: "
            "'https://example.com'"
        ) from error


def link_url_prefix(app: App) -> str | None:
    """Return the URL prefix of the built-in link view; None when the view is disabled.

    Raises:
        ConfigurationError: when the setting is not a path.
    """
    prefix = app.config.setdefault("STORAGE_LINK_URL_PREFIX", "/storage")
    if prefix is not None and not _is_route(prefix):
        raise ConfigurationError("STORAGE_LINK_URL_PREFIX must be a path that begins with a slash, or None")
    return prefix


def check_x_accel(app: App, profiles: Collection[str]) -> None:
    """Validate and normalize ``STORAGE_X_ACCEL_REDIRECT`` and ``STORAGE_X_SENDFILE``.

    Raises:
        ConfigurationError: when one of them is not valid.
    """
    locations = app.config.setdefault("STORAGE_X_ACCEL_REDIRECT", {}) or {}
    known = isinstance(locations, Mapping) and set(locations) <= set(profiles)
    if not known or not all(_is_route(location) for location in locations.values()):
        raise ConfigurationError(
            "STORAGE_X_ACCEL_REDIRECT must be a mapping of profiles to internal locations, like {'docs': '/_docs/'}; "
            f"the profiles are {', '.join(profiles)}"
        )
    try:
        app.config["STORAGE_X_SENDFILE"] = parse_bool(app.config.get("STORAGE_X_SENDFILE", False))
    except ValueError as error:
        raise ConfigurationError("STORAGE_X_SENDFILE must be true or false") from error


def pop_public_profiles(specs: dict[str, Any]) -> list[str]:
    """Remove ``serve`` from the specifications, and return the names of the profiles where it is true.

    Raises:
        ConfigurationError: when such a profile has no ``base_url`` on this app, or the same one as another.
    """
    served: dict[str, str] = {}
    for name, spec in specs.items():
        try:
            if not (isinstance(spec, dict) and parse_bool(spec.pop("serve", False))):
                continue
        except ValueError as error:
            raise ConfigurationError(f"profile {name!r}: serve must be true or false") from error
        base_url = spec.get("base_url")
        if not _is_route(base_url):
            raise ConfigurationError(f"profile {name!r} has serve=True: give it a base_url on this app, like '/media'")
        if base_url.rstrip("/") in served:
            raise ConfigurationError(
                f"profiles {name!r} and {served[base_url.rstrip('/')]!r} have the same base_url: give each its own"
            )
        served[base_url.rstrip("/")] = name
    return list(served.values())


def link_lifetime(app: App) -> timedelta:
    """Return how long a link is valid for which no expiry was given.

    Raises:
        ConfigurationError: when the setting is neither a ``timedelta`` nor a number of seconds, or is not positive.
    """
    lifetime = app.config.setdefault("STORAGE_LINK_LIFETIME", LINK_LIFETIME)
    return timedelta(seconds=parse_seconds("STORAGE_LINK_LIFETIME", lifetime))


def keep_deleted(app: App) -> timedelta:
    """Return how long the files of deleted rows are kept.

    Raises:
        ConfigurationError: when the setting is neither a ``timedelta`` nor a number of seconds, or is negative.
    """
    setting = app.config.setdefault("STORAGE_KEEP_DELETED", timedelta(0))
    return timedelta(seconds=parse_seconds("STORAGE_KEEP_DELETED", setting, zero=True))


def _is_route(path: object) -> TypeGuard[str]:
    """Whether *path* can be used as a route as it is written: no placeholder, query, escape or other host."""
    return isinstance(path, str) and bool(_ROUTE.fullmatch(path))
