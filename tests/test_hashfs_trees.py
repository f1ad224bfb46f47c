"""Trees that hashfs itself has made, and its reading of ours."""

import io

import hashfs
import pytest

from flask_storage import HashFS

EXTENSIONS = [None, "txt", "jpg"]


@pytest.fixture
def theirs(tmp_path):
    """A store of hashfs with 30 files, with three extensions."""
    theirs = hashfs.HashFS(str(tmp_path / "root"))
    for number in range(30):
        theirs.put(io.BytesIO(f"file {number}".encode()), EXTENSIONS[number % 3])
    return theirs


def test_a_tree_of_hashfs_is_used_in_place(theirs):
    """Every id and path leads to the same content and address, and nothing is stored twice."""
    ours = HashFS(theirs.root)
    files = sorted(theirs.files())

    assert sorted(ours.files()) == files
    assert sorted(ours.folders()) == sorted(theirs.folders())
    assert (ours.count(), ours.size()) == (theirs.count(), theirs.size()) == (30, sum(map(len, contents())))
    assert list(ours.corrupted()) == []
    for number, content in enumerate(contents()):
        address = ours.put(io.BytesIO(content), EXTENSIONS[number % 3])

        assert address.is_duplicate
        expected = tuple(theirs.get(address.id))
        for name in (address.id, address.relpath, str(address.abspath)):
            assert ours.get(name) == expected
            assert ours.open(name).read() == content
    assert sorted(theirs.files()) == files


def test_hashfs_reads_our_tree(theirs):
    """By id, relative path and absolute path."""
    ours = HashFS(theirs.root)

    for extension in EXTENSIONS:
        address = ours.put(io.BytesIO(f"new {extension}".encode()), extension)

        for name in (address.relpath, address.abspath):
            assert tuple(theirs.get(name)) == tuple(address)
        with theirs.open(address.id) as reader:
            assert reader.read() == f"new {extension}".encode()


def test_another_extension_of_their_content_is_a_link(theirs):
    """The same content takes no more space, is counted once, and is deleted under both names."""
    ours = HashFS(theirs.root)

    address = ours.put(io.BytesIO(b"file 1"), "md")

    assert address.is_duplicate
    assert address.relpath.endswith(".md")
    assert tuple(theirs.get(address.abspath))[:3] == tuple(address)[:3]
    assert ours.count() == 30
    assert theirs.count() == 31
    ours.delete(address.id)
    assert ours.count() == theirs.count() == 29


def contents():
    """Return the contents of the 30 files."""
    return [f"file {number}".encode() for number in range(30)]
