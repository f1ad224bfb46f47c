"""The storage that fails on request, and what is said when the testing extra is missing."""

import os
import subprocess
import sys
import textwrap
from datetime import timedelta

import pytest

from flask_storage import LocalFSError, StorageUnavailableError
from flask_storage.files import RemoteFile
from flask_storage.testing import Call, FailingStorage
from flask_storage.values import LinkBinding


@pytest.fixture
def failing(memory_storage):
    """A storage that fails on request."""
    return FailingStorage(memory_storage)


def _binding(profile="docs", **arguments):
    return LinkBinding(
        profile=profile, secrets=lambda: (b"s" * 32,), link_url=lambda token, endpoint: f"/{token}", **arguments
    )


def test_a_failing_storage_notes_what_was_asked(failing):
    """The calls come in order, each with its path, so that a test can say what must not have happened."""
    failing.write("a.txt", b"1")
    failing.exists("a.txt")

    assert failing.calls == [
        Call("open_writer", "a.txt"),
        Call("write", "a.txt"),
        Call("publish", "a.txt"),
        Call("stat", "a.txt"),
    ]


def test_the_nth_call_fails_as_often_as_asked(failing):
    """Counting begins with the request, and ends after so many failures."""
    failing.write("a.txt", b"1")
    failing.fail("stat", on=2, times=2)

    outcomes = []
    for _ in range(5):
        try:
            outcomes.append(failing.exists("a.txt"))
        except StorageUnavailableError:
            outcomes.append("failed")

    assert outcomes == [True, "failed", "failed", True, True]


def test_a_failure_can_last_and_be_healed(failing):
    """With `times=None` every call fails until the storage is healed."""
    failing.fail("stat", times=None)

    for _ in range(3):
        with pytest.raises(StorageUnavailableError, match="made to fail at stat"):
            failing.exists("a.txt")
    failing.heal()

    assert not failing.exists("a.txt")


@pytest.mark.parametrize("after", [0, 1, 999])
def test_a_file_can_fail_in_its_middle(failing, after):
    """After so many bytes the write or the read fails; nothing half is published or returned."""
    failing.write("a.bin", b"old")
    failing.fail("write", after=after)

    with pytest.raises(StorageUnavailableError):
        failing.write("a.bin", bytes(1000))

    assert failing.read("a.bin") == b"old"
    failing.heal()
    failing.write("a.bin", bytes(1000))
    failing.fail("read", after=after)
    with pytest.raises(StorageUnavailableError), failing.open("a.bin", "r") as reader:
        list(reader.iter_chunks(1000))


@pytest.mark.parametrize("amount", [10, 1000])
def test_a_limit_that_is_not_reached_does_nothing(failing, amount):
    """Exactly so many bytes do pass."""
    failing.fail("write", after=1000)
    failing.fail("read", after=1000)

    failing.write("a.bin", bytes(amount))

    assert failing.read("a.bin") == bytes(amount)


def test_only_the_named_path_fails(failing):
    """A failure can be meant for one file alone."""
    failing.fail("write", path="a.txt")

    failing.write("b.txt", b"1")
    with pytest.raises(StorageUnavailableError):
        failing.write("a.txt", b"1")

    assert [entry.name for entry in failing.list()] == ["b.txt"]


def test_a_failure_must_be_possible(failing):
    """A call that does not exist, or cannot fail so, is a mistake in the test."""
    with pytest.raises(ValueError, match="no call is named"):
        failing.fail("teleport")
    with pytest.raises(ValueError, match="number of bytes"):
        failing.fail("stat", after=1)


def test_a_wrapped_storage_offers_what_it_wraps(failing, local_storage):
    """Links, attributes of the place and local paths are reached through the wrapper."""
    wrapped = FailingStorage(local_storage)
    failing.bind_links(_binding())

    token = failing.link_to("a.txt", "d", timedelta(hours=1)).removeprefix("/")
    failing.fail("link_to", error=LocalFSError("no"))

    assert failing.deserialize_link_token(token)[0] == "a.txt"
    with pytest.raises(LocalFSError):
        failing.link_to("a.txt", "d", timedelta(hours=1))
    assert wrapped.root == local_storage.root
    assert wrapped.local_path("a.txt") == local_storage.root / "a.txt"
    with pytest.raises(AttributeError):
        wrapped.nothing_of_that_name  # noqa: B018 - asking is the act
    with pytest.raises(AttributeError):
        wrapped._nothing  # noqa: B018 - asking is the act


def test_a_discarded_write_is_noted(failing):
    """A test can see that an app cleared up after its trouble."""
    failing.fail("write", after=1)

    with pytest.raises(StorageUnavailableError):
        failing.write("a.bin", b"123")

    assert failing.calls[-1] == Call("discard", "a.bin")
    assert failing.sweep(timedelta(0)) == 0


def test_a_reader_of_a_wrapped_storage_has_a_descriptor(local_storage):
    """Where the file underneath has one."""
    storage = FailingStorage(local_storage)
    storage.write("a.bin", b"1")

    with storage.open("a.bin", "r") as reader:
        assert isinstance(reader, RemoteFile)
        assert os.fstat(reader.fileno()).st_size == 1


def test_the_testing_extra_is_named_when_it_is_missing():
    """Without pytest or hypothesis the import says what to install; what needs neither still works."""
    program = """
        import sys
        sys.modules["pytest"] = sys.modules["hypothesis"] = None
        import flask_storage.testing as testing
        for name in ("BackendConformance", "StorageMachine", "FailingStorage", "nothing_of_that_name"):
            try:
                print(getattr(testing, name).__name__)
            except (ImportError, AttributeError) as error:
                print(type(error).__name__, error)
        """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=-1, stderr=-1, text=True, check=False
    )

    hint = "needs pytest: pip install 'flask-storage-profiles[testing]'"
    assert done.stdout.splitlines() == [
        f"ImportError flask_storage.testing.BackendConformance {hint}",
        f"ImportError flask_storage.testing.StorageMachine {hint}",
        "FailingStorage",
        "AttributeError module 'flask_storage.testing' has no attribute 'nothing_of_that_name'",
    ], done.stderr
