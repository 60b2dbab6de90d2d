"""Cedar text split into policies that know where they stand, what they read and which gate they are.

Works on Cedar's own JSON form of a policy (https://docs.cedarpolicy.com/policies/json-format.html), so nothing is
guessed from text; text is only split at `;` to give each policy its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import cedarpy

from comptroller_policy.errors import Finding
from comptroller_policy.model import Gate, PolicyFile
from comptroller_policy.paths import is_list, is_object
from comptroller_policy.schema import NAMESPACE

__all__ = [
    "APPROVALS_ASSUMED",
    "Entity",
    "Path",
    "Policy",
    "parse_file",
    "parse_policy",
    "quoted",
]

APPROVALS_ASSUMED = 1000
"""How many approvals of each needed role are assumed when asking whether a person could open a gate."""

POLICY_CHARS_MAX = 10_000

Path: TypeAlias = tuple[str, ...]
"""A chain of attributes from a variable: `("context", "input", "amount_usd")`."""

_TOKENS = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;|[^\s"/;]+|["/]', re.DOTALL)
_WHOLE_DECIMAL = re.compile(r'\bdecimal\(\s*"(-?[0-9]+)"\s*\)')


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity a policy names, without the namespace: `Role::"approver"`."""

    type: str
    id: str


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """One policy. `where` is `file:line` or a config path; `body` is Cedar's JSON form.

    `reads` holds every attribute chain from `context`, `principal`, `resource` or `action` in its conditions;
    `approvals_read` counts how often `context.approvals` is written in them.
    """

    id: str
    where: str
    text: str
    body: Mapping[str, Any]
    reads: frozenset[Path]
    entities: frozenset[Entity]
    approvals_read: int

    @property
    def permits(self) -> bool:
        return bool(self.body["effect"] == "permit")

    @property
    def conditions(self) -> list[Any]:
        return list(self.body["conditions"])

    @property
    def reason(self) -> str | None:
        return self._annotation("reason")

    @property
    def approval(self) -> str | None:
        """The role of `@approval("role")`; an empty text when the annotation has no value."""
        return self._annotation("approval")

    def _annotation(self, name: str) -> str | None:
        annotations: Mapping[str, str | None] = self.body.get("annotations", {})
        return (annotations[name] or "") if name in annotations else None

    @property
    def gate(self) -> Gate | None:
        """The gate this policy is: a forbid whose only `unless` is `context.approvals.<role> >= n`."""
        if self.permits or self.approval is None:
            return None
        unless = [item["body"] for item in self.conditions if item["kind"] == "unless"]
        found = _approvals_asked(unless[0]) if len(unless) == 1 else None
        return Gate(self.id, *found) if found and found[0] == self.approval else None

    def reads_root(self, name: str) -> bool:
        """Whether any condition reads `context.<name>` or anything below it."""
        return any(path[:2] == ("context", name) for path in self.reads)

    def line_of(self, word: str) -> str:
        """`where`, moved to the first line of the text that has `word` (files only)."""
        file, _, line = self.where.rpartition(":")
        at = re.search(rf"\b{re.escape(word)}\b", self.text)
        if not line.isdecimal() or at is None:
            return self.where
        return f"{file}:{int(line) + self.text.count(chr(10), 0, at.start())}"


def quoted(text: str) -> str:
    """`text` as a Cedar string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in escaped) + '"'


def parse_file(file: PolicyFile) -> tuple[list[Policy], list[Finding]]:
    """Every policy of a file, and what is wrong with those that do not parse or have no `@id`."""
    policies: list[Policy] = []
    findings: list[Finding] = []
    for line, text in _statements(file.text):
        policy = parse_policy(text, f"{file.name}:{line}")
        if isinstance(policy, Finding):
            findings.append(policy)
        else:
            policies.append(policy)
    return policies, findings


def parse_policy(text: str, where: str) -> Policy | Finding:
    """One policy from its text. `decimal("20")` is read as `decimal("20.0")`, which Cedar demands."""
    if len(text) > POLICY_CHARS_MAX:
        return Finding(
            where, f"a policy has at most {POLICY_CHARS_MAX} characters; split this one of {len(text)}."
        )
    text = _WHOLE_DECIMAL.sub(r'decimal("\1.0")', text)
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except (ValueError, RecursionError) as error:
        return Finding(where, f"the policy does not parse: {error}.")
    if parsed["templates"]:
        return Finding(where, "templates (`?principal`, `?resource`) are not used; write the entity itself.")
    bodies: list[dict[str, Any]] = list(parsed["staticPolicies"].values())
    if len(bodies) != 1:
        return Finding(where, f"expected one policy here, found {len(bodies)}.")
    annotations: Mapping[str, str | None] = bodies[0].get("annotations") or {}
    name = annotations.get("id")
    if not name:
        return Finding(
            where, 'the policy has no @id; write @id("a-name") before it, so that records can name it.'
        )
    reads: list[Path] = []
    entities: set[Entity] = set()
    _walk([item["body"] for item in bodies[0]["conditions"]], reads, entities)
    for variable in ("principal", "action", "resource"):
        _scope_entities(bodies[0][variable], entities)
    asked = sum(path[:2] == ("context", "approvals") for path in reads)
    return Policy(name, where, text, bodies[0], frozenset(reads), frozenset(entities), asked)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each policy's first line (from 1) and text. In Cedar `;` ends a policy and stands nowhere else."""
    start: int | None = None
    for match in _TOKENS.finditer(text):
        if match.group().startswith("//"):
            continue
        if start is None:
            start = match.start()
        if match.group() == ";":
            yield text.count("\n", 0, start) + 1, text[start : match.end()]
            start = None
    if start is not None:
        yield text.count("\n", 0, start) + 1, text[start:]


# ------------------------------------------------------------------------------------------- what is read


def _chain(node: Any) -> Path | None:
    """The path of `context.a.b`, or None when the expression is not a plain chain from a variable."""
    names: list[str] = []
    while is_object(node) and "." in node:
        names.append(node["."]["attr"])
        node = node["."]["left"]
    return (node["Var"], *reversed(names)) if is_object(node) and "Var" in node else None


def _walk(nodes: list[Any], reads: list[Path], entities: set[Entity]) -> None:
    """Collect chains and entities below `nodes`. Iterative: a long `&&` is a deep tree."""
    stack: list[Any] = list(nodes)
    while stack:
        node = stack.pop()
        if is_list(node):
            stack.extend(node)
            continue
        if not is_object(node):
            continue
        path = _chain(node)
        if path is not None:
            reads.append(path)
        elif "has" in node:
            base = _chain(node["has"]["left"])
            if base is None:
                stack.append(node["has"]["left"])
            else:
                reads.append((*base, node["has"]["attr"]))
        elif "Value" in node:
            _literal_entity(node["Value"], entities)
        elif "like" in node:
            stack.append(node["like"]["left"])
        elif "Record" in node:
            # The keys are attribute names an author chose, not node kinds.
            stack.extend(node["Record"].values())
        else:
            stack.extend(node.values())


def _literal_entity(value: Any, entities: set[Entity]) -> None:
    if is_object(value) and is_object(value.get("__entity")):
        entities.add(_entity(value["__entity"]))


def _scope_entities(scope: Mapping[str, Any], entities: set[Entity]) -> None:
    named = [scope["entity"]] if "entity" in scope else list(scope.get("entities", ()))
    inner = scope.get("in")
    if is_object(inner) and "entity" in inner:
        named.append(inner["entity"])
    entities.update(_entity(item) for item in named)


def _entity(item: Mapping[str, str]) -> Entity:
    return Entity(item["type"].removeprefix(f"{NAMESPACE}::"), item["id"])


def _approvals_asked(body: Any) -> tuple[str, int] | None:
    """(role, n) when `body` is exactly `context.approvals.<role> >= n` with 1 <= n <= APPROVALS_ASSUMED."""
    if not (is_object(body) and ">=" in body):
        return None
    path, limit = _chain(body[">="]["left"]), body[">="]["right"].get("Value")
    if path is None or len(path) != 3 or path[:2] != ("context", "approvals"):
        return None
    whole = isinstance(limit, int) and not isinstance(limit, bool) and 1 <= limit <= APPROVALS_ASSUMED
    return (path[2], limit) if whole else None
