"""What the public operations of every storage check themselves, before a backend is asked: tested once, in memory."""

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
    """An empty storage with every ability."""
    return MemoryStorage()


@pytest.fixture
def linked(storage):
    """The storage as a profile of an app, with a secret and an address for links."""
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
    """Python's spelling of reading is as good as ours."""
    storage.write("file.bin", b"abc")

    with storage.open("file.bin", mode) as reader:
        assert reader.read() == b"abc"


@pytest.mark.parametrize("mode", ["", "a", "x", "rt", "w+", "rr", "read", None, FileMode(0)])
def test_an_unknown_mode_is_refused(storage, mode):
    """No letter is dropped in silence: appending or creating is not turned into something milder."""
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
    """What has no meaning for a reader is refused, not ignored."""
    storage.write("file.bin", b"abc")

    with pytest.raises(ValueError, match="only for writing"):
        storage.open("file.bin", "r", **arguments)


@pytest.mark.parametrize("text", ["text", None, 5, ["a"]])
def test_text_is_not_bytes(storage, text):
    """What is not bytes is a TypeError, and what was stored stays."""
    storage.write("file.bin", b"kept")

    with pytest.raises(TypeError):
        storage.write("file.bin", text)
    with pytest.raises(TypeError):
        storage.upload(io.StringIO("text"), "file.bin")
    with pytest.raises(TypeError), storage.open("file.bin", "w") as writer:
        writer.write(text)

    assert storage.read("file.bin") == b"kept"


def test_an_unknown_extra_arg_is_refused(storage):
    """What nobody would honour is not swallowed."""
    with pytest.raises(ValueError, match="ACL"):
        storage.upload(io.BytesIO(b"abc"), "file.txt", extra_args={"ACL": "public-read"})

    assert not storage.exists("file.txt")


@pytest.mark.parametrize(
    "metadata",
    [{"Upper": "x"}, {"with space": "x"}, {"1st": "x"}, {"a": "line\nbreak"}, {"a": "x" * 3000}, {"a": 1}],
)
def test_unportable_metadata_is_refused(storage, metadata):
    """Keys and values that would be lost elsewhere are refused here already."""
    storage.write("kept.txt", b"abc", metadata={"probe": "1"})

    with pytest.raises(ValueError, match="metadata"):
        storage.write("file.txt", b"abc", metadata=metadata)

    assert [entry.name for entry in storage.list()] == ["kept.txt"]


@pytest.mark.parametrize("header", ["content_type", "content_encoding", "cache_control", "content_disposition"])
def test_a_header_of_two_lines_is_refused(storage, header):
    """Nobody smuggles a header into a later response."""
    with pytest.raises(ValueError, match=header):
        storage.write("file.txt", b"abc", **{header: "text/plain\r\nX-Evil: 1"})

    assert not storage.exists("file.txt")


@pytest.mark.parametrize("checksum", ["sha256", "sha256:", "crc99:abc", "nonsense"])
def test_an_invalid_checksum_is_refused(storage, checksum):
    """A promise that nobody can check is no promise."""
    with pytest.raises(ValueError, match="checksum"):
        storage.write("file.bin", b"abc", checksum=checksum)

    assert not storage.exists("file.bin")


def test_invalid_prefixes_are_refused(storage):
    """A prefix that no path could have is refused, not searched for."""
    for prefix in ("../", "a/../b", "a//", "a\\", "nul\x00", "\u202e", "lone\ud800", b"bytes", 5, Path("a"), ["a"]):
        with pytest.raises(InvalidPathError):
            storage.list(prefix=prefix)


@pytest.mark.parametrize(
    "operation", ["", "x", "dx", "dd", "read", "write", "Download", ShareLinkOperation(0), None, 1]
)
def test_an_unknown_operation_is_refused(linked, operation):
    """No word is read letter by letter into something that it does not say."""
    with pytest.raises(ValueError, match="operation"):
        linked.link_to("file.txt", operation, _HOUR)


@pytest.mark.parametrize("past", [timedelta(0), timedelta(seconds=-1), datetime(2001, 1, 1, tzinfo=UTC)])
def test_an_expiry_in_the_past_is_refused(linked, past):
    """A link that nobody could use is not made, by any of the verbs."""
    for verb in (
        lambda: linked.link_to("file.txt", "d", past),
        lambda: linked.links_to(["file.txt"], "d", past),
        lambda: linked.upload_request("file.txt", past),
    ):
        with pytest.raises(ValueError, match="past"):
            verb()


@pytest.mark.parametrize("term", ["output_path", "content_type", "content_encoding", "cache_control"])
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\x00b", "a\u2028b", "a\ud800b"], ids=ascii)
def test_a_constraint_of_two_lines_is_refused(linked, term, value):
    """Nothing that becomes a header can hold the end of one."""
    with pytest.raises(ValueError, match="one line"):
        linked.link_to("file.txt", "download", _HOUR, **{term: value})


@pytest.mark.parametrize(
    "terms",
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
def test_invalid_constraints_are_refused(linked, terms):
    """What nobody could honour is refused when the link is made."""
    with pytest.raises(ValueError, match=next(iter(terms))):
        linked.link_to("file.txt", "download", _HOUR, **terms)


@pytest.mark.parametrize("terms", [{"size": 1}, {"max_size": 1}, {"exclusive": True}], ids=str)
def test_upload_constraints_need_an_upload_link(linked, terms):
    """A link that only downloads cannot limit an upload."""
    with pytest.raises(ValueError, match="upload"):
        linked.link_to("file.txt", "d", _HOUR, **terms)


@pytest.mark.parametrize(
    "decided",
    [{"exclusive": True}, {"if_match": "x"}, {"size": 0}, {"checksum": f"sha256:{'0' * 64}"}],
    ids=lambda decided: next(iter(decided)),
)
def test_create_refuses_options_of_complete(storage, decided):
    """A condition that nobody would remember until the end is refused when an upload begins."""
    parts = storage.multipart

    with pytest.raises(ValueError, match="complete"):
        parts.create("file.bin", WriteOptions(**decided))

    assert list(parts.list_uploads()) == []


@pytest.mark.parametrize("number", [0, -1])
def test_parts_are_numbered_from_one(storage, number):
    """Zero and below are no numbers of parts."""
    upload_id = storage.multipart.create("file.bin", WriteOptions())

    with pytest.raises(ValueError, match="numbered"):
        storage.multipart.upload_part("file.bin", upload_id, number, b"x")


def test_prefix_and_directory_are_exclusive(storage):
    """Asking for both is a mistake that is told."""
    with pytest.raises(ValueError, match="prefix"):
        storage.list("b", prefix="b/c")
