"""Models with columns for files, as an application would have them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from flask_storage.sqlalchemy import FileListType, FileType, StoredFile

File = Any  # an application writes StoredFile | None, and type checkers then refuse the content that tests assign


class Base(DeclarativeBase):
    """The application's base class."""


class Folder(Base):
    """A parent with a cascade."""

    __tablename__ = "folder"

    id: Mapped[int] = mapped_column(primary_key=True)
    documents: Mapped[list[Document]] = relationship(back_populates="folder", cascade="all, delete-orphan")


class Document(Base):
    """Two columns with files, a unique column, and a foreign key that the database checks at COMMIT."""

    __tablename__ = "document"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(default="")
    code: Mapped[int | None] = mapped_column(unique=True)
    folder_id: Mapped[int | None] = mapped_column(sa.ForeignKey(Folder.id, deferrable=True, initially="DEFERRED"))
    folder: Mapped[Folder | None] = relationship(back_populates="documents")
    file: Mapped[File] = mapped_column(FileType("docs", directory="documents"), nullable=True)
    preview: Mapped[File] = mapped_column(FileType("docs", directory="previews"), nullable=True)


class Album(Base):
    """A list of files."""

    __tablename__ = "album"

    id: Mapped[int] = mapped_column(primary_key=True)
    scans: Mapped[File] = mapped_column(FileListType("docs", directory="scans"), nullable=True)


class Person(Base):
    """The parent of a joined inheritance."""

    __tablename__ = "person"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012  # as SQLAlchemy asks

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    photo: Mapped[File] = mapped_column(FileType("docs", directory="photos"), nullable=True)


class Employee(Person):
    """A child table with a file of its own."""

    __tablename__ = "employee"
    __mapper_args__ = {"polymorphic_identity": "employee"}  # noqa: RUF012  # as SQLAlchemy asks

    id: Mapped[int] = mapped_column(sa.ForeignKey(Person.id), primary_key=True)
    contract: Mapped[File] = mapped_column(FileType("docs", directory="contracts"), nullable=True)


class TenantDocument(Base):
    """A primary key of two columns, and a directory that depends on the row."""

    __tablename__ = "tenant_document"

    tenant: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    file: Mapped[File] = mapped_column(FileType("docs", directory=lambda row: f"tenant-{row.tenant}"), nullable=True)


class Report(Base):
    """A file that a listener makes of the other columns."""

    __tablename__ = "report"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    file: Mapped[File] = mapped_column(FileType("docs", directory="reports"), nullable=True)


@sa.event.listens_for(Report, "before_insert")
@sa.event.listens_for(Report, "before_update")
def _render(mapper: object, connection: object, report: Report) -> None:
    report.file = StoredFile(report.text.encode(), name="report.txt")


class Attachment(Base):
    """Files that are named by their content."""

    __tablename__ = "attachment"

    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[File] = mapped_column(FileType("docs", directory="blobs", content_addressed=True), nullable=True)


LEDGER = Base.metadata.tables["storage_files"]
