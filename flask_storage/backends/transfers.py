"""The operations that transfer content: open, upload, download, put, get, write, read, save."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, TypeVar, Unpack, cast

from ..content_types import is_implied_by_name
from ..errors import ConfigurationError, FileExistsInStorageError, PreconditionFailedError, TooLargeError
from ..files import RemoteFile, parse_checksum
from ..paths import is_one_line, safe_path, with_suffix
from ..signals import file_read, file_stored
from ..streams import LocalFile, SupportsRead, SupportsWrite, copy_chunks, is_rewindable
from ..types import CONTENT_HEADERS, FileMode, ProgressCallback, WriteArguments, WriteOptions
from ..validation import check_count, check_metadata, check_names
from .driver import StorageDriver

logger = logging.getLogger("flask_storage")

_T = TypeVar("_T")
_MAX_READS = 20  # attempts to read a file that is replaced concurrently each time
_SPOOL_BYTES = 8 * 1024 * 1024


class TransferOperations(StorageDriver):
    """The operations through which content enters or leaves a storage, on top of the driver methods."""

    _drops_headers = False

    @property
    def unsupported_headers(self) -> str:
        """What happens to headers and metadata of a write that this storage cannot keep: ``"error"`` or ``"drop"``.

        ``"error"``, the default, raises :class:`~flask_storage.errors.UnsupportedOperationError`. ``"drop"`` stores the
        file without them, and logs their names at the level ``DEBUG``. A content type that the extension of the file
        name implies is accepted in both cases, since the file is served with it anyway. It is an option of a profile,
        and can be set on a storage.

        Raises:
            ConfigurationError: when it is set to anything else.
        """
        return "drop" if self._drops_headers else "error"

    @unsupported_headers.setter
    def unsupported_headers(self, value: str) -> None:
        if value not in ("error", "drop"):
            raise ConfigurationError(f"unsupported_headers of {self.name!r} must be 'error' or 'drop'")
        self._drops_headers = value == "drop"

    def open(
        self,
        path: str,
        mode: FileMode | str,
        extra_args: Mapping[str, Any] | None = None,
        **arguments: Unpack[WriteArguments],
    ) -> RemoteFile:
        """Open a file.

        A reader returns the version that existed when the file was opened. If a backend does not keep that version
        after the file was replaced, reading on raises :class:`~flask_storage.errors.PreconditionFailedError`. A writer
        replaces the file atomically when it is closed; until then, and after an exception, the file is unchanged.
        Reading and writing (``"rw"``) needs an existing file, edits a private copy and publishes it on close.

        Args:
            path: The path in the storage.
            mode: ``"r"``, ``"w"``, ``"rw"`` or a :class:`~flask_storage.FileMode`.
            extra_args: keg-storage's ``{"ContentType": …}``; prefer keyword arguments.
            **arguments: See :class:`~flask_storage.types.WriteOptions`.

        Returns:
            A binary file object; use it in a ``with`` block.

        Raises:
            FileNotFoundInStorageError: when the file does not exist (except for ``"w"``).
            UnsupportedOperationError: when the storage does not support the mode or one of the arguments.

        >>> from flask_storage import MemoryStorage
        >>> storage = MemoryStorage()
        >>> with storage.open("notes.txt", "w", content_type="text/plain") as file:
        ...     file.write(b"hello")
        5
        """
        path = self._path(path)
        file_mode = FileMode.as_mode(mode)
        options = self._options(path, extra_args, arguments)
        if not file_mode:
            raise ValueError("Unsupported mode. Accepted modes are FileMode.read or FileMode.write")
        if file_mode is FileMode.read:
            if extra_args or arguments:
                raise ValueError(f"{', '.join({**(extra_args or {}), **arguments})} can be passed only for writing")
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
            raise ValueError("size and checksum cannot be passed with mode 'rw', which edits an existing file")
        elif self.capabilities.read_write:
            with translator:
                writer = self._open_updater(path, options)
        else:
            raise self._unsupported(
                "open a file for reading and writing", path, instead="read it, then write the new content"
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
        """Store the content of a binary file object, from its current position; it is not closed.

        Args:
            file_obj: Anything with ``read(size)``.
            path: The path in the storage.
            progress_callback: Called after each chunk with the number of bytes stored so far.
            extra_args: keg-storage's ``{"ContentType": …}``; prefer keyword arguments.
            **arguments: See :class:`~flask_storage.types.WriteOptions`.

        Raises:
            TypeError: when *file_obj* has no ``read``, or yields text.
            StorageError: when it fails; nothing was published and an existing file is unchanged.
        """
        path = self._path(path)
        _require_method(
            "read", file_obj, "upload()", "use write(path, data) for bytes, put(local_path, path) for a file"
        )
        options = self._options(path, extra_args, arguments)
        self._upload_file(file_obj, path, options, progress_callback)
        self._notify_stored(path)

    def download(
        self, path: str, file_obj: SupportsWrite, *, progress_callback: ProgressCallback | None = None
    ) -> None:
        """Write a file's content into a binary file object, which is not closed.

        Args:
            path: The path in the storage.
            file_obj: Anything with ``write(data)``.
            progress_callback: Called after each chunk with the number of bytes written so far.

        Raises:
            FileNotFoundInStorageError: when the file does not exist; nothing was written.
        """
        path = self._path(path)
        _require_method("write", file_obj, "download()", "use read(path) for bytes, get(path, local_path) for a file")
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
        """Download to a local file, which is created or replaced atomically when the content is complete.

        Args:
            path: The path in the storage.
            dest: The local file. An existing one keeps its mode; a new one gets the mode that the umask allows.
            progress_callback: Called after each chunk with the number of bytes written so far.

        Raises:
            FileNotFoundInStorageError: when the file does not exist; *dest* is unchanged.
        """
        dest = os.fspath(dest)
        if os.path.exists(dest) and not os.path.isfile(dest):
            # A pipe or a device cannot be replaced by renaming; for a directory open() raises the right error.
            with open(dest, "wb") as target:
                self.download(path, target, progress_callback=progress_callback)
            return
        dest = os.path.realpath(dest)
        temporary = os.path.join(os.path.dirname(dest), f".{secrets.token_hex(8)}.part")
        try:
            # While it is written, the file must not be readable by users who cannot read the file it replaces.
            mode = 0o600 if os.path.exists(dest) else 0o666
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with LocalFile(fd, "wb") as target:
                self._retry_if_replaced(lambda: self._download_from_start(path, target, progress_callback))
            with contextlib.suppress(FileNotFoundError):
                mode = os.stat(dest).st_mode & 0o7777
                # Some network mounts refuse to change modes, and give all files the same.
                if mode != os.stat(temporary).st_mode & 0o7777:
                    os.chmod(temporary, mode)
            os.replace(temporary, dest)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def write(self, path: str, data: bytes | bytearray | memoryview, **arguments: Unpack[WriteArguments]) -> None:
        """Store *data* at *path*, replacing an existing file atomically.

        Raises:
            TypeError: for text; encode it first.
        """
        argument: object = data  # callers may ignore the annotation
        if not isinstance(argument, bytes | bytearray | memoryview):
            advice = "encode it first" if isinstance(argument, str) else "pass a file object to upload(file_obj, path)"
            raise TypeError(f"write() requires bytes, not {type(argument).__name__}: {advice}")
        arguments.setdefault("size", memoryview(data).nbytes)
        self.upload(io.BytesIO(data), path, **arguments)

    def read(self, path: str, *, max_size: int | None = None) -> bytes:
        """Return a file's whole content.

        Args:
            path: The path in the storage.
            max_size: In bytes. At most one byte more is read into memory.

        Raises:
            TooLargeError: when the file is larger than *max_size*.
            ValueError: when *max_size* is not a number of bytes.
        """
        if max_size is not None:
            check_count("max_size", max_size)
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
        """Store content under a user-supplied name, and never replace a file.

        The name is sanitized (see :func:`flask_storage.paths.safe_path`). If a file of this name exists, ``_`` and the
        32 hexadecimal digits of a random UUID are inserted before the extension; the name stays within 255 bytes. On a
        storage without ``exclusive``, every name gets this suffix.

        Args:
            name: The requested path; it may be untrusted input.
            content: Bytes, or a binary file object. One that perhaps cannot be read again, if the name exists, is
                spooled, beyond 8 MiB to disk: all but bytes in memory, local files and readers of a storage.
            **arguments: See :class:`~flask_storage.types.WriteOptions`.

        Returns:
            The path of the stored file.

        >>> from flask_storage import MemoryStorage
        >>> MemoryStorage().save("../a b?.txt", b"1")
        'a b_.txt'
        """
        path = self._path(safe_path(name))
        if not isinstance(content, bytes | bytearray | memoryview):
            _require_method("read", content, "save()", "pass bytes, or a file that is open in binary mode")
        with contextlib.ExitStack() as stack:
            if isinstance(content, bytes | bytearray | memoryview):
                content = io.BytesIO(content)
            elif not is_rewindable(content):
                spool = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES))
                copy_chunks(content, spool)
                spool.seek(0)
                content = cast(SupportsRead, spool)
            source = cast(BinaryIO, content)
            start = source.tell()
            arguments["exclusive"] = self.capabilities.exclusive
            options = self._options(path, None, arguments)
            if not options.exclusive:
                path = with_suffix(path)
            requested = path
            while True:
                try:
                    self._upload_file(source, path, options, None)
                except (FileExistsInStorageError, PreconditionFailedError) as error:
                    # S3 and Azure raise the second when another write of the same name ends concurrently. No other
                    # client writes under a random name, so with one it is something else.
                    if isinstance(error, PreconditionFailedError) and path != requested:
                        raise
                    source.seek(start)
                    path = with_suffix(safe_path(name))
                else:
                    break
        self._notify_stored(path)
        return path

    # -- inner ------------------------------------------------------------------------------------------------------

    def _retry_if_replaced(self, read: Callable[[], _T]) -> _T:
        """Return what *read* returns. Retry if the file was replaced concurrently; the caller has seen no bytes yet."""
        for _ in range(_MAX_READS - 1):
            try:
                return read()
            except PreconditionFailedError:
                continue
        return read()

    def _read_whole(self, path: str, max_size: int | None) -> bytes:
        path = self._path(path)
        with self._reader(path, self._open_whole if max_size is None else self._open_reader) as reader:
            data = reader.read(-1 if max_size is None else max_size + 1)
        file_read.send(self, path=path)
        return data

    def _download_from_start(self, path: str, target: BinaryIO, progress_callback: ProgressCallback | None) -> None:
        target.seek(0)
        target.truncate()
        self.download(path, target, progress_callback=progress_callback)

    def _notify_stored(self, path: str) -> None:
        file_stored.send(self, path=path)

    def _options(self, path: str, extra_args: Mapping[str, Any] | None, arguments: WriteArguments) -> WriteOptions:
        check_names("a write", arguments, WriteArguments.__annotations__)
        return self._check_options(path, WriteOptions.from_arguments(extra_args, arguments))

    def _check_options(self, path: str, options: WriteOptions) -> WriteOptions:
        """Return *options* as the backend gets them, or raise if they are invalid or unsupported here.

        The metadata is a copy. Headers that the storage does not keep are removed, if that is permitted: see
        :meth:`_unsupported_headers`.
        """
        for header in CONTENT_HEADERS:
            value = getattr(options, header)
            if value is not None and not is_one_line(value):
                raise ValueError(f"{header} must be one line of text")
        if options.metadata:
            check_metadata(options.metadata)
            options = replace(options, metadata=dict(options.metadata))
        if unsupported := self._unsupported_headers(path, options.headers):
            options = replace(options, **{header: _NO_HEADERS[header] for header in unsupported})
        if options.checksum is not None:
            parse_checksum(options.checksum)
        if options.size is not None:
            check_count("size", options.size)
        self._check_conditions(options)
        return options

    def _unsupported_headers(self, path: str, headers: Mapping[str, Any]) -> list[str]:
        """Return the names of those *headers* that a write of *path* must leave out, because they cannot be stored.

        Args:
            path: A normalized path.
            headers: The values of content headers and ``metadata`` by their names in
                :class:`~flask_storage.types.WriteOptions`; an empty value is ignored.

        Raises:
            UnsupportedOperationError: when leaving one out loses something, and the storage does not permit that: see
                :attr:`unsupported_headers`.
        """
        capabilities = self.capabilities
        unsupported = [
            name
            for name, value in headers.items()
            if value and not (capabilities.metadata if name == "metadata" else capabilities.content_headers)
        ]
        lost = ", ".join(
            name for name in unsupported if name != "content_type" or not is_implied_by_name(headers[name], path)
        )
        if lost and not self._drops_headers:
            raise self._unsupported(
                f"store {lost} with {path} in {self.name!r}",
                path,
                instead="leave it out (a file is served with the content type of its extension), "
                'or set unsupported_headers="drop" for this profile',
            )
        if lost:
            logger.debug("%r cannot store %s with %r: dropped", self.name, lost, path)
        return unsupported

    def _check_conditions(self, options: WriteOptions) -> None:
        if options.exclusive and not self.capabilities.exclusive:
            raise self._unsupported(
                "create a file exclusively (exclusive=True)",
                instead="leave it out and use a new random path, as save() does",
            )
        if options.if_match is not None and not self.capabilities.if_match:
            raise self._unsupported("compare the stored version atomically (if_match=…)")
        if options.if_match is not None and not is_one_line(options.if_match):
            raise ValueError("if_match must be the etag of a version: one line of text")


_NO_HEADERS: dict[str, Any] = {**dict.fromkeys(CONTENT_HEADERS), "metadata": {}}


def _require_method(name: str, file_obj: object, call: str, advice: str) -> None:
    if not callable(getattr(file_obj, name, None)):
        raise TypeError(f"{call} requires a binary file object with {name}(), not {type(file_obj).__name__}: {advice}")
