"""Trouble while writing to SFTP: wherever it comes, the old content stays or nothing appears, and nothing is left."""

import io
from contextlib import closing, nullcontext

import pytest

from flask_storage import IntegrityError, StorageUnavailableError
from flask_storage.backends.sftp.drafts import Drafts
from flask_storage.backends.sftp.protocol import ConnectionLostError
from tests.sftp_places import left_in, place
from tests.writing_trouble import (
    ERRORS,
    WRAPPERS,
    Source,
    break_promise,
    cases,
    unwrapped,
    write_in_a_generator,
    write_until,
)

pytest_plugins = ["tests.services.openssh"]

PART = 1 << 18
OLD = b"the old content"
BLOCK = bytes(PART)


@pytest.fixture(scope="module")
def ground(openssh):
    """A storage that writes through several sessions, in small parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", PART)
        patch.setattr("flask_storage.backends.sftp.writes.NEAR", 0)
        made = place(openssh)
        yield made
        made.close()


@pytest.fixture
def storage(ground):
    """The storage with one file in it, and afterwards too: no other, and nothing hidden."""
    ground.write("old.bin", OLD)
    yield ground
    assert ground.read("old.bin") == OLD
    assert [entry.name for entry in ground.list()] == ["old.bin"]
    assert not left_in(ground)


@pytest.mark.parametrize(("point", "wrapper", "error"), cases(PART, 60))
def test_trouble_publishes_nothing(storage, point, wrapper, error):
    """At every point about a part's end, in every wrapper, by every kind of exception."""
    for path in ("old.bin", "new/new.bin"):
        with pytest.raises(error), storage.open(path, "w") as writer:
            write_until(point, error, writer, WRAPPERS[wrapper], PART)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART + 1])
def test_trouble_in_the_source_of_an_upload_publishes_nothing(storage, size, error):
    """The exception comes through as it is."""
    for path in ("old.bin", "new.bin"):
        with pytest.raises(error):
            storage.upload(Source(error, size), path)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_trouble_in_a_progress_callback_publishes_nothing(storage, calls, error):
    """Even when all has been sent by then."""
    heard = []

    def callback(sent):
        heard.append(sent)
        if len(heard) == calls:
            raise error

    for path in ("old.bin", "new.bin"):
        heard.clear()
        with pytest.raises(error):
            storage.upload(io.BytesIO(bytes(2 * PART + 1)), path, progress_callback=callback)


@pytest.mark.parametrize("size", [0, PART - 1, PART, PART + 1])
@pytest.mark.parametrize("end", ["abort", "too little", "too much", "another checksum"])
def test_a_promise_that_is_not_kept_publishes_nothing(storage, size, end):
    """Less or more than was promised, or something else; and what is given up on purpose."""
    for path in ("old.bin", "new.bin"):
        with nullcontext() if end == "abort" else pytest.raises(IntegrityError):
            break_promise(storage, path, size, end)


def test_a_generator_that_is_closed_amid_a_write_publishes_nothing(storage):
    """As when a client goes away from a view that streams."""
    stream = write_in_a_generator(storage, "new.bin", PART)
    next(stream)
    next(stream)

    stream.close()


def test_trouble_while_a_file_is_edited_publishes_nothing(storage):
    """The copy that was being edited goes."""
    with pytest.raises(ZeroDivisionError), storage.open("old.bin", "rw") as file:
        write_until(PART, ZeroDivisionError, file, WRAPPERS["raw"], PART)


@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name != "raw"])
@pytest.mark.parametrize("size", [3, PART, PART + 1])
def test_a_clean_exit_publishes_through_every_wrapper(storage, wrapper, size):
    """The same wrappers, left without trouble, publish everything that they held back."""
    with storage.open("file.bin", "w") as writer, WRAPPERS[wrapper](writer) as wrapped:
        wrapped.write(BLOCK[: size - 1])
        wrapped.write(b"x")

    stored = storage.read("file.bin")
    storage.delete("file.bin")
    assert unwrapped(wrapper, stored) == BLOCK[: size - 1] + b"x"


# -- answers that never come ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["move", "copy"])
def test_what_may_have_been_done_is_not_done_twice(make_openssh, monkeypatch, verb):
    """The server goes away after it has given the new name, and before it could say so."""
    server = make_openssh()
    publish = Drafts.publish

    def published(*arguments):
        publish(*arguments)
        server.stop()
        raise ConnectionLostError("the server ended the connection")

    with closing(place(server)) as storage:
        storage.write("a/old.bin", OLD)
        monkeypatch.setattr(Drafts, "publish", published)
        with pytest.raises(StorageUnavailableError, match="may have been done, or not; look before you try again"):
            getattr(storage, verb)("a/old.bin", "b/new.bin", exclusive=True)
        server.start()
        assert storage.read("b/new.bin") == OLD
        assert storage.exists("a/old.bin") == (verb == "copy")
