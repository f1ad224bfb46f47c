"""What can be imported from where."""

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
def test_what_type_checkers_see_is_what_loads(name):
    """The two lists of public names are one."""
    package = importlib.import_module(name)

    modules = {"azure", "base", "filesystem", "memory", "s3", "sftp"} if name == "flask_storage" else set()
    missing = {module for module, needed in _lazy.REQUIRED_PACKAGES.items() if not _lazy.is_installed(needed)}
    optional = {name for module in missing for name in package._EXPORTS[module].split()}
    assert _typed_names(package) == set(package.__all__) | modules | optional
    assert all(getattr(package, public) is not None for public in package.__all__)
    assert set(package.__all__) <= set(dir(package))


def test_modules_of_backends_are_top_level_attributes_as_before():
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
def test_the_predecessors_modules_hold_the_predecessors_names(module, names):
    """So that old imports need a new package name and nothing else."""
    found = importlib.import_module(f"flask_storage.{module}")

    assert all(hasattr(found, name) for name in names.split())


def test_another_package_of_azures_is_not_taken_for_the_one_that_is_needed(tmp_path):
    """They all share the package `azure`: what counts is whether blobs can be stored with it."""
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


def test_a_name_that_does_not_exist_is_an_attribute_error():
    """As in any module."""
    with pytest.raises(AttributeError, match="'flask_storage' has no attribute 'Storrage'"):
        flask_storage.Storrage  # noqa: B018 - asking is the test


def test_the_version_is_the_distributions():
    """Looked up when asked for."""
    from importlib.metadata import version

    assert flask_storage.__version__ == version("flask-storage-profiles")


@pytest.mark.parametrize("folder", ["flask_storage-1.0.dist-info", "Flask_Storage-0.2.egg-info"])
def test_the_namesake_beside_us_is_warned_of(tmp_path, folder):
    """Both would write the same package, so importing says so plainly."""
    (tmp_path / folder).mkdir()

    with pytest.warns(RuntimeWarning, match="pip uninstall flask-storage"):
        _lazy.warn_about_conflicting_distribution(str(tmp_path / "flask_storage" / "__init__.py"))


def test_our_own_distribution_is_no_namesake(tmp_path, recwarn):
    """Its name only begins alike."""
    (tmp_path / "flask_storage_profiles-0.1.0.dist-info").mkdir()

    _lazy.warn_about_conflicting_distribution(str(tmp_path / "flask_storage" / "__init__.py"))

    assert not recwarn


def test_a_zip_file_holds_no_namesake(tmp_path, recwarn):
    """The package can be imported from one, where no folder can be listed."""
    _lazy.warn_about_conflicting_distribution(str(tmp_path / "app.zip" / "flask_storage" / "__init__.py"))

    assert not recwarn


def test_importing_prints_nothing_and_warns_of_nothing():
    """In a fresh interpreter, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import flask_storage"], capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("", "")
