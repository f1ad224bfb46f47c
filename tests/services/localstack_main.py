"""Starts LocalStack, also with Python 3.11 and 3.12, which are older than LocalStack requires.

The Python of LocalStack's own environment runs this module, which imports nothing of this project.
"""

import importlib
import importlib.machinery
import os
import re
import sys
import warnings

import typing_extensions

# The header of a generic class, as Python 3.12 has it: `class Name[Parameter](Base):`.
_GENERIC_CLASS = re.compile(r"^class (\w+)\[(\w+)\]\((\w+)\):$", re.MULTILINE)
_OLD_SYNTAX = "import typing; \\2 = typing.TypeVar('\\2')\nclass \\1(\\3, typing.Generic[\\2]):"


class _OlderSyntax(importlib.machinery.SourceFileLoader):
    """Loads the one module for S3 that Python 3.11 cannot parse: it has generic classes in the new syntax."""

    def source_to_code(self, data, path, **options):  # type: ignore[override]  # as in CPython
        """Compile the module with these classes in the old syntax."""
        if self.name == "localstack.services.stores":
            data = _GENERIC_CLASS.sub(_OLD_SYNTAX, data.decode("utf-8")).encode("utf-8")
        return super().source_to_code(data, path, **options)


def main():
    """Run LocalStack until it is stopped."""
    if not hasattr(warnings, "deprecated"):
        vars(warnings)["deprecated"] = typing_extensions.deprecated  # new in Python 3.13
    if sys.version_info < (3, 12):
        sources = (_OlderSyntax, importlib.machinery.SOURCE_SUFFIXES)
        binaries = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
        sys.path_hooks.insert(0, importlib.machinery.FileFinder.path_hook(binaries, sources))
        sys.path_importer_cache.clear()

    # LocalStack uses this secret for every unknown access key. Tests that search for a leaked secret need a unique one.
    constants = importlib.import_module("localstack.services.s3.constants")
    vars(constants)["DEFAULT_PRE_SIGNED_SECRET_ACCESS_KEY"] = os.environ["SECRET_KEY"]

    importlib.import_module("localstack.runtime.main").main()


if __name__ == "__main__":
    main()
