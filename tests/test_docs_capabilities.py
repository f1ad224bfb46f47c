"""The table of what works on which backend (docs/how-to/choose-a-backend.md) is what the backends declare.

When the test fails, it prints the table that belongs on the page.
"""

import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from unittest.mock import patch

from flask_storage import (
    Capabilities,
    LocalFSStorage,
    MemoryStorage,
    ShareLinkOperation,
    StorageBackend,
)
from flask_storage.backends.azure import AzureStorage
from flask_storage.backends.s3 import S3Storage
from flask_storage.backends.sftp import SFTPStorage
from flask_storage.types import LINK_CONSTRAINTS

PAGE = Path(__file__).parents[1] / "docs/how-to/choose-a-backend.md"


def local(*, xattrs: bool) -> StorageBackend:
    """Return a local storage on a file system with or without extended attributes."""
    with (
        tempfile.TemporaryDirectory() as root,
        patch("flask_storage.backends.local.storage.supports_xattrs", return_value=xattrs),
    ):
        storage = LocalFSStorage(root)
        assert storage.capabilities.metadata is xattrs  # cached from here on
    return storage


# Two storages in a column: what only the first one can do depends on the file system.
BACKENDS: dict[str, Callable[[], list[StorageBackend]]] = {
    "Local": lambda: [local(xattrs=True), local(xattrs=False)],
    "Memory": lambda: [MemoryStorage()],
    "SFTP": lambda: [SFTPStorage("files.example.com", username="web")],
    "S3 (`aws`)": lambda: [S3Storage("my-files", preset="aws")],
    "S3 (no preset)": lambda: [S3Storage("my-files", endpoint_url="https://s3.example.com")],
    "Azure": lambda: [AzureStorage("myaccount", "YWJj", "my-files")],
}

ROWS = {
    # A field of Capabilities: what it means to a caller.
    "exclusive": "Create only, never replace (`exclusive=True`)",
    "if_match": "Replace a certain version only (`if_match=…`)",
    "copy_conditions": "`exclusive`, and `if_match` where it is supported, in `copy` and `move`",
    "multipart_conditions": "The same in multipart uploads",
    "read_write": 'Edit a file in place (`open(path, "rw")`)',
    "content_headers": "Store a content type and other headers",
    "metadata": "Store metadata",
    "guesses_content_type": "Store a content type guessed from the name, if none is given",
    "server_side_copy": "Copy without passing the bytes through the app",
    "local_paths": "Files have a path on this machine (`local_path`)",
    "concurrent_writes": "Two large writes of one path at the same time",
    "multipart": "Multipart uploads (`storage.multipart`)",
    "multipart_headers": "Change headers when a multipart upload completes",
    "multipart_checksums": "Compare a checksum when a multipart upload completes",
    "links": "Links (`link_to`)",
    "link_combinations": "Several operations in one link",
}
CONSTRAINTS = {
    # A constraint of links: what it means to a caller.
    "disposition": "Link: choose whether a browser shows or saves (`disposition`)",
    "size": "Upload link: exact size (`size`)",
    "max_size": "Upload link: largest size (`max_size`)",
    "checksum": "Upload link: checksum (`checksum`)",
    "exclusive": "Upload link: never replace a file (`exclusive`)",
    "ip": "Link: client address (`ip`)",
    "uses": "Link: number of uses (`uses`)",
}


def cell(storage: StorageBackend, field: str) -> str:
    """Return what the table says of one capability of a storage."""
    value = getattr(storage.capabilities, field)
    if field not in ("links", "link_combinations"):
        return "yes" if value else "no"
    assert field != "links" or value in (ShareLinkOperation(0), ~ShareLinkOperation(0))
    return "native" if value else "app"


def constraint_cell(storage: StorageBackend, constraint: str) -> str:
    """Return what enforces one constraint of a storage's links."""
    capabilities = storage.capabilities
    if constraint in capabilities.link_constraints:
        return "native"
    if constraint in capabilities.upload_constraints:
        return "form"
    return "no" if constraint == "exclusive" and not capabilities.exclusive else "app"


def row(title: str, cells: list[list[str]]) -> str:
    """Return a line of the table; a column whose storages differ depends on the file system."""
    return f"| {title} | {' | '.join(each[0] if len(set(each)) == 1 else 'depends' for each in cells)} |"


def table() -> str:
    """Return the table in Markdown."""
    columns = [make() for make in BACKENDS.values()]
    lines = [f"| | {' | '.join(BACKENDS)} |", "|---" * (len(BACKENDS) + 1) + "|"]
    lines += [
        row(title, [[cell(each, field) for each in column] for column in columns]) for field, title in ROWS.items()
    ]
    lines += [
        row(title, [[constraint_cell(each, name) for each in column] for column in columns])
        for name, title in CONSTRAINTS.items()
    ]
    forms = [["native" if "max_size" in each.capabilities.upload_constraints else "app" for each in c] for c in columns]
    lines.append(row("Upload form (`create_upload_form`)", forms))
    return "\n".join(lines)


def test_the_page_shows_what_the_backends_declare():
    """The table on the page is the generated one."""
    assert table() in PAGE.read_text("utf-8"), f"put this table into {PAGE.name}:\n{table()}"


def test_every_capability_has_a_row():
    """A new capability, or a new constraint of links, needs a row of the table."""
    assert {field.name for field in fields(Capabilities)} == {*ROWS, "link_constraints", "upload_constraints"}
    assert set(CONSTRAINTS) == LINK_CONSTRAINTS
