"""Lazy module attributes: a name imports its module on first access (:pep:`562`)."""

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
"""Modules that need a package of an extra: module -> the package."""


def lazy_exports(package: str, where: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any]]:
    """Return the public names of a package, and the function for its ``__getattr__``.

    Names whose module needs a package that is not installed are left out, so that ``import *`` works; access to such a
    name raises an :class:`ImportError` that says what to install.

    Args:
        package: The package's name.
        where: Module (relative to the top package) -> the names that it defines, separated by spaces. The last segment
            of each module name is an attribute too, as in keg-storage (``flask_storage.filesystem``).
    """
    top = package.partition(".")[0]
    module_of = {name: module for module, names in where.items() for name in names.split()}
    modules = {module.rpartition(".")[2]: f"{top}.{module}" for module in where}

    def load(name: str) -> Any:
        if name in module_of:
            value = getattr(importlib.import_module(f"{top}.{module_of[name]}"), name)
        elif name in modules:
            value = importlib.import_module(modules[name])
        elif name == "__version__":
            from importlib.metadata import version  # takes 10 ms, so not at import

            value = version("flask-storage-profiles")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    missing = {module for module, needed in REQUIRED_PACKAGES.items() if not is_installed(needed)}
    return sorted(name for name, module in module_of.items() if module not in missing), load


def is_installed(module: str) -> bool:
    """Whether *module* is installed. Imports nothing, not even the parent packages."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    directories = (spec and spec.submodule_search_locations) or ()
    return spec is not None and (not below or any(_is_module(os.path.join(parent, *below)) for parent in directories))


def _is_module(location: str) -> bool:
    # A directory alone is not enough: uninstalling a package may leave an empty one.
    return os.path.isfile(os.path.join(location, "__init__.py")) or os.path.isfile(f"{location}.py")


def warn_about_conflicting_distribution(init_file: str) -> None:
    """Warn when the distribution ``flask-storage`` is installed too: both write the package ``flask_storage``."""
    site = os.path.dirname(os.path.dirname(os.path.abspath(init_file)))
    try:
        entries = os.listdir(site)
    except OSError:  # the package is inside a zip file, which holds no other distribution
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
