"""Runs operations on the local disk in child processes that are killed, or whose system calls fail, at every step."""
