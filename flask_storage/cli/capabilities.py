"""What a storage supports, in words."""

from __future__ import annotations

from collections.abc import Iterator

from ..types import Capabilities

_GROUPS = {
    "writes": {
        "exclusive": "create only",
        "if_match": "replace one version only",
        "copy_conditions": "conditions in copies",
        "multipart_conditions": "conditions in multipart uploads",
        "read_write": "edit in place",
        "concurrent_writes": "concurrent long writes of one file",
    },
    "stores": {
        "content_headers": "content types and other headers",
        "metadata": "metadata",
        "guesses_content_type": "types guessed from names",
    },
    "multipart": {
        "multipart": "multipart uploads",
        "multipart_headers": "headers at completion",
        "multipart_checksums": "checksums at completion",
    },
    "files": {"server_side_copy": "copies without a transfer", "local_paths": "paths on this machine"},
}
_CONSTRAINTS = {
    "checksum": "checksum",
    "disposition": "show or save",
    "exclusive": "create only",
    "ip": "address",
    "max_size": "largest size",
    "size": "exact size",
    "uses": "number of uses",
}


def described(capabilities: Capabilities) -> Iterator[tuple[str, str]]:
    """Yield the subject and the text of each group of *capabilities*; the last one is what is missing."""
    missing = []
    for subject, words in _GROUPS.items():
        supported = [text for name, text in words.items() if getattr(capabilities, name)]
        missing += [text for name, text in words.items() if not getattr(capabilities, name)]
        if supported:
            yield subject, ", ".join(supported)
    yield "links", _links(capabilities)
    if missing:
        yield "without", ", ".join(missing)


def _links(capabilities: Capabilities) -> str:
    operations = [str(operation.name) for operation in capabilities.links]
    if not operations:
        return "signed by the app"
    text = f"signed for {', '.join(operations)}"
    if capabilities.link_combinations:
        text += ", also in one link"
    for subject, constraints in _constraints(capabilities):
        text += f"; {subject}: {', '.join(_CONSTRAINTS[name] for name in sorted(constraints)) or 'none'}"
    return text


def _constraints(capabilities: Capabilities) -> Iterator[tuple[str, frozenset[str]]]:
    yield "limits", capabilities.link_constraints
    if capabilities.upload_constraints != capabilities.link_constraints:  # a form may enforce more than a link
        yield "uploads", capabilities.upload_constraints
