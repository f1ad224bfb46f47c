"""A mixin for models and views that store files in a profile."""

from __future__ import annotations

import io
import uuid
from datetime import timedelta
from enum import Enum
from typing import Unpack

from flask import request

from .backends.base import StorageBackend
from .paths import extension_of, normalize, normalize_directory, safe_filename
from .profiles import current_storage
from .streams import SupportsRead
from .types import LinkArguments, ShareLinkOperation


class StorageOperations:
    """Ten ``storage_*`` methods for a class whose objects have files.

    Set the directory and the profile once, on the class; most methods accept others for one call.

    Attributes:
        storage_location: A member of an :class:`~enum.Enum` whose value is the directory; None for the root.
        storage_profile: The profile's name; None for the app's default.

    >>> class Folder(Enum):
    ...     invoices = "accounting/invoices"
    >>> class Invoice(StorageOperations):
    ...     storage_location = Folder.invoices
    >>> Invoice.storage_prefix_path(Folder.invoices, "june.pdf")
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
    def storage_download_file(
        cls, filename: str, storage_location: Enum | None = None, storage_profile: str | None = None
    ) -> io.BytesIO:
        """Return a file's content, at position 0. The whole file is held in memory; use ``open`` for large files.

        Raises:
            FileNotFoundInStorageError: when the file does not exist.
        """
        content = io.BytesIO()
        cls.storage_get_profile(storage_profile).download(cls._storage_path(storage_location, filename), content)
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
            cls._storage_path(storage_location, name),
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

        A missing field is a 400 error. The content type that the browser sends is not used; pass one to store it.
        """
        uploaded = request.files[form_field]
        return cls.storage_upload_file(
            uploaded.stream,
            uploaded.filename or "file",
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
        cls.storage_get_profile(storage_profile).delete(cls._storage_path(storage_location, filename))
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
            cls._storage_path(storage_location, filename), cls._storage_path(storage_location, name)
        )
        return name

    @classmethod
    def storage_get_download_link(
        cls,
        filename: str,
        expire_minutes: float,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        output_path: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> str:
        """Return a signed download link; arguments and errors as for ``link_to``."""
        return cls.storage_get_profile(storage_profile).link_to(
            cls._storage_path(storage_location, filename),
            ShareLinkOperation.download,
            timedelta(minutes=expire_minutes),
            output_path,
            content_type,
            **arguments,
        )

    @classmethod
    def storage_get_upload_link(
        cls,
        filename: str,
        expire_minutes: float,
        storage_location: Enum | None = None,
        storage_profile: str | None = None,
        content_type: str | None = None,
        **arguments: Unpack[LinkArguments],
    ) -> tuple[str, str]:
        """Return a signed upload link and the new random name that the file will have."""
        name = cls.storage_generate_filename(filename)
        link = cls.storage_get_profile(storage_profile).link_to(
            cls._storage_path(storage_location, name),
            ShareLinkOperation.upload,
            timedelta(minutes=expire_minutes),
            content_type=content_type,
            **arguments,
        )
        return link, name

    @classmethod
    def _storage_path(cls, storage_location: Enum | None, filename: str) -> str:
        location = cls.storage_location if storage_location is None else storage_location
        return cls.storage_prefix_path(location, filename)


def _extension(filename: str) -> str:
    """Return the extension; the whole name where it is nothing else (``.bashrc``), as in keg-storage."""
    return extension_of(f"x{filename}")
