"""SFTP as it travels: every answer that makes sense, in any order and any pieces, and a server that talks nonsense."""

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
    answer,
    attributes,
    data,
    handle,
    message,
    names,
    session,
    status,
    version,
)

KIB, MIB = 1 << 10, 1 << 20
MOST = 255 * KIB
ALL_FLAGS = 0x8000000F
FIRST = Request(LSTAT, 1, b"")


def refused(kind, text, deed):
    """Do what must be refused with these words."""
    with pytest.raises(kind, match=text) as caught:
        deed()
    assert type(caught.value) is kind


@pytest.fixture
def clock():
    """A time that goes on only where something waits."""
    return Clock()


# -- the first words --------------------------------------------------------------------------------------------------


def test_a_server_tells_what_it_can_do():
    """Its extensions are kept; a newer version than ours is fine, for it has to speak ours."""
    for number in (3, 4, 6, 0xFFFFFFFF):
        made = Session(Channel(hello=version(number, (b"a@b", b"c"))), 1)
        assert made.extensions == {b"a@b": b"1", b"c": b"1"}
        assert not made.broken


@pytest.mark.parametrize(
    ("hello", "kind", "text"),
    [
        (version(2), ProtocolError, "version 2 of SFTP, which is too old"),
        (version(0), ProtocolError, "version 0 of SFTP, which is too old"),
        (b"Welcome to the machine!\n", ProtocolError, "a login that prints text breaks SFTP"),
        (b"\n" * 100, ProtocolError, "a login that prints text breaks SFTP"),
        (message(101, bytes(100)), ProtocolError, "a login that prints text breaks SFTP"),
        (b"\x00\x00\x00\x04\x02\x00\x00\x00", ProtocolError, "a login that prints text breaks SFTP"),
        (b"\x00\x00\x00\x00\x02", ProtocolError, "a login that prints text breaks SFTP"),
        (b"\xff\xff\xff\xff\x02", ProtocolError, "a login that prints text breaks SFTP"),
        (message(2, struct.pack(">I", 3) + pack_string(b"half")), ProtocolError, "an answer makes no sense"),
        (message(2, struct.pack(">II", 3, 999) + b"name"), ProtocolError, "an answer makes no sense"),
        (b"", ConnectionLostError, "the server ended the connection"),
        (version()[:7], ConnectionLostError, "the server ended the connection"),
    ],
)
def test_what_is_no_server_of_sftp_is_told(hello, kind, text):
    """In words that say what to look at."""
    channel = Channel(hello=hello, ends=True)

    refused(kind, text, lambda: Session(channel, 1))


def test_a_server_that_says_nothing_is_given_up(clock):
    """After as long as the caller wants to wait."""
    channel = Channel(hello=b"", clock=clock)

    with pytest.raises(TimeoutError):
        Session(channel, 7)

    assert clock.now == 1007


def test_of_endless_extensions_some_are_kept():
    """Nobody has that many."""
    made = Session(Channel(hello=version(extensions=tuple(b"%d" % number for number in range(5000)))), 1)

    assert len(made.extensions) == 64


@pytest.mark.parametrize(
    ("limits", "read", "write"),
    [
        ((256 * KIB, MOST, MOST, 1000), MOST, MOST),
        ((256 * KIB, 100 * KIB, 50 * KIB, 0), 100 * KIB, 50 * KIB),
        ((0, 0, 0, 0), 32 * KIB, 32 * KIB),
        ((1 << 63, 1 << 63, (1 << 64) - 1, 0), MOST, MOST),
        ((256 * KIB, 1, 1, 0), 1, 1),
    ],
)
def test_a_server_tells_how_much_it_takes_at_once(limits, read, write):
    """None is what every server takes, and more than fits into our own packets is not used."""
    made, _ = session(
        lambda request: answer(request, EXTENDED_REPLY, struct.pack(">QQQQ", *limits)), extensions=(LIMITS,)
    )

    assert (made.read_size, made.write_size) == (read, write)


@pytest.mark.parametrize(
    "said",
    [
        lambda request: status(request, FAILURE),
        lambda request: status(request, 0),
        lambda request: answer(request, EXTENDED_REPLY, b""),
        lambda request: answer(request, EXTENDED_REPLY, bytes(31)),
    ],
    ids=["no", "done", "nothing", "too little"],
)
def test_a_server_that_does_not_tell_its_limits_gets_what_every_server_takes(said):
    """It said that it would, but that is no trouble."""
    made, _ = session(said, extensions=(LIMITS,))

    assert (made.read_size, made.write_size, made.broken) == (32 * KIB, 32 * KIB, False)


def test_what_comes_after_the_limits_is_none_of_ours():
    """A later server may have more to tell."""
    made, _ = session(
        lambda request: answer(request, EXTENDED_REPLY, struct.pack(">QQQQQ", 1, 1000, 2000, 1, 1)),
        extensions=(LIMITS,),
    )

    assert (made.read_size, made.write_size) == (1000, 2000)


# -- answers that make sense ------------------------------------------------------------------------------------------


def test_what_is_asked_looks_as_the_protocol_has_it():
    """Byte by byte."""
    made, channel = session()
    for ask in (
        lambda: made.open(b"/a", FXF_READ, 0o640),
        lambda: made.request(LSTAT, b"/b"),
        lambda: made.read(b"h", 1 << 40, memoryview(bytearray(7))),
        lambda: made.write(b"h", 3, b"xyz"),
        lambda: made.rename(b"/a", b"/b"),
        lambda: made.extended(b"a@b", b"more"),
        lambda: made.request(SETSTAT, b"h", Attributes(size=5, mode=0o600, mtime=9).pack()),
    ):
        ask()
    made.flush()

    assert [(request.kind, request.number) for request in channel.asked] == [
        *((3, 1), (7, 2), (5, 3), (6, 4), (18, 5), (200, 6), (9, 7))
    ]
    assert [request.body for request in channel.asked] == [
        pack_string(b"/a") + struct.pack(">III", 1, 4, 0o640),
        pack_string(b"/b"),
        pack_string(b"h") + struct.pack(">QI", 1 << 40, 7),
        pack_string(b"h") + struct.pack(">Q", 3) + pack_string(b"xyz"),
        pack_string(b"/a") + pack_string(b"/b"),
        pack_string(b"a@b") + b"more",
        pack_string(b"h") + struct.pack(">IQIII", 0xD, 5, 0o600, 9, 9),
    ]


def test_what_is_asked_waits_for_company():
    """Requests go together, until somebody waits, or a packet is full."""
    made, channel = session(lambda request: status(request, 0))

    first = made.request(REMOVE, b"/a")
    made.request(REMOVE, b"/b")
    before = len(channel.asked)
    made.wait(first)
    after = len(channel.asked)
    made.write(b"h", 0, bytes(32 * KIB))

    assert (before, after, len(channel.asked)) == (0, 2, 3)
    assert made.outstanding == 2


def test_every_attribute_is_taken_and_others_are_passed_over():
    """A server may tell all that there is, with pairs of its own."""
    pairs = pack_string(b"a") + pack_string(b"b") + pack_string(b"") + pack_string(b"\xff")
    told = struct.pack(">IQIIIIII", ALL_FLAGS, 1 << 40, 1001, 1000, 0o100644, 111, 222, 2) + pairs

    def script(request):
        if request.kind == READDIR:
            return names(request, (b"one", told), (b"two", attributes(size=5)))
        return answer(request, ATTRS, told)

    made, _ = session(script)

    assert made.wait(made.request(LSTAT, b"/a")) == Attributes(1 << 40, 0o100644, 222, 1001)
    assert made.wait(made.request(READDIR, b"h")) == [
        (b"one", b"long", Attributes(1 << 40, 0o100644, 222, 1001)),
        (b"two", b"long", Attributes(5, 0o100600, 1)),
    ]


def test_what_a_server_does_not_tell_is_unknown():
    """All of it may be missing."""
    made, _ = session(lambda request: answer(request, ATTRS, bytes(4)))

    assert made.wait(made.request(LSTAT, b"/a")) == Attributes(None, None, None)


@pytest.mark.parametrize("piece", [1, 3, 1000, 1 << 20])
def test_answers_come_in_any_order_and_any_pieces(piece):
    """Each request gets its own, and each byte its place."""
    content = random.Random(3).randbytes(9000)
    held = []

    def script(request):
        held.append(request)
        if len(held) < 10:
            return b""
        random.Random(piece).shuffle(held)
        said = b""
        for one in held:
            if one.kind == LSTAT:
                said += answer(one, ATTRS, attributes(size=77))
                continue
            offset, length = struct.unpack(">QI", one.body[5:])
            said += data(one, content[offset : offset + length])
        return said

    made = Session(Channel(script, piece=piece), 1)
    place = bytearray(9000)
    view = memoryview(place)
    about = made.request(LSTAT, b"/a")
    asked = [made.read(b"h", start, view[start : start + 1000]) for start in range(0, 9000, 1000)]

    counts = made.wait_for_all(asked)

    assert counts == [1000] * 9
    assert place == content
    assert made.wait(about).size == 77
    assert made.outstanding == 0


def test_fewer_bytes_than_were_asked_for_are_told():
    """A short read is no end; nothing behind them is touched, and what else is in the answer is passed over."""
    made, _ = session(lambda request: answer(request, DATA, pack_string(b"abc") + b"more"))
    place = bytearray(b"-" * 10)

    assert made.wait(made.read(b"h", 0, memoryview(place))) == 3
    assert place == b"abc-------"
    assert made.wait(made.read(b"h", 0, memoryview(place))) == 3


def test_a_no_is_an_answer_like_any_other():
    """Old servers leave its words out; the session goes on."""
    said = {
        b"/words": lambda request: status(request, FAILURE, b"disk on fire"),
        b"/latin": lambda request: status(request, FAILURE, b"caf\xe9"),
        b"/short": lambda request: answer(request, STATUS, struct.pack(">I", EOF)),
        b"/odd": lambda request: answer(request, STATUS, struct.pack(">I", 4000) + b"\0\0"),
        b"/done": lambda request: answer(request, STATUS, bytes(4)),
    }
    made, _ = session(lambda request: said[request.texts[0]](request))
    asked = [made.request(REMOVE, path) for path in said]

    noes = []
    for one in asked[:-1]:
        with pytest.raises(StatusError) as caught:
            made.wait(one)
        noes.append((caught.value.code, caught.value.text))

    assert noes == [(FAILURE, "disk on fire"), (FAILURE, "caf\ufffd"), (EOF, ""), (4000, "")]
    assert made.wait(asked[-1]) is None
    with pytest.raises(StatusError, match="status 4: disk on fire"):
        made.wait(asked[0])
    assert not made.broken


def test_of_several_answers_all_are_here_before_the_first_no_is_raised():
    """Nothing is left to come that would be taken for something else."""
    made, _ = session(lambda request: status(request, 0 if request.number > 2 else FAILURE, b"%d" % request.number))

    with pytest.raises(StatusError, match="status 4: 1"):
        made.wait_for_all([made.request(REMOVE, b"/a") for _ in range(5)])

    assert made.outstanding == 0
    assert made.wait(made.request(REMOVE, b"/a")) is None


def test_numbers_of_requests_begin_anew():
    """After four billion of them."""
    made, channel = session(lambda request: status(request, 0))
    made._request_id = 0xFFFFFFFE

    made.wait_for_all([made.request(REMOVE, b"/a") for _ in range(3)])

    assert [request.number for request in channel.asked] == [0xFFFFFFFF, 0, 1]


# -- nonsense ---------------------------------------------------------------------------------------------------------

ASKED = {
    "open": (lambda made: made.open(b"/a", FXF_READ), {HANDLE}),
    "opendir": (lambda made: made.request(OPENDIR, b"/a"), {HANDLE}),
    "read": (lambda made: made.read(b"h", 0, memoryview(bytearray(10))), {DATA}),
    "readdir": (lambda made: made.request(READDIR, b"h"), {NAME}),
    "realpath": (lambda made: made.request(REALPATH, b"/a"), {NAME}),
    "lstat": (lambda made: made.request(LSTAT, b"/a"), {ATTRS}),
    "stat": (lambda made: made.request(STAT, b"/a"), {ATTRS}),
    "fstat": (lambda made: made.request(FSTAT, b"h"), {ATTRS}),
    "close": (lambda made: made.request(CLOSE, b"h"), {STATUS}),
    "write": (lambda made: made.write(b"h", 0, b"1"), {STATUS}),
    "extended": (lambda made: made.extended(b"a@b"), {EXTENDED_REPLY, STATUS}),
}
SAID = {
    STATUS: lambda request: status(request, 0),
    HANDLE: handle,
    DATA: lambda request: data(request, b"1"),
    NAME: lambda request: names(request, (b"a", attributes())),
    ATTRS: lambda request: answer(request, ATTRS, attributes()),
    EXTENDED_REPLY: lambda request: answer(request, EXTENDED_REPLY, b"1"),
    150: lambda request: answer(request, 150, b""),
    EXTENDED: lambda request: answer(request, EXTENDED, b""),
}


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("verb", ASKED)
def test_an_answer_to_another_question_is_none(verb, kind):
    """What opens a file is no name of a file, and "done" is no handle: nobody goes on with it."""
    ask, right = ASKED[verb]
    made, _ = session(SAID[kind])

    if kind in right:
        made.wait(ask(made))
        return
    refused(ProtocolError, "makes no sense here|something to tell", lambda: made.wait(ask(made)))

    assert made.broken


def _too_many(request):
    return answer(request, NAME, struct.pack(">I", 0xFFFFFFFF) + pack_string(b"a") + pack_string(b"") + attributes())


NONSENSE = {
    "number of no request": (LSTAT, lambda request: message(ATTRS, struct.pack(">I", 4711) + attributes())),
    "number used up": (LSTAT, lambda request: status(request, FAILURE) * 2),
    "too long": (LSTAT, lambda request: struct.pack(">IBI", 5 * MIB, ATTRS, request.number)),
    "far too long": (LSTAT, lambda request: struct.pack(">IBI", 0xFFFFFFFF, ATTRS, request.number)),
    "too short": (LSTAT, lambda request: struct.pack(">IBI", 4, ATTRS, request.number)),
    "length of none": (LSTAT, lambda request: struct.pack(">IBI", 0, ATTRS, request.number)),
    "empty status": (REMOVE, lambda request: answer(request, STATUS, b"")),
    "cut status": (REMOVE, lambda request: answer(request, STATUS, bytes(3))),
    "lying words": (REMOVE, lambda request: answer(request, STATUS, struct.pack(">II", 4, 1000) + b"no")),
    "empty handle": (OPENDIR, lambda request: answer(request, HANDLE, b"")),
    "lying handle": (OPENDIR, lambda request: answer(request, HANDLE, struct.pack(">I", 5) + b"1234")),
    "endless handle": (OPENDIR, lambda request: answer(request, HANDLE, b"\xff\xff\xff\xff1234")),
    "empty attributes": (LSTAT, lambda request: answer(request, ATTRS, b"")),
    "cut attributes": (LSTAT, lambda request: answer(request, ATTRS, attributes()[:-1])),
    "attributes of all flags": (LSTAT, lambda request: answer(request, ATTRS, b"\xff\xff\xff\xff")),
    "lying pairs": (LSTAT, lambda request: answer(request, ATTRS, struct.pack(">II", 0x80000000, 0xFFFFFFFF))),
    "pairs by half": (
        LSTAT,
        lambda request: answer(request, ATTRS, struct.pack(">II", 0x80000000, 1) + pack_string(b"a")),
    ),
    "empty names": (READDIR, lambda request: answer(request, NAME, b"")),
    "lying count": (READDIR, _too_many),
    "lying name": (READDIR, lambda request: answer(request, NAME, struct.pack(">II", 1, 1 << 31))),
    "no place": (REALPATH, names),
    "two places": (REALPATH, lambda request: names(request, (b"a", attributes()), (b"b", attributes()))),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_ends_the_session(case):
    """It is called what it is, and nothing that comes afterwards is believed."""
    kind, said = NONSENSE[case]
    made, _ = session(said)

    def ask():
        first, second = made.request(kind, b"/a"), made.request(kind, b"/b")
        for one in (first, second):
            try:
                made.wait(one)
            except StatusError:
                continue

    refused(ProtocolError, "makes no sense|nobody had asked for|one place", ask)

    assert made.broken
    assert made.outstanding == 0


@pytest.mark.parametrize(
    "body",
    [
        pack_string(bytes(11)),
        struct.pack(">I", 9) + bytes(3),
        struct.pack(">I", 0xFFFFFFFF) + bytes(10),
        b"",
        b"\0\0\0",
    ],
    ids=["more than asked", "less than told", "endless", "nothing", "no count"],
)
def test_bytes_that_were_not_asked_for_go_nowhere(body):
    """They would overwrite what is beside their place."""
    made, _ = session(lambda request: answer(request, DATA, body))
    place = bytearray(b"-" * 30)

    refused(
        ProtocolError, "more bytes came|makes no sense", lambda: made.wait(made.read(b"h", 0, memoryview(place)[10:20]))
    )

    assert place == b"-" * 30
    assert made.broken


def test_answers_cannot_be_made_to_fill_the_memory():
    """What a length or a count says is not believed before the bytes are there, and an answer has a longest."""
    tracemalloc.start()
    try:
        for kind, said in NONSENSE.values():
            made, _ = session(said)
            with pytest.raises((ProtocolError, StatusError)):
                made.wait_for_all([made.request(kind, b"/a"), made.request(kind, b"/b")])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 6 * MIB


def test_random_bytes_are_never_anything_but_an_error_of_the_session():
    """Whatever a broken server sends, callers see the four errors that they know."""
    chance = random.Random(17)
    ends = set()

    for _ in range(count(2000, 50_000)):
        noise = bytearray(answer(FIRST, chance.choice([*SAID]), chance.randbytes(chance.randrange(60))))
        if chance.random() < 0.5:
            noise[chance.randrange(len(noise))] ^= 1 << chance.randrange(8)
        channel = Channel(hello=version() + noise, ends=True)
        made = Session(channel, 1)
        pending = ASKED[chance.choice([*ASKED])][0](made)
        try:
            made.wait(pending)
        except (ProtocolError, StatusError, ConnectionLostError) as error:
            ends.add((type(error), made.broken))

    assert ends == {(ProtocolError, True), (ConnectionLostError, True), (StatusError, False)}


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_session_that_is_broken_is_asked_nothing_more():
    """Neither what was asked before nor anything new is waited for, and nothing is sent."""
    made, channel = session()
    before = made.request(LSTAT, b"/a")
    made.close()
    made.close()

    for deed in (
        lambda: made.request(LSTAT, b"/a"),
        lambda: made.open(b"/a", FXF_READ),
        lambda: made.wait(before),
        made.flush,
    ):
        refused(ConnectionLostError, "the connection has ended", deed)
    assert (channel.asked, channel.is_closed, made.outstanding) == ([], False, 0)
    made.close_channel()
    assert channel.is_closed


def test_the_child_of_a_fork_sends_nothing_on_its_parents_connection(monkeypatch):
    """Not even that it hangs up."""
    made, channel = session()
    asked = made.request(LSTAT, b"/a")
    monkeypatch.setattr(os, "getpid", lambda: -1)

    refused(ConnectionLostError, "belongs to the process that forked this one", lambda: made.wait(asked))
    made.close_channel()

    assert (channel.asked, channel.is_closed) == ([], False)


def test_an_answer_that_is_here_outlives_its_session():
    """It was given."""
    made, _ = session(lambda request: answer(request, ATTRS, attributes(size=5)))
    first, second = made.request(LSTAT, b"/a"), made.request(LSTAT, b"/b")
    made.wait_for_all([first, second])
    made.close()

    assert made.wait(first).size == 5


@pytest.mark.parametrize("cut", [0, 1, 8, 9, 20])
def test_a_server_that_hangs_up_is_no_server_that_refuses(cut):
    """Before an answer or amid it."""
    made, channel = session(lambda request: answer(request, ATTRS, attributes())[:cut])
    channel.ends = True

    refused(ConnectionLostError, "the server ended the connection", lambda: made.wait(made.request(LSTAT, b"/a")))
    assert made.broken


@pytest.mark.parametrize(
    ("error", "kind"),
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
@pytest.mark.parametrize("way", ["send", "recv"])
def test_trouble_of_the_channel_ends_the_session(monkeypatch, way, error, kind):
    """Also when somebody interrupts: half a message may be on its way."""
    made, channel = session()

    def fail(_):
        raise error

    monkeypatch.setattr(channel, way, fail)
    with pytest.raises(kind):
        made.wait(made.request(LSTAT, b"/a"))

    assert made.broken


def test_a_channel_that_takes_nothing_more_has_ended(monkeypatch):
    """It says so by taking no byte."""
    made, channel = session()
    monkeypatch.setattr(channel, "send", lambda _: 0)

    refused(ConnectionLostError, "the server ended the connection", lambda: made.write(b"h", 0, bytes(40 * KIB)))
    assert made.broken


def test_a_channel_that_cannot_be_closed_is_closed_all_the_same(monkeypatch):
    """The connection may have ended long before."""
    made, channel = session()

    def fail():
        raise OSError("gone")

    monkeypatch.setattr(channel, "close", fail)
    made.close_channel()

    assert made.broken


# -- patience ---------------------------------------------------------------------------------------------------------


def test_an_answer_that_does_not_come_is_given_up(clock):
    """After as long as the caller wants to wait, and what a slow disk is granted beyond that."""
    for extra_timeout in (0, 100):
        channel = Channel(clock=clock)
        made = Session(channel, 7)
        made.extra_timeout = extra_timeout
        begun = clock.now

        with pytest.raises(TimeoutError):
            made.wait(made.request(LSTAT, b"/a"))

        assert clock.now - begun == 7 + extra_timeout
        assert made.broken


def test_a_slow_line_is_waited_for(clock):
    """As long as it brings something within the time; each answer has its own."""
    made = Session(Channel(lambda request: data(request, bytes(255 * KIB)), clock=clock), 7)
    made._channel._piece, made._channel._pause = 32 * KIB, 2
    begun = clock.now

    for _ in range(3):
        assert made.wait(made.read(b"h", 0, memoryview(bytearray(255 * KIB)))) == 255 * KIB

    assert clock.now - begun > 40


def test_a_server_that_takes_nothing_is_given_up(clock):
    """What is written to it would be on its way for ever."""
    made = Session(Channel(clock=clock), 7)
    made._channel._pause = 8
    begun = clock.now

    with pytest.raises(TimeoutError):
        made.write(b"h", 0, bytes(200 * KIB))

    assert clock.now - begun == 7
    assert made.broken


def test_a_server_that_takes_little_at_a_time_is_written_to(clock):
    """As long as it takes something within the time."""
    made = Session(Channel(lambda request: status(request, 0), clock=clock), 7)
    made._channel._piece, made._channel._pause = 24 * KIB, 1
    begun = clock.now

    made.wait(made.write(b"h", 0, bytes(255 * KIB)))

    assert clock.now - begun > 10


def test_each_answer_has_its_own_time(clock):
    """A server that takes long for everything is waited for, one answer after the other."""
    channel = Channel(lambda request: answer(request, ATTRS, attributes(size=5)), clock=clock, pause=5)
    made = Session(channel, 7)

    for _ in range(3):
        assert made.wait(made.request(LSTAT, b"/a")).size == 5
    assert clock.now >= 1015
