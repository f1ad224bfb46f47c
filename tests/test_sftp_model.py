"""Invented histories on SFTP servers: they end where a dictionary ends."""

from tests.histories import run_histories
from tests.sftp_storages import make_storage

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]


def test_histories_on_openssh_end_as_they_must(openssh):
    """With all of its extensions."""
    run_histories(lambda: make_storage(openssh))


def test_histories_on_a_plain_server_end_as_they_must(plain_sftp):
    """With none."""
    run_histories(lambda: make_storage(plain_sftp))
