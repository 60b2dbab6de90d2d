"""What moves a rollout: promotions and demotions, and the evidence that every outcome and every vote leaves.

Evidence is counted in the commit that makes the thing countable, under the head lock, so it is exact on any number of
processes. A breach (a `silent_wrong` outcome, or a canary call in doubt) demotes in that very commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from comptroller_audit.database import Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_policy.rollout import PERCENT_MAX, ROLLOUTS, Word, effective, level_in, proof_of

__all__ = [
    "EVIDENCE",
    "CountOutcome",
    "Demote",
    "Ended",
    "NotPromoted",
    "Promote",
    "count_edit",
    "count_unedited",
    "count_vote",
    "missing_for",
    "next_step",
]

EVIDENCE = (
    "calls",
    "verified",
    "silent_wrong",
    "in_doubt",
    "agreed",
    "denied",
    "clean",
    "unedited",
    "edited",
)
_NO_EVIDENCE = dict.fromkeys(EVIDENCE, 0)
_NO_WORD: Row = {
    "word": Word.CONFIGURED.value,
    "percent": 0,
    "base": 0,
    "reason": "",
    "changed_by": "",
    "seq": 0,
    "at_ms": 0,
    "proof": "",
    **_NO_EVIDENCE,
}


def _row(state: State, tool: str) -> Row:
    return state.get(ROLLOUTS, tool) or _NO_WORD


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended, as far as a rollout is concerned."""

    canary: bool
    verified: bool = False
    silent_wrong: bool = False
    in_doubt: bool = False

    @property
    def breach(self) -> str | None:
        """What demotes the tool, in a word, or None."""
        if self.silent_wrong:
            return "silent_wrong"
        return "in_doubt" if self.in_doubt and self.canary else None


@dataclass(frozen=True, slots=True)
class CountOutcome:
    """Part: count a call whose effect happened or may have happened; a breach demotes its tool at once.

    Stands before the part that appends the call's own record, so that the call's receipt is the last of its unit.
    """

    tool: str
    call: str
    configured: int
    ended: Ended

    def keys(self) -> Iterable[Key]:
        return [(ROLLOUTS, self.tool)]

    def apply(self, state: State) -> Stop | None:
        ended, breach = self.ended, self.ended.breach
        if breach is not None and _row(state, self.tool)["word"] != Word.DEMOTED:
            reason = f"call {self.call} ended {breach}"
            _demote(state, self.tool, self.configured, reason, "comptroller", self.call)
        row = _row(state, self.tool)
        contradicted = ended.silent_wrong or ended.in_doubt
        counted = {
            "calls": row["calls"] + 1,
            "verified": row["verified"] + ended.verified,
            "silent_wrong": row["silent_wrong"] + ended.silent_wrong,
            "in_doubt": row["in_doubt"] + ended.in_doubt,
            "clean": 0 if contradicted else row["clean"] + ended.verified,
        }
        state.put(ROLLOUTS, self.tool, {**row, **counted})
        return None


def count_vote(state: State, tool: str, yes: bool) -> None:
    """Count a person's yes or no to one call of `tool`, in the commit that records the vote."""
    row = _row(state, tool)
    counted = {"agreed": row["agreed"] + 1}
    if not yes:
        counted = {"denied": row["denied"] + 1, "clean": 0, "unedited": 0}
    state.put(ROLLOUTS, tool, {**row, **counted})


def count_unedited(state: State, tool: str) -> None:
    """Count a call that people agreed to as it was proposed, in the commit that uses their yes."""
    row = _row(state, tool)
    state.put(ROLLOUTS, tool, {**row, "unedited": row["unedited"] + 1})


def count_edit(state: State, tool: str) -> None:
    """Count a proposal that a person had to change, in the commit that changes it."""
    row = _row(state, tool)
    state.put(ROLLOUTS, tool, {**row, "edited": row["edited"] + 1, "unedited": 0})


# ------------------------------------------------------------------------------------------- by a person


@dataclass(frozen=True, slots=True)
class NotPromoted:
    """Stop: what is missing before the tool may go on."""

    tool: str
    missing: tuple[str, ...]


_FINAL = (
    "it is in no canary, because it declares no `compensate` or its effect is delete or execute; only "
    "`rollout.mode: auto` in the configuration takes its gate away"
)


def next_step(now: int, steps: Sequence[int]) -> int | None:
    return next((step for step in steps if step > now), None)


def missing_for(
    row: Row | None, now: int, to: int | None, steps: Sequence[int], needed: int, unedited: int = 0
) -> tuple[str, ...]:
    """What keeps a tool at `now` percent from `to` (the next step by default); empty when nothing does.

    `needed` is of clean verified calls, `unedited` of calls that people approved and changed nothing of.
    """
    step = next_step(now, steps)
    if not steps:
        return (_FINAL,)
    if step is None:
        return (f"it is at {now} % already",)
    if to is not None and to <= now:
        return (f"it is at {now} % already; `comptroller rollout demote` takes it back to 0",)
    missing: list[str] = []
    if to is not None and to > step:
        missing.append(f"one step at a time: the next is {step} %")
    row = row or _NO_WORD
    if (short := needed - row["clean"]) > 0:
        missing.append(
            f"{short} more of {needed} clean verified calls in a row ({row['clean']} now){_broken(row)}"
        )
    if (short := unedited - row["unedited"]) > 0:
        missing.append(
            f"{short} more of {unedited} approvals in a row that changed nothing ({row['unedited']} now; "
            f"{row['edited']} edited since the last change)"
        )
    return tuple(missing)


def _broken(row: Row) -> str:
    """What began the row of clean calls anew, or never let it begin."""
    found = [
        f"{row[name]} {words}"
        for name, words in (
            ("silent_wrong", "silent_wrong"),
            ("in_doubt", "in doubt"),
            ("denied", "denied by a person"),
        )
        if row[name]
    ]
    if row["calls"] and not row["verified"] and not found:
        return "; none of its calls was verified: declare `verify`"
    return f"; since the last change: {', '.join(found)}" if found else ""


@dataclass(frozen=True, slots=True)
class Promote:
    """Part: raise a tool to `to` percent (the next step by default) if the evidence is there, and record it.

    `steps` are those open to the tool; `needed` is how many clean verified calls each takes and `unedited` how many
    approvals that changed nothing; `key` is the tenant's claim key, which proves the promotion.
    """

    tool: str
    to: int | None
    steps: tuple[int, ...]
    configured: int
    needed: int
    reason: str
    by: str
    key: bytes = field(repr=False)
    unedited: int = 0

    def keys(self) -> Iterable[Key]:
        return [(ROLLOUTS, self.tool)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(ROLLOUTS, self.tool)
        now = effective(level_in(row, self.tool, self.key), self.configured)
        missing = missing_for(row, now, self.to, self.steps, self.needed, self.unedited)
        if missing:
            return NotPromoted(self.tool, missing)
        to = self.to or next_step(now, self.steps) or PERCENT_MAX
        state.head.switch_seq += 1
        new: Row = {
            "word": Word.PROMOTED.value,
            "percent": to,
            "proof": proof_of(self.key, self.tool, to, self.configured, state.head.switch_seq),
        }
        _write(state, self.tool, new, now, self.configured, self.reason, self.by)
        return None


@dataclass(frozen=True, slots=True)
class Demote:
    """Part: take a tool out of the canary, now. One that is out by a demotion already stays as it is."""

    tool: str
    configured: int
    reason: str
    by: str

    def keys(self) -> Iterable[Key]:
        return [(ROLLOUTS, self.tool)]

    def apply(self, state: State) -> Stop | None:
        if _row(state, self.tool)["word"] != Word.DEMOTED:
            _demote(state, self.tool, self.configured, self.reason, self.by)
        return None


def _demote(state: State, tool: str, configured: int, reason: str, by: str, call: str | None = None) -> None:
    row = _row(state, tool)
    before = row["percent"] if row["word"] == Word.PROMOTED else configured
    state.head.switch_seq += 1
    new: Row = {"word": Word.DEMOTED.value, "percent": 0, "proof": ""}
    _write(state, tool, new, before, configured, reason, by, call)


def _write(
    state: State,
    tool: str,
    new: Row,
    before: int,
    configured: int,
    reason: str,
    by: str,
    call: str | None = None,
) -> None:
    """Give a new word, with the evidence so far in its record; evidence begins anew."""
    row = _row(state, tool)
    packet: JsonObject = {
        "v": 1,
        "tool": tool,
        "word": new["word"],
        "before": before,
        "percent": new["percent"],
        "configured": configured,
        "reason": reason,
        "by": by,
        "call": call,
        "switch_seq": state.head.switch_seq,
        "evidence": {name: row[name] for name in EVIDENCE},
    }
    state.append(LogRecord(RecordType.ROLLOUT_CHANGED, packet))
    given: Row = {
        "base": configured,
        "reason": reason,
        "changed_by": by,
        "seq": state.head.switch_seq,
        "at_ms": state.now_ms,
    }
    state.put(ROLLOUTS, tool, {**new, **given, **_NO_EVIDENCE})
