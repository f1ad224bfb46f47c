"""Multipart uploads over SFTP: hidden directories with a manifest and parts, failures and race conditions."""

import json
import os
import shutil
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from flask_storage import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    NotAFileError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
    WriteOptions,
)
from flask_storage.backends.multipart_manifest import (
    MANIFEST_NAME,
    encode_manifest,
    is_upload_id,
    new_upload_id,
    parse_manifest,
    part_name,
    part_number_of,
)
from flask_storage.backends.sftp.multipart import SFTPMultipart
from flask_storage.backends.sftp.protocol import FAILURE, ConnectionLostError, StatusError
from flask_storage.backends.sftp.upload import SFTPUpload
from flask_storage.multipart import Part
from flask_storage.testing.concurrency import run_concurrently
from tests.counts import count
from tests.scripted_sftp import RoundTrips
from tests.services.fault_proxy import FaultProxy, Faults
from tests.sftp_storages import end_waiting_openers, make_storage, temporary_files, wait_until

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

PATH = "a folder/caf\u00e9.bin"
UNKNOWN_ID = "A" * 22
PLAIN = WriteOptions()
KIB = 1 << 10


@pytest.fixture(params=["openssh", "plain_sftp"])
def storage(request):
    """An empty storage on either server."""
    storage = make_storage(request.getfixturevalue(request.param))
    yield storage
    storage.close()


@pytest.fixture
def openssh_storage(openssh):
    """An empty storage on OpenSSH, and its root on this machine."""
    storage = make_storage(openssh)
    yield storage, openssh.folder / storage.root
    storage.close()


def pending_ids(storage, directory=""):
    """Return the ids of the pending uploads below a directory."""
    return [upload.upload_id for upload in storage.multipart.list_uploads(directory)]


# -- operations -------------------------------------------------------------------------------------------------------


def test_parts_are_joined_to_a_file(storage):
    """They may be sent in any order; the file is not visible before, and no temporary file is left."""
    upload = storage.multipart.create(PATH, PLAIN)
    content = {1: b"a" * 70 * KIB, 2: b"", 3: b"c" * 300 * KIB, 10_000: b"d"}
    sent = {
        number: storage.multipart.upload_part(PATH, upload, number, content[number]) for number in (3, 10_000, 1, 2)
    }
    pending = list(storage.multipart.list_uploads("a folder"))
    before = storage.list()
    listed = storage.multipart.list_parts(PATH, upload)

    storage.multipart.complete(PATH, upload, listed, WriteOptions(exclusive=True, size=sum(map(len, content.values()))))

    assert before == []
    assert listed == [sent[number] for number in sorted(sent)]
    assert [(part.number, part.size) for part in listed] == [(number, len(content[number])) for number in content]
    assert [(found.path, found.upload_id) for found in pending] == [(PATH, upload)]
    assert timedelta(0) <= datetime.now(UTC) - pending[0].started_at < timedelta(minutes=5)
    assert storage.read(PATH) == b"".join(content.values())
    assert (pending_ids(storage), temporary_files(storage)) == ([], [])


def test_only_the_listed_parts_are_joined(storage):
    """The others are deleted with the upload."""
    upload = storage.multipart.create("a", PLAIN)
    parts = [storage.multipart.upload_part("a", upload, number, b"%d" % number) for number in range(1, 6)]

    storage.multipart.complete("a", upload, [parts[4], parts[0], parts[2]], PLAIN)

    assert storage.read("a") == b"135"
    assert temporary_files(storage) == []


def test_two_uploads_to_one_path_are_independent(storage):
    """Each has its own parts, and the last one to be completed wins."""
    first, second = (storage.multipart.create("a", PLAIN) for _ in range(2))
    one = storage.multipart.upload_part("a", first, 1, b"first")
    two = storage.multipart.upload_part("a", second, 1, b"second")

    listed = [storage.multipart.list_parts("a", upload) for upload in (first, second)]
    storage.multipart.complete("a", second, [two], PLAIN)
    storage.multipart.complete("a", first, [one], PLAIN)

    assert listed == [[one], [two]]
    assert storage.read("a") == b"first"


@pytest.mark.parametrize("new", [b"new!", b"new"])
def test_a_part_that_is_uploaded_again_replaces_the_first(storage, new):
    """The first cannot be completed any more, even if both have the same size and second."""
    upload = storage.multipart.create("a", PLAIN)
    old = storage.multipart.upload_part("a", upload, 1, b"old")
    part = storage.multipart.upload_part("a", upload, 1, new)

    assert storage.multipart.list_parts("a", upload) == [part]
    with pytest.raises(IntegrityError, match="part 1 was replaced: list the parts again"):
        storage.multipart.complete("a", upload, [old], PLAIN)
    assert not storage.exists("a")
    storage.multipart.complete("a", upload, [part], PLAIN)
    assert storage.read("a") == new


def test_a_missing_part_raises_an_error(storage):
    """Nothing is published, and the upload stays."""
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")

    with pytest.raises(IntegrityError, match="part 2 is missing: upload it again") as caught:
        storage.multipart.complete("a", upload, [part, Part(number=2, size=1, etag="1-1")], PLAIN)

    assert caught.value.path == "a"
    assert not storage.exists("a")
    assert storage.multipart.list_parts("a", upload) == [part]


def test_another_size_than_expected_raises_an_error(storage):
    """Nothing is published, and the upload stays."""
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"12345")

    with pytest.raises(IntegrityError, match="the parts have 5 bytes where 6 were expected; nothing was published"):
        storage.multipart.complete("a", upload, [part], WriteOptions(size=6))

    assert not storage.exists("a")
    storage.multipart.complete("a", upload, [part], WriteOptions(size=5))
    assert storage.read("a") == b"12345"


def test_an_exclusive_completion_to_an_existing_path_is_refused(storage):
    """The old file stays, and the upload can still be completed."""
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"new")
    storage.write("a", b"old")

    with pytest.raises(FileExistsInStorageError, match="choose another name"):
        storage.multipart.complete("a", upload, [part], WriteOptions(exclusive=True))

    assert storage.read("a") == b"old"
    storage.multipart.complete("a", upload, [part], PLAIN)
    assert (storage.read("a"), temporary_files(storage)) == (b"new", [])


@pytest.mark.parametrize("upload_id", [UNKNOWN_ID, "", "../a", "A" * 21 + "\u00e4", "A" * 21 + "/", None, 5, b"A" * 22])
def test_an_unknown_upload_is_not_found(storage, upload_id):
    """Aborting it is no error."""
    for operation in (
        lambda: storage.multipart.upload_part("a", upload_id, 1, b"1"),
        lambda: storage.multipart.list_parts("a", upload_id),
        lambda: storage.multipart.complete("a", upload_id, [Part(number=1, size=1, etag="")], PLAIN),
    ):
        with pytest.raises(FileNotFoundInStorageError):
            operation()
    storage.multipart.abort("a", upload_id)
    assert temporary_files(storage) == []


def test_an_upload_belongs_to_one_path(storage):
    """With another path it is not found; aborting deletes its parts and is idempotent."""
    upload = storage.multipart.create("a", PLAIN)
    storage.multipart.upload_part("a", upload, 1, b"1")

    with pytest.raises(FileNotFoundInStorageError, match=r"b \(upload\)"):
        storage.multipart.upload_part("b", upload, 1, b"1")
    storage.multipart.abort("b", upload)
    after_wrong_path = pending_ids(storage)
    storage.multipart.abort("a", upload)
    storage.multipart.abort("a", upload)

    assert after_wrong_path == [upload]
    assert (pending_ids(storage), temporary_files(storage)) == ([], [])


def test_uploads_are_listed_by_directory(storage):
    """By the directory of their target, not by a prefix of its name."""
    created = {path: storage.multipart.create(path, PLAIN) for path in ("a/1.bin", "ab/2.bin", "3.bin", "a/b/4.bin")}

    assert sorted(pending_ids(storage)) == sorted(created.values())
    assert sorted(pending_ids(storage, "a")) == sorted([created["a/1.bin"], created["a/b/4.bin"]])
    assert pending_ids(storage, "none") == []


def test_other_files_and_directories_are_not_listed_as_uploads(openssh_storage):
    """Names without the prefix or a valid id, and files."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    for name in (upload, "B" * 22, ".fs-tmp-" + "C" * 22, ".fs-tmp-short", ".fs-tmp-" + "\u00e4" * 22):
        (root / name).mkdir()
    (root / (".fs-tmp-" + "D" * 22)).touch()

    assert pending_ids(storage) == [upload]


def test_unsupported_options_are_refused_when_an_upload_is_created(storage):
    """No temporary file is left."""
    with pytest.raises(UnsupportedOperationError):
        storage.multipart.create("a", WriteOptions(metadata={"color": "blue"}))

    assert temporary_files(storage) == []


def test_put_stores_a_small_file(storage):
    """For uploads that are too short for parts."""
    storage.multipart.put("d/a", memoryview(b"12"), WriteOptions(size=2))

    assert storage.read("d/a") == b"12"
    assert temporary_files(storage) == []


def test_a_completion_that_times_out_can_be_repeated(openssh_storage, monkeypatch):
    """The parts are still there."""
    storage, _ = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")

    def commit_without_response(atomic_write, session, *arguments, **options):
        session.close()
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr("flask_storage.backends.sftp.atomic_write.AtomicWrite.commit", commit_without_response)
        with pytest.raises(StorageTimeoutError):
            storage.multipart.complete("a", upload, [part], PLAIN)
    storage.multipart.complete("a", upload, [part], PLAIN)

    assert storage.read("a") == b"1"
    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1


def test_foreign_files_do_not_hide_uploads(openssh_storage):
    """A link, a pipe or a directory in place of a manifest."""
    storage, root = openssh_storage
    os.mkfifo(root / "pipe")
    for number, make in enumerate((os.mkdir, os.mkfifo, lambda path: path.symlink_to("../pipe"))):
        directory = root / f".fs-tmp-{number:022}"
        directory.mkdir()
        make(directory / MANIFEST_NAME)
    upload = storage.multipart.create("a", PLAIN)

    assert pending_ids(storage) == [upload]
    pipes = [root / "pipe", root / f".fs-tmp-{1:022}" / MANIFEST_NAME]
    wait_until(lambda: any(end_waiting_openers(pipe) for pipe in pipes))


# -- manifests --------------------------------------------------------------------------------------------------------

DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"{}",
    b"[" * 30_000,
    b'{"path": 5, "headers": {}, "started_at": "2026-01-01T00:00:00+00:00"}',
    b'{"path": "../a", "headers": {}, "started_at": "2026-01-01T00:00:00+00:00"}',
    b'{"path": "a", "headers": {}, "started_at": "2026-01-01T00:00:00"}',
    b'{"path": "a", "headers": [], "started_at": "2026-01-01T00:00:00+00:00"}',
    b'{"path": "a", "headers": {}, "started_at": "yesterday"}',
    b'{"path": "a", "headers": {}, "started_at": 5}',
    b'{"path": "a", "headers": {}}',
    b'{"headers": {}, "started_at": "2026-01-01T00:00:00+00:00"}',
]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: content[:30])
def test_a_damaged_manifest_raises_an_error(openssh_storage, content):
    """For this upload only; the sweep removes it."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    (root / f".fs-tmp-{upload}" / MANIFEST_NAME).write_bytes(content)

    with pytest.raises(IntegrityError, match="of this upload is damaged"):
        storage.multipart.list_parts("a", upload)

    assert pending_ids(storage) == []
    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1
    assert os.listdir(root) == []


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: content[:30])
def test_a_damaged_manifest_cannot_be_parsed(content):
    """The same without a server."""
    with pytest.raises(IntegrityError):
        parse_manifest(content)


def test_a_manifest_has_the_path_and_the_headers():
    """Ids are random, and ids and names of parts are recognized exactly."""
    options = WriteOptions(content_type="text/x-\u00e4")
    manifest = parse_manifest(encode_manifest(PATH, options))
    ids = {new_upload_id() for _ in range(1000)}

    assert (manifest["path"], manifest["headers"]) == (PATH, options.headers)
    assert len(ids) == 1000
    assert all(map(is_upload_id, ids))
    assert not any(map(is_upload_id, ("", "A" * 23, f"{UNKNOWN_ID}\n", "../" + "A" * 19, None, b"A" * 22)))
    assert [part_number_of(part_name(number)) for number in (1, 99_999, 100_000)] == [1, 99_999, 100_000]
    assert [
        part_number_of(name) for name in (MANIFEST_NAME, "part-1", "part-\u0661\u0662\u0663\u0664\u0665", "part-00001x")
    ] == ([None] * 4)


def test_the_manifest_of_the_longest_path_is_read_completely(storage):
    """Escaped, a path is six times as long."""
    path = "/".join(["\u00e4" * 120] * 4)
    upload = storage.multipart.create(path, PLAIN)

    storage.multipart.complete(path, upload, [storage.multipart.upload_part(path, upload, 1, b"1")], PLAIN)

    assert storage.read(path) == b"1"


def test_an_upload_without_a_manifest_is_not_found(openssh_storage):
    """Another process may be deleting it."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    storage.multipart.upload_part("a", upload, 1, b"1")
    (root / f".fs-tmp-{upload}" / MANIFEST_NAME).unlink()

    assert pending_ids(storage) == []
    with pytest.raises(FileNotFoundInStorageError):
        storage.multipart.list_parts("a", upload)
    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1
    assert os.listdir(root) == []


def test_a_manifest_that_is_a_pipe_or_a_link_is_refused(openssh_storage, in_bounded_time):
    """A pipe would block the server."""
    storage, root = openssh_storage
    (root / "secret").write_bytes(encode_manifest("a", PLAIN))
    upload = storage.multipart.create("a", PLAIN)
    manifest = root / f".fs-tmp-{upload}" / MANIFEST_NAME

    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(NotAFileError):
        storage.multipart.list_parts("a", upload)
    wait_until(lambda: end_waiting_openers(manifest))
    manifest.unlink()
    manifest.symlink_to(root / "secret")
    with pytest.raises(PermissionDeniedError):
        storage.multipart.list_parts("a", upload)


def test_a_part_that_is_a_link_is_refused(openssh_storage, tmp_path):
    """Its target is never published."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"12")
    (tmp_path / "secret").write_bytes(b"xy")
    part_file = root / f".fs-tmp-{upload}" / part_name(1)
    os.utime(tmp_path / "secret", (part_file.stat().st_mtime,) * 2)
    part_file.unlink()
    part_file.symlink_to(tmp_path / "secret")

    with pytest.raises(PermissionDeniedError):
        storage.multipart.complete("a", upload, [part], PLAIN)

    assert not storage.exists("a")
    storage.multipart.abort("a", upload)
    storage.sweep(older_than=timedelta(seconds=-10))  # the failed completion may have left its temporary file
    assert os.listdir(root) == []
    assert (tmp_path / "secret").read_bytes() == b"xy"


def test_an_upload_directory_that_is_a_link_is_refused(openssh_storage, tmp_path):
    """Its manifest could belong to another storage."""
    storage, root = openssh_storage
    (tmp_path / MANIFEST_NAME).write_bytes(encode_manifest("a", PLAIN))
    (root / f".fs-tmp-{UNKNOWN_ID}").symlink_to(tmp_path)

    for operation in (
        lambda: storage.multipart.upload_part("a", UNKNOWN_ID, 1, b"1"),
        lambda: storage.multipart.list_parts("a", UNKNOWN_ID),
        lambda: storage.multipart.abort("a", UNKNOWN_ID),
    ):
        with pytest.raises(PermissionDeniedError):
            operation()

    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1
    assert (os.listdir(root), os.listdir(tmp_path)) == ([], [MANIFEST_NAME])


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [StatusError(FAILURE, "no"), ConnectionLostError("gone"), TimeoutError(), PermissionDeniedError("no")]
)
def test_a_completion_whose_parts_cannot_be_deleted_succeeds(openssh_storage, monkeypatch, caplog, error):
    """The file is published, so it is no error; the sweep or another completion removes the parts."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")

    def fail(_, session, *__):
        if not isinstance(error, StatusError | StorageError):
            session.close()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("flask_storage.backends.sftp.multipart.remove_upload", fail)
        storage.multipart.complete("a", upload, [part], WriteOptions(exclusive=True))

    assert storage.read("a") == b"1"
    assert "could not delete the parts" in caplog.text
    storage.multipart.complete("a", upload, [part], PLAIN)  # by a client that missed the first response
    assert os.listdir(root) == ["a"]


def test_a_completion_whose_response_is_lost_has_an_unknown_outcome(openssh_storage, monkeypatch):
    """It is not retried: the path would exist then."""
    storage, _ = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    publish = type(storage._atomic_write).publish

    def breaking_publish(atomic_write, session, *arguments):
        publish(atomic_write, session, *arguments)
        session.close()
        raise ConnectionLostError("gone")

    monkeypatch.setattr(type(storage._atomic_write), "publish", breaking_publish)
    with pytest.raises(StorageUnavailableError, match="may or may not have been carried out"):
        storage.multipart.complete("a", upload, [part], WriteOptions(exclusive=True))

    assert storage.read("a") == b"1"
    assert pending_ids(storage) == [upload]


@pytest.mark.parametrize("operation", ["list_parts", "upload_part", "complete", "abort", "list_uploads"])
def test_a_permission_error_is_not_reported_as_a_missing_upload(unprivileged_storage, operation):
    """Nor as success."""
    storage, root = unprivileged_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    directory = root / f".fs-tmp-{upload}"
    (directory if operation != "list_uploads" else directory / MANIFEST_NAME).chmod(0o000)
    operations = {
        "list_parts": lambda: storage.multipart.list_parts("a", upload),
        "upload_part": lambda: storage.multipart.upload_part("a", upload, 2, b"2"),
        "complete": lambda: storage.multipart.complete("a", upload, [part], PLAIN),
        "abort": lambda: storage.multipart.abort("a", upload),
        "list_uploads": lambda: pending_ids(storage),
    }

    with pytest.raises(PermissionDeniedError):
        operations[operation]()

    assert not (root / "a").exists()


@pytest.mark.parametrize("operation", ["abort", "sweep"])
def test_parts_that_may_not_be_deleted_raise_an_error(unprivileged_storage, operation):
    """They would stay for ever."""
    storage, root = unprivileged_storage
    upload = storage.multipart.create("a", PLAIN)
    (root / f".fs-tmp-{upload}").chmod(0o555)

    operations = {
        "abort": lambda: storage.multipart.abort("a", upload),
        "sweep": lambda: storage.sweep(older_than=timedelta(seconds=-10)),
    }
    with pytest.raises(PermissionDeniedError):
        operations[operation]()

    assert pending_ids(storage) == [upload]


@pytest.fixture
def unprivileged_storage(openssh):
    """A storage on a server that runs without root, so that modes count, and its root on this machine."""
    uid = 65534
    setpriv = f"setpriv --reuid={uid} --regid={uid} --clear-groups " if os.getuid() == 0 else ""
    server = type(openssh)(f"ForceCommand {setpriv}/usr/lib/openssh/sftp-server")
    server.home.chmod(0o755)
    root = server.folder / "root"
    root.mkdir()
    if os.getuid() == 0:
        os.chown(root, uid, uid)
    with closing(make_storage(server, root=str(root))) as made:
        yield made, root
    server.remove()


def test_foreign_files_beside_the_parts_are_ignored(openssh_storage):
    """They are not parts; a foreign directory stays."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    (root / f".fs-tmp-{upload}/theirs/deep").mkdir(parents=True)
    (root / f".fs-tmp-{upload}/part-x").touch()

    assert storage.multipart.list_parts("a", upload) == [part]
    storage.multipart.complete("a", upload, [part], PLAIN)

    assert storage.read("a") == b"1"
    assert pending_ids(storage) == []
    assert os.listdir(root / f".fs-tmp-{upload}") in ([], ["theirs"])


def test_a_failed_completion_leaves_no_file_open(openssh_storage):
    """An open file that is deleted occupies space as long as the session exists."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")

    for _ in range(3):
        with pytest.raises(IntegrityError):
            storage.multipart.complete("a", upload, [Part(number=1, size=part.size, etag="other")], PLAIN)
        with pytest.raises(IntegrityError):
            storage.multipart.complete("a", upload, [part, Part(number=2, size=1, etag="")], PLAIN)
    storage.exists("a")

    open_files = []
    for process in os.listdir("/proc"):
        with suppress(OSError):
            open_files += [os.readlink(f"/proc/{process}/fd/{fd}") for fd in os.listdir(f"/proc/{process}/fd")]
    assert not [name for name in open_files if str(root) in name]
    assert os.listdir(root) == [f".fs-tmp-{upload}"]


def test_parts_can_be_uploaded_concurrently(openssh_storage):
    """Each in a session of its own."""
    storage, _ = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    number = count(8, 40)

    sent = run_concurrently(
        lambda index: storage.multipart.upload_part("a", upload, index + 1, bytes([index]) * 100_000), number
    )
    storage.multipart.complete("a", upload, sent, PLAIN)

    assert storage.read("a") == b"".join(bytes([index]) * 100_000 for index in range(number))


def _abort(storage, upload, _):
    storage.multipart.abort("a", upload)


def test_an_upload_can_be_aborted_by_several_threads_at_once(openssh_storage):
    """Aborting is idempotent."""
    storage, root = openssh_storage

    for _ in range(count(5, 50)):
        upload = storage.multipart.create("a", PLAIN)
        storage.multipart.upload_part("a", upload, 1, b"1")
        run_concurrently(partial(_abort, storage, upload), 4)
        assert os.listdir(root) == []


def test_an_upload_continues_in_another_storage_and_after_a_lost_connection(openssh):
    """Its id and its path are all that is needed."""
    with FaultProxy("127.0.0.1", openssh.port) as proxy:
        openssh.know(proxy.port)
        first = make_storage(openssh, port=proxy.port)
        upload = first.multipart.create("a", PLAIN)
        one = first.multipart.upload_part("a", upload, 1, b"one")
        proxy.up = Faults(cut_after=0)
        proxy.kill()
        with pytest.raises(StorageError):
            first.multipart.upload_part("a", upload, 2, b"two")
        proxy.remove_faults()
        two = first.multipart.upload_part("a", upload, 2, b"two")
        first.close()
    with closing(make_storage(openssh, root=first.root)) as second:
        assert second.multipart.list_parts("a", upload) == [one, two]
        second.multipart.complete("a", upload, [one, two], PLAIN)
        assert second.read("a") == b"onetwo"


def test_a_thousand_parts_are_removed_in_few_round_trips(openssh_storage, monkeypatch):
    """Parts that were written by another program are found too."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    for number in range(1, 1001):
        (root / f".fs-tmp-{upload}" / part_name(number)).touch()
    round_trips = RoundTrips(monkeypatch)

    listed = storage.multipart.list_parts("a", upload)
    storage.multipart.abort("a", upload)

    assert [part.number for part in listed] == list(range(1, 1001))
    assert round_trips.requests > 1000
    assert round_trips.count < 30
    assert os.listdir(root) == []


# -- the upload of a writer -------------------------------------------------------------------------------------------


def test_the_upload_of_a_writer_is_not_listed(openssh_storage):
    """It has no manifest, and must be created before parts are uploaded."""
    storage, root = openssh_storage
    file_upload = storage._file_upload()

    with pytest.raises(LookupError, match=r"call create\(\) first"):
        file_upload.upload_part("a", "", 1, b"1")
    file_upload.abort("a", "")
    file_upload.abandon()
    upload = file_upload.create("a", PLAIN)

    assert isinstance(file_upload, SFTPUpload)
    assert list(file_upload.list_uploads()) == []
    assert file_upload.list_parts("a", upload) == []
    assert pending_ids(storage) == []
    file_upload.abort("a", upload)
    assert os.listdir(root) == []


def test_a_manifest_is_json_with_three_fields(openssh_storage):
    """Other programs may have to read it."""
    storage, root = openssh_storage
    upload = storage.multipart.create(PATH, PLAIN)

    manifest = json.loads((root / f".fs-tmp-{upload}" / MANIFEST_NAME).read_bytes())

    assert set(manifest) == {"path", "headers", "started_at"}
    assert manifest["path"] == PATH
    shutil.rmtree(root / f".fs-tmp-{upload}")
    assert pending_ids(storage) == []
    assert isinstance(storage._multipart(), SFTPMultipart)
