"""Random sequences of operations on real S3 servers agree with a dictionary as the model."""

import uuid
from dataclasses import replace
from functools import partial

import pytest

from flask_storage.backends.s3.presets import PRESETS
from tests.random_operations import run_random_operations
from tests.s3_storages import make_storage
from tests.variants import extra_variant

pytest_plugins = ["tests.services.s3"]


def _histories(server, **arguments):
    """Run the histories, each with a prefix of its own in one bucket."""
    in_bucket = partial(make_storage, server, bucket=server.make_bucket(), **arguments)
    run_random_operations(lambda: in_bucket(prefix=uuid.uuid4().hex))


HTTPS = pytest.mark.parametrize("https", [False, pytest.param(True, marks=extra_variant)], ids=["http", "https"])


@HTTPS
def test_random_histories_on_ceph_agree_with_the_model(rgw, https):
    """Conditions, which Ceph cannot check, are always rejected; everything else agrees after every step."""
    _histories(rgw, https=https)


@HTTPS
def test_random_histories_on_localstack_agree_with_the_model(localstack, https):
    """With conditions, and over https with trailing checksums."""
    _histories(localstack, https=https, preset=replace(PRESETS["aws"], copy_conditions=False, addressing="path"))
