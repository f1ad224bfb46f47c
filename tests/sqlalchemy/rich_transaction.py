"""Transactions for several tests; one does everything with files: stores, replaces, deletes, shares, rolls back."""

import secrets
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from flask_storage.sqlalchemy import StoredFile
from tests.sqlalchemy.models import Album, Document

BEFORE = [b"deleted", b"old", b"old bulk", b"preview", b"scan 1", b"scan 2"]
AFTER = [b"added", b"bulk", b"new", b"preview", b"scan", b"scan 2"]


class _RollBack(Exception):  # noqa: N818  # no error
    """Ends a savepoint."""


def prepare(session):
    """Commit the rows that the transaction changes."""
    session.add_all(
        [
            Document(id=1, file=b"old", preview=b"preview"),
            Document(id=2, file=b"deleted"),
            Document(id=3, title="bulk", preview=b"old bulk"),
            Album(id=1, scans=[b"scan 1", b"scan 2"]),
        ]
    )
    session.commit()


def run(session):
    """Run the transaction, with savepoints that are kept and rolled back, and commit it."""
    replaced, deleted, album = session.get(Document, 1), session.get(Document, 2), session.get(Album, 1)
    replaced.file = b"new"
    session.add(Document(id=4, file=b"added", preview=replaced.preview))
    session.flush()
    with suppress(_RollBack), session.begin_nested():
        session.add(Document(id=5, file=b"rolled back"))
        session.flush()
        raise _RollBack
    with session.begin_nested():
        album.scans = [album.scans[1], b"scan"]
    session.delete(deleted)
    session.execute(sa.update(Document).where(Document.title == "bulk").values(preview=StoredFile(b"bulk")))
    session.commit()


def replace_often(session):
    """Replace the file of one row in ten transactions, each with retries while the database reports conflicts."""
    committed = 0
    while committed < 10:
        try:
            session.get_one(Document, 1).file = secrets.token_bytes(8)
            session.commit()
            committed += 1
        except OperationalError:
            session.rollback()
