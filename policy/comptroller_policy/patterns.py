"""`constraints.pattern`: arguments that must match a regular expression as a whole.

RE2 decides in Python, in time linear in the argument, and Cedar reads the answer as `context.patterns.<argument>`:
its own `like` knows nothing but `*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comptroller_audit.linear import ExpressionInvalid, whole
from comptroller_policy.errors import ValueInexact
from comptroller_policy.paths import is_list, is_object

__all__ = ["PATTERN_CHARS_MAX", "pattern_fault", "pattern_names", "patterns_met"]

PATTERN_CHARS_MAX = 1_000


def pattern_names(constraints: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that `constraints.pattern` names, whether or not there are such arguments."""
    declared = constraints.get("pattern")
    return tuple(declared) if is_object(declared) else ()


def pattern_fault(pattern: Any) -> str | None:
    """Why `pattern` cannot be used, as the end of a sentence, or None."""
    if not isinstance(pattern, str) or not 0 < len(pattern) <= PATTERN_CHARS_MAX:
        return f"write a regular expression of 1 to {PATTERN_CHARS_MAX} characters, in quotes."
    try:
        whole(pattern)
    except ExpressionInvalid as error:
        return f"RE2 does not take this regular expression: {str(error)[:200]}."
    return None


def patterns_met(constraints: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, bool]:
    """For each argument with a pattern whether it matches as a whole; a list does when each of its items does.

    What is absent has nothing to match. Raises ValueInexact for a value that is no text.
    """
    declared: Mapping[str, str] = constraints["pattern"]
    return {name: _met(name, pattern, values.get(name)) for name, pattern in declared.items()}


def _met(name: str, pattern: str, value: Any) -> bool:
    items: list[Any] = value if is_list(value) else [] if value is None else [value]
    try:
        return all(isinstance(item, str) and whole(pattern).matches(item) for item in items)
    except ValueError as error:
        raise ValueInexact(f"input.{name} cannot be compared with its pattern.") from error
