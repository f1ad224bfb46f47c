"""Large files are transferred to and from S3 in little memory."""

import pytest

from tests.streaming import MIB, stream

pytest_plugins = ["tests.services.s3"]


@pytest.mark.parametrize("way", ["operations", "files"])
def test_streaming_uses_little_memory(s3, way):
    """Upload and download, in one call or in chunks: memory grows by at most 64 MiB, and every byte is right."""
    arguments = {
        "bucket": s3.make_bucket(),
        "aws_region": s3.region,
        "aws_access_key_id": s3.access_key,
        "aws_secret_access_key": s3.secret_key,
        "endpoint_url": s3.http,
        "preset": s3.preset,
        "concurrency": 6,  # written in small pieces, the eight of the default take up to 66 MiB
    }

    stream("S3Storage", arguments, way, 64 * MIB)
