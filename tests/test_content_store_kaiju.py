"""`KaijuContentStore`: the directories of kaiju-files, with their symbolic links."""

import hashlib
import io
import uuid

import pytest

from flask_storage import KaijuContentStore, LocalFSStorage, MemoryStorage

BODY = b"hello"
ID = hashlib.md5(BODY).hexdigest()
UUID = str(uuid.UUID(ID))
PATH = f"{UUID}/{UUID}"


@pytest.fixture
def tree(tmp_path):
    """A directory as kaiju-files leaves it: content, and an absolute symbolic link with the name of a record."""
    blob = tmp_path / PATH
    blob.parent.mkdir()
    blob.write_bytes(BODY)
    (blob.parent / "report.pdf").symlink_to(blob)
    return tmp_path


@pytest.mark.parametrize("name", [ID, UUID, UUID.upper(), PATH, f"{UUID}/report.pdf", f"{PATH}.pdf", f"{UUID}.txt"])
def test_content_is_found_by_hash_uuid_and_name(tree, name):
    """The links beside the content are not followed; its directory is the hash."""
    store = KaijuContentStore(LocalFSStorage(tree))

    found = store.get(name)

    assert name in store
    assert found is not None
    assert found.id == store.unshard(name) == ID
    assert store.stored_path(name) == PATH
    assert store.open(name).read() == BODY


def test_an_existing_tree_is_continued(tree):
    """Old content is not stored again, and new content has the same layout; links are neither listed nor changed."""
    store = KaijuContentStore(LocalFSStorage(tree))

    old = store.put(io.BytesIO(BODY), "pdf")
    new = store.put(io.BytesIO(b"new"))

    other = str(uuid.UUID(hashlib.md5(b"new").hexdigest()))
    assert (old.is_duplicate, old.relpath, old.abspath) == (True, f"{PATH}.pdf", str(tree / PATH))
    assert (new.is_duplicate, new.relpath) == (False, f"{other}/{other}")
    assert store.get(old.relpath) == old
    assert sorted(store) == sorted([PATH, new.relpath])
    assert list(store.corrupted()) == []
    assert (tree / UUID / "report.pdf").is_symlink()


def test_content_is_deleted_by_the_name_of_a_link(tree):
    """The link that is left leads nowhere, and nothing is found by it."""
    store = KaijuContentStore(LocalFSStorage(tree))

    store.delete(f"{UUID}/report.pdf")

    assert not (tree / PATH).exists()
    assert list(store) == []
    assert ID not in store


def test_corrupted_content_is_moved_to_its_hash():
    """As in every content store."""
    store = KaijuContentStore(MemoryStorage())
    store.put(io.BytesIO(b"original"))
    store.backend.write(next(store.files()), BODY)

    ((_, address),) = store.repair()

    assert (address.id, address.relpath, list(store)) == (ID, PATH, [PATH])


@pytest.mark.parametrize("name", ["report.pdf", UUID[:-1], f"{UUID[:-1]}x", "a/b"])
def test_what_is_no_hash_is_not_found(name):
    """A directory with another name holds no content."""
    store = KaijuContentStore(MemoryStorage())

    assert name not in store
    with pytest.raises(ValueError, match="is not the path of content"):
        store.unshard(name)
    with pytest.raises(ValueError, match=r"UUID|base 16"):
        store.shard(name)
