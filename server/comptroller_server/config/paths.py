"""Paths into the tree of a configuration: where one stands, how its writer would name it, the tree without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from comptroller_policy.errors import Finding
from comptroller_server.config.yaml_lines import Node

__all__ = ["KeyPath", "finding_at", "parsed_path", "shown_path", "without", "written_part"]

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the top of the document, indexes counted over all files."""


def finding_at(tree: Node, path: KeyPath, message: str) -> Finding:
    """`message` placed at `path`, or where the nearest part of it was written."""
    where, shown = shown_path(tree, path)
    return Finding(where, f"`{shown}` {message}" if shown else message)


def shown_path(tree: Node, path: KeyPath) -> tuple[str, str]:
    """`(file:line, path as the user wrote it)`. An index counts in the entry's own file."""
    node, shown = tree, ""
    for part in path:
        value = node.value
        if isinstance(part, int) and isinstance(value, tuple) and part < len(value):
            node = value[part]
            shown += f"[{node.at}]"
            continue
        key = f"[{part}]" if isinstance(part, int) else part[:80]
        shown += key if isinstance(part, int) or not shown else f".{key}"
        if isinstance(value, Mapping) and part in value:
            node = value[str(part)]
    return node.where, shown


def written_part(tree: Node, path: KeyPath) -> KeyPath:
    """The longest beginning of `path` that was written."""
    node = tree
    for at, part in enumerate(path):
        value = node.value
        if isinstance(value, Mapping) and part in value:
            node = value[str(part)]
        elif isinstance(value, tuple) and isinstance(part, int) and part < len(value):
            node = value[part]
        else:
            return path[:at]
    return path


def without(tree: Node, path: KeyPath) -> Node:
    """`tree` less the value at `path`, which was written.

    Only the nodes on the way are new, so that an untouched part stays the same object.
    """
    value, key, deeper = tree.value, path[0], path[1:]
    if isinstance(value, Mapping):
        rest = {other: child for other, child in value.items() if other != key}
        return replace(tree, value={**value, str(key): without(value[str(key)], deeper)} if deeper else rest)
    if isinstance(value, tuple) and isinstance(key, int):
        kept = (without(value[key], deeper),) if deeper else ()
        return replace(tree, value=(*value[:key], *kept, *value[key + 1 :]))
    return tree


def parsed_path(tree: Node, text: str) -> tuple[KeyPath, str]:
    """The path that `text` begins with, as far as it was written, and what is left of the text.

    An entry of a list is named by index, `tools[2]`, or by its `name`, `tools.issue_refund`. Keys may hold dots
    (`history.principal.today`): the longest that fits is meant.
    """
    node, rest = tree, text
    path: list[str | int] = []
    while rest:
        after = rest.removeprefix(".")
        steps = _steps(node)
        fitting = [name for name in steps if after == name or after.startswith((f"{name}.", f"{name}["))]
        if not fitting:
            break
        name = max(fitting, key=len)
        step, node = steps[name]
        path.append(step)
        rest = after[len(name) :]
    return tuple(path), rest


def _steps(node: Node) -> dict[str, tuple[str | int, Node]]:
    """Every way to name a child: the keys of a mapping; in a list `[index]`, and an entry's `name`."""
    if isinstance(node.value, Mapping):
        return {key: (key, child) for key, child in node.value.items()}
    steps: dict[str, tuple[str | int, Node]] = {}
    for at, entry in enumerate(node.value if isinstance(node.value, tuple) else ()):
        steps[f"[{at}]"] = (at, entry)
        name = entry.value.get("name") if isinstance(entry.value, Mapping) else None
        if name is not None and isinstance(name.value, str):
            steps[name.value] = (at, entry)
    return steps
