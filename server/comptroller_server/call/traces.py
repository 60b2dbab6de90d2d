"""What `logging.trace_level` adds to a call's packets: records of the hand-overs, the look-ups and the decisions.

Each level adds record kinds of its own and none leaves a packet out. They ride in the commits a call makes anyway: what
came before the action packet in that commit, what came after it with the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from comptroller_audit.ambient import Clock
from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.errors import CanonicalError
from comptroller_audit.packets import LogRecord
from comptroller_audit.redaction import Audience, Release
from comptroller_audit.vocabulary import Json, JsonObject, RecordType
from comptroller_policy.model import Decision, Question
from comptroller_tools.source import Action, Outcome

__all__ = ["Trace", "TraceLevel", "Tracer", "trace_levels"]

LOOKED_UP_MAX = 64
"""Entries of one kind in one call's trace; what is beyond is counted in `left_out`."""


class TraceLevel(StrEnum):
    """Words of `logging.trace_level`, joined with `+`. PACKETS is the floor and always there."""

    PACKETS = "packets"
    TOOL_CALLS = "tool_calls"
    RETRIEVAL = "retrieval"
    DECISIONS = "decisions"


_KINDS: Mapping[TraceLevel, RecordType] = {
    TraceLevel.TOOL_CALLS: RecordType.TRACE_TOOL_CALLS,
    TraceLevel.RETRIEVAL: RecordType.TRACE_RETRIEVAL,
    TraceLevel.DECISIONS: RecordType.TRACE_DECISIONS,
}


def trace_levels(text: str) -> frozenset[TraceLevel]:
    """The levels that `text` names, the floor among them. Raises ValueError for a word that is none."""
    words = [word.strip() for word in text.split("+")]
    known = ", ".join(level.value for level in TraceLevel)
    for word in words:
        if word not in set(TraceLevel):
            raise ValueError(f"knows no level `{word[:40]}`; join words of: {known}, with `+`")
    return frozenset({TraceLevel.PACKETS, *(TraceLevel(word) for word in words)})


@dataclass(frozen=True, slots=True)
class _Entry:
    level: TraceLevel
    after: bool
    """Whether the action packet was durable already."""
    told: JsonObject


@dataclass(slots=True)
class Trace:
    """What one call has left to be told, in order."""

    entries: list[_Entry] = field(default_factory=list[_Entry])

    def forget(self) -> None:
        """A decision is made afresh: what led to the one before counts no more."""
        self.entries.clear()


class Tracer:
    """Collects what the configured levels ask for, and nothing else."""

    def __init__(self, levels: frozenset[TraceLevel], release: Release, clock: Clock) -> None:
        self._levels = levels
        self._release = release
        self._clock = clock

    def tells(self, level: TraceLevel) -> bool:
        """Whether this level is on; callers ask before they gather what only a trace needs."""
        return level in self._levels

    def now(self) -> float:
        return self._clock.monotonic()

    def handed_over(self, trace: Trace, action: Action, source: str, outcome: Outcome, began: float) -> None:
        """One hand-over to a source, committed or not. What was sent and came back stands in the packets."""
        if self.tells(TraceLevel.TOOL_CALLS):
            self._add(
                trace,
                TraceLevel.TOOL_CALLS,
                True,
                tool=action.tool,
                source=source,
                took_ms=self._took_ms(began),
                bytes_in=_size(dict(action.arguments)),
                bytes_out=_size(outcome.value),
                effect=outcome.effect.value,
                error=outcome.error[:200] if outcome.error else None,
            )

    def looked_up(
        self, trace: Trace, fact: str, tool: str, value: Any, error: str | None, began: float, *, after: bool
    ) -> None:
        """One look-up of Comptroller's own, before a decision or reading back after the call."""
        if self.tells(TraceLevel.RETRIEVAL):
            self._add(
                trace,
                TraceLevel.RETRIEVAL,
                after,
                fact=fact,
                tool=tool,
                took_ms=self._took_ms(began),
                found=value,
                error=error,
            )

    def released(self, trace: Trace, tool: str, refs: list[Json], withheld: int) -> None:
        """What of a result the model was shown as citable records."""
        if self.tells(TraceLevel.RETRIEVAL):
            self._add(trace, TraceLevel.RETRIEVAL, True, tool=tool, refs=refs, withheld=withheld)

    def decided(
        self,
        trace: Trace,
        stage: str,
        question: Question,
        decision: Decision | None,
        policies: tuple[str, ...],
    ) -> None:
        """One question to policy, whole, with the policies that were asked."""
        if self.tells(TraceLevel.DECISIONS):
            self._add(
                trace,
                TraceLevel.DECISIONS,
                stage == "after",
                stage=stage,
                asked=_asked(question),
                policies=list(policies),
                verdict=decision.verdict.value if decision is not None else "go_on",
                decided_by=list(decision.policies) if decision is not None else [],
                errors=list(decision.errors) if decision is not None else [],
            )

    def records(
        self, trace: Trace, call: str, attempt: str, task: str, *, after: bool | None
    ) -> tuple[LogRecord, ...]:
        """The trace records for one commit: of before or after the action packet, or with None of both."""
        if not trace.entries:
            return ()
        found: list[LogRecord] = []
        for level, kind in _KINDS.items():
            told: list[Json] = [
                e.told for e in trace.entries if e.level is level and after in (None, e.after)
            ]
            if told:
                packet: JsonObject = {
                    "v": 1,
                    "call": call,
                    "attempt": attempt,
                    "task": task,
                    "entries": told[:LOOKED_UP_MAX],
                    "left_out": max(0, len(told) - LOOKED_UP_MAX),
                }
                found.append(LogRecord(kind, packet, call=call, attempt=attempt, task=task))
        return tuple(found)

    def _add(self, trace: Trace, level: TraceLevel, after: bool, **told: Any) -> None:
        clean = self._release.release(cast("JsonObject", told), Audience.RECORD).value
        entry = cast("JsonObject", clean if isinstance(clean, dict) else {"withheld": clean})
        trace.entries.append(_Entry(level, after, entry))

    def _took_ms(self, began: float) -> float:
        return round((self.now() - began) * 1000, 3)


def _asked(question: Question) -> JsonObject:
    return {
        "input": cast("Json", dict(question.input)),
        "facts": cast("Json", dict(question.facts)),
        "history": cast("Json", dict(question.history)),
        "derived": {name: str(value) for name, value in question.derived.items()},
        "approvals": cast("Json", dict(question.approvals)),
        "roles": [*sorted(question.subject.roles)],
        "record": f"{question.record.kind}:{question.record.key}" if question.record else None,
        "environment": question.environment,
        "now_ms": question.now_ms,
        "step": question.step,
        "after": cast("Json", dict(question.after)),
    }


def _size(value: Any) -> int | None:
    """Canonical bytes, or None for what is no plain JSON."""
    try:
        return len(canonical_bytes(value))
    except CanonicalError:
        return None
