"""Trying cases: each is decided by the bundle the server would load, and compared with what it expects."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from comptroller_audit.vocabulary import Actor, Json, JsonObject, Principal, Subject
from comptroller_policy.declarations import Aim, Origin, RolloutMode
from comptroller_policy.engine import DEFAULT_DENY, ERROR_DENY
from comptroller_policy.errors import Finding
from comptroller_policy.model import Verdict
from comptroller_policy.origins import least
from comptroller_policy.rollout import PERCENT_MAX, Draw, DrawnBy, Standing
from comptroller_server.config.model import Config
from comptroller_server.errors import CannotDecide
from comptroller_server.installation import TENANT
from comptroller_server.rehearsal.cases import NOON, Case, Given, PrincipalSaid
from comptroller_server.rehearsal.deciding import Asked, CameBack, Decided, Phase, Rehearsal
from comptroller_tools.catalogue import Tool
from comptroller_tools.validation import compile_schema

__all__ = ["CaseEnd", "Cover", "Tried", "cover_of", "try_case"]

NAMED_MAX = 8
"""Ids that one sentence names."""


class CaseEnd(StrEnum):
    """What became of a case. UNUSABLE says nothing about the policies: the case itself cannot be decided."""

    PASSED = "passed"
    FAILED = "failed"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Tried:
    """One case and what came of it. `because` is the first thing that differs, or what makes the case unusable."""

    case: Case
    end: CaseEnd
    because: str = ""
    was: Verdict | None = None
    phase: Phase | None = None
    policies: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()
    took_s: float = 0.0
    findings: tuple[Finding, ...] = ()

    @property
    def file(self) -> str:
        return self.case.file

    @property
    def where(self) -> str:
        return self.case.where

    @property
    def name(self) -> str:
        return self.case.text.name

    def as_json(self) -> JsonObject:
        """`{where, name, tool, phase, end, expected, was, policies, reasons, errors, because}`."""
        text = self.case.text
        policies: list[Json] = [*self.policies]
        return {
            "where": self.case.where,
            "name": text.name,
            "tool": self.case.given.tool,
            "phase": text.phase.value,
            "end": self.end.value,
            "expected": text.expect.value,
            "was": self.was.value if self.was is not None else None,
            "policies": policies,
            "reasons": [*self.reasons],
            "errors": [*self.errors],
            "because": self.because,
        }


def try_case(rehearsal: Rehearsal, case: Case) -> Tried:
    """Decide a case and compare. Never raises for what the case says: that makes it UNUSABLE, with findings."""
    began = time.perf_counter()
    try:
        tool = rehearsal.tool(case.given.tool or "")
        if findings := [*_findings(rehearsal, tool, case)]:
            return _unusable(case, findings)
        decided = rehearsal.decide(_asked(rehearsal, tool, case))
    except CannotDecide as error:
        return _unusable(case, [case.finding(error.part, f"cannot be decided: {error}")])
    tried = _compared(rehearsal, case, decided)
    return replace(tried, took_s=time.perf_counter() - began)


def _unusable(case: Case, findings: Sequence[Finding]) -> Tried:
    return Tried(case, CaseEnd.UNUSABLE, str(findings[0]), findings=tuple(findings))


# -- from a case to a question ----------------------------------------------------------------------------------------


def _asked(rehearsal: Rehearsal, tool: Tool, case: Case) -> Asked:
    config, given, text = rehearsal.installation.config, case.given, case.text
    now = given.now or NOON
    declared = dict.fromkeys(tool.config.history, 0)
    return Asked(
        tool=tool.name,
        arguments=given.arguments,
        subject=_subject(config, given),
        now_ms=round((now if now.tzinfo else now.replace(tzinfo=NOON.tzinfo)).timestamp() * 1000),
        environment=given.environment or config.environment,
        task=given.task or "task",
        step=1 if given.step is None else given.step,
        facts=given.facts,
        history={**declared, **given.history},
        derived={name: Decimal(repr(value)) for name, value in given.derived.items()},
        provenance={**_least_trusted(tool, given), **given.provenance},
        approvals=given.approvals,
        confirmed=given.confirmed or False,
        draw=_draw(rehearsal, tool, given),
        came_back=CameBack(text.output, text.after) if text.phase is Phase.AFTER else None,
    )


def _least_trusted(tool: Tool, given: Given) -> dict[str, Origin]:
    """Where arguments come from, where a case does not say: from nobody who is trusted."""
    return {
        name: least([Origin.NEW] if given.arguments.get(name) is not None else [], aim)
        for name, aim in tool.config.provenance.items()
    }


def _subject(config: Config, given: Given) -> Subject:
    said = given.principal or PrincipalSaid()
    local = config.identity.local
    roles = local.roles if said.roles is None else said.roles
    principal = Principal(TENANT, said.issuer, said.subject, said.kind)
    return Subject(principal, Actor(given.actor or next(iter(local.clients), "default")), frozenset(roles))


def _draw(rehearsal: Rehearsal, tool: Tool, given: Given) -> Draw | None:
    if not rehearsal.is_drawn(tool):
        return None
    config = rehearsal.installation.config.rollout
    automatic = config.mode is RolloutMode.AUTO and given.canary is None
    drawn = Standing.IN if given.canary else Standing.OUTSIDE
    standing = Standing.AUTO if automatic else drawn
    return Draw(standing, 0, PERCENT_MAX if automatic else config.percent, DrawnBy.RECORD)


def _findings(rehearsal: Rehearsal, tool: Tool, case: Case) -> Iterable[Finding]:
    """Everything a case names that this tool or this configuration does not have."""
    given, declared = case.given, tool.config
    yield from _unknown(case, "facts", given.facts, declared.facts)
    yield from _unknown(case, "after", case.text.after, declared.facts)
    yield from _unknown(case, "history", given.history, declared.history)
    yield from _unknown(case, "derived", given.derived, declared.derived)
    yield from _unknown(case, "provenance", given.provenance, declared.provenance)
    for name, origin in given.provenance.items():
        if origin is Origin.NEW and declared.provenance.get(name) is Aim.TARGET:
            yield case.finding("provenance", "is a target, and a new one counts as `untrusted`", name)
    yield from _unknown(case, "approvals", given.approvals, rehearsal.bundle.reads(tool.name).approvals)
    if given.canary is not None and not rehearsal.is_drawn(tool):
        yield case.finding("canary", f"means nothing here: no rollout draws calls of `{tool.name}`")
    for part, facts in (("facts", given.facts), ("after", case.text.after)):
        for name, value in facts.items():
            if name in declared.facts:
                yield from _fact_findings(rehearsal, case, part, declared.facts[name].tool, name, value)
    if case.text.phase is Phase.AFTER and tool.output is not None:
        for problem in tool.output.check(case.text.output):
            yield case.finding("output", f"is not what `{tool.name}` returns: {problem}")
    if case.text.policies is not None:
        yield from _policies_findings(rehearsal, tool, case, case.text.policies)


def _unknown(case: Case, part: str, given: Iterable[str], known: Iterable[str]) -> Iterable[Finding]:
    names = sorted(known)
    for name in sorted(set(given) - set(names)):
        listed = ", ".join(f"`{each}`" for each in names) or "none"
        text = f"is nothing that deciding about `{case.given.tool}` could read; {part} here: {listed}"
        yield case.finding(part, text, name)


def _fact_findings(
    rehearsal: Rehearsal, case: Case, part: str, reader: str, name: str, value: Any
) -> Iterable[Finding]:
    """A look-up has the shape its tool returns; fields that nothing reads may be left out."""
    schema = rehearsal.tool(reader).definition.output_schema
    if schema is None:
        return
    partial = {key: word for key, word in schema.items() if key != "required"}
    if "properties" in partial:
        partial.setdefault("additionalProperties", False)
    for problem in compile_schema(partial).check(value):
        yield case.finding(part, f"is not what `{reader}` returns: {problem}", name)


def _policies_findings(
    rehearsal: Rehearsal, tool: Tool, case: Case, named: Sequence[str]
) -> Iterable[Finding]:
    """Ids that could never decide this call: a misspelt one would make a case that cannot pass."""
    known = {DEFAULT_DENY, ERROR_DENY, *rehearsal.bundle.asked(tool.name)}
    known.update(rehearsal.bundle.asked(tool.name, after=True))
    if tool.compensation is not None:
        known.update(rehearsal.bundle.asked(tool.compensation.target.name))
    for name in named:
        if name not in known:
            text = f"`{name}` decides no call of `{tool.name}`; what does: {_listed(sorted(known))}"
            yield case.finding("policies", text)


# -- comparing ----------------------------------------------------------------------------------------------------


def _compared(rehearsal: Rehearsal, case: Case, decided: Decided) -> Tried:
    decision = decided.decision
    because = _difference(rehearsal, case, decided)
    return Tried(
        case,
        CaseEnd.FAILED if because else CaseEnd.PASSED,
        because,
        decision.verdict,
        decided.phase,
        decision.policies,
        decision.reasons,
        decision.errors,
        decided.seen,
    )


def _difference(rehearsal: Rehearsal, case: Case, decided: Decided) -> str:
    """The first thing that is not as expected, explained; empty when nothing is."""
    text, decision = case.text, decided.decision
    if text.phase is Phase.AFTER and decided.phase is Phase.BEFORE:
        return f"nothing comes back, for before the call it was {_told(rehearsal, decided)}"
    if decision.verdict is not text.expect:
        return f"expected {text.expect}, was {_told(rehearsal, decided)}{_absent(rehearsal, case, decided)}"
    if text.policies is not None and set(text.policies) != set(decision.policies):
        expected = f"expected {decision.verdict} by {_listed(text.policies)}"
        return f"{expected}, was {_told(rehearsal, decided)}{_absent(rehearsal, case, decided)}"
    if text.reasons is not None and set(text.reasons) != set(decision.reasons):
        return f"expected the reasons {_quoted(text.reasons)}, they were {_quoted(decision.reasons)}"
    if decision.errors and ERROR_DENY not in (text.policies or ()):
        told = "; ".join(decision.errors)
        return f"denied because of an error, not by a rule: {told} (name `{ERROR_DENY}` in `policies` if that is meant)"
    return ""


def _told(rehearsal: Rehearsal, decided: Decided) -> str:
    """A decision in words: which policies, where they stand, and why."""
    decision, rules = decided.decision, rehearsal.bundle.rules()
    if decision.errors:
        return f"{decision.verdict} because of an error: {'; '.join(decision.errors)}"
    config = rehearsal.installation.config
    named = [
        f"{id_} ({_place(config, rules[id_].where)})" if id_ in rules else id_ for id_ in decision.policies
    ]
    by = f" by {_listed(named)}" if named else ""
    why = f": {' '.join(decision.reasons)}" if decision.reasons else ""
    return f"{decision.verdict}{by}{why}"


def _absent(rehearsal: Rehearsal, case: Case, decided: Decided) -> str:
    """What the expected policies said, where they did not decide."""
    expected = [id_ for id_ in case.text.policies or () if id_ not in decided.decision.policies]
    if not expected or decided.phase is Phase.AFTER:
        return ""
    words = {True: "matches and did not decide", False: "does not match", None: "could not be evaluated"}
    found = {one.id: one for one in rehearsal.explain(decided)}
    config = rehearsal.installation.config
    told = [
        f"{id_} ({_place(config, found[id_].where)}) {words[found[id_].matched]}"
        for id_ in expected
        if id_ in found
    ]
    return f"; {_listed(told)}" if told else ""


def _place(config: Config, where: str) -> str:
    """Where a rule stands, with its line."""
    return config.placed([Finding(where, "")])[0].where


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return (", ".join(names[:NAMED_MAX]) or "nothing") + more


def _quoted(texts: Sequence[str]) -> str:
    return _listed([f'"{text}"' for text in texts])


# -- coverage -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cover:
    """Which rules some case was decided by. `never` maps the others to where they stand, but for the `excused`.

    `findings` are about excuses for what needs none.
    """

    rules: int
    seen: int
    excused: tuple[str, ...]
    never: Mapping[str, str]
    findings: tuple[Finding, ...]

    def as_json(self) -> JsonObject:
        """`{rules, seen, excused, never: [{id, where}]}`."""
        never: list[Json] = [{"id": id_, "where": where} for id_, where in self.never.items()]
        return {"rules": self.rules, "seen": self.seen, "excused": [*self.excused], "never": never}


def cover_of(rehearsal: Rehearsal, tried: Iterable[Tried], excused: Mapping[str, Finding]) -> Cover:
    """Every rule of the bundle, and those that no case was decided by."""
    seen = {id_ for one in tried for id_ in one.seen}
    rules, config = rehearsal.bundle.rules(), rehearsal.installation.config
    left = {id_: _place(config, rule.where) for id_, rule in rules.items() if id_ not in seen}
    return Cover(
        rules=len(rules),
        seen=len(rules) - len(left),
        excused=tuple(sorted(excused.keys() & left.keys())),
        never={id_: where for id_, where in left.items() if id_ not in excused},
        findings=tuple(finding for id_, finding in excused.items() if id_ not in left),
    )
