"""The databases of an app, for the commands ``sweep``, ``fsck`` and ``restore``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import DeclarativeBase, registry

Database: TypeAlias = tuple[sa.Engine, sa.MetaData]
"""A database, and the metadata of the models in it."""

_EXTENSION = "storage_databases"


def register(app: Flask, engine: sa.Engine, metadata: sa.MetaData | registry | type[DeclarativeBase]) -> None:
    """Tell the commands of *app* which database its models are in. Flask-SQLAlchemy's databases are known without it.

    Args:
        app: The app.
        engine: The database. For an ``AsyncEngine``, create one with a synchronous driver: the commands are.
        metadata: The metadata of the models, or their declarative base class.

    >>> class Base(DeclarativeBase):
    ...     pass
    >>> app = Flask("shop")
    >>> register(app, sa.create_engine("sqlite://"), Base)
    """
    unchecked: object = engine  # callers may ignore the annotation
    known: object = metadata if isinstance(metadata, sa.MetaData) else getattr(metadata, "metadata", None)
    if not isinstance(unchecked, sa.Engine) or not isinstance(known, sa.MetaData):
        raise TypeError(
            "register() takes an app, a synchronous Engine, and a MetaData or a declarative base class, not "
            f"{type(unchecked).__name__} and {type(metadata).__name__}"
        )
    app.extensions.setdefault(_EXTENSION, []).append((engine, known))


def databases_of(app: Flask) -> list[Database]:
    """Return the databases of *app*: those of Flask-SQLAlchemy, then those that were registered.

    Needs the app's context, in which Flask-SQLAlchemy keeps its engines.
    """
    found: list[Database] = []
    flask_sqlalchemy = app.extensions.get("sqlalchemy")
    # Other extensions use this key as well.
    metadatas = cast(Mapping[str | None, sa.MetaData], getattr(flask_sqlalchemy, "metadatas", {}))
    if metadatas:
        engines = cast(Any, flask_sqlalchemy).engines
        found += [(engines[key], metadata) for key, metadata in metadatas.items() if key in engines]
    return [*found, *app.extensions.get(_EXTENSION, ())]
