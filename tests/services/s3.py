"""The S3 server of most tests: LocalStack, which pip installs, and also Ceph with ``./tests/run --all``."""

import pytest

from tests.services.s3_servers import S3Server
from tests.variants import variants

pytest_plugins = ["tests.services.localstack", "tests.services.rclone_s3", "tests.services.rgw"]


@pytest.fixture(scope="session", params=variants("localstack", "rgw"))
def s3(request: pytest.FixtureRequest) -> S3Server:
    """A running S3 server that verifies the signature and the expiry of links."""
    server: S3Server = request.getfixturevalue(request.param)
    return server
