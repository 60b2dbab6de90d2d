"""Steps 8, 9, 11, 13 and 14: ask a person, commit before, verify, release, commit after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.calls import Existing, Lost
from comptroller_audit.canonical import canonical_bytes, digest, keyed_digest
from comptroller_audit.errors import CanonicalError, CommitUnknown, StoreError
from comptroller_audit.redaction import Audience
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Store
from comptroller_audit.unit import Committed, Moved, Receipt, Stopped, Unit
from comptroller_audit.vocabulary import (
    MICRO,
    CallState,
    Code,
    Json,
    RecordType,
    Refusal,
    Verification,
)
from comptroller_budgets.limits import BudgetsConfig, Charge, Limit, Scope, charges_for
from comptroller_policy.approvals import approval_digest
from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import micro
from comptroller_server.call.answers import pending_refusal
from comptroller_server.call.bounded import NO_ANSWER
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.commits import Commits
from comptroller_server.call.dispatch import Dispatcher
from comptroller_server.call.evidence import Evidence
from comptroller_server.call.intake import Intake
from comptroller_server.call.lookups import LookUps
from comptroller_server.call.roads import Roads
from comptroller_server.call.settling import left_in_doubt, record_changed, state_after, stop_of
from comptroller_server.call.took import Step
from comptroller_server.call.upstream_words import quarantined, said
from comptroller_server.undo.reversal import differs
from comptroller_tools.catalogue import Tool
from comptroller_tools.source import CANCELLED, EffectHappened, Outcome
from comptroller_tools.upstream.source import NEEDS, QUARANTINED
from comptroller_tools.verification import compare

__all__ = ["Outcomes"]

OUTCOME_RETRY_S = 0.25
"""Pause between attempts to write an outcome while the store is unavailable."""

_log = structlog.stdlib.get_logger()


class Outcomes:
    """What a call leaves behind, before and after."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        commits: Commits,
        evidence: Evidence,
        intake: Intake,
        dispatcher: Dispatcher,
        release: Roads,
        budgets: BudgetsConfig,
        clock: Clock,
        ids: Ids,
        environment: str,
    ) -> None:
        self._store = store
        self._ring = ring
        self._commits = commits
        self._evidence = evidence
        self._intake = intake
        self._dispatcher = dispatcher
        self._release = release
        self._budgets = budgets
        self._limits = budgets.counted()
        self._clock = clock
        self._ids = ids
        self._environment = environment
        self._kept: set[asyncio.Task[None]] = set()
        self.reversing: set[str] = set()
        """Calls that went wrong and that this process is about to reverse: recovery leaves them alone."""

    # -- 8 approve ------------------------------------------------------------------------------------------------

    async def ask(self, case: Case) -> Moved | Existing | Lost | None:
        """Store the whole proposal and stop. Ends in `Refused` (approval_pending), which is on record."""
        approval = f"apr-{self._ids.short()}"
        roles: dict[str, int] = {}
        if case.resumed is not None:
            roles.update(json.loads(case.resumed.approval["roles"]))
        for gate in case.decision.gates:
            roles[gate.role] = max(gate.count, roles.get(gate.role, 0))
        shown: dict[str, Json] = {"arguments": case.arguments, "facts": case.facts}
        compose = self._commits.ask if case.resumed is None else self._commits.ask_again
        outcome = await self._store.commit(case.tenant, compose(case, approval, roles, shown))
        if isinstance(outcome, Stopped):
            return stop_of(case, outcome)
        self._intake.entered(case)
        pending = pending_refusal(case.call, roles, case.decision.reasons, case.decision.policies)
        if case.changed:
            pending = record_changed(case)
        raise Refused(pending, outcome.receipts[-1])

    def bind(self, case: Case) -> None:
        """The exact action an approval is for, and its keyed digest."""
        tool = case.tool_in_hand
        case.bound = {
            "definition": tool.definition.digest,
            "source": {"name": tool.source.name, **tool.source.identity},
            "environment": self._environment,
            "tenant": case.tenant,
            "principal": case.subject.principal.id,
            "actor": case.subject.actor.id,
            "tool": tool.name,
            "arguments": case.arguments,
            "record": {"kind": case.record.kind, "key": case.record.key} if case.record else None,
            "shown": {
                name: digest("fact", canonical_bytes(value)).hex() for name, value in case.facts.items()
            },
        }
        if tool.compensation is not None:  # who agrees to a call agrees to what reverses it
            target = tool.compensation.target
            case.bound["compensation"] = {
                "tool": target.name,
                "definition": target.definition.digest,
                "source": {"name": target.source.name, **target.source.identity},
                "arguments": dict(tool.compensation.arguments),
            }
        case.requested_digest = self.keyed(case.tenant, approval_digest(case.bound).hex())

    def keyed(self, tenant: str, plain: str) -> str:
        """The digest of an action as tables hold it, from the plain one (hex)."""
        return keyed_digest(self._ring.claim_key(tenant), "approval", bytes.fromhex(plain))

    # -- 9 commit -------------------------------------------------------------------------------------------------

    async def begin(self, case: Case) -> Moved | Existing | Lost | None:
        """Charges and deadline; for all but free reads, the one transaction before the side effect.

        A read that people agreed to is committed like a side effect: their yes is used up before it runs.
        """
        tool = case.tool_in_hand
        self._count(case)
        wait_s = tool.config.limits.timeout_s
        if case.task.remaining_ms is not None:
            wait_s = min(wait_s, max(0.001, case.task.remaining_ms / 1000))
        case.deadline = self._clock.monotonic() + wait_s
        if tool.is_free_read and case.resumed is None:
            return None
        self._dispatcher.counts.waiting += 1
        try:
            outcome = await self._store.commit(case.tenant, self._commits.begin(case))
        except CommitUnknown:
            self._dispatcher.counts.waiting -= 1
            self._take_back(case)
            raise
        except BaseException:
            self._dispatcher.counts.waiting -= 1
            raise
        if isinstance(outcome, Stopped):
            self._dispatcher.counts.waiting -= 1
            return stop_of(case, outcome)
        case.committed = True
        case.took.mark(Step.COMMIT)
        case.state = CallState.COMMITTED
        case.action_receipt = outcome.receipts[-1]
        self._intake.entered(case)
        return None

    def charges(self, case: Case) -> tuple[Charge, ...]:
        """What the call takes from each budget. Raises `Refused` for an amount that cannot be counted."""
        return self._charges(case, case.tool_in_hand, case.scope, self._limits)

    def _count(self, case: Case) -> None:
        """What the call may cost, and what its reversal may cost, which is held for together with it."""
        compensation = case.tool_in_hand.compensation
        if case.compensates is None:
            case.charges = self.charges(case)
        elif case.compensates.ordered_by:  # the agent's own budgets are no reason to leave its work standing
            shared = tuple(limit for limit in self._limits if limit.scope in (Scope.TOOL, Scope.TENANT))
            case.charges = self._charges(case, case.tool_in_hand, case.scope, shared)
        if compensation is not None and case.compensates is None:
            scope = {**case.scope, "input": compensation.known(case.scope)}
            case.cover = self._charges(case, compensation.target, scope, self._limits)

    def _charges(
        self, case: Case, tool: Tool, scope: dict[str, Any], limits: tuple[Limit, ...]
    ) -> tuple[Charge, ...]:
        amounts = {"calls": MICRO}
        for unit, expression in tool.units.items():
            try:
                amounts[unit] = micro(expression.evaluate(scope))
            except ExpressionError as error:
                text = f"The amount of `{unit}` cannot be computed exactly: {error}"
                raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments", case.call)) from error
            if amounts[unit] < 0:
                text = f"The amount of `{unit}` would be negative, which no budget takes."
                raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments", case.call))
        scopes = {**case.scopes, Scope.TOOL: tool.name}
        return charges_for(limits, amounts, scopes, case.window_ms)

    # -- 11 verify ------------------------------------------------------------------------------------------------

    async def verify(self, case: Case, look_ups: LookUps) -> None:
        """Output size and schema, then the record read back. Sets what is wrong as the case's problem."""
        outcome, tool = case.outcome, case.tool_in_hand
        assert outcome is not None
        if case.problem is None:
            case.problem = self._problem(case, outcome)
        case.sound = case.problem is None and outcome.effect is EffectHappened.DONE
        if tool.is_read or outcome.effect is EffectHappened.NONE:
            return
        if tool.expectations:
            scope = {**case.scope, "output": outcome.value}
            facts = {expectation.fact for expectation in tool.expectations}
            case.read_back = await look_ups.read_back(case, facts)
            case.verification = compare(tool.expectations, scope, case.read_back)
            if case.verification.result is Verification.DIFFERS and outcome.effect is EffectHappened.DONE:
                case.problem = differs(case, self._release)

    def _problem(self, case: Case, outcome: Outcome) -> Refusal | None:
        """What is wrong with what the source said, apart from whether it is true."""
        tool = case.tool_in_hand
        if QUARANTINED in outcome.meta:
            return quarantined(tool, str(outcome.meta[QUARANTINED]), case.call)
        if outcome.effect is EffectHappened.UNKNOWN and not tool.is_read:
            words = f"; it says, as data: {self._told(case)}" if outcome.told_model is not None else ""
            return left_in_doubt(case.call, f"{outcome.error or 'the source does not know'}{words}")
        if outcome.meta.get(NEEDS):
            return _needs(tool, outcome.meta[NEEDS], case.call)
        if outcome.told_model is not None:
            return Refusal(Code.TOOL_FAILED, said(tool, self._told(case)), "other_arguments", case.call)
        if outcome.error is not None and outcome.effect is not EffectHappened.DONE:
            until = case.deadline + case.waited_ms / 1000
            late = outcome.error == NO_ANSWER or self._clock.monotonic() >= until
            code = Code.TIMEOUT if late else Code.TOOL_FAILED
            how = "was cancelled by its client" if CANCELLED in outcome.meta else "failed"
            return Refusal(
                code, f"`{tool.name}` {how} and changed nothing. Try again later.", "after:5", case.call
            )
        if outcome.error is not None:
            return self._unusable(case, "is not of the type it declares")
        try:
            output = canonical_bytes(outcome.value)
        except CanonicalError as error:
            return self._unusable(case, f"is no plain JSON ({type(error).__name__})")
        case.output_bytes = output
        if len(output) > tool.config.limits.response_kib_max * 1024:
            return self._unusable(case, f"is larger than {tool.config.limits.response_kib_max} KiB")
        if tool.output is not None and (problems := tool.output.check(outcome.value)):
            return self._unusable(case, f"breaks its schema ({problems[0].path or 'the whole value'})")
        return None

    def _told(self, case: Case) -> str:
        """What the source says of its failure, released and quoted."""
        assert case.outcome is not None
        assert case.outcome.told_model is not None
        text = self._release.text(case.outcome.told_model, Audience.MODEL, case.book)
        return json.dumps(text, ensure_ascii=False)

    def _unusable(self, case: Case, how: str) -> Refusal:
        done = "" if case.tool_in_hand.is_read else " The change itself was made; a person must look at it."
        text = f"What `{case.tool_in_hand.name}` returned {how}, so it is withheld.{done}"
        return Refusal(Code.OUTPUT_INVALID, text, "person", case.call)

    # -- 13 release -----------------------------------------------------------------------------------------------

    def lose(self, case: Case) -> None:
        """A defect of ours after the commit: whatever happened, its outcome is not known."""
        case.outcome = Outcome(EffectHappened.UNKNOWN, error="a defect in Comptroller")
        case.problem = left_in_doubt(case.call, "a defect in Comptroller")
        case.state, case.released, case.kept, case.refs = CallState.IN_DOUBT, None, None, ()
        case.owes = False
        if case.tool_in_hand.is_read:
            case.state = CallState.FAILED_BEFORE_EFFECT

    def release(self, case: Case) -> None:
        """Decide the call's end, and what of its output may be seen. Only released records become refs."""
        outcome = case.outcome
        assert outcome is not None
        if outcome.value is not None and case.problem is None:
            self._take_output(case, outcome.value)
        case.state = state_after(case, outcome)
        case.answer_text = None
        if outcome.value is None or case.problem is not None:
            return
        case.refs = self._intake.citations.given(case, outcome.value)
        self._evidence.tracer.released(
            case.trace, case.tool_in_hand.name, [ref.as_json() for ref in case.refs], case.withheld
        )

    def _take_output(self, case: Case, value: Json) -> None:
        """The output as the model may see it, and as the record holds it."""
        road = self._release.output(case.tool_in_hand.name)
        shown = kept = road.release(value, Audience.MODEL, case.book)
        if not road.keeps_all:
            kept = road.release(value, Audience.RECORD)
        if isinstance(shown.value, dict) != isinstance(value, dict):
            case.problem = self._unusable(case, "cannot be searched for what must not be shown")
            return
        case.released, case.kept, case.withheld = shown.value, kept.value, shown.withheld
        if kept.withheld:
            case.output_bytes = canonical_bytes(kept.value)
        case.problem = self._intake.parts.cut(case)

    # -- 14 commit ------------------------------------------------------------------------------------------------

    async def end(self, case: Case) -> Moved | Existing | Lost | None:
        """The outcome, durable before the answer. A read that is refused here releases nothing of its result."""
        if not case.committed:
            return await self._end_read(case)
        unit = self._commits.end(case, self._evidence.ended(case))
        if case.owes:
            self.reversing.add(case.call)
        try:
            await self._write_outcome(case, unit)
        except StoreError:
            self.reversing.discard(case.call)  # whoever writes it later does not reverse it
            self._keep_trying(case, unit)
            raise Refused(
                left_in_doubt(case.call, "its outcome could not be recorded yet"), _NO_RECEIPT
            ) from None
        if case.problem is not None and not case.owes:
            raise Refused(case.problem, case.receipt)
        return None

    async def _end_read(self, case: Case) -> Moved | Existing | Lost | None:
        if case.problem is not None:
            raise Refused(case.problem)
        unit = self._commits.read(case, self._evidence.ended(case, RecordType.READ))
        outcome = await self._store.commit(case.tenant, unit)
        if isinstance(outcome, Stopped):
            return stop_of(case, outcome)
        self._intake.entered(case)
        case.receipt = outcome.receipts[-1]
        return None

    async def _write_outcome(self, case: Case, unit: Unit) -> None:
        outcome = await self._store.commit(case.tenant, unit)
        if isinstance(outcome, Committed):
            self._intake.metering.charged(case)
            case.receipt = outcome.receipts[-1]
            return
        _log.warning("late outcome", call=case.call, stop=type(outcome.stop).__name__)
        late = self._evidence.ended(case, RecordType.LATE_OUTCOME)
        noted = await self._store.commit(case.tenant, self._commits.late(case, late))
        text = "this server was taken for dead, and another one has taken the call over"
        raise Refused(left_in_doubt(case.call, text), noted.receipts[-1] if noted.receipts else _NO_RECEIPT)

    def _take_back(self, case: Case) -> None:
        """Whether the first commit landed is not known, so nothing was dispatched: end the call if it is there."""
        case.outcome = Outcome(EffectHappened.NONE, error="its first commit was never confirmed")
        case.state = CallState.FAILED_BEFORE_EFFECT
        unit = self._commits.end(case, self._evidence.ended(case))

        async def end_if_there() -> None:
            await self._store.commit(case.tenant, unit)  # stopped as lost when it never landed

        self._until_written(case.call, end_if_there)

    def _keep_trying(self, case: Case, unit: Unit) -> None:
        """The owner keeps the outcome and writes it as soon as the store takes it."""
        self._until_written(case.call, lambda: self._write_outcome(case, unit))

    def _until_written(self, call: str, write: Callable[[], Awaitable[None]]) -> None:
        async def keep() -> None:
            while True:
                await asyncio.sleep(OUTCOME_RETRY_S)
                try:
                    await write()
                except StoreError:
                    continue
                except Refused:
                    return
                return

        task = asyncio.get_running_loop().create_task(keep(), name=f"outcome-{call}")
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    async def drain(self, wait_s: float) -> int:
        """Wait for kept outcomes; returns how many are still unwritten (they are in doubt for the next start)."""
        if self._kept:
            await asyncio.wait(self._kept, timeout=wait_s)
        left = [task for task in self._kept if not task.done()]
        for task in left:
            task.cancel()
        return len(left)

    # -- refusals -------------------------------------------------------------------------------------------------

    async def record_refusal(self, case: Case, refusal: Refusal) -> Receipt | None:
        """Make a refusal durable that no commit has recorded."""
        outcome = await self._store.commit(case.tenant, self._commits.refused(case, refusal))
        return outcome.receipts[-1] if outcome.receipts else None


def _needs(tool: Tool, what: Any, call: str) -> Refusal:
    """The upstream runs this only for a client that it may ask something."""
    named = " and ".join(f"`{one}`" for one in what)
    text = f"`{tool.name}` needs a client that can be asked on the way ({named}), and this one cannot. Nothing was done."
    return Refusal(Code.TOOL_FAILED, text, "person", call, details={"requires": dict(what)})


_NO_RECEIPT = Receipt("", -1, "")
"""Marks a refusal whose record is not written yet; the answer carries no receipt."""
