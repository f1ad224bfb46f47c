"""Copying from another container, without a byte coming here."""

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
from tests.azure_places import place

pytest_plugins = ["tests.services.azurite"]

HEADERS: Any = {
    "content_type": "text/x-special",
    "cache_control": "max-age=3600",
    "content_disposition": "attachment; filename*=UTF-8''%C3%9Cbersicht.txt",
    "metadata": {"color": "grün"},
}


@pytest.fixture
def two(azurite):
    """Two storages, in a container each."""
    storages = place(azurite), place(azurite, prefix="below")
    yield storages
    for storage in storages:
        storage.close()
        azurite.remove_container(storage.bucket)


def kept(info):
    """Return what belongs to a file beside its content."""
    return {name: getattr(info, name) for name in HEADERS}


@pytest.mark.parametrize("path", ["a.txt", "folder/ü +%.txt"])
def test_a_blob_of_another_container_is_copied_with_all_that_belongs_to_it(two, path):
    """The service reads it by a signature of the other side."""
    source, target = two
    source.write(path, b"hello", **HEADERS)

    target.copy_from(source, path, "copied.txt")

    assert target.read("copied.txt") == b"hello"
    assert kept(target.stat("copied.txt")) == HEADERS


def test_where_the_service_copies_no_blocks_the_content_comes_through_here(two, monkeypatch):
    """As with Azurite, for what is too large for one call."""
    source, target = two
    source.write("a", b"hello", **HEADERS)
    monkeypatch.setattr(
        "flask_storage.backends.azure.storage.copy_blob",
        lambda *args, **kwargs: copy_blob(*args, **kwargs, max_single_copy=1),
    )

    target.copy_from(source, "a", "b")

    assert target.read("b") == b"hello"
    assert kept(target.stat("b")) == HEADERS


def test_conditions_are_those_of_the_target(two):
    """A taken name and another version are left as they are."""
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


def test_what_is_not_there_is_not_copied(two):
    """The target stays."""
    source, target = two
    target.write("b", b"old")

    with pytest.raises(FileNotFoundInStorageError):
        target.copy_from(source, "missing", "b")

    assert target.read("b") == b"old"


@pytest.mark.parametrize("other", [MemoryStorage("m"), None, "files"])
def test_only_another_container_is_copied_from(two, other):
    """The service reads no other place."""
    with pytest.raises(TypeError, match="another AzureStorage"):
        two[1].copy_from(other, "a", "b")


def test_it_is_the_side_that_fails_that_is_named(two, azurite):
    """Its container and its path."""
    source, _ = two
    source.write("a", b"hello")
    missing = place(azurite, bucket="no-such-container")

    with pytest.raises(ConfigurationError, match="b in the container no-such-container") as caught:
        missing.copy_from(source, "a", "b")
    assert caught.value.path == "b"
    with pytest.raises(ConfigurationError, match="a in the container no-such-container"):
        source.copy_from(missing, "a", "b")
