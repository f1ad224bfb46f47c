"""What ``flask storage doctor`` can find out about a storage, and the values that say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one probe.

    Attributes:
        status: ``"ok"``; ``"note"`` for what works and may surprise; ``"failed"``; ``"skipped"`` when the probe could
            not be tried.
        text: What was found; it contains no secret.
        advice: What to do about it; may be empty.
    """

    status: Literal["ok", "note", "failed", "skipped"]
    text: str
    advice: str = ""


Probe = Callable[[str], Finding]
"""Tries one thing. The argument is a directory in the storage where the probe may write; the caller deletes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """What only the backend knows about itself.

    Attributes:
        probes: By name. A probe raises a :class:`~flask_storage.errors.StorageError` for what does not work at all.
        requirements: Texts by title: the least rights and the rules that the storage needs at its service.
    """

    probes: Mapping[str, Probe] = field(default_factory=dict)
    requirements: Mapping[str, str] = field(default_factory=dict)
