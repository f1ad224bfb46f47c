"""The store of used links: how often a link with a limited number of uses was taken, known to every worker of an app.

A link made with ``uses=1`` (or more) carries an id. :meth:`LinkUses.consume` takes one use of it, and of all threads,
processes and hosts that share the store exactly as many succeed as there are uses. When the store cannot be asked,
nothing is taken and nothing granted.

>>> from datetime import UTC, datetime, timedelta
>>> uses, tomorrow = MemoryLinkUses(), datetime.now(UTC) + timedelta(days=1)
>>> uses.consume("an id", 1, tomorrow), uses.consume("an id", 1, tomorrow)
(True, False)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .errors import ConfigurationError, StorageUnavailableError

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

KEPT_AFTER_EXPIRY = 3600
"""Seconds for which the use of an expired link is remembered, because the clocks of two hosts differ."""

SWEEP_EVERY = 3600
"""Seconds between two sweeps that one process makes by itself."""

_TIMEOUT = 10  # seconds: a worker that waits longer for the store than this is lost to everybody else


class LinkUses(ABC):
    """How often each link was used.

    The public methods are written once; a store supplies the four hooks, which get a key of 64 hexadecimal digits
    instead of the token's id. What its service raises, a store turns into
    :class:`~flask_storage.errors.StorageUnavailableError`.
    """

    _next_sweep = 0.0

    def spent(self, token_id: str, uses: int) -> bool:
        """Whether all *uses* of a link are gone. A look without a promise: only :meth:`consume` decides.

        Raises:
            StorageUnavailableError: when the store cannot be asked.
        """
        return self._used(_key(token_id)) >= uses

    def consume(self, token_id: str, uses: int, expires_at: datetime) -> bool:
        """Take one use, atomically among all who share the store. False when none is left.

        Args:
            token_id: The id that the link's token carries.
            uses: How many there are.
            expires_at: When the link expires (aware); some time later its uses are forgotten.

        Raises:
            StorageUnavailableError: when the store cannot be asked; then the link must not be honoured.
        """
        expiry = int(expires_at.timestamp())
        if expiry + KEPT_AFTER_EXPIRY <= time.time():
            return False  # its uses may be forgotten already
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_EVERY
            self.sweep()
        return self._take(_key(token_id), uses, expiry)

    def release(self, token_id: str) -> None:
        """Give one use back that :meth:`consume` took: what it was for has failed.

        Raises:
            StorageUnavailableError: when the store cannot be asked; then the use stays taken.
        """
        self._give_back(_key(token_id))

    def sweep(self, now: datetime | None = None) -> int:
        """Forget links that expired more than an hour before *now*. :meth:`consume` does this now and then.

        Returns:
            How many uses were forgotten; 0 where the store forgets by itself.

        Raises:
            StorageUnavailableError: when the store cannot be asked.
        """
        return self._forget(int((now or datetime.now(UTC)).timestamp()) - KEPT_AFTER_EXPIRY)

    def close(self) -> None:  # noqa: B027 -- most stores hold nothing open
        """Let go of connections that this process holds. Used again, the store opens new ones."""

    @abstractmethod
    def _used(self, key: str) -> int:
        """Return how many uses are taken."""

    @abstractmethod
    def _take(self, key: str, uses: int, expiry: int) -> bool:
        """Take one of *uses*, atomically; *expiry* is in seconds since 1970. False when none is left."""

    @abstractmethod
    def _give_back(self, key: str) -> None:
        """Make one taken use free again. None taken: nothing to do."""

    @abstractmethod
    def _forget(self, expired: int) -> int:
        """Forget all uses whose expiry is *expired* or earlier, and return how many."""


class MemoryLinkUses(LinkUses):
    """Used links in the memory of one process: for tests, and for an app that has a single process."""

    def __init__(self) -> None:
        self._taken: dict[str, list[int]] = {}  # one expiry for each use
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<MemoryLinkUses>"

    def _used(self, key: str) -> int:
        return len(self._taken.get(key, ()))

    def _take(self, key: str, uses: int, expiry: int) -> bool:
        with self._lock:
            free = self._used(key) < uses
            if free:
                self._taken.setdefault(key, []).append(expiry)
            return free

    def _give_back(self, key: str) -> None:
        with self._lock:
            if self._taken.get(key):
                self._taken[key].pop()

    def _forget(self, expired: int) -> int:
        with self._lock:
            old = [key for key, expiries in self._taken.items() if all(expiry <= expired for expiry in expiries)]
            return sum(len(self._taken.pop(key)) for key in old)


class FileLinkUses(LinkUses):
    """Used links as empty files, for all processes of one host.

    Each use is a file that only one process can create (``O_EXCL``): ``<hash of the id>/<number>``, modified at the
    moment when the link expires. A link of a hundred uses leaves up to a hundred files until it is forgotten;
    for links of many thousands take another store.

    Args:
        folder: Where; it is made when the first use is taken, for its owner alone (``0700``).
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = os.path.abspath(folder)

    def __repr__(self) -> str:
        return f"<FileLinkUses in {self._folder}>"

    def _used(self, key: str) -> int:
        with self._translated():
            return len(_names(os.path.join(self._folder, key)))

    def _take(self, key: str, uses: int, expiry: int) -> bool:
        folder = os.path.join(self._folder, key)
        with self._translated():
            return any(self._create(folder, str(number), expiry) for number in range(1, uses + 1))

    def _create(self, folder: str, name: str, expiry: int) -> bool:
        path = os.path.join(folder, name)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False  # this use is taken
        except FileNotFoundError:  # the first use of this link, or its empty folder was swept away in this moment
            os.makedirs(self._folder, 0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            return self._create(folder, name, expiry)
        try:
            # Until now the file said that the link expires at once, which keeps it for an hour: nobody could sweep it
            # away under us. Had we died before, the use would not have been granted.
            os.utime(file if os.utime in os.supports_fd else path, (expiry, expiry))
            os.fsync(file)  # a use must outlive a power failure; the journal takes the new name along
        finally:
            os.close(file)
        return True

    def _give_back(self, key: str) -> None:
        folder = os.path.join(self._folder, key)
        with self._translated():
            for name in _names(folder):
                with contextlib.suppress(FileNotFoundError):  # another worker gave this one back
                    os.unlink(os.path.join(folder, name))
                    return

    def _forget(self, expired: int) -> int:
        forgotten = 0
        with self._translated():
            for key in filter(_KEY.fullmatch, _names(self._folder)):
                folder = os.path.join(self._folder, key)
                for name in _names(folder):
                    with contextlib.suppress(FileNotFoundError):  # another worker sweeps too
                        file = os.path.join(folder, name)
                        if os.stat(file, follow_symlinks=False).st_mtime <= expired:
                            os.unlink(file)
                            forgotten += 1
                if not _names(folder):
                    with contextlib.suppress(OSError):  # gone already, or used again in this moment
                        os.rmdir(folder)
        return forgotten

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailableError(
                f"the folder of used links {self._folder} cannot be used ({error.strerror}): the app's user must be "
                "able to write there, or name another place in STORAGE_LINK_USES"
            ) from error


class SQLLinkUses(LinkUses):
    """Used links in a table ``storage_link_uses``, for all hosts that share the database. Made when first needed.

    Two workers cannot insert the same number for the same link: that is all it takes. Tried with SQLite and PostgreSQL.

    Args:
        url: As SQLAlchemy takes it: ``"postgresql+psycopg://user:password@host/name"``, ``"sqlite:///links.db"``.
        folder: What the file of a relative SQLite URL is relative to; without it, the working folder.

    Raises:
        ConfigurationError: when SQLAlchemy or the database's driver is missing, or the URL cannot work.
    """

    def __init__(self, url: str, *, folder: str | os.PathLike[str] | None = None) -> None:
        try:
            import sqlalchemy
        except ImportError as error:
            raise ConfigurationError(
                "SQLLinkUses needs SQLAlchemy: pip install 'flask-storage-profiles[sqlalchemy]'"
            ) from error
        self._sql = sqlalchemy
        self._url = self._parsed(url, folder)
        self._table = sqlalchemy.Table(
            "storage_link_uses",
            sqlalchemy.MetaData(),
            sqlalchemy.Column("token_id", sqlalchemy.String(64), primary_key=True),
            sqlalchemy.Column("number", sqlalchemy.Integer, primary_key=True, autoincrement=False),
            sqlalchemy.Column("expires_at", sqlalchemy.BigInteger, nullable=False, index=True),
        )
        # One engine for each process: a connection that two of them hold after a fork answers either. The parent's is
        # kept, so that it is not closed by a child that collects garbage.
        self._engines: dict[int, Engine] = {os.getpid(): self._engine()}
        self._has_table = False

    def close(self) -> None:
        """See :meth:`LinkUses.close`."""
        self._own_engine().dispose()

    def __repr__(self) -> str:
        return f"<SQLLinkUses in {self._url.get_backend_name()} {self._url.host or ''}/{self._url.database}>"

    def _used(self, key: str) -> int:
        return len(self._numbers(key))

    def _take(self, key: str, uses: int, expiry: int) -> bool:
        taken = set(self._numbers(key))
        for number in range(1, uses + 1):
            if number not in taken:
                with self._connected() as engine, contextlib.suppress(self._sql.exc.IntegrityError):
                    with engine.begin() as connection:
                        connection.execute(self._table.insert().values(token_id=key, number=number, expires_at=expiry))
                    return True
        return False

    def _give_back(self, key: str) -> None:
        any(self._deleted(key, number) for number in self._numbers(key))  # until one was, and not by another worker

    def _deleted(self, key: str, number: int) -> bool:
        which = (self._table.c.token_id == key) & (self._table.c.number == number)
        with self._connected() as engine, engine.begin() as connection:
            return connection.execute(self._table.delete().where(which)).rowcount > 0

    def _forget(self, expired: int) -> int:
        with self._connected() as engine, engine.begin() as connection:
            return connection.execute(self._table.delete().where(self._table.c.expires_at <= expired)).rowcount

    def _numbers(self, key: str) -> list[int]:
        with self._connected() as engine, engine.connect() as connection:
            columns = self._table.c
            return list(connection.scalars(self._sql.select(columns.number).where(columns.token_id == key)))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Engine]:
        engine = self._own_engine()
        try:
            if not self._has_table:
                self._make_table(engine)
            yield engine
        except (self._sql.exc.SQLAlchemyError, OSError) as error:
            raise StorageUnavailableError(
                f"{self!r} did not answer: see that the database of STORAGE_LINK_USES runs and lets the app in"
            ) from error

    def _make_table(self, engine: Engine) -> None:
        if engine.dialect.name == "sqlite":
            os.makedirs(os.path.dirname(os.path.abspath(str(self._url.database))), exist_ok=True)
        if not self._sql.inspect(engine).has_table(self._table.name):
            try:
                self._table.create(engine)
            except self._sql.exc.DBAPIError:
                # Another worker was quicker; every database says so in its own words.
                if not self._sql.inspect(engine).has_table(self._table.name):
                    raise
        self._has_table = True

    def _parsed(self, text: str, folder: str | os.PathLike[str] | None) -> URL:
        try:
            url = self._sql.make_url(text)
        except (self._sql.exc.ArgumentError, ValueError):
            # Not chained: the parser quotes the URL, and with it the password.
            raise ConfigurationError(
                "STORAGE_LINK_USES is not a URL that SQLAlchemy can read: write "
                "'postgresql+psycopg://user:password@host/name', with special characters as %40"
            ) from None
        if url.get_backend_name() == "sqlite":
            if not url.database or url.database == ":memory:":
                raise ConfigurationError(
                    "a SQLite database in memory is not shared by the app's workers: name a file, 'sqlite:///links.db'"
                )
            url = url.set(database=os.path.join(folder or "", url.database))
        return url

    def _own_engine(self) -> Engine:
        return self._engines.get(os.getpid()) or self._engines.setdefault(os.getpid(), self._engine())

    def _engine(self) -> Engine:
        backend, driver = self._url.get_backend_name(), ""
        arguments: dict[str, Any] = {}
        try:
            driver = self._url.get_driver_name()
            if backend == "sqlite":
                arguments["timeout"] = _TIMEOUT
            elif driver in ("psycopg", "psycopg2") and "connect_timeout" not in self._url.query:
                arguments["connect_timeout"] = _TIMEOUT
            return self._sql.create_engine(self._url, connect_args=arguments, pool_pre_ping=True)
        except ImportError as error:
            raise ConfigurationError(
                f"the database of STORAGE_LINK_USES needs a driver that is not installed ({driver}): for PostgreSQL, "
                "pip install 'psycopg[binary]' and begin the URL with 'postgresql+psycopg://'"
            ) from error
        except self._sql.exc.ArgumentError:
            raise ConfigurationError(f"SQLAlchemy knows no database {self._url.drivername!r}") from None


_LUA_TAKE = """
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""

_LUA_GIVE_BACK = "if tonumber(redis.call('GET', KEYS[1]) or '0') > 0 then redis.call('DECR', KEYS[1]) end"


class RedisLinkUses(LinkUses):
    """Used links as counters in Redis, for all hosts that share it. They vanish by themselves after the link's expiry.

    A Redis that evicts keys when its memory is full (``maxmemory-policy`` other than ``noeviction``) may forget that a
    link was used, and one without persistence forgets it when it restarts.

    Args:
        url: As redis-py takes it: ``"redis://:password@host:6379/0"``, ``"rediss://…"`` (TLS), ``"unix:///path"``.

    Raises:
        ConfigurationError: when redis-py is missing, or the URL cannot work.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ImportError as error:
            raise ConfigurationError(
                "RedisLinkUses needs redis: pip install 'flask-storage-profiles[redis]'"
            ) from error
        self._error = redis.RedisError
        try:
            client: Any = redis.Redis.from_url(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT)
        except ValueError:
            # Not chained: the parser may quote a piece of the password.
            raise ConfigurationError(
                "STORAGE_LINK_USES is not a URL that redis can read: write 'redis://:password@host:6379/0', "
                "with special characters as %40"
            ) from None
        address = client.connection_pool.connection_kwargs
        self._place = address.get("path") or f"{address.get('host', 'localhost')}:{address.get('port', 6379)}"
        self._client = client
        # Where an answer is lost, redis-py may ask again, and a use is counted that nobody had: safer than the reverse.
        self._run_take = client.register_script(_LUA_TAKE)
        self._run_give_back = client.register_script(_LUA_GIVE_BACK)

    def close(self) -> None:
        """See :meth:`LinkUses.close`."""
        self._client.close()

    def __repr__(self) -> str:
        return f"<RedisLinkUses in {self._place}>"

    def _used(self, key: str) -> int:
        with self._translated():
            return int(self._client.get(_PREFIX + key) or 0)

    def _take(self, key: str, uses: int, expiry: int) -> bool:
        # Seconds from now, by our own clock: it is the one that decides whether the link has expired.
        kept = expiry + KEPT_AFTER_EXPIRY - int(time.time())
        with self._translated():
            return bool(self._run_take(keys=[_PREFIX + key], args=[uses, kept]))

    def _give_back(self, key: str) -> None:
        with self._translated():
            self._run_give_back(keys=[_PREFIX + key])

    def _forget(self, expired: int) -> int:
        return 0

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise StorageUnavailableError(
                f"{self!r} did not answer: see that the Redis of STORAGE_LINK_USES runs and lets the app in"
            ) from error


def open_link_uses(setting: str | LinkUses | None, instance_path: str | os.PathLike[str]) -> LinkUses:
    """Return the store that ``STORAGE_LINK_USES`` names.

    Args:
        setting: A URL (``redis``, ``rediss``, ``unix``, ``sqlite``, ``postgresql`` with or without a driver, ``file``),
            a store of your own, or None: files in the instance folder, which all workers of one host share.
        instance_path: The app's instance folder. A relative SQLite file lies there too.

    Raises:
        ConfigurationError: when there is no such store, or what it needs is not installed.
    """
    if setting is None:
        return FileLinkUses(os.path.join(instance_path, "storage-links"))
    if isinstance(setting, LinkUses):
        return setting
    given: Any = setting  # a configuration holds what it holds
    scheme, separator, rest = given.partition("://") if isinstance(given, str) else ("", "", "")
    if scheme in ("redis", "rediss", "unix"):
        return RedisLinkUses(setting)
    if scheme.partition("+")[0] in ("sqlite", "postgresql"):
        return SQLLinkUses(setting, folder=instance_path)
    if scheme == "file" and rest.startswith("/"):
        return FileLinkUses(unquote(rest))
    # The setting itself is not shown: what is misspelt may hold a password all the same.
    found = f"{scheme}://…" if separator else f"a {type(given).__name__} that is no URL"
    raise ConfigurationError(
        f"STORAGE_LINK_USES is {found}, which is no store of used links: use 'redis://host/0', "
        "'postgresql+psycopg://user:password@host/name', 'sqlite:///links.db', 'file:///folder', an object of a class "
        "made from LinkUses, or None for files in the instance folder"
    )


_KEY = re.compile(r"[0-9a-f]{64}")
_PREFIX = "flask-storage:link-uses:"


def _key(token_id: str) -> str:
    """Return what stands for an id in a store: never what a stranger wrote, and always of one length."""
    return hashlib.sha256(token_id.encode("utf-8", "surrogatepass")).hexdigest()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
