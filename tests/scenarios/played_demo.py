"""One run of the demo, as `comptroller demo` plays it, for tests to look at."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from comptroller_server.cli import cli

__all__ = ["Played", "play", "shared_demo"]

PLAY_S_MAX = 600
SEED = 11


class Played:
    """What a run of the demo in `folder` printed, summed up, and left there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = (folder / "printed.txt").read_text()
        self.summary: dict[str, Any] = json.loads((folder / "demo.json").read_text())

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


def play(folder: Path, seed: int, only: Sequence[str] = ()) -> Played:
    """Play the demo in a process of its own, and demand that all its checks hold."""
    folder.mkdir(exist_ok=True)
    words = ["demo", "--seed", str(seed), "--keep", str(folder)]
    for chapter in only:
        words += ["--only", chapter]
    with (folder / "printing.txt").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "comptroller_server.cli", *words],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PLAY_S_MAX,
            check=False,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != "COMPTROLLER_DESK"},
        )
    assert done.returncode == 0, (folder / "printing.txt").read_text()[-3000:] + done.stderr[-3000:]
    (folder / "printing.txt").rename(folder / "printed.txt")
    return Played(folder)


def shared_demo(factory: pytest.TempPathFactory) -> Played:
    """The whole demo on a changed desk, played once for all the files of a test run, whichever worker comes first."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "the-demo"
    with (root / "the-demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "printed.txt").exists():
            return Played(folder)
        _change_desk(folder)
        return play(folder, SEED)


def _change_desk(folder: Path) -> None:
    """The desk's configuration in `folder`: the limit is 37, and the operator's policy has another id."""
    origin = files("comptroller_tools.desk")
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    config = (origin / "comptroller.yaml").read_text().replace("max_amount_usd: 50", "max_amount_usd: 37")
    (folder / "comptroller.yaml").write_text(config)
    policy = (origin / "policies" / "refunds.cedar").read_text()
    renamed = policy.replace('"refund-within-paid"', '"only-what-is-left"')
    (folder / "policies" / "refunds.cedar").write_text(renamed)
