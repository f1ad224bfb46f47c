"""S3 on a Ceph cluster of three OSDs with three replicas and two gateways; one OSD is killed under load."""

import hashlib
import threading
from datetime import timedelta

import pytest

from flask_storage import WriteOptions
from flask_storage.testing.concurrency import run_concurrently
from tests.counts import count
from tests.s3_storages import make_storage

pytest_plugins = ["tests.services.rgw"]

WRITERS = 8
ROUNDS = count(40, 200)
LARGE = 11 * 1024 * 1024  # three parts


@pytest.fixture
def gateways(distributed_rgw):
    """The same bucket through each of the two gateways."""
    bucket = distributed_rgw.server.make_bucket()
    storages = [make_storage(gateway, bucket=bucket) for gateway in distributed_rgw.gateways]
    yield storages
    for storage in storages:
        storage.close()


def _content(name, size):
    return hashlib.shake_128(name.encode()).digest(size)


def test_no_acknowledged_write_is_lost(distributed_rgw, gateways):
    """One OSD of three is killed during the writes: each file that was stored is complete, through both gateways."""
    killed = threading.Event()
    done = threading.Semaphore(0)

    def kill():
        for _ in range(WRITERS * ROUNDS // 4):
            done.acquire()
        distributed_rgw.kill_osd(1)
        killed.set()

    def write(number):
        stored = {}
        for turn in range(ROUNDS):
            path = f"{number}/{turn}.bin"
            content = _content(path, LARGE if turn % (ROUNDS // 4) == 0 else 20_000)
            gateways[turn % 2].write(path, content)
            stored[path] = hashlib.sha256(content).digest()
            done.release()
        return stored, killed.is_set()

    killer = threading.Thread(target=kill)
    killer.start()
    results = run_concurrently(write, WRITERS)
    killer.join()

    assert all(was_killed for _, was_killed in results), "the writes ended before the OSD was killed"
    stored = {path: digest for some, _ in results for path, digest in some.items()}
    for one, other in (gateways, gateways[::-1]):
        assert {entry.name for entry in one.list()} == stored.keys()
        sample = stored if one is gateways[0] else dict(list(stored.items())[::7])
        for path, digest in sample.items():
            assert hashlib.sha256(other.read(path)).digest() == digest
    assert list(gateways[0].multipart.list_uploads()) == []


def test_a_write_is_immediately_visible_through_the_other_gateway(gateways):
    """Reads and listings never return an older state."""
    one, other = gateways

    for turn in range(count(50, 200)):
        one.write("file.txt", f"{turn}".encode())
        assert other.read("file.txt") == f"{turn}".encode()
        other.delete("file.txt")
        assert not one.exists("file.txt")


def test_an_upload_is_completed_through_another_gateway(gateways):
    """Upload ids are valid at both gateways, and the sweep removes uploads of both."""
    one, other = gateways
    content = _content("parts", LARGE)
    upload_id = one.multipart.create("file.bin", WriteOptions())
    size = 5 * 1024 * 1024
    pieces = [content[start : start + size] for start in range(0, LARGE, size)]
    parts = [
        (one, other)[number % 2].multipart.upload_part("file.bin", upload_id, number, piece)
        for number, piece in enumerate(pieces, 1)
    ]

    other.multipart.complete("file.bin", upload_id, parts, WriteOptions())
    one.multipart.create("never.bin", WriteOptions())

    assert one.read("file.bin") == content
    assert other.sweep(timedelta(0)) == 1
    assert list(one.multipart.list_uploads()) == []
