# ruff: noqa: S101, PT017 - a test suite that is shipped
"""The multipart calls: uploads of several parts, which may take many requests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ...backends.base import StorageBackend
from ...errors import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    StorageError,
)
from ...multipart import Part, PartLimits
from ...types import WriteOptions
from .base import ConformanceBase, content_of, names, needs, part_content

_DEFAULTS = WriteOptions()
_UNKNOWN = "A" * 22


class MultipartTests(ConformanceBase):
    """Nothing is visible before an upload is completed, and completing it is atomic."""

    @needs("multipart")
    @pytest.mark.parametrize("size", [0, 1, 100_000])
    def test_put_stores_a_small_file(self, storage: StorageBackend, size: int) -> None:
        """One call stores the file and replaces an existing one."""
        storage.write("file.bin", b"old")

        storage.multipart.put("file.bin", content_of(size), _DEFAULTS)

        assert storage.read("file.bin") == content_of(size)

    @needs("multipart", "exclusive")
    def test_put_can_be_exclusive(self, storage: StorageBackend) -> None:
        """An existing file is refused and unchanged."""
        storage.multipart.put("file.bin", b"first", WriteOptions(exclusive=True))

        with pytest.raises(FileExistsInStorageError):
            storage.multipart.put("file.bin", b"second", WriteOptions(exclusive=True))

        assert storage.read("file.bin") == b"first"

    @needs("multipart")
    def test_parts_are_joined_by_number(self, storage: StorageBackend) -> None:
        """Parts may be uploaded in any order and are joined by number; until then nothing is visible."""
        parts = storage.multipart
        contents = {1: part_content(parts, 1), 2: part_content(parts, 2), 3: content_of(1000, 3)}
        upload_id = parts.create("folder/file.bin", _DEFAULTS)

        uploaded = [parts.upload_part("folder/file.bin", upload_id, number, contents[number]) for number in (2, 3, 1)]
        assert storage.list() == []
        assert not storage.exists("folder/file.bin")
        parts.complete("folder/file.bin", upload_id, uploaded, _DEFAULTS)

        assert storage.read("folder/file.bin") == contents[1] + contents[2] + contents[3]
        assert names(storage) == ["folder/file.bin"]
        assert list(parts.list_uploads()) == []

    @needs("multipart")
    def test_a_completed_upload_replaces_the_file(self, storage: StorageBackend) -> None:
        """An existing file stays until the upload is completed, and is then replaced as a whole."""
        parts = storage.multipart
        storage.write("file.bin", b"a longer old content")
        upload_id = parts.create("file.bin", _DEFAULTS)
        part = parts.upload_part("file.bin", upload_id, 1, b"new")

        assert storage.read("file.bin") == b"a longer old content"
        parts.complete("file.bin", upload_id, [part], _DEFAULTS)

        assert storage.read("file.bin") == b"new"

    @needs("multipart")
    def test_a_part_can_be_replaced(self, storage: StorageBackend) -> None:
        """The last content of a part number counts; the `Part` of the first one is refused."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        first = parts.upload_part("file.bin", upload_id, 1, b"first")
        second = parts.upload_part("file.bin", upload_id, 1, b"second try")

        with pytest.raises(IntegrityError):
            parts.complete("file.bin", upload_id, [first], _DEFAULTS)
        assert not storage.exists("file.bin")
        parts.complete("file.bin", upload_id, [second], _DEFAULTS)

        assert storage.read("file.bin") == b"second try"

    @needs("multipart")
    def test_uploaded_parts_are_listed(self, storage: StorageBackend) -> None:
        """An interrupted client can list number, size and etag of the uploaded parts, sorted by number."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        assert parts.list_parts("file.bin", upload_id) == []
        contents = {1: part_content(parts, 1, 1), 2: part_content(parts, 2, 2), 10: bytes(10)}
        uploaded = [parts.upload_part("file.bin", upload_id, number, contents[number]) for number in (10, 2, 1)]

        listed = parts.list_parts("file.bin", upload_id)

        assert listed == sorted(uploaded, key=lambda part: part.number)
        assert [(part.number, part.size) for part in listed] == [(n, len(contents[n])) for n in (1, 2, 10)]
        parts.complete("file.bin", upload_id, listed, _DEFAULTS)
        assert storage.read("file.bin") == contents[1] + contents[2] + contents[10]

    @needs("multipart")
    def test_a_missing_part_is_not_published(self, storage: StorageBackend) -> None:
        """A `Part` that was never uploaded is refused; the upload stays, so the part can still be uploaded."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        content = part_content(parts, 1, 5)
        first = parts.upload_part("file.bin", upload_id, 1, content)
        missing = Part(number=2, size=6, etag=first.etag)

        with pytest.raises(IntegrityError) as caught:
            parts.complete("file.bin", upload_id, [first, missing], _DEFAULTS)

        assert caught.value.path == "file.bin"
        assert storage.list() == []
        second = parts.upload_part("file.bin", upload_id, 2, b"second")
        parts.complete("file.bin", upload_id, [first, second], _DEFAULTS)
        assert storage.read("file.bin") == content + b"second"

    @needs("multipart")
    def test_complete_refuses_no_parts_and_duplicates(self, storage: StorageBackend) -> None:
        """Completing with no parts, or with one part twice, publishes nothing and leaves the upload usable."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        part = parts.upload_part("file.bin", upload_id, 1, b"once")

        for wrong in ([], [part, part]):
            with pytest.raises(IntegrityError):
                parts.complete("file.bin", upload_id, wrong, _DEFAULTS)

        assert storage.list() == []
        parts.complete("file.bin", upload_id, [part], _DEFAULTS)
        assert storage.read("file.bin") == b"once"

    @needs("multipart")
    def test_a_part_with_another_etag_is_not_published(self, storage: StorageBackend) -> None:
        """A `Part` with a wrong etag is refused."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        part = parts.upload_part("file.bin", upload_id, 1, b"first")

        with pytest.raises(IntegrityError):
            parts.complete(
                "file.bin", upload_id, [Part(number=1, size=part.size, etag="0" * len(part.etag))], _DEFAULTS
            )

        assert storage.list() == []

    @needs("multipart")
    @pytest.mark.parametrize("upload_id", [_UNKNOWN, "", "../../etc", "a/b", "nul\x00", "x" * 5000, b"x", None, 5])
    def test_an_unknown_upload_is_not_found(self, storage: StorageBackend, upload_id: Any) -> None:
        """An id that `create` never returned is refused, and reaches no file."""
        parts = storage.multipart
        storage.write("file.bin", b"kept")
        part = Part(number=1, size=1, etag="x")

        for call in (
            lambda: parts.upload_part("file.bin", upload_id, 1, b"x"),
            lambda: parts.complete("file.bin", upload_id, [part], _DEFAULTS),
            lambda: parts.list_parts("file.bin", upload_id),
        ):
            with pytest.raises(FileNotFoundInStorageError):
                call()
        parts.abort("file.bin", upload_id)

        assert storage.read("file.bin") == b"kept"

    @needs("multipart")
    def test_an_upload_belongs_to_its_path(self, storage: StorageBackend) -> None:
        """An upload id does not work with another path."""
        parts = storage.multipart
        upload_id = parts.create("mine.bin", _DEFAULTS)
        part = parts.upload_part("mine.bin", upload_id, 1, b"mine")

        with pytest.raises(FileNotFoundInStorageError):
            parts.upload_part("other.bin", upload_id, 1, b"other")
        with pytest.raises(FileNotFoundInStorageError):
            parts.complete("other.bin", upload_id, [part], _DEFAULTS)

        parts.complete("mine.bin", upload_id, [part], _DEFAULTS)
        assert names(storage) == ["mine.bin"]

    @needs("multipart")
    def test_an_aborted_upload_is_gone(self, storage: StorageBackend) -> None:
        """Its parts are deleted, it accepts no more, and aborting it again is no error."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        part = parts.upload_part("file.bin", upload_id, 1, b"x")

        parts.abort("file.bin", upload_id)
        parts.abort("file.bin", upload_id)

        assert list(parts.list_uploads()) == []
        assert storage.list() == []
        with pytest.raises(FileNotFoundInStorageError):
            parts.upload_part("file.bin", upload_id, 2, b"x")
        with pytest.raises(FileNotFoundInStorageError):
            parts.complete("file.bin", upload_id, [part], _DEFAULTS)

    @needs("multipart")
    def test_aborting_under_another_path_keeps_the_upload(self, storage: StorageBackend) -> None:
        """An upload belongs to its path: under another one it does not exist, so nothing is deleted."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        part = parts.upload_part("file.bin", upload_id, 1, b"x")

        parts.abort("other.bin", upload_id)

        parts.complete("file.bin", upload_id, [part], _DEFAULTS)
        assert storage.read("file.bin") == b"x"

    @needs("multipart")
    def test_a_completed_upload_cannot_be_completed_again(self, storage: StorageBackend) -> None:
        """It cannot be completed again after the file was replaced; aborting it does not change the file."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        part = parts.upload_part("file.bin", upload_id, 1, b"old")
        parts.complete("file.bin", upload_id, [part], _DEFAULTS)
        storage.write("file.bin", b"x")

        parts.abort("file.bin", upload_id)

        with pytest.raises(FileNotFoundInStorageError):
            parts.complete("file.bin", upload_id, [part], _DEFAULTS)
        assert storage.read("file.bin") == b"x"

    @needs("multipart")
    def test_part_limits_are_consistent(self, storage: StorageBackend) -> None:
        """A part size between the limits exists, and an upload can have more than one part."""
        limits = storage.multipart.limits

        assert isinstance(limits, PartLimits)
        assert limits.max_size is None or 0 <= limits.min_size <= limits.max_size
        assert limits.max_count > 1

    @needs("multipart", "content_headers", "metadata")
    def test_multipart_headers_are_kept(self, storage: StorageBackend) -> None:
        """Headers and metadata that are given to `create` are those of the file."""
        parts = storage.multipart
        options = WriteOptions(content_type="text/plain", metadata={"a": "1"})
        upload_id = parts.create("file.txt", options)
        part = parts.upload_part("file.txt", upload_id, 1, b"x")

        parts.complete("file.txt", upload_id, [part], _DEFAULTS)

        info = storage.stat("file.txt")
        assert (info.content_type, dict(info.metadata)) == ("text/plain", {"a": "1"})

    @needs("multipart")
    def test_unfinished_uploads_are_listed(self, storage: StorageBackend) -> None:
        """All of them, or those below a directory, each with path, id and start time."""
        parts = storage.multipart
        paths = ["a/1.bin", "a/b/2.bin", "ab/3.bin", "4.bin"]
        ids = {parts.create(path, _DEFAULTS): path for path in paths}

        uploads = list(parts.list_uploads())

        assert {upload.upload_id: upload.path for upload in uploads} == ids
        assert all(abs(upload.started_at - datetime.now(UTC)) < timedelta(days=1) for upload in uploads)
        assert {upload.path for upload in parts.list_uploads("a")} == {"a/1.bin", "a/b/2.bin"}
        assert list(parts.list_uploads("missing")) == []

    @needs("multipart")
    def test_uploads_of_one_path_are_independent(self, storage: StorageBackend) -> None:
        """Each has its own parts; the last one completed wins, or raises if its parts must be uploaded again."""
        parts = storage.multipart
        one, other = parts.create("file.bin", _DEFAULTS), parts.create("file.bin", _DEFAULTS)
        contents = {
            upload_id: (part_content(parts, seed, 1), bytes([seed])) for seed, upload_id in enumerate((one, other))
        }
        first, second = (
            [
                parts.upload_part("file.bin", upload_id, number, data)
                for number, data in enumerate(contents[upload_id], 1)
            ]
            for upload_id in (one, other)
        )
        assert one != other

        parts.complete("file.bin", other, second, _DEFAULTS)
        assert storage.read("file.bin") == b"".join(contents[other])
        if not storage.capabilities.concurrent_writes:
            with pytest.raises(IntegrityError):
                parts.complete("file.bin", one, first, _DEFAULTS)
            assert storage.read("file.bin") == b"".join(contents[other])
            first = [parts.upload_part("file.bin", one, number, data) for number, data in enumerate(contents[one], 1)]
        parts.complete("file.bin", one, first, _DEFAULTS)

        assert storage.read("file.bin") == b"".join(contents[one])

    @needs("multipart")
    def test_upload_ids_cannot_be_guessed(self, storage: StorageBackend) -> None:
        """Ids are unique, do not contain the path, and are long enough for 128 random bits."""
        ids = [storage.multipart.create("secret.bin", _DEFAULTS) for _ in range(20)]

        assert len(set(ids)) == 20
        assert all("secret" not in upload_id and len(upload_id) >= 22 for upload_id in ids)

    @needs("multipart")
    def test_a_swept_upload_is_gone(self, storage: StorageBackend) -> None:
        """A sweep aborts uploads older than the age limit, and no others."""
        parts = storage.multipart
        upload_id = parts.create("file.bin", _DEFAULTS)
        parts.upload_part("file.bin", upload_id, 1, b"x")

        storage.sweep(timedelta(days=1))
        assert [upload.upload_id for upload in parts.list_uploads()] == [upload_id]
        swept = storage.sweep(timedelta(0))

        assert swept >= 1
        assert list(parts.list_uploads()) == []
        with pytest.raises(FileNotFoundInStorageError):
            parts.list_parts("file.bin", upload_id)

    @needs("multipart")
    @pytest.mark.parametrize(
        ("capability", "options"),
        [
            ("metadata", {"metadata": {"a": "1"}}),
            ("content_headers", {"content_type": "text/plain"}),
        ],
        ids=str,
    )
    def test_multipart_options_are_kept_or_refused(
        self, storage: StorageBackend, capability: str, options: Any
    ) -> None:
        """An option that the storage cannot keep is refused here as in every other operation."""
        parts, write_options = storage.multipart, WriteOptions(**options)

        try:
            parts.create("file.bin", write_options)
        except StorageError as error:
            assert not getattr(storage.capabilities, capability)
            assert isinstance(error, NotImplementedError)
        else:
            assert getattr(storage.capabilities, capability)
