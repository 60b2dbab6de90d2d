"""Connections to the one database: SQLite (embedded) or Postgres. Pragmas, file locks, suitability.

Statements are built with SQLAlchemy Core and compiled once per dialect (`Statements`); hot paths run the compiled
text on the driver's cursor, because Core's own execution costs more than SQLite's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ARRAY, Engine, String, any_, bindparam, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.schema import Table
from sqlmodel import SQLModel

from comptroller_audit.errors import StoreUnavailable, StoreUnsuitable

__all__ = ["Database", "Relation", "Row", "table_of"]

Row = dict[str, Any]
"""One row without its `tenant` and `id`; never changed in place, always replaced."""

LOCK_WAIT_S_MAX = 5.0
"""How long a write waits for another process before the store counts as unavailable."""
WAL_BYTES_MAX = 16 * 1024 * 1024
"""The write-ahead log is folded into the file once it is larger than this."""
_SYNCHRONISED = ("Dropbox", "OneDrive", "Google Drive", "GoogleDrive", "Mobile Documents", "CloudStorage")
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "fuse.sshfs", "fuse.rclone", "9p", "ceph", "glusterfs"}
)


def table_of(model: type[SQLModel]) -> Table:
    """The Core table of a SQLModel class."""
    table: Table = model.__table__  # type: ignore[attr-defined]  # SQLModel adds it, its stubs do not say so
    return table


class Relation:
    """A table keyed (tenant, id): the unit in which commit loads and stores state."""

    def __init__(self, model: type[SQLModel]) -> None:
        self.table = table_of(model)
        self.name = self.table.name
        self.columns = tuple(c.name for c in self.table.columns if c.name not in ("tenant", "id"))

    def __repr__(self) -> str:
        return f"Relation({self.name})"


class Database:
    """Opens connections to `url` and holds the statements compiled for its dialect.

    Raises `StoreUnsuitable` for a URL or folder that cannot keep the store's promises.
    """

    def __init__(self, url: str) -> None:
        self.url: URL = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.path = _suitable_path(self.url)
        elif self.url.get_backend_name() != "postgresql":
            raise StoreUnsuitable(
                f"store.url names {self.url.get_backend_name()}; use sqlite:///… or postgresql+psycopg://…"
            )
        self.engine = _engine(self.url, self.is_sqlite)
        self.compiled: dict[Any, str] = {}
        self._lock_fd: int | None = None

    def connect(self) -> Any:
        """A driver connection (sqlite3 or psycopg), without an open transaction."""
        try:
            connection = self.engine.raw_connection()
        except Exception as error:
            raise StoreUnavailable(f"The store cannot be opened ({type(error).__name__}). Check store.url.") from error
        driver = connection.driver_connection
        connection.detach()
        if not self.is_sqlite:
            assert driver is not None
            driver.autocommit = True
            driver.prepare_threshold = 2
        return driver

    # -- statements -------------------------------------------------------------------------------------------

    def sql(self, statement: ClauseElement) -> str:
        """The driver's text of a Core statement; parameters are passed as a mapping."""
        return str(statement.compile(dialect=self.engine.dialect))

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

    def bind_ids(self, ids: Sequence[str]) -> Any:
        """Ids as the dialect takes a list in one parameter."""
        if not self.is_sqlite:
            return list(ids)
        return json.dumps(ids)

    def upsert(self, relation: Relation) -> str:
        """Insert or replace one row of a relation; used with executemany."""
        key = ("upsert", relation.name)
        if key not in self.compiled:
            insert = (sqlite if self.is_sqlite else postgresql).insert(relation.table)
            replaced = {name: insert.excluded[name] for name in relation.columns}
            self.compiled[key] = self.sql(
                insert.on_conflict_do_update(index_elements=["tenant", "id"], set_=replaced)
            )
        return self.compiled[key]

    def insert(self, table: Table) -> str:
        key = ("insert", table.name)
        if key not in self.compiled:
            self.compiled[key] = self.sql(table.insert())
        return self.compiled[key]

    # -- the write lock ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def write_lock(self, wait_s_max: float = LOCK_WAIT_S_MAX) -> Iterator[None]:
        """On SQLite, the OS file lock that every write and every WAL checkpoint takes.

        SQLite before 3.51.3 can corrupt a WAL when two connections write and checkpoint together. Raises
        `StoreUnavailable` when another process keeps the lock longer than `wait_s_max` seconds.
        """
        if not self.is_sqlite:
            yield
            return
        if self._lock_fd is None:
            self._lock_fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _lock(self._lock_fd, wait_s_max)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def fold_wal(self, connection: Any) -> None:
        """Fold the write-ahead log into the file when it has grown; the caller holds `write_lock`."""
        if self.is_sqlite and _size(f"{self.path}-wal") > WAL_BYTES_MAX:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self, *connections: Any) -> None:
        """Close driver connections; under the write lock, because the last close checkpoints the WAL."""
        with contextlib.suppress(StoreUnavailable), self.write_lock(1.0):
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
        url, poolclass=NullPool, paramstyle="named", connect_args={"check_same_thread": False, "timeout": 5.0}
    )

    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "fullfsync=1",
            "wal_autocheckpoint=0",
            "mmap_size=0",
            "busy_timeout=5000",
            "trusted_schema=OFF",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    event.listen(engine, "connect", prepare)
    return engine


def _lock(fd: int, wait_s_max: float) -> None:
    deadline = time.monotonic() + wait_s_max
    pause_s = 0.0002
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreUnavailable("Another process holds the store's write lock. Try again.") from None
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.01)
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
    kind = _file_system_of(path)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StoreUnsuitable(
            f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold. "
            "Set store.url to a folder on a local disk, or use Postgres."
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    return path


def _file_system_of(path: Path) -> str:
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
