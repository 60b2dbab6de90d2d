"""Parts of units that owe, begin and end the reversal of a call; every one checks how far it has come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from comptroller_audit.calls import CALLS, Lost, MoveCall, ReleaseClaims
from comptroller_audit.compensations import COMPENSATIONS, CompensationState, cover_id
from comptroller_audit.database import Row
from comptroller_audit.query import Logged
from comptroller_audit.unit import Key, Part, State, Stop
from comptroller_audit.vocabulary import CallState, RecordType, Refusal
from comptroller_budgets.history import BumpHistory
from comptroller_budgets.ledger import HOLDS, Release, Settle
from comptroller_server.call.case import Compensates
from comptroller_server.undo.reversal import ENDED_GOOD, compensation_record, reversed_refusal, told_of

__all__ = ["BeginReversal", "EndReversal", "OweReversal", "reversal_found_out", "reversal_given_up"]

_WRONG = "The change was made and is wrong."

_HAPPENED = frozenset({CallState.DONE, CallState.HANDED_OFF})
_NOT_BEGUN_AGAIN = frozenset({CompensationState.OWED, CompensationState.BEGUN, CompensationState.DOUBTED})


@dataclass(frozen=True, slots=True)
class OweReversal:
    """Part: `call` went wrong and process `owner` is going to reverse it. `guard` keeps others off its record."""

    call: str
    owner: str
    guard: str

    def keys(self) -> Iterable[Key]:
        return [(COMPENSATIONS, self.call)]

    def apply(self, state: State) -> Stop | None:
        row: Row = {
            "state": CompensationState.OWED.value,
            "call": "",
            "owner": self.owner,
            "guard": self.guard,
            "ordered": False,
        }
        state.put(COMPENSATIONS, self.call, row)
        return None


@dataclass(frozen=True, slots=True)
class BeginReversal:
    """Part: call `by` is committed to reverse `call`; only where that is owed, or ordered and not under way."""

    call: str
    by: str
    owner: str
    ordered: bool

    def keys(self) -> Iterable[Key]:
        return [(COMPENSATIONS, self.call), (CALLS, self.call)]

    def apply(self, state: State) -> Stop | None:
        call, row = state.get(CALLS, self.call), state.get(COMPENSATIONS, self.call)
        if call is None or call["state"] != CallState.DONE:
            return Lost(self.call, call)
        if self.ordered:
            if row is not None and row["state"] in _NOT_BEGUN_AGAIN:
                return Lost(self.call, call)
            row = {"guard": "", "ordered": True}
        elif row is None or row["state"] != CompensationState.OWED:
            return Lost(self.call, call)
        begun = {**row, "state": CompensationState.BEGUN.value, "call": self.by, "owner": self.owner}
        state.put(COMPENSATIONS, self.call, begun)
        return None


@dataclass(frozen=True, slots=True)
class EndReversal:
    """Part: what becomes of `call` when `by` has ended in `state`, or in doubt; None: it never began.

    Reversed for good, it is compensated and may be proposed again. Otherwise it is handed to a person, unless it was
    a good call whose reversal was ordered. Nothing to do for a call whose reversal is another one's or is over.
    """

    call: str
    by: str
    state: CallState | None
    target: str
    task: str
    attempt: str | None
    told: Refusal | None

    def keys(self) -> Iterable[Key]:
        return [(COMPENSATIONS, self.call), (CALLS, self.call), (HOLDS, cover_id(self.call))]

    def apply(self, state: State) -> Stop | None:
        row, call = state.get(COMPENSATIONS, self.call), state.get(CALLS, self.call)
        if row is None or call is None or row["call"] != self.by or row["state"] == CompensationState.OVER:
            return None
        self._move(state, CallState(call["state"]), row)
        if row["guard"]:
            BumpHistory((row["guard"],), -1).apply(state)
        if not row["ordered"]:
            self._close_cover(state)
        doubted = self.state is CallState.IN_DOUBT
        left = CompensationState.DOUBTED if doubted else CompensationState.OVER
        state.put(COMPENSATIONS, self.call, {**row, "state": left.value, "guard": ""})
        return None

    def _move(self, state: State, at: CallState, row: Row) -> None:
        """The call's own move with its record. A second piece of news may find that there is nothing to move."""
        to = CallState.COMPENSATED if self.state in ENDED_GOOD else CallState.HANDED_OFF
        if to is at or (row["ordered"] and to is CallState.HANDED_OFF):
            return
        record = compensation_record(self.call, self.task, self.attempt, to, self.by, self.target, self.told)
        code = {"code": self.told.code.value} if self.told is not None and not row["ordered"] else {}
        MoveCall(self.call, at, to, None, record, code).apply(state)
        if to is CallState.COMPENSATED:
            ReleaseClaims(self.call).apply(state)

    def _close_cover(self, state: State) -> None:
        if self.state in _HAPPENED:
            Settle(cover_id(self.call)).apply(state)
        elif self.state is not CallState.IN_DOUBT:
            Release(cover_id(self.call)).apply(state)


def reversal_found_out(logged: Sequence[Logged], by: str, state: CallState) -> list[Part]:
    """What a look-up or a person says about call `by`, which may be one that reverses another: for the other one."""
    action = next((e.packet for e in reversed(logged) if e.type is RecordType.ACTION and e.packet), None)
    if action is None or not isinstance(call := action.get("compensates"), str):
        return []
    target, task = str(action.get("tool")), str(action.get("task"))
    ordered_by = str(action.get("ordered_by") or "")
    compensates = Compensates(call, "", None, task, _WRONG, "same_call", ordered_by=ordered_by)
    return [EndReversal(call, by, state, target, task, None, told_of(compensates, target, by, state, None))]


def reversal_given_up(call: str, task: str, target: str) -> EndReversal:
    """A reversal that never began, and will not: a person has to look."""
    told = reversed_refusal(call, "", target, None, wrong=_WRONG, retry="person")
    return EndReversal(call, "", None, target, task, None, told)
