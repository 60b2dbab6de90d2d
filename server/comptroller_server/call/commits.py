"""Which parts make up each of a call's units of work. What is in one unit is durable together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from comptroller_audit.calls import ClaimsFree, MoveCall, NoteOnCall, OpenCall, SwapClaims, TakeClaims
from comptroller_audit.compensations import cover_id
from comptroller_audit.database import Row
from comptroller_audit.owners import Owner
from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Part, Refuse, Together, Unit
from comptroller_audit.vocabulary import CallState, Effect, Json, JsonObject, Refusal, Verification
from comptroller_budgets.history import BumpHistory, HistoryUnmoved, history_id
from comptroller_budgets.ledger import NoteVerifiedWrite, Spend, TakeHold
from comptroller_budgets.lifecycle import NoteExhausted, is_exhausted
from comptroller_budgets.limits import BudgetsConfig, Scope, Window
from comptroller_budgets.tasks import AwaitPerson, EnterTask
from comptroller_policy.approvals import (
    ApprovalState,
    CloseApproval,
    ConsumeApproval,
    given,
    votes_in_packet,
)
from comptroller_policy.edits import SupersedeApproval
from comptroller_policy.switches import HeadUnmoved
from comptroller_server.call.asking import ApprovalTerms
from comptroller_server.call.case import Case, Compensates
from comptroller_server.call.citations import uncited
from comptroller_server.call.endings import (
    effect_begins,
    effect_ended,
    effect_heard_of,
    pending_ended,
)
from comptroller_server.call.evidence import Evidence
from comptroller_server.call.metering import Metering
from comptroller_server.call.provenance import Provenance
from comptroller_server.call.took import WriteTook
from comptroller_server.config.model import RolloutConfig
from comptroller_server.people.canary import case_ended, recovered_ended, share_kept
from comptroller_server.undo.reversal import told_of
from comptroller_server.undo.reversal_parts import BeginReversal, EndReversal, OweReversal
from comptroller_tools.catalogue import Catalogue
from comptroller_tools.refs import GiveRefs

__all__ = ["Commits"]


class Commits:
    """Composes units from a case. `bundle` is what this process decides by; on another one nothing commits."""

    def __init__(
        self,
        evidence: Evidence,
        budgets: BudgetsConfig,
        rollout: RolloutConfig,
        terms: ApprovalTerms,
        catalogue: Catalogue,
        owner: Owner,
        bundle: str,
        metering: Metering,
        provenance: Provenance,
    ) -> None:
        self._evidence = evidence
        self._budgets = budgets
        self._rollout = rollout
        self._terms = terms
        self._owner = owner
        self._bundle = bundle
        self._metering = metering
        self._provenance = provenance
        self._counted = _counted_windows(catalogue)

    def refused(self, case: Case, refusal: Refusal) -> Unit:
        """A refusal that no commit has recorded: a new call's only record, or a note on the call it repeats."""
        return Unit([self._refusal_part(case, refusal)])

    def confirm(self, case: Case, message: str | None, refusal: Refusal | None) -> Unit:
        """Before the person at the client is asked: that is on record, unless a call on record answers for this one.

        With a `refusal`, nobody can be asked, and that is recorded in its place.
        """
        asks: Part = (
            Refuse(refusal)
            if refusal is not None
            else NoteOnCall(case.call, self._evidence.asked(case, message or ""))
        )
        parts: list[Part] = [
            HeadUnmoved(case.basis.switch_seq, self._bundle),
            ClaimsFree(case.call, case.claims),
            *uncited(case),
            asks,
        ]
        return Unit(parts, self._on_refusal(case))

    def ask(self, case: Case, approval: str, roles: dict[str, int], shown: dict[str, Json]) -> Unit:
        """Step 8: store the whole proposal, take its claims, ask for people, stop the task's clock."""
        record = self._evidence.pending(case, approval, roles, shown)
        request = self._terms.request(case, approval, roles)
        fields = self._fields(case) | {"approval": approval}
        parts: list[Part] = [
            HeadUnmoved(case.basis.switch_seq, self._bundle),
            self._enter(case, flight=0),
            *self._metering.begins(case),
            AwaitPerson(case.task.id, 1, self._budgets),
            TakeClaims(case.call, case.claims),
            *uncited(case),
            request,
            OpenCall(case.call, CallState.PENDING, fields, record, self._evidence.traces(case, after=False)),
        ]
        return Unit(parts, self._on_refusal(case))

    def ask_again(self, case: Case, approval: str, roles: dict[str, int], shown: dict[str, Json]) -> Unit:
        """The record changed, or another gate asks: the call stays pending under a new approval row.

        Votes stand as long as the action is the one they were given for.
        """
        assert case.resumed is not None
        record = self._evidence.pending(case, approval, roles, shown)
        parts: list[Part] = [
            HeadUnmoved(case.basis.switch_seq, self._bundle),
            *self._metering.begins(case),
            CloseApproval(case.resumed.row["approval"], ApprovalState.VOID),
            self._terms.request(
                case, approval, roles, "[]" if case.changed else case.resumed.approval["votes"]
            ),
            MoveCall(
                case.call,
                CallState.PENDING,
                CallState.PENDING,
                case.resumed.row["epoch"],
                record,
                {"approval": approval},
            ),
        ]
        return Unit(parts, self._on_refusal(case))

    def edit(
        self,
        case: Case,
        approval: str,
        roles: dict[str, int],
        shown: dict[str, Json],
        kept: tuple[str, ...],
        seen: str,
    ) -> Unit:
        """A person changed what waits: another approval row, without a vote; the call is known by both sets of keys.

        `kept` are the keys it was proposed with, `seen` is the keyed digest of what the person looked at.
        """
        assert case.resumed is not None
        record = self._evidence.pending(case, approval, roles, shown)
        row = case.resumed.row
        parts: list[Part] = [
            HeadUnmoved(case.basis.switch_seq, self._bundle),
            SupersedeApproval(row["approval"], seen),
            self._terms.request(case, approval, roles),
            SwapClaims(case.call, kept, case.claims),
            MoveCall(
                case.call,
                CallState.PENDING,
                CallState.PENDING,
                row["epoch"],
                record,
                {"approval": approval},
            ),
        ]
        return Unit(parts)

    def close_pending(
        self, call: str, approval: str, task: str, to: CallState, epoch: int | None, record: LogRecord
    ) -> Unit:
        """A pending call ends without an effect: denied, expired or void. Its claims are free again."""
        return Unit(pending_ended(call, approval, task, to, epoch, record, self._budgets))

    def begin(self, case: Case) -> Unit:
        """Step 9: basis unchanged, claims, approval, holds, action packet; all or nothing."""
        votes = votes_in_packet(case.resumed.approval) if case.resumed else []
        if case.compensates is not None:
            return self._begin_reversal(case, case.compensates)
        record = self._evidence.action(case, votes, self._history_of(case))
        traces = self._evidence.traces(case, after=False)
        parts: list[Part] = [
            HeadUnmoved(case.basis.switch_seq, self._bundle),
            HistoryUnmoved(case.basis.history),
            self._enter(case, flight=1),
            *self._metering.begins(case),
            TakeClaims(case.call, case.claims),
            *uncited(case),
        ]
        if case.resumed is None:
            parts.append(OpenCall(case.call, CallState.COMMITTED, self._fields(case), record, traces))
        else:
            approval = case.resumed.approval
            parts += [  # the move first: who resumes second meets the call's state, not what the first one took
                MoveCall(
                    case.call,
                    CallState.PENDING,
                    CallState.COMMITTED,
                    case.resumed.row["epoch"],
                    record,
                    {"owner": self._owner.id, "step": case.task.step},
                    notes=traces,
                ),
                ConsumeApproval(case.resumed.row["approval"], case.requested_digest, given(approval)),
                AwaitPerson(case.task.id, -1, self._budgets),
            ]
        parts += share_kept(case)
        parts += [TakeHold(case.call, case.charges), BumpHistory(self._history_of(case))]
        parts += self._provenance.begins(case)
        if not case.tool_in_hand.is_read:
            parts.append(effect_begins(case.tool_in_hand.name))
        if case.cover:
            parts.append(TakeHold(cover_id(case.call), case.cover))
        return Unit(parts, self._on_refusal(case))

    def _begin_reversal(self, case: Case, compensates: Compensates) -> Unit:
        """Step 9 for a call that reverses another one. It is in flight for no task, and held for already, unless a
        person has ordered it."""
        record = self._evidence.action(case, [*compensates.approvals], self._history_of(case))
        parts: list[Part] = [
            HeadUnmoved(case.basis.switch_seq, self._bundle),
            HistoryUnmoved(case.basis.history),
            TakeClaims(case.call, case.claims),
            BeginReversal(compensates.call, case.call, self._owner.id, ordered=bool(compensates.ordered_by)),
            OpenCall(case.call, CallState.COMMITTED, self._fields(case), record),
        ]
        if compensates.ordered_by:
            parts.append(TakeHold(case.call, case.charges))
        effect = effect_begins(case.tool_in_hand.name)
        return Unit([*parts, BumpHistory(self._history_of(case)), effect])

    def end(self, case: Case, record: LogRecord) -> Unit:
        """Step 14 for a committed call: outcome, holds, refs, task, record guard, audit packet."""
        epoch = 1 if case.resumed is None else case.resumed.row["epoch"]
        guard = None if case.owes else case.guard  # nobody else writes while it is put right
        task = case.task.id if case.compensates is None else None
        reversal: list[Part] = []
        if case.owes:
            reversal = [OweReversal(case.call, self._owner.id, case.guard or "")]
        elif case.compensates is not None:
            reversal = [self.reversal_ended(case.compensates, case, begun=True)]
        return Unit(
            [
                WriteTook(case.took, record.packet),
                *case_ended(self._rollout, case),
                MoveCall(
                    case.call,
                    CallState.COMMITTED,
                    case.state,
                    epoch,
                    record,
                    {"code": case.problem.code.value if case.problem else ""},
                    notes=self._evidence.traces(case, after=True),
                ),
                *self.aftermath(
                    case.call,
                    task,
                    case.state,
                    guard,
                    self.counted_rows(case),
                    changed_by="" if case.tool_in_hand.is_read else case.tool_in_hand.name,
                    covered=bool(case.cover) and not case.owes,
                    awaited_ms=case.waited_ms,
                ),
                GiveRefs(case.task.id, case.call, case.refs),
                *self._provenance.ends(case),
                *self._widened(case),
                *(self._metering.ends(case) if case.compensates is None else ()),
                *reversal,
            ]
        )

    def reversal_ended(self, compensates: Compensates, case: Case, *, begun: bool) -> EndReversal:
        """What becomes of a call with the end of the one that reverses it, or that never began to."""
        by, state = (case.call, case.state) if begun else ("", None)
        target = case.tool_in_hand.name
        told = told_of(compensates, target, by, state, case.problem)
        return EndReversal(compensates.call, by, state, target, compensates.task, compensates.attempt, told)

    def _widened(self, case: Case) -> list[Part]:
        """A change that was read back and matched opens the whole of the task's budgets."""
        is_verified = case.verification is not None and case.verification.result is Verification.MATCHED
        stands = case.state is CallState.DONE and not case.owes and case.compensates is None
        if self._budgets.widen_after is None or not stands or not is_verified:
            return []
        return [NoteVerifiedWrite(case.task.id)]

    def aftermath(
        self,
        call: str,
        task: str | None,
        state: CallState,
        guard: str | None,
        counted: Sequence[str],
        *,
        changed_by: str,
        covered: bool = True,
        awaited_ms: int = 0,
    ) -> list[Part]:
        """`effect_ended` with this installation's budgets."""
        return effect_ended(
            call,
            task,
            state,
            guard,
            counted,
            self._budgets,
            changed_by=changed_by,
            covered=covered,
            awaited_ms=awaited_ms,
        )

    def recovered(self, call: str, row: Row, state: CallState, action: JsonObject) -> list[Part]:
        """What a call that recovery ends says about its tool's rollout."""
        return recovered_ended(self._rollout, row["tool"], row["effect"], call, state, action)

    def read(self, case: Case, record: LogRecord) -> Unit:
        """The one commit of a read, with the same checks; if any refuses, nothing of the result is released."""
        parts: list[Part] = [
            HeadUnmoved(case.basis.switch_seq, self._bundle),
            HistoryUnmoved(case.basis.history),
            self._enter(case, flight=0),
            *self._metering.whole(case),
            WriteTook(case.took, record.packet),
            Spend(case.call, case.charges),
            OpenCall(
                case.call, case.state, self._fields(case), record, self._evidence.traces(case, after=None)
            ),
            GiveRefs(case.task.id, case.call, case.refs, case.cached.read_ms if case.cached else None),
            BumpHistory(self.counted_rows(case)),
            *self._provenance.ends(case),
        ]
        return Unit(parts, self._on_refusal(case))

    def built_in(
        self, case: Case, record: LogRecord, task: str, parts: Sequence[Part], code: str = ""
    ) -> Unit:
        """A built-in tool's one unit: a call that costs nothing, on record, with what it does to its task.

        `parts` come after the record and may refer to it. With a `code` the call counts as refused.
        """
        to = CallState.REFUSED if code else CallState.DONE
        fields = self._fields(case) | {"task": task, "code": code}
        unmoved = HeadUnmoved(case.basis.switch_seq, self._bundle)
        return Unit([unmoved, OpenCall(case.call, to, fields, record), *parts], self._on_refusal(case))

    def many(self, case: Case, record: LogRecord) -> Unit:
        """The one record of a batch, whose items were committed by themselves."""
        return Unit([OpenCall(case.call, CallState.DONE, self._fields(case), record)])

    def enter(self, case: Case) -> Part:
        """The case's task entered without a step: the first thing of a task in which nothing was called yet."""
        return replace(self._enter(case, flight=0), counts_step=False)

    def note(self, call: str, record: LogRecord) -> Unit:
        """A record that belongs to a call without moving it."""
        return Unit([NoteOnCall(call, record)])

    def late(self, case: Case, record: LogRecord) -> Unit:
        """What came of a call that another process has ended meanwhile: it moves nothing, but its effect may be new."""
        return Unit([NoteOnCall(case.call, record), effect_heard_of(case.tool_in_hand.name)])

    # -- parts ----------------------------------------------------------------------------------------------------

    def _on_refusal(self, case: Case) -> Callable[[Refusal], Part]:
        return lambda refusal: self._refusal_parts(case, refusal)

    def _refusal_parts(self, case: Case, refusal: Refusal) -> Part:
        recorded = self._refusal_part(case, refusal)
        if not is_exhausted(refusal):
            return recorded
        return Together((recorded, NoteExhausted(case.task.id, self._budgets)))

    def _refusal_part(self, case: Case, refusal: Refusal) -> Part:
        if case.resumed is not None or (refusal.call not in (None, case.call)):
            original = refusal.call or case.call
            return NoteOnCall(original, self._evidence.again(case, original, refusal))
        fields = self._fields(case) | {"code": refusal.code.value, "claims": ""}
        record = self._evidence.refused(case, refusal)
        return OpenCall(case.call, CallState.REFUSED, fields, record, self._evidence.traces(case, after=None))

    def _fields(self, case: Case) -> dict[str, Any]:
        tool = case.tool
        named = case.many.batch.name if case.many and case.many.batch else case.built_in
        return {
            "owner": self._owner.id,
            "principal": case.principal_key,
            "actor": case.subject.actor.id,
            "task": case.task.id,
            "step": case.task.step,
            "tool": tool.name if tool else named,
            "effect": tool.effect.value if tool else Effect.READ.value if case.many else "",
            "claims": ",".join(claim.id for claim in case.claims),
            "approval": "",
            "code": "",
        }

    def _enter(self, case: Case, flight: int) -> EnterTask:
        view = case.task
        return EnterTask(
            view.pointer,
            view.id,
            view.is_new,
            case.principal_key,
            case.subject.actor.id,
            view.step_key,
            case.received_ms + (case.waited_ms if flight == 0 else 0),
            flight,
            self._budgets,
            case.call,
            is_named=view.is_named,
            changes=case.tool is not None and not case.tool.is_read,
            awaited_ms=case.awaited_ms,
        )

    def _history_of(self, case: Case) -> tuple[str, ...]:
        guard = case.guard
        counted = self.counted_rows(case)
        return (*counted, guard) if guard is not None else counted

    def counted_rows(self, case: Case) -> tuple[str, ...]:
        """The history rows that count this call, in the windows of its moment."""
        tool, at = case.tool_in_hand.name, case.window_ms
        return tuple(
            history_id(scope, case.task.id if scope is Scope.TASK else case.principal_key, tool, window, at)
            for scope, window in self._counted.get(tool, ())
        )


def _counted_windows(catalogue: Catalogue) -> dict[str, tuple[tuple[Scope, Window], ...]]:
    """For each tool, the counts that some tool's declared history keeps of it."""
    counted: dict[str, dict[tuple[Scope, Window], None]] = {}
    for tool in catalogue:
        for name, rule in tool.config.history.items():
            key = (Scope(name.partition(".")[0]), Window(rule.window.value))
            counted.setdefault(rule.count, {})[key] = None
    return {tool: tuple(windows) for tool, windows in counted.items()}
