"""Uploads in parts over SFTP: hidden folders with a note, parts as files, and who else may be there."""

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
from tests.sftp_storages import make_storage, temporary_files

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

PATH = "a folder/caf\u00e9.bin"
NONE = "A" * 22
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
    """An empty storage on OpenSSH, and where it is on this machine."""
    storage = make_storage(openssh)
    yield storage, openssh.folder / storage.root
    storage.close()


def uploads(storage, folder=""):
    """Which are pending."""
    return [found.upload_id for found in storage.multipart.list_uploads(folder)]


# -- as everywhere ----------------------------------------------------------------------------------------------------


def test_parts_become_a_file(storage):
    """Sent in any order; nothing is to be seen before, and nothing is left afterwards."""
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
    assert (uploads(storage), temporary_files(storage)) == ([], [])


def test_only_the_parts_that_are_named_are_joined(storage):
    """The others go with the upload."""
    upload = storage.multipart.create("a", PLAIN)
    parts = [storage.multipart.upload_part("a", upload, number, b"%d" % number) for number in range(1, 6)]

    storage.multipart.complete("a", upload, [parts[4], parts[0], parts[2]], PLAIN)

    assert storage.read("a") == b"135"
    assert temporary_files(storage) == []


def test_two_uploads_of_one_name_do_not_mix(storage):
    """Each has its own parts, and the one that ends last wins."""
    first, second = (storage.multipart.create("a", PLAIN) for _ in range(2))
    one = storage.multipart.upload_part("a", first, 1, b"first")
    two = storage.multipart.upload_part("a", second, 1, b"second")

    listed = [storage.multipart.list_parts("a", upload) for upload in (first, second)]
    storage.multipart.complete("a", second, [two], PLAIN)
    storage.multipart.complete("a", first, [one], PLAIN)

    assert listed == [[one], [two]]
    assert storage.read("a") == b"first"


@pytest.mark.parametrize("new", [b"new!", b"new"])
def test_a_part_that_is_sent_again_replaces_the_first(storage, new):
    """And the first may no longer be named, also where both are of one length and one second."""
    upload = storage.multipart.create("a", PLAIN)
    old = storage.multipart.upload_part("a", upload, 1, b"old")
    part = storage.multipart.upload_part("a", upload, 1, new)

    assert storage.multipart.list_parts("a", upload) == [part]
    with pytest.raises(IntegrityError, match="part 1 is not the one that was named"):
        storage.multipart.complete("a", upload, [old], PLAIN)
    assert not storage.exists("a")
    storage.multipart.complete("a", upload, [part], PLAIN)
    assert storage.read("a") == new


def test_a_part_that_is_missing_is_told(storage):
    """Nothing is published, and the upload stays."""
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")

    with pytest.raises(IntegrityError, match="part 2 is missing: send it again") as caught:
        storage.multipart.complete("a", upload, [part, Part(number=2, size=1, etag="1-1")], PLAIN)

    assert caught.value.path == "a"
    assert not storage.exists("a")
    assert storage.multipart.list_parts("a", upload) == [part]


def test_a_promised_size_is_held(storage):
    """Or nothing is published, and the upload stays."""
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"12345")

    with pytest.raises(IntegrityError, match="5 bytes were sent where 6 were promised; nothing was published"):
        storage.multipart.complete("a", upload, [part], WriteOptions(size=6))

    assert not storage.exists("a")
    storage.multipart.complete("a", upload, [part], WriteOptions(size=5))
    assert storage.read("a") == b"12345"


def test_a_name_that_is_taken_refuses_an_exclusive_end(storage):
    """The old file stays, and so does the upload, to be finished otherwise."""
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"new")
    storage.write("a", b"old")

    with pytest.raises(FileExistsInStorageError, match="choose another name"):
        storage.multipart.complete("a", upload, [part], WriteOptions(exclusive=True))

    assert storage.read("a") == b"old"
    storage.multipart.complete("a", upload, [part], PLAIN)
    assert (storage.read("a"), temporary_files(storage)) == (b"new", [])


@pytest.mark.parametrize("upload_id", [NONE, "", "../a", "A" * 21 + "\u00e4", "A" * 21 + "/", None, 5, b"A" * 22])
def test_an_upload_that_does_not_exist_is_not_found(storage, upload_id):
    """Whatever is asked of it; to discard it is no error."""
    for operation in (
        lambda: storage.multipart.upload_part("a", upload_id, 1, b"1"),
        lambda: storage.multipart.list_parts("a", upload_id),
        lambda: storage.multipart.complete("a", upload_id, [Part(number=1, size=1, etag="")], PLAIN),
    ):
        with pytest.raises(FileNotFoundInStorageError):
            operation()
    storage.multipart.abort("a", upload_id)
    assert temporary_files(storage) == []


def test_an_upload_is_of_one_path(storage):
    """By another, it is not found; discarded, it is gone for all, and with it what was sent."""
    upload = storage.multipart.create("a", PLAIN)
    storage.multipart.upload_part("a", upload, 1, b"1")

    with pytest.raises(FileNotFoundInStorageError, match=r"b \(upload\)"):
        storage.multipart.upload_part("b", upload, 1, b"1")
    storage.multipart.abort("b", upload)
    still = uploads(storage)
    storage.multipart.abort("a", upload)
    storage.multipart.abort("a", upload)

    assert still == [upload]
    assert (uploads(storage), temporary_files(storage)) == ([], [])


def test_uploads_are_listed_by_the_folder_of_their_path(storage):
    """A folder, not the beginning of a name."""
    begun = {path: storage.multipart.create(path, PLAIN) for path in ("a/1.bin", "ab/2.bin", "3.bin", "a/b/4.bin")}

    assert sorted(uploads(storage)) == sorted(begun.values())
    assert sorted(uploads(storage, "a")) == sorted([begun["a/1.bin"], begun["a/b/4.bin"]])
    assert uploads(storage, "none") == []


def test_a_folder_that_looks_like_an_upload_is_none(openssh_storage):
    """Its name lacks what hides it; and what is hidden may be something else."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    for name in (upload, "B" * 22, ".fs-tmp-" + "C" * 22, ".fs-tmp-short", ".fs-tmp-" + "\u00e4" * 22):
        (root / name).mkdir()
    (root / (".fs-tmp-" + "D" * 22)).touch()

    assert uploads(storage) == [upload]


def test_what_a_place_cannot_keep_is_refused_when_it_begins(storage):
    """Nothing is left of it."""
    with pytest.raises(UnsupportedOperationError):
        storage.multipart.create("a", WriteOptions(metadata={"color": "blue"}))

    assert temporary_files(storage) == []


def test_a_file_stored_whole_is_there_at_once(storage):
    """As for uploads too short for parts."""
    storage.multipart.put("d/a", memoryview(b"12"), WriteOptions(size=2))

    assert storage.read("d/a") == b"12"
    assert temporary_files(storage) == []


def test_an_upload_whose_end_is_not_answered_can_be_ended_again(openssh_storage, monkeypatch):
    """The session is of no more use; the parts are there."""
    storage, _ = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")

    def unanswered(atomic_write, session, *arguments, **more):
        session.close()
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr("flask_storage.backends.sftp.atomic_write.AtomicWrite.commit", unanswered)
        with pytest.raises(StorageTimeoutError):
            storage.multipart.complete("a", upload, [part], PLAIN)
    storage.multipart.complete("a", upload, [part], PLAIN)

    assert storage.read("a") == b"1"
    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1


def test_what_others_put_there_hides_no_upload(openssh_storage):
    """A link, a pipe or a folder in the place of a note, beside an upload of ours."""
    storage, root = openssh_storage
    os.mkfifo(root / "pipe")
    for number, make in enumerate((os.mkdir, os.mkfifo, lambda path: path.symlink_to("../pipe"))):
        folder = root / f".fs-tmp-{number:022}"
        folder.mkdir()
        make(folder / MANIFEST_NAME)
    upload = storage.multipart.create("a", PLAIN)

    assert uploads(storage) == [upload]


# -- notes ------------------------------------------------------------------------------------------------------------

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
def test_a_damaged_note_is_told(openssh_storage, content):
    """It is an error for who asks for the upload, and none for others; the sweep takes it."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    (root / f".fs-tmp-{upload}" / MANIFEST_NAME).write_bytes(content)

    with pytest.raises(IntegrityError, match="the note of this upload is damaged: begin anew"):
        storage.multipart.list_parts("a", upload)

    assert uploads(storage) == []
    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1
    assert os.listdir(root) == []


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: content[:30])
def test_a_damaged_note_is_never_read(content):
    """Without a server too."""
    with pytest.raises(IntegrityError):
        parse_manifest(content)


def test_a_note_tells_what_is_to_come():
    """Under ids that nobody can guess, and that are all of a name."""
    options = WriteOptions(content_type="text/x-\u00e4")
    note = parse_manifest(encode_manifest(PATH, options))
    ids = {new_upload_id() for _ in range(1000)}

    assert (note["path"], note["headers"]) == (PATH, options.headers)
    assert len(ids) == 1000
    assert all(map(is_upload_id, ids))
    assert not any(map(is_upload_id, ("", "A" * 23, f"{NONE}\n", "../" + "A" * 19, None, b"A" * 22)))
    assert [part_number_of(part_name(number)) for number in (1, 99_999, 100_000)] == [1, 99_999, 100_000]
    assert [
        part_number_of(name) for name in (MANIFEST_NAME, "part-1", "part-\u0661\u0662\u0663\u0664\u0665", "part-00001x")
    ] == ([None] * 4)


def test_the_note_of_the_longest_path_is_read_whole(storage):
    """Escaped, it is six times as long."""
    path = "/".join(["\u00e4" * 120] * 4)
    upload = storage.multipart.create(path, PLAIN)

    storage.multipart.complete(path, upload, [storage.multipart.upload_part(path, upload, 1, b"1")], PLAIN)

    assert storage.read(path) == b"1"


def test_an_upload_without_its_note_is_none(openssh_storage):
    """As when somebody else is removing it."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    storage.multipart.upload_part("a", upload, 1, b"1")
    (root / f".fs-tmp-{upload}" / MANIFEST_NAME).unlink()

    assert uploads(storage) == []
    with pytest.raises(FileNotFoundInStorageError):
        storage.multipart.list_parts("a", upload)
    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1
    assert os.listdir(root) == []


def test_a_note_that_is_no_file_is_refused(openssh_storage, in_bounded_time):
    """Whoever put a pipe or a link in its place gets no response, and nobody waits for one."""
    storage, root = openssh_storage
    (root / "secret").write_bytes(encode_manifest("a", PLAIN))
    upload = storage.multipart.create("a", PLAIN)
    note = root / f".fs-tmp-{upload}" / MANIFEST_NAME

    note.unlink()
    os.mkfifo(note)
    with pytest.raises(NotAFileError):
        storage.multipart.list_parts("a", upload)
    note.unlink()
    note.symlink_to(root / "secret")
    with pytest.raises(PermissionDeniedError):
        storage.multipart.list_parts("a", upload)


def test_a_part_that_is_a_link_is_refused(openssh_storage, tmp_path):
    """What it leads to is never published."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"12")
    (tmp_path / "secret").write_bytes(b"xy")
    hidden = root / f".fs-tmp-{upload}" / part_name(1)
    os.utime(tmp_path / "secret", (hidden.stat().st_mtime,) * 2)
    hidden.unlink()
    hidden.symlink_to(tmp_path / "secret")

    with pytest.raises(PermissionDeniedError):
        storage.multipart.complete("a", upload, [part], PLAIN)

    assert not storage.exists("a")
    storage.multipart.abort("a", upload)
    storage.sweep(older_than=timedelta(seconds=-10))  # a pipe could have been there: the session was ended
    assert os.listdir(root) == []
    assert (tmp_path / "secret").read_bytes() == b"xy"


def test_a_hidden_folder_that_is_a_link_is_refused(openssh_storage, tmp_path):
    """Its note would be somebody else's."""
    storage, root = openssh_storage
    (tmp_path / MANIFEST_NAME).write_bytes(encode_manifest("a", PLAIN))
    (root / f".fs-tmp-{NONE}").symlink_to(tmp_path)

    for operation in (
        lambda: storage.multipart.upload_part("a", NONE, 1, b"1"),
        lambda: storage.multipart.list_parts("a", NONE),
        lambda: storage.multipart.abort("a", NONE),
    ):
        with pytest.raises(PermissionDeniedError):
            operation()

    assert storage.sweep(older_than=timedelta(seconds=-10)) == 1
    assert (os.listdir(root), os.listdir(tmp_path)) == ([], [MANIFEST_NAME])


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [StatusError(FAILURE, "no"), ConnectionLostError("gone"), TimeoutError(), PermissionDeniedError("no")]
)
def test_an_upload_whose_parts_cannot_be_deleted_is_published(openssh_storage, monkeypatch, caplog, error):
    """An error would deny it; the sweep takes the rest, or whoever asks once more."""
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
    assert "left for the sweep" in caplog.text
    storage.multipart.complete("a", upload, [part], PLAIN)  # by somebody who was not told
    assert os.listdir(root) == ["a"]


def test_an_end_whose_answer_is_lost_is_neither_done_nor_undone(openssh_storage, monkeypatch):
    """It is not done twice: the second time, the name would be taken by our own file."""
    storage, _ = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    publish = type(storage._atomic_write).publish

    def lost(atomic_write, session, *arguments):
        publish(atomic_write, session, *arguments)
        session.close()
        raise ConnectionLostError("gone")

    monkeypatch.setattr(type(storage._atomic_write), "publish", lost)
    with pytest.raises(StorageUnavailableError, match="it may have been done, or not"):
        storage.multipart.complete("a", upload, [part], WriteOptions(exclusive=True))

    assert storage.read("a") == b"1"
    assert uploads(storage) == [upload]


@pytest.mark.parametrize("operation", ["list_parts", "upload_part", "complete", "abort", "list_uploads"])
def test_a_refusal_is_never_a_missing_upload(ordinary, operation):
    """Nor is it "done"."""
    storage, root = ordinary
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    hidden = root / f".fs-tmp-{upload}"
    (hidden if operation != "list_uploads" else hidden / MANIFEST_NAME).chmod(0o000)
    asked = {
        "list_parts": lambda: storage.multipart.list_parts("a", upload),
        "upload_part": lambda: storage.multipart.upload_part("a", upload, 2, b"2"),
        "finish": lambda: storage.multipart.complete("a", upload, [part], PLAIN),
        "discard": lambda: storage.multipart.abort("a", upload),
        "list_uploads": lambda: uploads(storage),
    }

    with pytest.raises(PermissionDeniedError):
        asked[operation]()

    assert not (root / "a").exists()


@pytest.mark.parametrize("operation", ["abort", "sweep"])
def test_parts_that_may_not_be_deleted_are_told(ordinary, operation):
    """They would be there for ever."""
    storage, root = ordinary
    upload = storage.multipart.create("a", PLAIN)
    (root / f".fs-tmp-{upload}").chmod(0o555)

    operations = {
        "discard": lambda: storage.multipart.abort("a", upload),
        "sweep": lambda: storage.sweep(older_than=timedelta(seconds=-10)),
    }
    with pytest.raises(PermissionDeniedError):
        operations[operation]()

    assert uploads(storage) == [upload]


@pytest.fixture
def ordinary(openssh):
    """A storage on a server on which modes mean something, and where it is on this machine."""
    nobody = 65534
    someone = f"setpriv --reuid={nobody} --regid={nobody} --clear-groups " if os.getuid() == 0 else ""
    server = type(openssh)(f"ForceCommand {someone}/usr/lib/openssh/sftp-server")
    server.home.chmod(0o755)
    root = server.folder / "root"
    root.mkdir()
    if os.getuid() == 0:
        os.chown(root, nobody, nobody)
    with closing(make_storage(server, root=str(root))) as made:
        yield made, root
    server.remove()


def test_what_somebody_else_puts_beside_the_parts_does_no_harm(openssh_storage):
    """It is no part, and keeps its folder; the upload goes."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    (root / f".fs-tmp-{upload}/theirs/deep").mkdir(parents=True)
    (root / f".fs-tmp-{upload}/part-x").touch()

    assert storage.multipart.list_parts("a", upload) == [part]
    storage.multipart.complete("a", upload, [part], PLAIN)

    assert storage.read("a") == b"1"
    assert uploads(storage) == []
    assert os.listdir(root / f".fs-tmp-{upload}") in ([], ["theirs"])


def test_an_end_that_fails_leaves_no_file_open(openssh_storage):
    """Deleted files that are open take up room for as long as the session lives."""
    storage, root = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    part = storage.multipart.upload_part("a", upload, 1, b"1")

    for _ in range(3):
        with pytest.raises(IntegrityError):
            storage.multipart.complete("a", upload, [Part(number=1, size=part.size, etag="other")], PLAIN)
        with pytest.raises(IntegrityError):
            storage.multipart.complete("a", upload, [part, Part(number=2, size=1, etag="")], PLAIN)
    storage.exists("a")

    held = []
    for process in os.listdir("/proc"):
        with suppress(OSError):
            held += [os.readlink(f"/proc/{process}/fd/{one}") for one in os.listdir(f"/proc/{process}/fd")]
    assert not [name for name in held if str(root) in name]
    assert os.listdir(root) == [f".fs-tmp-{upload}"]


def test_parts_sent_at_once_all_arrive(openssh_storage):
    """Each through a session of its own."""
    storage, _ = openssh_storage
    upload = storage.multipart.create("a", PLAIN)
    number = count(8, 40)

    sent = run_concurrently(
        lambda at: storage.multipart.upload_part("a", upload, at + 1, bytes([at]) * 100_000), number
    )
    storage.multipart.complete("a", upload, sent, PLAIN)

    assert storage.read("a") == b"".join(bytes([at]) * 100_000 for at in range(number))


def _discard(storage, upload, _):
    storage.multipart.abort("a", upload)


def test_an_upload_that_is_discarded_by_several_is_gone(openssh_storage):
    """Whoever comes second finds it done."""
    storage, root = openssh_storage

    for _ in range(count(5, 50)):
        upload = storage.multipart.create("a", PLAIN)
        storage.multipart.upload_part("a", upload, 1, b"1")
        run_concurrently(partial(_discard, storage, upload), 4)
        assert os.listdir(root) == []


def test_an_upload_goes_on_in_another_process_and_after_a_cut(openssh):
    """Its id and its path are all that it takes."""
    with FaultProxy("127.0.0.1", openssh.port) as proxy:
        openssh.know(proxy.port)
        first = make_storage(openssh, port=proxy.port)
        upload = first.multipart.create("a", PLAIN)
        one = first.multipart.upload_part("a", upload, 1, b"one")
        proxy.up = Faults(cut_after=0)
        proxy.kill()
        with pytest.raises(StorageError):
            first.multipart.upload_part("a", upload, 2, b"two")
        proxy.heal()
        two = first.multipart.upload_part("a", upload, 2, b"two")
        first.close()
    with closing(make_storage(openssh, root=first.root)) as second:
        assert second.multipart.list_parts("a", upload) == [one, two]
        second.multipart.complete("a", upload, [one, two], PLAIN)
        assert second.read("a") == b"onetwo"


def test_a_thousand_parts_are_removed_in_few_turns(openssh_storage, monkeypatch):
    """None waits for another; and parts that were given by hand are found."""
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


# -- what a writer does -----------------------------------------------------------------------------------------------


def test_what_a_writer_begins_is_known_to_nobody_else(openssh_storage):
    """It leaves no note, lists no uploads, and has to be begun."""
    storage, root = openssh_storage
    writes = storage._file_upload()

    with pytest.raises(LookupError, match=r"begin\(\) comes first"):
        writes.upload_part("a", "", 1, b"1")
    writes.abort("a", "")
    writes.abandon()
    upload = writes.create("a", PLAIN)

    assert isinstance(writes, SFTPUpload)
    assert list(writes.list_uploads()) == []
    assert writes.list_parts("a", upload) == []
    assert uploads(storage) == []
    writes.abort("a", upload)
    assert os.listdir(root) == []


def test_a_note_is_small_and_plain(openssh_storage):
    """Others may have to read it."""
    storage, root = openssh_storage
    upload = storage.multipart.create(PATH, PLAIN)

    note = json.loads((root / f".fs-tmp-{upload}" / MANIFEST_NAME).read_bytes())

    assert set(note) == {"path", "headers", "started_at"}
    assert note["path"] == PATH
    shutil.rmtree(root / f".fs-tmp-{upload}")
    assert uploads(storage) == []
    assert isinstance(storage._multipart(), SFTPMultipart)
