"""Step 6: facts looked up by Comptroller itself, history counted, values derived. Also the read-back of step 11.

A look-up is a child read: found, validated, decided, bounded, checked and released by the same rules as a call, as
`service:comptroller`. It has no claim and no commit of its own; what it read stands in its parent's packet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

import structlog

from comptroller_audit.ambient import Clock
from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.errors import CanonicalError
from comptroller_audit.redaction import Audience, Release
from comptroller_audit.store import Reader, Store
from comptroller_audit.vocabulary import Actor, Code, Json, Principal, PrincipalKind, Refusal, Subject
from comptroller_budgets.history import HISTORY, history_id
from comptroller_budgets.limits import Scope, Window
from comptroller_policy.declarations import FactRule, HistoryRule
from comptroller_policy.engine import Bundle
from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import render
from comptroller_policy.fact_order import in_order
from comptroller_policy.model import Question, Verdict
from comptroller_policy.switches import Switches, SwitchScope, switch_id
from comptroller_server.call.bounded import ask
from comptroller_server.call.breakers import Breakers
from comptroller_server.call.case import Basis, Case, Refused
from comptroller_server.call.traces import Tracer
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.citing import facts_about
from comptroller_tools.errors import RecordPathError
from comptroller_tools.records import resource_of
from comptroller_tools.source import Action, Outcome

__all__ = ["LookUpFailed", "LookUps", "Needs", "history_rows", "service_subject", "unavailable"]

_log = structlog.stdlib.get_logger()

LOOKUPS_PER_CALL_MAX = 8
LOOKUP_S_MAX = 10.0
"""All look-ups of one step together may take this long."""
BUSY_WAIT_S_MAX = 5.0
"""How long a call waits for another one that is changing the same record."""
BUSY_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Needs:
    """Facts and history that a tool's checks and judges read, beside what policy and verification do."""

    facts: frozenset[str] = frozenset()
    history: frozenset[str] = frozenset()


NOTHING = Needs()


class LookUpFailed(Exception):
    """A look-up gave no usable value; the message is for the record, not for the model."""


class Weighs(Protocol):
    """Who knows where arguments come from: `call/provenance.py`."""

    async def weigh(self, case: Case) -> None: ...


class LookUps:
    """Reads on Comptroller's own account."""

    def __init__(
        self,
        catalogue: Catalogue,
        bundle: Bundle,
        store: Store,
        release: Release,
        clock: Clock,
        environment: str,
        switches: Callable[[str], Switches],
        needs: Mapping[str, Needs],
        tracer: Tracer,
        breakers: Breakers,
        provenance: Weighs,
    ) -> None:
        self._catalogue = catalogue
        self._bundle = bundle
        self._store = store
        self._release = release
        self._clock = clock
        self._environment = environment
        self._switches = switches
        self._needs = needs
        self._tracer = tracer
        self._breakers = breakers
        self._provenance = provenance

    async def gather(self, case: Case, switch_seq: int) -> None:
        """Fill the case's history, facts, derived values and provenance, and their basis. Raises `Refused`."""
        tool = case.tool_in_hand
        reads = self._bundle.reads(tool.name)
        rows = history_rows(tool.config.history, case.principal_key, case.task.id, case.window_ms)
        needs = self._needs.get(tool.name, NOTHING)
        counted = dict.fromkeys((*reads.history, *needs.history))
        watched = [rows[name] for name in counted]
        guard = case.guard
        case.basis = Basis({}, switch_seq)
        if watched or guard:
            counts, revisions = await self._quiet(case, [*watched, *([guard] if guard else [])], guard)
            case.history = {name: counts[rows[name]] for name in counted}
            case.basis = Basis(revisions, switch_seq)
        wanted = in_order(
            tool.config.facts,
            self._facts_wanted(tool, reads.facts, reads.derived)
            | needs.facts
            | self._facts_cited(case, tool),
        )
        case.facts = await self._facts(case, tool, wanted)
        case.may_tell_facts = self._may_read(
            case.subject, [tool.config.facts[name] for name in wanted], case.scope
        )
        try:
            case.derived = {name: tool.derived[name].evaluate(case.scope) for name in reads.derived}
        except ExpressionError as error:
            raise Refused(unavailable(case, f"a derived value has no exact result ({error})")) from error
        await self._provenance.weigh(case)

    async def read_back(self, case: Case, facts: Iterable[str]) -> dict[str, Any]:
        """The facts as they are now, after the call; None for one that cannot be read."""
        tool = case.tool_in_hand
        after: dict[str, Any] = {}
        deadline = self._clock.monotonic() + LOOKUP_S_MAX
        for name in sorted(set(facts)):
            fact = tool.config.facts[name]
            try:
                after[name] = await self._traced(case, name, fact, deadline, after=True)
            except LookUpFailed:
                after[name] = None
        return after

    async def _traced(
        self,
        case: Case,
        name: str,
        fact: FactRule,
        deadline: float,
        *,
        after: bool,
        read: dict[bytes, Any] | None = None,
    ) -> Any:
        """`read` for a fact of this call. Raises `LookUpFailed`."""
        began = self._tracer.now()
        value, error = None, None
        try:
            value = await self.read(
                case.tenant, fact.tool, fact.arguments, case.scope, deadline, case.call, read
            )
        except LookUpFailed as failed:
            error = str(failed)
            raise
        finally:
            self._tracer.looked_up(case.trace, name, fact.tool, value, error, began, after=after)
        return value

    async def read(
        self,
        tenant: str,
        name: str,
        arguments: Mapping[str, Any],
        scope: Mapping[str, Any],
        deadline: float,
        effect_key: str,
        known: dict[bytes, Any] | None = None,
    ) -> Any:
        """One child read of tool `name`. Raises `LookUpFailed` for whatever keeps it from a checked value.

        `known` is what was read for this decision already: the same question is asked once.
        """
        tool = self._catalogue.find(name)
        if tool is None or not tool.is_read:
            raise LookUpFailed(f"`{name}` is not a tool classified as read")
        try:
            rendered: Any = render(dict(arguments), scope)
        except ExpressionError as error:
            raise LookUpFailed(str(error)) from error
        if problems := tool.arguments.check(rendered):
            raise LookUpFailed(f"`{name}` refuses the arguments: {problems[0]}")
        rendered = tool.shaping.filled(rendered)
        if switch_id(SwitchScope.TOOL, tool.name) in self._switches(tenant).active:
            raise LookUpFailed(f"a person has halted `{tool.name}`")
        if not self._allows(service_subject(tenant, tool.config.roles or ()), tool, rendered):
            raise LookUpFailed(f"policy does not let Comptroller read `{tool.name}` here")
        asked = canonical_bytes([name, rendered])
        if known is not None and asked in known:
            return known[asked]
        action = Action(tool.definition.name, tool.shaping.sent(rendered), effect_key)
        outcome = await self._run(tool, action, deadline)
        if outcome.error is not None or outcome.value is None:
            raise LookUpFailed(f"`{name}`: {outcome.error or 'it returned nothing'}")
        value = self._release.release(outcome.value, Audience.RECORD).value
        self._check(tool, value)
        if known is not None:
            known[asked] = value
        return value

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _run(self, tool: Tool, action: Action, deadline: float) -> Outcome:
        until = min(deadline, self._clock.monotonic() + tool.config.limits.timeout_s)
        breaker = self._breakers.of(tool.source.name)
        if breaker.refusal(None) is not None:
            raise LookUpFailed(f"source `{tool.source.name}` keeps failing and is left alone for a while")
        outcome = await ask(tool.source, action, until, self._clock)
        breaker.note(outcome)
        return outcome

    def _may_read(
        self, subject: Subject, facts: Sequence[FactRule], scope: Mapping[str, Any]
    ) -> Callable[[], bool]:
        """Whether the caller itself could read these facts, when somebody asks. It holds no case: one that held itself
        would be left to the garbage collector."""
        return lambda: all(self.may_read(subject, fact.tool, fact.arguments, scope) for fact in facts)

    def may_read(
        self, subject: Subject, name: str, arguments: Mapping[str, Any], scope: Mapping[str, Any]
    ) -> bool:
        """Whether `subject` itself could make this look-up; what raises here is a no."""
        tool = self._catalogue.find(name)
        if tool is None or not self._bundle.visible(subject, tool.name):
            return False
        try:
            rendered = cast("dict[str, Any]", render(dict(arguments), scope))
            return self._allows(subject, tool, tool.shaping.filled(rendered))
        except (ExpressionError, LookUpFailed):
            return False

    def _allows(self, subject: Subject, tool: Tool, arguments: dict[str, Any]) -> bool:
        """A child read is decided like a call. Raises `LookUpFailed` when its record is not named."""
        try:
            record = resource_of(tool.config.resource, arguments)
        except RecordPathError as error:
            raise LookUpFailed(str(error)) from error
        question = Question(
            tool.name,
            subject,
            arguments,
            self._clock.now_ms(),
            self._environment,
            record=record,
        )
        return self._bundle.decide(question).verdict is Verdict.ALLOW

    def _check(self, tool: Tool, value: Json) -> None:
        try:
            size = len(canonical_bytes(value))
        except CanonicalError as error:
            raise LookUpFailed(f"`{tool.name}` returned no plain JSON ({error})") from error
        if size > tool.config.limits.response_kib_max * 1024:
            raise LookUpFailed(f"`{tool.name}` returned more than its response_kib_max")
        if tool.output is not None and (problems := tool.output.check(value)):
            raise LookUpFailed(f"`{tool.name}` broke its output schema: {problems[0]}")

    def _facts_wanted(self, tool: Tool, read: Iterable[str], derived: Iterable[str]) -> set[str]:
        """Facts that policy reads, that derived values need, or that verification compares with."""
        wanted = set(read)
        paths = [path for name in derived for path in tool.derived[name].paths]
        for expectation in tool.expectations:
            wanted.add(expectation.fact)
            paths.extend(expectation.expected.paths)
        wanted.update(path.split(".")[1] for path in paths if path.startswith("facts."))
        if tool.compensation is not None:
            wanted |= tool.compensation.facts
        return wanted

    def _facts_cited(self, case: Case, tool: Tool) -> frozenset[str]:
        """Facts about the cited records, so that what the agent read is compared with what is there now."""
        kinds = [str(citation["kind"]) for citation in case.citations if not citation.get("listed")]
        readers = (self._catalogue.find(fact.tool) for fact in tool.config.facts.values()) if kinds else ()
        return facts_about(tool.config, {t.name: t.config for t in readers if t is not None}, kinds)

    async def _facts(self, case: Case, tool: Tool, wanted: Sequence[str]) -> dict[str, Any]:
        """The facts, each after those it takes its arguments from."""
        if len(wanted) > LOOKUPS_PER_CALL_MAX:
            raise Refused(unavailable(case, f"more than {LOOKUPS_PER_CALL_MAX} look-ups would be needed"))
        deadline = self._clock.monotonic() + LOOKUP_S_MAX
        case.facts = {}
        read: dict[bytes, Any] = {}
        for name in wanted:
            fact = tool.config.facts[name]
            try:
                value = await self._traced(case, name, fact, deadline, after=False, read=read)
            except LookUpFailed as error:
                raise Refused(unavailable(case, str(error))) from error
            case.facts = {**case.facts, name: value}
        return case.facts

    async def _quiet(
        self, case: Case, watched: list[str], guard: str | None
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Counts and revisions of history rows, once no other call is changing the record."""
        until = self._clock.monotonic() + BUSY_WAIT_S_MAX

        def load(reader: Reader) -> dict[str, Any]:
            return reader.rows(case.tenant, HISTORY, watched)

        while True:
            rows = await self._store.read(load)
            counts = {row_id: rows[row_id]["count"] if row_id in rows else 0 for row_id in watched}
            revisions = {row_id: rows[row_id]["revision"] if row_id in rows else 0 for row_id in watched}
            if guard is None or counts[guard] == 0:
                return counts, revisions
            if self._clock.monotonic() > until:
                raise Refused(
                    Refusal(
                        Code.OVERLOADED,
                        "Another call is still changing the same record. Try again in a few seconds.",
                        retry="after:3",
                        call=case.call,
                    )
                )
            await asyncio.sleep(BUSY_PAUSE_S)


@lru_cache(maxsize=1_000)
def service_subject(tenant: str, roles: tuple[str, ...]) -> Subject:
    """Comptroller itself, with the roles that the tool it reads with names."""
    principal = Principal(tenant, "comptroller", "service:comptroller", PrincipalKind.SERVICE)
    return Subject(principal, Actor("comptroller"), frozenset(roles))


def history_rows(
    rules: Mapping[str, HistoryRule], principal_key: str, task: str, now_ms: int
) -> dict[str, str]:
    """Row ids of declared history, by its name (`principal.refunds_today`)."""
    rows: dict[str, str] = {}
    for name, rule in rules.items():
        scope = Scope(name.partition(".")[0])
        who = task if scope is Scope.TASK else principal_key
        rows[name] = history_id(scope, who, rule.count, Window(rule.window.value), now_ms)
    return rows


def unavailable(case: Case, why: str) -> Refusal:
    """One generic text: whether the record exists, is foreign or is missing must not show. `why` goes to the log."""
    _log.info("look-up failed", call=case.call, tool=case.tool_in_hand.name, why=why)
    return Refusal(
        Code.LOOKUP_FAILED,
        "Comptroller could not look up what it needs to decide this call, so it was not run. Check the ids you gave "
        f"with a read first, or hand the task to a person. (call {case.call})",
        retry="other_arguments",
        call=case.call,
    )
