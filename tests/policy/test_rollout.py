"""The draw of the canary, and whose word about a tool's share is in force: laws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from comptroller_policy.declarations import RolloutMode
from comptroller_policy.model import Verdict
from comptroller_policy.rollout import (
    BUCKETS,
    PERCENT_MAX,
    STEPS,
    Level,
    Word,
    bucket_of,
    configured_percent,
    effective,
    is_drawn,
)
from comptroller_policy.rollout_changes import missing_for, next_step
from tests.policy.questions import bundle, refund

KEY = bytes(range(32))
percents = st.integers(0, PERCENT_MAX)
subjects = st.lists(st.binary(max_size=40), min_size=1, max_size=3)


@given(subjects)
def test_a_record_is_always_drawn_alike(subject: list[bytes]) -> None:
    first = bucket_of(KEY, *subject)
    assert first == bucket_of(KEY, *subject)
    assert 0 <= first < BUCKETS


@given(subjects, percents, percents)
def test_who_is_in_a_small_share_is_in_every_larger_one(subject: list[bytes], one: int, other: int) -> None:
    small, large = sorted((one, other))
    bucket = bucket_of(KEY, *subject)
    assert is_drawn(bucket, large) or not is_drawn(bucket, small)
    assert not is_drawn(bucket, 0)
    assert is_drawn(bucket, PERCENT_MAX)


@given(st.binary(min_size=32, max_size=32), st.sampled_from([5, 25, 50]))
def test_the_share_of_many_records_is_about_the_percent_asked_for(key: bytes, percent: int) -> None:
    records = 1_500
    drawn = sum(is_drawn(bucket_of(key, b"record", str(at).encode()), percent) for at in range(records))
    # Six standard deviations of a fair draw: one run in 500 million would fail.
    deviation = (records * percent * (100 - percent)) ** 0.5 / 100
    assert abs(drawn - records * percent / 100) < 6 * deviation


def test_without_the_secret_the_draw_cannot_be_told() -> None:
    records = [str(at).encode() for at in range(200)]
    mine = [bucket_of(KEY, record) for record in records]
    assert mine != [bucket_of(bytes(32), record) for record in records]


@given(st.builds(Level, st.sampled_from(Word), percents, percents), percents)
def test_no_more_is_open_than_the_config_or_a_promotion_opened(level: Level, configured: int) -> None:
    now = effective(level, configured)
    assert 0 <= now <= max(configured, level.percent)
    if level.word is Word.DEMOTED:
        assert now == 0
    if level.word is Word.PROMOTED and configured < level.base:
        assert now <= configured
    assert effective(None, configured) == configured


@given(st.builds(Level, st.sampled_from(Word), percents, percents), percents, percents)
def test_lowering_the_config_never_opens_more(level: Level, one: int, other: int) -> None:
    low, high = sorted((one, other))
    if high <= level.base or level.word is not Word.PROMOTED:
        assert effective(level, low) <= effective(level, high)


def test_the_config_alone_opens_its_canary_and_everything_in_auto() -> None:
    assert configured_percent(RolloutMode.HUMAN_APPROVAL, 5) == 5
    assert configured_percent(RolloutMode.AUTO, 5) == PERCENT_MAX


@given(
    percents,
    st.integers(1, 50),
    st.integers(0, 60),
    st.none() | percents,
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_a_promotion_takes_enough_clean_calls_and_one_step_at_a_time(
    now: int, needed: int, clean: int, to: int | None, unedited: int, agreed: int
) -> None:
    counted = ("calls", "verified", "silent_wrong", "in_doubt", "agreed", "denied", "edited")
    row = {**dict.fromkeys(counted, 0), "clean": clean, "unedited": agreed}
    missing = missing_for(row, now, to, STEPS, needed, unedited)
    step = next_step(now, STEPS)
    enough = clean >= needed and agreed >= unedited
    goes = step is not None and enough and (to is None or now < to <= step)
    assert (missing == ()) is goes
    assert missing_for(row, now, to, (), needed, unedited)


def test_the_gate_is_written_in_cedar_and_the_draw_opens_it() -> None:
    for mode in (RolloutMode.AUTO, RolloutMode.HUMAN_APPROVAL):
        desk = bundle(rollout=mode)
        assert "when { !context.rollout.canary }" in desk.text_of("issue_refund")
        asked = desk.decide(refund())
        assert [gate.policy for gate in asked.gates] == ["rollout.human_approval.issue_refund"]
        assert desk.decide(refund(canary=True)).verdict is Verdict.ALLOW
        # The answer for one draw is not remembered for the other.
        assert desk.decide(refund()).verdict is Verdict.NEEDS_APPROVAL
    assert "rollout" not in bundle(rollout=RolloutMode.OFF).text()


def test_a_rule_of_the_operator_may_read_the_draw_and_waits_for_it() -> None:
    rule = """@id("canary-small") @reason("In the canary 5 at most.")
    forbid (principal, action == Comptroller::Action::"issue_refund", resource)
    when { context.rollout.canary && context.input.amount_usd.greaterThan(decimal("5")) };"""
    desk = bundle(rule, rollout=RolloutMode.HUMAN_APPROVAL)
    assert desk.decide_early(refund(9)) is None
    assert desk.decide(refund(9, canary=True)).policies == ("canary-small",)
    assert desk.decide(refund(5, canary=True)).verdict is Verdict.ALLOW
