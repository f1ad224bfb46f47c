"""File types by file name: icon, content type, and whether a browser may show the file."""

from __future__ import annotations

from typing import NamedTuple

from flask_storage.paths import extension_of


class FileType(NamedTuple):
    """What the page needs to know about a file.

    Attributes:
        icon: The name of a symbol in the page.
        content_type: The content type that is stored and sent.
        preview: How the page shows the file (``image``, ``video``, ``audio``, ``pdf``, ``text``); None for download
            only.
    """

    icon: str
    content_type: str
    preview: str | None = None


def _file_types() -> dict[str, FileType]:
    shown = {
        "image": {
            "image/jpeg": "jpg jpeg",
            "image/png": "png",
            "image/gif": "gif",
            "image/webp": "webp",
            "image/avif": "avif",
        },
        "video": {"video/mp4": "mp4 m4v", "video/webm": "webm", "video/ogg": "ogv"},
        "audio": {
            "audio/mpeg": "mp3",
            "audio/wav": "wav",
            "audio/ogg": "ogg oga opus",
            "audio/flac": "flac",
            "audio/mp4": "m4a",
        },
        "pdf": {"application/pdf": "pdf"},
        "text": {"text/plain": "txt text md log csv tsv ini toml yaml yml"},
    }
    # These are sent as application/octet-stream, because browsers run the scripts in HTML and SVG.
    stored = {
        "image": "svg heic heif tif tiff bmp psd raw",
        "video": "mov mkv avi",
        "audio": "aiff wma mid",
        "code": "html htm xhtml xml js mjs css json py sh c h rs go java",
        "text": "doc docx odt rtf pages epub",
        "sheet": "xls xlsx ods numbers",
        "archive": "zip tar gz tgz bz2 xz zst 7z rar",
    }
    file_types = {}
    for icon, extensions in stored.items():
        for extension in extensions.split():
            file_types[extension] = FileType(icon, "application/octet-stream")
    for preview, types in shown.items():
        for content_type, extensions in types.items():
            for extension in extensions.split():
                file_types[extension] = FileType(preview, content_type, preview)
    file_types["csv"] = file_types["tsv"] = FileType("sheet", "text/plain", "text")
    return file_types


_FILE_TYPES = _file_types()
_UNKNOWN = FileType("file", "application/octet-stream")


def file_type_of(name: str) -> FileType:
    """Return the type of a file with this name.

    >>> file_type_of("Holiday.JPG").content_type
    'image/jpeg'
    >>> file_type_of("page.html").preview is None
    True
    """
    return _FILE_TYPES.get(extension_of(name)[1:].lower(), _UNKNOWN)
