"""Files of cases (`policies/*.test.yaml`): who calls what, with what look-ups, and what is to be decided.

Read with file and line like the configuration; their grammar is published as a JSON Schema (`cases_json_schema`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from comptroller_audit.vocabulary import Json, JsonObject, PrincipalKind
from comptroller_policy.declarations import Origin
from comptroller_policy.errors import Finding
from comptroller_policy.model import Verdict
from comptroller_server.config.findings import shape_findings
from comptroller_server.config.paths import KeyPath, finding_at
from comptroller_server.config.yaml_lines import Node, read_yaml
from comptroller_server.rehearsal.deciding import Phase

__all__ = [
    "CASES_PATTERN",
    "NOON",
    "Case",
    "CaseFile",
    "Cases",
    "Given",
    "PrincipalSaid",
    "cases_json_schema",
    "read_cases",
]

CASES_PATTERN = "policies/*.test.yaml"
"""Where cases are looked for, beside the configuration."""
CASES_MAX = 2_000
"""Cases in one file."""

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Text = Annotated[str, Field(min_length=1, max_length=300)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrincipalSaid(_Section):
    """Who the call is made for. Without `roles` those of `identity.local`; an empty list is nobody's."""

    roles: tuple[Text, ...] | None = None
    subject: Text = "somebody"
    issuer: Text = "local"
    kind: PrincipalKind = PrincipalKind.LOCAL


class Given(_Section):
    """What policy may read of a call: as `defaults` of a file, and in each case, whose own keys win.

    Of defaults that name a tool, cases of another tool have only who calls, where and when.
    """

    tool: Text | None = Field(default=None, description="the tool that is called")
    principal: PrincipalSaid | None = None
    actor: Text | None = Field(default=None, description="the client; without it the first configured one")
    environment: Text | None = Field(default=None, description="without it that of the configuration")
    now: datetime | None = Field(default=None, description="without it Monday, 5 January 2026, noon UTC")
    task: Text | None = Field(default=None, description="the task's id")
    step: Annotated[int, Field(ge=0)] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])
    facts: dict[str, Any] = Field(default_factory=dict[str, Any], description="what look-ups return, by name")
    history: dict[str, Count] = Field(
        default_factory=dict[str, int], description="counts by name (`principal.refunds_today`); else 0"
    )
    derived: dict[str, float] = Field(
        default_factory=dict[str, float], description="values that are not computed from facts"
    )
    provenance: dict[str, Origin] = Field(
        default_factory=dict[str, Origin],
        description="where the values of arguments come from; else what is trusted least",
    )
    approvals: dict[str, Count] = Field(
        default_factory=dict[str, int], description="how many people of a role have agreed; else 0"
    )
    confirmed: bool | None = Field(default=None, description="the person at the client has confirmed")
    canary: bool | None = Field(default=None, description="the rollout drew the call; else not")


class CaseText(Given):
    """One case as written."""

    name: Text
    expect: Verdict
    phase: Phase = Phase.BEFORE
    output: Any = Field(default=None, description="with `phase: after`, what the tool returned")
    after: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="with `phase: after`, the facts as they are read again"
    )
    policies: tuple[Text, ...] | None = Field(default=None, description="exactly the ids that decide")
    reasons: tuple[str, ...] | None = Field(default=None, description="exactly the reasons they give")

    @model_validator(mode="after")
    def _phases(self) -> CaseText:
        given = {"output", "after"} & self.model_fields_set
        if self.phase is Phase.AFTER and "output" not in given:
            raise ValueError("with `phase: after` it needs `output`, what the tool returned")
        if self.phase is Phase.BEFORE and given:
            raise ValueError(f"`{min(given)}` is for `phase: after` only")
        if self.phase is Phase.AFTER and self.expect is Verdict.NEEDS_APPROVAL:
            raise ValueError("nobody is asked after the call: expect `allow` or `deny`")
        return self


class CaseFile(_Section):
    """A file of cases. `uncovered` says of rules that no case is for, and why: `--cover` lets those pass."""

    defaults: Given = Field(default_factory=Given)
    uncovered: dict[Text, Text] = Field(default_factory=dict[str, str])
    cases: tuple[CaseText, ...] = Field(max_length=CASES_MAX)


@dataclass(frozen=True, slots=True)
class Case:
    """One case with its place. `tree` and `path` say where each of its keys stands."""

    file: str
    where: str
    text: CaseText
    given: Given
    tree: Node
    path: KeyPath

    def finding(self, part: str, message: str, name: str = "") -> Finding:
        """`message` at a key of the case (`facts`, or with `name` one entry of it), or of the file's defaults."""
        for path in (self.path, ("defaults",)):
            entry = _entries(self.tree, path).get(part)
            if entry is None:
                continue
            if not name:
                return finding_at(self.tree, (*path, part), message)
            if isinstance(entry.value, Mapping) and name in entry.value:
                return finding_at(self.tree, (*path, part, name), message)
        return finding_at(self.tree, self.path, message)


def _entries(tree: Node, path: KeyPath) -> Mapping[str, Node]:
    """The mapping at `path`; empty when there is none."""
    node = tree
    for part in path:
        if isinstance(part, int) and isinstance(node.value, tuple):
            node = node.value[part]
        elif isinstance(node.value, Mapping) and part in node.value:
            node = node.value[str(part)]
        else:
            return {}
    return node.value if isinstance(node.value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Cases:
    """What one file holds. With `findings`, each with `file:line`, nothing else of it counts."""

    cases: tuple[Case, ...] = ()
    uncovered: Mapping[str, Finding] = field(default_factory=dict[str, Finding])
    findings: tuple[Finding, ...] = ()


def read_cases(path: Path, shown: str) -> Cases:
    """The cases of a file, or what is wrong with it. `uncovered` maps rules to a finding about what is said of them."""
    tree, findings = read_yaml(path, shown)
    if findings or tree is None:
        empty = Finding(f"{shown}:1", "the file is empty; write `cases:` and a list")
        return Cases(findings=tuple(findings or [empty]))
    if not isinstance(tree.value, Mapping):
        text = "the file must be `key: value` lines; begin with `cases:`"
        return Cases(findings=(Finding(tree.where, text),))
    try:
        document = CaseFile.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        return Cases(findings=tuple(shape_findings(tree, error, schema=cases_json_schema())))
    cases = [
        Case(shown, _where(tree, at), case, _joined(document.defaults, case), tree, ("cases", at))
        for at, case in enumerate(document.cases)
    ]
    none = [finding_at(tree, ("cases",), "holds no case; write one, or remove the file")] if not cases else []
    wrong = (*none, *_empty(tree, len(cases)), *_unfinished(cases), *_repeated(cases))
    if wrong:
        return Cases(findings=wrong)
    text = "is no rule that is without a case; remove the line"
    uncovered = {id_: finding_at(tree, ("uncovered", id_), text) for id_ in document.uncovered}
    return Cases(tuple(cases), uncovered)


def _where(tree: Node, at: int) -> str:
    listed = _entries(tree, ())["cases"].value
    return cast("tuple[Node, ...]", listed)[at].where


def _empty(tree: Node, count: int) -> list[Finding]:
    """Keys without a value: an empty `roles:` must not mean those of the configuration."""
    sections = [("defaults",), *(("cases", at) for at in range(count))]
    paths: list[KeyPath] = [path for at in sections for path in (at, (*at, "principal"))]
    return [
        finding_at(tree, (*path, key), "has no value; give it one or remove the line")
        for path in paths
        for key, node in _entries(tree, path).items()
        if node.value is None and key != "output"
    ]


def _joined(defaults: Given, case: CaseText) -> Given:
    """A case with the defaults of its file: its own keys win, entry by entry in what has entries."""
    elsewhere = case.tool not in (None, defaults.tool) and defaults.tool is not None
    both: dict[str, Any] = {}
    for name in Given.model_fields:
        own, other = getattr(case, name), getattr(defaults, name)
        if name == "principal" and own is not None and other is not None:
            both[name] = other.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})
        elif isinstance(own, dict) and elsewhere:
            both[name] = own
        elif isinstance(own, dict):
            both[name] = {**cast("dict[str, Any]", other), **cast("dict[str, Any]", own)}
        else:
            both[name] = own if own is not None else other
    return Given.model_construct(**both)


def _unfinished(cases: list[Case]) -> list[Finding]:
    return [
        finding_at(case.tree, case.path, "names no `tool`, and neither do the `defaults` of the file")
        for case in cases
        if case.given.tool is None
    ]


def _repeated(cases: list[Case]) -> list[Finding]:
    """A name that is used twice would be one line of two in every report."""
    first: dict[str, str] = {}
    return [
        case.finding("name", f"is already used at {before}; choose another")
        for case in cases
        if (before := first.setdefault(case.text.name, case.where)) != case.where
    ]


def cases_json_schema() -> JsonObject:
    """The JSON Schema (2020-12) of a file of cases, for editors that complete and check YAML."""
    schema: dict[str, Json] = CaseFile.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "policy cases",
        "description": "Cases for `comptroller policy test`",
    }


NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
"""When a case without `now` is decided."""
