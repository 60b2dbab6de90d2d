from __future__ import annotations

import pytest

from tests.benchmarks import redaction
from tests.benchmarks.processes import Loads, Round, Sample
from tests.benchmarks.report import Row, print_controls, print_rows


def sample(calls_per_s: float, p50_ms: float, p99_ms: float) -> Sample:
    return Sample(calls_per_s, 200, p50_ms, p99_ms, 1.0)


def rounds_of(*ratios: float) -> list[Round]:
    return [Round(bare=sample(1000, 10, 20), governed=sample(1000 * ratio, 12, 30)) for ratio in ratios]


def test_a_ratio_is_the_median_of_the_pairs_and_not_the_ratio_of_medians() -> None:
    slow = Round(bare=sample(100, 10, 20), governed=sample(50, 12, 30))
    row = Row(Loads("read_item", 64, 100, 3), [*rounds_of(0.9, 0.7), slow])
    assert row.ratio("calls_per_s") == pytest.approx(0.7)
    assert row.added_ms == pytest.approx(2)


@pytest.mark.parametrize(("ratio", "missed"), [(0.59, 1), (0.61, 0), (0.9, 0)])
def test_a_missed_must_is_counted(ratio: float, missed: int, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(Loads("read_item", 64, 100, 1), rounds_of(ratio))
    assert print_rows([row], sync_ms=0.1) == missed
    assert ("MISSED" in capsys.readouterr().out) is bool(missed)


def test_latency_is_allowed_what_its_syncs_take(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(Loads("move_stock", 1, 100, 1), rounds_of(0.5))  # adds 2 ms
    assert print_rows([row], sync_ms=0.75) == 0
    assert print_rows([row], sync_ms=0.65) == 1
    assert "MISSED" in capsys.readouterr().out


def test_memory_and_start_are_targets_over_the_bare_server(capsys: pytest.CaptureFixture[str]) -> None:
    memory = {"bare": (70.0, 72.0), "governed": (119.0, 140.0)}
    assert print_controls(0.1, memory, [(1.0, 2.1)] * 3, first_ever_s=3.0) == 0
    assert (
        print_controls(0.1, {**memory, "governed": (121.0, 121.0)}, [(1.0, 2.3)] * 3, first_ever_s=3.0) == 2
    )
    assert "first ever 3.00" in capsys.readouterr().out


def test_the_benchmark_of_redaction_measures_each_text_with_each_release() -> None:
    rows = redaction.main(rounds=1)
    assert len(rows) == len(redaction.TEXTS) * len(redaction.RELEASES)
    assert all(per_kib >= 0 and times >= 0 for _, _, per_kib, times in rows)
