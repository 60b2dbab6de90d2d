"""Where a confirmation by the requester may be a gate: a client can give it without asking anybody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from comptroller_audit.vocabulary import Effect
from comptroller_policy.actions import Action
from comptroller_policy.declarations import ClientWord, RequesterTerms
from comptroller_policy.errors import Finding
from comptroller_policy.model import ToolFacts
from comptroller_policy.rules import REQUESTER
from comptroller_policy.syntax import Policy

__all__ = ["requester_findings"]


def requester_findings(policy: Policy, covered: Sequence[Action], terms: RequesterTerms) -> Iterator[Finding]:
    """What is wrong with a gate of role `requester`: nobody to ask, more than one asked, or too much on a word."""
    if policy.approval != REQUESTER:
        return
    if policy.gate is not None and policy.gate.count != 1:
        yield Finding(policy.where, f"there is one {REQUESTER}, so a gate asks for one approval, not more.")
    if not terms.asked:
        yield Finding(
            policy.where,
            f"nobody could give an approval of role {REQUESTER}: no client has `interactive: true` "
            "(identity.local.clients). Set it where a person sits, or name a role of approvers.",
        )
    for word in ClientWord:
        tools = sorted({action.tool.name for action in covered if word in _needs(action.tool)})
        if word not in terms.may and tools:
            yield Finding(
                policy.where,
                f"the {REQUESTER}'s yes is only their client's word, which is not enough for {_MEANS[word]} "
                f"({', '.join(tools)}). Name a role of approvers, or accept it with "
                f"`approvals: {{requester_may: [{word}]}}`.",
            )


_MEANS = {
    ClientWord.DELETE: "tools that delete",
    ClientWord.EXECUTE: "tools that execute, or that nobody has classified",
    ClientWord.MONEY: "tools that declare `units` or `cost_usd`",
}


def _needs(tool: ToolFacts) -> frozenset[ClientWord]:
    """The words that must be in the config before this tool's calls may hang on a client's word."""
    found = {ClientWord.MONEY} if tool.spends else set[ClientWord]()
    if tool.effect is Effect.DELETE:
        found.add(ClientWord.DELETE)
    if tool.effect is Effect.EXECUTE:
        found.add(ClientWord.EXECUTE)
    return frozenset(found)
