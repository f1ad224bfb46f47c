"""The words that travel through the wall: small frozen values, no behaviour beyond parsing and printing."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypedDict

if TYPE_CHECKING:
    import arrow

ProgressCallback = Callable[[int], None]
"""Called after each chunk with the number of bytes moved so far (cumulative)."""

Expiry: TypeAlias = "datetime | arrow.Arrow | timedelta"
"""Until when: a ``datetime`` (naive means UTC), an ``arrow.Arrow``, or a ``timedelta`` from now."""


class FileMode(enum.Flag):
    """How a file is opened.

    >>> FileMode.as_mode("r+b") == FileMode.read | FileMode.write
    True
    """

    read = 1
    write = 2

    def __str__(self) -> str:
        """Return the mode as letters: ``'rb'``, ``'wb'``, ``'rwb'`` (``'b'`` for no mode at all)."""
        return ("r" if self & FileMode.read else "") + ("w" if self & FileMode.write else "") + "b"

    @classmethod
    def as_mode(cls, obj: FileMode | str) -> FileMode:
        """Return *obj* as a mode.

        ``r``, ``w``, ``rw`` and their spellings with ``b`` and ``+`` (``r+`` is read and write). ``w+`` is refused:
        elsewhere it truncates, while reading and writing here edits an existing file.

        Raises:
            ValueError: for anything else, so that ``a`` or ``x`` never turn into something milder.
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
    """What a link allows its holder to do.

    >>> ShareLinkOperation.as_operation("du") == ShareLinkOperation.download | ShareLinkOperation.upload
    True
    """

    download = 1
    upload = 2
    remove = 4

    def __str__(self) -> str:
        """Return the letters of the operations in the fixed order ``d``, ``u``, ``r``."""
        return _LETTERS[self.value]

    @classmethod
    def as_operation(cls, obj: ShareLinkOperation | str) -> ShareLinkOperation:
        """Return *obj* as an operation: any combination of the letters ``d``, ``u``, ``r``, or one full word.

        Raises:
            ValueError: for anything else, and for no operation at all.
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


# Tables, because links are made by the ten thousand and the arithmetic of enum.Flag is slow.
_LETTERS = {value: "".join(letter for bit, letter in enumerate("dur") if value >> bit & 1) for value in range(8)}
_OPERATIONS = {
    "".join(spelling): ShareLinkOperation(value)
    for value, letters in _LETTERS.items()
    for spelling in permutations(letters)
} | dict(ShareLinkOperation.__members__)


class ListEntry(NamedTuple):
    """One line of a listing.

    Attributes:
        name: The full path in the storage; a folder's ends in ``/``.
        last_modified: In UTC; None for a folder where the place does not tell.
        size: In bytes; 0 for a folder.
    """

    name: str
    last_modified: arrow.Arrow | None
    size: int

    @property
    def is_directory(self) -> bool:
        """Whether this is a folder (only with ``recursive=False``)."""
        return self.name.endswith("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What a storage knows about one file.

    Attributes:
        path: The path in the storage.
        size: In bytes.
        last_modified: In UTC.
        etag: Changes whenever the content changes; without quotes.
        etag_is_strong: Whether equal tags mean equal bytes (needed to resume a download).
        content_type: As given when the file was written; None when nothing was given.
        content_encoding: Likewise.
        cache_control: Likewise.
        content_disposition: Likewise.
        checksums: Digests the place keeps, in hexadecimal, by algorithm (``{"sha256": "…"}``).
        metadata: The app's own keys and values.
        version: The version, where the place keeps several.
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
    """The keyword arguments that every writing verb takes; they become :class:`WriteOptions`."""

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
    """How a file is to be written.

    Attributes:
        content_type: Media type, kept beside the content and returned by ``stat``.
        content_encoding: For example ``"gzip"``.
        cache_control: For example ``"public, max-age=3600"``.
        content_disposition: Kept and returned; the link view makes its own from what the link signs.
        metadata: The app's own keys and values, both text.
        exclusive: Refuse with :class:`~flask_storage.errors.FileExistsInStorageError` when the name is taken.
        if_match: Refuse with :class:`~flask_storage.errors.PreconditionFailedError` unless the stored file has this
            etag.
        size: The exact number of bytes that will come. Another number is an
            :class:`~flask_storage.errors.IntegrityError`, and nothing is published.
        checksum: ``"sha256:<hex>"`` (any algorithm of :mod:`hashlib`); content with another digest is an
            :class:`~flask_storage.errors.IntegrityError`, and nothing is published.
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
        """What is kept beside the content: the content headers and the metadata that were given."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in CONTENT_HEADERS if getattr(self, name)}
        if self.metadata:
            kept["metadata"] = dict(self.metadata)
        return kept

    @classmethod
    def from_arguments(cls, extra_args: Mapping[str, Any] | None, arguments: WriteArguments) -> WriteOptions:
        """Build options from keyword arguments and keg-storage's ``extra_args`` (``{"ContentType": …}``).

        Raises:
            ValueError: for an ``extra_args`` key that no backend knows.
        """
        options = cls(**arguments)
        if extra_args:
            unknown = sorted(set(extra_args) - set(_EXTRA_ARGS))
            if unknown:
                raise ValueError(f"unknown extra_args {', '.join(unknown)}: known are {', '.join(sorted(_EXTRA_ARGS))}")
            given = {_EXTRA_ARGS[key]: value for key, value in extra_args.items() if value is not None}
            options = replace(options, **given)
        return options


CONTENT_HEADERS = ("content_type", "content_encoding", "cache_control", "content_disposition")

_EXTRA_ARGS = {
    "ContentType": "content_type",
    "ContentEncoding": "content_encoding",
    "CacheControl": "cache_control",
    "ContentDisposition": "content_disposition",
    "Metadata": "metadata",
}


class LinkArguments(TypedDict, total=False):
    """The keyword arguments of the linking verbs beyond keg-storage's; they become :class:`LinkRequest`."""

    content_encoding: str | None
    cache_control: str | None
    disposition: str | None
    size: int | None
    max_size: int | None
    checksum: str | None
    exclusive: bool
    uses: int | None
    ip: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRequest:
    """What a link allows, and on which terms. All of it is signed.

    Attributes:
        operations: What the holder may do.
        expires_at: Aware moment after which the link is refused.
        filename: The name a browser saves the download under.
        disposition: ``"attachment"`` (the default) or ``"inline"``, which is honoured only for types that cannot
            run scripts.
        content_type: Download: the type to answer with. Upload: the type the file is stored with.
        content_encoding: Likewise.
        cache_control: Download: the header to answer with.
        size: Upload: the exact number of bytes.
        max_size: Upload: the largest number of bytes.
        checksum: Upload: ``"sha256:<hex>"`` of the content.
        exclusive: Upload: refuse when the name is taken.
        uses: How many times the link works; None for any number until it expires.
        ip: Only for requests from this address or network (``"203.0.113.0/24"``).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PresignedUpload:
    """What a browser needs in order to upload one file.

    Attributes:
        method: ``"PUT"`` or ``"POST"``.
        url: Where to.
        headers: Every header that must be sent.
        fields: Form fields that go before the file field, for a form upload; empty for a plain body.
        expires_at: Aware moment after which it is refused.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one storage can do. What is declared missing is refused with an error that says so.

    Attributes:
        read_write: Opening with ``rw``.
        exclusive: Refusing a taken name atomically when a file is written (``exclusive=True``).
        if_match: Refusing another version atomically when a file is written (``if_match=…``).
        copy_conditions: Both of these for copy and move; some services ignore them there.
        multipart_conditions: Both of these for uploads in parts, likewise.
        multipart_headers: Changing headers and metadata when an upload in parts ends.
        multipart_checksums: Comparing a checksum before an upload in parts is published.
        content_headers: Keeping content type, encoding, cache control and disposition.
        metadata: Keeping the app's own keys and values.
        concurrent_writes: Whether two long writes of one file, or two uploads of it in parts, can both end, and the
            last one stays; else what was sent for the one is lost when the other ends, and ending it is refused.
        guesses_content_type: Whether a file that was given no content type gets the one its name stands for.
        links: The operations a link may carry.
        link_combinations: Whether one link may carry several operations.
        link_constraints: Which of :data:`LINK_CONSTRAINTS` a link can bind.
        upload_constraints: Which of them an ``upload_request`` can bind; a form may bind more than a link.
        multipart: Whether multipart uploads are offered (:attr:`StorageBackend.multipart`).
        local_paths: Whether files have a path on this machine.
        server_side_copy: Whether ``copy`` moves no byte through this process.
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
"""The terms of a :class:`LinkRequest` that not every place can bind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkContext:
    """What an app lends a storage that cannot sign links of its own.

    Attributes:
        profile: The profile's name; it is the audience of its tokens.
        secrets: Gives the app's secrets, the signing one first; the others only verify. Asked at each use, since
            an app may set its ``SECRET_KEY`` after the extension.
        strict: Whether a storage's own secret must have full length (not under ``DEBUG`` or ``TESTING``).
        link_url: Makes an absolute URL of a token and an endpoint (None: the ready-made link view).
    """

    profile: str
    secrets: Callable[[], tuple[bytes, ...]] = field(repr=False)
    strict: bool = True
    link_url: Callable[[str, str | None], str] = field(repr=False)


def to_utc(expire: Expiry, *, now: datetime | None = None) -> datetime:
    """Return *expire* as an aware moment in UTC. A naive ``datetime`` means UTC; a ``timedelta`` counts from now.

    Raises:
        ValueError: when the moment is not in the future.
    """
    now = now or datetime.now(UTC)
    try:
        # An arrow.Arrow carries the datetime it wraps; asking for it by name keeps arrow unimported here.
        moment: object = now + expire if isinstance(expire, timedelta) else getattr(expire, "datetime", expire)
    except OverflowError as error:
        raise ValueError("the expiration time is beyond the year 9999") from error
    if not isinstance(moment, datetime):
        raise TypeError(f"expire must be a datetime, an arrow.Arrow or a timedelta, not {type(expire).__name__}")
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment <= now:
        raise ValueError("Expiration time is in the past")
    return moment
