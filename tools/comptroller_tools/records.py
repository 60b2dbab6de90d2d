"""Which business records a result shows, and which record a call acts on.

A shown record becomes a ref that a later write can cite. `{output.tickets[].ticket_id}` names one record for
each item of a list; such records are marked `listed`, because a line in a list is not a record that was read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from comptroller_audit.canonical import canonical_bytes
from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import check_template, paths_in, render, value_at
from comptroller_policy.model import Record
from comptroller_policy.paths import Schemas, is_list
from comptroller_tools.declarations import RecordRule
from comptroller_tools.errors import RecordPathError
from comptroller_tools.signatures import digest_of

__all__ = ["ShownRecord", "check_records", "check_resource", "records_in", "released_records", "resource_of"]

LISTED_MAX = 200
"""Items of one list that become refs; a longer list shows its first ones."""

KEY_CHARS_MAX = 256

_EACH = re.compile(r"\{(?P<list>[^{}\[\]]+)\[\](?P<rest>[^{}]*)\}")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


Digest: TypeAlias = Callable[[Any], str]
"""What stands for the version of a record that declares none, made of what was shown of it."""


@dataclass(frozen=True, slots=True)
class ShownRecord:
    """A record a result shows. Without a declared version, `version` is a digest of what was shown."""

    kind: str
    key: str
    version: str
    listed: bool = False


def records_in(
    rules: Sequence[RecordRule], output: Any, input: Mapping[str, Any], digest: Digest = digest_of
) -> tuple[ShownRecord, ...]:
    """The records that `output` shows, without repeats, in the order of the rules and lists.

    A null id shows nothing. Raises `RecordPathError` when a declared path is not in the output at all.
    """
    scope = {"output": output, "input": input}
    return tuple(dict.fromkeys(record for rule in rules for record in _shown(rule, scope, digest)))


def released_records(
    rules: Sequence[RecordRule],
    released: Any,
    kept: Any,
    output: Any,
    input: Mapping[str, Any],
    digest: Digest,
) -> tuple[ShownRecord, ...]:
    """The records of `output` whose id and declared version `released` shows as they are; the rest was withheld.

    Digests are of `kept`, what goes on record of the output, so that readers with different eyes agree.
    Raises `RecordPathError` like `records_in`.
    """
    if released is output and kept is output:
        return records_in(rules, output, input, digest)
    visible, real, recorded = ({"output": value, "input": input} for value in (released, output, kept))
    found: dict[ShownRecord, None] = {}
    for rule in rules:
        shown, known = _shown(rule, visible, lambda _: ""), _shown(rule, real, lambda _: "")
        for seen, plain, record in zip(shown, known, _shown(rule, recorded, digest), strict=False):
            if seen == plain:
                found[record] = None
    return tuple(found)


def resource_of(template: str | None, input: Mapping[str, Any]) -> Record | None:
    """The record that `"invoice:{input.invoice_id}"` names for these arguments; None without a template.

    Raises `RecordPathError` when the arguments do not name it: a call whose record is unknown must not go on.
    """
    if template is None:
        return None
    kind, _, key = template.partition(":")
    try:
        return Record(kind, _key(render(key, {"input": input}), template))
    except ExpressionError as error:
        raise RecordPathError(f"resource `{template}`: {error}") from error


def check_records(rules: Sequence[RecordRule], schemas: Schemas, where: str) -> list[str]:
    """What is wrong with the rules under the schemas of `output` and `input`, each with its config field."""
    problems: list[str] = []
    for index, rule in enumerate(rules):
        lists = {match["list"] for text in (rule.id, rule.version or "") for match in _EACH.finditer(text)}
        if len(lists) > 1:
            problems.append(f"{where}.records[{index}]: `id` and `version` go over two lists; use one")
        for field_name, template in (("id", rule.id), ("version", rule.version)):
            if template is None:
                continue
            at = f"{where}.records[{index}].{field_name}"
            problems += [f"{at}: {fault}" for fault in check_template(_at(template, 0), schemas)]
            if field_name == "id" and not (_EACH.search(template) or "{" in template):
                problems.append(
                    f"{at}: `{template}` is the same for every result; name a path such as {{output.id}}"
                )
    return problems


def check_resource(template: str | None, input_schema: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with a `resource` template, with its config field. Empty when nothing is."""
    if template is None:
        return []
    kind, colon, key = template.partition(":")
    if not colon or _KIND.fullmatch(kind) is None or not key:
        return [
            f"{where}.resource: `{template}` is not `kind:key`; write it like `invoice:{{input.invoice_id}}`"
        ]
    return [f"{where}.resource: {fault}" for fault in check_template(key, {"input": input_schema})]


def _shown(rule: RecordRule, scope: Mapping[str, Any], digest: Digest) -> Iterator[ShownRecord]:
    each = _EACH.search(rule.id)
    if each is None:
        key = _rendered(rule.id, scope)
        if key is not None:
            version = _version(rule.version, scope, scope["output"], digest)
            yield ShownRecord(rule.kind, _key(key, rule.id), version)
        return
    items = _rendered(f"{{{each['list']}}}", scope)
    if items is None:
        return
    if not is_list(items):
        raise RecordPathError(
            f"record path `{rule.id}`: `{each['list']}` is no list in what the tool returned"
        )
    for index, item in enumerate(items[:LISTED_MAX]):
        key = _rendered(_at(rule.id, index), scope)
        if key is not None:
            version = _version(rule.version and _at(rule.version, index), scope, item, digest)
            yield ShownRecord(rule.kind, _key(key, rule.id), version, listed=True)


def _at(template: str, index: int) -> str:
    """The template for one item: `{output.tickets[].id}` becomes `{output.tickets.3.id}`."""
    return _EACH.sub(lambda match: f"{{{match['list']}.{index}{match['rest']}}}", template)


def _rendered(template: str, scope: Mapping[str, Any]) -> Any:
    """The value, or None where a path in it meets null: an optional record that is not there."""
    try:
        return render(template, scope)
    except ExpressionError as error:
        if any(_meets_null(path, scope) for path in paths_in(template)):
            return None
        raise RecordPathError(f"record path `{template}`: {error}") from error


def _meets_null(path: str, scope: Mapping[str, Any]) -> bool:
    parts = path.split(".")
    try:
        return any(value_at(".".join(parts[:n]), scope) is None for n in range(1, len(parts) + 1))
    except ExpressionError:
        return False


def _version(template: str | None, scope: Mapping[str, Any], shown: Any, digest: Digest) -> str:
    version = _rendered(template, scope) if template else None
    if version is None:
        return digest(shown)
    return version if isinstance(version, str) else canonical_bytes(version).decode()


def _key(value: Any, template: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= KEY_CHARS_MAX:
        raise RecordPathError(
            f"`{template}` does not give an id of 1 to {KEY_CHARS_MAX} characters; point it at the record's id"
        )
    return value
