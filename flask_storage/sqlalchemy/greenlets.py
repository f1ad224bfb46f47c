"""Blocking calls inside of a flush, which may run for an ``AsyncSession``.

The only module that uses names of SQLAlchemy that its documentation does not mention.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

T = TypeVar("T")


def run_blocking(call: Callable[[], T]) -> T:
    """Call *call* and return its result; for an ``AsyncSession`` in a thread, so that its event loop runs on."""
    # Without the package greenlet there is no AsyncSession, and `in_greenlet` raises an error.
    if "greenlet" in sys.modules and in_greenlet():
        return await_only(asyncio.to_thread(call))
    return call()
