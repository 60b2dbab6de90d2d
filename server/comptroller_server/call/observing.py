"""`mode: observe`: whether this call is only watched now, and what a rule would have said of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from comptroller_audit.ambient import Clock
from comptroller_audit.store import Store
from comptroller_audit.unit import Head, Unit
from comptroller_audit.vocabulary import Effect, JsonObject
from comptroller_policy.model import Decision, Verdict
from comptroller_policy.observing import (
    OBSERVED,
    BeginObserving,
    EndObserving,
    Mode,
    Span,
    observable,
    read_span,
)
from comptroller_server.call.case import Case

__all__ = ["META_OBSERVED", "Observing", "banner", "observed_in_packet", "passed", "told_observed"]

META_OBSERVED = "comptroller/observed"

_log = structlog.stdlib.get_logger()


@dataclass(slots=True)
class _Known:
    """A tenant's span as this process read it, and when that was by the clock that is never set."""

    span: Span
    left_ms: int
    at_s: float


class Observing:
    """Knows for each tenant whether it is observed now. Without the mode it reads and writes nothing."""

    def __init__(self, mode: Mode, store: Store, clock: Clock) -> None:
        self._mode = mode
        self._store = store
        self._clock = clock
        self._known: dict[str, _Known] = {}

    async def look(self, case: Case, head: Head) -> None:
        """Say on the case whether it is observed. Raises `StoreError`."""
        case.observed.clear()
        case.observed_until_ms = None
        whole = case.resumed is None and case.compensates is None
        if self._mode is not Mode.OBSERVE or not whole:
            return
        if case.tool_in_hand.effect in (Effect.READ, Effect.CREATE):
            case.observed_until_ms = await self._until(case.tenant, head.record_ms)

    async def _until(self, tenant: str, record_ms: int) -> int | None:
        """When observing ends; None where it is over, or where nobody can say what time it is."""
        now_ms = self._clock.now_ms()
        known = self._known.get(tenant) or await self._read(tenant, max(now_ms, record_ms))
        span = known.span
        ran_ms = (self._clock.monotonic() - known.at_s) * 1000
        if span.is_over(now_ms, record_ms) or ran_ms >= known.left_ms:
            if not span.is_ended:
                await self._store.commit(tenant, Unit([EndObserving(now_ms)]))
                known.span = Span(span.started_ms, is_ended=True)
                _log.warning("observe mode is over; every rule is enforced now", tenant=tenant)
            return None
        if not span.is_certain(now_ms, record_ms):
            _log.error("the clock is behind the record, so nothing is observed", tenant=tenant)
            return None
        return span.until_ms

    async def _read(self, tenant: str, now_ms: int) -> _Known:
        span = await self._store.read(lambda reader: read_span(reader, tenant))
        if span is None:
            await self._store.commit(tenant, Unit([BeginObserving(now_ms)]))
            span = await self._store.read(lambda reader: read_span(reader, tenant))
            assert span is not None
        known = _Known(span, span.until_ms - now_ms, self._clock.monotonic())
        self._known[tenant] = known
        return known


def passed(case: Case, stage: str, decision: Decision) -> Decision:
    """`decision`, or an allow in its place where the call is only observed; what was decided is kept on the case."""
    if case.observed_until_ms is None or not observable(case.tool_in_hand.effect, decision):
        return decision
    case.observed[stage] = decision
    return Decision(Verdict.ALLOW, (OBSERVED,), ("Observe mode: no rule stops a read or a create.",))


def observed_in_packet(case: Case, *stages: str) -> JsonObject:
    """What a packet says of it: nothing where no rule would have stopped the call."""
    told = [(stage, case.observed[stage]) for stage in stages if stage in case.observed]
    if not told:
        return {}
    return {
        "observed": {
            "until_ms": case.observed_until_ms,
            "decisions": [
                {
                    "stage": stage,
                    "verdict": decision.verdict.value,
                    "policies": list(decision.policies),
                    "reasons": list(decision.reasons),
                    "gates": [{"policy": g.policy, "role": g.role, "count": g.count} for g in decision.gates],
                }
                for stage, decision in told
            ],
        }
    }


def told_observed(case: Case) -> JsonObject | None:
    """The same for a program at the other side."""
    if case.observed_until_ms is None:
        return None
    rules = sorted({rule for one in case.observed.values() for rule in one.policies})
    return {
        "until_ms": case.observed_until_ms,
        "would_have_been": "stopped" if case.observed else "allowed",
        "policies": [*rules] if case.may_tell_facts() else [],
    }


def banner(case: Case) -> str:
    """The sentence in the answer; nothing where the call is not observed."""
    if case.observed_until_ms is None:
        return ""
    until = datetime.fromtimestamp(case.observed_until_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    decision = case.observed.get("before") or case.observed.get("early") or case.observed.get("after")
    if decision is None:
        return f"(Observe mode until {until}: no rule would have stopped this call.)"
    if not case.may_tell_facts():
        rules = f"a rule about what you may not read, see call {case.call}"
    else:
        rules = ", ".join(decision.policies) or "the default: no policy permits it"
    how = "have waited for a person" if decision.verdict is Verdict.NEEDS_APPROVAL else "have been denied"
    return f"(Observe mode: this call would {how} by {rules}. From {until} on it will.)"
