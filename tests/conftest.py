"""What every test may ask for: the fixtures that users get, and a storage of each kind."""

import os
import signal
import sys
import threading

import pytest

from tests.variants import is_selected

pytest_plugins = ["flask_storage.testing.fixtures"]


def _forget_coverage():
    """End the measuring of coverage in a forked child: another thread may have held its lock, for ever now."""
    sys.settrace(None)
    threading.settrace(None)


os.register_at_fork(after_in_child=_forget_coverage)


def pytest_configure(config):
    """Register the marker of `tests.variants`."""
    config.addinivalue_line("markers", "extra_variant: another variant of a service; runs with ./tests/run --all")


def pytest_collection_modifyitems(config, items):
    """Deselect, and count, what the default run leaves to ``./tests/run --all``."""
    left_out = [item for item in items if not is_selected(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if is_selected(item)]


@pytest.fixture(params=["memory", "local"])
def storage(request):
    """An empty storage, once in memory and once on local disk."""
    return request.getfixturevalue(f"{request.param}_storage")


@pytest.fixture
def in_bounded_time():
    """Fail a test that waits for ever, as opening a pipe does to which nobody writes."""

    def ring(*_):
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
