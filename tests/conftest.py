"""Fixtures for all tests: the public ones, and `storage`, in memory and on local disk."""

import os
import signal
import sys
import threading

import pytest

from tests.variants import is_selected

pytest_plugins = ["flask_storage.testing.fixtures"]

# A plugin of some modules; the conftest of tests/sqlalchemy imports it too, perhaps earlier.
pytest.register_assert_rewrite("tests.services.postgres")


def _stop_coverage():
    """Stop measuring coverage in a forked child: a thread of the parent may have held its lock during the fork."""
    sys.settrace(None)
    threading.settrace(None)


os.register_at_fork(after_in_child=_stop_coverage)


def pytest_configure(config):
    """Register the marker of `tests.variants`."""
    config.addinivalue_line("markers", "extra_variant: another variant of a service; runs with ./tests/run --all")


def pytest_collection_modifyitems(config, items):
    """Deselect the tests that run only with ``./tests/run --all``."""
    deselected = [item for item in items if not is_selected(item)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if is_selected(item)]


@pytest.fixture(params=["memory", "local"])
def storage(request):
    """An empty storage, once in memory and once on local disk."""
    return request.getfixturevalue(f"{request.param}_storage")


@pytest.fixture
def in_bounded_time():
    """Fail a test that blocks for 60 seconds, as opening a pipe does that no process writes to."""

    def fail(*_):
        raise AssertionError("the test did not end within 60 seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
