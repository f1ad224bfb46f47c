"""The words that travel through the wall: what is parsed, what is refused, what is printed."""

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

NO_MODES = [
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
def test_a_mode_is_read_from_its_letters(text, mode):
    """In any order, with `b` or without."""
    assert FileMode.as_mode(text) is mode


@pytest.mark.parametrize("text", NO_MODES)
def test_an_unknown_mode_is_refused(text):
    """A letter that we do not know never turns into something milder: `a` does not truncate, `x` does not replace."""
    with pytest.raises(ValueError, match="unknown file mode"):
        FileMode.as_mode(text)


@pytest.mark.parametrize("mode", [READ, WRITE, READ | WRITE, FileMode(0)])
def test_a_mode_is_a_mode(mode):
    """What is one already is returned as it is."""
    assert FileMode.as_mode(mode) is mode


@pytest.mark.parametrize("thing", [None, 1, b"r", ["r"], DOWNLOAD, object()])
def test_only_text_and_modes_are_modes(thing):
    """None is not "the default", and 1 is not `read`."""
    with pytest.raises(ValueError, match="accepts only FileMode or str"):
        FileMode.as_mode(thing)


@pytest.mark.parametrize(("mode", "text"), [(READ, "rb"), (WRITE, "wb"), (READ | WRITE, "rwb"), (FileMode(0), "b")])
def test_a_mode_prints_as_its_letters(mode, text):
    """As keg-storage prints them."""
    assert str(mode) == text


@settings(deadline=None)
@given(st.text(alphabet="rwb+axtU ", max_size=5))
def test_what_parses_as_a_mode_prints_as_one_that_parses(text):
    """The letters that come out mean what went in."""
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

NO_OPERATIONS = [
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
def test_an_operation_is_read_from_a_word_or_from_letters(text, operation):
    """`upload` is upload and nothing else, though there are a `u` and a `d` in it."""
    assert ShareLinkOperation.as_operation(text) is operation


@pytest.mark.parametrize("text", NO_OPERATIONS)
def test_an_unknown_operation_is_refused(text):
    """`read` is not `remove`, and `write` is nothing: no letter is passed over."""
    with pytest.raises(ValueError, match="operation"):
        ShareLinkOperation.as_operation(text)


@pytest.mark.parametrize("operation", [*ShareLinkOperation, DOWNLOAD | REMOVE, DOWNLOAD | UPLOAD | REMOVE])
def test_an_operation_is_an_operation(operation):
    """What is one already is returned as it is."""
    assert ShareLinkOperation.as_operation(operation) is operation


def test_a_link_for_nothing_is_refused():
    """No operation at all is no operation."""
    with pytest.raises(ValueError, match="at least one"):
        ShareLinkOperation.as_operation(ShareLinkOperation(0))


@pytest.mark.parametrize("thing", [None, 1, b"d", ["d"], READ, object()])
def test_only_text_and_operations_are_operations(thing):
    """1 is not `download`."""
    with pytest.raises(ValueError, match="accepts only ShareLinkOperation or str"):
        ShareLinkOperation.as_operation(thing)


@pytest.mark.parametrize("operation", OPERATIONS.values())
def test_an_operation_prints_as_letters_in_one_order(operation):
    """So that two tokens for the same thing are equal; and what is printed can be read again."""
    printed = str(operation)

    assert printed == "".join(sorted(printed, key="dur".index))
    assert ShareLinkOperation.as_operation(printed) is operation


# -- moments ----------------------------------------------------------------------------------------------------------


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
def test_an_expiry_is_understood_in_every_form(expire):
    """Naive means UTC, a duration counts from now, an Arrow is what it shows; what comes out is aware and in UTC."""
    moment = to_utc(expire, now=NOW)

    assert moment == datetime(2026, 11, 20, 13, tzinfo=UTC)
    assert type(moment) is datetime
    assert moment.tzinfo is UTC


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
    """A link that nobody could use is a mistake, not a link."""
    with pytest.raises(ValueError, match="Expiration time is in the past"):
        to_utc(expire, now=NOW)


def test_an_expiry_beyond_the_calendar_is_refused():
    """`timedelta.max` is no date."""
    with pytest.raises(ValueError, match="beyond the year 9999"):
        to_utc(timedelta.max)


@pytest.mark.parametrize("thing", [None, 3600, 3600.0, "2026-11-20", "tomorrow", NOW.date(), NOW.time()], ids=repr)
def test_an_expiry_of_another_type_is_refused(thing):
    """A number could mean a moment or a duration; the message says what to give."""
    with pytest.raises(TypeError, match=r"datetime, an arrow\.Arrow or a timedelta"):
        to_utc(thing, now=NOW)


def test_an_expiry_counts_from_the_present():
    """Without `now` the clock is asked."""
    before = datetime.now(UTC)

    moment = to_utc(timedelta(hours=1))

    assert before + timedelta(hours=1) <= moment <= datetime.now(UTC) + timedelta(hours=1)


# -- listings, options, requests --------------------------------------------------------------------------------------


def test_a_listing_tells_folders_by_their_slash():
    """The tuple stays three fields, as in keg-storage."""
    folder, file = ListEntry("a/", None, 0), ListEntry("a", arrow.get(0), 7)

    assert (folder.is_directory, file.is_directory) == (True, False)
    name, last_modified, size = file
    assert (name, last_modified, size) == ("a", arrow.get(0), 7)


def test_options_come_from_keywords():
    """What is not given stays at its default."""
    options = WriteOptions.from_arguments(None, {"content_type": "image/png", "exclusive": True})

    assert options == WriteOptions(content_type="image/png", exclusive=True)


def test_options_come_from_extra_args_of_keg_storage():
    """Its five keys mean our fields; one that is None means nothing, and they win over keywords."""
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
    """Nothing is dropped in silence: the message names what is unknown and what is known."""
    with pytest.raises(ValueError, match=r"unknown extra_args ACL, Tagging: known are CacheControl, Content"):
        WriteOptions.from_arguments({"Tagging": "a=b", "ACL": "public-read", "ContentType": "a/b"}, {})


def test_options_name_what_is_kept_beside_the_content():
    """Only what was given, and metadata as a copy."""
    metadata = {"a": "b"}

    kept = WriteOptions(content_type="image/png", metadata=metadata, size=3, exclusive=True).headers
    metadata["c"] = "d"

    assert kept == {"content_type": "image/png", "metadata": {"a": "b"}}
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
def test_values_do_not_change(value):
    """They are handed through threads and layers: nobody can change one under somebody else's feet."""
    field = dataclasses.fields(value)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
    assert pickle.loads(pickle.dumps(value)) == value


def test_a_binding_prints_no_secret():
    """Neither the secrets nor what could lead to them."""
    binding = LinkContext(profile="docs", secrets=lambda: (b"hunter2",), link_url=lambda token, endpoint: "hunter2")

    assert repr(binding) == "LinkContext(profile='docs', strict=True)"
