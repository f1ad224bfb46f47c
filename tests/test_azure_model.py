"""Random sequences of operations on Azurite, compared with a dictionary."""

import uuid
from functools import partial

from flask_storage import AzureStorage
from tests.azure_storages import make_storage
from tests.random_operations import run_random_operations
from tests.variants import extra_variant

pytest_plugins = ["tests.services.azurite"]


class _ClearingStorage(AzureStorage):
    """Deletes uncommitted blocks before it creates a file: Azurite counts them as a blob, and Azure does not.

    It commits an empty block list and deletes the blob.
    """

    def _open_writer(self, path, options, *, size=None):
        if options.exclusive:
            self._clear(path)
        return super()._open_writer(path, options, size=size)

    def _copy(self, path, new_path, options):
        if options.exclusive:
            self._clear(new_path)
        super()._copy(path, new_path, options)

    def _clear(self, path):
        if not self.exists(path):
            blob = self.client.get_blob_client(self._gateway.key(path))
            blob.commit_block_list([])
            blob.delete_blob()


def _run(server, **arguments):
    """Each sequence has its own prefix in one container."""
    container = server.make_container()
    in_container = partial(make_storage, server, storage_class=_ClearingStorage, bucket=container, **arguments)
    run_random_operations(lambda: in_container(prefix=uuid.uuid4().hex))
    server.remove_container(container)


def test_sequences_over_http_match_the_model(azurite):
    """With the account's key, and an MD5 with all content."""
    _run(azurite)


@extra_variant
def test_sequences_over_https_match_the_model(azurite_https, fake_credential):
    """With an identity."""
    _run(azurite_https, credential=fake_credential())


def test_sequences_with_small_chunks_match_the_model(azurite):
    """Content is written in blocks and read in ranges."""
    _run(azurite, chunk_size=8192)
