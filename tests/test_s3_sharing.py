"""One S3 storage for many threads and processes: no errors, no mixed content, bounded connections."""

import pytest

from flask_storage.errors import UnsupportedOperationError
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
from tests.s3_storages import CEPH_REPLACED_ERRORS, make_storage
from tests.variants import extra_variant

pytest_plugins = ["tests.services.s3"]

MIB = 1024 * 1024


@pytest.fixture
def storage(s3):
    """An empty storage with fewer connections than threads."""
    return make_storage(s3, max_connections=10)


def test_fifty_threads_share_one_storage(storage):
    """Each thread finds exactly its own files, and none blocks for ever."""
    mixed_work(storage, "here")

    assert all(entry.name.startswith("here/thread ") for entry in storage.list())


def test_threads_open_no_more_than_max_connections(s3):
    """Fifty threads share five connections."""
    storage = make_storage(s3, max_connections=5)

    with Sockets(s3.http) as sockets:
        use_few_connections(storage)

    assert 1 < sockets.most <= 5


def test_large_and_small_files_share_connections(s3):
    """Parts and ranges that are transferred concurrently use the same connections as small requests."""
    storage = make_storage(s3, max_connections=4, chunk_size=5 * MIB, concurrency=4)

    with Sockets(s3.http) as sockets:
        share_connections_between_large_and_small(storage, 21 * MIB)

    assert sockets.most <= 4
    assert list(storage.multipart.list_uploads()) == []


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins start threads
def test_forked_children_share_one_storage(storage):
    """A storage that was used before the fork works in every child, concurrently with the parent."""
    ends = work_in_forked_children(storage)

    assert ends == [0] * CHILDREN
    assert {entry.name.partition("/")[0] for entry in storage.list()} == {"before.bin", "parent", "child 0", "child 1"}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_other_threads_use_the_storage_does_not_block_the_child(storage):
    """Locks and connections that they held at the fork do not block it."""
    assert set(fork_while_threads_use(storage)) == {0}


def test_a_preloaded_application_serves_from_all_workers(s3, tmp_path):
    """Whole files and ranges, from workers that share what the parent process created."""
    storage = make_storage(s3)
    profile = {
        "backend": "s3",
        "bucket": storage.bucket,
        "aws_region": s3.region,
        "endpoint_url": s3.http,
        "aws_access_key_id": s3.access_key,
        "aws_secret_access_key": s3.secret_key,
        "preset": s3.preset,
        "addressing_style": "path",
    }

    workers, log = serve_from_workers(storage, profile, tmp_path)

    assert len(workers) == 2
    assert "Traceback" not in log


# -- one file for many writers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mixes"), [("localstack", True), pytest.param("rgw", False, marks=extra_variant)])
def test_every_read_is_one_complete_version(request, name, mixes):
    """Eight threads write one path repeatedly, four read it: each read has one version.

    LocalStack sometimes sends the bytes of one version with the headers of another; the checksum detects it.
    """
    replaced_errors = CEPH_REPLACED_ERRORS if name == "rgw" else ()
    write_and_read_one_path(make_storage(request.getfixturevalue(name)), mixes=mixes, replaced_errors=replaced_errors)


def test_every_read_of_a_large_file_is_one_complete_version(s3):
    """Also when it is written in parts and read in ranges; a reader of a replaced file gets an error."""
    write_and_read_one_large_path(make_storage(s3, chunk_size=5 * MIB), 11 * MIB, CEPH_REPLACED_ERRORS)


@pytest.mark.parametrize("operation", ["write", "copy", "move", "complete"])
def test_exactly_one_of_eight_exclusive_writes_succeeds(localstack, operation):
    """Of eight concurrent ones with the same name; its content is stored."""
    storage = make_storage(localstack)
    for turn in range(count(3, 50)):
        won = create_concurrently(storage, operation, f"round {turn}/new.bin")

        assert won.count(True) == 1
        # LocalStack overwrites the bytes also with a copy that it rejects: the responses are right, the file is not.
        if operation in ("write", "complete"):
            assert storage.read(f"round {turn}/new.bin") == str(won.index(True)).encode()


def test_exclusive_writes_are_rejected_where_they_are_not_atomic(rgw):
    """This Ceph version ignores the condition of CompleteMultipartUpload."""
    storage = make_storage(rgw)

    with pytest.raises(UnsupportedOperationError, match="cannot create a file exclusively"):
        storage.write("a", b"1", exclusive=True)

    assert storage.list() == []
