"""Programs that write to a remote backend and are run_and_kill, or end with open writers."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

from flask_storage import FileNotFoundInStorageError

MIB = 1 << 20
OLD = b"old" * 1000
NEW = random.Random(3).randbytes(16 * MIB)

# What a child does on a signal from the test, when it has imported and connected; it prints "ready" and then "done".
WRITES = {
    "upload": """
        with open(source, "rb") as file:
            storage.upload(file, "a.bin")
    """,
    "write in pieces": """
        with open(source, "rb") as file, storage.open("a.bin", "w") as writer:
            while piece := file.read(300_000):
                writer.write(piece)
    """,
}
ENDS = {
    "os._exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "an error": "raise ZeroDivisionError",
    "the end of the program": "",
}

_HOME = str(Path(__file__).parents[1])


def program(storage, source, lines, **environment):
    """Start a program with these lines, which can use `source`, the path of the new content, and `storage`.

    Args:
        storage: An expression that creates the storage: its class, which is imported, and its arguments.
        source: The local file.
        lines: The lines of the program.
        **environment: Environment variables with secrets, which must not appear in a command line.
    """
    text = f"""
    import os, sys
    sys.path.append({_HOME!r})
    from flask_storage import {storage.partition("(")[0]}
    source = {str(source)!r}
    storage = {storage}
    storage.list()
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text) + textwrap.dedent(lines)],
        env={**os.environ, **environment},
        stdin=-1,
        stdout=-1,
        stderr=-1,
        text=True,
        bufsize=1,
    )


def on_demand(operation):
    """Return the lines of a program that waits for a signal before it runs this operation."""
    return f'print("ready", flush=True)\nsys.stdin.readline()\n{textwrap.dedent(operation)}\nprint("done", flush=True)'


def run_and_kill(process, after=None):
    """Start the operation, and kill the process so many seconds later; return its exit code, and how long it took."""
    with process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.stdin.write("go\n")
        started = time.monotonic()
        if after is not None:
            time.sleep(after)
            with suppress(ProcessLookupError):  # it has ended already
                os.kill(process.pid, signal.SIGKILL)
        process.stdout.readline()
        duration = time.monotonic() - started
        process.communicate()
    return process.returncode, duration


def random_times(duration, rounds):
    """Yield 0, and a random time in each of so many equal intervals of the duration, in seconds.

    The first, 0, is before the end of the operation even if the duration was measured while the machine was slow.
    """
    yield 0
    for number in range(rounds):
        yield duration * (number + random.random()) / rounds


def content(storage, path):
    """Return the stored content, or None."""
    try:
        return storage.read(path)
    except FileNotFoundInStorageError:
        return None
