"""One run of the demo, as `comptroller demo` plays it, for tests to look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from comptroller_server.cli import cli

__all__ = ["Played", "changed_desk"]

PLAY_S_MAX = 600


class Played:
    """The demo played in `folder`, with what it printed and the store that it left there."""

    def __init__(self, folder: Path, seed: int, only: Sequence[str] = (), *, as_json: bool = False) -> None:
        self.folder = folder
        words = ["demo", "--seed", str(seed), "--keep", str(folder), *(["--json"] if as_json else [])]
        for chapter in only:
            words += ["--only", chapter]
        done = subprocess.run(
            [sys.executable, "-m", "comptroller_server.cli", *words],
            capture_output=True,
            text=True,
            timeout=PLAY_S_MAX,
            check=False,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != "COMPTROLLER_DESK"},
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        self.text = done.stdout

    @property
    def summary(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.text)
        return told

    @property
    def words(self) -> str:
        """What it printed as one line, for sentences that were broken over several."""
        return " ".join(self.text.split())

    def why(self, call: str) -> dict[str, Any] | None:
        """What `comptroller why` says about a call, or None when there is no such call."""
        options = ["--config", str(self.folder / "comptroller.yaml"), "--data-dir", str(self.folder / "data")]
        done = CliRunner().invoke(cli, [*options, "why", call, "--json"])
        if done.exit_code != 0:
            return None
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def changed_desk(folder: Path) -> None:
    """The desk's configuration in `folder`: the limit is 37, and the operator's policy has another id."""
    origin = files("comptroller_tools.desk")
    (folder / "policies").mkdir()
    config = (origin / "comptroller.yaml").read_text().replace("max_amount_usd: 50", "max_amount_usd: 37")
    (folder / "comptroller.yaml").write_text(config)
    policy = (origin / "policies" / "refunds.cedar").read_text()
    renamed = policy.replace('"refund-within-paid"', '"only-what-is-left"')
    (folder / "policies" / "refunds.cedar").write_text(renamed)
