"""The storage that fails on request, and what is said when the testing extra is missing."""

import io
import os
import subprocess
import sys
import textwrap
from datetime import timedelta

import pytest
from flask import Flask

from flask_storage import (
    InvalidLinkError,
    LocalFSError,
    MemoryStorage,
    PartialFailureError,
    Storage,
    StorageUnavailableError,
    testing,
)
from flask_storage.files import RemoteFile
from flask_storage.testing import Call, FailingStorage
from flask_storage.types import LinkContext

HOUR = timedelta(hours=1)


@pytest.fixture
def failing(memory_storage):
    """A storage that fails on request."""
    return FailingStorage(memory_storage)


def _binding(profile="docs", **arguments):
    return LinkContext(
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
    failing.reset()

    assert not failing.exists("a.txt")


@pytest.mark.parametrize("after", [0, 1, 999])
def test_a_file_can_fail_in_its_middle(failing, after):
    """After so many bytes the write or the read fails; nothing half is published or returned."""
    failing.write("a.bin", b"old")
    failing.fail("write", after=after)

    with pytest.raises(StorageUnavailableError):
        failing.write("a.bin", bytes(1000))

    assert failing.read("a.bin") == b"old"
    failing.reset()
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
    failing.set_link_context(_binding())

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


def test_a_failing_disk_has_links_that_work(local_storage, tmp_path):
    """As a profile of an app it uploads, downloads and removes through the app's own link view, or fails there."""
    failing = FailingStorage(local_storage)
    app = Flask(__name__, instance_path=str(tmp_path / "instance"))
    app.config.update(TESTING=True, SECRET_KEY="s" * 32, STORAGE_EXTERNAL_URL="http://localhost")
    app.config["STORAGE_PROFILES"] = {"docs": failing}
    Storage(app)
    client = app.test_client()
    links = {word: failing.link_to("a.txt", word, HOUR) for word in ("upload", "download", "remove")}

    sent = client.put(links["upload"], data=b"hello")
    got = client.get(links["download"])
    failing.fail("open_reader")
    broken = client.get(links["download"])
    failing.fail("verify_link", error=InvalidLinkError("no"))
    refused = client.get(links["download"])
    removed = client.delete(links["remove"])

    assert (sent.status_code, got.status_code, got.data) == (200, 200, b"hello")
    assert (broken.status_code, refused.status_code, removed.status_code) == (503, 403, 200)
    assert Call("verify_link", None) in failing.calls
    assert local_storage.list() == []


def test_of_many_deletions_one_can_fail(failing):
    """The others are done, in the place's own way, and each is noted."""
    for path in ("a", "b", "c"):
        failing.write(path, b"1")
    failing.fail("delete", path="b")

    with pytest.raises(PartialFailureError) as caught:
        failing.delete_many(["a", "b", "c"])

    assert set(caught.value.errors) == {"b"}
    assert [entry.name for entry in failing.list()] == ["b"]
    assert [call for call in failing.calls if call.name == "delete"] == [Call("delete", path) for path in "abc"]


def test_a_failing_check_and_listing(failing):
    """The probe of the place and its listing with details can fail as well."""
    failing.write("d/a", b"1")
    failing.fail("check")
    failing.fail("list", path="d/")

    with pytest.raises(StorageUnavailableError, match="check"):
        failing.check()
    with pytest.raises(StorageUnavailableError, match="list"):
        list(failing.iter(prefix="d/", details=True))
    failing.check()

    assert [info.path for info in failing.iter(prefix="d/", details=True)] == ["d/a"]


def test_a_place_checks_itself_in_its_own_way():
    """A probe that is not the usual one is the place's own also when it is wrapped."""

    class _Probed(MemoryStorage):
        def _check(self):
            raise StorageUnavailableError("the service is away")

    with pytest.raises(StorageUnavailableError, match="away"):
        FailingStorage(_Probed()).check()


@pytest.mark.parametrize("wrapped", ["memory_storage", "local_storage"])
def test_transfers_fail_and_recover_in_their_middle(wrapped, request):
    """Also in the place's own way of taking and giving files; a failure that is not due yet loses no byte."""
    failing = FailingStorage(request.getfixturevalue(wrapped))
    content, target = bytes(range(256)) * 100, io.BytesIO()
    failing.fail("write", after=1000, on=2)
    failing.fail("read", after=1000, on=2)

    failing.upload(io.BytesIO(content), "a")
    failing.download("a", target)
    for verb in (lambda: failing.upload(io.BytesIO(b"-" * 2000), "a"), lambda: failing.download("a", io.BytesIO())):
        with pytest.raises(StorageUnavailableError):
            verb()

    assert target.getvalue() == failing.read("a") == content


def test_an_upload_can_fail_where_it_would_become_visible(failing):
    """What fails at the end publishes nothing; the place's own errors are told as such, and text as a mistake."""
    failing.fail("publish")
    failing.fail("discard", error=LocalFSError("nor can it be cleared away"))

    with pytest.raises(StorageUnavailableError, match="publish") as caught:
        failing.upload(io.BytesIO(b"1"), "a")
    failing.fail("write", after=0, on=2)
    failing.upload(io.BytesIO(b"2"), "b")
    with pytest.raises(TypeError, match="binary"):
        failing.upload(io.StringIO("text"), "c")

    assert caught.value.path == "a"
    assert [entry.name for entry in failing.list()] == ["b"]
    assert failing.multipart.limits == failing.inner.multipart.limits


def test_another_missing_module_is_not_blamed_on_the_extra(monkeypatch):
    """What is broken elsewhere is told as it is."""
    monkeypatch.setitem(sys.modules, "flask_storage.testing.failing", None)

    with pytest.raises(ModuleNotFoundError, match=r"flask_storage\.testing\.failing"):
        testing.__getattr__("FailingStorage")
