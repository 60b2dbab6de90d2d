"""Bring a database to this version's schema. Alembic is imported only when there is something to do."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from comptroller_audit.database import Database
from comptroller_audit.errors import StoreUnavailable, StoreUnsuitable

__all__ = ["SCHEMA_VERSION", "schema_is_current", "upgrade"]

SCHEMA_VERSION = "0002"


def schema_is_current(database: Database) -> bool:
    """Whether the schema is this version's. Raises `StoreUnsuitable` when it is of a newer one."""
    version = _version(database)
    if version is not None and version > SCHEMA_VERSION:
        raise StoreUnsuitable(
            f"The store has schema {version}, newer than this program's {SCHEMA_VERSION}. Upgrade comptroller."
        )
    return version == SCHEMA_VERSION


def _version(database: Database) -> str | None:
    try:
        with database.engine.connect() as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except ProgrammingError:
        return None
    except OperationalError as error:
        if "no such table" in str(error):
            return None
        raise StoreUnavailable(f"The store cannot be opened: {error.orig}") from error
    except DBAPIError as error:
        raise StoreUnsuitable(f"The store is not readable as a database: {error.orig}") from error


def upgrade(database: Database) -> None:
    """Run what is missing, in one transaction; on Postgres under an advisory lock, on SQLite under the write lock.

    Raises `StoreUnavailable` when the database refuses; then nothing was changed.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    try:
        with database.engine.begin() as connection:
            if database.is_sqlite:  # its driver begins nothing by itself, and half a schema opens no more
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('comptroller-migrate'))"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise StoreUnavailable(
            f"The store's schema cannot be brought to {SCHEMA_VERSION}: {error.orig}. Nothing was changed."
        ) from error
