"""A large file over HTTP: what it costs the worker, and how long it keeps the worker busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from ..frame import Bench, Contender, GiB, Stage, at_most, task, times
from ..meters import CPU, PEAK, WALL, Work, note
from ..peers import GUNICORN, NGINX
from ..servers import connected, download, drain, fetch, gunicorn, head, nginx
from .files import filled, make_directories
from .transfers import title

SEND_FILE, X_ACCEL = "flask.send_file", "link view, X-Accel-Redirect"
CHEAP = times(SEND_FILE, 1.05, metric=CPU)


def downloading(port: int, target: str) -> Callable[[], Work]:
    """Return what prepares one download."""
    return lambda: lambda: download(port, target)


def stage(bench: Bench, worker: str) -> Iterator[Stage]:
    """Yield our view and Flask's function, in one server with one worker."""
    root, size = bench.directory / "root", bench.size(GiB)
    make_directories(root)
    filled(root / "big", size)
    with ExitStack() as stack:
        server = stack.enter_context(gunicorn(root, worker))
        link = server.link("docs", "download", "big")
        yield (
            [
                Contender("link view", downloading(server.port, link), ours=True, pid=server.pid),
                Contender(SEND_FILE, downloading(server.port, "/send_file/big"), pid=server.pid),
            ],
            size,
        )


@task(
    "download-sync",
    title("{} downloaded by link, from a sync worker of gunicorn", GiB),
    CHEAP,
    columns=(WALL, CPU, PEAK),
    needs=[GUNICORN],
)
def download_sync(bench: Bench) -> Iterator[Stage]:
    """Download from gunicorn's default worker."""
    yield from stage(bench, "sync")


@task(
    "download-gthread",
    title("{} downloaded by link, from a gthread worker of gunicorn", GiB),
    CHEAP,
    columns=(WALL, CPU, PEAK),
    needs=[GUNICORN],
)
def download_gthread(bench: Bench) -> Iterator[Stage]:
    """Download from a worker with threads."""
    yield from stage(bench, "gthread")


def with_second_request(port: int, target: str, app_port: int) -> Callable[[], Work]:
    """Return a download during which another request is sent to the only worker, and how long that one waits."""

    def work() -> int:
        total = 0
        with connected(port) as connection:
            connection.sendall(head("GET", target))
            first = connection.recv(1)  # the head is on its way: the worker has begun

            def read() -> None:
                nonlocal total
                total = drain(connection, first)
                connection.close()  # gunicorn waits for that before it takes the next request

            reader = threading.Thread(target=read)
            reader.start()
            asked = time.perf_counter()
            fetch(app_port, "/pid")
            note("free", time.perf_counter() - asked)
            reader.join()
        return total

    return lambda: work


@task(
    "download-nginx",
    title("{} downloaded by link, from nginx, which the worker tells where the file is", GiB),
    at_most("free", 0.02, "worker free ≤ 20 ms"),
    at_most(CPU, 0.01, "CPU of the worker ≤ 10 ms"),
    columns=(WALL, CPU, PEAK, "free"),
    needs=[GUNICORN, NGINX],
)
def download_nginx(bench: Bench) -> Iterator[Stage]:
    """Let nginx send the file, and send the only, synchronous worker another request at the same time."""
    root, size = bench.directory / "root", bench.size(GiB)
    make_directories(root)
    filled(root / "big", size)
    with ExitStack() as stack:
        server = stack.enter_context(gunicorn(root, "sync", x_accel=True))
        front = stack.enter_context(nginx(bench.directory / "nginx", root, server.port))
        link = server.link("docs", "download", "big")

        def contender(name: str, port: int, target: str, *, ours: bool = False) -> Contender:
            return Contender(name, with_second_request(port, target, server.port), ours=ours, pid=server.pid)

        yield (
            [
                contender(X_ACCEL, front, link, ours=True),
                contender("flask.send_file, no nginx", server.port, "/send_file/big"),
                contender("nginx alone, unsigned", front, "/static/big"),
            ],
            size,
        )
