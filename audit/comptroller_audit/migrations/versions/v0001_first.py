"""The first schema: the log, calls and claims, owners, budgets, tasks, history, approvals, switches, refs.

On SQLite small rows live in their primary key (WITHOUT ROWID): one tree to write instead of two, a quarter less CPU
for a commit. `log_payload` does not: rows over about 1 KB would spill out of a key's pages.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXT, _INT, _BIG, _BLOB, _BOOL = sa.String(), sa.Integer(), sa.BigInteger(), sa.LargeBinary(), sa.Boolean()


def _keyed(name: str, **columns: sa.types.TypeEngine[Any]) -> None:
    """A state table, keyed (tenant, id)."""
    op.create_table(
        name,
        sa.Column("tenant", _TEXT, primary_key=True),
        sa.Column("id", _TEXT, primary_key=True),
        *(sa.Column(column, kind, nullable=False) for column, kind in columns.items()),
        sqlite_with_rowid=False,
    )


def upgrade() -> None:
    _log()
    _calls()
    _keyed("counters", used=_BIG, held=_BIG)
    _keyed("holds", state=_TEXT, items=sa.Text())
    _keyed("history", count=_INT, revision=_BIG)
    _keyed("current_tasks", task=_TEXT)
    _keyed(
        "tasks",
        principal=_TEXT,
        actor=_TEXT,
        step_key=_TEXT,
        steps=_INT,
        active_ms=_BIG,
        in_flight=_INT,
        awaiting=_INT,
        since_ms=_BIG,
        started_ms=_BIG,
    )
    _keyed(
        "approvals",
        call=_TEXT,
        state=_TEXT,
        requested_digest=_TEXT,
        approved_digest=_TEXT,
        roles=sa.Text(),
        votes=sa.Text(),
        principal=_TEXT,
        actor=_TEXT,
        task=_TEXT,
        tool=_TEXT,
        created_ms=_BIG,
        expires_ms=_BIG,
    )
    _keyed("waiting_approvals", pending=_INT)
    _keyed("approvers", salt=_TEXT, scrypt=_TEXT, roles=_TEXT, added_by=_TEXT, at_ms=_BIG)
    _keyed("switches", active=_BOOL, reason=_TEXT, seq=_INT, at_ms=_BIG)
    _keyed(
        "refs", task=_TEXT, call=_TEXT, kind=_TEXT, record_key=_TEXT, version=_TEXT, listed=_BOOL, at_ms=_BIG
    )


def _log() -> None:
    op.create_table(
        "log_head",
        sa.Column("tenant", sa.Text(), primary_key=True),
        sa.Column("size", _BIG, nullable=False),
        sa.Column("frontier", sa.Text(), nullable=False),
        sa.Column("record_ms", _BIG, nullable=False),
        sa.Column("switch_seq", _BIG, nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
    )
    op.create_table(
        "log_entry",
        sa.Column("tenant", sa.Text(), primary_key=True),
        sa.Column("idx", _BIG, primary_key=True),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("leaf", _BLOB, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "log_node",
        sa.Column("tenant", sa.Text(), primary_key=True),
        sa.Column("level", _BIG, primary_key=True),
        sa.Column("idx", _BIG, primary_key=True),
        sa.Column("hash", _BLOB, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "log_payload",
        sa.Column("tenant", sa.Text(), primary_key=True),
        sa.Column("idx", _BIG, primary_key=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("wrapped", _BLOB, nullable=False),
        sa.Column("sealed", _BLOB, nullable=False),
    )


def _calls() -> None:
    _keyed(
        "calls",
        state=_TEXT,
        epoch=_INT,
        owner=_TEXT,
        principal=_TEXT,
        actor=_TEXT,
        task=_TEXT,
        step=_INT,
        tool=_TEXT,
        effect=_TEXT,
        claims=sa.Text(),
        records=sa.Text(),
        approval=_TEXT,
        code=_TEXT,
        created_ms=_BIG,
        updated_ms=_BIG,
    )
    op.create_index("calls_by_state", "calls", ["tenant", "state"])
    op.create_index("calls_by_task", "calls", ["tenant", "task"])
    _keyed("claims", call=_TEXT, arguments=_TEXT, at_ms=_BIG)
    _keyed("owners", switch_seq=_INT, waiting=_INT, dispatched=_INT, done=_INT, at_ms=_BIG)
