# ruff: noqa: S101 - a test suite that is shipped
"""One storage, used by many threads concurrently."""

from __future__ import annotations

import hashlib

from ...backends.base import StorageBackend
from ...errors import FileExistsInStorageError, FileNotFoundInStorageError
from ...types import WriteOptions
from ..concurrency import run_concurrently
from .base import ConformanceBase, content_of, names, needs, part_content

_THREADS = 8


class ConcurrencyTests(ConformanceBase):
    """Threads share a storage, but not the files that it opens."""

    def test_threads_do_not_interfere(self, storage: StorageBackend) -> None:
        """Concurrent operations on different files give the same results as sequential ones."""

        def work(number: int) -> None:
            directory = f"thread {number}"
            for turn in range(15):
                content = content_of(1000 + turn, number)
                storage.write(f"{directory}/a.bin", content)
                storage.copy(f"{directory}/a.bin", f"{directory}/b.bin")
                storage.move(f"{directory}/b.bin", f"{directory}/deep/er/c.bin")
                with storage.open(f"{directory}/deep/er/c.bin", "r") as reader:
                    reader.seek(500)
                    assert reader.read() == content[500:]
                assert storage.size(f"{directory}/a.bin") == len(content)
                assert names(storage, directory) == [f"{directory}/a.bin", f"{directory}/deep/er/c.bin"]
                storage.delete(f"{directory}/deep/er/c.bin")
                assert not storage.exists(f"{directory}/deep/er/c.bin")
            storage.delete_prefix(directory)

        run_concurrently(work)

        assert storage.list() == []

    def test_readers_of_one_file_share_nothing(self, storage: StorageBackend) -> None:
        """Many threads read one file concurrently, each from its own position."""
        content = content_of(500_000)
        storage.write("file.bin", content)

        def work(number: int) -> bytes:
            with storage.open("file.bin", "r") as reader:
                reader.seek(number * 1000)
                return b"".join(reader.iter_chunks(7777))

        assert run_concurrently(work) == [content[number * 1000 :] for number in range(_THREADS)]

    def test_every_read_is_one_whole_version(self, storage: StorageBackend) -> None:
        """A read during concurrent replacements returns one whole version or raises; never a mixture."""
        versions = [content_of(50_000 + number, number) for number in range(_THREADS)]
        digests = {hashlib.sha256(version).digest() for version in versions}
        storage.write("file.bin", versions[0])

        def reads_one_version() -> bool:
            try:
                return hashlib.sha256(storage.read("file.bin")).digest() in digests
            except self.replaced_errors:
                return True  # a service that keeps no old versions may not finish a read between two replacements

        def work(number: int) -> bool:
            for _ in range(10):
                if number % 2:
                    storage.write("file.bin", versions[number])
                elif not reads_one_version():
                    return False
            return True

        assert all(run_concurrently(work))
        assert names(storage) == ["file.bin"]

    @needs("exclusive")
    def test_exactly_one_of_many_exclusive_writes_succeeds(self, storage: StorageBackend) -> None:
        """Of many concurrent exclusive writes of one path one succeeds, and its content is stored."""
        for turn in range(10):

            def work(number: int, path: str = f"race {turn}/new.bin") -> bool:
                try:
                    storage.write(path, f"{number}".encode() * 1000, exclusive=True)
                except FileExistsInStorageError:
                    return False
                return True

            won = run_concurrently(work)

            assert won.count(True) == 1
            assert storage.read(f"race {turn}/new.bin") == f"{won.index(True)}".encode() * 1000

    def test_concurrent_saves_of_one_name_keep_every_file(self, storage: StorageBackend) -> None:
        """Concurrent saves of one name store every content under its own path."""
        paths = run_concurrently(lambda number: storage.save("photo.jpg", f"{number}".encode()))

        assert len(set(paths)) == _THREADS
        assert [storage.read(path) for path in paths] == [f"{number}".encode() for number in range(_THREADS)]

    def test_a_directory_is_filled_and_emptied_concurrently(self, storage: StorageBackend) -> None:
        """No stored file is lost if the last file of its directory is deleted concurrently."""

        def work(number: int) -> None:
            for _ in range(20):
                storage.write(f"shared/folder/{number}.bin", b"x")
                assert storage.read(f"shared/folder/{number}.bin") == b"x"
                storage.delete(f"shared/folder/{number}.bin")

        run_concurrently(work)

        assert storage.list() == []

    def test_concurrent_deletes_of_one_file_are_no_error(self, storage: StorageBackend) -> None:
        """Deleting the file again is no error; reading it afterwards is one."""
        storage.write("file.bin", b"x")

        def work(number: int) -> str:
            try:
                if number % 2:
                    storage.delete("file.bin")
                    return "deleted"
                return storage.read("file.bin").decode()
            except FileNotFoundInStorageError:
                return "not found"

        assert set(run_concurrently(work)) <= {"deleted", "x", "not found"}
        assert not storage.exists("file.bin")

    @needs("multipart")
    def test_parts_can_be_uploaded_concurrently(self, storage: StorageBackend) -> None:
        """Many threads upload the parts of one upload."""
        parts = storage.multipart
        contents = [part_content(parts, number, 10_000) for number in range(_THREADS)]
        upload_id = parts.create("file.bin", WriteOptions())

        uploaded = run_concurrently(
            lambda number: parts.upload_part("file.bin", upload_id, number + 1, contents[number])
        )
        parts.complete("file.bin", upload_id, uploaded, WriteOptions())

        assert storage.read("file.bin") == b"".join(contents)
