"""Reversing a call: a call of its own through the same steps, as `service:comptroller`, once and never again.

What went wrong is on record before anything is reversed (`compensations`), so that whoever comes after a crash finds
it; the end of the reversing call and what becomes of the reversed one are one commit (`reversal_parts`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.calls import Claim, Existing, Lost
from comptroller_audit.canonical import keyed_digest
from comptroller_audit.compensations import claim_id
from comptroller_audit.errors import StoreError
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import FaultPoint, Store
from comptroller_audit.unit import Moved, Receipt, Unit
from comptroller_audit.vocabulary import Code, Json, JsonObject, Refusal
from comptroller_policy.errors import ExpressionError
from comptroller_policy.model import Verdict
from comptroller_server.call.case import Case, Compensates, Refused
from comptroller_server.call.commits import Commits
from comptroller_server.call.decisions import Decisions
from comptroller_server.call.dispatch import Dispatcher, Slot
from comptroller_server.call.intake import Intake
from comptroller_server.call.lookups import LookUps, service_subject
from comptroller_server.call.outcomes import Outcomes
from comptroller_server.call.proposal import Proposal
from comptroller_server.call.took import Step, Took
from comptroller_server.call.watch import Watch
from comptroller_server.checks.checking import Checking
from comptroller_server.tasks.taskbook import TaskView
from comptroller_server.undo.reversal import told_of
from comptroller_tools.catalogue import Catalogue, Tool

__all__ = ["Ordered", "Reversals"]

DECIDE_AGAIN_MAX = 3
_log = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class Ordered:
    """Whose word reverses a good call: an enrolled person, their roles, and how sure we are that it was them."""

    by: str
    roles: tuple[str, ...]
    assurance: str


class Reversals:
    """Runs the calls that reverse others. `act` is the pipeline's own road from dispatch to release."""

    act: Callable[[Case, Slot], Awaitable[None]]

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        intake: Intake,
        look_ups: LookUps,
        decisions: Decisions,
        checking: Checking,
        catalogue: Catalogue,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        commits: Commits,
        watch: Watch,
        clock: Clock,
        ids: Ids,
        fault: FaultPoint,
    ) -> None:
        self._store = store
        self._ring = ring
        self._intake = intake
        self._look_ups = look_ups
        self._decisions = decisions
        self._checking = checking
        self._catalogue = catalogue
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._commits = commits
        self._watch = watch
        self._clock = clock
        self._ids = ids
        self._fault = fault

    async def reverse(self, case: Case) -> None:
        """After step 14: what is owed is reversed, and the call ends in `Refused` whatever comes of it."""
        if not case.owes:
            return
        compensation, problem = case.tool_in_hand.compensation, case.problem
        assert compensation is not None and problem is not None and case.outcome is not None
        retry = "other_arguments" if case.decision_after is not None and problem.policies else "same_call"
        votes = case.resumed is not None
        compensates = Compensates(
            case.call, case.tool_in_hand.name, case.attempt, case.task.id, case.wrong, retry
        )
        second = self.case_for(case.tenant, compensation.target, compensates, case.task.id, case.task.step)
        second.approvals, second.charges = dict(case.approvals) if votes else {}, case.cover
        try:
            self._fault("compensation.before")
            try:
                second.arguments = compensation.complete({**case.scope, "output": case.outcome.value})
            except ExpressionError as error:
                raise Refused(_untellable(case.call, error)) from error
            await self.story(second)
        except Refused as refused:
            second.problem = refused.refusal
        except StoreError as error:
            _log.warning("a reversal waits for the store", call=case.call, error=str(error))
            raise Refused(_not_known(case.call), case.receipt) from error
        except Exception:  # noqa: BLE001 -- whatever it was, the call that went wrong is handed to a person
            _log.exception("defect in a reversal", call=case.call)
            second.problem = Refusal(Code.INTERNAL, "Something went wrong inside Comptroller.", "person")
        finally:
            self._outcomes.reversing.discard(case.call)
        raise Refused(*await self._told(case, second, compensates))

    async def order(
        self, tenant: str, undo: tuple[str, str, JsonObject], task: str, step: int, ordered: Ordered
    ) -> str:
        """Reverse a good call on a person's word: `undo` is (call, tool that reverses it, arguments).

        Returns the id of the call that did. Raises `Refused`, whose refusal names that call if there was one, and
        `StoreError` when it is not known.
        """
        call, name, arguments = undo
        target = self._catalogue.find(name)
        if target is None:
            raise Refused(Refusal(Code.UNKNOWN_TOOL, f"There is no tool `{name}` any more.", "person"))
        roles: list[Json] = [*sorted(ordered.roles)]
        votes: JsonObject = {"approver": ordered.by, "assurance": ordered.assurance, "roles": roles}
        compensates = Compensates(call, "", None, task, approvals=(votes,), ordered_by=ordered.by)
        second = self.case_for(tenant, target, compensates, task, step)
        second.arguments, second.approvals = arguments, dict.fromkeys(ordered.roles, 1)
        try:
            await self.story(second)
        except Refused as refused:
            by = second.call if second.committed else None
            raise Refused(replace(refused.refusal, call=by), second.receipt) from refused
        return second.call

    async def _told(
        self, case: Case, second: Case, compensates: Compensates
    ) -> tuple[Refusal, Receipt | None]:
        """The last word on a call that went wrong, on record."""
        if (
            second.committed and second.receipt is None
        ):  # its end is still to be written: `Outcomes` keeps at it
            return _not_known(case.call), case.receipt
        if not second.committed:
            unit = Unit([self._commits.reversal_ended(compensates, second, begun=False)])
            try:
                outcome = await self._store.commit(case.tenant, unit)
            except StoreError:
                return _not_known(case.call), case.receipt  # recovery hands it over
            second.receipt = outcome.receipts[-1] if outcome.receipts else case.receipt
        state = second.state if second.committed else None
        told = told_of(compensates, second.tool_in_hand.name, second.call, state, second.problem)
        assert told is not None
        return told, second.receipt

    def case_for(self, tenant: str, target: Tool, compensates: Compensates, task: str, step: int) -> Case:
        """A new case that reverses a call; its arguments are still to be given."""
        subject = service_subject(tenant, target.config.roles or ())
        call = self._ids.uuid7()
        key = self._ring.claim_key(tenant)
        claim = Claim(claim_id(compensates.call), "", explicit=True, replays=True)
        reason = compensates.wrong or f"Reversed on the word of {compensates.ordered_by}."
        return Case(
            proposal=Proposal(subject, target.name, {}),
            call=call,
            attempt=self._ids.uuid7(),
            received_ms=self._clock.now_ms(),
            took=Took(self._clock.monotonic),
            principal_key=keyed_digest(key, "principal", subject.principal.id.encode())[:32],
            task=TaskView(task, "", step, "", is_new=False, remaining_ms=None),
            tool=target,
            compensates=compensates,
            claims=(claim,),
            why={"reason": reason, "citations": []},
        )

    async def story(self, case: Case) -> None:
        """Steps 4 to 14 for a call that reverses another one. Raises `Refused` with what kept it from a good end."""
        self._intake.fit(case)
        for _ in range(DECIDE_AGAIN_MAX):
            head = await self._watch.fresh(case.tenant)
            case.window_ms = max(case.received_ms, head.record_ms)
            self._decisions.early(case)
            case.took.mark(Step.DECIDE)
            await self._look_ups.gather(case, head.switch_seq)
            case.took.mark(Step.LOOK_UP)
            self._decisions.before(case)
            await self._checking.before(case)
            if case.decision.verdict is Verdict.NEEDS_APPROVAL:
                raise Refused(_not_covered(case))
            case.took.mark(Step.DECIDE)
            async with self._dispatcher.slot(case) as slot:
                case.took.mark(Step.WAIT)
                stop = await self._outcomes.begin(case)
                if stop is None:
                    await self.act(case, slot)
                    await self._outcomes.end(case)
                    self._fault("compensation.after")
                    return
            if not isinstance(stop, Moved):
                raise Refused(_taken(case, stop))
            await self._watch.look(case.tenant)
        raise Refused(Refusal(Code.OVERLOADED, "What its decision depends on kept changing.", "person"))


def _untellable(call: str, error: ExpressionError) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENTS, f"The answer does not tell what it needs: {error}", "person", call)


def _not_covered(case: Case) -> Refusal:
    roles = ", ".join(sorted({gate.role for gate in case.decision.gates}))
    return Refusal(Code.APPROVAL_PENDING, f"It needs people who did not agree to it ({roles}).", "person")


def _taken(case: Case, stop: Existing | Lost) -> Refusal:
    by = f" (call {stop.call})" if isinstance(stop, Existing) else ""
    return Refusal(Code.IN_PROGRESS, f"Its reversal is under way or over already{by}.", "person")


def _not_known(call: str) -> Refusal:
    text = (
        "The change was made and is wrong, and it is not known yet whether it was reversed. Do not repeat it and do "
        f"not repair it: a person must look at call {call} (`comptroller calls show {call}`)."
    )
    return Refusal(Code.IN_DOUBT, text, "person", call)
