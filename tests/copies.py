"""Checks of copies and moves within a remote storage."""

from typing import Any

import pytest

from flask_storage import FileNotFoundInStorageError

HEADERS: Any = {
    "content_type": "text/x-special",
    "content_encoding": "gzip",
    "cache_control": "max-age=3600",
    "content_disposition": 'attachment; filename="Übersicht.txt"',
    "metadata": {"color": "grün", "space": " before", "number": "1"},
}
# For a service that accepts only ASCII in Content-Disposition.
ASCII_HEADERS: Any = {**HEADERS, "content_disposition": "attachment; filename*=UTF-8''%C3%9Cbersicht.txt"}


def stored_headers(info):
    """Return the headers and metadata of a file."""
    return {name: getattr(info, name) for name in HEADERS}


def check_copy_keeps_content_and_headers(storage, content, headers=HEADERS):
    """Check that a copy has content, headers and metadata, under a name that needs quoting."""
    storage.write("a", content, **headers)

    storage.copy("a", "b c/ü+%.txt")

    assert storage.read("b c/ü+%.txt") == storage.read("a") == content
    assert stored_headers(storage.stat("b c/ü+%.txt")) == headers


def check_copy_replaces_the_target(storage):
    """Check that a copy replaces content, headers and metadata of the target."""
    storage.write("a", b"new", content_type="text/x-new")
    storage.write("b", b"old", metadata={"old": "yes"})

    storage.copy("a", "b")

    assert storage.read("b") == b"new"
    assert storage.stat("b").metadata == {}
    assert storage.stat("b").content_type == "text/x-new"


def check_copy_of_a_missing_file(storage):
    """Check that copying or moving a missing file fails, and leaves the target unchanged."""
    storage.write("b", b"old")

    for operation in (storage.copy, storage.move):
        with pytest.raises(FileNotFoundInStorageError) as caught:
            operation("a", "b")

        assert caught.value.path == "a"
    assert storage.read("b") == b"old"


def check_move(storage, headers=HEADERS):
    """Check that only the file with its new name exists after a move."""
    storage.write("a", b"hello", **headers)

    storage.move("a", "b")

    assert [entry.name for entry in storage.list()] == ["b"]
    assert stored_headers(storage.stat("b")) == headers
