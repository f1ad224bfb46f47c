"""What you test with: a conformance suite for backends, a storage that fails on request, pytest fixtures.

Needs the extra ``testing`` (pytest and hypothesis)::

    pip install 'flask-storage-profiles[testing]'

* :class:`BackendConformance`: subclass it, make your storage, and pytest asks it everything that the wall promises.
* :class:`StorageMachine`: hypothesis invents histories and compares your storage with a plain dictionary.
* :class:`FailingStorage`: any storage, with chosen calls made to fail.
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

_TESTERS = ("hypothesis", "pytest")
_ASSERTING = ("BackendConformance", "StorageMachine", "conformance", "stateful")
_SUITES = (f"{__name__}.conformance", f"{__name__}.stateful")


def __getattr__(name: str) -> Any:
    try:
        if name in _ASSERTING:
            import pytest

            # Without this a failing assertion of ours would show two names and none of their values.
            pytest.register_assert_rewrite(*(module for module in _SUITES if module not in sys.modules))
        return _load(name)
    except ModuleNotFoundError as error:
        if error.name in _TESTERS:
            raise ImportError(
                f"flask_storage.testing.{name} needs {error.name}: pip install 'flask-storage-profiles[testing]'"
            ) from error
        raise
