"""The policies that the S3 guide prints are sufficient for a storage, and grant nothing else."""

import json
import re
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from flask_storage import PermissionDeniedError
from flask_storage.types import WriteOptions
from tests.plain_client import send
from tests.s3_storages import make_storage

pytest_plugins = ["tests.services.s3"]

PAGE = Path(__file__).parents[1] / "docs/how-to/s3.md"


@pytest.fixture(scope="module")
def policies():
    """The actions of each policy on the page: of the app, and of the signer of links."""
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    statements = [block["Statement"] for block in map(json.loads, blocks) if "Statement" in block]
    return [[action for statement in each for action in statement["Action"]] for each in statements]


@pytest.fixture
def limited(rgw_cluster, policies):
    """Makes a storage below `media` whose user may do what one of the policies allows, all in one bucket."""
    bucket = rgw_cluster.server.make_bucket()
    return lambda number: make_storage(
        rgw_cluster.limited_user(bucket, *policies[number]), bucket=bucket, prefix="media"
    )


def test_the_policy_of_the_app_is_sufficient(limited):
    """For a check, writes of every size, copies, listings, deletions and a sweep."""
    with closing(limited(0)) as storage:
        storage.check()
        storage.write("rights/small", b"a")
        with storage.open("rights/large", "w") as writer:
            writer.write(bytes(6 * 1024 * 1024))
        upload_id = storage.multipart.create("rights/unfinished", WriteOptions())
        parts = storage.multipart.list_parts("rights/unfinished", upload_id)
        swept = storage.sweep(timedelta(0))
        storage.copy("rights/small", "rights/copy")
        storage.move("rights/copy", "rights/moved")

        assert (parts, swept >= 1, storage.exists("rights/copy"), len(storage.list("rights"))) == ([], True, False, 3)
        storage.delete_many(["rights/small", "rights/moved"])
        assert storage.delete_prefix("rights") == 1


def test_the_policy_of_the_signer_permits_links_and_no_listing(limited, rgw_cluster):
    """A download link is honoured; the signer itself cannot list the bucket."""
    with closing(limited(1)) as signer:
        bucket = signer.bucket
        make_storage(rgw_cluster.server, bucket=bucket, prefix="media").write("rights/a", b"linked")

        response = send(signer.link_to("rights/a", "download", timedelta(hours=1)), "GET")

        assert (response.status, response.body) == (200, b"linked")
        with pytest.raises(PermissionDeniedError):
            signer.list()
