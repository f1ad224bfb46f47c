"""A bad net between us and an SFTP server: what is cut, flipped or stalled is made good or an error, never wrong."""

import io
import itertools
import random
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from flask_storage import IntegrityError, PreconditionFailedError, StorageTimeoutError
from tests.bad_net import MIB, OLD, SMALL, FaultyGround, attempt, leaving_no_thread, spread, within
from tests.counts import count
from tests.services.fault_proxy import Faults
from tests.sftp_storages import backdate, make_storage, pooled_session, temporary_files, wait_until_idle

pytest_plugins = ["tests.services.openssh"]

NOW = timedelta(0)
PART = MIB // 4
LARGE = random.Random(2).randbytes(2 * MIB + 100_001)
CONTENTS = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["in one go", "in parts"])
WAYS = pytest.mark.parametrize("way", ["up", "down"])
IMPATIENT = {"connect_timeout": 0.3, "read_timeout": 0.3}
ENDS: list[Literal["reset", "close"]] = ["reset", "close"]


class Ground(FaultyGround):
    """A folder of a server, a way to it past the proxy and as many as wanted through it.

    Args:
        server: Which one.
    """

    def __init__(self, server):
        self.server = server
        (server.folder / "ground").mkdir()
        super().__init__(f"ssh://127.0.0.1:{server.port}", self._place)
        server.know(self.proxy.port)

    def faulty(self, **arguments):
        """A storage behind the proxy, with connections of its own."""
        return self._kept(self._made(self._behind, **arguments))

    def left(self):
        """The hidden files of writes that did not end."""
        return temporary_files(self.direct)

    def mend(self):
        """End what has suffered, and have a good line again."""
        self.proxy.kill()
        self.proxy.heal()

    def _place(self, address, **arguments):
        return make_storage(self.server, root="ground", port=urlsplit(address).port, **arguments)


@pytest.fixture(scope="module")
def whole_ground(make_openssh):
    """The ground, on a server of its own, as some tests stop it; what is written and read in parts has small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", PART)
        patch.setattr("flask_storage.backends.sftp.files.CHUNK_SIZE", PART)
        patch.setattr("flask_storage.backends.sftp.storage.CHUNK_SIZE", PART)
        made = Ground(make_openssh("MaxSessions 10"))
        yield made
        made.close()


@pytest.fixture
def ground(whole_ground):
    """The ground, empty and in good health; what is left afterwards is hidden, and goes with a sweep."""
    yield whole_ground
    whole_ground.mend()
    whole_ground.close_storages()
    wait_until_idle(whole_ground.server)
    whole_ground.direct.sweep(NOW)
    whole_ground.direct.delete_many([entry.name for entry in whole_ground.direct.list()])
    assert not whole_ground.left()


# -- cut --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def line(request, monkeypatch):
    """How far the server is, as far as a writer knows: to a far one it writes through several sessions."""
    if request.param == "far":
        monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)


@pytest.mark.parametrize(
    ("content", "line"),
    [(SMALL, "near"), (LARGE, "near"), (LARGE, "far")],
    ids=["in one go", "in parts", "through several sessions"],
    indirect=["line"],
)
@WAYS
def test_an_upload_that_is_cut_is_all_there_or_not_at_all(ground, content, way, line):
    """Wherever: while connecting, amid the content, at the last word. Only where the last word is lost nobody knows."""
    total = ground.passed(lambda storage: storage.write("cut.bin", content))[way == "down"]
    errors = 0

    for offset, how in zip(spread(total, count(5, 40)), itertools.cycle(ENDS), strict=False):
        ground.direct.write("cut.bin", OLD)
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how))
        storage = ground.faulty()

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        assert ground.content("cut.bin") in ((OLD, content) if error else (content,))
        assert [entry.name for entry in ground.direct.list()] == ["cut.bin"]
        errors += error is not None
        ground.mend()
        storage.write("cut.bin", SMALL[::-1])
        assert ground.content("cut.bin") == SMALL[::-1]

    assert errors


@WAYS
def test_a_download_that_is_cut_once_is_all_there(ground, way):
    """What breaks off amid a file is taken up, as long as the version is the same; while connecting it is an error."""
    ground.direct.write("there.bin", LARGE)
    backdate(ground.direct, "there.bin")
    connecting = ground.passed(lambda storage: storage.exists("there.bin"))[way == "down"]
    total = ground.passed(lambda storage: storage.read("there.bin"))[way == "down"]

    for offset, how in zip(spread(total, count(8, 60)), itertools.cycle(ENDS), strict=False):
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how, cut_times=1))
        storage, target = ground.faulty(), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("there.bin", target))

        assert LARGE.startswith(target.getvalue())
        assert error is None or offset <= connecting + 3000
        assert error or target.getvalue() == LARGE
        ground.mend()
        assert storage.read("there.bin") == LARGE


def test_a_download_that_is_cut_meanwhile_never_becomes_another_version(ground):
    """Of the file that has taken the place of the one that was open, nothing is read."""
    ground.direct.write("there.bin", LARGE)
    backdate(ground.direct, "there.bin")
    storage = ground.faulty()

    with storage.open("there.bin", "r") as reader:
        start = reader.read(100_000)
        ground.direct.write("there.bin", LARGE[::-1])
        ground.proxy.kill()
        with pytest.raises(PreconditionFailedError, match="was replaced while it was read"):
            reader.read()

    assert start == LARGE[:100_000]


FILES = {f"folder/{number}.txt": str(number).encode() for number in range(20)}
# What is to be seen afterwards, where the operation came through: the listing, and no file of the names.
OPERATIONS = {
    "list": (lambda storage: storage.list(), FILES),
    "copy": (lambda storage: storage.copy("folder/1.txt", "b/new.txt"), {**FILES, "b/new.txt": b"1"}),
    "delete": (
        lambda storage: storage.delete("folder/1.txt"),
        {path: content for path, content in FILES.items() if path != "folder/1.txt"},
    ),
    "move": (
        lambda storage: storage.move("folder/1.txt", "folder/0.txt"),
        {path: content for path, content in FILES.items() if path != "folder/1.txt"} | {"folder/0.txt": b"1"},
    ),
}


@WAYS
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_verb_that_is_cut_was_done_or_was_not(ground, operation, way):
    """At every stage: an error says that nobody knows; without one it was done. The next operation works again."""
    work, done = OPERATIONS[operation]

    def fill():
        for path, content in FILES.items():
            if ground.content(path) != content:
                ground.direct.write(path, content)
        ground.direct.delete("b/new.txt")

    fill()
    total = ground.passed(work)[way == "down"]
    for offset, how in zip(spread(total, count(4, 40)), itertools.cycle(ENDS), strict=False):
        fill()
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how))
        storage = ground.faulty()

        error = attempt(lambda storage=storage: work(storage))

        ground.mend()
        there = {entry.name: ground.content(entry.name) for entry in storage.list()}
        assert there in ((FILES, done) if error else (done,))


@pytest.mark.parametrize("when", ["meanwhile", "at the next word"])
@pytest.mark.parametrize("operation", ["read", "write", "list", "stat", "copy", "delete", "move", "open"])
def test_a_connection_that_ended_while_nobody_used_it_is_not_noticed(ground, operation, when):
    """The next operation makes a new one, whether the end was heard or comes as the response to its first request."""
    storage = ground.faulty()
    ground.direct.write("a.bin", OLD)
    storage.read("a.bin")
    before = ground.proxy.counters.connections

    if when == "meanwhile":
        ground.proxy.kill()
    else:
        ground.proxy.up = Faults(cut_after=0, cut_times=1)
    {
        "read": lambda: storage.read("a.bin"),
        "write": lambda: storage.write("a.bin", b"new"),
        "list": storage.list,
        "stat": lambda: storage.stat("a.bin"),
        "copy": lambda: storage.copy("a.bin", "b.bin"),
        "delete": lambda: storage.delete("a.bin"),
        "move": lambda: storage.move("a.bin", "b.bin"),
        "open": lambda: storage.open("a.bin", "rw").close(),
    }[operation]()

    assert ground.proxy.counters.connections == before + 1


# -- flipped ----------------------------------------------------------------------------------------------------------


@WAYS
@CONTENTS
def test_a_bit_that_flips_is_found_out(ground, content, way):
    """SSH signs every packet: an error, and the old content; nothing wrong is ever stored or read."""
    total = ground.passed(lambda storage: storage.write("flip.bin", content))[way == "down"]
    chance = random.Random(len(content))

    for _ in range(count(3, 60)):
        ground.direct.write("flip.bin", OLD)
        setattr(ground.proxy, way, Faults(corrupt_at=chance.randrange(total), corrupt_times=1))
        storage = ground.faulty(connect_timeout=3, read_timeout=3)

        error = attempt(lambda storage=storage: storage.write("flip.bin", content))
        ground.proxy.heal()
        read = attempt(lambda storage=storage: storage.read("flip.bin"))

        assert ground.content("flip.bin") in ((OLD, content) if error else (content,))
        assert read is None
        ground.mend()


# -- silent -----------------------------------------------------------------------------------------------------------

# What is there afterwards, where the operation came through.
SILENT: dict[str, tuple[Any, bytes | None]] = {
    "read": (lambda storage: storage.read("slow.bin"), LARGE),
    "write": (lambda storage: storage.write("slow.bin", LARGE[::-1]), LARGE[::-1]),
    "list": (lambda storage: storage.list(), LARGE),
    "copy": (lambda storage: storage.copy("slow.bin", "copied.bin"), LARGE),
    "delete": (lambda storage: storage.delete("slow.bin"), None),
}


def stall(ground, operation, way, offset):
    """Do it on a line that falls silent, and return the error: none where nothing is missing that is needed."""
    work, done = SILENT[operation]
    ground.direct.write("slow.bin", LARGE)
    setattr(ground.proxy, way, Faults(cut_after=offset, cut_by="stall"))
    storage = ground.faulty(**IMPATIENT)

    # Connecting has several steps that may stall; a file that is read is opened once more.
    error = within(8, lambda: work(storage))

    assert ground.content("slow.bin") in ((LARGE, done) if error else (done,))
    ground.mend()
    return error


@WAYS
def test_a_peer_that_stalls_while_we_connect_is_given_up(ground, way):
    """At every step of it."""
    ground.direct.write("slow.bin", LARGE)
    total = ground.passed(lambda storage: storage.exists("slow.bin"))[way == "down"]

    for offset in spread(total * 9 // 10, count(6, 40)):
        assert stall(ground, "list", way, offset) is not None


@pytest.mark.parametrize("operation", SILENT)
@WAYS
def test_a_peer_that_stalls_is_given_up(ground, operation, way):
    """At any point: the operation ends by an error of ours, wait_until, and what was there is there, or what was to be."""
    ground.direct.write("slow.bin", LARGE)
    begin = ground.passed(lambda storage: pooled_session(storage).__enter__())[way == "down"]
    total = ground.passed(SILENT[operation][0])[way == "down"]

    errors = [stall(ground, operation, way, begin + offset) for offset in spread(total - begin, count(3, 12))[:-1]]

    assert any(errors)


def test_a_stall_says_what_it_is(ground):
    """And what to do."""
    ground.direct.write("slow.bin", LARGE)
    storage = ground.faulty(read_timeout=5)
    storage.stat("slow.bin")
    ground.proxy.down = Faults(cut_after=0, cut_by="stall")

    with pytest.raises(StorageTimeoutError, match="did not answer in time: try again, or raise read_timeout"):
        storage.stat("slow.bin")


def test_nothing_of_ours_goes_on_after_an_error(ground):
    """No thread is left."""
    with leaving_no_thread(ground):
        storage = ground.faulty(read_timeout=5, fsync=False)
        storage.write("a.bin", OLD)
        ground.proxy.down = Faults(cut_after=0, cut_by="stall")
        assert attempt(lambda: storage.write("a.bin", LARGE)) is not None
        ground.mend()


# -- the server -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_amid_a_write_is_found_again(ground):
    """What was being written is an error, what was there is there, the rest goes with a sweep; the next operation works."""
    storage = ground.direct
    storage.write("a.bin", OLD)
    writer = storage.open("a.bin", "w")
    writer.write(LARGE)

    ground.server.stop()
    error = attempt(writer.close)
    ground.server.start()

    assert error is not None
    assert storage.read("a.bin") == OLD
    assert [entry.name for entry in storage.list()] == ["a.bin"]
    assert len(ground.left()) == 1
    assert storage.sweep(NOW) == 1
    storage.write("a.bin", LARGE)
    assert storage.read("a.bin") == LARGE


def test_a_server_that_is_killed_amid_a_read_is_found_again(ground):
    """The same version is opened once more; while there is no server, that is an error."""
    storage = ground.direct
    storage.write("a.bin", LARGE)
    backdate(storage, "a.bin")

    with storage.open("a.bin", "r") as reader:
        start = reader.read(100_000)
        ground.server.stop()
        error = attempt(lambda: storage.stat("a.bin"))
        ground.server.start()
        rest = reader.read()

    assert error is not None
    assert start + rest == LARGE


def test_a_file_that_shrinks_while_it_is_read_is_an_error(ground):
    """As when somebody else writes it in place."""
    storage = ground.direct
    storage.write("a.bin", LARGE)

    with storage.open("a.bin", "r") as reader:
        reader.read(1000)
        (ground.server.folder / "ground" / "a.bin").write_bytes(b"short")
        with pytest.raises(IntegrityError, match="the file ends at byte"):
            reader.read()
