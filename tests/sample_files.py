"""Real files of many types: made here by Python and Pillow, or by other programs (``content_types/README.md``)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import py_compile
import sqlite3
import sys
import tarfile
import tempfile
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

COMMITTED = Path(__file__).with_name("content_types")

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_DRAWING = "http://schemas.openxmlformats.org/presentationml/2006/main"

# The types of the committed files, by extension.
_COMMITTED_TYPES = {
    "3gp": "video/3gpp",
    "7z": "application/x-7z-compressed",
    "aac": "audio/aac",
    "aiff": "audio/aiff",
    "amr": "audio/amr",
    "avi": "video/x-msvideo",
    "deb": "application/vnd.debian.binary-package",
    "elf": "application/x-executable",
    "epub": "application/epub+zip",
    "exe": "application/vnd.microsoft.portable-executable",
    "flac": "audio/flac",
    "flv": "video/x-flv",
    "h5": "application/x-hdf5",
    "heic": "image/heic",
    "m4a": "audio/mp4",
    "m4v": "video/mp4",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpg": "video/mpeg",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "opus": "audio/ogg",
    "otf": "font/otf",
    "parquet": "application/vnd.apache.parquet",
    "pdf": "application/pdf",
    "ttf": "font/ttf",
    "weba": "audio/webm",
    "webm": "video/webm",
    "wma": "audio/x-ms-wma",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "zst": "application/zstd",
}


class SampleFile(NamedTuple):
    """A real file: a name with the usual extension, the content, and the standard media type."""

    name: str
    content: bytes
    content_type: str


def sample_files() -> list[SampleFile]:
    """Return all of them."""
    committed = [
        SampleFile(file.name, file.read_bytes(), _COMMITTED_TYPES[file.suffix[1:]])
        for file in sorted(COMMITTED.iterdir())
        if file.suffix != ".md"
    ]
    return [*committed, *_images(), *_archives(), *_programs(), *_texts()]


def _images() -> Iterator[SampleFile]:
    colors = Image.effect_noise((32, 24), 60).convert("RGB")
    saves: list[tuple[str, str, dict[str, Any]]] = [
        ("photo.jpg", "image/jpeg", {}),
        ("progressive.jpeg", "image/jpeg", {"progressive": True}),
        ("exif.jpg", "image/jpeg", {"exif": Image.Exif()}),
        ("image.png", "image/png", {}),
        ("animated.png", "image/png", {"save_all": True, "append_images": [colors.rotate(90)]}),
        ("image.gif", "image/gif", {}),
        ("animated.gif", "image/gif", {"save_all": True, "append_images": [colors.rotate(90)]}),
        ("lossy.webp", "image/webp", {}),
        ("lossless.webp", "image/webp", {"lossless": True}),
        ("image.avif", "image/avif", {}),
        ("image.bmp", "image/bmp", {}),
        ("image.tiff", "image/tiff", {}),
        ("image.tif", "image/tiff", {"big_tiff": True}),
        ("favicon.ico", "image/vnd.microsoft.icon", {"sizes": [(16, 16)]}),
        ("image.jp2", "image/jp2", {}),
        ("scan.pdf", "application/pdf", {}),
    ]
    for name, content_type, options in saves:
        buffer = io.BytesIO()
        buffer.name = name  # Pillow chooses the format by it
        colors.save(buffer, **options)
        yield SampleFile(name, buffer.getvalue(), content_type)


def _archives() -> Iterator[SampleFile]:
    text = b"one line of text\n" * 20
    yield SampleFile("text.gz", gzip.compress(text), "application/gzip")
    yield SampleFile("text.bz2", bz2.compress(text), "application/x-bzip2")
    yield SampleFile("text.xz", lzma.compress(text), "application/x-xz")
    formats: list[tuple[str, Literal["w", "w:gz"], int]] = [
        ("ustar.tar", "w", tarfile.USTAR_FORMAT),
        ("gnu.tar", "w", tarfile.GNU_FORMAT),
        ("pax.tar", "w", tarfile.PAX_FORMAT),
        ("archive.tgz", "w:gz", tarfile.PAX_FORMAT),
    ]
    for name, mode, tar_format in formats:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=tar_format) as archive:
            member = tarfile.TarInfo("ünlaut/text.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
        content_type = "application/gzip" if name.endswith(".tgz") else "application/x-tar"
        yield SampleFile(name, buffer.getvalue(), content_type)
    yield SampleFile("archive.zip", zipped({"text.txt": text}), "application/zip")
    yield SampleFile("empty.zip", zipped({}), "application/zip")
    office = "application/vnd.openxmlformats-officedocument"
    yield SampleFile(
        "letter.docx", _office("word/document.xml", _WORD, "document"), f"{office}.wordprocessingml.document"
    )
    yield SampleFile(
        "slides.pptx",
        _office("ppt/presentation.xml", _DRAWING, "presentation"),
        f"{office}.presentationml.presentation",
    )
    yield SampleFile(
        "program.jar", zipped({"META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\n"}), "application/java-archive"
    )


def zipped(files: dict[str, bytes]) -> bytes:
    """Return a ZIP archive with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _office(part: str, namespace: str, root: str) -> bytes:
    package = "http://schemas.openxmlformats.org/package/2006"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    files = {
        "[Content_Types].xml": (
            f'<Types xmlns="{package}/content-types"><Default Extension="xml" ContentType="text/xml"/></Types>'
        ),
        "_rels/.rels": (
            f'<Relationships xmlns="{package}/relationships">'
            f'<Relationship Id="r1" Type="{relation}" Target="{part}"/></Relationships>'
        ),
        part: f'<d:{root} xmlns:d="{namespace}"/>',
    }
    return zipped({name: content.encode() for name, content in files.items()})


def _programs() -> Iterator[SampleFile]:
    yield SampleFile("python", Path(sys.executable).resolve().read_bytes()[:65536], "application/x-executable")
    yield SampleFile(
        "add.wasm",
        bytes.fromhex("0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b"),
        "application/wasm",
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "module.py")
        source.write_text("x = 1\n")
        compiled = py_compile.compile(str(source), str(source.with_suffix(".pyc")), doraise=True)
        assert compiled
        yield SampleFile("module.pyc", Path(compiled).read_bytes(), "application/x-python-bytecode")
        database = Path(folder, "app.db")
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE a (b TEXT)")
        connection.close()
        yield SampleFile("app.sqlite", database.read_bytes(), "application/vnd.sqlite3")
    yield SampleFile("data.pickle", pickle.dumps({"a": [1, 2, 3]}), "application/octet-stream")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(range(256)) * 4)
    yield SampleFile("tone.wav", buffer.getvalue(), "audio/wav")
    yield SampleFile(
        "tune.mid",
        bytes.fromhex("4d546864000000060000000100604d54726b0000000c00903c4060803c4000ff2f00"),
        "audio/midi",
    )


def _texts() -> Iterator[SampleFile]:
    texts = {
        "notes.txt": ("text/plain", "Grüße\nBM is a prefix of bitmaps, and MZ of programs.\n"),
        "bm.txt": ("text/plain", "BM is how bitmaps begin.\n"),
        "mz.txt": ("text/plain", "MZ is how programs begin, PK archives, ID3 music.\n"),
        "id.txt": ("text/plain", "ID3 tags are part of music files.\n"),
        "server.log": ("text/plain", "2026-06-01 12:00:00 started\n2026-06-01 12:00:01 <html> requested\n"),
        "table.csv": ("text/csv", "id,name\n1,Zoë\n2,Ann\n"),
        "id.csv": ("text/csv", "ID,Name\n1,Zoë\n"),
        "data.json": ("application/json", '{"a": [1, 2, 3], "html": "<p>"}'),
        "page.html": ("text/html", "<!DOCTYPE html>\n<html><body><p>Hello</p></body></html>\n"),
        "old.htm": ("text/html", "\ufeff<!-- old -->\n<HTML><HEAD><TITLE>Old</TITLE></HEAD></HTML>"),
        "page.xhtml": ("application/xhtml+xml", '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>'),
        "image.svg": ("image/svg+xml", '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'),
        "editor.svg": (
            "image/svg+xml",
            '<?xml version="1.0"?>\n<!-- own -->\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd"><svg/>',
        ),
        "data.xml": ("application/xml", '<?xml version="1.0" encoding="UTF-8"?>\n<data><a b="c"/></data>'),
        "style.css": ("text/css", "body { color: red }\n"),
        "script.js": ("text/javascript", "export const a = '<b>';\n"),
        "readme.md": ("text/markdown", '<h1 align="center">Title</h1>\n\nText with *emphasis*.\n'),
        "mail.eml": (
            "message/rfc822",
            "From: a@example.com\r\nTo: b@example.com\r\nSubject: Hello\r\n\r\n<html>Hello</html>\r\n",
        ),
        "event.ics": ("text/calendar", "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//a//b\r\nEND:VCALENDAR\r\n"),
        "card.vcf": ("text/vcard", "BEGIN:VCARD\r\nVERSION:4.0\r\nFN:Zoë\r\nEND:VCARD\r\n"),
        "subtitles.vtt": ("text/vtt", "WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n"),
        "letter.rtf": ("application/rtf", r"{\rtf1\ansi{\fonttbl\f0\fswiss Helvetica;}\f0\pard Hello.\par}"),
        "program.py": ("text/x-python", "#!/usr/bin/env python3\nprint('hello')\n"),
        "figure.eps": ("application/postscript", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
    }
    for name, (content_type, text) in texts.items():
        yield SampleFile(name, text.encode(), content_type)
    yield SampleFile("latin.csv", "id;name\n1;Zoë Größe\n".encode("latin-1"), "text/csv")
    yield SampleFile("windows.txt", "Grüße\r\n".encode("utf-16"), "text/plain")
