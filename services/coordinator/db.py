"""The database: SQLite (embedded default) or PostgreSQL by URL, with two kinds of session.

`writing()` begins IMMEDIATE on SQLite, so a transaction that reads and then writes cannot fail half-way because
another writer came between; `reading()` sees one consistent snapshot and holds up nobody. Rows that two requests decide
upon are locked with `with_for_update()`: PostgreSQL needs it, SQLite's single writer makes it superfluous (and
SQLAlchemy leaves it out there).
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import URL, Connection, Engine, Result, create_engine, event, make_url, text
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction, object_mapper, sessionmaker

from coordinator.tables import EventRow

BUSY_TIMEOUT_S = 10.0  # a writer that waits longer for the lock is answered 503 instead of holding its thread for ever
WAL_ATTEMPTS = 20  # each waits for one writer: more processes than that do not start on a new ledger at once
STATEMENT_TIMEOUT_S = 30.0  # a query that lost its way does not keep a pooled connection for ever
CONNECT_TIMEOUT_S = 5  # a PostgreSQL host that swallows packets is noticed instead of hanging the start
POOL_SIZE = 20
POOL_TIMEOUT_S = 10.0  # a request that gets no connection is answered 503 instead of queueing without end

_READ_ONLY = "hsl_read_only"
_CHANGED = "hsl_changed"
_NEWEST_EVENT = "hsl_newest_event"
_QUIET_TABLES = frozenset({"nodes"})


class Database:
    """One engine and its two session factories. Only `coordinator.kernel` and tests open sessions."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(parsed) if self.is_sqlite else _postgresql_engine(parsed)
        self._writers = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(_read_only(self.engine, self.is_sqlite), expire_on_commit=False)
        event.listen(self._writers, "after_flush", _note_flush)
        event.listen(self._writers, "do_orm_execute", _note_statement)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back by any exception."""
        with self._writers() as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One snapshot; whatever is written in it is thrown away."""
        with self._readers() as session:
            yield session

    def ping(self) -> None:
        """Raises SQLAlchemy's `OperationalError` when the database does not answer."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


def has_changed(session: Session) -> bool:
    """Whether this session wrote a row of any table but `nodes`.

    A node's row changes with each of its messages and concerns nobody else; what concerns others leaves an event, and
    so a row of another table.
    """
    return bool(session.info.get(_CHANGED))


def newest_event(session: Session) -> int | None:
    """The highest id of the events that this session wrote."""
    found: int | None = session.info.get(_NEWEST_EVENT)
    return found


def _note_flush(session: Session, context: UOWTransaction) -> None:
    del context
    if written := [row.event_id for row in session.new if isinstance(row, EventRow)]:
        session.info[_NEWEST_EVENT] = max(written)
    modified = (row for row in session.dirty if session.is_modified(row))
    for row in (*session.new, *session.deleted, *modified):
        if object_mapper(row).local_table.description not in _QUIET_TABLES:
            session.info[_CHANGED] = True


def _note_statement(state: ORMExecuteState) -> Result[Any] | None:
    """For INSERT, UPDATE and DELETE statements: a guarded UPDATE that found nothing to change changed nothing."""
    if not (state.is_insert or state.is_update or state.is_delete):
        return None
    result = state.invoke_statement()
    mapper = state.bind_mapper
    quiet = mapper is not None and mapper.local_table.description in _QUIET_TABLES
    if not quiet and getattr(result, "rowcount", 1) != 0:
        state.session.info[_CHANGED] = True
    return result


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url, pool_size=POOL_SIZE, pool_timeout=POOL_TIMEOUT_S, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    """WAL: readers and the writer do not wait for each other. FULL: a commit survives a power cut."""
    del record
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}").close()
    _use_wal(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _use_wal(connection: Any) -> None:
    """A new file's first writer makes SQLite refuse the change at once, without `busy_timeout`: wait for its end."""
    for _ in range(WAL_ATTEMPTS):
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        connection.execute("BEGIN IMMEDIATE").close()  # this one waits
        connection.execute("COMMIT").close()
    connection.execute("PRAGMA journal_mode = WAL").close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _postgresql_engine(url: URL) -> Engine:
    limits = f"-c statement_timeout={int(STATEMENT_TIMEOUT_S * 1000)} -c lock_timeout={int(BUSY_TIMEOUT_S * 1000)}"
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=POOL_SIZE,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "options": limits},
    )


def _read_only(engine: Engine, is_sqlite: bool) -> Engine:
    """The same pool, other transactions: many SELECTs of one session must speak of the same moment."""
    if is_sqlite:
        return engine.execution_options(**{_READ_ONLY: True})
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
