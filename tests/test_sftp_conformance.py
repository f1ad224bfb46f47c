"""The conformance suite on OpenSSH, and on a server without its extensions."""

import pytest

from flask_storage.testing import BackendConformance
from tests.sftp_storages import make_storage
from tests.variants import extra_variant

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]


class TestOpenSSH(BackendConformance):
    """With a key, and all of the server's extensions."""

    @pytest.fixture(autouse=True)
    def _server(self, openssh):
        self.server = openssh

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return make_storage(self.server)


@extra_variant
class TestPlainServer(BackendConformance):
    """With a password, and without extensions."""

    @pytest.fixture(autouse=True)
    def _server(self, plain_sftp):
        self.server = plain_sftp

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return make_storage(self.server, key_filename=None, password=self.server.password)
