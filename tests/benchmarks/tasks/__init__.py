"""The tasks, one module for each kind of work."""

from __future__ import annotations

import importlib

MODULES = (
    "imports",
    "links",
    "transfers",
    "listings",
    "streams",
    "downloads",
    "uploads",
    "models",
    "s3_links",
    "s3_files",
    "s3_small",
    "s3_inside",
    "s3_streams",
    "azure_links",
    "azure_files",
    "azure_small",
    "azure_inside",
    "sftp_files",
    "sftp_small",
    "sftp_inside",
)


def register() -> None:
    """Import every module, which puts its tasks into :data:`tests.benchmarks.frame.TASKS` in this order."""
    for name in MODULES:
        importlib.import_module(f"{__name__}.{name}")
