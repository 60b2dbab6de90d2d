"""The benchmark's tables, with the targets beside what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.processes import Loads, Round
from tests.benchmarks.steps import ALLOWANCES, StepCost

__all__ = ["Row", "print_controls", "print_disturbance", "print_rows", "print_steps"]

_THROUGHPUT = {"read_item": (0.60, 0.80), "move_stock": (0.40, 0.60)}
_TAIL = (1.8, 1.3)
_ADDED_MS = {"read_item": (1, 0.4, 0.12), "move_stock": (2, 0.6, 0.2)}
"""Syncs a call waits for, and ms over them: must, stretch."""
DISTURBED_MAX = 0.05
_START_S = (1.2, 0.3)
_MEMORY_MIB = (50.0, 30.0)
_KINDS = {"read_item": "read, decision needs no argument", "move_stock": "side effect, argument policy, fact"}


@dataclass(frozen=True, slots=True)
class Row:
    """A load and its paired rounds."""

    loads: Loads
    rounds: Sequence[Round]

    def ratio(self, of: str) -> float:
        """Median over the rounds of governed ÷ bare."""
        ratios: list[float] = [getattr(r.governed, of) / getattr(r.bare, of) for r in self.rounds]
        return median(ratios)

    def both(self, of: str) -> tuple[float, float]:
        """Medians of governed and bare."""
        return (
            median(getattr(r.governed, of) for r in self.rounds),
            median(getattr(r.bare, of) for r in self.rounds),
        )

    @property
    def added_ms(self) -> float:
        """Median over the rounds of the p50 latency that governing adds."""
        return median(r.governed.p50_ms - r.bare.p50_ms for r in self.rounds)


def print_rows(rows: Iterable[Row], sync_ms: float) -> int:
    """The rows, then each target; returns how many `must` targets were missed."""
    print("\nGoverned / bare SDK, medians over paired rounds")
    print("| call | in flight | throughput ratio | calls/s | p50 ms | p99 ms | CPU µs/call | commits/call |")
    print("|---|---|---|---|---|---|---|---|")
    rows = list(rows)
    for row in rows:
        cells = [f"{a:.{d}f} / {b:.{d}f}" for (a, b), d in _measured(row)]
        commits, _ = row.both("commits_per_call")
        print(
            f"| {_KINDS[row.loads.tool]} | {row.loads.in_flight} | {row.ratio('calls_per_s'):.2f} | "
            f"{' | '.join(cells)} | {commits:.3f} |"
        )
    print("\n| target | must | stretch | measured | |\n|---|---|---|---|---|")
    missed = 0
    for row in rows:
        kind, tool = _KINDS[row.loads.tool], row.loads.tool
        if row.loads.in_flight > 1:
            at = f"{row.loads.in_flight} in flight"
            missed += _target(f"{kind}: throughput, {at}", _THROUGHPUT[tool], row.ratio("calls_per_s"), True)
            missed += _target(f"{kind}: p99, {at}", _TAIL, row.ratio("p99_ms"), False)
        else:
            syncs, must, stretch = _ADDED_MS[tool]
            wanted = (syncs * sync_ms + must, syncs * sync_ms + stretch)
            missed += _target(f"{kind}: added p50 ms, 1 in flight", wanted, row.added_ms, False)
    return missed


def print_controls(
    sync_ms: float,
    memory: Mapping[str, tuple[float, float]],
    starts: Sequence[tuple[float, float]],
    first_ever_s: float,
) -> int:
    """The raw sync, memory and start; returns how many `must` targets were missed."""
    bare, governed = (median(start[n] for start in starts) for n in (0, 1))
    more = [memory["governed"][n] - memory["bare"][n] for n in (0, 1)]
    missed = _target("memory over bare when ready, MiB", _MEMORY_MIB, more[0], False)
    missed += _target("start to first answer over stdio, s over bare", _START_S, governed - bare, False)
    print(f"\nRaw control: one 4 KiB append and fsync {sync_ms:.3f} ms (median).")
    print(
        f"Start to first answer: governed {governed:.2f} s (the first ever {first_ever_s:.2f}), bare {bare:.2f} s."
    )
    print(f"Memory over bare after all rounds: {more[1]:.0f} MiB.")
    return missed


def print_disturbance(stolen: float, others: float) -> None:
    """How far the machine was the benchmark's own. Both are shares of all core time."""
    print(f"Of the cores' time the host of this machine took {stolen:.0%} and other processes {others:.0%}.")
    if stolen + others > DISTURBED_MAX:
        print(
            "That is too much: ratios are a lower bound, and latencies tell little. Measure again when it is idle."
        )


def print_steps(tool: str, costs: Sequence[StepCost]) -> None:
    """The CPU of each step, with its allowance."""
    print(
        f"\n{tool}: CPU per step, 1 in flight, in process\n| step | allowance µs | µs | |\n|---|---|---|---|"
    )
    for cost in costs:
        allowed = ALLOWANCES[tool][cost.step]
        mark = "over" if cost.microseconds > allowed else ""
        print(f"| {cost.step} | {allowed:.0f} | {cost.microseconds:.1f} | {mark} |")
    print(f"| all | {sum(ALLOWANCES[tool].values()):.0f} | {sum(c.microseconds for c in costs):.1f} | |")


def _measured(row: Row) -> list[tuple[tuple[float, float], int]]:
    return [
        (row.both("calls_per_s"), 0),
        (row.both("p50_ms"), 2),
        (row.both("p99_ms"), 1),
        (row.both("cpu_us"), 0),
    ]


def _target(name: str, wanted: tuple[float, float], measured: float, higher_is_better: bool) -> int:
    must, stretch = wanted
    sign = 1 if higher_is_better else -1
    met = sign * measured >= sign * must
    verdict = "stretch" if sign * measured >= sign * stretch else "must" if met else "MISSED"
    symbol = "≥" if higher_is_better else "≤"
    print(f"| {name} | {symbol} {must:.2f} | {symbol} {stretch:.2f} | {measured:.2f} | {verdict} |")
    return 0 if met else 1
