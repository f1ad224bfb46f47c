"""Connections of boto3 that do not wait for ever; see :mod:`flask_storage.patience`."""

from __future__ import annotations

from typing import Any

from botocore import awsrequest

from ...patience import Answer


def bound_answers(client: Any) -> None:
    """Have a boto3 client give up an answer that takes longer than its read time-out, and more for what has come."""
    # There is no public way to the connections of a client; one that has changed inside waits as boto3 does.
    session: Any = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if hasattr(session, "_pool_classes_by_scheme") and hasattr(session, "_manager"):
        session._pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        session._manager.pool_classes_by_scheme = session._pool_classes_by_scheme


class _HTTPConnection(awsrequest.AWSHTTPConnection):  # type: ignore[misc]  # boto3 comes without types
    response_class = Answer


class _HTTPSConnection(awsrequest.AWSHTTPSConnection):  # type: ignore[misc]  # likewise
    response_class = Answer


class _HTTPPool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]  # likewise
    ConnectionCls = _HTTPConnection


class _HTTPSPool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]  # likewise
    ConnectionCls = _HTTPSConnection
