"""A program that does one deed after another, each in a forked child, at once and with everything imported.

It reads a JSON line that says which, answers with the child's process id, waits for a line, lets the child go, and
answers with its exit status and what it raised. Whoever drives it can watch or disturb the child from its first step.
"""

import ctypes
import gc
import json
import mmap
import os
import sys
import tempfile
from pathlib import Path

from flask_storage import LocalFSStorage
from tests.crash.deeds import DEEDS

_PR_SET_PTRACER, _ANYBODY = 0x59616D61, ctypes.c_ulong(-1)


def child(order, go, outcome):
    """Wait, do the deed and leave the outcome in shared memory: no system call that is not the deed's own."""
    storage = LocalFSStorage(order["root"], name="disk", fsync=order["fsync"])
    storage.capabilities  # noqa: B018  # asks the disk once
    os.read(go, 1)
    raised = None
    try:
        DEEDS[order["deed"]].act(storage, order["told"])
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what we report
        raised = {"types": [kind.__name__ for kind in type(error).__mro__], "text": str(error)}
    answer = json.dumps({"raised": raised}).encode()
    outcome[: len(answer)] = answer


def say(answer):
    """Answer with a line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def serve():
    """Take orders until there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        outcome = mmap.mmap(-1, 65536)
        go, say_go = os.pipe()
        pid = os.fork()
        if not pid:
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY)
            child(order, go, outcome)
            os._exit(0)
        say(pid)
        sys.stdin.readline()
        os.write(say_go, b"!")
        _, status = os.waitpid(pid, 0)
        answer = json.loads(outcome[:].rstrip(b"\0") or b"{}")
        say({"status": os.waitstatus_to_exitcode(status), **answer})
        os.close(go)
        os.close(say_go)
        outcome.close()


if __name__ == "__main__":
    for deed in DEEDS.values():  # what is imported late is imported now
        with tempfile.TemporaryDirectory() as directory:
            storage, told = deed.ready(Path(directory, "root"))
            deed.act(storage, told)
    gc.disable()
    gc.freeze()
    serve()
