"""Controls the runner, with strace attached to the child: records system calls, kills at one, or makes one fail."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

CHANGES = [
    "openat",
    "write",
    "pwrite64",
    "copy_file_range",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "close",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "fchmod",
    "setxattr",
    "fsetxattr",
    "utimensat",
    "flock",
]
"""The system calls by which a scenario changes a disk, or prepares to. Not every machine has all of them."""


def clean_environment():
    """Return the environment without coverage settings, which would add system calls, and the project's root."""
    home = str(Path(__file__).parents[2])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    # As with pytest, the caller appends the root to sys.path: an installed wheel has precedence over the work tree.
    return {**environment, "PYTHONDONTWRITEBYTECODE": "1"}, home


class Runner:
    """The running program of `runner.py`."""

    def __init__(self):
        if not shutil.which("strace"):
            raise RuntimeError(
                "the crash tests trace system calls with strace, which is missing: apt-get install strace"
            )
        environment, home = clean_environment()
        start = (
            f"import sys, runpy; sys.path.append({home!r}); runpy.run_module('tests.crash.runner', run_name='__main__')"
        )
        self._program: Any = subprocess.Popen(
            [sys.executable, "-P", "-c", start], stdin=-1, stdout=-1, text=True, bufsize=1, env=environment
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._program.stdin.close()
        self._program.wait()
        self._program.stdout.close()

    def start(self, scenario, root, data, *, fsync=True):
        """Fork a child and return its process id; it waits for :meth:`run` or :meth:`release`."""
        return self._request({"scenario": scenario, "root": str(root), "data": data, "fsync": fsync})

    def run(self):
        """Let the child run its scenario and return the outcome."""
        return self._request(None)

    def release(self):
        """Let the child start, without waiting for its end."""
        self._program.stdin.write("null\n")

    def wait(self):
        """Wait for the child's end after :meth:`release` and return the outcome."""
        return json.loads(self._program.stdout.readline())

    def traced(self, scenario, root, data, *options, fsync=True):
        """Run a scenario under strace; return its outcome and the system calls, one line each."""
        pid = self.start(scenario, root, data, fsync=fsync)
        log = root.parent / "strace.log"
        calls = ",".join(f"?{name}" for name in (*CHANGES, "pread64", "read", "getdents64"))
        tracer: Any = subprocess.Popen(
            ["strace", "-y", "-o", str(log), "-e", f"trace={calls}", *options, "-p", str(pid)], stderr=-1, text=True
        )
        with tracer:
            message = tracer.stderr.readline()
            if "attached" not in message:
                raise RuntimeError(f"strace cannot attach to the child: {message}")
            outcome = self.run()
            tracer.wait()
        return outcome, [line for line in log.read_text("utf-8", "replace").splitlines() if re.match(r"\w+\(", line)]

    def _request(self, request):
        self._program.stdin.write(json.dumps(request) + "\n")
        return json.loads(self._program.stdout.readline())


def names(lines):
    """Return the names of the calls in a trace, in order."""
    return [line.partition("(")[0] for line in lines]


def changes(lines):
    """Count each call of `CHANGES` in a trace."""
    return Counter(name for name in names(lines) if name in CHANGES)
