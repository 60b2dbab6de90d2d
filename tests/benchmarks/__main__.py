"""`python -m tests.benchmarks [--quick]`: what governing costs, paired in one run against the bare SDK.

Both servers and the client are processes of their own on 127.0.0.1. Rounds alternate bare, governed / governed, bare;
a ratio is the median over its rounds' own ratios. Exit code 1 when a `must` target is missed in a full run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.processes import Bench, Loads, Machine, RawSync, first_answer_s
from tests.benchmarks.report import Row, print_controls, print_disturbance, print_rows, print_steps
from tests.benchmarks.steps import measure_steps

_TOOLS = ("read_item", "move_stock")


def main() -> int:
    """Run every row and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 300 calls instead of 9 of 1,500")
    parser.add_argument("--rows", default="1,64", help="calls in flight, comma-separated")
    options = parser.parse_args()
    rounds, calls = (3, 300) if options.quick else (9, 1_500)
    with tempfile.TemporaryDirectory(prefix="comptroller-bench-") as place:
        folder = Path(place)
        sync = RawSync(folder / "sync")
        rows: list[Row] = []
        machine = Machine()
        store = folder / "store"
        store.mkdir()
        first_ever = first_answer_s("governed", store)  # makes keys, tokens and the schema
        with Bench(store) as bench:
            for tool in _TOOLS:
                for in_flight in map(int, options.rows.split(",")):
                    sync.measure()
                    loads = Loads(tool, in_flight, calls if in_flight > 1 else max(300, calls // 3), rounds)
                    rows.append(Row(loads, bench.paired(loads)))
            memory = bench.memory_mib()
        sync.measure()
        starts = [(first_answer_s("bare"), first_answer_s("governed", store)) for _ in range(5)]
        missed = print_rows(rows, sync.milliseconds)
        missed += print_controls(sync.milliseconds, memory, starts, first_ever)
        print_disturbance(*machine.disturbance())
        for tool in _TOOLS:
            print_steps(tool, measure_steps(folder / tool, tool, 200 if options.quick else 1_000))
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
