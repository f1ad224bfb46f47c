"""What the ``STORAGE_*`` settings of an app say, and what is wrong with them."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from flask import Flask, current_app, has_request_context, url_for
from werkzeug.routing import BuildError

from .errors import ConfigurationError

LINK_ENDPOINT = "storage_link"  # no dot: that would make it the property of a blueprint called "storage"
_PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHORT_SECRET = 32

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
        except ValueError as error:
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
        if len(profiles) > 1 and any("STORAGE_PROFILES__" in variable for variable in os.environ):
            raise ConfigurationError(
                "profiles from environment variables have no order: set STORAGE_DEFAULT_PROFILE to one of "
                + ", ".join(profiles)
            )
        return profiles[0]
    if name not in profiles:
        raise ConfigurationError(f"STORAGE_DEFAULT_PROFILE is {name!r}: there are {', '.join(profiles)}")
    return cast(str, name)


def link_secrets(app: Flask) -> tuple[bytes, ...]:
    """Return the app's secrets, the signing one first."""
    given = [app.config.get("SECRET_KEY"), *(app.config.get("SECRET_KEY_FALLBACKS") or [])]
    keys = tuple(key.encode() if isinstance(key, str) else bytes(key) for key in given if key)
    if not given[0]:
        return ()
    if len(keys[0]) < _SHORT_SECRET and not app.extensions.get("storage_short_secret"):
        app.extensions["storage_short_secret"] = True
        logger.warning(
            "SECRET_KEY has fewer than %d bytes: links signed with it can be forged by guessing", _SHORT_SECRET
        )
    return keys


class LinkAddresses:
    """Makes absolute URLs of link tokens, inside a request and outside.

    Args:
        app: The app.
        has_route: Whether the ready-made link view is registered.
    """

    def __init__(self, app: Flask, *, has_route: bool) -> None:
        self._app = app
        self._has_route = has_route
        self._external = urlsplit(app.config.get("STORAGE_EXTERNAL_URL") or "")
        if self._external.geturl() and not (self._external.scheme in ("http", "https") and self._external.netloc):
            raise ConfigurationError("STORAGE_EXTERNAL_URL must be an absolute http(s) URL: 'https://example.com'")

    def link_url(self, profile: str, token: str, endpoint: str | None) -> str:
        """Return the URL of *token* at *endpoint* (None: the ready-made link view).

        Raises:
            ConfigurationError: when there is no such view, or the app's address is not known here.
        """
        values = {"token": token}
        if endpoint is None:
            if not self._has_route:
                raise ConfigurationError(
                    f"profile {profile!r} has no link view: STORAGE_LINK_URL_PREFIX is None, so set linked_endpoint"
                )
            endpoint, values["profile"] = LINK_ENDPOINT, profile
        try:
            return self._build(endpoint, values)
        except BuildError as error:
            raise ConfigurationError(
                f"the linked_endpoint {endpoint!r} of profile {profile!r} is no endpoint"
            ) from error

    def _build(self, endpoint: str, values: dict[str, str]) -> str:
        if self._external.netloc:
            adapter = self._app.url_map.bind(
                self._external.netloc, script_name=self._external.path or "/", url_scheme=self._external.scheme
            )
            return adapter.build(endpoint, values, force_external=True)
        in_request = has_request_context() and current_app == self._app
        if not in_request and not self._app.config.get("SERVER_NAME"):
            raise ConfigurationError(
                "a link made outside a request needs the app's address: set STORAGE_EXTERNAL_URL (or SERVER_NAME)"
            )
        if in_request:
            return url_for(endpoint, _external=True, **values)
        with self._app.app_context():
            return url_for(endpoint, _external=True, **values)
