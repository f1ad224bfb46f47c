"""The hypothesis state machine, run on the storages without a server."""

import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from flask_storage import LocalFSStorage, MemoryStorage
from flask_storage.testing import FailingStorage, StorageMachine

from .counts import count

# No deadline: a slow machine must not fail a test.
SETTINGS = settings(
    max_examples=count(40, 200),
    stateful_step_count=count(30, 50),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class _MemoryMachine(StorageMachine):
    def make_storage(self):
        return MemoryStorage()


class _WrappedMachine(StorageMachine):
    def make_storage(self):
        return FailingStorage(MemoryStorage())


class _LocalMachine(StorageMachine):
    fsync = False

    def make_storage(self):
        self.directory = tempfile.mkdtemp()
        return LocalFSStorage(self.directory, fsync=self.fsync, name="local")

    def teardown(self):
        super().teardown()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)


TestMemoryStateful = _MemoryMachine.TestCase
TestMemoryStateful.settings = SETTINGS
TestWrappedStateful = _WrappedMachine.TestCase
TestWrappedStateful.settings = SETTINGS
TestLocalStateful = _LocalMachine.TestCase
TestLocalStateful.settings = SETTINGS


class _LosesEmptyFiles(MemoryStorage):
    """A storage with a bug of keg-storage: an empty write does nothing."""

    def _store(self, path, data, *rest):
        if data:
            super()._store(path, data, *rest)


class _LosesEmptyFilesMachine(StorageMachine):
    def make_storage(self):
        return _LosesEmptyFiles()


def test_the_state_machine_detects_a_lost_write():
    """A storage that does not store empty files fails."""
    case: Any = _LosesEmptyFilesMachine.TestCase("runTest")
    case.settings = settings(SETTINGS, print_blob=False, database=None, derandomize=True, report_multiple_bugs=False)

    with pytest.raises(AssertionError):
        case.runTest()
