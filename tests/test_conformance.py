"""The conformance suite, run on the storages without a server and on a minimal backend."""

import io
import math
from urllib.parse import quote

import arrow
import pytest

from flask_storage import (
    Capabilities,
    FileInfo,
    FileMode,
    ListEntry,
    LocalFSStorage,
    MemoryStorage,
    RemoteFile,
    ShareLinkOperation,
    StorageBackend,
)
from flask_storage.errors import FileNotFoundInStorageError
from flask_storage.files import FileAdapter
from flask_storage.testing import BackendConformance, FailingStorage
from tests.variants import extra_variant


class TestMemoryStorage(BackendConformance):
    """MemoryStorage has every capability."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return MemoryStorage()


class TestLocalFSStorage(BackendConformance):
    """LocalFSStorage with its default options."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return LocalFSStorage(tmp_path)


@extra_variant
class TestLocalFSStorageWithoutFsync(BackendConformance):
    """LocalFSStorage without fsync, in a root that it creates."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return LocalFSStorage(tmp_path / "new", create=True, fsync=False, name="quick")


class TestFailingStorage(BackendConformance):
    """Without requested failures, FailingStorage behaves like the storage that it wraps."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return FailingStorage(MemoryStorage())


class _BareStorage(StorageBackend):
    """A minimal backend: the five required driver methods, and no capabilities."""

    def __init__(self):
        super().__init__("bare")
        self.files = {}
        self.dates = {}

    def _list(self, path, recursive):
        prefix = f"{path}/" if path else ""
        found = {}
        for name, content in list(self.files.items()):
            if name.startswith(prefix):
                head, slash, _ = name[len(prefix) :].partition("/")
                if slash and not recursive:
                    found[prefix + head + slash] = ListEntry(prefix + head + slash, None, 0)
                else:
                    found[name] = ListEntry(name, self.dates[name], len(content))
        return [list(found.values())]

    def _open_reader(self, path):
        return FileAdapter(io.BytesIO(self._find(path)), FileMode.read, info=self._stat(path))

    def _open_writer(self, path, options):
        return _BareWriter(self, path)

    def _delete(self, path):
        self.files.pop(path, None)

    def _stat(self, path):
        return FileInfo(path=path, size=len(self._find(path)), last_modified=self.dates[path])

    def _find(self, path):
        if path not in self.files:
            raise FileNotFoundInStorageError(self.name, path)
        return self.files[path]


class _BareWriter(RemoteFile):
    def __init__(self, storage, path):
        super().__init__(FileMode.write)
        self._storage, self._path, self._content = storage, path, bytearray()

    def _write(self, view):
        self._content += view

    def _publish(self):
        self._storage.dates[self._path] = arrow.utcnow()
        self._storage.files[self._path] = bytes(self._content)


class TestBareStorage(BackendConformance):
    """Undeclared capabilities are refused, and the defaults of the driver work."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return _BareStorage()


class _SigningStorage(_BareStorage):
    """A backend whose service signs links, with few of the features of links."""

    capabilities = Capabilities(links=ShareLinkOperation.download | ShareLinkOperation.upload)

    def _url(self, path):
        return f"https://service.example.com/{quote(path)}"

    def _link_to(self, path, request):
        return f"{self._url(path)}?operation={request.operations}&expires={request.expires_at.timestamp()}&signature=x"


class TestSigningStorage(BackendConformance):
    """Features that the links of the service do not have are refused, not ignored."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return _SigningStorage()


def test_the_suite_has_at_least_120_tests():
    """A subclass runs all of them."""
    cases = 0

    for name in dir(BackendConformance):
        if name.startswith("test_"):
            marks = getattr(getattr(BackendConformance, name), "pytestmark", [])
            cases += math.prod(len(list(mark.args[1])) for mark in marks if mark.name == "parametrize")

    assert cases >= 120


def test_a_suite_without_make_storage_says_what_to_do(tmp_path):
    """The error names the method to override."""
    with pytest.raises(NotImplementedError, match="make_storage"):
        BackendConformance().make_storage(tmp_path)
