"""Checks of the public operations that are independent of the backend, tested once, with `MemoryStorage`."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flask_storage import MemoryStorage
from flask_storage.errors import InvalidPathError
from flask_storage.types import FileMode, LinkContext, ShareLinkOperation, WriteOptions

_HOUR = timedelta(hours=1)


@pytest.fixture
def storage():
    """An empty storage that supports everything."""
    return MemoryStorage()


@pytest.fixture
def linked(storage):
    """The storage with the link context of an app."""
    storage.set_link_context(
        LinkContext(
            profile="conformance",
            secrets=lambda: (b"conformance" * 4,),
            strict=False,
            link_url=lambda token, endpoint: f"https://app.example.com/storage/conformance?token={token}",
        )
    )
    return storage


@pytest.mark.parametrize("mode", ["r", "rb", "br", FileMode.read])
def test_every_spelling_of_a_mode_is_accepted(storage, mode):
    """Python's spellings and the flag."""
    storage.write("file.bin", b"abc")

    with storage.open("file.bin", mode) as reader:
        assert reader.read() == b"abc"


@pytest.mark.parametrize("mode", ["", "a", "x", "rt", "w+", "rr", "read", None, FileMode(0)])
def test_an_unknown_mode_is_refused(storage, mode):
    """No letter is ignored: `a` and `x` are not treated as `w`."""
    storage.write("file.bin", b"abc")

    with pytest.raises(ValueError, match=r"mode"):
        storage.open("file.bin", mode)

    assert storage.read("file.bin") == b"abc"


@pytest.mark.parametrize(
    "arguments",
    [{"content_type": "a/b"}, {"exclusive": True}, {"size": 3}, {"extra_args": {"ContentType": "a/b"}}],
    ids=str,
)
def test_reading_refuses_write_options(storage, arguments):
    """Arguments without meaning for a reader are not ignored."""
    storage.write("file.bin", b"abc")

    with pytest.raises(ValueError, match="only for writing"):
        storage.open("file.bin", "r", **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda storage: storage.write("a", b"", max_age=1),
            "a write has no argument 'max_age': further arguments are",
        ),
        (lambda storage: storage.open("a", "w", sise=1), "a write has no argument 'sise': did you mean 'size'"),
        (lambda storage: storage.save("a", b"", metdata={}), "a write has no argument 'metdata': did you mean 'metada"),
        (lambda storage: storage.link_to("a", "d", max_sise=1), "a link has no argument 'max_sise': did you mean 'max"),
        (lambda storage: storage.upload_request("a", filename="b"), "a link has no argument 'filename': further arg"),
        (lambda storage: storage.links_to(["a"], "d", expires_at=1), "a link has no argument 'expires_at': further"),
    ],
)
def test_an_unknown_argument_is_refused(linked, call, message):
    """The message suggests a similar one, or lists those that there are."""
    with pytest.raises(TypeError, match=message):
        call(linked)


@pytest.mark.parametrize("text", ["text", None, 5, ["a"]])
def test_text_is_refused_as_content(storage, text):
    """It raises a TypeError, and the stored content is kept."""
    storage.write("file.bin", b"content")

    with pytest.raises(TypeError):
        storage.write("file.bin", text)
    with pytest.raises(TypeError), storage.open("file.bin", "w") as writer:
        writer.write(text)

    assert storage.read("file.bin") == b"content"


def test_an_unknown_extra_arg_is_refused(storage):
    """It is not ignored."""
    with pytest.raises(ValueError, match="ACL"):
        storage.upload(io.BytesIO(b"abc"), "file.txt", extra_args={"ACL": "public-read"})

    assert not storage.exists("file.txt")


@pytest.mark.parametrize(
    "metadata",
    [
        {"Upper": "x"},
        {"with space": "x"},
        {"1st": "x"},
        {"a": "line\nbreak"},
        {"a": "x" * 3000},
        {"a": 1},
        "a=1",
        ["a"],
    ],
)
def test_unportable_metadata_is_refused(storage, metadata):
    """Also on a backend that could store it."""
    storage.write("valid.txt", b"abc", metadata={"probe": "1"})

    with pytest.raises(ValueError, match="metadata"):
        storage.write("file.txt", b"abc", metadata=metadata)

    assert [entry.name for entry in storage.list()] == ["valid.txt"]


@pytest.mark.parametrize("header", ["content_type", "content_encoding", "cache_control", "content_disposition"])
def test_a_header_with_a_line_break_is_refused(storage, header):
    """It could inject a header into later responses."""
    with pytest.raises(ValueError, match=header):
        storage.write("file.txt", b"abc", **{header: "text/plain\r\nX-Evil: 1"})

    assert not storage.exists("file.txt")


@pytest.mark.parametrize("checksum", ["sha256", "sha256:", "crc99:abc", "nonsense"])
def test_an_invalid_checksum_is_refused(storage, checksum):
    """Before anything is written."""
    with pytest.raises(ValueError, match="checksum"):
        storage.write("file.bin", b"abc", checksum=checksum)

    assert not storage.exists("file.bin")


def test_invalid_prefixes_are_refused(storage):
    """A prefix that no valid path can have is a mistake."""
    for prefix in ("../", "a/../b", "a//", "a\\", "nul\x00", "\u202e", "lone\ud800", b"bytes", 5, Path("a"), ["a"]):
        with pytest.raises(InvalidPathError):
            storage.list(prefix=prefix)


@pytest.mark.parametrize(
    "operation", ["", "x", "dx", "dd", "read", "write", "Download", ShareLinkOperation(0), None, 1]
)
def test_an_unknown_operation_is_refused(linked, operation):
    """A word is not parsed as letters."""
    with pytest.raises(ValueError, match="operation"):
        linked.link_to("file.txt", operation, _HOUR)


@pytest.mark.parametrize("past", [timedelta(0), timedelta(seconds=-1), datetime(2001, 1, 1, tzinfo=UTC)])
def test_an_expiry_in_the_past_is_refused(linked, past):
    """By every operation that issues links."""
    for call in (
        lambda: linked.link_to("file.txt", "d", past),
        lambda: linked.links_to(["file.txt"], "d", past),
        lambda: linked.upload_request("file.txt", past),
    ):
        with pytest.raises(ValueError, match="past"):
            call()


@pytest.mark.parametrize("name", ["output_path", "content_type", "content_encoding", "cache_control"])
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\x00b", "a\u2028b", "a\ud800b"], ids=ascii)
def test_a_link_argument_with_a_line_break_is_refused(linked, name, value):
    """It could inject a header into the response."""
    with pytest.raises(ValueError, match="one line"):
        linked.link_to("file.txt", "download", _HOUR, **{name: value})


@pytest.mark.parametrize(
    "constraints",
    [
        {"disposition": "whatever"},
        {"ip": "not an address"},
        {"ip": "203.0.113.300/24"},
        {"ip": "::ffff:203.0.113.5"},
        {"ip": 5},
        {"exclusive": 1},
        {"checksum": "md5-of-something"},
        {"size": -1},
        {"max_size": -1},
        {"uses": 0},
    ],
    ids=str,
)
def test_invalid_constraints_are_refused(linked, constraints):
    """When the link is issued, not when it is used."""
    with pytest.raises(ValueError, match=next(iter(constraints))):
        linked.link_to("file.txt", "download", _HOUR, **constraints)


@pytest.mark.parametrize("constraints", [{"size": 1}, {"max_size": 1}, {"exclusive": True}], ids=str)
def test_upload_constraints_need_an_upload_link(linked, constraints):
    """A link that only downloads cannot limit an upload."""
    with pytest.raises(ValueError, match="upload"):
        linked.link_to("file.txt", "d", _HOUR, **constraints)


@pytest.mark.parametrize(
    "options",
    [{"exclusive": True}, {"if_match": "x"}, {"size": 0}, {"checksum": f"sha256:{'0' * 64}"}],
    ids=lambda options: next(iter(options)),
)
def test_create_refuses_options_of_complete(storage, options):
    """They would be forgotten before the upload is completed."""
    multipart = storage.multipart

    with pytest.raises(ValueError, match="complete"):
        multipart.create("file.bin", WriteOptions(**options))

    assert list(multipart.list_uploads()) == []


@pytest.mark.parametrize("number", [0, -1])
def test_parts_are_numbered_from_one(storage, number):
    """Zero and negative numbers are refused."""
    upload_id = storage.multipart.create("file.bin", WriteOptions())

    with pytest.raises(ValueError, match="part number from 1"):
        storage.multipart.upload_part("file.bin", upload_id, number, b"x")


@pytest.mark.parametrize("data", ["text", 5, None, [1]])
def test_a_part_consists_of_bytes(storage, data):
    """A number is not a length, and text is not encoded."""
    upload_id = storage.multipart.create("file.bin", WriteOptions())

    with pytest.raises(TypeError, match="bytes-like"):
        storage.multipart.upload_part("file.bin", upload_id, 1, data)
    with pytest.raises(TypeError, match="bytes-like"):
        storage.multipart.put("file.bin", data, WriteOptions())

    assert storage.multipart.list_parts("file.bin", upload_id) == storage.list() == []


def test_prefix_and_directory_are_exclusive(storage):
    """Giving both is a mistake."""
    with pytest.raises(ValueError, match="prefix"):
        storage.list("b", prefix="b/c")
