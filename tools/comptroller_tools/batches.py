"""The batch form of a read: `NAME_many` takes a list where the read takes one value. It is no tool of the source.

Each value is a call of the read itself; here is only what agents see and what their arguments are checked against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, cast

from comptroller_tools.declarations import BatchRule
from comptroller_tools.validation import Validator, compile_schema

__all__ = ["Batch", "batch_findings", "batch_name"]

_SUFFIX: Final = "_many"
_REFUSAL: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("code", "text", "retry")},
    "required": ["code", "text", "retry"],
}


def batch_name(tool: str) -> str:
    return f"{tool}{_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch form of tool `base`: a list `argument` of at most `most` values of its argument `of`.

    `arguments` checks the call as a whole; each value is checked with the call that it becomes.
    """

    name: str
    base: str
    argument: str
    of: str
    most: int
    description: str
    arguments: Validator
    advertised_input: Mapping[str, Any]
    advertised_output: Mapping[str, Any]

    @classmethod
    def build(
        cls,
        base: str,
        rule: BatchRule,
        described: str,
        given: Mapping[str, Any],
        back: Mapping[str, Any] | None,
    ) -> Batch:
        """From the rule and the schemas of `base` as they are advertised."""
        argument = rule.argument or f"{rule.of}s"
        listed = {"type": "array", "minItems": 1, "maxItems": rule.max, "uniqueItems": True}
        properties = deepcopy(dict(given.get("properties", {})))
        one = properties.pop(rule.of, {})
        shown = {
            **deepcopy(dict(given)),
            "title": batch_name(base),
            "properties": {argument: {**listed, "items": one}, **properties},
            "required": [argument, *(name for name in given.get("required", ()) if name != rule.of)],
            "additionalProperties": False,
        }
        loose = {
            "type": "object",
            "properties": {argument: listed, **{name: {} for name in properties}},
            "required": [argument],
            "additionalProperties": False,
        }
        return cls(
            batch_name(base),
            base,
            argument,
            rule.of,
            rule.max,
            f"Like `{base}`, for up to {rule.max} at once. Each is decided and counted by itself; the answer says of each "
            f"whether it was read. {described}",
            compile_schema(loose),
            shown,
            _answers(rule.of, back),
        )

    def single(self, given: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """The arguments of the one call for `value`."""
        return {self.of: value, **{name: each for name, each in given.items() if name != self.argument}}


def batch_findings(
    rule: BatchRule | None, schema: Mapping[str, Any], where: str
) -> Iterator[tuple[str, str]]:
    """What is wrong with a rule, seen beside the arguments of its tool: `(where, problem)`."""
    if rule is None:
        return
    known = cast("Mapping[str, Any]", schema.get("properties", {}))
    if rule.of not in known:
        named = ", ".join(f"`{name}`" for name in known) or "none"
        yield f"{where}.of", f"names no argument of the tool; it takes {named}"
    argument = rule.argument or f"{rule.of}s"
    if argument in known:
        yield f"{where}.argument", f"is `{argument}`, which the tool takes already; choose another name"


def _answers(of: str, back: Mapping[str, Any] | None) -> dict[str, Any]:
    """`{items: [{OF, ok, call, output | refusal}]}`; definitions move to the root, where references look for them."""
    output = deepcopy(dict(back)) if back is not None else {}
    definitions = output.pop("$defs", None)
    output.pop("$schema", None)
    if '"#"' in str(output).replace("'", '"'):
        output = {}  # refers to itself as a whole, which it no longer is
    item = {
        "type": "object",
        "properties": {
            of: {},
            "ok": {"type": "boolean"},
            "call": {"type": "string"},
            "output": output,
            "refusal": dict(_REFUSAL),
        },
        "required": [of, "ok"],
    }
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": item}},
        "required": ["items"],
    }
    return {**schema, "$defs": definitions} if definitions else schema
