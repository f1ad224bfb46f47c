"""Open files on SFTP: short responses, lost connections, race conditions, and files that a fork inherits."""

import dataclasses
import gc
import io
import os
import random
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flask_storage import (
    IntegrityError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnavailableError,
    WriteOptions,
    signals,
)
from flask_storage.backends.sftp import copy as copy_module, files as files_module
from flask_storage.backends.sftp.atomic_write import AtomicWrite
from flask_storage.backends.sftp.protocol import (
    FAILURE,
    FSTAT,
    FXF_WRITE,
    HARDLINK,
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
    """A storage with one file, on a server that supports copy-data and on one that does not."""
    storage = make_storage(request.getfixturevalue(request.param))
    storage.write("a.bin", CONTENT)
    yield storage
    storage.close()


@pytest.fixture
def openssh_storage(openssh):
    """A storage with one file on OpenSSH, and its root on this machine."""
    storage = make_storage(openssh)
    storage.write("a.bin", CONTENT)
    yield storage, openssh.folder / storage.root
    storage.close()


@pytest.fixture
def short_reads(monkeypatch):
    """Let servers return fewer bytes than were requested, as they may."""
    read = Session.read
    monkeypatch.setattr(Session, "read", lambda self, handle, offset, to: read(self, handle, offset, to[: 7 * KIB]))


# -- short responses --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_reads")
def test_the_rest_of_a_short_read_is_requested(storage):
    """Whichever way the file is read."""
    with storage.open("a.bin", "r") as reader:
        whole = reader.read()
    with storage.open("a.bin", "rw") as updater:
        edited = updater.read(200 * KIB)
    storage.copy("a.bin", "b.bin")

    assert whole == CONTENT
    assert edited == CONTENT[: 200 * KIB]
    assert storage.read("b.bin") == CONTENT


def test_a_read_continues_after_a_lost_connection(storage, monkeypatch):
    """The range is requested again, of the same version."""
    wait = Session.wait
    broken: list[Session] = []

    def breaking_wait(session, pending):
        response = wait(session, pending)
        if type(response) is int and not broken:
            broken.append(session)
            session.close()
            return response // 2
        return response

    backdate(storage, "a.bin")
    with storage.open("a.bin", "r") as reader:
        monkeypatch.setattr(Session, "wait", breaking_wait)
        assert reader.read() == CONTENT
    assert len(broken) == 1


def test_ranges_that_were_read_ahead_are_requested_again_after_a_lost_connection(openssh_storage):
    """Each of them, by the session that the first one has opened."""
    storage, root = openssh_storage
    content = CONTENT * 20
    (root / "large.bin").write_bytes(content)
    backdate(storage, "large.bin")
    with storage.open("large.bin", "r") as reader:
        reader.will_read(len(content))
        start = reader.read(1100 * KIB)
        assert len(reader._ranges) >= 2
        reader._source._kept.session.close()

        assert start + reader.read() == content


def test_a_new_file_is_not_read_further_after_a_lost_connection(storage, monkeypatch):
    """SFTP has whole seconds, so another version may have the same mtime; a read of the whole file is retried."""
    monkeypatch.setattr("flask_storage.backends.sftp.files._MTIME_MARGIN", 3600)  # the machine may be slow
    storage.write("b.bin", CONTENT)
    with storage.open("b.bin", "r") as reader:
        reader.read(10)
        reader._source._kept.session.close()
        with pytest.raises(PreconditionFailedError, match="may have been replaced while it was read"):
            reader.read()

    assert storage.read("b.bin") == CONTENT


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_file_that_is_truncated_while_it_is_read_raises_an_error(openssh_storage, mode):
    """It is not taken for the end of the file."""
    storage, root = openssh_storage
    with storage.open("a.bin", mode) as reader:
        [open_file] = [name for name in os.listdir(root) if (name == "a.bin") == (mode == "r")]
        os.truncate(root / open_file, 100 * KIB)
        with pytest.raises(IntegrityError, match="and more was expected"):
            reader.read()
        reader.abort()


def test_little_is_read_ahead_for_a_caller_that_may_be_slow(openssh_storage, monkeypatch):
    """At most two chunks until it has taken 8 MiB quickly, then up to twelve; one again when it becomes slow."""
    storage, root = openssh_storage
    with (root / "large.bin").open("wb") as file:
        file.truncate(64 << 20)
    session_read, requested = Session.read, []

    def counting_read(session, handle, offset, buffer):
        requested.append(len(buffer))
        return session_read(session, handle, offset, buffer)

    def read_ahead():
        return (sum(requested) - reader.tell()) / files_module.CHUNK_SIZE

    monkeypatch.setattr(Session, "read", counting_read)
    monkeypatch.setattr(files_module, "_SLOW_CHUNK", 60)
    with storage.open("large.bin", "r") as reader:
        reader.will_read(64 << 20)
        for _ in range(6 * 4):
            reader.read(256 * KIB)
            assert read_ahead() <= 3.1
        for _ in range(20 * 4):
            reader.read(256 * KIB)
            assert read_ahead() <= 13.1
        monkeypatch.setattr(files_module, "_SLOW_CHUNK", -1)
        for _ in range(20 * 4):
            reader.read(256 * KIB)
        assert read_ahead() <= 3.1


def test_a_file_that_is_truncated_while_it_is_copied_raises_an_error(storage, monkeypatch):
    """When the copy goes through this process."""
    monkeypatch.setattr(copy_module, "COPY_DATA", b"no such thing")
    open_file = storage._tree.open_file

    def open_longer_file(*arguments):
        handle, attributes, head = open_file(*arguments)
        return handle, dataclasses.replace(attributes, size=attributes.size + 1), head

    monkeypatch.setattr(storage._tree, "open_file", open_longer_file)
    for operation in (lambda: storage.copy("a.bin", "b.bin"), lambda: storage.open("a.bin", "rw")):
        with pytest.raises(IntegrityError, match="and more was expected"):
            operation()

    assert [entry.name for entry in storage.list()] == ["a.bin"]
    assert temporary_files(storage) == []


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_read_that_fails_raises_an_error(storage, mode):
    """As with a defective disk; here the handle is not valid any more."""
    with storage.open("a.bin", mode) as reader:
        holder = reader._source if mode == "r" else reader
        session = holder._kept.session
        storage._tree.close_handle(session, holder._handle)
        with pytest.raises(StorageError, match="the server"):
            reader.read()
        holder._handle = session.wait(session.open(storage._tree.remote_path(session, "a.bin"), 1))
        reader.abort()


def test_a_copy_to_a_full_disk_raises_an_error(openssh_storage, monkeypatch):
    """Also when the server reports it while more copy requests are sent."""
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


# -- updates ----------------------------------------------------------------------------------------------------------


def test_a_negative_position_is_refused(storage):
    """Positions count from the start, the current position and the end."""
    with storage.open("a.bin", "rw") as updater:
        assert updater.seekable()
        with pytest.raises(ValueError, match="position -1 is out of range"):
            updater.seek(-1)
        assert (updater.seek(-5, io.SEEK_END), updater.tell()) == (len(CONTENT) - 5, len(CONTENT) - 5)
        assert updater.read() == CONTENT[-5:]
        updater.abort()


def test_opening_for_an_update_is_retried_after_a_lost_connection(openssh_storage, monkeypatch):
    """The temporary file of the first attempt is left for the sweep."""
    storage, _ = openssh_storage
    copy_bytes, sessions = copy_module.copy_bytes, []

    def breaking_copy(session, *arguments):
        sessions.append(session)
        if len(sessions) == 1:
            session.close()
        copy_bytes(session, *arguments)

    monkeypatch.setattr("flask_storage.backends.sftp.files.copy_bytes", breaking_copy)
    with storage.open("a.bin", "rw") as updater:
        updater.write(b"new")

    assert len(sessions) == 2
    assert storage.read("a.bin") == b"new" + CONTENT[3:]
    assert storage.sweep(timedelta(0)) == 1


def test_closing_an_update_reports_an_unknown_outcome_after_a_lost_connection(openssh_storage, monkeypatch):
    """The file may have been published."""
    storage, _ = openssh_storage
    commit = AtomicWrite.commit

    def breaking_commit(atomic_write, session, *arguments, **options):
        commit(atomic_write, session, *arguments, **options)
        session.close()
        raise ConnectionLostError("cut")

    updater = storage.open("a.bin", "rw")
    updater.write(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(AtomicWrite, "commit", breaking_commit)
        with pytest.raises(StorageUnavailableError, match="may or may not have been carried out"):
            updater.close()

    assert storage.read("a.bin") == b"new" + CONTENT[3:]


def test_an_update_whose_connection_is_lost_leaves_no_temporary_file(openssh_storage):
    """A new connection deletes it."""
    storage, root = openssh_storage
    updater = storage.open("a.bin", "rw")
    updater.write(b"changed")
    updater._kept.session.close()
    with pytest.raises(StorageError, match="the connection was lost"):
        updater.write(b"more")

    assert updater.closed
    assert os.listdir(root) == ["a.bin"]
    assert storage.read("a.bin") == CONTENT


@pytest.mark.parametrize("mode", ["w", "rw"])
@pytest.mark.parametrize("inherited", [False, True])
def test_a_writer_that_is_never_closed_publishes_nothing(openssh_storage, monkeypatch, mode, inherited, recwarn):
    """It warns; in the child of a fork it does not, and does not touch the parent's connection."""
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
        wait_until(lambda: storage.exists("a.bin") and not pool._in_use)  # a thread may still be sending
    assert storage.sweep(timedelta(seconds=-10)) == 1
    assert os.listdir(root) == ["a.bin"]


# -- several sessions -------------------------------------------------------------------------------------------------


def test_a_session_that_cannot_open_the_file_is_not_used(openssh_storage, monkeypatch):
    """The other sessions suffice."""
    storage, _ = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 64 * KIB)
    open_file, refused = Session.open, []

    def refusing_open(session, path, flags, mode=None):
        pending = open_file(session, path, flags, mode)
        if flags == FXF_WRITE:  # the file exists: the first session has created it
            refused.append(session)
            opened.set()
            session.wait(pending)
            pending.error = StatusError(FAILURE, "Failure")
        return pending

    def slow_write(upload_session, *arguments):
        opened.wait(30)  # while the first session is in use, another one is opened
        write(upload_session, *arguments)

    opened, write = threading.Event(), _UploadSession.write
    monkeypatch.setattr(Session, "open", refusing_open)
    monkeypatch.setattr(_UploadSession, "write", slow_write)
    storage.write("b.bin", CONTENT[:1])
    with storage.open("b.bin", "w") as writer:
        for start in range(0, len(CONTENT), KIB):
            writer.write(CONTENT[start : start + KIB])

    assert refused
    assert storage.read("b.bin") == CONTENT


def test_completing_an_upload_takes_three_round_trips_with_any_number_of_sessions(openssh_storage, monkeypatch):
    """All writes are patched_wait for together, then the file is checked and renamed. The root is resolved once."""
    storage, _ = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 64 * KIB)
    barrier, write, complete = threading.Barrier(4), _UploadSession.write, SFTPUpload.complete
    used, round_trips, before = set(), RoundTrips(monkeypatch), []

    def simultaneous_write(upload_session, *arguments):
        barrier.wait(30)
        used.add(upload_session)
        write(upload_session, *arguments)

    def counting_complete(*arguments):
        before.append(round_trips.count)
        complete(*arguments)

    monkeypatch.setattr(_UploadSession, "write", simultaneous_write)
    monkeypatch.setattr(SFTPUpload, "complete", counting_complete)
    storage.upload(io.BytesIO(bytes(256 * KIB)), "b.bin")

    assert len(used) == 4
    roots = {(upload_session.session.root, upload_session.session.round_trip_time) for upload_session in used}
    assert len(roots) == 1
    assert round_trips.count - before[0] <= 3
    assert storage.read("b.bin") == bytes(256 * KIB)


def test_a_failed_write_of_one_session_fails_the_upload(openssh_storage, monkeypatch):
    """It is detected at the end, before the file is checked."""
    storage, root = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 64 * KIB)
    barrier, write, wait, sessions = threading.Barrier(4), _UploadSession.write, Session.wait, set()

    def simultaneous_write(upload_session, *arguments):
        barrier.wait(30)
        sessions.add(upload_session.session)
        write(upload_session, *arguments)

    def failing_wait(session, pending):
        response = wait(session, pending)
        if pending.kind == WRITE:
            raise StatusError(FAILURE, "Failure")
        return response

    monkeypatch.setattr(_UploadSession, "write", simultaneous_write)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "wait", failing_wait)
        with pytest.raises(StorageError):
            storage.upload(io.BytesIO(bytes(256 * KIB)), "b.bin")

    assert len(sessions) == 4
    assert os.listdir(root) == ["a.bin"]


def test_an_upload_that_cannot_start_leaves_no_temporary_file(openssh_storage, monkeypatch):
    """Also when the server has created the file already."""
    storage, root = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    wait = Session.wait

    def patched_wait(session, pending):
        if pending.kind == FSTAT:
            raise StatusError(FAILURE, "Failure")
        return wait(session, pending)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "wait", patched_wait)
        with pytest.raises(StorageError):
            storage.write("b.bin", bytes(5_000_000))

    assert storage.list("b.bin") == []
    assert os.listdir(root) == ["a.bin"]


def test_a_part_that_waits_for_a_session_ends_when_its_writer_is_abandoned(openssh_storage, monkeypatch):
    """The thread that writes it must not wait for ever."""
    storage, _ = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 60)  # one session
    started, abandoned, write = threading.Event(), threading.Event(), _UploadSession.write

    def slow_write(*arguments):
        started.set()
        abandoned.wait(30)
        write(*arguments)

    monkeypatch.setattr(_UploadSession, "write", slow_write)
    upload = storage._file_upload()
    upload.create("b.bin", WriteOptions())
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(upload.upload_part, "b.bin", "", 1, b"1")
        assert started.wait(30)
        second = threads.submit(upload.upload_part, "b.bin", "", 2, b"2")
        upload.abandon()
        with pytest.raises(StorageUnavailableError, match="the upload was abandoned"):
            second.result(30)
        abandoned.set()
        assert first.result(30).size == 1


def test_starting_an_upload_is_retried_after_a_lost_connection(openssh_storage, monkeypatch):
    """The sweep removes the temporary file of the first attempt."""
    storage, root = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    wait, lost = Session.wait, threading.Event()

    def patched_wait(session, pending):
        if pending.kind == FSTAT and not lost.is_set():
            lost.set()
            session.close()
        return wait(session, pending)

    monkeypatch.setattr(Session, "wait", patched_wait)
    storage.write("b.bin", bytes(5_000_000))

    assert lost.is_set()
    assert storage.read("b.bin") == bytes(5_000_000)
    assert len(temporary_files(storage)) == 1
    assert storage.sweep(timedelta(seconds=-10)) == 1
    assert sorted(os.listdir(root)) == ["a.bin", "b.bin"]


def test_a_temporary_file_of_another_owner_is_not_reopened(openssh_storage):
    """Even if only its owner differs."""
    storage, _ = openssh_storage
    with pooled_session(storage) as session:
        temporary, handle = storage._atomic_write.create(session, "b.bin")
        created = session.wait(session.request(FSTAT, handle))

        assert storage._atomic_write.reopen(session, temporary, created)
        with pytest.raises(PermissionDeniedError, match="the temporary file was replaced with another file"):
            storage._atomic_write.reopen(session, temporary, dataclasses.replace(created, owner=created.owner + 1))


def test_an_interrupt_while_reopening_a_temporary_file_is_raised(openssh_storage, monkeypatch):
    """Not an error about the connection that it closed."""
    storage, _ = openssh_storage
    stat, paths = RemoteTree.stat, []

    def interrupted_stat(tree, session, path):
        paths.append(path)
        if len(paths) == 2:
            session.close()
            raise KeyboardInterrupt
        return stat(tree, session, path)

    with pooled_session(storage) as session:
        temporary, handle = storage._atomic_write.create(session, "b.bin")
        created = session.wait(session.request(FSTAT, handle))
        monkeypatch.setattr(RemoteTree, "stat", interrupted_stat)
        with pytest.raises(KeyboardInterrupt):
            storage._atomic_write.reopen(session, temporary, created)


def test_the_first_operation_of_a_session_takes_two_round_trips(openssh, monkeypatch):
    """The first one resolves the root and gets the limits of the server."""
    round_trips = RoundTrips(monkeypatch)
    with closing(make_storage(openssh)) as storage:
        assert not storage.exists("a.bin")
        with pooled_session(storage) as session:
            assert session.write_size == 255 * KIB

    assert round_trips.count == 2


# -- errors of the server, and race conditions ------------------------------------------------------------------------


def test_a_server_with_one_status_for_every_error_works(storage, monkeypatch):
    """A path below a file does not exist; every other failure is raised as it is."""
    wait = Session.wait

    def patched_wait(session, pending):
        try:
            return wait(session, pending)
        except StatusError as error:
            raise StatusError(FAILURE, "Failure") from error

    monkeypatch.setattr(Session, "wait", patched_wait)
    storage.delete("a.bin/below")

    assert not storage.exists("a.bin/below")
    with pytest.raises(StorageError, match=r"without a reason \('Failure'\)"):
        storage.exists("none.bin")


def test_a_directory_that_is_created_between_two_requests_is_checked_again(storage, monkeypatch):
    """One response says that it is missing, and the next that it exists."""
    storage.write("d/b.bin", b"1")
    request_realpath, requests = storage._tree.request_realpath, []

    def failing_request(*arguments):
        pending = request_realpath(*arguments)
        requests.append(pending)
        if len(requests) <= 2:
            arguments[0].wait(pending)
            pending.error = StatusError(NO_SUCH_FILE, "No such file")
        return pending

    with monkeypatch.context() as patch:
        patch.setattr(storage._tree, "request_realpath", failing_request)
        storage.write("d/c.bin", b"1")

    assert len(requests) > 3
    assert storage.read("d/c.bin") == b"1"


def test_temporary_files_that_another_process_sweeps_are_not_counted(openssh_storage, monkeypatch):
    """They are no error either."""
    storage, root = openssh_storage
    for number in range(3):
        (root / f".fs-tmp-{number}").touch()
    remove_temporary = storage._tree.remove_temporary

    def late_removal(session, path):
        if path == ".fs-tmp-1":
            (root / path).unlink()
        remove_temporary(session, path)

    monkeypatch.setattr(storage._tree, "remove_temporary", late_removal)

    assert storage.sweep(timedelta(seconds=-10)) == 2
    assert os.listdir(root) == ["a.bin"]


def test_a_deletion_that_is_refused_raises_an_error(storage, monkeypatch):
    """Here when the path is resolved."""
    request_realpath = storage._tree.request_realpath

    def refused_request(*arguments):
        pending = request_realpath(*arguments)
        arguments[0].wait(pending)
        pending.error = StatusError(PERMISSION_DENIED, "Permission denied")
        return pending

    with monkeypatch.context() as patch:
        patch.setattr(storage._tree, "request_realpath", refused_request)
        with pytest.raises(PermissionDeniedError, match="denies this user access"):
            storage.delete("a.bin")

    assert storage.exists("a.bin")


def test_a_small_file_whose_commit_times_out_is_left_for_the_sweep(openssh_storage, monkeypatch):
    """The session is closed, so nothing waits for it again."""
    storage, _ = openssh_storage

    def commit_without_response(atomic_write, session, *arguments, **options):
        session.close()
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(AtomicWrite, "commit", commit_without_response)
        with pytest.raises(StorageTimeoutError):
            storage.write("a.bin", b"new")

    assert storage.read("a.bin") == CONTENT
    assert storage.sweep(timedelta(0)) == 1
    assert temporary_files(storage) == []


def test_a_session_that_is_released_twice_is_used_once(storage):
    """A file may be closed by two threads."""
    pool = storage._pool()
    with pooled_session(storage) as session:
        pool.release(session)
        with pooled_session(storage) as another:
            assert another is session
    pool.release(session)

    assert [idle for idle, _, _ in pool._idle_sessions].count(session) == 1


def test_without_posix_rename_a_failed_rename_restores_the_old_file(plain_sftp, monkeypatch):
    """The old file is renamed to a backup, and back."""
    with closing(make_storage(plain_sftp)) as storage:
        storage.write("docs/a.bin", CONTENT)
        rename, renames = Session.rename, []

        def failing_rename(session, source, target):
            renames.append((source, target))
            return rename(session, source + b"-none" if len(renames) == 3 else source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "rename", failing_rename)
            with pytest.raises(StorageError):
                storage.write("docs/a.bin", b"new")

        (temporary, target), (_, backup), retry, restore = renames
        assert retry == (temporary, target)
        assert restore == (backup, target)
        assert storage.read("docs/a.bin") == CONTENT
        assert temporary_files(storage) == []


@pytest.mark.parametrize("before_rename", [2, 3])
def test_without_posix_rename_a_rename_that_loses_a_race_is_retried(plain_sftp, monkeypatch, before_rename):
    """The last of several concurrent writes wins, and leaves no temporary file."""
    with closing(make_storage(plain_sftp)) as storage:
        storage.write("a.bin", CONTENT)
        path = plain_sftp.folder / storage.root / "a.bin"
        rename, sources = Session.rename, []

        def late_rename(session, source, target):
            sources.append(source)
            if len(sources) == before_rename:
                session.wait(session.request(REALPATH, b"."))  # all earlier requests are done then
                path.unlink(missing_ok=True)
                if before_rename == 3:
                    path.write_bytes(b"theirs")
            return rename(session, source, target)

        monkeypatch.setattr(Session, "rename", late_rename)
        storage.write("a.bin", b"new")

        assert storage.read("a.bin") == b"new"
        assert temporary_files(storage) == []


def test_a_move_never_deletes_its_source_path(openssh_storage, monkeypatch):
    """Another process may have written another file there since."""
    storage, root = openssh_storage
    request, deleted = Session.request, []

    def recording_request(session, kind, name, *fields):
        deleted.extend([name] if kind == REMOVE else [])
        return request(session, kind, name, *fields)

    monkeypatch.setattr(Session, "request", recording_request)
    storage.move("a.bin", "b.bin", exclusive=True)
    storage.move("b.bin", "c.bin")

    assert deleted == []
    assert os.listdir(root) == ["c.bin"]


def test_an_exclusive_write_is_retried_when_the_target_is_deleted(openssh_storage, monkeypatch):
    """The hard link was refused, and the target does not exist any more."""
    storage, root = openssh_storage
    extended, links = Session.extended, []

    def deleting_request(session, name, *fields):
        pending = extended(session, name, *fields)
        if name == HARDLINK:
            links.append(name)
            with suppress(StatusError):
                session.wait(pending)
            (root / "a.bin").unlink(missing_ok=True)
        return pending

    monkeypatch.setattr(Session, "extended", deleting_request)
    storage.write("a.bin", b"new", exclusive=True)

    assert links == [HARDLINK]
    assert storage.read("a.bin") == b"new"
    assert temporary_files(storage) == []


@pytest.mark.parametrize("is_move", [False, True])
def test_a_rename_that_always_fails_raises_an_error(openssh_storage, monkeypatch, is_move):
    """The number of retries is limited."""
    storage, _ = openssh_storage
    rename = Session.rename

    def failing_rename(session, source, target):
        return rename(session, source + b"/below", target)

    monkeypatch.setattr(Session, "rename", failing_rename)
    with pytest.raises(StorageError):
        storage.move("a.bin", "b.bin", exclusive=True) if is_move else storage.write("a.bin/b", b"1", exclusive=True)

    assert storage.read("a.bin") == CONTENT
    assert not storage.exists("b.bin")


def test_a_temporary_file_that_was_replaced_is_not_published(openssh_storage):
    """Another user who may write to the directory could replace it."""
    storage, root = openssh_storage
    for make in (lambda path: path.write_bytes(b"theirs"), lambda path: path.symlink_to("a.bin"), os.mkfifo):
        writer = storage.open("b.bin", "w")
        writer.write(bytes(5_000_000))
        [temporary_file] = root.glob(".fs-tmp-*")
        temporary_file.unlink()
        make(temporary_file)

        with pytest.raises(PermissionDeniedError, match="the temporary file was replaced with another file"):
            writer.close()

        assert not storage.exists("b.bin")
        assert storage.read("a.bin") == CONTENT


@pytest.mark.parametrize("kind", ["link", "pipe", "file"])
def test_a_temporary_file_that_was_replaced_is_not_reopened(openssh_storage, monkeypatch, tmp_path, kind):
    """Additional sessions check the file before they open it."""
    storage, root = openssh_storage
    monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 64 * KIB)
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    replaced, write = threading.Event(), _UploadSession.write

    def replacing_write(upload_session, *arguments):
        if not replaced.is_set():
            [temporary_file] = root.glob(".fs-tmp-*")
            temporary_file.unlink()
            if kind == "file":  # a file of another user that is world-writable
                temporary_file.hardlink_to(outside)
                temporary_file.chmod(0o666)
            else:
                temporary_file.symlink_to(outside) if kind == "link" else os.mkfifo(temporary_file)
            replaced.set()
        write(upload_session, *arguments)

    monkeypatch.setattr(_UploadSession, "write", replacing_write)
    with pytest.raises(PermissionDeniedError), storage.open("b.bin", "w") as writer:
        copy_chunks(io.BytesIO(CONTENT), writer, chunk_size=KIB)

    assert outside.read_bytes() == b""
    assert not storage.exists("b.bin")


def test_a_write_whose_temporary_file_was_swept_raises_an_error(openssh_storage):
    """The error says so, and is not "not found"."""
    storage, _ = openssh_storage
    writer = storage.open("b.bin", "w")
    writer.write(bytes(5_000_000))
    assert storage.sweep(timedelta(seconds=-10)) == 1

    with pytest.raises(StorageError, match="perhaps by a sweep") as caught:
        writer.close()

    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("size", [5, 700 * KIB])
def test_the_backup_of_a_replaced_file_survives_the_sweep(plain_sftp, monkeypatch, size):
    """If the connection is lost then, it is the only copy of the old content, and gets a new mtime."""
    monkeypatch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", 256 * KIB)
    with closing(make_storage(plain_sftp)) as storage:
        storage.write("a.bin", CONTENT)
        backdate(storage, "a.bin")
        backdate(storage, "a.bin")
        rename, sources = Session.rename, []

        def breaking_rename(session, source, target):
            sources.append(source)
            if len(sources) == 3:
                session.wait(session.request(REALPATH, b"."))  # all earlier requests are done then
                session.close()
            return rename(session, source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "rename", breaking_rename)
            with pytest.raises(StorageUnavailableError, match="may or may not have been carried out"):
                storage.write("a.bin", bytes(size))

        assert storage.sweep(timedelta(hours=1)) == 0
        root = plain_sftp.folder / storage.root
        assert sorted(path.read_bytes() == CONTENT for path in root.glob(".fs-tmp-*")) == [False, True]


def test_a_directory_that_is_replaced_with_a_link_during_a_write_is_refused(openssh_storage, monkeypatch, tmp_path):
    """The path is resolved again before the file is renamed."""
    storage, root = openssh_storage
    writer = storage.open("d/b.bin", "w")
    writer.write(bytes(5_000_000))
    [temporary_file] = (root / "d").iterdir()
    (root / "d").rename(root / "e")
    (tmp_path / temporary_file.name).write_bytes(b"theirs")
    (root / "d").symlink_to(tmp_path)

    with pytest.raises(PermissionDeniedError):
        writer.close()

    assert "b.bin" not in os.listdir(tmp_path)


# -- files that are not closed ----------------------------------------------------------------------------------------


def test_readers_that_are_never_closed_release_their_sessions(openssh_storage):
    """With their last reference, without the garbage collector."""
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


def test_a_reader_that_has_lost_its_session_can_be_freed(openssh_storage):
    """It has nothing to release."""
    storage, _ = openssh_storage
    backdate(storage, "a.bin")
    reader = storage.open("a.bin", "r")
    assert reader.read(10) == CONTENT[:10]
    reader._source._kept.session.close()
    storage.write("a.bin", CONTENT[1:])
    with pytest.raises(PreconditionFailedError, match="replaced while it was read"):
        reader.read()

    reader.__del__()

    assert storage.read("a.bin") == CONTENT[1:]


@pytest.mark.parametrize("kind", ["r", "rw", "w", "list"])
def test_finalizers_never_use_the_network(openssh_storage, monkeypatch, kind):
    """They may run in a thread that is just sending, and would wait for themselves."""
    storage, root = openssh_storage
    for number in range(300):
        (root / f"{number:03}.txt").touch()
    pool = storage._pool()
    if kind == "list":
        resource: Any = storage.iter("")
        next(resource)
    else:
        resource = storage.open("a.bin", kind)
        resource.write(b"x" * KIB) if kind == "w" else resource.read(10)
    gc.collect()  # garbage of other tests
    cycle = [resource]
    cycle.append(cycle)
    used: list[str] = []
    # Not of the class: storages that other tests have left open may close idle channels now, from their timers.
    for channel in [session._channel for session, _, _ in pool._idle_sessions]:
        for name in ("send", "close", "recv"):
            monkeypatch.setattr(channel, name, lambda *_, name=name: used.append(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del resource, cycle
        gc.collect()
    monkeypatch.undo()

    assert used == []
    assert storage.read("a.bin") == CONTENT
    assert (len(pool._in_use), any(pool._kept.values())) == (0, False)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
@pytest.mark.parametrize("kind", ["rw", "list"])
def test_the_child_of_a_fork_does_not_use_its_parents_connection(openssh_storage, kind):
    """Neither by an unfinished listing nor by an open file; the parent's files stay usable."""
    storage, root = openssh_storage
    for number in range(400):
        (root / f"{number:03}.txt").touch()
    writer = storage.open("w.bin", "w")
    writer.write(CONTENT)
    entries = storage.iter("")
    next(entries)
    updater = storage.open("a.bin", "rw")

    child = os.fork()
    if child == 0:
        try:
            updater.read(10) if kind == "rw" else [entry.name for entry in entries]
        except StorageError:
            entries.close()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    writer.close()

    assert os.waitstatus_to_exitcode(status) == 0
    assert updater.read() == CONTENT
    updater.abort()
    assert len(list(entries)) == 400
    assert storage.read("w.bin") == CONTENT


def test_files_are_closed_on_the_server(make_openssh):
    """After a failed update, and after a reader is closed: a deleted file frees its space only then."""
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

        wait_until(lambda: not open_below(server.folder))


def open_below(directory):
    """Return what processes have open below a directory."""
    paths = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # the process has ended, or belongs to another user
            paths += [target for target in [os.readlink(link)] if target.startswith(f"{directory}/")]
    return paths


def test_an_error_in_a_signal_receiver_leaves_no_session_in_use(openssh_storage):
    """In a receiver of the signal for a read."""
    storage, _ = openssh_storage

    def fail(*_, **__):
        raise RuntimeError("a receiver")

    with signals.file_read.connected_to(fail), pytest.raises(RuntimeError):
        storage.open("a.bin", "r")

    assert not storage._pool()._in_use


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda updater: updater.truncate(-1), ValueError),
        (lambda updater: updater.truncate(1 << 64), ValueError),
        (lambda updater: updater.truncate(1.5), TypeError),
        (lambda updater: updater.seek(1 << 64), ValueError),
        (lambda updater: updater.seek(1.5), TypeError),
        (lambda updater: updater.seek(0, 9), ValueError),
    ],
)
def test_an_invalid_position_is_refused_before_a_request_is_sent(openssh_storage, operation, error):
    """The file stays open and keeps its changes."""
    storage, _ = openssh_storage
    with storage.open("a.bin", "rw") as updater:
        updater.write(b"changed")
        with pytest.raises(error):
            operation(updater)

    assert storage.read("a.bin") == b"changed" + CONTENT[7:]


def test_versions_of_the_same_size_and_second_have_different_etags(storage):
    """The server has whole seconds."""
    etags = []
    for number in range(5):
        storage.write("a.bin", str(number).encode())
        etags.append(storage.stat("a.bin").etag)

    assert len(set(etags)) == 5


def test_the_last_but_one_version_has_a_different_etag_too(storage):
    """Every version is newer than the one it replaces, also if their sizes differ."""
    etags = set()
    for content in (b"one", b"three", b"two", b"four!", b"six"):
        storage.write("b.bin", content)
        etags.add(storage.stat("b.bin").etag)

    assert len(etags) == 5


@pytest.mark.parametrize("operation", ["move", "copy"])
def test_a_file_that_replaces_one_of_the_same_size_and_time_gets_another_etag(storage, operation):
    """Any other file that is moved keeps its mtime."""
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


@pytest.mark.parametrize("deleted_late", [False, True])
def test_deleted_files_are_counted_once_after_a_lost_connection(openssh_storage, monkeypatch, deleted_late):
    """Also those whose response was lost, and those that the server deletes only after they were listed again."""
    storage, root = openssh_storage
    (root / "d").mkdir()
    for number in range(300):
        (root / "d" / f"{number}.txt").touch()
    wait, request = Session.wait, Session.request
    answered: list[PendingReply] = []
    removals: dict[bytes, PendingReply] = {}

    def patched_wait(session, pending):
        response = wait(session, pending)
        if pending.kind == REMOVE:
            answered.append(pending)
            if len(answered) == 150:
                session.close()
                for path in [path for path, one in removals.items() if deleted_late and one not in answered[:-1]]:
                    Path(os.fsdecode(path)).touch()  # the server has not deleted it yet
                raise ConnectionLostError("cut")
        return response

    def recording_request(session, kind, path, *fields):
        if kind == REMOVE and path in removals:
            os.unlink(path)
        pending = request(session, kind, path, *fields)
        if kind == REMOVE:
            removals[path] = pending
        return pending

    monkeypatch.setattr(Session, "wait", patched_wait)
    monkeypatch.setattr(Session, "request", recording_request)

    assert storage.delete_prefix("d") == 300
    assert os.listdir(root) == ["a.bin"]


def test_deleted_files_are_counted_when_the_connection_is_lost_while_sending(openssh_storage, monkeypatch):
    """Some were deleted, and the others were not requested yet."""
    storage, root = openssh_storage
    (root / "d").mkdir()
    for number in range(600):
        (root / "d" / f"{number}.txt").touch()
    monkeypatch.setattr(
        "flask_storage.backends.sftp.protocol._SSH_PACKET", KIB
    )  # so that few requests are sent together
    send = Session._send
    broken: list[Session] = []

    def breaking_send(session):
        send(session)
        sent = sum(pending.kind == REMOVE for pending in session._pending.values())
        if not broken and sent > 50:
            broken.append(session)
            wait_until(lambda: len(os.listdir(root / "d")) <= 600 - sent)
            session.close()
            raise ConnectionLostError("cut")

    monkeypatch.setattr(Session, "_send", breaking_send)

    assert storage.delete_prefix("d") == 600
    assert broken
    assert os.listdir(root) == ["a.bin"]
