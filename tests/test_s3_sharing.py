"""One S3 storage for many threads and processes: no error, no mixture, no more connections than were allowed."""

import pytest

from flask_storage.errors import UnsupportedOperationError
from tests.counts import count
from tests.s3_storages import CEPH_REPLACED_ERRORS, make_storage
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
from tests.variants import extra_variant

pytest_plugins = ["tests.services.s3"]

MIB = 1024 * 1024


@pytest.fixture
def storage(s3):
    """An empty storage that may have fewer connections than there are threads."""
    return make_storage(s3, max_connections=10)


def test_fifty_threads_share_one_storage(storage):
    """Each thread finds exactly its own files, and nobody waits for ever."""
    mixed_work(storage, "here")

    assert all(entry.name.startswith("here/thread ") for entry in storage.list())


def test_threads_have_no_more_connections_than_were_allowed(s3):
    """Fifty threads, five connections: they take turns."""
    storage = make_storage(s3, max_connections=5)

    with Sockets(s3.http) as sockets:
        take_turns(storage)

    assert 1 < sockets.most <= 5


def test_large_files_and_small_ones_share_connections(s3):
    """Parts that are sent at once and ranges that are fetched ahead take their turns with everything else."""
    storage = make_storage(s3, max_connections=4, chunk_size=5 * MIB, concurrency=4)

    with Sockets(s3.http) as sockets:
        share_among_large_and_small(storage, 21 * MIB)

    assert sockets.most <= 4
    assert list(storage.multipart.list_uploads()) == []


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


def test_an_app_that_is_loaded_before_the_workers_serves_from_all_of_them(s3, tmp_path):
    """Whole files and pieces of them, each to the one who asked, from workers that share what the parent made."""
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
    """Eight write one path again and again, four read it: what is read always belongs together.

    LocalStack answers with the bytes of one version and the headers of another now and then; that is found out.
    """
    overtaken = CEPH_REPLACED_ERRORS if name == "rgw" else ()
    write_and_read_one_name(make_storage(request.getfixturevalue(name)), mixes=mixes, overtaken=overtaken)


def test_every_read_of_a_large_file_is_one_complete_version(s3):
    """Also when it is written in parts and read in ranges; a reader that is overtaken is told."""
    write_and_read_one_large_name(make_storage(s3, chunk_size=5 * MIB), 11 * MIB, CEPH_REPLACED_ERRORS)


@pytest.mark.parametrize("verb", ["write", "copy", "move", "complete"])
def test_exactly_one_of_eight_creates(localstack, verb):
    """Of eight that create one name at the same moment one wins, and its content is what is there."""
    storage = make_storage(localstack)
    for turn in range(count(3, 50)):
        won = create_at_once(storage, verb, f"round {turn}/new.bin")

        assert won.count(True) == 1
        # A copy that LocalStack refuses has overwritten the bytes all the same: the answers are right, the file is not.
        if verb in ("write", "complete"):
            assert storage.read(f"round {turn}/new.bin") == str(won.index(True)).encode()


def test_create_only_is_refused_where_it_would_be_a_guess(rgw):
    """This Ceph does not look at the condition when an upload in parts ends: no storage promises it there."""
    storage = make_storage(rgw)

    with pytest.raises(UnsupportedOperationError, match="refuse a taken name atomically"):
        storage.write("a", b"1", exclusive=True)

    assert storage.list() == []
