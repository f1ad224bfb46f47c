"""``doctor``: tries what a profile can do, and says what to do about what fails."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from urllib.parse import urlsplit

import click
from flask import Flask, current_app

from ..backends.base import StorageBackend
from ..diagnostics import Finding
from ..errors import StorageError
from .arguments import json_option
from .command import StorageCommand
from .link_probes import LinkProbes
from .output import as_json, print_status, printable, standard_output, write_lines
from .probes import FileProbes
from .profile import complete_profile, remember_profile, selected_storage
from .web_client import UnreachableError

_EXAMPLE_ORIGIN = "https://app.example.com"


@click.command("doctor", cls=StorageCommand, short_help="Try everything that a profile needs, and explain failures.")
@click.argument(
    "tested",
    metavar="[PROFILE]",
    required=False,
    expose_value=False,
    callback=remember_profile,
    shell_complete=complete_profile,
)
@json_option
@click.pass_context
def doctor_command(ctx: click.Context, wants_json: bool) -> None:
    """Try what the profile PROFILE, or the default one, can do: one line for each probe.

    The command writes only below one new directory with a random name, and deletes it at the end. It ends with the
    rights and rules that the storage needs at its service. The exit status is 1 when a probe failed.
    """
    storage, origin = selected_storage(), app_origin()
    findings = {}
    with closing(examine(storage, current_app, origin)) as results, standard_output() as out:
        for name, finding in results:
            findings[name] = finding
            if not wants_json:
                out.write(f"{_line(name, finding)}\n".encode())
                out.flush()
    requirements = storage.diagnostics(origin=origin or _EXAMPLE_ORIGIN).requirements
    if wants_json:
        result = {
            "profile": storage.name,
            "backend": type(storage).__name__,
            "findings": [{"probe": name, **asdict(finding)} for name, finding in findings.items()],
            "requirements": dict(requirements),
        }
        write_lines([as_json(result)])
    else:
        write_lines(f"\n{title}:\n{text}" for title, text in requirements.items())
    failures = sum(finding.status == "failed" for finding in findings.values())
    if failures:
        print_status(f"{failures} of {len(findings)} probes of {storage.name} failed.")
        ctx.exit(1)


def examine(storage: StorageBackend, app: Flask, origin: str | None) -> Generator[tuple[str, Finding], None, None]:
    """Yield the name and the finding of each probe; a probe that fails ends no other one.

    All files are written to one new directory. It is deleted at the end, when the iterator is closed, and after an
    interrupt.

    Args:
        storage: The storage.
        app: The app whose links are tried.
        origin: The origin of the app's pages; None if it is not known.
    """
    directory = f"doctor-{secrets.token_hex(8)}"
    files, links = FileProbes(storage, directory), LinkProbes(storage, app, directory, origin)
    of_backend = {name: partial(probe, directory) for name, probe in storage.diagnostics().probes.items()}
    clean_up = partial(_clean_up, storage, directory)
    independent: dict[str, Callable[[], Finding]] = {"access": files.access, "clock": links.clock, **of_backend}
    try:
        for name, probe in independent.items():
            yield name, _finding(probe)
        written = _finding(files.write)
        yield "write", written
        for name, probe in {**files.probes(), **links.probes()}.items():
            can_write = written.status == "ok"
            yield name, _finding(probe) if can_write else Finding("skipped", "not tried, because no file was written")
    except BaseException:  # an interrupt too
        clean_up()
        raise
    if written.status != "note":  # a read-only storage has nothing to delete
        yield "cleanup", _finding(clean_up)


def app_origin() -> str | None:
    """Return the origin of the app's pages, as its settings name it and as browsers and links spell it."""
    config = current_app.config
    if address := config.get("STORAGE_EXTERNAL_URL"):
        scheme, host = urlsplit(address)[:2]
    elif config["SERVER_NAME"]:
        scheme, host = config["PREFERRED_URL_SCHEME"], config["SERVER_NAME"]
    else:
        return None
    return f"{scheme}://{host.lower().encode('idna').decode()}"


def _clean_up(storage: StorageBackend, directory: str) -> Finding:
    try:
        count = storage.delete_prefix(directory)
    except StorageError as error:
        return Finding("failed", str(error), f"delete the directory {directory} yourself")
    return Finding("ok", f"the directory of this run was deleted, with {count} files")


def _finding(probe: Callable[[], Finding]) -> Finding:
    """Run a probe; what it raises is its finding."""
    try:
        return probe()
    except StorageError as error:
        return Finding("failed", str(error))
    except UnreachableError as error:
        return Finding("failed", str(error), "check the address in links, and the network of this machine")
    except Exception as error:  # noqa: BLE001 - a mistake in one backend must not end the other probes
        # Its text may contain a secret.
        return Finding("failed", f"{type(error).__name__} was raised", "report it: this is a mistake in the backend")


def _line(name: str, finding: Finding) -> str:
    status = finding.status.upper() if finding.status == "failed" else finding.status
    advice = f": {finding.advice}" if finding.advice else ""
    return printable(f"{status:8}{name:12}{finding.text}{advice}")
