"""Finds backend classes by name, entry point or import path, and creates storages from profiles."""

from __future__ import annotations

import importlib
import inspect
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .backends.base import StorageBackend
from .errors import ConfigurationError, StorageError
from .validation import did_you_mean, parse_bool

ENTRY_POINT_GROUP = "flask_storage.backends"
"""The entry point group of backends in other distributions: ``[project.entry-points."flask_storage.backends"]``."""

BUILT_IN_BACKENDS = {
    "azure": "flask_storage.backends.azure:AzureStorage",
    "local": "flask_storage.backends.local:LocalFSStorage",
    "memory": "flask_storage.backends.memory:MemoryStorage",
    "mirror": "flask_storage.scoped:MirrorStorage",
    "prefix": "flask_storage.scoped:PrefixStorage",
    "read_only": "flask_storage.scoped:ReadOnlyStorage",
    "read_through": "flask_storage.scoped:ReadThroughStorage",
    "s3": "flask_storage.backends.s3:S3Storage",
    "sftp": "flask_storage.backends.sftp:SFTPStorage",
}

_STORAGE_OPTIONS = ("links", "unsupported_headers")
_S3_SERVICES = {name: name for name in ("b2", "ceph", "gcs", "minio", "r2", "spaces", "wasabi")} | {"gs": "gcs"}
"""Names of services that are not backends, and the preset of S3 for each."""


_PROFILE_KEYS = ("backend", "serve")  # what a profile may contain besides arguments of its class
_MAX_SHOWN_ARGUMENTS = 8


def find_backend(name: str) -> type[StorageBackend]:
    """Return the class behind a short name (``"local"``) or an import path (``"package.module:Class"``).

    Raises:
        ConfigurationError: when there is none; the message lists the known names, or says what cannot be imported.
    """
    if "/" in name:  # a URL or a file, which may contain a password: the message does not show it
        raise ConfigurationError(
            "backend is a URL or a path: write a name like 'local' or an import path 'package.module:Class', or give "
            "the URL in place of the whole mapping"
        )
    registered = {} if name in BUILT_IN_BACKENDS else _entry_point_backends()
    target = BUILT_IN_BACKENDS.get(name) or registered.get(name) or name
    if target in _S3_SERVICES:
        raise ConfigurationError(
            f"no backend is called {name!r}: use the backend 's3' with preset={_S3_SERVICES[name]!r} and the "
            "endpoint_url of the service"
        )
    module_name, _, attribute = target.rpartition(":" if ":" in target else ".")
    if not module_name or module_name.startswith("."):
        known = sorted({*BUILT_IN_BACKENDS, *registered})
        choices = f"the backends are {', '.join(known)}, or give an import path 'package.module:Class'"
        raise ConfigurationError(f"no backend is called {name!r}: {did_you_mean(name, known) or choices}")
    try:
        backend = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the backend {name!r} cannot be imported: {error}") from error
    return _checked(backend, name)


def make_storages(specs: Mapping[str, object]) -> dict[str, StorageBackend]:
    """Create the storage of each profile, in the order of *specs*; those that another one wraps are created first.

    Args:
        specs: By profile name; see :func:`make_storage`.

    Raises:
        ConfigurationError: when one is not valid, names a profile that does not exist, or wraps itself.
    """
    storages: dict[str, StorageBackend] = {}
    pending: list[str] = []

    def make(name: str) -> StorageBackend:
        if name not in storages:
            if name in pending:
                raise ConfigurationError(
                    f"profiles wrap each other: {' → '.join([*pending[pending.index(name) :], name])}; remove one of "
                    "these references"
                )
            pending.append(name)
            storages[name] = make_storage(name, specs[name], partial(find, name))
            pending.pop()
        return storages[name]

    def find(profile: str, name: object) -> StorageBackend:
        if isinstance(name, StorageBackend):
            return name
        if not isinstance(name, str) or name not in specs:
            # Not the value itself, unless it resembles a profile's name: it may be a URL with a password.
            question = did_you_mean(name, specs) if isinstance(name, str) else ""
            raise ConfigurationError(
                f"profile {profile!r} wraps a storage that is not a profile: "
                f"{question or 'the profiles are ' + ', '.join(specs)}"
            )
        return make(name)

    return {name: make(name) for name in specs}


def make_storage(profile: str, spec: object, find: Callable[[object], StorageBackend] | None = None) -> StorageBackend:
    """Create the storage of one profile.

    Args:
        profile: The profile's name, and the storage's unless *spec* gives it another one.
        spec: A pair ``(class, kwargs)``, a mapping with ``"backend"``, a URL, or a storage.
        find: Returns the storage of another profile that *spec* names, for a storage that wraps others.

    Raises:
        ConfigurationError: when *spec* is not valid. No message contains a value, since it may be a secret.
    """
    if isinstance(spec, StorageBackend):
        return spec
    if isinstance(spec, str):
        return _from_url(profile, spec)
    if isinstance(spec, Mapping):
        arguments = dict(spec)
        if "backend" not in arguments:
            raise ConfigurationError(f'profile {profile!r} has no backend: add "backend": "local", for example')
        backend = arguments.pop("backend")
    elif isinstance(spec, list | tuple) and len(spec) == 2 and isinstance(spec[1], Mapping):
        backend, arguments = spec[0], dict(spec[1])
    else:
        raise ConfigurationError(
            f"profile {profile!r} is a {type(spec).__name__}: write a pair (class, arguments), a mapping with "
            '"backend", or a URL'
        )
    cls = find_backend(backend) if isinstance(backend, str) else _checked(backend, profile)
    options = _pop_storage_options(arguments)
    arguments = _named_arguments(profile, cls, arguments)
    if find is not None:
        _replace_names(cls, arguments, find)
    with _constructor_errors(profile, cls):
        return _with_options(cls(**_parse_booleans(profile, cls, arguments)), options)


def _entry_point_backends() -> dict[str, str]:
    """Return the backends that other distributions register, as import paths by name."""
    from importlib.metadata import entry_points  # takes 6 ms, so only for backends that are not ours

    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def _from_url(profile: str, url: str) -> StorageBackend:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if not parts.scheme:
        raise ConfigurationError(f"profile {profile!r} is text but not a URL: write 'local:///srv/files', for example")
    cls = find_backend(parts.scheme)
    query = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(query)
    storage_options = _pop_storage_options(options)
    options = _named_arguments(profile, cls, options, partially=True)
    with _constructor_errors(profile, cls):
        return _with_options(cls.from_url(parts, _parse_booleans(profile, cls, options)), storage_options)


def _pop_storage_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove and return the options that every storage has as an attribute, and no constructor as an argument."""
    return {name: arguments.pop(name) for name in _STORAGE_OPTIONS if name in arguments}


def _with_options(storage: StorageBackend, options: Mapping[str, Any]) -> StorageBackend:
    for name, value in options.items():
        setattr(storage, name, value)
    return storage


def _parse_booleans(profile: str, cls: type[StorageBackend], arguments: dict[str, Any]) -> dict[str, Any]:
    """Convert the arguments that are boolean in the constructor; URLs and environment variables give them as text."""
    parameters = inspect.signature(cls).parameters
    for name, value in arguments.items():
        if name in parameters and isinstance(parameters[name].default, bool):
            try:
                arguments[name] = parse_bool(value)
            except ValueError as error:
                raise ConfigurationError(f"profile {profile!r}: {name} must be true or false") from error
    return arguments


def _named_arguments(
    profile: str, cls: type[StorageBackend], arguments: dict[str, Any], *, partially: bool = False
) -> dict[str, Any]:
    """Return the arguments under their own names, with ``name``, after checking that the constructor accepts them.

    Args:
        profile: The profile's name.
        cls: The class whose constructor gets the arguments.
        arguments: As they are written in the profile.
        partially: Whether required arguments may be missing, because the URL contains them.
    """
    named: dict[str, Any] = {}
    for given, value in arguments.items():
        name = cls.argument_aliases.get(given, given)
        if name in named:
            raise ConfigurationError(f"profile {profile!r} has {name} twice: leave {given} out, or the other one")
        named[name] = value
    named.setdefault("name", profile)
    signature = inspect.signature(cls)
    try:
        (signature.bind_partial if partially else signature.bind)(**named)
    except TypeError as error:
        parameters = signature.parameters
        unknown = [name for name in named if name not in parameters]
        reason = _unknown_argument(cls, unknown[0], list(parameters)) if unknown else f"{cls.__name__}: {error}"
        raise ConfigurationError(f"profile {profile!r}: {reason}") from error
    return named


def _replace_names(
    cls: type[StorageBackend], arguments: dict[str, Any], find: Callable[[object], StorageBackend]
) -> None:
    """Replace the names of other profiles, in the arguments that are storages, by their storages."""
    for name in cls.storage_arguments:
        if name in arguments:
            value = arguments[name]
            is_list = isinstance(value, list | tuple)
            arguments[name] = [find(item) for item in value] if is_list else find(value)


def _unknown_argument(cls: type[StorageBackend], name: str, known: list[str]) -> str:
    """Return a message that suggests similar arguments, or without any lists the first ones."""
    if name in _PROFILE_KEYS:
        return f"a URL or a pair cannot have the key {name!r}: write the profile as a mapping"
    reason = f"{cls.__name__} has no argument {name!r}"
    if question := did_you_mean(str(name), {*known, *cls.argument_aliases, *_PROFILE_KEYS, *_STORAGE_OPTIONS}):
        return f"{reason}: {question}"
    shown, hidden = known[:_MAX_SHOWN_ARGUMENTS], len(known) - _MAX_SHOWN_ARGUMENTS
    more = f" and {hidden} more, which its documentation lists" if hidden > 0 else ""
    return f"{reason}: its arguments are {', '.join(shown)}{more}"


@contextmanager
def _constructor_errors(profile: str, cls: type[StorageBackend]) -> Iterator[None]:
    """Translate errors of a constructor; the message names the profile and contains no value."""
    try:
        yield
    except (TypeError, ValueError, AttributeError) as error:
        if type(error) is ConfigurationError and repr(profile) not in error.message:
            raise ConfigurationError(f"profile {profile!r}: {error.message}") from error
        if isinstance(error, StorageError):
            raise
        raise ConfigurationError(
            f"profile {profile!r}: {cls.__name__} cannot be created with these arguments ({_origin(error)}); the "
            "traceback shows the error itself, which may contain a secret"
        ) from error


def _origin(error: Exception) -> str:
    """Return the type of an error and where it was raised: its text may contain the value of an argument."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in {os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}"


def _checked(backend: object, name: str) -> type[StorageBackend]:
    if not (isinstance(backend, type) and issubclass(backend, StorageBackend)):
        raise ConfigurationError(f"the backend of {name!r} is not a StorageBackend class")
    return backend
