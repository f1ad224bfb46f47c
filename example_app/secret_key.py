"""A secret key that is generated once, and shared by all workers and across restarts."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path


def load_or_create(file: Path) -> bytes:
    """Return the key in *file*, and create it first when it is missing; only the owner can read it.

    Workers that start at the same time get the same key: each writes a key to a temporary file, and only the first
    succeeds in linking its own to *file*. The link is atomic, so no worker reads an incomplete key.
    """
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mode 0o600
        try:
            with open(descriptor, "wb") as writer:
                writer.write(secrets.token_bytes(64))
                writer.flush()
                os.fsync(descriptor)
            os.link(temporary, file)
        except FileExistsError:
            pass  # another worker was first
        finally:
            os.unlink(temporary)
    return file.read_bytes()
