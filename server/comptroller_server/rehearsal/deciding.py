"""One call decided as the server would decide it, by the same steps 5, 7 and 12, with everything they read handed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from comptroller_audit.redaction import Release
from comptroller_audit.vocabulary import Code, Effect, Json, JsonObject, Subject
from comptroller_policy.declarations import Origin, RolloutMode
from comptroller_policy.engine import Bundle, Explained
from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import same_value
from comptroller_policy.model import Decision, Question, Verdict
from comptroller_policy.rollout import Draw
from comptroller_policy.switches import Switches
from comptroller_server.call.case import Case, Compensates, Refused
from comptroller_server.call.decisions import Decisions
from comptroller_server.call.fitting import fit
from comptroller_server.call.proposal import Proposal
from comptroller_server.call.took import Took
from comptroller_server.call.traces import Tracer
from comptroller_server.errors import CannotDecide, Lack
from comptroller_server.installation import Installation
from comptroller_server.tasks.taskbook import TaskView
from comptroller_tools.catalogue import Tool
from comptroller_tools.source import EffectHappened, Outcome

__all__ = ["Asked", "CameBack", "Decided", "Phase", "Rehearsal"]


class Phase(StrEnum):
    """When a decision is made: before the call, or after it on what came back."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class CameBack:
    """What the decision after a call reads: the output, and the facts read again."""

    output: Json
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Asked:
    """A call with all that policy may read of it.

    `derived` holds values that are not to be computed. `draw` is None where the call is not drawn for a rollout;
    `reverses` marks one that reverses another call. `came_back` asks for the decision after the call.
    """

    tool: str
    arguments: JsonObject
    subject: Subject
    now_ms: int
    environment: str
    call: str = "call"
    task: str = "task"
    step: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    history: Mapping[str, int] = field(default_factory=dict[str, int])
    derived: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])
    provenance: Mapping[str, Origin] = field(default_factory=dict[str, Origin])
    approvals: Mapping[str, int] = field(default_factory=dict[str, int])
    confirmed: bool = False
    draw: Draw | None = None
    reverses: bool = False
    came_back: CameBack | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided, in which phase. `seen` are the ids of every policy that decided anything on the way."""

    decision: Decision
    phase: Phase
    seen: frozenset[str]
    question: Question


class Rehearsal:
    """Decides calls under one configuration. Raises `ConfigInvalid` where that does not compile."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.bundle: Bundle = installation.policy
        self._catalogue = installation.catalogue
        self._rollout = installation.config.rollout.mode
        self._clock = _Moment()
        self._tracer = Tracer(frozenset(), Release(()), self._clock)
        self._decisions: dict[str, Decisions] = {}

    def tool(self, name: str) -> Tool:
        """The tool of this name. Raises `CannotDecide`."""
        tool = self._catalogue.find(name)
        if tool is None:
            known = ", ".join(sorted(self._catalogue.names())) or "none"
            raise CannotDecide(Lack.TOOL, f"there is no tool `{name}`; the tools are {known}", "tool")
        return tool

    def is_drawn(self, tool: Tool) -> bool:
        """Whether calls of this tool are drawn for a rollout."""
        return self._rollout is not RolloutMode.OFF and tool.effect is not Effect.READ

    def decide(self, asked: Asked) -> Decided:
        """The decision. Raises `CannotDecide` for arguments that do not fit and for whatever policy reads and is not known."""
        tool = self.tool(asked.tool)
        case = self._case(tool, asked)
        decisions = self._of(asked.environment)
        self._clock.ms = asked.now_ms
        try:
            decisions.early(case)
            self._complete(tool, case, asked)
            decisions.before(case, confirmed=asked.confirmed)
        except Refused as refused:
            if refused.refusal.code is Code.LOOKUP_FAILED:
                text = f"what would reverse a call of `{tool.name}` cannot be told from the facts"
                raise CannotDecide(Lack.FACTS, text, "facts") from refused
        question = decisions.question(case, confirmed=asked.confirmed)
        decision, seen = _before(case), set(case.decision.policies)
        if case.reversal is not None:
            seen.update(case.reversal.policies)
        if asked.came_back is None or decision.verdict is not Verdict.ALLOW:
            return Decided(decision, Phase.BEFORE, frozenset(seen), question)
        after = self._after(decisions, case, asked.came_back)
        return Decided(after, Phase.AFTER, frozenset({*seen, *after.policies}), question)

    def explain(self, decided: Decided) -> Sequence[Explained]:
        """Every policy that was asked before the call, and whether its conditions held."""
        return self.bundle.explain(decided.question)

    # -- parts --------------------------------------------------------------------------------------------------

    def _of(self, environment: str) -> Decisions:
        found = self._decisions.get(environment)
        if found is None:
            found = Decisions(self.bundle, _NOTHING_HALTED, self._clock, environment, self._tracer)
            self._decisions[environment] = found
        return found

    def _case(self, tool: Tool, asked: Asked) -> Case:
        """The case as steps 1 to 4 leave it."""
        case = Case(
            proposal=Proposal(asked.subject, tool.name, asked.arguments),
            call=asked.call,
            attempt=asked.call,
            received_ms=asked.now_ms,
            took=Took(self._clock.monotonic),
            principal_key="",
            task=TaskView(asked.task, "", asked.step, "", is_new=False, remaining_ms=None),
        )
        case.tool = tool
        case.approvals, case.draw = dict(asked.approvals), asked.draw
        if asked.reverses:
            case.compensates = Compensates(asked.call, "", None, asked.task)
        try:
            fit(case, asked.arguments)
        except Refused as refused:
            text = refused.refusal.text.removesuffix(" Correct them and call again.")
            raise CannotDecide(Lack.FIT, text, "arguments") from refused
        return case

    def _complete(self, tool: Tool, case: Case, asked: Asked) -> None:
        """The case as step 6 leaves it, from what was handed in."""
        reads = self.bundle.reads(tool.name)
        # A derived value that is given needs no facts of its own.
        given = _facts_of(tool, reads.derived & asked.derived.keys())
        needed = (reads.facts - given) | _facts_of(tool, reads.derived - asked.derived.keys())
        needed |= tool.compensation.facts if tool.compensation is not None else frozenset()
        for name in sorted(needed - asked.facts.keys()):
            raise CannotDecide(
                Lack.FACTS, f"the fact `{name}` decides about `{tool.name}` and is not known", "facts"
            )
        for name in sorted(reads.history - asked.history.keys()):
            raise CannotDecide(
                Lack.HISTORY, f"the count `{name}` decides about `{tool.name}` and is not known", "history"
            )
        for name in sorted(reads.provenance - asked.provenance.keys()):
            text = f"where `{name}` came from decides about `{tool.name}` and is not known"
            raise CannotDecide(Lack.PROVENANCE, text, "provenance")
        case.provenance = {name: asked.provenance[name] for name in sorted(reads.provenance)}
        case.facts = dict(asked.facts)
        case.history = {name: asked.history[name] for name in reads.history}
        case.derived = {name: _derived(tool, name, case, asked.derived) for name in sorted(reads.derived)}
        if asked.draw is None and not asked.reverses and self.is_drawn(tool):
            raise CannotDecide(Lack.DRAW, f"whether the rollout drew this call of `{tool.name}` is not known")

    def _after(self, decisions: Decisions, case: Case, came_back: CameBack) -> Decision:
        """The decision on what came back."""
        reads = self.bundle.reads(case.tool_in_hand.name)
        for name in sorted(reads.after_facts - came_back.facts.keys()):
            text = f"the fact `{name}` decides after a call of `{case.tool_in_hand.name}` and is not known"
            raise CannotDecide(Lack.FACTS, text, "after")
        case.outcome = Outcome(EffectHappened.DONE, came_back.output)
        case.read_back = dict(came_back.facts)
        decisions.after(case)
        # Where nothing of what came back is read, nothing is asked: it stays allowed.
        return case.decision_after or Decision(Verdict.ALLOW)


def _before(case: Case) -> Decision:
    """What step 7 came to, with what its reversal added."""
    reversal = case.reversal
    if reversal is not None and reversal.verdict is Verdict.DENY:
        target = case.tool_in_hand.compensation
        name = target.target.name if target is not None else ""
        reasons = tuple(f"It could not be reversed with `{name}`: {reason}" for reason in reversal.reasons)
        return Decision(Verdict.DENY, reversal.policies, reasons, errors=reversal.errors)
    return case.decision


def _facts_of(tool: Tool, derived: Iterable[str]) -> frozenset[str]:
    """The facts that these derived values are computed from."""
    paths = (path for name in derived for path in tool.derived[name].paths)
    return frozenset(path.split(".")[1] for path in paths if path.startswith("facts."))


def _derived(tool: Tool, name: str, case: Case, given: Mapping[str, Decimal]) -> Decimal:
    """A derived value: computed as the server does, or the given one where there is nothing to compute it from."""
    try:
        computed = tool.derived[name].evaluate(case.scope)
    except ExpressionError as error:
        if name in given:
            return given[name]
        raise CannotDecide(Lack.DERIVED, f"`derived.{name}` cannot be computed: {error}", "facts") from error
    if name in given and not same_value(computed, given[name]):
        text = f"`derived.{name}` is given as {given[name]}, and the facts make it {computed}; give one of the two"
        raise CannotDecide(Lack.DERIVED, text, "derived")
    return computed


class _Moment:
    """The clock of a call that is decided for one moment."""

    ms = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class _NothingHalted:
    """Switches belong to a running service, not to a configuration."""

    def switches(self, tenant: str) -> Switches:
        return Switches()


_NOTHING_HALTED = _NothingHalted()
