"""What rows, the ledger and the storage say about files, and whether they agree."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import sqlalchemy as sa

from flask_storage import StorageBackend
from flask_storage.sqlalchemy import FileType, sweep


class Files:
    """The files of one database and one storage.

    Args:
        engine: The engine of the database.
        storage: The storage, whose name is the profile's.
        metadata: The tables, among them the ledger.
    """

    def __init__(self, engine: sa.Engine, storage: StorageBackend, metadata: sa.MetaData) -> None:
        self._engine, self._storage, self._metadata = engine, storage, metadata
        self._ledger = metadata.tables["storage_files"]
        self._columns = [
            column for table in metadata.sorted_tables for column in table.c if isinstance(column.type, FileType)
        ]

    def stored(self) -> list[str]:
        """Return the paths of all files in the storage, sorted."""
        return [entry.name for entry in self._storage.list()]

    def contents(self) -> list[bytes]:
        """Return the contents of all files in the storage, sorted."""
        return sorted(self._storage.read(path) for path in self.stored())

    def named(self) -> Counter[str]:
        """Return how many times rows name each path."""
        named: Counter[str] = Counter()
        with self._engine.connect() as connection:
            for column in self._columns:
                for value in connection.scalars(sa.select(column)):
                    named.update(file.path for file in (value if isinstance(value, list) else [value]) if file)
        return named

    def ledger(self) -> dict[str, int]:
        """Return the count of each path in the ledger."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(self._ledger.c.profile, self._ledger.c.path, self._ledger.c.refs)).all()
        assert {profile for profile, _, _ in rows} <= {self._storage.name}
        return {path: refs for _, path, refs in rows}

    def sweep(self, older_than: timedelta = timedelta(0)) -> None:
        """Delete files that no row names."""
        sweep([(self._engine, self._metadata)], older_than=older_than, force=True)

    def check(self) -> None:
        """Check what is guaranteed at any time.

        Every file that a row names is stored. Every stored file is named by a row, or by the ledger as to be deleted.
        The ledger counts the rows.
        """
        stored, named, ledger = set(self.stored()), self.named(), self.ledger()
        assert set(named) <= stored, "rows name files that are not stored"
        assert stored <= set(named) | set(ledger), "files are stored that neither a row nor the ledger names"
        assert named == {path: refs for path, refs in ledger.items() if refs > 0}, "the ledger miscounts"

    def check_after_sweep(self) -> None:
        """Sweep, then check that exactly the files are stored that rows name."""
        self.sweep()
        self.check()
        assert set(self.stored()) == set(self.named()) == set(self.ledger())
