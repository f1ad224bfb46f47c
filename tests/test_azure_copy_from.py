"""Server-side copies from another container."""

from typing import Any

import pytest

from flask_storage import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    MemoryStorage,
    PreconditionFailedError,
)
from flask_storage.backends.azure.copy import copy_blob
from tests.azure_storages import make_storage

pytest_plugins = ["tests.services.azurite"]

HEADERS: Any = {
    "content_type": "text/x-special",
    "cache_control": "max-age=3600",
    "content_disposition": "attachment; filename*=UTF-8''%C3%9Cbersicht.txt",
    "metadata": {"color": "grün"},
}


@pytest.fixture
def two(azurite):
    """Two storages, each in its own container."""
    storages = make_storage(azurite), make_storage(azurite, prefix="below")
    yield storages
    for storage in storages:
        storage.close()
        azurite.remove_container(storage.bucket)


def properties(info):
    """Return the headers and metadata of a file."""
    return {name: getattr(info, name) for name in HEADERS}


@pytest.mark.parametrize("path", ["a.txt", "folder/ü +%.txt"])
def test_a_blob_of_another_container_is_copied_with_headers_and_metadata(two, path):
    """The service reads the source by a link that the source's storage signs."""
    source, target = two
    source.write(path, b"hello", **HEADERS)

    target.copy_from(source, path, "copied.txt")

    assert target.read("copied.txt") == b"hello"
    assert properties(target.stat("copied.txt")) == HEADERS


def test_content_is_streamed_where_the_service_cannot_copy_blocks(two, monkeypatch):
    """Azurite cannot, so blobs that are too large for one copy call are streamed."""
    source, target = two
    source.write("a", b"hello", **HEADERS)
    monkeypatch.setattr(
        "flask_storage.backends.azure.storage.copy_blob",
        lambda *args, **kwargs: copy_blob(*args, **kwargs, max_single_copy=1),
    )

    target.copy_from(source, "a", "b")

    assert target.read("b") == b"hello"
    assert properties(target.stat("b")) == HEADERS


def test_conditions_apply_to_the_target(two):
    """If a condition fails, the target is unchanged."""
    source, target = two
    source.write("a", b"new")
    target.write("b", b"old")

    with pytest.raises(FileExistsInStorageError):
        target.copy_from(source, "a", "b", exclusive=True)
    with pytest.raises(PreconditionFailedError):
        target.copy_from(source, "a", "b", if_match="0x0")
    assert target.read("b") == b"old"

    target.copy_from(source, "a", "b", if_match=target.stat("b").etag)
    assert target.read("b") == b"new"


def test_copying_a_missing_file_leaves_the_target_unchanged(two):
    """The error says that the source does not exist."""
    source, target = two
    target.write("b", b"old")

    with pytest.raises(FileNotFoundInStorageError):
        target.copy_from(source, "missing", "b")

    assert target.read("b") == b"old"


@pytest.mark.parametrize("other", [MemoryStorage("m"), None, "files"])
def test_copying_from_another_backend_is_refused(two, other):
    """The service can read only from Azure."""
    with pytest.raises(TypeError, match="another AzureStorage"):
        two[1].copy_from(other, "a", "b")


def test_an_error_names_the_side_that_failed(two, azurite):
    """The message has the container and the path of that side."""
    source, _ = two
    source.write("a", b"hello")
    missing = make_storage(azurite, bucket="no-such-container")

    with pytest.raises(ConfigurationError, match="b in the container no-such-container") as caught:
        missing.copy_from(source, "a", "b")
    assert caught.value.path == "b"
    with pytest.raises(ConfigurationError, match="a in the container no-such-container"):
        source.copy_from(missing, "a", "b")
