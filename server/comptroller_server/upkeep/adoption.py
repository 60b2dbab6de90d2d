"""Going on with a store that was restored from before its newest checkpoint.

What was done after the backup is on no record any more: claims, used approvals and spent budgets would be open again. So
everything is halted until a person has looked at the sources themselves and lifts it, every yes that people gave is
void, and the checkpoints that the store no longer reaches are set aside as the evidence they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import bindparam, or_, select

from comptroller_audit.checkpoint import Checkpoint
from comptroller_audit.database import table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Committed, Key, State, Stop, Unit
from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_budgets.limits import BudgetsConfig
from comptroller_policy.approvals import OPEN, ApprovalRow
from comptroller_policy.switches import SetSwitch, SwitchScope, switch_id
from comptroller_server.call.endings import pending_ended

__all__ = ["Adopt", "free_name", "set_aside", "void_approvals"]

_A = table_of(ApprovalRow)
_OPEN = (
    select(_A.c.id, _A.c.call, _A.c.task)
    .where(_A.c.tenant == bindparam("tenant"), or_(*(_A.c.state == state for state in sorted(OPEN))))
    .order_by(_A.c.id)
)
_VOID = "the store was restored from a backup, and what was agreed to since is not known"


@dataclass(frozen=True, slots=True)
class Adopt:
    """Part: say in the log that a person goes on with this store, and halt everything until a person lifts it."""

    by: str
    reason: str
    signed: Checkpoint

    def keys(self) -> Iterable[Key]:
        return self._halt().keys()

    def apply(self, state: State) -> Stop | None:
        state.append(
            LogRecord(
                RecordType.STORE_ADOPTED,
                {
                    "v": 1,
                    "by": self.by,
                    "reason": self.reason,
                    "entries": state.head.size,
                    "signed_entries": self.signed.size,
                    "signed_root": self.signed.root.hex(),
                    "switch_seq": state.head.switch_seq + 1,
                },
            )
        )
        return self._halt().apply(state)

    def _halt(self) -> SetSwitch:
        reason = f"restored from a backup: {self.reason}"
        return SetSwitch(switch_id(SwitchScope.GLOBAL), reason, self.by)


async def void_approvals(store: Store, tenant: str, budgets: BudgetsConfig) -> int:
    """End every call that waits for a person, agreed to or not; how many that were."""

    def read(reader: Reader) -> list[tuple[str, str, str]]:
        return [(str(a), str(c), str(t)) for a, c, t in reader.query(_OPEN, tenant=tenant)]

    ended = 0
    for approval, call, task in await store.read(read):
        packet = LogRecord(
            RecordType.CALL_CLOSED,
            {"v": 1, "call": call, "state": CallState.VOID.value, "reason": _VOID},
            call=call,
            task=task,
        )
        parts = pending_ended(call, approval, task, CallState.VOID, None, packet, budgets)
        ended += isinstance(await store.commit(tenant, Unit(parts)), Committed)
    return ended


def set_aside(files: Iterable[Path], stamp: str) -> list[Path]:
    """Rename checkpoint files that the store does not reach; where they are now. Raises `OSError`."""
    return [file.rename(free_name(file, stamp)) for file in files if file.exists()]


def free_name(file: Path, stamp: str) -> Path:
    """A name beside `file` that says when it was set aside and that nothing has: evidence is never written over."""
    beside = file.with_name(f"{file.name}.before-{stamp}")
    number = 1
    while beside.exists():
        number += 1
        beside = file.with_name(f"{file.name}.before-{stamp}-{number}")
    return beside
