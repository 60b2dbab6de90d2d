"""A person changes the arguments of a call that waits: validated, decided, looked up and bound as a proposal's are.

Whatever keeps the changed call from being asked about leaves the waiting one as it was. Nothing is run here, and
nobody has agreed to the edited action yet: every earlier yes is void, and the editor is an author of it from now on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.calls import CALLS, Existing, log_indexes
from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.database import Row
from comptroller_audit.query import Logged, entries
from comptroller_audit.redaction import Audience
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Moved, Stopped
from comptroller_audit.vocabulary import (
    Actor,
    CallState,
    Code,
    Effect,
    Json,
    JsonObject,
    Principal,
    PrincipalKind,
    RecordType,
    Refusal,
    Subject,
)
from comptroller_policy.approvals import APPROVALS
from comptroller_policy.rules import REQUESTER
from comptroller_server.call.case import Case, Refused, Resumed
from comptroller_server.call.commits import Commits
from comptroller_server.call.decisions import Decisions
from comptroller_server.call.edits import Edited, asked_in, fits, told_edit
from comptroller_server.call.intake import Intake
from comptroller_server.call.lookups import LookUps
from comptroller_server.call.outcomes import Outcomes
from comptroller_server.call.proposal import Proposal
from comptroller_server.call.roads import Roads
from comptroller_server.call.stored import newest, proved
from comptroller_server.call.took import Step, Took
from comptroller_server.call.watch import Watch
from comptroller_server.checks.checking import Checking
from comptroller_server.people.canary import Canary
from comptroller_server.tasks.taskbook import TaskView
from comptroller_tools.catalogue import Catalogue

__all__ = ["EDITS_MAX", "Change", "Editing", "Editor"]

EDIT_AGAIN_MAX = 3
"""How often an edit is decided again because what its decision read has moved."""
EDITS_MAX = 20
"""Edits of one call. Who needs more denies it, and has the agent propose what is right."""

Change = Callable[[JsonObject, JsonObject], JsonObject]
"""From the arguments as they stand and the tool's input schema to the new ones; raises `Refused` or `ValueError`."""


@dataclass(frozen=True, slots=True)
class Editor:
    """Who edits, why, and the keyed digest of the action they looked at. `name` is an enrolled approver's."""

    name: str
    reason: str
    seen: str


class Editing:
    """Puts an edited action in place of the one people were asked about."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        catalogue: Catalogue,
        intake: Intake,
        look_ups: LookUps,
        canary: Canary,
        decisions: Decisions,
        checking: Checking,
        outcomes: Outcomes,
        commits: Commits,
        watch: Watch,
        release: Roads,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._ring = ring
        self._catalogue = catalogue
        self._intake = intake
        self._look_ups = look_ups
        self._canary = canary
        self._decisions = decisions
        self._checking = checking
        self._outcomes = outcomes
        self._commits = commits
        self._watch = watch
        self._release = release
        self._clock = clock
        self._ids = ids

    async def edit(self, tenant: str, call: str, change: Change, editor: Editor) -> str:
        """Edit a pending call; the id of the approval that is asked for now.

        Raises `Refused` with what is in the way, and the waiting call is as it was; `StoreError` when that is not
        known.
        """
        row, approval, logged = await self._store.read(lambda reader: self._read(reader, tenant, call))
        if row is None or approval is None or row["effect"] == Effect.READ:
            raise _not(Code.CALL_UNKNOWN, f"There is no call {call} that waits for a person.", call)
        if row["state"] != CallState.PENDING:
            raise _not(
                Code.KEY_CONFLICT, f"It is {row['state']} by now; only a pending call is edited.", call
            )
        packet, key = newest(logged, (RecordType.PENDING,)), self._ring.claim_key(tenant)
        if packet is None or not proved(approval, logged) or not fits(key, packet, approval):
            raise _not(
                Code.APPROVAL_VOID, "The record does not bear out what is asked; nobody can edit it.", call
            )
        case = self._case(tenant, call, row, approval, packet)
        case.arguments = self._changed(case, packet, change, editor)
        self._intake.refit(case)
        first = next(e.packet for e in logged if e.type is RecordType.PENDING and e.packet is not None)
        kept = tuple(str(claim["id"]) for claim in cast("list[JsonObject]", first["claims"]))
        for _ in range(EDIT_AGAIN_MAX):
            await self._decide(case)
            stop = await self._commit(case, kept, editor.seen)
            if isinstance(stop, str):
                return stop
            await self._watch.look(tenant)
        raise _not(Code.OVERLOADED, "What its decision depends on kept changing. Try again.", call)

    async def _decide(self, case: Case) -> None:
        """Steps 5 to 8 of a proposal, without anybody's yes. Raises `Refused`."""
        head = await self._watch.fresh(case.tenant)
        case.window_ms = max(case.received_ms, head.record_ms)
        self._decisions.early(case)
        case.took.mark(Step.DECIDE)
        await self._look_ups.gather(case, head.switch_seq)
        case.took.mark(Step.LOOK_UP)
        await self._canary.draw(case)
        self._decisions.before(case)
        await self._checking.before(case)
        case.took.mark(Step.DECIDE)
        self._outcomes.bind(case)

    async def _commit(self, case: Case, kept: tuple[str, ...], seen: str) -> str | None:
        """The new approval's id, or None when the basis moved and everything is decided again. Raises `Refused`."""
        assert case.resumed is not None
        approval = f"apr-{self._ids.short()}"
        roles: dict[str, int] = json.loads(case.resumed.approval["roles"])
        for gate in case.decision.gates:
            if gate.role != REQUESTER:  # they are asked when it is about to run
                roles[gate.role] = max(gate.count, roles.get(gate.role, 0))
        shown: dict[str, Json] = {"arguments": case.arguments, "facts": case.facts}
        unit = self._commits.edit(case, approval, roles, shown, kept, seen)
        outcome = await self._store.commit(case.tenant, unit)
        if not isinstance(outcome, Stopped):
            return approval
        stop = outcome.stop
        if isinstance(stop, Refusal):
            raise Refused(stop)
        if isinstance(stop, Existing):
            text = f"Exactly this is call {stop.call} already, which is {stop.row['state']}."
            raise _not(Code.KEY_CONFLICT, text, case.call)
        if isinstance(stop, Moved) and stop.what != "approval":
            return None
        text = "Somebody decided it, or it ran, just now. Look at it again."
        raise _not(Code.KEY_CONFLICT, text, case.call)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _read(self, reader: Reader, tenant: str, call: str) -> tuple[Row | None, Row | None, list[Logged]]:
        row = reader.row(tenant, CALLS, call)
        if row is None or not row["approval"]:
            return row, None, []
        approval = reader.row(tenant, APPROVALS, row["approval"])
        return row, approval, entries(reader, self._ring, tenant, log_indexes(row))

    def _case(self, tenant: str, call: str, row: Row, approval: Row, packet: JsonObject) -> Case:
        """The stored proposal as a case, for the one it was made for."""
        tool = self._catalogue.find(row["tool"])
        if tool is None:
            raise _not(Code.APPROVAL_VOID, f"Its tool `{row['tool']}` is gone.", call)
        who = cast("dict[str, str]", packet["principal"])
        principal = Principal(tenant, who["issuer"], who["subject"], PrincipalKind(who["kind"]))
        roles = frozenset(cast("list[str]", packet.get("principal_roles") or []))
        subject = Subject(principal, Actor(str(packet["actor"])), roles)
        arguments = cast("JsonObject", packet["arguments"])
        return Case(
            proposal=Proposal(subject, tool.name, arguments),
            call=call,
            attempt=self._ids.uuid7(),
            received_ms=self._clock.now_ms(),
            took=Took(self._clock.monotonic),
            principal_key=row["principal"],
            task=TaskView(row["task"], "", row["step"], "", is_new=False, remaining_ms=None),
            tool=tool,
            resumed=Resumed(row, approval, packet),
            arguments=arguments,
            why=cast("JsonObject | None", packet["why"]),
            citations=cast("list[JsonObject]", packet["citations"]),
        )

    def _changed(self, case: Case, packet: JsonObject, change: Change, editor: Editor) -> JsonObject:
        """The edited arguments; notes the edit on the case. Raises `Refused` for one that changes nothing."""
        tool, before = case.tool_in_hand, case.arguments
        after = change(before, cast("JsonObject", tool.definition.input_schema))
        if canonical_bytes(after) == canonical_bytes(before):
            raise _not(
                Code.INVALID_ARGUMENTS, "This changes nothing: the arguments are so already.", case.call
            )
        if touched := tool.shaping.touched(before, after):
            text = f"`{touched[0]}` is given by the configuration, so nobody changes it in one call."
            raise _not(Code.INVALID_ARGUMENTS, text, case.call)
        edited = Edited.of(packet) or Edited(before, asked_in(packet))
        if len(edited.by) >= EDITS_MAX:
            text = (
                f"It was edited {EDITS_MAX} times already. Deny it, and have the agent propose what is right."
            )
            raise _not(Code.KEY_CONFLICT, text, case.call)
        changed: list[Json] = [*told_edit(self._release, tool.name, before, after, Audience.RECORD)]
        mine: JsonObject = {
            "editor": editor.name,
            "reason": editor.reason,
            "at_ms": case.received_ms,
            "changed": changed,
        }
        case.edited = Edited(edited.arguments, edited.digest, (*edited.by, mine))
        return after


def _not(code: Code, text: str, call: str) -> Refused:
    return Refused(Refusal(code, text, "person", call))
