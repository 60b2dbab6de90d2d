"""The verifier's read-only view of the log tables: one snapshot, streamed rows, plain SQL of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from comptroller_audit.addresses import shown_address
from comptroller_audit.errors import EvidenceError

__all__ = ["Entry", "Head", "Payload", "Snapshot", "cause_of"]

PAGE_ENTRIES = 1024
_PAGE_PAYLOADS = 32  # payloads are large and read one after another


@dataclass(frozen=True, slots=True)
class Head:
    size: int
    frontier: str
    record_ms: int
    switch_seq: int
    bundle: str


@dataclass(frozen=True, slots=True)
class Entry:
    index: int
    envelope: bytes
    leaf: bytes


@dataclass(frozen=True, slots=True)
class Payload:
    index: int
    key_id: str
    wrapped: bytes
    sealed: bytes


class Snapshot:
    """The log tables as they were when it was opened. What has the wrong type reads as -1, "" or no bytes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, url: str) -> Generator[Snapshot, None, None]:
        """Raises EvidenceError when the store cannot be opened or lacks the log's tables."""
        engine = _engine(url)
        try:
            with engine.connect() as connection:
                if engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN")  # the driver opens no transaction for reads
                connection.execute(text("SELECT size FROM log_head LIMIT 1")).all()
                yield cls(connection)
        except SQLAlchemyError as error:
            raise EvidenceError(
                f"the store at {shown_address(url)} cannot be read: {cause_of(error)}"
            ) from None
        finally:
            engine.dispose()

    def tenants(self) -> set[str]:
        """Every tenant any of the four tables names."""
        found: set[str] = set()
        for table in ("log_head", "log_entry", "log_node", "log_payload"):
            rows = self._connection.execute(text(f"SELECT DISTINCT tenant FROM {table}"))  # noqa: S608  # fixed names
            found.update(_str(row[0]) for row in rows)
        return found

    def head(self, tenant: str) -> Head | None:
        query = "SELECT size, frontier, record_ms, switch_seq, bundle FROM log_head WHERE tenant = :tenant"
        row = self._connection.execute(text(query), {"tenant": tenant}).first()
        if row is None:
            return None
        return Head(_int(row[0]), _str(row[1]), _int(row[2]), _int(row[3]), _str(row[4]))

    def head_count(self, tenant: str) -> int:
        """Head rows of the tenant: more than one only where somebody changed the table itself."""
        query = text("SELECT count(*) FROM log_head WHERE tenant = :tenant")
        return _int(self._connection.execute(query, {"tenant": tenant}).scalar_one())

    def entries(self, tenant: str) -> Iterator[list[Entry]]:
        """Pages of entries in index order."""
        query = text("SELECT idx, envelope, leaf FROM log_entry WHERE tenant = :tenant ORDER BY idx")
        rows = self._connection.execute(query.execution_options(yield_per=PAGE_ENTRIES), {"tenant": tenant})
        for page in rows.partitions(PAGE_ENTRIES):
            yield [Entry(_int(row[0]), _str(row[1]).encode(), _bytes(row[2])) for row in page]

    def payloads(self, tenant: str) -> Iterator[Payload]:
        """All payloads in index order."""
        query = text(
            "SELECT idx, key_id, wrapped, sealed FROM log_payload WHERE tenant = :tenant ORDER BY idx"
        )
        rows = self._connection.execute(query.execution_options(yield_per=_PAGE_PAYLOADS), {"tenant": tenant})
        for row in rows:
            yield Payload(_int(row[0]), _str(row[1]), _bytes(row[2]), _bytes(row[3]))

    def nodes(self, tenant: str, level: int, first: int, end: int) -> dict[int, bytes]:
        """Stored nodes of one level with `first <= index < end`."""
        query = text(
            "SELECT idx, hash FROM log_node WHERE tenant = :tenant AND level = :level AND idx >= :first AND idx < :end"
        )
        rows = self._connection.execute(query, {"tenant": tenant, "level": level, "first": first, "end": end})
        return {_int(row[0]): _bytes(row[1]) for row in rows}

    def switches(self, tenant: str) -> dict[str, tuple[int, bool]]:
        """Each kill switch by its id: the sequence of its last change, and whether it is active. None without their table."""
        if not inspect(self._connection).has_table("switches"):
            return {}
        query = text("SELECT id, seq, active FROM switches WHERE tenant = :tenant")
        rows = self._connection.execute(query, {"tenant": tenant})
        return {_str(row[0]): (_int(row[1]), row[2] in (True, 1)) for row in rows}

    def node_count(self, tenant: str) -> int:
        query = text("SELECT count(*) FROM log_node WHERE tenant = :tenant")
        return _int(self._connection.execute(query, {"tenant": tenant}).scalar_one())


def cause_of(error: SQLAlchemyError) -> str:
    """The database's own first line, without SQLAlchemy's wrapping."""
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise EvidenceError(
            "the store's address is no database URL; use sqlite:///… or postgresql+psycopg://…"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        if not path.is_file():
            raise EvidenceError(f"there is no store at {path}")
        return create_engine("sqlite://", creator=lambda: _open_sqlite(path), poolclass=NullPool)
    if parsed.get_backend_name() != "postgresql":
        raise EvidenceError(
            f"{parsed.get_backend_name()} holds no store; use sqlite:///… or postgresql+psycopg://…"
        )
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    return create_engine(parsed, poolclass=NullPool, execution_options=options)


def _open_sqlite(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    # Damaged text must be read and judged, not raised by the driver. No envelope holds U+FFFD: it is ASCII.
    connection.text_factory = _decoded
    return connection


def _decoded(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _int(value: Any) -> int:
    return value if type(value) is int else -1


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""
