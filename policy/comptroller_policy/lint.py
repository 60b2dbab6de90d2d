"""Everything that is wrong with policies at load, at once, each with file and line or config path.

Cedar's own validation finds type errors but passes a misspelt `has`, and knows nothing of approvals or `@id`s.
This runs on the full schema, before anything is pruned.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from comptroller_policy.actions import GROUPS, PRINCIPAL, RESOURCES, Action, in_scope, schema_json
from comptroller_policy.cedar import Schema, validate
from comptroller_policy.declarations import RequesterTerms
from comptroller_policy.errors import Finding
from comptroller_policy.origins import origin_findings
from comptroller_policy.requesters import requester_findings
from comptroller_policy.schema import Absent, CedarType, look_up
from comptroller_policy.syntax import APPROVALS_ASSUMED, Path, Policy

__all__ = ["lint"]

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_NOISE = re.compile(r"^for policy `[^`]*`, ")
_NO_ACTION = "unable to find an applicable action"
_NOBODY_ASKED = RequesterTerms()


def lint(
    policies: Sequence[Policy],
    actions: Sequence[Action],
    reserved: Collection[str] = (),
    requester: RequesterTerms = _NOBODY_ASKED,
) -> list[Finding]:
    """Every finding about these policies. `reserved` are `@id`s that the engine itself answers with."""
    schema = Schema.from_json_str(schema_json(actions))
    sources = {action.tool.source for action in actions}
    findings = list(_repeated(policies, reserved))
    for policy in policies:
        covered = [action for action in actions if in_scope(policy, action)]
        about = [
            *_entities(policy, actions, sources),
            *_approvals(policy, covered),
            *requester_findings(policy, covered, requester),
            *_attributes(policy, covered),
            *origin_findings(policy),
        ]
        if not about and covered:
            about = _types(policy, schema)
        if covered and all(action.is_after for action in covered):
            about.extend(_after_only(policy))
        findings.extend(about)
    return list(dict.fromkeys(findings))


def _repeated(policies: Iterable[Policy], reserved: Collection[str]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for policy in policies:
        if policy.id in reserved:
            yield Finding(policy.where, f'@id("{policy.id}") is used by Comptroller itself; choose another.')
        elif policy.id in first:
            yield Finding(
                policy.where, f'@id("{policy.id}") is already used at {first[policy.id]}; choose another.'
            )
        first.setdefault(policy.id, policy.where)


# ----------------------------------------------------------------------------------------------- entities


def _entities(policy: Policy, actions: Sequence[Action], sources: Collection[str]) -> Iterator[Finding]:
    names = {action.name for action in actions}
    for entity in sorted(policy.entities, key=lambda item: (item.type, item.id)):
        if entity.type == "Action" and entity.id not in names | GROUPS:
            yield Finding(policy.line_of(entity.id), f"there is no tool or group `{entity.id}`.")
        elif entity.type == "Source" and entity.id not in sources:
            yield Finding(policy.line_of(entity.id), f"there is no source `{entity.id}`.")
        elif entity.type == "Record" and not _is_record_id(entity.id, sources):
            where = policy.line_of(entity.id)
            yield Finding(
                where, f"a record is named source/kind/key, for example desk/invoice/7; got `{entity.id}`."
            )
    scope = policy.body["action"]
    if scope["op"] == "==" and scope["entity"]["id"] in GROUPS:
        group = scope["entity"]["id"]
        yield Finding(policy.where, f"`{group}` is a group: write `action in`, because nothing equals it.")


def _is_record_id(id_: str, sources: Collection[str]) -> bool:
    source, _, rest = id_.partition("/")
    kind, slash, key = rest.partition("/")
    return source in sources and bool(kind and slash and key)


# ---------------------------------------------------------------------------------------------- approvals


def _approvals(policy: Policy, covered: Sequence[Action]) -> Iterator[Finding]:
    """Approvals may be read only in the one shape that an approval can only open, never close."""
    role = policy.approval
    if role is None:
        if policy.approvals_read:
            yield Finding(
                policy.line_of("approvals"),
                'context.approvals may be read only by a policy with @approval("<role>"), '
                "as `unless { context.approvals.<role> >= n }`.",
            )
        return
    if _ROLE.fullmatch(role) is None:
        yield Finding(
            policy.where, '@approval needs a role of letters, digits and _, like @approval("approver").'
        )
    elif policy.gate is None or policy.approvals_read != 1:
        yield Finding(
            policy.line_of("approvals"),
            f"a gate is a forbid that reads approvals once, as `unless {{ context.approvals.{role} >= n }}` "
            f"with n from 1 to {APPROVALS_ASSUMED}; put other conditions in `when`.",
        )
    if covered and all(action.is_after for action in covered):
        yield Finding(policy.where, "an approval cannot open a gate after the call; decide before it.")


def _after_only(policy: Policy) -> Iterator[Finding]:
    if policy.permits:
        yield Finding(policy.where, "only forbids count after the call; a permit here has no effect.")


# --------------------------------------------------------------------------------------------- attributes


def _attributes(policy: Policy, covered: Sequence[Action]) -> Iterator[Finding]:
    """Attributes and `has` that no action in the policy's scope declares."""
    for path in sorted(policy.reads):
        if path == ("context",):
            yield Finding(
                policy.line_of("context"), "read context by attribute, like context.input, not as a whole."
            )
        elif len(path) > 1 and covered:
            yield from _attribute(policy, path, covered)


def _attribute(policy: Policy, path: Path, covered: Sequence[Action]) -> Iterator[Finding]:
    found = [_declared(path, action) for action in covered]
    if any(item is not None and not isinstance(item, Absent) for item in found):
        return
    written = ".".join(path)
    reason = next((item.reason for item in found if isinstance(item, Absent)), None)
    if reason is not None:
        text = f"{written} cannot be read by policies: it {reason}."
    else:
        longest = next(n for n in range(len(path), 0, -1) if n == 1 or _any_declares(path[:n], covered))
        at = path[longest] if longest < len(path) else path[-1]
        text = f"no tool in this policy's scope declares `{at}` in {'.'.join(path[:longest])}."
        known = _names_at(path[:longest], covered)
        text += f" It has: {', '.join(known)}." if known else ""
    yield Finding(policy.line_of(path[-1]), text)


def _declared(path: Path, action: Action) -> CedarType | Absent | None:
    if path[0] == "context":
        return look_up(action.context, path[1:])
    if path[0] == "principal":
        return look_up(PRINCIPAL, path[1:])
    return look_up(RESOURCES[action.resource], path[1:]) if path[0] == "resource" else None


def _any_declares(path: Path, covered: Sequence[Action]) -> bool:
    return any(_declared(path, action) is not None for action in covered)


def _names_at(path: Path, covered: Sequence[Action]) -> list[str]:
    names: set[str] = set()
    for action in covered:
        found = _declared(path, action)
        names.update(getattr(found, "fields", ()))
    return sorted(names)


# -------------------------------------------------------------------------------------------------- types


def _types(policy: Policy, schema: Schema) -> list[Finding]:
    messages = [_NOISE.sub("", message) for message in validate(policy.text, schema)]
    if not messages:
        return []
    others = [message for message in messages if _NO_ACTION not in message]
    if not others:
        others = [
            "no tool in the policy's scope has this kind of principal or resource, so it would never apply"
        ]
    return [Finding(_line(policy, message), f"{message}.") for message in others]


def _line(policy: Policy, message: str) -> str:
    quoted = re.search(r"`([A-Za-z0-9_.]+)`", message)
    return policy.line_of(quoted.group(1).rsplit(".", 1)[-1]) if quoted else policy.where
