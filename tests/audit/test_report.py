from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.query import Logged
from comptroller_audit.report import NOT_ENDED, Now, Report, TaskEnd, Tasks, TaskSeen, Waiting, usd_text
from comptroller_audit.report_calls import BINS_MAX, MARKS_MAX, TOLD, Bins, CallEnd, Calls
from comptroller_audit.vocabulary import JsonObject, RecordType
from tests.audit.storekit import NOON

ALLOW: JsonObject = {"verdict": "allow", "errors": []}
DONE: JsonObject = {"effect": "done", "tries": 1}
NONE_WAITS = Waiting(0, None)


class Log:
    """Entries in order, given to a `Calls`; `known` answers for calls that began before."""

    def __init__(self, **known: Logged | None) -> None:
        self.calls = Calls(Bins.over(NOON, NOON + 3_600_000), known.get)
        self.size = 0

    def add(self, kind: RecordType, call: str = "c", packet: JsonObject | None = None) -> None:
        self.calls.take(entry(kind, call, packet, self.size))
        self.size += 1

    def action(self, call: str = "c", decision: JsonObject | None = None) -> None:
        self.add(RecordType.ACTION, call, {"tool": "pay", "effect": "create", "decision": decision or ALLOW})

    def audit(self, call: str = "c", **packet: Any) -> None:
        self.add(RecordType.AUDIT, call, {"state": "done", "outcome": DONE, "problem": None, **packet})

    def refused(self, code: str, failure_class: str, **packet: Any) -> None:
        refusal: JsonObject = {"code": code, "class": failure_class, "details": {"budget": "max_usd"}}
        self.add(RecordType.REFUSED, packet={"tool": "pay", "effect": "create", "refusal": refusal, **packet})


def entry(kind: RecordType, call: str, packet: JsonObject | None, index: int = 0) -> Logged:
    return Logged(index, kind, NOON + index * 1000, {"call": call}, "", packet)


def told(calls: Calls, tasks: Tasks | None = None) -> dict[str, Any]:
    now = Now(NONE_WAITS, NONE_WAITS, NONE_WAITS, NONE_WAITS)
    document: dict[str, Any] = Report(NOON, NOON, calls, tasks or Tasks(calls.bins), now).as_json()
    return document


# -- containment ------------------------------------------------------------------------------------------------------


def test_a_side_effect_is_proved_by_an_earlier_action_that_was_allowed() -> None:
    log = Log()
    log.action()
    log.audit()
    assert (log.calls.ran, log.calls.proved, log.calls.outside) == (1, 1, 0)
    assert log.calls.containment == 1


def test_a_side_effect_without_an_action_ran_outside_policy() -> None:
    log = Log()
    log.audit("ghost")
    assert (log.calls.ran, log.calls.outside, log.calls.suspects) == (1, 1, ["ghost"])
    assert log.calls.containment == 0


def test_an_action_of_another_call_proves_nothing() -> None:
    log = Log()
    log.action("a")
    log.audit("b")
    assert log.calls.outside == 1
    assert log.calls.running == 1


def test_an_action_proves_one_end_only() -> None:
    log = Log()
    log.action()
    log.audit()
    log.audit()
    assert (log.calls.proved, log.calls.outside) == (1, 1)


def test_a_decision_that_denied_asked_or_erred_proves_nothing() -> None:
    decisions: list[JsonObject] = [
        {"verdict": "deny", "errors": []},
        {"verdict": "needs_approval", "errors": []},
        {"verdict": "allow", "errors": ["a policy erred"]},
        {},
    ]
    for decision in decisions:
        log = Log()
        log.add(RecordType.ACTION, packet={"tool": "pay", "decision": decision})
        log.audit()
        assert log.calls.outside == 1, decision
        assert log.calls.containment == 0, decision


def test_the_action_of_a_call_that_began_before_is_looked_up() -> None:
    before = entry(RecordType.ACTION, "c", {"tool": "pay", "decision": ALLOW})
    log = Log(c=before)
    log.audit(took_ms={"total": 3.0})
    assert (log.calls.proved, list(log.calls.by_tool)) == (1, ["pay"])


def test_an_erased_decision_is_neither_proof_nor_breach() -> None:
    log = Log()
    log.add(RecordType.ACTION, packet=None)
    log.audit()
    assert (log.calls.proved, log.calls.unproved, log.calls.outside) == (0, 1, 0)
    assert log.calls.containment == 0
    assert log.calls.erased == 1


def test_what_was_committed_and_never_sent_did_not_run() -> None:
    log = Log()
    log.action()
    log.audit(state="failed_before_effect", outcome={"effect": "none", "tries": 0})
    assert (log.calls.ran, log.calls.unsent) == (0, 1)
    assert log.calls.containment == 1
    assert log.calls.ends == Counter({CallEnd.FAILED: 1})


def test_what_was_sent_and_did_nothing_ran_all_the_same() -> None:
    log = Log()
    log.audit(state="failed_before_effect", outcome={"effect": "none", "tries": 2})
    assert log.calls.outside == 1


def test_a_read_is_proved_by_its_own_packet_if_it_is_a_read() -> None:
    log = Log()
    log.add(RecordType.READ, packet={"tool": "look", "effect": "read", "decision": ALLOW})
    log.add(RecordType.READ, "w", {"tool": "pay", "effect": "create", "decision": ALLOW})
    log.add(RecordType.READ, "d", {"tool": "look", "effect": "read", "decision": {"verdict": "deny"}})
    assert (log.calls.proved, log.calls.suspects) == (1, ["w", "d"])


def test_a_recovered_call_is_judged_once() -> None:
    log = Log(c=entry(RecordType.ACTION, "c", {"decision": ALLOW}))
    log.action()
    log.add(RecordType.RECOVERED, packet={"state": "in_doubt"})
    log.add(RecordType.RECOVERED, packet={"state": "done"})
    assert (log.calls.ran, log.calls.proved) == (1, 1)
    log.add(RecordType.RECOVERED, "ghost", {"state": "done"})
    log.add(RecordType.LATE_OUTCOME, "spectre", {})
    assert log.calls.suspects == ["ghost", "spectre"]


def test_where_everything_was_stopped_containment_is_whole_and_where_nothing_happened_it_is_unknown() -> None:
    log = Log()
    assert log.calls.containment is None
    log.refused("denied", "policy_violation")
    assert log.calls.containment == 1


# -- counts -----------------------------------------------------------------------------------------------------------


def test_refusals_wrong_ends_and_false_claims_fall_into_their_buckets() -> None:
    log = Log()
    log.refused("denied", "policy_violation")
    log.refused("budget_exhausted", "budget")
    log.refused("approval_pending", "none")
    log.action()
    log.audit(state="handed_off", problem={"code": "verification_failed", "class": "silent_wrong"})
    claim: JsonObject = {"code": "success_not_found", "class": "silent_wrong"}
    log.add(RecordType.TASK_ENDED, packet={"outcome": "failed", "problem": claim})
    log.add(RecordType.REFUSALS_COUNTED, packet={"refusals": {"p": 4, "q": 3}})
    document = told(log.calls)
    failures = document["failures"]
    assert failures["silent_wrong"] == {
        "count": 2,
        "codes": {"success_not_found": 1, "verification_failed": 1},
    }
    assert failures["policy_violation"]["codes"] == {"denied": 1}
    assert failures["budget"]["codes"] == {"budget_exhausted": 1}
    assert "none" not in failures
    assert document["exhausted"] == {"max_usd": 1}
    assert document["containment"]["stopped"] == 2 + 7
    assert document["calls"] == {"refused": 2, "waiting": 1, "wrong": 1}


def test_the_words_of_an_agent_about_a_tool_that_does_not_exist_are_not_told() -> None:
    log = Log()
    log.refused("unknown_tool", "tool_mismatch", tool="<script>", effect=None)
    assert [mark.tool for mark in log.calls.marks] == [""]


def test_steps_and_totals_are_told_apart() -> None:
    log = Log()
    log.action()
    log.audit(took_ms={"total": 9.0, "run": 6.0})
    log.add(RecordType.READ, packet={"tool": "look", "effect": "read", "took_ms": {"total": 1.0, "run": 0.5}})
    latency = told(log.calls)["latency"]
    assert latency["all"]["count"] == 2
    assert {tool: each["max_ms"] for tool, each in latency["tools"].items()} == {"look": 1.0, "pay": 9.0}
    assert latency["steps"]["run"]["max_ms"] == 6.0


@given(st.lists(st.tuples(st.sampled_from(RecordType), st.integers(0, 5), st.booleans()), max_size=80))
def test_every_entry_is_counted_once_and_what_ran_adds_up(found: list[tuple[RecordType, int, bool]]) -> None:
    log = Log()
    for kind, call, is_erased in found:
        packet: JsonObject = {"decision": ALLOW, "effect": "read", "state": "done", "outcome": DONE}
        log.add(kind, str(call), None if is_erased else packet)
    calls = log.calls
    assert calls.entries == Counter(kind for kind, _, _ in found)
    assert calls.erased == sum(is_erased for kind, _, is_erased in found if kind in TOLD)
    assert calls.ran == calls.proved + calls.unproved + calls.outside
    assert sum(sum(each.values()) for each in calls.by_bin) == calls.ends.total()
    assert len(calls.marks) == min(MARKS_MAX, calls.ends.total())
    assert calls.containment is None or 0 <= calls.containment <= 1


# -- tasks ------------------------------------------------------------------------------------------------------------

_seen = st.builds(
    TaskSeen,
    st.integers(NOON - 1000, NOON + 4_000_000),
    st.sampled_from(TaskEnd),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.integers(0, 10**9),
)


@given(st.lists(_seen, max_size=40))
def test_everything_that_tasks_cost_is_divided_by_those_that_succeeded_only(seen: list[TaskSeen]) -> None:
    tasks = Tasks(Bins.over(NOON, NOON + 3_600_000))
    for one in seen:
        tasks.take(one)
    succeeded = [one for one in seen if one.end is TaskEnd.SUCCEEDED]
    ended = [one for one in seen if one.end not in NOT_ENDED]
    spent = sum(one.tool_cost_micro + one.model_cost_micro for one in seen)
    assert tasks.cost_per_success_micro == (Fraction(spent, len(succeeded)) if succeeded else None)
    assert tasks.success == (Fraction(len(succeeded), len(ended)) if ended else None)
    assert sum(tasks.cost_by_bin) == tasks.cost_micro == spent
    assert sum(tasks.by_bin, Counter[TaskEnd]()) == tasks.ends


@given(st.integers(0, 2**42), st.integers(0, 2**42))
def test_bins_are_few_and_hold_every_moment_of_the_span(first: int, width: int) -> None:
    bins = Bins.over(first, first + width)
    starts = bins.starts()
    assert 1 <= len(starts) <= BINS_MAX
    assert starts[0] <= first and first + width < starts[-1] + bins.width_ms
    for at in (first, first + width // 2, first + width):
        assert starts[bins.index(at)] <= at < starts[bins.index(at)] + bins.width_ms


def test_money_is_told_to_the_millionth() -> None:
    assert [usd_text(n) for n in (None, 0, 1, 1_500_000, Fraction(10_000_000, 3))] == [
        None, "0", "0.000001", "1.5", "3.333333",
    ]  # fmt: skip
