"""What rules would have stopped while they were only watched, by rule and tool; and how observe mode stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from comptroller_audit.query import Logged
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_policy.observing import OBSERVE_MS_MAX, Mode, Span, read_span

__all__ = ["OBSERVED_IN", "Observations", "Stopped", "observing_in", "observing_text"]

OBSERVED_IN: Final = frozenset({RecordType.ACTION, RecordType.READ, RecordType.AUDIT})
"""Records that say what a rule would have stopped: before a side effect, of a read, and after a side effect."""
NO_POLICY: Final = "(no policy permits it)"
TOOLS_MAX: Final = 10_000
"""Calls whose tool is remembered until their end."""


@dataclass(slots=True)
class Stopped:
    """One rule on one tool: how many calls it would have stopped, and the last of them."""

    rule: str
    tool: str
    verdict: str
    calls: int = 0
    last_call: str = ""

    def as_json(self) -> JsonObject:
        return {
            "rule": self.rule,
            "tool": self.tool,
            "verdict": self.verdict,
            "calls": self.calls,
            "last_call": self.last_call,
        }


class Observations:
    """Takes records of `OBSERVED_IN` one by one, in order."""

    def __init__(self) -> None:
        self.calls = 0
        self._found: dict[tuple[str, str], Stopped] = {}
        self._tools: dict[str, tuple[str, bool]] = {}

    @property
    def stopped(self) -> list[Stopped]:
        """The most frequent first."""
        return sorted(self._found.values(), key=lambda one: (-one.calls, one.rule, one.tool))

    def take(self, entry: Logged) -> None:
        packet = cast("dict[str, Any]", entry.packet)
        call = str(packet["call"])
        decisions = list(_decisions(packet))
        if entry.type is RecordType.AUDIT:
            tool, was_counted = self._tools.pop(call, ("", False))
        else:
            tool, was_counted = str(packet["tool"]), False
        if entry.type is RecordType.ACTION:
            self._tools[call] = tool, bool(decisions)
            if len(self._tools) > TOOLS_MAX:
                del self._tools[next(iter(self._tools))]
        if not decisions:
            return
        self.calls += not was_counted
        for rule, verdict in {rule: verdict for verdict, rules in decisions for rule in rules}.items():
            one = self._found.setdefault((rule, tool), Stopped(rule, tool, verdict))
            one.calls += 1
            one.last_call = call

    def as_json(self) -> JsonObject:
        return {"calls": self.calls, "by_rule": [one.as_json() for one in self.stopped]}


def _decisions(packet: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Verdict and rules of each stage; the full decision before a call holds what the early one said."""
    observed: dict[str, Any] = packet.get("observed") or {}
    decisions: list[dict[str, Any]] = observed.get("decisions") or []
    stages = {str(one["stage"]): one for one in decisions}
    if "before" in stages:
        stages.pop("early", None)
    for one in stages.values():
        rules: list[str] = one["policies"]
        yield str(one["verdict"]), rules or [NO_POLICY]


def observing_in(mode: Mode, reader: Reader, tenant: str, now_ms: int) -> str | None:
    """How observe mode stands in a store."""
    head = reader.head(tenant)
    return observing_text(mode, read_span(reader, tenant), head.record_ms if head is not None else 0, now_ms)


def observing_text(mode: Mode, span: Span | None, record_ms: int, now_ms: int) -> str | None:
    """How observe mode stands; None where nothing is to be said. `span` is None where nothing was observed yet."""
    if mode is not Mode.OBSERVE:
        return None
    what = "reads and creates run whatever the rules say"
    if span is None:
        days = OBSERVE_MS_MAX // 86_400_000
        return f"`mode: observe`: for {days} days from the first call on, {what}; everything else is decided as usual"
    if span.is_over(now_ms, record_ms):
        return (
            f"`mode: observe` is over since {_day(span.until_ms)}, so every rule is enforced; write `mode: enforce`, "
            "and see `comptroller report --observe`"
        )
    if not span.is_certain(now_ms, record_ms):
        return "`mode: observe`: the clock is behind the record, so every rule is enforced until it is right"
    return f"`mode: observe`: until {_day(span.until_ms)}, {what}; see `comptroller report --observe`"


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
