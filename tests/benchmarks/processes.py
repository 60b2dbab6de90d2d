"""The benchmark's processes: two servers and a client, started, measured and ended; and the raw sync beside them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

__all__ = ["Bench", "Loads", "Machine", "Process", "RawSync", "Round", "Sample", "first_answer_s"]

_ROOT = Path(__file__).resolve().parents[2]
_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
_SYNC_BYTES = 4096
_SYNCS = 100


@dataclass(frozen=True, slots=True)
class Loads:
    """One row of the benchmark: `rounds` pairs of `calls` calls of `tool`, `in_flight` at a time."""

    tool: str
    in_flight: int
    calls: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One round on one server. CPU is the server process's, all threads, from /proc."""

    calls_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    commits_per_call: float


@dataclass(frozen=True, slots=True)
class Round:
    """The two halves of a pair."""

    bare: Sample
    governed: Sample


class Process:
    """A Python module of the benchmark that speaks JSON lines."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended early; its own output says why")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def ask(self, line: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def cpu_us(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_US

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Bench:
    """Both servers and the client, running; ends them on exit."""

    def __init__(self, store: Path, config: Path | None = None) -> None:
        """`config` is the governed server's, when not the warehouse's."""
        more = [str(config)] if config is not None else []
        self._servers = {
            "bare": Process("bare_server", "http"),
            "governed": Process("governed_server", "http", str(store), *more),
        }
        self._client = Process("load")

    def __enter__(self) -> Self:
        self._places = {name: server.hear() for name, server in self._servers.items()}
        self._at_start = {name: server.rss_mib() for name, server in self._servers.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self._servers.values(), self._client):
            process.end()

    def paired(self, loads: Loads) -> list[Round]:
        """The rounds of a row, after one that warms up and does not count."""
        self._load("bare", loads, loads.calls // 3)
        self._load("governed", loads, loads.calls // 3)
        rounds: list[Round] = []
        for number in range(loads.rounds):
            if number % 2 == 0:
                bare = self._load("bare", loads, loads.calls)
                governed = self._load("governed", loads, loads.calls)
            else:
                governed = self._load("governed", loads, loads.calls)
                bare = self._load("bare", loads, loads.calls)
            rounds.append(Round(bare, governed))
        return rounds

    def memory_mib(self) -> dict[str, tuple[float, float]]:
        """Resident memory of each server: when it was ready, and now."""
        return {name: (self._at_start[name], server.rss_mib()) for name, server in self._servers.items()}

    def _load(self, name: str, loads: Loads, calls: int) -> Sample:
        server = self._servers[name]
        commits, cpu = server.ask({})["commits"], server.cpu_us()
        order = {"tool": loads.tool, "calls": calls, "in_flight": loads.in_flight}
        heard = self._client.ask({**self._places[name], **order})
        cpu, commits = server.cpu_us() - cpu, server.ask({})["commits"] - commits
        latencies = sorted(heard["latencies_ms"])
        return Sample(
            calls / heard["seconds"],
            cpu / calls,
            latencies[len(latencies) // 2],
            latencies[len(latencies) * 99 // 100],
            commits / calls,
        )


class Machine:
    """What else used the cores while the benchmark ran. With much of it, the figures say little about the product."""

    def __init__(self) -> None:
        self._ticks, self._own = _core_ticks(), _own_ticks()

    def disturbance(self) -> tuple[float, float]:
        """Shares of all core time since then: taken by the host of a virtual machine, and by other processes.

        Call it when the benchmark's processes have ended: only then are they known to be its own.
        """
        spent = [now - then for now, then in zip(_core_ticks(), self._ticks, strict=True)]
        stolen, waiting = spent[7], spent[3] + spent[4]
        others = max(0.0, sum(spent) - stolen - waiting - (_own_ticks() - self._own))
        return stolen / sum(spent), others / sum(spent)


def _own_ticks() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) * os.sysconf("SC_CLK_TCK")


def _core_ticks() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal of all cores (proc(5), /proc/stat)."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


class RawSync:
    """The control: 4 KiB appended and synced, on the disk the store lies on, at several moments of the run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken: list[float] = []

    def measure(self) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for _ in range(_SYNCS):
                os.write(handle, b"x" * _SYNC_BYTES)
                began = time.perf_counter()
                os.fsync(handle)
                self._taken.append(time.perf_counter() - began)
        finally:
            os.close(handle)

    @property
    def milliseconds(self) -> float:
        """The median of all."""
        return median(self._taken) * 1000


def first_answer_s(server: str, folder: Path | None = None, config: Path | None = None) -> float:
    """From starting a stdio server to its answer of one tool call, seconds."""
    arguments = ["stdio", *(str(one) for one in (folder, config) if one is not None)]
    command = [sys.executable, "-m", f"tests.benchmarks.{server}_server", *arguments]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_ROOT
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        meta: dict[str, Any] = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params: dict[str, Any] = {"name": "read_item", "arguments": {"item_id": "first"}, "_meta": meta}
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        spent = time.perf_counter() - began
        if answer["result"]["structuredContent"]["item_id"] != "first":
            raise RuntimeError(f"wrong first answer: {answer}")
        return spent
    finally:
        process.kill()
        process.communicate()
