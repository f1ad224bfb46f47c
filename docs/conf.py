import os
import re
import sys
from importlib.metadata import metadata

from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.nodes import make_refnode

_metadata = metadata("flask-storage-profiles")

project = "Flask-Storage-Profiles"
author = _metadata["Author"]
copyright = author  # noqa: A001 - Sphinx reads this name
version = release = _metadata["Version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False  # the sources hold blocks that only the tests read

copybutton_exclude = ".linenos, .gp, .go"  # copy commands and statements without prompts and output

if os.environ.get("READTHEDOCS"):
    # The inventories are fetched while building. Elsewhere the build must work without a network.
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "arrow": ("https://arrow.readthedocs.io/en/latest/", None),
        "click": ("https://click.palletsprojects.com/en/stable/", None),
        "flask": ("https://flask.palletsprojects.com/en/stable/", None),
        "paramiko": ("https://docs.paramiko.org/en/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "werkzeug": ("https://werkzeug.palletsprojects.com/en/stable/", None),
    }

myst_enable_extensions = ["colon_fence", "deflist", "smartquotes"]
myst_heading_anchors = 3

# In a docstring, `so` and ``so`` both mean code, as in the Markdown pages.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_preserve_defaults = True  # show 0o600 as it is written, and not as 384
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Names of other projects cannot be looked up without a network; `-n` checks the names of this one.
_OTHERS = sys.stdlib_module_names | {
    "arrow",
    "azure",
    "blinker",
    "click",
    "flask",
    "jwt",
    "paramiko",
    "sqlalchemy",
    "werkzeug",
}
_OTHERS |= {"_typeshed", "Mapping", "ReadableBuffer", "SansIOResponse", "WriteableBuffer"}

# Names of this package that signatures show and the reference does not describe.
_INTERNAL = {"BucketGateway", "ContainerGateway", "RootedTree", "T"}

_TEST_BLOCK = re.compile(r"^<!-- run\n.*?^-->$", re.MULTILINE | re.DOTALL)


def _remove_test_blocks(app, docname, source):
    """Take out what only the tests run; empty lines keep the line numbers of warnings right."""
    source[0] = _TEST_BLOCK.sub(lambda block: "\n" * block[0].count("\n"), source[0])


def _read_google_style(app, what, name, obj, options, lines):
    """Do as `sphinx.ext.napoleon`, except that an attribute's first sentence may hold a colon."""
    what = "" if what in {"attribute", "data", "property"} else what
    config = Config(napoleon_use_ivar=True)
    lines[:] = GoogleDocstring(lines, config, app, what, name, obj, options).lines()


def _show_constants(app, what, name, obj, options, signature, return_annotation):
    """Show the value of a default that the source gives by the name of a constant."""
    function = obj.__init__ if isinstance(obj, type) else obj
    constants = getattr(function, "__globals__", {})

    def value_of(match):
        value = constants.get(match[1])
        return f"= {value:_}" if isinstance(value, int) else match[0]

    return re.sub(r"= ([A-Z_]+)\b", value_of, signature or "") or None, return_annotation


def _skip_named_tuple_fields(app, what, name, obj, skip, options):
    """Leave out a named tuple's fields: the tuple's own docstring describes them."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def _resolve_by_last_name(app, env, node, content):
    """Resolve a name by the module that defines it, although it is documented under its public import path.

    `flask_storage.types.FileMode`, and `FileMode` in an annotation, both mean `flask_storage.FileMode`.
    """
    target = node.get("reftarget", "")
    segments = target.split(".")
    if segments[0] == "flask_storage":
        segments = [name for name in segments[:-1] if not name.islower()] + segments[-1:]
    suffix = "." + ".".join(segments)
    objects = env.domains["py"].objects
    found = [name for name in objects if name.endswith(suffix)]
    if len(found) > 1:  # an operation and a backend's own version of it: the interface describes it
        found = [name for name in found if name.startswith("flask_storage.StorageBackend.")]
    if len(found) == 1:
        entry = objects[found[0]]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, target)
    is_undocumented = segments[-1].startswith("_") or segments[-1] in _INTERNAL
    return content if is_undocumented or re.split(r"[.\[]", target)[0] in _OTHERS else None


def setup(app):
    """Connect the functions above."""
    app.connect("source-read", _remove_test_blocks)
    app.connect("autodoc-process-docstring", _read_google_style)
    app.connect("autodoc-process-signature", _show_constants)
    app.connect("autodoc-skip-member", _skip_named_tuple_fields)
    app.connect("missing-reference", _resolve_by_last_name)
