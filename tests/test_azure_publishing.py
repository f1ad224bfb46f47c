"""Trouble while writing to Azure: wherever it comes, the old content stays or nothing appears, and no note is left."""

import pytest

from tests.azure_places import left_in, place
from tests.writing_trouble import WRAPPERS, trouble_tests, unharmed, write_until

pytest_plugins = ["tests.services.azurite"]

PART = 1 << 18


@pytest.fixture(scope="module")
def ground(azurite):
    """A storage on Azurite."""
    made = place(azurite, chunk_size=PART, concurrency=2)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


@pytest.fixture
def storage(ground):
    """The storage with one blob in it, and afterwards too: no other, and no note of an upload."""
    with unharmed(ground, left_in):
        yield ground


TestTrouble = trouble_tests(PART, 60)


@pytest.mark.parametrize("arguments", [{"exclusive": True}, {"if_match": "0x1"}], ids=["exclusive", "if match"])
@pytest.mark.parametrize("size", [0, PART, PART + 1])
def test_trouble_in_a_write_with_a_condition_publishes_nothing(storage, size, arguments):
    """It is the trouble that comes out: the condition was never asked about."""
    for path in ("old.bin", "new.bin"):
        with pytest.raises(ZeroDivisionError), storage.open(path, "w", **arguments) as writer:
            write_until(size, ZeroDivisionError, writer, WRAPPERS["raw"], PART)
