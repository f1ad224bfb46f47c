"""Trouble while writing to S3: wherever it comes, the old content stays or nothing appears, and no upload is left."""

import pytest

from tests.s3_storages import make_storage
from tests.variants import variants
from tests.writing_trouble import trouble_tests, unharmed

pytest_plugins = ["tests.services.s3"]

PART = 5 << 20


@pytest.fixture(scope="module", params=variants("localstack", "rgw"))
def ground(request):
    """A storage on each server."""
    server = request.getfixturevalue(request.param)
    made = make_storage(server, chunk_size=PART, concurrency=2)
    yield made
    made.close()
    server.remove_bucket(made.bucket)


@pytest.fixture
def storage(ground):
    """The storage with one object in it, and afterwards too: no other, and no unfinished upload."""
    with unharmed(ground, lambda storage: list(storage.multipart.list_uploads())):
        yield ground


TestTrouble = trouble_tests(PART, 45)
