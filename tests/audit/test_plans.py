"""What is looked up in a large store is found by an index: SQLite, knowing nothing, walks all calls of a tenant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.legal_holds import Holds
from comptroller_audit.query import calls_in_state, calls_of_task, entries, newest_calls
from comptroller_audit.retention import first_at, overdue, still_needed
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import CallState
from tests.audit.storekit import TENANT, open_store

pytestmark = pytest.mark.anyio

LOOKS: dict[str, Callable[[Reader, Any], object]] = {
    "calls in a state": lambda reader, _: calls_in_state(reader, TENANT, (CallState.PENDING,)),
    "calls of a task": lambda reader, _: calls_of_task(reader, TENANT, "t"),
    "the newest calls": lambda reader, _: newest_calls(reader, TENANT, 20),
    "entries": lambda reader, ring: entries(reader, ring, TENANT, [1]),
    "where a span begins": lambda reader, _: first_at(reader, TENANT, 1),
    "what is overdue": lambda reader, _: overdue(
        reader, TENANT, 0, 9, still_needed(reader, TENANT), Holds((), 0)
    ),
}


@pytest.mark.parametrize("look", LOOKS)
async def test_no_look_at_a_large_store_walks_all_of_it(look: str, tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/s.db", tmp_path) as store:

        def plans(reader: Reader) -> list[str]:
            asked: list[str] = []
            reader.connection.set_trace_callback(asked.append)
            LOOKS[look](reader, store.ring)
            reader.connection.set_trace_callback(None)
            explained = [reader.connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall() for text in asked]
            return [str(row[3]) for rows in explained for row in rows]

        steps = await store.read(plans)
    assert steps
    ends_early = look == "the newest calls"  # its LIMIT does
    walks = [step for step in steps if "SCAN" in step or ("(tenant=?)" in step and "log_head" not in step)]
    assert not walks or ends_early, walks
