"""Ours against the peers, in one run and one table: ``python -m tests.benchmarks``."""
