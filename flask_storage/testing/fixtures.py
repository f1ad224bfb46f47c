"""Pytest fixtures for the tests of an app; opt in with ``pytest_plugins = ["flask_storage.testing.fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask

from .. import signals
from ..backends.base import StorageBackend
from ..backends.local.storage import LocalFSStorage
from ..backends.memory import MemoryStorage
from ..extension import Storage
from .failing import FailingStorage


@pytest.fixture
def memory_storage() -> MemoryStorage:
    """Return an empty storage in memory."""
    return MemoryStorage()


@pytest.fixture
def local_storage(tmp_path: Path) -> LocalFSStorage:
    """Return an empty storage on local disk, in a directory that pytest removes."""
    return LocalFSStorage(tmp_path / "local-storage", name="local", create=True, fsync=False)


@pytest.fixture
def failing_storage(memory_storage: MemoryStorage) -> FailingStorage:
    """Return a :class:`~flask_storage.testing.FailingStorage` around an empty storage in memory."""
    return FailingStorage(memory_storage)


@pytest.fixture
def storage_app(tmp_path: Path) -> Flask:
    """Return an app with one profile, ``"default"``, in memory. Links work inside and outside of requests."""
    app = Flask("storage_app", instance_path=str(tmp_path / "instance"))
    app.config.update(
        TESTING=True,
        SECRET_KEY="a secret key for tests, of 32 bytes or more",  # noqa: S106 - not a real secret
        STORAGE_PROFILES={"default": {"backend": "memory"}},
        STORAGE_EXTERNAL_URL="http://localhost",
    )
    Storage(app)
    return app


class StorageEvent(NamedTuple):
    """One signal that a storage sent."""

    signal: str
    storage: str
    path: str


@pytest.fixture
def storage_events() -> Iterator[list[StorageEvent]]:
    """Yield the list of signals that any storage has sent since the test began, in order.

    The names are those of the signals: ``"file-stored"``, ``"file-read"``, ``"file-deleted"``, ``"link-issued"``,
    ``"link-used"``.
    """
    events: list[StorageEvent] = []
    receivers = []
    for signal in (
        signals.file_stored,
        signals.file_read,
        signals.file_deleted,
        signals.link_issued,
        signals.link_used,
    ):

        def record(sender: StorageBackend, path: str, name: str = signal.name, **_: Any) -> None:
            events.append(StorageEvent(name, sender.name, path))

        receivers.append((signal, record))
        signal.connect(record)
    yield events
    for signal, receiver in receivers:
        signal.disconnect(receiver)
