"""Seeded rounds of the whole product on a bank that fails, with crashes, full disks and clocks that jump.

`COMPTROLLER_SIM_SEED=n` plays the round of seed n alone, and prints its trace. `COMPTROLLER_SIM_FIRST=n` starts the
long rounds at another seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.simulation.bank import Manner
from tests.simulation.rounds import folder_in_memory, play
from tests.simulation.world import Stage

QUICK_ROUNDS = 300
LONG_ROUNDS = 10_000
AT_ONCE = 2
"""Processes that share the rounds."""
ROOT = Path(__file__).parents[2]
_WANTED = {
    "kept reads",
    *(f"manner {manner}" for manner in Manner),
    *(f"effect {tool}" for tool in ("pay", "unpay", "wire", "note", "order")),
    *(
        f"answer {code}"
        for code in ("done", "already_done", "approval_pending", "budget_exhausted", "denied")
    ),
    *(
        f"answer {code}"
        for code in (
            "compensated",
            "halted",
            "in_doubt",
            "in_progress",
            "record_changed",
            "citation_missing",
            "citation_stale",
            "task_open",
            "task_unknown",
            "store_unavailable",
        )
    ),
    *(f"death at {point}" for point in ("commit.begin", "commit.before", "commit.after")),
    *(
        f"death at {point}"
        for point in ("dispatch.before", "dispatch.after", "recovery.before", "recovery.after")
    ),
    *(f"death at {point}" for point in ("checkpoint.before", "checkpoint.after")),
    *(f"death at {point}" for point in ("compensation.before", "compensation.after")),
}
"""What must have happened somewhere in the quick rounds."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with folder_in_memory() as folder:
        yield Stage.build(Path(folder))


def _played(first: int, count: int) -> Counter[str]:
    """Rounds of `count` seeds, in processes side by side; what happened in them. A broken law shows its trace."""
    share = -(-count // AT_ONCE)
    parts = [(at, min(at + share, first + count)) for at in range(first, first + count, share)]
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        # What they log goes to files: a process whose pipe is full stands still until it is read.
        logs = [stack.enter_context(TemporaryFile("w+")) for _ in parts]
        playing = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.simulation.rounds", str(one), str(stop)],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
            )
            for (one, stop), log in zip(parts, logs, strict=True)
        ]  # fmt: skip
        try:
            for process, log in zip(playing, logs, strict=True):
                out, _ = process.communicate()
                log.seek(0)
                assert process.returncode == 0, _told(log.read())
                seen.update(json.loads(out))
        finally:
            for process in playing:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
    return seen


def _told(log: str) -> str:
    """The end of a round that broke a law: its seed, the law, its trace; not what the loop says of its tasks after it."""
    at = max(log.rfind("COMPTROLLER_SIM_SEED="), 0)
    return log[at : at + 20_000]


def test_every_law_holds_in_seeded_rounds(stage: Stage) -> None:
    wanted = os.environ.get("COMPTROLLER_SIM_SEED")
    if wanted is not None:
        sys.stderr.write("\n".join(play(stage, int(wanted)).trace) + "\n")
        return
    seen = _played(0, QUICK_ROUNDS)
    _say(QUICK_ROUNDS, seen)
    assert {what for what, times in seen.items() if times} >= _WANTED, (
        "the rounds no longer reach everything they are there for"
    )


@pytest.mark.long
def test_every_law_holds_in_many_more_rounds() -> None:
    first = int(os.environ.get("COMPTROLLER_SIM_FIRST", QUICK_ROUNDS))
    sys.stderr.write(f"rounds of seeds {first} to {first + LONG_ROUNDS - 1}\n")
    _say(LONG_ROUNDS, _played(first, LONG_ROUNDS))


def test_a_seed_plays_the_same_round_again(stage: Stage) -> None:
    for seed in range(5):
        assert play(stage, seed).trace == play(stage, seed).trace


def _say(rounds: int, seen: Counter[str]) -> None:
    """The seeds and what they met, on the terminal of a failing run and with `-s`."""
    sys.stderr.write(
        f"{rounds} rounds: " + ", ".join(f"{n} {what}" for what, n in sorted(seen.items())) + "\n"
    )
