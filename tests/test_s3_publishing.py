"""Trouble while writing to S3: wherever it comes, the old content stays or nothing appears, and no upload is left."""

import pytest

from tests.s3_places import place
from tests.writing_trouble import OLD, trouble_tests

pytest_plugins = ["tests.services.localstack", "tests.services.rgw"]

PART = 5 << 20


@pytest.fixture(scope="module")
def places(request):
    """A storage on each server that is asked for."""
    made = {}

    def storage(name):
        if name not in made:
            server = request.getfixturevalue(name)
            made[name] = server, place(server, chunk_size=PART, concurrency=2)
        return made[name][1]

    yield storage
    for server, each in made.values():
        each.close()
        server.remove_bucket(each.bucket)


@pytest.fixture(params=["rgw", "localstack"])
def storage(places, request):
    """A storage on each server, with one object in it, and afterwards too: no other, and no unfinished upload."""
    made = places(request.param)
    made.write("old.bin", OLD)
    yield made
    assert made.read("old.bin") == OLD
    assert [entry.name for entry in made.list()] == ["old.bin"]
    assert not list(made.parts.list_uploads())


TestTrouble = trouble_tests(PART, 45)
