# ruff: noqa: S101, PT012 - a test suite that is shipped: it asserts, and raises within blocks
"""Maintenance: `check`, `sweep`, capabilities, repr and logging."""

from __future__ import annotations

import dataclasses
import logging
from datetime import timedelta

import pytest

from ...backends.base import StorageBackend
from ...types import Capabilities
from .base import ConformanceBase, names


class MaintenanceTests(ConformanceBase):
    """The guarantees of `check` and `sweep`, and what a storage tells about itself."""

    def test_a_working_storage_passes_its_check(self, storage: StorageBackend) -> None:
        """`check` raises nothing, changes no file and leaves none."""
        storage.write("file.bin", b"kept")

        storage.check()

        assert names(storage) == names(storage, recursive=False) == ["file.bin"]
        assert storage.read("file.bin") == b"kept"

    def test_sweep_removes_no_published_file(self, storage: StorageBackend) -> None:
        """Published files stay, whatever the age limit is."""
        storage.write("file.bin", b"kept")
        storage.write("folder/file.bin", b"")

        assert storage.sweep(timedelta(0)) == 0
        assert storage.sweep() == 0

        assert names(storage) == ["file.bin", "folder/file.bin"]

    def test_finished_writes_leave_nothing_to_sweep(self, storage: StorageBackend) -> None:
        """Published, aborted and failed writes leave no temporary files."""
        storage.write("published.bin", b"1")
        storage.open("aborted.bin", "w").abort()
        with pytest.raises(ZeroDivisionError), storage.open("failed.bin", "w") as writer:
            writer.write(b"half")
            raise ZeroDivisionError

        assert storage.sweep(timedelta(0)) == 0

    def test_sweep_leaves_recent_writes(self, storage: StorageBackend) -> None:
        """A sweep does not affect a running write that is younger than the age limit."""
        with storage.open("file.bin", "w") as writer:
            writer.write(b"half ")
            storage.sweep(timedelta(days=1))
            writer.write(b"whole")

        assert storage.read("file.bin") == b"half whole"

    def test_capabilities_are_immutable(self, storage: StorageBackend) -> None:
        """The capabilities are a frozen value, and equal at each access."""
        capabilities = storage.capabilities

        assert isinstance(capabilities, Capabilities)
        assert capabilities == storage.capabilities
        with pytest.raises(dataclasses.FrozenInstanceError):
            capabilities.multipart = not capabilities.multipart  # type: ignore[misc]  # what is tested

    def test_repr_shows_the_name(self, storage: StorageBackend) -> None:
        """`repr` and `str` contain the class or the name, so a storage can be logged."""
        assert storage.name
        assert storage.name in repr(storage)
        assert type(storage).__name__ in repr(storage)
        assert storage.name in str(storage) or type(storage).__name__ in str(storage)

    def test_ordinary_operations_log_no_warning(
        self, storage: StorageBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Writing, listing, reading and deleting log nothing at level WARNING."""
        with caplog.at_level(logging.WARNING):
            storage.write("a/b.bin", b"1")
            storage.list()
            storage.read("a/b.bin")
            storage.delete("a/b.bin")

        assert caplog.records == []
