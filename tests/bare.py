"""Runs the tests that need only the core dependencies and pytest: ``python -m tests.bare``.

A test file is left out, and printed, when it imports something that is not installed, directly or through one of our
test modules; so is a directory whose `conftest.py` does. Imports of `flask_storage` itself do not count: its core
dependencies must be installed.
"""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

from flask_storage._lazy import REQUIRED_PACKAGES, is_installed

TESTS = Path(__file__).parent
OURS = ("tests", "flask_storage.testing")
ROOT_PACKAGES = ("tests", "flask_storage")


def imports(file):
    """The full names of the modules that *file* imports at its top level, and of its pytest plugins."""
    directories = file.parent.parts
    package = next(directories[at:] for at in range(len(directories) - 1, -1, -1) if directories[at] in ROOT_PACKAGES)
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            source = ".".join([*package[: len(package) - node.level + 1], node.module]) if node.level else node.module
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names if source in OURS)
        elif isinstance(node, ast.Assign) and any(
            getattr(target, "id", "") == "pytest_plugins" for target in node.targets
        ):
            yield from ast.literal_eval(node.value)


def missing(file, seen=frozenset()):
    """The packages that *file* needs and that are not installed."""
    names = set()
    for module in set(imports(file)) - seen:
        for ours, needed in REQUIRED_PACKAGES.items():
            if f"{module}.".startswith(f"flask_storage.{ours}.") and not is_installed(needed):
                names.add(needed)
        if not importlib.util.find_spec(module.partition(".")[0]):
            names.add(module.partition(".")[0])
        elif module.startswith(OURS) and (spec := importlib.util.find_spec(module)) and spec.origin:
            names |= missing(Path(spec.origin), seen | {module})
    return names


def _ignored(file):
    return file.parent if file.name == "conftest.py" else file


def main(arguments):
    """Run pytest on every test file that can be imported, and return its exit status."""
    files = sorted([*TESTS.rglob("conftest.py"), *TESTS.rglob("test_*.py")])
    left_out = {_ignored(file): names for file in files if (names := missing(file))}
    for file, names in left_out.items():
        print(f"left out: {file.relative_to(TESTS.parent)} needs {', '.join(sorted(names))}")
    return pytest.main([*arguments, *(f"--ignore={file}" for file in left_out)])


if __name__ == "__main__":
    # `-m` puts the current directory first on the path, but the installed package is to be tested.
    del sys.path[0]
    sys.exit(main(sys.argv[1:]))
