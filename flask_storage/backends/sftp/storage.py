"""Files on a server that is reached by SFTP."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
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
    LINK_CONSTRAINTS,
    Capabilities,
    FileInfo,
    ListEntry,
    ProgressCallback,
    ShareLinkOperation,
    WriteOptions,
)
from ...validation import (
    parse_connections,
    parse_int,
    parse_mode,
    parse_optional_bool,
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
    """Keeps files below a folder of a server, over SSH.

    A write goes to a hidden file in the target's folder, is made durable where the server can do that
    (``fsync@openssh.com``), and is renamed into place; nobody ever sees half a file. :meth:`StorageBackend.sweep` takes
    what a broken connection leaves behind. Folders come with their first file and go with their last. No symbolic link
    is followed, wherever it points.

    The server's key must be known; there is no way to trust whatever key comes. Connections are made when they are
    first needed, once in each process, kept, and shared by its threads.

    SFTP keeps no content type and no metadata, and no version by which ``if_match`` could be decided.

    Args:
        host: Name or address of the server.
        username: Whose account it is; the name of the local user by default.
        key_filename: A private key (Ed25519, ECDSA or RSA), or several; a certificate is found beside its key as
            ``…-cert.pub``.
        known_hosts_fpath: The file with the server's key; ``~/.ssh/known_hosts`` by default.
        port: Of the server.
        allow_agent: Try the keys of an SSH agent.
        look_for_keys: Try the keys in ``~/.ssh``.
        linked_endpoint: See :class:`~flask_storage.InternalLinksStorageBackend`.
        secret_key: Likewise.
        name: See :class:`~flask_storage.StorageBackend`.
        root: The folder that the storage is confined to; what is not absolute begins where the server puts the user.
        password: For servers that take one.
        passphrase: Of the private key.
        host_key_fingerprint: The server's key as ``SHA256:…``, or several, instead of *known_hosts_fpath*.
        proxy_command: A command whose input and output lead to the server; ``%h``, ``%p`` and ``%r`` stand for host,
            port and user.
        proxy_jump: A server that leads there, as ``user@host:port``; its key must be known too.
        ciphers: Which may be used, the favourite first.
        connect_timeout: How long each step of connecting may take, in seconds.
        read_timeout: How long an answer may take, in seconds.
        keepalive: How often an idle connection says that it is there, in seconds; 0 for never.
        max_connections: How many connections one process has at most.
        max_sessions: How many sessions a connection carries at most; OpenSSH's ``MaxSessions`` is 10.
        idle_timeout: After how long an idle session is closed, in seconds.
        file_mode: Mode of files, as a number or as octal text.
        directory_mode: Mode of folders that are made.
        fsync: Make content durable before it is published.
        base_url: See :class:`~flask_storage.StorageBackend`.
        portable: Likewise.

    Raises:
        ConfigurationError: when the arguments cannot work; what only the server knows comes with the first verb.

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
        file_mode: int | str = 0o600,
        directory_mode: int | str = 0o700,
        fsync: bool = True,
        base_url: str | None = None,
        portable: bool = False,
    ) -> None:
        super().__init__(
            linked_endpoint=linked_endpoint, secret_key=secret_key, name=name, base_url=base_url, portable=portable
        )
        if proxy_command is not None and proxy_jump is not None:
            raise ConfigurationError("give a proxy_command or a proxy_jump, not both")
        keys = [key_filename] if isinstance(key_filename, str | os.PathLike) else key_filename
        keys = () if keys is None else keys
        if not isinstance(keys, list | tuple):
            raise ConfigurationError("key_filename is a path, or a list of paths")
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
            directory_mode=parse_mode("directory_mode", directory_mode, 0o700),
            storage=self.name,
        )
        self._atomic_write = AtomicWrite(
            self._tree,
            file_mode=parse_mode("file_mode", file_mode, 0o600),
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
        """Make a storage of ``sftp://user@host:port/srv/files``; ``/~/files`` begins where the server puts the user."""
        root = unquote(url.path)
        if posixpath.normpath(root) in ("/", "//") and "root" not in options:
            raise ConfigurationError(
                "an sftp:// URL that ends in / would be for the whole disk of the server: write /~/ for the folder "
                "where it puts the user, a path, or root=/ in the query"
            )
        options.setdefault("root", root[3:] or "." if f"{root}/".startswith("/~/") else root or ".")
        for argument, value in (("username", url.username), ("password", url.password)):
            if value:
                options.setdefault(argument, unquote(value))
        try:
            port = url.port
        except ValueError:
            raise ConfigurationError(
                "the port of an sftp:// URL is a number up to 65535; in a password, write %40 for @, %23 for # and "
                "%2F for /"
            ) from None  # whose text would show the password
        if port is not None:
            options.setdefault("port", port)
        return cls(url.hostname or "", **options)

    capabilities = Capabilities(
        read_write=True,
        exclusive=True,
        copy_conditions=True,
        multipart_conditions=True,
        links=~ShareLinkOperation(0),
        link_combinations=True,
        link_constraints=LINK_CONSTRAINTS,
        upload_constraints=LINK_CONSTRAINTS,
        multipart=True,
        server_side_copy=False,
    )

    def create_client(self) -> paramiko.SSHClient:
        """Return a connection of your own to the server, its key checked; closing it is up to you.

        Raises:
            StorageError: when there is no way in.
        """
        with self._error_translator():
            return self._connection_settings.connect().client

    @contextmanager
    def connection(self) -> Iterator[paramiko.SFTPClient]:
        """Lend paramiko's client, on a connection of its own, for what this class does not do. Nothing confines it.

        Raises:
            StorageError: when there is no way in. What is done in the block raises paramiko's errors.
        """
        with self.create_client() as client:
            with self._error_translator():
                lent = client.open_sftp()
            yield lent

    # -- hooks --------------------------------------------------------------------------------------------------------

    def _translate(self, error: Exception, path: str | None) -> StorageError | None:
        return translate_error(error, path, self.name)

    def _close(self) -> None:
        for held in (self._workers.pop(), self._pool.pop()):
            if isinstance(held, Pool):
                held.close()
            elif held is not None:
                held.shutdown(wait=False, cancel_futures=True)

    def _list(self, path: str, recursive: bool) -> Iterable[Sequence[ListEntry]]:
        def begun(session: Session) -> tuple[Session, Sequence[ListEntry] | None, Generator[Sequence[ListEntry]]]:
            pages = self._pages(session, path, recursive)
            return session, next(pages, None), pages

        pool = self._pool()
        session, page, pages = pool.run_and_keep(begun)
        try:
            while page is not None:
                yield page
                page = next(pages, None)
        except GeneratorExit:  # which may come from the garbage collector
            pool.release_from_finalizer(session)
            raise
        except BaseException:
            pages.close()
            pool.release(session)
            raise
        pool.release(session)

    def _pages(self, session: Session, path: str, recursive: bool) -> Generator[Sequence[ListEntry]]:
        for _, folder, entries in walk(self._tree, session, [path], recursive=recursive):
            prefix = f"{folder}/" if folder else ""
            shown = [(prefix + name, about) for name, about in entries if not name.startswith(RESERVED_PREFIX)]
            page = [
                ListEntry(name, to_datetime(about.mtime), about.size or 0) for name, about in shown if is_file(about)
            ]
            if not recursive:
                folders = [name for name, about in shown if is_directory(about)]
                page += [
                    ListEntry(f"{name}/", None, 0) for name in directories_with_files(self._tree, session, folders)
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
        def copied(session: Session) -> None:
            original, about, _ = self._tree.open_file(session, path)
            made: tuple[TemporaryPath, bytes] | None = None
            with self._error_translator(new_path), _translating_unknown_outcome():
                try:
                    temporary, handle = made = self._atomic_write.create(session, new_path)
                    copy_bytes(session, original, handle, about.size or 0)
                    self._tree.close_handle(session, original)
                    self._atomic_write.commit(session, handle, about.size or 0, temporary, new_path, options)
                except BaseException:
                    if not session.broken:
                        self._tree.close_handle(session, original)
                        if made is not None:
                            self._atomic_write.discard(session, *made)
                    raise

        self._pool().run(copied)

    def _move(self, path: str, new_path: str, options: WriteOptions) -> None:
        def moved(session: Session) -> None:
            about = self._tree.stat(session, path)
            with self._error_translator(new_path), _translating_unknown_outcome():
                self._atomic_write.move(session, path, about, new_path, options)
                self._tree.remove_empty_parents(session, parent(path))

        self._pool().run(moved)

    def _delete(self, path: str) -> None:
        self._pool().run(lambda session: self._tree.remove(session, path))

    def _delete_many(self, paths: Sequence[str]) -> dict[str, StorageError]:
        failed: dict[str, StorageError] = {}
        found = self._pool().run(lambda session: self._tree.remove_all(session, paths))
        for path, error in found.items():
            try:
                with self._error_translator(path):
                    raise error
            except StorageError as ours:
                failed[path] = ours
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
    """Do in the block what may have been done already when the connection breaks off."""
    try:
        yield
    except ConnectionLostError as error:
        raise unknown_outcome(error) from error


def _path(name: str, value: object) -> str:
    return parse_text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)


def _host(value: str) -> str:
    host = parse_text("host", value)
    if any(character in "@/" or character.isspace() for character in host):
        raise ConfigurationError("host is a name or an address, and nothing else: user and password are arguments")
    return host


def _port(value: int) -> int:
    port = parse_int("port", value, 1)
    if port > _LAST_PORT:
        raise ConfigurationError(f"port is at most {_LAST_PORT}")
    return port
