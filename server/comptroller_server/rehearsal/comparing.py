"""Two configurations compared by what they mean: tools, rules, limits and gates, in words, with what widened and narrowed.

Everything that a bundle's digest covers is compared key by key, so nothing can change without a word about it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from comptroller_audit.vocabulary import JsonObject
from comptroller_policy.errors import Finding
from comptroller_policy.paths import is_list, is_object
from comptroller_policy.syntax import Policy
from comptroller_server.installation import Installation
from comptroller_server.rehearsal.leanings import MISSING, Direction, KeyNames, direction_of

__all__ = ["Change", "compare"]

VALUE_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is another. `where` is `file:line` in the new configuration, or in the old one for what is gone."""

    direction: Direction
    where: str
    path: str
    text: str

    def as_json(self) -> JsonObject:
        return {
            "direction": self.direction.value,
            "where": self.where,
            "path": self.path,
            "text": self.text,
        }


def compare(old: Installation, new: Installation) -> list[Change]:
    """Every change, widened first. Empty exactly when both bundles are the same. Raises `ConfigInvalid`."""
    changes = [*_settings(old, new), *_rules(old, new)]
    if not changes and old.bundle_digest != new.bundle_digest:
        text = "the digest of the bundle is another, though every key, rule and definition is the same"
        changes.append(Change(Direction.CHANGED, str(new.config.path), "", text))
    order = list(Direction)
    return sorted(changes, key=lambda change: (order.index(change.direction), change.path, change.text))


# -- keys -------------------------------------------------------------------------------------------------------------


def _settings(old: Installation, new: Installation) -> Iterator[Change]:
    for path, before, after in _differing((), _material(old), _material(new)):
        config = old.config if after is MISSING else new.config
        dotted = ".".join(path)
        where = config.placed([Finding(dotted, "")])[0].where
        direction = direction_of(path, before, after)
        yield Change(
            direction, where if where != dotted else str(config.path), dotted, _said(path, before, after)
        )


def _material(installation: Installation) -> dict[str, Any]:
    """All that a digest covers, but for the operator's rules, with what has a name under its name."""
    config = installation.config
    material: dict[str, Any] = dict(config.digest_material())
    del material["policies"]
    listed = cast("list[dict[str, Any]]", material["tools"])
    material["tools"] = {str(tool["name"]): _tool(installation, tool) for tool in listed}
    windows = cast("dict[str, Any]", material["budgets"])["windows"]
    named = {f"{w['unit']} per {w['name'] or w['scope']} per {w['window']}": w for w in windows}
    material["budgets"] = {**material["budgets"], "windows": named}
    material["checks_code"] = installation.checks.code
    return material


def _tool(installation: Installation, written: Mapping[str, Any]) -> dict[str, Any]:
    found = installation.catalogue.find(str(written["name"]))
    assert found is not None
    gates: dict[str, Any] = {}
    for gate in written["approval"]:
        same = sum(name.partition(".")[0] == gate["role"] for name in gates)
        gates[f"{gate['role']}.{same + 1}" if same else str(gate["role"])] = gate
    definition = {
        "arguments": found.definition.input_schema,
        "output": found.definition.output_schema,
        "source": found.source.name,
        "digest": found.definition.digest,
    }
    return {**written, "approval": gates, "definition": definition}


def _differing(path: KeyNames, old: Any, new: Any) -> Iterator[tuple[KeyNames, Any, Any]]:
    """The paths at which two values differ, as deep as both are objects."""
    if old == new and type(old) is type(new):
        return
    if not (is_object(old) and is_object(new)):
        yield path, old, new
        return
    for key in {**old, **new}:
        if key == "digest" and path[-1:] == ("definition",) and _schemas_differ(old, new):
            continue  # said already, by what of the schemas is another
        yield from _differing((*path, key), old.get(key, MISSING), new.get(key, MISSING))


def _schemas_differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old.get(key) != new.get(key) for key in ("arguments", "output"))


def _said(path: KeyNames, old: Any, new: Any) -> str:
    """A change in words."""
    match path:
        case ("tools", name):
            return (
                f"the tool `{name}` is new{_tool_words(new)}"
                if old is MISSING
                else f"the tool `{name}` is gone"
            )
        case ("tools", name, "allow_actions"):
            return f"`{name}` may {_listed(new)} instead of {_listed(old)}"
        case ("tools", name, "definition", "digest"):
            return f"`{name}` is described otherwise by its source, or is another tool of it"
        case ("tools", name, "definition", *rest):
            return f"`{name}` is defined otherwise by its source: {'.'.join(rest)} {_change(old, new)}"
        case ("tools", name, "approval", role) if MISSING in (old, new):
            what = "is asked for" if old is MISSING else "is no longer asked for"
            return f"`{name}`: the approval of {_gate(role, new if old is MISSING else old)} {what}"
        case ("tools", name, *rest):
            return f"`{name}`: {'.'.join(rest)} {_change(old, new)}"
        case ("checks_code",):
            return "the code of the checks is another"
        case _:
            return f"{'.'.join(path)} {_change(old, new)}"


def _tool_words(tool: Any) -> str:
    roles = tool["roles"]
    who = "everybody" if roles is None else _listed(roles) if roles else "nobody"
    return f": it may {_listed(tool['allow_actions'])}, for {who}"


def _gate(role: str, gate: Any) -> str:
    when = f" when {gate['when']}" if gate["when"] is not None else ""
    return f"{gate['at_least']} with the role {role.partition('.')[0]}{when}"


def _listed(values: Any) -> str:
    return (
        ", ".join(str(value) for value in cast("list[Any]", values or []))
        or "do anything (nobody has classified it)"
    )


def _change(old: Any, new: Any) -> str:
    if is_list(old) and is_list(new):
        found = [_value(each) for each in new if each not in old]
        lost = [_value(each) for each in old if each not in new]
        parts = [f"has also {', '.join(found)}"] if found else []
        parts += [f"has no longer {', '.join(lost)}"] if lost else []
        return " and ".join(parts) or f"is in another order: {_value(new)}"
    if old is MISSING or old is None:
        return f"is new: {_value(new)}"
    if new is MISSING or new is None:
        return f"is gone; it was {_value(old)}"
    return f"is {_value(new)} instead of {_value(old)}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}…"


# -- rules of the operator's own ----------------------------------------------------------------------------------------


def _rules(old: Installation, new: Installation) -> Iterator[Change]:
    before, after = _own(old), _own(new)
    told: set[str] = set()
    for id_ in sorted(before.keys() | after.keys()):
        was, is_ = before.get(id_), after.get(id_)
        if (change := _rule(id_, was, is_)) is not None:
            told.update(rule.where.rpartition(":")[0] for rule in (was, is_) if rule is not None)
            yield change
    yield from _files(old, new, told)


def _own(installation: Installation) -> dict[str, Policy]:
    """Rules from policy files; the others are what the configuration's keys say."""
    files = {file.name for file in installation.config.policies}
    rules = installation.policy.rules()
    return {id_: rule for id_, rule in rules.items() if rule.where.rpartition(":")[0] in files}


def _rule(id_: str, was: Policy | None, is_: Policy | None) -> Change | None:
    if was is None or is_ is None:
        rule = cast("Policy", is_ or was)
        opens = rule.permits is (was is None)
        direction = Direction.WIDENED if opens else Direction.NARROWED
        what = "is new" if was is None else "is gone"
        return Change(
            direction, rule.where, f"policies.{id_}", f"the rule {id_} {what}: {_kind(rule)}{_reason(rule)}"
        )
    if _body(was) != _body(is_):
        direction = _leaning(was, is_)
        text = f"the rule {id_} decides otherwise than before: {_kind(is_)}{_reason(is_)}"
        return Change(direction, is_.where, f"policies.{id_}", text)
    if was.body.get("annotations") != is_.body.get("annotations"):
        text = f"the rule {id_} decides as before and says something else{_reason(is_)}"
        return Change(Direction.CHANGED, is_.where, f"policies.{id_}", text)
    return None


def _body(rule: Policy) -> Any:
    """What a rule means, whatever it says about itself; a gate's role is part of what it means."""
    return {**rule.body, "annotations": rule.approval}


def _leaning(was: Policy, is_: Policy) -> Direction:
    """Told only where one rule is another in one respect: permit or forbid, gate or not, how many people."""
    if was.permits is not is_.permits:
        return Direction.WIDENED if is_.permits else Direction.NARROWED
    one, two = was.gate, is_.gate
    if one is None or two is None or one.role != two.role or one.count == two.count:
        return Direction.CHANGED
    conditions = [[c for c in rule.conditions if c["kind"] == "when"] for rule in (was, is_)]
    heads = [{key: rule.body[key] for key in ("principal", "action", "resource")} for rule in (was, is_)]
    if conditions[0] != conditions[1] or heads[0] != heads[1]:
        return Direction.CHANGED
    return Direction.NARROWED if two.count > one.count else Direction.WIDENED


def _kind(rule: Policy) -> str:
    if (gate := rule.gate) is not None:
        return f"it asks for {gate.count} with the role {gate.role}"
    return "it permits" if rule.permits else "it forbids"


def _reason(rule: Policy) -> str:
    return f", “{rule.reason}”" if rule.reason else ""


def _files(old: Installation, new: Installation, told: set[str]) -> Iterator[Change]:
    """Files of which the text is another and no rule: comments, order, a name."""
    before, after = ({file.name: file.text for file in one.config.policies} for one in (old, new))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name) and name not in told:
            what = (
                "is new" if name not in before else "is gone" if name not in after else "is worded otherwise"
            )
            text = f"{name} {what}; no rule is another for it"
            yield Change(Direction.CHANGED, name, f"policies.{name}", text)
