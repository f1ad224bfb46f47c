"""The conformance suite against S3 servers: LocalStack, and with ``--all`` also Ceph, rclone and https."""

import uuid
from dataclasses import replace

import pytest

from flask_storage.backends.s3.presets import PRESETS, S3Preset
from flask_storage.testing import BackendConformance
from tests.s3_storages import CEPH_REPLACED_ERRORS, make_storage
from tests.variants import extra_variant

pytest_plugins = ["tests.services.s3"]


@pytest.fixture(scope="module")
def buckets():
    """The bucket of each server, by its name."""
    return {}


class _S3Conformance(BackendConformance):
    """One bucket for the module, and a prefix for each test."""

    https = False
    own_buckets = False

    @pytest.fixture(autouse=True)
    def _location(self, request, server, buckets):
        self.server = server
        if self.own_buckets or "1024_bytes" in request.node.name:  # a prefix counts towards the longest key
            self.location = {"bucket": server.make_bucket()}
        else:
            bucket = buckets.get(server.name) or buckets.setdefault(server.name, server.make_bucket())
            self.location = {"bucket": bucket, "prefix": uuid.uuid4().hex}

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return make_storage(self.server, https=self.https, **self.location, **self.arguments())

    def arguments(self):
        """Return further arguments of the storage."""
        return {}


class TestLocalStack(_S3Conformance):
    """LocalStack, which stores checksums and honors conditions like AWS."""

    @pytest.fixture
    def server(self, localstack):
        """Return the server."""
        return localstack

    def arguments(self):
        """Return the preset: LocalStack reports an error for a copy whose condition fails, but copies the object."""
        return {"preset": replace(PRESETS["aws"], copy_conditions=False, addressing="path")}

    # A read that is concurrent with a write gets a mixture of both; over plain HTTP the checksum detects it.
    test_every_read_is_one_whole_version = None  # type: ignore[assignment]  # not supported


@extra_variant
class TestLocalStackHTTPS(TestLocalStack):
    """Over https, where boto3 sends trailing checksums."""

    https = True


@extra_variant
class TestCeph(_S3Conformance):
    """Ceph, which verifies every signature, has no checksums, and ignores conditions of CompleteMultipartUpload."""

    replaced_errors = CEPH_REPLACED_ERRORS

    @pytest.fixture
    def server(self, rgw):
        """Return the server."""
        return rgw


@extra_variant
class TestCephHTTPS(TestCeph):
    """Over https, where boto3 would send trailing checksums, which Ceph does not support."""

    https = True


@extra_variant
class TestRclone(_S3Conformance):
    """rclone, which pip installs. Its objects are files in a directory."""

    own_buckets = True  # in a shared one, the directories of other keys would be listed

    @pytest.fixture
    def server(self, rclone_s3):
        """Return the server."""
        return rclone_s3

    def arguments(self):
        """Return the preset: rclone adds metadata, does not list unfinished uploads and accepts each part once."""
        return {"preset": S3Preset(bulk_delete=1000, metadata=False, upload_listing=False)}

    # sweep raises an error if uploads cannot be listed; tests/test_s3_objects.py tests that.
    test_sweep_removes_no_published_file = None  # type: ignore[assignment]  # not supported
    test_finished_writes_leave_nothing_to_sweep = None  # type: ignore[assignment]  # same
    test_sweep_leaves_recent_writes = None  # type: ignore[assignment]  # same
    # Objects are files on disk: a file replaces a directory of its name, deleting a path below a file deletes the file,
    # and while a file is replaced the listing has it twice or has a temporary file.
    test_deleting_a_missing_file_is_no_error = None  # type: ignore[assignment]  # same
    test_a_file_in_place_of_a_directory_leaves_both_intact = None  # type: ignore[assignment]  # same
    test_every_read_is_one_whole_version = None  # type: ignore[assignment]  # same
    test_names_are_sorted_as_text = None  # type: ignore[assignment]  # same


del _S3Conformance
