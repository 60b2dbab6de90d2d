"""A whole service in process, on a desk of its own: what the scenarios propose to, and where they look afterwards.

The oracle of every scenario is the desk's own ledger (`Shop.moved`), never a table of the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from ruamel.yaml import YAML

from comptroller_audit.ambient import RandomIds
from comptroller_audit.calls import CALLS
from comptroller_audit.database import Relation, Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import Logged, calls_in_state, entries, newest_calls
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Committed, Stopped, Unit
from comptroller_audit.vocabulary import Actor, CallState, Json, JsonObject, RecordType, Subject
from comptroller_policy.approvals import APPROVALS, Assurance, Vote, VoteOnApproval, asked_digest
from comptroller_policy.bundle import compile_bundle
from comptroller_policy.declarations import RequesterTerms, RolloutMode
from comptroller_policy.engine import Bundle
from comptroller_policy.errors import Finding
from comptroller_policy.model import PolicyFile, ToolFacts
from comptroller_policy.switches import ClearSwitch, SetSwitch, SwitchScope, switch_id
from comptroller_server import installation as installation_module
from comptroller_server.app import Service, running
from comptroller_server.call.endings import pending_ended
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.config import loading
from comptroller_server.config.loading import load_config
from comptroller_server.config.yaml_lines import Node, read_yaml
from comptroller_server.installation import TENANT, Ambient, Installation
from comptroller_server.people.editing import Editor
from comptroller_tools import functions
from comptroller_tools.desk import __file__ as desk_package
from comptroller_tools.desk.database import close_all, ensure
from comptroller_tools.desk.faults import Fault, clear_faults, set_faults
from comptroller_tools.desk.ledger import DeskEffect, effects
from comptroller_tools.signatures import read_function
from tests.stores import migrated_file

__all__ = [
    "BEFORE",
    "DESK_CONFIG",
    "WHY",
    "Changes",
    "Clock",
    "Faults",
    "Shop",
    "call_of",
    "code_of",
    "details_of",
    "finish_now",
    "json_read",
    "opened",
    "placed",
    "read_once",
    "spared",
    "stocked",
    "structured",
    "tool_of",
    "until",
]

DESK_CONFIG = Path(desk_package).with_name("comptroller.yaml")
BEFORE = "before-"
"""The effect keys of refunds that the desk was generated with begin so."""
WHY: JsonObject = {"reason": "The customer was charged twice."}
WAIT_S_MAX = 20.0
NOON = 1_795_003_200_000
"""2026-11-18T12:00:00Z, milliseconds: no window of the tests ends by chance."""

Changes = Callable[[dict[str, Any]], None]
"""Edits the desk's configuration before it is loaded."""
T = TypeVar("T")


class Clock:
    """Time as it goes by, from noon of a fixed day, plus whatever a test lets pass."""

    def __init__(self, start_ms: int = NOON) -> None:
        self._start_ms = start_ms
        self._began = time.monotonic()
        self._passed = 0.0
        self._jumped_ms = 0

    def monotonic(self) -> float:
        return time.monotonic() - self._began + self._passed

    def now_ms(self) -> int:
        return self._start_ms + self._jumped_ms + int(self.monotonic() * 1000)

    def pass_s(self, seconds: float) -> None:
        self._passed += seconds

    def jump_s(self, seconds: float) -> None:
        """Set the wall clock; no time passes."""
        self._jumped_ms += int(seconds * 1000)


@dataclass
class Faults:
    """What happens at the named points of store and dispatch: a test sets `at[point]`."""

    at: dict[str, Callable[[], None]] = field(default_factory=dict[str, Callable[[], None]])

    def __call__(self, point: str) -> None:
        if (act := self.at.get(point)) is not None:
            act()


@dataclass
class Shop:
    """A running service and the desk it works on."""

    service: Service
    desk: Path
    clock: Clock
    faults: Faults
    subject: Subject

    # -- proposing ------------------------------------------------------------------------------------------------

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        subject: Subject | None = None,
        meta: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Answer:
        """Propose one call, as the transport would."""
        proposal = Proposal(subject or self.subject, tool, {**(arguments or {}), **named}, meta or {})
        return await self.service.pipeline.call(proposal)

    async def refund(
        self,
        invoice: str,
        usd: float,
        *,
        reason: str = "goodwill",
        why: Any = WHY,
        subject: Subject | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Answer:
        arguments = {"invoice_id": invoice, "amount_usd": usd, "reason_code": reason}
        if why is not None:
            arguments["why"] = why
        return await self.call("issue_refund", arguments, subject=subject, meta=meta)

    async def resume(self, call: str, *, subject: Subject | None = None) -> Answer:
        return await self.call("resume_call", {"call": call}, subject=subject)

    async def pending(self, invoice: str, usd: float = 30) -> str:
        """Propose a refund that needs a person; its call id."""
        answer = await self.refund(invoice, usd)
        assert code_of(answer) == "approval_pending", answer.text
        return call_of(answer)

    def other(self, *, actor: str | None = None, subject: str | None = None) -> Subject:
        """The same person with another client, or another person of the tenant."""
        mine = self.subject
        who = replace(mine.principal, subject=subject) if subject else mine.principal
        return replace(mine, principal=who, actor=Actor(actor) if actor else mine.actor)

    # -- people ---------------------------------------------------------------------------------------------------

    async def vote(
        self,
        call: str,
        yes: bool = True,
        *,
        by: str = "ann",
        roles: Sequence[str] = ("approver",),
        assurance: Assurance = Assurance.CREDENTIAL,
        self_approved: bool = False,
    ) -> Committed | Stopped:
        """One person's decision, as the approver's command commits it."""
        row = self.row(call)
        approval = self.rows(APPROVALS, row["approval"])[row["approval"]]
        vote = Vote(by, tuple(roles), assurance, yes, self_approved=self_approved)
        parts: list[Any] = [VoteOnApproval(row["approval"], vote, asked_digest(approval))]
        if not yes:
            packet: JsonObject = {"v": 1, "call": call, "state": "denied", "why": "a person said no"}
            closed = LogRecord(RecordType.CALL_CLOSED, packet, call, task=row["task"])
            budgets = self.service.installation.config.budgets
            parts += pending_ended(
                call, row["approval"], row["task"], CallState.DENIED, row["epoch"], closed, budgets
            )
        return await self.store.commit(TENANT, Unit(parts))

    async def edit(self, call: str, *, by: str = "bea", reason: str = "", **named: Any) -> str:
        """One person's edit, as their command makes it; the approval asked for now, or `Refused`."""
        approval = self.rows(APPROVALS, self.row(call)["approval"])[self.row(call)["approval"]]
        editor = Editor(by, reason, asked_digest(approval))
        return await self.service.editing.edit(TENANT, call, lambda before, _: {**before, **named}, editor)

    async def halt(self, scope: SwitchScope, name: str = "") -> None:
        """Set a switch and wait until this process obeys it."""
        await self.store.commit(TENANT, Unit([SetSwitch(switch_id(scope, name), "stop", "a person")]))
        await self.service.watch.look(TENANT)

    async def lift(self, scope: SwitchScope, name: str = "") -> None:
        await self.store.commit(TENANT, Unit([ClearSwitch(switch_id(scope, name), "go on", "a person")]))
        await self.service.watch.look(TENANT)

    # -- the desk -------------------------------------------------------------------------------------------------

    def misbehave(self, *faults: Fault) -> None:
        set_faults(self.desk, faults)

    def behave(self) -> None:
        clear_faults(self.desk)

    def moved(self, invoice: str | None = None) -> list[DeskEffect]:
        """The oracle: money that moved since the desk was made."""
        found = [effect for effect in effects(self.desk) if not effect.effect_key.startswith(BEFORE)]
        return [effect for effect in found if invoice in (None, effect.invoice_id)]

    def paid(self, cents: int = 10_000) -> list[str]:
        """Invoices with at least `cents` left to refund, always in the same order."""
        return [
            str(row[0])
            for row in self.sql(
                "SELECT id FROM invoices WHERE paid_cents - refunded_cents >= ? ORDER BY id", cents
            )
        ]

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Look at the desk, or change it behind the service's back."""
        with contextlib.closing(sqlite3.connect(self.desk, timeout=10)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    # -- the record -----------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        return self.service.installation.store

    def rows(self, relation: Relation, *ids: str) -> dict[str, Row]:
        return self.store.read_now(lambda reader: reader.rows(TENANT, relation, ids))

    def row(self, call: str) -> Row:
        return self.rows(CALLS, call)[call]

    def state(self, call: str) -> str:
        return str(self.row(call)["state"])

    def calls(self, *states: CallState) -> list[tuple[str, Row]]:
        def read(reader: Reader) -> list[tuple[str, Row]]:
            return calls_in_state(reader, TENANT, states) if states else newest_calls(reader, TENANT, 10_000)

        return self.store.read_now(read)

    def log(self, *types: RecordType) -> list[Logged]:
        """Every record, or those of `types`, oldest first."""

        def read(reader: Reader) -> list[Logged]:
            head = reader.head(TENANT)
            return entries(reader, self.store.ring, TENANT, range(head.size if head else 0))

        return [entry for entry in self.store.read_now(read) if not types or entry.type in types]

    def packets(self, *types: RecordType) -> list[dict[str, Any]]:
        return [cast("dict[str, Any]", entry.packet) for entry in self.log(*types)]


def call_of(answer: Answer) -> str:
    return str(answer.meta["comptroller/call"])


def code_of(answer: Answer) -> str | None:
    """The refusal code, or None for a call that was done."""
    details = cast("dict[str, Any] | None", answer.meta.get("comptroller/refusal"))
    assert (details is not None) == answer.is_error, answer
    return str(details["code"]) if details is not None else None


def details_of(answer: Answer) -> dict[str, Any]:
    return cast("dict[str, Any]", answer.meta["comptroller/refusal"])


def structured(answer: Answer) -> dict[str, Any]:
    assert not answer.is_error, answer.text
    assert answer.structured is not None, answer.text
    return cast("dict[str, Any]", answer.structured)


async def until(happened: Callable[[], object]) -> None:
    """Wait for something that another task or thread brings about."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not happened():  # noqa: ASYNC110 -- threads and other processes set no event of this loop
            await asyncio.sleep(0.005)


def finish_now(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really waits (SQLite reads do not), from inside a plain function."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    work.close()
    raise AssertionError("it had to wait")


def tool_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """One entry of `tools:`, to be changed."""
    return next(tool for tool in config["tools"] if tool["name"] == name)


@functools.cache
def _desk_tree() -> dict[str, Any]:
    yaml: Any = YAML(typ="safe", pure=True)
    tree: dict[str, Any] = yaml.load(DESK_CONFIG.read_text())
    return tree


read_once = functools.cache(read_function)
"""A tool function's types, read once for all the services of a test run: half of what opening one would cost."""
_bundles: dict[str, Bundle] = {}


def compiled_once(
    tools: Sequence[ToolFacts],
    files: Sequence[PolicyFile],
    rollout: RolloutMode,
    requester: RequesterTerms | None = None,
) -> Bundle:
    """`compile_bundle`, which is a pure function, once for the same input: half of what is left of opening one."""
    known = repr((tools, files, rollout, requester))
    if known not in _bundles:
        _bundles[known] = compile_bundle(tools, files, rollout, requester)
    return _bundles[known]


def json_read(path: Path, shown: str) -> tuple[Node | None, list[Finding]]:
    """`read_yaml` for what `placed` wrote, which is JSON in one line: half of what opening a service would cost."""
    text = path.read_text()
    if not text.startswith("{") or "\n" in text:
        return read_yaml(path, shown)
    return _node(json.loads(text), shown), []


def _node(value: Json, shown: str, at: int = 0) -> Node:
    if not isinstance(value, dict | list):
        return Node(shown, 1, value, at)
    held: dict[str, Node] | tuple[Node, ...]
    if isinstance(value, dict):
        held = {key: _node(one, shown) for key, one in value.items()}
        parts = tuple(held.values())
    else:
        parts = held = tuple(_node(one, shown, at) for at, one in enumerate(value))
    size, height = 1 + sum(one.size for one in parts), 1 + max((one.height for one in parts), default=0)
    return Node(shown, 1, held, at, size, height)


@functools.cache
def _template(seed: int) -> tuple[bytes, bytes]:
    """A desk as it is generated, and a store as it is migrated, before anybody worked on either."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Path(folder) / "desk.db"
        ensure(desk, seed)
        return desk.read_bytes(), migrated_file()


def stocked(folder: Path, seed: int = 1) -> Path:
    """`folder` with a desk and an empty store in it, unless they are there; the desk's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in zip((folder / "desk.db", folder / "comptroller.db"), _template(seed), strict=True):
        if not path.exists():
            path.write_bytes(content)
            path.chmod(0o600)
    return folder / "desk.db"


def placed(
    folder: Path,
    changes: Changes | None = None,
    *,
    url: str | None = None,
    cedar: str = "",
    bare: bool = False,
) -> Path:
    """Write the desk's configuration, changed, into `folder`; its path. A bare one lacks the operator's policies."""
    tree: dict[str, Any] = copy.deepcopy(_desk_tree())
    if url is not None:
        tree["store"]["url"] = url
    if changes is not None:
        changes(tree)
    policies = folder / "policies"
    policies.mkdir(parents=True, exist_ok=True)
    ours = (DESK_CONFIG.parent / "policies" / "refunds.cedar").read_text()
    (policies / "refunds.cedar").write_text("// nothing\n" if bare else ours)
    (policies / "more.cedar").write_text(cedar or "// nothing more\n")
    path = folder / "comptroller.yaml"
    path.write_text(json.dumps(tree, default=str))
    return path


_QUICK: tuple[tuple[Any, str, Any, Any], ...] = (
    (loading, "read_yaml", read_yaml, json_read),
    (functions, "read_function", read_function, read_once),
    (installation_module, "compile_bundle", compile_bundle, compiled_once),
)
"""`(module, name, the product's own, the one that remembers)`."""


@contextlib.contextmanager
def spared() -> Generator[None]:
    """Inside, what is a pure function of the configuration is worked out once for all services of a process.

    Services of one test end in any order: the first that ends puts the product's own back, for good.
    """
    for module, name, _, quick in _QUICK:
        setattr(module, name, quick)
    try:
        yield
    finally:
        for module, name, own, _ in _QUICK:
            setattr(module, name, own)


@contextlib.asynccontextmanager
async def opened(
    folder: Path,
    changes: Changes | None = None,
    *,
    url: str | None = None,
    cedar: str = "",
    clock: Clock | None = None,
    faults: Faults | None = None,
    secrets: tuple[str, ...] = (),
    seed: int = 1,
    bare: bool = False,
) -> AsyncGenerator[Shop]:
    """A service on the desk in `folder`; a second one on the same folder works on the same store and desk."""
    desk, clock, faults = stocked(folder, seed), clock or Clock(), faults or Faults()
    path = placed(folder, changes, url=url, cedar=cedar, bare=bare)
    ambient = Ambient(clock, RandomIds(clock), faults)
    with pytest.MonkeyPatch.context() as environment, spared():
        environment.setenv("COMPTROLLER_DESK", str(desk))
        config = load_config(path, data_dir=folder)
        config = replace(config, secrets=(*config.secrets, *secrets))
        installation = Installation(config, ambient)
        async with running(installation) as service:
            subject = installation.identity.stdio_subject(next(iter(config.identity.local.clients)))
            yield Shop(service, desk, clock, faults, subject)
        close_all()
