"""Metered budgets: model tokens and what they cost, reported by the client or estimated from bytes.

A task's tokens are the larger of two sums, for each direction: what passed through here at four bytes a token (that
much the model has certainly read and written), and what the client reported, plus an estimate of the calls since its
last report. Reports are cumulative per task and per name, and only ever raise a charge.

A metered limit refuses the next call once it is reached; it never stops one on its way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import MICRO, Code, Json, JsonObject, Refusal
from comptroller_budgets.ledger import COUNTERS, amount_text, open_micro, widens
from comptroller_budgets.limits import COST, MODEL_COST, TOKENS, Charge, Scope, task_counter
from comptroller_budgets.prices import NO_TOKENS, PriceSheet, Tokens

__all__ = [
    "NOTHING_METERED",
    "TASK_USAGE",
    "CallUsage",
    "Meter",
    "Metered",
    "TaskUsageRow",
    "Usage",
    "added",
    "tokens_of_bytes",
    "usage_of",
]

BYTES_PER_TOKEN = 4
COLUMN_MAX = 2**63 - 1
"""The most a column holds; sums stop there, far beyond every limit."""


def tokens_of_bytes(size: int) -> int:
    """The estimate for a text of `size` UTF-8 bytes, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


class TaskUsageRow(SQLModel, table=True):
    """What one task has used of models. `reports` is JSON `{role or model: [input, output]}`.

    `judged` is the same for our own judges, whose tokens are added up. `seen_` is the estimate of all bytes,
    `unreported_` that of the calls since the last report, `input_tokens` and `output_tokens` are the charge, judges
    included; `estimated_tokens` is the part of it that no report covers.
    """

    __tablename__ = "task_usage"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    reports: str = Field(sa_type=Text)
    judged: str = Field(sa_type=Text)
    seen_input: int = Field(sa_type=BigInteger)
    seen_output: int = Field(sa_type=BigInteger)
    unreported_input: int = Field(sa_type=BigInteger)
    unreported_output: int = Field(sa_type=BigInteger)
    input_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)
    estimated_tokens: int = Field(sa_type=BigInteger)
    model_cost_micro: int = Field(sa_type=BigInteger)


TASK_USAGE = Relation(TaskUsageRow)
GetRow: TypeAlias = Callable[[Relation, str], Row | None]


@dataclass(frozen=True, slots=True)
class Metered:
    """What is to be added to a task: tokens seen, those of them that no report covers, and the newest reports.

    `judged` are tokens of our own judges, by model; no client can know or report them.
    """

    seen: Tokens = NO_TOKENS
    unreported: Tokens = NO_TOKENS
    reports: Mapping[str, Tokens] = field(default_factory=dict[str, Tokens])
    judged: Mapping[str, Tokens] = field(default_factory=dict[str, Tokens])

    def then(self, later: Metered) -> Metered:
        """Both, one after the other. A report covers what came before it."""
        before = NO_TOKENS if later.reports else self.unreported
        return Metered(
            self.seen + later.seen,
            before + later.unreported,
            _raised(self.reports, later.reports),
            added(self.judged, later.judged),
        )


NOTHING_METERED = Metered()


@dataclass(frozen=True, slots=True)
class Usage:
    """What one task has used. `charged`, which is without its judges, `judged` and `cost_micro` never fall."""

    reports: Mapping[str, Tokens] = field(default_factory=dict[str, Tokens])
    seen: Tokens = NO_TOKENS
    unreported: Tokens = NO_TOKENS
    charged: Tokens = NO_TOKENS
    cost_micro: int = 0
    judged: Mapping[str, Tokens] = field(default_factory=dict[str, Tokens])

    @property
    def total(self) -> Tokens:
        """The whole charge: the client's models and our judges."""
        return self.charged + sum(self.judged.values(), NO_TOKENS)

    @property
    def estimated(self) -> int:
        """Tokens of the charge that no report covers."""
        return self.charged.less(self._reported()).total

    def after(self, more: Metered, sheet: PriceSheet) -> Usage:
        """With `more`, at the prices of `sheet`."""
        reports = _raised(self.reports, more.reports)
        seen = self.seen + more.seen
        unreported = more.unreported + (NO_TOKENS if more.reports else self.unreported)
        reported = sum(reports.values(), NO_TOKENS)
        charged = self.charged.at_least(seen).at_least(reported + unreported)
        judged = added(self.judged, more.judged)
        cost_micro = sheet.cost_micro(reports, charged.less(reported)) + sheet.cost_micro(judged, NO_TOKENS)
        return Usage(reports, seen, unreported, charged, max(self.cost_micro, cost_micro), judged)

    def amount_micro(self, unit: str) -> int:
        """What counts under a limit of `unit`, in micro-units."""
        return self.cost_micro if unit == MODEL_COST else self.total.total * MICRO

    def _reported(self) -> Tokens:
        return sum(self.reports.values(), NO_TOKENS)


def _raised(old: Mapping[str, Tokens], new: Mapping[str, Tokens]) -> Mapping[str, Tokens]:
    """The larger report of each name: a cumulative number that falls is taken for an old one."""
    return {**old, **{name: tokens.at_least(old.get(name, NO_TOKENS)) for name, tokens in new.items()}}


def added(old: Mapping[str, Tokens], new: Mapping[str, Tokens]) -> Mapping[str, Tokens]:
    """The sum of both, by name."""
    return {**old, **{name: tokens + old.get(name, NO_TOKENS) for name, tokens in new.items()}}


def usage_of(row: Row | None) -> Usage:
    """A task's usage as its row says, or none."""
    if row is None:
        return Usage()
    judged = _by_name(row["judged"])
    return Usage(
        _by_name(row["reports"]),
        Tokens(row["seen_input"], row["seen_output"]),
        Tokens(row["unreported_input"], row["unreported_output"]),
        Tokens(row["input_tokens"], row["output_tokens"]).less(sum(judged.values(), NO_TOKENS)),
        row["model_cost_micro"],
        judged,
    )


def _by_name(text: str) -> Mapping[str, Tokens]:
    return {name: Tokens(*pair) for name, pair in json.loads(text).items()}


def _as_text(tokens: Mapping[str, Tokens]) -> str:
    return json.dumps({name: [each.input, each.output] for name, each in tokens.items()})


def _row_of(usage: Usage) -> Row:
    numbers = {
        "seen_input": usage.seen.input,
        "seen_output": usage.seen.output,
        "unreported_input": usage.unreported.input,
        "unreported_output": usage.unreported.output,
        "input_tokens": usage.total.input,
        "output_tokens": usage.total.output,
        "estimated_tokens": usage.estimated,
        "model_cost_micro": usage.cost_micro,
    }
    texts = {"reports": _as_text(usage.reports), "judged": _as_text(usage.judged)}
    return {**texts, **{name: min(n, COLUMN_MAX) for name, n in numbers.items()}}


@dataclass(slots=True)
class CallUsage:
    """One call's metering: what it reported and said, what its commits took up, and what they charged."""

    reports: Mapping[str, Tokens] = field(default_factory=dict[str, Tokens])
    is_metered: bool = False
    said: int = 0
    """Tokens of its arguments."""
    took: Metered = NOTHING_METERED
    took_from: str = ""
    offered: Tokens = NO_TOKENS
    is_offered: bool = False
    """The commit that is made holds a part of ours; `offered` is what it charges for the call itself."""
    charged: Tokens = NO_TOKENS
    judged: Mapping[str, Tokens] = field(default_factory=dict[str, Tokens])
    """Tokens of judges asked about it that no durable commit has charged."""
    is_told: bool = False
    """A durable commit holds `took` and `reports`."""
    begun: tuple[int, int] = (0, 0)
    """Tokens and micro-USD that the first commit charged."""
    packet: JsonObject = field(default_factory=dict[str, Json])
    """What the packet of its end says; the commit that writes it fills it in, under the lock."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Part: charge a task, and the windows around it, for `before` (what came before this call) and `own`.

    `charges` are the counters of metered limits; with `checks` the call is refused when one of them is reached
    already. `listing` are the tokens of the tool list, which each task reads once. Amounts in `charges` mean nothing.
    """

    task: str
    call: CallUsage
    sheet: PriceSheet
    before: Metered
    own: Metered
    charges: tuple[Charge, ...]
    listing: int = 0
    checks: bool = False
    ends: bool = False
    call_id: str = ""
    tool_cost_micro: int | None = None
    """What the tool cost, for the packet; None where no tool of the config costs anything."""

    def keys(self) -> Iterable[Key]:
        rows = [c.counter for c in self.charges if c.limit.scope is not Scope.TASK]
        rows += [c.opened_by for c in self.charges if c.opened_by]
        if self.tool_cost_micro is not None:
            rows.append(task_counter(self.task, COST))
        return [(TASK_USAGE, self.task), *((COUNTERS, row_id) for row_id in rows)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(TASK_USAGE, self.task)
        was = usage_of(row)
        listed = Metered(Tokens(self.listing), Tokens(self.listing)) if row is None else NOTHING_METERED
        now = was.after(listed.then(self.before), self.sheet)
        if self.checks and (refusal := self._refusal(state.get, was, now, state.now_ms)) is not None:
            return refusal
        now = now.after(self.own, self.sheet)
        state.put(TASK_USAGE, self.task, _row_of(now))
        counters = {c.counter: c for c in self.charges if c.limit.scope is not Scope.TASK}
        for counter, charge in counters.items():
            held = (state.get(COUNTERS, counter) or {"held": 0})["held"]
            used = min(self._used(state.get, charge, was, now), COLUMN_MAX)
            state.put(COUNTERS, counter, {"used": used, "held": held})
        self._tell(state, was, now)
        return None

    def reached(self, get: GetRow, now_ms: int) -> Refusal | None:
        """What `apply` would refuse with, as a reader sees it now; nothing is charged."""
        was = usage_of(get(TASK_USAGE, self.task))
        return self._refusal(get, was, was.after(self.before, self.sheet).after(self.own, self.sheet), now_ms)

    def _refusal(self, get: GetRow, was: Usage, now: Usage, now_ms: int) -> Refusal | None:
        for charge in self.charges:
            used = self._used(get, charge, was, now)
            most = open_micro(get, charge.limit, charge.opened_by)
            if used >= most:
                return _reached(charge, used, most, now_ms, self.call_id)
        return None

    def _used(self, get: GetRow, charge: Charge, was: Usage, now: Usage) -> int:
        """What its limit has used once the task has gone from `was` to `now`, in micro-units."""
        unit = charge.limit.unit
        if charge.limit.scope is Scope.TASK:
            return now.amount_micro(unit)
        row = get(COUNTERS, charge.counter)
        return (row["used"] if row else 0) + now.amount_micro(unit) - was.amount_micro(unit)

    def _tell(self, state: State, was: Usage, now: Usage) -> None:
        """Note what the call was charged, and put it into the packet of its end."""
        tokens, cost = now.total.total - was.total.total, now.cost_micro - was.cost_micro
        if not self.ends:
            self.call.begun = (tokens, cost)
            return
        tokens, cost = tokens + self.call.begun[0], cost + self.call.begun[1]
        tools = None
        if self.tool_cost_micro is not None:
            tools = state.get(COUNTERS, task_counter(self.task, COST))
        spent = tools["used"] + tools["held"] if tools is not None else 0
        tool_cost = self.tool_cost_micro or 0
        self.call.packet |= {
            "tokens": tokens,
            "estimated": not self.call.reports,
            "model_cost_usd": amount_text(cost),
            "tool_cost_usd": amount_text(tool_cost),
            "cost_usd": amount_text(cost + tool_cost),
            "task": {
                "tokens": now.total.total,
                "estimated_tokens": now.estimated,
                "model_cost_usd": amount_text(now.cost_micro),
                "tool_cost_usd": amount_text(spent),
                "cost_usd": amount_text(now.cost_micro + spent),
            },
        }


def _reached(charge: Charge, used: int, most: int, now_ms: int, call: str) -> Refusal:
    limit = charge.limit
    wait_s = None if charge.resets_ms is None else max(1, -(-(charge.resets_ms - now_ms) // 1000))
    resets = "It does not reset within this task." if wait_s is None else f"It resets in {wait_s} seconds."
    unit = "tokens" if limit.unit == TOKENS else "USD"
    return Refusal(
        Code.BUDGET_EXHAUSTED,
        f"The budget `{limit.id}` is used up: {amount_text(used)} of {amount_text(most)} {unit}, 0 left."
        f"{widens(limit, most)} {resets} Hand the task to a person (`hand_off`).",
        retry="person" if wait_s is None else f"after:{wait_s}",
        call=call,
        details={
            "budget": limit.id,
            "scope": limit.scope.value,
            "unit": limit.unit,
            "left_micro": 0,
            "used_micro": used,
        },
    )
