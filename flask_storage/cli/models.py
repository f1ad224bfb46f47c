"""``fsck`` and ``restore``, and what ``sweep`` does with the files of models (:mod:`flask_storage.sqlalchemy`)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from flask import current_app

from .arguments import duration, json_option, last_segment, target_path
from .command import StorageCommand
from .output import as_json, print_status, printable, write_lines
from .profile import app_profiles, requested_profile, selected_storage

if TYPE_CHECKING:
    from ..sqlalchemy.databases import Database
    from ..sqlalchemy.fsck import FileCheck, Finding
    from ..sqlalchemy.ledger import SweepResult


@click.command("fsck", cls=StorageCommand, short_help="Compare the files of models with their rows.")
@click.option(
    "--older-than",
    type=duration,
    metavar="DURATION",
    default="1d",
    show_default=True,
    help="Only report orphans and uploads of this age; choose more than your longest transaction takes.",
)
@click.option("--checksums", is_flag=True, help="Also read all files, and compare their checksums.")
@click.option("--repair", "wants_repair", is_flag=True, help="Correct the ledger; orphans are deleted by `sweep`.")
@click.option("--force", is_flag=True, help="Repair also when unusually many files would be deleted.")
@json_option
def fsck_command(older_than: timedelta, checksums: bool, wants_repair: bool, force: bool, wants_json: bool) -> None:
    """Compare the rows of the app's models, the ledger of their files, and the storages.

    Each line is a finding: kind, profile, path and explanation, separated by tabs. The kinds are missing (a row has a
    file that does not exist), corrupt (its size or checksum is wrong), miscounted (the ledger is wrong), orphan (no
    row has the file), duplicate (the same content several times), and abandoned (an upload was not completed).

    --repair corrects the ledger. It changes and deletes no file, but the next sweep deletes the orphans. The exit
    status is 1 when missing, corrupt, miscounted or orphaned files were found and not repaired.
    """
    from ..sqlalchemy.fsck import PROBLEMS, REPAIRABLE, FileCheck

    found: Counter[str] = Counter()
    with FileCheck(_required_databases(), older_than=older_than) as check:
        write_lines(_finding_lines(check, found, checksums=checksums, wants_json=wants_json))
        print_status(_summary(check, found))
        problems = sum(found[kind] for kind in PROBLEMS)
        if wants_repair:
            problems -= _repair(check, sum(found[kind] for kind in REPAIRABLE), force=force)
    if problems:
        click.get_current_context().exit(1)


@click.command("restore", cls=StorageCommand, short_help="Get deleted files of models back.")
@click.argument("path", required=False)
@click.argument("target", required=False)
@json_option
def restore_command(path: str | None, target: str | None, wants_json: bool) -> None:
    """Copy the deleted file PATH to TARGET, or list the deleted files that are still kept.

    The app keeps them for STORAGE_KEEP_DELETED. Without PATH, each line is one of them: the time of the deletion,
    profile and path, separated by tabs. The copy belongs to no row, and is kept until it is deleted.
    """
    databases = _required_databases()
    if path is None:
        write_lines(_released_lines(databases, wants_json=wants_json))
        return
    if target is None or wants_json:
        raise click.UsageError("Pass PATH and TARGET to copy a file, or neither to list the deleted files.")
    from ..sqlalchemy.ledger import released_files

    storage = selected_storage()
    info = storage.stat(path)
    if not any(next(released_files(*database, key=(storage.name, info.path)), None) for database in databases):
        raise click.ClickException(f"{printable(path)} is not deleted: rows have it. Use `flask storage copy`.")
    target = target_path(target, last_segment(info.path))
    storage.copy(info.path, target, exclusive=True)
    print_status(f"Restored {path} as {target}.")


def app_databases() -> list[Database]:
    """Return the databases of the app, if it has models with files."""
    if "flask_storage.sqlalchemy" not in sys.modules:  # then no model has a column of files
        return []
    from ..sqlalchemy.databases import databases_of

    return databases_of(current_app)


def sweep_models(
    databases: list[Database], older_than: timedelta, days: int, *, dry_run: bool, force: bool
) -> SweepResult:
    """Delete the files that no row has; see :func:`flask_storage.sqlalchemy.sweep`."""
    from ..sqlalchemy.ledger import sweep

    return sweep(databases, older_than=older_than, days=days, dry_run=dry_run, force=force)


def sweep_json(result: SweepResult) -> dict[str, Any]:
    """Return the keys of ``sweep --json`` for the files of models."""
    orphans = [{"profile": profile, "path": path} for profile, path in result.orphans]
    return {"released": result.released, "orphans": orphans, "seen": result.seen, "refused": result.refused}


def sweep_lines(result: SweepResult) -> Iterator[str]:
    """Yield a line for each orphan."""
    return (f"orphan\t{profile}\t{printable(path)}" for profile, path in result.orphans)


def sweep_text(result: SweepResult, *, dry_run: bool) -> str:
    """Return what a sweep did, or would do, with the files of models."""
    action = "Would delete" if dry_run else "Deleted"
    orphans = 0 if result.refused else len(result.orphans)
    return f"{action} {_files(result.released)} of deleted or changed rows, and {_files(orphans)} without a row."


def refusal_text(result: SweepResult) -> str:
    """Return the message about unusually many orphans."""
    return (
        f"Error: {len(result.orphans)} of {_files(result.seen)} of the last days have no row, so none of these is "
        "deleted. Is the database an old copy, or does another app store files there? See them with --dry-run, and "
        "delete them with --force."
    )


def _required_databases() -> list[Database]:
    databases = app_databases()
    if not databases:
        raise click.UsageError(
            "The app has no models with files: use Flask-SQLAlchemy, or call flask_storage.sqlalchemy.register(app, "
            "engine, Base)."
        )
    return databases


def _finding_lines(check: FileCheck, found: Counter[str], *, checksums: bool, wants_json: bool) -> Iterator[str]:
    for finding in check.findings(checksums=checksums):
        found[finding.kind] += 1
        yield _as_json(finding) if wants_json else _as_text(finding)


def _as_json(finding: Finding) -> str:
    return as_json({"kind": finding.kind, "profile": finding.profile, "path": finding.path, "detail": finding.detail})


def _as_text(finding: Finding) -> str:
    return "\t".join(printable(text) for text in (finding.kind, finding.profile, finding.path, finding.detail))


def _summary(check: FileCheck, found: Counter[str]) -> str:
    counts = check.counts
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.items()) or "no findings"
    return f"Compared {counts['rows']} rows, {counts['ledger']} ledger entries and {_files(counts['files'])}: {kinds}."


def _repair(check: FileCheck, repairable: int, *, force: bool) -> int:
    """Correct the ledgers, and return how many findings that has settled."""
    repair = check.repair(force=force)
    if repair.refused:
        raise click.ClickException(
            f"{_files(repair.released)} would be deleted, so nothing was repaired: is the database an old copy, or are "
            "models not imported? Repair with --force."
        )
    print_status(f"Repaired {repairable}. The next sweep deletes {_files(repair.released)}.")
    return repairable


def _released_lines(databases: list[Database], *, wants_json: bool) -> Iterator[str]:
    from ..sqlalchemy.ledger import released_files

    profile = requested_profile()
    keep = app_profiles().keep_deleted
    for engine, metadata in databases:
        for file in released_files(engine, metadata):
            if profile not in (None, file.profile):
                continue
            if wants_json:
                released, until = file.released_at, file.released_at + keep
                yield as_json({"profile": file.profile, "path": file.path, "deleted_at": released, "kept_until": until})
            else:
                yield f"{file.released_at.isoformat(timespec='seconds')}\t{file.profile}\t{printable(file.path)}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
