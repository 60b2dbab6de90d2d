"""The programs of `docs/orchestrators.md`, run as they stand against `comptroller serve` on the desk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.served_desk import EXAMPLES, served


def test_a_loop_that_nobody_watches_stops_at_the_budget_and_every_cent_is_counted(tmp_path: Path) -> None:
    def a_hundred_a_day(config: dict[str, Any]) -> None:
        windows = [{"scope": "principal", "window": "day", "unit": "refunded_usd", "max": 100}]
        config["budgets"] = {"windows": windows}

    with served(tmp_path, a_hundred_a_day) as desk:
        turns = desk.play(Path(sys.executable), EXAMPLES / "autonomous_loop.py", *desk.paid(7))
        assert [turn["refusal"] is None for turn in turns[:8]] == [False] * 3 + [True] * 5
        assert turns[-1]["refusal"]["code"] == "budget_exhausted"
        assert turns[-1]["refusal"]["left_micro"] == 0
        assert sum(turn["usd"] for turn in turns if turn["refusal"] is None) == pytest.approx(100)
        assert sum(effect.amount_cents for effect in desk.moved()) == 100_00
        [day] = desk.look("budgets")["windows"]
        assert (day["unit"], day["used"], day["left"]) == ("refunded_usd", "100", "0")
