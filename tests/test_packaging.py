"""What is released is what was meant: the wheel, its metadata, and the top level of the repository."""

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
    folder = tmp_path_factory.mktemp("dist")
    sources = ProjectBuilder(ROOT, runner=quiet_subprocess_runner).build("sdist", folder)
    subprocess.run(["tar", "-xzf", sources, "-C", folder], check=True)  # tarfile's own way differs between versions
    unpacked = sources.removesuffix(".tar.gz")
    with zipfile.ZipFile(ProjectBuilder(unpacked, runner=quiet_subprocess_runner).build("wheel", folder)) as opened:
        yield opened


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    """Every module, the marker that says it is typed, and none of the tests, documentation or examples."""
    package = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "flask_storage").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert names == package
    assert "flask_storage/py.typed" in names


def test_the_wheel_carries_licence_and_readme(wheel):
    """Whoever unpacks the wheel knows on which terms it came, and what it is."""
    info = f"flask_storage_profiles-{PROJECT['version']}.dist-info"

    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))

    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert b"BSD 3-Clause License" in wheel.read(f"{info}/licenses/LICENSE")
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_the_extra_named_all_holds_every_other():
    """`pip install flask-storage-profiles[all]` forgets nothing."""
    extras = PROJECT["optional-dependencies"]

    (everything,) = extras["all"]

    assert everything == f"{PROJECT['name']}[{','.join(sorted(extras.keys() - {'all'}))}]"


def test_the_installed_version_is_the_one_in_the_project_file():
    """There is one place where the version stands; tests that run on a stale installation say so here."""
    assert version(PROJECT["name"]) == PROJECT["version"]


def test_the_changelog_tells_of_this_version():
    """A version without a word to those who upgrade is not one."""
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
def test_the_scripts_that_are_the_first_steps_can_be_started(script):
    """The README's commands are one line each, so their files are programs, and any `sh` can read them."""
    assert (ROOT / script).stat().st_mode & 0o111

    subprocess.run(["sh", "-n", ROOT / script], check=True)
