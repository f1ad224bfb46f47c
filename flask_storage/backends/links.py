"""The verbs that hand out addresses: public URLs, signed links, instructions for browsers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack
from urllib.parse import quote

from ..errors import IntegrityError, TooLargeError
from ..files import parse_checksum
from ..paths import is_one_line
from ..signals import file_deleted, link_issued
from ..tokens import InternalLinkTokenData
from ..types import (
    LINK_CONSTRAINTS,
    Expiry,
    FileInfo,
    LinkArguments,
    LinkRequest,
    PresignedUpload,
    ShareLinkOperation,
    to_utc,
)
from ..validation import check_count, check_network
from .driver import StorageDriver


class LinkOperations(StorageDriver):
    """Every way to let somebody else reach a file; written once, on top of the hooks."""

    def url(self, path: str) -> str:
        """Return the public, permanent URL of a file. Whether it exists is not asked.

        Raises:
            UnsupportedOperationError: when neither the profile nor the place has a public address.
        """
        path = self._path(path)
        if self.base_url is not None:
            return f"{self.base_url.rstrip('/')}/{quote(path)}"
        url = self._url(path)
        if url is None:
            raise self._unsupported(
                "give a public URL", path, instead="set base_url for the profile, or use link_to() for a signed link"
            )
        return url

    def link_to(
        self,
        path: str,
        operation: ShareLinkOperation | str,
        expire: Expiry,
        output_path: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> str:
        """Return a signed URL that lets its holder download, upload or remove one file for a while.

        Args:
            path: The path in the storage; whether it exists is not asked.
            operation: ``"download"``, ``"upload"``, ``"remove"``, or letters together (``"du"``) where the storage can.
            expire: Until when: a moment (naive means UTC) or a :class:`~datetime.timedelta` from now.
            output_path: The name that a browser saves a download under.
            content_type: Download: the type to answer with. Upload: the type to store.
            **arguments: See :class:`~flask_storage.types.LinkRequest`.

        Raises:
            ValueError: when *expire* is past, or *operation* is none.
            UnsupportedOperationError: when the storage cannot make such a link.
            ConfigurationError: when it could, but misses a key or an address; the text says which.
        """
        path = self._path(path)
        return self._create_link(path, self._link_request(operation, expire, output_path, content_type, arguments))

    def links_to(
        self,
        paths: Iterable[str],
        operation: ShareLinkOperation | str,
        expire: Expiry,
        *,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> list[str]:
        """Return one link for each path, in their order; arguments as for :meth:`link_to`, all expiring together."""
        paths = [self._path(path) for path in reject_single_path(paths)]
        request = self._link_request(operation, expire, None, content_type, arguments)
        with self._error_translator():
            urls = self._links_to(paths, request)
        for path in paths:
            self._notify_link_issued(path, request)
        return list(urls)

    def verify_link(self, token: str) -> InternalLinkTokenData:
        """Return what a token grants that a link of this storage carries; its path is normalized.

        Raises:
            ExpiredLinkError: when it was good and is past its time.
            InvalidLinkError: when it is not one of ours, or was changed.
            InvalidPathError: when it names what is no path (a token signed by hand).
            UnsupportedOperationError: when the place signs and verifies its links itself.
            ConfigurationError: when the storage has no secret.
        """
        data = self._verify_link(token)
        path = self._path(data.path)
        return data if path == data.path else data._replace(path=path)

    def upload_request(
        self, path: str, expire: Expiry, *, content_type: str | None = None, **arguments: Unpack[LinkArguments]
    ) -> PresignedUpload:
        """Return what a browser needs to upload this one file: method, URL, headers, form fields.

        Arguments and errors are those of :meth:`link_to`.
        """
        path = self._path(path)
        request = self._link_request(ShareLinkOperation.upload, expire, None, content_type, arguments, for_upload=True)
        with self._error_translator(path):
            instruction = self._upload_request(path, request)
        self._notify_link_issued(path, request)
        return instruction

    def confirm_upload(
        self,
        path: str,
        *,
        size: int | None = None,
        max_size: int | None = None,
        content_type: str | None = None,
        checksum: str | None = None,
    ) -> FileInfo:
        """Look at what a client has uploaded by a link, and delete what is not what was asked for.

        Not every place can bind everything in a link; here is where the app believes nothing but what is stored.

        Args:
            path: The path in the storage, as the app knows it; never as a client says it.
            size: The exact number of bytes.
            max_size: The largest number of bytes.
            content_type: Exactly this type, or a beginning that ends in a slash (``"image/"``).
            checksum: ``"sha256:<hex>"`` of the content, which is read for it unless the place keeps this digest.

        Raises:
            FileNotFoundInStorageError: when nothing has arrived.
            TooLargeError, IntegrityError: what has arrived is something else, and is deleted.
            ValueError: when an expectation makes no sense; nothing was looked at.
        """
        path = self._path(path)
        _check_expected_arguments(size, max_size, content_type)
        with self._error_translator(path):
            info, digest = self._stat_and_digest(path, checksum)
            try:
                _check_size(info, size, max_size)
                _check_type(info, content_type)
                if checksum is not None and digest != checksum.partition(":")[2].lower():
                    raise IntegrityError("another content was uploaded than was promised; it was deleted")
            except (TooLargeError, IntegrityError):
                self._delete(path)
                file_deleted.send(self, path=path)
                raise
        return info

    # -- inner ------------------------------------------------------------------------------------------------------

    def _stat_and_digest(self, path: str, checksum: str | None) -> tuple[FileInfo, str | None]:
        """Return what is known of a file, and the digest that *checksum* asks for, both of the same version."""
        if checksum is None:
            return self._stat(path), None
        computed, _ = parse_checksum(checksum)
        info = self._stat(path)
        digest = info.checksums.get(checksum.partition(":")[0])
        if digest is None:
            with self._reader(path) as reader:
                info = reader.info or info
                for chunk in reader.iter_chunks():
                    computed.update(chunk)
            digest = computed.hexdigest()
        return info, digest

    def _link_request(
        self,
        operation: ShareLinkOperation | str,
        expire: Expiry,
        filename: str | None,
        content_type: str | None,
        arguments: LinkArguments,
        *,
        for_upload: bool = False,
    ) -> LinkRequest:
        """Build a request for links and refuse what this storage cannot sign, or nobody could honour."""
        request = LinkRequest(
            operations=ShareLinkOperation.as_operation(operation),
            expires_at=to_utc(expire),
            filename=filename,
            content_type=content_type,
            **arguments,
        )
        able = self.capabilities
        beyond = request.operations.value & ~able.links.value
        if beyond:
            raise self._unsupported(f"sign a link for {ShareLinkOperation(beyond)!r}")
        if len(str(request.operations)) > 1 and not able.link_combinations:
            raise self._unsupported("sign several operations in one link", instead="make one link for each")
        if arguments or filename is not None or content_type is not None:  # most links have no terms to look at
            self._check_constraints(request, able.upload_constraints if for_upload else able.link_constraints)
        return request

    def _check_constraints(self, request: LinkRequest, able: frozenset[str]) -> None:
        terms = {term for term in LINK_CONSTRAINTS if getattr(request, term) not in (None, False)}
        if beyond := terms - able:
            raise self._unsupported(f"bind {', '.join(sorted(beyond))} in a link")
        headers = request.content_type or request.content_encoding or request.cache_control
        if headers and request.operations & ShareLinkOperation.upload and not self.capabilities.content_headers:
            raise self._unsupported("keep a content type or another header with what a link uploads")
        _check_values(request)

    def _notify_link_issued(self, path: str, request: LinkRequest) -> None:
        """Tell whoever listens that something was signed; where nobody does, ten thousand links cost nothing by it."""
        if link_issued.receivers:
            link_issued.send(self, path=path, request=request)

    def _create_link(self, path: str, request: LinkRequest) -> str:
        with self._error_translator(path):
            url = self._link_to(path, request)
        self._notify_link_issued(path, request)
        return url


def reject_single_path(paths: Iterable[str]) -> Iterable[str]:
    """Return *paths*, unless that is one path: each of its letters would be taken for another."""
    if isinstance(paths, str):
        raise TypeError("give several paths, as a list; for one there is a verb of its own")
    return paths


def _check_expected_arguments(size: int | None, max_size: int | None, content_type: str | None) -> None:
    """Raise when the caller's own words make no sense: nothing may be deleted for that."""
    for name, value in (("size", size), ("max_size", max_size)):
        if value is not None:
            check_count(name, value)
    if content_type is not None and not (content_type and is_one_line(content_type)):
        raise ValueError("content_type is one line of text, and not empty")


def _check_size(info: FileInfo, size: int | None, max_size: int | None) -> None:
    if max_size is not None and info.size > max_size:
        raise TooLargeError(f"{info.size} bytes were uploaded where {max_size} are allowed; they were deleted")
    if size is not None and info.size != size:
        raise IntegrityError(f"{info.size} bytes were uploaded where {size} were promised; they were deleted")


def _check_type(info: FileInfo, content_type: str | None) -> None:
    if content_type is None:
        return
    found = info.content_type or ""
    if not (found.startswith(content_type) if content_type.endswith("/") else found == content_type):
        raise IntegrityError(f"a file of type {found!r} was uploaded where {content_type!r} was asked; it was deleted")


def _check_values(request: LinkRequest) -> None:
    """Raise when a term is not what it must be: a link that nobody could honour is not signed."""
    for term in ("filename", "content_type", "content_encoding", "cache_control"):
        value = getattr(request, term)
        if value is not None and not is_one_line(value):
            raise ValueError(f"the {term} of a link must be one line of text")
    if request.disposition not in (None, "inline", "attachment"):
        raise ValueError(f"disposition must be 'inline' or 'attachment', not {request.disposition!r}")
    _check_limits(request)
    if request.ip is not None:
        check_network(request.ip)


def _check_limits(request: LinkRequest) -> None:
    for term, least in (("size", 0), ("max_size", 0), ("uses", 1)):
        value = getattr(request, term)
        if value is not None:
            check_count(f"the {term} of a link", value, least)
    if type(request.exclusive) is not bool:
        raise ValueError(f"exclusive is True or False, not {request.exclusive!r}")
    if request.checksum is not None:
        parse_checksum(request.checksum)
    if not request.operations & ShareLinkOperation.upload:
        for term in ("size", "max_size", "checksum", "exclusive"):
            if getattr(request, term) not in (None, False):
                raise ValueError(f"{term} is for links that upload")
