import re
import sys
from importlib.metadata import metadata

from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.nodes import make_refnode

_about = metadata("flask-storage-profiles")

project = "Flask-Storage-Profiles"
author = _about["Author"]
copyright = author  # noqa: A001 - Sphinx reads this name
version = release = _about["Version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"{project} {release}"

myst_enable_extensions = ["colon_fence", "deflist", "smartquotes"]
myst_heading_anchors = 3

# In a docstring, `so` and ``so`` both mean code, as in the Markdown pages.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Names of other projects cannot be looked up without the network; `-n` checks those of ours.
_OTHERS = sys.stdlib_module_names | {"arrow", "azure", "blinker", "click", "flask", "jwt", "paramiko", "werkzeug"}
_OTHERS |= {"_typeshed", "Mapping", "ReadableBuffer", "SansIOResponse", "WriteableBuffer"}


def _read_google_style(app, what, name, obj, options, lines):
    """Do as `sphinx.ext.napoleon`, except that an attribute's first sentence may hold a colon."""
    what = "" if what in {"attribute", "data", "property"} else what
    config = Config(napoleon_use_ivar=True)
    lines[:] = GoogleDocstring(lines, config, app, what, name, obj, options).lines()


def _skip_unsaid(app, what, name, obj, skip, options):
    """Leave out a named tuple's fields: what they are stands with the tuple, not in Python's own words."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def _find_by_last_name(app, env, node, content):
    """Resolve `flask_storage.FileMode`, and `FileMode` in an annotation, to the place that describes it."""
    target = node.get("reftarget", "").removeprefix("flask_storage.")
    objects = env.domains["py"].objects.items()
    places = {(place.docname, place.node_id) for name, place in objects if name.endswith(f".{target}")}
    if len(places) == 1:
        return make_refnode(app.builder, node["refdoc"], *places.pop(), content, target)
    private = target.rpartition(".")[2].startswith("_")
    return content if private or re.split(r"[.\[]", target)[0] in _OTHERS else None


def setup(app):
    """Tell Sphinx of the three functions above."""
    app.connect("autodoc-process-docstring", _read_google_style)
    app.connect("autodoc-skip-member", _skip_unsaid)
    app.connect("missing-reference", _find_by_last_name)
