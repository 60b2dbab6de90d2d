"""Checks across fields for what verifies calls: a tool's `checks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from comptroller_server.config.paths import KeyPath
from comptroller_tools.declarations import ToolConfig

__all__ = ["verification_findings"]


def verification_findings(tool: ToolConfig, facts: Sequence[str]) -> Iterator[tuple[KeyPath, str]]:
    """Names that a tool's checks use and nobody declares, each with its place in the tool's entry."""
    for at, check in enumerate(tool.checks):
        for number, name in enumerate(check.facts):
            if name not in facts:
                yield ("checks", at, "facts", number), f"is not one of this tool's `facts`; {_declare(facts)}"
        for number, name in enumerate(check.history):
            if name not in tool.history:
                known = tuple(tool.history)
                yield (
                    ("checks", at, "history", number),
                    f"is not one of this tool's `history`; {_declare(known)}",
                )


def _declare(names: Sequence[str]) -> str:
    return f"use one of {', '.join(f'`{name[:80]}`' for name in names[:12])}" if names else "declare it first"
