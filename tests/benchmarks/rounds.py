"""Measures our contenders of one task: each line of standard input names one, and is answered by its sample as JSON.

`tests.benchmarks.comparison` runs this text in two checkouts, each with its own package, tasks and servers. So it uses
only what has the same name in both.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import tasks
from tests.benchmarks.frame import TASKS, Bench
from tests.benchmarks.meters import measure


def main(name: str, scale: float, directory: str) -> None:
    """Prepare the task, print the names of our contenders, then measure the one that a line names."""
    # Programs that a task starts may print; only results go to our standard output.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tasks.register()
    stage = contextlib.contextmanager(TASKS[name].stage)
    with (
        tempfile.TemporaryDirectory(prefix=f"bench-{name}-", dir=directory) as own,
        stage(Bench(Path(own), scale)) as (contenders, expect),
    ):
        ours = {contender.name: contender for contender in contenders if contender.ours}
        print(json.dumps(list(ours)), file=results, flush=True)
        for line in sys.stdin:
            asked = ours[line.rstrip("\n")]
            print(json.dumps(measure(asked.make, expect=expect, pid=asked.pid)), file=results, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
