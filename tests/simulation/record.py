"""What a store holds when nothing runs on it, and the laws that need nothing but that and the effects there were."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, select

from comptroller_audit.calls import CallRow
from comptroller_audit.compensations import CompensationRow
from comptroller_audit.database import Row, table_of
from comptroller_audit.query import Logged, entries
from comptroller_audit.report_calls import Bins, Calls
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Store
from comptroller_audit.vocabulary import MICRO, CallState, Effect, RecordType
from comptroller_budgets.history import HistoryRow, effects_id
from comptroller_budgets.ledger import CounterRow, HoldRow
from comptroller_budgets.limits import BudgetsConfig, Window, window_start
from comptroller_budgets.tasks import TaskRow, pointer_of
from comptroller_server.installation import TENANT
from comptroller_server.tasks.built_in_tools import BUILT_INS

__all__ = ["Broken", "Record", "check_record", "must", "nothing_runs"]

SETTLED = frozenset({CallState.DONE, CallState.HANDED_OFF, CallState.COMPENSATED})
NOTHING = frozenset({CallState.FAILED_BEFORE_EFFECT, CallState.NOT_DONE})
RAN = SETTLED | NOTHING | {CallState.IN_DOUBT, CallState.COMMITTED}
_OF_TASKS = ":tasks:"
_OUTCOMES = (RecordType.AUDIT, RecordType.RECOVERED, RecordType.RESOLVED, RecordType.COMPENSATION)
_REVERSALS = (["done", "compensated"], ["done", "handed_off"], ["done", "handed_off", "compensated"])
"""What may follow a call that was done: it went wrong, and was reversed or not."""


class Broken(AssertionError):
    """A law did not hold."""


def must(holds: object, law: str, /, **what: Any) -> None:
    if not holds:
        raise Broken(f"{law}: {what}")


class Record:
    """All that a store holds, read once."""

    def __init__(self, store: Store, ring: KeyRing, budgets: BudgetsConfig) -> None:
        self.budgets = budgets
        self._store = store
        self.calls = dict(self.rows(CallRow))
        self.compensations = dict(self.rows(CompensationRow))
        head = store.read_now(lambda reader: reader.head(TENANT))
        indexes = range(head.size if head is not None else 0)
        self.log = store.read_now(lambda reader: entries(reader, ring, TENANT, indexes))
        self.of_call: dict[str, list[Logged]] = {}
        for entry in self.log:
            if call := entry.envelope.get("call"):
                self.of_call.setdefault(str(call), []).append(entry)

    def rows(self, model: Any) -> Iterator[tuple[str, Row]]:
        names, statement = _all_of(model)
        for found in self._store.read_now(lambda reader: reader.query(statement, tenant=TENANT)):
            row = dict(zip(names, found, strict=True))
            yield str(row["id"]), row

    def packet(self, call: str, kind: RecordType) -> Mapping[str, Any] | None:
        found = [entry.packet for entry in self.of_call.get(call, []) if entry.type is kind]
        return found[-1] if found else None


@functools.cache
def _all_of(model: Any) -> tuple[list[str], Any]:
    table = table_of(model)
    return [column.name for column in table.columns], select(*table.columns).where(
        table.c.tenant == bindparam("tenant")
    )


def check_record(record: Record, effects: Mapping[str, Sequence[object]]) -> None:
    """The laws of any committed state, also with calls in flight. `effects` is by call what really happened."""
    for call, lines in effects.items():
        must(len(lines) == 1, "a call has one effect", call=call, times=len(lines))
        must(record.packet(call, RecordType.ACTION), "an effect has an action packet", call=call)
        state = CallState(record.calls[call]["state"])
        must(state in RAN - NOTHING, "no call with an effect counts as not done", call=call, state=state)
    for call, logged in record.of_call.items():
        if call in record.calls:
            _a_call_has_one_outcome(record, call, logged)
    _a_report_proves_what_ran(record, effects)
    _counters_say_what_holds_say(record)
    _tasks_say_what_calls_say(record)
    _history_says_what_calls_say(record)


def _a_report_proves_what_ran(record: Record, effects: Mapping[str, Sequence[object]]) -> None:
    calls = Calls(Bins.over(0, 1), lambda call: _action_of(record, call))
    for entry in record.log:
        calls.take(entry)
    must(not calls.suspects, "all that ran was allowed on record", calls=calls.suspects)
    side_effects = calls.ran - calls.entries[RecordType.READ] + calls.running
    must(len(effects) <= side_effects, "a report misses no effect", told=side_effects, effects=len(effects))


def _action_of(record: Record, call: str) -> Logged | None:
    found = [entry for entry in record.of_call.get(call, []) if entry.type is RecordType.ACTION]
    return found[-1] if found else None


def nothing_runs(record: Record) -> None:
    """Recovery is through, and its owners are gone."""
    left = [call for call, row in record.calls.items() if row["state"] == "committed"]
    must(not left, "recovery leaves no call behind", calls=left)


def _a_call_has_one_outcome(e: Record, call: str, logged: Sequence[Logged]) -> None:
    actions = sum(entry.type is RecordType.ACTION for entry in logged)
    must(actions <= 1, "a call is committed once", call=call)
    state = CallState(e.calls[call]["state"])
    if not actions:
        own = e.calls[call]["tool"] in BUILT_INS
        must(
            state not in SETTLED or _is_read(e, call) or own, "an end needs an action", call=call, state=state
        )
        return
    must(state in RAN, "a committed call has an end or runs", call=call, state=state)
    told = [str(x.packet["state"]) for x in logged if x.packet and x.type in _OUTCOMES]
    must(
        told[-1:] == [state] or (not told and state is CallState.COMMITTED),
        "a record says it",
        call=call,
        told=told,
    )
    final = [one for one in told if one != CallState.IN_DOUBT]
    must(len(final) <= 1 or final in _REVERSALS, "a call has one outcome", call=call, told=told)
    must(sum(x.type is RecordType.AUDIT for x in logged) <= 1, "a call has one audit packet", call=call)


def _is_read(e: Record, call: str) -> bool:
    return bool(e.calls[call]["effect"] == "read")


def _counters_say_what_holds_say(e: Record) -> None:
    held: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for call, hold in e.rows(HoldRow):
        state = _covered(e, call) if call.startswith("comp:") else CallState(e.calls[call]["state"])
        wanted = "released" if state in NOTHING else "settled" if state in SETTLED else "held"
        must(hold["state"] == wanted, "a hold follows its call", call=call, hold=hold["state"], state=state)
        for counter, amount in json.loads(hold["items"]):
            held[counter] += amount if wanted == "held" else 0
            used[counter] += amount if wanted == "settled" else 0
    counters = dict(e.rows(CounterRow))
    over_midnight: list[tuple[str, str]] = []
    for call, row in e.calls.items():
        if row["state"] == "done" and e.packet(call, RecordType.READ):
            used[f"task:{row['task']}:calls:task"] += MICRO
            came, recorded = _days_of(call, row)
            if came == recorded:
                used[recorded] += MICRO
            else:
                over_midnight.append((came, recorded))
    for came, recorded in over_midnight:
        is_short = came in counters and counters[came]["used"] > used[came]
        used[came if is_short else recorded] += MICRO
    limits = e.budgets.limits()
    for counter, row in counters.items():
        if _OF_TASKS in counter:
            continue
        right = {"used": used[counter], "held": held[counter]}
        must(row["held"] == right["held"], "what is held adds up", counter=counter, row=row, right=right)
        must(row["used"] == right["used"], "what is used adds up", counter=counter, row=row, right=right)
        most = [x.max_micro for x in limits if counter.startswith(f"{x.scope}:") and f":{x.unit}:" in counter]
        must(row["used"] + row["held"] <= max(most), "a counter keeps its limit", counter=counter, row=row)


def _days_of(call: str, row: Row) -> tuple[str, str]:
    """The counters of the day on which a read came and of the day of its record: it counts in one of them."""
    came_ms = int(call.replace("-", "")[:12], 16)  # RFC 9562, 5.7
    came, recorded = (window_start(Window.DAY, at_ms) for at_ms in (came_ms, row["created_ms"]))
    return f"principal:{row['principal']}:calls:{came}", f"principal:{row['principal']}:calls:{recorded}"


def _covered(e: Record, hold: str) -> CallState:
    """The state that says what becomes of what was held for a reversal: NOT_DONE when nothing came of it."""
    call = hold.removeprefix("comp:")
    row = e.compensations.get(call)
    if row is not None and row["state"] == "owed":
        return CallState.COMMITTED
    if row is not None and row["call"] and not row["ordered"]:
        return CallState(e.calls[row["call"]]["state"])
    running = e.calls[call]["state"] in ("committed", "in_doubt")
    return CallState.COMMITTED if running else CallState.NOT_DONE


def _tasks_say_what_calls_say(e: Record) -> None:
    pending = Counter(str(row["task"]) for row in e.calls.values() if row["state"] == "pending")
    flying = Counter(
        str(row["task"])
        for call, row in e.calls.items()
        if row["state"] == "committed" and not (e.packet(call, RecordType.ACTION) or {}).get("compensates")
    )
    for task, row in e.rows(TaskRow):
        right = {"in_flight": flying[task], "awaiting": pending[task]}
        must(
            row["in_flight"] == right["in_flight"],
            "calls in flight are counted",
            task=task,
            row=row,
            right=right,
        )
        must(row["awaiting"] == right["awaiting"], "who waits is counted", task=task, row=row, right=right)
    _each_task_is_counted_once(e)


def _each_task_is_counted_once(e: Record) -> None:
    """In the hour in which it began, for its principal and actor."""
    begun = Counter(pointer_of(row["principal"], row["actor"]) for _, row in e.rows(TaskRow))
    counted: Counter[str] = Counter()
    for counter, row in e.rows(CounterRow):
        if _OF_TASKS in counter:
            counted[counter.removeprefix("actor:").partition(_OF_TASKS)[0]] += row["used"] // MICRO
            most = e.budgets.tasks_per_hour_max * MICRO
            must(row["used"] <= most and row["held"] == 0, "tasks of an hour keep their limit", row=row)
    must(begun == counted, "each task is counted once", begun=begun, counted=counted)


def _history_says_what_calls_say(e: Record) -> None:
    counts: Counter[str] = Counter()
    for call, row in e.calls.items():
        action, state = e.packet(call, RecordType.ACTION), CallState(row["state"])
        for history in action["counted"] if action is not None else ():
            guards = str(history).startswith("record:")
            kept = state is CallState.COMMITTED or e.compensations.get(call, {}).get("guard") == history
            counts[history] += kept if guards else state not in NOTHING
        if row["effect"] not in ("", Effect.READ):
            counts[effects_id(str(row["tool"]))] += state in (CallState.COMMITTED, CallState.IN_DOUBT)
    for history, row in e.rows(HistoryRow):
        must(
            row["count"] == counts[history],
            "history counts calls",
            history=history,
            row=row,
            calls=counts[history],
        )
