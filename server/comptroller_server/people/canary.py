"""Which side effects go without a person: the draw of one call, between its look-ups and its decision.

A call is drawn by the business record it acts on, when a look-up of ours or the configuration names that record, else
by its principal: never by a task, a connection or anything else that an agent can have afresh. What no compensation
could reverse, what takes more than its share of a budget window and what another gate asks about is in no canary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from comptroller_audit.database import Row
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Part
from comptroller_audit.vocabulary import CallState, Effect, JsonObject, RefusalClass, Verification
from comptroller_budgets.ledger import COUNTERS
from comptroller_budgets.limits import Charge
from comptroller_budgets.shares import WithinShare, beyond_share
from comptroller_policy.declarations import RolloutMode
from comptroller_policy.rollout import (
    PERCENT_MAX,
    STEPS,
    Draw,
    DrawnBy,
    Level,
    Standing,
    bucket_of,
    effective,
    is_canary,
    is_drawn,
)
from comptroller_policy.rollout_changes import CountOutcome, Ended
from comptroller_server.call.case import Case, Refused
from comptroller_server.config.model import RolloutConfig
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.errors import RecordPathError
from comptroller_tools.records import records_in

__all__ = ["Canary", "case_ended", "is_reversible", "recovered_ended", "share_kept", "steps_open_to"]

_REVERSIBLE = frozenset({Effect.CREATE, Effect.UPDATE})
_NO_EVIDENCE = frozenset({CallState.FAILED_BEFORE_EFFECT, CallState.NOT_DONE})
"""Ends in which nothing happened."""


class Canary:
    """Draws calls. `levels` are the words in force by tool, `charges` what a call would take from budgets."""

    def __init__(
        self,
        rollout: RolloutConfig,
        store: Store,
        ring: KeyRing,
        catalogue: Catalogue,
        levels: Callable[[str], Mapping[str, Level]],
        charges: Callable[[Case], tuple[Charge, ...]],
    ) -> None:
        self._rollout = rollout
        self._store = store
        self._ring = ring
        self._catalogue = catalogue
        self._levels = levels
        self._charges = charges

    async def draw(self, case: Case) -> None:
        """Set the case's draw, or None where no rollout applies: for reads, and without one in the configuration."""
        tool = case.tool_in_hand
        case.draw = None
        if tool.is_read or self._rollout.mode is RolloutMode.OFF:
            return
        percent = effective(self._levels(case.tenant).get(tool.name), self._rollout.percent)
        named, drawn_by, subject = self._subject(case, tool)
        bucket = bucket_of(self._ring.claim_key(case.tenant), drawn_by.value.encode(), *subject)
        standing = Standing.AUTO
        if self._rollout.mode is not RolloutMode.AUTO or percent < PERCENT_MAX:
            standing = _standing(case, tool, named, is_drawn(bucket, percent))
            if standing is Standing.IN and not await self._within_shares(case):
                standing = Standing.WINDOW_SHARE
        case.draw = Draw(standing, bucket, percent, drawn_by)

    def _subject(self, case: Case, tool: Tool) -> tuple[bool, DrawnBy, tuple[bytes, ...]]:
        """What the call is drawn by, and whether a record that look-ups should name is named as the agent spells it."""
        record, template = case.record, tool.config.resource
        by_principal = (DrawnBy.PRINCIPAL, (case.subject.principal.id.encode(),))
        if record is None or template is None:
            return (True, *by_principal)
        wanted = (tool.source.name.encode(), record.kind.encode(), record.key.encode())
        if "{" not in template:  # the configuration names it
            return True, DrawnBy.RECORD, wanted
        named = self._named_by_facts(case, tool, record.kind)
        if not named:
            return (True, *by_principal)
        # Another spelling of a record, or a second one, would be another draw.
        return named == {record.key}, DrawnBy.RECORD, wanted

    def _named_by_facts(self, case: Case, tool: Tool, kind: str) -> set[str]:
        """The ids of records of `kind` that the look-ups of this call have read."""
        found: set[str] = set()
        for name, value in case.facts.items():
            rule = tool.config.facts[name]
            reader = self._catalogue.find(rule.tool)
            if reader is None or value is None:
                continue
            try:
                shown = records_in(reader.config.records, value, {})
            except RecordPathError:
                continue  # what does not name its record is no witness
            found.update(record.key for record in shown if record.kind == kind)
        return found

    async def _within_shares(self, case: Case) -> bool:
        """Whether every budget window stays within its share; asked again in the commit (`share_kept`)."""
        try:
            charges = self._charges(case)
        except Refused:
            return False  # an amount that cannot be computed; the commit says so in its own words
        counters = [charge.counter for charge in charges]

        def load(reader: Reader) -> dict[str, Row]:
            return reader.rows(case.tenant, COUNTERS, counters)

        return beyond_share(charges, (await self._store.read(load)).get) is None


def _standing(case: Case, tool: Tool, named: bool, drawn: bool) -> Standing:
    if case.resumed is not None:
        return Standing.RESUMED
    if not is_reversible(tool.config):
        return Standing.IRREVERSIBLE
    if not named:
        return Standing.UNNAMED_RECORD
    return Standing.IN if drawn else Standing.OUTSIDE


def is_reversible(tool: ToolConfig) -> bool:
    """Whether a declared compensation could take the effect back. What deletes or executes counts as final."""
    return tool.compensate is not None and tool.effect in _REVERSIBLE


def steps_open_to(tool: ToolConfig, rollout: RolloutConfig) -> tuple[int, ...]:
    """The percents a promotion may go to. A final effect has no share: only `mode: auto` lets all of it pass."""
    if is_reversible(tool):
        return STEPS
    return (PERCENT_MAX,) if rollout.mode is RolloutMode.AUTO else ()


# ---------------------------------------------------------------------------------------- parts of commits


def share_kept(case: Case) -> list[Part]:
    """For the commit of a canary call: no window went beyond its share since the draw."""
    drawn_in = case.draw is not None and case.draw.standing is Standing.IN
    return [WithinShare(case.charges)] if drawn_in else []


def case_ended(rollout: RolloutConfig, case: Case) -> list[Part]:
    """For the commit of an outcome: the evidence it leaves, and the demotion it may bring."""
    tool, problem, verification = case.tool_in_hand, case.problem, case.verification
    ended = Ended(
        canary=case.draw is not None and case.draw.canary,
        verified=verification is not None and verification.result is Verification.MATCHED and problem is None,
        silent_wrong=problem is not None and problem.failure_class is RefusalClass.SILENT_WRONG,
        in_doubt=case.state is CallState.IN_DOUBT,
    )
    return _counted(rollout, tool.name, tool.effect, case.call, case.state, ended)


def recovered_ended(
    rollout: RolloutConfig, tool: str, effect: str, call: str, state: CallState, action: JsonObject
) -> list[Part]:
    """The same for a committed call that recovery ends; `action` is its action packet, empty when erased.

    Nobody has verified such a call. Without its packet it counts as a canary: that can only demote.
    """
    ended = Ended(canary=not action or is_canary(action), in_doubt=state is CallState.IN_DOUBT)
    return _counted(rollout, tool, Effect(effect), call, state, ended)


def _counted(
    rollout: RolloutConfig, tool: str, effect: Effect, call: str, state: CallState, ended: Ended
) -> list[Part]:
    if rollout.mode is RolloutMode.OFF or effect is Effect.READ or state in _NO_EVIDENCE:
        return []
    return [CountOutcome(tool, call, rollout.percent, ended)]
