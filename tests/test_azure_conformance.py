"""The conformance suite against Azurite over http; with ``--all`` also over https with an identity."""

import uuid

import pytest

from flask_storage.testing import BackendConformance
from tests.azure_storages import make_storage
from tests.variants import extra_variant

pytest_plugins = ["tests.services.azurite"]


@pytest.fixture(scope="module")
def containers():
    """The container of each server, by the server's URL."""
    return {}


class _AzureConformance(BackendConformance):
    """One container for the module, and a prefix for each test."""

    @pytest.fixture(autouse=True)
    def _location(self, request, server, containers):
        self.server = server
        if "1024_bytes" in request.node.name:  # a prefix counts towards the longest name
            self.location = {"bucket": server.make_container()}
        else:
            container = containers.get(server.url) or containers.setdefault(server.url, server.make_container())
            self.location = {"bucket": container, "prefix": uuid.uuid4().hex}

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return make_storage(self.server, **self.location, **self.arguments())

    def arguments(self):
        """Return further arguments of the storage."""
        return {}


class TestAzurite(_AzureConformance):
    """With the account's key over plain HTTP: all content is sent and read with its MD5."""

    @pytest.fixture
    def server(self, azurite):
        """Return the server."""
        return azurite


@extra_variant
class TestAzuriteOverHTTPS(_AzureConformance):
    """Over https, with an identity that signs with a user delegation key."""

    @pytest.fixture
    def server(self, azurite_https):
        """Return the server."""
        return azurite_https

    @pytest.fixture(autouse=True)
    def _identity(self, fake_credential):
        self.credential = fake_credential()

    def arguments(self):
        """Return the identity."""
        return {"credential": self.credential}


del _AzureConformance
