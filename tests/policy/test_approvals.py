"""Approvals: a person's yes to one exact action, used at most once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.errors import TransitionError
from comptroller_audit.unit import Committed, Moved, Stop, Stopped
from comptroller_audit.vocabulary import Code, RecordType, Refusal
from comptroller_policy.approvals import (
    APPROVALS,
    WAITING,
    ApprovalState,
    Assurance,
    CloseApproval,
    ConsumeApproval,
    RequestApproval,
    Vote,
    VoteOnApproval,
    approval_digest,
    given,
    votes_in_packet,
)
from tests.audit.storekit import NOON, Bench, bench, check_log, commit, open_call, open_store, rows_of

LIVES_MS = 3_600_000


def request(approval: str = "a", **changes: Any) -> RequestApproval:
    fields: dict[str, Any] = {
        "approval": approval, "call": "c", "requested_digest": "d1", "roles": {"approver": 1}, "principal": "p",
        "actor": "x", "task": "t", "tool": "refund", "lives_ms": LIVES_MS, "pending_max": 3,
    }  # fmt: skip
    return RequestApproval(**{**fields, **changes})


def yes(who: str = "alice", *roles: str, **changes: Any) -> Vote:
    fields: dict[str, Any] = {"assurance": Assurance.CREDENTIAL, "yes": True}
    return Vote(who, roles or ("approver",), **{**fields, **changes})


def asked(**changes: Any) -> Bench:
    table = bench()
    assert table.run(request(**changes)) is None
    return table


def vote(table: Bench, ballot: Vote, digest: str = "d1") -> Stop | None:
    return table.run(VoteOnApproval("a", ballot, digest))


def state(table: Bench, approval: str = "a") -> str:
    return str(table.row(APPROVALS, approval)["state"])


def waiting(table: Bench) -> int:
    return int(table.row(WAITING, "p")["pending"])


def consume(digest: str = "d1", **roles: int) -> ConsumeApproval:
    return ConsumeApproval("a", digest, roles or {"approver": 1})


def approved(**changes: Any) -> Bench:
    table = asked(**changes)
    assert vote(table, yes()) is None
    assert state(table) == "approved"
    return table


def test_a_yes_approves_exactly_what_was_requested_and_is_recorded() -> None:
    table = approved()
    row = table.row(APPROVALS, "a")
    assert row["approved_digest"] == row["requested_digest"] == "d1"
    assert (row["created_ms"], row["expires_ms"]) == (NOON, NOON + LIVES_MS)
    [entry] = table.log
    assert (entry.type, entry.call, entry.task) == (RecordType.APPROVAL_DECIDED, "c", "t")
    assert entry.packet["state"] == "approved"
    assert votes_in_packet(row) == [
        {
            "approver": "alice", "roles": ["approver"], "assurance": "credential", "yes": True, "reason": "",
            "self_approved": False, "at_ms": NOON,
        }
    ]  # fmt: skip


def test_an_approval_is_used_once() -> None:
    table = approved()
    assert table.run(consume()) is None
    assert state(table) == "consumed"
    assert waiting(table) == 0
    assert table.run(consume()) == Moved("approval")
    assert waiting(table) == 0


@pytest.mark.parametrize("digest", ["d2", "", "D1"])
def test_an_approval_is_not_used_for_another_action(digest: str) -> None:
    table = approved()
    assert table.run(consume(digest)) == Moved("approval")
    assert state(table) == "approved"


def test_an_approval_that_only_waits_is_not_used() -> None:
    table = asked()
    assert table.run(consume()) == Moved("approval")
    assert table.run(consume("")) == Moved("approval")
    assert bench().run(consume()) == Moved("approval")


def test_an_approval_is_used_only_with_the_roles_the_decision_saw() -> None:
    table = approved()
    assert table.run(consume(approver=2)) == Moved("approval")
    assert table.run(consume(manager=1)) == Moved("approval")
    assert table.run(consume(approver=1)) is None


def test_an_approval_is_not_used_after_it_expired() -> None:
    table = approved()
    table.clock.pass_ms(LIVES_MS - 1)
    assert consume_again(table) is None
    table = approved()
    table.clock.pass_ms(LIVES_MS)
    assert consume_again(table) == Moved("approval")


def consume_again(table: Bench) -> Stop | None:
    return table.run(consume())


def test_an_expired_approval_does_not_revive_when_the_clock_goes_back() -> None:
    table = approved()
    table.clock.pass_ms(LIVES_MS)
    assert table.run(consume()) == Moved("approval")
    table.clock.pass_ms(-LIVES_MS)
    assert table.run(consume()) == Moved("approval")


def test_a_vote_on_an_expired_request_is_refused() -> None:
    table = asked()
    table.clock.pass_ms(LIVES_MS)
    stop = vote(table, yes())
    assert isinstance(stop, Refusal)
    assert stop.code is Code.APPROVAL_EXPIRED
    assert state(table) == "pending"


def test_a_vote_on_another_action_than_the_one_shown_is_refused() -> None:
    table = asked()
    stop = vote(table, yes(), "d2")
    assert isinstance(stop, Refusal)
    assert stop.code is Code.RECORD_CHANGED
    assert state(table) == "pending"
    assert table.log == []


@pytest.mark.parametrize("closed", list(ApprovalState)[1:])
def test_only_a_pending_request_is_voted_on(closed: ApprovalState) -> None:
    table = asked()
    table.rows[APPROVALS, "a"] = {**table.row(APPROVALS, "a"), "state": closed.value}
    stop = vote(table, yes("bob"))
    assert isinstance(stop, Refusal)
    assert closed.value in stop.text
    assert state(table) == closed
    assert isinstance(bench().run(VoteOnApproval("a", yes(), "d1")), Refusal)


def test_a_no_denies_at_once_and_frees_the_place() -> None:
    table = asked(roles={"approver": 2})
    vote(table, yes())
    assert vote(table, yes("bob", yes=False, reason="wrong customer")) is None
    assert state(table) == "denied"
    assert waiting(table) == 0
    assert table.log[-1].packet["vote"] == {
        "approver": "bob", "roles": ["approver"], "assurance": "credential", "yes": False,
        "reason": "wrong customer", "self_approved": False, "at_ms": NOON,
    }  # fmt: skip
    assert table.run(consume()) == Moved("approval")


def test_the_votes_of_one_person_count_once() -> None:
    table = asked(roles={"approver": 2})
    for _ in range(3):
        assert vote(table, yes("alice")) is None
    assert state(table) == "pending"
    assert given(table.row(APPROVALS, "a")) == {"approver": 1}
    assert vote(table, yes("bob")) is None
    assert state(table) == "approved"
    assert given(table.row(APPROVALS, "a")) == {"approver": 2}


def test_every_role_asked_for_must_agree() -> None:
    table = asked(roles={"approver": 1, "manager": 1})
    vote(table, yes("alice", "approver"))
    assert state(table) == "pending"
    vote(table, yes("bob", "auditor"))
    assert state(table) == "pending"
    vote(table, yes("carol", "manager", "auditor"))
    assert state(table) == "approved"
    assert given(table.row(APPROVALS, "a")) == {"approver": 1, "manager": 1, "auditor": 2}


def test_a_yes_from_the_same_uid_is_kept_and_satisfies_nothing() -> None:
    table = asked()
    assert vote(table, yes("uid:1000", assurance=Assurance.SAME_UID)) is None
    assert state(table) == "pending"
    assert given(table.row(APPROVALS, "a")) == {}
    assert len(votes_in_packet(table.row(APPROVALS, "a"))) == 1
    assert table.run(consume()) == Moved("approval")


def test_a_claimed_name_takes_away_no_vote_given_with_a_credential() -> None:
    table = asked(roles={"approver": 2})
    vote(table, yes("alice"))
    vote(table, yes("alice", assurance=Assurance.SAME_UID))
    assert given(table.row(APPROVALS, "a")) == {"approver": 1}


def test_waiting_requests_of_one_principal_are_capped() -> None:
    table = asked()
    assert table.run(request("b")) is None
    assert table.run(request("b2")) is None
    stop = table.run(request("b3"))
    assert isinstance(stop, Refusal)
    assert (stop.code, stop.retry, stop.call) == (Code.APPROVALS_FULL, "person", "c")
    assert (APPROVALS, "b3") not in table.rows
    assert table.run(request("q1", principal="q")) is None
    assert table.run(CloseApproval("b", ApprovalState.EXPIRED)) is None
    assert table.run(request("b3")) is None


def test_an_approval_that_waits_to_be_used_still_takes_its_place() -> None:
    table = approved()
    assert waiting(table) == 1


def test_a_request_is_not_made_twice_under_one_id() -> None:
    table = approved()
    table.run(consume())
    assert table.run(request()) == Moved("approval")
    assert state(table) == "consumed"


@pytest.mark.parametrize("to", [ApprovalState.EXPIRED, ApprovalState.VOID, ApprovalState.DENIED])
@pytest.mark.parametrize("is_approved", [True, False])
def test_an_open_approval_is_closed_once(to: ApprovalState, is_approved: bool) -> None:
    table = approved() if is_approved else asked()
    assert table.run(CloseApproval("a", to)) is None
    assert state(table) == to
    assert waiting(table) == 0
    assert table.run(CloseApproval("a", to)) == Moved("approval")
    assert table.run(consume()) == Moved("approval")


@pytest.mark.parametrize("to", [ApprovalState.PENDING, ApprovalState.APPROVED, ApprovalState.CONSUMED])
def test_nothing_is_closed_into_a_state_that_is_open_or_used(to: ApprovalState) -> None:
    with pytest.raises(TransitionError):
        asked().run(CloseApproval("a", to))


def test_votes_are_carried_into_a_request_for_another_role() -> None:
    first = asked()
    vote(first, yes("alice"))
    carried = first.row(APPROVALS, "a")["votes"]
    table = asked(roles={"approver": 1, "manager": 1}, carried_votes=carried)
    assert state(table) == "pending"
    vote(table, yes("bob", "manager"))
    assert state(table) == "approved"
    assert [ballot["approver"] for ballot in json.loads(table.row(APPROVALS, "a")["votes"])] == [
        "alice",
        "bob",
    ]


ACTION: dict[str, Any] = {
    "definition": "sha256:1", "source": {"transport": "python", "endpoint": "desk", "credential": ""},
    "environment": "default", "tenant": "local", "principal": "i|s", "actor": "bot", "tool": "refund",
    "arguments": {"amount_usd": 25}, "record": {"kind": "invoice", "key": "1"}, "shown": ["v1"],
}  # fmt: skip


def test_each_field_of_an_action_changes_its_digest() -> None:
    digests = {approval_digest(ACTION)}
    for name in ACTION:
        digests.add(approval_digest({**ACTION, name: "other"}))
        digests.add(approval_digest({key: value for key, value in ACTION.items() if key != name}))
    assert len(digests) == 1 + 2 * len(ACTION)
    assert {len(digest) for digest in digests} == {32}


def test_one_action_has_one_digest_however_it_is_spelled() -> None:
    turned = dict(reversed(ACTION.items()))
    assert approval_digest({**turned, "arguments": {"amount_usd": 25.0}}) == approval_digest(ACTION)


@pytest.mark.anyio
async def test_an_approval_raced_by_many_runs_once(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        await commit(store, request())
        await commit(store, VoteOnApproval("a", yes(), "d1"))
        outcomes = await asyncio.gather(*(commit(store, consume(), open_call(f"c{at}")) for at in range(16)))
        assert sum(isinstance(outcome, Committed) for outcome in outcomes) == 1
        assert len(check_log(store)) == 2
        assert rows_of(store, APPROVALS, "a")["a"]["state"] == "consumed"
        assert rows_of(store, WAITING, "p")["p"] == {"pending": 0}


@pytest.mark.anyio
async def test_a_yes_and_a_no_that_race_end_in_one_decision(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        await commit(store, request())
        first, second = await asyncio.gather(
            commit(store, VoteOnApproval("a", yes("alice"), "d1")),
            commit(store, VoteOnApproval("a", yes("bob", yes=False), "d1")),
        )
        assert isinstance(first, Committed)
        assert isinstance(second, Committed)  # a yes that is not used yet can be taken back
        assert rows_of(store, APPROVALS, "a")["a"]["state"] == "denied"
        assert isinstance(await commit(store, VoteOnApproval("a", yes("carol"), "d1")), Stopped)
        assert rows_of(store, WAITING, "p")["p"] == {"pending": 0}
