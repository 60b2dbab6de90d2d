"""Connections to the one database: SQLite (embedded) or Postgres. Pragmas, file locks, suitability.

Statements are built with SQLAlchemy Core and compiled once per dialect (`Statements`); hot paths run the compiled
text on the driver's cursor, because Core's own execution costs more than SQLite's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from sqlalchemy import ARRAY, Engine, String, any_, bindparam, create_engine, event, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.schema import Table
from sqlmodel import SQLModel

from comptroller_audit.ailments import advice_on
from comptroller_audit.errors import StoreUnavailable, StoreUnsuitable

__all__ = [
    "NETWORK_FILE_SYSTEMS",
    "Database",
    "Relation",
    "Row",
    "file_system_of",
    "is_driver_error",
    "table_of",
]

Row = dict[str, Any]
"""One row without its `tenant` and `id`; never changed in place, always replaced."""

LOCK_WAIT_S_MAX = 5.0
"""How long a write waits for another process before the store counts as unavailable."""
WAL_BYTES_MAX = 16 * 1024 * 1024
"""The write-ahead log is folded into the file once it is larger than this."""
ROWS_MAX = 32
"""Rows in one statement; the widest table stays below the 999 values that every SQLite takes."""
TEXTS_MAX = 256
"""Compiled statements kept by `text_of`."""
_VALUES = re.compile(r"VALUES \(([^)]*)\)")
_BUSY_MS = 5000
"""How long SQLite itself waits for a lock that another program holds."""
_LOCK_POLL_S = (0.0002, 0.001)
"""First and longest pause between two tries for the write lock; short, so that a busy process starves no other."""
_SESSION = (
    "SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '15s'; "
    "SET default_transaction_isolation = 'read committed'; "
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)
"""What every Postgres session needs: durable commits, one isolation level, and no wait or stalled writer for ever."""
_SYNCHRONISED = ("Dropbox", "OneDrive", "Google Drive", "GoogleDrive", "Mobile Documents", "CloudStorage")
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "fuse.sshfs", "fuse.rclone", "9p", "ceph", "glusterfs"}
)


def table_of(model: type[SQLModel]) -> Table:
    """The Core table of a SQLModel class."""
    return cast("Table", model.__table__)  # type: ignore[attr-defined]  # SQLModel adds it, its stubs do not say so


def is_driver_error(error: BaseException) -> bool:
    """Whether the database's driver raised it, rather than our own code."""
    return any(base.__module__.startswith(("sqlite3", "psycopg")) for base in type(error).__mro__)


class Relation:
    """A table keyed (tenant, id): the unit in which commit loads and stores state."""

    def __init__(self, model: type[SQLModel]) -> None:
        self.table = table_of(model)
        self.name = self.table.name
        self.columns = tuple(c.name for c in self.table.columns if c.name not in ("tenant", "id"))
        self.indexed = tuple(
            name for name in self.columns if any(name in index.columns for index in self.table.indexes)
        )
        """Columns that an index has: the database touches it whenever one of them is set, to whatever value."""

    def __repr__(self) -> str:
        return f"Relation({self.name})"


@dataclass(frozen=True, slots=True)
class _Statements:
    """Compiled statements. They depend on the dialect alone, so every database of a kind shares them."""

    named: dict[Any, str] = field(default_factory=dict[Any, str])
    texts: dict[ClauseElement, tuple[str, Mapping[str, Any]]] = field(
        default_factory=dict[ClauseElement, tuple[str, Mapping[str, Any]]]
    )
    many: dict[tuple[str, int], tuple[str, Callable[[Mapping[str, Any]], Sequence[Any]]]] = field(
        default_factory=dict[tuple[str, int], tuple[str, Callable[[Mapping[str, Any]], Sequence[Any]]]]
    )


_STATEMENTS = {"sqlite": _Statements(), "postgresql": _Statements()}


class Database:
    """Opens connections to `url` and holds the statements compiled for its dialect.

    Raises `StoreUnsuitable` for a URL or folder that cannot keep the store's promises.
    """

    def __init__(self, url: str) -> None:
        self.url: URL = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.path = _suitable_path(self.url)
            self._file = str(self.path)
        elif self.url.get_backend_name() != "postgresql":
            raise StoreUnsuitable(
                f"store.url names {self.url.get_backend_name()}; use sqlite:///… or postgresql+psycopg://…"
            )
        self.engine = _engine(self.url, self.is_sqlite)
        statements = _STATEMENTS[self.url.get_backend_name()]
        self.compiled, self._texts, self._many = statements.named, statements.texts, statements.many
        self._lock_fd: int | None = None
        self._fold_at = WAL_BYTES_MAX

    def connect(self) -> Any:
        """A driver connection (sqlite3 or psycopg), without an open transaction. Raises `StoreUnavailable`."""
        if self.is_sqlite and self.file_id() is None:
            raise StoreUnavailable(f"The store's file {self.path} is gone. Put it back; no new one is made.")
        try:
            connection = self.engine.raw_connection()
            driver: Any = connection.driver_connection
            connection.detach()
            if not self.is_sqlite:
                driver.autocommit = True
                driver.prepare_threshold = 2
                driver.execute(_SESSION)
        except Exception as error:
            # libpq says first where it tried to connect, and then what is wrong.
            what = f"{type(error).__name__}: {str(error).strip().rpartition('failed: ')[2][:120]}"
            do = advice_on(error) or "Check store.url."
            raise StoreUnavailable(f"The store cannot be opened ({what}). {do}") from error
        return driver

    def file_id(self) -> tuple[int, int] | None:
        """Device and inode of the SQLite file, so that a file put in its place is noticed; None when there is none."""
        if not self.is_sqlite:
            return None
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    # -- statements -------------------------------------------------------------------------------------------

    def sql(self, statement: ClauseElement) -> str:
        """The driver's text of a Core statement; parameters are passed as a mapping."""
        return str(statement.compile(dialect=self.engine.dialect))

    def kept(self, key: str, build: Callable[[], ClauseElement]) -> str:
        """The text of the statement that `build` makes, which is made once for `key`."""
        if key not in self.compiled:
            self.compiled[key] = self.sql(build())
        return self.compiled[key]

    def select_ids(self, relation: Relation) -> str:
        """`SELECT id, … WHERE tenant = :tenant AND id IN :ids`; bind ids with `bind_ids`."""
        key = ("ids", relation.name)
        if key not in self.compiled:
            t = relation.table
            ids = bindparam("ids", type_=String() if self.is_sqlite else ARRAY(String))
            within = (
                t.c.id.in_(select(func.json_each(ids).table_valued("value").c.value))
                if self.is_sqlite
                else t.c.id == any_(ids)
            )
            columns = [t.c.id, *(t.c[name] for name in relation.columns)]
            self.compiled[key] = self.sql(select(*columns).where(t.c.tenant == bindparam("tenant"), within))
        return self.compiled[key]

    def select_id(self, relation: Relation) -> str:
        """`SELECT id, … WHERE tenant = :tenant AND id = :id`: for one row, half the price of `select_ids`."""
        key = ("id", relation.name)
        if key not in self.compiled:
            t = relation.table
            columns = [t.c.id, *(t.c[name] for name in relation.columns)]
            one = select(*columns).where(t.c.tenant == bindparam("tenant"), t.c.id == bindparam("id"))
            self.compiled[key] = self.sql(one)
        return self.compiled[key]

    def bind_ids(self, ids: Sequence[str]) -> Any:
        """Ids as the dialect takes a list in one parameter."""
        if not self.is_sqlite:
            return list(ids)
        return json.dumps(ids)

    def upsert(self, relation: Relation, *, indexed: bool = True) -> str:
        """Insert or replace one row of a relation; for `write_rows`. Without `indexed`, a row there keeps those columns."""
        key = ("upsert", relation.name, indexed)
        if key not in self.compiled:
            insert = self._insert(relation.table)
            kept = () if indexed else relation.indexed
            replaced = {name: insert.excluded[name] for name in relation.columns if name not in kept}
            self.compiled[key] = self.sql(
                insert.on_conflict_do_update(index_elements=["tenant", "id"], set_=replaced)
            )
        return self.compiled[key]

    def _insert(self, table: Table) -> Any:
        if self.is_sqlite:
            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql  # forty milliseconds of a start on SQLite

        return postgresql.insert(table)

    def insert_unless_there(self, table: Table, key: str) -> str:
        """`INSERT … ON CONFLICT DO NOTHING`: two processes may meet at a first row."""
        insert = self._insert(table)
        return self.kept(
            f"new {table.name} {key}", lambda: insert.on_conflict_do_nothing(index_elements=[key])
        )

    def text_of(self, statement: ClauseElement) -> tuple[str, Mapping[str, Any]]:
        """The driver's text of a statement and the constants in it; kept for statements that come again."""
        known = self._texts.get(statement)
        if known is None:
            if len(self._texts) >= TEXTS_MAX:
                self._texts.clear()
            compiled = statement.compile(dialect=self.engine.dialect)
            constants: dict[str, Any] = dict(compiled.params or {})
            known = self._texts[statement] = (str(compiled), constants)
        return known

    def insert(self, table: Table) -> str:
        key = ("insert", table.name)
        if key not in self.compiled:
            self.compiled[key] = self.sql(table.insert())
        return self.compiled[key]

    def write_rows(self, cursor: Any, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run `text`, an `upsert` or `insert`, for every row.

        On SQLite many rows go into one statement: each step of the driver gives up the interpreter's lock, and in a
        busy process getting it back takes longer than the row.
        """
        if not self.is_sqlite:
            cursor.executemany(text, rows)
            return
        at = 0
        while (left := len(rows) - at) > 0:
            # Few sizes, so that the driver knows the statements.
            count = left if left < 4 else min(ROWS_MAX, 1 << (left.bit_length() - 1))
            statement, values_of = self._text_of_many(text, count)
            cursor.execute(statement, [v for row in rows[at : at + count] for v in values_of(row)])
            at += count

    def _text_of_many(
        self, text: str, count: int
    ) -> tuple[str, Callable[[Mapping[str, Any]], Sequence[Any]]]:
        key = (text, count)
        if key not in self._many:
            values = _VALUES.search(text)
            assert values is not None
            names = [name.strip().removeprefix(":") for name in values[1].split(",")]
            one = f"({', '.join('?' * len(names))})"
            many = f"{text[: values.start()]}VALUES {', '.join([one] * count)}{text[values.end() :]}"
            self._many[key] = (many, itemgetter(*names))
        return self._many[key]

    # -- the write lock ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def write_lock(self, wait_s_max: float | None = None) -> Generator[None]:
        """On SQLite, the OS file lock that every write and every WAL checkpoint takes.

        SQLite before 3.51.3 can corrupt a WAL when two connections write and checkpoint together. Raises
        `StoreUnavailable` when another process keeps the lock longer than `wait_s_max` (`LOCK_WAIT_S_MAX`) seconds.
        """
        if not self.is_sqlite:
            yield
            return
        try:
            if self._lock_fd is None:
                self._lock_fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _lock(self._lock_fd, LOCK_WAIT_S_MAX if wait_s_max is None else wait_s_max)
        except OSError as error:
            raise StoreUnavailable(
                f"The store's lock file {self.path}.lock cannot be used ({error.strerror}). Check its folder."
            ) from error
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def fold_wal(self, connection: Any) -> None:
        """Fold the write-ahead log into the file when it has grown; the caller holds `write_lock`.

        Waits for no reader: while one still needs the old pages, the next try comes when as much again was written.
        """
        if not self.is_sqlite or (size := _size(f"{self.path}-wal")) <= self._fold_at:
            return
        self._fold_at = size + WAL_BYTES_MAX
        with contextlib.suppress(
            sqlite3.Error
        ):  # the commit stands; the next transaction meets what is wrong
            connection.execute("PRAGMA busy_timeout=0").fetchall()
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}").fetchall()
            if not busy:
                self._fold_at = WAL_BYTES_MAX

    def scrub(self) -> None:
        """Rewrite what may still hold erased rows: the write-ahead log, or the pages of `log_payload`."""
        with contextlib.ExitStack() as held:
            connection = self.connect()
            held.callback(connection.close)
            with contextlib.suppress(Exception):  # the erasure is durable; this is for what lies beside it
                if self.is_sqlite:
                    held.enter_context(self.write_lock(1.0))
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                else:
                    connection.autocommit = True
                    connection.execute("VACUUM log_payload")

    def close(self, *connections: Any) -> None:
        """Close driver connections; under the write lock if it can be had, because the last close checkpoints."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(StoreUnavailable, OSError):
                held.enter_context(self.write_lock(1.0))
            for connection in connections:
                with contextlib.suppress(Exception):
                    connection.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        self.engine.dispose()


def _engine(url: URL, is_sqlite: bool) -> Engine:
    if not is_sqlite:
        return create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    engine = create_engine(
        url,
        poolclass=NullPool,
        paramstyle="named",
        connect_args={"check_same_thread": False, "timeout": 5.0, "cached_statements": 256},
    )

    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "fullfsync=1",
            "wal_autocheckpoint=0",
            "mmap_size=0",
            f"busy_timeout={_BUSY_MS}",
            "trusted_schema=OFF",
            "secure_delete=ON",  # an erased payload must not stay in free pages
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    event.listen(engine, "connect", prepare)
    return engine


def _lock(fd: int, wait_s_max: float) -> None:
    deadline = time.monotonic() + wait_s_max
    pause_s, pause_s_max = _LOCK_POLL_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreUnavailable("Another process holds the store's write lock. Try again.") from None
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, pause_s_max)
        else:
            return


def _suitable_path(url: URL) -> Path:
    if not url.database or url.database == ":memory:":
        raise StoreUnsuitable("store.url needs a file path, for example sqlite:////home/me/comptroller.db")
    path = Path(url.database).expanduser().absolute()
    for part in path.parts:
        if part.startswith(_SYNCHRONISED):
            raise StoreUnsuitable(
                f"{path} lies in a synchronised folder ({part}), which corrupts SQLite files. "
                "Set store.url to a folder on a local disk."
            )
    kind = file_system_of(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreUnsuitable(
            f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold. "
            "Set store.url to a folder on a local disk, or use Postgres."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnsuitable(f"{path} cannot be created ({error.strerror}). Check store.url.") from error
    return path


def file_system_of(path: Path) -> str:
    """The file system type of the mount that holds `path`; empty where the system does not tell."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        _, point, this_kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if (str(path) + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, this_kind
    return kind


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
