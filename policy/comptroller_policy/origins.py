"""Where the value of an argument comes from, as policies read it (`context.provenance.<argument>`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comptroller_policy.declarations import Aim, Origin
from comptroller_policy.errors import Finding
from comptroller_policy.paths import is_list, is_object
from comptroller_policy.syntax import Policy

__all__ = ["least", "origin_findings"]


_LEAST_FIRST = (Origin.NEW, Origin.UNTRUSTED, Origin.TRUSTED, Origin.REQUEST)


def least(found: list[Origin], aim: Aim) -> Origin:
    """The least trusted of what an argument holds: one bad item of a list is enough."""
    worst = next((origin for origin in _LEAST_FIRST if origin in found), Origin.ABSENT)
    return Origin.UNTRUSTED if worst is Origin.NEW and aim is Aim.TARGET else worst


def origin_findings(policy: Policy) -> Iterator[Finding]:
    """Words that no provenance ever is: compared with one, a rule would never apply, and say nothing."""
    if not policy.reads_root("provenance"):
        return
    stack: list[Any] = [item["body"] for item in policy.conditions]
    while stack:
        node = stack.pop()
        if is_list(node):
            stack.extend(node)
        elif is_object(node):
            stack.extend(node.values())
            for word in _compared(node):
                if word not in set(Origin):
                    known = ", ".join(f'"{origin}"' for origin in Origin)
                    text = f'no provenance is ever "{word}"; it is one of {known}.'
                    yield Finding(policy.line_of("provenance"), text)


def _compared(node: Any) -> list[str]:
    """The texts that a condition compares a provenance with: by `==`, `!=` or a set's `contains`."""
    for sign in ("==", "!=", "contains"):
        if is_object(node) and sign in node and is_object(node[sign]):
            sides = [node[sign].get("left"), node[sign].get("right")]
            if any(_is_provenance(side) for side in sides):
                return [word for side in sides for word in _texts(side)]
    return []


def _is_provenance(node: Any) -> bool:
    """Whether an expression is `context.provenance.<argument>`."""
    for name in (None, "provenance"):
        if not (is_object(node) and "." in node):
            return False
        if name is not None and node["."]["attr"] != name:
            return False
        node = node["."]["left"]
    return is_object(node) and node.get("Var") == "context"


def _texts(node: Any) -> list[str]:
    if not is_object(node):
        return []
    listed: Any = node.get("Set") if is_list(node.get("Set")) else [node]
    return [item["Value"] for item in listed if is_object(item) and isinstance(item.get("Value"), str)]
