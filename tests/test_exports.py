"""The public names: which modules export them, and how they load."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flask_storage
from flask_storage import _lazy


def _typed_names(package):
    tree = ast.parse(Path(package.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


@pytest.mark.parametrize("name", ["flask_storage", "flask_storage.backends"])
def test_type_checkers_see_the_names_that_load(name):
    """The names under `TYPE_CHECKING` and `__all__` are equal, and every name loads."""
    package = importlib.import_module(name)

    modules = {"azure", "base", "filesystem", "memory", "s3", "sftp"} if name == "flask_storage" else set()
    missing = {module for module, needed in _lazy.REQUIRED_PACKAGES.items() if not _lazy.is_installed(needed)}
    optional = {name for module in missing for name in package._EXPORTS[module].split()}
    assert _typed_names(package) == set(package.__all__) | modules | optional
    assert all(getattr(package, public) is not None for public in package.__all__)
    assert set(package.__all__) <= set(dir(package))


def test_backend_modules_are_top_level_attributes_as_in_keg_storage():
    """`flask_storage.filesystem` is `flask_storage.backends.filesystem`."""
    assert flask_storage.filesystem is importlib.import_module("flask_storage.backends.filesystem")
    assert flask_storage.base.StorageBackend is flask_storage.StorageBackend


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("backends.base", "FileMode ListEntry RemoteFile ShareLinkOperation StorageBackend FileNotFoundInStorageError"),
        ("backends.filesystem", "LocalFSStorage LocalFSFile LocalFSError"),
        ("backends.internal_links", "InternalLinksStorageBackend InternalLinkTokenData"),
        ("backends", "FileMode FileNotFoundInStorageError ProgressCallback RemoteFile StorageBackend LocalFSStorage"),
    ],
)
def test_modules_of_keg_storage_export_its_names(module, names):
    """An old import needs only the new package name."""
    found = importlib.import_module(f"flask_storage.{module}")

    assert all(hasattr(found, name) for name in names.split())


def test_another_azure_package_does_not_count_as_azure_storage_blob(tmp_path):
    """All Azure SDKs share the package `azure`; only azure-storage-blob provides the backend."""
    other = tmp_path / "azure" / "core"
    other.mkdir(parents=True)
    (tmp_path / "azure" / "__init__.py").touch()
    (other / "__init__.py").touch()
    code = (
        "import flask_storage\n"
        "from flask_storage import *\n"
        "assert 'AzureStorage' not in flask_storage.__all__\n"
        "flask_storage.AzureStorage\n"
    )
    here = [str(tmp_path), str(Path(flask_storage.__file__).parents[1])]

    result = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(here)},
    )

    assert result.returncode == 1
    assert (
        'ImportError: AzureStorage needs azure-storage-blob: pip install "flask-storage-profiles[azure]"'
        in result.stderr
    )


def test_an_unknown_name_is_an_attribute_error():
    """As in any module."""
    with pytest.raises(AttributeError, match="'flask_storage' has no attribute 'Storrage'"):
        flask_storage.Storrage  # noqa: B018 - the access is the test


def test_the_version_is_that_of_the_distribution():
    """It is looked up on access."""
    from importlib.metadata import version

    assert flask_storage.__version__ == version("flask-storage-profiles")


@pytest.mark.parametrize("directory", ["flask_storage-1.0.dist-info", "Flask_Storage-0.2.egg-info"])
def test_an_installed_flask_storage_distribution_is_warned_about(tmp_path, directory):
    """Both distributions would write the same package."""
    (tmp_path / directory).mkdir()

    with pytest.warns(RuntimeWarning, match="pip uninstall flask-storage"):
        _lazy.warn_about_conflicting_distribution(str(tmp_path / "flask_storage" / "__init__.py"))


def test_our_own_distribution_is_not_warned_about(tmp_path, recwarn):
    """Its name only has the same prefix."""
    (tmp_path / "flask_storage_profiles-0.1.0.dist-info").mkdir()

    _lazy.warn_about_conflicting_distribution(str(tmp_path / "flask_storage" / "__init__.py"))

    assert not recwarn


def test_importing_from_a_zip_file_does_not_warn(tmp_path, recwarn):
    """A directory inside a zip file cannot be listed."""
    _lazy.warn_about_conflicting_distribution(str(tmp_path / "app.zip" / "flask_storage" / "__init__.py"))

    assert not recwarn


def test_importing_prints_and_warns_nothing():
    """In a fresh interpreter, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import flask_storage"], capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("", "")
