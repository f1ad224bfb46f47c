"""Large files go to a remote storage and come back, in a process of its own, whose memory nothing else has grown."""

import json
import subprocess
import sys

from tests.counts import count

MIB = 1024 * 1024
SIZE = count(192, 5 * 1024) * MIB

# Every MiB is another; the digest is of what came back.
_PROGRAM = """
import hashlib, json, random, sys
import flask_storage

arguments, way, size = json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
storage = getattr(flask_storage, sys.argv[1])(**arguments)
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
if way != "files":
    storage.upload(Source(), "large.bin")
else:
    source = Source()
    with storage.open("large.bin", "w") as writer:
        while piece := source.read(300_000):
            writer.write(piece)
after_upload = peak()
if way == "verbs":
    storage.download("large.bin", Sink())
elif way == "copies":
    storage.copy("large.bin", "copied.bin")
    storage.delete("large.bin")
    with storage.open("copied.bin", "r") as reader:
        for piece in reader.iter_chunks():
            came.update(piece)
else:
    with storage.open("large.bin", "r") as reader:
        while piece := reader.read(300_000):
            came.update(piece)
grown = peak()
storage.delete_many(["large.bin", "copied.bin"])
print(json.dumps({"up": after_upload - before, "down": grown - before, "same": sent.digest() == came.digest()}))
"""


def stream(storage_class, arguments, way, room):
    """Send a large file and fetch it, and assert that every byte is the one, and how far memory grew on the way.

    Args:
        storage_class: The name of the storage's class.
        arguments: Its arguments; JSON can say them.
        way: By the ``"verbs"`` for it, by opened ``"files"`` in pieces of one's own, or by way of ``"copies"``, which
            are read chunk by chunk.
        room: How far, in bytes, beyond what a small file takes.
    """
    command = [sys.executable, "-c", _PROGRAM, storage_class, json.dumps(arguments), way, str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)

    result = json.loads(done.stdout)
    assert result.pop("same")
    assert max(result.values()) <= room, {name: f"{grown / MIB:.0f} MiB" for name, grown in result.items()}
