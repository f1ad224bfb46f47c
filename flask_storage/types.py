"""The value types of the storage interface: immutable, with no behaviour beyond parsing and formatting."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypedDict

if TYPE_CHECKING:
    import arrow

ProgressCallback = Callable[[int], None]
"""Called after each chunk with the number of bytes transferred so far (cumulative)."""

Expiry: TypeAlias = "datetime | arrow.Arrow | timedelta"
"""An expiry: a ``datetime`` (naive means UTC), an ``arrow.Arrow``, or a ``timedelta`` from now."""


class FileMode(enum.Flag):
    """How a file is opened.

    >>> FileMode.as_mode("r+b") == FileMode.read | FileMode.write
    True
    """

    read = 1
    """Read a file."""
    write = 2
    """Write a new file; together with ``read``, edit an existing one."""

    def __str__(self) -> str:
        """Return the mode as letters: ``'rb'``, ``'wb'``, ``'rwb'`` (``'b'`` for no mode)."""
        return ("r" if self & FileMode.read else "") + ("w" if self & FileMode.write else "") + "b"

    @classmethod
    def as_mode(cls, obj: FileMode | str) -> FileMode:
        """Return *obj* as a mode.

        Accepted are ``r``, ``w``, ``rw`` and their spellings with ``b`` and ``+`` (``r+`` is read and write). ``w+`` is
        refused: Python's ``open`` truncates the file then, while reading and writing here edits an existing file.

        Raises:
            ValueError: for anything else; ``a`` and ``x`` are not supported.
        """
        if isinstance(obj, cls):
            return obj
        if not isinstance(obj, str):
            raise ValueError("as_mode() accepts only FileMode or str arguments")
        letters = sorted(obj)
        if len(set(letters)) == len(letters):
            mode = _MODES.get("".join(letter for letter in letters if letter != "b"))
            if mode is not None:
                return mode
        raise ValueError(f"unknown file mode {obj!r}: use 'r', 'w' or 'rw' (also 'rb', 'wb', 'r+', 'r+b')")


_MODES = {
    "r": FileMode.read,
    "w": FileMode.write,
    "rw": FileMode.read | FileMode.write,
    "+r": FileMode.read | FileMode.write,
    "+rw": FileMode.read | FileMode.write,
}


class ShareLinkOperation(enum.Flag):
    """The operations that a link allows.

    >>> ShareLinkOperation.as_operation("du") == ShareLinkOperation.download | ShareLinkOperation.upload
    True
    """

    download = 1
    """Read the file."""
    upload = 2
    """Write the file."""
    remove = 4
    """Delete the file."""

    def __str__(self) -> str:
        """Return the letters of the operations in the fixed order ``d``, ``u``, ``r``."""
        return _LETTERS[self.value]

    @classmethod
    def as_operation(cls, obj: ShareLinkOperation | str) -> ShareLinkOperation:
        """Return *obj* as an operation: any combination of the letters ``d``, ``u``, ``r``, or one full word.

        Raises:
            ValueError: for anything else, and for an empty combination.
        """
        if isinstance(obj, ShareLinkOperation):
            operation = obj
        elif not isinstance(obj, str):
            raise ValueError("as_operation() accepts only ShareLinkOperation or str arguments")
        elif obj in _OPERATIONS:
            operation = _OPERATIONS[obj]
        else:
            raise ValueError(
                f"unknown link operation {obj!r}: use 'download', 'upload', 'remove' "
                "or a combination of the letters 'd', 'u', 'r'"
            )
        if not operation:
            raise ValueError("a link needs at least one operation: 'download', 'upload' or 'remove'")
        return operation


# Lookup tables, because operations of enum.Flag are slow and an app may issue tens of thousands of links.
_LETTERS = {value: "".join(letter for bit, letter in enumerate("dur") if value >> bit & 1) for value in range(8)}
_OPERATIONS = {
    "".join(spelling): ShareLinkOperation(value)
    for value, letters in _LETTERS.items()
    for spelling in permutations(letters)
} | dict(ShareLinkOperation.__members__)


class ListEntry(NamedTuple):
    """One line of a listing.

    Attributes:
        name: The full path in the storage; that of a directory ends in ``/``.
        last_modified: In UTC; None for a directory if the backend does not report it.
        size: In bytes; 0 for a directory.
    """

    name: str
    last_modified: arrow.Arrow | None
    size: int

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory (only with ``recursive=False``)."""
        return self.name.endswith("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """The attributes of one stored file.

    Attributes:
        path: The path in the storage.
        size: In bytes.
        last_modified: In UTC.
        etag: The entity tag of the stored version, without quotes. It changes whenever the content changes.
        etag_is_strong: Whether equal tags mean equal bytes (needed to resume a download).
        content_type: As passed when the file was written; None if none was passed.
        content_encoding: Likewise.
        cache_control: Likewise.
        content_disposition: Likewise.
        checksums: Digests that the backend stores, in hexadecimal, by algorithm (``{"sha256": "…"}``).
        metadata: The app's own keys and values.
        version: The version's identifier, if the backend keeps several versions.
    """

    path: str
    size: int
    last_modified: arrow.Arrow
    etag: str | None = None
    etag_is_strong: bool = False
    content_type: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None


class WriteArguments(TypedDict, total=False):
    """The keyword arguments of every operation that writes; they become :class:`WriteOptions`."""

    content_type: str | None
    content_encoding: str | None
    cache_control: str | None
    content_disposition: str | None
    metadata: Mapping[str, str]
    exclusive: bool
    if_match: str | None
    size: int | None
    checksum: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """The options of a write.

    Attributes:
        content_type: Media type, stored with the content and returned by ``stat``.
        content_encoding: For example ``"gzip"``.
        cache_control: For example ``"public, max-age=3600"``.
        content_disposition: Stored and returned; the link view builds its own from the signed link instead.
        metadata: The app's own keys and values, both ``str``.
        exclusive: Refuse with :class:`~flask_storage.errors.FileExistsInStorageError` when the file exists.
        if_match: Refuse with :class:`~flask_storage.errors.PreconditionFailedError` unless the stored file has this
            etag.
        size: The expected size in bytes. Content of another size raises
            :class:`~flask_storage.errors.IntegrityError`, and nothing is published.
        checksum: The expected checksum, ``"sha256:<hex>"`` (any algorithm of :mod:`hashlib`). Content with another
            digest raises :class:`~flask_storage.errors.IntegrityError`, and nothing is published.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    exclusive: bool = False
    if_match: str | None = None
    size: int | None = None
    checksum: str | None = None

    @property
    def headers(self) -> dict[str, Any]:
        """The content headers and the metadata that are set; they are stored with the content."""
        headers: dict[str, Any] = {name: getattr(self, name) for name in CONTENT_HEADERS if getattr(self, name)}
        if self.metadata:
            headers["metadata"] = dict(self.metadata)
        return headers

    @classmethod
    def from_arguments(cls, extra_args: Mapping[str, Any] | None, arguments: WriteArguments) -> WriteOptions:
        """Build options from keyword arguments and keg-storage's ``extra_args`` (``{"ContentType": …}``).

        Raises:
            ValueError: for an unknown key of ``extra_args``.
        """
        options = cls(**arguments)
        if extra_args:
            unknown = sorted(set(extra_args) - set(_EXTRA_ARGS))
            if unknown:
                raise ValueError(f"unknown extra_args {', '.join(unknown)}: known are {', '.join(sorted(_EXTRA_ARGS))}")
            fields = {_EXTRA_ARGS[key]: value for key, value in extra_args.items() if value is not None}
            options = replace(options, **fields)
        return options


CONTENT_HEADERS = ("content_type", "content_encoding", "cache_control", "content_disposition")

_EXTRA_ARGS = {
    "ContentType": "content_type",
    "ContentEncoding": "content_encoding",
    "CacheControl": "cache_control",
    "ContentDisposition": "content_disposition",
    "Metadata": "metadata",
}


class FormArguments(TypedDict, total=False):
    """The keyword arguments of ``create_upload_form`` that the links have too; they become :class:`LinkRequest`."""

    content_encoding: str | None
    cache_control: str | None
    checksum: str | None
    exclusive: bool
    uses: int | None
    ip: str | None


class LinkArguments(FormArguments, total=False):
    """The keyword arguments of the link operations beyond keg-storage's; they become :class:`LinkRequest`."""

    disposition: str | None
    size: int | None
    max_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRequest:
    """The operations of a link and its constraints. All attributes are signed.

    Attributes:
        operations: The operations that the holder may perform.
        expires_at: The time (aware) after which the link is refused.
        filename: The file name under which a browser saves the download.
        disposition: ``"attachment"`` (the default) or ``"inline"``, which applies only to types that cannot run
            scripts.
        content_type: Download: the type of the response. Upload: the type that the file is stored with.
        content_encoding: Likewise.
        cache_control: Download: the header of the response.
        size: Upload: the exact number of bytes.
        max_size: Upload: the largest number of bytes.
        checksum: Upload: ``"sha256:<hex>"`` of the content.
        exclusive: Upload: refuse when the file exists.
        uses: How many times the link can be used; None for no limit.
        ip: Accept only requests from this address or network (``"203.0.113.0/24"``).
        form: Upload: the file is sent in an HTML form, and not as the body. Its content type may then be a prefix.
        min_size: Form: the smallest number of bytes.
        redirect_to: Form: the URL to which the browser is redirected after the upload.
    """

    operations: ShareLinkOperation
    expires_at: datetime
    filename: str | None = None
    disposition: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    size: int | None = None
    max_size: int | None = None
    checksum: str | None = None
    exclusive: bool = False
    uses: int | None = None
    ip: str | None = None
    form: bool = False
    min_size: int | None = None
    redirect_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PresignedUpload:
    """The request with which a browser uploads one file.

    URL, headers and fields are credentials, so the ``repr`` contains only the method, the host and the expiry.

    Attributes:
        method: ``"PUT"``, where the file is the body, or ``"POST"``, where it is the field ``file`` of a form.
        url: The URL of the request.
        headers: Every header that must be sent.
        fields: The other fields of the form, to be sent before the file.
        expires_at: The time (aware) after which the upload is refused.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime

    def __repr__(self) -> str:
        # Not the path: an app's own link view may have the token there.
        host = "/".join(self.url.partition("?")[0].split("/")[:3])
        return f"PresignedUpload(method={self.method!r}, url='{host}/…', expires_at={self.expires_at!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The features that a storage supports. Operations and arguments that it does not support raise an error.

    Attributes:
        read_write: Opening a file with ``rw``.
        exclusive: Refusing atomically to overwrite a file (``exclusive=True``).
        if_match: Refusing atomically to overwrite another version of a file (``if_match=…``).
        copy_conditions: Both conditions for copy and move; some services ignore them there.
        multipart_conditions: Both conditions for completing multipart uploads; likewise.
        multipart_headers: Changing headers and metadata when a multipart upload is completed.
        multipart_checksums: Verifying a checksum before a multipart upload is published.
        content_headers: Storing content type, encoding, cache control and disposition.
        metadata: Storing the app's own keys and values.
        concurrent_writes: Whether two concurrent long writes, or multipart uploads, of one file can both complete, and
            the last one wins. Otherwise the first to complete invalidates the other, whose completion is refused.
        guesses_content_type: Whether a file without a content type gets the type of its file name extension.
        links: The operations that a link signed by the service can allow. It says nothing about links of the app, which
            every storage of an app has.
        link_combinations: Whether one link of the service can allow several operations.
        link_constraints: Which of :data:`LINK_CONSTRAINTS` the service enforces in its links.
        upload_constraints: Which of them it enforces in an ``upload_request``; a form may enforce more than a link.
        multipart: Multipart uploads (:attr:`StorageBackend.multipart`).
        local_paths: Whether files have a path on this machine.
        server_side_copy: Whether ``copy`` transfers no content through this process.
    """

    read_write: bool = False
    exclusive: bool = False
    if_match: bool = False
    copy_conditions: bool = False
    multipart_conditions: bool = False
    multipart_headers: bool = False
    multipart_checksums: bool = False
    content_headers: bool = False
    metadata: bool = False
    concurrent_writes: bool = True
    guesses_content_type: bool = False
    links: ShareLinkOperation = ShareLinkOperation(0)
    link_combinations: bool = False
    link_constraints: frozenset[str] = frozenset()
    upload_constraints: frozenset[str] = frozenset()
    multipart: bool = False
    local_paths: bool = False
    server_side_copy: bool = False


LINK_CONSTRAINTS = frozenset({"disposition", "size", "max_size", "checksum", "exclusive", "uses", "ip"})
"""The constraints of a :class:`LinkRequest` that not every service can enforce. A link of the app enforces all."""

LinkMode: TypeAlias = Literal["auto", "native", "app"]
"""Which links a profile issues: the service's where it enforces what was asked, only the service's, only the app's."""

LINK_LIFETIME = timedelta(hours=1)
"""How long a link is valid for which no expiry was given, unless ``STORAGE_LINK_LIFETIME`` says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkContext:
    """What a storage needs of the app to issue links of the app.

    Attributes:
        profile: The profile's name; it is the audience of its tokens.
        lifetime: How long a link is valid for which no expiry was given.
        secrets: Returns the app's secrets. The first signs and verifies, the others only verify. Called at each use,
            since an app may set its ``SECRET_KEY`` after ``init_app``.
        strict: Whether a storage's own secret must have the full length (not under ``DEBUG`` or ``TESTING``).
        link_url: Returns the absolute URL for a token and an endpoint (None: the link view of the extension).
        public_root: Returns what precedes ``base_url`` in public URLs, for a profile that the app itself serves.
    """

    profile: str
    lifetime: timedelta = LINK_LIFETIME
    secrets: Callable[[], tuple[bytes, ...]] = field(repr=False)
    strict: bool = True
    link_url: Callable[[str, str | None], str] = field(repr=False)
    public_root: Callable[[], str] | None = field(default=None, repr=False)


def to_utc(expire: Expiry, *, now: datetime | None = None) -> datetime:
    """Return *expire* as an aware ``datetime`` in UTC. A naive ``datetime`` means UTC; a ``timedelta`` counts from now.

    Raises:
        ValueError: when the time is not in the future, or is beyond the year 9999.
    """
    now = now or datetime.now(UTC)
    try:
        # An arrow.Arrow has the attribute `datetime`; reading it by name avoids an import of arrow.
        time: object = now + expire if isinstance(expire, timedelta) else getattr(expire, "datetime", expire)
        if not isinstance(time, datetime):
            raise TypeError(f"expire must be a datetime, an arrow.Arrow or a timedelta, not {type(expire).__name__}")
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the expiration time is in the past, or beyond the year 9999") from error
    if time <= now:
        raise ValueError("Expiration time is in the past")
    return time
