"""`HashFS` and `FlaskHashFS`: the interfaces of hashfs and Flask-HashFS over a content store."""

import hashlib
import io
import os
import random
import stat

import pytest
from flask import Flask

from flask_storage import FlaskHashFS, HashAddress, HashFS, LocalFSStorage, MemoryStorage, Storage
from flask_storage.backends.local.directory import Directory
from flask_storage.errors import FileNotFoundInStorageError, PermissionDeniedError, UnknownProfileError
from flask_storage.hashfs import urljoin
from flask_storage.testing.concurrency import run_concurrently
from tests.counts import count

BODY = b"hello"
ID = hashlib.sha256(BODY).hexdigest()
PATH = "2/c/f/2/4dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture
def root(tmp_path):
    """The path of a directory that does not exist yet."""
    return tmp_path / "root"


@pytest.fixture
def fs(root):
    """A store in this directory."""
    return HashFS(str(root))


def names_below(root):
    """Return the paths of all files below a directory."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


# -- HashFS -----------------------------------------------------------------------------------------------------------


def test_the_root_is_created_by_the_first_put(fs, root):
    """Everything else finds nothing, and creates nothing."""
    assert (fs.root, fs.count(), fs.size(), list(fs), list(fs.folders())) == (str(root), 0, 0, [], [])
    assert (fs.get(ID), fs.exists(ID), fs.repair(), fs.realpath(ID)) == (None, False, [], None)
    fs.delete(ID)
    assert not root.exists()

    fs.put(io.BytesIO(BODY))

    assert names_below(root) == [PATH]


def test_addresses_have_absolute_paths(fs, root):
    """By id, relative path and absolute path; the file is where the address says."""
    address = fs.put(io.BytesIO(BODY), ".txt")

    assert address == HashAddress(ID, f"{PATH}.txt", str(root / f"{PATH}.txt"))
    assert (root / f"{PATH}.txt").read_bytes() == BODY
    assert fs.get(ID) == fs.get(address.relpath) == fs.get(address.abspath) == address
    assert list(fs) == list(fs.files()) == [address.abspath]
    assert list(fs.folders()) == [os.path.dirname(address.abspath)]
    assert fs.idpath(ID, "txt") == fs.idpath(ID, ".txt") == fs.realpath(ID) == address.abspath
    assert fs.idpath(ID) == str(root / PATH)
    assert fs.relpath(address.abspath) == address.relpath
    assert fs.unshard(address.abspath) == ID


def test_extensions_are_hard_links(fs, root):
    """They take no space, and content is counted once; a file without an extension has its own address."""
    addresses = [fs.put(io.BytesIO(BODY), extension) for extension in ("txt", "jpg", None)]

    assert [address.relpath for address in addresses] == [f"{PATH}.txt", f"{PATH}.jpg", PATH]
    assert names_below(root) == [PATH, f"{PATH}.jpg", f"{PATH}.txt"]
    assert (root / PATH).stat().st_nlink == 3
    assert (fs.count(), len(fs), fs.size(), list(fs)) == (1, 1, len(BODY), [str(root / f"{PATH}.txt")])
    for address in addresses:
        assert fs.get(address.relpath) == address
    assert list(fs.corrupted()) == []
    fs.delete(addresses[1].abspath)
    assert names_below(root) == []
    assert list(root.iterdir()) == []


def test_without_hard_links_an_extension_is_part_of_the_address_only(fs, root, monkeypatch):
    """As on some network file systems: the absolute path is that of the file."""
    monkeypatch.setattr(Directory, "link_to", lambda *arguments: False)

    address = fs.put(io.BytesIO(BODY), "txt")

    assert (address.relpath, address.abspath) == (f"{PATH}.txt", str(root / PATH))
    assert names_below(root) == [PATH]
    assert fs.get(address.relpath) == address
    assert fs.open(address.relpath).read() == BODY


def test_a_root_behind_a_symbolic_link_is_found(root, tmp_path):
    """Absolute paths below either name of it are accepted."""
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    fs = HashFS(tmp_path / "link")

    address = fs.put(io.BytesIO(BODY))

    assert fs.root == str(root)
    assert fs.get(str(tmp_path / "link" / PATH)) == address
    assert fs.haspath(tmp_path / "link" / "x")


def test_nothing_outside_of_the_root_is_read_or_deleted(fs, root, tmp_path, monkeypatch):
    """Whether the path is absolute, relative to the root or the working directory, or a symbolic link inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_bytes(b"secret")
    fs.put(io.BytesIO(BODY))
    (root / "directory").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret.txt")
    monkeypatch.chdir(outside)

    for path in (
        str(outside / "secret.txt"),
        "../outside/secret.txt",
        "secret.txt",
        str(root / "directory" / "secret.txt"),
        str(root / ".." / "outside" / "secret.txt"),
        str(root),
    ):
        assert fs.get(path) is None
        fs.delete(path)
        with pytest.raises(FileNotFoundInStorageError):
            fs.open(path)
    for path in ("directory/secret.txt", "file", str(root / "file")):
        for operation in (fs.get, fs.open, fs.delete):
            with pytest.raises(PermissionDeniedError, match="symbolic link"):
                operation(path)
    assert (outside / "secret.txt").read_bytes() == b"secret"
    assert list(fs) == [str(root / PATH)]


def test_open_returns_python_file_objects(fs):
    """Bytes, or text with mode `r`; content cannot be changed."""
    address = fs.put(io.StringIO("hello\n"), "txt")

    with fs.open(address.id) as reader:
        assert isinstance(reader, io.BufferedReader)
        assert reader.read() == b"hello\n"
    with fs.open(address.abspath, "r") as text:
        assert text.read() == "hello\n"
    for mode in ("r+", "wb", "a"):
        with pytest.raises(ValueError, match="can only be read"):
            fs.open(address.id, mode)
    with pytest.raises(FileNotFoundInStorageError):
        fs.open("0" * 64)


def test_permissions_are_set(root):
    """Those of hashfs by default, whatever the umask; None leaves them to the umask."""
    before = os.umask(0o077)
    try:
        HashFS(root / "a").put(io.BytesIO(BODY), "txt")
        HashFS(root / "b", fmode=0o640, dmode=0o750).put(io.BytesIO(BODY))
        HashFS(root / "c", fmode=None).put(io.BytesIO(BODY))
    finally:
        os.umask(before)

    assert [stat.S_IMODE((root / path).stat().st_mode) for path in ("a", f"a/{PATH}.txt", "b", f"b/{PATH}")] == [
        0o755,
        0o664,
        0o750,
        0o640,
    ]
    assert stat.S_IMODE((root / "c" / PATH).stat().st_mode) == 0o600


def test_paths_below_the_root_are_recognized(fs, root, tmp_path, monkeypatch):
    """A relative path is one of the working directory, as in hashfs."""
    monkeypatch.chdir(tmp_path)

    assert [fs.haspath(path) for path in (root, root / "a/b", str(root), "root/a")] == [True] * 4
    assert [fs.haspath(path) for path in (tmp_path, f"{root}2", "a", root / "..")] == [False] * 4


def test_empty_directories_are_created_and_removed(fs, root, tmp_path):
    """Only below the root; the root itself stays, and a symbolic link ends the removal."""
    fs.makepath(str(root / "a/b/c"))
    fs.makepath(str(root / "a/d"))
    fs.makepath(str(root / "a/d"))
    (tmp_path / "outside" / "empty").mkdir(parents=True)
    (root / "a" / "link").symlink_to(tmp_path / "outside" / "empty")

    fs.remove_empty(str(root / "a/b/c"))
    fs.remove_empty(str(root / "a/link"))
    fs.remove_empty(str(tmp_path / "outside" / "empty"))
    fs.remove_empty(str(root))

    assert sorted(path.name for path in (root / "a").iterdir()) == ["d", "link"]
    assert (tmp_path / "outside" / "empty").is_dir()
    address = fs.put(io.BytesIO(BODY))
    with pytest.raises(AssertionError, match="to be a directory"):
        fs.makepath(address.abspath)
    with pytest.raises(ValueError, match="is not below the root"):
        fs.makepath(str(tmp_path / "other"))


def test_corrupted_content_is_repaired_with_all_of_its_names(fs, root):
    """The moved file has the right permissions, and no empty directory is left."""
    address = fs.put(io.BytesIO(b"original"), "txt")
    (root / address.relpath).write_bytes(BODY)
    (root / address.relpath).chmod(0o600)

    ((path, found),) = fs.corrupted()
    repaired = fs.repair()

    assert repaired == [(path, found)] == [(address.abspath, HashAddress(ID, f"{PATH}.txt", str(root / f"{PATH}.txt")))]
    assert names_below(root) == [f"{PATH}.txt"]
    assert stat.S_IMODE((root / f"{PATH}.txt").stat().st_mode) == 0o664
    assert sorted(path.name for path in root.iterdir()) == ["2"]
    assert fs.get(ID) == found


def test_extensions_can_be_removed(fs, root):
    """With `extensions=False` a file with an extension is one to repair."""
    fs.put(io.BytesIO(BODY), "txt")
    fs.put(io.BytesIO(b"other"), "jpg")

    repaired = fs.repair(extensions=False)

    assert len(repaired) == 2
    assert [name for name in names_below(root) if "." in name] == []
    assert fs.open(ID).read() == BODY
    assert len(fs) == 2


@pytest.mark.parametrize("seed", range(count(10, 200)))
def test_repair_loses_no_content(root, memory_storage, seed):
    """Whatever files with whatever names were replaced by other content, and whatever the new depth is."""
    generator = random.Random(seed)
    storage = memory_storage if seed % 2 else LocalFSStorage(root, create=True, fsync=False)
    store = HashFS(storage, depth=generator.choice([0, 1, 4]))
    for number in (*range(5), *generator.choices(range(5), k=3)):
        store.put(io.BytesIO(str(number).encode()), generator.choice([None, "txt", "md"]))
    names = [entry.name for entry in storage.list()]
    for name in generator.choices(names, k=generator.randrange(6)):
        storage.write(name, str(generator.randrange(8)).encode())
    store = HashFS(storage, depth=generator.choice([store.depth, 2]))
    before = {storage.read(entry.name) for entry in storage.list()}

    store.repair()

    assert {storage.read(entry.name) for entry in storage.list()} == before
    assert list(store.corrupted()) == []
    for content in before:
        assert store.open(hashlib.sha256(content).hexdigest()).read() == content


def test_another_depth_is_repaired(fs, root):
    """Permissions of None are left as they are."""
    old = fs.put(io.BytesIO(BODY), "txt")
    flat = HashFS(root, depth=1, fmode=None)

    ((path, address),) = flat.repair()

    assert path == old.abspath
    assert address.abspath == str(root / "2" / f"{ID[1:]}.txt")
    assert names_below(root) == [address.relpath]


def test_a_storage_in_place_of_the_directory(local_storage):
    """One on local disk has a root; any other has paths in the storage."""
    local, memory = HashFS(local_storage), HashFS(MemoryStorage())

    here = local.put(io.BytesIO(BODY), "txt")
    there = memory.put(io.BytesIO(BODY), "txt")

    assert (local.root, here.abspath) == (str(local_storage.root), str(local_storage.root / f"{PATH}.txt"))
    assert (memory.root, there.relpath, there.abspath) == (None, f"{PATH}.txt", None)
    assert list(memory) == [PATH] == [memory.realpath(ID)]
    assert memory.relpath(PATH) == memory.idpath(ID) == PATH
    assert list(memory.folders()) == ["2/c/f/2"]
    assert memory.open(there.relpath).read() == BODY
    assert not memory.haspath(PATH)
    assert memory.repair() == []
    memory.remove_empty("2")
    with pytest.raises(ValueError, match="not below the root None"):
        memory.makepath("2")


def test_content_deleted_during_a_listing_is_left_out_or_listed(fs, root, monkeypatch):
    """Another process may delete a name between the listing and the comparison of two names."""
    fs.put(io.BytesIO(BODY), "txt")
    lstat = os.lstat

    def delete_first(path):
        (root / f"{PATH}.txt").unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", delete_first)

    assert list(fs.files()) == [str(root / PATH), str(root / f"{PATH}.txt")]
    assert list(fs.files()) == [str(root / PATH)]


def test_threads_that_put_equal_content_store_one_file(fs, root):
    """Twelve threads with four extensions: one file with all names, and every address is a path on the disk."""
    extensions = ["txt", "md", None, "tar.gz"]

    for turn in range(count(5, 45)):
        content = f"round {turn}".encode()

        def put(number, content=content):
            return fs.put(io.BytesIO(content), extensions[number % 4])

        addresses = run_concurrently(put, 12)

        assert [address.is_duplicate for address in addresses].count(False) == 1
        assert len(set(addresses)) == 4
        assert len({os.stat(address.abspath).st_ino for address in addresses}) == 1
        assert len(fs) == turn + 1


def test_a_hard_link_is_a_second_path(local_storage):
    """Until one of the two is replaced or deleted; an existing file is not replaced."""
    local_storage.write("a", BODY)
    local_storage.write("other", b"other")

    assert local_storage.hard_link("a", "deep/b") is True

    for path, error in (("other", FileExistsError), ("a", FileExistsError)):
        with pytest.raises(error):
            local_storage.hard_link("a", path)
    with pytest.raises(FileNotFoundError):
        local_storage.hard_link("missing", "new/c")
    local_storage.delete("a")
    assert [entry.name for entry in local_storage.list()] == ["deep/b", "other"]
    assert local_storage.read("deep/b") == BODY
    assert sorted(path.name for path in local_storage.root.iterdir()) == ["deep", "other"]


@pytest.mark.parametrize("number", ["EMLINK", "EPERM"])
def test_where_no_hard_link_is_possible_nothing_is_created(tmp_path, monkeypatch, number):
    """The file system has none, or the file has too many; any other error is one of the storage."""
    import errno

    storage = LocalFSStorage(tmp_path, fsync=True)
    storage.write("a", BODY)

    def refuse(*arguments, **options):
        raise OSError(getattr(errno, number), "refused")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        assert storage.hard_link("a", "deep/b") is False

    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert storage.hard_link("a", "deep/b") is True


# -- FlaskHashFS ------------------------------------------------------------------------------------------------------


@pytest.fixture
def app(root):
    """An app with the settings of Flask-HashFS."""
    app = Flask("hashes")
    app.config["HASHFS_ROOT_FOLDER"] = str(root)
    return app


def test_settings_have_the_defaults_of_flask_hashfs(app):
    """And no route is registered."""
    routes = list(app.url_map.iter_rules())

    extension = FlaskHashFS(app)

    assert extension.app == app
    assert {name: value for name, value in app.config.items() if name.startswith("HASHFS_")} == {
        "HASHFS_HOST": None,
        "HASHFS_PATH_PREFIX": "",
        "HASHFS_ROOT_FOLDER": app.config["HASHFS_ROOT_FOLDER"],
        "HASHFS_PROFILE": None,
        "HASHFS_DEPTH": 4,
        "HASHFS_WIDTH": 1,
        "HASHFS_ALGORITHM": "sha256",
    }
    assert list(app.url_map.iter_rules()) == routes


def test_the_extension_is_the_store_of_the_current_app(app, tmp_path):
    """One object serves several apps, each with its own settings."""
    other = Flask("other")
    other.config.update(HASHFS_ROOT_FOLDER=tmp_path / "other", HASHFS_DEPTH=1, HASHFS_WIDTH=2, HASHFS_ALGORITHM="md5")
    extension = FlaskHashFS()
    assert extension.app is None
    extension.init_app(app)
    extension.init_app(other)

    with app.app_context():
        address = extension.put(io.BytesIO(BODY), extension="txt")
        assert isinstance(extension.client, HashFS)
        assert app.extensions["hashfs"] == {"client": extension.client}
        assert extension.config is app.config
        assert extension.get(address.id) == address
        assert (len(extension), list(extension), ID in extension) == (1, [address.abspath], True)
        assert extension.open(address.relpath).read() == BODY
        extension.delete(address.id)
        assert len(extension) == 0
        assert extension
    with other.app_context():
        assert extension.put(io.BytesIO(BODY)).relpath == "5d/41402abc4b2a76b9719d911017c592"
    with pytest.raises(RuntimeError, match="application context"):
        extension.client  # noqa: B018 - the access is the test


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"HASHFS_PATH_PREFIX": None}, '"HASHFS_PATH_PREFIX" must be set'),
        ({"HASHFS_PATH_PREFIX": "foo"}, '"HASHFS_PATH_PREFIX" must start with a leading slash'),
        ({"HASHFS_ROOT_FOLDER": None}, '"HASHFS_ROOT_FOLDER" must be set'),
        ({"HASHFS_ROOT_FOLDER": ""}, '"HASHFS_ROOT_FOLDER" must be set'),
        ({"HASHFS_PROFILE": "media"}, "not both"),
        ({"HASHFS_ALGORITHM": "sha257"}, "there is no hash of a fixed length called 'sha257'"),
        ({"HASHFS_DEPTH": "4"}, "depth must be a whole number"),
    ],
)
def test_wrong_settings_are_refused_at_the_start(app, settings, message):
    """Each error names the setting."""
    app.config.update(settings)

    with pytest.raises(ValueError, match=message):
        FlaskHashFS(app)


def test_a_profile_takes_the_place_of_the_directory(app, tmp_path):
    """So the bytes can be on any backend; Storage is initialized first."""
    app.config.update(HASHFS_ROOT_FOLDER=None, HASHFS_PROFILE="media", STORAGE_PROFILES={"media": "memory:"})
    with pytest.raises(RuntimeError, match="Storage extension is not initialized"):
        FlaskHashFS(app)
    storage = Storage(app)
    extension = FlaskHashFS(app)

    with app.app_context():
        address = extension.put(io.BytesIO(BODY), "txt")

        assert isinstance(extension.client, HashFS)
        assert extension.get(address.relpath) == address
    assert [entry.name for entry in storage.for_app(app)["media"].list()] == [PATH]
    app.config["HASHFS_PROFILE"] = "other"
    with pytest.raises(UnknownProfileError, match="media"):
        FlaskHashFS(app)


HOST = "https://s3.amazon.com/foobar"


@pytest.mark.parametrize(
    ("settings", "path", "external", "expected"),
    [
        ({}, "foo/bar/baz.txt", True, "http://localhost/foo/bar/baz.txt"),
        ({}, "foo/bar/baz.txt", False, "/foo/bar/baz.txt"),
        ({"HASHFS_HOST": HOST}, "qux", True, f"{HOST}/qux"),
        ({"HASHFS_HOST": HOST, "HASHFS_PATH_PREFIX": "/aaa"}, "qux", True, f"{HOST}/aaa/qux"),
        ({"HASHFS_HOST": HOST, "HASHFS_PATH_PREFIX": "/aaa"}, "qux", False, "/aaa/qux"),
        ({"HASHFS_PATH_PREFIX": "/a/b/"}, "/c d", True, "http://localhost/a/b/c d"),
    ],
)
def test_urls_join_host_prefix_and_path(app, settings, path, external, expected):
    """With single slashes, and nothing quoted."""
    app.config.update(settings)
    extension = FlaskHashFS(app)

    with app.test_request_context():
        assert extension.url_for(path, external=external) == expected
    if "HASHFS_HOST" in settings or not external:
        with app.app_context():
            assert extension.url_for(path, external) == expected


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], ""),
        ([""], ""),
        (["/"], "/"),
        (["", "/a"], "/a"),
        (["a", "/"], "a/"),
        (["/a/", "b/", "/c", "d", "e/"], "/a/b/c/d/e/"),
        (["/", "a", "b", "c", "1", "/"], "/a/b/c/1/"),
    ],
)
def test_parts_of_urls_are_joined(paths, expected):
    """As the function of Flask-HashFS does."""
    assert urljoin(*paths) == expected
