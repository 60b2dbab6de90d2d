"""A store as it is when it was migrated and nobody has worked on it: made once, then copied."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from comptroller_audit.database import Database
from comptroller_audit.migrate import upgrade

__all__ = ["migrate", "migrated_file"]


def migrate(url: str) -> None:
    """Bring the store at the SQLAlchemy URL `url` to the newest schema."""
    database = Database(url)
    try:
        with database.write_lock():
            upgrade(database)
    finally:
        database.close()


@functools.cache
def migrated_file() -> bytes:
    """The bytes of a SQLite store without a row."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "comptroller.db"
        migrate(f"sqlite:///{store}")
        left = Path(f"{store}-wal")
        assert not left.exists() or not left.stat().st_size
        return store.read_bytes()
