"""How every limit stands: used, held, left, and when it begins anew. For people and for answers; it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, select

from comptroller_audit.database import Row, table_of
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import MICRO, JsonObject
from comptroller_budgets.ledger import COUNTERS, CounterRow, amount_text
from comptroller_budgets.limits import (
    METERED_UNITS,
    BudgetsConfig,
    Limit,
    Scope,
    Window,
    task_counter,
    verified_writes,
    window_end_ms,
    window_start,
)
from comptroller_budgets.metering import TASK_USAGE, usage_of
from comptroller_budgets.tasks import TASKS, pointer_of

__all__ = ["Standing", "task_standings", "window_standings"]

_C = table_of(CounterRow)
_BETWEEN = (
    select(_C.c.id, _C.c.used, _C.c.held)
    .where(_C.c.tenant == bindparam("tenant"), _C.c.id >= bindparam("first"), _C.c.id < bindparam("last"))
    .order_by(_C.c.id)
)
_NOTHING: Row = {"used": 0, "held": 0}


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit for one of those it holds for, in micro-units. `whole_micro` is more than `max_micro` until a write
    of the task is verified; `resets_ms` is None for limits of a task."""

    limit: Limit
    who: str
    max_micro: int
    used_micro: int
    held_micro: int
    resets_ms: int | None = None

    @property
    def left_micro(self) -> int:
        return max(0, self.max_micro - self.used_micro - self.held_micro)

    @property
    def whole_micro(self) -> int:
        return self.limit.max_micro

    def as_json(self) -> JsonObject:
        """Amounts as exact decimal texts; `resets_ms` milliseconds since the epoch."""
        return {
            "limit": self.limit.id,
            "scope": self.limit.scope.value,
            "for": self.who,
            "unit": self.limit.unit,
            "window": self.limit.window.value,
            "max": amount_text(self.max_micro),
            "whole": amount_text(self.whole_micro),
            "used": amount_text(self.used_micro),
            "held": amount_text(self.held_micro),
            "left": amount_text(self.left_micro),
            "resets_ms": self.resets_ms,
            "default": self.limit.is_default,
        }


def task_standings(reader: Reader, tenant: str, task: str, config: BudgetsConfig) -> list[Standing]:
    """The limits of one task: what is counted, its steps and its active seconds. A task not yet begun used nothing."""
    row = reader.row(tenant, TASKS, task)
    usage = usage_of(reader.row(tenant, TASK_USAGE, task))
    limits = [limit for limit in config.limits() if limit.scope is Scope.TASK]
    ids = [task_counter(task, limit.unit) for limit in limits]
    rows = reader.rows(tenant, COUNTERS, [*ids, verified_writes(task)])
    is_widened = rows.get(verified_writes(task), _NOTHING)["used"] > 0

    def standing(limit: Limit, used: int, held: int = 0) -> Standing:
        first = limit.first_micro
        most = limit.max_micro if first is None or is_widened else first
        return Standing(limit, task, most, used, held)

    found: list[Standing] = []
    for limit, row_id in zip(limits, ids, strict=True):
        if limit.unit in METERED_UNITS:
            found.append(standing(limit, usage.amount_micro(limit.unit)))
        else:
            counter = rows.get(row_id, _NOTHING)
            found.append(standing(limit, counter["used"], counter["held"]))
    steps, active_ms = (row["steps"], row["active_ms"]) if row is not None else (0, 0)
    if config.max_steps is not None:
        first = config.first.max_steps if config.first is not None else None
        part = None if first is None else first * MICRO
        limit = Limit("max_steps", Scope.TASK, None, "steps", Window.TASK, config.max_steps * MICRO, part)
        found.append(standing(limit, steps * MICRO))
    if config.timeout_seconds is not None:
        most = int(config.timeout_seconds * MICRO)
        limit = Limit("timeout_seconds", Scope.TASK, None, "seconds", Window.TASK, most)
        found.append(standing(limit, active_ms * 1000))
    return found


def window_standings(
    reader: Reader, tenant: str, principal: str, actors: Sequence[str], config: BudgetsConfig, now_ms: int
) -> list[Standing]:
    """The limits of the hours, days and months that `now_ms` is in, for one principal (its keyed digest).

    Limits per actor or tool stand once for each that has spent something, or once for all when none has.
    """
    found: list[Standing] = []
    for limit in config.limits():
        if limit.scope is not Scope.TASK:
            found += _windows_of(reader, tenant, limit, principal, now_ms)
    most = config.tasks_per_hour_max * MICRO
    tasks = Limit("tasks_per_hour_max", Scope.ACTOR, None, "tasks", Window.HOUR, most)
    for actor in actors:
        found += [
            _standing(tasks, actor, _one(reader, tenant, tasks, pointer_of(principal, actor), now_ms), now_ms)
        ]
    return found


def _windows_of(reader: Reader, tenant: str, limit: Limit, principal: str, now_ms: int) -> Iterable[Standing]:
    known = {Scope.PRINCIPAL: principal, Scope.TENANT: tenant}.get(limit.scope, limit.name)
    if known is not None:
        return [_standing(limit, known, _one(reader, tenant, limit, known, now_ms), now_ms)]
    ends = f":{limit.unit}:{window_start(limit.window, now_ms)}"
    begins = f"{limit.scope}:"
    counted = reader.query(_BETWEEN, tenant=tenant, first=begins, last=f"{limit.scope};")
    found = [
        _standing(limit, row_id[len(begins) : -len(ends)], {"used": used, "held": held}, now_ms)
        for row_id, used, held in counted
        if row_id.endswith(ends)
    ]
    return found or [_standing(limit, f"each {limit.scope}", _NOTHING, now_ms)]


def _one(reader: Reader, tenant: str, limit: Limit, who: str, now_ms: int) -> Row:
    row_id = f"{limit.scope}:{who}:{limit.unit}:{window_start(limit.window, now_ms)}"
    return reader.row(tenant, COUNTERS, row_id) or _NOTHING


def _standing(limit: Limit, who: str, counter: Row, now_ms: int) -> Standing:
    resets_ms = window_end_ms(limit.window, now_ms)
    return Standing(limit, who, limit.max_micro, counter["used"], counter["held"], resets_ms)
