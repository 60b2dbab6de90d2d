"""The demo is real: other records by seed, other words by config, and every call it names is on record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from comptroller_server.cli import cli


class Played:
    """One run of the demo with a changed config: the limit is 37 and the operator's policy has another id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        origin = files("comptroller_tools.desk")
        (folder / "policies").mkdir()
        config = (origin / "comptroller.yaml").read_text().replace("max_amount_usd: 50", "max_amount_usd: 37")
        (folder / "comptroller.yaml").write_text(config)
        policy = (origin / "policies" / "refunds.cedar").read_text()
        (folder / "policies" / "refunds.cedar").write_text(
            policy.replace('"refund-within-paid"', '"only-what-is-left"')
        )
        self.text = self.comptroller("demo", "--seed", "11", "--keep", str(folder))

    def comptroller(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "comptroller_server.cli", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "COMPTROLLER_DESK": str(self.folder / "desk.db")},
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def why(self, call: str) -> dict[str, Any]:
        options = ["--config", str(self.folder / "comptroller.yaml"), "--data-dir", str(self.folder / "data")]
        done = CliRunner().invoke(cli, [*options, "why", call, "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Generator[Played]:
    yield Played(tmp_path_factory.mktemp("demo"))


def test_every_check_of_the_demo_holds(played: Played) -> None:
    assert "✗" not in played.text
    assert played.text.count("✓") >= 16


def test_a_changed_limit_changes_what_the_demo_prints(played: Played) -> None:
    assert "amount_usd may be at most 37." in played.text
    assert "at most 50" not in played.text


def test_a_renamed_policy_is_named_in_the_refusal(played: Played) -> None:
    assert "(rule only-what-is-left)" in played.text
    assert "refund-within-paid" not in played.text


def test_every_call_the_demo_names_is_found_by_why(played: Played) -> None:
    named = {line.split()[1] for line in played.text.splitlines() if line.startswith("    call ")}
    assert len(named) >= 9
    for call in sorted(named):
        assert played.why(call)["call"] == call
