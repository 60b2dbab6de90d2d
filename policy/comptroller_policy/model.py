"""The values a decision is made from and what it answers. No behaviour.

A decision is pure: the same `Bundle` and `Question` always give the same `Decision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from comptroller_audit.vocabulary import Effect, Subject

__all__ = [
    "Decision",
    "Gate",
    "PolicyFile",
    "Question",
    "Reads",
    "Record",
    "ToolFacts",
    "Verdict",
]


class Verdict(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    NEEDS_APPROVAL = "needs_approval"


@dataclass(frozen=True, slots=True)
class Gate:
    """A `forbid … unless context.approvals.<role> >= n` that is closed: `count` people with `role` must agree."""

    policy: str
    role: str
    count: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What Cedar said, with the `@id`s of the policies that decided and the `@reason` each gives.

    `errors` is non-empty only on DENY: an error anywhere in deciding is a deny.
    """

    verdict: Verdict
    policies: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """The business record acted on: `Comptroller::Record` with id `source/kind/key`, child of its Source."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Question:
    """One call as policy sees it. Values are JSON values; `derived` are exact decimals.

    `facts`, `history`, `derived` and `provenance` hold only what the tool's slice reads (`Bundle.reads`).
    `history` maps `principal.<name>` or `task.<name>` to a count. `approvals` maps role to the number of
    distinct people who agreed; `canary` lets the call past the rollout gate. `output` and `after` are set only for the decision after the call.
    """

    tool: str
    subject: Subject
    input: Mapping[str, Any]
    now_ms: int
    environment: str = "default"
    task: str = ""
    step: int = 0
    record: Record | None = None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    history: Mapping[str, int] = field(default_factory=dict[str, int])
    derived: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    approvals: Mapping[str, int] = field(default_factory=dict[str, int])
    canary: bool = False
    output: Any = None
    after: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Reads:
    """What the policies in a tool's slice read, so that nothing else is looked up or computed.

    `early` is true when some policy can already deny from the input alone (step 5).
    `inputs` is false when no policy reads `context.input`, `now`, `task` or the resource: the decision can be cached.
    """

    facts: frozenset[str] = frozenset()
    history: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()
    provenance: frozenset[str] = frozenset()
    approvals: frozenset[str] = frozenset()
    after: bool = False
    after_facts: frozenset[str] = frozenset()
    inputs: bool = True
    early: bool = False


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """Cedar text with where it came from, so that a finding can name file and line."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """A tool as policy needs it: names, effect, schemas, and what its config declares.

    `fact_schemas` maps fact name to the output JSON Schema of the tool that reads it.
    `rules` is the policy part of the tool's config (`rules.ToolRules`).
    """

    name: str
    source: str
    effect: Effect
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    rules: Any
    resource_kind: str | None = None
    fact_schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, "Mapping[str, Any]"])
    spends: bool = False
    """Whether a call declares a cost or units: money, as far as anyone can tell."""
