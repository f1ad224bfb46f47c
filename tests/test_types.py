"""The value types of the storage interface: parsing, validation and formatting."""

import dataclasses
import pickle
from datetime import UTC, datetime, timedelta, timezone

import arrow
import pytest
from hypothesis import given, settings, strategies as st

from flask_storage.types import (
    FileInfo,
    FileMode,
    LinkContext,
    LinkRequest,
    ListEntry,
    PresignedUpload,
    ShareLinkOperation,
    WriteOptions,
    to_utc,
)

READ, WRITE = FileMode.read, FileMode.write
DOWNLOAD, UPLOAD, REMOVE = ShareLinkOperation.download, ShareLinkOperation.upload, ShareLinkOperation.remove
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)

# -- modes ------------------------------------------------------------------------------------------------------------

MODES = {
    "r": READ,
    "rb": READ,
    "br": READ,
    "w": WRITE,
    "wb": WRITE,
    "bw": WRITE,
    "rw": READ | WRITE,
    "wr": READ | WRITE,
    "rwb": READ | WRITE,
    "r+": READ | WRITE,
    "r+b": READ | WRITE,
    "rb+": READ | WRITE,
    "rw+": READ | WRITE,
}

INVALID_MODES = [
    *(
        "",
        "b",
        "+",
        "b+",
        "a",
        "ab",
        "a+",
        "x",
        "xb",
        "x+",
        "w+",
        "w+b",
        "wb+",
        "read",
        "write",
        "rt",
        "wt",
        "t",
        "U",
        "rU",
    ),
    *(
        "R",
        "W",
        "RB",
        "rr",
        "ww",
        "rbb",
        "r++",
        "rwrw",
        " r",
        "r ",
        "r,w",
        "r|w",
        "rwx",
        "ra",
        "\x00",
        "r\n",
        "1",
        "\u0280",
    ),
]


@pytest.mark.parametrize(("text", "mode"), MODES.items())
def test_a_mode_is_parsed_from_its_letters(text, mode):
    """In any order, with or without `b`."""
    assert FileMode.as_mode(text) is mode


@pytest.mark.parametrize("text", INVALID_MODES)
def test_an_unknown_mode_is_refused(text):
    """No unknown letter is ignored: `a` must not truncate, and `x` must not overwrite."""
    with pytest.raises(ValueError, match="unknown file mode"):
        FileMode.as_mode(text)


@pytest.mark.parametrize("mode", [READ, WRITE, READ | WRITE, FileMode(0)])
def test_as_mode_returns_a_mode_unchanged(mode):
    """Every flag, also the empty one."""
    assert FileMode.as_mode(mode) is mode


@pytest.mark.parametrize("value", [None, 1, b"r", ["r"], DOWNLOAD, object()])
def test_only_text_and_modes_are_modes(value):
    """None does not mean a default, and 1 does not mean `read`."""
    with pytest.raises(ValueError, match="accepts only FileMode or str"):
        FileMode.as_mode(value)


@pytest.mark.parametrize(("mode", "text"), [(READ, "rb"), (WRITE, "wb"), (READ | WRITE, "rwb"), (FileMode(0), "b")])
def test_the_text_of_a_mode_is_its_letters(mode, text):
    """As in keg-storage."""
    assert str(mode) == text


@settings(deadline=None)
@given(st.text(alphabet="rwb+axtU ", max_size=5))
def test_the_text_of_a_parsed_mode_parses_to_the_same_mode(text):
    """Checked with generated text."""
    try:
        mode = FileMode.as_mode(text)
    except ValueError:
        assert text not in MODES
    else:
        assert FileMode.as_mode(str(mode)) is mode


# -- operations -------------------------------------------------------------------------------------------------------

OPERATIONS = {
    "download": DOWNLOAD,
    "upload": UPLOAD,
    "remove": REMOVE,
    "d": DOWNLOAD,
    "u": UPLOAD,
    "r": REMOVE,
    "du": DOWNLOAD | UPLOAD,
    "ud": DOWNLOAD | UPLOAD,
    "dr": DOWNLOAD | REMOVE,
    "rd": DOWNLOAD | REMOVE,
    "ur": UPLOAD | REMOVE,
    "ru": UPLOAD | REMOVE,
    "dur": DOWNLOAD | UPLOAD | REMOVE,
    "rud": DOWNLOAD | UPLOAD | REMOVE,
}

INVALID_OPERATIONS = [
    *(
        "",
        "read",
        "write",
        "a",
        "x",
        "w",
        "w+",
        "delete",
        "get",
        "put",
        "down",
        "up",
        "Download",
        "UPLOAD",
        "D",
        "dd",
        "uu",
    ),
    *("dud", "d,u", "d u", " d", "d ", "d|u", "dux", "download,upload", "downloadupload", "rdx", "1", "\x00", "\u0501"),
]


@pytest.mark.parametrize(("text", "operation"), OPERATIONS.items())
def test_an_operation_is_parsed_from_a_word_or_letters(text, operation):
    """`upload` means upload only, although it contains the letters `u` and `d`."""
    assert ShareLinkOperation.as_operation(text) is operation


@pytest.mark.parametrize("text", INVALID_OPERATIONS)
def test_an_unknown_operation_is_refused(text):
    """No unknown letter is ignored: `read` is not `remove`."""
    with pytest.raises(ValueError, match="operation"):
        ShareLinkOperation.as_operation(text)


@pytest.mark.parametrize("operation", [*ShareLinkOperation, DOWNLOAD | REMOVE, DOWNLOAD | UPLOAD | REMOVE])
def test_as_operation_returns_an_operation_unchanged(operation):
    """Single operations and combinations."""
    assert ShareLinkOperation.as_operation(operation) is operation


def test_an_empty_operation_is_refused():
    """A link must allow at least one."""
    with pytest.raises(ValueError, match="at least one"):
        ShareLinkOperation.as_operation(ShareLinkOperation(0))


@pytest.mark.parametrize("value", [None, 1, b"d", ["d"], READ, object()])
def test_only_text_and_operations_are_operations(value):
    """1 does not mean `download`."""
    with pytest.raises(ValueError, match="accepts only ShareLinkOperation or str"):
        ShareLinkOperation.as_operation(value)


@pytest.mark.parametrize("operation", OPERATIONS.values())
def test_the_text_of_an_operation_is_its_letters_in_a_fixed_order(operation):
    """So tokens for the same request are equal; and the text parses to the same operation."""
    printed = str(operation)

    assert printed == "".join(sorted(printed, key="dur".index))
    assert ShareLinkOperation.as_operation(printed) is operation


# -- expiry times -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expire",
    [
        timedelta(hours=1),
        datetime(2026, 11, 20, 13),  # noqa: DTZ001 -- naive on purpose
        datetime(2026, 11, 20, 13, tzinfo=UTC),
        datetime(2026, 11, 20, 14, tzinfo=timezone(timedelta(hours=1))),
        arrow.get("2026-11-20T13:00:00Z"),
        arrow.get("2026-11-20T08:00:00-05:00"),
    ],
    ids=repr,
)
def test_an_expiry_of_every_type_is_converted_to_utc(expire):
    """A naive time means UTC, a timedelta counts from now; the result is an aware datetime in UTC."""
    result = to_utc(expire, now=NOW)

    assert result == datetime(2026, 11, 20, 13, tzinfo=UTC)
    assert type(result) is datetime
    assert result.tzinfo is UTC


@pytest.mark.parametrize(
    "expire",
    [
        timedelta(0),
        timedelta(seconds=-1),
        NOW,
        NOW - timedelta(microseconds=1),
        datetime(2026, 11, 20, 11),  # noqa: DTZ001 -- naive on purpose
        arrow.get("2026-11-20T12:00:00Z"),
    ],
    ids=repr,
)
def test_an_expiry_that_is_not_in_the_future_is_refused(expire):
    """Such a link could never be used."""
    with pytest.raises(ValueError, match="Expiration time is in the past"):
        to_utc(expire, now=NOW)


@pytest.mark.parametrize(
    "expire",
    [
        timedelta.max,
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    ],
    ids=repr,
)
def test_an_expiry_beyond_the_calendar_is_refused(expire):
    """`timedelta.max` from now is not a date, and the last hour of 9999 in another time zone is none in UTC."""
    with pytest.raises(ValueError, match="in the past, or beyond the year 9999"):
        to_utc(expire)


@pytest.mark.parametrize("value", [None, 3600, 3600.0, "2026-11-20", "tomorrow", NOW.date(), NOW.time()], ids=repr)
def test_an_expiry_of_another_type_is_refused(value):
    """A number could mean a time or a duration; the message lists the accepted types."""
    with pytest.raises(TypeError, match=r"datetime, an arrow\.Arrow or a timedelta"):
        to_utc(value, now=NOW)


def test_a_timedelta_counts_from_the_current_time():
    """When `now` is not given."""
    before = datetime.now(UTC)

    result = to_utc(timedelta(hours=1))

    assert before + timedelta(hours=1) <= result <= datetime.now(UTC) + timedelta(hours=1)


# -- listings, options, requests --------------------------------------------------------------------------------------


def test_a_list_entry_with_a_trailing_slash_is_a_directory():
    """The tuple has three fields, as in keg-storage."""
    directory, file = ListEntry("a/", None, 0), ListEntry("a", arrow.get(0), 7)

    assert (directory.is_directory, file.is_directory) == (True, False)
    name, last_modified, size = file
    assert (name, last_modified, size) == ("a", arrow.get(0), 7)


def test_write_options_are_built_from_keywords():
    """Fields that are not given have their default."""
    options = WriteOptions.from_arguments(None, {"content_type": "image/png", "exclusive": True})

    assert options == WriteOptions(content_type="image/png", exclusive=True)


def test_write_options_are_built_from_extra_args():
    """The five keys of keg-storage override keywords; None is ignored."""
    extra_args = {
        "ContentType": "image/png",
        "ContentEncoding": None,
        "CacheControl": "no-cache",
        "ContentDisposition": "inline",
        "Metadata": {"a": "b"},
    }

    options = WriteOptions.from_arguments(extra_args, {"content_type": "text/plain", "content_encoding": "gzip"})

    assert options == WriteOptions(
        content_type="image/png",
        content_encoding="gzip",
        cache_control="no-cache",
        content_disposition="inline",
        metadata={"a": "b"},
    )


def test_unknown_extra_args_are_refused():
    """The message lists the unknown and the known keys."""
    with pytest.raises(ValueError, match=r"unknown extra_args ACL, Tagging: known are CacheControl, Content"):
        WriteOptions.from_arguments({"Tagging": "a=b", "ACL": "public-read", "ContentType": "a/b"}, {})


def test_the_headers_of_write_options_are_those_that_were_given():
    """Metadata is copied."""
    metadata = {"a": "b"}

    headers = WriteOptions(content_type="image/png", metadata=metadata, size=3, exclusive=True).headers
    metadata["c"] = "d"

    assert headers == {"content_type": "image/png", "metadata": {"a": "b"}}
    assert WriteOptions().headers == {}


@pytest.mark.parametrize(
    "value",
    [
        WriteOptions(),
        LinkRequest(operations=DOWNLOAD, expires_at=NOW),
        FileInfo(path="a", size=1, last_modified=arrow.get(0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_immutable(value):
    """They are shared between threads and layers; and they can be pickled."""
    field = dataclasses.fields(value)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
    assert pickle.loads(pickle.dumps(value)) == value


def test_the_repr_of_a_link_context_contains_no_secret():
    """Nor the function that builds URLs."""
    context = LinkContext(profile="docs", secrets=lambda: (b"hunter2",), link_url=lambda token, endpoint: "hunter2")

    assert repr(context).startswith("LinkContext(profile='docs', lifetime=")
    assert "hunter2" not in repr(context)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://files.example.com/bucket/a.txt?X-Amz-Signature=hunter2", "https://files.example.com/…"),
        ("https://files.example.com/links/hunter2", "https://files.example.com/…"),
        ("https://files.example.com?token=hunter2", "https://files.example.com/…"),
        ("/storage/docs?token=hunter2", "/storage/docs/…"),
    ],
)
def test_the_repr_of_an_upload_request_contains_no_credential(url, shown):
    """Neither the signature, which may be in any part of the URL, nor a header or a field."""
    request = PresignedUpload(
        method="PUT", url=url, headers={"X-Key": "hunter2"}, fields={"policy": "hunter2"}, expires_at=NOW
    )

    assert repr(request) == f"PresignedUpload(method='PUT', url='{shown}', expires_at={NOW!r})"
