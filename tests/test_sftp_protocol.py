"""The SFTP protocol: encoding of requests, decoding of responses, invalid responses, and time-outs."""

import os
import random
import struct
import tracemalloc

import pytest

from flask_storage.backends.sftp.codec import Attributes, pack_string
from flask_storage.backends.sftp.protocol import (
    CLOSE,
    EOF,
    FAILURE,
    FSTAT,
    FXF_READ,
    LSTAT,
    OPENDIR,
    READDIR,
    REALPATH,
    REMOVE,
    SETSTAT,
    STAT,
    ConnectionLostError,
    ProtocolError,
    Session,
    StatusError,
)
from tests.counts import count
from tests.scripted_sftp import (
    ATTRS,
    DATA,
    EXTENDED,
    EXTENDED_REPLY,
    HANDLE,
    LIMITS,
    NAME,
    STATUS,
    Channel,
    Clock,
    Request,
    attributes,
    data,
    handle,
    make_session,
    message,
    names,
    response,
    status,
    version,
)

KIB, MIB = 1 << 10, 1 << 20
MAX_SIZE = 255 * KIB
ALL_FLAGS = 0x8000000F
FIRST = Request(LSTAT, 1, b"")


def assert_raises(error_type, text, operation):
    """Check that an operation raises exactly this type of error, with this text."""
    with pytest.raises(error_type, match=text) as caught:
        operation()
    assert type(caught.value) is error_type


@pytest.fixture
def clock():
    """A clock that advances only while a channel waits."""
    return Clock()


# -- greeting ---------------------------------------------------------------------------------------------------------


def test_extensions_of_the_greeting_are_stored():
    """A newer version than 3 is accepted, since such a server must support version 3."""
    for number in (3, 4, 6, 0xFFFFFFFF):
        session = Session(Channel(greeting=version(number, (b"a@b", b"c"))), 1)
        assert session.extensions == {b"a@b": b"1", b"c": b"1"}
        assert not session.broken


@pytest.mark.parametrize(
    ("greeting", "error_type", "text"),
    [
        (version(2), ProtocolError, "has version 2 of SFTP, and version 3 is needed"),
        (version(0), ProtocolError, "has version 0 of SFTP, and version 3 is needed"),
        (b"Welcome to the machine!\n", ProtocolError, "a login script that prints text breaks SFTP"),
        (b"\n" * 100, ProtocolError, "a login script that prints text breaks SFTP"),
        (message(101, bytes(100)), ProtocolError, "a login script that prints text breaks SFTP"),
        (b"\x00\x00\x00\x04\x02\x00\x00\x00", ProtocolError, "a login script that prints text breaks SFTP"),
        (b"\x00\x00\x00\x00\x02", ProtocolError, "a login script that prints text breaks SFTP"),
        (b"\xff\xff\xff\xff\x02", ProtocolError, "a login script that prints text breaks SFTP"),
        (message(2, struct.pack(">I", 3) + pack_string(b"half")), ProtocolError, "malformed response"),
        (message(2, struct.pack(">II", 3, 999) + b"name"), ProtocolError, "malformed response"),
        (b"", ConnectionLostError, "the server closed the connection"),
        (version()[:7], ConnectionLostError, "the server closed the connection"),
    ],
)
def test_an_invalid_greeting_is_reported(greeting, error_type, text):
    """The message says what to check."""
    channel = Channel(greeting=greeting, closes=True)

    assert_raises(error_type, text, lambda: Session(channel, 1))


def test_a_server_without_a_greeting_raises_a_timeout(clock):
    """After the time-out of the session."""
    channel = Channel(greeting=b"", clock=clock)

    with pytest.raises(TimeoutError):
        Session(channel, 7)

    assert clock.now == 1007


def test_the_number_of_extensions_is_limited():
    """Servers have about ten."""
    session = Session(Channel(greeting=version(extensions=tuple(b"%d" % number for number in range(5000)))), 1)

    assert len(session.extensions) == 64


@pytest.mark.parametrize(
    ("limits", "read", "write"),
    [
        ((256 * KIB, MAX_SIZE, MAX_SIZE, 1000), MAX_SIZE, MAX_SIZE),
        ((256 * KIB, 100 * KIB, 50 * KIB, 0), 100 * KIB, 50 * KIB),
        ((0, 0, 0, 0), 32 * KIB, 32 * KIB),
        ((1 << 63, 1 << 63, (1 << 64) - 1, 0), MAX_SIZE, MAX_SIZE),
        ((256 * KIB, 1, 1, 0), 1, 1),
    ],
)
def test_data_sizes_follow_the_limits_of_the_server(limits, read, write):
    """Without a limit it is what every server accepts; more than fits into a packet is not used."""
    session, _ = make_session(
        lambda request: response(request, EXTENDED_REPLY, struct.pack(">QQQQ", *limits)), extensions=(LIMITS,)
    )

    assert (session.read_size, session.write_size) == (read, write)


@pytest.mark.parametrize(
    "reply",
    [
        lambda request: status(request, FAILURE),
        lambda request: status(request, 0),
        lambda request: response(request, EXTENDED_REPLY, b""),
        lambda request: response(request, EXTENDED_REPLY, bytes(31)),
    ],
    ids=["error status", "success status", "empty", "too short"],
)
def test_without_a_valid_limits_response_the_default_sizes_are_used(reply):
    """The extension was announced, but that is not an error."""
    session, _ = make_session(reply, extensions=(LIMITS,))

    assert (session.read_size, session.write_size, session.broken) == (32 * KIB, 32 * KIB, False)


def test_additional_fields_after_the_limits_are_ignored():
    """A later server may send more."""
    session, _ = make_session(
        lambda request: response(request, EXTENDED_REPLY, struct.pack(">QQQQQ", 1, 1000, 2000, 1, 1)),
        extensions=(LIMITS,),
    )

    assert (session.read_size, session.write_size) == (1000, 2000)


# -- valid responses --------------------------------------------------------------------------------------------------


def test_requests_are_encoded_as_the_protocol_says():
    """Byte by byte."""
    session, channel = make_session()
    for make_request in (
        lambda: session.open(b"/a", FXF_READ, 0o640),
        lambda: session.request(LSTAT, b"/b"),
        lambda: session.read(b"h", 1 << 40, memoryview(bytearray(7))),
        lambda: session.write(b"h", 3, b"xyz"),
        lambda: session.rename(b"/a", b"/b"),
        lambda: session.extended(b"a@b", b"more"),
        lambda: session.request(SETSTAT, b"h", Attributes(size=5, mode=0o600, mtime=9).pack()),
    ):
        make_request()
    session.flush()

    assert [(request.kind, request.number) for request in channel.requests] == [
        *((3, 1), (7, 2), (5, 3), (6, 4), (18, 5), (200, 6), (9, 7))
    ]
    assert [request.body for request in channel.requests] == [
        pack_string(b"/a") + struct.pack(">III", 1, 4, 0o640),
        pack_string(b"/b"),
        pack_string(b"h") + struct.pack(">QI", 1 << 40, 7),
        pack_string(b"h") + struct.pack(">Q", 3) + pack_string(b"xyz"),
        pack_string(b"/a") + pack_string(b"/b"),
        pack_string(b"a@b") + b"more",
        pack_string(b"h") + struct.pack(">IQIII", 0xD, 5, 0o600, 9, 9),
    ]


def test_requests_are_queued_until_a_response_is_waited_for():
    """Or until a packet is full."""
    session, channel = make_session(lambda request: status(request, 0))

    first = session.request(REMOVE, b"/a")
    session.request(REMOVE, b"/b")
    before = len(channel.requests)
    session.wait(first)
    after = len(channel.requests)
    session.write(b"h", 0, bytes(32 * KIB))

    assert (before, after, len(channel.requests)) == (0, 2, 3)
    assert session.outstanding == 2


def test_all_attributes_are_decoded_and_extended_ones_are_ignored():
    """A server may send every attribute, and pairs of its own."""
    pairs = pack_string(b"a") + pack_string(b"b") + pack_string(b"") + pack_string(b"\xff")
    encoded = struct.pack(">IQIIIIII", ALL_FLAGS, 1 << 40, 1001, 1000, 0o100644, 111, 222, 2) + pairs

    def script(request):
        if request.kind == READDIR:
            return names(request, (b"one", encoded), (b"two", attributes(size=5)))
        return response(request, ATTRS, encoded)

    session, _ = make_session(script)

    assert session.wait(session.request(LSTAT, b"/a")) == Attributes(1 << 40, 0o100644, 222, 1001)
    assert session.wait(session.request(READDIR, b"h")) == [
        (b"one", b"long", Attributes(1 << 40, 0o100644, 222, 1001)),
        (b"two", b"long", Attributes(5, 0o100600, 1)),
    ]


def test_missing_attributes_are_none():
    """All of them may be missing."""
    session, _ = make_session(lambda request: response(request, ATTRS, bytes(4)))

    assert session.wait(session.request(LSTAT, b"/a")) == Attributes(None, None, None)


@pytest.mark.parametrize("chunk_size", [1, 3, 1000, 1 << 20])
def test_responses_may_arrive_in_any_order_and_in_pieces(chunk_size):
    """Each request gets its own response, and each byte its position."""
    content = random.Random(3).randbytes(9000)
    received = []

    def script(request):
        received.append(request)
        if len(received) < 10:
            return b""
        random.Random(chunk_size).shuffle(received)
        reply = b""
        for earlier in received:
            if earlier.kind == LSTAT:
                reply += response(earlier, ATTRS, attributes(size=77))
                continue
            offset, length = struct.unpack(">QI", earlier.body[5:])
            reply += data(earlier, content[offset : offset + length])
        return reply

    session = Session(Channel(script, chunk_size=chunk_size), 1)
    buffer = bytearray(9000)
    view = memoryview(buffer)
    path_stat = session.request(LSTAT, b"/a")
    reads = [session.read(b"h", start, view[start : start + 1000]) for start in range(0, 9000, 1000)]

    counts = session.wait_for_all(reads)

    assert counts == [1000] * 9
    assert buffer == content
    assert session.wait(path_stat).size == 77
    assert session.outstanding == 0


def test_a_short_read_returns_its_number_of_bytes():
    """It is not the end of the file; the rest of the buffer stays as it was."""
    session, _ = make_session(lambda request: response(request, DATA, pack_string(b"abc") + b"more"))
    buffer = bytearray(b"-" * 10)

    assert session.wait(session.read(b"h", 0, memoryview(buffer))) == 3
    assert buffer == b"abc-------"
    assert session.wait(session.read(b"h", 0, memoryview(buffer))) == 3


def test_an_error_status_does_not_end_the_session():
    """Old servers send it without a message."""
    replies = {
        b"/message": lambda request: status(request, FAILURE, b"disk on fire"),
        b"/latin": lambda request: status(request, FAILURE, b"caf\xe9"),
        b"/short": lambda request: response(request, STATUS, struct.pack(">I", EOF)),
        b"/odd": lambda request: response(request, STATUS, struct.pack(">I", 4000) + b"\0\0"),
        b"/done": lambda request: response(request, STATUS, bytes(4)),
    }
    session, _ = make_session(lambda request: replies[request.texts[0]](request))
    requests = [session.request(REMOVE, path) for path in replies]

    errors = []
    for request in requests[:-1]:
        with pytest.raises(StatusError) as caught:
            session.wait(request)
        errors.append((caught.value.code, caught.value.text))

    assert errors == [(FAILURE, "disk on fire"), (FAILURE, "caf\ufffd"), (EOF, ""), (4000, "")]
    assert session.wait(requests[-1]) is None
    with pytest.raises(StatusError, match="status 4: disk on fire"):
        session.wait(requests[0])
    assert not session.broken


def test_wait_for_all_raises_the_first_error_after_all_responses():
    """So no response is left that could be taken for another one."""
    session, _ = make_session(
        lambda request: status(request, 0 if request.number > 2 else FAILURE, b"%d" % request.number)
    )

    with pytest.raises(StatusError, match="status 4: 1"):
        session.wait_for_all([session.request(REMOVE, b"/a") for _ in range(5)])

    assert session.outstanding == 0
    assert session.wait(session.request(REMOVE, b"/a")) is None


def test_request_ids_wrap_around():
    """After four billion requests."""
    session, channel = make_session(lambda request: status(request, 0))
    session._request_id = 0xFFFFFFFE

    session.wait_for_all([session.request(REMOVE, b"/a") for _ in range(3)])

    assert [request.number for request in channel.requests] == [0xFFFFFFFF, 0, 1]


# -- invalid responses ------------------------------------------------------------------------------------------------

REQUESTS = {
    "open": (lambda session: session.open(b"/a", FXF_READ), {HANDLE}),
    "opendir": (lambda session: session.request(OPENDIR, b"/a"), {HANDLE}),
    "read": (lambda session: session.read(b"h", 0, memoryview(bytearray(10))), {DATA}),
    "readdir": (lambda session: session.request(READDIR, b"h"), {NAME}),
    "realpath": (lambda session: session.request(REALPATH, b"/a"), {NAME}),
    "lstat": (lambda session: session.request(LSTAT, b"/a"), {ATTRS}),
    "stat": (lambda session: session.request(STAT, b"/a"), {ATTRS}),
    "fstat": (lambda session: session.request(FSTAT, b"h"), {ATTRS}),
    "close": (lambda session: session.request(CLOSE, b"h"), {STATUS}),
    "write": (lambda session: session.write(b"h", 0, b"1"), {STATUS}),
    "extended": (lambda session: session.extended(b"a@b"), {EXTENDED_REPLY, STATUS}),
}
RESPONSES = {
    STATUS: lambda request: status(request, 0),
    HANDLE: handle,
    DATA: lambda request: data(request, b"1"),
    NAME: lambda request: names(request, (b"a", attributes())),
    ATTRS: lambda request: response(request, ATTRS, attributes()),
    EXTENDED_REPLY: lambda request: response(request, EXTENDED_REPLY, b"1"),
    150: lambda request: response(request, 150, b""),
    EXTENDED: lambda request: response(request, EXTENDED, b""),
}


@pytest.mark.parametrize("kind", RESPONSES)
@pytest.mark.parametrize("operation", REQUESTS)
def test_a_response_of_the_wrong_type_ends_the_session(operation, kind):
    """A name is not a handle, and a success status is not a value."""
    make_request, valid_kinds = REQUESTS[operation]
    session, _ = make_session(RESPONSES[kind])

    if kind in valid_kinds:
        session.wait(make_request(session))
        return
    assert_raises(
        ProtocolError,
        "does not match the request|success status instead of a value",
        lambda: session.wait(make_request(session)),
    )

    assert session.broken


def _too_many(request):
    return response(request, NAME, struct.pack(">I", 0xFFFFFFFF) + pack_string(b"a") + pack_string(b"") + attributes())


MALFORMED = {
    "unknown request id": (LSTAT, lambda request: message(ATTRS, struct.pack(">I", 4711) + attributes())),
    "request id used twice": (LSTAT, lambda request: status(request, FAILURE) * 2),
    "too long": (LSTAT, lambda request: struct.pack(">IBI", 5 * MIB, ATTRS, request.number)),
    "far too long": (LSTAT, lambda request: struct.pack(">IBI", 0xFFFFFFFF, ATTRS, request.number)),
    "too short": (LSTAT, lambda request: struct.pack(">IBI", 4, ATTRS, request.number)),
    "length zero": (LSTAT, lambda request: struct.pack(">IBI", 0, ATTRS, request.number)),
    "empty status": (REMOVE, lambda request: response(request, STATUS, b"")),
    "cut status": (REMOVE, lambda request: response(request, STATUS, bytes(3))),
    "wrong length of message": (REMOVE, lambda request: response(request, STATUS, struct.pack(">II", 4, 1000) + b"no")),
    "empty handle": (OPENDIR, lambda request: response(request, HANDLE, b"")),
    "wrong length of handle": (OPENDIR, lambda request: response(request, HANDLE, struct.pack(">I", 5) + b"1234")),
    "largest length of handle": (OPENDIR, lambda request: response(request, HANDLE, b"\xff\xff\xff\xff1234")),
    "empty attributes": (LSTAT, lambda request: response(request, ATTRS, b"")),
    "cut attributes": (LSTAT, lambda request: response(request, ATTRS, attributes()[:-1])),
    "attributes of all flags": (LSTAT, lambda request: response(request, ATTRS, b"\xff\xff\xff\xff")),
    "wrong count of pairs": (
        LSTAT,
        lambda request: response(request, ATTRS, struct.pack(">II", 0x80000000, 0xFFFFFFFF)),
    ),
    "half a pair": (
        LSTAT,
        lambda request: response(request, ATTRS, struct.pack(">II", 0x80000000, 1) + pack_string(b"a")),
    ),
    "empty names": (READDIR, lambda request: response(request, NAME, b"")),
    "wrong count of names": (READDIR, _too_many),
    "wrong length of name": (READDIR, lambda request: response(request, NAME, struct.pack(">II", 1, 1 << 31))),
    "no path": (REALPATH, names),
    "two paths": (REALPATH, lambda request: names(request, (b"a", attributes()), (b"b", attributes()))),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_response_ends_the_session(case):
    """It is reported, and later responses are not read."""
    kind, reply = MALFORMED[case]
    session, _ = make_session(reply)

    def make_requests():
        first, second = session.request(kind, b"/a"), session.request(kind, b"/b")
        for request in (first, second):
            try:
                session.wait(request)
            except StatusError:
                continue

    assert_raises(ProtocolError, "malformed response|response without a request|resolved one path", make_requests)

    assert session.broken
    assert session.outstanding == 0


@pytest.mark.parametrize(
    "body",
    [
        pack_string(bytes(11)),
        struct.pack(">I", 9) + bytes(3),
        struct.pack(">I", 0xFFFFFFFF) + bytes(10),
        b"",
        b"\0\0\0",
    ],
    ids=["more than requested", "less than announced", "largest length", "empty", "no length"],
)
def test_excess_data_is_not_written_outside_the_buffer(body):
    """It would overwrite the memory beside the buffer."""
    session, _ = make_session(lambda request: response(request, DATA, body))
    buffer = bytearray(b"-" * 30)

    assert_raises(
        ProtocolError,
        "more bytes than were requested|malformed response|does not match the request",
        lambda: session.wait(session.read(b"h", 0, memoryview(buffer)[10:20])),
    )

    assert buffer == b"-" * 30
    assert session.broken


def test_lengths_in_responses_cannot_exhaust_the_memory():
    """A length is not trusted before its bytes have arrived, and the size of a response is limited."""
    tracemalloc.start()
    try:
        for kind, reply in MALFORMED.values():
            session, _ = make_session(reply)
            with pytest.raises((ProtocolError, StatusError)):
                session.wait_for_all([session.request(kind, b"/a"), session.request(kind, b"/b")])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 6 * MIB


def test_random_bytes_raise_only_the_errors_of_the_session():
    """Whatever a broken server sends, callers see the documented errors."""
    rng = random.Random(17)
    outcomes = set()

    for _ in range(count(2000, 50_000)):
        noise = bytearray(response(FIRST, rng.choice([*RESPONSES]), rng.randbytes(rng.randrange(60))))
        if rng.random() < 0.5:
            noise[rng.randrange(len(noise))] ^= 1 << rng.randrange(8)
        channel = Channel(greeting=version() + noise, closes=True)
        session = Session(channel, 1)
        pending = REQUESTS[rng.choice([*REQUESTS])][0](session)
        try:
            session.wait(pending)
        except (ProtocolError, StatusError, ConnectionLostError) as error:
            outcomes.add((type(error), session.broken))

    assert outcomes == {(ProtocolError, True), (ConnectionLostError, True), (StatusError, False)}


# -- closed sessions --------------------------------------------------------------------------------------------------


def test_a_closed_session_raises_and_sends_nothing():
    """Neither earlier requests nor new ones are waited for."""
    session, channel = make_session()
    earlier = session.request(LSTAT, b"/a")
    session.close()
    session.close()

    for operation in (
        lambda: session.request(LSTAT, b"/a"),
        lambda: session.open(b"/a", FXF_READ),
        lambda: session.wait(earlier),
        session.flush,
    ):
        assert_raises(ConnectionLostError, "the session is closed", operation)
    assert (channel.requests, channel.is_closed, session.outstanding) == ([], False, 0)
    session.close_channel()
    assert channel.is_closed


def test_the_child_of_a_fork_sends_nothing_on_its_parents_connection(monkeypatch):
    """Not even that the channel is closed."""
    session, channel = make_session()
    pending = session.request(LSTAT, b"/a")
    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert_raises(ConnectionLostError, "belongs to the parent of this process", lambda: session.wait(pending))
    session.close_channel()

    assert (channel.requests, channel.is_closed) == ([], False)


def test_a_response_that_arrived_is_returned_after_the_session_is_closed():
    """The value is stored with the request."""
    session, _ = make_session(lambda request: response(request, ATTRS, attributes(size=5)))
    first, second = session.request(LSTAT, b"/a"), session.request(LSTAT, b"/b")
    session.wait_for_all([first, second])
    session.close()

    assert session.wait(first).size == 5


@pytest.mark.parametrize("cut", [0, 1, 8, 9, 20])
def test_a_server_that_closes_the_channel_raises_connection_lost(cut):
    """Before a response or within one."""
    session, channel = make_session(lambda request: response(request, ATTRS, attributes())[:cut])
    channel.closes = True

    assert_raises(
        ConnectionLostError, "the server closed the connection", lambda: session.wait(session.request(LSTAT, b"/a"))
    )
    assert session.broken


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (OSError("Socket is closed"), ConnectionLostError),
        (ConnectionResetError("reset"), ConnectionLostError),
        (EOFError(), ConnectionLostError),
        (TimeoutError(), TimeoutError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["send", "recv"])
def test_an_error_of_the_channel_ends_the_session(monkeypatch, method, error, error_type):
    """Also an interrupt: half a message may have been sent."""
    session, channel = make_session()

    def fail(_):
        raise error

    monkeypatch.setattr(channel, method, fail)
    with pytest.raises(error_type):
        session.wait(session.request(LSTAT, b"/a"))

    assert session.broken


def test_a_channel_that_sends_no_byte_has_ended(monkeypatch):
    """That is how paramiko reports a closed channel."""
    session, channel = make_session()
    monkeypatch.setattr(channel, "send", lambda _: 0)

    assert_raises(
        ConnectionLostError, "the server closed the connection", lambda: session.write(b"h", 0, bytes(40 * KIB))
    )
    assert session.broken


def test_an_error_while_closing_the_channel_is_ignored(monkeypatch):
    """The connection may have ended long before."""
    session, channel = make_session()

    def fail():
        raise OSError("gone")

    monkeypatch.setattr(channel, "close", fail)
    session.close_channel()

    assert session.broken


# -- time-outs --------------------------------------------------------------------------------------------------------


def test_a_missing_response_raises_a_timeout(clock):
    """After the time-out of the session, and the additional one for a slow disk."""
    for extra_timeout in (0, 100):
        channel = Channel(clock=clock)
        session = Session(channel, 7)
        session.extra_timeout = extra_timeout
        started_at = clock.now

        with pytest.raises(TimeoutError):
            session.wait(session.request(LSTAT, b"/a"))

        assert clock.now - started_at == 7 + extra_timeout
        assert session.broken


def test_a_slow_response_is_waited_for_while_data_arrives(clock):
    """The time-out starts again whenever data arrives."""
    session = Session(Channel(lambda request: data(request, bytes(255 * KIB)), clock=clock), 7)
    session._channel._chunk_size, session._channel._delay = 32 * KIB, 2
    started_at = clock.now

    for _ in range(3):
        assert session.wait(session.read(b"h", 0, memoryview(bytearray(255 * KIB)))) == 255 * KIB

    assert clock.now - started_at > 40


def test_a_server_that_accepts_no_data_raises_a_timeout(clock):
    """The write would never end."""
    session = Session(Channel(clock=clock), 7)
    session._channel._delay = 8
    started_at = clock.now

    with pytest.raises(TimeoutError):
        session.write(b"h", 0, bytes(200 * KIB))

    assert clock.now - started_at == 7
    assert session.broken


def test_a_server_that_accepts_data_slowly_is_written_to(clock):
    """The time-out starts again whenever the server accepts data."""
    session = Session(Channel(lambda request: status(request, 0), clock=clock), 7)
    session._channel._chunk_size, session._channel._delay = 24 * KIB, 1
    started_at = clock.now

    session.wait(session.write(b"h", 0, bytes(255 * KIB)))

    assert clock.now - started_at > 10


def test_each_response_has_its_own_timeout(clock):
    """A server that is slow for every request is waited for."""
    channel = Channel(lambda request: response(request, ATTRS, attributes(size=5)), clock=clock, delay=5)
    session = Session(channel, 7)

    for _ in range(3):
        assert session.wait(session.request(LSTAT, b"/a")).size == 5
    assert clock.now >= 1015
