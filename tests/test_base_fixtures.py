"""The fixtures that users opt into, used as users use them."""

from datetime import timedelta

from flask_storage import current_storage


def test_the_app_stores_and_links(storage_app):
    """An app with a profile in memory and links that the client can follow."""
    with storage_app.app_context():
        current_storage.default.write("a.txt", b"hello")
        link = current_storage["default"].link_to("a.txt", "download", timedelta(minutes=1))

    response = storage_app.test_client().get(link)

    assert (response.status_code, response.data) == (200, b"hello")


def test_two_apps_do_not_share_files(storage_app, memory_storage, local_storage, failing_storage):
    """Every fixture begins empty; only the failing storage has what the one underneath has."""
    memory_storage.write("a.txt", b"1")

    assert storage_app.extensions["storage"].default.list() == []
    assert local_storage.list() == []
    assert failing_storage.read("a.txt") == b"1"


def test_events_come_in_order(memory_storage, local_storage, storage_events):
    """What any storage announces is noted with its name and path."""
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
