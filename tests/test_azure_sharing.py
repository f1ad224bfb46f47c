"""One Azure storage for many threads and processes: no errors, no mixed content, no more connections than allowed."""

import hashlib
import random
from threading import Barrier

import pytest

from flask_storage.errors import FileExistsInStorageError, IntegrityError, PreconditionFailedError
from flask_storage.testing.concurrency import TIMEOUT, run_concurrently
from flask_storage.types import WriteOptions
from tests.azure_storages import make_storage
from tests.concurrent_use import (
    CHILDREN,
    Sockets,
    create_concurrently,
    fork_while_threads_use,
    mixed_work,
    serve_from_workers,
    share_connections_between_large_and_small,
    use_few_connections,
    work_in_forked_children,
    write_and_read_one_large_path,
    write_and_read_one_path,
)
from tests.counts import count

pytest_plugins = ["tests.services.azurite"]

MIB = 1024 * 1024


@pytest.fixture
def storage(azurite):
    """An empty storage with fewer connections than threads."""
    storage = make_storage(azurite, max_connections=10)
    yield storage
    storage.close()
    azurite.remove_container(storage.bucket)


def test_fifty_threads_share_one_storage(storage):
    """Each thread finds its own files, and no thread blocks forever."""
    mixed_work(storage, "here")

    assert all(entry.name.startswith("here/thread ") for entry in storage.list())


def test_fifty_threads_use_at_most_five_connections(azurite):
    """As max_connections says."""
    storage = make_storage(azurite, max_connections=5)

    with Sockets(azurite.url) as sockets:
        use_few_connections(storage)

    assert 1 < sockets.most <= 5
    storage.close()


def test_large_and_small_files_share_connections(azurite):
    """Parallel blocks and ranges use the same connections as other requests."""
    storage = make_storage(azurite, max_connections=4, chunk_size=2 * MIB, concurrency=4)

    with Sockets(azurite.url) as sockets:
        share_connections_between_large_and_small(storage, 9 * MIB)

    assert sockets.most <= 4
    storage.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_forked_children_can_use_the_storage(storage):
    """So can the parent at the same time."""
    ends = work_in_forked_children(storage)

    assert ends == [0] * CHILDREN
    assert {entry.name.partition("/")[0] for entry in storage.list()} == {"before.bin", "parent", "child 0", "child 1"}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_threads_use_the_storage_does_not_block_the_child(storage):
    """Locks and connections of the parent's threads are not inherited."""
    assert set(fork_while_threads_use(storage)) == {0}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_threads_use_an_identity_does_not_block_the_child(azurite_https, fake_credential):
    """Over https; the child requests its own signing key."""
    storage = make_storage(azurite_https, credential=fake_credential(), max_connections=10)

    assert set(fork_while_threads_use(storage)) == {0}
    storage.close()


def test_a_preloaded_app_serves_from_all_workers(azurite, tmp_path):
    """Whole files and ranges, under gunicorn with --preload."""
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
    """While eight threads write one path and four read it."""
    write_and_read_one_path(storage)


def test_every_read_of_a_large_file_is_one_complete_version(azurite):
    """Also when it is written in blocks and read in ranges; otherwise the read is an error."""
    storage = make_storage(azurite, chunk_size=MIB)

    write_and_read_one_large_path(storage, 3 * MIB)

    storage.close()


@pytest.mark.parametrize("operation", ["write", "copy", "move", "complete"])
def test_exactly_one_of_eight_exclusive_writes_succeeds(storage, operation):
    """Its content is what is stored."""
    for turn in range(count(3, 50)):
        created = create_concurrently(storage, operation, f"round {turn}/new.bin")

        assert created.count(True) == 1
        assert storage.read(f"round {turn}/new.bin") == str(created.index(True)).encode()


def _long_content(number, turn):
    """Return content of several blocks, each of which identifies its writer."""
    return hashlib.sha256(f"{number} {turn}".encode()).digest() * 100_000


def test_concurrent_large_writes_of_one_path_never_mix(azurite):
    """The stored content is that of a writer without an error."""
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


def test_a_large_write_fails_if_another_write_is_committed_first(azurite):
    """The content of the other write remains, and a retry succeeds."""
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


def test_a_small_write_during_a_large_one_never_mixes(azurite):
    """On Azure the large write fails; Azurite keeps its blocks, and it succeeds."""
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


def test_exactly_one_of_eight_exclusive_large_writes_succeeds(azurite):
    """All have sent their blocks before the first commits."""
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

        created = run_concurrently(create, 8)

        assert created.count(True) == 1
        assert storage.read(f"{turn}/new.bin") == _long_content(created.index(True), turn)[:MIB]
    storage.close()


def test_exactly_one_of_eight_multipart_uploads_of_one_path_succeeds(storage):
    """The others are told that their parts are missing."""
    contents = [random.Random(number).randbytes(1000) for number in range(8)]
    for turn in range(count(2, 30)):
        path, uploads = f"{turn}.bin", []
        for content in contents:
            upload_id = storage.multipart.create(path, WriteOptions())
            halves = enumerate([content[:500], content[500:]], 1)
            uploads.append((upload_id, [storage.multipart.upload_part(path, upload_id, n, half) for n, half in halves]))

        def complete(number, path=path, uploads=uploads):
            try:
                storage.multipart.complete(path, *uploads[number], WriteOptions())
            except IntegrityError:
                return False
            return True

        created = run_concurrently(complete, 8)

        assert created.count(True) == 1
        assert storage.read(path) == contents[created.index(True)]


def test_completing_with_a_failed_condition_raises_the_error_of_the_condition(storage):
    """Also when the other write has discarded the parts."""
    storage.write("file.bin", b"old")
    etag = storage.stat("file.bin").etag
    conditions = {"new.bin": WriteOptions(exclusive=True), "file.bin": WriteOptions(if_match=etag)}
    uploads = {path: storage.multipart.create(path, WriteOptions()) for path in conditions}
    parts = {path: [storage.multipart.upload_part(path, uploads[path], 1, b"late")] for path in conditions}
    for path in conditions:
        other = storage.multipart.create(path, WriteOptions())
        storage.multipart.complete(
            path, other, [storage.multipart.upload_part(path, other, 1, b"early")], WriteOptions()
        )

    with pytest.raises(FileExistsInStorageError):
        storage.multipart.complete("new.bin", uploads["new.bin"], parts["new.bin"], conditions["new.bin"])
    with pytest.raises(PreconditionFailedError):
        storage.multipart.complete("file.bin", uploads["file.bin"], parts["file.bin"], conditions["file.bin"])
    with pytest.raises(IntegrityError, match="missing"):
        storage.multipart.complete("file.bin", uploads["file.bin"], parts["file.bin"], WriteOptions())
    storage.delete("new.bin")
    with pytest.raises(IntegrityError, match="missing"):
        storage.multipart.complete("new.bin", uploads["new.bin"], parts["new.bin"], conditions["new.bin"])

    assert storage.read("file.bin") == b"early"
