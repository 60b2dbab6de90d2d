"""`comptroller demo`: the main job on the support desk, by real processes. Every line comes from the running system."""

from __future__ import annotations

import contextlib
import json as json_module
import re
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import anyio

from comptroller_server.demo.stage import Agent, Invoice, Reply, Stage
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from comptroller_tools.desk.ledger import faults_in_sums

__all__ = ["run"]


def run(seed: int, keep: Path | None, json: bool) -> int:
    """Play the demo; 0 when everything came out as it must, else 1. `keep` is a folder to leave behind."""
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comptroller-demo-")))
        folder.mkdir(parents=True, exist_ok=True)
        story = _Story(Stage(folder.absolute(), seed), quiet=json)
        try:
            anyio.run(story.play)
        except Exception as error:  # noqa: BLE001 -- the demo says what broke and fails
            story.failures += [f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(error)]
        if json:
            sys.stdout.write(json_module.dumps(story.summary(), indent=2) + "\n")
        for failure in story.failures:
            sys.stderr.write(f"demo failed: {failure}\n")
        return 1 if story.failures else 0


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside nested groups; a task group wraps whatever broke in it."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


class _Story:
    def __init__(self, stage: Stage, quiet: bool) -> None:
        self._stage = stage
        self._quiet = quiet
        self._began = time.monotonic()
        self.failures: list[str] = []
        self.calls: dict[str, str] = {}

    def summary(self) -> dict[str, Any]:
        return {"ok": not self.failures, "failures": self.failures, "calls": self.calls}

    # -- telling --------------------------------------------------------------------------------------------------

    def _say(self, text: str = "") -> None:
        if not self._quiet:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def _scene(self, title: str) -> Generator[None]:
        self._say(f"\n{title}")
        yield

    def _tell(self, name: str, label: str, reply: Reply) -> Reply:
        self.calls[name] = reply.call
        first, *rest = reply.text.splitlines() or [""]
        self._say(f"  {label}\n    {first}")
        for line in rest:
            self._say(f"    {line}")
        self._say(f"    call {reply.call}")
        return reply

    def _must(self, holds: bool, what: str) -> None:
        self._say(f"    {'✓' if holds else '✗'} {what}")
        if not holds:
            self.failures.append(what)

    # -- the scenes -----------------------------------------------------------------------------------------------

    async def play(self) -> None:
        stage = self._stage
        self._say(
            "Comptroller on the support desk. Real processes, a real MCP client, a real system of record."
        )
        with self._scene("Setting up: the desk's records, the policy, and an approver"):
            await anyio.to_thread.run_sync(stage.set_up)
            self._say(f"  {stage.folder}")
            self._say(
                "  Olga is enrolled as approver. On this one machine her credential file belongs to the same user as"
            )
            self._say(
                "  the server (`approvals.allow_same_uid_file: true`): convenient, and weaker than a credential elsewhere."
            )
        limit = self._limit()
        await self._stdio(stage.invoices(int(limit * 200)), limit)
        await self._http(stage.invoices(int(limit * 200)))
        await self._kills(stage.invoices(int(limit * 200)))
        await self._proof()

    def _limit(self) -> float:
        """The configured limit, so that the demo works for any."""
        found = re.search(r"max_amount_usd: ([0-9.]+)", self._stage.config.read_text())
        return float(found[1]) if found else 50.0

    async def _stdio(self, invoices: list[Invoice], limit: float) -> None:
        first, second = invoices[:2]
        small = self._stage.random.randrange(300, 1500) / 100
        async with self._stage.over_stdio("triage-bot") as agent:
            with self._scene("1. Read the ticket and its invoice (stdio)"):
                self._tell(
                    "ticket",
                    f"get_ticket {first.ticket}",
                    await agent.call("get_ticket", ticket_id=first.ticket),
                )
                read = await agent.call("lookup_invoice", invoice_id=first.invoice)
                self._tell("read", f"lookup_invoice {first.invoice}", read)
                self._must(bool(read.refs), f"the read gave a ref to cite: {', '.join(read.refs)}")
            with self._scene("2. A refund within limits: runs, and is read back"):
                done = await self._refund(agent, "refund", first, small, read.refs)
                self._must(not done.is_error, "the refund was made")
                self._must(self._stage.refunds_made(done.call) == 1, "the desk's own ledger has it once")
            with self._scene("3. Over the limit: refused with the rule and the next step"):
                over = await self._refund(agent, "over", first, limit + 10, read.refs)
                self._must(
                    over.code == "denied" and self._stage.refunds_made(over.call) == 0, "nothing was moved"
                )
                few = self._stage.invoices(1, int(limit * 100))[0]
                left = few.refundable_cents / 100
                more = await self._refund(agent, "more_than_left", few, min(left + 1, limit), [])
                self._must(
                    more.code == "denied" and self._stage.refunds_made(more.call) == 0,
                    f"only {left:.2f} is left on that invoice, and nothing was moved",
                )
            with self._scene("4. The same refund again: answered from the record"):
                again = await self._refund(agent, "again", first, small, read.refs)
                self._must(again.call == done.call, "it is the same call")
                self._must(self._stage.refunds_made(done.call) == 1, "the ledger still has it once")
            await self._approval(agent, second, limit - 5)

    async def _approval(self, agent: Agent, invoice: Invoice, amount: float) -> None:
        stage = self._stage
        with self._scene(
            "5. One that needs a person: pending, approved outside the agent's channel, run once"
        ):
            pending = await self._refund(agent, "pending", invoice, amount, [])
            self._must(
                pending.code == "approval_pending" and stage.refunds_made(pending.call) == 0,
                "nothing has happened yet",
            )
            early = self._tell(
                "early", "resume_call, too early", await agent.call("resume_call", call=pending.call)
            )
            self._must(early.code == "approval_pending", "still waiting")
            words = ("approvals", "approve", pending.call, "--credential-file", str(stage.credential))
            card = await anyio.to_thread.run_sync(lambda: stage.cli("approvals", "show", pending.call))
            self._quote("comptroller approvals show", card)
            decided = await anyio.to_thread.run_sync(lambda: stage.cli(*words))
            self._quote("comptroller approvals approve (another process, Olga's credential)", decided)
            ran = self._tell("resumed", "resume_call", await agent.call("resume_call", call=pending.call))
            self._must(not ran.is_error and stage.refunds_made(pending.call) == 1, "the ledger has it once")
            await agent.call("resume_call", call=pending.call)
            self._must(stage.refunds_made(pending.call) == 1, "resuming again did not run it again")

    async def _http(self, invoices: list[Invoice]) -> None:
        invoice = invoices[2]
        async with self._stage.over_http("careful-bot") as (agent, server):
            with self._scene(f"6. Over HTTP ({server.url}), a desk that books a cent less than it says"):
                read = await agent.call("lookup_invoice", invoice_id=invoice.invoice)
                self._tell("http_read", f"lookup_invoice {invoice.invoice}", read)
                with self._stage.misbehaving(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=1)):
                    wrong = await self._refund(agent, "differs", invoice, 12.34, read.refs)
                self._must(
                    wrong.code == "verification_failed", "reading the record back found the difference"
                )

    async def _kills(self, invoices: list[Invoice]) -> None:
        before, after = invoices[3], invoices[4]
        with self._scene(
            "7. The server is killed (SIGKILL) after the action was committed, before it was dispatched"
        ):
            call = await self._kill_at("unlucky-bot", before, 7.5, pause="dispatch.before")
            self._must(self._stage.refunds_made(call) == 0, "the ledger has nothing")
            await self._next_start("killed_before", "unlucky-bot", call, before, 7.5, "not_done")
        with self._scene(
            "8. Killed again, after the desk made the refund and before its outcome was written"
        ):
            call = await self._kill_at("unluckier-bot", after, 8.25, pause=None)
            self._must(self._stage.refunds_made(call) == 1, "the ledger has it once")
            await self._next_start("killed_after", "unluckier-bot", call, after, 8.25, "done")

    async def _kill_at(self, client: str, invoice: Invoice, amount: float, pause: str | None) -> str:
        """Have a refund stop at a point in a server process, and kill that process there."""
        stage = self._stage
        reached = stage.folder / f"desk-{client}"
        hang = Fault(
            tool="issue_refund",
            kind=FaultKind.HANG,
            point=Point.AFTER_WRITE,
            reached=reached,
            until=stage.folder / "never",
        )
        with contextlib.ExitStack() as stack:
            if pause is None:
                stack.enter_context(stage.misbehaving(hang))
            with contextlib.suppress(Exception):  # the client of a killed server ends in an error of its own
                async with (
                    stage.over_http(client, pause) as (agent, server),
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(self._refund_silently, agent, invoice, amount)
                    await server.until_reached(reached if pause is None else None)
                    await server.kill()
                    tasks.cancel_scope.cancel()
        listed = await anyio.to_thread.run_sync(
            lambda: stage.cli_json("calls", "list", "--state", "committed")
        )
        call = str(listed["calls"][0]["call"])
        self._say(f"  killed; on record: call {call} is committed, its outcome is not known")
        return call

    async def _refund_silently(self, agent: Agent, invoice: Invoice, amount: float) -> None:
        with contextlib.suppress(Exception):
            await self._call_refund(agent, invoice, amount, [])

    async def _next_start(
        self, name: str, client: str, call: str, invoice: Invoice, amount: float, state: str
    ) -> None:
        """A new server looks the effect up before it serves; then the agent tries again."""
        stage = self._stage
        self.calls[name] = call
        async with stage.over_http(client) as (agent, _):
            shown = await anyio.to_thread.run_sync(lambda: stage.cli_json("calls", "show", call))
            self._must(
                shown["state"] == state, f"the next start looked it up with find_refund: {shown['state']}"
            )
            retry = await self._refund(agent, f"{name}_retry", invoice, amount, [])
            made = stage.refunds_made(call) + (stage.refunds_made(retry.call) if retry.call != call else 0)
            expected = not retry.is_error if state == "not_done" else retry.code == "already_done"
            self._must(expected and made == 1, "the agent's retry leaves exactly one refund")

    async def _proof(self) -> None:
        stage = self._stage
        with self._scene("9. Who authorised this, what did it read, what did it change, can we shut it off"):
            shown = await anyio.to_thread.run_sync(lambda: stage.cli("why", self.calls["pending"]))
            self._quote(f"comptroller why {self.calls['pending']}", shown)
        with self._scene("10. The record, checked by a verifier that shares no code with its writer"):
            verified = await anyio.to_thread.run_sync(lambda: stage.cli("audit", "verify", check=False))
            self._quote("comptroller audit verify", verified)
            report = await anyio.to_thread.run_sync(lambda: stage.cli_json("audit", "verify"))
            self._must(bool(report["ok"]), "the log verifies")
            self._must(not faults_in_sums(stage.desk), "the desk's books balance")
        self._say(f"\nDone in {time.monotonic() - self._began:.0f} seconds.")

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _refund(
        self, agent: Agent, name: str, invoice: Invoice, amount: float, refs: list[str]
    ) -> Reply:
        reply = await self._call_refund(agent, invoice, amount, refs)
        return self._tell(name, f"issue_refund {invoice.invoice} {amount:.2f} USD", reply)

    async def _call_refund(self, agent: Agent, invoice: Invoice, amount: float, refs: list[str]) -> Reply:
        return await agent.call(
            "issue_refund",
            invoice_id=invoice.invoice,
            amount_usd=round(amount, 2),
            reason_code="billing_error",
            why={"reason": f"The customer was overcharged (ticket {invoice.ticket}).", "citations": refs},
        )

    def _quote(self, title: str, text: str) -> None:
        self._say(f"  $ {title}")
        for line in text.rstrip().splitlines():
            self._say(f"    {line}")
