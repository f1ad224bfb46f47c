"""The conformance suite, run on storages that wrap others."""

from contextlib import suppress
from dataclasses import replace

import pytest

from flask_storage import (
    FileNotFoundInStorageError,
    LocalFSStorage,
    MemoryStorage,
    MirrorStorage,
    PrefixStorage,
    ReadOnlyStorage,
    ReadThroughStorage,
    WriteOptions,
)
from flask_storage.backends.s3.presets import PRESETS
from flask_storage.backends.wrapper import ForwardingFile, StorageWrapper, WrapperMultipart
from flask_storage.testing import BackendConformance
from tests import azure_storages, s3_storages
from tests.variants import extra_variant

pytest_plugins = ["tests.services.azurite", "tests.services.s3"]

PREFIX = "tenants/acme"
NEAR_NAMES = ("secret.bin", "tenants/acme2/file.bin", "tenants/acme.bin", "file.bin", "old.bin")
"""Files beside the directory of a PrefixStorage, some of which the suite also uses inside it."""


def _local(tmp_path, name):
    return LocalFSStorage(tmp_path / name, name=name, create=True, fsync=False)


class _PrefixConformance(BackendConformance):
    """A directory of a storage that has other files too, which stay as they are."""

    max_path_bytes = 1024 - len(f"{PREFIX}/")

    def make_inner(self, tmp_path):
        """Return the storage that has the directory."""
        raise NotImplementedError

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        self.inner = self.make_inner(tmp_path)
        for name in NEAR_NAMES:
            self.inner.write(name, b"of another tenant")
        return PrefixStorage(self.inner, PREFIX, "acme")

    @pytest.fixture
    def storage(self, tmp_path):
        """Return the storage under test, and check afterwards that nothing outside the directory has changed."""
        storage = self.make_storage(tmp_path)
        yield storage
        outside = [entry.name for entry in self.inner.list() if not entry.name.startswith(f"{PREFIX}/")]
        assert outside == sorted(NEAR_NAMES)
        assert {self.inner.read(name) for name in NEAR_NAMES} == {b"of another tenant"}
        self.inner.close()


class TestPrefixOfMemory(_PrefixConformance):
    """A directory of MemoryStorage."""

    def make_inner(self, tmp_path):
        """Return the storage that has the directory."""
        return MemoryStorage()


class TestPrefixOfLocalDisk(_PrefixConformance):
    """A directory of LocalFSStorage."""

    def make_inner(self, tmp_path):
        """Return the storage that has the directory."""
        return _local(tmp_path, "files")


@extra_variant
class TestPrefixOfPrefix(_PrefixConformance):
    """A directory of a directory."""

    max_path_bytes = _PrefixConformance.max_path_bytes - len("docs/")

    def make_inner(self, tmp_path):
        """Return the storage that has the directory."""
        return PrefixStorage(MemoryStorage(), "docs")


class TestPrefixOfS3(_PrefixConformance):
    """A directory of a bucket of LocalStack."""

    @pytest.fixture(autouse=True)
    def _server(self, localstack):
        self.server = localstack

    def make_inner(self, tmp_path):
        """Return the storage that has the directory."""
        preset = replace(PRESETS["aws"], copy_conditions=False, addressing="path")
        return s3_storages.make_storage(self.server, preset=preset)

    # As for the bucket itself: see tests/test_s3_conformance.py.
    test_every_read_is_one_whole_version = None  # type: ignore[assignment]  # not supported


class TestPrefixOfAzure(_PrefixConformance):
    """A directory of a container of Azurite."""

    @pytest.fixture(autouse=True)
    def _server(self, azurite):
        self.server = azurite

    def make_inner(self, tmp_path):
        """Return the storage that has the directory."""
        return azure_storages.make_storage(self.server)


class _WritableStorage(ReadOnlyStorage):
    """A ReadOnlyStorage that lets writes through, so that the suite can store what it reads."""

    capabilities = StorageWrapper.capabilities
    _check_options = StorageWrapper._check_options
    _open_writer = StorageWrapper._open_writer
    _open_updater = StorageWrapper._open_updater
    _upload_file = StorageWrapper._upload_file
    _copy = StorageWrapper._copy
    _move = StorageWrapper._move
    _delete = StorageWrapper._delete
    _delete_many = StorageWrapper._delete_many
    _delete_prefix = StorageWrapper._delete_prefix
    _multipart = StorageWrapper._multipart
    _sweep = StorageWrapper._sweep
    _check_app_link = StorageWrapper._check_app_link


class TestReadOnly(BackendConformance):
    """Its reads; tests/test_scoped.py has the table of what it refuses."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return _WritableStorage(MemoryStorage(), "shown")


class _MirrorConformance(BackendConformance):
    """At the end of each test, the mirror has the same files."""

    def make_inner(self, tmp_path, name):
        """Return the storage or its mirror."""
        raise NotImplementedError

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return MirrorStorage(self.make_inner(tmp_path, "primary"), [self.make_inner(tmp_path, "mirror")], "safe")

    @pytest.fixture
    def storage(self, tmp_path):
        """Return the storage under test, and compare the mirror afterwards."""
        storage = self.make_storage(tmp_path)
        yield storage
        primary, mirror = storage.inner, storage.mirrors[0]
        names = [entry.name for entry in primary.list()]
        assert [entry.name for entry in mirror.list()] == names
        for name in names:
            assert mirror.read(name) == primary.read(name)
            assert mirror.stat(name).content_type == primary.stat(name).content_type
            assert mirror.stat(name).metadata == primary.stat(name).metadata


class TestMirrorOfMemory(_MirrorConformance):
    """MemoryStorage, and a mirror of the same kind."""

    def make_inner(self, tmp_path, name):
        """Return the storage or its mirror."""
        return MemoryStorage(name)


@extra_variant
class TestMirrorOfLocalDisk(_MirrorConformance):
    """LocalFSStorage, and a mirror of the same kind."""

    def make_inner(self, tmp_path, name):
        """Return the storage or its mirror."""
        return _local(tmp_path, name)


class TestReadThroughToNew(BackendConformance):
    """All files are in the new storage, in memory; the old one is an empty directory."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return ReadThroughStorage(MemoryStorage(), _local(tmp_path, "old"), "media")


class _AgingFile(ForwardingFile):
    def __init__(self, inner, age):
        super().__init__(inner)
        self._age = age

    def _publish(self):
        super()._publish()
        self._age()


class _AgingMultipart(WrapperMultipart):
    def __init__(self, storage, inner):
        super().__init__(storage, inner)
        self._age = storage.age

    def put(self, path, data, options):
        super().put(path, data, options)
        self._age(path)

    def complete(self, path, upload_id, parts, options):
        super().complete(path, upload_id, parts, options)
        self._age(path)


class _AgingStorage(ReadThroughStorage):
    """Every file is moved to the old storage as soon as it is published, so the suite reads everything from there."""

    def age(self, path):
        """Move a file to the old storage, unless a concurrent call has done so."""
        with suppress(FileNotFoundInStorageError):
            self.inner._stream_to(self.old, path, path, WriteOptions())
            self.inner._delete(path)

    def _open_writer(self, path, options):
        return _AgingFile(super()._open_writer(path, options), lambda: self.age(path))

    def _open_updater(self, path, options):
        return _AgingFile(super()._open_updater(path, options), lambda: self.age(path))

    def _upload_file(self, file_obj, path, options, progress):
        super()._upload_file(file_obj, path, options, progress)
        self.age(path)

    def _copy(self, path, new_path, options):
        super()._copy(path, new_path, options)
        self.age(new_path)

    def _move(self, path, new_path, options):
        super()._move(path, new_path, options)
        self.age(new_path)

    def _multipart(self):
        return _AgingMultipart(self, super()._multipart())


class TestReadThroughToOld(BackendConformance):
    """All files are in the old storage."""

    def make_storage(self, tmp_path):
        """Return the storage under test."""
        return _AgingStorage(MemoryStorage("new"), MemoryStorage("old"), "media")

    # A ReadThroughStorage adds no file to its old storage, and relies on that; this one does so during the test.
    test_exactly_one_of_many_exclusive_writes_succeeds = None  # type: ignore[assignment]  # not supported
    test_concurrent_saves_of_one_name_keep_every_file = None  # type: ignore[assignment]  # not supported


del _PrefixConformance, _MirrorConformance
