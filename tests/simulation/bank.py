"""A bank in memory, as a source: its own ledger of what really happened, and every way a source can go wrong.

The ledger is the oracle of the simulation. It knows nothing of Comptroller's tables.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from comptroller_audit.canonical import canonical_bytes
from comptroller_tools.source import Action, EffectHappened, Outcome, ToolDefinition

__all__ = ["READS", "Bank", "BankLine", "Manner", "Switchboard"]

READS = frozenset({"look", "find", "statement"})


class Manner(StrEnum):
    """How one call of a side effect goes."""

    WELL = "well"
    RAISES_BEFORE = "raises before"
    RAISES_AFTER = "raises after"
    UNSURE_BEFORE = "unsure before"
    UNSURE_AFTER = "unsure after"
    NOT_DONE = "says it did nothing, and did nothing"
    HANGS_BEFORE = "hangs before"
    HANGS_AFTER = "hangs after"
    LATE = "gives up at the deadline and acts later"
    SHORT = "moves a dollar less than it says"
    NOT_WRITTEN = "says done and did nothing"
    GARBAGE = "does it and answers nonsense"


_COMMON = (
    Manner.RAISES_BEFORE, Manner.RAISES_AFTER, Manner.UNSURE_BEFORE, Manner.UNSURE_AFTER, Manner.NOT_DONE,
    Manner.HANGS_BEFORE, Manner.HANGS_AFTER, Manner.LATE, Manner.GARBAGE,
)  # fmt: skip
_LIES = (Manner.SHORT, Manner.NOT_WRITTEN)
"""Only where the call is read back can anybody tell."""


@dataclass(frozen=True, slots=True)
class BankLine:
    """One thing that really happened. `key` is the effect key it came with."""

    key: str
    tool: str
    arguments: Mapping[str, Any]
    moved_usd: int
    at_s: float


@dataclass(slots=True)
class Bank:
    """Accounts, the ledger, and the mood of the day: the chance that a call goes wrong."""

    random: random.Random
    trouble: float
    acting_for: Callable[[Action], AbstractContextManager[None]]
    busy: Callable[[], int]
    now_s: Callable[[], float]
    detach: Callable[[Awaitable[None], bool], None]
    accounts: dict[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])
    ledger: list[BankLine] = field(default_factory=list[BankLine])
    strange: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Which account moved when, outside of any call that was running."""
    manners: dict[str, Manner] = field(default_factory=dict[str, Manner])

    def outside(self, account: str, by_usd: float) -> None:
        """Somebody else moves money: versions change under a person who is still reading."""
        self._move(account, by_usd)
        self.strange.append((account, self.now_s()))

    async def call(self, action: Action, deadline: float) -> Outcome:
        """What `Source.call` is for the round."""
        if action.tool in READS:
            return await self._read(action)
        with self.acting_for(action):
            return await self._act(action, deadline)

    def paid(self, arguments: Mapping[str, Any]) -> BankLine | None:
        """The payment that a receipt is for. That it was taken back before is nothing this bank looks at."""
        end = str(arguments["receipt"])[-12:]
        return next((line for line in self.ledger if line.tool == "pay" and line.key.endswith(end)), None)

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _act(self, action: Action, deadline: float) -> Outcome:
        manner = self._manner(action)
        self.manners[action.effect_key] = manner
        await asyncio.sleep(self.random.choice((0.0, 0.01, 0.3, 2.0)))
        if action.tool == "unpay" and self.paid(action.arguments) is None:
            return Outcome(EffectHappened.NONE, error="unknown", told_model="There is no such payment.")
        if manner is Manner.HANGS_BEFORE:
            await asyncio.sleep(3600)
        if manner is Manner.RAISES_BEFORE:
            raise ConnectionResetError("the bank hung up")
        if manner is Manner.UNSURE_BEFORE:
            return Outcome(EffectHappened.UNKNOWN, error="the bank does not know")
        if manner is Manner.NOT_DONE:
            return Outcome(EffectHappened.NONE, error="closed", told_model="The bank is closed.")
        if manner is Manner.LATE:
            self.detach(self._later(action), action.tool == "wire")
            await asyncio.sleep(max(0.0, deadline - self.now_s()))
            return Outcome(EffectHappened.UNKNOWN, error="no answer by the deadline")
        if manner is not Manner.NOT_WRITTEN:
            self._write(action, 1 if manner is Manner.SHORT else 0)
        await asyncio.sleep(self.random.choice((0.0, 0.01, 0.3)))
        if manner is Manner.HANGS_AFTER:
            await asyncio.sleep(3600)
        if manner is Manner.RAISES_AFTER:
            raise ConnectionResetError("the bank hung up")
        if manner is Manner.UNSURE_AFTER:
            return Outcome(EffectHappened.UNKNOWN, error="the bank does not know")
        if manner is Manner.GARBAGE:
            return Outcome(EffectHappened.DONE, value={"receipt": 7})
        return Outcome(EffectHappened.DONE, value={"receipt": f"rcp-{action.effect_key[-12:]}"})

    def _manner(self, action: Action) -> Manner:
        if self.random.random() >= self.trouble:
            return Manner.WELL
        return self.random.choice((*_COMMON, *_LIES, *_LIES) if action.tool == "pay" else _COMMON)

    async def _read(self, action: Action) -> Outcome:
        if self.random.random() < self.trouble / 6:
            return Outcome(EffectHappened.UNKNOWN, error="the bank does not answer")
        await asyncio.sleep(self.random.choice((0.0, 0.0, 0.02, 0.5)))
        if action.tool == "look":
            account = str(action.arguments["account"])
            if account not in self.accounts:
                return Outcome(EffectHappened.NONE, error="unknown", told_model="There is no such account.")
            balance, version = self.accounts[account]
            value: Any = {"account": account, "balance_usd": balance, "version": f"v{version}"}
        elif action.tool == "find":
            value = {"found": any(line.key == action.arguments["effect_key"] for line in self.ledger)}
        else:
            value = {"lines": len(self.ledger)}
        return Outcome(EffectHappened.DONE, value=value)

    async def _later(self, action: Action) -> None:
        await asyncio.sleep(self.random.uniform(4, 16))
        self._write(action, 0)

    def _move(self, account: str, by_usd: float) -> None:
        balance, version = self.accounts[account]
        self.accounts[account] = (round(balance + by_usd, 2), version + 1)

    def _write(self, action: Action, short: int) -> None:
        moved = int(action.arguments.get("amount_usd", 0)) - short
        if action.tool == "unpay" and (paid := self.paid(action.arguments)) is not None:
            self._move(str(paid.arguments["account"]), paid.moved_usd)
            if self.manners[action.effect_key] is not Manner.WELL:
                self.strange.append((str(paid.arguments["account"]), self.now_s()))
        if action.tool == "pay":
            self._move(str(action.arguments["account"]), -moved)
            if self.manners[action.effect_key] is Manner.LATE:
                self.strange.append((str(action.arguments["account"]), self.now_s()))
        self.ledger.append(
            BankLine(action.effect_key, action.tool, dict(action.arguments), moved, self.now_s())
        )


class Switchboard:
    """The source that is compiled into catalogue and policy once; each round connects its own bank."""

    name = "bank"
    identity: Mapping[str, Any] = {"transport": "simulated"}

    def __init__(self) -> None:
        self.bank: Bank | None = None

    def definitions(self) -> Mapping[str, ToolDefinition]:
        return _DEFINITIONS

    async def call(self, action: Action, deadline: float) -> Outcome:
        assert self.bank is not None, "no round is running"
        return await self.bank.call(action, deadline)

    @property
    def busy(self) -> int:
        """Tools of the asking process that have not ended."""
        return self.bank.busy() if self.bank is not None else 0

    async def close(self) -> None:
        """Other processes of the round go on using it."""


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _define(name: str, gives: dict[str, Any], **takes: Mapping[str, Any]) -> ToolDefinition:
    text = f"{name.capitalize()}, at a bank that exists in memory only."
    schema = _object(**takes)
    digest = hashlib.sha256(canonical_bytes({"name": name, "in": schema, "out": gives})).hexdigest()
    return ToolDefinition(name, text, schema, gives, digest, stores_effect_key=name not in READS)


_ACCOUNT: Mapping[str, Any] = {"type": "string", "pattern": "^acc-[a-z]$", "maxLength": 5}
_TEXT: Mapping[str, Any] = {"type": "string", "maxLength": 64}
_USD: Mapping[str, Any] = {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 100000}
_RECEIPT = _object(receipt=_TEXT)
_DEFINITIONS: Mapping[str, ToolDefinition] = {
    definition.name: definition
    for definition in (
        _define("look", _object(account=_ACCOUNT, balance_usd=_USD, version=_TEXT), account=_ACCOUNT),
        _define("find", _object(found={"type": "boolean"}), effect_key=_TEXT),
        _define("statement", _object(lines={"type": "integer"})),
        _define("pay", _RECEIPT, account=_ACCOUNT, amount_usd=_USD),
        _define("unpay", _RECEIPT, receipt=_TEXT),
        _define("wire", _RECEIPT, account=_ACCOUNT, amount_usd=_USD),
        _define("note", _RECEIPT, account=_ACCOUNT, text=_TEXT),
        _define("order", _RECEIPT, account=_ACCOUNT, text=_TEXT),
    )
}
