"""Repetition counts: small for everyday runs, large for the full run (`tox -e full`)."""

import os


def count(everyday: int, full: int) -> int:
    """The number of rounds, kills, cases or examples of this run."""
    return full if os.environ.get("FULL_COUNTS") else everyday
