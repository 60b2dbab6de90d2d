"""One support desk through many deaths: real processes on the same files, each killed at one named point.

A life is a row of victims (`victim.py`). Each starts where the last one died, lets recovery run, proposes again what
the last one did, and then dies itself. After every death the files are checked as they lie, against the desk's ledger.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr

from comptroller_audit.checkpoint import vkey_of
from comptroller_audit.store import FaultPoint, no_fault
from comptroller_audit.verify import verify
from comptroller_server.config.loading import load_config
from comptroller_server.installation import Ambient, Installation
from comptroller_tools.desk.database import ensure
from comptroller_tools.desk.faults import Fault, FaultKind, set_faults
from comptroller_tools.desk.ledger import DeskEffect, EffectKind, effects, faults_in_sums
from tests.scenarios.compensation_kit import reversing
from tests.scenarios.kit import placed, spared
from tests.simulation.nursery import Nursery
from tests.simulation.record import Record, check_record, must, nothing_runs

__all__ = ["KILLS", "Kill", "Life", "Order", "Step", "compile_ahead", "installation"]

VICTIM_S_MAX = 120.0
SMALL_USD, LARGE_USD = 5, 30
"""Below and above what needs a person."""


@dataclass(frozen=True)
class Step:
    """What a victim does: `refund`, or with a person's yes `approve` and `resume` for the call that waits."""

    do: str
    actor: str = ""
    invoice: str = ""
    amount_usd: int = SMALL_USD
    short_cents: int = 0
    """How much less the desk moves than it says."""


@dataclass(frozen=True)
class Order:
    """A victim's orders. It dies at the `passing`-th passing of `point`, counted from step `during` on.

    `during` is the index of a step, -1 for its start, or the number of steps for its end. `once` is a point that must
    have been passed before counting begins. Without a point it ends as it should.
    """

    folder: str
    url: str
    steps: tuple[Step, ...]
    point: str = ""
    passing: int = 1
    during: int = 0
    once: str = ""


@dataclass(frozen=True)
class Kill:
    """A named point, and what the files must say right after: the call's state, and whether the desk has acted."""

    name: str
    point: str
    passing: int = 1
    kind: str = "refund"
    state: str | None = None
    acted: bool = False
    once: str = ""
    then: str = ""
    """For a refund that went `wrong`: the state in which recovery leaves it."""


def _wrong(name: str, point: str, *, passing: int = 1, state: str = "done", then: str = "handed_off") -> Kill:
    """A kill while a refund that the desk got wrong is reversed."""
    return Kill(name, point, passing, "wrong", state, acted=True, then=then)


KILLS = (
    Kill("before the first commit", "commit.begin"),
    Kill("inside the first commit", "commit.before"),
    Kill("after the first commit", "commit.after", state="committed"),
    Kill("in recovery, before it looks", "recovery.before", kind="start", state="committed"),
    Kill(
        "in recovery, inside its commit",
        "commit.before",
        kind="start",
        state="committed",
        once="recovery.before",
    ),
    Kill("in recovery, after it settled", "recovery.after", kind="start", state="not_done"),
    Kill("before dispatch", "dispatch.before", state="committed"),
    Kill("after dispatch", "dispatch.after", state="committed", acted=True),
    Kill("in recovery of an effect", "recovery.before", kind="start", state="committed", acted=True),
    Kill("before the second commit", "commit.begin", passing=2, state="committed", acted=True),
    Kill("inside the second commit", "commit.before", passing=2, state="committed", acted=True),
    Kill("after the second commit", "commit.after", passing=2, state="done", acted=True),
    Kill("in a replay, inside its commit", "commit.before", kind="replay", state="done", acted=True),
    Kill("in a replay, after its commit", "commit.after", kind="replay", state="done", acted=True),
    Kill("before a checkpoint", "checkpoint.before", kind="end", state="done", acted=True),
    Kill("after a checkpoint", "checkpoint.after", kind="end", state="done", acted=True),
    Kill("when a proposal is stored", "commit.before", kind="refund of much"),
    Kill("when an approval is used up", "commit.before", kind="resume", state="pending"),
    Kill("after an approval was used up", "commit.after", kind="resume", state="committed"),
    Kill("after what was approved ran", "dispatch.after", kind="resume", state="committed", acted=True),
    _wrong("before a reversal", "compensation.before"),
    _wrong("inside the first commit of a reversal", "commit.before", passing=3),
    _wrong("before a reversal is sent", "dispatch.before", passing=2),
    _wrong("after a reversal was sent", "dispatch.after", passing=2, then="compensated"),
    _wrong("inside the last commit of a reversal", "commit.before", passing=4, then="compensated"),
    _wrong("after a reversal", "compensation.after", state="compensated", then="compensated"),
)
"""In this order a start that dies in recovery finds what the one before it left behind."""


def installation(folder: Path, url: str, fault: FaultPoint = no_fault) -> Installation:
    """The desk's own configuration, its refunds reversible, on the files in `folder`."""
    with spared():
        config = load_config(placed(folder / "config", _roomy), data_dir=folder)
    store = replace(config.store, url=SecretStr(url))
    limits = config.limits.model_copy(update={"recovery_interval_s": 1.0})
    return Installation(replace(config, store=store, limits=limits), Ambient(fault=fault))


def compile_ahead() -> None:
    """Work out in this process what is the same for every victim; inside `spared` its children need not."""
    with TemporaryDirectory() as folder, spared():
        installation(Path(folder), f"sqlite:///{folder}/comptroller.db").check()


def _roomy(config: dict[str, Any]) -> None:
    """Refunds can be reversed, and a whole row of lives fits into the budgets of a day."""
    reversing(config)
    for window in config["budgets"]["windows"]:
        window["max"] *= 10


@dataclass
class Life:
    """One row of deaths in `folder`."""

    folder: Path
    url: str
    number: int = 1
    proposed: Step | None = None
    deaths: list[str] = field(default_factory=list[str])
    wrong: list[tuple[Kill, str]] = field(default_factory=list[tuple[Kill, str]])
    """Deaths during a reversal, with the actor whose call it was."""
    before: int = 0
    """Effects the desk's records begin with."""
    _nursery: Nursery = field(init=False, repr=False)

    @property
    def desk(self) -> Path:
        return self.folder / "desk.db"

    def live(self, kills: Sequence[Kill]) -> None:
        """Die of every kill in turn; at last, start once more and end well."""
        with Nursery() as self._nursery:
            self._live(kills)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _live(self, kills: Sequence[Kill]) -> None:
        self.folder.mkdir(exist_ok=True)
        ensure(self.desk, self.number)
        self.before = len(effects(self.desk))
        with closing(sqlite3.connect(self.desk)) as connection, connection:
            rows = connection.execute(
                "SELECT id FROM invoices WHERE paid_cents > 9000 ORDER BY id"
            ).fetchall()
        connection.close()
        invoices = [str(row[0]) for row in rows]
        for at, kill in enumerate(kills):
            self._die(kill, f"bot-{at}", invoices[(at + self.number) % len(invoices)])
        said = self._run(Order(str(self.folder), self.url, self._again()))
        if self.proposed is not None:
            self._check_repeat(said)
        self._check_files(over=True)

    def _again(self) -> tuple[Step, ...]:
        """What the one before proposed, once more; and whatever a person has to do with it."""
        if self.proposed is None:
            return ()
        again = replace(self.proposed, do="refund")
        if again.amount_usd < LARGE_USD:
            return (again,)
        return (again, replace(again, do="approve"), replace(again, do="resume"))

    def _die(self, kill: Kill, actor: str, invoice: str) -> None:
        again = () if kill.kind == "start" else self._again()
        much = kill.kind in ("resume", "refund of much")
        wrong = kill.kind == "wrong"
        # Another amount, because by now every invoice has had its refund: the same again would be a replay.
        amount = LARGE_USD if much else SMALL_USD + wrong
        new = Step("refund", actor, invoice, amount, short_cents=int(wrong))
        when = {"invoice_id": invoice}
        set_faults(self.desk, [Fault(tool="issue_refund", kind=FaultKind.SHORT, when=when)] if wrong else [])
        steps = {
            "start": (),
            "replay": (new, new),
            "resume": (new, replace(new, do="approve"), replace(new, do="resume")),
        }.get(kill.kind, (new,))
        during = -1 if kill.kind == "start" else len(again) + len(steps) - (kill.kind != "end")
        order = Order(
            str(self.folder), self.url, (*again, *steps), kill.point, kill.passing, during, kill.once
        )
        said = self._run(order)
        if again:
            self._check_repeat(said[: len(again)])
        if steps:
            self.proposed = new
        self.deaths.append(kill.name)
        self._check_files(kill=kill)
        if wrong:  # proposing it again is another test's; here, what becomes of it
            self.proposed = None
            self.wrong.append((kill, actor))

    def _run(self, order: Order) -> list[dict[str, Any]]:
        """One process; what it said before its end."""
        journal = self.folder / "said.jsonl"
        journal.unlink(missing_ok=True)
        log = self.folder / "victims.log"
        here = {"COMPTROLLER_DESK": str(self.desk)}
        code = self._nursery.bear(json.dumps(asdict(order)), log, here, VICTIM_S_MAX)
        wanted = -signal.SIGKILL if order.point else 0
        tail = log.read_text(errors="replace")[-2000:]
        must(
            code == wanted,
            "a victim ends as ordered",
            code=code,
            order=order,
            log=tail,
        )
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    def _check_repeat(self, said: list[dict[str, Any]]) -> None:
        """The same proposal again: the effect is there once, whatever became of the first try."""
        assert self.proposed is not None
        must(len(said) == len(self._again()), "every repeat is answered", said=said, deaths=self.deaths[-3:])
        codes = [one["code"] for one in said]
        must(
            "done" in codes or "already_done" in codes,
            "a repeat comes through",
            codes=codes,
            deaths=self.deaths[-3:],
        )
        must(
            len(self._effects_of(self.proposed)) == 1,
            "a repeat neither doubles nor loses",
            deaths=self.deaths[-3:],
        )

    def _effects(self) -> list[DeskEffect]:
        return effects(self.desk)[self.before :]

    def _effects_of(self, step: Step) -> list[DeskEffect]:
        return [
            e
            for e in self._effects()
            if e.kind is EffectKind.REFUND_ISSUED
            and e.invoice_id == step.invoice
            and e.amount_cents == step.amount_usd * 100 - step.short_cents
        ]

    def _check_reversals(self, record: Record) -> None:
        """What went wrong is reversed at most once, and says so."""
        for kill, actor in self.wrong:
            (call,) = [call for call, row in record.calls.items() if row["actor"] == actor]
            state = record.calls[call]["state"]
            must(state == kill.then, "recovery ends a reversal as its death left it", kill=kill, state=state)
        undone = Counter(e.record_id for e in self._effects() if e.kind is EffectKind.REFUND_CANCELLED)
        must(all(times == 1 for times in undone.values()), "nothing is reversed twice", undone=undone)
        reversed_ = sum(kill.then == "compensated" for kill, _ in self.wrong)
        must(undone.total() == reversed_, "what is said to be reversed is", undone=undone, said=reversed_)

    def _check_files(self, kill: Kill | None = None, *, over: bool = False) -> None:
        """The files as they lie, with no process on them."""
        opened = installation(self.folder, self.url)
        report = verify(
            self.url,
            checkpoints=file if (file := opened.config.store.checkpoint_files[0]).exists() else None,
            vkey=vkey_of(opened.ring.signer),
            ring=opened.config.store.keys_file,
        )
        must(report.ok, "the log verifies", report=list(report.lines()), deaths=self.deaths)
        must(not faults_in_sums(self.desk), "the desk's books balance", faults=faults_in_sums(self.desk))
        by_call: defaultdict[str, list[DeskEffect]] = defaultdict(list)
        for effect in self._effects():
            by_call[effect.effect_key].append(effect)
        try:
            record = Record(opened.store, opened.ring, opened.config.budgets)
            check_record(record, by_call)
            if over:
                nothing_runs(record)
                self._check_reversals(record)
        finally:
            asyncio.run(opened.store.close())
        if kill is not None and self.proposed is not None:
            of_it = [
                row["state"]
                for _, row in sorted(record.calls.items())
                if row["actor"] == self.proposed.actor and row["effect"] == "create"
            ]
            state = of_it[-1] if of_it else None
            must(state == kill.state, "the killed call is where it was", kill=kill, states=of_it)
            must(bool(self._effects_of(self.proposed)) == kill.acted, "the desk did what it did", kill=kill)
