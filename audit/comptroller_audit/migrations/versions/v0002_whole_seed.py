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
    _streams()


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
