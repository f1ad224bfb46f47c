"""The contents of the wheel, its metadata, and the top level of the repository."""

import email
import subprocess
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from build import ProjectBuilder
from pyproject_hooks import quiet_subprocess_runner

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the source distribution as for a release."""
    directory = tmp_path_factory.mktemp("dist")
    sources = ProjectBuilder(ROOT, runner=quiet_subprocess_runner).build("sdist", directory)
    subprocess.run(["tar", "-xzf", sources, "-C", directory], check=True)  # tarfile differs between versions of Python
    unpacked = sources.removesuffix(".tar.gz")
    with zipfile.ZipFile(ProjectBuilder(unpacked, runner=quiet_subprocess_runner).build("wheel", directory)) as opened:
        yield opened


def test_the_wheel_contains_the_package_and_nothing_else(wheel):
    """Every module and `py.typed`, and none of the tests, documentation or examples."""
    package = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "flask_storage").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert names == package
    assert "flask_storage/py.typed" in names


def test_the_wheel_contains_licence_and_readme(wheel):
    """The metadata names the licence, and the README is the description."""
    info = f"flask_storage_profiles-{PROJECT['version']}.dist-info"

    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))

    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert b"BSD 3-Clause License" in wheel.read(f"{info}/licenses/LICENSE")
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_the_extra_all_includes_every_other_extra():
    """`pip install flask-storage-profiles[all]` is complete."""
    extras = PROJECT["optional-dependencies"]

    (everything,) = extras["all"]

    assert everything == f"{PROJECT['name']}[{','.join(sorted(extras.keys() - {'all'}))}]"


def test_the_installed_version_is_the_one_in_the_project_file():
    """Tests that run on a stale installation fail here."""
    assert version(PROJECT["name"]) == PROJECT["version"]


def test_the_changelog_has_an_entry_for_this_version():
    """The release notes are not forgotten."""
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_top_level_is_as_short_as_it_was_meant():
    """What a newcomer sees first: eleven names and dot files. What runs leaves its traces in dot folders."""
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}

    assert names == {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "docs",
        "example_app",
        "flask_storage",
        "pyproject.toml",
        "tests",
        "tox.ini",
    }


@pytest.mark.parametrize("script", ["example_app/run", "tests/run", ".ci/run"])
def test_the_shell_scripts_are_executable_and_valid(script):
    """The README's commands run them directly, with any POSIX `sh`."""
    assert (ROOT / script).stat().st_mode & 0o111

    subprocess.run(["sh", "-n", ROOT / script], check=True)
