"""Open files on SFTP: responses that are short or late, ends that come early, and files that a fork inherits."""

import dataclasses
import gc
import io
import os
import random
import threading
import warnings
import weakref
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import paramiko
import pytest

from flask_storage import (
    IntegrityError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnavailableError,
    signals,
)
from flask_storage.backends.sftp import copy as copy_module
from flask_storage.backends.sftp.atomic_write import HARDLINK, AtomicWrite
from flask_storage.backends.sftp.protocol import (
    FAILURE,
    FSTAT,
    FXF_WRITE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    REALPATH,
    REMOVE,
    WRITE,
    ConnectionLostError,
    PendingReply,
    Session,
    StatusError,
)
from flask_storage.backends.sftp.remote_tree import RemoteTree
from flask_storage.backends.sftp.upload import SFTPUpload, _UploadSession
from flask_storage.streams import copy_chunks
from tests.scripted_sftp import RoundTrips
from tests.sftp_storages import backdate, make_storage, pooled_session, temporary_files, wait_until

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

KIB = 1024
CONTENT = random.Random(4).randbytes(300 * KIB)


@pytest.fixture(params=["openssh", "plain_sftp"])
def storage(request):
    """A storage with one file, on a server that copies and on one that does not."""
    storage = make_storage(request.getfixturevalue(request.param))
    storage.write("a.bin", CONTENT)
    yield storage
    storage.close()


@pytest.fixture
def openssh_storage(openssh):
    """A storage with one file on OpenSSH, and where it is on this machine."""
    storage = make_storage(openssh)
    storage.write("a.bin", CONTENT)
    yield storage, openssh.folder / storage.root
    storage.close()


@pytest.fixture
def stingy(monkeypatch):
    """Has servers give less than they were asked for, as they may."""
    read = Session.read
    monkeypatch.setattr(Session, "read", lambda self, handle, offset, to: read(self, handle, offset, to[: 7 * KIB]))


# -- what comes is short ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stingy")
def test_answers_that_are_short_are_followed_up(storage):
    """Nothing is missing, however the file is read."""
    with storage.open("a.bin", "r") as reader:
        whole = reader.read()
    with storage.open("a.bin", "rw") as both:
        edited = both.read(200 * KIB)
    storage.copy("a.bin", "b.bin")

    assert whole == CONTENT
    assert edited == CONTENT[: 200 * KIB]
    assert storage.read("b.bin") == CONTENT


def test_a_connection_that_ends_after_half_an_answer_is_taken_up(storage, monkeypatch):
    """The range is asked for anew, of the same version."""
    wait = Session.wait
    broken: list[Session] = []

    def waited(session, pending):
        response = wait(session, pending)
        if type(response) is int and not broken:
            broken.append(session)
            session.close()
            return response // 2
        return response

    backdate(storage, "a.bin")
    with storage.open("a.bin", "r") as reader:
        monkeypatch.setattr(Session, "wait", waited)
        assert reader.read() == CONTENT
    assert len(broken) == 1


def test_a_new_file_is_not_read_on_where_another_version_may_look_alike(storage, monkeypatch):
    """SFTP tells times in whole seconds; who can begin anew, does."""
    monkeypatch.setattr("flask_storage.backends.sftp.files._MTIME_MARGIN", 3600)  # the machine may be slow
    storage.write("b.bin", CONTENT)
    with storage.open("b.bin", "r") as reader:
        reader.read(10)
        reader._source._session.close()
        with pytest.raises(PreconditionFailedError, match="may have been replaced while it was read"):
            reader.read()

    assert storage.read("b.bin") == CONTENT


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_file_that_is_cut_off_while_it_is_read_is_told(openssh_storage, mode):
    """By somebody else on the server; nobody takes it for the end."""
    storage, root = openssh_storage
    with storage.open("a.bin", mode) as reader:
        [cut] = [name for name in os.listdir(root) if (name == "a.bin") == (mode == "r")]
        os.truncate(root / cut, 100 * KIB)
        with pytest.raises(IntegrityError, match="where more was promised"):
            reader.read()
        reader.abort()


def test_a_file_that_is_cut_off_while_it_is_copied_is_told(storage, monkeypatch):
    """Where the bytes come by here."""
    monkeypatch.setattr(copy_module, "COPY_DATA", b"no such thing")
    opened = storage._tree.open_file

    def longer(*arguments):
        handle, about, head = opened(*arguments)
        return handle, type(about)(about.size + 1, about.mode, about.mtime), head

    monkeypatch.setattr(storage._tree, "open_file", longer)
    for operation in (lambda: storage.copy("a.bin", "b.bin"), lambda: storage.open("a.bin", "rw")):
        with pytest.raises(IntegrityError, match="where more was promised"):
            operation()

    assert [entry.name for entry in storage.list()] == ["a.bin"]
    assert temporary_files(storage) == []


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_read_that_fails_is_told(storage, mode):
    """As of a disk that has gone bad: here of a handle that is none any more."""
    with storage.open("a.bin", mode) as reader:
        holder = reader._source if mode == "r" else reader
        session = holder._session
        storage._tree.close_handle(session, holder._handle)
        with pytest.raises(StorageError, match="the server"):
            reader.read()
        holder._handle = session.wait(session.open(storage._tree.remote_path(session, "a.bin"), 1))
        reader.abort()


def test_a_copy_for_which_there_is_no_room_is_told(openssh_storage, monkeypatch):
    """Also when the server says so while more of it is asked for."""
    storage, root = openssh_storage
    monkeypatch.setattr(copy_module, "_COPY_DATA_SIZE", 100 * KIB)
    ask = Session.extended

    def extended(session, name, *fields):
        pending = ask(session, name, *fields)
        if name == copy_module.COPY_DATA:
            session.wait(pending)
            pending.error = StatusError(FAILURE, "Failure")
        return pending

    monkeypatch.setattr(Session, "extended", extended)
    monkeypatch.setattr(copy_module, "write_error", lambda *_: StorageFullError("full"))
    with pytest.raises(StorageFullError):
        storage.copy("a.bin", "b.bin")

    assert os.listdir(root) == ["a.bin"]


# -- files that are read and written ----------------------------------------------------------------------------------


def test_there_is_nothing_before_the_first_byte(storage):
    """Positions are counted from the beginning, from the end and from here."""
    with storage.open("a.bin", "rw") as both:
        assert both.seekable()
        with pytest.raises(ValueError, match="no byte at position -1"):
            both.seek(-1)
        assert (both.seek(-5, io.SEEK_END), both.tell()) == (len(CONTENT) - 5, len(CONTENT) - 5)
        assert both.read() == CONTENT[-5:]
        both.abort()


def test_an_edit_whose_connection_ends_at_its_beginning_begins_anew(openssh_storage, monkeypatch):
    """Nothing has been promised yet. What the first attempt had made is left to the sweep."""
    storage, _ = openssh_storage
    copy, tried = copy_module.copy_bytes, []

    def copied(session, *arguments):
        tried.append(session)
        if len(tried) == 1:
            session.close()
        copy(session, *arguments)

    monkeypatch.setattr("flask_storage.backends.sftp.files.copy_bytes", copied)
    with storage.open("a.bin", "rw") as both:
        both.write(b"new")

    assert len(tried) == 2
    assert storage.read("a.bin") == b"new" + CONTENT[3:]
    assert storage.sweep(timedelta(0)) == 1


def test_an_edit_whose_end_is_not_answered_may_have_been_published(openssh_storage, monkeypatch):
    """The error says so."""
    storage, _ = openssh_storage
    finish = AtomicWrite.commit

    def unheard(atomic_write, session, *arguments, **more):
        finish(atomic_write, session, *arguments, **more)
        session.close()
        raise ConnectionLostError("cut")

    both = storage.open("a.bin", "rw")
    both.write(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(AtomicWrite, "commit", unheard)
        with pytest.raises(StorageUnavailableError, match="it may have been done, or not"):
            both.close()

    assert storage.read("a.bin") == b"new" + CONTENT[3:]


def test_an_edit_whose_connection_ended_leaves_nothing(openssh_storage):
    """What it had changed is gone with it, by a connection that is new."""
    storage, root = openssh_storage
    both = storage.open("a.bin", "rw")
    both.write(b"changed")
    both._session.close()
    with pytest.raises(StorageError, match="the connection broke off"):
        both.write(b"more")

    assert both.closed
    assert os.listdir(root) == ["a.bin"]
    assert storage.read("a.bin") == CONTENT


@pytest.mark.parametrize("mode", ["w", "rw"])
@pytest.mark.parametrize("inherited", [False, True])
def test_a_file_that_is_forgotten_publishes_nothing(openssh_storage, monkeypatch, mode, inherited, recwarn):
    """Whoever opened it hears a warning. The child of a fork does not, and touches nothing of its parent's."""
    storage, root = openssh_storage
    writer = storage.open("a.bin", mode)
    writer.write(bytes(5_000_000))
    pool = storage._pool()
    with monkeypatch.context() as child:
        if inherited:
            child.setattr(os, "getpid", lambda: -1)
        writer.__del__()

    assert [str(warning.message)[:8] for warning in recwarn] == ([] if inherited else ["unclosed"])
    assert storage.read("a.bin") == CONTENT
    if not inherited:
        wait_until(lambda: storage.exists("a.bin") and not pool._in_use)  # a thread may be sending still
    assert storage.sweep(timedelta(seconds=-10)) == 1
    assert os.listdir(root) == ["a.bin"]


# -- several sessions -------------------------------------------------------------------------------------------------


def test_a_session_that_cannot_open_the_file_is_done_without(openssh_storage, monkeypatch):
    """Those that could are enough."""
    storage, _ = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 64 * KIB)
    opened, refused = Session.open, []

    def refusing(session, path, flags, mode=None):
        pending = opened(session, path, flags, mode)
        if flags == FXF_WRITE:  # for what is there already: the first session made it
            refused.append(session)
            tried.set()
            session.wait(pending)
            pending.error = StatusError(FAILURE, "Failure")
        return pending

    def slow(upload_session, *arguments):
        tried.wait(30)  # as long as the first one is busy, another one is wanted
        write(upload_session, *arguments)

    tried, write = threading.Event(), _UploadSession.write
    monkeypatch.setattr(Session, "open", refusing)
    monkeypatch.setattr(_UploadSession, "write", slow)
    storage.write("b.bin", CONTENT[:1])
    with storage.open("b.bin", "w") as writer:
        for start in range(0, len(CONTENT), KIB):
            writer.write(CONTENT[start : start + KIB])

    assert refused
    assert storage.read("b.bin") == CONTENT


def test_a_file_written_through_several_sessions_is_finished_as_soon_as_by_one(openssh_storage, monkeypatch):
    """They hear together that all has arrived; then it is looked at, and gets its name. The root is known to all."""
    storage, _ = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 64 * KIB)
    everybody, write, finish = threading.Barrier(4), _UploadSession.write, SFTPUpload.complete
    used, round_trips, before = set(), RoundTrips(monkeypatch), []

    def together(upload_session, *arguments):
        everybody.wait(30)
        used.add(upload_session)
        write(upload_session, *arguments)

    def finished(*arguments):
        before.append(round_trips.count)
        finish(*arguments)

    monkeypatch.setattr(_UploadSession, "write", together)
    monkeypatch.setattr(SFTPUpload, "finish", finished)
    storage.upload(io.BytesIO(bytes(256 * KIB)), "b.bin")

    assert len(used) == 4
    assert (
        len({(upload_session.session.root, upload_session.session.round_trip_time) for upload_session in used}) == 1
    )  # asked once
    assert round_trips.count - before[0] <= 3
    assert storage.read("b.bin") == bytes(256 * KIB)


def test_what_one_of_several_sessions_could_not_write_is_not_published(openssh_storage, monkeypatch):
    """It is heard of at the end, before the file is looked at."""
    storage, root = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 64 * KIB)
    everybody, write, wait, sessions = threading.Barrier(4), _UploadSession.write, Session.wait, set()

    def together(upload_session, *arguments):
        everybody.wait(30)
        sessions.add(upload_session.session)
        write(upload_session, *arguments)

    def waited(session, pending):
        response = wait(session, pending)
        if pending.kind == WRITE:
            raise StatusError(FAILURE, "Failure")
        return response

    monkeypatch.setattr(_UploadSession, "write", together)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "wait", waited)
        with pytest.raises(StorageError):
            storage.upload(io.BytesIO(bytes(256 * KIB)), "b.bin")

    assert len(sessions) == 4
    assert os.listdir(root) == ["a.bin"]


def test_an_upload_that_cannot_begin_leaves_nothing(openssh_storage, monkeypatch):
    """Also when the server has made its file already."""
    storage, root = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    wait = Session.wait

    def waited(session, pending):
        if pending.kind == FSTAT:
            raise StatusError(FAILURE, "Failure")
        return wait(session, pending)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "wait", waited)
        with pytest.raises(StorageError):
            storage.write("b.bin", bytes(5_000_000))

    assert storage.list("b.bin") == []
    assert os.listdir(root) == ["a.bin"]


def test_an_upload_whose_line_breaks_as_it_begins_begins_anew(openssh_storage, monkeypatch):
    """On another session; the sweep takes what the first one had made."""
    storage, root = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    wait, lost = Session.wait, threading.Event()

    def waited(session, pending):
        if pending.kind == FSTAT and not lost.is_set():
            lost.set()
            session.close()
        return wait(session, pending)

    monkeypatch.setattr(Session, "wait", waited)
    storage.write("b.bin", bytes(5_000_000))

    assert lost.is_set()
    assert storage.read("b.bin") == bytes(5_000_000)
    assert len(temporary_files(storage)) == 1
    assert storage.sweep(timedelta(seconds=-10)) == 1
    assert sorted(os.listdir(root)) == ["a.bin", "b.bin"]


def test_a_hidden_file_of_somebody_else_is_not_joined(openssh_storage):
    """Even if all but its owner is the same."""
    storage, _ = openssh_storage
    with pooled_session(storage) as session:
        temporary, handle = storage._atomic_write.create(session, "b.bin")
        made = session.wait(session.request(FSTAT, handle))

        assert storage._atomic_write.reopen(session, temporary, made)
        with pytest.raises(PermissionDeniedError, match="another file in the place"):
            storage._atomic_write.reopen(session, temporary, dataclasses.replace(made, owner=made.owner + 1))


def test_whoever_is_interrupted_while_joining_hears_of_that(openssh_storage, monkeypatch):
    """And not that the connection was lost by it."""
    storage, _ = openssh_storage
    look, looked = RemoteTree.stat, []

    def interrupted(tree, session, path):
        looked.append(path)
        if len(looked) == 2:
            session.close()
            raise KeyboardInterrupt
        return look(tree, session, path)

    with pooled_session(storage) as session:
        temporary, handle = storage._atomic_write.create(session, "b.bin")
        made = session.wait(session.request(FSTAT, handle))
        monkeypatch.setattr(RemoteTree, "stat", interrupted)
        with pytest.raises(KeyboardInterrupt):
            storage._atomic_write.reopen(session, temporary, made)


def test_the_first_question_of_a_session_is_answered_in_the_second_turn(openssh, monkeypatch):
    """In the first one the server tells where the root is, and how much it takes at once."""
    round_trips = RoundTrips(monkeypatch)
    with closing(make_storage(openssh)) as storage:
        assert not storage.exists("a.bin")
        with pooled_session(storage) as session:
            assert session.write_size == 255 * KIB

    assert round_trips.count == 2


# -- servers of few words, and silent ones ----------------------------------------------------------------------------


def test_a_server_that_has_one_word_for_everything_is_understood(storage, monkeypatch):
    """What is below a file is not there, whatever it says of that; of all else nothing is guessed."""
    wait = Session.wait

    def waited(session, pending):
        try:
            return wait(session, pending)
        except StatusError as error:
            raise StatusError(FAILURE, "Failure") from error

    monkeypatch.setattr(Session, "wait", waited)
    storage.delete("a.bin/below")

    assert not storage.exists("a.bin/below")
    with pytest.raises(StorageError, match="says no more than 'Failure'"):
        storage.exists("none.bin")


def test_a_folder_that_somebody_makes_between_two_questions_is_asked_about_again(storage, monkeypatch):
    """One response says that it is not there, and the next that it is."""
    storage.write("d/b.bin", b"1")
    request_realpath, asked = storage._tree.request_realpath, []

    def not_there(*arguments):
        pending = request_realpath(*arguments)
        asked.append(pending)
        if len(asked) <= 2:
            arguments[0].wait(pending)
            pending.error = StatusError(NO_SUCH_FILE, "No such file")
        return pending

    with monkeypatch.context() as patch:
        patch.setattr(storage._tree, "request_realpath", not_there)
        storage.write("d/c.bin", b"1")

    assert len(asked) > 3
    assert storage.read("d/c.bin") == b"1"


def test_what_somebody_else_sweeps_meanwhile_is_not_counted(openssh_storage, monkeypatch):
    """Nor is it an error."""
    storage, root = openssh_storage
    for number in range(3):
        (root / f".fs-tmp-{number}").touch()
    clear = storage._tree.remove_temporary

    def cleared(session, path):
        if path == ".fs-tmp-1":
            (root / path).unlink()
        clear(session, path)

    monkeypatch.setattr(storage._tree, "remove_temporary", cleared)

    assert storage.sweep(timedelta(seconds=-10)) == 2
    assert os.listdir(root) == ["a.bin"]


def test_a_deletion_that_is_refused_is_told(storage, monkeypatch):
    """Here before the server has even looked for the file."""
    request_realpath = storage._tree.request_realpath

    def refused(*arguments):
        pending = request_realpath(*arguments)
        arguments[0].wait(pending)
        pending.error = StatusError(PERMISSION_DENIED, "Permission denied")
        return pending

    with monkeypatch.context() as patch:
        patch.setattr(storage._tree, "request_realpath", refused)
        with pytest.raises(PermissionDeniedError, match="denies this user access"):
            storage.delete("a.bin")

    assert storage.exists("a.bin")


def test_a_small_file_whose_end_is_not_answered_is_left_to_the_sweep(openssh_storage, monkeypatch):
    """The session is of no more use; nothing waits for it once more."""
    storage, _ = openssh_storage

    def unanswered(atomic_write, session, *arguments, **more):
        session.close()
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(AtomicWrite, "commit", unanswered)
        with pytest.raises(StorageTimeoutError):
            storage.write("a.bin", b"new")

    assert storage.read("a.bin") == CONTENT
    assert storage.sweep(timedelta(0)) == 1
    assert temporary_files(storage) == []


def test_a_session_that_is_given_back_twice_is_lent_once(storage):
    """A file may be closed and forgotten by different threads."""
    pool = storage._pool()
    with pooled_session(storage) as session:
        pool.release(session)
        with pooled_session(storage) as another:
            assert another is session
    pool.release(session)

    assert [one for one, _, _ in pool._idle_sessions].count(session) == 1


def test_a_name_that_cannot_be_taken_over_stays_with_the_old_file(plain_sftp, monkeypatch):
    """A server that does not replace is asked to set the old file aside, and to put it back."""
    with closing(make_storage(plain_sftp)) as storage:
        storage.write("docs/a.bin", CONTENT)
        rename, asked = Session.rename, []

        def renamed(session, source, target):
            asked.append((source, target))
            return rename(session, source + b"-none" if len(asked) == 3 else source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "rename", renamed)
            with pytest.raises(StorageError):
                storage.write("docs/a.bin", b"new")

        (first, target), (_, aside), again, back = asked
        assert again == (first, target)
        assert back == (aside, target)
        assert storage.read("docs/a.bin") == CONTENT
        assert temporary_files(storage) == []


@pytest.mark.parametrize("before", [2, 3])
def test_who_is_slower_takes_the_name_over_once_more(plain_sftp, monkeypatch, before):
    """Of several that replace a file on such a server, the last one wins, and nothing of the others stays."""
    with closing(make_storage(plain_sftp)) as storage:
        storage.write("a.bin", CONTENT)
        path = plain_sftp.folder / storage.root / "a.bin"
        rename, asked = Session.rename, []

        def renamed(session, source, target):
            asked.append(source)
            if len(asked) == before:
                session.wait(session.request(REALPATH, b"."))  # all before it is done
                path.unlink(missing_ok=True)
                if before == 3:
                    path.write_bytes(b"theirs")
            return rename(session, source, target)

        monkeypatch.setattr(Session, "rename", renamed)
        storage.write("a.bin", b"new")

        assert storage.read("a.bin") == b"new"
        assert temporary_files(storage) == []


def test_a_file_that_is_moved_is_never_deleted_by_its_name(openssh_storage, monkeypatch):
    """By then, somebody else may have written another one there."""
    storage, root = openssh_storage
    about, deleted = Session.request, []

    def asked(session, kind, name, *more):
        deleted.extend([name] if kind == REMOVE else [])
        return about(session, kind, name, *more)

    monkeypatch.setattr(Session, "request", asked)
    storage.move("a.bin", "b.bin", exclusive=True)
    storage.move("b.bin", "c.bin")

    assert deleted == []
    assert os.listdir(root) == ["c.bin"]


def test_a_name_that_becomes_free_meanwhile_is_taken_or_taken_by_others(openssh_storage, monkeypatch):
    """A link was refused, and nothing is there: it is tried once more."""
    storage, root = openssh_storage
    extended, tried = Session.extended, []

    def asked(session, name, *fields):
        pending = extended(session, name, *fields)
        if name == HARDLINK:
            tried.append(name)
            with suppress(StatusError):
                session.wait(pending)
            (root / "a.bin").unlink(missing_ok=True)
        return pending

    monkeypatch.setattr(Session, "extended", asked)
    storage.write("a.bin", b"new", exclusive=True)

    assert tried == [HARDLINK]
    assert storage.read("a.bin") == b"new"
    assert temporary_files(storage) == []


@pytest.mark.parametrize("moved", [False, True])
def test_a_rename_that_never_succeeds_is_told(openssh_storage, monkeypatch, moved):
    """In the server's word, and not for ever."""
    storage, _ = openssh_storage
    rename = Session.rename

    def refused(session, source, target):
        return rename(session, source + b"/below", target)

    monkeypatch.setattr(Session, "rename", refused)
    with pytest.raises(StorageError):
        storage.move("a.bin", "b.bin", exclusive=True) if moved else storage.write("a.bin/b", b"1", exclusive=True)

    assert storage.read("a.bin") == CONTENT
    assert not storage.exists("b.bin")


def test_what_takes_the_place_of_a_hidden_file_is_not_published(openssh_storage):
    """Whoever may write to the folder can replace it; then it is not what was written."""
    storage, root = openssh_storage
    for make in (lambda path: path.write_bytes(b"theirs"), lambda path: path.symlink_to("a.bin"), os.mkfifo):
        writer = storage.open("b.bin", "w")
        writer.write(bytes(5_000_000))
        [draft] = root.glob(".fs-tmp-*")
        draft.unlink()
        make(draft)

        with pytest.raises(PermissionDeniedError, match="another file in the place"):
            writer.close()

        assert not storage.exists("b.bin")
        assert storage.read("a.bin") == CONTENT


@pytest.mark.parametrize("kind", ["link", "pipe", "file"])
def test_no_session_writes_through_what_was_put_in_the_place_of_a_hidden_file(
    openssh_storage, monkeypatch, tmp_path, kind
):
    """Those that join look at it before they open it."""
    storage, root = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 64 * KIB)
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    begun, write = threading.Event(), _UploadSession.write

    def slow(upload_session, *arguments):
        if not begun.is_set():
            [draft] = root.glob(".fs-tmp-*")
            draft.unlink()
            if kind == "file":  # of somebody else, who lets us write to it
                draft.hardlink_to(outside)
                draft.chmod(0o666)
            else:
                draft.symlink_to(outside) if kind == "link" else os.mkfifo(draft)
            begun.set()
        write(upload_session, *arguments)

    monkeypatch.setattr(_UploadSession, "write", slow)
    with pytest.raises(PermissionDeniedError), storage.open("b.bin", "w") as writer:
        copy_chunks(io.BytesIO(CONTENT), writer, chunk_size=KIB)

    assert outside.read_bytes() == b""
    assert not storage.exists("b.bin")


def test_a_write_whose_hidden_file_was_swept_says_so(openssh_storage):
    """It is no missing file: whoever swept took what was being written."""
    storage, _ = openssh_storage
    writer = storage.open("b.bin", "w")
    writer.write(bytes(5_000_000))
    assert storage.sweep(timedelta(seconds=-10)) == 1

    with pytest.raises(StorageError, match="gone, perhaps by a sweep") as caught:
        writer.close()

    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("size", [5, 700 * KIB])
def test_what_was_set_aside_outlives_the_sweep(plain_sftp, monkeypatch, size):
    """When the line breaks in that moment, it is all there is, however old it was; and so is what was to come."""
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 256 * KIB)
    with closing(make_storage(plain_sftp)) as storage:
        storage.write("a.bin", CONTENT)
        backdate(storage, "a.bin")
        backdate(storage, "a.bin")
        rename, asked = Session.rename, []

        def renamed(session, source, target):
            asked.append(source)
            if len(asked) == 3:
                session.wait(session.request(REALPATH, b"."))  # all before it is done
                session.close()
            return rename(session, source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "rename", renamed)
            with pytest.raises(StorageUnavailableError, match="it may have been done, or not"):
                storage.write("a.bin", bytes(size))

        assert storage.sweep(timedelta(hours=1)) == 0
        folder = plain_sftp.folder / storage.root
        assert sorted(path.read_bytes() == CONTENT for path in folder.glob(".fs-tmp-*")) == [False, True]


def test_a_folder_that_becomes_a_link_while_a_file_is_written_leads_nowhere(openssh_storage, monkeypatch, tmp_path):
    """Where it leads is asked again before the file gets its name."""
    storage, root = openssh_storage
    writer = storage.open("d/b.bin", "w")
    writer.write(bytes(5_000_000))
    [draft] = (root / "d").iterdir()
    (root / "d").rename(root / "e")
    (tmp_path / draft.name).write_bytes(b"theirs")
    (root / "d").symlink_to(tmp_path)

    with pytest.raises(PermissionDeniedError):
        writer.close()

    assert "b.bin" not in os.listdir(tmp_path)


# -- what nobody closes -----------------------------------------------------------------------------------------------


def test_readers_that_are_forgotten_cost_nobody_a_session(openssh_storage):
    """They go when their last reference does, and wait for no garbage collector."""
    storage, _ = openssh_storage
    gc.disable()
    try:
        for _ in range(40):  # more than there are sessions
            assert storage.open("a.bin", "r").read(10) == CONTENT[:10]
        reader = storage.open("a.bin", "r")
        watched = weakref.ref(reader)
        del reader
        assert watched() is None
    finally:
        gc.enable()

    assert storage.read("a.bin") == CONTENT


def test_a_reader_that_has_lost_its_file_is_forgotten_too(openssh_storage):
    """It has no session any more."""
    storage, _ = openssh_storage
    backdate(storage, "a.bin")
    reader = storage.open("a.bin", "r")
    assert reader.read(10) == CONTENT[:10]
    reader._source._session.close()
    storage.write("a.bin", CONTENT[1:])
    with pytest.raises(PreconditionFailedError, match="replaced while it was read"):
        reader.read()

    reader.__del__()

    assert storage.read("a.bin") == CONTENT[1:]


@pytest.mark.parametrize("kind", ["r", "rw", "w", "list"])
def test_the_garbage_collector_never_uses_the_network(openssh_storage, monkeypatch, kind):
    """It may run in any thread, also in one that is just sending, and would wait for itself."""
    storage, root = openssh_storage
    for number in range(300):
        (root / f"{number:03}.txt").touch()
    pool = storage._pool()
    if kind == "list":
        held: Any = storage.iter("")
        next(held)
    else:
        held = storage.open("a.bin", kind)
        held.write(b"x" * KIB) if kind == "w" else held.read(10)
    gc.collect()  # what others left behind
    circle = [held]
    circle.append(circle)
    used: list[str] = []
    for name in ("send", "close", "recv"):
        monkeypatch.setattr(paramiko.Channel, name, lambda *_, name=name: used.append(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del held, circle
        gc.collect()
    monkeypatch.undo()

    assert used == []
    assert storage.read("a.bin") == CONTENT
    assert (len(pool._in_use), len(pool._released)) == (0, 0)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
@pytest.mark.parametrize("kind", ["rw", "list"])
def test_the_child_of_a_fork_leaves_its_parents_connection_alone(openssh_storage, kind):
    """Whatever it inherits: an unfinished listing or a file that is edited; what the parent writes is published."""
    storage, root = openssh_storage
    for number in range(400):
        (root / f"{number:03}.txt").touch()
    writer = storage.open("w.bin", "w")
    writer.write(CONTENT)
    entries = storage.iter("")
    next(entries)
    edited = storage.open("a.bin", "rw")

    child = os.fork()
    if child == 0:
        try:
            edited.read(10) if kind == "rw" else [entry.name for entry in entries]
        except StorageError:
            entries.close()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    writer.close()

    assert os.waitstatus_to_exitcode(status) == 0
    assert edited.read() == CONTENT
    edited.abort()
    assert len(list(entries)) == 400
    assert storage.read("w.bin") == CONTENT


def test_a_file_that_cannot_be_edited_is_not_kept_open(make_openssh):
    """Nor is one that was read or listed, as wait_until as it is closed: its room on the disk is free."""
    server = make_openssh(arguments="-R")
    (server.folder / "a.bin").write_bytes(CONTENT)
    with closing(make_storage(server, root=".")) as storage:
        for _ in range(5):
            with pytest.raises(PermissionDeniedError):
                storage.open("a.bin", "rw")
        for _ in range(3):
            reader = storage.open("a.bin", "r")
            reader.read(10)
            reader.close()

        wait_until(lambda: not opened_below(server.folder))


def opened_below(folder):
    """What processes have open below a folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # the process has ended, or is somebody else's
            found += [target for target in [os.readlink(link)] if target.startswith(f"{folder}/")]
    return found


def test_a_receiver_that_fails_leaves_nothing_open(openssh_storage):
    """Of the signal that a file is read."""
    storage, _ = openssh_storage

    def fail(*_, **__):
        raise RuntimeError("a receiver")

    with signals.file_read.connected_to(fail), pytest.raises(RuntimeError):
        storage.open("a.bin", "r")

    assert not storage._pool()._in_use


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda both: both.truncate(-1), ValueError),
        (lambda both: both.truncate(1 << 64), ValueError),
        (lambda both: both.truncate(1.5), TypeError),
        (lambda both: both.seek(1 << 64), ValueError),
        (lambda both: both.seek(1.5), TypeError),
        (lambda both: both.seek(0, 9), ValueError),
    ],
)
def test_a_position_that_is_none_is_refused_before_anything_is_sent(openssh_storage, operation, error):
    """The file stays open, and what was changed is kept."""
    storage, _ = openssh_storage
    with storage.open("a.bin", "rw") as both:
        both.write(b"changed")
        with pytest.raises(error):
            operation(both)

    assert storage.read("a.bin") == b"changed" + CONTENT[7:]


def test_versions_of_one_size_and_one_second_are_told_apart(storage):
    """The server tells whole seconds."""
    etags = []
    for number in range(5):
        storage.write("a.bin", str(number).encode())
        etags.append(storage.stat("a.bin").etag)

    assert len(set(etags)) == 5


def test_a_version_between_two_of_one_size_does_not_make_them_alike(storage):
    """The one after it is later than it, and so is later than the first."""
    etags = set()
    for content in (b"one", b"three", b"two", b"four!", b"six"):
        storage.write("b.bin", content)
        etags.add(storage.stat("b.bin").etag)

    assert len(etags) == 5


@pytest.mark.parametrize("operation", ["move", "copy"])
def test_a_file_that_takes_the_place_of_one_of_its_size_and_time_looks_different(storage, operation):
    """A file that is moved keeps its time else."""
    for name in ("b.bin", "c.bin", "d.bin"):
        storage.write(name, name.encode())
    with storage.connection() as client:
        for name, seconds in (("b.bin", 1000), ("c.bin", 1000), ("d.bin", 2000)):
            client.utime(f"{storage.root}/{name}", (seconds, seconds))
    replaced = storage.stat("b.bin").etag

    getattr(storage, operation)("c.bin", "b.bin")

    assert storage.read("b.bin") == b"c.bin"
    assert storage.stat("b.bin").etag != replaced
    if operation == "move":
        storage.move("b.bin", "d.bin")
        assert storage.stat("d.bin").last_modified.timestamp() == 1001


@pytest.mark.parametrize("late", [False, True])
def test_files_that_were_deleted_are_counted_once_wherever_the_line_broke(openssh_storage, monkeypatch, late):
    """Also those whose response did not come, and that the server deletes only when somebody has listed them again."""
    storage, root = openssh_storage
    (root / "d").mkdir()
    for number in range(300):
        (root / "d" / f"{number}.txt").touch()
    wait, about = Session.wait, Session.request
    heard: list[PendingReply] = []
    asked: dict[bytes, PendingReply] = {}

    def waited(session, pending):
        response = wait(session, pending)
        if pending.kind == REMOVE:
            heard.append(pending)
            if len(heard) == 150:
                session.close()
                for path in [path for path, one in asked.items() if late and one not in heard[:-1]]:
                    Path(os.fsdecode(path)).touch()  # the server has not deleted it yet
                raise ConnectionLostError("cut")
        return response

    def asking(session, kind, path, *fields):
        if kind == REMOVE and path in asked:
            os.unlink(path)
        pending = about(session, kind, path, *fields)
        if kind == REMOVE:
            asked[path] = pending
        return pending

    monkeypatch.setattr(Session, "wait", waited)
    monkeypatch.setattr(Session, "request", asking)

    assert storage.delete_prefix("d") == 300
    assert os.listdir(root) == ["a.bin"]


def test_files_are_counted_when_the_line_broke_while_they_were_asked_for(openssh_storage, monkeypatch):
    """Some were deleted by then, and nobody had asked for the others."""
    storage, root = openssh_storage
    (root / "d").mkdir()
    for number in range(600):
        (root / "d" / f"{number}.txt").touch()
    monkeypatch.setattr("flask_storage.backends.sftp.protocol._SSH_PACKET", KIB)  # a few are asked for at once
    send = Session._send
    cut: list[Session] = []

    def sending(session):
        send(session)
        asked = sum(pending.kind == REMOVE for pending in session._pending.values())
        if not cut and asked > 50:
            cut.append(session)
            wait_until(lambda: len(os.listdir(root / "d")) <= 600 - asked)
            session.close()
            raise ConnectionLostError("cut")

    monkeypatch.setattr(Session, "_send", sending)

    assert storage.delete_prefix("d") == 600
    assert cut
    assert os.listdir(root) == ["a.bin"]
