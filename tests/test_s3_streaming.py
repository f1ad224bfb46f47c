"""Large files go to S3 and come back in little memory."""

import pytest

from tests.streaming import MIB, stream

pytest_plugins = ["tests.services.rgw"]


@pytest.mark.parametrize("way", ["verbs", "files"])
def test_streaming_holds_little(rgw, way):
    """Up and down, by one verb or in pieces of one's own, memory grows by at most 64 MiB, and every byte is the one."""
    arguments = {
        "bucket": rgw.make_bucket(),
        "aws_region": rgw.region,
        "aws_access_key_id": rgw.access_key,
        "aws_secret_access_key": rgw.secret_key,
        "endpoint_url": rgw.http,
        "preset": rgw.preset,
    }

    stream("S3Storage", arguments, way, 64 * MIB)
