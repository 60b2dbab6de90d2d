from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.latency import EXACT, Latency

_ms = st.floats(0, 3_600_000).map(lambda ms: round(ms, 3))


def filled(values: list[float]) -> Latency:
    latency = Latency()
    for value in values:
        latency.add(value)
    return latency


@given(st.lists(_ms, min_size=2, max_size=60))
def test_percentiles_are_those_of_the_statistics_module(values: list[float]) -> None:
    latency = filled(values)
    expected = statistics.quantiles(values, n=100, method="inclusive")
    for percent in (50, 95, 99):
        assert latency.percentile(percent) == pytest.approx(expected[percent - 1], rel=0.001, abs=1e-6)


@given(st.lists(st.integers(0, EXACT - 1), min_size=2, max_size=60))
def test_short_durations_are_kept_exactly(micros: list[int]) -> None:
    values = [n / 1000 for n in micros]
    expected = statistics.quantiles(values, n=20, method="inclusive")
    assert filled(values).percentile(95) == pytest.approx(expected[18], abs=1e-9)


@given(st.lists(_ms, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_no_percentile_exceeds_the_longest(
    values: list[float], random: object
) -> None:
    one, other = filled(values), filled(sorted(values))
    assert one.as_json() == other.as_json()
    assert one.max_ms == max(values)
    percentiles = [one.percentile(percent) or 0.0 for percent in (0, 50, 95, 99, 100)]
    assert percentiles == sorted(percentiles)
    assert percentiles[-1] <= one.max_ms


def test_without_any_duration_there_is_no_percentile() -> None:
    empty = {"count": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None, "max_ms": None}
    assert Latency().as_json() == empty


def test_a_million_durations_take_a_few_thousand_numbers() -> None:
    latency = filled([n * 0.7 for n in range(200_000)])
    assert latency.count == 200_000
    assert len(latency._counts) < 15_000  # pyright: ignore[reportPrivateUsage]  # the promise is about memory
