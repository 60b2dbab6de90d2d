"""`tools[].arguments`, `tools[].hidden` and parts of results: references among fixed values, and what shows without the sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pydantic import SecretStr

from comptroller_audit.vocabulary import Effect
from comptroller_policy.errors import Finding
from comptroller_server.config.paths import KeyPath, finding_at
from comptroller_server.config.yaml_lines import Node
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.shaping import SECRET

__all__ = ["FIXED_SECRETS", "fixed_secrets", "hidden_findings", "part_findings"]

FIXED_SECRETS: KeyPath = ("tools", "*", "arguments", "*", "fixed")
"""Where a reference stands for the value that a source is sent."""


def fixed_secrets(
    tree: Node, tools: Sequence[ToolConfig], revealed: Callable[[str], str]
) -> tuple[dict[str, SecretStr], list[Finding]]:
    """The values behind fixed arguments, by reference, and what is wrong.

    `revealed` gives the value behind a reference; it raises an exception of its own.
    """
    found: dict[str, SecretStr] = {}
    findings: list[Finding] = []
    for at, tool in enumerate(tools):
        for name, rule in tool.arguments.items():
            if not isinstance(rule.fixed, str) or not rule.fixed.startswith(SECRET):
                continue
            try:
                found[rule.fixed] = SecretStr(revealed(rule.fixed))
            except Exception as wrong:  # noqa: BLE001 -- the reader's own, with a message for the field
                findings.append(finding_at(tree, ("tools", at, "arguments", name, "fixed"), str(wrong)))
    return found, findings


def hidden_findings(tool: ToolConfig) -> Iterator[tuple[KeyPath, str]]:
    """What a tool that nobody is shown cannot have any use for."""
    if tool.hidden and tool.batch is not None:
        yield ("batch",), "is for agents, and a hidden tool is offered to none; remove one"


def part_findings(tool: ToolConfig) -> Iterator[tuple[KeyPath, str]]:
    """Where an answer is cut though its rest could not be read, or would be paid for again."""
    limits = tool.limits
    for name in ("answer_kib_max", "answer_tokens_max", "answer_items_max"):
        if getattr(limits, name) is None:
            continue
        if tool.effect is not Effect.READ:
            text = "stands at a tool that is no read; only results of reads are told in parts, so remove it"
            yield ("limits", name), text
        elif tool.cost_usd is not None or tool.units:
            yield ("limits", name), "stands at a read that costs something, and each part would; remove one"
    if limits.answer_kib_max is not None and limits.answer_kib_max > limits.response_kib_max:
        text = "is more than `response_kib_max`, beyond which a result is withheld; write less"
        yield ("limits", "answer_kib_max"), text
