"""Which way a changed key leans: whether more of it lets an agent do more, or less. What stands here nowhere leans no way."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, cast

from comptroller_policy.paths import is_list

__all__ = ["MISSING", "Direction", "KeyNames", "direction_of"]


class Direction(StrEnum):
    """What a change does to what may happen. CHANGED where that cannot be told, or where it is neither."""

    WIDENED = "widened"
    NARROWED = "narrowed"
    CHANGED = "changed"


KeyNames = tuple[str, ...]
MISSING: Any = object()
"""Stands for a key that one of two configurations does not have."""


@dataclass(frozen=True, slots=True)
class _Leaning:
    """`widens`: more of it widens. `without`: being without it counts as the most of it, not as the least."""

    widens: bool
    without: bool = False


_MORE, _LESS = _Leaning(widens=True), _Leaning(widens=False)
_LIMIT, _FLOOR = _Leaning(widens=True, without=True), _Leaning(widens=False, without=True)
_LEANINGS: tuple[tuple[str, _Leaning], ...] = (
    ("tools *", _MORE),
    ("tools * roles", _LIMIT),
    ("tools * hidden", _LESS),
    ("tools * why", _LESS),
    ("tools * constraints max_*", _LIMIT),
    ("tools * constraints min_*", _LESS),
    ("tools * constraints require_*", _LESS),
    ("tools * constraints one_of", _LIMIT),
    ("tools * constraints one_of *", _LIMIT),
    ("tools * constraints pattern", _LIMIT),
    ("tools * constraints pattern *", _LIMIT),
    ("tools * approval *", _LESS),
    ("tools * approval * at_least", _LESS),
    ("tools * approval * when", _FLOOR),
    ("tools * cites", _LESS),
    ("tools * verify", _LESS),
    ("tools * checks", _LESS),
    ("tools * judge", _LESS),
    ("tools * redact", _LESS),
    ("tools * takes_tokens", _MORE),
    ("tools * limits timeout_s", _MORE),
    ("tools * limits response_kib_max", _MORE),
    ("tools * limits concurrency_max", _MORE),
    ("tools * limits retries_max", _MORE),
    ("budgets max_*", _LIMIT),
    ("budgets timeout_seconds", _LIMIT),
    ("budgets tasks_per_hour_max", _MORE),
    ("budgets first", _LESS),
    ("budgets first *", _LIMIT),
    ("budgets windows *", _LESS),
    ("budgets windows * max", _MORE),
    ("identity local roles", _MORE),
    ("identity local clients *", _MORE),
    ("identity local clients * orchestrator", _MORE),
    ("sources *", _MORE),
    ("rollout canary_percent", _MORE),
    ("rollout promote_*", _LESS),
    ("approvals requester_may", _MORE),
    ("approvals allow_same_uid_file", _MORE),
    ("approvals expires_s", _MORE),
    ("approvals pending_per_principal_max", _MORE),
    ("limits attempts_per_minute_max", _MORE),
    ("limits identical_calls_max", _MORE),
    ("limits in_flight_max", _MORE),
    ("safety pii_redaction", _LESS),
    ("safety withhold_credentials", _LESS),
    ("safety require_citations", _LESS),
    ("retrieval freshness_sla_minutes", _LIMIT),
)
"""`*` stands for one name, at the end of a word for its rest."""
_MODES = {"human_approval": 0, "auto": 1, "off": 1}
_EFFECTS = {"execute": 0, "delete": 1, "update": 2, "create": 3, "read": 4}
"""From the most guarded to the least; what is not classified counts as `execute`."""


def direction_of(path: KeyNames, old: Any, new: Any) -> Direction:
    """Which way a key went from `old` to `new`, either of which may be MISSING."""
    if path == ("rollout", "mode"):
        return _ordered(_MODES.get(str(old), 0), _MODES.get(str(new), 0))
    if len(path) == 3 and path[0] == "tools" and path[2] == "allow_actions":
        return _ordered(_effect(old), _effect(new))
    leaning = next((leaning for pattern, leaning in _LEANINGS if _fits(pattern.split(), path)), None)
    more = _is_more(old, new, leaning.without) if leaning is not None else None
    if leaning is None or more is None:
        return Direction.CHANGED
    return Direction.WIDENED if more is leaning.widens else Direction.NARROWED


def _ordered(old: int, new: int) -> Direction:
    if old == new:
        return Direction.CHANGED
    return Direction.WIDENED if new > old else Direction.NARROWED


def _effect(actions: Any) -> int:
    """The most guarded of the effects a tool may have, as `ToolRules.effect` picks it."""
    named = [_EFFECTS.get(str(action), 0) for action in cast("list[Any]", actions or [])]
    return min(named, default=0)


def _fits(pattern: list[str], path: KeyNames) -> bool:
    return len(pattern) == len(path) and all(
        word == name or (word.endswith("*") and name.startswith(word[:-1]))
        for word, name in zip(pattern, path, strict=True)
    )


def _is_more(old: Any, new: Any, without_is_most: bool) -> bool | None:
    """Whether `new` is more of it than `old`; None when neither is more."""
    was_without, is_without = (value is MISSING or value is None for value in (old, new))
    if was_without or is_without:
        return is_without is without_is_most if was_without is not is_without else None
    if isinstance(old, bool) and isinstance(new, bool):
        return new
    if is_list(old) and is_list(new):
        lost = [each for each in old if each not in new]
        found = [each for each in new if each not in old]
        return bool(found) if bool(lost) is not bool(found) else None
    first, second = _number(old), _number(new)
    return second > first if first is not None and second is not None and first != second else None


def _number(value: Any) -> Decimal | None:
    """A number, as JSON or as the text of a decimal."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
