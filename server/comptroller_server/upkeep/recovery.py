"""Recovery: what became of calls whose process is gone. It looks, it never dispatches.

A committed call of a dead owner is looked up by its effect key where the tool declares `recover`; found is done, absent
is not done only where the config says so, and everything else is in doubt until a look-up or a person says more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import cast

import structlog

from comptroller_audit.ambient import Clock
from comptroller_audit.calls import CALLS, MoveCall, log_indexes
from comptroller_audit.compensations import owed
from comptroller_audit.database import Row
from comptroller_audit.errors import StoreError
from comptroller_audit.owners import Owner, OwnerLocks
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import Logged, calls_in_state, entries
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import FaultPoint, Reader, Store
from comptroller_audit.unit import Committed, Part, Unit
from comptroller_audit.vocabulary import CallState, Effect, JsonObject, RecordType
from comptroller_policy.approvals import APPROVALS
from comptroller_server.call.commits import Commits
from comptroller_server.call.lookups import LookUpFailed, LookUps
from comptroller_server.undo.reversal_parts import reversal_found_out, reversal_given_up
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.declarations import AbsentMeans

__all__ = ["Recovered", "Recovery"]

LOOKUP_S_MAX = 10.0
_log = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one round found out about one call."""

    call: str
    tool: str
    state: CallState
    why: str


class Recovery:
    """Runs at start and every `recovery_interval_s`."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        locks: OwnerLocks,
        owner: Owner,
        catalogue: Catalogue,
        look_ups: LookUps,
        commits: Commits,
        clock: Clock,
        fault: FaultPoint,
        reversing: Collection[str] = (),
    ) -> None:
        self._store = store
        self._ring = ring
        self._locks = locks
        self._owner = owner
        self._catalogue = catalogue
        self._look_ups = look_ups
        self._commits = commits
        self._clock = clock
        self._fault = fault
        self._reversing = reversing

    async def round(self, tenant: str) -> list[Recovered]:
        """Settle what can be settled now. Raises `StoreError` when the store cannot be read."""
        found: list[Recovered] = []
        states = (CallState.COMMITTED, CallState.IN_DOUBT)
        for call, row in await self._store.read(lambda reader: calls_in_state(reader, tenant, states)):
            own = self._owner.is_me(row["owner"])
            if own and row["state"] == CallState.COMMITTED:
                continue
            gone = not own and self._locks.is_free(row["owner"])
            if row["state"] == CallState.COMMITTED and not gone:
                continue
            try:
                recovered = await self._recover(tenant, call, row, gone)
            except StoreError as error:
                _log.warning("recovery waits for the store", call=call, error=str(error))
                continue
            if recovered is not None:
                found.append(recovered)
        await self._hand_over(tenant)
        await self._expire(tenant)
        return found

    async def _recover(self, tenant: str, call: str, row: Row, gone: bool) -> Recovered | None:
        logged = await self._store.read(lambda reader: entries(reader, self._ring, tenant, log_indexes(row)))
        action = next((e for e in reversed(logged) if e.type is RecordType.ACTION and e.packet), None)
        tool = self._catalogue.find(row["tool"])
        self._fault("recovery.before")
        state, why, output = await self._find_out(tenant, call, tool, action, gone)
        if state.value == row["state"]:
            return None
        packet: JsonObject = {
            "v": 1,
            "call": call,
            "state": state.value,
            "why": why,
            "output": output,
            "owner": row["owner"],
            "recovered_by": self._owner.id,
            "problem": None,
        }
        record = LogRecord(RecordType.RECOVERED, packet, call=call, task=row["task"])
        move = MoveCall(call, CallState(row["state"]), state, row["epoch"], record, new_epoch=True)
        unit = Unit(
            [
                *self._evidence(call, row, state, action),
                move,
                *self._aftermath(call, row, state, action),
                *reversal_found_out(logged, call, state),
            ]
        )
        outcome = await self._store.commit(tenant, unit)
        self._fault("recovery.after")
        if not isinstance(outcome, Committed):
            return None
        _log.info("recovered", call=call, tool=row["tool"], state=state.value, why=why)
        return Recovered(call, row["tool"], state, why)

    async def _find_out(
        self, tenant: str, call: str, tool: Tool | None, action: Logged | None, gone: bool
    ) -> tuple[CallState, str, JsonObject | None]:
        """The state that is certain now, in words why, and the record that was found."""
        rule = tool.config.recover if tool is not None else None
        if tool is None or action is None or action.packet is None or rule is None:
            return CallState.IN_DOUBT, "its process is gone and its tool declares no look-up", None
        scope = {
            "input": action.packet["arguments"],
            "call": {"id": call, "effect_key": call},
            "task": {"id": action.packet["task"]},
        }
        until = self._clock.monotonic() + LOOKUP_S_MAX
        try:
            value = await self._look_ups.read(tenant, rule.tool, rule.arguments, scope, until, call)
        except LookUpFailed as error:
            return CallState.IN_DOUBT, f"the look-up failed ({error})", None
        if _is_found(value):
            return (
                CallState.DONE,
                f"looked up with {rule.tool}: the effect is there",
                cast("JsonObject", value),
            )
        if rule.absent_means is AbsentMeans.NOT_DONE and gone:
            return CallState.NOT_DONE, f"looked up with {rule.tool}: the effect is not there", None
        return CallState.IN_DOUBT, f"looked up with {rule.tool}: absent, which proves nothing yet", None

    def _evidence(self, call: str, row: Row, state: CallState, action: Logged | None) -> list[Part]:
        if row["state"] != CallState.COMMITTED:
            return []  # counted when it came to be in doubt
        packet = action.packet if action is not None else None
        return self._commits.recovered(call, row, state, packet or {})

    def _aftermath(self, call: str, row: Row, state: CallState, action: Logged | None) -> list[Part]:
        packet = action.packet if action is not None and action.packet is not None else {}
        counted = [str(row_id) for row_id in cast("list[str]", packet.get("counted") or [])]
        was_running = row["state"] == CallState.COMMITTED
        in_task = was_running and "compensates" not in packet
        guards = [row_id for row_id in counted if row_id.startswith("record:")] if was_running else []
        rest = [row_id for row_id in counted if not row_id.startswith("record:")]
        return self._commits.aftermath(
            call,
            row["task"] if in_task else None,
            state,
            guards[0] if guards else None,
            rest,
            changed_by=row["tool"] if row["effect"] != Effect.READ else "",
        )

    async def _hand_over(self, tenant: str) -> None:
        """Calls that were to be reversed by a process that is gone: nothing is dispatched here, a person must look."""
        for one in await self._store.read(lambda reader: owed(reader, tenant)):
            mine = self._owner.is_me(one.owner)
            if one.call in self._reversing or not (mine or self._locks.is_free(one.owner)):
                continue
            rows = await self._store.read(partial(_rows_of, tenant, one.call))
            row = rows.get(one.call, {"tool": "", "task": ""})
            tool = self._catalogue.find(row["tool"])
            compensation = tool.compensation if tool is not None else None
            target = compensation.target.name if compensation is not None else ""
            await self._store.commit(tenant, Unit([reversal_given_up(one.call, row["task"], target)]))

    async def _expire(self, tenant: str) -> None:
        """Close pending calls that nobody decided in time."""
        now = self._clock.now_ms()

        def overdue(reader: Reader) -> list[tuple[str, Row]]:
            pending = calls_in_state(reader, tenant, (CallState.PENDING,))
            approvals = (
                reader.rows(tenant, APPROVALS, [row["approval"] for _, row in pending]) if pending else {}
            )
            return [
                (call, row)
                for call, row in pending
                if row["approval"] in approvals and approvals[row["approval"]]["expires_ms"] <= now
            ]

        for call, row in await self._store.read(overdue):
            packet: JsonObject = {"v": 1, "call": call, "state": "expired", "why": "nobody decided in time"}
            record = LogRecord(RecordType.CALL_CLOSED, packet, call=call, task=row["task"])
            await self._store.commit(
                tenant,
                self._commits.close_pending(
                    call, row["approval"], row["task"], CallState.EXPIRED, row["epoch"], record
                ),
            )


def _rows_of(tenant: str, call: str, reader: Reader) -> dict[str, Row]:
    return reader.rows(tenant, CALLS, [call])


def _is_found(value: object) -> bool:
    """A look-up says found by `found: true`, or, without such a field, by returning anything at all."""
    if isinstance(value, dict) and "found" in value:
        return cast("JsonObject", value)["found"] is True
    return value not in (None, {}, [], "")
