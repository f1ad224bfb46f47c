"""Large files go to S3 and come back in little memory."""

import json
import subprocess
import sys

import pytest

from tests.counts import count

pytest_plugins = ["tests.services.rgw"]

MIB = 1024 * 1024
SIZE = count(192, 5 * 1024) * MIB
ROOM = 64 * MIB

# In a process of its own, whose memory nothing else has grown. Every MiB is another; the digest is of what came back.
PROGRAM = """
import hashlib, json, random, sys
from flask_storage import S3Storage

arguments, way, size = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
storage = S3Storage(**arguments)
block = random.Random(7).randbytes(1 << 20)
sent, came = hashlib.sha256(), hashlib.sha256()

class Source:
    number, rest = 0, b""
    def read(self, count):
        while len(self.rest) < count and self.number << 20 < size:
            self.rest += self.number.to_bytes(8, "big") + block[8:]
            self.number += 1
        piece, self.rest = self.rest[:count], self.rest[count:]
        sent.update(piece)
        return piece

class Sink:
    def write(self, data):
        came.update(data)
        return len(data)

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

storage.write("small.bin", block)
storage.read("small.bin")
before = peak()
if way == "verbs":
    storage.upload(Source(), "large.bin")
else:
    source = Source()
    with storage.open("large.bin", "w") as writer:
        while piece := source.read(300_000):
            writer.write(piece)
after_upload = peak()
if way == "verbs":
    storage.download("large.bin", Sink())
else:
    with storage.open("large.bin", "r") as reader:
        while piece := reader.read(300_000):
            came.update(piece)
grown = peak()
storage.delete("large.bin")
print(json.dumps({"up": after_upload - before, "down": grown - before, "same": sent.digest() == came.digest()}))
"""


@pytest.mark.parametrize("way", ["verbs", "files"])
def test_streaming_holds_little(rgw, way):
    """Up and down, by one verb or in pieces of one's own, memory grows by at most 64 MiB, and every byte is the one."""
    arguments = {
        "bucket": rgw.make_bucket(),
        "aws_region": rgw.region,
        "aws_access_key_id": rgw.access_key,
        "aws_secret_access_key": rgw.secret_key,
        "endpoint_url": rgw.http,
        "preset": rgw.preset,
    }

    command = [sys.executable, "-c", PROGRAM, json.dumps(arguments), way, str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)

    result = json.loads(done.stdout)
    assert result.pop("same")
    assert max(result.values()) <= ROOM, {name: f"{grown / MIB:.0f} MiB" for name, grown in result.items()}
