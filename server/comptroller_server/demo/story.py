"""How the demo tells what happens: to a person as it goes, to `--json` at the end. It holds what was shown, and proved."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from comptroller_audit.vocabulary import Code
from comptroller_server.demo.judge import LocalJudge
from comptroller_server.demo.servers import Agent, Reply
from comptroller_server.demo.stage import Invoice, Stage

__all__ = ["Shown", "Story", "propose_refund"]

WIDTH = 118
QUOTED_LINES_MAX = 40


@dataclass(frozen=True, slots=True)
class Shown:
    """A refusal that a client was given: its words, and under which call it is on record (empty: under none)."""

    code: Code
    failure_class: str
    retry: str
    call: str
    text: str
    chapter: str


@dataclass
class Story:
    """What the chapters play on and tell to. `page` is where the report's page goes. `calls` are those named by a chapter, `refusals` the first of each code."""

    stage: Stage
    write: Callable[[str], None]
    page: Path
    coloured: bool = False
    chapter: str = ""
    failures: list[str] = field(default_factory=list[str])
    calls: dict[str, str] = field(default_factory=dict[str, str])
    refusals: dict[Code, Shown] = field(default_factory=dict[Code, Shown])
    checks: int = 0
    judge: LocalJudge = field(default_factory=LocalJudge)

    # -- telling --------------------------------------------------------------------------------------------------

    def say(self, text: str = "", **style: Any) -> None:
        self.write((click.style(text, **style) if self.coloured and style else text) + "\n")

    def scene(self, text: str) -> None:
        """What comes next, in a sentence or two of our own."""
        self.say()
        for line in textwrap.wrap(text, WIDTH - 2):
            self.say(f"  {line}", bold=True)

    def tell(self, name: str, label: str, reply: Reply) -> Reply:
        """An answer as its client got it, and the call it is on record as."""
        self.say(f"  {label}")
        for line in reply.text.splitlines() or [""]:
            for shown in textwrap.wrap(line, WIDTH - 4) if reply.is_error else [_cut(line)]:
                self.say(f"    {shown}", **({"fg": "yellow"} if reply.is_error else {}))
        if reply.call:
            self.calls[f"{self.chapter}.{name}"] = reply.call
            self.say(f"    call {reply.call}", dim=True)
        return self.note(reply)

    def note(self, reply: Reply) -> Reply:
        """Keep a refusal for the table at the end, without showing it here."""
        if reply.code and Code(reply.code) not in self.refusals:
            code = Code(reply.code)
            self.refusals[code] = Shown(
                code, reply.failure_class, reply.retry, reply.call, reply.text, self.chapter
            )
        return reply

    def must(self, holds: bool, what: str) -> None:
        """A check of the demo: one that does not hold fails it."""
        self.checks += 1
        self.say(f"    {'✓' if holds else '✗'} {what}", fg="green" if holds else "red")
        if not holds:
            self.failures.append(f"{self.chapter}: {what}")

    def quote(self, title: str, text: str, lines_max: int = QUOTED_LINES_MAX) -> None:
        """What a command printed, long lines cut."""
        self.say(f"  $ comptroller {title}", fg="cyan")
        lines = text.rstrip().splitlines()
        for line in lines[:lines_max]:
            self.say(f"    {_cut(line)}")
        if len(lines) > lines_max:
            self.say(f"    … {len(lines) - lines_max} more lines", dim=True)

    async def command(self, *words: str) -> str:
        """Run one command in a process of its own, and quote it."""
        printed = await self.stage.command(*words)
        self.quote(" ".join(words), printed)
        return printed

    # -- what many chapters do ------------------------------------------------------------------------------------

    async def refund(
        self, agent: Agent, name: str, invoice: Invoice, amount: float, refs: list[str], **more: Any
    ) -> Reply:
        """Propose a refund, and tell what came of it."""
        reply = await propose_refund(agent, invoice, amount, refs, **more)
        return self.tell(name, f"issue_refund {invoice.invoice} {amount:.2f} USD", reply)

    async def read(self, agent: Agent, name: str, tool: str, **arguments: Any) -> Reply:
        """Call a tool, and tell what came of it."""
        label = " ".join([tool, *(str(value) for value in arguments.values() if not isinstance(value, dict))])
        return self.tell(name, _cut(label), await agent.call(tool, **arguments))

    def summary(self) -> dict[str, Any]:
        return {
            "ok": not self.failures,
            "failures": self.failures,
            "checks": self.checks,
            "calls": self.calls,
            "refusals": {
                shown.code.value: {
                    "class": shown.failure_class,
                    "retry": shown.retry,
                    "call": shown.call,
                    "chapter": shown.chapter,
                    "text": shown.text,
                }
                for shown in self.refusals.values()
            },
        }


async def propose_refund(
    agent: Agent, invoice: Invoice, amount: float, refs: list[str], **more: Any
) -> Reply:
    return await agent.call(
        "issue_refund",
        invoice_id=invoice.invoice,
        amount_usd=round(amount, 2),
        reason_code="billing_error",
        why={"reason": f"The customer was overcharged (ticket {invoice.ticket}).", "citations": refs},
        **more,
    )


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH - 4 else f"{text[: WIDTH - 6]} …"
