"""Drives the driver, with `strace` around the child: to see each system call, to kill at one, or to fail it."""

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
"""Every system call with which a deed changes a disk, or prepares to. Not every machine has all of them."""


def clean_environment():
    """Ours, without what makes a program measure its own coverage: that would be more system calls than ours."""
    home = str(Path(__file__).parents[2])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    # After the installed packages, as for pytest itself: an installed wheel wins over the work tree.
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}, home


class Driver:
    """The running program of `driver.py`."""

    def __init__(self):
        if not shutil.which("strace"):
            raise RuntimeError("these tests follow every system call: apt-get install strace")
        environment, home = clean_environment()
        start = (
            f"import sys, runpy; sys.path.append({home!r}); runpy.run_module('tests.crash.driver', run_name='__main__')"
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

    def start(self, deed, root, told, *, fsync=True):
        """Prepare a child and return its process id; it does nothing before :meth:`go`."""
        return self._ask({"deed": deed, "root": str(root), "told": told, "fsync": fsync})

    def go(self):
        """Let the child do its deed and return how that ended."""
        return self._ask(None)

    def release(self):
        """Let the child begin, without waiting for its end."""
        self._program.stdin.write("null\n")

    def ended(self):
        """Wait for the child's end after :meth:`release` and return how that was."""
        return json.loads(self._program.stdout.readline())

    def traced(self, deed, root, told, *options, fsync=True):
        """Do a deed under `strace` and return how it ended and the calls that were made, as lines."""
        pid = self.start(deed, root, told, fsync=fsync)
        log = root.parent / "strace.log"
        calls = ",".join(f"?{name}" for name in (*CHANGES, "pread64", "read", "getdents64"))
        tracer: Any = subprocess.Popen(
            ["strace", "-y", "-o", str(log), "-e", f"trace={calls}", *options, "-p", str(pid)], stderr=-1, text=True
        )
        with tracer:
            said = tracer.stderr.readline()
            if "attached" not in said:
                raise RuntimeError(f"strace cannot attach: {said}")
            end = self.go()
            tracer.wait()
        return end, [line for line in log.read_text("utf-8", "replace").splitlines() if re.match(r"\w+\(", line)]

    def _ask(self, question):
        self._program.stdin.write(json.dumps(question) + "\n")
        return json.loads(self._program.stdout.readline())


def names(lines):
    """The names of the calls in a trace, in order."""
    return [line.partition("(")[0] for line in lines]


def changes(lines):
    """How often each call that changes something was made."""
    return Counter(name for name in names(lines) if name in CHANGES)
