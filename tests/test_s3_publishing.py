"""Errors while writing to S3: the old content stays or nothing is published, and no upload is left."""

import pytest

from tests.interrupted_writes import interrupted_write_tests, unchanged_storage
from tests.s3_storages import make_storage
from tests.variants import variants

pytest_plugins = ["tests.services.s3"]

PART = 5 << 20


@pytest.fixture(scope="module", params=variants("localstack", "rgw"))
def shared_storage(request):
    """A storage on each server."""
    server = request.getfixturevalue(request.param)
    storage = make_storage(server, chunk_size=PART, concurrency=2)
    yield storage
    storage.close()
    server.remove_bucket(storage.bucket)


@pytest.fixture
def storage(shared_storage):
    """The storage with one object in it; after the test there is no other, and no unfinished upload."""
    with unchanged_storage(shared_storage, lambda storage: list(storage.multipart.list_uploads())):
        yield shared_storage


TestInterruptedWrites = interrupted_write_tests(PART, 45)
