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


class _OnAServer(BackendConformance):
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
        """Return what this storage has beside the usual."""
        return {}


class TestLocalStack(_OnAServer):
    """LocalStack, which keeps checksums and honours conditions like Amazon."""

    @pytest.fixture
    def server(self, localstack):
        """Return the server."""
        return localstack

    def arguments(self):
        """Return the preset: this LocalStack refuses a copy whose condition does not hold, and copies all the same."""
        return {"preset": replace(PRESETS["aws"], copy_conditions=False, addressing="path")}

    # A read that meets a write gets a mixture of both from it; over plain HTTP the checksum finds it out.
    test_every_read_is_one_whole_version = None  # type: ignore[assignment]  # taken out


@extra_variant
class TestLocalStackByHttps(TestLocalStack):
    """By https, where checksums follow the content."""

    https = True


@extra_variant
class TestCeph(_OnAServer):
    """Ceph, which checks every signature, knows no checksums, and ignores conditions when an upload is completed."""

    replaced_errors = CEPH_REPLACED_ERRORS

    @pytest.fixture
    def server(self, rgw):
        """Return the server."""
        return rgw


@extra_variant
class TestCephByHttps(TestCeph):
    """By https, where boto3 would send checksums after the content, which Ceph does not understand."""

    https = True


@extra_variant
class TestRclone(_OnAServer):
    """rclone, which pip installs. It keeps objects as files, which shows."""

    own_buckets = True  # in a shared one, the directories that it made for other keys would be seen

    @pytest.fixture
    def server(self, rclone_s3):
        """Return the server."""
        return rclone_s3

    def arguments(self):
        """Return the preset: it adds metadata of its own, lists no unfinished uploads and takes no part twice."""
        return {"preset": S3Preset(bulk_delete=1000, metadata=False, upload_listing=False)}

    # A sweep that cannot see what is left refuses instead of finding nothing; tests/test_s3_objects.py asks for that.
    test_sweep_removes_no_published_file = None  # type: ignore[assignment]  # taken out
    test_finished_writes_leave_nothing_to_sweep = None  # type: ignore[assignment]  # likewise
    test_sweep_leaves_recent_writes = None  # type: ignore[assignment]  # likewise
    # Its objects are files of a disk: one in place of a folder costs the folder, deleting what would lie below a file
    # deletes the file, and while a file is replaced the listing shows it twice or shows a leftover.
    test_deleting_a_missing_file_is_no_error = None  # type: ignore[assignment]  # likewise
    test_a_file_in_place_of_a_directory_leaves_both_intact = None  # type: ignore[assignment]  # likewise
    test_every_read_is_one_whole_version = None  # type: ignore[assignment]  # likewise
    test_names_are_sorted_as_text = None  # type: ignore[assignment]  # likewise


del _OnAServer
