"""Who lives in a round: clients, the people who approve and halt, whoever moves money elsewhere, and bad luck."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, cast

from sqlalchemy import bindparam, select

from comptroller_audit.calls import CALLS
from comptroller_audit.database import table_of
from comptroller_audit.errors import StoreError
from comptroller_audit.owners import OwnerRow
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import calls_in_state
from comptroller_audit.unit import Part, Stopped, Unit
from comptroller_audit.vocabulary import Actor, CallState, Principal, RecordType, Subject
from comptroller_policy.approvals import APPROVALS, Assurance, Vote, VoteOnApproval, asked_digest
from comptroller_policy.switches import ClearSwitch, SetSwitch, SwitchScope, switch_id
from comptroller_server.call.case import Refused
from comptroller_server.call.endings import pending_ended
from comptroller_server.call.proposal import Proposal
from comptroller_server.installation import TENANT, principal_key
from comptroller_server.people.editing import Editor
from tests.simulation.process import Killed
from tests.simulation.world import Heard, Process, World

__all__ = ["Approvals", "Client", "Halts", "covered_by", "luck", "outsiders", "supervise"]

_OWNERS = table_of(OwnerRow)
_SEQUENCES = select(_OWNERS.c.id, _OWNERS.c.switch_seq).where(_OWNERS.c.tenant == bindparam("tenant"))
_SAYINGS = ("paid twice", "asked for it", "owed")
_AMOUNTS = (5, 10, 15, 30, 45, 60)


class Client:
    """One agent: proposes, repeats, resumes, hangs up, and asks for things it may not have."""

    def __init__(self, world: World, principal: str, name: str) -> None:
        self.world = world
        self.name = f"{principal}/{name}"
        self.random = random.Random(f"{world.seed}/{self.name}")
        self.subject = Subject(Principal(TENANT, "sim", principal), Actor(name), frozenset({"teller"}))
        self.pending: list[str] = []
        self.sent: list[Proposal] = []
        self.refs: list[tuple[str, str]] = []
        self.task = ""

    async def run(self) -> None:
        for _ in range(self.random.randint(3, 6)):
            await asyncio.sleep(self.random.choice((0.0, 0.01, 0.2, 1.0, 3.0, 3.0, 9.0)))
            if self.random.random() < 0.03:
                await asyncio.sleep(self.world.config.budgets.task_idle_s + 1)  # a new task begins
            burst = self.random.choice((1, 1, 1, 2, 4))
            proposals = [self._next()]
            proposals += [self.random.choice((proposals[0], self._next())) for _ in range(burst - 1)]
            await asyncio.gather(*(self.send(proposal) for proposal in proposals))

    async def send(self, proposal: Proposal) -> Heard | None:
        """One request, to any process that serves. None when no answer came."""
        world = self.world
        process = await _a_process(world, self.random)
        self.sent.append(proposal)
        asked = world.clock.seconds
        world.note(
            f"{self.name} → {process.name} {proposal.tool} {json.dumps(proposal.arguments)} {_key(proposal)}"
        )
        task = process.call(proposal)
        if self.random.random() < 0.04:
            world.note(f"{self.name} hangs up")
            world.unheard += 1
            return None
        await asyncio.wait([task])
        if task.cancelled() or not process.alive or task.exception() is not None:
            if process.alive and not task.cancelled():
                raise AssertionError("the pipeline raised") from task.exception()
            world.unheard += 1
            world.note(f"{self.name} heard nothing")
            return None
        heard = Heard(self.name, proposal, task.result(), asked)
        world.heard.append(heard)
        world.note(f"{self.name} ← {heard.code} {str(heard.answer.meta.get('comptroller/call'))[-6:]}")
        self._learn(heard)
        return heard

    def _learn(self, heard: Heard) -> None:
        refusal = cast("dict[str, Any]", heard.answer.meta.get("comptroller/refusal") or {})
        if heard.code in ("approval_pending", "record_changed"):
            self.pending.append(str(refusal["call"]))
        told: Any = heard.answer.structured or {}
        self.refs += [(str(ref["key"]), str(ref["ref"])) for ref in told.get("refs", [])]
        if heard.proposal.tool == "task_begin" and heard.code == "done":
            self.task = str(told["task"])

    def _next(self) -> Proposal:
        roll = self.random.random()
        if roll < 0.18 and self.pending:
            return self._propose("resume_call", call=self.random.choice(self.pending[-3:]))
        if roll < 0.34 and self.sent:
            return self.random.choice(self.sent[-4:])
        if roll > 0.95:
            return self._of_a_task()
        kind = self.random.choice(
            ("pay",) * 6 + ("wire", "wire", "note", "look", "look", "order", "order", "statement", "odd")
        )  # fmt: skip
        account = f"acc-{self.random.choice('abc')}"
        if kind in ("pay", "wire"):
            return self._propose(
                kind, account=account, amount_usd=self.random.choice(_AMOUNTS), why=self._why()
            )
        if kind == "order":
            return self._order(account)
        if kind == "note":
            return self._propose("note", account=account, text=self.random.choice(_SAYINGS))
        if kind == "look":
            return self._propose("look", account=account)
        return self._propose("statement") if kind == "statement" else self._odd(account)

    def _order(self, account: str) -> Proposal:
        """Mostly with the newest ref of an account that was read, now and then with an old one or another's."""
        known = [(key, ref) for key, ref in self.refs[-6:] if self.random.random() < 0.8]
        if not known and self.random.random() < 0.8:
            return self._propose("look", account=account)
        cited: list[str] = []
        if known:
            account, ref = known[-1]
            cited = [ref if self.random.random() < 0.9 else self.random.choice(self.refs)[1]]
        why = {"reason": self.random.choice(_SAYINGS), "citations": cited}
        return self._propose("order", account=account, text=self.random.choice(_SAYINGS), why=why)

    def _of_a_task(self) -> Proposal:
        """Work begins, ends, and is given to a person; also twice, and also somebody else's."""
        roll = self.random.random()
        if roll < 0.5:
            return self._propose("task_begin", request=self.random.choice(_SAYINGS))
        if roll < 0.9:
            return self._propose(
                "task_finish", claim=self.random.choice(("succeeded", "failed", "abandoned"))
            )
        return self._propose("hand_off", reason=self.random.choice(_SAYINGS))

    def _odd(self, account: str) -> Proposal:
        """What is refused, each for another reason."""
        which = self.random.randrange(5)
        if which == 0:
            return self._propose("pay", account="nobody", amount_usd=5, why=self._why())
        if which == 1:
            return self._propose("pay", account=account, amount_usd=5)
        if which == 2:
            return self._propose("vault", account=account)
        if which == 3:
            return self._propose("look", account="acc-z")
        return self._propose("resume_call", call="0199" + "0" * 32)

    def _why(self) -> Any:
        cited = [self.random.choice(self.refs[-3:])[1]] if self.refs and self.random.random() < 0.3 else []
        return {"reason": self.random.choice(_SAYINGS), "citations": cited}

    def _propose(self, tool: str, **arguments: Any) -> Proposal:
        keyed = tool in ("pay", "wire", "note") and self.random.random() < 0.15
        meta = {"comptroller/idempotency-key": f"key-{self.random.randrange(3)}"} if keyed else {}
        if self.task and tool != "task_begin" and self.random.random() < 0.5:
            meta["comptroller/task"] = self.task  # also one that is over by now
        return Proposal(self.subject, tool, arguments, meta)


def _key(proposal: Proposal) -> str:
    return str(proposal.meta.get("comptroller/idempotency-key", ""))


async def _a_process(world: World, chance: random.Random) -> Process:
    while not world.serving:  # noqa: ASYNC110 -- virtual time
        await asyncio.sleep(0.05)
    return chance.choice(world.serving)


class Approvals:
    """A person with a credential who reads what waits, and decides: once, twice at once, late, or not at all."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = random.Random(f"{world.seed}/approver")
        self.agreed: set[str] = set()
        self.edits = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.random.choice((0.5, 2.0, 8.0)))
            await self.once()

    async def once(self) -> None:
        waiting = self.world.people.read_now(lambda r: calls_in_state(r, TENANT, (CallState.PENDING,)))
        for call, row in waiting:
            roll = self.random.random()
            if roll < 0.55:
                await self.decide(call, row["approval"], yes=True)
                if self.random.random() < 0.1:
                    await self.decide(call, row["approval"], yes=self.random.random() < 0.5)
            elif roll < 0.65:
                await self.decide(call, row["approval"], yes=False)
            elif roll < 0.75 and row["tool"] == "pay":
                await self.edit(call, row["approval"])

    async def edit(self, call: str, approval: str) -> None:
        """Somebody else changes the amount; whoever edits is no longer asked."""
        world = self.world
        process = await _a_process(world, self.random)
        row = world.people.read_now(lambda reader: reader.row(TENANT, APPROVALS, approval))
        assert process.service is not None and row is not None
        usd = self.random.choice((5, 25, 35, 45, 60))
        editor = Editor("ann", "", asked_digest(row))
        work = process.service.editing.edit(
            TENANT, call, lambda before, _: {**before, "amount_usd": usd}, editor
        )
        edited = process.spawn(work)
        await asyncio.wait({edited}, timeout=20)  # the process may die meanwhile
        error = edited.exception() if edited.done() and not edited.cancelled() else Killed()
        assert error is None or isinstance(error, Refused | StoreError | Killed), error
        world.note(
            f"ann edits {call[-6:]} to {usd}" if error is None else f"ann cannot edit {call[-6:]}: {error}"
        )
        if error is None:
            self.edits += 1

    async def decide(self, call: str, approval: str, yes: bool) -> None:
        world = self.world
        row = world.people.read_now(lambda reader: reader.row(TENANT, APPROVALS, approval))
        called = world.people.read_now(lambda reader: reader.row(TENANT, CALLS, call))
        assert row is not None, f"call {call} waits for approval {approval}, which is not there"
        assert called is not None
        vote = Vote("olga", ("approver",), Assurance.CREDENTIAL, yes)
        parts: list[Part] = [VoteOnApproval(approval, vote, asked_digest(row))]
        if not yes:
            packet: Any = {"v": 1, "call": call, "state": "denied", "why": "a person said no"}
            record = LogRecord(RecordType.CALL_CLOSED, packet, call, task=called["task"])
            budgets = world.config.budgets
            parts += pending_ended(call, approval, called["task"], CallState.DENIED, None, record, budgets)
        outcome = await world.people.commit(TENANT, Unit(parts))
        stopped = isinstance(outcome, Stopped)
        world.note(
            f"olga says {'yes' if yes else 'no'} to {call[-6:]} {approval}{' too late' if stopped else ''}"
        )
        if yes and not stopped:
            self.agreed.add(approval)


def covered_by(tool: str, principal: str, task: str) -> set[str]:
    """The switches that stop a call."""
    return {
        switch_id(SwitchScope.GLOBAL),
        switch_id(SwitchScope.TOOL, tool),
        switch_id(SwitchScope.PRINCIPAL, principal),
        switch_id(SwitchScope.TASK, task),
    }


class Halts:
    """The operator's kill switch: what it covers must stand still from its acknowledgement to its release."""

    def __init__(self, world: World, clients: list[Client]) -> None:
        self.world = world
        self.random = random.Random(f"{world.seed}/halts")
        self.active: set[str] = set()
        self.acknowledged = 0
        self._people = sorted({client.subject.principal.id for client in clients})

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(2, 60))
            switch = self._pick()
            await self._commit(SetSwitch(switch, "look first", "olga"))
            self.world.note(f"halt {switch}")
            if await self._all_acknowledge():
                self.world.note("halt acknowledged")
                self.active.add(switch)
                self.acknowledged += 1
            await asyncio.sleep(self.random.choice((0.2, 2.0, 8.0)))
            self.active.discard(switch)
            await self._commit(ClearSwitch(switch, "seen", "olga"))
            self.world.note(f"resume {switch}")

    def covers(self, tool: str, principal: str, task: str) -> bool:
        return not self.active.isdisjoint(covered_by(tool, principal, task))

    def _pick(self) -> str:
        scope = self.random.choice((SwitchScope.GLOBAL, SwitchScope.TOOL, SwitchScope.PRINCIPAL))
        if scope is SwitchScope.TOOL:
            return switch_id(scope, self.random.choice(("pay", "wire", "note")))
        if scope is SwitchScope.PRINCIPAL:
            return switch_id(
                scope, principal_key(self.world.stage.ring, TENANT, self.random.choice(self._people))
            )
        return switch_id(scope)

    async def _commit(self, part: Part) -> None:
        await self.world.people.commit(TENANT, Unit([part]))

    async def _all_acknowledge(self) -> bool:
        """Until every owner that lives has acknowledged, two seconds at most."""
        head = self.world.people.read_now(lambda reader: reader.head(TENANT))
        assert head is not None
        until = self.world.clock.seconds + 2
        while self.world.clock.seconds < until:
            rows = self.world.people.read_now(lambda reader: reader.query(_SEQUENCES, tenant=TENANT))
            if all(seq >= head.switch_seq or self.world.locks.is_free(owner) for owner, seq in rows):
                return True
            await asyncio.sleep(0.05)
        return False


async def outsiders(world: World) -> None:
    """Money that moves without us. Odd cents, so that it never makes up for what a call did wrong."""
    chance = random.Random(f"{world.seed}/outsiders")
    while True:
        await asyncio.sleep(chance.uniform(5, 60))
        account = f"acc-{chance.choice('abc')}"
        world.bank.outside(account, 0.37)
        world.note(f"somebody pays 0.37 into {account}")


async def luck(world: World) -> None:
    """Kills at any moment, a full disk for a while, clocks that are set."""
    chance = random.Random(f"{world.seed}/luck")
    kinds = chance.choice(
        (("kill",), ("disk",), ("clock",), ("lock",), ("kill", "disk", "clock", "stop", "lock"), ())
    )
    while kinds:
        await asyncio.sleep(chance.choice((0.05, 1.0, 5.0, 20.0)) * chance.random())
        kind = chance.choice(kinds)
        if kind == "disk":
            world.disk_full = True
            world.note("the disk is full")
            await asyncio.sleep(chance.choice((0.01, 0.5, 5.0)))
            world.disk_full = False
            world.note("the disk has room")
        elif kind == "clock":
            by_s = chance.choice((-600, -5, 60, 3600, 86_400))
            world.clock.jump_ms(by_s * 1000)
            world.note(f"the clock is set by {by_s} s")
        elif world.serving:
            victim = chance.choice(world.serving)
            if kind == "lock":
                victim.loses_lock = True
            elif kind == "kill":
                victim.die("by bad luck")
            else:
                await victim.stop()
        await asyncio.sleep(8)


async def supervise(world: World) -> None:
    """Starts what is down, as an init system does: one or two processes."""
    chance = random.Random(f"{world.seed}/supervisor")
    wanted = chance.choice((1, 1, 2, 3))
    while True:
        while sum(process.alive for process in world.processes) < wanted:
            world.start()
        await asyncio.sleep(chance.choice((0.1, 1.0)))
