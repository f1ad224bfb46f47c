# ruff: noqa: S101, PT017 - a test suite that is shipped
"""The seven part calls: uploads that live longer than a request."""

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
from ...parts import Part, PartLimits
from ...values import WriteOptions
from .ground import Ground, content_of, names, needs, part_of

_PLAIN = WriteOptions()
_UNKNOWN = "A" * 22


class PartUploads(Ground):
    """Nothing is visible before the end, and the end is atomic."""

    @needs("parts")
    @pytest.mark.parametrize("size", [0, 1, 100_000])
    def test_a_small_file_is_put_whole(self, storage: StorageBackend, size: int) -> None:
        """One call stores it, replacing what was there."""
        storage.write("file.bin", b"old")

        storage.parts.put_whole("file.bin", content_of(size), _PLAIN)

        assert storage.read("file.bin") == content_of(size)

    @needs("parts", "exclusive")
    def test_a_whole_file_can_be_exclusive(self, storage: StorageBackend) -> None:
        """A taken name is refused and left."""
        storage.parts.put_whole("file.bin", b"first", WriteOptions(exclusive=True))

        with pytest.raises(FileExistsInStorageError):
            storage.parts.put_whole("file.bin", b"second", WriteOptions(exclusive=True))

        assert storage.read("file.bin") == b"first"

    @needs("parts")
    def test_parts_join_in_their_order(self, storage: StorageBackend) -> None:
        """Parts arrive in any order and are joined by number; until then nothing is visible."""
        parts = storage.parts
        contents = {1: part_of(parts, 1), 2: part_of(parts, 2), 3: content_of(1000, 3)}
        upload_id = parts.begin("folder/file.bin", _PLAIN)

        arrived = [parts.put_part("folder/file.bin", upload_id, number, contents[number]) for number in (2, 3, 1)]
        assert storage.list() == []
        assert not storage.exists("folder/file.bin")
        parts.finish("folder/file.bin", upload_id, arrived, _PLAIN)

        assert storage.read("folder/file.bin") == contents[1] + contents[2] + contents[3]
        assert names(storage) == ["folder/file.bin"]
        assert list(parts.list_uploads()) == []

    @needs("parts")
    def test_a_finished_upload_replaces(self, storage: StorageBackend) -> None:
        """What was there before stays until the end, and then is replaced as a whole."""
        parts = storage.parts
        storage.write("file.bin", b"a longer old content")
        upload_id = parts.begin("file.bin", _PLAIN)
        part = parts.put_part("file.bin", upload_id, 1, b"new")

        assert storage.read("file.bin") == b"a longer old content"
        parts.finish("file.bin", upload_id, [part], _PLAIN)

        assert storage.read("file.bin") == b"new"

    @needs("parts")
    def test_a_part_can_be_sent_again(self, storage: StorageBackend) -> None:
        """The later content of a number counts, and the earlier receipt is good no more."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        first = parts.put_part("file.bin", upload_id, 1, b"first")
        second = parts.put_part("file.bin", upload_id, 1, b"second try")

        with pytest.raises(IntegrityError):
            parts.finish("file.bin", upload_id, [first], _PLAIN)
        assert not storage.exists("file.bin")
        parts.finish("file.bin", upload_id, [second], _PLAIN)

        assert storage.read("file.bin") == b"second try"

    @needs("parts")
    def test_the_parts_that_arrived_are_listed(self, storage: StorageBackend) -> None:
        """A client that was interrupted learns what is there: number, size and tag, by number."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        assert parts.list_parts("file.bin", upload_id) == []
        contents = {1: part_of(parts, 1, 1), 2: part_of(parts, 2, 2), 10: bytes(10)}
        arrived = [parts.put_part("file.bin", upload_id, number, contents[number]) for number in (10, 2, 1)]

        listed = parts.list_parts("file.bin", upload_id)

        assert listed == sorted(arrived, key=lambda part: part.number)
        assert [(part.number, part.size) for part in listed] == [(n, len(contents[n])) for n in (1, 2, 10)]
        parts.finish("file.bin", upload_id, listed, _PLAIN)
        assert storage.read("file.bin") == contents[1] + contents[2] + contents[10]

    @needs("parts")
    def test_a_part_that_never_came_is_not_published(self, storage: StorageBackend) -> None:
        """An invented receipt is refused, and the upload stays so that the part can still be sent."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        content = part_of(parts, 1, 5)
        first = parts.put_part("file.bin", upload_id, 1, content)
        invented = Part(number=2, size=6, etag=first.etag)

        with pytest.raises(IntegrityError) as caught:
            parts.finish("file.bin", upload_id, [first, invented], _PLAIN)

        assert caught.value.path == "file.bin"
        assert storage.list() == []
        second = parts.put_part("file.bin", upload_id, 2, b"second")
        parts.finish("file.bin", upload_id, [first, second], _PLAIN)
        assert storage.read("file.bin") == content + b"second"

    @needs("parts")
    def test_an_upload_has_parts_each_of_them_once(self, storage: StorageBackend) -> None:
        """Finishing with nothing, or with one part twice, publishes nothing and ends nothing."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        part = parts.put_part("file.bin", upload_id, 1, b"once")

        for wrong in ([], [part, part]):
            with pytest.raises(IntegrityError):
                parts.finish("file.bin", upload_id, wrong, _PLAIN)

        assert storage.list() == []
        parts.finish("file.bin", upload_id, [part], _PLAIN)
        assert storage.read("file.bin") == b"once"

    @needs("parts")
    def test_a_wrong_tag_is_not_published(self, storage: StorageBackend) -> None:
        """A receipt whose tag is another's is refused."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        part = parts.put_part("file.bin", upload_id, 1, b"first")

        with pytest.raises(IntegrityError):
            parts.finish("file.bin", upload_id, [Part(number=1, size=part.size, etag="0" * len(part.etag))], _PLAIN)

        assert storage.list() == []

    @needs("parts")
    @pytest.mark.parametrize("upload_id", [_UNKNOWN, "", "../../etc", "a/b", "nul\x00", "x" * 5000])
    def test_an_unknown_upload_is_not_found(self, storage: StorageBackend, upload_id: str) -> None:
        """An id that was not given out is nobody's, however it is spelt, and reaches no file."""
        parts = storage.parts
        storage.write("file.bin", b"kept")
        part = Part(number=1, size=1, etag="x")

        for call in (
            lambda: parts.put_part("file.bin", upload_id, 1, b"x"),
            lambda: parts.finish("file.bin", upload_id, [part], _PLAIN),
            lambda: parts.list_parts("file.bin", upload_id),
        ):
            with pytest.raises(FileNotFoundInStorageError):
                call()
        parts.discard("file.bin", upload_id)

        assert storage.read("file.bin") == b"kept"

    @needs("parts")
    def test_an_upload_belongs_to_its_path(self, storage: StorageBackend) -> None:
        """An id does not work for another file."""
        parts = storage.parts
        upload_id = parts.begin("mine.bin", _PLAIN)
        part = parts.put_part("mine.bin", upload_id, 1, b"mine")

        with pytest.raises(FileNotFoundInStorageError):
            parts.put_part("other.bin", upload_id, 1, b"other")
        with pytest.raises(FileNotFoundInStorageError):
            parts.finish("other.bin", upload_id, [part], _PLAIN)

        parts.finish("mine.bin", upload_id, [part], _PLAIN)
        assert names(storage) == ["mine.bin"]

    @needs("parts")
    def test_a_discarded_upload_is_gone(self, storage: StorageBackend) -> None:
        """Its parts are freed, it takes no more, and discarding it again is no error."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        part = parts.put_part("file.bin", upload_id, 1, b"x")

        parts.discard("file.bin", upload_id)
        parts.discard("file.bin", upload_id)

        assert list(parts.list_uploads()) == []
        assert storage.list() == []
        with pytest.raises(FileNotFoundInStorageError):
            parts.put_part("file.bin", upload_id, 2, b"x")
        with pytest.raises(FileNotFoundInStorageError):
            parts.finish("file.bin", upload_id, [part], _PLAIN)

    @needs("parts")
    def test_a_finished_upload_is_over(self, storage: StorageBackend) -> None:
        """It cannot be finished again once the file is another, and discarding it leaves the file."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        part = parts.put_part("file.bin", upload_id, 1, b"old")
        parts.finish("file.bin", upload_id, [part], _PLAIN)
        storage.write("file.bin", b"x")

        parts.discard("file.bin", upload_id)

        with pytest.raises(FileNotFoundInStorageError):
            parts.finish("file.bin", upload_id, [part], _PLAIN)
        assert storage.read("file.bin") == b"x"

    @needs("parts")
    def test_limits_make_sense(self, storage: StorageBackend) -> None:
        """A part that may stand anywhere can be made, and an upload can have several."""
        limits = storage.parts.limits

        assert isinstance(limits, PartLimits)
        assert limits.max_size is None or 0 <= limits.min_size <= limits.max_size
        assert limits.max_count > 1

    @needs("parts", "content_headers", "metadata")
    def test_headers_are_kept_through_parts(self, storage: StorageBackend) -> None:
        """What is given when an upload begins is kept with the file."""
        parts = storage.parts
        options = WriteOptions(content_type="text/plain", metadata={"a": "1"})
        upload_id = parts.begin("file.txt", options)
        part = parts.put_part("file.txt", upload_id, 1, b"x")

        parts.finish("file.txt", upload_id, [part], _PLAIN)

        info = storage.stat("file.txt")
        assert (info.content_type, dict(info.metadata)) == ("text/plain", {"a": "1"})

    @needs("parts")
    def test_unfinished_uploads_are_listed(self, storage: StorageBackend) -> None:
        """All of them, or those below a folder, each with its path, id and beginning."""
        parts = storage.parts
        paths = ["a/1.bin", "a/b/2.bin", "ab/3.bin", "4.bin"]
        ids = {parts.begin(path, _PLAIN): path for path in paths}

        uploads = list(parts.list_uploads())

        assert {upload.upload_id: upload.path for upload in uploads} == ids
        assert all(abs(upload.started_at - datetime.now(UTC)) < timedelta(days=1) for upload in uploads)
        assert {upload.path for upload in parts.list_uploads("a")} == {"a/1.bin", "a/b/2.bin"}
        assert list(parts.list_uploads("missing")) == []

    @needs("parts")
    def test_two_uploads_of_one_path_do_not_meet(self, storage: StorageBackend) -> None:
        """Each has its own parts; the last to finish is what remains, or is told that its parts are to be sent anew."""
        parts = storage.parts
        one, other = parts.begin("file.bin", _PLAIN), parts.begin("file.bin", _PLAIN)
        contents = {upload_id: (part_of(parts, seed, 1), bytes([seed])) for seed, upload_id in enumerate((one, other))}
        first, second = (
            [parts.put_part("file.bin", upload_id, number, data) for number, data in enumerate(contents[upload_id], 1)]
            for upload_id in (one, other)
        )
        assert one != other

        parts.finish("file.bin", other, second, _PLAIN)
        assert storage.read("file.bin") == b"".join(contents[other])
        if not storage.capabilities.overlapping_writes:
            with pytest.raises(IntegrityError):
                parts.finish("file.bin", one, first, _PLAIN)
            assert storage.read("file.bin") == b"".join(contents[other])
            first = [parts.put_part("file.bin", one, number, data) for number, data in enumerate(contents[one], 1)]
        parts.finish("file.bin", one, first, _PLAIN)

        assert storage.read("file.bin") == b"".join(contents[one])

    @needs("parts")
    def test_ids_cannot_be_guessed(self, storage: StorageBackend) -> None:
        """An id has no path in it, fits a URL, and holds 128 random bits."""
        ids = [storage.parts.begin("secret.bin", _PLAIN) for _ in range(20)]

        assert len(set(ids)) == 20
        assert all("secret" not in upload_id and len(upload_id) >= 22 for upload_id in ids)

    @needs("parts")
    def test_a_swept_upload_is_gone(self, storage: StorageBackend) -> None:
        """The sweep takes what is old enough and leaves what is younger."""
        parts = storage.parts
        upload_id = parts.begin("file.bin", _PLAIN)
        parts.put_part("file.bin", upload_id, 1, b"x")

        storage.sweep(timedelta(days=1))
        assert [upload.upload_id for upload in parts.list_uploads()] == [upload_id]
        swept = storage.sweep(timedelta(0))

        assert swept >= 1
        assert list(parts.list_uploads()) == []
        with pytest.raises(FileNotFoundInStorageError):
            parts.list_parts("file.bin", upload_id)

    @needs("parts")
    @pytest.mark.parametrize(
        ("capability", "options"),
        [
            ("metadata", {"metadata": {"a": "1"}}),
            ("content_headers", {"content_type": "text/plain"}),
        ],
        ids=str,
    )
    def test_part_options_are_kept_or_refused(self, storage: StorageBackend, capability: str, options: Any) -> None:
        """What a storage cannot keep is refused here as in every other verb."""
        parts, given = storage.parts, WriteOptions(**options)

        try:
            parts.begin("file.bin", given)
        except StorageError as error:
            assert not getattr(storage.capabilities, capability)
            assert isinstance(error, NotImplementedError)
        else:
            assert getattr(storage.capabilities, capability)
