"""The few calls into Cedar (`cedarpy`) that policy makes, with exact types and no exceptions.

Cedar skips a policy that errors, so an erroring forbid would fail open: whoever asks must treat any of `errors`
as a deny. What Cedar refuses to evaluate at all (a context of the wrong shape) is an error here too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cedarpy
from cedarpy import Entities, PolicySet, Schema

__all__ = [
    "Answered",
    "Entities",
    "PolicySet",
    "Schema",
    "Uid",
    "ask",
    "ask_partially",
    "entities_of",
    "validate",
]

DECIMALS = (
    'arguments and facts that need not be whole numbers are decimals: write `.greaterThan(decimal("10.0"))`, '
    "`.lessThan(…)`, `.greaterThanOrEqual(…)` or `.lessThanOrEqual(…)`, and whole numbers with `>` and `<`"
)

Uid = dict[str, str]
"""`{"type": "Comptroller::Role", "id": "approver"}`."""


@dataclass(frozen=True, slots=True)
class Answered:
    """`allowed`, and the ids of the policies that decided. With any error the answer is worth nothing: deny."""

    allowed: bool
    policies: Sequence[str]
    errors: Sequence[str] = ()


def entities_of(entities: Sequence[Mapping[str, Any]], base: Entities | None = None) -> Entities:
    """`base` and these entities, in Cedar's JSON form. Raises ValueError for a name that has no such form."""
    text = json.dumps(entities)
    if base is None:
        return Entities.from_json_str(text)  # pyright: ignore[reportUnknownMemberType] (cedarpy leaves `dict` open)
    return base.with_added_json_str(text)  # pyright: ignore[reportUnknownMemberType] (cedarpy leaves `dict` open)


def ask(
    principal: Uid,
    action: Uid,
    resource: Uid,
    context: str,
    policies: PolicySet,
    entities: Entities,
    schema: Schema,
) -> Answered:
    """One full decision; `context` is JSON text, checked against `schema`."""
    request = {"principal": principal, "action": action, "resource": resource, "context": context}
    try:
        result = cedarpy.is_authorized(request, policies, entities, schema)  # pyright: ignore[reportUnknownMemberType] (cedarpy leaves `dict` open)
    except Exception as error:  # noqa: BLE001 (whatever went wrong in the engine, the answer is no)
        return Answered(allowed=False, policies=(), errors=(f"{type(error).__name__}: {error}",))
    diagnostics, decision = result.diagnostics, result.decision
    errors = diagnostics.errors
    if decision is cedarpy.Decision.NoDecision and not errors:
        errors = ["Cedar reached no decision"]
    return Answered(decision is cedarpy.Decision.Allow and not errors, diagnostics.reasons, errors)


def ask_partially(
    request: dict[str, Any], policies: PolicySet, entities: Entities
) -> tuple[bool | None, Sequence[str], Sequence[str]]:
    """With unknowns: (True, False or None for "it depends", the policies that must decide, errors)."""
    try:
        result = cedarpy.is_authorized_partial(request, policies, entities)  # pyright: ignore[reportUnknownMemberType] (cedarpy leaves `dict` open)
    except Exception as error:  # noqa: BLE001 (as above)
        return None, (), (f"{type(error).__name__}: {error}",)
    verdicts = {cedarpy.Decision.Allow: True, cedarpy.Decision.Deny: False}
    must: Sequence[str] = result.diagnostics.must_be_determining  # empty when a deny is for want of a permit
    return verdicts.get(result.decision), must, result.diagnostics.errors


def validate(text: str, schema: Schema) -> list[str]:
    """What Cedar's own type check says against one policy."""
    result = cedarpy.validate_policies(text, schema)  # pyright: ignore[reportUnknownMemberType] (cedarpy leaves `dict` open)
    if result.validation_passed:
        return []
    return [_told(error.error) for error in result.errors] or ["does not type-check"]


def _told(error: str) -> str:
    """Cedar's words; of the mistake that everybody makes once, with what to write."""
    if "Long" in error and "decimal" in error:
        return f"{error.rstrip('.')}; {DECIMALS}"
    return error
