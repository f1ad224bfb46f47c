"""Link operations of S3: the links and forms of every backend, and signed multipart requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...types import Expiry, LinkArguments, LinkRequest, PresignedUpload, ShareLinkOperation
from ..base import StorageBackend
from .presign import S3Presigner


class S3LinkOperations(StorageBackend):
    """The link operations of :class:`~flask_storage.S3Storage`."""

    _presigner: S3Presigner

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
        return self._upload_form(path, request)

    def _upload_form(self, path: str, request: LinkRequest) -> PresignedUpload:
        if request.exclusive or request.size is not None or request.checksum is not None:
            raise self._unsupported("enforce max_size together with size, checksum or exclusive in one form", path)
        return self._presigner.form(path, request)
