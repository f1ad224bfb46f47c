"""Invented histories on real S3 servers: they end where a dictionary ends."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from flask_storage.backends.s3.presets import PRESETS
from flask_storage.testing import StorageMachine
from tests.counts import count
from tests.s3_places import place

pytest_plugins = ["tests.services.localstack", "tests.services.rgw"]

SETTINGS = settings(
    max_examples=count(8, 200),
    stateful_step_count=count(25, 50),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def _histories(server, **arguments):
    """Return the machine for *server*: every history has a prefix of its own in one bucket."""
    bucket = server.make_bucket()

    class Machine(StorageMachine):
        def make_storage(self):
            return place(server, bucket=bucket, prefix=uuid.uuid4().hex, **arguments)

        def teardown(self):
            super().teardown()
            if hasattr(self, "storage"):
                self.storage.close()

    case: Any = Machine.TestCase("runTest")
    case.settings = SETTINGS
    return case


@pytest.mark.parametrize("https", [False, True], ids=["http", "https"])
def test_histories_on_ceph_end_as_they_must(rgw, https):
    """What Ceph cannot decide is refused at any time; everything else agrees after every step."""
    _histories(rgw, https=https).runTest()


@pytest.mark.parametrize("https", [False, True], ids=["http", "https"])
def test_histories_on_localstack_end_as_they_must(localstack, https):
    """With conditions, and with checksums behind the content where it comes by https."""
    preset = replace(PRESETS["aws"], copy_conditions=False, addressing="path")

    _histories(localstack, https=https, preset=preset).runTest()
