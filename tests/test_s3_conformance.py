"""The conformance suite, asked of S3 as three servers speak it, by http and by https, with signatures checked."""

from dataclasses import replace

import pytest

from flask_storage.backends.s3.presets import PRESETS, S3Preset
from flask_storage.testing import BackendConformance
from tests.s3_places import OVERTAKEN_ON_CEPH, place

pytest_plugins = ["tests.services.localstack", "tests.services.rclone_s3", "tests.services.rgw"]


class _OnAServer(BackendConformance):
    """A bucket for each test, gone afterwards."""

    https = False

    @pytest.fixture(autouse=True)
    def _buckets(self, running):
        self.server = running
        self.buckets: list[str] = []
        yield
        for bucket in self.buckets:
            self.server.remove_bucket(bucket)

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        self.buckets.append(self.server.make_bucket())
        return place(self.server, https=self.https, bucket=self.buckets[-1], **self.arguments())

    def arguments(self):
        """Return what this storage has beside the usual."""
        return {}


class TestCeph(_OnAServer):
    """Ceph, which checks every signature, knows no checksums, and ignores conditions when an upload is completed."""

    overtaken = OVERTAKEN_ON_CEPH

    @pytest.fixture
    def running(self, rgw):
        """Return the server."""
        return rgw


class TestCephSecurely(TestCeph):
    """By https, where boto3 would send checksums behind the content, as Ceph does not know them."""

    https = True


class TestLocalStack(_OnAServer):
    """LocalStack, which keeps checksums and honours conditions like Amazon."""

    @pytest.fixture
    def running(self, localstack):
        """Return the server."""
        return localstack

    def arguments(self):
        """Return the preset: this LocalStack refuses a copy whose condition does not hold, and copies all the same."""
        return {"preset": replace(PRESETS["aws"], copy_conditions=False, addressing="path")}

    # A read that meets a write gets a mixture of both from it; over plain HTTP the checksum finds it out.
    test_every_read_is_one_whole_version = None  # type: ignore[assignment]  # taken out


class TestLocalStackSecurely(TestLocalStack):
    """By https, where checksums come behind the content."""

    https = True


class TestRclone(_OnAServer):
    """rclone, to be had with nothing but pip. It keeps objects as files, which shows."""

    @pytest.fixture
    def running(self, rclone_s3):
        """Return the server."""
        return rclone_s3

    def arguments(self):
        """Return the preset: it adds metadata of its own, lists no unfinished uploads and takes no part twice."""
        return {"preset": S3Preset(bulk_delete=1000, metadata=False, upload_listing=False)}

    # A sweep that cannot see what is left refuses instead of finding nothing; tests/test_s3_objects.py asks for that.
    test_sweeping_takes_no_file = None  # type: ignore[assignment]  # taken out
    test_nothing_is_left_to_sweep_after_clean_work = None  # type: ignore[assignment]  # likewise
    test_sweeping_leaves_the_young = None  # type: ignore[assignment]  # likewise
    # Its objects are files of a disk: one in place of a folder costs the folder, deleting what would lie below a file
    # deletes the file, and while a file is replaced the listing shows it twice or shows a leftover.
    test_deleting_what_is_not_there_is_no_error = None  # type: ignore[assignment]  # likewise
    test_a_file_in_place_of_a_folder_harms_neither = None  # type: ignore[assignment]  # likewise
    test_every_read_is_one_whole_version = None  # type: ignore[assignment]  # likewise
    test_names_are_sorted_as_text = None  # type: ignore[assignment]  # likewise


del _OnAServer
