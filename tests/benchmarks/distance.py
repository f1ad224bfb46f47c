"""A server that is far away: a proxy before it, in a process of its own that takes no turns from what is measured.

Run as a program it is that process.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.services.fault_proxy import FaultProxy

from .servers import PROJECT

ONE_WAY = 0.02  # seconds; there and back is twice as long
RATE = 25_000_000  # bytes a second for one connection, in each direction


@dataclass(frozen=True)
class Distance:
    """The proxy's port, and the process it runs in."""

    port: int
    process: subprocess.Popen[str]

    def moved(self) -> int:
        """Return how many bytes have passed so far, in both directions."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextlib.contextmanager
def distant(port: int, *, one_way: float = ONE_WAY, rate: float | None = RATE) -> Iterator[Distance]:
    """Put a server of this machine far away, or with no latency and no rate just behind a counter.

    Args:
        port: Of the server.
        one_way: Seconds that a byte is on its way; they limit only how soon it is there, not how many follow.
        rate: Bytes a second for each connection; None for any.
    """
    command = [sys.executable, "-m", __name__, str(port), str(one_way), str(rate or 0)]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        try:
            yield Distance(int(process.stdout.readline()), process)
        finally:
            process.terminate()


def main() -> None:
    """Run the proxy until its standard input is closed."""
    port, one_way, rate = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    with FaultProxy("127.0.0.1", port) as proxy:
        for faults in (proxy.up, proxy.down):
            faults.latency, faults.rate = one_way, rate or None
        print(proxy.port, flush=True)
        for _ in sys.stdin:
            print(proxy.counters.up + proxy.counters.down, flush=True)


if __name__ == "__main__":
    main()
