"""The state machine of a call, and claims: which call a proposal is.

    proposed → refused | pending | committed | done          (done at once: a released read)
    pending → committed | denied | expired | void
    committed → done | failed_before_effect | in_doubt
    done → compensated | handed_off
    in_doubt → done | not_done | compensated
    handed_off → compensated                                 (what reverses it was in doubt until now)

Every move is a compare-and-set on (state, epoch) and appends a record in the same unit. `epoch` rises when recovery
takes a call over, so that a late finish of the old owner fails and is kept as evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Index, Text
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row
from comptroller_audit.errors import TransitionError
from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import CallState, Code, Refusal

__all__ = [
    "CALLS",
    "CLAIMS",
    "TRANSITIONS",
    "CallRow",
    "Claim",
    "ClaimRow",
    "ClaimsFree",
    "Existing",
    "Lost",
    "MoveCall",
    "NoteOnCall",
    "OpenCall",
    "ReleaseClaims",
    "SwapClaims",
    "TakeClaims",
    "log_indexes",
]


class CallRow(SQLModel, table=True):
    """One call. `principal` is a keyed digest; what can be guessed stands only in sealed payloads."""

    __tablename__ = "calls"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("calls_by_state", "tenant", "state"),
        Index("calls_by_task", "tenant", "task"),
    )
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    state: str
    epoch: int
    owner: str
    principal: str
    actor: str
    task: str
    step: int
    tool: str
    effect: str
    claims: str = Field(sa_type=Text)
    records: str = Field(sa_type=Text)
    approval: str
    code: str
    created_ms: int = Field(sa_type=BigInteger)
    updated_ms: int = Field(sa_type=BigInteger)


class ClaimRow(SQLModel, table=True):
    """Which call holds a claim key. `id` and `arguments` are keyed digests; an empty `call` is a released claim."""

    __tablename__ = "claims"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    call: str
    arguments: str
    at_ms: int = Field(sa_type=BigInteger)


CALLS = Relation(CallRow)
CLAIMS = Relation(ClaimRow)

_S = CallState
TRANSITIONS: Mapping[CallState, frozenset[CallState]] = {
    _S.PROPOSED: frozenset({_S.REFUSED, _S.PENDING, _S.COMMITTED, _S.DONE}),
    _S.PENDING: frozenset({_S.COMMITTED, _S.DENIED, _S.EXPIRED, _S.VOID}),
    _S.COMMITTED: frozenset({_S.DONE, _S.FAILED_BEFORE_EFFECT, _S.IN_DOUBT, _S.NOT_DONE, _S.HANDED_OFF}),
    _S.DONE: frozenset({_S.COMPENSATED, _S.HANDED_OFF}),
    _S.IN_DOUBT: frozenset({_S.DONE, _S.NOT_DONE, _S.COMPENSATED}),
    _S.HANDED_OFF: frozenset({_S.COMPENSATED}),
}
"""Allowed moves. `committed → not_done` is recovery's: the look-up proved that nothing happened, in one step.
`committed → handed_off` is `done → handed_off` in one record: the effect happened and its read-back differs.
`handed_off → compensated` is late news: the call that was to reverse it was in doubt, and did."""

_HOLDS_THE_CLAIM = frozenset({_S.PENDING, _S.COMMITTED, _S.IN_DOUBT})
_STAYS = _HOLDS_THE_CLAIM
"""A call may be recorded anew without changing state: asked again, taken over."""
_EFFECT_STANDS = frozenset({_S.DONE, _S.HANDED_OFF})


@dataclass(frozen=True, slots=True)
class Claim:
    """One key a proposal is known by. `replays` says whether a success is answered again rather than repeated."""

    id: str
    arguments: str
    explicit: bool = False
    replays: bool = False
    window_ms: int = 86_400_000


@dataclass(frozen=True, slots=True)
class Existing:
    """Stop: the claim belongs to another call, whose state the repeat gets. `replay` says its answer stands."""

    call: str
    row: Row
    replay: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """Stop: the compare-and-set failed; somebody else moved the call."""

    call: str
    row: Row | None


@dataclass(frozen=True, slots=True)
class TakeClaims:
    """Part: take the claim keys for `call`, unless a call that holds one stands in the way."""

    call: str
    claims: tuple[Claim, ...]

    def keys(self) -> Iterable[Key]:
        return [(CLAIMS, claim.id) for claim in self.claims]

    def apply(self, state: State) -> Stop | None:
        if (stop := self.standing(state)) is not None:
            return stop
        for claim in self.claims:
            state.put(
                CLAIMS, claim.id, {"call": self.call, "arguments": claim.arguments, "at_ms": state.now_ms}
            )
        return None

    def standing(self, state: State) -> Stop | None:
        """Who stands in the way."""
        for claim in self.claims:
            row = state.get(CLAIMS, claim.id)
            if row and row["call"] and row["call"] != self.call:
                stop = self._against(state, claim, row)
                if stop is not None:
                    return stop
        return None

    def _against(self, state: State, claim: Claim, row: Row) -> Stop | None:
        other = state.get(CALLS, row["call"])
        if other is None:
            return None
        if claim.explicit and row["arguments"] != claim.arguments and _stands(other):
            return Refusal(
                Code.KEY_CONFLICT,
                "This idempotency key was used before with other arguments. Use a new key for a new action.",
                retry="never",
                call=row["call"],
            )
        if other["state"] in _HOLDS_THE_CLAIM:
            return Existing(row["call"], other, replay=False)
        if other["state"] in _EFFECT_STANDS:
            young = (
                state.now_ms - other["updated_ms"] < claim.window_ms
            )  # since the success, not the proposal
            if claim.explicit or (claim.replays and young):
                return Existing(row["call"], other, replay=True)
        return None


@dataclass(frozen=True, slots=True)
class ClaimsFree(TakeClaims):
    """Part: the same check, and nothing is taken: for a call that is not yet to be. One that ran is `Lost`."""

    def keys(self) -> Iterable[Key]:
        return [(CALLS, self.call), *TakeClaims.keys(self)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(CALLS, self.call)
        if row is not None and row["state"] != CallState.PENDING:
            return Lost(self.call, row)
        return self.standing(state)


def _stands(call: Row) -> bool:
    return call["state"] in _HOLDS_THE_CLAIM or call["state"] in _EFFECT_STANDS


@dataclass(frozen=True, slots=True)
class OpenCall:
    """Part: write a call's first row in `to` and append its record.

    `fields` gives every column of `CallRow` but tenant, id, state, epoch, records and the times. `notes` are appended
    before the record, so that a commit's last receipt is the record's.
    """

    call: str
    to: CallState
    fields: Mapping[str, Any]
    record: LogRecord
    notes: tuple[LogRecord, ...] = ()

    def keys(self) -> Iterable[Key]:
        return [(CALLS, self.call)]

    def apply(self, state: State) -> Stop | None:
        if self.to not in TRANSITIONS[CallState.PROPOSED]:
            raise TransitionError(f"A call cannot begin as {self.to}.")
        if (row := state.get(CALLS, self.call)) is not None:
            return Lost(self.call, row)
        indexes = [state.append(record) for record in (*self.notes, self.record)]
        state.put(
            CALLS,
            self.call,
            {
                **self.fields,
                "state": self.to.value,
                "epoch": 1,
                "records": ",".join(map(str, indexes)),
                "created_ms": state.now_ms,
                "updated_ms": state.now_ms,
            },
        )
        return None


@dataclass(frozen=True, slots=True)
class MoveCall:
    """Part: move a call from `came_from` at `epoch` to `to` and append its record. `epoch` None skips that check
    (a person's decision on a pending call, where the state alone guards). `new_epoch` fences an old owner off;
    `notes` are appended before the record."""

    call: str
    came_from: CallState
    to: CallState
    epoch: int | None
    record: LogRecord
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    new_epoch: bool = False
    notes: tuple[LogRecord, ...] = ()

    def keys(self) -> Iterable[Key]:
        return [(CALLS, self.call)]

    def apply(self, state: State) -> Stop | None:
        stays = self.to is self.came_from and self.came_from in _STAYS
        if not stays and self.to not in TRANSITIONS.get(self.came_from, frozenset()):
            raise TransitionError(f"A call cannot move from {self.came_from} to {self.to}.")
        row = state.get(CALLS, self.call)
        if row is None or row["state"] != self.came_from or self.epoch not in (None, row["epoch"]):
            return Lost(self.call, row)
        indexes = [state.append(record) for record in (*self.notes, self.record)]
        state.put(
            CALLS,
            self.call,
            {
                **row,
                **self.changes,
                "state": self.to.value,
                "epoch": row["epoch"] + (1 if self.new_epoch else 0),
                "records": ",".join((row["records"], *map(str, indexes))),
                "updated_ms": state.now_ms,
            },
        )
        return None


@dataclass(frozen=True, slots=True)
class ReleaseClaims:
    """Part: give up the claims `call` holds, so that the same proposal may be made again."""

    call: str

    def keys(self) -> Iterable[Key]:
        return [(CALLS, self.call)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(CALLS, self.call)
        for claim in row["claims"].split(",") if row and row["claims"] else ():
            held = state.get(CLAIMS, claim)
            if held is not None and held["call"] == self.call:
                state.put(CLAIMS, claim, {**held, "call": ""})
        return None


@dataclass(frozen=True, slots=True)
class SwapClaims:
    """Part: an edited call is known by `kept`, the keys it was proposed with, and by `taken`, those of what will run.

    Keys of an edit before this one are given up. Another call that holds one of `taken` stands in the way.
    """

    call: str
    kept: tuple[str, ...]
    taken: tuple[Claim, ...]

    def keys(self) -> Iterable[Key]:
        return [(CALLS, self.call), *((CLAIMS, claim.id) for claim in self.taken)]

    def apply(self, state: State) -> Stop | None:
        if (stop := TakeClaims(self.call, self.taken).apply(state)) is not None:
            return stop
        row = state.get(CALLS, self.call)
        if row is None:
            return Lost(self.call, None)
        now = tuple(dict.fromkeys((*self.kept, *(claim.id for claim in self.taken))))
        for claim in row["claims"].split(","):
            held = state.get(CLAIMS, claim) if claim and claim not in now else None
            if held is not None and held["call"] == self.call:
                state.put(CLAIMS, claim, {**held, "call": ""})
        state.put(CALLS, self.call, {**row, "claims": ",".join(now)})
        return None


NOTES_LISTED_MAX = 100
"""Records a call's row lists before further notes stand in the log only. Moves of the call are always listed."""


@dataclass(frozen=True, slots=True)
class NoteOnCall:
    """Part: append a record that belongs to a call without moving it (late evidence, a replay).

    `always` lists it however many there are: a person's word must not be crowded out by an agent's repeats.
    """

    call: str
    record: LogRecord
    always: bool = False

    def keys(self) -> Iterable[Key]:
        return [(CALLS, self.call)]

    def apply(self, state: State) -> Stop | None:
        index = state.append(self.record)
        row = state.get(CALLS, self.call)
        if row is not None and (self.always or row["records"].count(",") < NOTES_LISTED_MAX):
            state.put(CALLS, self.call, {**row, "records": f"{row['records']},{index}"})
        return None


def log_indexes(row: Row) -> list[int]:
    """The log entries of a call, oldest first."""
    return [int(text) for text in row["records"].split(",") if text]
