"""A bad net between us and an SFTP server: what is cut, flipped or stalled is made good or an error, never wrong."""

import io
import random
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from flask_storage import IntegrityError, PreconditionFailedError, StorageError, StorageTimeoutError
from flask_storage.testing.together import together
from tests.bad_net import MIB, OLD, SMALL, FaultyGround, attempt, leaving_no_thread, spread, within
from tests.counts import count
from tests.services.fault_proxy import Faults
from tests.sftp_places import left_in, place

pytest_plugins = ["tests.services.openssh"]

NOW = timedelta(0)
LARGE = random.Random(2).randbytes(9 * MIB + 100_001)
CONTENTS = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["in one go", "in parts"])
WAYS = pytest.mark.parametrize("way", ["up", "down"])
ENDS = pytest.mark.parametrize("how", ["reset", "close"])
IMPATIENT = {"connect_timeout": 1, "read_timeout": 1}


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
        return left_in(self.direct)

    def _place(self, address, **arguments):
        return place(self.server, root="ground", port=urlsplit(address).port, **arguments)


@pytest.fixture(scope="module")
def whole_ground(make_openssh):
    """The ground, on a server of its own: some tests stop it."""
    made = Ground(make_openssh("MaxSessions 10"))
    yield made
    made.close()


@pytest.fixture
def ground(whole_ground):
    """The ground, in good health; what is left afterwards is hidden, and goes with a sweep."""
    whole_ground.proxy.heal()
    yield whole_ground
    whole_ground.proxy.kill()
    whole_ground.proxy.heal()
    whole_ground.direct.sweep(NOW)
    assert not whole_ground.left()


# -- cut --------------------------------------------------------------------------------------------------------------


@CONTENTS
@WAYS
@ENDS
def test_an_upload_that_is_cut_is_all_there_or_not_at_all(ground, content, way, how):
    """Wherever: while connecting, amid the content, at the last word. Only where the last word is lost nobody knows."""
    total = ground.passed(lambda storage: storage.write("cut.bin", content))[way == "down"]
    errors = 0

    for offset in spread(total, count(8, 40)):
        ground.direct.write("cut.bin", OLD)
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how))
        storage = ground.faulty()

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        assert ground.content("cut.bin") in ((OLD, content) if error else (content,))
        assert [entry.name for entry in ground.direct.list()] == ["cut.bin"]
        errors += error is not None
        storage.close()
        ground.proxy.kill()
        ground.proxy.heal()

    assert errors


@WAYS
@ENDS
def test_a_download_that_is_cut_once_is_all_there(ground, way, how):
    """What breaks off amid a file is taken up, as long as the version is the same; while connecting it is an error."""
    ground.direct.write("there.bin", LARGE)
    connecting = ground.passed(lambda storage: storage.exists("there.bin"))[way == "down"]
    total = ground.passed(lambda storage: storage.read("there.bin"))[way == "down"]

    for offset in spread(total, count(10, 60)):
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how, cut_times=1))
        storage, target = ground.faulty(), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("there.bin", target))

        assert LARGE.startswith(target.getvalue())
        assert error is None or offset <= connecting + 3000
        assert error or target.getvalue() == LARGE
        storage.close()
        ground.proxy.kill()
        ground.proxy.heal()


def test_a_download_that_is_cut_meanwhile_never_becomes_another_version(ground):
    """Of the file that has taken the place of the one that was open, nothing is read."""
    ground.direct.write("there.bin", LARGE)
    storage = ground.faulty()

    with storage.open("there.bin", "r") as reader:
        start = reader.read(100_000)
        ground.direct.write("there.bin", LARGE[::-1])
        ground.proxy.kill()
        with pytest.raises(PreconditionFailedError, match="was replaced while it was read"):
            reader.read()

    assert start == LARGE[:100_000]


@pytest.mark.parametrize("verb", ["read", "write", "list", "stat", "copy", "delete", "move"])
def test_a_connection_that_ended_while_nobody_used_it_is_not_noticed(ground, verb):
    """The next verb makes a new one."""
    storage = ground.faulty()
    ground.direct.write("a.bin", OLD)
    storage.read("a.bin")

    ground.proxy.kill()
    {
        "read": lambda: storage.read("a.bin"),
        "write": lambda: storage.write("a.bin", b"new"),
        "list": storage.list,
        "stat": lambda: storage.stat("a.bin"),
        "copy": lambda: storage.copy("a.bin", "b.bin"),
        "delete": lambda: storage.delete("a.bin"),
        "move": lambda: storage.move("a.bin", "b.bin"),
    }[verb]()

    ground.direct.delete_many(["a.bin", "b.bin"])


# -- flipped ----------------------------------------------------------------------------------------------------------


@WAYS
@CONTENTS
def test_a_bit_that_flips_is_found_out(ground, content, way):
    """SSH signs every packet: an error, and the old content; nothing wrong is ever stored or read."""
    total = ground.passed(lambda storage: storage.write("flip.bin", content))[way == "down"]
    chance = random.Random(len(content))

    for _ in range(count(6, 60)):
        ground.direct.write("flip.bin", OLD)
        setattr(ground.proxy, way, Faults(corrupt_at=chance.randrange(total), corrupt_times=1))
        storage = ground.faulty(connect_timeout=2, read_timeout=2)

        error = attempt(lambda storage=storage: storage.write("flip.bin", content))
        ground.proxy.heal()
        read = attempt(lambda storage=storage: storage.read("flip.bin"))

        assert ground.content("flip.bin") in ((OLD, content) if error else (content,))
        assert read is None
        storage.close()
        ground.proxy.kill()


# -- silent -----------------------------------------------------------------------------------------------------------

VERBS = {
    "read": lambda storage: storage.read("slow.bin"),
    "download": lambda storage: storage.download("slow.bin", io.BytesIO()),
    "write": lambda storage: storage.write("slow.bin", LARGE),
    "list": lambda storage: storage.list(),
    "stat": lambda storage: storage.stat("slow.bin"),
    "copy": lambda storage: storage.copy("slow.bin", "copied.bin"),
    "exists": lambda storage: storage.exists("slow.bin"),
}


@pytest.mark.parametrize("verb", VERBS)
@WAYS
def test_a_peer_that_stalls_is_given_up(ground, verb, way):
    """At any point: the verb ends by an error of ours, soon, and leaves what was there."""
    ground.direct.write("slow.bin", LARGE)
    total = ground.passed(VERBS[verb])[way == "down"]

    for offset in spread(total, count(5, 12))[1:-1]:
        ground.direct.write("slow.bin", LARGE)
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by="stall"))
        storage = ground.faulty(**IMPATIENT)

        # Connecting has three steps that may stall; a file that is read is opened once more.
        error = within(8, lambda storage=storage: VERBS[verb](storage))

        assert isinstance(error, StorageError), (offset, total)
        assert ground.content("slow.bin") == LARGE
        storage.close()
        ground.proxy.kill()
        ground.proxy.heal()


def test_a_stall_says_what_it_is(ground):
    """And what to do."""
    ground.direct.write("slow.bin", LARGE)
    storage = ground.faulty(**IMPATIENT)
    storage.stat("slow.bin")
    ground.proxy.down = Faults(cut_after=0, cut_by="stall")

    with pytest.raises(StorageTimeoutError, match="did not answer in time: try again, or raise read_timeout"):
        storage.stat("slow.bin")


def test_nothing_of_ours_goes_on_after_an_error(ground):
    """No thread is left."""
    with leaving_no_thread(ground):
        storage = ground.faulty(**IMPATIENT)
        storage.write("a.bin", OLD)
        ground.proxy.down = Faults(cut_after=0, cut_by="stall")
        attempt(lambda: storage.write("a.bin", LARGE))
        ground.proxy.kill()
        ground.proxy.heal()


# -- the server -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_started_anew_is_found_again(ground):
    """What was being written is an error, what was there is there, and the next verb works."""
    storage = ground.direct
    storage.write("a.bin", OLD)
    writer = storage.open("a.bin", "w")
    writer.write(LARGE)

    ground.server.stop()
    error = attempt(writer.close)
    ground.server.start()

    assert error is not None
    assert storage.read("a.bin") == OLD
    storage.write("a.bin", LARGE)
    assert storage.read("a.bin") == LARGE


def test_a_server_that_allows_few_sessions_is_used_with_few(make_openssh):
    """Whoever finds no room waits for it."""
    storage = place(make_openssh("MaxSessions 2"), max_connections=1)

    def work(number):
        for turn in range(count(10, 100)):
            storage.write(f"{number}.bin", bytes([turn]) * 1000)
            assert storage.read(f"{number}.bin") == bytes([turn]) * 1000
        return True

    assert all(together(work, 8))
    storage.write("large.bin", LARGE)
    assert storage.read("large.bin") == LARGE
    storage.close()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(openssh):
    """As when somebody else writes it in place."""
    storage = place(openssh)
    storage.write("a.bin", LARGE)

    with storage.open("a.bin", "r") as reader:
        reader.read(1000)
        (openssh.folder / storage.root / "a.bin").write_bytes(b"short")
        with pytest.raises(IntegrityError, match="the file ends at byte"):
            reader.read()

    storage.close()
