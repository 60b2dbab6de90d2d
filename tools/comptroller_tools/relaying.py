"""What an entry of `tools` may say of resources and prompts: they are read, one at a time, by one entry each."""

from __future__ import annotations

from collections.abc import Sequence

from comptroller_audit.vocabulary import Effect
from comptroller_policy.errors import Finding
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.upstream.definitions import Kind, kind_of
from comptroller_tools.upstream.relayed import COMPLETIONS, RESOURCES

__all__ = ["relaying_findings"]


def relaying_findings(tools: Sequence[tuple[ToolConfig, str]]) -> list[Finding]:
    """`tools` are entries with the name of their source."""
    findings: list[Finding] = []
    readers: dict[tuple[str, str], str] = {}
    for config, source in tools:
        wanted, where = config.source_tool or config.name, f"tools.{config.name}"
        if kind_of(wanted) is Kind.TOOL:
            continue
        if config.effect is not Effect.READ:
            findings.append(Finding(f"{where}.allow_actions", f"`{wanted}` is read; write `[read]`"))
        if config.approval:
            text = f"`{wanted}` would wait for a person, and nobody could resume it; write a rule that denies"
            findings.append(Finding(f"{where}.approval", text))
        if config.batch is not None:
            findings.append(Finding(f"{where}.batch", f"`{wanted}` is asked for one at a time; remove it"))
        if config.limits.cuts:
            text = f"`{wanted}` is told whole; remove the `answer_…` limits"
            findings.append(Finding(f"{where}.limits", text))
        first = readers.setdefault((source, wanted), config.name)
        if wanted in (RESOURCES, COMPLETIONS) and first != config.name:
            text = f"`{first}` is `{wanted}` of `{source}` already; keep one of them"
            findings.append(Finding(f"{where}.source_tool", text))
    return findings
