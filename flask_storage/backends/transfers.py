"""The verbs that move bytes: open, upload, download, put, get, write, read, save."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, TypeVar, Unpack, cast

from ..errors import FileExistsInStorageError, PreconditionFailedError, TooLargeError
from ..files import RemoteFile, parse_checksum
from ..paths import is_one_line, safe_path, with_suffix
from ..signals import file_read, file_stored
from ..streams import LocalFile, SupportsRead, SupportsWrite, copy_chunks
from ..types import CONTENT_HEADERS, FileMode, ProgressCallback, WriteArguments, WriteOptions
from ..validation import check_count, check_metadata
from .driver import StorageDriver

_T = TypeVar("_T")
_MAX_READS = 20  # of a file that is replaced again and again while it is read
_SPOOL_BYTES = 8 * 1024 * 1024


class TransferOperations(StorageDriver):
    """Everything through which content enters or leaves a storage; written once, on top of the hooks."""

    def open(
        self,
        path: str,
        mode: FileMode | str,
        extra_args: Mapping[str, Any] | None = None,
        **arguments: Unpack[WriteArguments],
    ) -> RemoteFile:
        """Open a file.

        Reading yields the version that was there when the file was opened; where a place does not keep it once it is
        replaced, reading on is a :class:`~flask_storage.errors.PreconditionFailedError`. Writing replaces the file
        atomically when the writer is closed; until then, and after an exception, what was there before stays. Reading
        and writing (``"rw"``) needs an existing file, edits a private copy and publishes it by closing.

        Args:
            path: The path in the storage.
            mode: ``"r"``, ``"w"``, ``"rw"`` or a :class:`~flask_storage.FileMode`.
            extra_args: keg-storage's ``{"ContentType": …}``; prefer keyword arguments.
            **arguments: See :class:`~flask_storage.types.WriteOptions`.

        Returns:
            A binary file object; use it in a ``with`` block.

        Raises:
            FileNotFoundInStorageError: when reading, or reading and writing, what is not there.
            UnsupportedOperationError: when the storage cannot keep what the arguments ask for.

        >>> from flask_storage import MemoryStorage
        >>> storage = MemoryStorage()
        >>> with storage.open("notes.txt", "w", content_type="text/plain") as file:
        ...     file.write(b"hello")
        5
        """
        path = self._path(path)
        file_mode = FileMode.as_mode(mode)
        options = self._options(extra_args, arguments)
        if not file_mode:
            raise ValueError("Unsupported mode. Accepted modes are FileMode.read or FileMode.write")
        if file_mode is FileMode.read:
            if extra_args or arguments:
                raise ValueError(f"{', '.join({**(extra_args or {}), **arguments})}: only for writing")
            reader = self._reader(path)
            try:
                file_read.send(self, path=path)
            except BaseException:
                reader.close()
                raise
            return reader
        translator = self._error_translator(path)
        if not file_mode & FileMode.read:
            writer = self._writer(path, options)
        elif options.size is not None or options.checksum is not None:
            raise ValueError("size and checksum are promised of what is written anew, not of what is edited")
        elif self.capabilities.read_write:
            with translator:
                writer = self._open_updater(path, options)
        else:
            raise self._unsupported(
                "open a file for reading and writing at once", path, instead="read it, then write it anew"
            )
        return writer.attach(path, translator, lambda: self._notify_stored(path))

    def upload(
        self,
        file_obj: SupportsRead,
        path: str,
        *,
        progress_callback: ProgressCallback | None = None,
        extra_args: Mapping[str, Any] | None = None,
        **arguments: Unpack[WriteArguments],
    ) -> None:
        """Store what a binary file object yields, from where it stands; it is not closed.

        Args:
            file_obj: Anything with ``read(size)``.
            path: The path in the storage.
            progress_callback: Called after each chunk with the number of bytes stored so far.
            extra_args: keg-storage's ``{"ContentType": …}``; prefer keyword arguments.
            **arguments: See :class:`~flask_storage.types.WriteOptions`.

        Raises:
            TypeError: when the source yields text.
            StorageError: nothing was published; what was there before is still there.
        """
        path = self._path(path)
        options = self._options(extra_args, arguments)
        self._upload_file(file_obj, path, options, progress_callback)
        self._notify_stored(path)

    def download(
        self, path: str, file_obj: SupportsWrite, *, progress_callback: ProgressCallback | None = None
    ) -> None:
        """Write a file's content into a binary file object, which is not closed.

        Args:
            path: The path in the storage.
            file_obj: Anything with ``write(data)``.
            progress_callback: Called after each chunk with the number of bytes so far.

        Raises:
            FileNotFoundInStorageError: when there is no such file; nothing was written.
        """
        path = self._path(path)
        self._download_file(path, file_obj, progress_callback)
        file_read.send(self, path=path)

    def put(
        self,
        path: str | os.PathLike[str],
        dest: str,
        *,
        progress_callback: ProgressCallback | None = None,
        **arguments: Unpack[WriteArguments],
    ) -> None:
        """Store a local file.

        Args:
            path: The local file.
            dest: The path in the storage.
            progress_callback: Called after each chunk with the number of bytes stored so far.
            **arguments: See :class:`~flask_storage.types.WriteOptions`.
        """
        with open(path, "rb") as source:
            self.upload(source, dest, progress_callback=progress_callback, **arguments)

    def get(
        self, path: str, dest: str | os.PathLike[str], *, progress_callback: ProgressCallback | None = None
    ) -> None:
        """Fetch a file to a local file, which appears or is replaced only when all of it has arrived.

        Args:
            path: The path in the storage.
            dest: The local file; an existing one keeps its mode, a new one gets what the umask allows.
            progress_callback: Called after each chunk with the number of bytes so far.

        Raises:
            FileNotFoundInStorageError: when there is no such file; *dest* is untouched.
        """
        dest = os.fspath(dest)
        if os.path.exists(dest) and not os.path.isfile(dest):
            # A pipe or a device cannot be replaced by renaming; a folder makes open() say what is wrong.
            with open(dest, "wb") as target:
                self.download(path, target, progress_callback=progress_callback)
            return
        dest = os.path.realpath(dest)
        unfinished = os.path.join(os.path.dirname(dest), f".{secrets.token_hex(8)}.part")
        try:
            # Not readable by others for a moment, when what it replaces never was.
            mode = 0o600 if os.path.exists(dest) else 0o666
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with LocalFile(fd, "wb") as target:
                self._retry_if_replaced(lambda: self._download_from_start(path, target, progress_callback))
            with contextlib.suppress(FileNotFoundError):
                os.chmod(unfinished, os.stat(dest).st_mode & 0o7777)
            os.replace(unfinished, dest)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            raise

    def write(self, path: str, data: bytes | bytearray | memoryview, **arguments: Unpack[WriteArguments]) -> None:
        """Store bytes under *path*, replacing what was there.

        Raises:
            TypeError: for text; encode it first.
        """
        given: object = data  # annotations stop nobody
        if not isinstance(given, bytes | bytearray | memoryview):
            advice = "encode text first" if isinstance(given, str) else "a file object goes to upload(file_obj, path)"
            raise TypeError(f"write() takes bytes, not {type(given).__name__}: {advice}")
        arguments.setdefault("size", memoryview(data).nbytes)
        self.upload(io.BytesIO(data), path, **arguments)

    def read(self, path: str, *, max_size: int | None = None) -> bytes:
        """Return a file's whole content.

        Args:
            path: The path in the storage.
            max_size: In bytes; a larger file is refused before it fills the memory.

        Raises:
            TooLargeError: when the file is larger than *max_size*.
        """
        data = self._retry_if_replaced(lambda: self._read_whole(path, max_size))
        if max_size is not None and len(data) > max_size:
            raise TooLargeError(
                f"{path} is larger than {max_size} bytes: open it and read it in chunks", path=path, backend=self.name
            )
        return data

    def save(
        self,
        name: str,
        content: bytes | bytearray | memoryview | SupportsRead,
        **arguments: Unpack[WriteArguments],
    ) -> str:
        """Store new content under a name that a stranger chose; never replaces anything.

        The name is made safe (see :func:`flask_storage.paths.safe_path`). When it is taken, ``_`` and the 32
        hexadecimal digits of a random UUID go before the extension, within 255 bytes. Where a storage cannot create
        exclusively, every name gets that suffix.

        Args:
            name: The wished path, as it came.
            content: Bytes, or a binary file object. One that cannot seek is spooled, past 8 MiB to disk.
            **arguments: See :class:`~flask_storage.types.WriteOptions`.

        Returns:
            The path that the content is stored under.

        >>> from flask_storage import MemoryStorage
        >>> MemoryStorage().save("../a b?.txt", b"1")
        'a b_.txt'
        """
        path = self._path(safe_path(name))
        with contextlib.ExitStack() as stack:
            if isinstance(content, bytes | bytearray | memoryview):
                content = io.BytesIO(content)
            elif not _can_rewind(content):
                spool = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES))
                copy_chunks(content, spool)
                spool.seek(0)
                content = cast(SupportsRead, spool)
            source = cast(BinaryIO, content)
            start = source.tell()
            arguments["exclusive"] = self.capabilities.exclusive
            options = self._options(None, arguments)
            if not options.exclusive:
                path = with_suffix(path)
            while True:
                try:
                    self._upload_file(source, path, options, None)
                except FileExistsInStorageError:
                    source.seek(start)
                    path = with_suffix(safe_path(name))
                else:
                    break
        self._notify_stored(path)
        return path

    # -- inner ------------------------------------------------------------------------------------------------------

    def _retry_if_replaced(self, read: Callable[[], _T]) -> _T:
        """Return what *read* returns; read again when the file was replaced meanwhile, as nobody has seen any of it."""
        for _ in range(_MAX_READS - 1):
            try:
                return read()
            except PreconditionFailedError:
                continue
        return read()

    def _read_whole(self, path: str, max_size: int | None) -> bytes:
        with self.open(path, FileMode.read) as reader:
            return reader.read(-1 if max_size is None else max_size + 1)

    def _download_from_start(self, path: str, target: BinaryIO, progress_callback: ProgressCallback | None) -> None:
        target.seek(0)
        target.truncate()
        self.download(path, target, progress_callback=progress_callback)

    def _notify_stored(self, path: str) -> None:
        file_stored.send(self, path=path)

    def _options(self, extra_args: Mapping[str, Any] | None, arguments: WriteArguments) -> WriteOptions:
        return self._check_options(WriteOptions.from_arguments(extra_args, arguments))

    def _check_options(self, options: WriteOptions) -> WriteOptions:
        """Return *options* as they are, or refuse what this storage cannot honour, before anything is sent."""
        able = self.capabilities
        for header in CONTENT_HEADERS:
            value = getattr(options, header)
            if value is not None and not is_one_line(value):
                raise ValueError(f"{header} must be one line of text")
        if not able.content_headers and any(getattr(options, header) for header in CONTENT_HEADERS):
            raise self._unsupported("keep a content type or another header with a file")
        if options.metadata:
            if not able.metadata:
                raise self._unsupported("keep metadata with a file")
            check_metadata(options.metadata)
            options = replace(options, metadata=dict(options.metadata))
        if options.checksum is not None:
            parse_checksum(options.checksum)
        if options.size is not None:
            check_count("size", options.size)
        self._check_conditions(options)
        return options

    def _check_conditions(self, options: WriteOptions) -> None:
        if options.exclusive and not self.capabilities.exclusive:
            raise self._unsupported("refuse a taken name atomically", instead="use save(), which suffixes every name")
        if options.if_match is not None and not self.capabilities.if_match:
            raise self._unsupported("compare the stored version atomically (if_match)")
        if options.if_match is not None and not is_one_line(options.if_match):
            raise ValueError("if_match is the etag of a version, one line of text")


def _can_rewind(content: SupportsRead) -> bool:
    seekable = getattr(content, "seekable", None)
    return bool(seekable()) if callable(seekable) else hasattr(content, "seek")
