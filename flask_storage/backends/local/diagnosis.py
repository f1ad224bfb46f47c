"""What ``flask storage doctor`` says about the file system of a local storage."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ...diagnostics import Diagnostics, Finding
from .inspection import FilesystemReport

_LITTLE_SPACE = 1024**3


def diagnostics_of(inspect: Callable[[], FilesystemReport]) -> Diagnostics:
    """Return the probes of a storage; *inspect* is called once, by the first of them."""
    report = cache(inspect)
    return Diagnostics(
        probes={
            "permissions": lambda _: _permissions(report()),
            "root": lambda _: _root(report()),
            "attributes": lambda _: _attributes(report()),
            "space": lambda _: _space(report()),
        }
    )


def _permissions(report: FilesystemReport) -> Finding:
    if report.permissions == "refused":
        return Finding(
            "note", "the file system refuses chmod", "set file_mode=None and directory_mode=None if writing fails"
        )
    if report.permissions == "ignored":
        return Finding(
            "note", "the file system ignores file_mode and directory_mode", "set permissions when mounting it"
        )
    return Finding("ok", "the file system keeps permissions")


def _root(report: FilesystemReport) -> Finding:
    if not report.symlinks:
        return Finding("ok", f"the root is {report.root}")
    links = ", ".join(str(link) for link in report.symlinks)
    return Finding(
        "note",
        f"the root is {report.root}, by the symbolic links {links}",
        "restart the app when a link is changed, because they are followed once",
    )


def _attributes(report: FilesystemReport) -> Finding:
    if not report.xattrs:
        return Finding("note", "the file system has no extended attributes: content types and metadata are not stored")
    return Finding("ok", "the file system has extended attributes")


def _space(report: FilesystemReport) -> Finding:
    text = f"{report.free_bytes // 1024**2} MiB are free"
    return Finding("ok", text) if report.free_bytes >= _LITTLE_SPACE else Finding("note", text, "free some space")
