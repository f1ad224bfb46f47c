"""Processes that are killed while they store content: what is stored is complete and at its address."""

import hashlib
import signal
from datetime import timedelta

import pytest

from flask_storage import ContentStore, HashFS, LocalFSStorage
from tests.counts import count
from tests.killed_programs import NEW, on_demand, program, random_times, run_and_kill

CONTENTS = 40
PROGRAMS = {
    "ContentStore": "store = ContentStore(storage)",
    "HashFS": "store = HashFS(storage)",
}


@pytest.fixture
def source(tmp_path):
    """A local file, whose beginnings are the contents."""
    (tmp_path / "source").write_bytes(NEW)
    return tmp_path / "source"


def _contents():
    """Return the contents that a program stores, by their ids."""
    contents = [NEW[: number * 20_000] for number in range(CONTENTS)]
    return {hashlib.sha256(content).hexdigest(): content for content in contents}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_process_killed_at_any_moment_leaves_no_corrupted_content(tmp_path, source, kind):
    """Also no name without content; a sweep removes the hidden rest, and another process completes the work."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    store = ContentStore(storage) if kind == "ContentStore" else HashFS(storage)
    lines = f"""
    import io
    from flask_storage import ContentStore, HashFS
    {PROGRAMS[kind]}
    content = open(source, "rb").read()
    """
    work = f"""
    for number in range({CONTENTS}):
        store.put(io.BytesIO(content[: number * 20_000]), ["txt", "md", None][number % 3])
    """
    expression = f"LocalFSStorage({str(storage.root)!r}, fsync=False)"
    expected = _contents()

    def run(after=None):
        return run_and_kill(program(expression, source, _dedented(lines) + on_demand(work)), after)

    exit_code, duration = run()
    assert exit_code == 0
    assert len(store) == CONTENTS
    exit_codes = []

    for after in random_times(duration, count(3, 30)):
        for path in store.files():
            store.delete(path)
        exit_codes.append(run(after)[0])

        assert list(store.corrupted()) == []
        storage.sweep(timedelta(0))
        hidden = [path for path in storage.root.rglob(".fs-tmp-*") if path.is_file()]
        assert hidden == []
        for path in store.files():
            found = store.get(path)
            assert found is not None
            assert storage.read(found.relpath) == expected[found.id]

    assert -signal.SIGKILL in exit_codes
    assert run()[0] == 0
    assert {store.unshard(path) for path in store.files()} == set(expected)


def _dedented(lines):
    return "\n".join(line.strip() for line in lines.splitlines()) + "\n"
