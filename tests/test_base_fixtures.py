"""The public pytest fixtures of flask_storage.testing.fixtures."""

from datetime import timedelta

from flask_storage import current_storage


def test_storage_app_stores_files_and_creates_links(storage_app):
    """The app has a profile in memory, and the test client can follow its links."""
    with storage_app.app_context():
        current_storage.default.write("a.txt", b"hello")
        link = current_storage["default"].link_to("a.txt", "download", timedelta(minutes=1))

    response = storage_app.test_client().get(link)

    assert (response.status_code, response.data) == (200, b"hello")


def test_the_fixtures_do_not_share_files(storage_app, memory_storage, local_storage, failing_storage):
    """Every storage starts empty; only `failing_storage` has the files of `memory_storage`, which it wraps."""
    memory_storage.write("a.txt", b"1")

    assert storage_app.extensions["storage"].default.list() == []
    assert local_storage.list() == []
    assert failing_storage.read("a.txt") == b"1"


def test_storage_events_are_in_order(memory_storage, local_storage, storage_events):
    """Each event has the signal, the name of the storage and the path."""
    memory_storage.write("a.txt", b"1")
    local_storage.write("b.txt", b"2")
    local_storage.read("b.txt")
    memory_storage.delete("a.txt")

    assert storage_events == [
        ("file-stored", "memory", "a.txt"),
        ("file-stored", "local", "b.txt"),
        ("file-read", "local", "b.txt"),
        ("file-deleted", "memory", "a.txt"),
    ]
