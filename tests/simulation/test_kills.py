"""SIGKILL of a real process at every named point, on real files, checked against the desk's own ledger."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.simulation.lives import KILLS, Life

QUICK_LIVES = 3
LONG_LIVES = 50
AT_ONCE = 2
_ON_POSTGRES = (
    "inside the first commit", "after the first commit", "after dispatch", "inside the second commit",
)  # fmt: skip


def _live(folder: Path, lives: range) -> list[Life]:
    """Lives on SQLite, two at once."""
    rows = [Life(folder / str(n), f"sqlite:///{folder / str(n) / 'comptroller.db'}", n) for n in lives]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for lived in [threads.submit(life.live, KILLS) for life in rows]:
            lived.result()
    return rows


def test_a_killed_process_neither_loses_nor_doubles_an_effect(tmp_path: Path) -> None:
    lives = _live(tmp_path, range(1, QUICK_LIVES + 1))
    assert [life.deaths for life in lives] == [[kill.name for kill in KILLS]] * QUICK_LIVES


def test_a_killed_process_neither_loses_nor_doubles_an_effect_on_postgres(
    tmp_path: Path, postgres_url: str
) -> None:
    life = Life(tmp_path / "life", postgres_url)
    life.live([kill for kill in KILLS if kill.name in _ON_POSTGRES])
    assert life.deaths == list(_ON_POSTGRES)


@pytest.mark.long
def test_a_process_is_killed_fifty_times_at_every_point(tmp_path: Path) -> None:
    assert len(_live(tmp_path, range(100, 100 + LONG_LIVES))) == LONG_LIVES
