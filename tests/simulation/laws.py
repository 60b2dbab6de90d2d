"""The laws, checked against the bank's own ledger: some at every dispatch, the rest when a round is over."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import Counter, defaultdict
from typing import Any, cast

from comptroller_audit.checkpoint import vkey_of
from comptroller_audit.query import Logged
from comptroller_audit.verify import verify
from comptroller_audit.vocabulary import MICRO, Effect, RecordType
from comptroller_budgets.tasks import TaskRow
from comptroller_policy.approvals import ApprovalRow, WaitingRow
from comptroller_server.tasks.built_in_tools import BUILT_INS
from comptroller_tools.source import Action
from tests.simulation.actors import Approvals, Halts, covered_by
from tests.simulation.bank import READS, BankLine, Manner
from tests.simulation.record import Record, check_record, must, nothing_runs
from tests.simulation.world import Heard, World

__all__ = ["AtDispatch", "Evidence", "check_all"]

_GATE_USD = 20
_PAYS_PER_DAY = 3
_NEAR_S = 20.0
_FRESH_MS = 60_000
_UNRECORDED = frozenset({"store_unavailable"})
_OPEN_APPROVALS = frozenset({"pending", "approved"})


class AtDispatch:
    """What must be true at the moment a side effect is handed to the bank, read through a connection of its own."""

    def __init__(self, world: World, halts: Halts) -> None:
        self._world = world
        self._halts = halts
        file = world.folder / "comptroller.db"
        self._reader = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        self._reader.row_factory = sqlite3.Row

    def __call__(self, action: Action) -> None:
        key = action.effect_key
        row = self._reader.execute("SELECT * FROM calls WHERE id = ?", (key,)).fetchone()
        must(row is not None, "an effect needs a durable call", call=key)
        must(row["state"] == "committed", "an effect needs a committed call", call=key, state=row["state"])
        free = self._world.locks.is_free(row["owner"])
        must(not free, "who lost its lock dispatches nothing", call=key, owner=row["owner"])
        types = [self._type(index) for index in row["records"].split(",")]
        must("action" in types, "an effect needs a durable action packet", call=key, records=types)
        sent = [call for call, _ in self._world.dispatches].count(key)
        must(sent == 1, "a call is dispatched once", call=key, times=sent)
        halted = self._halts.covers(row["tool"], row["principal"], row["task"])
        must(
            not halted,
            "nothing is dispatched after a halt was acknowledged",
            call=key,
            active=self._halts.active,
        )
        for claim in row["claims"].split(","):
            for other in self._holding(claim, key):
                must(False, "a claim is held by one call at a time", call=key, other=other)

    def _type(self, index: str) -> str:
        found = self._reader.execute("SELECT envelope FROM log_entry WHERE idx = ?", (int(index),)).fetchone()
        return str(json.loads(found[0])["type"]) if found else "missing"

    def _holding(self, claim: str, key: str) -> list[str]:
        found = self._reader.execute(
            "SELECT id FROM calls WHERE state IN ('pending', 'committed', 'in_doubt') AND id <> ? AND "
            "',' || claims || ',' LIKE '%,' || ? || ',%'",
            (key, claim),
        )
        return [str(row["id"]) for row in found if claim]

    def close(self) -> None:
        self._reader.close()


class Evidence(Record):
    """All that a round left behind."""

    def __init__(self, world: World, approvals: Approvals) -> None:
        super().__init__(world.people, world.stage.ring, world.config.budgets)
        self.world = world
        self.approvals = approvals
        self.effects: dict[str, list[BankLine]] = {}
        for line in world.bank.ledger:
            self.effects.setdefault(line.key, []).append(line)


def check_all(evidence: Evidence) -> None:
    """Every law that a finished round must fulfil. Raises `Broken`."""
    check_record(evidence, evidence.effects)
    nothing_runs(evidence)
    for law in (
        _what_runs_is_what_was_committed, _no_effect_is_doubled, _no_budget_is_overspent,
        _no_rule_over_history_is_passed_in_parallel, _nothing_is_committed_after_a_halt, _only_the_dead_are_recovered,
        _what_went_well_counts_as_done, _an_approval_runs_once_and_only_what_was_approved, _every_message_has_one_record, _answers_are_true,
        _what_went_wrong_is_taken_back_at_most_once, _an_order_rests_on_what_its_task_read,
        _nothing_kept_is_given_after_a_change, _nothing_is_committed_in_a_task_that_is_over, _a_begun_task_ends_at_most_once,
        _the_log_verifies,
    ):  # fmt: skip
        law(evidence)


def _what_runs_is_what_was_committed(e: Evidence) -> None:
    for call, lines in e.effects.items():
        action = e.packet(call, RecordType.ACTION)
        assert action is not None
        for line in lines:
            must(line.tool == action["tool"], "what runs is what was committed", call=call)
            must(dict(line.arguments) == action["arguments"], "what runs is what was committed", call=call)


def _no_effect_is_doubled(e: Evidence) -> None:
    window_ms = e.world.config.limits.replay_window_s * 1000
    by_claim: defaultdict[str, list[str]] = defaultdict(list)
    for call in e.effects:
        for claim in e.calls[call]["claims"].split(","):
            by_claim[claim].append(call)
    for claim, calls in by_claim.items():
        if e.calls[calls[0]]["effect"] != "create":
            continue
        calls = [call for call in calls if e.calls[call]["state"] != "compensated"]  # nothing of those stands
        calls.sort(key=lambda call: int(e.calls[call]["created_ms"]))
        for first, second in itertools.pairwise(calls):
            apart = e.calls[second]["created_ms"] - e.calls[first]["created_ms"]
            must(
                apart >= window_ms,
                "one proposal has one effect",
                claim=claim,
                calls=(first, second),
                apart_ms=apart,
            )


def _no_budget_is_overspent(e: Evidence) -> None:
    limits = {limit.id: limit for limit in e.world.config.budgets.limits()}
    spent: Counter[tuple[str, str]] = Counter()
    for call, lines in e.effects.items():
        action = e.packet(call, RecordType.ACTION)
        assert action is not None
        for hold in action["holds"]:
            amount = (
                sum(max(line.moved_usd, 0) for line in lines) if hold["unit"] == "paid_usd" else len(lines)
            )
            must(amount * MICRO <= hold["amount_micro"], "a hold covers its effect", call=call, hold=hold)
            spent[hold["limit"], hold["counter"]] += amount * MICRO
        if lines[0].tool in ("pay", "wire"):
            units = {hold["unit"] for hold in action["holds"]}
            must(
                {"paid_usd", "calls"} <= units,
                "an effect is held for in every budget",
                call=call,
                units=units,
            )
    for (limit, counter), amount in spent.items():
        must(amount <= limits[limit].max_micro, "no budget is overspent", counter=counter, amount=amount)


def _no_rule_over_history_is_passed_in_parallel(e: Evidence) -> None:
    paid: Counter[str] = Counter()
    for call in e.effects:
        action = e.packet(call, RecordType.ACTION)
        assert action is not None
        paid.update(str(row) for row in action["counted"] if not str(row).startswith("record:"))
    must(all(times <= _PAYS_PER_DAY for times in paid.values()), "a rule over history holds", paid=paid)


def _nothing_is_committed_after_a_halt(e: Evidence) -> None:
    """Exact in the order of the log, whatever any process had seen."""
    active: set[str] = set()
    for entry in e.log:
        packet = cast("dict[str, Any]", entry.packet or {})
        if entry.type is RecordType.SWITCH_SET:
            active.add(str(packet["switch"]))
        elif entry.type is RecordType.SWITCH_CLEARED:
            active.discard(str(packet["switch"]))
        elif entry.type in (RecordType.ACTION, RecordType.READ):
            row = e.calls[str(packet["call"])]
            covering = active & covered_by(row["tool"], row["principal"], row["task"])
            must(not covering, "nothing is committed after a halt", call=packet["call"], switches=covering)


def _only_the_dead_are_recovered(e: Evidence) -> None:
    freed = e.world.locks.freed_at
    for call, logged in e.of_call.items():
        first = next((x for x in logged if x.type in (RecordType.AUDIT, RecordType.RECOVERED)), None)
        if first is None or first.type is RecordType.AUDIT or first.packet is None:
            continue
        owner = str(first.packet["owner"])
        must(
            freed.get(owner, first.index + 1) <= first.index,
            "only the dead are recovered",
            call=call,
            owner=owner,
        )


def _what_went_well_counts_as_done(e: Evidence) -> None:
    """Two calls on one account that each went well are never taken for a difference."""
    for call, lines in e.effects.items():
        if e.world.bank.manners[call] is not Manner.WELL or e.calls[call]["state"] not in (
            "handed_off",
            "compensated",
        ):
            continue
        account, at_s = lines[0].arguments["account"], lines[0].at_s
        near = [at for which, at in e.world.bank.strange if which == account and abs(at - at_s) < _NEAR_S]
        must(near, "what went well counts as done", call=call, at_s=at_s)


def _an_approval_runs_once_and_only_what_was_approved(e: Evidence) -> None:
    approvals = dict(e.rows(ApprovalRow))
    ran: Counter[str] = Counter()
    for call, lines in e.effects.items():
        if lines[0].tool != "pay" or lines[0].arguments["amount_usd"] <= _GATE_USD:
            continue
        approval = str(e.calls[call]["approval"])
        ran[approval] += len(lines)
        must(
            approval in e.approvals.agreed, "a gated call needs a person's yes", call=call, approval=approval
        )
        must(approvals[approval]["state"] == "consumed", "an approval is used up", call=call)
        asked, action = e.packet(call, RecordType.PENDING), e.packet(call, RecordType.ACTION)
        assert asked is not None and action is not None
        must(asked["arguments"] == action["arguments"], "what was approved is what runs", call=call)
        must(asked["shown"]["facts"] == action["facts"], "a changed record asks again", call=call)
        editors = {edit["editor"] for edit in (action.get("edited") or {"by": ()})["by"]}
        agreed = {vote["approver"] for vote in action["approvals"]}
        must(not editors & agreed, "who edits a call does not agree to it", call=call)
    must(all(times == 1 for times in ran.values()), "an approval runs once", ran=ran)
    consumed = {str(row["call"]) for row in approvals.values() if row["state"] == "consumed"}
    for call in consumed:
        must(e.packet(call, RecordType.ACTION), "an approval is used up by its call only", call=call)
    waiting = Counter(str(row["principal"]) for row in approvals.values() if row["state"] in _OPEN_APPROVALS)
    for principal, row in e.rows(WaitingRow):
        must(
            row["pending"] == waiting[principal],
            "open approvals are counted",
            row=row,
            open=waiting[principal],
        )
    for approval, row in approvals.items():
        if row["state"] in _OPEN_APPROVALS:
            call_row = e.calls[row["call"]]
            must(
                call_row["state"] == "pending",
                "only a pending call has an open approval",
                approval=approval,
                call=call_row,
            )
            must(call_row["approval"] == approval, "a call has one open approval", approval=approval)


_ONE_RECORD = (
    {RecordType.TASK_BEGUN}, {RecordType.TASK_ENDED}, {RecordType.HANDED_OFF},
    {RecordType.REFUSED}, {RecordType.PENDING}, {RecordType.READ}, {RecordType.REPLAYED}, {RecordType.ACTION},
    {RecordType.ACTION, RecordType.AUDIT}, {RecordType.ACTION, RecordType.LATE_OUTCOME},
    {RecordType.ACTION, RecordType.AUDIT, RecordType.COMPENSATION},
)  # fmt: skip


def _every_message_has_one_record(e: Evidence) -> None:
    by_attempt: defaultdict[str, list[RecordType]] = defaultdict(list)
    for entry in e.log:
        if attempt := entry.envelope.get("attempt"):
            by_attempt[str(attempt)].append(entry.type)
    for attempt, types in by_attempt.items():
        single = len(types) == len(set(types)) and set(types) in _ONE_RECORD
        must(single, "a message ends in one record", attempt=attempt, types=types)
    answered: set[str] = set()
    unreceipted = 0
    for heard in e.world.heard:
        receipt = cast("dict[str, Any] | None", heard.answer.meta.get("comptroller/receipt"))
        if receipt is None:
            unreceipted += heard.code not in _UNRECORDED
            continue
        must(
            receipt["index"] < len(e.log),
            "an answer's record is in the log",
            receipt=receipt,
            answer=heard.code,
        )
        entry = e.log[int(receipt["index"])]
        must(entry.leaf == receipt["leaf"], "a receipt names its record", receipt=receipt)
        attempt = str(entry.envelope.get("attempt"))
        must(attempt not in answered, "two answers have two records", attempt=attempt, answer=heard.code)
        answered.add(attempt)
    counted = sum(_counted(entry) for entry in e.log)
    lost = bool(e.world.deaths) or e.world.unheard or e.world.passes.get("full")
    in_doubt = sum(heard.code == "in_doubt" for heard in e.world.heard)
    must(
        unreceipted <= counted + in_doubt or lost,
        "a refusal is recorded or counted",
        without=unreceipted,
        counted=counted,
    )


def _counted(entry: Logged) -> int:
    if entry.type is not RecordType.REFUSALS_COUNTED or entry.packet is None:
        return 0
    refusals: Any = entry.packet["refusals"]
    return sum(refusals.values())


def _what_went_wrong_is_taken_back_at_most_once(e: Evidence) -> None:
    """By the bank's ledger: every payment at most once, and only those that are said to be, or might be."""
    bank = e.world.bank
    back = Counter(
        str(line.key) for u in bank.ledger if u.tool == "unpay" and (line := bank.paid(u.arguments))
    )
    for call, times in back.items():
        must(times == 1, "nothing is reversed twice", call=call, times=times)
        state = e.calls[call]["state"]
        must(
            state in ("compensated", "handed_off"),
            "what is reversed does not count as done",
            call=call,
            state=state,
        )
    for call, row in e.calls.items():
        if row["state"] == "compensated":
            must(back[call] == 1, "what is compensated was taken back", call=call)
    for call, row in e.compensations.items():
        must(row["state"] in ("over", "doubted"), "no reversal is forgotten", call=call, row=row)


def _an_order_rests_on_what_its_task_read(e: Evidence) -> None:
    """By the records of the reads themselves: the same task, the account acted on, soon enough, and unchanged since."""
    for call, lines in e.effects.items():
        if lines[0].tool != "order":
            continue
        action = e.packet(call, RecordType.ACTION)
        assert action is not None
        account = action["arguments"]["account"]
        cited = [one for one in action["citations"] if one["key"] == account]
        must(cited, "an order cites the account it acts on", call=call, citations=action["citations"])
        for one in cited:
            read = e.packet(str(one["call"]), RecordType.READ)
            must(read, "what is cited was read", call=call, citation=one)
            assert read is not None
            row = e.calls[str(one["call"])]
            given = {ref["ref"]: ref for ref in read["refs"]}
            must(one["ref"] in given, "a ref was given by its read", call=call, citation=one, given=given)
            must(
                row["task"] == e.calls[call]["task"], "a ref counts in its own task", call=call, citation=one
            )
            must(one["age_ms"] <= _FRESH_MS, "a citation is fresh", call=call, citation=one)
            shown = action["facts"]["account"]["version"]
            must(
                one["version"] == shown,
                "a cited record has not changed",
                call=call,
                citation=one,
                shown=shown,
            )


def _nothing_kept_is_given_after_a_change(e: Evidence) -> None:
    """Exact in the order of the log: from the read that went to the bank on, nothing was begun, ended or in doubt."""
    changing = {call for call, row in e.calls.items() if row["effect"] != Effect.READ}
    running: set[str] = set()
    at_read: dict[str, int] = {}
    changes = 0
    for entry in e.log:
        packet = cast("dict[str, Any]", entry.packet or {})
        if entry.type is RecordType.ACTION and packet["call"] in changing:
            running.add(str(packet["call"]))
            changes += 1
        elif entry.type in (RecordType.AUDIT, RecordType.RECOVERED) and packet["call"] in changing:
            changes += 1
            if packet["state"] != "in_doubt":
                running.discard(str(packet["call"]))
        elif entry.type is RecordType.READ:
            call, kept = str(packet["call"]), packet.get("cached")
            at_read[call] = changes
            if kept is None:
                continue
            must(not running, "nothing kept is given while a change runs", call=call, running=running)
            since = changes - at_read[str(kept["call"])]
            must(since == 0, "nothing kept is given after a change", call=call, kept=kept, changes=since)


def _nothing_is_committed_in_a_task_that_is_over(e: Evidence) -> None:
    """Exact in the order of the log."""
    over: set[str] = set()
    for entry in e.log:
        packet = cast("dict[str, Any]", entry.packet or {})
        if entry.type in (RecordType.ACTION, RecordType.READ, RecordType.PENDING):
            call = str(packet["call"])
            task = e.calls[call]["task"]
            must(
                task not in over or packet.get("compensates"),
                "a task that is over takes no call",
                call=call,
                task=task,
            )
        elif entry.type is RecordType.TASK_ENDED or (
            entry.type is RecordType.HANDED_OFF and entry.envelope.get("attempt")
        ):
            over.add(str(entry.envelope["task"]))


def _a_begun_task_ends_at_most_once(e: Evidence) -> None:
    begun = Counter(str(x.envelope["task"]) for x in e.log if x.type is RecordType.TASK_BEGUN)
    ended = Counter(str(x.envelope["task"]) for x in e.log if x.type is RecordType.TASK_ENDED)
    rows = dict(e.rows(TaskRow))
    for task, times in begun.items():
        must(times == 1 and rows[task]["begun"], "a task begins once", task=task, times=times)
    for task, times in ended.items():
        row = rows[task]
        must(times == 1, "a task ends once", task=task, times=times)
        must(row["state"] == "finished" and row["outcome"], "a task that ended says how", task=task, row=row)
        must(row["in_flight"] == 0, "nothing runs in a task that is over", task=task, row=row)


def _answers_are_true(e: Evidence) -> None:
    for heard in e.world.heard:
        if heard.proposal.tool in BUILT_INS:
            continue
        call = str(heard.answer.meta.get("comptroller/call"))
        tool = _tool_of(e, heard, call)
        if heard.code != "done" or tool in READS:
            continue
        done = len(e.effects.get(call, []))
        must(
            done == 1 or _another_one_came_late(e, call),
            "an answer that says done has its effect",
            call=call,
            effects=done,
            manner=e.world.bank.manners.get(call),
        )
        must(e.world.bank.manners[call] is not Manner.SHORT, "a difference is found", call=call)


def _another_one_came_late(e: Evidence, call: str) -> bool:
    """Nothing was written, and a call in doubt moved the same sum on the same account instead: no read-back can tell."""
    wanted = (e.packet(call, RecordType.ACTION) or {}).get("arguments", {})
    return e.world.bank.manners[call] is Manner.NOT_WRITTEN and any(
        e.world.bank.manners[line.key] is Manner.LATE
        and (line.arguments.get("account"), line.moved_usd) == (wanted["account"], wanted["amount_usd"])
        for line in e.world.bank.ledger
    )


def _tool_of(e: Evidence, heard: Heard, call: str) -> str:
    return str(e.calls[call]["tool"]) if heard.code == "done" else heard.proposal.tool


def _the_log_verifies(e: Evidence) -> None:
    world = e.world
    receipts = world.folder / "receipts.jsonl"
    given = [heard.answer.meta.get("comptroller/receipt") for heard in world.heard]
    receipts.write_text("".join(json.dumps(receipt) + "\n" for receipt in given if receipt))
    checkpoints = world.config.store.checkpoint_files[0]
    report = verify(
        world.config.store.url.get_secret_value(),
        checkpoints=checkpoints if checkpoints.exists() else None,
        vkey=vkey_of(world.stage.ring.signer),
        receipts=receipts,
        ring=world.config.store.keys_file,
    )
    must(report.ok, "the log verifies", report=list(report.lines()))
