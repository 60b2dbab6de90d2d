from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from comptroller_server.call.quotas import COUNTED_PER_FLUSH_MAX, MINUTE_S, Quotas


@dataclass
class Clock:
    seconds: float = 0.0

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


def test_attempts_that_lead_nowhere_are_used_up_and_come_back_with_the_next_minute() -> None:
    clock = Clock()
    quotas = Quotas(clock, attempts_max=3, records_max=1)
    for _ in range(3):
        assert quotas.check("p") is None
        quotas.spend("p")
    refusal = quotas.check("p")
    assert refusal is not None
    assert refusal.retry == "after:61"
    assert quotas.check("q") is None
    clock.seconds = MINUTE_S - 0.01
    assert quotas.check("p") is not None
    clock.seconds = MINUTE_S
    assert quotas.check("p") is None


@given(st.lists(st.sampled_from("abc"), max_size=200), st.integers(0, 20))
def test_every_refusal_is_recorded_singly_or_counted(principals: list[str], records_max: int) -> None:
    quotas = Quotas(Clock(), attempts_max=1, records_max=records_max)
    singly = sum(quotas.records_singly(principal) for principal in principals)
    assert singly + sum(dict(quotas.take_counted()).values()) == len(principals)
    assert singly == sum(min(records_max, principals.count(principal)) for principal in "abc")
    assert dict(quotas.take_counted()) == {}


def test_counts_that_were_put_back_are_added_to_the_new_ones() -> None:
    quotas = Quotas(Clock(), attempts_max=1, records_max=0)
    quotas.records_singly("p")
    taken = list(quotas.take_counted())
    quotas.records_singly("p")
    quotas.put_back(taken)
    assert dict(quotas.take_counted()) == {"p": 2}


def test_a_flood_of_principals_is_counted_together_and_none_is_lost() -> None:
    clock = Clock()
    quotas = Quotas(clock, attempts_max=1, records_max=0)
    many = 12 * COUNTED_PER_FLUSH_MAX
    for at in range(many):
        quotas.records_singly(f"p{at}")
        clock.seconds += 0.02
    counted = dict(quotas.take_counted())
    assert sum(counted.values()) == many
    assert len(counted) == COUNTED_PER_FLUSH_MAX + 1
