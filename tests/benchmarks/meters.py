"""What one piece of work costs: wall and CPU seconds, memory.

Each measurement is taken in a forked process of its own, so that no contender inherits another's heap or caches. A
contender whose work is done by a server names the server's process, and that one is metered instead.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

WALL, CPU, PEAK, COPIES, MOVED = "wall", "cpu", "peak", "copies", "moved"
"""Seconds, seconds, bytes, how many times over the content was written, and bytes that came through this process."""

Sample = dict[str, float]
Work = Callable[[], object]
"""The timed part; what it returns is compared with what was expected, after the clock has stopped. When that is a
function, it is what looks whether the work was done: it is called then, and what it returns is compared."""

_context = multiprocessing.get_context("fork")
_notes: Sample = {}


class WorkFailedError(Exception):
    """The work raised an error, or did something else than was asked; the text is the traceback."""


def note(metric: str, value: float) -> None:
    """Let the running work add a figure of its own to its sample."""
    _notes[metric] = value


def written(pid: int) -> int:
    """Return how many bytes a process has written so far, into whatever."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["wchar"])


def measure(make: Callable[[], Work], *, expect: object, pid: int | None = None) -> Sample:
    """Return what the work costs that *make* prepares.

    Args:
        make: Prepares the work, untimed, and returns it.
        expect: What the work must return, so that no contender is fast by doing something else.
        pid: The process to meter; None for the one that does the work, with the programs that it waits for.

    Raises:
        WorkFailedError: when it failed.
    """
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_measure_here, args=(make, expect, pid, sender))
    process.start()
    sender.close()
    try:
        sample, trouble = receiver.recv()
    except EOFError:
        sample, trouble = None, "the process died"
    process.join()
    if trouble is not None:
        raise WorkFailedError(trouble)
    assert isinstance(sample, dict)
    return sample


def _measure_here(make: Callable[[], Work], expect: object, pid: int | None, sender: Connection) -> None:
    try:
        work = make()
        gc.collect()
        _notes.clear()
        meter = _Meter(pid)
        result = work()
        sample = meter.stop() | _notes
        if callable(result):
            result = result()
        if result != expect:
            raise AssertionError(f"the work returned {result!r}, not {expect!r}")
    except BaseException:  # noqa: BLE001 - whatever it was, the parent reports it
        sender.send((None, traceback.format_exc()))
    else:
        sender.send((sample, None))


@dataclass
class _Meter:
    pid: int | None
    wall: float = field(init=False)
    cpu: float = field(init=False)
    resident: int = field(init=False)

    def __post_init__(self) -> None:
        # 5 sets the high-water mark back to what is resident now.
        self._proc("clear_refs").write_text("5")
        self.resident = self._status("VmRSS")
        self.cpu = self._cpu()
        self.wall = time.perf_counter()

    def stop(self) -> Sample:
        wall = time.perf_counter() - self.wall
        return {
            WALL: wall,
            CPU: self._cpu() - self.cpu,
            PEAK: max(0, self._status("VmHWM") - self.resident),
        }

    def _cpu(self) -> float:
        if self.pid is None:
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            return time.process_time() + children.ru_utime + children.ru_stime
        # The CPU clock of another process, to the nanosecond (/proc/<pid>/stat counts hundredths of a second): this
        # is what clock_getcpuclockid(3) computes, which Python does not offer.
        return time.clock_gettime((~self.pid << 3) | 2)

    def _status(self, name: str) -> int:
        for line in self._proc("status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise LookupError(name)

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.pid or 'self'}/{name}")
