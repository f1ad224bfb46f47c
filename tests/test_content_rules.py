"""The media type of a file is decided by its name and its content, and by the content where they disagree."""

import pytest

from flask_storage.content_types import guess_content_type
from flask_storage.sqlalchemy.content_rules import HEAD_BYTES, content_type_of

from .sample_files import SampleFile, sample_files

SAMPLES = sample_files()

# A content type in the table of names, which are the standard ones, or what is shown instead of it.
SHOWN_AS = {
    "application/java-archive": "application/zip",  # its name is in no table, and archives are not looked into
    "application/octet-stream": None,
    "application/x-python-bytecode": None,
    "audio/x-ms-wma": "video/x-ms-asf",  # the container
    "text/x-python": "text/plain",
}


def essence(content_type: str | None) -> str | None:
    """Return a media type without its parameters."""
    return content_type and content_type.partition(";")[0]


def by_name(sample: SampleFile) -> str:
    """Name a test after its file."""
    return sample.name


def head(sample: SampleFile) -> bytes:
    """Return what is looked at."""
    return sample.content[:HEAD_BYTES]


def test_there_are_enough_samples():
    """The samples are files of at least 60 types."""
    assert len({sample.content_type for sample in SAMPLES}) >= 60


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_a_file_with_its_own_name_has_its_own_type(sample):
    """Files that real programs made have the standard type under their usual name."""
    found = content_type_of(sample.name, head(sample))

    assert essence(found) == SHOWN_AS.get(sample.content_type, sample.content_type)


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_a_file_without_an_extension_has_no_other_type_than_with_it(sample):
    """Without a name, the type of the content is that of the file, a more general one, or none."""
    found = essence(content_type_of("file", head(sample)))

    general = {None, "text/plain", "text/html", "application/ogg", "application/zip", "application/x-ole-storage"}
    containers = {"video/webm", "video/x-ms-asf", "image/svg+xml"}
    assert found == sample.content_type or found in general | containers


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.pdf", "a.mp4", "a.docx", "a.zip"])
def test_no_file_of_another_type_passes_for_an_image_or_document(name):
    """A name whose type has a signature is believed for content with that signature only."""
    named = guess_content_type(name)
    believed = {sample.content_type for sample in SAMPLES if content_type_of(name, head(sample)) == named}

    archives = {sample.content_type for sample in SAMPLES if sample.content.startswith(b"PK")}
    films = {"audio/mp4", "video/mp4", "video/quicktime"}
    assert believed <= {"a.docx": archives, "a.zip": archives, "a.mp4": films}.get(name, {named})


@pytest.mark.parametrize(
    "content",
    [
        b"<html><body>",
        b"<!DOCTYPE html><p>",
        b"\xef\xbb\xbf  \r\n<SCRIPT>alert(1)</SCRIPT>",
        b"<!-- GIF89a -->\n<script>",
        "<script>alert(1)</script>".encode("utf-16"),
        b"<iframe src=x>",
        b"<a href=x>",
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.txt", "a.csv", "a.json", "a.svg", "a.xml", "a.pdf", "a", "a.unknown"])
def test_a_page_is_a_page_under_every_name(name, content):
    """What a browser would show as a page is HTML, whatever its name says."""
    assert essence(content_type_of(name, content)) == "text/html"


@pytest.mark.parametrize(
    "content",
    [
        b"<svg onload=alert(1)>",
        b'<?xml version="1.0"?><!-- a -->\n<svg:svg xmlns:svg="http://www.w3.org/2000/svg"/>',
        b'<!DOCTYPE svg [<!ENTITY a "<b>">]>\n<svg/>',
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.txt", "a.xml", "a"])
def test_an_svg_image_is_one_under_every_name(name, content):
    """SVG images, which may contain scripts, are found behind declarations and comments as well."""
    assert content_type_of(name, content) == "image/svg+xml"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.svg", b"no image", "text/plain; charset=utf-8"),
        ("a.svg", b"<?xml version='1.0'?><data/>", "application/xml"),
        ("a.xml", b"<data/>", "application/xml"),
        ("a.xml", b"no markup", "text/plain; charset=utf-8"),
        ("a.html", b"no markup", "text/html; charset=utf-8"),
        ("a.png", b"text", "text/plain; charset=utf-8"),
        ("a.png", b"\0\1\2", "application/octet-stream"),
        ("a.txt", b"\0\1\2", "application/octet-stream"),
        ("a.mp3", b"\0\1\2", "audio/mpeg"),
        ("a.pdf", b"\r\n\0 %PDF-1.4", "application/pdf"),
        ("a.unknown", b"\0\1\2", None),
        ("a.png", b"", "image/png"),
        ("a.txt", "Größe".encode()[:3], "text/plain; charset=utf-8"),
        ("a.txt", "Größe".encode("latin-1"), "text/plain"),
        ("a.txt", "Größe".encode("utf-16"), "text/plain"),
        ("a.txt", b"<name@example.com> wrote:", "text/plain; charset=utf-8"),
    ],
)
def test_text_and_binary_content_are_told_apart(name, content, expected):
    """Text has the type of a name for text, other content none of them, and empty content any."""
    assert content_type_of(name, content) == expected


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_a_file_that_is_cut_anywhere_is_no_error(sample):
    """Every beginning of a file has a type, too, and never one of a page if the whole file is none."""
    whole = essence(content_type_of(sample.name, head(sample)))

    found = {essence(content_type_of(sample.name, sample.content[:size])) for size in range(64)}

    assert "text/html" not in found - {whole, essence(guess_content_type(sample.name))}
