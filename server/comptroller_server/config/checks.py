"""Checks across fields that need no source: names, references between tools, units, roles, paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from comptroller_audit.vocabulary import Effect
from comptroller_budgets.limits import METERED_UNITS, MODEL_COST, Scope
from comptroller_policy.errors import Finding
from comptroller_server.config.judges import judge_findings, judged_tool_findings
from comptroller_server.config.model import Document
from comptroller_server.config.paths import KeyPath, finding_at
from comptroller_server.config.safety import cache_findings, unknown_sources
from comptroller_server.config.shaping import hidden_findings, part_findings
from comptroller_server.config.telemetry import telemetry_findings
from comptroller_server.config.verification import verification_findings
from comptroller_server.config.yaml_lines import Node
from comptroller_tools.batches import batch_name
from comptroller_tools.declarations import ToolConfig

__all__ = ["BUILT_IN_TOOLS", "BUILT_IN_UNITS", "cross_findings"]

BUILT_IN_TOOLS = frozenset(
    {
        "task_begin",
        "task_status",
        "task_finish",
        "resume_call",
        "result_more",
        "hand_off",
        "comptroller_status",
    }
)
BUILT_IN_UNITS = frozenset({"calls", "steps", "cost_usd", *METERED_UNITS})
_LONGER = "; `limits.tool_name_max` allows up to 64, which some clients do not take once they have put a prefix before it"
_HISTORY = re.compile(r"(principal|task)\.[A-Za-z][A-Za-z0-9_]{0,63}")


def cross_findings(tree: Node, right: Node, document: Document) -> list[Finding]:
    """Everything that only shows when parts are read together.

    `tree` is all that was written, `right` the part whose shape is right and `document` what that part says.
    A reference to something whose shape is wrong is not an error of its own.
    """
    written = _Written.of(tree, right)
    tools = {tool.name: tool for tool in document.tools}
    found: list[tuple[KeyPath, str]] = []
    for at, (tool, node) in enumerate(zip(document.tools, _entries(right), strict=True)):
        facts = written.facts[node.file, node.at]
        found += [(("tools", at, *path), message) for path, message in _one_tool(tool, facts, tools, written)]
        reading = (
            *cache_findings(tool, document.retrieval),
            *_batch(tool, written, document.limits.tool_name_max),
            *hidden_findings(tool),
            *part_findings(tool),
        )
        found += [(("tools", at, *path), message) for path, message in reading]
    found += _windows(document, written)
    found += _models(document, written)
    for at, rule in enumerate(document.tasks.success):
        found += _must_read(("tasks", "success", at, "tool"), rule.tool, tools, written)
    found += judge_findings(document.judges, document.models, written.prices)
    found += telemetry_findings(document.telemetry, document.http)
    if not _stands(tree, "telemetry", "traces"):
        found += _traces_nobody_takes(document)
    found += _first(document)
    found += _clients(document)
    found += unknown_sources(document.retrieval, written.sources)
    longest = document.limits.tool_name_max
    names = [finding_at(tree, path, message) for path, message in _tool_names(_entries(tree), longest)]
    return names + [finding_at(right, path, message) for path, message in found]


@dataclass(frozen=True, slots=True)
class _Written:
    """The names that the text declares, whether or not what they name has the right shape.

    `intact` are the tools without a wrong value: only of those is the effect known.
    """

    names: tuple[str, ...]
    intact: frozenset[str]
    units: frozenset[str]
    prices: tuple[str, ...]
    judges: tuple[str, ...]
    sources: tuple[str, ...]
    facts: Mapping[tuple[str, int], tuple[str, ...]]

    @classmethod
    def of(cls, tree: Node, right: Node) -> _Written:
        tools = _entries(tree)
        untouched = {id(tool) for tool in _entries(right)}
        return cls(
            _names(tools),
            frozenset(_names(tool for tool in tools if id(tool) in untouched)),
            BUILT_IN_UNITS.union(*(_keys(_child(tool, "units")) for tool in tools)) - {"steps"},
            _keys(_child(tree, "prices")),
            _keys(_child(tree, "judges")),
            _keys(_child(tree, "sources")),
            {(tool.file, tool.at): _keys(_child(tool, "facts")) for tool in tools},
        )


def _entries(tree: Node) -> tuple[Node, ...]:
    tools = _child(tree, "tools")
    return tools.value if tools is not None and isinstance(tools.value, tuple) else ()


def _names(tools: Iterable[Node]) -> tuple[str, ...]:
    names = (_child(tool, "name") for tool in tools)
    return tuple(name.value for name in names if name is not None and isinstance(name.value, str))


def _child(node: Node, key: str) -> Node | None:
    return node.value.get(key) if isinstance(node.value, Mapping) else None


def _keys(node: Node | None) -> tuple[str, ...]:
    return tuple(node.value) if node is not None and isinstance(node.value, Mapping) else ()


def _tool_names(tools: Sequence[Node], longest: int) -> Iterator[tuple[KeyPath, str]]:
    seen: dict[str, Node] = {}
    for at, node in enumerate(tools):
        name_node = _child(node, "name")
        if name_node is None or not isinstance(name_node.value, str):
            continue
        name, path = name_node.value, ("tools", at, "name")
        first = seen.setdefault(name.casefold(), name_node)
        if first is not name_node:
            yield (
                path,
                f"repeats `{name[:80]}`, which {first.where} declares (case does not matter); rename one",
            )
        if name.casefold() in BUILT_IN_TOOLS:
            yield path, f"is `{name}`, a tool of Comptroller itself; choose another name"
        if len(name) > longest:
            yield (
                path,
                f"has {len(name)} characters; use {longest} at most{_LONGER if len(name) <= 64 else ''}",
            )
        if "__" in name:
            yield path, "holds `__`, with which clients join server and tool; use one `_`"


def _one_tool(
    tool: ToolConfig, facts: tuple[str, ...], tools: Mapping[str, ToolConfig], written: _Written
) -> Iterator[tuple[KeyPath, str]]:
    names = written.names
    for name, fact in tool.facts.items():
        yield from _must_read(("facts", name, "tool"), fact.tool, tools, written)
    if tool.recover is not None:
        yield from _must_read(("recover", "tool"), tool.recover.tool, tools, written)
    yield from _must_reverse(tool, tools, written)
    for key, rule in tool.history.items():
        if not _HISTORY.fullmatch(key):
            yield ("history", key), "must be named `principal.<name>` or `task.<name>`"
        if rule.count not in names:
            yield ("history", key, "count"), f"names no tool; {_choose(names)}"
    for at, expectation in enumerate(tool.verify):
        if expectation.fact not in facts:
            yield ("verify", at, "fact"), f"is not one of this tool's `facts`; {_choose(facts)}"
    yield from verification_findings(tool, facts)
    yield from judged_tool_findings(tool, written.judges)
    for unit in tool.units:
        if unit in BUILT_IN_UNITS:
            yield ("units", unit), "is counted by Comptroller itself; choose another name for this unit"
    if tool.source is not None and tool.source not in written.sources:
        yield ("source",), f"names no source; {_choose(written.sources)}"


def _batch(tool: ToolConfig, written: _Written, longest: int) -> Iterator[tuple[KeyPath, str]]:
    """The batch form of a read has a name of its own."""
    if tool.batch is None:
        return
    if tool.effect is not Effect.READ:
        yield (
            ("batch",),
            "stands at a tool that is no read; only reads are called with many values, so remove it",
        )
    name = batch_name(tool.name)
    if name.casefold() in {other.casefold() for other in written.names}:
        yield ("batch",), f"is offered as `{name}`, which another tool is called; rename one"
    if len(name) > longest:
        yield (
            ("batch",),
            f"is offered as `{name[:80]}`, {len(name)} characters; {longest} are the most (`limits.tool_name_max`)",
        )


def _must_read(
    path: KeyPath, name: str, tools: Mapping[str, ToolConfig], written: _Written
) -> Iterator[tuple[KeyPath, str]]:
    if name not in written.names:
        yield path, f"names no tool; {_choose(written.names)}"
    elif name in written.intact and tools[name].effect is not Effect.READ:
        yield (
            path,
            f"names `{name}`, which is not a read; a look-up needs a tool with `allow_actions: [read]`",
        )


def _must_reverse(
    tool: ToolConfig, tools: Mapping[str, ToolConfig], written: _Written
) -> Iterator[tuple[KeyPath, str]]:
    """What `compensate` names: another side effect, which is not reversed in turn."""
    if tool.compensate is None:
        return
    name, path = tool.compensate.tool, ("compensate", "tool")
    if tool.effect is Effect.READ:
        yield ("compensate",), "stands at a read, which changes nothing; remove it"
    if name not in written.names:
        yield path, f"names no tool; {_choose(written.names)}"
    elif name == tool.name:
        yield path, "names the tool itself; name the one that reverses it"
    elif name in written.intact and tools[name].effect is Effect.READ:
        yield path, f"names `{name}`, which is a read and reverses nothing"
    elif name in written.intact and tools[name].compensate is not None:
        yield (
            path,
            f"names `{name}`, which declares `compensate` itself; what reverses is not reversed in turn",
        )


def _choose(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name[:80]}`" for name in names[:12])
    return f"use one of {shown}{', …' if len(names) > 12 else ''}" if names else "declare it first"


def _windows(document: Document, written: _Written) -> Iterator[tuple[KeyPath, str]]:
    seen: set[tuple[str, ...]] = set()
    for at, window in enumerate(document.budgets.windows):
        path: KeyPath = ("budgets", "windows", at)
        if window.unit == "steps":
            yield (*path, "unit"), "is `steps`, which belong to one task; write `budgets.max_steps` instead"
        elif window.unit not in written.units:
            yield (
                (*path, "unit"),
                f"is `{window.unit}`, which no tool counts; {_choose(sorted(written.units))}",
            )
        if window.scope is Scope.TOOL and window.name is not None and window.name not in written.names:
            yield (*path, "name"), f"names no tool; {_choose(written.names)}"
        if window.scope is not Scope.TOOL and window.name is not None:
            yield (*path, "name"), f"is read with scope `tool` only; remove it or write `scope: {Scope.TOOL}`"
        key = (window.scope, window.name or "", window.unit, window.window)
        if key in seen:
            yield path, "limits what an earlier entry already limits; keep the smaller `max`"
        seen.add(key)


def _models(document: Document, written: _Written) -> Iterator[tuple[KeyPath, str]]:
    """What a model costs is known wherever money is counted."""
    for role, model in document.models.items():
        if model not in written.prices:
            yield (
                ("models", role),
                (
                    f"is `{model}`, whose price is not known; add it: "
                    "`prices: {MODEL: {input_usd_per_mtok: …, output_usd_per_mtok: …}}`"
                ),
            )
        if role in written.prices and role != model:
            yield ("models", role), "is also the name of a model in `prices`; rename the role"
    if not written.prices:
        message = "counts the cost of models, and no model has a price; add `prices`"
        if document.budgets.max_model_cost_usd is not None:
            yield ("budgets", "max_model_cost_usd"), message
        for at, window in enumerate(document.budgets.windows):
            if window.unit == MODEL_COST:
                yield ("budgets", "windows", at, "unit"), message


def _stands(tree: Node, *path: str) -> bool:
    """Whether something is written there, right or wrong."""
    for key in path:
        inner = tree.value.get(key) if isinstance(tree.value, Mapping) else None
        if inner is None:
            return False
        tree = inner
    return True


def _traces_nobody_takes(document: Document) -> Iterator[tuple[KeyPath, str]]:
    """Sources that are told of traces, where there are none."""
    for name, source in document.sources.items():
        if source.mcp is not None and source.mcp.trace:
            text = "names traces that there are not; add `telemetry.traces` or remove this"
            yield ("sources", name, "mcp", "trace"), text


def _first(document: Document) -> Iterator[tuple[KeyPath, str]]:
    """The first part of a budget is less than the whole, and something opens the rest."""
    budgets = document.budgets
    if budgets.first is None:
        if budgets.widen_after is not None:
            message = (
                "opens what `budgets.first` keeps closed; add `first: {max_tool_calls: …}` or remove this"
            )
            yield ("budgets", "widen_after"), message
        return
    if budgets.widen_after is None:
        message = "is never opened to the whole; add `widen_after: verified_write`"
        yield ("budgets", "first"), message
    elif not any(tool.verify and tool.effect is not Effect.READ for tool in document.tools):
        message = "waits for a verified write, and no tool that changes something has `verify`; add it to one"
        yield ("budgets", "widen_after"), message
    for name in type(budgets.first).model_fields:
        part, whole = getattr(budgets.first, name), getattr(budgets, name)
        if part is not None and whole is None:
            yield ("budgets", "first", name), f"is part of `budgets.{name}`, which is not set; set it"
        elif part is not None and part >= whole:
            yield ("budgets", "first", name), f"must be less than `budgets.{name}`, which is {whole}"


def _clients(document: Document) -> Iterator[tuple[KeyPath, str]]:
    seen: dict[str, str] = {}
    for name in document.identity.local.clients:
        first = seen.setdefault(name.casefold(), name)
        if first != name:
            yield ("identity", "local", "clients", name), f"differs from `{first}` by case only; rename one"
