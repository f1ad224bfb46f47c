"""The rules of a column are checked by forms, and the column is in migrations."""

import io
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from flask import Flask
from flask_wtf import FlaskForm  # type: ignore[import-untyped]  # it has no type hints
from flask_wtf.file import FileField, MultipleFileField  # type: ignore[import-untyped]  # likewise
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.datastructures import FileStorage
from wtforms.validators import DataRequired  # type: ignore[import-untyped]  # likewise

from flask_storage.sqlalchemy import FileListType, FileType, FileValidationError, StoredFile, file_rules

from .model_databases import DATABASES, open_database
from .services.postgres import postgres

__all__ = ["postgres"]


class Base(DeclarativeBase):
    """The base class of the model."""


def refuse_copies(file):
    """Refuse files of some names."""
    if file.name.startswith("copy"):
        raise FileValidationError("Copies are not allowed.", "copy")


class Invoice(Base):
    """A row with files, some of which are refused."""

    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)
    pdf: Mapped[StoredFile | None] = mapped_column(FileType("docs", max_size=10, validators=[refuse_copies]))
    scans: Mapped[list[StoredFile]] = mapped_column(FileListType("docs", extensions={"png"}))


class InvoiceForm(FlaskForm):  # type: ignore[misc]  # likewise
    """A form with both."""

    pdf = FileField(validators=[file_rules(Invoice.pdf)])
    scans = MultipleFileField(validators=[file_rules(Invoice.scans)])


class RequiringForm(FlaskForm):  # type: ignore[misc]  # likewise
    """A form that demands a file."""

    pdf = FileField(validators=[DataRequired(), file_rules(Invoice.pdf)])


@pytest.fixture
def app():
    """An app whose forms need no token."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY="k" * 32, WTF_CSRF_ENABLED=False)
    return app


@contextmanager
def submitted(app, form_class, data, invoice=None):
    """Submit a form, whose data the invoice gets if it is valid, and yield its errors."""
    with app.test_request_context(method="POST", data=data):
        form = form_class(obj=invoice)
        if form.validate_on_submit() and invoice:
            form.populate_obj(invoice)
        yield form.errors


def upload(content, name):
    """Return the value of a file field."""
    return io.BytesIO(content), name


def test_a_form_with_allowed_files_fills_the_row(app):
    """Both fields are assigned as uploads."""
    data = {"pdf": upload(b"%PDF-1.7", "a.pdf"), "scans": [upload(b"1", "1.png"), upload(b"2", "2.png")]}

    invoice = Invoice()

    with submitted(app, InvoiceForm, data, invoice) as errors:
        assert errors == {}
        assert invoice.pdf is not None
        assert invoice.pdf.read() == b"%PDF-1.7"
        assert [file.name for file in invoice.scans] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("field", "content", "name", "message"),
    [
        ("pdf", b"x" * 11, "a.pdf", "The file is too large: it has 11 bytes, and 10 are allowed."),
        ("pdf", b"x", "copy.pdf", "Copies are not allowed."),
        ("scans", b"x", "a.gif", "Files of this kind are not allowed: use .png."),
    ],
)
def test_a_refused_file_is_an_error_of_its_field(app, field, content, name, message):
    """The message is that of the column's error, also for a validator of the app."""
    with submitted(app, InvoiceForm, {field: upload(content, name)}) as errors:
        assert errors == {field: [message]}


def test_a_field_without_a_file_is_valid_and_keeps_that_of_the_row(app):
    """Nothing is assigned to the row, and a stored file satisfies `DataRequired`."""
    stored = StoredFile.from_dict({"profile": "docs", "path": "a.pdf", "name": "a.pdf", "size": 100})
    invoice = Invoice(pdf=stored)

    with submitted(app, InvoiceForm, {"pdf": upload(b"", "")}) as errors:
        assert errors == {}
    with submitted(app, RequiringForm, {"pdf": upload(b"", "")}) as errors:
        assert errors == {"pdf": ["This field is required."]}
    with submitted(app, RequiringForm, {"pdf": upload(b"", "")}, invoice) as errors:
        assert errors == {}
    assert invoice.pdf == stored


def test_an_upload_without_a_name_is_no_file():
    """Browsers send one for a field in which no file was chosen; other file fields than Flask-WTF's pass it on."""
    file_rules(Invoice.pdf)(None, SimpleNamespace(data=FileStorage()))


ENVIRONMENT = """
from alembic import context
with context.config.attributes["engine"].begin() as connection:
    context.configure(connection=connection, target_metadata=context.config.attributes["metadata"])
    with context.begin_transaction():
        context.run_migrations()
"""
TEMPLATE = """
import sqlalchemy as sa
import flask_storage.sqlalchemy
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

def upgrade():
    ${upgrades}

def downgrade():
    ${downgrades}
"""


@pytest.fixture(params=DATABASES)
def alembic_config(request, tmp_path):
    """The configuration of Alembic for an empty database, once on each."""
    engine = open_database(request.param, request, tmp_path)
    with engine.begin() as connection:
        for name in sa.inspect(engine).get_table_names():
            connection.exec_driver_sql(f"DROP TABLE {name}")
    scripts = tmp_path / "migrations"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "env.py").write_text(ENVIRONMENT)
    (scripts / "script.py.mako").write_text(TEMPLATE)
    config = Config(attributes={"engine": engine, "metadata": Base.metadata})
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("path_separator", "os")
    return config


def test_migrations_create_columns_and_ledger_once(alembic_config):
    """The first migration creates tables and index, and the second has nothing to do."""
    command.revision(alembic_config, "first", autogenerate=True)
    command.upgrade(alembic_config, "head")

    command.check(alembic_config)  # raises if there were anything to do
    tables = sa.inspect(alembic_config.attributes["engine"])
    assert {"invoice", "storage_files"} <= set(tables.get_table_names())
    assert [index["name"] for index in tables.get_indexes("storage_files")] == ["ix_storage_files_unused"]
