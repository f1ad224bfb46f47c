"""Trouble while writing to SFTP: wherever it comes, the old content stays or nothing appears, and nothing is left."""

from contextlib import closing

import pytest

from flask_storage import StorageUnavailableError
from flask_storage.backends.sftp.atomic_write import AtomicWrite
from flask_storage.backends.sftp.protocol import ConnectionLostError
from tests.sftp_storages import make_storage, temporary_files
from tests.writing_trouble import OLD, WRAPPERS, trouble_tests, unharmed, write_until

pytest_plugins = ["tests.services.openssh"]

PART = 1 << 18


@pytest.fixture(scope="module")
def ground(openssh):
    """A storage that writes through several sessions, in small parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", PART)
        patch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
        storage = make_storage(openssh)
        yield storage
        storage.close()


@pytest.fixture
def storage(ground):
    """The storage with one file in it, and afterwards too: no other, and nothing hidden."""
    with unharmed(ground, temporary_files):
        yield ground


TestTrouble = trouble_tests(PART, 60)


def test_trouble_while_a_file_is_edited_publishes_nothing(storage):
    """The copy that was being edited goes."""
    with pytest.raises(ZeroDivisionError), storage.open("old.bin", "rw") as file:
        write_until(PART, ZeroDivisionError, file, WRAPPERS["raw"], PART)


# -- responses that never come ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["move", "copy"])
def test_what_may_have_been_done_is_not_done_twice(make_openssh, monkeypatch, operation):
    """The server goes away after it has given the new name, and before it could say so."""
    server = make_openssh()
    publish = AtomicWrite.publish

    def published(*arguments):
        publish(*arguments)
        server.stop()
        raise ConnectionLostError("the server ended the connection")

    with closing(make_storage(server)) as storage:
        storage.write("a/old.bin", OLD)
        monkeypatch.setattr(AtomicWrite, "publish", published)
        with pytest.raises(StorageUnavailableError, match="may have been done, or not; look before you try again"):
            getattr(storage, operation)("a/old.bin", "b/new.bin", exclusive=True)
        server.start()
        assert storage.read("b/new.bin") == OLD
        assert storage.exists("a/old.bin") == (operation == "copy")
