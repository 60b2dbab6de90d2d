"""Limits as an operator declares them, and which counters one call touches.

All amounts inside are integer micro-units (`MICRO` per call, step or declared unit).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field, model_validator

from comptroller_audit.vocabulary import MICRO

__all__ = [
    "COST",
    "METERED_UNITS",
    "MODEL_COST",
    "TOKENS",
    "UNLIMITED",
    "BudgetsConfig",
    "Charge",
    "FirstPart",
    "Limit",
    "Scope",
    "WidenAfter",
    "Window",
    "WindowLimit",
    "charges_for",
    "task_counter",
    "verified_writes",
    "window_end_ms",
]

TOKENS = "tokens"
MODEL_COST = "model_cost_usd"
COST = "cost_usd"
METERED_UNITS = frozenset({TOKENS, MODEL_COST})
"""Units that are charged when they have been used; every other unit is held before it is."""
UNLIMITED = 2**63 - 1
"""The limit of what is counted only to be known."""
DEFAULT_TASKS_A_DAY = 100
"""A window that a config leaves out holds this many whole tasks a day for one principal."""
_HOUR_MS = 3_600_000  # every window begins and ends with an hour of UTC


class Scope(StrEnum):
    TASK = "task"
    PRINCIPAL = "principal"
    ACTOR = "actor"
    TOOL = "tool"
    TENANT = "tenant"


class Window(StrEnum):
    TASK = "task"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class WindowLimit(BaseModel):
    """One line of `budgets.windows`: at most `max` of `unit` per `window`, counted per `scope`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: Scope
    window: Window
    unit: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
    max: Decimal = Field(ge=0, max_digits=15, decimal_places=6)
    name: str | None = None

    @model_validator(mode="after")
    def _task_window_is_for_tasks(self) -> WindowLimit:
        if (self.scope is Scope.TASK) != (self.window is Window.TASK):
            raise ValueError("scope `task` and window `task` belong together; use both or neither")
        return self


class WidenAfter(StrEnum):
    """What opens the whole of a budget: a side effect whose record was read back and matched."""

    VERIFIED_WRITE = "verified_write"


class FirstPart(BaseModel):
    """`budgets.first:` the part of a task's limits that is open from the beginning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_steps: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = Field(default=None, ge=1)
    max_tokens_total: int | None = Field(default=None, ge=1)
    max_model_cost_usd: Decimal | None = Field(default=None, gt=0, max_digits=15, decimal_places=6)


class BudgetsConfig(BaseModel):
    """The `budgets:` section. The named limits (`max_…`, `timeout_seconds`) hold per task, as in the article."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_steps: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = Field(default=None, ge=1)
    max_tokens_total: int | None = Field(default=None, ge=1, le=1_000_000_000_000)
    max_model_cost_usd: Decimal | None = Field(default=None, gt=0, max_digits=15, decimal_places=6)
    timeout_seconds: float | None = Field(default=None, gt=0)
    first: FirstPart | None = None
    widen_after: WidenAfter | None = None
    windows: tuple[WindowLimit, ...] = ()
    task_idle_s: int = Field(default=300, ge=1)
    think_gap_s_max: int = Field(default=30, ge=0)
    tasks_per_hour_max: int = Field(default=60, ge=1, le=1_000_000)

    def limits(self) -> tuple[Limit, ...]:
        """Every counted limit, task limits first. Steps and the wall clock belong to the task row (tasks.py).

        A unit that is limited per task and in no wider window gets one.
        """
        first = self.first or FirstPart()
        named: tuple[tuple[str, str, int | Decimal | None, int | Decimal | None], ...] = (
            ("max_tool_calls", "calls", self.max_tool_calls, first.max_tool_calls),
            ("max_tokens_total", TOKENS, self.max_tokens_total, first.max_tokens_total),
            ("max_model_cost_usd", MODEL_COST, self.max_model_cost_usd, first.max_model_cost_usd),
        )
        per_task = [
            Limit(name, Scope.TASK, None, unit, Window.TASK, int(most * MICRO), _micro(part))
            for name, unit, most, part in named
            if most is not None
        ]
        windows = [
            Limit(
                f"{w.unit} per {w.name or w.scope} per {w.window}",
                w.scope,
                w.name,
                w.unit,
                w.window,
                int(w.max * MICRO),
            )
            for w in self.windows
        ]
        covered = {w.unit for w in self.windows if w.scope is not Scope.TASK and w.name is None}
        defaults = [
            Limit(
                f"{limit.unit} per principal per day (default)",
                Scope.PRINCIPAL,
                None,
                limit.unit,
                Window.DAY,
                limit.max_micro * DEFAULT_TASKS_A_DAY,
                is_default=True,
            )
            for limit in per_task
            if limit.unit not in covered
        ]
        return (*per_task, *windows, *defaults)

    def counted(self) -> tuple[Limit, ...]:
        """Every limit, and what is counted without one: what the tools of each task cost."""
        limits = self.limits()
        if any(limit.scope is Scope.TASK and limit.unit == COST for limit in limits):
            return limits
        return (*limits, Limit("cost_usd per task", Scope.TASK, None, COST, Window.TASK, UNLIMITED))


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `max_micro` of `unit` in one window of one scope; `name` narrows scope `tool` to one tool.

    Until a write of the task was verified, only `first_micro` of it, where that is given.
    """

    id: str
    scope: Scope
    name: str | None
    unit: str
    window: Window
    max_micro: int
    first_micro: int | None = None
    is_default: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """One counter that a call adds `amount_micro` to, under its limit. `resets_ms` is None for task limits.

    `opened_by` is the counter that opens the whole of a limit with a first part.
    """

    limit: Limit
    counter: str
    amount_micro: int
    resets_ms: int | None
    opened_by: str = ""


def _micro(amount: int | Decimal | None) -> int | None:
    return None if amount is None else int(amount * MICRO)


def task_counter(task: str, unit: str) -> str:
    """The counter of one unit in one task."""
    return f"{Scope.TASK}:{task}:{unit}:{Window.TASK}"


def verified_writes(task: str) -> str:
    """The counter of side effects of a task that were read back and matched."""
    return task_counter(task, "verified_writes")


def window_start(window: Window, now_ms: int) -> str:
    """The label of the current window in UTC: `2026-11-22T10`, `2026-11-22`, `2026-11`, or `task`."""
    return _start_in_hour(window, now_ms // _HOUR_MS)


@lru_cache(maxsize=64)
def _start_in_hour(window: Window, hour: int) -> str:
    if window is Window.TASK:
        return "task"
    at = datetime.fromtimestamp(hour * (_HOUR_MS // 1000), UTC)
    return at.strftime({Window.HOUR: "%Y-%m-%dT%H", Window.DAY: "%Y-%m-%d", Window.MONTH: "%Y-%m"}[window])


def window_end_ms(window: Window, now_ms: int) -> int | None:
    """When the current window ends, milliseconds since the epoch; None for the task window."""
    return _end_in_hour(window, now_ms // _HOUR_MS)


@lru_cache(maxsize=64)
def _end_in_hour(window: Window, hour: int) -> int | None:
    if window is Window.TASK:
        return None
    at = datetime.fromtimestamp(hour * (_HOUR_MS // 1000), UTC)
    if window is Window.HOUR:
        end = at + timedelta(hours=1)
    elif window is Window.DAY:
        end = at.replace(hour=0) + timedelta(days=1)
    else:
        end = (at.replace(day=1, hour=0) + timedelta(days=32)).replace(day=1)
    return int(end.timestamp() * 1000)


def charges_for(
    limits: tuple[Limit, ...], amounts_micro: Mapping[str, int], scoped: Mapping[Scope, str], now_ms: int
) -> tuple[Charge, ...]:
    """The counters this call touches: every limit whose scope covers it and whose unit it spends.

    `scoped` names the call's task, principal (as a keyed digest), actor, tool and tenant.
    """
    return tuple(
        Charge(
            limit,
            f"{limit.scope}:{scoped[limit.scope]}:{limit.unit}:{window_start(limit.window, now_ms)}",
            amounts_micro[limit.unit],
            window_end_ms(limit.window, now_ms),
            verified_writes(scoped[Scope.TASK]) if limit.first_micro is not None else "",
        )
        for limit in limits
        if amounts_micro.get(limit.unit) and limit.name in (None, scoped[limit.scope])
    )
