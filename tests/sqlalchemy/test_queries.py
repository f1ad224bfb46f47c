"""Queries by what the rows say about their files."""

import pytest
import sqlalchemy as sa

from flask_storage.sqlalchemy import StoredFile
from tests.sqlalchemy.models import Album, Document

PICTURE = b"\x89PNG\r\n\x1a\n and so on"


@pytest.fixture(autouse=True)
def documents(session):
    """Three documents: a text, a larger picture, and one without a file."""
    session.add_all(
        [
            Document(title="text", file=StoredFile(b"one", name="a.txt", metadata={"language": "en"})),
            Document(title="picture", file=StoredFile(PICTURE, name="b.png")),
            Document(title="none"),
        ]
    )
    session.commit()


CONDITIONS = {
    "is_(None)": (Document.file.is_(None), {"none"}),
    "is_not(None)": (Document.file.is_not(None), {"text", "picture"}),
    "== None": (Document.file == None, {"none"}),  # noqa: E711  # how SQLAlchemy writes it
    "size": (Document.file["size"].as_integer() > 5, {"picture"}),
    "name": (Document.file["name"].as_string() == "a.txt", {"text"}),
    "content_type": (Document.file["content_type"].as_string().like("image/%"), {"picture"}),
    "profile": (Document.file["profile"].as_string() == "docs", {"text", "picture"}),
    "metadata": (Document.file["metadata"]["language"].as_string() == "en", {"text"}),
    "a path": (Document.file["metadata", "language"].as_string() == "en", {"text"}),
    "not set": (Document.file["width"].as_integer().is_(None), {"text", "picture", "none"}),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_query_by_a_field(session, name):
    """The column is JSON: with None as NULL, and the fields by their names."""
    condition, titles = CONDITIONS[name]

    assert set(session.scalars(sa.select(Document.title).where(condition))) == titles


def test_an_order_by_a_field(session):
    """Sorted as a number."""
    query = sa.select(Document.title).where(Document.file.is_not(None)).order_by(Document.file["size"].as_integer())

    assert list(session.scalars(query)) == ["text", "picture"]


def test_a_sum_of_sizes(session):
    """As for a quota."""
    assert session.scalar(sa.select(sa.func.sum(Document.file["size"].as_integer()))) == 3 + len(PICTURE)


def test_a_query_of_the_column_alone(session):
    """It returns the values."""
    values = session.scalars(sa.select(Document.file).order_by(Document.id)).all()

    assert [value and value.read() for value in values] == [b"one", PICTURE, None]


def test_the_json_of_a_row(session):
    """What other programs read: fields that are not set are left out."""
    query = sa.select(sa.type_coerce(Document.file, sa.JSON)).where(Document.title == "text")

    stored = session.scalar(query)

    assert stored.keys() == {"profile", "path", "name", "size", "content_type", "checksum", "metadata"}
    assert stored["metadata"] == {"language": "en"}


def test_a_query_of_distinct_values_and_of_pairs(session):
    """Values are not hashable, and queries work all the same."""
    pairs = session.execute(sa.select(Document, Document.file).order_by(Document.id)).all()

    assert [document.file == value for document, value in pairs] == [True, True, True]


def test_a_list_is_a_json_array(session):
    """Its length can be queried."""
    session.add(Album(scans=[b"1", b"2"]))
    session.add(Album())
    session.commit()
    length = sa.func.json_array_length if session.bind.dialect.name == "sqlite" else sa.func.jsonb_array_length

    assert sorted(session.scalars(sa.select(length(Album.scans)))) == [0, 2]
