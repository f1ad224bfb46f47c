"""Writes to SFTP that fail: the old file stays, or no file appears, and no temporary file is left."""

from contextlib import closing

import pytest

from flask_storage import StorageUnavailableError
from flask_storage.backends.sftp.atomic_write import AtomicWrite
from flask_storage.backends.sftp.protocol import ConnectionLostError
from tests.interrupted_writes import OLD, WRAPPERS, interrupted_write_tests, unchanged_storage, write_until
from tests.sftp_storages import make_storage, temporary_files

pytest_plugins = ["tests.services.openssh"]

PART = 1 << 18


@pytest.fixture(scope="module")
def shared_storage(openssh):
    """A storage that writes in several sessions, in small parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", PART)
        patch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
        storage = make_storage(openssh)
        yield storage
        storage.close()


@pytest.fixture
def storage(shared_storage):
    """A storage with one file; after the test, it has no other file and no temporary file."""
    with unchanged_storage(shared_storage, temporary_files):
        yield shared_storage


TestInterruptedWrites = interrupted_write_tests(PART, 60)


def test_an_update_that_fails_publishes_nothing(storage):
    """Its temporary copy is deleted."""
    with pytest.raises(ZeroDivisionError), storage.open("old.bin", "rw") as file:
        write_until(PART, ZeroDivisionError, file, WRAPPERS["raw"], PART)


# -- lost responses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["move", "copy"])
def test_an_operation_with_an_unknown_outcome_is_not_retried(make_openssh, monkeypatch, operation):
    """The server is stopped after the rename, and before its response."""
    server = make_openssh()
    publish = AtomicWrite.publish

    def publish_and_stop(*arguments):
        publish(*arguments)
        server.stop()
        raise ConnectionLostError("the server closed the connection")

    with closing(make_storage(server)) as storage:
        storage.write("a/old.bin", OLD)
        monkeypatch.setattr(AtomicWrite, "publish", publish_and_stop)
        with pytest.raises(
            StorageUnavailableError, match="may or may not have been carried out: check before you try again"
        ):
            getattr(storage, operation)("a/old.bin", "b/new.bin", exclusive=True)
        server.start()
        assert storage.read("b/new.bin") == OLD
        assert storage.exists("a/old.bin") == (operation == "copy")
