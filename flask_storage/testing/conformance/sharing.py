# ruff: noqa: S101 - a test suite that is shipped
"""One storage, many threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Barrier, Thread
from typing import Any

import pytest

from ...backends.base import StorageBackend
from ...errors import FileExistsInStorageError, FileNotFoundInStorageError
from ...values import WriteOptions
from .ground import Ground, content_of, names, needs, part_of

_THREADS = 8
_PATIENCE = 120
"""Seconds after which threads that wait for each other are called a deadlock."""


def _together(work: Callable[[int], Any], threads: int = _THREADS) -> list[Any]:
    """Run *work* in so many threads that begin at the same moment, and return what each returns."""
    barrier = Barrier(threads)
    ended: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def begin(number: int) -> None:
        try:
            barrier.wait(_PATIENCE)
            ended.put((number, work(number), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            ended.put((number, None, error))

    for number in range(threads):
        # Not a pool: it would wait for its threads, and so would the interpreter, were they no daemons.
        Thread(target=begin, args=(number,), daemon=True).start()
    results, errors = dict[int, Any](), []
    while len(results) < threads:
        try:
            number, results[number], error = ended.get(timeout=_PATIENCE)
        except Empty:
            pytest.fail(f"{threads - len(results)} of {threads} threads wait for ever")
        if error is not None:
            errors.append(error)
    if errors:
        raise errors[0]
    return [results[number] for number in range(threads)]


class Sharing(Ground):
    """A storage is shared; the files it opens are not."""

    def test_threads_do_not_disturb_each_other(self, storage: StorageBackend) -> None:
        """Every verb, in many threads at once, each on its own files, does what it does alone."""

        def work(number: int) -> None:
            folder = f"thread {number}"
            for turn in range(15):
                content = content_of(1000 + turn, number)
                storage.write(f"{folder}/a.bin", content)
                storage.copy(f"{folder}/a.bin", f"{folder}/b.bin")
                storage.move(f"{folder}/b.bin", f"{folder}/deep/er/c.bin")
                with storage.open(f"{folder}/deep/er/c.bin", "r") as reader:
                    reader.seek(500)
                    assert reader.read() == content[500:]
                assert storage.size(f"{folder}/a.bin") == len(content)
                assert names(storage, folder) == [f"{folder}/a.bin", f"{folder}/deep/er/c.bin"]
                storage.delete(f"{folder}/deep/er/c.bin")
                assert not storage.exists(f"{folder}/deep/er/c.bin")
            storage.delete_prefix(folder)

        _together(work)

        assert storage.list() == []

    def test_readers_of_one_file_share_nothing(self, storage: StorageBackend) -> None:
        """Many threads read one file at once, each from its own place."""
        content = content_of(500_000)
        storage.write("file.bin", content)

        def work(number: int) -> bytes:
            with storage.open("file.bin", "r") as reader:
                reader.seek(number * 1000)
                return b"".join(reader.iter_chunks(7777))

        assert _together(work) == [content[number * 1000 :] for number in range(_THREADS)]

    def test_every_read_is_one_whole_version(self, storage: StorageBackend) -> None:
        """While some replace a file, others read one version or another, never a mixture and never nothing."""
        versions = [content_of(50_000 + number, number) for number in range(_THREADS)]
        digests = {hashlib.sha256(version).digest() for version in versions}
        storage.write("file.bin", versions[0])

        def work(number: int) -> bool:
            for _ in range(10):
                if number % 2:
                    storage.write("file.bin", versions[number])
                elif hashlib.sha256(storage.read("file.bin")).digest() not in digests:
                    return False
            return True

        assert all(_together(work))
        assert names(storage) == ["file.bin"]

    @needs("exclusive")
    def test_exactly_one_creates(self, storage: StorageBackend) -> None:
        """Of many exclusive writes of one name at the same moment one wins, and its content is there."""
        for turn in range(10):

            def work(number: int, path: str = f"race {turn}/new.bin") -> bool:
                try:
                    storage.write(path, f"{number}".encode() * 1000, exclusive=True)
                except FileExistsInStorageError:
                    return False
                return True

            won = _together(work)

            assert won.count(True) == 1
            assert storage.read(f"race {turn}/new.bin") == f"{won.index(True)}".encode() * 1000

    def test_saving_one_name_at_once_keeps_everything(self, storage: StorageBackend) -> None:
        """Many saves of one name at the same moment store every content under a name of its own."""
        paths = _together(lambda number: storage.save("photo.jpg", f"{number}".encode()))

        assert len(set(paths)) == _THREADS
        assert [storage.read(path) for path in paths] == [f"{number}".encode() for number in range(_THREADS)]

    def test_one_folder_filled_and_emptied_at_once(self, storage: StorageBackend) -> None:
        """A folder whose last file goes while another arrives loses no file that was stored."""

        def work(number: int) -> None:
            for _ in range(20):
                storage.write(f"shared/folder/{number}.bin", b"x")
                assert storage.read(f"shared/folder/{number}.bin") == b"x"
                storage.delete(f"shared/folder/{number}.bin")

        _together(work)

        assert storage.list() == []

    def test_many_deletes_of_one_file_are_no_error(self, storage: StorageBackend) -> None:
        """Whoever comes late finds nothing, and says so only where a file was needed."""
        storage.write("file.bin", b"x")

        def work(number: int) -> str:
            try:
                if number % 2:
                    storage.delete("file.bin")
                    return "deleted"
                return storage.read("file.bin").decode()
            except FileNotFoundInStorageError:
                return "not found"

        assert set(_together(work)) <= {"deleted", "x", "not found"}
        assert not storage.exists("file.bin")

    @needs("parts")
    def test_parts_may_arrive_at_once(self, storage: StorageBackend) -> None:
        """Many threads send the parts of one upload."""
        parts = storage.parts
        contents = [part_of(parts, number, 10_000) for number in range(_THREADS)]
        upload_id = parts.begin("file.bin", WriteOptions())

        arrived = _together(lambda number: parts.put_part("file.bin", upload_id, number + 1, contents[number]))
        parts.finish("file.bin", upload_id, arrived, WriteOptions())

        assert storage.read("file.bin") == b"".join(contents)
