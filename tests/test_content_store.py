"""`ContentStore`: content known by its hash, on every backend, stored once."""

import gzip
import hashlib
import io
import os
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage

from flask_storage import ContentStore, HashAddress, LocalFSStorage, MemoryStorage, Storage
from flask_storage.errors import FileNotFoundInStorageError, IntegrityError, PermissionDeniedError, UnknownProfileError
from flask_storage.testing.concurrency import run_concurrently
from tests import azure_storages, s3_storages, sftp_storages
from tests.counts import count
from tests.variants import variants

pytest_plugins = ["tests.services.azurite", "tests.services.openssh", "tests.services.s3"]

BODY = b"hello"
ID = hashlib.sha256(BODY).hexdigest()
PATH = "2/c/f/2/4dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
MISSING = hashlib.sha256(b"never stored").hexdigest()


def make_storage(request, backend):
    """Return an empty storage on a backend."""
    if backend in ("memory", "local"):
        return request.getfixturevalue(f"{backend}_storage")
    module = {"azurite": azure_storages, "openssh": sftp_storages}.get(backend, s3_storages)
    storage = module.make_storage(request.getfixturevalue(backend))
    request.addfinalizer(storage.close)
    return storage


@pytest.fixture(params=["memory", "local", *variants("localstack", "rgw"), "azurite", "openssh"])
def storage(request):
    """An empty storage on each backend."""
    return make_storage(request, request.param)


@pytest.fixture
def store(storage):
    """A content store in it."""
    return ContentStore(storage)


@pytest.fixture
def memory_store(memory_storage):
    """A content store in memory, for what does not depend on the backend."""
    return ContentStore(memory_storage)


def stored(store):
    """Return the stored names."""
    return [entry.name for entry in store.backend.list()]


# -- on every backend -------------------------------------------------------------------------------------------------


def test_content_is_stored_under_its_sharded_hash(store):
    """Without the extension, which is part of the address."""
    address = store.put(io.BytesIO(BODY), "txt")

    local_path = store.backend.local_path(PATH)
    assert address == HashAddress(ID, f"{PATH}.txt", None if local_path is None else str(local_path))
    assert not address.is_duplicate
    assert stored(store) == [PATH]
    assert store.backend.read(PATH) == BODY


def test_equal_content_is_stored_once(store):
    """With every extension, and none; each address resolves to the same bytes."""
    addresses = [store.put(io.BytesIO(BODY), extension) for extension in ("txt", ".md", "tar.gz", None, "txt")]

    assert [address.is_duplicate for address in addresses] == [False, True, True, True, True]
    assert [address.relpath for address in addresses] == [
        f"{PATH}{suffix}" for suffix in (".txt", ".md", ".tar.gz", "", ".txt")
    ]
    assert stored(store) == [PATH]
    for address in addresses:
        assert store.get(address.relpath) == address
        assert store.open(address.relpath).read() == BODY


def test_content_is_found_by_id_and_path(store):
    """By the digits of the id, however they are divided, and with any extension."""
    for name in (ID, ID.upper(), PATH, f"{PATH}.txt", f"/{PATH}", f"{ID}.txt", f"2c/f2/{ID[4:]}"):
        store.put(io.BytesIO(BODY), "jpg")

        assert name in store
        assert store.get(name).id == store.unshard(name) == ID
        assert store.stored_path(name) == PATH
        with store.open(name) as reader:
            assert reader.read() == BODY
        store.delete(name)
        assert stored(store) == []


def test_what_is_not_stored_is_not_found(store):
    """Deleting it is no error; opening it is the storage's own error."""
    store.put(io.BytesIO(BODY))

    for name in (MISSING, MISSING[:10], "a.txt", PATH[:-1], f"{PATH}0", f"{PATH}/x"):
        assert store.get(name) is None
        assert store.stored_path(name) is None
        assert name not in store
        store.delete(name)
        with pytest.raises(FileNotFoundInStorageError):
            store.open(name)
    assert stored(store) == [PATH]


def test_a_tree_of_hashfs_is_used_in_place(store):
    """Its content, stored with an extension, is found and not stored again."""
    store.backend.write(f"{PATH}.jpg", BODY)

    address = store.put(io.BytesIO(BODY), "jpg")
    other = store.put(io.BytesIO(BODY), "txt")
    without = store.put(io.BytesIO(BODY))

    assert address.is_duplicate
    assert stored(store) == [f"{PATH}.jpg"]
    for found in (address, other, without):
        assert store.get(found.relpath) == found
        assert store.open(found.relpath).read() == BODY
    assert (address.relpath, other.relpath, without.relpath) == (f"{PATH}.jpg", f"{PATH}.txt", f"{PATH}.jpg")
    assert store.get(ID) == address
    assert store.stored_path(f"{PATH}.txt") == f"{PATH}.jpg"


def test_all_names_of_content_are_deleted(store):
    """Also copies that another program has made with another extension or depth, and nothing else."""
    deeper = "/".join([*PATH.split("/")[:4], ID[4:8], ID[8:]])
    beside = PATH[:-1] + ("0" if PATH[-1] != "0" else "1")
    for path in (PATH, f"{PATH}.txt", deeper, f"{PATH}-2", beside):
        store.backend.write(path, BODY)

    store.delete(deeper)

    assert stored(store) == sorted([f"{PATH}-2", beside])


def test_contents_are_counted_and_listed(store):
    """With their sizes; an empty store is true, and has none."""
    assert (len(store), store.count(), store.size(), list(store), list(store.folders())) == (0, 0, 0, [], [])
    assert store

    paths = [store.put(io.BytesIO(bytes(size))).relpath for size in (0, 1, 1000)]
    store.put(io.BytesIO(b"\0"), "bin")

    assert sorted(store) == sorted(store.files()) == sorted(paths)
    assert sorted(store.folders()) == sorted(path.rpartition("/")[0] for path in paths)
    assert (len(store), store.count(), store.size()) == (3, 3, 1001)


def test_corrupted_content_is_found_and_moved(store):
    """To the address of what it is now; content that is stored there already is deleted."""
    good = store.put(io.BytesIO(b"good")).relpath
    changed = store.put(io.BytesIO(b"original")).relpath
    copy = store.put(io.BytesIO(b"copy")).relpath
    store.backend.write(changed, BODY)
    store.backend.write(copy, b"good")

    corrupted = dict(store.corrupted())
    repaired = dict(store.repair())

    assert corrupted == repaired
    assert {path: address.relpath for path, address in repaired.items()} == {changed: PATH, copy: good}
    assert stored(store) == sorted([good, PATH])
    assert store.backend.read(PATH) == BODY
    assert list(store.corrupted()) == store.repair() == []


def test_content_that_was_exchanged_is_repaired(store):
    """Every content is kept, also where one corrupted file is at the address of another."""
    paths = [store.put(io.BytesIO(content)).relpath for content in (b"first", b"second", b"third")]
    for path, content in zip(paths, (b"second", b"third", b"first"), strict=True):
        store.backend.write(path, content)

    repaired = store.repair()

    assert sorted(path for path, _ in repaired) == sorted(paths)
    assert [store.backend.read(path) for path in paths] == [b"first", b"second", b"third"]
    assert len(store) == 3


def test_another_depth_is_repaired(store):
    """A store of another depth and width finds old content by its path, and moves it."""
    store.put(io.BytesIO(BODY))
    flat = ContentStore(store.backend, depth=1, width=3)

    assert flat.get(ID) is None
    assert flat.stored_path(PATH) == PATH
    assert flat.open(PATH).read() == BODY
    ((path, address),) = flat.repair()

    assert (path, address.relpath) == (PATH, f"{ID[:3]}/{ID[3:]}")
    assert stored(flat) == [address.relpath]
    assert flat.get(ID) == address


def test_the_content_type_of_the_first_extension_is_stored(store):
    """Where the backend stores headers, since a hash tells none."""
    store.put(io.BytesIO(BODY), "png")
    store.put(io.BytesIO(BODY), "txt")
    unknown = store.put(io.BytesIO(b"other"), "unknown")

    if store.backend.capabilities.content_headers:
        assert store.backend.stat(PATH).content_type == "image/png"
    assert store.open(unknown.id).read() == b"other"


class _Changing(io.BytesIO):
    """A file that has other content when it is read again."""

    def seek(self, *arguments):
        position = super().seek(*arguments)
        if self.getvalue() == BODY and self.reads:
            self.getbuffer()[0:1] = b"j"
        return position

    reads = 0

    def read(self, size=-1, /):
        self.reads += 1
        return super().read(size)


def test_a_file_that_changes_while_it_is_stored_is_an_error(store):
    """It is not stored under a wrong hash."""
    with pytest.raises(IntegrityError):
        store.put(_Changing(BODY))

    assert stored(store) == []


@pytest.mark.parametrize("backend", ["memory", "local", "azurite"])
def test_threads_that_put_equal_content_store_one_copy(request, backend):
    """Twelve threads with four extensions; every address resolves, and exactly one is not a duplicate."""
    store = ContentStore(make_storage(request, backend))

    extensions = ["txt", "md", None, "tar.gz"]

    for turn in range(count(5, 45)):
        content = f"round {turn}".encode() * 100

        def put(number, content=content):
            return store.put(io.BytesIO(content), extensions[number % 4])

        addresses = run_concurrently(put, 12)

        assert [address.is_duplicate for address in addresses].count(False) == 1
        assert {address.id for address in addresses} == {hashlib.sha256(content).hexdigest()}
        for address in set(addresses):
            assert store.get(address.relpath) == address
            assert store.open(address.relpath).read() == content
        assert len(store) == turn + 1


def test_a_link_leads_to_stored_content(tmp_path):
    """`path_of` is a path for every operation of the storage."""
    app = Flask("content")
    app.config.update(
        SECRET_KEY="k" * 32, STORAGE_PROFILES={"media": "memory:"}, STORAGE_EXTERNAL_URL="http://localhost"
    )
    Storage(app)
    store = ContentStore("media")
    with app.app_context():
        address = store.put(io.BytesIO(BODY), "txt")
        link = store.backend.link_to(store.path_of(address.id), "download", timedelta(minutes=1))

    response = app.test_client().get(link)

    assert (response.data, response.mimetype) == (BODY, "text/plain")


class _WithoutExclusive(MemoryStorage):
    """A storage that cannot create a file exclusively, as some S3-compatible services cannot."""

    capabilities = replace(MemoryStorage.capabilities, exclusive=False)


def test_without_exclusive_equal_content_is_written_to_one_path():
    """Concurrent writers write the same bytes; each may take its content for new."""
    store = ContentStore(_WithoutExclusive())

    addresses = run_concurrently(lambda number: store.put(io.BytesIO(BODY)), 8)

    assert len(set(addresses)) == 1
    assert stored(store) == [PATH]
    assert store.put(io.BytesIO(BODY)).is_duplicate


def test_a_directory_of_several_contents_is_listed_once(memory_storage):
    """Here the root, whose path is empty."""
    store = ContentStore(memory_storage, depth=0)
    for content in (b"first", b"second"):
        store.put(io.BytesIO(content))

    assert list(store.folders()) == [""]


# -- independent of the backend ---------------------------------------------------------------------------------------


def test_a_profile_is_that_of_the_current_app():
    """One store serves several apps; an unknown profile is an error at its first use."""
    store = ContentStore("media")
    apps = [Flask(f"app{number}") for number in range(2)]
    for app in apps:
        app.config["STORAGE_PROFILES"] = {"media": "memory:"}
        Storage(app)

    with apps[0].app_context():
        store.put(io.BytesIO(BODY))

        assert len(store) == 1
        with pytest.raises(UnknownProfileError):
            ContentStore("other").put(io.BytesIO(BODY))
    with apps[1].app_context():
        assert len(store) == 0
    assert repr(store) == "<ContentStore 'media'>"


@pytest.mark.parametrize(
    "arguments", [{"algorithm": "sha257"}, {"algorithm": "shake_128"}, {"algorithm": None}, {"depth": -1}, {"width": 0}]
)
def test_invalid_arguments_are_refused_at_once(arguments):
    """Not when the first content is stored, which would be in a request."""
    with pytest.raises(ValueError, match=r"there is no hash|must be a whole number"):
        ContentStore(MemoryStorage(), **arguments)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha512", "blake2b", "sha3_256"])
def test_every_hash_of_a_fixed_length_can_be_used(algorithm):
    """Its digest is the id, and is verified while the content is uploaded."""
    store = ContentStore(MemoryStorage(), algorithm=algorithm)

    address = store.put(io.BytesIO(BODY))

    assert address.id == hashlib.new(algorithm, BODY).hexdigest() == store.computehash(io.BytesIO(BODY))
    assert store.get(address.id) == address


@pytest.mark.parametrize(
    ("depth", "width", "expected"),
    [
        (4, 1, PATH),
        (0, 1, ID),
        (2, 3, f"{ID[:3]}/{ID[3:6]}/{ID[6:]}"),
        (1, 64, ID),
        (2, 40, f"{ID[:40]}/{ID[40:]}"),
        (100, 1, "/".join(ID)),
    ],
)
def test_depth_and_width_divide_the_hash(memory_storage, depth, width, expected):
    """Pieces that would be empty are left out."""
    store = ContentStore(memory_storage, depth, width)

    address = store.put(io.BytesIO(BODY))

    assert address.relpath == "/".join(store.shard(ID)) == expected
    assert store.get(ID) == address
    assert len(store) == 1


@pytest.mark.parametrize("extension", ["", ".", None])
def test_an_empty_extension_is_none(memory_store, extension):
    """The address is the path of the content."""
    assert memory_store.put(io.BytesIO(BODY), extension).relpath == PATH


@pytest.mark.parametrize("extension", ["/x", "a/b", "..", "../../x", "tar..gz", "a b", "a\\b", "ü", ".txt.", "a\n"])
def test_an_extension_that_is_none_is_refused(memory_store, extension):
    """It cannot leave the directory of the content."""
    with pytest.raises(ValueError, match="is not an extension"):
        memory_store.put(io.BytesIO(BODY), extension)

    assert stored(memory_store) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/", "/etc/passwd", f"../{ID}", "a\0b", f"{PATH}/../x"])
def test_a_path_that_leads_out_stands_for_nothing(memory_store, name):
    """It is neither found nor deleted."""
    memory_store.put(io.BytesIO(BODY))

    assert name not in memory_store
    assert memory_store.get(name) is None
    memory_store.delete(name)
    with pytest.raises(FileNotFoundInStorageError):
        memory_store.open(name)
    with pytest.raises(ValueError, match="is not the path of content"):
        memory_store.unshard(name)
    assert stored(memory_store) == [PATH]


def test_denied_access_is_not_taken_for_missing_content(tmp_path):
    """A symbolic link in the storage is refused, and not followed."""
    (tmp_path / "outside").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    store = ContentStore(LocalFSStorage(root))

    with pytest.raises(PermissionDeniedError):
        store.open("link")


def _text_file(tmp_path):
    path = tmp_path / "text"
    path.write_text("grün", "utf-8")
    return path.open(encoding="utf-8")


def _spooled_text(tmp_path):
    file = tempfile.SpooledTemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115 - the test closes it
    file.write("grün")
    return file


def _pipe(tmp_path):
    reader, writer = os.pipe()
    with open(writer, "wb") as file:
        file.write("grün".encode())
    return open(reader, "rb")


def _gzip_over_a_pipe(tmp_path):
    reader, writer = os.pipe()
    with open(writer, "wb") as file:
        file.write(gzip.compress("grün".encode()))
    return gzip.GzipFile(fileobj=open(reader, "rb"))


class _OnlyReads:
    """An object with nothing but a method `read`."""

    def __init__(self, tmp_path):
        self._file = io.BytesIO("grün".encode())

    def read(self, size, /):
        """Return up to *size* bytes."""
        return self._file.read(size)


def _named_temporary_file(tmp_path):
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the test closes it
    file.write("grün".encode())
    return file


SOURCES = {
    "bytes in memory": lambda tmp_path: io.BytesIO("grün".encode()),
    "text in memory": lambda tmp_path: io.StringIO("grün"),
    "text file": _text_file,
    "spooled text": _spooled_text,
    "form upload": lambda tmp_path: FileStorage(io.BytesIO("grün".encode()), "a.txt"),
    "named temporary file": _named_temporary_file,
    "pipe": _pipe,
    "gzip over a pipe": _gzip_over_a_pipe,
    "object with read": _OnlyReads,
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the pipe below gzip
@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_file_object_is_read_from_its_beginning(memory_store, tmp_path, kind):
    """Text is encoded as UTF-8; the object is not closed, and is back at its position where it can seek."""
    file = SOURCES[kind](tmp_path)
    can_seek = hasattr(file, "seek") and "pipe" not in kind
    if can_seek:
        file.seek(2)

    address = memory_store.put(file)

    assert memory_store.backend.read(address.relpath) == "grün".encode()
    if can_seek:
        assert file.tell() == 2
        assert not file.closed
    if hasattr(file, "close"):
        file.close()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_local_file_is_stored_by_its_path(memory_store, tmp_path, kind):
    """As text or as a path object."""
    (tmp_path / "a.bin").write_bytes(BODY)

    assert memory_store.put(kind(tmp_path / "a.bin")).id == ID


@pytest.mark.parametrize("file", [BODY, bytearray(BODY), 5, None, "no such file", os.curdir])
def test_what_is_no_file_is_refused(memory_store, file):
    """Bytes too, as in hashfs: they might be meant as a path."""
    with pytest.raises(ValueError, match="requires the path of a file or a readable object"):
        memory_store.put(file)


def test_a_source_that_does_not_block_is_refused(memory_store):
    """It is not taken for an empty file."""

    class Waiting:
        def read(self, size, /):
            return None

    with pytest.raises(TypeError, match="read"):
        memory_store.put(Waiting())


def test_large_content_is_spooled_to_disk(memory_store):
    """Content that cannot be read twice is complete, beyond the size that is held in memory."""
    content = bytes(range(256)) * 40_000

    class Source:
        def __init__(self):
            self._file = io.BytesIO(content)

        def read(self, size, /):
            return self._file.read(size)

    address = memory_store.put(Source())

    assert address.id == hashlib.sha256(content).hexdigest()
    assert memory_store.size() == len(content)


def test_addresses_compare_by_content_and_path():
    """Whether the content was a duplicate does not matter; a plain tuple is equal as in hashfs."""
    address = HashAddress(ID, PATH, None)

    assert address == HashAddress(ID, PATH, None, is_duplicate=True)
    assert hash(address) == hash(HashAddress(ID, PATH, None, is_duplicate=True))
    assert address != HashAddress(ID, f"{PATH}.txt", None)
    assert address == (ID, PATH, None, False)
    assert address != (ID, PATH, None, True)
    assert tuple(address) == (ID, PATH, None, False)


def test_content_deleted_during_a_check_is_left_out(memory_store, monkeypatch):
    """`corrupted` reads every file, which takes long enough for others to be deleted."""
    memory_store.put(io.BytesIO(BODY))
    entries = memory_store.backend.list()
    monkeypatch.setattr(memory_store.backend, "iter", lambda *args, **kwargs: iter(entries))

    memory_store.backend.delete(PATH)

    assert list(memory_store.corrupted()) == []
