"""A mixin for models and views that store files in a profile."""

from __future__ import annotations

import io
import uuid
from datetime import timedelta
from enum import Enum
from typing import Unpack

from flask import request
from werkzeug.exceptions import BadRequestKeyError

from .backends.base import StorageBackend
from .files import RemoteFile
from .paths import extension_of, normalize, normalize_directory, safe_filename
from .profiles import current_storage
from .streams import SupportsRead
from .types import (
    FileInfo,
    FileMode,
    FormArguments,
    LinkArguments,
    PresignedUpload,
    ShareLinkOperation,
    WriteArguments,
)


class StorageOperations:
    """The ``storage_*`` methods of a class whose objects have files.

    Set the directory and the profile once, on the class; most methods accept others for one call. File names are
    relative to the directory: each method adds it.

    Attributes:
        storage_location: A member of an :class:`~enum.Enum` whose value is the directory; None for the root.
        storage_profile: The profile's name; None for the app's default.

    >>> class Folder(Enum):
    ...     invoices = "accounting/invoices"
    >>> class Invoice(StorageOperations):
    ...     storage_location = Folder.invoices
    >>> Invoice.storage_prefix_path(Folder.invoices, "june.pdf")
    'accounting/invoices/june.pdf'
    >>> Invoice.storage_get_path("june.pdf")
    'accounting/invoices/june.pdf'
    """

    storage_location: Enum | None = None
    storage_profile: str | None = None

    @staticmethod
    def storage_prefix_path(location: Enum | None, filename: str) -> str:
        """Return the path of *filename* in the directory that *location* names; it is always inside that directory.

        No location, or one whose value is empty, is the root.

        Raises:
            InvalidPathError: for ``..`` and anything else that is not a path; nothing is stripped.
        """
        directory = normalize_directory(location.value) if location is not None else ""
        return f"{directory}/{normalize(filename)}" if directory else normalize(filename)

    @staticmethod
    def storage_generate_filename(filename: str) -> str:
        """Return a new random name with the extension of *filename*: ``<uuid4>.pdf``, or ``<uuid4>`` without one."""
        return f"{uuid.uuid4()}{_extension(filename)}"

    @classmethod
    def storage_get_profile(cls, storage_profile: str | None = None) -> StorageBackend:
        """Return the storage of *storage_profile*, else of the class's profile, else of the app's default.

        Raises:
            UnknownProfileError: when the app has no such profile; the message lists the profiles that exist.
        """
        name = storage_profile or cls.storage_profile
        return current_storage.default if name is None else current_storage[name]

    @classmethod
    def storage_get_path(cls, filename: str, storage_location: Enum | None = None) -> str:
        """Return the path of a file in the storage, for operations that this class does not have.

        Raises:
            InvalidPathError: as :meth:`storage_prefix_path`.
        """
        return cls.storage_prefix_path(cls.storage_location if storage_location is None else storage_location, filename)

    @classmethod
    def storage_open_file(
        cls,
        filename: str,
        mode: FileMode | str = "r",
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        **arguments: Unpack[WriteArguments],
    ) -> RemoteFile:
        """Open a file; modes, arguments and errors as for ``open``. Use it in a ``with`` block."""
        return cls.storage_get_profile(storage_profile).open(
            cls.storage_get_path(filename, storage_location), mode, **arguments
        )

    @classmethod
    def storage_stat_file(
        cls, filename: str, storage_location: Enum | None = None, storage_profile: str | None = None
    ) -> FileInfo:
        """Return size, date, etag, headers and metadata of a file.

        Raises:
            FileNotFoundInStorageError: when the file does not exist.
        """
        return cls.storage_get_profile(storage_profile).stat(cls.storage_get_path(filename, storage_location))

    @classmethod
    def storage_file_exists(
        cls, filename: str, storage_location: Enum | None = None, storage_profile: str | None = None
    ) -> bool:
        """Return whether a file exists."""
        return cls.storage_get_profile(storage_profile).exists(cls.storage_get_path(filename, storage_location))

    @classmethod
    def storage_download_file(
        cls, filename: str, storage_location: Enum | None = None, storage_profile: str | None = None
    ) -> io.BytesIO:
        """Return a file's content, at position 0. The whole file is held in memory; use ``open`` for large files.

        Raises:
            FileNotFoundInStorageError: when the file does not exist.
        """
        content = io.BytesIO()
        cls.storage_get_profile(storage_profile).download(cls.storage_get_path(filename, storage_location), content)
        content.seek(0)
        return content

    @classmethod
    def storage_upload_file(
        cls,
        file_object: SupportsRead,
        filename: str,
        preserve_filename: bool = False,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
    ) -> str:
        """Store a file and return its name, without the directory.

        Args:
            file_object: A binary file.
            filename: A user-supplied name. It is sanitized, and used only for its extension unless preserved.
            preserve_filename: Keep the (sanitized) name, replacing a file that has it.
            storage_location: Instead of the class's.
            storage_profile: Instead of the class's.
            content_type: Stored with the file.
            content_encoding: Stored with the file.
        """
        name = safe_filename(filename)
        if not preserve_filename:
            name = cls.storage_generate_filename(name)
        cls.storage_get_profile(storage_profile).upload(
            file_object,
            cls.storage_get_path(name, storage_location),
            content_type=content_type,
            content_encoding=content_encoding,
        )
        return name

    @classmethod
    def storage_upload_form_file(
        cls,
        form_field: str,
        preserve_filename: bool = False,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
    ) -> str:
        """Store the file of a form field of the current request; otherwise as :meth:`storage_upload_file`.

        A missing field is a 400 error, and so is a field in which the user has selected no file: browsers send an empty
        file without a name for it. The content type that the browser sends is not used; pass one to store it.
        """
        uploaded = request.files[form_field]
        if not uploaded.filename:
            raise BadRequestKeyError(form_field)
        return cls.storage_upload_file(
            uploaded.stream,
            uploaded.filename,
            preserve_filename,
            storage_location,
            storage_profile,
            content_type,
            content_encoding,
        )

    @classmethod
    def storage_delete_file(
        cls, filename: str, storage_location: Enum | None = None, storage_profile: str | None = None
    ) -> bool:
        """Delete a file and return True, also when it does not exist."""
        cls.storage_get_profile(storage_profile).delete(cls.storage_get_path(filename, storage_location))
        return True

    @classmethod
    def storage_duplicate_file(
        cls, filename: str, storage_location: Enum | None = None, storage_profile: str | None = None
    ) -> str:
        """Copy a file within its directory and return the copy's new random name.

        Raises:
            FileNotFoundInStorageError: when the file does not exist.
        """
        name = cls.storage_generate_filename(filename)
        cls.storage_get_profile(storage_profile).copy(
            cls.storage_get_path(filename, storage_location), cls.storage_get_path(name, storage_location)
        )
        return name

    @classmethod
    def storage_get_download_link(
        cls,
        filename: str,
        expire_minutes: float | None = None,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        output_path: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> str:
        """Return a signed download link; arguments and errors as for ``link_to``.

        Without *expire_minutes*, the link lives for ``STORAGE_LINK_LIFETIME``.
        """
        return cls.storage_get_profile(storage_profile).link_to(
            cls.storage_get_path(filename, storage_location),
            ShareLinkOperation.download,
            _expiry(expire_minutes),
            output_path,
            content_type,
            **arguments,
        )

    @classmethod
    def storage_get_upload_link(
        cls,
        filename: str,
        expire_minutes: float | None = None,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> tuple[str, str]:
        """Return a signed upload link and the new random name that the file will have.

        Without *expire_minutes*, the link lives for ``STORAGE_LINK_LIFETIME``.
        """
        name = cls.storage_generate_filename(filename)
        link = cls.storage_get_profile(storage_profile).link_to(
            cls.storage_get_path(name, storage_location),
            ShareLinkOperation.upload,
            _expiry(expire_minutes),
            content_type=content_type,
            **arguments,
        )
        return link, name

    @classmethod
    def storage_get_upload_request(
        cls,
        filename: str,
        expire_minutes: float | None = None,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> tuple[PresignedUpload, str]:
        """Return the request with which a browser uploads a file, and the new random name that the file will have.

        On S3 and Azure an upload needs headers or form fields, so a URL alone is not enough there. Arguments and errors
        as for ``upload_request``. Without *expire_minutes*, the request lives for ``STORAGE_LINK_LIFETIME``.
        """
        name = cls.storage_generate_filename(filename)
        upload = cls.storage_get_profile(storage_profile).upload_request(
            cls.storage_get_path(name, storage_location),
            _expiry(expire_minutes),
            content_type=content_type,
            **arguments,
        )
        return upload, name

    @classmethod
    def storage_create_upload_form(
        cls,
        filename: str,
        expire_minutes: float | None = None,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        content_type: str | None = None,
        *,
        max_size: int,
        min_size: int = 0,
        redirect_to: str | None = None,
        **arguments: Unpack[FormArguments],
    ) -> tuple[PresignedUpload, str]:
        """Return the HTML form with which a browser uploads a file, and the new random name that the file will have.

        Arguments and errors as for ``create_upload_form``. Without *expire_minutes*, the form lives for
        ``STORAGE_LINK_LIFETIME``.
        """
        name = cls.storage_generate_filename(filename)
        form = cls.storage_get_profile(storage_profile).create_upload_form(
            cls.storage_get_path(name, storage_location),
            _expiry(expire_minutes),
            max_size=max_size,
            min_size=min_size,
            content_type=content_type,
            redirect_to=redirect_to,
            **arguments,
        )
        return form, name

    @classmethod
    def storage_confirm_upload(
        cls,
        filename: str,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        *,
        size: int | None = None,
        max_size: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        cache_control: str | None = None,
        checksum: str | None = None,
        move_to: str | None = None,
    ) -> FileInfo:
        """Check a file that a client has uploaded, and delete it if it is not as expected.

        Arguments and errors as for ``confirm_upload``; *move_to* is a name in the same directory.
        """
        return cls.storage_get_profile(storage_profile).confirm_upload(
            cls.storage_get_path(filename, storage_location),
            size=size,
            max_size=max_size,
            content_type=content_type,
            content_encoding=content_encoding,
            cache_control=cache_control,
            checksum=checksum,
            move_to=None if move_to is None else cls.storage_get_path(move_to, storage_location),
        )


def _expiry(minutes: float | None) -> timedelta | None:
    return None if minutes is None else timedelta(minutes=minutes)


def _extension(filename: str) -> str:
    """Return the extension; the whole name where it is nothing else (``.bashrc``), as in keg-storage."""
    return extension_of(f"x{filename}")
