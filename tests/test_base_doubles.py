"""The storage that fails on request, and the error when the testing extra is missing."""

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


def _link_context(profile="docs", **arguments):
    return LinkContext(
        profile=profile, secrets=lambda: (b"s" * 32,), link_url=lambda token, endpoint: f"/{token}", **arguments
    )


def test_calls_are_recorded(failing):
    """`calls` has every call in order, with its path, so that a test can assert what did not happen."""
    failing.write("a.txt", b"1")
    failing.exists("a.txt")

    assert failing.calls == [
        Call("open_writer", "a.txt"),
        Call("write", "a.txt"),
        Call("publish", "a.txt"),
        Call("stat", "a.txt"),
    ]


def test_the_nth_call_fails_the_requested_number_of_times(failing):
    """`on` counts calls from the request on; `times` limits the failures."""
    failing.write("a.txt", b"1")
    failing.fail("stat", on=2, times=2)

    outcomes = []
    for _ in range(5):
        try:
            outcomes.append(failing.exists("a.txt"))
        except StorageUnavailableError:
            outcomes.append("failed")

    assert outcomes == [True, "failed", "failed", True, True]


def test_a_permanent_failure_can_be_reset(failing):
    """With `times=None` every call fails until `reset`."""
    failing.fail("stat", times=None)

    for _ in range(3):
        with pytest.raises(StorageUnavailableError, match="made to fail at stat"):
            failing.exists("a.txt")
    failing.reset()

    assert not failing.exists("a.txt")


@pytest.mark.parametrize("after", [0, 1, 999])
def test_a_transfer_can_fail_after_a_number_of_bytes(failing, after):
    """After `after` bytes the write or the read fails; no partial content is published or returned."""
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
def test_a_byte_limit_that_is_not_exceeded_has_no_effect(failing, amount):
    """A transfer of exactly `after` bytes succeeds."""
    failing.fail("write", after=1000)
    failing.fail("read", after=1000)

    failing.write("a.bin", bytes(amount))

    assert failing.read("a.bin") == bytes(amount)


def test_a_failure_can_be_limited_to_one_path(failing):
    """Calls with other paths succeed."""
    failing.fail("write", path="a.txt")

    failing.write("b.txt", b"1")
    with pytest.raises(StorageUnavailableError):
        failing.write("a.txt", b"1")

    assert [entry.name for entry in failing.list()] == ["b.txt"]


def test_an_impossible_failure_is_refused(failing):
    """An unknown call, or a byte limit for a call without bytes, is a ValueError."""
    with pytest.raises(ValueError, match="no call is named"):
        failing.fail("teleport")
    with pytest.raises(ValueError, match="number of bytes"):
        failing.fail("stat", after=1)


def test_attributes_of_the_inner_storage_are_forwarded(failing, local_storage):
    """Links, local paths and attributes of the backend work through the wrapper."""
    wrapped = FailingStorage(local_storage)
    failing.set_link_context(_link_context())

    token = failing.link_to("a.txt", "d", timedelta(hours=1)).removeprefix("/")
    failing.fail("link_to", error=LocalFSError("no"))

    assert failing.deserialize_link_token(token)[0] == "a.txt"
    with pytest.raises(LocalFSError):
        failing.link_to("a.txt", "d", timedelta(hours=1))
    assert wrapped.root == local_storage.root
    assert wrapped.local_path("a.txt") == local_storage.root / "a.txt"
    with pytest.raises(AttributeError):
        wrapped.no_such_name  # noqa: B018 - the access is the test
    with pytest.raises(AttributeError):
        wrapped._no_such_name  # noqa: B018 - the access is the test


def test_a_discarded_write_is_recorded(failing):
    """A test can assert that a failed write was discarded."""
    failing.fail("write", after=1)

    with pytest.raises(StorageUnavailableError):
        failing.write("a.bin", b"123")

    assert failing.calls[-1] == Call("discard", "a.bin")
    assert failing.sweep(timedelta(0)) == 0


def test_a_reader_of_a_wrapped_local_storage_has_a_descriptor(local_storage):
    """`fileno` is forwarded to the inner file."""
    storage = FailingStorage(local_storage)
    storage.write("a.bin", b"1")

    with storage.open("a.bin", "r") as reader:
        assert isinstance(reader, RemoteFile)
        assert os.fstat(reader.fileno()).st_size == 1


def test_a_missing_testing_extra_is_named():
    """Without pytest the import error says what to install; names that do not need it still work."""
    program = """
        import sys
        sys.modules["pytest"] = sys.modules["hypothesis"] = None
        import flask_storage.testing as testing
        for name in ("BackendConformance", "StorageMachine", "FailingStorage", "no_such_name"):
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
        "AttributeError module 'flask_storage.testing' has no attribute 'no_such_name'",
    ], done.stderr


def test_links_of_a_wrapped_storage_work_in_an_app(local_storage, tmp_path):
    """As a profile of an app it uploads, downloads and removes through the link view, or fails there."""
    failing = FailingStorage(local_storage)
    app = Flask(__name__, instance_path=str(tmp_path / "instance"))
    app.config.update(TESTING=True, SECRET_KEY="s" * 32, STORAGE_EXTERNAL_URL="http://localhost")
    app.config["STORAGE_PROFILES"] = {"docs": failing}
    Storage(app)
    client = app.test_client()
    links = {name: failing.link_to("a.txt", name, HOUR) for name in ("upload", "download", "remove")}

    uploaded = client.put(links["upload"], data=b"hello")
    downloaded = client.get(links["download"])
    failing.fail("open_reader")
    unavailable = client.get(links["download"])
    failing.fail("verify_link", error=InvalidLinkError("no"))
    refused = client.get(links["download"])
    removed = client.delete(links["remove"])

    assert (uploaded.status_code, downloaded.status_code, downloaded.data) == (200, 200, b"hello")
    assert (unavailable.status_code, refused.status_code, removed.status_code) == (503, 403, 200)
    assert Call("verify_link", None) in failing.calls
    assert local_storage.list() == []


def test_one_of_many_deletions_can_fail(failing):
    """The other files are deleted by the inner storage, and each deletion is recorded."""
    for path in ("a", "b", "c"):
        failing.write(path, b"1")
    failing.fail("delete", path="b")

    with pytest.raises(PartialFailureError) as caught:
        failing.delete_many(["a", "b", "c"])

    assert set(caught.value.errors) == {"b"}
    assert [entry.name for entry in failing.list()] == ["b"]
    assert [call for call in failing.calls if call.name == "delete"] == [Call("delete", path) for path in "abc"]


def test_check_and_listings_can_fail(failing):
    """`check` and a listing with details can be made to fail."""
    failing.write("d/a", b"1")
    failing.fail("check")
    failing.fail("list", path="d/")

    with pytest.raises(StorageUnavailableError, match="check"):
        failing.check()
    with pytest.raises(StorageUnavailableError, match="list"):
        list(failing.iter(prefix="d/", details=True))
    failing.check()

    assert [info.path for info in failing.iter(prefix="d/", details=True)] == ["d/a"]


def test_an_overridden_check_is_used_when_wrapped():
    """If the backend overrides `_check`, the wrapper calls that method."""

    class _WithOwnCheck(MemoryStorage):
        def _check(self):
            raise StorageUnavailableError("the service is unavailable")

    with pytest.raises(StorageUnavailableError, match="unavailable"):
        FailingStorage(_WithOwnCheck()).check()


@pytest.mark.parametrize("wrapped", ["memory_storage", "local_storage"])
def test_the_second_transfer_over_a_limit_can_fail(wrapped, request):
    """Also for a backend with its own transfer methods; the first transfer loses no byte."""
    failing = FailingStorage(request.getfixturevalue(wrapped))
    content, target = bytes(range(256)) * 100, io.BytesIO()
    failing.fail("write", after=1000, on=2)
    failing.fail("read", after=1000, on=2)

    failing.upload(io.BytesIO(content), "a")
    failing.download("a", target)
    for transfer in (lambda: failing.upload(io.BytesIO(b"-" * 2000), "a"), lambda: failing.download("a", io.BytesIO())):
        with pytest.raises(StorageUnavailableError):
            transfer()

    assert target.getvalue() == failing.read("a") == content


def test_an_upload_can_fail_when_it_is_published(failing):
    """A failure of "publish" publishes nothing; a failing "discard" does not hide it; text is a TypeError."""
    failing.fail("publish")
    failing.fail("discard", error=LocalFSError("cannot remove the temporary file"))

    with pytest.raises(StorageUnavailableError, match="publish") as caught:
        failing.upload(io.BytesIO(b"1"), "a")
    failing.fail("write", after=0, on=2)
    failing.upload(io.BytesIO(b"2"), "b")
    with pytest.raises(TypeError, match="binary"):
        failing.upload(io.StringIO("text"), "c")

    assert caught.value.path == "a"
    assert [entry.name for entry in failing.list()] == ["b"]
    assert failing.multipart.limits == failing.inner.multipart.limits


def test_another_missing_module_is_reported_unchanged(monkeypatch):
    """The error for a missing extra is raised only for its own packages."""
    monkeypatch.setitem(sys.modules, "flask_storage.testing.failing", None)

    with pytest.raises(ModuleNotFoundError, match=r"flask_storage\.testing\.failing"):
        testing.__getattr__("FailingStorage")
