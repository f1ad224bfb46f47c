"""Names that load their module when they are first asked for (:pep:`562`)."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

REQUIRED_PACKAGES = {"backends.azure": "azure.storage.blob", "backends.s3": "boto3", "backends.sftp": "paramiko"}
"""Modules of ours that need a package of an extra."""


def lazy_exports(package: str, where: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any]]:
    """Return the public names of a package and the loader behind its ``__getattr__``.

    What needs a package that is not installed is left out of the names, so that ``import *`` works; asked for by name,
    it says what to install.

    Args:
        package: The package's name.
        where: Module (relative to the top package) -> the names that it supplies, separated by spaces. The last part
            of each module's own name can be asked for too, as keg-storage allows (``flask_storage.filesystem``).
    """
    top = package.partition(".")[0]
    homes = {name: module for module, names in where.items() for name in names.split()}
    modules = {module.rpartition(".")[2]: f"{top}.{module}" for module in where}

    def load(name: str) -> Any:
        if name in homes:
            value = getattr(importlib.import_module(f"{top}.{homes[name]}"), name)
        elif name in modules:
            value = importlib.import_module(modules[name])
        elif name == "__version__":
            from importlib.metadata import version  # costs 10 ms, so only for whoever asks

            value = version("flask-storage-profiles")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    missing = {module for module, needed in REQUIRED_PACKAGES.items() if not is_installed(needed)}
    return sorted(name for name, module in homes.items() if module not in missing), load


def is_installed(module: str) -> bool:
    """Whether *module* is installed, without importing anything: that would load the packages above it."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    places = (spec and spec.submodule_search_locations) or ()
    return spec is not None and (not below or any(_is_package(os.path.join(place, *below)) for place in places))


def _is_package(place: str) -> bool:
    # Not the folder alone: what is uninstalled may leave that behind.
    return os.path.isfile(os.path.join(place, "__init__.py")) or os.path.isfile(f"{place}.py")


def warn_about_conflicting_distribution(init_file: str) -> None:
    """Warn when the distribution ``flask-storage`` is installed beside ours: both own the package ``flask_storage``."""
    site = os.path.dirname(os.path.dirname(os.path.abspath(init_file)))
    try:
        entries = os.listdir(site)
    except OSError:  # inside a zip file nothing else can be
        return
    for entry in entries:
        name = entry.lower().replace("-", "_")
        if re.fullmatch(r"flask_storage_\d.*\.(dist|egg)_info", name):
            warnings.warn(
                "the distribution 'flask-storage' is installed beside 'flask-storage-profiles', and both write the "
                "package 'flask_storage': run 'pip uninstall flask-storage', then reinstall flask-storage-profiles",
                RuntimeWarning,
                stacklevel=3,
            )
            return
