"""A secret key that makes itself: written once, the same for every worker and after every restart."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path


def load_or_create(file: Path) -> bytes:
    """Return the key in *file*, making it when there is none; only the owner can read it.

    Workers that start at the same moment get the same key: each writes one of its own beside the file, and linking it
    into place works for the first only. Nobody ever reads half a key.
    """
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, own = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mode 0o600
        try:
            with open(descriptor, "wb") as writer:
                writer.write(secrets.token_bytes(64))
                writer.flush()
                os.fsync(descriptor)
            os.link(own, file)
        except FileExistsError:
            pass  # another worker was first
        finally:
            os.unlink(own)
    return file.read_bytes()
