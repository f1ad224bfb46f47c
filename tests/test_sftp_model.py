"""Random sequences of operations on SFTP servers, compared with a dictionary."""

from tests.random_operations import run_random_operations
from tests.sftp_storages import make_storage

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]


def test_random_operations_on_openssh_match_a_dictionary(openssh):
    """With all of its extensions."""
    run_random_operations(lambda: make_storage(openssh))


def test_random_operations_on_a_plain_server_match_a_dictionary(plain_sftp):
    """Without extensions."""
    run_random_operations(lambda: make_storage(plain_sftp))
