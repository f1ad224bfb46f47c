"""Storage on an SFTP server, over SSH."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Self
from urllib.parse import SplitResult, unquote

import paramiko

from ...errors import ConfigurationError, StorageError
from ...files import RemoteFile
from ...multipart import MultipartStore
from ...paths import RESERVED_PREFIX, parent
from ...process_local import ProcessLocal, thread_pool
from ...streams import SupportsRead, SupportsWrite, copy_chunks, remaining_size
from ...types import (
    Capabilities,
    FileInfo,
    ListEntry,
    ProgressCallback,
    WriteOptions,
)
from ...validation import (
    parse_connections,
    parse_int,
    parse_optional_bool,
    parse_optional_mode,
    parse_optional_text,
    parse_seconds,
    parse_text,
)
from ..internal_links import InternalLinksStorageBackend
from .atomic_write import AtomicWrite, TemporaryPath
from .auth import ConnectionSettings, ciphers_of
from .copy import copy_bytes
from .delete import DirectoryDelete, Sweep
from .errors import translate_error, unknown_outcome
from .files import CHUNK_SIZE, PART_SIZE, SFTPReader, SFTPUpdater, SFTPWriter
from .host_keys import KnownHosts, parse_fingerprints
from .listing import directories_with_files, is_directory, is_file, walk
from .multipart import SFTPMultipart
from .pool import Pool
from .protocol import ConnectionLostError, Session
from .remote_tree import RemoteTree, to_datetime
from .transport import JumpHost, split_command
from .upload import SFTPUpload

_SESSIONS_PER_FILE = 8
_LAST_PORT = 65535


class SFTPStorage(InternalLinksStorageBackend):
    """Stores files in a directory of a server, over SSH.

    A write is atomic: the content goes to a temporary file in the target's directory, is made durable if the server
    supports ``fsync@openssh.com``, and is renamed to its final path. :meth:`StorageBackend.sweep` removes temporary
    files of lost connections. Directories are created with their first file and removed with their last.
    Symbolic links are never followed.

    A reader reads the version that it has opened. An open file uses its session during one call only, so open files, of
    which there may be any number, do not block other operations.

    The server's host key must be known; unknown keys are always refused. Connections are made on first use, separately
    in each process, kept open, and shared by its threads.

    SFTP stores no content type, no metadata and no version, so ``if_match`` is not supported.

    Args:
        host: Name or address of the server.
        username: The account on the server; the name of the local user by default.
        key_filename: Path of a private key (Ed25519, ECDSA or RSA), or several paths. A certificate is read from the
            file ``…-cert.pub`` beside its key.
        known_hosts_fpath: Path of the known hosts file; ``~/.ssh/known_hosts`` by default.
        port: TCP port of the server.
        allow_agent: Try the keys of an SSH agent.
        look_for_keys: Try the keys in ``~/.ssh``.
        linked_endpoint: See :class:`~flask_storage.InternalLinksStorageBackend`.
        secret_key: See :class:`~flask_storage.InternalLinksStorageBackend`.
        name: See :class:`~flask_storage.StorageBackend`.
        root: The directory that the storage is confined to; a relative path starts at the user's initial directory.
        password: Password of the account, for servers that accept one.
        passphrase: Passphrase of the private keys.
        host_key_fingerprint: Fingerprint of the host key as ``SHA256:…``, or several, instead of *known_hosts_fpath*.
        proxy_command: A command whose input and output are connected to the server; ``%h``, ``%p`` and ``%r`` stand
            for host, port and user.
        proxy_jump: A jump host as ``user@host:port``; its host key must be known too.
        ciphers: Names of the allowed ciphers, in order of preference.
        connect_timeout: Time-out of each step of connecting, in seconds.
        read_timeout: Time-out of a response, in seconds.
        keepalive: Interval of the keepalive messages on a connection, in seconds; 0 disables them.
        max_connections: Maximum number of connections of one process.
        max_sessions: Maximum number of sessions on one connection; OpenSSH's default for ``MaxSessions`` is 10.
        idle_timeout: Time after which an idle session is closed, in seconds.
        file_mode: Mode of new files, as a number or as octal text. None, ``none`` in a URL, never sets it: for a server
            that refuses to, as some mounts do.
        directory_mode: Mode of new directories, likewise.
        fsync: Make content durable before it is published.
        base_url: See :class:`~flask_storage.StorageBackend`.
        portable: See :class:`~flask_storage.StorageBackend`.

    Raises:
        ConfigurationError: when an argument is invalid. Errors that only the server can find are raised by the first
            operation.

    >>> storage = SFTPStorage("files.example.com", "web", "id_ed25519", "known_hosts", root="uploads")
    >>> storage.name
    'sftp'
    """

    def __init__(
        self,
        host: str,
        username: str | None = None,
        key_filename: str | os.PathLike[str] | Sequence[str] | None = None,
        known_hosts_fpath: str | os.PathLike[str] | None = None,
        port: int = 22,
        allow_agent: bool = False,
        look_for_keys: bool = False,
        linked_endpoint: str | None = None,
        secret_key: str | bytes | None = None,
        name: str = "sftp",
        *,
        root: str = ".",
        password: str | None = None,
        passphrase: str | None = None,
        host_key_fingerprint: str | Collection[str] | None = None,
        proxy_command: str | None = None,
        proxy_jump: str | None = None,
        ciphers: Sequence[str] | str | None = None,
        connect_timeout: float = 10,
        read_timeout: float = 15,
        keepalive: float = 30,
        max_connections: int = 4,
        max_sessions: int = 8,
        idle_timeout: float = 300,
        file_mode: int | str | None = 0o600,
        directory_mode: int | str | None = 0o700,
        fsync: bool = True,
        base_url: str | None = None,
        portable: bool = False,
    ) -> None:
        super().__init__(
            linked_endpoint=linked_endpoint, secret_key=secret_key, name=name, base_url=base_url, portable=portable
        )
        if proxy_command is not None and proxy_jump is not None:
            raise ConfigurationError("proxy_command and proxy_jump cannot be combined: set one of them")
        keys = [key_filename] if isinstance(key_filename, str | os.PathLike) else key_filename
        keys = () if keys is None else keys
        if not isinstance(keys, list | tuple):
            raise ConfigurationError(f"key_filename must be a path, or a list of paths, not {type(keys).__name__}")
        self._connection_settings = ConnectionSettings(
            host=_host(host),
            port=_port(port),
            username=parse_optional_text("username", username),
            key_filenames=tuple(os.path.expanduser(_path("key_filename", key)) for key in keys),
            passphrase=parse_optional_text("passphrase", passphrase),
            password=parse_optional_text("password", password),
            allow_agent=bool(parse_optional_bool("allow_agent", allow_agent)),
            look_for_keys=bool(parse_optional_bool("look_for_keys", look_for_keys)),
            known_hosts=KnownHosts(
                None if known_hosts_fpath is None else _path("known_hosts_fpath", known_hosts_fpath)
            ),
            fingerprints=parse_fingerprints(host_key_fingerprint),
            proxy_command=split_command(parse_optional_text("proxy_command", proxy_command)),
            proxy_jump=JumpHost.parse(parse_optional_text("proxy_jump", proxy_jump)),
            connect_timeout=parse_seconds("connect_timeout", connect_timeout),
            read_timeout=parse_seconds("read_timeout", read_timeout),
            keepalive=parse_seconds("keepalive", keepalive, zero=True),
            ciphers=ciphers_of(ciphers),
        )
        self.root = parse_text("root", root)
        self._tree = RemoteTree(
            self.root,
            directory_mode=parse_optional_mode("directory_mode", directory_mode, 0o700),
            storage=self.name,
        )
        self._atomic_write = AtomicWrite(
            self._tree,
            file_mode=parse_optional_mode("file_mode", file_mode, 0o600),
            sync=bool(parse_optional_bool("fsync", fsync)),
        )
        self._pool = ProcessLocal(
            partial(
                Pool,
                self._connection_settings.connect,
                max_connections=parse_connections("max_connections", max_connections),
                sessions_per_connection=parse_connections("max_sessions", max_sessions),
                idle_timeout=parse_seconds("idle_timeout", idle_timeout),
                acquire_timeout=self._connection_settings.connect_timeout + self._connection_settings.read_timeout,
            )
        )
        self._workers = thread_pool(_SESSIONS_PER_FILE * 4)

    @classmethod
    def from_url(cls, url: SplitResult, options: dict[str, Any]) -> Self:
        """Make a storage from ``sftp://user@host:port/srv/files``; ``/~/`` stands for the user's initial directory."""
        root = unquote(url.path)
        if posixpath.normpath(root) in ("/", "//") and "root" not in options:
            raise ConfigurationError(
                "an sftp:// URL with the path / would expose the whole disk of the server: write a path, /~/ for the "
                "user's initial directory, or root=/ in the query"
            )
        options.setdefault("root", root[3:] or "." if f"{root}/".startswith("/~/") else root or ".")
        for argument, value in (("username", url.username), ("password", url.password)):
            if value:
                options.setdefault(argument, unquote(value))
        try:
            port = url.port
        except ValueError:
            raise ConfigurationError(
                "the port of an sftp:// URL must be a number of at most 65535; in a password, write %40 for @, %23 for "
                "# and %2F for /"
            ) from None  # the text of the original error contains the password
        if port is not None:
            options.setdefault("port", port)
        return cls(url.hostname or "", **options)

    capabilities = Capabilities(
        read_write=True,
        exclusive=True,
        copy_conditions=True,
        multipart_conditions=True,
        multipart=True,
        server_side_copy=False,
    )

    def create_client(self) -> paramiko.SSHClient:
        """Return a new, authenticated client whose host key was checked. The caller closes it.

        Raises:
            StorageError: when the connection or the authentication fails.
        """
        with self._error_translator():
            return self._connection_settings.connect().client

    @contextmanager
    def connection(self) -> Iterator[paramiko.SFTPClient]:
        """Yield paramiko's SFTP client on a new connection, for operations that this class does not have.

        The client is not confined to the root.

        Raises:
            StorageError: when the connection or the authentication fails. Calls in the block raise paramiko's errors.
        """
        with self.create_client() as client:
            with self._error_translator():
                sftp_client = client.open_sftp()
            yield sftp_client

    # -- driver methods -----------------------------------------------------------------------------------------------

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        return translate_error(error, path, self.name)

    def _close(self) -> None:
        for resource in (self._workers.pop(), self._pool.pop()):
            if isinstance(resource, Pool):
                resource.close()
            elif resource is not None:
                resource.shutdown(wait=False, cancel_futures=True)

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        page: Sequence[ListEntry] | None = None
        pages: Generator[Sequence[ListEntry]]

        def start(session: Session) -> Callable[[], None]:
            nonlocal page, pages
            pages = self._pages(session, path, recursive)
            page = next(pages, None)
            return pages.close

        kept = self._pool().run_and_keep(start)
        try:
            while page is not None:
                yield page
                with kept:
                    page = next(pages, None)
        except GeneratorExit:  # the garbage collector may have raised it
            kept.release_from_finalizer()
            raise
        except BaseException:
            kept.release()
            raise
        kept.release()

    def _pages(self, session: Session, path: str, recursive: bool) -> Generator[Sequence[ListEntry]]:
        for _, directory, entries in walk(self._tree, session, [path], recursive=recursive):
            prefix = f"{directory}/" if directory else ""
            visible = [
                (prefix + name, attributes) for name, attributes in entries if not name.startswith(RESERVED_PREFIX)
            ]
            page = [
                ListEntry(name, to_datetime(attributes.mtime), attributes.size or 0)
                for name, attributes in visible
                if is_file(attributes)
            ]
            if not recursive:
                directories = [name for name, attributes in visible if is_directory(attributes)]
                page += [
                    ListEntry(f"{name}/", None, 0) for name in directories_with_files(self._tree, session, directories)
                ]
            yield page

    def _open_reader(self, path: str) -> RemoteFile:
        return SFTPReader(path, tree=self._tree, pool=self._pool)

    def _open_writer(self, path: str, options: WriteOptions, size: int | None = None) -> RemoteFile:
        return SFTPWriter(
            path,
            options,
            upload=self._file_upload(),
            concurrency=_SESSIONS_PER_FILE,
            workers=self._workers,
            size=size,
        )

    def _multipart(self) -> MultipartStore:
        return SFTPMultipart(self._atomic_write, self._pool(), self._file_upload())

    def _open_updater(self, path: str, options: WriteOptions) -> RemoteFile:
        return SFTPUpdater(path, options, atomic_write=self._atomic_write, pool=self._pool())

    def _upload_file(
        self, file_obj: SupportsRead, path: str, options: WriteOptions, progress: ProgressCallback | None
    ) -> None:
        with self._writer(path, options, partial(self._open_writer, size=remaining_size(file_obj))) as writer:
            copy_chunks(file_obj, writer, progress, chunk_size=writer.iter_chunk_size)

    def _download_file(self, path: str, file_obj: SupportsWrite, progress: ProgressCallback | None) -> None:
        with self._reader(path, partial(SFTPReader, tree=self._tree, pool=self._pool, whole=True)) as reader:
            copy_chunks(reader, file_obj, progress, chunk_size=CHUNK_SIZE)

    def _copy(self, path: str, new_path: str, options: WriteOptions) -> None:
        def copy(session: Session) -> None:
            original, attributes, _ = self._tree.open_file(session, path)
            created: tuple[TemporaryPath, bytes] | None = None
            with self._error_translator(new_path), _translating_unknown_outcome():
                try:
                    temporary, handle = created = self._atomic_write.create(session, new_path)
                    copy_bytes(session, original, handle, attributes.size or 0)
                    self._tree.close_handle(session, original)
                    self._atomic_write.commit(session, handle, attributes.size or 0, temporary, new_path, options)
                except BaseException:
                    if not session.broken:
                        self._tree.close_handle(session, original)
                        if created is not None:
                            self._atomic_write.discard(session, *created)
                    raise

        self._pool().run(copy)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        def move(session: Session) -> None:
            attributes = self._tree.stat(session, path)
            with self._error_translator(new_path), _translating_unknown_outcome():
                self._atomic_write.move(session, path, attributes, new_path, options)
                self._tree.remove_empty_parents(session, parent(path))

        self._pool().run(move)

    def _delete(self, path: str) -> None:
        self._pool().run(lambda session: self._tree.remove(session, path))

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        failed: dict[str, StorageError] = {}
        errors = self._pool().run(lambda session: self._tree.remove_all(session, paths))
        for path, error in errors.items():
            try:
                with self._error_translator(path):
                    raise error
            except StorageError as translated:
                failed[path] = translated
        return failed

    def _delete_prefix(self, path: str) -> int:
        return self._pool().run(DirectoryDelete(self._tree, path))

    def _stat(self, path: str) -> FileInfo:
        return self._tree.file_info(path, self._pool().run(lambda session: self._tree.stat(session, path)))

    def _sweep(self, before: datetime) -> int:
        return self._pool().run(Sweep(self._tree, before))

    # -- inner --------------------------------------------------------------------------------------------------------

    def _file_upload(self) -> SFTPUpload:
        return SFTPUpload(self._atomic_write, self._pool(), part_size=PART_SIZE, sessions=_SESSIONS_PER_FILE)


@contextmanager
def _translating_unknown_outcome() -> Iterator[None]:
    """Report a lost connection in the block as an operation whose outcome is unknown."""
    try:
        yield
    except ConnectionLostError as error:
        raise unknown_outcome(error) from error


def _path(name: str, value: object) -> str:
    return parse_text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)


def _host(value: str) -> str:
    host = parse_text("host", value)
    if any(character in "@/" or character.isspace() for character in host):
        raise ConfigurationError(
            "host must be a host name or an address only: set user and password as separate arguments"
        )
    return host


def _port(value: int) -> int:
    port = parse_int("port", value, 1)
    if port > _LAST_PORT:
        raise ConfigurationError(f"port must be at most {_LAST_PORT}")
    return port
