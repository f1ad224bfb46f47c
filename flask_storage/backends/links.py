"""The operations that create URLs: public URLs, signed links, presigned uploads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Unpack
from urllib.parse import quote

from ..content_types import guess_content_type, is_implied_by_name
from ..errors import IntegrityError, TooLargeError
from ..files import parse_checksum
from ..paths import is_one_line
from ..signals import file_deleted, file_stored, link_issued
from ..tokens import InternalLinkTokenData
from ..types import (
    LINK_CONSTRAINTS,
    Expiry,
    FileInfo,
    LinkArguments,
    LinkContext,
    LinkRequest,
    PresignedUpload,
    ShareLinkOperation,
    WriteOptions,
    to_utc,
)
from ..validation import check_count, check_network
from .driver import StorageDriver


class LinkOperations(StorageDriver):
    """The operations that give a client access to a file, on top of the driver methods."""

    link_context: LinkContext | None = None

    def url(self, path: str) -> str:
        """Return the public, permanent URL of a file. Whether the file exists is not checked.

        For a profile that the app serves, it is a path on the app's host, below the prefix where the app is mounted; an
        absolute URL with ``STORAGE_EXTERNAL_URL``.

        Raises:
            UnsupportedOperationError: when neither the profile nor the service has a public address.
        """
        path = self._path(path)
        if self.base_url is not None:
            context = self.link_context
            root = context.public_root() if context is not None and context.public_root is not None else ""
            return f"{root}{self.base_url.rstrip('/')}/{quote(path)}"
        url = self._url(path)
        if url is None:
            raise self._unsupported(
                "return a public URL", path, instead="set base_url for the profile, or use link_to() for a signed link"
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
        """Return a signed URL with which a client can download, upload or remove one file until it expires.

        Args:
            path: The path in the storage; whether the file exists is not checked.
            operation: ``"download"``, ``"upload"``, ``"remove"``, or several letters (``"du"``) if the storage
                supports ``link_combinations``.
            expire: When the link expires: a datetime (naive means UTC) or a :class:`~datetime.timedelta` from now.
            output_path: The file name under which a browser saves a download.
            content_type: Download: the content type of the response. Upload: the content type to store.
            **arguments: See :class:`~flask_storage.types.LinkRequest`.

        Raises:
            ValueError: when *expire* is in the past, or *operation* is invalid.
            UnsupportedOperationError: when the storage cannot create such a link.
            ConfigurationError: when a secret key or an external address is missing; the message says which.
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
        """Return one link for each path, in order; arguments as for :meth:`link_to`. All links expire together."""
        paths = [self._path(path) for path in reject_single_path(paths)]
        request = self._link_request(operation, expire, None, content_type, arguments)
        for path in paths:
            self._check_upload_headers(path, request)
        with self._error_translator():
            urls = self._links_to(paths, request)
        for path in paths:
            self._notify_link_issued(path, request)
        return list(urls)

    def verify_link(self, token: str) -> InternalLinkTokenData:
        """Verify the token of a link of this storage and return its data; the path is normalized.

        Raises:
            ExpiredLinkError: when the token is valid but has expired.
            InvalidLinkError: when this storage did not sign the token, or it was changed.
            InvalidPathError: when its path is invalid (a token signed by hand).
            UnsupportedOperationError: when the service signs and verifies the links itself.
            ConfigurationError: when the storage has no secret key.
        """
        data = self._verify_link(token)
        path = self._path(data.path)
        return data if path == data.path else data._replace(path=path)

    def upload_request(
        self, path: str, expire: Expiry, *, content_type: str | None = None, **arguments: Unpack[LinkArguments]
    ) -> PresignedUpload:
        """Return the request with which a browser uploads this one file: method, URL, headers, form fields.

        Arguments and errors are those of :meth:`link_to`.
        """
        path = self._path(path)
        request = self._link_request(ShareLinkOperation.upload, expire, None, content_type, arguments, for_upload=True)
        self._check_upload_headers(path, request)
        with self._error_translator(path):
            upload = self._upload_request(path, request)
        self._notify_link_issued(path, request)
        return upload

    def confirm_upload(
        self,
        path: str,
        *,
        size: int | None = None,
        max_size: int | None = None,
        content_type: str | None = None,
        checksum: str | None = None,
        move_to: str | None = None,
    ) -> FileInfo:
        """Check a file that a client has uploaded by a link, and delete it if it is not as expected.

        Not every service can enforce every constraint of a link. This method checks the stored file itself. Until the
        link expires, its holder can upload another file after the check, so pass *move_to*, unless the link was
        ``exclusive`` or could be used only once: the file is moved first, and checked where no link can replace it.

        Args:
            path: The path in the storage, from the app's own data and never from the client.
            size: The exact number of bytes.
            max_size: The largest number of bytes.
            content_type: The exact type, or a prefix that ends in a slash (``"image/"``). On a storage that keeps no
                content types, it is compared with the type that the extension implies.
            checksum: ``"sha256:<hex>"`` of the content, which is read unless the service stores this digest.
            move_to: A new path for the file, to which no link was issued. After an error other than the following, the
                file may have been moved: confirm it there.

        Returns:
            The information about the file, at *move_to* if that was given.

        Raises:
            FileNotFoundInStorageError: when the file does not exist.
            FileExistsInStorageError: when there is a file at *move_to* and the storage supports ``copy_conditions``;
                otherwise it is replaced.
            TooLargeError: when the file is larger than *max_size*; it is deleted.
            IntegrityError: when size, type or checksum differ; the file is deleted.
            ValueError: when an argument is invalid; the file is not checked.
        """
        path = self._path(path)
        _check_expected_arguments(size, max_size, content_type)
        if move_to is not None:
            path = self._move_upload(path, move_to, checksum, size=size, max_size=max_size, content_type=content_type)
        with self._error_translator(path):
            with self._deleting_refused(path):
                self._check_uploaded(path)
            info, digest = self._stat_and_digest(path, checksum)
            with self._deleting_refused(path):
                _check_size(info, size, max_size)
                self._check_type(info, content_type)
                if checksum is not None and digest != checksum.partition(":")[2].lower():
                    raise IntegrityError("the uploaded content does not have the expected checksum; it was deleted")
        if move_to is not None:
            file_stored.send(self, path=path)
        return info

    # -- inner ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _deleting_refused(self, path: str) -> Iterator[None]:
        """Delete an upload that a check in the block refuses."""
        try:
            yield
        except (TooLargeError, IntegrityError):
            self._delete(path)
            file_deleted.send(self, path=path)
            raise

    def _move_upload(self, path: str, move_to: str, checksum: str | None, **expected: Any) -> str:
        """Move an upload to a path that no link can write; return that path, where it is still to be checked."""
        new_path = self._path(move_to)
        if new_path == path:
            raise ValueError("move_to must be another path than that of the upload, which its link can write")
        if checksum is not None:
            parse_checksum(checksum)
        # What would be deleted anyway is not moved: it may be far larger than expected.
        self.confirm_upload(path, **expected)
        capabilities = self.capabilities
        with self._error_translator(path):
            self._move(path, new_path, WriteOptions(exclusive=capabilities.exclusive and capabilities.copy_conditions))
        file_deleted.send(self, path=path)
        return new_path

    def _stat_and_digest(self, path: str, checksum: str | None) -> tuple[FileInfo, str | None]:
        """Return the info of a file and its digest by the algorithm of *checksum*, both of the same version."""
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

    def _check_type(self, info: FileInfo, content_type: str | None) -> None:
        """Raise if the file has another type than the expected one. Where none can be stored, it has that of its name.

        A type that was dropped because of :attr:`unsupported_headers` cannot be checked, unless the name says another.
        """
        if content_type is None:
            return
        stored = info.content_type or ""
        if not (stored or self.capabilities.content_headers):
            stored = guess_content_type(info.path) or ""
            essence = content_type.partition(";")[0]  # parameters may have been dropped
            if is_implied_by_name(essence, info.path) or (self._drops_headers and not stored):
                return
        if not (stored.startswith(content_type) if content_type.endswith("/") else stored == content_type):
            raise IntegrityError(
                f"a file of type {stored!r} was uploaded where {content_type!r} was expected; it was deleted"
            )

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
        """Return a checked link request; raise if it is invalid or this storage does not support it."""
        request = LinkRequest(
            operations=ShareLinkOperation.as_operation(operation),
            expires_at=to_utc(expire),
            filename=filename,
            content_type=content_type,
            **arguments,
        )
        capabilities = self.capabilities
        unsupported = request.operations.value & ~capabilities.links.value
        if unsupported:
            raise self._unsupported(f"sign a link for {ShareLinkOperation(unsupported)!r}")
        if len(str(request.operations)) > 1 and not capabilities.link_combinations:
            raise self._unsupported("sign several operations in one link", instead="make one link for each")
        if arguments or filename is not None or content_type is not None:  # most links have no constraints to check
            supported = capabilities.upload_constraints if for_upload else capabilities.link_constraints
            self._check_constraints(request, supported)
        return request

    def _check_constraints(self, request: LinkRequest, supported: frozenset[str]) -> None:
        constraints = {name for name in LINK_CONSTRAINTS if _is_set(getattr(request, name))}
        if unsupported := constraints - supported:
            names = ", ".join(sorted(unsupported))
            raise self._unsupported(
                f"enforce {names} in a link",
                instead="leave it out, or use a profile that declares it in link_constraints",
            )
        _check_values(request)

    def _check_upload_headers(self, path: str, request: LinkRequest) -> None:
        """Raise if an upload by this link could not store its headers: the holder of the link could not help it."""
        if not self.capabilities.content_headers and request.operations & ShareLinkOperation.upload:
            self._unsupported_headers(path, {name: getattr(request, name) for name in _UPLOAD_HEADERS})

    def _notify_link_issued(self, path: str, request: LinkRequest) -> None:
        """Send the signal, if it has receivers; without the check, signing ten thousand links is measurably slower."""
        if link_issued.receivers:
            link_issued.send(self, path=path, request=request)

    def _create_link(self, path: str, request: LinkRequest) -> str:
        self._check_upload_headers(path, request)
        with self._error_translator(path):
            url = self._link_to(path, request)
        self._notify_link_issued(path, request)
        return url


_UPLOAD_HEADERS = ("content_type", "content_encoding", "cache_control")


def reject_single_path(paths: Iterable[str]) -> Iterable[str]:
    """Return *paths*, or raise if it is a single string, whose characters would each be treated as a path."""
    if isinstance(paths, str):
        raise TypeError("paths must be a list of paths, not a single string: use delete() or link_to() for one path")
    return paths


def _check_expected_arguments(size: int | None, max_size: int | None, content_type: str | None) -> None:
    """Raise if an argument is invalid: a mistake of the app must not delete the file."""
    for name, value in (("size", size), ("max_size", max_size)):
        if value is not None:
            check_count(name, value)
    if content_type is not None and not (content_type and is_one_line(content_type)):
        raise ValueError("content_type must be one line of text, and not empty")


def _check_size(info: FileInfo, size: int | None, max_size: int | None) -> None:
    if max_size is not None and info.size > max_size:
        raise TooLargeError(f"{info.size} bytes were uploaded where {max_size} are allowed; they were deleted")
    if size is not None and info.size != size:
        raise IntegrityError(f"{info.size} bytes were uploaded where {size} were expected; they were deleted")


def _check_values(request: LinkRequest) -> None:
    """Raise if an attribute is invalid: a link that could never be used is not signed."""
    for name in ("filename", "content_type", "content_encoding", "cache_control"):
        value = getattr(request, name)
        if value is not None and not is_one_line(value):
            raise ValueError(f"the {name} of a link must be one line of text")
    if request.disposition not in (None, "inline", "attachment"):
        raise ValueError(f"disposition must be 'inline' or 'attachment', not {request.disposition!r}")
    _check_limits(request)
    if request.ip is not None:
        check_network(request.ip)


def _is_set(value: object) -> bool:
    """Whether a constraint was given. The size 0 is one, although it equals False."""
    return value is not None and value is not False


def _check_limits(request: LinkRequest) -> None:
    for name, least in (("size", 0), ("max_size", 0), ("uses", 1)):
        value = getattr(request, name)
        if value is not None:
            check_count(f"the {name} of a link", value, least)
    if type(request.exclusive) is not bool:
        raise ValueError(f"exclusive must be True or False, not {request.exclusive!r}")
    if request.checksum is not None:
        parse_checksum(request.checksum)
    if not request.operations & ShareLinkOperation.upload:
        for name in ("size", "max_size", "checksum", "exclusive"):
            if _is_set(getattr(request, name)):
                raise ValueError(f"{name} is only for links that upload")
