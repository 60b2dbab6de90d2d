"""`python -m tests.benchmarks.proxied [--quick]`: a governed proxy over HTTP beside calling the same server directly, paired.

The governed server has the bare one as its upstream, over kept connections. Also from starting a stdio server with
three upstreams to its first answer, which is what a read of one of them says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from comptroller_tools.source import Action
from comptroller_tools.upstream.pins import LOCK_NAME, write_pins
from comptroller_tools.upstream.settings import HttpEndpoint, UpstreamSettings
from comptroller_tools.upstream.source import UpstreamSource
from tests.benchmarks.processes import Bench, Loads, Process, first_answer_s

UPSTREAMS = 3
WAY_CALLS = 1_600


def governed_config(mcp: list[dict[str, Any]]) -> dict[str, Any]:
    """One source for each server; the first one's read is offered under its own name."""
    return {
        "identity": {"local": {"roles": ["clerk"], "clients": {"bench": {}}}},
        "sources": {f"up{at}": {"mcp": one} for at, one in enumerate(mcp)},
        "tools": [
            {
                "name": "read_item",
                "source": "up0",
                "allow_actions": ["read"],
                "roles": ["clerk"],
                "limits": {
                    "concurrency_max": 128
                },  # as the warehouse's: what waits for a slot measures nothing
            }
        ],
        "budgets": {"max_tool_calls": 1_000_000_000},
        "limits": {"identical_calls_max": 1_000_000},
    }


async def accept(url: str, folder: Path, sources: int) -> None:
    """Pin what the bare server lists, for every source."""
    source = UpstreamSource("up0", UpstreamSettings(HttpEndpoint(url), {}), {})
    try:
        pins = (await source.listing()).tools
    finally:
        await source.close()
    write_pins(folder / LOCK_NAME, {f"up{at}": pins for at in range(sources)})


async def way_us(url: str, in_flight: int) -> float:
    """CPU of this process for one call to the bare server through a source alone: no policy, no store."""
    settings = UpstreamSettings(HttpEndpoint(url), {})
    first = UpstreamSource("up0", settings, {})
    source = UpstreamSource("up0", settings, (await first.listing()).tools)
    await first.close()

    async def calls(count: int) -> None:
        for number in range(count):
            action = Action("read_item", {"item_id": f"{number}"}, "key")
            outcome = await source.call(action, time.monotonic() + 60)
            if outcome.error is not None:
                raise RuntimeError(outcome.error)

    try:
        await asyncio.gather(*(calls(10) for _ in range(in_flight)))
        began = time.process_time()
        await asyncio.gather(*(calls(WAY_CALLS // in_flight) for _ in range(in_flight)))
        return (time.process_time() - began) / WAY_CALLS * 1e6
    finally:
        await source.close()


def main() -> int:
    """Print ratios governed / direct, and the starts."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.proxied", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 200 calls instead of 9 of 1,000")
    rounds, calls = (3, 200) if parser.parse_args().quick else (9, 1_000)
    with tempfile.TemporaryDirectory(prefix="comptroller-proxied-") as place:
        folder = Path(place)
        backing = Process("bare_server", "http")
        try:
            url = f"http://127.0.0.1:{backing.hear()['port']}/mcp"
            asyncio.run(accept(url, folder, UPSTREAMS))
            ways = [f"{asyncio.run(way_us(url, at_once)):.0f} at {at_once} in flight" for at_once in (1, 16)]
            print(f"CPU µs/call of the way to the upstream alone: {', '.join(ways)}", flush=True)
            config = folder / "comptroller.yaml"
            config.write_text(json.dumps(governed_config([{"url": url}])))
            print("| in flight | throughput ratio | calls/s | p50 ms | CPU µs/call (proxy alone / direct) |")
            with Bench(folder / "store", config) as bench:
                for in_flight in (1, 64):
                    found = bench.paired(Loads("read_item", in_flight, calls, rounds))
                    ratio = median(one.governed.calls_per_s / one.bare.calls_per_s for one in found)
                    ours, bare = ([getattr(one, name) for one in found] for name in ("governed", "bare"))
                    figures = [
                        f"{median(getattr(s, key) for s in ours):.2f} / {median(getattr(s, key) for s in bare):.2f}"
                        for key in ("calls_per_s", "p50_ms", "cpu_us")
                    ]
                    print(f"| {in_flight} | {ratio:.2f} | {' | '.join(figures)} |", flush=True)
        finally:
            backing.end()
        command = {"command": sys.executable, "args": ["-m", "tests.benchmarks.bare_server", "stdio"]}
        command |= {"cwd": str(Path(__file__).resolve().parents[2])}
        config.write_text(json.dumps(governed_config([command] * UPSTREAMS)))
        first_answer_s("governed", folder / "started", config)  # makes keys, tokens and the schema
        starts = [
            (first_answer_s("bare"), first_answer_s("governed", folder / "started", config))
            for _ in range(3 if rounds == 3 else 5)
        ]
    print(
        f"start to first answer: {median(one for one, _ in starts):.2f} s bare, "
        f"{median(one for _, one in starts):.2f} s with {UPSTREAMS} upstreams to start first"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
