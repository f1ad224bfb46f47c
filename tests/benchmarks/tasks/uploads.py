"""A large body over HTTP: no temporary copy, and flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..frame import Bench, Contender, GiB, MiB, Stage, at_most, task
from ..meters import COPIES, CPU, PEAK, WALL, Work, note, written
from ..peers import GUNICORN
from ..servers import Server, gunicorn, upload
from .files import fresh, make_directories
from .transfers import title

FULL = 2 * GiB
# What is allowed beside the content itself is for the answers and the log.
TARGETS = (at_most(PEAK, 64 * MiB, "memory ≤ 64 MiB"), at_most(COPIES, 1.01, "written once: no temporary copy"))
COLUMNS = (WALL, CPU, PEAK, COPIES)


def stage(bench: Bench, worker: str) -> Iterator[Stage]:
    """Yield our view and two of werkzeug's ways, in one server with one worker."""
    root, size = bench.directory / "root", bench.size(FULL)
    make_directories(root)

    def make(method: str, target: Callable[[], str], *, form: bool = False) -> Callable[[], Work]:
        def prepare() -> Work:
            fresh(root / "big")
            where = target()

            def work() -> int:
                before = written(server.pid)
                upload(server.port, method, where, size, form=form)
                note(COPIES, (written(server.pid) - before) / size)
                return (root / "big").stat().st_size

            return work

        return prepare

    with gunicorn(root, worker) as server:
        yield (
            [
                _ours("link view", server, make("PUT", lambda: server.link("docs", "upload", "big"))),
                _ours("link view, fsync=False", server, make("PUT", lambda: server.link("quick", "upload", "big"))),
                Contender("body to a temporary file", make("PUT", lambda: "/temporary/big"), pid=server.pid),
                Contender("form file, save()", make("POST", lambda: "/form/big", form=True), pid=server.pid),
            ],
            size,
        )


def _ours(name: str, server: Server, make: Callable[[], Work]) -> Contender:
    return Contender(name, make, ours=True, pid=server.pid)


@task(
    "upload-sync",
    title("{} uploaded by link, to a sync worker of gunicorn", FULL),
    *TARGETS,
    columns=COLUMNS,
    needs=[GUNICORN],
)
def upload_sync(bench: Bench) -> Iterator[Stage]:
    """Upload to gunicorn's default worker."""
    yield from stage(bench, "sync")


@task(
    "upload-gthread",
    title("{} uploaded by link, to a gthread worker of gunicorn", FULL),
    *TARGETS,
    columns=COLUMNS,
    needs=[GUNICORN],
)
def upload_gthread(bench: Bench) -> Iterator[Stage]:
    """Upload to a worker with threads."""
    yield from stage(bench, "gthread")
