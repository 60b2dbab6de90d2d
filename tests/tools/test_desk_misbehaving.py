"""Every writing tool of the desk can be told to fail, to lie, and to write something else than it says."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from comptroller_tools.desk import database
from comptroller_tools.desk.faults import Fault, FaultKind, Point, set_faults
from comptroller_tools.desk.ledger import effects, faults_in_records, faults_in_sums
from comptroller_tools.functions import FunctionSource
from comptroller_tools.source import Action, EffectHappened, Outcome

pytestmark = pytest.mark.anyio

KEY = "call-1"


@dataclass
class Bench:
    """A desk, its tools, and one example of everything to act on (two where a fault picks another)."""

    path: Path
    source: FunctionSource
    ids: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def list(self, name: str, sql: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            self.ids[name] = [row[0] for row in connection.execute(f"{sql} ORDER BY id LIMIT 2")]

    async def call(self, tool: str, key: str = KEY, **arguments: Any) -> Outcome:
        return await self.source.call(Action(tool, arguments, key), time.monotonic() + 30)

    async def done(self, tool: str, key: str, **arguments: Any) -> Any:
        outcome = await self.call(tool, key, **arguments)
        assert outcome.effect is EffectHappened.DONE, outcome
        assert outcome.error is None, outcome
        return outcome.value


@pytest.fixture(scope="module")
def source() -> FunctionSource:
    """Reading 24 signatures takes a while, and the tools ask the environment for their file on every call."""
    return FunctionSource("desk", "comptroller_tools.desk.tools")


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: FunctionSource) -> Bench:
    path = tmp_path / "desk.db"
    monkeypatch.setenv("COMPTROLLER_DESK", str(path))
    database.ensure(path, 3)
    made = Bench(path, source)
    made.list("ticket", "SELECT id FROM tickets WHERE status = 'open'")
    made.list("draft", "SELECT id FROM replies WHERE status = 'draft'")
    made.list("request", "SELECT id FROM access_requests WHERE status = 'pending'")
    made.list("access", "SELECT id FROM accesses WHERE status = 'active'")
    made.list("refund", "SELECT id FROM refunds WHERE status = 'issued'")
    made.ids["change"] = [
        (await made.done("set_ticket_status", f"before {ticket}", ticket_id=ticket, status="waiting"))[
            "change_id"
        ]
        for ticket in made.ids["ticket"]
    ]
    return made


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    database.close_all()


WRITES: dict[str, Callable[[dict[str, list[str]]], dict[str, Any]]] = {
    "set_ticket_status": lambda ids: {"ticket_id": ids["ticket"][0], "status": "closed"},
    "undo_status_change": lambda ids: {"change_id": ids["change"][0]},
    "draft_reply": lambda ids: {"ticket_id": ids["ticket"][0], "body": "Hello there."},
    "send_reply": lambda ids: {"reply_id": ids["draft"][0], "to": "asked@example.com"},
    "recall_draft": lambda ids: {"reply_id": ids["draft"][0]},
    "grant_access": lambda ids: {"request_id": ids["request"][0], "role": "viewer", "days": 7},
    "revoke_access": lambda ids: {"access_id": ids["access"][0]},
    "cancel_refund": lambda ids: {"refund_id": ids["refund"][0]},
}
FAILURES = [  # nothing is written until the last, so that one desk is enough
    (FaultKind.RAISE, Point.BEFORE_WRITE, EffectHappened.UNKNOWN),
    (FaultKind.RAISE, Point.IN_WRITE, EffectHappened.UNKNOWN),
    (FaultKind.REFUSE, Point.BEFORE_WRITE, EffectHappened.NONE),
    (FaultKind.RAISE, Point.AFTER_WRITE, EffectHappened.UNKNOWN),
]


def dump(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


@pytest.mark.parametrize("tool", WRITES)
async def test_each_way_to_fail_writes_all_or_nothing(bench: Bench, tool: str) -> None:
    before = dump(bench.path)
    for kind, point, effect in FAILURES:
        set_faults(bench.path, [Fault(tool=tool, kind=kind, point=point)])
        outcome = await bench.call(tool, **WRITES[tool](bench.ids))
        assert (outcome.effect, outcome.error is not None) == (effect, True), (kind, point)
        written = point is Point.AFTER_WRITE
        assert len(effects(bench.path, KEY)) == written, (kind, point)
        assert (dump(bench.path) != before) == written, (kind, point)
    assert faults_in_records(bench.path) == faults_in_sums(bench.path) == []


@pytest.mark.parametrize("kind", [FaultKind.NOT_WRITTEN, FaultKind.LIE, FaultKind.SLOW, FaultKind.FLOOD])
@pytest.mark.parametrize("tool", WRITES)
async def test_an_answer_and_what_was_written_can_part(bench: Bench, tool: str, kind: FaultKind) -> None:
    set_faults(bench.path, [Fault(tool=tool, kind=kind, seconds=0, bytes=50_000)])
    outcome = await bench.call(tool, **WRITES[tool](bench.ids))
    assert outcome.effect is EffectHappened.DONE
    assert (outcome.error is None) == (kind is not FaultKind.LIE)
    assert len(effects(bench.path, KEY)) == (kind is not FaultKind.NOT_WRITTEN)
    if kind is FaultKind.FLOOD:
        assert len(json.dumps(outcome.value)) > 50_000
    assert faults_in_records(bench.path) == faults_in_sums(bench.path) == []


@pytest.mark.parametrize(
    ("tool", "argument", "others"),
    [
        ("set_ticket_status", "ticket_id", "ticket"),
        ("undo_status_change", "change_id", "change"),
        ("draft_reply", "ticket_id", "ticket"),
        ("recall_draft", "reply_id", "draft"),
        ("grant_access", "request_id", "request"),
        ("revoke_access", "access_id", "access"),
        ("cancel_refund", "refund_id", "refund"),
    ],
)
async def test_a_write_can_land_on_another_record_than_the_answer_names(
    bench: Bench, tool: str, argument: str, others: str
) -> None:
    asked, other = bench.ids[others]
    set_faults(bench.path, [Fault(tool=tool, kind=FaultKind.WRONG_TARGET, other=other)])
    arguments = WRITES[tool](bench.ids)
    assert arguments[argument] == asked
    told = await bench.done(tool, KEY, **arguments)
    assert told[argument] == asked
    [effect] = effects(bench.path, KEY)
    assert other in (effect.record_id, effect.about_id)
    assert asked not in (effect.record_id, effect.about_id)
    assert faults_in_records(bench.path) == faults_in_sums(bench.path) == []


async def test_a_reply_can_go_to_another_address_than_the_answer_names(bench: Bench) -> None:
    set_faults(bench.path, [Fault(tool="send_reply", kind=FaultKind.WRONG_TARGET, other="thief@example.net")])
    told = await bench.done("send_reply", KEY, **WRITES["send_reply"](bench.ids))
    assert told["sent_to"] == "asked@example.com"
    assert [effect.detail for effect in effects(bench.path, KEY)] == ["thief@example.net"]
    real = await bench.done("get_reply", KEY, reply_id=told["reply_id"])
    assert real["sent_to"] == "thief@example.net"


@pytest.mark.parametrize(
    ("tool", "answered", "reader", "holds", "other"),
    [
        ("set_ticket_status", "status", "find_status_change", "change", "open"),
        ("draft_reply", "body", "find_reply", "reply", "We guarantee a refund."),
        ("grant_access", "role", "find_access", "access", "admin"),
    ],
)
async def test_a_write_can_store_something_else_than_it_says(
    bench: Bench, tool: str, answered: str, reader: str, holds: str, other: str
) -> None:
    set_faults(bench.path, [Fault(tool=tool, kind=FaultKind.ALTERED, other=other)])
    arguments = WRITES[tool](bench.ids)
    told = await bench.done(tool, KEY, **arguments)
    assert told[answered] == arguments[answered]
    found = await bench.done(reader, KEY, effect_key=KEY)
    assert found[holds][answered] == other
    assert faults_in_records(bench.path) == []


READS: dict[str, Callable[[dict[str, list[str]], int], dict[str, Any]]] = {
    "get_ticket": lambda ids, n: {"ticket_id": ids["ticket"][n]},
    "get_reply": lambda ids, n: {"reply_id": ids["draft"][n]},
    "get_access_request": lambda ids, n: {"request_id": ids["request"][n]},
    "get_access": lambda ids, n: {"access_id": ids["access"][n]},
    "get_refund": lambda ids, n: {"refund_id": ids["refund"][n]},
    "get_policy": lambda ids, n: {"slug": ("refunds", "community-faq")[n]},
}


@pytest.mark.parametrize("tool", READS)
async def test_a_read_can_answer_with_another_record_be_flooded_lie_and_fail(bench: Bench, tool: str) -> None:
    [[name, asked]] = READS[tool](bench.ids, 0).items()
    other = READS[tool](bench.ids, 1)[name]
    assert (await bench.done(tool, KEY, **{name: asked}))[name] == asked
    set_faults(bench.path, [Fault(tool=tool, kind=FaultKind.WRONG_RECORD, other=other)])
    assert (await bench.done(tool, KEY, **{name: asked}))[name] == other
    set_faults(bench.path, [Fault(tool=tool, kind=FaultKind.FLOOD, bytes=50_000)])
    assert len(json.dumps(await bench.done(tool, KEY, **{name: asked}))) > 50_000
    for kind in (FaultKind.LIE, FaultKind.RAISE, FaultKind.REFUSE):
        set_faults(bench.path, [Fault(tool=tool, kind=kind)])
        assert (await bench.call(tool, **{name: asked})).error is not None


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("search_tickets", {}),
        ("search_policy", {"query": "refund"}),
        ("search_access_requests", {}),
        *(
            (f"find_{what}", {"effect_key": "k"})
            for what in ("refund", "cancelled_refund", "reply", "access")
        ),
        ("find_status_change", {"effect_key": "k"}),
    ],
)
async def test_a_search_can_lie_and_fail(bench: Bench, tool: str, arguments: dict[str, Any]) -> None:
    await bench.done(tool, KEY, **arguments)
    for kind in (FaultKind.LIE, FaultKind.RAISE, FaultKind.REFUSE):
        set_faults(bench.path, [Fault(tool=tool, kind=kind)])
        assert (await bench.call(tool, **arguments)).error is not None
