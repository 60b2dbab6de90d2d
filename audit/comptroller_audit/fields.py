"""Field rules: which fields of a tool's output are withheld whatever stands in them, and from whom.

They come from the config or from the tool's own output schema, and are applied before patterns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from comptroller_audit.errors import FieldRuleError
from comptroller_audit.vocabulary import Json, JsonObject

__all__ = [
    "ANY",
    "KIND_SHAPE",
    "SCHEMA_DEPTH_MAX",
    "Audience",
    "FieldRule",
    "Fields",
    "children",
    "field_path",
    "rules_of_schema",
]

KIND_SHAPE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
SCHEMA_DEPTH_MAX: Final = 16
"""A field further down, or behind more references, must be named in the config."""
REDACT_KEYWORD: Final = "x-comptroller-redact"
ANY: Final = "*"
_BY_FORMAT: Final = "@"
"""In place of a kind: the schema only says that it is an address."""


class Audience(StrEnum):
    """Who will see a value."""

    MODEL = "model"
    PERSON = "person"
    RECORD = "record"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class FieldRule:
    """Withhold a field. Raises FieldRuleError for a path or a kind that is none, or one that logs may see.

    `path` is a name, `customer_email`, which is meant wherever it stands; or a path from the root, `customer.email`
    or `$.email`. Lists are passed through and `*` is any name: `$.lines.*.iban`. `kind` is what its tokens are
    called; without it, the field's name. `raw_for` may see the field as it is (credentials in it never); records
    do by default, since they are sealed and can be erased.
    """

    path: str
    kind: str = ""
    raw_for: frozenset[Audience] = frozenset({Audience.RECORD})

    def __post_init__(self) -> None:
        names = field_path(self.path)
        if not self.kind:
            name = re.sub(r"[^a-z0-9_]", "_", names[-1].lower()).lstrip("_0123456789")[:32]
            object.__setattr__(self, "kind", name or "field")
        if not KIND_SHAPE.fullmatch(self.kind):
            raise FieldRuleError(
                f"the field rule for {self.path!r} has the kind {self.kind!r}; write a name such as email,"
                " in small letters, digits and underscores, 32 at most"
            )
        if Audience.LOG in self.raw_for:
            raise FieldRuleError(
                f"the field rule for {self.path!r} shows the field to logs; nothing that is withheld may reach a log"
            )


def field_path(path: str) -> tuple[str, ...]:
    """The names in a path, without its `$`. Raises FieldRuleError for a path with an empty name."""
    names = tuple(path.removeprefix("$").removeprefix(".").replace("[*]", "").split("."))
    if not all(names):
        raise FieldRuleError(f"{path!r} is no path to a field; write a name, or names with dots between them")
    return names


class Fields:
    """The rules of one tool, ready to be asked. Of several that match, the first counts."""

    def __init__(self, rules: Collection[FieldRule]) -> None:
        self._named: dict[str, FieldRule] = {}
        self._rooted: list[tuple[tuple[str, ...], FieldRule]] = []
        for rule in rules:
            names = field_path(rule.path)
            if len(names) == 1 and not rule.path.startswith("$") and names[0] != ANY:
                self._named.setdefault(names[0], rule)
            else:
                self._rooted.append((names, rule))

    def __bool__(self) -> bool:
        return bool(self._named or self._rooted)

    def hides_from(self, audience: Audience) -> bool:
        """Whether some field is withheld from an audience."""
        rules = [*self._named.values(), *(rule for _, rule in self._rooted)]
        return any(audience not in rule.raw_for for rule in rules)

    def rule(self, path: tuple[str, ...]) -> FieldRule | None:
        """The rule for the member at `path`, names from the root with lists left out."""
        if (named := self._named.get(path[-1])) is not None:
            return named
        for names, rule in self._rooted:
            if len(names) == len(path) and all(n in (ANY, p) for n, p in zip(names, path, strict=True)):
                return rule
        return None


def rules_of_schema(schema: JsonObject, *, emails: bool = True) -> tuple[FieldRule, ...]:
    """Rules for what a JSON Schema marks: `x-comptroller-redact`, and with `emails` also `format: email` (idn-email).

    The keyword is `true` or a kind. Local references are followed; what they repeat without end is cut off at
    SCHEMA_DEPTH_MAX. Raises FieldRuleError for a keyword that is neither.
    """
    found: dict[str, FieldRule] = {}
    for path, kind in _marked(schema, schema, (), 0):
        if path and (emails or kind != _BY_FORMAT):
            rule = FieldRule("$." + ".".join(path), "email" if kind == _BY_FORMAT else kind)
            found.setdefault(rule.path, rule)
    return tuple(found.values())


def _marked(
    root: JsonObject, node: Json, path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], str]]:
    if not isinstance(node, dict) or depth > SCHEMA_DEPTH_MAX:
        return
    mark = node.get(REDACT_KEYWORD)
    if mark is True or isinstance(mark, str):
        yield path, mark if isinstance(mark, str) else ""
    elif mark is not None and mark is not False:
        raise FieldRuleError(
            f"{REDACT_KEYWORD} at {'.'.join(path) or 'the root'} must be true or a kind such as email"
        )
    elif node.get("format") in ("email", "idn-email"):
        yield path, _BY_FORMAT
    for below, child in children(root, node):
        yield from _marked(root, child, path if below is None else (*path, below), depth + 1)


def children(root: JsonObject, node: JsonObject) -> Iterator[tuple[str | None, Json]]:
    """The schemas below one: `(name of the member, schema)`; `*` is any name, None the same value or a list's item."""
    properties = node.get("properties")
    if isinstance(properties, dict):
        # A name with a dot in it cannot be a path; `*` covers it and its neighbours, which withholds too much.
        yield from ((ANY if "." in name else name, child) for name, child in properties.items())
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        yield ANY, node.get(keyword)
    named = node.get("patternProperties")
    if isinstance(named, dict):
        yield from ((ANY, child) for child in named.values())
    for keyword in ("items", "contains", "if", "then", "else"):
        yield None, node.get(keyword)
    for keyword in ("prefixItems", "anyOf", "oneOf", "allOf"):
        branches = node.get(keyword)
        if isinstance(branches, list):
            yield from ((None, branch) for branch in branches)
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        target: Json = root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            target = target.get(step) if isinstance(target, dict) else None
        yield None, target
