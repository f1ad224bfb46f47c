"""The verbs that hand out addresses, on S3: links of the wall, and the two kinds of request that only S3 has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...types import Expiry, LinkArguments, LinkRequest, PresignedUpload, ShareLinkOperation
from ...validation import check_count
from ..base import StorageBackend
from .presign import S3Presigner


class S3LinkOperations(StorageBackend):
    """What signs for a bucket; :class:`~flask_storage.S3Storage` stands on it."""

    _presigner: S3Presigner

    def create_upload_form(
        self,
        path: str,
        expire: Expiry,
        *,
        max_size: int,
        min_size: int = 0,
        content_type: str | None = None,
    ) -> PresignedUpload:
        """Return a form by which a browser uploads one file here, within limits that the service enforces.

        Args:
            path: The path in the storage.
            expire: Until when.
            max_size: The largest number of bytes.
            min_size: The smallest.
            content_type: Exactly this type, or a beginning that ends in a slash (``"image/"``), which the form then
                completes in a field ``Content-Type``. Without one it is ``application/octet-stream``, never a guess.

        Returns:
            Method ``POST``, the URL and the fields that go before the file's field, which is called ``file``.

        Raises:
            ValueError: when a size is none.
            UnsupportedOperationError: when the service takes no forms.

        Example::

            form = storage.create_upload_form("in/photo.jpg", timedelta(minutes=5), max_size=5_000_000)
        """
        path = self._path(path)
        if "max_size" not in self.capabilities.upload_constraints:
            raise self._unsupported("take an upload by a form", path, instead="use upload_request() with a size")
        request = self._link_request(
            ShareLinkOperation.upload, expire, None, content_type, {"max_size": max_size}, for_upload=True
        )
        check_count("min_size", min_size)
        if min_size > max_size:
            raise ValueError("min_size is a number of bytes, and no larger than max_size")
        with self._error_translator(path):
            form = self._presigner.form(path, request, min_size)
        self._notify_link_issued(path, request)
        return form

    def multipart_request(
        self,
        path: str,
        step: Literal["create", "part", "complete", "abort", "list"],
        expire: Expiry,
        *,
        upload_id: str | None = None,
        number: int | None = None,
        size: int | None = None,
        content_type: str | None = None,
    ) -> PresignedUpload:
        """Return one signed request of an upload in parts that a browser makes itself.

        Args:
            path: The path in the storage.
            step: ``"create"``, ``"part"``, ``"complete"``, ``"abort"`` or ``"list"``.
            expire: Until when.
            upload_id: Of every step but the first.
            number: Of the part, from 1 on.
            size: Of the part, in bytes, where it is to be bound.
            content_type: Of the file; only for ``"create"``.

        Returns:
            Method, URL and headers; the answers are the service's own XML, and a part's receipt is its ``ETag`` header.

        Raises:
            ValueError: when the step misses what it needs.
            UnsupportedOperationError: when the storage signs no links.

        Example::

            created = storage.multipart_request("film.mp4", "create", timedelta(hours=1), content_type="video/mp4")
        """
        path = self._path(path)
        arguments: LinkArguments = {} if size is None else {"size": size}
        request = self._link_request(ShareLinkOperation.upload, expire, None, content_type, arguments, for_upload=True)
        with self._error_translator(path):
            instruction = self._presigner.multipart(path, step, request, upload_id, number)
        self._notify_link_issued(path, request)
        return instruction

    def _link_to(self, path: str, request: LinkRequest) -> str:
        return self._presigner.url(path, request)

    def _links_to(self, paths: Sequence[str], request: LinkRequest) -> Sequence[str]:
        return self._presigner.urls(paths, request)

    def _upload_request(self, path: str, request: LinkRequest) -> PresignedUpload:
        if request.max_size is None:
            return self._presigner.upload(path, request)
        if request.exclusive or request.size is not None or request.checksum is not None:
            raise self._unsupported(
                "bind max_size together with size, checksum or exclusive", path, instead="size alone says it already"
            )
        return self._presigner.form(path, request)
