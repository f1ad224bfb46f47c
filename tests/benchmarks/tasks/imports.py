"""How long an application waits for us when it starts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from ..frame import Bench, Contender, Stage, plus, task
from ..meters import WALL, Work, note

STARTS = 10


def interpreter(statement: str) -> Work:
    """Return work that starts interpreters, one after the other, and notes the time of one."""
    # -P: the directory we stand in must not come before what is installed.
    command = [sys.executable, "-P", "-c", statement]

    def work() -> None:
        started = time.perf_counter()
        for _ in range(STARTS):
            subprocess.run(command, check=True)
        note(WALL, (time.perf_counter() - started) / STARTS)

    return work


@task(
    "import",
    "an interpreter started with this import",
    plus("import flask", 0.015, "flask + 15 ms"),
    plus("import flask", 0.015, "import flask_storage: flask + 15 ms", ours="import flask_storage"),
    columns=(WALL,),
)
def imports(_: Bench) -> Iterator[Stage]:
    """Import the package and its extension."""

    def contender(statement: str, *, ours: bool = False) -> Contender:
        return Contender(statement, lambda: interpreter(statement), ours=ours)

    yield (
        [
            contender("from flask_storage import Storage", ours=True),
            contender("import flask_storage", ours=True),
            contender("import flask"),
            contender("pass"),
        ],
        None,
    )
