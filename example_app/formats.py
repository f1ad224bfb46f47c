"""Human-readable numbers."""

from __future__ import annotations


def filesize(size: int) -> str:
    """Return a size in bytes in human-readable form.

    >>> filesize(0), filesize(999), filesize(1_234_567)
    ('0 bytes', '999 bytes', '1.2 MB')
    """
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    amount = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.5 or unit == "TB":
            return f"{amount:.1f} {unit}".replace(".0 ", " ") if amount < 99.95 else f"{amount:.0f} {unit}"
    raise AssertionError("the last unit takes everything")
