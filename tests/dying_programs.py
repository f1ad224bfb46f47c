"""Programs that write to a remote place and die amid it, or forget to end what they have begun."""

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

# What a child does when it is told to, with everything imported and connected; it says "ready" before and "done" after.
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
    """Start a program of these lines; it finds the path of the new content in `source`, and a `storage`.

    Args:
        storage: An expression that makes the storage: its class, which is all that is imported, and its arguments.
        source: The local file.
        lines: What it does.
        **environment: Secrets, which are not to stand in a command line.
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


def on_demand(deed):
    """Return the lines of a program that waits until it is told to do this deed."""
    return f'print("ready", flush=True)\nsys.stdin.readline()\n{textwrap.dedent(deed)}\nprint("done", flush=True)'


def killed(process, after=None):
    """Let the deed begin, and kill the process so many seconds later; return how it ended, and how long it took."""
    with process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.stdin.write("go\n")
        begun = time.monotonic()
        if after is not None:
            time.sleep(after)
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(process.pid, signal.SIGKILL)
        process.stdout.readline()
        duration = time.monotonic() - begun
        process.communicate()
    return process.returncode, duration


def moments(duration, rounds):
    """Yield a random moment of each of so many stretches of the way, in seconds from its beginning, and that first.

    It is never too late, also when the duration was that of a slow moment of the machine.
    """
    yield 0
    for number in range(rounds):
        yield duration * (number + random.random()) / rounds


def content(storage, path):
    """What is stored, or None."""
    try:
        return storage.read(path)
    except FileNotFoundInStorageError:
        return None
