"""One Azure storage for many threads and processes: no error, no mixture, no more connections than were allowed."""

import hashlib
import random
from threading import Barrier

import pytest

from flask_storage.errors import FileExistsInStorageError, IntegrityError, PreconditionFailedError
from flask_storage.testing.concurrency import TIMEOUT, run_concurrently
from flask_storage.types import WriteOptions
from tests.azure_storages import make_storage
from tests.counts import count
from tests.sharing import (
    CHILDREN,
    Sockets,
    create_at_once,
    fork_while_threads_use,
    mixed_work,
    serve_from_workers,
    share_among_large_and_small,
    take_turns,
    work_in_forked_children,
    write_and_read_one_large_name,
    write_and_read_one_name,
)

pytest_plugins = ["tests.services.azurite"]

MIB = 1024 * 1024


@pytest.fixture
def storage(azurite):
    """An empty storage that may have fewer connections than there are threads."""
    made = make_storage(azurite, max_connections=10)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


def test_fifty_threads_share_one_storage(storage):
    """Each thread finds exactly its own files, and nobody waits for ever."""
    mixed_work(storage, "here")

    assert all(entry.name.startswith("here/thread ") for entry in storage.list())


def test_threads_have_no_more_connections_than_were_allowed(azurite):
    """Fifty threads, five connections: they take turns."""
    storage = make_storage(azurite, max_connections=5)

    with Sockets(azurite.url) as sockets:
        take_turns(storage)

    assert 1 < sockets.most <= 5
    storage.close()


def test_large_files_and_small_ones_share_connections(azurite):
    """Blocks that are sent at once and ranges that are fetched ahead take their turns with everything else."""
    storage = make_storage(azurite, max_connections=4, chunk_size=2 * MIB, concurrency=4)

    with Sockets(azurite.url) as sockets:
        share_among_large_and_small(storage, 9 * MIB)

    assert sockets.most <= 4
    storage.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_forked_children_share_one_storage(storage):
    """A storage that was used before the fork works in every child, and in the parent beside them."""
    ends = work_in_forked_children(storage)

    assert ends == [0] * CHILDREN
    assert {entry.name.partition("/")[0] for entry in storage.list()} == {"before.bin", "parent", "child 0", "child 1"}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_inherits_a_storage_that_other_threads_are_using(storage):
    """What they held at that moment, a lock or a connection, keeps the child from nothing."""
    assert set(fork_while_threads_use(storage)) == {0}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_inherits_an_identity_that_other_threads_are_using(azurite_https, fake_credential):
    """By https; the key that signs is asked for anew."""
    storage = make_storage(azurite_https, credential=fake_credential(), max_connections=10)

    assert set(fork_while_threads_use(storage)) == {0}
    storage.close()


def test_an_app_that_is_loaded_before_the_workers_serves_from_all_of_them(azurite, tmp_path):
    """Whole files and pieces of them, each to the one who asked, from workers that share what the parent made."""
    storage = make_storage(azurite)
    profile = {
        "backend": "azure",
        "account": azurite.account,
        "key": azurite.key,
        "bucket": storage.bucket,
        "endpoint_url": azurite.url,
    }

    workers, log = serve_from_workers(storage, profile, tmp_path)

    assert len(workers) == 2
    assert "Traceback" not in log
    storage.close()


# -- one file for many writers ----------------------------------------------------------------------------------------


def test_every_read_is_one_complete_version(storage):
    """Eight write one path again and again, four read it: what is read always belongs together."""
    write_and_read_one_name(storage)


def test_every_read_of_a_large_file_is_one_complete_version(azurite):
    """Also when it is written in blocks and read in ranges; a reader that is overtaken is told."""
    storage = make_storage(azurite, chunk_size=MIB)

    write_and_read_one_large_name(storage, 3 * MIB)

    storage.close()


@pytest.mark.parametrize("verb", ["write", "copy", "move", "complete"])
def test_exactly_one_of_eight_creates(storage, verb):
    """Of eight that create one name at the same moment one wins, and its content is what is there."""
    for turn in range(count(3, 50)):
        won = create_at_once(storage, verb, f"round {turn}/new.bin")

        assert won.count(True) == 1
        assert storage.read(f"round {turn}/new.bin") == str(won.index(True)).encode()


def _long_content(number, turn):
    """Several blocks, each of which says whose it is."""
    return hashlib.sha256(f"{number} {turn}".encode()).digest() * 100_000


def test_long_writes_of_one_name_never_mix(azurite):
    """Every file that is there is a whole one of those who were told that they wrote it; the others are told too."""
    storage = make_storage(azurite, chunk_size=MIB)
    for turn in range(count(4, 40)):

        def write(number, turn=turn):
            try:
                storage.write("file.bin", _long_content(number, turn))
            except PreconditionFailedError:
                return False
            return True

        written = run_concurrently(write, 6)

        assert any(written)
        assert storage.read("file.bin") in [_long_content(number, turn) for number in range(6) if written[number]]
    storage.close()


def test_a_long_write_that_is_overtaken_is_told(azurite):
    """Whoever ends first stays; of the blocks of the other nothing is left, and writing anew is all it takes."""
    storage = make_storage(azurite, chunk_size=MIB)
    writer = storage.open("file.bin", "w")
    writer.write(_long_content(0, 0))

    storage.write("file.bin", _long_content(1, 0))
    with pytest.raises(PreconditionFailedError, match="another write of this file ended"):
        writer.close()

    assert storage.read("file.bin") == _long_content(1, 0)
    storage.write("file.bin", _long_content(0, 0))
    assert storage.read("file.bin") == _long_content(0, 0)
    storage.close()


def test_a_short_write_overtakes_a_long_one_whole(azurite):
    """Azure tells the long one; Azurite keeps its blocks, and it comes last. Nothing is ever mixed."""
    storage = make_storage(azurite, chunk_size=MIB)
    writer = storage.open("file.bin", "w")
    writer.write(_long_content(0, 0))

    storage.write("file.bin", b"short")
    between = storage.read("file.bin")
    try:
        writer.close()
        expected = _long_content(0, 0)
    except PreconditionFailedError:
        expected = b"short"

    assert between == b"short"
    assert storage.read("file.bin") == expected
    storage.close()


def test_exactly_one_of_eight_creates_a_long_file(azurite):
    """All have sent their blocks before the first of them commits; the others find the name taken, or their blocks."""
    storage = make_storage(azurite, chunk_size=256 * 1024)
    for turn in range(count(2, 30)):
        sent = Barrier(8)

        def create(number, turn=turn, sent=sent):
            try:
                with storage.open(f"{turn}/new.bin", "w", exclusive=True) as writer:
                    writer.write(_long_content(number, turn)[:MIB])
                    sent.wait(TIMEOUT)
            except (FileExistsInStorageError, PreconditionFailedError):
                return False
            return True

        won = run_concurrently(create, 8)

        assert won.count(True) == 1
        assert storage.read(f"{turn}/new.bin") == _long_content(won.index(True), turn)[:MIB]
    storage.close()


def test_uploads_of_one_name_never_mix(storage):
    """Of eight that finish their uploads of one file at once one wins; others are told that their parts are gone."""
    contents = [random.Random(number).randbytes(1000) for number in range(8)]
    for turn in range(count(2, 30)):
        path, uploads = f"{turn}.bin", []
        for content in contents:
            upload_id = storage.multipart.create(path, WriteOptions())
            halves = enumerate([content[:500], content[500:]], 1)
            uploads.append((upload_id, [storage.multipart.upload_part(path, upload_id, n, half) for n, half in halves]))

        def finish(number, path=path, uploads=uploads):
            try:
                storage.multipart.complete(path, *uploads[number], WriteOptions())
            except IntegrityError:
                return False
            return True

        won = run_concurrently(finish, 8)

        assert won.count(True) == 1
        assert storage.read(path) == contents[won.index(True)]


def test_finishing_under_a_condition_that_broke_says_so(storage):
    """Also when the write that broke it has taken the parts along."""
    storage.write("file.bin", b"old")
    etag = storage.stat("file.bin").etag
    asked = {"new.bin": WriteOptions(exclusive=True), "file.bin": WriteOptions(if_match=etag)}
    uploads = {path: storage.multipart.create(path, WriteOptions()) for path in asked}
    parts = {path: [storage.multipart.upload_part(path, uploads[path], 1, b"late")] for path in asked}
    for path in asked:
        other = storage.multipart.create(path, WriteOptions())
        storage.multipart.complete(
            path, other, [storage.multipart.upload_part(path, other, 1, b"early")], WriteOptions()
        )

    with pytest.raises(FileExistsInStorageError):
        storage.multipart.complete("new.bin", uploads["new.bin"], parts["new.bin"], asked["new.bin"])
    with pytest.raises(PreconditionFailedError):
        storage.multipart.complete("file.bin", uploads["file.bin"], parts["file.bin"], asked["file.bin"])
    with pytest.raises(IntegrityError, match="missing"):
        storage.multipart.complete("file.bin", uploads["file.bin"], parts["file.bin"], WriteOptions())
    storage.delete("new.bin")
    with pytest.raises(IntegrityError, match="missing"):
        storage.multipart.complete("new.bin", uploads["new.bin"], parts["new.bin"], asked["new.bin"])

    assert storage.read("file.bin") == b"early"
