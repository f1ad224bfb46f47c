"""The conformance suite, asked of Azure as Azurite speaks it, by http and by https, with signatures checked."""

import pytest

from flask_storage.testing import BackendConformance
from tests.azure_places import place

pytest_plugins = ["tests.services.azurite"]


class _OnAServer(BackendConformance):
    """A container for each test, gone afterwards."""

    @pytest.fixture(autouse=True)
    def _containers(self, running):
        self.server = running
        self.containers: list[str] = []
        yield
        for container in self.containers:
            self.server.remove_container(container)

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        self.containers.append(self.server.make_container())
        return place(self.server, bucket=self.containers[-1], **self.arguments())

    def arguments(self):
        """Return what this storage has beside the usual."""
        return {}


class TestAzurite(_OnAServer):
    """With the account's key, by plain http: everything is sent and read with its MD5."""

    @pytest.fixture
    def running(self, azurite):
        """Return the server."""
        return azurite


class TestAzuriteSecurely(_OnAServer):
    """By https, below a prefix, in the name of an identity that signs with a key which it was given."""

    @pytest.fixture
    def running(self, azurite_https, fake_credential):
        """Return the server."""
        self.credential = fake_credential()
        return azurite_https

    def arguments(self):
        """Return who asks, and where."""
        return {"credential": self.credential, "prefix": "below/this"}

    # The prefix counts: with it, the longest path is too long for Azure.
    test_a_path_of_1024_bytes_is_held = None  # type: ignore[assignment]  # taken out
