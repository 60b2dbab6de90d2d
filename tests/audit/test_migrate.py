"""The migrated schema is what the code's tables say, on both databases; half of one never stays."""

from __future__ import annotations

import importlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlmodel import SQLModel

from comptroller_audit import migrate
from comptroller_audit.database import Database
from comptroller_audit.errors import StoreUnavailable, StoreUnsuitable
from comptroller_audit.migrate import SCHEMA_VERSION, schema_is_current, upgrade

PACKAGES = (
    "comptroller_audit",
    "comptroller_budgets",
    "comptroller_policy",
    "comptroller_tools",
    "comptroller_server",
)


@pytest.fixture(scope="module", autouse=True)
def every_table() -> None:
    """A table is known once its module is imported, and nothing else here imports them all."""
    for package in PACKAGES:
        (top,) = importlib.import_module(package).__path__
        for path in Path(top).rglob("*.py"):
            if "table=True" in path.read_text():
                importlib.import_module(".".join((package, *path.relative_to(top).with_suffix("").parts)))


def differences(database: Database) -> list[Any]:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found: list[Any] = compare_metadata(context, SQLModel.metadata)
        return found


def test_the_migrated_schema_is_the_tables_of_the_code(empty_store_url: str) -> None:
    database = Database(empty_store_url)
    assert not schema_is_current(database)
    upgrade(database)
    assert schema_is_current(database)
    assert differences(database) == []


def test_every_primary_key_starts_with_the_tenant() -> None:
    tables = SQLModel.metadata.sorted_tables
    assert {table.name for table in tables} >= {"calls", "log_head", "holds", "approvals", "switches", "refs"}
    assert {next(iter(table.primary_key.columns)).name for table in tables} == {"tenant"}


def test_no_column_may_be_null() -> None:
    columns = [column for table in SQLModel.metadata.sorted_tables for column in table.columns]
    assert [str(column) for column in columns if column.nullable] == []


def test_a_schema_that_is_current_is_left_as_it_is(empty_store_url: str) -> None:
    database = Database(empty_store_url)
    upgrade(database)
    upgrade(database)
    assert schema_is_current(database)


def test_a_newer_schema_is_refused(empty_store_url: str) -> None:
    database = Database(empty_store_url)
    upgrade(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnsuitable, match="9999"):
        schema_is_current(database)


def test_a_migration_that_breaks_off_leaves_nothing_and_can_be_run_again(
    empty_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    database = Database(empty_store_url)
    create = op.create_table

    def break_off(name: str, *columns: Any, **options: Any) -> Any:
        if name == "tasks":
            raise InterruptedError("the machine went down")
        return create(name, *columns, **options)

    with monkeypatch.context() as broken:
        broken.setattr(op, "create_table", break_off)
        with pytest.raises(InterruptedError):
            upgrade(database)
    assert not schema_is_current(database)
    upgrade(database)
    assert schema_is_current(database)
    assert differences(database) == []


def test_a_database_that_refuses_the_schema_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/s.db")
    sqlite3.connect(tmp_path / "s.db").execute("CREATE TABLE log_head (x)").connection.close()
    with pytest.raises(StoreUnavailable, match="Nothing was changed"):
        upgrade(database)


def test_a_server_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        schema_is_current(Database(f"postgresql+psycopg://nobody@/nothing?host={tmp_path}"))


def test_the_version_named_is_the_newest_migration() -> None:
    folder = Path(migrate.__file__).parent / "migrations" / "versions"
    assert max(path.name for path in folder.glob("v*.py")).startswith(f"v{SCHEMA_VERSION}_")
