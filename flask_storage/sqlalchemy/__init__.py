"""Columns of SQLAlchemy models whose files follow their rows; needs the extra ``sqlalchemy``.

>>> from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
>>> class Base(DeclarativeBase):
...     pass
>>> class Invoice(Base):
...     __tablename__ = "invoice"
...     id: Mapped[int] = mapped_column(primary_key=True)
...     pdf: Mapped[StoredFile | None] = mapped_column(FileType("docs", directory="invoices"))
>>> Invoice(pdf=StoredFile(b"%PDF-1.7", name="june.pdf")).pdf.content_type
'application/pdf'
"""

from __future__ import annotations

from . import bulk as bulk, lifecycle as lifecycle
from .databases import databases_of, register
from .fields import FileField, ImageField
from .file_type import FileList, FileListType, FileType
from .forms import file_rules
from .ledger import (
    ReleasedFile,
    SweepResult,
    file_columns,
    ledger_of,
    released_files,
    remove_unused,
    sweep,
    unused_files,
)
from .stored_file import FileValidationError, StoredFile

__all__ = [
    "FileField",
    "FileList",
    "FileListType",
    "FileType",
    "FileValidationError",
    "ImageField",
    "ReleasedFile",
    "StoredFile",
    "SweepResult",
    "databases_of",
    "file_columns",
    "file_rules",
    "ledger_of",
    "register",
    "released_files",
    "remove_unused",
    "sweep",
    "unused_files",
]
