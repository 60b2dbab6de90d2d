"""Taking back what a task did: its writes, newest first, each by a governed call of its own, on a person's word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy import bindparam, select

from comptroller_audit.calls import CallRow, log_indexes
from comptroller_audit.compensations import COMPENSATIONS, is_open
from comptroller_audit.database import Row, table_of
from comptroller_audit.errors import StoreError
from comptroller_audit.query import Logged, entries
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import CallState, Effect, JsonObject, RecordType
from comptroller_server.call.case import Refused
from comptroller_server.tasks.built_in_tools import BUILT_INS
from comptroller_server.undo.compensation import Ordered, Reversals
from comptroller_tools.catalogue import Catalogue

__all__ = ["Left", "Plan", "Result", "Undo", "plan_of", "roll_back", "tasks_matching"]

_T = table_of(CallRow)
_COLUMNS = [column for column in _T.columns if column.name not in ("tenant", "id")]
_OF_TASK = select(_T.c.id, *_COLUMNS).where(
    _T.c.tenant == bindparam("tenant"), _T.c.task == bindparam("task")
)
_TASKS = (
    select(_T.c.task)
    .where(
        _T.c.tenant == bindparam("tenant"),
        _T.c.task >= bindparam("first"),
        _T.c.task < bindparam("last"),
    )
    .distinct()
)
_WITHOUT_EFFECT = frozenset(
    {
        CallState.REFUSED,
        CallState.DENIED,
        CallState.EXPIRED,
        CallState.VOID,
        CallState.FAILED_BEFORE_EFFECT,
        CallState.NOT_DONE,
        CallState.COMPENSATED,
    }
)
_NOT_YET = {
    CallState.PENDING: "waits for a person, and may still run",
    CallState.COMMITTED: "is running, or waits for recovery",
    CallState.IN_DOUBT: "nobody knows whether it happened; see `comptroller calls resolve`",
    CallState.HANDED_OFF: "went wrong and was handed to a person",
}


@dataclass(frozen=True, slots=True)
class Undo:
    """A write and the exact call that takes it back. `at` is the log index of its action: its place in the order."""

    call: str
    tool: str
    target: str
    arguments: JsonObject
    task: str
    step: int
    at: int


@dataclass(frozen=True, slots=True)
class Left:
    """A write that stays as it is, or may come yet, and why."""

    call: str
    tool: str
    state: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollback of `task` takes back, newest first, and what it leaves."""

    task: str
    undo: tuple[Undo, ...]
    left: tuple[Left, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one step: reversed by call `by`, or the sentence that says what kept it from that."""

    undo: Undo
    by: str
    problem: str | None


def tasks_matching(reader: Reader, tenant: str, wanted: str) -> list[str]:
    """Tasks with a call on record whose id begins with `wanted`."""
    return sorted(str(row[0]) for row in reader.query(_TASKS, tenant=tenant, first=wanted, last=wanted + "~"))


def plan_of(reader: Reader, ring: KeyRing, tenant: str, catalogue: Catalogue, task: str) -> Plan:
    """The plan, from the record alone; nothing is asked of any source."""
    undo: list[Undo] = []
    left: list[Left] = []
    names = [column.name for column in _COLUMNS]
    for found in reader.query(_OF_TASK, tenant=tenant, task=task):
        call, row = str(found[0]), dict(zip(names, found[1:], strict=True))
        if row["effect"] == Effect.READ or row["state"] in _WITHOUT_EFFECT:
            continue
        if row["tool"] in BUILT_INS:  # it changed a task of ours, and nothing in the world
            continue
        logged = entries(reader, ring, tenant, log_indexes(row))
        if "compensates" in (_packet(logged, RecordType.ACTION) or {}):
            continue
        one = _undo(reader, tenant, catalogue, call, row, logged)
        if isinstance(one, Undo):
            undo.append(one)
        else:
            left.append(one)
    undo.sort(key=lambda one: one.at, reverse=True)
    return Plan(task, tuple(undo), tuple(sorted(left, key=lambda one: one.call, reverse=True)))


def _undo(
    reader: Reader, tenant: str, catalogue: Catalogue, call: str, row: Row, logged: list[Logged]
) -> Undo | Left:
    """How the write is taken back, or why it stays."""
    state, tool = CallState(row["state"]), str(row["tool"])
    if state is not CallState.DONE:
        return Left(call, tool, state.value, _NOT_YET.get(state, "is in no state to be reversed"))
    compensation = reader.row(tenant, COMPENSATIONS, call)
    if compensation is not None and is_open(compensation):
        by = f" (call {compensation['call']})" if compensation["call"] else ""
        return Left(call, tool, state.value, f"its reversal is under way, or in doubt{by}")
    known = catalogue.find(tool)
    if known is None or known.compensation is None:
        return Left(call, tool, state.value, "nothing reverses it: its tool declares no `compensate`")
    audit = _packet(logged, RecordType.AUDIT)
    if audit is None:
        return Left(call, tool, state.value, "its own answer is not on record, so what it made is not known")
    reversal, target = audit.get("reversal"), known.compensation.target.name
    arguments = reversal.get("arguments") if isinstance(reversal, dict) else None
    if not isinstance(arguments, dict) or not isinstance(reversal, dict) or reversal.get("tool") != target:
        return Left(call, tool, state.value, f"its record does not say how `{target}` would reverse it")
    at = next(entry.index for entry in logged if entry.type is RecordType.ACTION)
    return Undo(call, tool, target, arguments, str(row["task"]), int(row["step"]), at)


def _packet(logged: list[Logged], kind: RecordType) -> JsonObject | None:
    return next((e.packet for e in reversed(logged) if e.type is kind and e.packet is not None), None)


async def roll_back(reversals: Reversals, tenant: str, plan: Plan, ordered: Ordered) -> AsyncIterator[Result]:
    """Take back one after the other; the first that does not come to a good end is the last."""
    for undo in plan.undo:
        result = await _take_back(reversals, tenant, undo, ordered)
        yield result
        if result.problem is not None:
            return


async def _take_back(reversals: Reversals, tenant: str, undo: Undo, ordered: Ordered) -> Result:
    try:
        what = (undo.call, undo.target, undo.arguments)
        by = await reversals.order(tenant, what, undo.task, undo.step, ordered)
    except Refused as refused:
        return Result(undo, refused.refusal.call or "", refused.refusal.text)
    except StoreError as error:
        return Result(undo, "", f"It is not known whether it was reversed: {error}")
    return Result(undo, by, None)
