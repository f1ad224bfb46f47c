"""What the ``STORAGE_*`` settings of an app say, and what is wrong with them."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeGuard, cast
from urllib.parse import SplitResult, urlsplit

from flask import Flask, current_app, has_request_context, request, url_for
from werkzeug.routing import BuildError

from .errors import ConfigurationError
from .validation import parse_bool

LINK_ENDPOINT = "storage_link"  # no dot: that would make it the property of a blueprint called "storage"
_PLACEHOLDER = "the-token-goes-here"  # safe in URLs, as every token is
_ROUTE = re.compile(r"/(?:[^/<>?#%\s][^<>?#%\s]*)?")
_PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MIN_SECRET_BYTES = 32

logger = logging.getLogger("flask_storage")


def profile_specs(app: Flask) -> dict[str, Any]:
    """Return what each profile is made of, by name, in order; a mapping is a copy that the caller may change.

    Raises:
        ConfigurationError: when a profile has no proper name, or there is none.
    """
    given = app.config.get("STORAGE_PROFILES")
    if given is None and "KEG_STORAGE_PROFILES" in app.config:
        warnings.warn(
            "KEG_STORAGE_PROFILES is now STORAGE_PROFILES: rename the setting", DeprecationWarning, stacklevel=4
        )
        given = app.config["KEG_STORAGE_PROFILES"]
    if given is None:
        return {"default": {"backend": "local", "root": Path(app.instance_path, "storage"), "create": True}}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"STORAGE_PROFILES is a text but no JSON: {error}") from error
    specs: dict[str, Any] = {}
    for name, spec in _pairs(given):
        if not isinstance(name, str) or not _PROFILE_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} cannot name a profile: use letters, digits, '_', '-' and '.'")
        if name in specs:
            raise ConfigurationError(f"two profiles are called {name!r}: give each a name of its own")
        specs[name] = dict(spec) if isinstance(spec, Mapping) else spec
    if not specs:
        raise ConfigurationError("STORAGE_PROFILES names no profile: add one, or leave the setting out")
    return specs


def _pairs(given: object) -> list[tuple[Any, Any]]:
    """Return name and spec of each profile, of the mapping form or the list form."""
    if isinstance(given, Mapping):
        return list(given.items())
    if isinstance(given, list | tuple):
        return [_named(spec, position) for position, spec in enumerate(given)]
    raise ConfigurationError(f"STORAGE_PROFILES is a {type(given).__name__}: write a mapping of profiles")


def _named(spec: object, position: int) -> tuple[str, Any]:
    """Return a pair of the list form with the profile's name, which is among its arguments."""
    if not (isinstance(spec, list | tuple) and len(spec) == 2 and isinstance(spec[1], Mapping)):
        raise ConfigurationError(f"STORAGE_PROFILES[{position}] is no pair of a class and its arguments")
    backend, arguments = spec
    if not arguments.get("name"):
        raise ConfigurationError(f'STORAGE_PROFILES[{position}] has no name: add "name" to its arguments')
    return arguments["name"], {"backend": backend, **arguments}


def default_profile(app: Flask, profiles: list[str]) -> str:
    """Return the name of the default profile.

    Raises:
        ConfigurationError: when it does not exist, or nothing says which it is.
    """
    name = app.config.get("STORAGE_DEFAULT_PROFILE")
    if name is None:
        # FLASK_STORAGE_PROFILES__docs__backend=…: one variable for each value, and those have no order.
        if len(profiles) > 1 and all(_is_from_environment(profile) for profile in profiles):
            raise ConfigurationError(
                "profiles from environment variables have no order: set STORAGE_DEFAULT_PROFILE to one of "
                + ", ".join(profiles)
            )
        return profiles[0]
    if name not in profiles:
        raise ConfigurationError(f"STORAGE_DEFAULT_PROFILE is {name!r}: there are {', '.join(profiles)}")
    return cast(str, name)


def _is_from_environment(profile: str) -> bool:
    return any(f"STORAGE_PROFILES__{profile}__" in variable for variable in os.environ)


def link_secrets(app: Flask) -> tuple[bytes, ...]:
    """Return the app's secrets, the signing one first; none without a ``SECRET_KEY``.

    Raises:
        ConfigurationError: when one is neither text nor bytes: a number or a list would make keys that anybody guesses.
    """
    current = app.config.get("SECRET_KEY")
    fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or []
    if not current:
        return ()
    if not isinstance(fallbacks, list | tuple):
        raise ConfigurationError("SECRET_KEY_FALLBACKS must be a list of keys")
    given = [current, *(key for key in fallbacks if key)]
    if not all(isinstance(key, str | bytes) for key in given):
        raise ConfigurationError("SECRET_KEY and its fallbacks must be text or bytes: put quotes around a number")
    keys = tuple(key.encode() if isinstance(key, str) else key for key in given)
    if min(map(len, keys)) < _MIN_SECRET_BYTES and not app.extensions.get("storage_short_secret"):
        app.extensions["storage_short_secret"] = True
        logger.warning(
            "SECRET_KEY or a fallback has fewer than %d bytes: links can be forged by guessing it", _MIN_SECRET_BYTES
        )
    return keys


class LinkURLBuilder:
    """Makes absolute URLs of link tokens, inside a request and outside.

    Args:
        app: The app.
        has_route: Whether the ready-made link view is registered.
    """

    def __init__(self, app: Flask, *, has_route: bool) -> None:
        self._app = app
        self._has_route = has_route
        self._external = _parse_external_url(app.config.get("STORAGE_EXTERNAL_URL"))
        self._url_parts: dict[tuple[str, str | None], tuple[str, str]] = {}

    def link_url(self, profile: str, token: str, endpoint: str | None) -> str:
        """Return the URL of *token* at *endpoint* (None: the ready-made link view).

        Raises:
            ConfigurationError: when there is no such view, or the app's address is not known here.
        """
        # Building takes as long as signing, and all but the token stays the same: for ever, or for one request.
        built = self._url_parts
        if self._external is None:
            # One environment may pass through several apps; each has addresses of its own.
            built = (
                request.environ.setdefault(f"flask_storage.links.{id(self)}", {}) if self._is_in_app_request() else {}
            )
        if (profile, endpoint) not in built:
            before, _, after = self._build(profile, endpoint).partition(_PLACEHOLDER)
            built[profile, endpoint] = before, after
        before, after = built[profile, endpoint]
        return f"{before}{token}{after}"

    def _is_in_app_request(self) -> bool:
        """Whether this happens inside a request to this app; another app's has another address."""
        return has_request_context() and current_app == self._app

    def _build(self, profile: str, endpoint: str | None) -> str:
        values = {"token": _PLACEHOLDER}
        if endpoint is None:
            if not self._has_route:
                raise ConfigurationError(
                    f"profile {profile!r} has no link view: STORAGE_LINK_URL_PREFIX is None, so set linked_endpoint"
                )
            endpoint, values["profile"] = LINK_ENDPOINT, profile
        try:
            return self._absolute(endpoint, values)
        except BuildError as error:
            raise ConfigurationError(
                f"the linked_endpoint {endpoint!r} of profile {profile!r} is no endpoint"
            ) from error

    def _absolute(self, endpoint: str, values: dict[str, str]) -> str:
        config = self._app.config
        if self._external is not None:
            scheme, host, root = self._external.scheme, self._external.netloc, self._external.path
        elif self._is_in_app_request():
            return url_for(endpoint, _external=True, **values)
        elif config.get("SERVER_NAME"):
            # Not Flask's url_for: inside the request of another app it would give that one's host.
            scheme, host, root = config["PREFERRED_URL_SCHEME"], config["SERVER_NAME"], config["APPLICATION_ROOT"]
        else:
            raise ConfigurationError(
                "a link made outside a request needs the app's address: set STORAGE_EXTERNAL_URL (or SERVER_NAME)"
            )
        adapter = self._app.url_map.bind(host, script_name=root or "/", url_scheme=scheme)
        return adapter.build(endpoint, values, force_external=True)


def _parse_external_url(address: object) -> SplitResult | None:
    """Return the parts of ``STORAGE_EXTERNAL_URL``, if it is set."""
    if not address:
        return None
    try:
        parts = urlsplit(address if isinstance(address, str) else "")
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError("STORAGE_EXTERNAL_URL must be an absolute http(s) URL: 'https://example.com'")
    return parts


def link_url_prefix(app: Flask) -> str | None:
    """Return where the ready-made link view lives; None for nowhere.

    Raises:
        ConfigurationError: when it is no path.
    """
    prefix = app.config.setdefault("STORAGE_LINK_URL_PREFIX", "/storage")
    if prefix is not None and not _is_route(prefix):
        raise ConfigurationError("STORAGE_LINK_URL_PREFIX must be a path that begins with a slash, or None")
    return prefix


def check_x_accel(app: Flask, profiles: Collection[str]) -> None:
    """Bring the settings for the web server in front into their one form.

    Raises:
        ConfigurationError: when they are not what delivery could use.
    """
    locations = app.config.setdefault("STORAGE_X_ACCEL_REDIRECT", {}) or {}
    known = isinstance(locations, Mapping) and set(locations) <= set(profiles)
    if not known or not all(_is_route(location) for location in locations.values()):
        raise ConfigurationError(
            "STORAGE_X_ACCEL_REDIRECT must be a mapping of profiles to internal locations, like {'docs': '/_docs/'}; "
            f"there are {', '.join(profiles)}"
        )
    try:
        app.config["STORAGE_X_SENDFILE"] = parse_bool(app.config.get("STORAGE_X_SENDFILE", False))
    except ValueError as error:
        raise ConfigurationError("STORAGE_X_SENDFILE is true or false") from error


def pop_public_profiles(specs: dict[str, Any]) -> list[str]:
    """Take ``serve`` out of the profiles, and return those that it is true for.

    Raises:
        ConfigurationError: when such a profile has no address on this app, or that of another.
    """
    served: dict[str, str] = {}
    for name, spec in specs.items():
        try:
            if not (isinstance(spec, dict) and parse_bool(spec.pop("serve", False))):
                continue
        except ValueError as error:
            raise ConfigurationError(f"profile {name!r}: serve is true or false") from error
        address = spec.get("base_url")
        if not _is_route(address):
            raise ConfigurationError(f"profile {name!r} is to be served: give it a base_url on this app, like '/media'")
        if address.rstrip("/") in served:
            raise ConfigurationError(f"{name!r} and {served[address.rstrip('/')]!r} are served at one base_url")
        served[address.rstrip("/")] = name
    return list(served.values())


def _is_route(path: object) -> TypeGuard[str]:
    """Whether *path* can be routed to as it is written: no placeholder, query, escape or other host."""
    return isinstance(path, str) and bool(_ROUTE.fullmatch(path))
