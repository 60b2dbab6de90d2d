"""Look-ups that need each other: the arguments of one may name what another returned (`{facts.invoice.customer_id}`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from comptroller_policy.declarations import FactRule
from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import paths_in

__all__ = ["CIRCLE", "in_a_circle", "in_order"]

CIRCLE = "looks up what it itself is needed for; let one of these facts do without the others."


def _needs(rule: FactRule) -> list[str]:
    """The other facts that a look-up takes its arguments from. Of arguments that do not parse, none: that is a finding."""
    try:
        paths = [path.split(".") for path in paths_in(rule.arguments)]
    except ExpressionError:
        return []
    return [parts[1] for parts in paths if parts[0] == "facts" and len(parts) > 1]


def in_order(facts: Mapping[str, FactRule], wanted: Iterable[str]) -> tuple[str, ...]:
    """`wanted` and all that they need, each after what it needs. For facts that `in_a_circle` finds nothing in."""
    order: dict[str, None] = {}

    def take(name: str) -> None:
        if name not in order:
            for needed in _needs(facts[name]):
                take(needed)
            order[name] = None

    for name in sorted(wanted):
        take(name)
    return tuple(order)


def in_a_circle(facts: Mapping[str, FactRule]) -> tuple[str, ...]:
    """The facts that could never be looked up, because they need each other, or wait for such facts."""
    left = {name: {other for other in _needs(rule) if other in facts} for name, rule in facts.items()}
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    return tuple(left)
