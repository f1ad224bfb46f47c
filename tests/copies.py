"""What a copy inside any remote place must be, and how one is looked at."""

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
# For a place that keeps no other letters there.
ASCII_HEADERS: Any = {**HEADERS, "content_disposition": "attachment; filename*=UTF-8''%C3%9Cbersicht.txt"}


def kept(info):
    """Return what belongs to a file beside its content."""
    return {name: getattr(info, name) for name in HEADERS}


def copy_all_that_belongs_to_it(storage, content, headers=HEADERS):
    """Content, headers and metadata, under a name that needs quoting."""
    storage.write("a", content, **headers)

    storage.copy("a", "b c/ü+%.txt")

    assert storage.read("b c/ü+%.txt") == storage.read("a") == content
    assert kept(storage.stat("b c/ü+%.txt")) == headers


def replace_by_a_copy(storage):
    """With everything that belonged to the target."""
    storage.write("a", b"new", content_type="text/x-new")
    storage.write("b", b"old", metadata={"old": "yes"})

    storage.copy("a", "b")

    assert storage.read("b") == b"new"
    assert storage.stat("b").metadata == {}
    assert storage.stat("b").content_type == "text/x-new"


def copy_what_is_not_there(storage):
    """Nor move it; the target stays what it is."""
    storage.write("b", b"old")

    for verb in (storage.copy, storage.move):
        with pytest.raises(FileNotFoundInStorageError) as caught:
            verb("a", "b")

        assert caught.value.path == "a"
    assert storage.read("b") == b"old"


def move_away(storage, headers=HEADERS):
    """Nothing is left behind but the file under its new name."""
    storage.write("a", b"hello", **headers)

    storage.move("a", "b")

    assert [entry.name for entry in storage.list()] == ["b"]
    assert kept(storage.stat("b")) == headers
