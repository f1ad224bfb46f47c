"""A program that runs one scenario after another, each in a forked child in which everything is already imported.

It reads a line of JSON with the scenario, prints the child's process id, waits for a line, lets the child start, and
prints the child's exit status and the error that it raised. Between these steps `tracing.py` attaches strace.
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
from tests.crash.scenarios import SCENARIOS

_PR_SET_PTRACER, _ANY_PROCESS = 0x59616D61, ctypes.c_ulong(-1)


def run_in_child(request, start, outcome):
    """Wait, run the scenario and write the outcome to shared memory, without any system calls but the scenario's."""
    storage = LocalFSStorage(request["root"], name="disk", fsync=request["fsync"])
    storage.capabilities  # noqa: B018  # cached here, so that the scenario does not query the disk
    os.read(start, 1)
    raised = None
    try:
        SCENARIOS[request["scenario"]].run(storage, request["data"])
    except Exception as error:  # noqa: BLE001  # any error is reported
        raised = {"types": [kind.__name__ for kind in type(error).__mro__], "text": str(error)}
    response = json.dumps({"raised": raised}).encode()
    outcome[: len(response)] = response


def respond(response):
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(response) + "\n")
    sys.stdout.flush()


def serve():
    """Run the requested scenarios until the end of standard input."""
    for line in sys.stdin:
        request = json.loads(line)
        outcome = mmap.mmap(-1, 65536)
        start, send_start = os.pipe()
        pid = os.fork()
        if not pid:
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY_PROCESS)
            run_in_child(request, start, outcome)
            os._exit(0)
        respond(pid)
        sys.stdin.readline()
        os.write(send_start, b"!")
        _, status = os.waitpid(pid, 0)
        response = json.loads(outcome[:].rstrip(b"\0") or b"{}")
        respond({"status": os.waitstatus_to_exitcode(status), **response})
        os.close(start)
        os.close(send_start)
        outcome.close()


if __name__ == "__main__":
    for scenario in SCENARIOS.values():  # loads the modules that are imported on first use
        with tempfile.TemporaryDirectory() as directory:
            storage, data = scenario.set_up(Path(directory, "root"))
            scenario.run(storage, data)
    gc.disable()
    gc.freeze()
    serve()
