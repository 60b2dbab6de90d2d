"""The state machine of a call, and claims: which call a proposal is."""

from __future__ import annotations

import itertools

import pytest

from comptroller_audit.calls import (
    CALLS,
    CLAIMS,
    TRANSITIONS,
    Claim,
    Existing,
    Lost,
    MoveCall,
    NoteOnCall,
    OpenCall,
    ReleaseClaims,
    TakeClaims,
    log_indexes,
)
from comptroller_audit.errors import TransitionError
from comptroller_audit.unit import Stop
from comptroller_audit.vocabulary import CallState, Code, RecordType, Refusal
from tests.audit.storekit import NOON, Bench, bench, call_fields, open_call, record

S = CallState
DAY_MS = 86_400_000
FIRST = (S.REFUSED, S.PENDING, S.COMMITTED, S.DONE)
REASKED = (S.PENDING, S.COMMITTED, S.IN_DOUBT)


def move(
    came_from: CallState, to: CallState, epoch: int | None = 1, *, call: str = "c", new_epoch: bool = False
) -> MoveCall:
    return MoveCall(call, came_from, to, epoch, record(RecordType.AUDIT), new_epoch=new_epoch)


def in_state(state: CallState, call: str = "c", claims: str = "") -> Bench:
    """A bench with one call in a state, whether or not a call may begin there."""
    table = bench()
    row = {
        **call_fields(claims=claims), "state": state.value, "epoch": 1, "records": "", "created_ms": NOON,
        "updated_ms": NOON,
    }  # fmt: skip
    table.rows[CALLS, call] = row
    return table


# -- states ---------------------------------------------------------------------------------------------------


def test_the_machine_allows_what_the_design_draws_and_two_moves_of_recovery() -> None:
    drawn = {
        S.PROPOSED: {S.REFUSED, S.PENDING, S.COMMITTED, S.DONE},
        S.PENDING: {S.COMMITTED, S.DENIED, S.EXPIRED, S.VOID},
        S.COMMITTED: {S.DONE, S.FAILED_BEFORE_EFFECT, S.IN_DOUBT} | {S.NOT_DONE, S.HANDED_OFF},
        S.DONE: {S.COMPENSATED, S.HANDED_OFF},
        S.IN_DOUBT: {S.DONE, S.NOT_DONE, S.COMPENSATED},
        S.HANDED_OFF: {S.COMPENSATED},
    }
    assert {state: set(nexts) for state, nexts in TRANSITIONS.items()} == drawn


@pytest.mark.parametrize(("came_from", "to"), list(itertools.product(S, S)))
def test_a_call_moves_only_where_the_machine_allows(came_from: CallState, to: CallState) -> None:
    table = in_state(came_from)
    allowed = to in TRANSITIONS.get(came_from, ()) or (to is came_from and came_from in REASKED)
    if allowed:
        assert table.run(move(came_from, to)) is None
        assert table.row(CALLS, "c")["state"] == to
        assert len(table.log) == 1
    else:
        with pytest.raises(TransitionError):
            table.run(move(came_from, to))
        assert table.row(CALLS, "c")["state"] == came_from
        assert table.log == []


@pytest.mark.parametrize("to", S)
def test_a_call_begins_refused_pending_committed_or_done(to: CallState) -> None:
    table = bench()
    if to in FIRST:
        assert table.run(open_call("c", to)) is None
        assert table.row(CALLS, "c")["state"] == to
    else:
        with pytest.raises(TransitionError):
            table.run(open_call("c", to))
        assert table.rows == {}


def test_a_call_that_is_there_is_not_opened_again() -> None:
    table = bench()
    table.run(open_call("c"))
    stop = table.run(open_call("c", S.PENDING))
    assert isinstance(stop, Lost)
    assert table.row(CALLS, "c")["state"] == "committed"
    assert len(table.log) == 1


@pytest.mark.parametrize(("came_from", "epoch"), [(S.PENDING, 1), (S.COMMITTED, 2), (S.COMMITTED, 0)])
def test_a_move_from_another_state_or_epoch_is_lost_and_writes_nothing(
    came_from: CallState, epoch: int
) -> None:
    table = in_state(S.COMMITTED)
    to = S.COMMITTED if came_from is S.PENDING else S.DONE
    stop = table.run(move(came_from, to, epoch))
    assert isinstance(stop, Lost)
    assert stop.row == table.row(CALLS, "c")
    assert table.row(CALLS, "c")["state"] == "committed"
    assert table.log == []


def test_a_move_of_a_call_nobody_knows_is_lost() -> None:
    assert bench().run(move(S.COMMITTED, S.DONE)) == Lost("c", None)


def test_a_move_without_an_epoch_is_guarded_by_the_state_alone() -> None:
    table = in_state(S.PENDING)
    assert table.run(move(S.PENDING, S.DENIED, None)) is None
    assert isinstance(table.run(move(S.PENDING, S.DENIED, None)), Lost)


def test_recovery_fences_the_old_owner_off() -> None:
    table = in_state(S.COMMITTED)
    assert table.run(move(S.COMMITTED, S.IN_DOUBT, 1, new_epoch=True)) is None
    assert table.row(CALLS, "c")["epoch"] == 2
    late = table.run(move(S.COMMITTED, S.DONE, 1))
    assert isinstance(late, Lost)
    assert isinstance(table.run(move(S.IN_DOUBT, S.DONE, 1)), Lost)
    assert table.run(move(S.IN_DOUBT, S.DONE, 2)) is None


def test_a_move_may_change_other_columns_but_not_state_or_epoch() -> None:
    table = in_state(S.PENDING)
    changes = {"owner": "owner-2", "approval": "a-2", "state": "done", "epoch": 9}
    table.run(MoveCall("c", S.PENDING, S.COMMITTED, 1, record(), changes))
    row = table.row(CALLS, "c")
    assert (row["owner"], row["approval"], row["state"], row["epoch"]) == ("owner-2", "a-2", "committed", 1)


def test_the_records_of_a_call_are_its_log_entries_in_order() -> None:
    table = bench()
    table.run(open_call("other"))
    table.run(open_call("c"))
    table.run(NoteOnCall("c", record(RecordType.REPLAYED)))
    table.run(open_call("third"))
    table.run(move(S.COMMITTED, S.DONE))
    assert log_indexes(table.row(CALLS, "c")) == [1, 2, 4]


def test_a_note_moves_nothing_and_is_kept_even_for_a_call_nobody_knows() -> None:
    table = in_state(S.DONE)
    before = table.row(CALLS, "c")
    table.clock.pass_ms(1000)
    assert table.run(NoteOnCall("c", record(RecordType.LATE_OUTCOME))) is None
    assert table.row(CALLS, "c") == {**before, "records": ",0"}
    assert table.run(NoteOnCall("nobody", record(RecordType.LATE_OUTCOME))) is None
    assert len(table.log) == 2


# -- claims ---------------------------------------------------------------------------------------------------

REPLAYS = Claim("k", "args", replays=True)
RUNS_AGAIN = Claim("k", "args")
EXPLICIT = Claim("e", "args", explicit=True)


def holding(state: CallState, *claims: Claim) -> Bench:
    """A bench where call `c` took the claims and is in `state`."""
    table = in_state(state, claims=",".join(claim.id for claim in claims))
    assert table.run(TakeClaims("c", claims)) is None
    return table


def propose(table: Bench, *claims: Claim, call: str = "d") -> Stop | None:
    return table.run(TakeClaims(call, claims), OpenCall(call, S.COMMITTED, call_fields(), record()))


@pytest.mark.parametrize("state", [S.PENDING, S.COMMITTED, S.IN_DOUBT])
@pytest.mark.parametrize("claim", [REPLAYS, RUNS_AGAIN, EXPLICIT])
def test_a_repeat_of_a_call_that_is_not_over_gets_its_state(state: CallState, claim: Claim) -> None:
    table = holding(state, claim)
    table.clock.pass_ms(30 * DAY_MS)
    assert propose(table, claim) == Existing("c", table.row(CALLS, "c"), replay=False)
    assert table.row(CLAIMS, claim.id)["call"] == "c"
    assert (CALLS, "d") not in table.rows


@pytest.mark.parametrize("state", [S.DONE, S.HANDED_OFF])
def test_a_create_that_succeeded_is_replayed_within_its_window_and_runs_again_after_it(
    state: CallState,
) -> None:
    table = holding(state, REPLAYS)
    table.clock.pass_ms(REPLAYS.window_ms - 1)
    assert propose(table, REPLAYS) == Existing("c", table.row(CALLS, "c"), replay=True)
    table.clock.pass_ms(1)
    assert propose(table, REPLAYS) is None
    assert table.row(CLAIMS, "k")["call"] == "d"


def test_the_replay_window_begins_with_the_success_and_not_with_the_proposal() -> None:
    table = holding(S.PENDING, REPLAYS)
    table.clock.pass_ms(2 * DAY_MS)  # a person took two days
    assert table.run(move(S.PENDING, S.COMMITTED)) is None
    assert table.run(move(S.COMMITTED, S.DONE)) is None
    stop = propose(table, REPLAYS)
    assert isinstance(stop, Existing)
    assert stop.replay


@pytest.mark.parametrize("state", [S.DONE, S.HANDED_OFF])
def test_other_effects_run_again_after_a_success(state: CallState) -> None:
    table = holding(state, RUNS_AGAIN)
    assert propose(table, RUNS_AGAIN) is None


@pytest.mark.parametrize("state", [S.DONE, S.HANDED_OFF])
def test_an_explicit_key_is_replayed_for_ever(state: CallState) -> None:
    table = holding(state, EXPLICIT)
    table.clock.pass_ms(1000 * DAY_MS)
    stop = propose(table, EXPLICIT)
    assert isinstance(stop, Existing)
    assert stop.replay


@pytest.mark.parametrize("state", [S.PENDING, S.COMMITTED, S.IN_DOUBT, S.DONE, S.HANDED_OFF])
def test_an_explicit_key_with_other_arguments_is_a_conflict(state: CallState) -> None:
    table = holding(state, EXPLICIT)
    stop = propose(table, Claim("e", "other arguments", explicit=True))
    assert isinstance(stop, Refusal)
    assert (stop.code, stop.retry, stop.call) == (Code.KEY_CONFLICT, "never", "c")
    assert table.row(CLAIMS, "e")["arguments"] == "args"


OVER = (S.REFUSED, S.DENIED, S.EXPIRED, S.VOID, S.FAILED_BEFORE_EFFECT, S.NOT_DONE, S.COMPENSATED)


@pytest.mark.parametrize("state", OVER)
@pytest.mark.parametrize("claim", [REPLAYS, RUNS_AGAIN, EXPLICIT, Claim("e", "new arguments", explicit=True)])
def test_a_call_without_an_effect_that_stands_blocks_nothing(state: CallState, claim: Claim) -> None:
    table = holding(state, REPLAYS, EXPLICIT)
    assert propose(table, claim) is None
    assert table.row(CLAIMS, claim.id) == {"call": "d", "arguments": claim.arguments, "at_ms": NOON}


def test_every_state_either_holds_its_claim_or_stands_or_is_over() -> None:
    assert set(OVER) | {S.PENDING, S.COMMITTED, S.IN_DOUBT, S.DONE, S.HANDED_OFF} == set(S) - {S.PROPOSED}


def test_two_claims_are_taken_together_or_not_at_all() -> None:
    table = holding(S.COMMITTED, EXPLICIT)
    stop = propose(table, RUNS_AGAIN, EXPLICIT)
    assert isinstance(stop, Existing)
    assert (CLAIMS, "k") not in table.rows


def test_of_two_proposals_in_one_batch_the_second_gets_the_first() -> None:
    table = bench()
    assert propose(table, RUNS_AGAIN, call="c") is None
    stop = propose(table, RUNS_AGAIN, call="d")
    assert isinstance(stop, Existing)
    assert stop.call == "c"


def test_a_call_may_take_its_own_claims_again() -> None:
    table = holding(S.PENDING, RUNS_AGAIN)
    assert table.run(TakeClaims("c", (RUNS_AGAIN,))) is None


def test_released_claims_can_be_taken_and_are_released_only_by_their_holder() -> None:
    table = holding(S.COMMITTED, RUNS_AGAIN, EXPLICIT)
    assert table.run(move(S.COMMITTED, S.FAILED_BEFORE_EFFECT), ReleaseClaims("c")) is None
    assert [table.row(CLAIMS, name)["call"] for name in "ke"] == ["", ""]
    assert propose(table, RUNS_AGAIN, Claim("e", "other", explicit=True)) is None
    assert table.run(ReleaseClaims("c")) is None  # late: they are another's now
    assert [table.row(CLAIMS, name)["call"] for name in "ke"] == ["d", "d"]


def test_releasing_for_a_call_nobody_knows_changes_nothing() -> None:
    table = bench()
    assert table.run(ReleaseClaims("nobody")) is None
    assert table.rows == {}
