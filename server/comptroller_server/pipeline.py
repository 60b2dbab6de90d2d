"""The story of one governed call, top to bottom (`Pipeline._story`). Control flow lives here; the leaves are small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from comptroller_audit.calls import Existing, Lost
from comptroller_audit.errors import StoreError
from comptroller_audit.vocabulary import Code, Refusal, Subject
from comptroller_policy.model import Verdict
from comptroller_server.call.answers import refusal_answer, success_answer
from comptroller_server.call.case import UNDECIDED, Case, Refused
from comptroller_server.call.decisions import Decisions
from comptroller_server.call.dispatch import Dispatcher, Slot
from comptroller_server.call.intake import Intake
from comptroller_server.call.kept_reads import KeptReads
from comptroller_server.call.lookups import LookUps
from comptroller_server.call.loops import Loops
from comptroller_server.call.many import Batches
from comptroller_server.call.observing import Observing
from comptroller_server.call.outcomes import Outcomes
from comptroller_server.call.proposal import AdvertisedTool, Answer, Proposal
from comptroller_server.call.repeats import Repeats
from comptroller_server.call.standing import Standings
from comptroller_server.call.took import Step
from comptroller_server.call.watch import Watch
from comptroller_server.checks.checking import Checking
from comptroller_server.people.canary import Canary
from comptroller_server.people.confirmations import Asked, Confirmations
from comptroller_server.tasks.builtins import BuiltIns
from comptroller_server.telemetry.watching import Telemetry
from comptroller_server.undo.compensation import Reversals

__all__ = ["Pipeline"]

DECIDE_AGAIN_MAX = 3
"""How often a decision is made again because its basis moved, before the call counts as overloaded."""

_log = structlog.stdlib.get_logger()


class Pipeline:
    """The one road from a proposal to an answer, for every transport. Built by `app.py`."""

    def __init__(
        self,
        intake: Intake,
        look_ups: LookUps,
        canary: Canary,
        decisions: Decisions,
        repeats: Repeats,
        kept_reads: KeptReads,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        watch: Watch,
        checking: Checking,
        confirmations: Confirmations,
        built_ins: BuiltIns,
        batches: Batches,
        loops: Loops,
        compensation: Reversals,
        observing: Observing,
        telemetry: Telemetry,
        standings: Standings,
    ) -> None:
        self._intake = intake
        self._look_ups = look_ups
        self._canary = canary
        self._decisions = decisions
        self._repeats = repeats
        self._kept_reads = kept_reads
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._watch = watch
        self._checking = checking
        self._confirmations = confirmations
        self._built_ins = built_ins
        self._batches = batches
        self._loops = loops
        self._compensation = compensation
        self._observing = observing
        self._telemetry = telemetry
        self.standings = standings
        compensation.act = self._act

    async def call(self, proposal: Proposal) -> Answer:
        """Govern one call. Never raises but for cancellation: what goes wrong is a refusal."""
        try:
            case = await self._intake.receive(proposal)  # 1 receive, 2 identify
        except StoreError as error:
            self._telemetry.unreceived(proposal)
            return _store_unavailable("", error)
        answer: Answer | None = None
        try:
            answer = await self._governed(case)
            return answer
        finally:
            self._intake.answered(case, answer.text if answer is not None else "")
            self._telemetry.answered(case, answer)

    async def _governed(self, case: Case) -> Answer:
        """The story, or the refusal it ends in."""
        try:
            await self._confirmations.take_up(case)
            answer = await self._story(case)
            self._loops.note(case, None)
            return answer
        except Asked as asked:
            return asked.answer
        except Refused as refused:
            self._loops.note(case, refused.refusal)
            self._kept_reads.heed(case, refused.refusal)
            return await self._refuse(case, refused)
        except StoreError as error:
            return _store_unavailable(case.call, error)
        except Exception:  # noqa: BLE001 -- an error anywhere is a refusal with a record
            _log.exception("defect in the pipeline", call=case.call)
            text = f"Something went wrong inside Comptroller. Tell the operator. (call {case.call})"
            return await self._refuse(case, Refused(Refusal(Code.INTERNAL, text, "person")))

    async def _story(self, case: Case) -> Answer:
        self._intake.find(case)  # 3 find
        self._loops.check(case)
        if self._repeats.is_resume(case) and (answer := await self._repeats.resume(case)) is not None:
            return answer
        if (answer := await self._built_ins.answer(case)) is not None:
            return answer
        if (answer := await self._batches.answer(case, self.call)) is not None:
            return answer
        await self._intake.validate(case)  # 4 validate
        case.took.mark(Step.VALIDATE)
        if (answer := await self._repeats.named(case)) is not None:
            return answer
        for _ in range(DECIDE_AGAIN_MAX):
            head = await self._watch.fresh(case.tenant)
            # A clock set back opens no earlier window again.
            case.window_ms = max(case.received_ms, head.record_ms)
            await self._observing.look(case, head)
            self._decisions.early(case)  # 5 pre-decide
            case.took.mark(Step.DECIDE)
            await self._look_ups.gather(case, head.switch_seq)  # 6 look up
            case.took.mark(Step.LOOK_UP)
            await self._canary.draw(case)  # who goes without a person
            await self._intake.citations.compare(case)
            self._decisions.before(case)  # 7 decide
            await self._checking.before(case)  # checks of the operator's own, which can only refuse
            case.took.mark(Step.DECIDE)
            if case.resumed is not None or case.decision.verdict is Verdict.NEEDS_APPROVAL:
                self._outcomes.bind(case)
                await self._repeats.recheck(case)
                self._confirmations.settle(case)
            if case.decision.verdict is Verdict.NEEDS_APPROVAL or case.changed:  # 8 approve
                stop = await self._confirmations.ask(case)
            else:
                await self._kept_reads.recall(case)  # what was just read is not read again
                async with self._dispatcher.slot(case) as slot:
                    case.took.mark(Step.WAIT)
                    stop = await self._outcomes.begin(case)  # 9 commit (a free read commits once, at 14)
                    if stop is None:
                        await self._act(case, slot)
                        stop = await self._outcomes.end(case)  # 14 commit
            if stop is None:
                self._kept_reads.keep(case)
                self._intake.parts.keep(case)
                await self._compensation.reverse(case)  # what steps 11 and 12 found wrong
                return success_answer(case)  # 15 answer
            if isinstance(stop, Existing | Lost):
                answer = await self._repeats.answer_for(case, stop)
                if answer is not None:
                    return answer
            else:
                await self._watch.look(case.tenant)
                await self._intake.look_again(case, stop)
        raise Refused(_MOVING)

    async def _act(self, case: Case, slot: Slot) -> None:
        """From dispatch to what may be released. A side effect that was committed always comes out with a state."""
        try:
            case.outcome = await self._dispatcher.run(case, slot)  # 10 run
            if not case.committed:
                slot.give_back()  # what a read still has to do is not its source's load
            case.took.mark(Step.RUN)
            await self._outcomes.verify(case, self._look_ups)  # 11 verify
            case.took.mark(Step.VERIFY)
            await self._checking.after(case)
            self._decisions.after(case)  # 12 decide
            case.took.mark(Step.DECIDE)
            self._outcomes.release(case)  # 13 release
            case.took.mark(Step.RELEASE)
        except Exception:
            if not case.committed:
                raise
            _log.exception("defect after a commit", call=case.call)
            self._outcomes.lose(case)

    async def _refuse(self, case: Case, refused: Refused) -> Answer:
        """Record a refusal, unless the commit that refused has, or a flood is being counted instead."""
        refusal, receipt = self._intake.told(case, refused.refusal), refused.receipt
        self._intake.quotas.spend(case.principal_key)
        try:
            if case.resumed is not None and not case.committed and _denied(case):
                await self._repeats.void(case, refusal.text)
        except Refused as overtaken:
            refusal = self._intake.told(case, overtaken.refusal)
        except StoreError as error:
            return _store_unavailable(case.call, error)
        if receipt is None and self._intake.quotas.records_singly(case.principal_key):
            try:
                receipt = await self._outcomes.record_refusal(case, refusal)
            except StoreError as error:
                return _store_unavailable(case.call, error)
            except Exception:  # noqa: BLE001 -- the refusal stands, recorded or not
                _log.exception("a refusal could not be recorded", call=case.call)
        await self._built_ins.hand_over(case, refusal)
        return refusal_answer(refusal, case.call, receipt)

    def listing(self, subject: Subject) -> Sequence[AdvertisedTool]:
        """The tools this principal may see: all but those that no arguments could make allowed."""
        return self._intake.listing(subject)

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        return self._intake.input_schema(name)


def _denied(case: Case) -> bool:
    """Whether policy or a check said no, whatever the answer may say of it."""
    return case.checks_deny or (case.decision is not UNDECIDED and case.decision.verdict is Verdict.DENY)


_MOVING = Refusal(
    Code.OVERLOADED,
    "What this decision depends on kept changing while it was made. Try again in a few seconds.",
    retry="after:2",
)


def _store_unavailable(call: str, error: StoreError) -> Answer:
    """The one unrecorded refusal: without a record there is no side effect."""
    _log.error("the store is not available", call=call, error=str(error))
    refusal = Refusal(
        Code.STORE_UNAVAILABLE,
        "Comptroller cannot write its record, so nothing was done. Try again later, or tell the operator.",
        retry="after:5",
    )
    return refusal_answer(refusal, call, None)
