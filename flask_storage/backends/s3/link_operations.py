"""Link operations of S3: the links of every backend, upload forms, and signed multipart requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...types import Expiry, LinkArguments, LinkRequest, PresignedUpload, ShareLinkOperation
from ...validation import check_count
from ..base import StorageBackend
from .presign import S3Presigner


class S3LinkOperations(StorageBackend):
    """The link operations of :class:`~flask_storage.S3Storage`."""

    _presigner: S3Presigner

    def create_upload_form(
        self,
        path: str,
        expire: Expiry | None = None,
        *,
        max_size: int,
        min_size: int = 0,
        content_type: str | None = None,
    ) -> PresignedUpload:
        """Return a form with which a browser uploads one file, within limits that the service enforces.

        Only the service accepts forms; the app's link view takes the file itself as the body. For an upload on every
        backend use :meth:`~flask_storage.StorageBackend.upload_request`, also with a ``max_size``.

        Args:
            path: The path in the storage.
            expire: When the signature expires; by default after ``STORAGE_LINK_LIFETIME``.
            max_size: The largest size in bytes.
            min_size: The smallest size in bytes.
            content_type: The exact type, or a prefix that ends in a slash (``"image/"``); the client then adds a
                ``Content-Type`` field. The default is ``application/octet-stream``; the type is never guessed.

        Returns:
            Method ``POST``, the URL, and the fields to send before the field of the file, which is named ``file``.

        Raises:
            ValueError: when a size is not valid.
            UnsupportedOperationError: when the service does not support upload forms, the uploader could choose the
                name (``${filename}`` in the path), or the profile has ``links="app"``.

        Example::

            form = storage.create_upload_form("in/photo.jpg", timedelta(minutes=5), max_size=5_000_000)
        """
        path = self._path(path)
        if "max_size" not in self.capabilities.upload_constraints:
            raise self._unsupported("create an upload form", path, instead="use upload_request(), also with a max_size")
        request = self._link_request(ShareLinkOperation.upload, expire, None, content_type, {"max_size": max_size})
        check_count("min_size", min_size)
        if min_size > max_size:
            raise ValueError(f"min_size ({min_size}) is larger than max_size ({max_size})")
        return self._issue_native(
            "create an upload form", path, request, lambda: self._presigner.form(path, request, min_size)
        )

    def multipart_request(
        self,
        path: str,
        step: Literal["create", "part", "complete", "abort", "list"],
        expire: Expiry | None = None,
        *,
        upload_id: str | None = None,
        number: int | None = None,
        size: int | None = None,
        content_type: str | None = None,
    ) -> PresignedUpload:
        """Return one signed request of a multipart upload that a browser sends itself.

        Args:
            path: The path in the storage.
            step: ``"create"``, ``"part"``, ``"complete"``, ``"abort"`` or ``"list"``.
            expire: When the signature expires; by default after ``STORAGE_LINK_LIFETIME``.
            upload_id: The id of the upload; for every step except ``"create"``.
            number: The number of the part, from 1; only for ``"part"``.
            size: The exact size of the part in bytes; for ``"part"`` only, and required there. With a link without a
                signed length, some services copy another object into the part.
            content_type: The content type of the file; only for ``"create"``.

        Returns:
            Method, URL and headers. The responses are the XML of the service; each part has its ``ETag`` header.

        Raises:
            ValueError: when an argument that the step needs is missing.
            UnsupportedOperationError: when the storage cannot sign links, or the profile has ``links="app"``.

        Example::

            created = storage.multipart_request("film.mp4", "create", timedelta(hours=1), content_type="video/mp4")
        """
        path = self._path(path)
        arguments: LinkArguments = {} if size is None else {"size": size}
        request = self._link_request(ShareLinkOperation.upload, expire, None, content_type, arguments)
        return self._issue_native(
            "sign a multipart request",
            path,
            request,
            lambda: self._presigner.multipart(path, step, request, upload_id, number),
        )

    def _link_to(self, path: str, request: LinkRequest) -> str:
        return self._presigner.url(path, request)

    def _links_to(self, paths: Sequence[str], request: LinkRequest) -> Sequence[str]:
        return self._presigner.urls(paths, request)

    def _upload_request(self, path: str, request: LinkRequest) -> PresignedUpload:
        if request.max_size is None:
            return self._presigner.upload(path, request)
        if request.exclusive or request.size is not None or request.checksum is not None:
            raise self._unsupported("enforce max_size together with size, checksum or exclusive in one form", path)
        return self._presigner.form(path, request)
