"""Downward only: what each module may know of the others, and what a plain import may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flask_storage

PACKAGE = Path(flask_storage.__file__).parent
SDKS = {"azure", "boto3", "paramiko", "PIL", "redis", "sqlalchemy"}

WORDS = "errors values"
WALL = f"{WORDS} arguments signals streams paths tokens files parts"
PLACE = f"{WORDS} streams files paths parts backends.base backends.internal_links"
FAR_PLACE = f"{PLACE} arguments bodies header_text media ranges workers"
DISK = "backends.disk backends.disk_bytes backends.disk_folder"
NAMES = "_lazy backends.base backends.filesystem backends.internal_links backends.memory backends.azure"
NAMES += " backends.s3 backends.sftp"

# A module of ours: what it may import of ours; what it may import of others, beyond the standard library.
# A late import and an import for the type checker alone are imports too: they are knowledge.
MAY_IMPORT = {
    # Words.
    "_lazy": ("", ""),
    "errors": ("", ""),
    "values": ("", "arrow"),
    "signals": ("", "blinker"),
    "streams": ("values", ""),
    "arguments": ("errors paths", ""),
    "header_text": ("", ""),
    "media": ("values", ""),
    "workers": ("", ""),
    # Grammar: pure, no disk, no network, no Flask.
    "paths": ("errors", ""),
    "tokens": (WORDS, "jwt"),
    "files": (f"{WORDS} streams", ""),
    "wrapped_files": ("values files", ""),
    "uses": (f"{WORDS} uses", "redis sqlalchemy"),
    # Machinery.
    "parts": (f"{WORDS} files", ""),
    "bodies": ("errors", "urllib3"),
    "ranges": (f"{WORDS} files", ""),
    # The wall: what a place supplies, then the verbs that stand on it.
    "backends.hooks": (WALL, ""),
    "backends.transfers": (f"{WALL} backends.hooks", ""),
    "backends.linking": (f"{WALL} backends.hooks", ""),
    "backends.checked_parts": (f"{WORDS} parts", ""),
    "backends.base": (f"{WALL} backends.hooks backends.transfers backends.linking backends.checked_parts", ""),
    "backends.internal_links": (f"{WORDS} tokens backends.base", "flask"),
    # Places. None knows another.
    "backends.upload_notes": (f"{WORDS} parts paths", ""),
    "backends.memory": (f"{PLACE} wrapped_files", "arrow"),
    "backends.disk_bytes": ("", ""),
    "backends.disk_folder": ("errors paths", ""),
    "backends.disk": ("errors paths backends.disk_folder", ""),
    "backends.disk_file": (
        f"{WORDS} paths wrapped_files backends.disk backends.disk_bytes backends.disk_folder",
        "arrow",
    ),
    "backends.disk_parts": (
        f"{WORDS} paths parts backends.disk backends.disk_bytes backends.disk_folder backends.upload_notes",
        "",
    ),
    "backends.filesystem": (f"{PLACE} arguments {DISK} backends.disk_file backends.disk_parts", ""),
    "backends.azure": (f"{FAR_PLACE} backends.upload_notes backends.azure", "arrow azure requests urllib3"),
    "backends.s3": (f"{FAR_PLACE} backends.s3", "arrow boto3 botocore urllib3"),
    "backends.sftp": (f"{FAR_PLACE} backends.upload_notes backends.sftp", "arrow paramiko"),
    "backends": (f"{WORDS} files tokens {NAMES}", ""),
    "registry": ("errors arguments backends.base", ""),
    # Flask. None of these knows a place.
    "configuration": ("errors arguments", "flask werkzeug"),
    "headers": ("values media", "flask werkzeug"),
    "delivery": (f"{WORDS} files headers backends.base", "flask werkzeug"),
    "views": (f"{WORDS} tokens backends.base signals files headers delivery profiles", "flask werkzeug"),
    "profiles": (f"{WORDS} uses backends.base", "flask werkzeug"),
    "extension": (f"{WORDS} uses registry configuration profiles backends.base views cli", "flask werkzeug"),
    "operations": (f"{WORDS} paths streams backends.base profiles", "flask"),
    "cli": (f"{WORDS} backends.base profiles cli", "click flask"),
}
# These two show the whole house: one to those who use it, one to those who test against it.
OPEN_TO_ALL = {"", "testing"}
FOLDERS = ("backends.azure", "backends.s3", "backends.sftp", "cli", "testing", "uses")
# The grammar of paths is text; whoever asks the disk about a path asks in `backends.disk`.
NEVER = {"paths": {"os", "pathlib", "shutil"}}
# Not a package to install: names that only the type checker knows.
STANDARD = sys.stdlib_module_names | {"_typeshed"}


def _name(file):
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def _room(module):
    """The row that speaks for *module*: its own, except in the folders that are one room."""
    return next((room for room in FOLDERS if f"{module}.".startswith(f"{room}.")), module)


def _imports(module):
    """The names that *module* imports, in full: `flask_storage.errors`, `os`, `flask`."""
    file = MODULES[module]
    home = ["flask_storage", *module.split(".")] if module else ["flask_storage"]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = home[: len(home) - node.level + (file.name == "__init__.py")] if node.level else []
            source = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                below = f"{source}.{alias.name}"
                yield below if below.removeprefix("flask_storage.") in MODULES else source


def _fresh(code):
    """The top-level packages that a new interpreter has loaded after *code*."""
    show = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", show], check=True, stdout=-1, text=True).stdout.split())


def test_every_module_has_a_row():
    """Whoever adds a module says in the table above what it may know."""
    rooms = {_room(module) for module in MODULES}

    assert rooms == MAY_IMPORT.keys() | OPEN_TO_ALL


@pytest.mark.parametrize("module", [module for module in MODULES if _room(module) not in OPEN_TO_ALL])
def test_a_module_imports_only_what_its_row_allows(module):
    """A backend knows the wall and its SDK; Flask knows the wall and never a backend."""
    ours, others = (set(names.split()) for names in MAY_IMPORT[_room(module)])
    inside, outside = set(), set()

    for name in _imports(module):
        top, _, rest = name.partition(".")
        inside.add(_room(rest)) if top == "flask_storage" else outside.add(top)

    assert inside <= ours
    assert outside - STANDARD <= others
    assert not outside & NEVER.get(module, set())


def test_links_ask_flask_late_and_in_one_place():
    """A storage can be made, used and linked to without Flask: only an endpoint's address is asked of it."""
    tree = ast.parse(MODULES["backends.internal_links"].read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]

    def asks(node):
        return isinstance(node, ast.Import | ast.ImportFrom) and "flask" in {
            name.partition(".")[0]
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if not getattr(node, "level", 0)
        }

    imports = [node for node in ast.walk(tree) if asks(node)]
    homes = [function.name for function in functions for node in ast.walk(function) if asks(node)]

    assert homes == ["_build_url"]
    assert len(imports) == 1


def test_importing_the_package_loads_no_sdk():
    """An SDK is loaded by whoever configures its place, and costs nobody else anything."""
    loaded = _fresh("import flask_storage")

    assert "flask_storage" in loaded
    assert not loaded & SDKS


def test_the_extension_starts_without_arrow_and_jwt():
    """`from flask_storage import Storage` waits for Flask, not for what the first link or date will need."""
    loaded = _fresh("from flask_storage import Storage")

    assert "flask" in loaded
    assert not loaded & (SDKS | {"arrow", "jwt"})
