"""How often: the everyday run is quick, the full one takes the time it needs (`tox -e full`)."""

import os


def count(everyday: int, full: int) -> int:
    """The number of rounds, kills, cases or examples that this run is to make."""
    return full if os.environ.get("FULL_COUNTS") else everyday
