"""The operations that create URLs: public URLs, signed links, presigned uploads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar, Unpack, get_args
from urllib.parse import quote

from ..content_types import DEFAULT_CONTENT_TYPE, guess_content_type, is_implied_by_name
from ..errors import ConfigurationError, IntegrityError, NoSignerError, TooLargeError, UnsupportedOperationError
from ..files import parse_checksum
from ..paths import is_one_line
from ..signals import file_deleted, file_stored, link_issued
from ..types import (
    LINK_CONSTRAINTS,
    Expiry,
    FileInfo,
    FormArguments,
    LinkArguments,
    LinkMode,
    LinkRequest,
    PresignedUpload,
    ShareLinkOperation,
    WriteOptions,
)
from ..validation import check_count, check_names, check_redirect
from .app_links import AppLinkOperations, is_set
from .driver import StorageDriver

T = TypeVar("T")

_REDIRECT_LIFETIME = timedelta(seconds=59)  # under a minute also where a service signs whole seconds, rounded up
_CONSTRAINTS = tuple(sorted(LINK_CONSTRAINTS))
_get_constraints = attrgetter(*_CONSTRAINTS)
_NO_CONSTRAINTS = _get_constraints(
    LinkRequest(operations=ShareLinkOperation.download, expires_at=datetime.max.replace(tzinfo=UTC))
)


class LinkOperations(AppLinkOperations):
    """The operations that give a client access to a file, on top of the driver methods.

    A link is the service's own where the service signs links and enforces every constraint, and otherwise one of the
    app. The option ``links`` of a profile restricts it to one kind.
    """

    _link_mode: LinkMode = "auto"

    @property
    def links(self) -> LinkMode:
        """Which links this storage issues; an option of a profile, which can be set on a storage.

        ``"auto"``, the default: the service's links where it enforces what was asked, and otherwise links of the app.
        ``"native"``: never a link of the app, if the service signs links. ``"app"``: always a link of the app.

        Raises:
            ConfigurationError: when it is set to anything else.
        """
        return self._link_mode

    @links.setter
    def links(self, value: LinkMode) -> None:
        if value not in get_args(LinkMode):
            raise ConfigurationError(
                f"links of {self.name!r} must be 'auto', 'native' or 'app': see 'Which links a profile issues' in the "
                "documentation"
            )
        self._link_mode = value

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
        expire: Expiry | None = None,
        output_path: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> str:
        """Return a signed URL with which a client can download, upload or remove one file until it expires.

        Args:
            path: The path in the storage; whether the file exists is not checked.
            operation: ``"download"``, ``"upload"``, ``"remove"``, or several letters (``"du"``).
            expire: When the link expires: a datetime (naive means UTC) or a :class:`~datetime.timedelta` from now. By
                default after ``STORAGE_LINK_LIFETIME``, which is one hour unless it is set.
            output_path: The file name under which a browser saves a download.
            content_type: Download: the content type of the response. Upload: the content type to store.
            **arguments: See :class:`~flask_storage.types.LinkRequest`.

        Raises:
            ValueError: when *expire* is in the past, or another argument is invalid.
            UnsupportedOperationError: when neither the service nor the app can issue such a link; the message says why.
            ConfigurationError: when a secret key or an external address is missing; the message says which.
        """
        path = self._path(path)
        request = self._link_request(operation, expire, output_path, content_type, arguments)
        return self._issue(
            [path],
            request,
            self.capabilities.link_constraints,
            lambda: self._link_to(path, request),
            lambda refused: self._app_links([path], request, refused)[0],
        )

    def links_to(
        self,
        paths: Iterable[str],
        operation: ShareLinkOperation | str,
        expire: Expiry | None = None,
        *,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> list[str]:
        """Return one link for each path, in order; arguments as for :meth:`link_to`. All links expire together."""
        normalized = [self._path(path) for path in reject_single_path(paths)]
        request = self._link_request(operation, expire, None, content_type, arguments)
        return self._issue(
            normalized,
            request,
            self.capabilities.link_constraints,
            lambda: list(self._links_to(normalized, request)),
            lambda refused: self._app_links(normalized, request, refused),
        )

    def upload_request(
        self,
        path: str,
        expire: Expiry | None = None,
        *,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> PresignedUpload:
        """Return the request with which a browser uploads this one file: method, URL, headers, form fields.

        Arguments and errors are those of :meth:`link_to`. As a link of the app, it is a ``PUT`` of the file.
        """
        path = self._path(path)
        request = self._link_request(ShareLinkOperation.upload, expire, None, content_type, arguments)
        return self._issue(
            [path],
            request,
            self.capabilities.upload_constraints,
            lambda: self._upload_request(path, request),
            lambda refused: self._app_upload_request(path, request, refused),
        )

    def create_upload_form(
        self,
        path: str,
        expire: Expiry | None = None,
        *,
        max_size: int,
        min_size: int = 0,
        content_type: str | None = None,
        redirect_to: str | None = None,
        **arguments: Unpack[FormArguments],
    ) -> PresignedUpload:
        """Return an HTML form with which a browser uploads this one file, also without JavaScript.

        The form sends the returned fields, unchanged and no others, and then the file in a field named ``file``. It is
        a form of the service where that accepts forms and enforces every constraint, and otherwise one of the app. Both
        respond with 204, or redirect to *redirect_to*.

        Args:
            path: The path in the storage.
            expire: When the form expires; by default after ``STORAGE_LINK_LIFETIME``.
            max_size: The largest size in bytes.
            min_size: The smallest size in bytes.
            content_type: The exact type, or a prefix that ends in a slash (``"image/"``); the client then adds a
                ``Content-Type`` field. By default the file is stored as by an upload link without a type.
            redirect_to: The absolute URL of the page that the browser shows after the upload. S3 appends ``bucket``,
                ``key`` and ``etag`` to its query. Without it, the browser stays on the page of the form.
            **arguments: See :class:`~flask_storage.types.LinkRequest`.

        Returns:
            Method ``POST``, the URL, and the fields to send before the field of the file.

        Raises:
            ValueError: when an argument is not valid.
            UnsupportedOperationError: when neither the service nor the app can issue such a form; the message says why.
            ConfigurationError: when a secret key or an external address is missing; the message says which.

        Example::

            form = storage.create_upload_form("in/photo.jpg", timedelta(minutes=5), max_size=5_000_000)
        """
        path = self._path(path)
        check_names("an upload form", arguments, FormArguments.__annotations__)
        request = self._link_request(ShareLinkOperation.upload, expire, None, content_type, arguments)
        check_count("max_size", max_size)
        check_count("min_size", min_size)
        if min_size > max_size:
            raise ValueError(f"min_size ({min_size}) is larger than max_size ({max_size})")
        if redirect_to is not None:
            check_redirect(redirect_to)
        request = replace(request, form=True, max_size=max_size, min_size=min_size or None, redirect_to=redirect_to)
        return self._issue(
            [path],
            request,
            self.capabilities.upload_constraints,
            lambda: self._upload_form(path, request),
            lambda refused: self._app_upload_form(path, request, refused),
        )

    def short_link(self, path: str, request: LinkRequest) -> str | None:
        """Return a download link of the service that expires within a minute, for a link of the app that permits it.

        The link view redirects to it. The link has the file name, type, disposition and caching of *request*, and its
        network where the service can enforce one. It is None when the view must send the file itself, because the link
        has a limited number of uses, the service cannot sign such a link, or ``links="app"`` keeps the address of the
        service private.
        """
        constraints = self.capabilities.link_constraints
        if request.uses is not None or not self._signs_links() or self._link_mode == "app":
            return None
        request = replace(
            request,
            operations=ShareLinkOperation.download,
            expires_at=min(datetime.now(UTC) + _REDIRECT_LIFETIME, request.expires_at),
            size=None,
            max_size=None,
            checksum=None,
            exclusive=False,
            ip=request.ip if "ip" in constraints else None,
        )
        path = self._path(path)
        try:
            with self._error_translator(path):
                self._check_native(request, constraints)
                return self._link_to(path, request)
        except (UnsupportedOperationError, NoSignerError):
            return None

    def confirm_upload(
        self,
        path: str,
        *,
        size: int | None = None,
        max_size: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        cache_control: str | None = None,
        checksum: str | None = None,
        move_to: str | None = None,
    ) -> FileInfo:
        """Check a file that a client has uploaded by a link, and delete it if it is not as expected.

        Pass what was passed to :meth:`upload_request`; ``exclusive``, ``uses`` and ``ip`` cannot be seen in a stored
        file. Not every service can enforce every constraint of a link. This method checks the stored file itself. Until
        the link expires, its holder can upload another file after the check, so pass *move_to*, unless the link was
        ``exclusive`` or could be used only once: the file is moved first, and checked where no link can replace it.

        Args:
            path: The path in the storage, from the app's own data and never from the client.
            size: The exact number of bytes.
            max_size: The largest number of bytes.
            content_type: The exact type, or a prefix that ends in a slash (``"image/"``). On a storage that keeps no
                types, the type that the name says is compared.
            content_encoding: The exact header; not checked on a storage that keeps no headers.
            cache_control: Likewise.
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
            IntegrityError: when size, type, another header or checksum differ; the file is deleted.
            ValueError: when an argument is invalid; the file is not checked.
        """
        path = self._path(path)
        headers = {"content_type": content_type, "content_encoding": content_encoding, "cache_control": cache_control}
        _check_expected_arguments(size, max_size, headers)
        if move_to is not None:
            path = self._move_upload(path, move_to, checksum, size=size, max_size=max_size, **headers)
        with self._error_translator(path):
            with self._deleting_refused(path):
                self._check_uploaded(path)
            info, digest = self._stat_and_digest(path, checksum)
            with self._deleting_refused(path):
                _check_size(info, size, max_size)
                self._check_headers(info, headers)
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

    def _check_headers(self, info: FileInfo, expected: Mapping[str, str | None]) -> None:
        """Raise if a stored header is not the expected one.

        A type that was dropped because of :attr:`unsupported_headers` cannot be checked, unless the name says another.
        """
        stored: dict[str, str | None] = {name: getattr(info, name) for name in expected}
        if not self.capabilities.content_headers:  # the file is served with the type of its name
            content_type, implied = expected["content_type"], guess_content_type(info.path)
            essence = (content_type or "").partition(";")[0]  # parameters may have been dropped
            if not essence or is_implied_by_name(essence, info.path) or (self._drops_headers and not implied):
                return
            stored, expected = {"content_type": implied}, {"content_type": content_type}
        for name, value in expected.items():
            found = stored[name] or ""
            is_prefix = name == "content_type" and (value or "").endswith("/")
            if value is not None and not (found.startswith(value) if is_prefix else found == value):
                raise IntegrityError(
                    f"a file with {name} {found!r} was uploaded where {value!r} was expected; it was deleted"
                )

    def _issue(
        self,
        paths: Sequence[str],
        request: LinkRequest,
        constraints: frozenset[str],
        native: Callable[[], T],
        app: Callable[[UnsupportedOperationError | NoSignerError | None], T],
    ) -> T:
        """Return what *native* returns, or *app* where the service cannot issue *request*; send the signals.

        The driver is asked even if the capabilities permit *request*, as some services refuse a combination of
        constraints, or one of their values.
        """
        is_prefix = (request.content_type or "").endswith("/")
        if is_prefix and request.operations & ShareLinkOperation.upload and not request.form:
            raise ValueError(
                "an upload link stores one exact content type, not a prefix of one: pass that to confirm_upload()"
            )
        with self._error_translator(paths[0] if len(paths) == 1 else None):
            issued = self._native_or_app(paths, request, constraints, native, app)
        if link_issued.receivers:  # without this check, signing ten thousand links is measurably slower
            for path in paths:
                link_issued.send(self, path=path, request=request)
        return issued

    def _native_or_app(
        self,
        paths: Sequence[str],
        request: LinkRequest,
        constraints: frozenset[str],
        native: Callable[[], T],
        app: Callable[[UnsupportedOperationError | NoSignerError | None], T],
    ) -> T:
        mode = self._link_mode
        if mode == "app" or not self._signs_links():
            return app(None)
        try:
            self._check_native(request, constraints)
            return native()
        except (UnsupportedOperationError, NoSignerError) as error:
            refused = error
        if mode == "native":
            for path in paths:  # an app link may be no way out
                self._check_app_link(path, request)
            raise self._no_app_link(refused, "the profile has links='native'") from refused
        return app(refused)

    def _issue_native(self, what: str, path: str, request: LinkRequest, native: Callable[[], T]) -> T:
        """Return what *native* returns: *what* only the service can issue, so ``links="app"`` rules it out."""
        if self._link_mode == "app":
            raise self._unsupported(what, path, instead="the profile has links='app'; use upload_request()")
        with self._error_translator(path):
            self._check_native(request, self.capabilities.upload_constraints)
            issued = native()
        link_issued.send(self, path=path, request=request)
        return issued

    def _signs_links(self) -> bool:
        """Whether the service of this backend signs links at all; whether this storage can is in its capabilities."""
        return type(self)._link_to is not StorageDriver._link_to

    def _check_native(self, request: LinkRequest, constraints: frozenset[str]) -> None:
        """Raise if the service cannot sign *request*; *constraints* are those that it enforces."""
        capabilities = self.capabilities
        if missing := request.operations.value & ~capabilities.links.value:
            raise self._unsupported(f"sign a link for {ShareLinkOperation(missing)!r}")
        if len(str(request.operations)) > 1 and not capabilities.link_combinations:
            raise self._unsupported("sign several operations in one link")
        if _get_constraints(request) != _NO_CONSTRAINTS:  # most links have none
            given = {name for name in LINK_CONSTRAINTS if is_set(getattr(request, name))}
            if missing_names := given - constraints:
                raise self._unsupported(f"enforce {', '.join(sorted(missing_names))} in a link")
        headers = request.content_type or request.content_encoding or request.cache_control
        if headers and request.operations & ShareLinkOperation.upload and not capabilities.content_headers:
            raise self._unsupported("store a content type or another header of an upload by link")

    def _app_upload_request(
        self, path: str, request: LinkRequest, refused: UnsupportedOperationError | NoSignerError | None
    ) -> PresignedUpload:
        """Return the request that uploads the file through the link view; arguments as for :meth:`_app_links`."""
        [url] = self._app_links([path], request, refused)
        headers = {"Content-Type": request.content_type or DEFAULT_CONTENT_TYPE}
        return PresignedUpload(method="PUT", url=url, headers=headers, expires_at=request.expires_at)

    def _app_upload_form(
        self, path: str, request: LinkRequest, refused: UnsupportedOperationError | NoSignerError | None
    ) -> PresignedUpload:
        """Return the form that uploads the file through the link view; arguments as for :meth:`_app_links`."""
        [url] = self._app_links([path], request, refused)
        content_type = request.content_type or DEFAULT_CONTENT_TYPE
        fields = {} if content_type.endswith("/") else {"Content-Type": content_type}
        return PresignedUpload(method="POST", url=url, fields=fields, expires_at=request.expires_at)


def reject_single_path(paths: Iterable[str]) -> Iterable[str]:
    """Return *paths*, or raise if it is a single string, whose characters would each be treated as a path."""
    if isinstance(paths, str):
        raise TypeError("paths must be a list of paths, not a single string: use delete() or link_to() for one path")
    return paths


def _check_expected_arguments(size: int | None, max_size: int | None, headers: Mapping[str, str | None]) -> None:
    """Raise if an argument is invalid: a mistake of the app must not delete the file."""
    for name, value in (("size", size), ("max_size", max_size)):
        if value is not None:
            check_count(name, value)
    for name, text in headers.items():
        if text is not None and not (text and is_one_line(text)):
            raise ValueError(f"{name} must be one line of text, and not empty")


def _check_size(info: FileInfo, size: int | None, max_size: int | None) -> None:
    if max_size is not None and info.size > max_size:
        raise TooLargeError(f"{info.size} bytes were uploaded where {max_size} are allowed; they were deleted")
    if size is not None and info.size != size:
        raise IntegrityError(f"{info.size} bytes were uploaded where {size} were expected; they were deleted")
