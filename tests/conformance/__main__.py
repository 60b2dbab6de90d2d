"""`make conformance`: the official suite against Comptroller, with the SDK's everything-server as its upstream.

Each scenario's calls go the way of any call: decided, recorded, released; at the end the record of all of them must verify.
`--only REVISION`, `--scenario NAME` and `--verbose` narrow it down; `--write` puts the table into `docs/conformance.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.conformance.doorman import Doorman
from tests.conformance.places import Places, installed
from tests.conformance.results import Row, complaints, rows, table, with_table

REVISIONS = ("2025-11-25", "2026-07-28")
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
READY_S_MAX = 30
SUITE_S_MAX = 300
CLIENT = "suite"
CONFIG: dict[str, Any] = {
    "agent": {"name": "conformance", "objective": "Pass the official suite"},
    "environment": "conformance",
    "store": {
        "url": "sqlite:///{data_dir}/comptroller.db",
        "keys": {"file": "{data_dir}/keys.json"},
        "checkpoints": [{"file": "{data_dir}/checkpoints.log"}],
    },
    "identity": {"local": {"clients": {CLIENT: {}}}},
    "budgets": {"max_tool_calls": 10_000, "max_steps": 10_000},
    "tools": [
        {
            "name": "everything_completion",
            "source": "everything",
            "source_tool": "completion:*",
            "allow_actions": ["read"],
        }
    ],
    "limits": {
        "attempts_per_minute_max": 100_000,
        "identical_calls_max": 1_000,
        "tool_name_max": 64,
        "tasks_extension_after_s": 0.3,
    },
}
JOBS: dict[str, Any] = {
    "command": sys.executable,
    "args": ["-m", "tests.conformance.jobs"],
    "cwd": str(Path(__file__).parents[2]),
    "may_ask": ["elicitation_form", "roots"],
    "protocol": "newest",
}


def main() -> int:
    """0 when every required scenario of the wanted revisions passed, 1 when one failed, 3 when it cannot be installed."""
    options = _options()
    try:
        places = installed()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"conformance: SKIPPED, it cannot be installed here (needs PyPI and npm): {error}")
        return 3
    if os.environ.get("COMPTROLLER_INSTALL_ONLY"):
        return 0
    revisions = [options.only] if options.only else list(REVISIONS)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        found: dict[str, tuple[bool, list[Row]]] = {}
        whole = True
        for one in revisions:
            place = Path(folder) / one
            place.mkdir()
            with _governed(places, place, one) as url:
                found[one] = _played(places, url, one, options, place / "results")
            whole = _verifies(place) and whole
    failed = [one for one, (passed, _) in found.items() if not passed]
    shown = table({one: played for one, (_, played) in found.items()})
    print(shown)
    if options.write:
        PAGE.write_text(with_table(PAGE.read_text(), shown))
    print(f"conformance: {'FAILED ' + ', '.join(failed) if failed else 'every required scenario passed'}")
    return 0 if whole and not failed else 1


def _options() -> argparse.Namespace:
    wanted = argparse.ArgumentParser(prog="make conformance")
    wanted.add_argument("--only", choices=REVISIONS)
    wanted.add_argument("--scenario")
    wanted.add_argument("--verbose", action="store_true")
    wanted.add_argument("--write", action="store_true")
    options = wanted.parse_args()
    if options.write and (options.only or options.scenario):
        wanted.error("--write needs all scenarios of both revisions; leave out --only and --scenario")
    return options


def _played(
    places: Places, url: str, revision: str, options: argparse.Namespace, folder: Path
) -> tuple[bool, list[Row]]:
    """Whether the suite itself says that all that is required passed, and its rows."""
    command = [str(places.node), str(places.suite), "server", "--url", url, "-o", str(folder)]
    command += (
        ["--scenario", options.scenario, "--spec-version", revision]
        if options.scenario
        else ["--requirements", revision]
    )
    command += ["--verbose"] if options.verbose else []
    print(f"conformance: {revision}", flush=True)
    try:
        ended = subprocess.run(command, timeout=SUITE_S_MAX, check=False, stdout=subprocess.PIPE, text=True)
    except subprocess.TimeoutExpired:
        print(f"conformance: {revision} took more than {SUITE_S_MAX} s and was stopped")
        return False, []
    played = rows(ended.stdout)
    if options.verbose or options.scenario or not played:
        print(ended.stdout)
    for complaint in complaints(folder):
        print(f"  {complaint}")
    return ended.returncode == 0 and (bool(played) or bool(options.scenario)), played


def _verifies(folder: Path) -> bool:
    """Whether the record of all that was called is whole."""
    where = ["--config", str(folder / "comptroller.yaml"), "--data-dir", str(folder)]
    comptroller = str(Path(sys.executable).with_name("comptroller"))
    verified = subprocess.run([comptroller, "audit", "verify", *where], check=False, timeout=60)
    return verified.returncode == 0


@contextlib.contextmanager
def _governed(places: Places, folder: Path, revision: str) -> Generator[str]:
    """The everything-server, Comptroller in front of it, and the doorman in front of that; the URL for the suite.

    Some of the server's tools ask in the one era's way and some in the other's, so it is spoken to in that of `revision`.
    """
    behind, inner, outer = _free_port(), _free_port(), _free_port()
    with contextlib.ExitStack() as stack:
        everything = [sys.executable, "-m", "mcp_everything_server", "--port", str(behind)]
        stack.enter_context(_process(everything, behind, folder / "everything.log", cwd=places.everything))
        config = folder / "comptroller.yaml"
        sources = {"everything": {"mcp": _source(behind, revision)}}
        if revision == REVISIONS[-1]:
            sources["jobs"] = {"mcp": JOBS}
        config.write_text(json.dumps(CONFIG | {"sources": sources}))
        where = ["--config", str(config), "--data-dir", str(folder)]
        comptroller = str(Path(sys.executable).with_name("comptroller"))
        _accept_everything(comptroller, where, folder)
        serve = [comptroller, "serve", "--http", f"127.0.0.1:{inner}", *where]
        stack.enter_context(_process(serve, inner, folder / "serve.log", cwd=folder))
        token = (folder / "tokens" / f"{CLIENT}.token").read_text().strip()
        stack.enter_context(_doorman(Doorman(f"127.0.0.1:{outer}", f"127.0.0.1:{inner}", token), outer))
        yield f"http://127.0.0.1:{outer}/mcp"


def _source(port: int, revision: str) -> dict[str, Any]:
    return {
        "may_ask": ["elicitation_form", "sampling", "roots"],
        "protocol": revision if revision == REVISIONS[0] else "newest",
        "url": f"http://127.0.0.1:{port}/mcp",
        "media": ["image/png", "audio/wav", "text/plain", "application/json"],
    }


def _accept_everything(comptroller: str, where: list[str], folder: Path) -> None:
    """All that it lists, as reads: the suite repeats its calls, and a repeated side effect is answered from the record."""
    listed = subprocess.run(
        [comptroller, "classify", *where, "--json"], capture_output=True, text=True, check=False, timeout=60
    )
    effects = {
        source["source"]: {tool["name"]: "read" for tool in source["tools"] if tool["standing"] == "new"}
        for source in json.loads(listed.stdout)["sources"]
    }
    accepted = folder / "accepted.yaml"
    accepted.write_text(json.dumps(effects))
    subprocess.run(
        [comptroller, "classify", *where, "--accept", str(accepted)],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )


@contextlib.contextmanager
def _process(command: list[str], port: int, log: Path, cwd: Path) -> Generator[None]:
    """A server process that listens on `port`; ended in order, whatever happens inside."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=cwd, stdin=subprocess.DEVNULL)
        try:
            _await_port(process, port, log)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(READY_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_port(process: subprocess.Popen[Any], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"no server on port {port}:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def _doorman(doorman: Doorman, port: int) -> Generator[None]:
    """The doorman on `port`, in a thread of its own."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(doorman.answer, "127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(READY_S_MAX)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
