"""Copies files between storages and this machine; of a whole directory, what is equal already is skipped."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ..backends.base import StorageBackend
from ..errors import PreconditionFailedError
from ..paths import normalize, normalize_directory
from ..types import CONTENT_HEADERS, FileInfo, ListEntry, ProgressCallback
from ..validation import did_you_mean
from .command import local_file, usage_errors
from .compare import Content, is_equal, local_content, stored_content
from .output import print_status, progress
from .profile import app_profiles, selected_storage

_LIKENESS = 0.7  # accepts two letters of "docs" in the wrong order


@dataclass(frozen=True, slots=True)
class StoredPath:
    """A path of a storage, as the command line names it.

    Attributes:
        storage: The storage.
        path: A file or directory.
        label: The profile and a colon, if the command line names it; for messages.
    """

    storage: StorageBackend
    path: str
    label: str = ""

    def __str__(self) -> str:
        return f"{self.label}{self.path}"

    @property
    def as_directory(self) -> StoredPath:
        """The same path, normalized as that of a directory; the empty one is the root."""
        return StoredPath(self.storage, normalize_directory(self.path), self.label)

    @property
    def name(self) -> str:
        """The last segment of the path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> StoredPath:
        """The directory of this file."""
        return StoredPath(self.storage, self.path.rpartition("/")[0], self.label)

    def below(self, name: str) -> StoredPath:
        """Return the path of *name* below this directory."""
        return StoredPath(self.storage, f"{self.path}/{name}" if self.path else name, self.label)

    def content(self) -> Content:
        """Return the content of this file."""
        return stored_content(self.storage, self.path)

    def entries(self) -> dict[str, ListEntry]:
        """Return the files below this directory, by name relative to it, sorted."""
        start = len(self.path) + 1 if self.path else 0
        return {entry.name[start:]: entry for entry in self.storage.list(self.path)}


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One file of a directory.

    Attributes:
        name: Its path relative to the directory.
        size: In bytes.
        is_done: Whether the target has the content already.
        run: Transfers it.
    """

    name: str
    size: int
    is_done: Callable[[], bool]
    run: Callable[[ProgressCallback | None], object]


def located(text: str) -> StoredPath:
    """Return the storage and path of an argument: ``profile:path``, or a path in the profile of the command.

    A colon in the name of a file is kept, unless the text before it is a profile; a leading slash avoids that.

    Raises:
        click.UsageError: when the text before the colon is almost the name of a profile.
    """
    profile, colon, path = text.partition(":")
    if colon and profile in app_profiles():
        return StoredPath(app_profiles()[profile], path, f"{profile}:")
    may_be_profile = colon and "/" not in profile
    if may_be_profile and (question := did_you_mean(profile.lower(), app_profiles(), likeness=_LIKENESS)):
        # A target would become a file of that name in the profile of the command.
        raise click.UsageError(
            f"The app has no profile {profile!r}: {question} Write /{text} for a file whose name begins so."
        )
    return StoredPath(selected_storage(), text)


def put_tree(directory: str, target: StoredPath, exclusive: bool) -> tuple[int, int]:
    """Upload all files below a local directory, and return how many were uploaded and how many were equal.

    Symbolic links, pipes and devices are skipped with a message. Every path is checked before the first upload.
    """
    files = {name: normalize(target.below(name).path) for name in _local_names(directory)}
    if len(set(files.values())) < len(files):  # such as "é" in one character, and in two
        raise click.UsageError("Two local names differ only in how their letters are encoded: rename one of them.")
    present = {entry.name: entry.size for entry in target.storage.iter(target.path)}

    def transfer(name: str, path: str) -> _Transfer:
        file = os.path.join(directory, name)

        def upload(callback: ProgressCallback | None) -> None:
            with local_file(file), open(file, "rb") as source:
                target.storage.upload(source, path, progress_callback=callback, exclusive=exclusive)

        def is_done() -> bool:
            return present.get(path) == size and is_equal(local_content(file), stored_content(target.storage, path))

        size = os.stat(file).st_size
        return _Transfer(name, size, is_done, upload)

    return _run([transfer(name, path) for name, path in files.items()])


def get_tree(source: StoredPath, directory: str, exclusive: bool) -> tuple[int, int]:
    """Download all files below a directory of a storage; return how many were downloaded and how many were equal."""

    def transfer(name: str, entry: ListEntry) -> _Transfer:
        file = os.path.join(directory, *name.split("/"))

        def download(callback: ProgressCallback | None) -> None:
            if exclusive and os.path.lexists(file):
                raise click.ClickException(f"{click.format_filename(file)} exists already.")
            with local_file(file):
                os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
                source.storage.get(entry.name, file, progress_callback=callback)

        def is_done() -> bool:
            if not os.path.isfile(file) or os.path.getsize(file) != entry.size:
                return False
            return is_equal(stored_content(source.storage, entry.name), local_content(file))

        return _Transfer(name, entry.size, is_done, download)

    return _run([transfer(name, entry) for name, entry in entries_of(source).items()])


def copy_tree(
    source: StoredPath, target: StoredPath, exclusive: bool, entries: Mapping[str, ListEntry]
) -> tuple[int, int]:
    """Copy files below a directory to another one, and return how many were copied and how many were equal."""
    present = {name: entry.size for name, entry in target.entries().items()}

    def transfer(name: str, entry: ListEntry) -> _Transfer:
        old, new = source.below(name), target.below(name)

        def is_done() -> bool:
            return present.get(name) == entry.size and is_equal(old.content(), new.content())

        return _Transfer(name, entry.size, is_done, lambda callback: copy_file(old, new, exclusive, callback))

    # If the target contains the source, through another profile, a copy replaces only files that lie less deep in the
    # source: they have been copied then.
    ordered = sorted(entries, key=lambda name: name.count("/"))
    return _run([transfer(name, entries[name]) for name in ordered])


def move_tree(source: StoredPath, target: StoredPath, exclusive: bool) -> tuple[int, int]:
    """Copy all files below a directory to another one, compare them all, and only then delete the old ones."""
    refuse_same(source, target, below=True)
    entries = entries_of(source)
    versions = {name: _version(source.storage.stat(entry.name)) for name, entry in entries.items()}
    result = copy_tree(source, target, exclusive, entries)
    for name in entries:
        _check_copied(source.below(name), target.below(name), versions[name])
    for name, entry in entries.items():
        # Again: since the first check, all other files have been compared, which may take long.
        _check_version(source.below(name), versions[name])
        source.storage.delete(entry.name)
    return result


def copy_file(
    source: StoredPath, target: StoredPath, exclusive: bool, callback: ProgressCallback | None = None
) -> None:
    """Copy one file; to another storage with the headers and metadata that this one can store."""
    if source.storage is target.storage:
        source.storage.copy(source.path, target.path, exclusive=exclusive)
    else:
        _stream(source, target, exclusive, callback)


def move_file(
    source: StoredPath, target: StoredPath, exclusive: bool, callback: ProgressCallback | None = None
) -> None:
    """Copy one file to another storage, compare it, and only then delete the old one."""
    if source.name.casefold() == target.name.casefold():
        refuse_same(source.folder, target.folder)
    info = _stream(source, target, exclusive, callback)
    _check_copied(source, target, _version(info))
    source.storage.delete(source.path)


def _stream(source: StoredPath, target: StoredPath, exclusive: bool, callback: ProgressCallback | None) -> FileInfo:
    """Copy one file through this process, and return what was copied."""
    with source.storage.open(source.path, "r") as reader, usage_errors():
        info = reader.info or source.storage.stat(source.path)
        headers = _kept_headers(info, target.storage)
        target.storage.upload(
            reader, target.path, progress_callback=callback, size=info.size, exclusive=exclusive, **headers
        )
    return info


def _check_copied(source: StoredPath, target: StoredPath, version: object) -> None:
    """Raise unless the target has the content, and the source is still the version that was copied."""
    if not is_equal(source.content(), target.content()):
        raise click.ClickException(f"{target} differs from {source} after copying: nothing was deleted.")
    _check_version(source, version)


def _check_version(source: StoredPath, version: object) -> None:
    """Raise unless the source is still the version that was copied."""
    if _version(source.storage.stat(source.path)) != version:
        raise PreconditionFailedError(
            f"{source} was replaced while it was moved: it was not deleted; run the command again", path=source.path
        )


def refuse_overlap(source: StoredPath, target: StoredPath) -> None:
    """Raise if one of two directories of a storage contains the other: copies would replace files not yet copied."""
    old, new = (f"{argument.path}/".lstrip("/") for argument in (source, target))
    if source.storage is target.storage and (old.startswith(new) or new.startswith(old)):
        raise click.UsageError("One of the folders contains the other: choose another target.")


def refuse_same(source: StoredPath, target: StoredPath, *, below: bool = False) -> None:
    """Raise if two directories are one, or with *below* if one of them contains the other.

    Two profiles may lead to one place, and a file system may ignore the case of names: a file would be copied onto
    itself, or onto one that is not copied yet, and then deleted. So an empty file is written to one directory, and
    looked for in the other.
    """
    name = f"moving-{secrets.token_hex(8)}"
    for one, other in ((target, source), (source, target))[: 2 if below else 1]:
        written, sought = one.below(name), other.below(name)
        written.storage.write(written.path, b"")
        try:
            if below:
                found = any(name == path.rpartition("/")[2] for path in other.entries())
            else:
                found = sought.storage.exists(sought.path)
        finally:
            written.storage.delete(written.path)
        if found:
            raise click.UsageError("Source and target lead to the same files: nothing was moved.")


def entries_of(source: StoredPath) -> dict[str, ListEntry]:
    """Return the files below a directory, by name relative to it; raise if there are none."""
    entries = source.entries()
    if not entries:
        raise click.ClickException(f"{source} has no files below it in {source.storage.name}.")
    return entries


def _version(info: FileInfo) -> tuple[Any, ...]:
    return info.etag, info.size, info.last_modified, info.version


def _kept_headers(info: FileInfo, storage: StorageBackend) -> dict[str, Any]:
    capabilities = storage.capabilities
    headers = {name: getattr(info, name) for name in CONTENT_HEADERS} if capabilities.content_headers else {}
    return {**headers, "metadata": dict(info.metadata)} if capabilities.metadata else headers


def _local_names(directory: str) -> Iterator[str]:
    """Yield the regular files below a directory, relative to it and sorted; others are named in a message."""
    with local_file(directory):
        for folder, folders, files in os.walk(directory, onerror=_raise):
            folders.sort()
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in sorted([*files, *links]):
                file = os.path.join(folder, name)
                if os.path.islink(file) or not os.path.isfile(file):
                    print_status(f"Skipped {click.format_filename(file)}, which is no regular file.")
                else:
                    yield os.path.relpath(file, directory)


def _raise(error: OSError) -> None:
    raise error


def _run(transfers: Sequence[_Transfer]) -> tuple[int, int]:
    """Transfer all files that are not equal already, and return the numbers of transferred and equal ones."""
    done = transferred = 0
    total = sum(transfer.size for transfer in transfers)
    with progress(f"{len(transfers)} files", lambda: total) as callback:
        for transfer in transfers:
            start = done
            report = None if callback is None else _shifted(callback, start)
            if not transfer.is_done():
                transfer.run(report)
                transferred += 1
            done = start + transfer.size
            if callback is not None:
                callback(done)
    return transferred, len(transfers) - transferred


def _shifted(callback: ProgressCallback, start: int) -> ProgressCallback:
    return lambda done: callback(start + done)
