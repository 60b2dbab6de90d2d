"""What the log says of many calls: counts, percentiles, and the proof that nothing ran outside policy.

Pure: it is fed with log entries in order and keeps sums, never the entries themselves. How they are read is not its
business.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any, cast

from comptroller_audit.latency import Latency
from comptroller_audit.query import Logged
from comptroller_audit.vocabulary import CallState, Code, Effect, JsonObject, RecordType, RefusalClass

__all__ = [
    "OUTSIDE_SHOWN",
    "TOLD",
    "Bins",
    "CallEnd",
    "CallMark",
    "Calls",
]

MARKS_MAX = 300
"""Calls of which the time line shows each one: the newest."""
OUTSIDE_SHOWN = 20
"""Calls that ran outside policy, or cannot be proved, of which the ids are kept."""
BINS_MAX = 48
_STEPS = ("validate", "decide", "look_up", "wait", "commit", "run", "verify", "release", "record")
_MINUTE, _HOUR, _DAY = 60_000, 3_600_000, 86_400_000
_WIDTHS = (
    *(n * 1_000 for n in (1, 5, 15, 30)),
    *(n * _MINUTE for n in (1, 2, 5, 15, 30)),
    *(n * _HOUR for n in (1, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 7, 14, 28)),
)


class CallEnd(StrEnum):
    """What became of an attempt. `WAITING` got the state of a call that waits or runs; `FAILED` did nothing, `WRONG` did
    something that is not as it should be."""

    DONE = "done"
    READ = "read"
    REFUSED = "refused"
    WAITING = "waiting"
    REPLAYED = "replayed"
    FAILED = "failed"
    WRONG = "wrong"
    IN_DOUBT = "in_doubt"


@dataclass(frozen=True, slots=True)
class Bins:
    """A span of time in equal parts, `BINS_MAX` at most; milliseconds since the epoch. `width_ms` is a round number."""

    first_ms: int
    width_ms: int
    count: int

    @classmethod
    def over(cls, since_ms: int, until_ms: int) -> Bins:
        """Parts that cover both ends, beginning at a whole multiple of their width."""
        width = next((w for w in _WIDTHS if _parts(since_ms, until_ms, w) <= BINS_MAX), _WIDTHS[-1])
        while _parts(since_ms, until_ms, width) > BINS_MAX:
            width *= 2
        return cls(since_ms // width * width, width, _parts(since_ms, until_ms, width))

    def index(self, at_ms: int) -> int:
        """The part `at_ms` falls into; what lies outside belongs to the first or the last."""
        return min(max(0, (at_ms - self.first_ms) // self.width_ms), self.count - 1)

    def starts(self) -> list[int]:
        return [self.first_ms + n * self.width_ms for n in range(self.count)]


def _parts(since_ms: int, until_ms: int, width: int) -> int:
    return max(1, until_ms // width - since_ms // width + 1)


@dataclass(frozen=True, slots=True)
class CallMark:
    """One call on the time line. `tool` is empty for what named no tool of ours."""

    at_ms: int
    call: str
    tool: str
    end: CallEnd
    code: str


@dataclass(frozen=True, slots=True)
class _Authorised:
    """An action packet whose call has not ended yet. `allowed` is None when its payload was erased."""

    allowed: bool | None
    tool: str


@dataclass(slots=True)
class Calls:
    """What the log says of calls. `action_of` finds the newest action entry of a call that began before the first one
    that was taken, or None when the record holds none."""

    bins: Bins
    action_of: Callable[[str], Logged | None]
    entries: Counter[RecordType] = field(default_factory=Counter[RecordType])
    erased: int = 0
    """Entries whose payload is gone, so that only their type and time are known."""
    ends: Counter[CallEnd] = field(default_factory=Counter[CallEnd])
    refused: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(class, code) of attempts that were answered with a refusal and ran nothing that counts."""
    went_wrong: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(class, code) of calls that had been committed."""
    false_claims: int = 0
    counted_only: int = 0
    """Refusals of floods, which the record counts and does not tell."""
    ran: int = 0
    proved: int = 0
    unproved: int = 0
    """Calls that ran and whose decision was erased since."""
    outside: int = 0
    """Calls that ran and for which the record shows no decision that allowed them."""
    suspects: list[str] = field(default_factory=list[str])
    unsent: int = 0
    """Calls that were committed and stopped before anything was sent."""
    total: Latency = field(default_factory=Latency)
    by_tool: dict[str, Latency] = field(default_factory=dict[str, Latency])
    by_step: dict[str, Latency] = field(default_factory=dict[str, Latency])
    closed: Counter[str] = field(default_factory=Counter[str])
    votes: Counter[bool] = field(default_factory=Counter[bool])
    reversed: Counter[str] = field(default_factory=Counter[str])
    recovered: Counter[str] = field(default_factory=Counter[str])
    handed_off: Counter[str] = field(default_factory=Counter[str])
    exhausted: Counter[str] = field(default_factory=Counter[str])
    """Refusals because a budget was used up, by the budget's name."""
    kept_reads: int = 0
    """Reads that were answered with what an earlier one had read."""
    resolved: Counter[str] = field(default_factory=Counter[str])
    """What people said of calls in doubt."""
    marks: deque[CallMark] = field(default_factory=lambda: deque[CallMark](maxlen=MARKS_MAX))
    by_bin: list[Counter[CallEnd]] = field(init=False)
    _actions: dict[str, _Authorised] = field(default_factory=dict[str, _Authorised])

    def __post_init__(self) -> None:
        self.by_bin = [Counter[CallEnd]() for _ in range(self.bins.count)]

    def take(self, entry: Logged) -> None:
        """The next entry of the log, in order. Types that tell nothing of calls are passed over."""
        self.entries[entry.type] += 1
        handler = _HANDLERS.get(entry.type)
        if handler is None:
            return
        if entry.packet is None:
            self.erased += 1
        handler(self, entry, entry.packet or {})

    @property
    def running(self) -> int:
        """Calls that were committed in this span and have no end on record: in flight, or waiting for recovery."""
        return len(self._actions)

    @property
    def containment(self) -> Fraction | None:
        """The part of what ran that a recorded decision allowed; None when nothing was attempted at all."""
        if self.ran:
            return Fraction(self.proved, self.ran)
        return Fraction(1) if self.refused or self.counted_only or self.unsent else None

    @property
    def stopped_count(self) -> int:
        """Attempts that were stopped before they did anything, those of floods included. Who waits is not stopped."""
        refused = sum(n for (name, _), n in self.refused.items() if name != RefusalClass.NONE)
        return refused + self.counted_only + self.unsent

    def steps(self) -> list[tuple[str, Latency]]:
        """Durations by step, in the order of a call."""
        known = [(name, self.by_step[name]) for name in _STEPS if name in self.by_step]
        return known + sorted((name, each) for name, each in self.by_step.items() if name not in _STEPS)

    def stopped(self) -> dict[str, Counter[str]]:
        """Codes by class, of the attempts that were refused."""
        found: dict[str, Counter[str]] = {each.value: Counter() for each in RefusalClass}
        for (name, code), count in self.refused.items():
            found.setdefault(name, Counter())[code] += count
        return found

    def failures(self) -> dict[str, Counter[str]]:
        """Codes by class, of everything that was refused, went wrong or was claimed falsely; `none` is no failure."""
        found = self.stopped()
        for (name, code), count in self.went_wrong.items():
            found.setdefault(name, Counter())[code] += count
        if self.false_claims:
            found[RefusalClass.SILENT_WRONG.value][Code.SUCCESS_NOT_FOUND.value] += self.false_claims
        del found[RefusalClass.NONE.value]
        return found

    # -- one handler per type of record -------------------------------------------------------------------------------

    def _action(self, entry: Logged, packet: JsonObject) -> None:
        self._actions[_call(entry)] = _authorised(entry, packet)

    def _audit(self, entry: Logged, packet: JsonObject) -> None:
        action = self._action_for(_call(entry))
        outcome = _object(packet.get("outcome"))
        sent = not packet or bool(outcome.get("tries")) or outcome.get("effect") != "none"
        if sent:
            self._prove(_call(entry), action)
        else:
            self.unsent += 1
        if not packet:
            return
        code = self._problem(packet.get("problem"), self.went_wrong)
        tool = action.tool if action is not None else ""
        self._timed(tool, packet)
        self._mark(entry, tool, _end_of(packet, code), code)

    def _read(self, entry: Logged, packet: JsonObject) -> None:
        allowed = None if not packet else _allows(packet) and packet.get("effect") == Effect.READ.value
        self._prove(_call(entry), _Authorised(allowed, ""))
        if packet:
            tool = str(packet.get("tool"))
            self.kept_reads += bool(packet.get("cached"))
            self._timed(tool, packet)
            self._mark(entry, tool, CallEnd.READ, "")

    def _refusal(self, entry: Logged, packet: JsonObject) -> None:
        refusal = _object(packet.get("refusal"))
        code = self._problem(refusal, self.refused)
        if refusal.get("class") == RefusalClass.BUDGET.value:
            self.exhausted[str(_object(refusal.get("details")).get("budget") or code)] += 1
        if packet:
            # What named no tool of ours is the agent's text, and is not shown.
            tool = str(packet.get("tool")) if packet.get("effect") else ""
            waits = refusal.get("class") == RefusalClass.NONE.value
            self._mark(entry, tool, CallEnd.WAITING if waits else CallEnd.REFUSED, code)

    def _counted(self, entry: Logged, packet: JsonObject) -> None:
        counts = _object(packet.get("refusals"))
        self.counted_only += sum(n for n in counts.values() if isinstance(n, int))

    def _pending(self, entry: Logged, packet: JsonObject) -> None:
        if packet:
            self._mark(entry, str(packet.get("tool")), CallEnd.WAITING, "")

    def _replayed(self, entry: Logged, packet: JsonObject) -> None:
        self._mark(entry, str(packet.get("tool") or ""), CallEnd.REPLAYED, "")

    def _closed(self, entry: Logged, packet: JsonObject) -> None:
        self.closed[str(packet.get("state"))] += 1

    def _voted(self, entry: Logged, packet: JsonObject) -> None:
        self.votes[_object(packet.get("vote")).get("yes") is True] += 1

    def _recovered(self, entry: Logged, packet: JsonObject) -> None:
        """A call whose process is gone. What was in doubt already has been judged with its audit packet."""
        call, state = _call(entry), str(packet.get("state"))
        known = self._actions.pop(call, None)
        self.recovered[state] += 1
        if known is not None and state != CallState.NOT_DONE:
            self._prove(call, known)
        elif known is None and self.action_of(call) is None:
            self._prove(call, None)

    def _resolved(self, entry: Logged, packet: JsonObject) -> None:
        self.resolved[str(packet.get("state"))] += 1

    def _late(self, entry: Logged, packet: JsonObject) -> None:
        if self.action_of(_call(entry)) is None:
            self._prove(_call(entry), None)

    def _reversal(self, entry: Logged, packet: JsonObject) -> None:
        self.reversed[str(packet.get("state"))] += 1

    def _handed(self, entry: Logged, packet: JsonObject) -> None:
        self.handed_off[str(packet.get("cause"))] += 1

    def _task_ended(self, entry: Logged, packet: JsonObject) -> None:
        self.false_claims += packet.get("problem") is not None

    # -- their parts --------------------------------------------------------------------------------------------------

    def _action_for(self, call: str) -> _Authorised | None:
        known = self._actions.pop(call, None)
        if known is not None:
            return known
        found = self.action_of(call)
        return None if found is None else _authorised(found, found.packet or {})

    def _prove(self, call: str, action: _Authorised | None) -> None:
        self.ran += 1
        allowed = False if action is None else action.allowed
        self.proved += allowed is True
        self.unproved += allowed is None
        self.outside += allowed is False
        if not allowed and len(self.suspects) < OUTSIDE_SHOWN:
            self.suspects.append(call)

    def _problem(self, problem: Any, counted: Counter[tuple[str, str]]) -> str:
        """Count a refusal that stands in a packet; its code, or nothing."""
        told = _object(problem)
        if not told:
            return ""
        counted[str(told.get("class")), str(told.get("code"))] += 1
        return str(told.get("code"))

    def _timed(self, tool: str, packet: JsonObject) -> None:
        for step, ms in _object(packet.get("took_ms")).items():
            if not isinstance(ms, int | float):
                continue
            if step == "total":
                self.total.add(ms)
                self.by_tool.setdefault(tool, Latency()).add(ms)
            else:
                self.by_step.setdefault(step, Latency()).add(ms)

    def _mark(self, entry: Logged, tool: str, end: CallEnd, code: str) -> None:
        self.ends[end] += 1
        self.by_bin[self.bins.index(entry.at_ms)][end] += 1
        self.marks.append(CallMark(entry.at_ms, _call(entry), tool, end, code))


_HANDLERS: Mapping[RecordType, Callable[[Calls, Logged, JsonObject], None]] = {
    RecordType.ACTION: Calls._action,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.AUDIT: Calls._audit,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.READ: Calls._read,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.REFUSED: Calls._refusal,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.REFUSALS_COUNTED: Calls._counted,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.PENDING: Calls._pending,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.REPLAYED: Calls._replayed,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.CALL_CLOSED: Calls._closed,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.APPROVAL_DECIDED: Calls._voted,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.RECOVERED: Calls._recovered,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.RESOLVED: Calls._resolved,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.LATE_OUTCOME: Calls._late,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.COMPENSATION: Calls._reversal,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.HANDED_OFF: Calls._handed,  # pyright: ignore[reportPrivateUsage] -- this module's own
    RecordType.TASK_ENDED: Calls._task_ended,  # pyright: ignore[reportPrivateUsage] -- this module's own
}
TOLD = frozenset(_HANDLERS)
"""Types of entries whose packets `Calls.take` looks into; others need not be opened for it."""


def _call(entry: Logged) -> str:
    return str(entry.envelope.get("call") or "")


def _object(value: Any) -> JsonObject:
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def _allows(packet: JsonObject) -> bool:
    """Whether policy did. What rules were only watched for ran outside of it."""
    if packet.get("observed"):
        return False
    decision = _object(packet.get("decision"))
    return decision.get("verdict") == "allow" and not decision.get("errors")


def _authorised(entry: Logged, packet: JsonObject) -> _Authorised:
    return _Authorised(_allows(packet) if entry.packet is not None else None, str(packet.get("tool") or ""))


def _end_of(packet: JsonObject, code: str) -> CallEnd:
    """The end of a committed call, by the state of its audit packet."""
    state = packet.get("state")
    if state == CallState.IN_DOUBT:
        return CallEnd.IN_DOUBT
    if state == CallState.FAILED_BEFORE_EFFECT:
        return CallEnd.FAILED
    return CallEnd.WRONG if code or state == CallState.HANDED_OFF else CallEnd.DONE
