# ruff: noqa: S101, RUF001 - a test suite that is shipped, with words in several scripts
"""Readers: binary file objects of any size, usable with every library that takes one."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zipfile

import pytest

from ...backends.base import StorageBackend
from ...errors import PreconditionFailedError
from ...types import FileMode
from .base import CHUNK, ConformanceBase, content_of


class ReadTests(ConformanceBase):
    """The guarantees of a file that is open for reading."""

    @pytest.mark.parametrize("chunk_size", [None, 0, 1, 999, 1000, 1001, 4096])
    def test_chunks_join_to_the_content(self, storage: StorageBackend, chunk_size: int | None) -> None:
        """`iter_chunks` yields full chunks and then the rest; None and 0 mean the default size."""
        content = content_of(4000)
        storage.write("file.bin", content)

        with storage.open("file.bin", "r") as reader:
            chunks = list(reader.iter_chunks(chunk_size))

        assert b"".join(chunks) == content
        assert all(len(chunk) == (chunk_size or CHUNK) for chunk in chunks[:-1])
        assert 0 < len(chunks[-1]) <= (chunk_size or CHUNK)

    def test_the_default_chunk_is_filled_across_its_boundary(self, storage: StorageBackend) -> None:
        """One byte more than a chunk makes a full chunk and a chunk of one byte."""
        storage.write("file.bin", content_of(CHUNK + 1))

        with storage.open("file.bin", "r") as reader:
            lengths = [len(chunk) for chunk in reader.iter_chunks()]

        assert lengths == [CHUNK, 1]

    def test_an_empty_file_has_no_chunks(self, storage: StorageBackend) -> None:
        """`iter_chunks` yields nothing, and `read` returns no bytes."""
        storage.write("empty.bin", b"")

        with storage.open("empty.bin", "r") as reader:
            assert list(reader.iter_chunks()) == []
            assert reader.read() == b""
            assert reader.read(1) == b""

    def test_reads_are_full_until_the_end(self, storage: StorageBackend) -> None:
        """`read` returns fewer bytes than requested only at the end of the file, and then none."""
        content = content_of(1000)
        storage.write("file.bin", content)

        with storage.open("file.bin", "r") as reader:
            pieces = [reader.read(400) for _ in range(4)]

        assert [len(piece) for piece in pieces] == [400, 400, 200, 0]
        assert b"".join(pieces) == content

    @pytest.mark.parametrize("everything", [-1, None])
    def test_reading_without_a_size_reads_the_rest(self, storage: StorageBackend, everything: int | None) -> None:
        """A size of -1 or None reads all remaining bytes."""
        content = content_of(1000)
        storage.write("file.bin", content)

        with storage.open("file.bin", "r") as reader:
            reader.read(1)
            rest = reader.read(everything)

        assert rest == content[1:]

    def test_announcing_what_will_be_read_changes_no_content(self, storage: StorageBackend) -> None:
        """It is advice: less or more may be read."""
        storage.write("a.txt", b"0123456789")

        with storage.open("a.txt", "r") as reader:
            reader.will_read(4)
            assert reader.read(2) == b"01"
            assert reader.read(6) == b"234567"
            assert reader.read() == b"89"

    def test_reading_zero_bytes_returns_nothing(self, storage: StorageBackend) -> None:
        """`read(0)` returns no bytes and does not move the position."""
        storage.write("file.bin", b"abc")

        with storage.open("file.bin", "r") as reader:
            assert reader.read(0) == b""
            assert reader.read() == b"abc"

    @pytest.mark.parametrize(
        ("offset", "whence", "position"),
        [
            (0, os.SEEK_SET, 0),
            (1, os.SEEK_SET, 1),
            (999, os.SEEK_SET, 999),
            (1000, os.SEEK_SET, 1000),
            (5, os.SEEK_CUR, 15),
            (-10, os.SEEK_CUR, 0),
            (0, os.SEEK_END, 1000),
            (-1, os.SEEK_END, 999),
        ],
    )
    def test_seeking_moves_to_the_byte(self, storage: StorageBackend, offset: int, whence: int, position: int) -> None:
        """Seeking works from the start, the current position and the end, and `tell` agrees."""
        content = content_of(1000)
        storage.write("file.bin", content)

        with storage.open("file.bin", "r") as reader:
            reader.read(10)
            reached = reader.seek(offset, whence)

            assert reader.seekable()
            assert reached == reader.tell() == position
            assert reader.read(3) == content[position : position + 3]

    def test_seeking_past_the_end_reads_nothing(self, storage: StorageBackend) -> None:
        """As with a local file, reading past the end returns nothing, and seeking back works."""
        storage.write("file.bin", b"abc")

        with storage.open("file.bin", "r") as reader:
            reader.seek(100)

            assert reader.read() == b""
            assert reader.seek(0) == 0
            assert reader.read() == b"abc"

    def test_seeking_before_the_start_is_refused(self, storage: StorageBackend) -> None:
        """A negative position is refused, and the file stays usable."""
        storage.write("file.bin", b"abc")

        with storage.open("file.bin", "r") as reader:
            with pytest.raises((ValueError, OSError)):
                reader.seek(-1)
            reader.seek(0)

            assert reader.read() == b"abc"

    def test_seeking_across_a_chunk_reads_the_right_bytes(self, storage: StorageBackend) -> None:
        """Seeking back and forth in a file of several chunks returns the bytes at each position."""
        content = content_of(2 * CHUNK + 10)
        storage.write("file.bin", content)

        with storage.open("file.bin", "r") as reader:
            for start in (CHUNK - 5, 0, 2 * CHUNK, CHUNK, 7, 2 * CHUNK + 9):
                reader.seek(start)

                assert reader.read(10) == content[start : start + 10]

    def test_readinto_fills_a_buffer(self, storage: StorageBackend) -> None:
        """`readinto` fills the buffer and returns the number of bytes, 0 at the end."""
        storage.write("file.bin", b"0123456789")
        buffer = bytearray(6)

        with storage.open("file.bin", "r") as reader:
            assert reader.readinto(buffer) == 6
            assert buffer == b"012345"
            assert reader.readinto(memoryview(buffer)) == 4
            assert buffer == b"678945"
            assert reader.readinto(buffer) == 0

    def test_read1_and_readinto1_are_supported(self, storage: StorageBackend) -> None:
        """Python's buffered wrappers call `read1` and `readinto1`."""
        storage.write("file.bin", b"0123456789")

        with storage.open("file.bin", "r") as reader:
            assert reader.read1(4) == b"0123"
            assert reader.readinto1(bytearray(2)) == 2
            assert reader.read1() == b"6789"

    def test_a_reader_iterates_over_lines(self, storage: StorageBackend) -> None:
        """Iterating yields lines with their line ends, as every Python file does."""
        lines = [b"first\n", b"\n", b"x" * 20_000 + b"\n", b"last, without an end"]
        storage.write("lines.txt", b"".join(lines))

        with storage.open("lines.txt", "r") as reader:
            assert list(reader) == lines
            reader.seek(0)
            assert reader.readline(3) == b"fir"
            assert reader.readline() == b"st\n"
            assert reader.readlines() == lines[1:]
            assert reader.readline() == b""

    def test_a_text_wrapper_reads_a_file(self, storage: StorageBackend) -> None:
        """`io.TextIOWrapper` decodes the content."""
        storage.write("text.txt", "Grüße\nпривет\n".encode())

        with storage.open("text.txt", "r") as reader, io.TextIOWrapper(reader, encoding="utf-8") as text:
            assert list(text) == ["Grüße\n", "привет\n"]

    def test_csv_reads_a_file(self, storage: StorageBackend) -> None:
        """The csv module reads rows from it."""
        storage.write("table.csv", b'a,b\r\n1,"x, y"\r\n')

        with storage.open("table.csv", "r") as reader, io.TextIOWrapper(reader, "utf-8", newline="") as text:
            assert list(csv.reader(text)) == [["a", "b"], ["1", "x, y"]]

    def test_zipfile_reads_and_writes_a_file(self, storage: StorageBackend) -> None:
        """An archive can be written to a storage and read from it without a local copy."""
        content = content_of(100_000)
        with storage.open("a.zip", "w") as writer, zipfile.ZipFile(writer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner/one.bin", content)
            archive.writestr("two.txt", "zwei")

        with storage.open("a.zip", "r") as reader, zipfile.ZipFile(reader) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["inner/one.bin", "two.txt"]
            assert archive.read("inner/one.bin") == content

    def test_gzip_reads_and_writes_a_file(self, storage: StorageBackend) -> None:
        """A compressed file can be written to a storage and read from it without a local copy."""
        content = content_of(1000) * 100
        with storage.open("a.gz", "w") as writer, gzip.GzipFile(fileobj=writer, mode="w") as compressed:
            compressed.write(content)

        with storage.open("a.gz", "r") as reader, gzip.GzipFile(fileobj=reader) as compressed:
            assert compressed.read() == content

    def test_pillow_reads_and_writes_a_file(self, storage: StorageBackend) -> None:
        """An image can be saved to a storage and opened from it without a local copy."""
        image = pytest.importorskip("PIL.Image", reason="Pillow is not part of the testing extra")
        with storage.open("dot.png", "w") as writer:
            image.new("RGB", (3, 2), (255, 0, 0)).save(writer, "png")

        with storage.open("dot.png", "r") as reader, image.open(reader) as picture:
            assert picture.size == (3, 2)
            assert picture.getpixel((2, 1)) == (255, 0, 0)

    def test_a_reader_has_name_mode_and_info(self, storage: StorageBackend) -> None:
        """It has Python's `name` and `mode`, the `FileMode`, and the `FileInfo`."""
        storage.write("folder/file.bin", b"abc")

        with storage.open("folder/file.bin", FileMode.read) as reader:
            assert (reader.name, reader.mode) == ("folder/file.bin", "rb")
            assert reader.file_mode is FileMode.read
            assert reader.readable()
            assert not reader.writable()
            assert reader.info is not None
            assert (reader.info.path, reader.info.size) == ("folder/file.bin", 3)
            assert reader.info.etag == storage.stat("folder/file.bin").etag

    def test_a_reader_refuses_writing(self, storage: StorageBackend) -> None:
        """Writing to a reader is refused, and the file stays open."""
        storage.write("file.bin", b"abc")

        with storage.open("file.bin", "r") as reader:
            with pytest.raises(io.UnsupportedOperation):
                reader.write(b"x")

            assert reader.read() == b"abc"

    def test_a_closed_reader_refuses_reading(self, storage: StorageBackend) -> None:
        """After `close` every use raises ValueError; closing again does nothing."""
        storage.write("file.bin", b"abc")
        reader = storage.open("file.bin", "r")

        reader.close()
        reader.close()

        assert reader.closed
        for use in (reader.read, reader.readline, reader.tell, lambda: reader.seek(0), reader.__enter__):
            with pytest.raises(ValueError, match="closed"):
                use()

    def test_a_reader_keeps_its_version_when_the_file_is_replaced(self, storage: StorageBackend) -> None:
        """The reader returns the version that it opened, or raises; never a mixture of two versions."""
        old, new = content_of(CHUNK + 1000, 1), content_of(CHUNK + 1000, 2)
        storage.write("file.bin", old)

        with storage.open("file.bin", "r") as reader:
            start = reader.read(10)
            storage.write("file.bin", new)
            try:
                rest = reader.read()
            except PreconditionFailedError:
                rest = old[10:]  # allowed on a service that keeps no old versions

        assert start + rest == old
        assert storage.read("file.bin") == new

    def test_two_readers_do_not_share_a_position(self, storage: StorageBackend) -> None:
        """Each open file has its own position."""
        storage.write("file.bin", b"0123456789")

        with storage.open("file.bin", "r") as one, storage.open("file.bin", "r") as other:
            one.read(5)

            assert other.read(2) == b"01"
            assert one.read(2) == b"56"
