"""Invented histories on Azurite: they end where a dictionary ends."""

import uuid
from functools import partial

from flask_storage import AzureStorage
from tests.azure_places import place
from tests.histories import run_histories
from tests.variants import extra_variant

pytest_plugins = ["tests.services.azurite"]


class _Forgetting(AzureStorage):
    """Forgets blocks of writes that broke off before it creates: Azurite counts them as a blob, where Azure does not.

    They are committed, as nothing, and deleted.
    """

    def _open_writer(self, path, options, *, size=None):
        if options.exclusive:
            self._forget(path)
        return super()._open_writer(path, options, size=size)

    def _copy(self, path, new_path, options):
        if options.exclusive:
            self._forget(new_path)
        super()._copy(path, new_path, options)

    def _forget(self, path):
        if not self.exists(path):
            blob = self.client.get_blob_client(self._gateway.key(path))
            blob.commit_block_list([])
            blob.delete_blob()


def _histories(server, **arguments):
    """Every history has a prefix of its own in one container."""
    container = server.make_container()
    in_container = partial(place, server, kind=_Forgetting, bucket=container, **arguments)
    run_histories(lambda: in_container(prefix=uuid.uuid4().hex))
    server.remove_container(container)


def test_histories_by_http_end_as_they_must(azurite):
    """With the account's key, and an MD5 beside all content."""
    _histories(azurite)


@extra_variant
def test_histories_by_https_end_as_they_must(azurite_https, fake_credential):
    """In the name of an identity."""
    _histories(azurite_https, credential=fake_credential())


def test_histories_in_small_pieces_end_as_they_must(azurite):
    """What the others send at once goes in blocks, and comes in ranges."""
    _histories(azurite, chunk_size=8192)
