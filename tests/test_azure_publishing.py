"""A failed write to Azure leaves the old content, or no file, and no manifest."""

import pytest

from tests.azure_storages import leftovers, make_storage
from tests.interrupted_writes import WRAPPERS, interrupted_write_tests, unchanged_storage, write_until

pytest_plugins = ["tests.services.azurite"]

PART = 1 << 18


@pytest.fixture(scope="module")
def shared_storage(azurite):
    """A storage on Azurite."""
    storage = make_storage(azurite, chunk_size=PART, concurrency=2)
    yield storage
    storage.close()
    azurite.remove_container(storage.bucket)


@pytest.fixture
def storage(shared_storage):
    """The storage with one blob; after the test it must have only this blob and no manifest of an upload."""
    with unchanged_storage(shared_storage, leftovers):
        yield shared_storage


TestInterruptedWrites = interrupted_write_tests(PART, 60)


@pytest.mark.parametrize("arguments", [{"exclusive": True}, {"if_match": "0x1"}], ids=["exclusive", "if match"])
@pytest.mark.parametrize("size", [0, PART, PART + 1])
def test_an_error_in_a_conditional_write_publishes_nothing(storage, size, arguments):
    """The error of the body is raised; the condition is not evaluated."""
    for path in ("old.bin", "new.bin"):
        with pytest.raises(ZeroDivisionError), storage.open(path, "w", **arguments) as writer:
            write_until(size, ZeroDivisionError, writer, WRAPPERS["raw"], PART)
