"""What came after the first schema. Each table or column is added by a function of its own, named for what it is for."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TEXT, _INT, _BIG, _BOOL = sa.String(), sa.Integer(), sa.BigInteger(), sa.Boolean()


def _keyed(name: str, **columns: sa.types.TypeEngine[Any]) -> None:
    """A state table, keyed (tenant, id)."""
    op.create_table(
        name,
        sa.Column("tenant", _TEXT, primary_key=True),
        sa.Column("id", _TEXT, primary_key=True),
        *(sa.Column(column, kind, nullable=False) for column, kind in columns.items()),
        sqlite_with_rowid=False,
    )


def _add(table: str, name: str, kind: sa.types.TypeEngine[Any], default: str) -> None:
    """A column that rows of the first schema get with `default`."""
    op.add_column(table, sa.Column(name, kind, nullable=False, server_default=sa.text(default)))


def upgrade() -> None:
    _tasks()
    _rollouts()
    _observing()
    _retention()
    _model_usage()
    _compensations()
    _edits()
    _provenance()
    _activations()
    _own_keys()
    _streams()
    _legal_holds()
    _sizes()


def _tasks() -> None:
    _add("tasks", "state", _TEXT, "'open'")
    _add("tasks", "outcome", _TEXT, "''")
    _add("tasks", "code", _TEXT, "''")
    _add("tasks", "begun", _BOOL, "false")
    _add("tasks", "records", sa.Text(), "''")
    _add("tasks", "spent_ms", _BIG, "0")
    _add("tasks", "ended_ms", _BIG, "0")
    op.create_index("tasks_by_state", "tasks", ["tenant", "begun", "state"])
    _add("current_tasks", "begun", _TEXT, "''")
    _add("current_tasks", "rest_ms", _BIG, "0")
    _add("current_tasks", "spent_ms", _BIG, "0")
    _keyed(
        "handoffs", state=_TEXT, cause=_TEXT, actor=_TEXT, records=sa.Text(), created_ms=_BIG, updated_ms=_BIG
    )


def _rollouts() -> None:
    counted = (
        "calls",
        "verified",
        "silent_wrong",
        "in_doubt",
        "agreed",
        "denied",
        "clean",
        "unedited",
        "edited",
    )
    _keyed(
        "rollouts",
        word=_TEXT,
        percent=_INT,
        base=_INT,
        reason=sa.Text(),
        changed_by=_TEXT,
        seq=_INT,
        at_ms=_BIG,
        proof=_TEXT,
        **dict.fromkeys(counted, _INT),
    )


def _observing() -> None:
    _keyed("observing", started_ms=_BIG, ended_ms=_BIG)


def _retention() -> None:
    _keyed("retention", trusted_ms=_BIG, erased=_BIG)


def _model_usage() -> None:
    _keyed(
        "task_usage",
        reports=sa.Text(),
        judged=sa.Text(),
        seen_input=_BIG,
        seen_output=_BIG,
        unreported_input=_BIG,
        unreported_output=_BIG,
        input_tokens=_BIG,
        output_tokens=_BIG,
        estimated_tokens=_BIG,
        model_cost_micro=_BIG,
    )


def _compensations() -> None:
    _keyed("compensations", state=_TEXT, call=_TEXT, owner=_TEXT, guard=_TEXT, ordered=_BOOL)
    op.create_index("compensations_by_state", "compensations", ["tenant", "state"])


def _edits() -> None:
    _add("approvals", "edited_digest", _TEXT, "''")
    _add("approvals", "authors", sa.Text(), "'[]'")


def _provenance() -> None:
    _keyed("provenance", marks=sa.Text(), held=_BOOL)
    op.create_index("provenance_by_held", "provenance", ["tenant", "held"])
    _keyed("doubted_records", at_ms=_BIG)


def _activations() -> None:
    _keyed("activations", bundle=_TEXT, back=_TEXT, how=_TEXT, by=_TEXT, at_ms=_BIG, kept=_BOOL)


def _legal_holds() -> None:
    _keyed("legal_holds", kind=_TEXT, value=_TEXT, first_ms=_BIG, end_ms=_BIG, placed_ms=_BIG, lifted_ms=_BIG)


def _streams() -> None:
    _keyed(
        "streams",
        position=_BIG,
        moves=_BIG,
        taken_ms=_BIG,
        tried_ms=_BIG,
        failures=_INT,
        refused=_BIG,
        error=sa.Text(),
    )


def _own_keys() -> None:
    _keyed("own_keys", claim=_TEXT)


_ROWS, _SOME, _FEW = 1_000_000, 1_000, 20
"""Rows of a large store; and with one value, and with two, of an index beyond the tenant."""


def _sizes() -> None:
    """What SQLite's planner is to expect (sqlite.org/fileformat2.html#stat1tab): one tenant, and very many rows.

    Knowing nothing it takes a tenant for selective, and walks all of its calls for the few that wait.
    """
    bind = op.get_bind()
    if bind.dialect.name != "sqlite":
        return
    bind.exec_driver_sql("ANALYZE")  # makes the table; there are no rows yet to be counted
    bind.exec_driver_sql("DELETE FROM sqlite_stat1")
    tables = bind.exec_driver_sql(
        "SELECT name, sql LIKE '%WITHOUT ROWID%' FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).all()
    for table, is_keyed in tables:
        indexes = bind.exec_driver_sql(
            'SELECT name, "unique", origin FROM pragma_index_list(?)', (table,)
        ).all()
        for index, unique, origin in indexes:
            columns = bind.exec_driver_sql("SELECT name FROM pragma_index_info(?)", (index,)).scalars().all()
            rows = [
                _ROWS if name == "tenant" else (_SOME, _FEW)[min(at - 1, 1)]
                for at, name in enumerate(columns)
            ]
            if unique:
                rows[-1] = 1
            named = table if is_keyed and origin == "pk" else index
            counts = " ".join(map(str, (_ROWS, *rows)))
            bind.exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", (table, named, counts))
