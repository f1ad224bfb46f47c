"""Which variants of a service a run tests: one of each, or all of them with ``./tests/run --all``.

The default run tests every guarantee on one variant: http instead of http and https, one S3 server instead of three.
Tests that need another variant run with ``--all``, which sets ``ALL_VARIANTS`` in the environment.
"""

import os

import pytest

ALL_VARIANTS = bool(os.environ.get("ALL_VARIANTS"))

CEPH = frozenset({"distributed_rgw", "rgw", "rgw_cluster"})
"""The fixtures of the one service that only ``./tests/run --all`` installs."""

extra_variant = pytest.mark.extra_variant
"""Marks a test, a class or a parameter that runs with ``--all`` only."""


def variants(first: str, *others: str) -> list[str]:
    """Return the fixture names of the services that a test is run against.

    Args:
        first: The fixture of the default run.
        *others: The fixtures that ``--all`` adds.
    """
    return [first, *others] if ALL_VARIANTS else [first]


def is_selected(item: pytest.Item) -> bool:
    """Return whether this run includes *item*."""
    needs_ceph = not CEPH.isdisjoint(getattr(item, "fixturenames", ()))
    return ALL_VARIANTS or not (needs_ceph or item.get_closest_marker(extra_variant.name))
