"""The conformance suite, asked of OpenSSH."""

import pytest

from flask_storage.testing import BackendConformance
from tests.sftp_places import place

pytest_plugins = ["tests.services.openssh"]


class TestOpenSSH(BackendConformance):
    """With a key, and all of the server's extensions."""

    @pytest.fixture(autouse=True)
    def _server(self, openssh):
        self.server = openssh

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return place(self.server)
