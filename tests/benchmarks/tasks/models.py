"""Files of database rows: what the column costs beside the storage, and what its listeners cost rows without files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..frame import Bench, Contender, KiB, Stage, task, times
from ..meters import Work
from ..peers import DEPOT, SQLALCHEMY, SQLALCHEMY_FILE
from .transfers import storage

ROWS, ROWS_WITHOUT_FILES = 1000, 10_000
CONTENT = os.urandom(KiB)
BARE = "LocalFSStorage.write, no database"
ALONE = "SQLAlchemy alone"


def our_model(root: Path) -> tuple[Any, Callable[[], Any]]:
    """Return the model of ours, and what makes a value."""
    from flask_storage.sqlalchemy import FileType, StoredFile

    model = model_with(FileType(storage(root, fsync=False), directory="scans"))
    return model, lambda: StoredFile(CONTENT, name="a.bin")


def model_of_sqlalchemy_file(root: Path) -> tuple[Any, Callable[[], Any]]:
    """Return the model of sqlalchemy-file, and what makes a value."""
    import libcloud.storage.drivers.local as local  # type: ignore[import-not-found,import-untyped,unused-ignore] # a peer

    (root / "scans").mkdir()
    module: Any = SQLALCHEMY_FILE.load()
    module.storage.StorageManager.add_storage("default", local.LocalStorageDriver(str(root)).get_container("scans"))
    return model_with(module.FileField()), lambda: module.File(content=CONTENT, filename="a.bin")


def model_of_depot(root: Path) -> tuple[Any, Callable[[], Any]]:
    """Return the model of depot, and what makes a value."""
    import depot.fields.sqlalchemy as fields  # type: ignore[import-not-found,import-untyped,unused-ignore] # a peer

    module: Any = DEPOT.load()
    module.DepotManager.configure("default", {"depot.storage_path": str(root / "scans")})
    return model_with(fields.UploadedFileField()), lambda: CONTENT


def model_with(column_type: Any = None) -> Any:
    """Return a model with a column of this type, if there is one."""
    from sqlalchemy import Column, Integer, String
    from sqlalchemy.orm import declarative_base

    class Document(declarative_base()):  # type: ignore[misc]  # made in each process
        __tablename__ = "document"
        id = Column(Integer, primary_key=True)
        name = Column(String)
        if column_type is not None:
            file = Column(column_type)

    return Document


def adding(root: Path, model: Any, rows: Callable[[], list[Any]], result: Callable[[], object]) -> Work:
    """Return what adds rows and commits, in a new SQLite database."""
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session, configure_mappers

    engine = create_engine(f"sqlite:///{root}/app.db")
    model.metadata.create_all(engine)
    configure_mappers()

    def work() -> Callable[[], object]:
        with Session(engine) as session:
            session.add_all(rows())
            session.commit()
        return result

    return work


def empty(root: Path) -> Path:
    """Return the directory without what the round before has left."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    return root


def count_files(root: Path) -> int:
    """Return how many files of the right size there are."""
    return sum(path.stat().st_size == KiB for path in root.rglob("*") if path.is_file())


@task(
    "model-files",
    f"{ROWS:,} rows with a file of 1 KiB each, added and committed, SQLite, left to the page cache",
    times(SQLALCHEMY_FILE.name, 1),
    times(DEPOT.name, 1),
    times(BARE, 1.3),
    needs=[SQLALCHEMY],
)
def files(bench: Bench) -> Iterator[Stage]:
    """Add rows whose column stores a file."""
    root = bench.directory / "root"

    def by_column(make_model: Callable[[Path], tuple[Any, Callable[[], Any]]]) -> Callable[[], Work]:
        def prepare() -> Work:
            model, value = make_model(empty(root))
            return adding(
                root,
                model,
                lambda: [model(name=str(number), file=value()) for number in range(ROWS)],
                lambda: count_files(root),
            )

        return prepare

    def bare() -> Work:
        backend = storage(empty(root), fsync=False)

        def work() -> Callable[[], object]:
            for _ in range(ROWS):
                backend.write(f"scans/2026-12-01/{os.urandom(16).hex()}.bin", CONTENT)
            return lambda: count_files(root)

        return work

    yield (
        [
            Contender("FileType, fsync=False", by_column(our_model), ours=True),
            Contender(SQLALCHEMY_FILE.name, by_column(model_of_sqlalchemy_file), needs=[SQLALCHEMY_FILE]),
            Contender(DEPOT.name, by_column(model_of_depot), needs=[DEPOT]),
            Contender(BARE, bare),
        ],
        ROWS,
    )


@task(
    "model-rows",
    f"{ROWS_WITHOUT_FILES:,} rows without files added and committed, SQLite",
    times(ALONE, 1.06),
    needs=[SQLALCHEMY],
)
def rows_without_files(bench: Bench) -> Iterator[Stage]:
    """Add rows of a model without files, beside a model with files and without one."""
    root = bench.directory / "root"

    def without_files(*, listeners: bool) -> Callable[[], Work]:
        def prepare() -> Work:
            if listeners:
                our_model(empty(root))
            model = model_with()
            database = empty(root) / "app.db"
            return adding(
                root,
                model,
                lambda: [model(name=str(number)) for number in range(ROWS_WITHOUT_FILES)],
                lambda: count_rows(database),
            )

        return prepare

    yield (
        [
            Contender("with a model that has a FileType", without_files(listeners=True), ours=True),
            Contender(ALONE, without_files(listeners=False)),
        ],
        ROWS_WITHOUT_FILES,
    )


def count_rows(database: Path) -> int:
    """Return how many rows the database has."""
    import sqlite3

    connection = sqlite3.connect(database)
    try:
        return int(connection.execute("SELECT count(*) FROM document").fetchone()[0])
    finally:
        connection.close()
