"""The link operations of Azure: the driver methods, and the methods that only Azure or keg-storage has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ...errors import FileNotFoundInStorageError, NoSignerError
from ...types import Expiry, LinkRequest, PresignedUpload, ShareLinkOperation, to_utc
from ...validation import check_network
from ..base import StorageBackend
from ..multipart_manifest import is_upload_id
from .sas import NO_SIGNER, AzureSasBuilder


class AzureLinkOperations(StorageBackend):
    """The base class of :class:`~flask_storage.AzureStorage` with the operations that create signed links."""

    _sas_builder: AzureSasBuilder

    def create_upload_url(self, path: str, expire: Expiry | None = None) -> str:
        """Return ``link_to(path, "upload", expire)``; keg-storage's older name for it."""
        warnings.warn('create_upload_url is link_to(path, "upload", expire)', DeprecationWarning, stacklevel=2)
        return self.link_to(path, ShareLinkOperation.upload, expire)

    def create_download_url(self, path: str, expire: Expiry | None = None) -> str:
        """Return ``link_to(path, "download", expire)``; keg-storage's older name for it."""
        warnings.warn('create_download_url is link_to(path, "download", expire)', DeprecationWarning, stacklevel=2)
        return self.link_to(path, ShareLinkOperation.download, expire)

    def create_container_url(self, expire: Expiry, ip: str | None = None) -> str:
        """Return a link whose holder can list, read, write and delete everything in the container.

        The link ignores the storage's prefix, and only renewing the account's key revokes it early. Give it to trusted
        machines, never to browsers.

        Args:
            expire: When the link expires.
            ip: The address or network from which the link may be used.

        Raises:
            ValueError: when *expire* is in the past, or *ip* is not an address or network.
            NoSignerError: when the profile has no credentials that can sign.
        """
        expires_at = to_utc(expire)
        if ip is not None:
            check_network(ip)
        with self._error_translator():
            return self._sas_builder.container_url(expires_at, ip)

    def block_request(self, path: str, upload_id: str, number: int, expire: Expiry | None = None) -> PresignedUpload:
        """Return one signed request by which a browser sends one part of a large upload.

        The app creates the upload and completes it (:attr:`~flask_storage.StorageBackend.multipart`), so the app
        determines the content type, and nothing is visible before it is complete. A block has at most 100 MiB.

        A SAS cannot be limited to one block. Until it expires, the holder of the link can replace the whole file with
        it, with any content, type and headers, also after the upload is complete and was checked. So call
        ``confirm_upload`` with *move_to*, and use the file only at that path.

        Args:
            path: The path in the storage.
            upload_id: The id that ``multipart.create`` returned.
            number: The number of the part, from 1 on.
            expire: When the link expires.

        Raises:
            ValueError: when *number* is not a valid part number.
            FileNotFoundInStorageError: when *upload_id* is not an upload id.
            UnsupportedOperationError: when the profile has ``links="app"``.
            NoSignerError: when the profile has no credentials that can sign.

        Example::

            upload_id = storage.multipart.create("film.mp4", WriteOptions(content_type="video/mp4"))
            requests = [storage.block_request("film.mp4", upload_id, n, timedelta(hours=1)) for n in (1, 2)]
            # … the browser sends the blocks, and reports that it is done …
            storage.multipart.complete(
                "film.mp4", upload_id, storage.multipart.list_parts("film.mp4", upload_id), WriteOptions()
            )
            storage.confirm_upload("film.mp4", max_size=10**9, content_type="video/mp4", move_to="films/film.mp4")
        """
        path = self._path(path)
        request = self._link_request(ShareLinkOperation.upload, expire, None, None, {})
        if not is_upload_id(upload_id):
            raise FileNotFoundInStorageError(self.name, f"{path} (upload)")
        return self._issue_native(
            "sign a block request",
            path,
            request,
            lambda: self._sas_builder.block_upload(path, request, upload_id, number),
        )

    def _check_native(self, request: LinkRequest, constraints: frozenset[str]) -> None:
        if not self.capabilities.links:
            raise NoSignerError(NO_SIGNER)
        super()._check_native(request, constraints)

    def _link_to(self, path: str, request: LinkRequest) -> str:
        return self._sas_builder.url(path, request)

    def _links_to(self, paths: Sequence[str], request: LinkRequest) -> Sequence[str]:
        return self._sas_builder.urls(paths, request)

    def _upload_request(self, path: str, request: LinkRequest) -> PresignedUpload:
        return self._sas_builder.upload(path, request)
