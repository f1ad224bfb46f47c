"""Tools for tests: a conformance suite for backends, a storage that fails on request, pytest fixtures.

Needs the extra ``testing`` (pytest and hypothesis)::

    pip install 'flask-storage-profiles[testing]'

* :class:`BackendConformance`: a test for every guarantee of the storage interface; subclass it for your storage.
* :class:`StorageMachine`: a hypothesis state machine that compares your storage with a dictionary.
* :class:`FailingStorage`: wraps any storage and makes chosen calls fail.
* ``pytest_plugins = ["flask_storage.testing.fixtures"]``: fixtures for the tests of an app.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .._lazy import lazy_exports

if TYPE_CHECKING:
    from .conformance import BackendConformance as BackendConformance
    from .failing import Call as Call, FailingStorage as FailingStorage
    from .stateful import StorageMachine as StorageMachine

__all__, _load = lazy_exports(
    __name__,
    {
        "testing.conformance": "BackendConformance",
        "testing.failing": "Call FailingStorage",
        "testing.fixtures": "",
        "testing.stateful": "StorageMachine",
    },
)

_TEST_PACKAGES = ("hypothesis", "pytest")
_NAMES_WITH_ASSERTIONS = ("BackendConformance", "StorageMachine", "conformance", "stateful")
_MODULES_WITH_ASSERTIONS = (f"{__name__}.conformance", f"{__name__}.stateful")


def __getattr__(name: str) -> Any:
    try:
        if name in _NAMES_WITH_ASSERTIONS:
            import pytest

            # Without this a failing assertion of the suite would show no values.
            pytest.register_assert_rewrite(
                *(module for module in _MODULES_WITH_ASSERTIONS if module not in sys.modules)
            )
        return _load(name)
    except ModuleNotFoundError as error:
        if error.name in _TEST_PACKAGES:
            raise ImportError(
                f"flask_storage.testing.{name} needs {error.name}: pip install 'flask-storage-profiles[testing]'"
            ) from error
        raise
