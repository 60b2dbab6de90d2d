"""A real service that kills itself, with SIGKILL, where its orders say: one process a death, born in `nursery.py`.

Its order comes as JSON; what each step was answered goes to `said.jsonl`, a line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from comptroller_audit.query import calls_in_state
from comptroller_audit.unit import Unit
from comptroller_audit.vocabulary import Actor, CallState, Subject
from comptroller_policy.approvals import APPROVALS, Assurance, Vote, VoteOnApproval
from comptroller_server.app import Service, running
from comptroller_server.call.proposal import Proposal
from comptroller_server.installation import TENANT
from tests.scenarios.kit import spared
from tests.simulation.lives import Order, Step, installation

__all__ = ["main"]

SETTLE_S_MAX = 30.0
"""How long recovery may take: on Postgres an owner counts as gone only some seconds after its connection is."""


class Executioner:
    """The fault seam: counts passings once its time has come, and kills this process at the right one."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._left = order.passing
        self._once = order.once
        self.step = -1

    def __call__(self, point: str) -> None:
        if point == self._once:
            self._once = ""
        if (
            not self._order.point
            or self.step < self._order.during
            or self._once
            or point != self._order.point
        ):
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def _obey(order: Order) -> None:
    executioner = Executioner(order)
    journal = Path(order.folder) / "said.jsonl"
    with spared():
        opened = installation(Path(order.folder), order.url, executioner)
        opened.check()
    async with running(opened) as service:
        await _until_recovered(service)
        for at, step in enumerate(order.steps):
            executioner.step = at
            said = await _take(service, step)
            with journal.open("a") as lines:
                lines.write(json.dumps(said) + "\n")
        executioner.step = len(order.steps)


async def _until_recovered(service: Service) -> None:
    store = service.installation.store
    async with asyncio.timeout(SETTLE_S_MAX):
        while await store.read(lambda reader: calls_in_state(reader, TENANT, (CallState.COMMITTED,))):
            await asyncio.sleep(0.2)
            await service.recovery.round(TENANT)


async def _take(service: Service, step: Step) -> dict[str, Any]:
    one = service.installation.identity
    subject = Subject(one.principal, Actor(step.actor), frozenset({"support_agent"}))
    waiting = await service.installation.store.read(lambda r: calls_in_state(r, TENANT, (CallState.PENDING,)))
    mine = [(call, row["approval"]) for call, row in waiting if row["actor"] == step.actor]
    if step.do == "approve":
        return await _approve(service, mine)
    if step.do == "resume":
        call = mine[0][0] if mine else "none"
        proposal = Proposal(subject, "resume_call", {"call": call})
    else:
        why: Any = {"reason": "billed twice", "citations": []}
        arguments: dict[str, Any] = {"invoice_id": step.invoice, "amount_usd": step.amount_usd, "why": why}
        proposal = Proposal(subject, "issue_refund", {**arguments, "reason_code": "billing_error"})
    answer = await service.pipeline.call(proposal)
    refusal: Any = answer.meta.get("comptroller/refusal")
    return {"code": refusal["code"] if refusal else "done", "call": answer.meta.get("comptroller/call")}


async def _approve(service: Service, mine: list[tuple[str, str]]) -> dict[str, Any]:
    """A person says yes, if anything waits."""
    store = service.installation.store
    ids = [approval for _, approval in mine]
    for call, approval in mine:
        row = (await store.read(lambda reader: reader.rows(TENANT, APPROVALS, ids)))[approval]
        if row["state"] != "pending":
            continue  # agreed to before the last death
        vote = Vote("olga", ("approver",), Assurance.CREDENTIAL, yes=True)
        await store.commit(TENANT, Unit([VoteOnApproval(approval, vote, row["requested_digest"])]))
        return {"code": "approved", "call": call}
    return {"code": "nothing waits"}


def main(words: list[str]) -> None:
    order = json.loads(words[0])
    order["steps"] = tuple(Step(**step) for step in order["steps"])
    asyncio.run(_obey(Order(**order)))
