"""Uploads and downloads a large file in a new process, and measures how far its memory grows."""

import json
import subprocess
import sys

from tests.counts import count

MIB = 1024 * 1024
SIZE = count(192, 1024) * MIB  # the servers of the tests hold it in memory

# Every MiB is different; the digest is that of the downloaded content.
_PROGRAM = """
import hashlib, json, random, sys
import flask_storage

arguments, method, size = json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
storage = getattr(flask_storage, sys.argv[1])(**arguments)
block = random.Random(7).randbytes(1 << 20)
sent, received = hashlib.sha256(), hashlib.sha256()

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
        received.update(data)
        return len(data)

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

storage.write("small.bin", block)
storage.read("small.bin")
before = peak()
if method != "files":
    storage.upload(Source(), "large.bin")
else:
    source = Source()
    with storage.open("large.bin", "w") as writer:
        while piece := source.read(300_000):
            writer.write(piece)
after_upload = peak()
if method == "operations":
    storage.download("large.bin", Sink())
elif method == "copies":
    storage.copy("large.bin", "copied.bin")
    storage.delete("large.bin")
    with storage.open("copied.bin", "r") as reader:
        for piece in reader.iter_chunks():
            received.update(piece)
else:
    with storage.open("large.bin", "r") as reader:
        while piece := reader.read(300_000):
            received.update(piece)
grown = peak()
storage.delete_many(["large.bin", "copied.bin"])
print(json.dumps({"up": after_upload - before, "down": grown - before, "same": sent.digest() == received.digest()}))
"""


def stream(storage_class, arguments, method, memory_limit):
    """Upload and download a large file, and assert that the content is unchanged and the memory bounded.

    Args:
        storage_class: The name of the storage's class.
        arguments: The arguments of the constructor; they must be serializable as JSON.
        method: ``"operations"`` for `upload` and `download`, ``"files"`` for opened files with reads and writes of
            300,000 bytes, or ``"copies"`` for `upload`, `copy` and reading the copy in chunks.
        memory_limit: How far the memory may grow, in bytes, beyond that for a small file.
    """
    command = [sys.executable, "-c", _PROGRAM, storage_class, json.dumps(arguments), method, str(SIZE)]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)

    result = json.loads(completed.stdout)
    assert result.pop("same")
    assert max(result.values()) <= memory_limit, {name: f"{grown / MIB:.0f} MiB" for name, grown in result.items()}
