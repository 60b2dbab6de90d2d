"""The support desk behind `comptroller serve --http`, a process like any other, and the person who decides.

The oracle is the desk's own ledger (`Served.moved`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comptroller_tools.desk.database import ensure
from comptroller_tools.desk.ledger import DeskEffect, effects
from tests.scenarios.kit import BEFORE, Changes, placed
from tests.server.cli_kit import run

__all__ = ["EXAMPLES", "Line", "Served", "laid", "served", "serving"]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
WAIT_S_MAX = 120
Line = dict[str, Any]
"""One line of JSON from a program, or to it."""


@dataclass(frozen=True)
class Served:
    """A desk at work in `folder`, and where its clients find it."""

    folder: Path
    url: str
    token: str

    @property
    def desk(self) -> Path:
        return self.folder / "desk.db"

    def moved(self) -> list[DeskEffect]:
        """Money that moved since the desk was made."""
        return [effect for effect in effects(self.desk) if not effect.effect_key.startswith(BEFORE)]

    def moved_usd(self) -> float:
        return sum(effect.amount_cents for effect in self.moved()) / 100

    def paid(self, count: int) -> list[str]:
        """Invoices with at least 100 USD left to refund, always in the same order."""
        wanted = "SELECT id FROM invoices WHERE paid_cents - refunded_cents >= 10000 ORDER BY id LIMIT ?"
        with contextlib.closing(sqlite3.connect(self.desk)) as desk:
            return [str(row[0]) for row in desk.execute(wanted, (count,))]

    def ticket(self) -> str:
        """A ticket, always the same."""
        with contextlib.closing(sqlite3.connect(self.desk)) as desk:
            return str(desk.execute("SELECT id FROM tickets ORDER BY id LIMIT 1").fetchone()[0])

    def command(self, *words: str) -> str:
        """What `comptroller words` prints, beside the service."""
        ended = run(self.folder, *words)
        assert ended.exit_code == 0, ended.output + ended.stderr
        return ended.stdout

    def look(self, *words: str) -> Any:
        return json.loads(self.command(*words, "--json"))

    def approve(self, call: str) -> None:
        """Olga agrees, as she does on her terminal."""
        credential = str(self.folder / "olga.credential")
        who = ("--yes", "--credential-file", credential, "--reason", "I called them.")
        self.command("approvals", "approve", call, *who)

    def play(
        self, python: Path, program: Path, *words: str, says: Callable[[Line], Line | None] | None = None
    ) -> list[Line]:
        """Run a client's program to its end, with the address and the token in its environment.

        Returns the JSON objects it printed, one for each line. What `says` makes of one is written to the program.
        """
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        stdio = json.dumps([sys.executable, *_serve(self.folder)])
        environment = {**kept, "COMPTROLLER_URL": self.url, "COMPTROLLER_TOKEN": self.token}
        environment |= {"COMPTROLLER_STDIO": stdio, "COMPTROLLER_DESK": str(self.desk)}
        log = self.folder / "program.log"
        lines: list[Line] = []
        pipe = subprocess.PIPE
        command = [str(python), str(program), *words]
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, env=environment, cwd=self.folder, stdin=pipe, stdout=pipe, stderr=errors, text=True
            ) as process,
        ):
            assert process.stdin is not None and process.stdout is not None
            too_long = threading.Timer(WAIT_S_MAX, process.kill)
            too_long.start()
            try:
                for text in process.stdout:
                    lines.append(json.loads(text))
                    if says is not None and (answer := says(lines[-1])) is not None:
                        process.stdin.write(json.dumps(answer) + "\n")
                        process.stdin.flush()
            finally:
                too_long.cancel()
        assert process.returncode == 0, (lines, log.read_text()[-6000:])
        return lines


def _serve(folder: Path) -> list[str]:
    """What Python is given to serve `folder` over stdio."""
    options = ["--config", str(folder / "comptroller.yaml"), "--data-dir", str(folder)]
    return ["-m", "comptroller_server.cli", *options, "serve"]


def laid(folder: Path, changes: Changes | None = None, cedar: str = "") -> Served:
    """A desk that nobody serves yet: the client starts `comptroller serve` and speaks to it over stdio."""

    def changed(config: dict[str, Any]) -> None:
        config["approvals"] = {"allow_same_uid_file": True}
        if changes is not None:
            changes(config)

    placed(folder, changed, cedar=cedar)
    ensure(folder / "desk.db", 1)
    added = run(
        folder,
        *("approver", "add", "olga", "--role", "approver"),
        *("--credential-out", str(folder / "olga.credential")),
    )
    assert added.exit_code == 0, added.stderr
    return Served(folder, "", "")


@contextlib.contextmanager
def served(folder: Path, changes: Changes | None = None, cedar: str = "") -> Generator[Served]:
    """Serve the desk with `changes` and the policies `cedar` on a free loopback port, Olga enrolled as approver; ended by SIGTERM."""
    laid(folder, changes, cedar)
    command = [sys.executable, *_serve(folder), "--http", "127.0.0.1:0"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMPTROLLER")}
    with serving(command, {**kept, "COMPTROLLER_DESK": str(folder / "desk.db")}, folder / "serve.log") as url:
        token = (folder / "tokens" / "triage-bot.token").read_text().strip()
        yield Served(folder, url, token)


@contextlib.contextmanager
def serving(command: list[str], environment: dict[str, str], log: Path) -> Generator[str]:
    """Run a `comptroller serve --http` and wait for it; its URL. Ended by SIGTERM."""
    environment = {**environment, "PYTHONUNBUFFERED": "1"}
    with (
        log.open("wb") as to,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stderr is not None
        drained: threading.Thread | None = None
        try:
            url = ""
            for line in process.stderr:
                to.write(line)
                if b"serving at " in line:
                    url = line.decode().split("serving at ")[1].split()[0]
                    break
            assert url, log.read_text()
            drained = threading.Thread(target=shutil.copyfileobj, args=(process.stderr, to))
            drained.start()  # a full pipe would stop the server
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            if drained is not None:
                drained.join(WAIT_S_MAX)
