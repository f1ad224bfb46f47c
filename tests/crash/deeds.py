"""The deeds: what is there before, what is done, and which ends an outsider may find."""

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
KEPT = {"kept.txt": (b"kept", None)}
TYPED = WriteOptions(content_type="text/plain", metadata={"by": "us"})


@dataclass(frozen=True)
class Deed:
    """One verb in one situation; a view is what a storage shows, path by path, with the content type."""

    act: Callable[[LocalFSStorage, dict[str, Any]], object]
    before: dict[str, Any]
    after: dict[str, Any]
    between: tuple[dict[str, Any], ...] = ()
    prepare: Callable[[LocalFSStorage, Path], dict[str, Any]] = lambda storage, local: {}

    def ready(self, root: Path) -> tuple[LocalFSStorage, dict[str, Any]]:
        """Make the situation in *root*, and return its storage and what the deed must be told."""
        storage = LocalFSStorage(root, name="disk", create=True)
        for path, (content, content_type) in {**KEPT, **self.before}.items():
            storage.write(path, content, content_type=content_type)
        return storage, self.prepare(storage, root.parent)

    def views(self) -> list[dict[str, Any]]:
        """Everything that an outsider may ever see."""
        return [{**KEPT, **view} for view in (self.before, *self.between, self.after)]


def view(storage: LocalFSStorage) -> dict[str, Any]:
    """What the storage shows now."""
    return {entry.name: (storage.read(entry.name), storage.stat(entry.name).content_type) for entry in storage.list()}


def _put(path: str, **arguments: Any) -> Callable[[LocalFSStorage, dict[str, Any]], None]:
    def act(storage: LocalFSStorage, told: dict[str, Any]) -> None:
        with storage.open(path, "w", **arguments) as writer:
            for start in range(0, len(NEW), 200_000):
                writer.write(NEW[start : start + 200_000])

    return act


def _local_file(storage: LocalFSStorage, local: Path) -> dict[str, Any]:
    (local / "source").write_bytes(NEW)
    return {"source": str(local / "source")}


def _edit(storage: LocalFSStorage, told: dict[str, Any]) -> None:
    with storage.open("a.bin", "rw") as file:
        file.write(b"new!")


def _upload(storage: LocalFSStorage, local: Path) -> dict[str, Any]:
    upload_id = storage.multipart.create("a.bin", TYPED)
    halves = NEW[:300_000], NEW[300_000:]
    parts = [storage.multipart.upload_part("a.bin", upload_id, number, data) for number, data in enumerate(halves, 1)]
    return {"upload_id": upload_id, "parts": [(part.number, part.size, part.etag) for part in parts]}


def _finish(storage: LocalFSStorage, told: dict[str, Any]) -> None:
    parts = [Part(number=number, size=size, etag=etag) for number, size, etag in told["parts"]]
    storage.multipart.complete("a.bin", told["upload_id"], parts, WriteOptions())


_old = {"a.bin": (OLD, "text/plain")}
_new = {"a.bin": (NEW, None)}
_typed = {"a.bin": (NEW, "text/plain")}
_copied = {**_old, "b.bin": (OLD, "text/plain")}
_tree = {f"d/{name}": (name.encode(), None) for name in ("1", "2", "e/3")}

DEEDS = {
    "put": Deed(_put("a.bin"), {}, _new),
    "put_over": Deed(_put("a.bin"), _old, _new),
    "put_exclusive": Deed(_put("a.bin", exclusive=True), {}, _new),
    "put_with_metadata": Deed(_put("a.bin", content_type="text/plain", metadata={"by": "us"}), _new, _typed),
    "put_into_folders": Deed(_put("x/y/z.bin"), {}, {"x/y/z.bin": (NEW, None)}),
    "put_local_file": Deed(lambda storage, told: storage.put(told["source"], "a.bin"), _old, _new, prepare=_local_file),
    "edit": Deed(_edit, _old, {"a.bin": (b"new!" + OLD[4:], "text/plain")}),
    "copy": Deed(lambda storage, told: storage.copy("a.bin", "b.bin"), _old, _copied),
    "copy_over": Deed(lambda storage, told: storage.copy("a.bin", "b.bin"), {**_old, "b.bin": (NEW, None)}, _copied),
    "copy_into_folders": Deed(
        lambda storage, told: storage.copy("a.bin", "x/y/b.bin"), _old, {**_old, "x/y/b.bin": (OLD, "text/plain")}
    ),
    "move": Deed(lambda storage, told: storage.move("a.bin", "b.bin"), _old, {"b.bin": (OLD, "text/plain")}),
    "move_over": Deed(
        lambda storage, told: storage.move("a.bin", "b.bin"),
        {**_old, "b.bin": (NEW, None)},
        {"b.bin": (OLD, "text/plain")},
    ),
    "move_exclusive": Deed(
        lambda storage, told: storage.move("a.bin", "b.bin", exclusive=True),
        _old,
        {"b.bin": (OLD, "text/plain")},
        (_copied,),
    ),
    "move_between_folders": Deed(
        lambda storage, told: storage.move("d/a.bin", "x/y/b.bin"), {"d/a.bin": (OLD, None)}, {"x/y/b.bin": (OLD, None)}
    ),
    "delete": Deed(lambda storage, told: storage.delete("d/e/a.bin"), {"d/e/a.bin": (OLD, None)}, {}),
    "delete_prefix": Deed(
        lambda storage, told: storage.delete_prefix("d"),
        _tree,
        {},
        tuple(dict(some) for count in (1, 2) for some in combinations(_tree.items(), count)),
    ),
    "begin_parts": Deed(lambda storage, told: storage.multipart.create("a.bin", TYPED), _old, _old),
    "upload_part": Deed(
        lambda storage, told: storage.multipart.upload_part("a.bin", told["upload_id"], 2, OLD),
        _old,
        _old,
        prepare=_upload,
    ),
    "finish_parts": Deed(_finish, _old, _typed, prepare=_upload),
    "discard_parts": Deed(
        lambda storage, told: storage.multipart.abort("a.bin", told["upload_id"]), _old, _old, prepare=_upload
    ),
}
