"""Invented histories: every storage ends where a dictionary ends."""

import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from flask_storage import LocalFSStorage, MemoryStorage
from flask_storage.testing import FailingStorage, StorageMachine

from .counts import count

# The number of histories and of steps in each; no deadline, since a busy machine is no defect.
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


TestMemoryHistories = _MemoryMachine.TestCase
TestMemoryHistories.settings = SETTINGS
TestWrappedHistories = _WrappedMachine.TestCase
TestWrappedHistories.settings = SETTINGS
TestLocalHistories = _LocalMachine.TestCase
TestLocalHistories.settings = SETTINGS


class _ForgetfulStorage(MemoryStorage):
    """A storage with the predecessor's defect: an empty write does nothing."""

    def _store(self, path, data, *rest):
        if data:
            super()._store(path, data, *rest)


class _ForgetfulMachine(StorageMachine):
    def make_storage(self):
        return _ForgetfulStorage()


def test_a_storage_that_loses_a_write_is_found_out():
    """The machine does see divergences: a storage that ignores empty files does not get through."""
    case: Any = _ForgetfulMachine.TestCase("runTest")
    case.settings = settings(SETTINGS, print_blob=False, database=None, derandomize=True, report_multiple_bugs=False)

    with pytest.raises(AssertionError):
        case.runTest()
