"""What many calls and tasks come to, in one value: the report, and the JSON document of it.

Pure. Money is integer micro-USD; in the document amounts are decimal texts, times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

from comptroller_audit.report_calls import Bins, Calls
from comptroller_audit.vocabulary import MICRO, Json, JsonObject

__all__ = [
    "NOT_ENDED",
    "Now",
    "Report",
    "TaskEnd",
    "TaskSeen",
    "Tasks",
    "Waiting",
    "per_success",
    "usd_text",
]

VERSION = 1


class TaskEnd(StrEnum):
    """How a task stands. `SILENT_WRONG` claimed success that was looked up and not found. `IDLE` is a task of calls that
    named none, which nobody ended: nothing says whether it succeeded."""

    SUCCEEDED = "succeeded"
    CLAIMED = "claimed"
    HANDED_OFF = "handed_off"
    ABANDONED = "abandoned"
    FAILED = "failed"
    SILENT_WRONG = "silent_wrong"
    OPEN = "open"
    IDLE = "idle"


NOT_ENDED = frozenset({TaskEnd.OPEN, TaskEnd.IDLE})


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """One task: when it began, how it stands, and all that it has cost, in micro-USD and tokens."""

    started_ms: int
    end: TaskEnd
    tool_cost_micro: int = 0
    model_cost_micro: int = 0
    tokens: int = 0
    estimated_tokens: int = 0

    @property
    def cost_micro(self) -> int:
        return self.tool_cost_micro + self.model_cost_micro


@dataclass(slots=True)
class Tasks:
    """Tasks that began in a span of time."""

    bins: Bins
    ends: Counter[TaskEnd] = field(default_factory=Counter[TaskEnd])
    tool_cost_micro: int = 0
    model_cost_micro: int = 0
    tokens: int = 0
    estimated_tokens: int = 0
    by_bin: list[Counter[TaskEnd]] = field(init=False)
    cost_by_bin: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.by_bin = [Counter[TaskEnd]() for _ in range(self.bins.count)]
        self.cost_by_bin = [0] * self.bins.count

    def take(self, task: TaskSeen) -> None:
        """One more task, in any order."""
        at = self.bins.index(task.started_ms)
        self.ends[task.end] += 1
        self.by_bin[at][task.end] += 1
        self.cost_by_bin[at] += task.cost_micro
        self.tool_cost_micro += task.tool_cost_micro
        self.model_cost_micro += task.model_cost_micro
        self.tokens += task.tokens
        self.estimated_tokens += task.estimated_tokens

    @property
    def cost_micro(self) -> int:
        return self.tool_cost_micro + self.model_cost_micro

    @property
    def ended(self) -> int:
        """Tasks that somebody ended, or that were begun and left alone."""
        return sum(count for end, count in self.ends.items() if end not in NOT_ENDED)

    @property
    def success(self) -> Fraction | None:
        """The part of the ended tasks that was proved to have succeeded; None when none has ended."""
        return Fraction(self.ends[TaskEnd.SUCCEEDED], self.ended) if self.ended else None

    @property
    def cost_per_success_micro(self) -> Fraction | None:
        """Everything spent, by every task, for each one that succeeded; None when none did."""
        return per_success(self.cost_micro, self.ends)


def per_success(cost_micro: int, ends: Counter[TaskEnd]) -> Fraction | None:
    succeeded = ends[TaskEnd.SUCCEEDED]
    return Fraction(cost_micro, succeeded) if succeeded else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many there are now, and since when the oldest waits; `oldest_ms` is None when there are none."""

    count: int
    oldest_ms: int | None

    def as_json(self, now_ms: int) -> JsonObject:
        waits = None if self.oldest_ms is None else max(0, now_ms - self.oldest_ms) // 1000
        return {"count": self.count, "oldest_ms": self.oldest_ms, "longest_s": waits}


@dataclass(frozen=True, slots=True)
class Now:
    """What waits for a person at the moment of the report, whenever it began."""

    approvals: Waiting
    """Calls that wait for a person's yes."""
    approved: Waiting
    """Calls that have it and were not resumed yet."""
    in_doubt: Waiting
    handoffs: Waiting


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about the calls on record from `since_ms` to `until_ms` and the tasks that began then."""

    since_ms: int
    until_ms: int
    calls: Calls
    tasks: Tasks
    now: Now

    @property
    def silent_wrong(self) -> int:
        """Calls and claims in the bucket `silent_wrong`: wrong, and found out only because somebody looked."""
        return self.calls.failures()["silent_wrong"].total()

    def as_json(self) -> JsonObject:
        """The document of `comptroller report --json`; docs/report.md tells its members."""
        return {
            "v": VERSION,
            "since_ms": self.since_ms,
            "until_ms": self.until_ms,
            "entries": self.calls.entries.total(),
            "erased": self.calls.erased,
            "tasks": self._tasks(),
            "cost": self._cost(),
            "containment": self._containment(),
            "failures": _by_class(self.calls.failures()),
            "calls": {str(end): count for end, count in sorted(self.calls.ends.items())},
            "latency": {
                "all": self.calls.total.as_json(),
                "tools": {name: each.as_json() for name, each in sorted(self.calls.by_tool.items())},
                "steps": {name: each.as_json() for name, each in self.calls.steps()},
            },
            "waiting": {
                "approvals": self.now.approvals.as_json(self.until_ms),
                "approved_not_resumed": self.now.approved.as_json(self.until_ms),
                "in_doubt": self.now.in_doubt.as_json(self.until_ms),
                "handoffs": self.now.handoffs.as_json(self.until_ms),
            },
            "people": {
                "yes": self.calls.votes[True],
                "no": self.calls.votes[False],
                "closed": _sorted(self.calls.closed),
                "handed_off": _sorted(self.calls.handed_off),
            },
            "reversed": _sorted(self.calls.reversed),
            "recovered": _sorted(self.calls.recovered),
            "resolved": _sorted(self.calls.resolved),
            "kept_reads": self.calls.kept_reads,
            "exhausted": _sorted(self.calls.exhausted),
            "over_time": self._over_time(),
        }

    def _tasks(self) -> JsonObject:
        success = self.tasks.success
        return {
            **{end.value: self.tasks.ends[end] for end in TaskEnd},
            "ended": self.tasks.ended,
            "all": self.tasks.ends.total(),
            "success": None if success is None else round(float(success), 6),
        }

    def _cost(self) -> JsonObject:
        tasks = self.tasks
        return {
            "cost_usd": usd_text(tasks.cost_micro),
            "tool_cost_usd": usd_text(tasks.tool_cost_micro),
            "model_cost_usd": usd_text(tasks.model_cost_micro),
            "tokens": tasks.tokens,
            "estimated_tokens": tasks.estimated_tokens,
            "per_success_usd": usd_text(tasks.cost_per_success_micro),
        }

    def _containment(self) -> JsonObject:
        calls = self.calls
        value = calls.containment
        return {
            "containment": None if value is None else round(float(value), 6),
            "ran": calls.ran,
            "proved": calls.proved,
            "outside": calls.outside,
            "unproved": calls.unproved,
            "suspects": list[Json](calls.suspects),
            "stopped": calls.stopped_count,
            "stopped_by": _by_class(calls.stopped()),
            "counted_only": calls.counted_only,
            "committed_not_sent": calls.unsent,
            "running": calls.running,
        }

    def _over_time(self) -> JsonObject:
        bins, tasks, calls = self.tasks.bins, self.tasks, self.calls
        parts: list[Json] = []
        for at, start in enumerate(bins.starts()):
            parts.append(
                {
                    "at_ms": start,
                    "tasks": {str(end): n for end, n in sorted(tasks.by_bin[at].items())},
                    "calls": {str(end): n for end, n in sorted(calls.by_bin[at].items())},
                    "cost_usd": usd_text(tasks.cost_by_bin[at]),
                    "per_success_usd": usd_text(per_success(tasks.cost_by_bin[at], tasks.by_bin[at])),
                }
            )
        return {"width_ms": bins.width_ms, "parts": parts}


def usd_text(micro: int | Fraction | None) -> str | None:
    """Micro-USD as a decimal text of USD, to a millionth; None stays None."""
    if micro is None:
        return None
    text = format(Decimal(round(micro)) / MICRO, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _sorted(counted: Counter[str]) -> JsonObject:
    return dict[str, Json](sorted(counted.items()))


def _by_class(found: dict[str, Counter[str]]) -> JsonObject:
    return {name: {"count": codes.total(), "codes": _sorted(codes)} for name, codes in found.items()}
