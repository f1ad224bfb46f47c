"""What every test may ask for: the fixtures that users get, and a storage of each kind."""

import pytest

pytest_plugins = ["flask_storage.testing.fixtures"]


@pytest.fixture(params=["memory", "local"])
def storage(request):
    """An empty storage, once in memory and once on local disk."""
    return request.getfixturevalue(f"{request.param}_storage")
