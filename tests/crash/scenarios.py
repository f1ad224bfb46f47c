"""The scenarios: the initial state of a storage, an operation, and the states that may be visible afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from flask_storage import LocalFSStorage
from flask_storage.multipart import Part
from flask_storage.types import WriteOptions

OLD = b"old " * 20_000
NEW = b"new!" * 150_000
UNCHANGED = {"kept.txt": (b"kept", None)}
TEXT_OPTIONS = WriteOptions(content_type="text/plain", metadata={"by": "us"})


@dataclass(frozen=True)
class Scenario:
    """One operation and its initial state. A state maps each path to content and content type."""

    run: Callable[[LocalFSStorage, dict[str, Any]], object]
    before: dict[str, Any]
    after: dict[str, Any]
    between: tuple[dict[str, Any], ...] = ()
    prepare: Callable[[LocalFSStorage, Path], dict[str, Any]] = lambda storage, local: {}

    def set_up(self, root: Path) -> tuple[LocalFSStorage, dict[str, Any]]:
        """Create the initial state in *root*; return the storage and the data for :attr:`run`."""
        storage = LocalFSStorage(root, name="disk", create=True)
        for path, (content, content_type) in {**UNCHANGED, **self.before}.items():
            storage.write(path, content, content_type=content_type)
        return storage, self.prepare(storage, root.parent)

    def allowed_states(self) -> list[dict[str, Any]]:
        """Return every state that may be visible at any time."""
        return [{**UNCHANGED, **state} for state in (self.before, *self.between, self.after)]


def state_of(storage: LocalFSStorage) -> dict[str, Any]:
    """Return the visible state of the storage."""
    return {entry.name: (storage.read(entry.name), storage.stat(entry.name).content_type) for entry in storage.list()}


def _put(path: str, **arguments: Any) -> Callable[[LocalFSStorage, dict[str, Any]], None]:
    def run(storage: LocalFSStorage, data: dict[str, Any]) -> None:
        with storage.open(path, "w", **arguments) as writer:
            for start in range(0, len(NEW), 200_000):
                writer.write(NEW[start : start + 200_000])

    return run


def _local_file(storage: LocalFSStorage, local: Path) -> dict[str, Any]:
    (local / "source").write_bytes(NEW)
    return {"source": str(local / "source")}


def _edit(storage: LocalFSStorage, data: dict[str, Any]) -> None:
    with storage.open("a.bin", "rw") as file:
        file.write(b"new!")


def _upload(storage: LocalFSStorage, local: Path) -> dict[str, Any]:
    upload_id = storage.multipart.create("a.bin", TEXT_OPTIONS)
    halves = NEW[:300_000], NEW[300_000:]
    parts = [storage.multipart.upload_part("a.bin", upload_id, number, data) for number, data in enumerate(halves, 1)]
    return {"upload_id": upload_id, "parts": [(part.number, part.size, part.etag) for part in parts]}


def _complete(storage: LocalFSStorage, data: dict[str, Any]) -> None:
    parts = [Part(number=number, size=size, etag=etag) for number, size, etag in data["parts"]]
    storage.multipart.complete("a.bin", data["upload_id"], parts, WriteOptions())


_old = {"a.bin": (OLD, "text/plain")}
_new = {"a.bin": (NEW, None)}
_with_type = {"a.bin": (NEW, "text/plain")}
_copied = {**_old, "b.bin": (OLD, "text/plain")}
_tree = {f"d/{name}": (name.encode(), None) for name in ("1", "2", "e/3")}

SCENARIOS = {
    "put": Scenario(_put("a.bin"), {}, _new),
    "put_over": Scenario(_put("a.bin"), _old, _new),
    "put_exclusive": Scenario(_put("a.bin", exclusive=True), {}, _new),
    "put_with_metadata": Scenario(_put("a.bin", content_type="text/plain", metadata={"by": "us"}), _new, _with_type),
    "put_into_directories": Scenario(_put("x/y/z.bin"), {}, {"x/y/z.bin": (NEW, None)}),
    "put_local_file": Scenario(
        lambda storage, data: storage.put(data["source"], "a.bin"), _old, _new, prepare=_local_file
    ),
    "edit": Scenario(_edit, _old, {"a.bin": (b"new!" + OLD[4:], "text/plain")}),
    "copy": Scenario(lambda storage, data: storage.copy("a.bin", "b.bin"), _old, _copied),
    "copy_over": Scenario(
        lambda storage, data: storage.copy("a.bin", "b.bin"), {**_old, "b.bin": (NEW, None)}, _copied
    ),
    "copy_into_directories": Scenario(
        lambda storage, data: storage.copy("a.bin", "x/y/b.bin"), _old, {**_old, "x/y/b.bin": (OLD, "text/plain")}
    ),
    "move": Scenario(lambda storage, data: storage.move("a.bin", "b.bin"), _old, {"b.bin": (OLD, "text/plain")}),
    "move_over": Scenario(
        lambda storage, data: storage.move("a.bin", "b.bin"),
        {**_old, "b.bin": (NEW, None)},
        {"b.bin": (OLD, "text/plain")},
    ),
    "move_exclusive": Scenario(
        lambda storage, data: storage.move("a.bin", "b.bin", exclusive=True),
        _old,
        {"b.bin": (OLD, "text/plain")},
        (_copied,),
    ),
    "move_between_directories": Scenario(
        lambda storage, data: storage.move("d/a.bin", "x/y/b.bin"), {"d/a.bin": (OLD, None)}, {"x/y/b.bin": (OLD, None)}
    ),
    "delete": Scenario(lambda storage, data: storage.delete("d/e/a.bin"), {"d/e/a.bin": (OLD, None)}, {}),
    "delete_prefix": Scenario(
        lambda storage, data: storage.delete_prefix("d"),
        _tree,
        {},
        tuple(dict(rest) for count in (1, 2) for rest in combinations(_tree.items(), count)),
    ),
    "create_upload": Scenario(lambda storage, data: storage.multipart.create("a.bin", TEXT_OPTIONS), _old, _old),
    "upload_part": Scenario(
        lambda storage, data: storage.multipart.upload_part("a.bin", data["upload_id"], 2, OLD),
        _old,
        _old,
        prepare=_upload,
    ),
    "complete_upload": Scenario(_complete, _old, _with_type, prepare=_upload),
    "abort_upload": Scenario(
        lambda storage, data: storage.multipart.abort("a.bin", data["upload_id"]), _old, _old, prepare=_upload
    ),
}
