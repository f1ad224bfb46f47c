"""What an argument must be that annotations cannot promise: it may come as text, as JSON, or from a slip of the pen."""

from __future__ import annotations

FLAG_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
"""How the environment and URLs write a boolean, in lower case."""


def as_flag(value: object) -> bool:
    """Return a setting as a boolean; the environment and URLs have it as text.

    Raises:
        ValueError: for anything that is not plainly one: ``"False"`` taken for true would publish files.

    >>> as_flag(True), as_flag("no"), as_flag("False")
    (True, False, False)
    """
    flag = value if isinstance(value, bool) else FLAG_WORDS.get(str(value).lower())
    if flag is None:
        raise ValueError("write true or false")
    return flag


def check_count(name: str, value: object, least: int = 0) -> None:
    """Raise unless *value* is a whole number from *least* on; ``True`` is none.

    Args:
        name: What the error calls it.
        value: Whatever was given.
        least: The smallest that will do.

    Raises:
        ValueError: for anything else.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is a whole number from {least} on, not {value!r}")
